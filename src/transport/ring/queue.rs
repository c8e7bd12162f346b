//! The ring of a thread: queues what its sockets want, hands it over, takes what has come.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::{Poll, Waker};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::net::RecvFlags;
use slab::Slab;
use tokio::io::ReadBuf;

use super::buffers::Buffers;
use super::slot::{Received, Slot};

pub struct Ring {
    io: IoUring,
    buffers: Buffers,
    slots: Slab<Slot>,
    /// How often the queue was handed over.
    turn: u64,
    /// Short pieces on their way: the kernel reads them from here while the queue is handed over.
    outgoing: Box<[u8]>,
    outgoing_len: usize,
    /// Whose they are: slot, from, to.
    batch: Vec<(usize, usize, usize)>,
    to_wake: Vec<Waker>,
    /// Rung by other threads, and what is read from it.
    bell: OwnedFd,
    rings: &'static mut [u8; 8],
}

impl Ring {
    /// Errors: what the kernel says: forbidden, or too old (before 6.1).
    pub fn new(bell: OwnedFd) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = Buffers::register(&io)?;
        let mut ring = Self {
            io,
            buffers,
            slots: Slab::new(),
            turn: 1,
            outgoing: vec![0; OUTGOING_LEN].into_boxed_slice(),
            outgoing_len: 0,
            batch: Vec::new(),
            to_wake: Vec::new(),
            bell,
            // The kernel may write there for a moment after the ring is closed, which is when its thread ends.
            rings: Box::leak(Box::new([0; 8])),
        };
        ring.listen_for_bell()?;
        Ok(ring)
    }

    pub fn add(&mut self, socket: RawFd) -> usize {
        self.slots.insert(Slot::new(socket))
    }

    /// The socket closes. What was sent leaves first; what has not been read is forgotten.
    pub fn close(&mut self, number: usize, socket: TcpStream) {
        if self.slots[number].queued_in == self.turn {
            // Its number may be another socket's by the end of the turn.
            let _ = self.hand_over(false);
        }
        let slot = &mut self.slots[number];
        slot.received.drain(..).for_each(|piece| self.buffers.give(piece.buffer));
        // Dropped here they might drop tasks, and those their sockets.
        self.to_wake.extend(slot.reader.take());
        self.to_wake.extend(slot.writer.take());
        if slot.is_receiving {
            // The kernel has it open until that is over.
            let how = if slot.unsent.is_empty() { Shutdown::Both } else { Shutdown::Read };
            let _ = socket.shutdown(how);
        }
        if slot.is_at_rest() {
            self.slots.remove(number);
        } else {
            slot.given_up = Some(socket);
        }
    }

    /// What has come, into `into`; nothing at the end. Whoever waits is woken by `waker`.
    pub fn receive(
        &mut self,
        number: usize,
        socket: &TcpStream,
        into: &mut ReadBuf<'_>,
        waker: &Waker,
    ) -> Poll<io::Result<()>> {
        let slot = &mut self.slots[number];
        let before = into.filled().len();
        while let Some(piece) = slot.received.front_mut() {
            let bytes = self.buffers.get(piece);
            let len = bytes.len().min(into.remaining());
            into.put_slice(&bytes[..len]);
            if len < bytes.len() {
                piece.at += len as u16;
                return Poll::Ready(Ok(()));
            }
            self.buffers.give(piece.buffer);
            slot.received.pop_front();
        }
        if slot.may_have_more && !slot.is_receiving && into.remaining() > 0 {
            match read_at_once(socket, into) {
                Ok(0) => (slot.may_have_more, slot.has_ended) = (false, true),
                Ok(len) => {
                    slot.may_have_more = into.remaining() == 0;
                    slot.is_long = len >= Buffers::LEN;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => slot.may_have_more = false,
                Err(error) => (slot.may_have_more, slot.error) = (false, Some(error)),
            }
        }
        let has_come = into.filled().len() > before;
        if !has_come {
            match slot.error.take() {
                Some(error) => return Poll::Ready(Err(error)),
                None if slot.has_ended => return Poll::Ready(Ok(())),
                None => keep(&mut slot.reader, waker),
            }
        }
        // Before anybody waits: a server that says something unasked, or closes, is noticed without a look at its socket.
        self.ask_for_more(number)?;
        if has_come { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The first byte that has come and was not read; none at the end.
    pub fn peek(&mut self, number: usize, socket: &TcpStream, waker: &Waker) -> Poll<io::Result<Option<u8>>> {
        let slot = &mut self.slots[number];
        if let Some(piece) = slot.received.front() {
            return Poll::Ready(Ok(self.buffers.get(piece).first().copied()));
        }
        if std::mem::take(&mut slot.may_have_more) {
            let mut first = [0];
            match socket.peek(&mut first) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                peeked => {
                    slot.may_have_more = true;
                    return Poll::Ready(peeked.map(|len| (len == 1).then_some(first[0])));
                }
            }
        }
        match slot.error.take() {
            Some(error) => return Poll::Ready(Err(error)),
            None if slot.has_ended => return Poll::Ready(Ok(None)),
            None => keep(&mut slot.reader, waker),
        }
        self.ask_for_more(number)?;
        Poll::Pending
    }

    /// Has nothing come, not even the end?
    pub fn is_quiet(&self, number: usize, socket: &TcpStream) -> bool {
        let slot = &self.slots[number];
        if !slot.received.is_empty() || slot.has_ended || slot.error.is_some() {
            return false;
        }
        // Until the kernel has been asked for the first time, or while long answers come.
        slot.is_receiving || matches!(socket.peek(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends what can be sent, at least one byte. Whoever waits is woken by `waker`.
    pub fn send(
        &mut self,
        number: usize,
        mut socket: &TcpStream,
        bytes: &[u8],
        waker: Option<&Waker>,
    ) -> Poll<io::Result<usize>> {
        let is_short = bytes.len() <= SHORT_LEN;
        if self.slots[number].sent_in == self.turn || is_short && self.outgoing_len + bytes.len() > OUTGOING_LEN {
            // What was sent before must be gone, whole: else this would overtake it.
            self.hand_over(false)?;
        }
        let slot = &mut self.slots[number];
        if let Some(error) = slot.error.take() {
            return Poll::Ready(Err(error));
        }
        if !slot.unsent.is_empty() || slot.waits_for_room {
            waker.inspect(|waker| keep(&mut slot.writer, waker));
            return Poll::Pending;
        }
        if is_short {
            self.queue_send(number, bytes)?;
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            match socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                written => return Poll::Ready(written),
            }
        }
        waker.inspect(|waker| keep(&mut slot.writer, waker));
        self.wait_for_room(number)?;
        Poll::Pending
    }

    /// Is all that was sent on its way, or will be by the end of the turn?
    pub fn flush(&mut self, number: usize, waker: &Waker) -> Poll<io::Result<()>> {
        let slot = &mut self.slots[number];
        if slot.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        keep(&mut slot.writer, waker);
        Poll::Pending
    }

    /// As `flush`, but what is queued leaves now.
    pub fn flush_now(&mut self, number: usize, waker: &Waker) -> Poll<io::Result<()>> {
        if self.slots[number].queued_in == self.turn {
            self.hand_over(false)?;
        }
        self.flush(number, waker)
    }

    /// Is there anything that only a turn brings on?
    pub fn has_work(&mut self) -> bool {
        !self.io.submission().is_empty()
    }

    /// Hands over what is queued and takes what has come; with `waits`, once something has.
    #[allow(unsafe_code)]
    pub fn hand_over(&mut self, waits: bool) -> io::Result<()> {
        let mut least = u32::from(waits && self.to_wake.is_empty());
        loop {
            let queued = self.io.submission().len() as u32;
            // SAFETY: no argument is passed.
            let entered = unsafe { self.io.submitter().enter::<()>(queued, least, GETEVENTS, None) };
            match entered.map_err(|error| (error.raw_os_error(), error)) {
                // Interrupted, or there is no room for completions until some have been taken.
                Ok(_) | Err((Some(libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
                Err((_, error)) => return Err(error),
            }
            self.take_completions()?;
            least = 0;
            if self.io.submission().is_empty() {
                break;
            }
        }
        self.turn += 1;
        self.batch.clear();
        self.outgoing_len = 0;
        Ok(())
    }

    /// Who waited for what has come. To be woken when the ring is not borrowed.
    pub fn next_to_wake(&mut self) -> Option<Waker> {
        self.to_wake.pop()
    }

    fn take_completions(&mut self) -> io::Result<()> {
        loop {
            // One by one: what is done about it may queue something.
            let Some(completion) = self.io.completion().next() else { return Ok(()) };
            let number = (completion.user_data() >> KIND_BITS) as usize;
            match completion.user_data() & ((1 << KIND_BITS) - 1) {
                RECEIVE => self.received(number, &completion)?,
                READABLE => self.readable(number),
                SEND => self.not_sent(number, completion.result())?,
                ROOM => self.has_room(number, completion.result())?,
                BELL => self.listen_for_bell()?,
                // What was to be stopped had ended by itself.
                _ => {}
            }
        }
    }

    /// A piece, or why there are no more.
    fn received(&mut self, number: usize, completion: &cqueue::Entry) -> io::Result<()> {
        let Self { slots, buffers, to_wake, .. } = self;
        let slot = &mut slots[number];
        let buffer = cqueue::buffer_select(completion.flags());
        match (completion.result(), buffer) {
            (len @ 1.., Some(buffer)) if slot.given_up.is_none() => {
                slot.is_long = len as usize == Buffers::LEN;
                slot.received.push_back(Received { buffer, at: 0, end: len as u16 });
            }
            (result, buffer) => {
                buffer.inspect(|buffer| buffers.give(*buffer));
                match -result {
                    ..=0 => slot.has_ended = true,
                    // No buffer is left, or it was stopped.
                    libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => slot.may_have_more = true,
                    code => slot.error = Some(io::Error::from_raw_os_error(code)),
                }
            }
        }
        to_wake.extend(slot.reader.take());
        if !cqueue::more(completion.flags()) {
            (slot.is_receiving, slot.is_stopping) = (false, false);
            slot.may_have_more |= slot.is_long;
            self.forget_if_done(number);
        } else if (slot.is_long || slot.received.len() >= PIECES_AHEAD) && !slot.is_stopping {
            slot.is_stopping = true;
            let stop = opcode::AsyncCancel::new((number as u64) << KIND_BITS | RECEIVE).build();
            return self.queue(number, STOP, stop.flags(squeue::Flags::SKIP_SUCCESS));
        }
        Ok(())
    }

    /// There is something to be read from the socket itself.
    fn readable(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        (slot.is_receiving, slot.may_have_more) = (false, true);
        self.to_wake.extend(slot.reader.take());
        self.forget_if_done(number);
    }

    /// A short piece has not left, or not whole. One that has is not told of.
    fn not_sent(&mut self, number: usize, result: i32) -> io::Result<()> {
        let Some((_, from, to)) = self.batch.iter().find(|(slot, ..)| *slot == number).copied() else { return Ok(()) };
        let slot = &mut self.slots[number];
        match -result {
            sent @ ..=0 => slot.unsent = self.outgoing[from + sent.unsigned_abs() as usize..to].to_vec(),
            libc::EAGAIN | libc::EINTR => slot.unsent = self.outgoing[from..to].to_vec(),
            code => {
                slot.error = Some(io::Error::from_raw_os_error(code));
                self.to_wake.extend(slot.reader.take());
                self.to_wake.extend(slot.writer.take());
                return Ok(());
            }
        }
        if slot.unsent.is_empty() { Ok(()) } else { self.wait_for_room(number) }
    }

    /// The socket takes something again, or never will.
    #[allow(unsafe_code)]
    fn has_room(&mut self, number: usize, result: i32) -> io::Result<()> {
        let slot = &mut self.slots[number];
        slot.waits_for_room = false;
        if result < 0 {
            slot.error = Some(io::Error::from_raw_os_error(-result));
            slot.unsent = Vec::new();
        }
        while !slot.unsent.is_empty() {
            // SAFETY: the socket is open while its slot is there, and the kernel reads what the slice holds.
            let sent = unsafe {
                let bytes = slot.unsent.as_ptr().cast();
                libc::send(slot.socket, bytes, slot.unsent.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            };
            match usize::try_from(sent).map_err(|_| io::Error::last_os_error()) {
                Ok(sent) => drop(slot.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => (slot.error, slot.unsent) = (Some(error), Vec::new()),
            }
        }
        if !slot.unsent.is_empty() {
            return self.wait_for_room(number);
        }
        slot.unsent = Vec::new();
        self.to_wake.extend(slot.writer.take());
        if slot.error.is_some() {
            self.to_wake.extend(slot.reader.take());
        }
        if let Some(socket) = &slot.given_up {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.forget_if_done(number);
        Ok(())
    }

    fn forget_if_done(&mut self, number: usize) {
        let slot = &self.slots[number];
        if slot.given_up.is_some() && slot.is_at_rest() && slot.unsent.is_empty() {
            self.slots.remove(number);
        }
    }

    /// Unless what there is has to be read first.
    fn ask_for_more(&mut self, number: usize) -> io::Result<()> {
        let slot = &mut self.slots[number];
        if slot.is_receiving || slot.may_have_more || slot.has_ended {
            return Ok(());
        }
        slot.is_receiving = true;
        let socket = Fd(slot.socket);
        if slot.is_long {
            // Into the buffer of who reads, without a copy.
            let readable = opcode::PollAdd::new(socket, (libc::POLLIN | libc::POLLRDHUP) as u32).build();
            return self.queue(number, READABLE, readable);
        }
        self.queue(number, RECEIVE, opcode::RecvMulti::new(socket, Buffers::GROUP).build())
    }

    fn queue_send(&mut self, number: usize, bytes: &[u8]) -> io::Result<()> {
        let (from, to) = (self.outgoing_len, self.outgoing_len + bytes.len());
        self.outgoing[from..to].copy_from_slice(bytes);
        self.outgoing_len = to;
        let socket = Fd(self.slots[number].socket);
        // Whole or not at all for now: it is over when the queue has been handed over, so its bytes need not be kept.
        let send = opcode::Send::new(socket, self.outgoing[from..to].as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.batch.push((number, from, to));
        self.slots[number].sent_in = self.turn;
        self.queue(number, SEND, send)?;
        if self.batch.len().is_multiple_of(SENT_EARLY) {
            self.io.submit()?;
        }
        Ok(())
    }

    fn wait_for_room(&mut self, number: usize) -> io::Result<()> {
        let slot = &mut self.slots[number];
        if std::mem::replace(&mut slot.waits_for_room, true) {
            return Ok(());
        }
        let room = opcode::PollAdd::new(Fd(slot.socket), libc::POLLOUT as u32).build();
        self.queue(number, ROOM, room)
    }

    fn listen_for_bell(&mut self) -> io::Result<()> {
        let read = opcode::Read::new(Fd(self.bell.as_raw_fd()), self.rings.as_mut_ptr(), 8).build();
        self.push(&read.user_data(BELL))
    }

    fn queue(&mut self, number: usize, kind: u64, entry: squeue::Entry) -> io::Result<()> {
        self.push(&entry.user_data((number as u64) << KIND_BITS | kind))?;
        self.slots[number].queued_in = self.turn;
        Ok(())
    }

    /// What `entry` points to must be there until it is over: buffers of this ring, sockets of its slots.
    #[allow(unsafe_code)]
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: see above; `close` hands the queue over before a socket's number is free.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            self.io.submit()?;
        }
        Ok(())
    }
}

#[allow(unsafe_code)]
fn read_at_once(socket: &TcpStream, into: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: `recv` only writes to what it is given. It does not wait, so nothing interrupts it.
    let ((come, _), _) = rustix::net::recv(socket, unsafe { into.unfilled_mut() }, RecvFlags::DONTWAIT)?;
    let received = come.len();
    // SAFETY: the kernel has written so many bytes.
    unsafe { into.assume_init(received) };
    into.advance(received);
    Ok(received)
}

/// Keeps the waker of the task that asks, mostly the one that is there.
fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

/// What a completion tells of, in the lowest bits of its number.
const KIND_BITS: u32 = 3;
const RECEIVE: u64 = 0;
const READABLE: u64 = 1;
const STOP: u64 = 2;
const SEND: u64 = 3;
const ROOM: u64 = 4;
const BELL: u64 = 5;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 8192;
/// A copy of so many bytes is cheaper than a system call.
pub const SHORT_LEN: usize = 4096;
const OUTGOING_LEN: usize = 64 * 1024;
/// Whoever gets them can begin while this thread goes on with its turn.
const SENT_EARLY: usize = 8;
/// Who does not read is not read for: then its peer is stopped by TCP.
const PIECES_AHEAD: usize = 4;
/// `IORING_ENTER_GETEVENTS`. Source: Linux, include/uapi/linux/io_uring.h.
const GETEVENTS: u32 = 1;
