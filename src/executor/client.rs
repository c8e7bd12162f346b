//! The client's socket with its read and write buffers.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reader::Reader;
use crate::backend::Frame;
use crate::error::{PgError, Result, SqlState};
use crate::sql::Complexity;
use crate::tally::Traffic;
use crate::transport::{Stream, timer};
use crate::wire::{answer, frame};

/// What one client's messages may cost.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// The largest message, header included. No smaller limit of Postgres's is widened by it.
    pub message_bytes: usize,
    /// Longest time from a message's first byte to its last; a second more for each megabyte.
    pub message_timeout: Duration,
    /// Longest time in which the client takes nothing of its answer.
    pub reader_timeout: Duration,
    /// Longest time in which a client that is quiet need not even be there.
    pub dead_after: Duration,
    /// Most bytes of what the session keeps and the message that has come, together.
    pub memory_bytes: usize,
    /// Statements that are more complex are not analysed.
    pub complexity: Complexity,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            message_bytes: MESSAGE_BYTES_MAX,
            message_timeout: Duration::from_secs(30),
            reader_timeout: Duration::from_secs(600),
            dead_after: Duration::from_secs(60),
            memory_bytes: 1 << 30,
            complexity: Complexity::default(),
        }
    }
}

/// Leaves room for the names that a message gets on its way: Postgres takes frames of up to 1 GB.
pub const MESSAGE_BYTES_MAX: usize = 1023 << 20;

/// A client that has heard of a longer value may hear of it twice. Unit: bytes.
const HEARD_LEN_MAX: usize = 256;

/// A client connection after the startup packet.
pub struct Client {
    stream: Stream,
    read: BytesMut,
    /// The last time, the socket filled `read`: there is more where that came from.
    has_more: bool,
    out: BytesMut,
    /// A frame was begun that can't be completed: whatever followed would be read as a part of it.
    torn: bool,
    /// Bytes that have left, or are about to: what was answered before cannot be taken back.
    sent: u64,
    /// Shared: of ten thousand clients.
    limits: Arc<ClientLimits>,
    /// What its session keeps beside the next message. Unit: bytes.
    kept: usize,
    /// What the COPY that is under way keeps of its data, beside that. Unit: bytes.
    copied: usize,
    /// Since when the client has been sending the frame that is not whole yet.
    began: Option<Instant>,
    /// Cancelled when there is no time left to wait for more from this client.
    hurry: CancellationToken,
    /// Where its bytes are counted.
    traffic: Arc<Traffic>,
    /// Has it taken what has left?
    reader: Reader,
    /// Nothing leaves: a part of the answer is yet to be taken out of it.
    holds: bool,
    /// What it has heard of settings, each value the last; only of those of which it is certain.
    heard: Vec<(String, String)>,
    /// A statement of it was brought to where its shard is not any more, and could not be repeated.
    pub has_met_old_map: bool,
}

/// A place in the answer, to come back to while nothing has left since.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    len: usize,
    sent: u64,
}

impl Client {
    /// `read` holds what came behind the startup packet.
    pub fn new(
        stream: Stream,
        read: BytesMut,
        limits: Arc<ClientLimits>,
        hurry: CancellationToken,
        traffic: Arc<Traffic>,
    ) -> Self {
        Self {
            reader: Reader::default(),
            stream,
            read,
            has_more: false,
            out: BytesMut::new(),
            torn: false,
            sent: 0,
            limits,
            kept: 0,
            copied: 0,
            began: None,
            hurry,
            traffic,
            holds: false,
            heard: Vec::new(),
            has_met_old_map: false,
        }
    }

    /// The answer so far; leaves with `flush`.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Adds a NotificationResponse. One that the session's own server (`server_pid`) has sent names the process id that
    /// the client knows itself by.
    pub fn put_notification(&mut self, frame: &[u8], server_pid: u32, own_pid: u32) {
        let at = self.out.len() + frame::HEADER_LEN;
        self.out.extend_from_slice(frame);
        if let Some(pid) = self.out.get_mut(at..at + 4).filter(|pid| **pid == server_pid.to_be_bytes()) {
            pid.copy_from_slice(&own_pid.to_be_bytes());
        }
    }

    /// Adds a ParameterStatus, unless it would say what the client has heard last of this setting.
    pub fn tell_parameter(&mut self, name: &str, value: &str) {
        if !self.heard.iter().any(|(known, last)| known == name && last == value) {
            answer::parameter_status(name, value, &mut self.out);
            self.note_heard(name, value);
        }
    }

    /// A server's ParameterStatus with this payload was added.
    pub fn note_parameter(&mut self, payload: &[u8]) {
        if let Some((name, value)) = answer::read_parameter_status(payload) {
            self.note_heard(&name, &value);
        }
    }

    fn note_heard(&mut self, name: &str, value: &str) {
        self.heard.retain(|(known, _)| known != name);
        if value.len() <= HEARD_LEN_MAX {
            self.heard.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Bytes of all answers so far, those that wait in `out` too.
    pub fn sent_bytes(&self) -> u64 {
        self.sent + self.out.len() as u64
    }

    pub fn mark(&self) -> Mark {
        Mark { len: self.out.len(), sent: self.sent }
    }

    /// Takes back everything answered since `mark`. False when some of it has left already.
    pub fn rewind(&mut self, mark: Mark) -> bool {
        let possible = mark.sent == self.sent;
        if possible {
            self.out.truncate(mark.len);
            self.heard.clear();
        }
        possible
    }

    /// From here on what is answered stays here, within the session's memory, until `release`.
    pub fn hold(&mut self) {
        self.holds = true;
    }

    /// What was answered since `mark`, when it was held from there on.
    pub fn release(&mut self, mark: Mark) -> Bytes {
        self.holds = false;
        self.heard.clear();
        self.out.split_off(mark.len.min(self.out.len())).freeze()
    }

    /// Nothing more can be said to this client: `flush` fails from here on, which ends the session.
    pub fn tear(&mut self) {
        self.torn = true;
    }

    /// Sends the answer. Not cancel safe: a cancelled write may have sent a part.
    pub async fn flush(&mut self) -> Result<()> {
        if self.torn {
            return Err(lost("an answer broke off in the middle of a row"));
        }
        if !self.out.is_empty() {
            self.sent += self.out.len() as u64;
            // Until all of it is out, what follows would be read as a part of it.
            self.torn = true;
            self.reader.note_answer(self.stream.socket(), self.sent, self.out.len() as u64);
            // Most often the socket takes it all.
            let mut sent = self.stream.send_at_once(&self.out).transpose()?.unwrap_or(0);
            while sent < self.out.len() {
                sent += match in_time(self.limits.reader_timeout, self.stream.write(&self.out[sent..])).await? {
                    0 => return Err(lost("client closed the connection")),
                    taken => taken,
                };
            }
            if self.stream.is_encrypted() {
                in_time(self.limits.reader_timeout, self.stream.flush()).await?;
            }
            self.torn = false;
            self.traffic.sent.add(self.out.len() as u64);
            self.out.clear();
        }
        Ok(())
    }

    /// Sends the answer for the last time. What the client is still saying is heard out: closed on unread bytes, the
    /// connection is reset, which takes the answer away from it. Bounded by the caller.
    pub async fn flush_last(&mut self) -> Result<()> {
        self.flush().await?;
        if self.stream.is_quiet() {
            return Ok(());
        }
        self.stream.shutdown().await?;
        loop {
            self.read.clear();
            self.read.reserve(READ_LEN);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Sends what there is of the answer where the rest may be long in coming. What is held stays.
    pub async fn flush_early(&mut self) -> Result<()> {
        if self.holds { Ok(()) } else { self.flush().await }
    }

    /// Sends the answer when it has grown to where waiting costs more than a system call.
    pub async fn flush_if_long(&mut self) -> Result<()> {
        if self.out.len() >= LONG_LEN { self.flush_unless_held().await } else { Ok(()) }
    }

    /// The same where more of the answer is at hand: sends when holding more would cost memory.
    pub async fn flush_if_full(&mut self) -> Result<()> {
        if self.out.len() >= FULL_LEN { self.flush_unless_held().await } else { Ok(()) }
    }

    /// Errors: 53200 when more is held than the session may keep.
    async fn flush_unless_held(&mut self) -> Result<()> {
        if !self.holds {
            return self.flush().await;
        }
        if self.kept + self.out.len() <= self.limits.memory_bytes {
            return Ok(());
        }
        Err(PgError::new(SqlState::OUT_OF_MEMORY, "out of memory")
            .detail("The rows of a statement that are fetched in parts take more than limits.memory.")
            .hint("Fetch them without a row limit."))
    }

    /// As `buffered_frame`, for a session that keeps so many bytes by now: they count until it is told anew.
    pub fn buffered_frame_beside(&mut self, kept: usize) -> Result<Option<Frame>> {
        self.kept = kept;
        self.buffered_frame()
    }

    /// A frame that is already here, if one is whole.
    ///
    /// Errors: 08P01 for unknown tags and for lengths past the tag's limit, 53200 for what would be too much memory,
    /// before anything is allocated for them.
    pub fn buffered_frame(&mut self) -> Result<Option<Frame>> {
        let Some(header) = frame::header(&self.read)? else { return Ok(None) };
        match frame::client_frame_limit(header.tag) {
            None => {
                return Err(PgError::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("invalid frontend message type {}", header.tag),
                ));
            }
            Some(limit) if header.len > limit.min(self.limits.message_bytes) => {
                return Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length").detail(format!(
                    "It has {} bytes, and {} are allowed.",
                    header.len,
                    limit.min(self.limits.message_bytes)
                )));
            }
            Some(_) => {}
        }
        let kept = self.kept + self.copied;
        if kept + header.len > self.limits.memory_bytes {
            return Err(PgError::fatal(SqlState::OUT_OF_MEMORY, "out of memory").detail(format!(
                "The session keeps {kept} bytes, its next message has {}, and {} are allowed.",
                header.len, self.limits.memory_bytes
            )));
        }
        if self.read.len() < header.len {
            return Ok(None);
        }
        self.began = None;
        Ok(Some(Frame { tag: header.tag, bytes: self.read.split_to(header.len).freeze() }))
    }

    /// The next frame; `None` when the client has closed the connection. Cancel safe.
    ///
    /// Errors: those of `buffered_frame`; 08P01 for a frame that is not whole in time.
    pub async fn next_frame(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(Some(frame));
            }
            if !self.receive().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for more bytes; false when the client has closed the connection. Cancel safe.
    ///
    /// Errors: 08P01 when a frame that has begun is not whole in time, 08006 when the client takes nothing of its answers.
    pub async fn receive(&mut self) -> Result<bool> {
        if self.read.is_empty() && self.read.capacity() > KEEP_LEN {
            self.read = BytesMut::new();
        }
        if self.out.is_empty() && self.out.capacity() > KEEP_LEN {
            self.out = BytesMut::new();
        }
        let room = if self.has_more { READ_LEN } else { REST_LEN };
        if self.read.is_empty() && !self.read.try_reclaim(room) {
            // No larger than it has to be: `reserve` would add what was taken from the old one.
            self.read = BytesMut::with_capacity(room);
        }
        self.read.reserve(room);
        let received = if self.read.is_empty() {
            match self.reader.is_slow() {
                // Boxed: of a client at rest nothing of it is there.
                true => Box::pin(self.read_beside_answers()).await?,
                false => self.stream.read_buf(&mut self.read).await?,
            }
        } else {
            let deadline = self.frame_deadline()?;
            let late = || PgError::fatal(SqlState::PROTOCOL_VIOLATION, LATE);
            timer::timeout_at(deadline, self.stream.read_buf(&mut self.read)).await.map_err(|_| late())??
        };
        self.has_more = self.read.len() == self.read.capacity();
        self.traffic.received.add(received as u64);
        Ok(received > 0)
    }

    /// Reads; a client that may be short of room is looked after meanwhile.
    async fn read_beside_answers(&mut self) -> Result<usize> {
        while self.reader.is_slow() {
            if !self.reader.look(self.stream.socket(), &self.limits)? {
                return Err(lost(UNREAD));
            }
            if let Ok(received) = timer::timeout(LOOK_EVERY, self.stream.read_buf(&mut self.read)).await {
                return Ok(received?);
            }
        }
        Ok(self.stream.read_buf(&mut self.read).await?)
    }

    /// Whole messages from the start of what was received.
    pub fn take(&mut self, len: usize) -> Bytes {
        self.began = None;
        self.read.split_to(len).freeze()
    }

    /// Undoes `take`.
    pub fn put_back(&mut self, taken: Bytes) {
        let mut taken = taken.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
        taken.unsplit(std::mem::take(&mut self.read));
        self.read = taken;
    }

    /// The next frame of a COPY; `None` when the client has closed the connection.
    ///
    /// Errors: those of `next_frame`; 57P01 when the proxy ends and waits no longer.
    pub async fn next_copy_frame(&mut self) -> Result<Option<Frame>> {
        if let Some(frame) = self.buffered_frame()? {
            return Ok(Some(frame));
        }
        let hurry = self.hurry.clone();
        hurry.run_until_cancelled(self.next_frame()).await.unwrap_or_else(|| Err(PgError::shut_down()))
    }

    /// A COPY keeps so many bytes of its data by now; 0 when it is over. They count as the session's.
    pub fn note_copied(&mut self, copied: usize) {
        self.copied = copied;
    }

    /// What the session may take for more than it keeps already. Unit: bytes.
    pub fn memory_left(&self) -> usize {
        self.limits.memory_bytes.saturating_sub(self.kept)
    }

    /// When the frame that has begun must be whole.
    fn frame_deadline(&mut self) -> Result<Instant> {
        let megabytes = frame::header(&self.read)?.map_or(0, |header| header.len >> 20);
        let began = *self.began.get_or_insert_with(Instant::now);
        Ok(began + self.limits.message_timeout + Duration::from_secs(megabytes as u64))
    }

    pub fn limits(&self) -> &ClientLimits {
        &self.limits
    }

    /// Bytes received and not yet taken as frames.
    pub fn received(&self) -> &[u8] {
        &self.read
    }

    /// The number of the socket.
    pub fn descriptor(&self) -> RawFd {
        self.stream.socket().as_raw_fd()
    }

    pub fn is_encrypted(&self) -> bool {
        self.stream.is_encrypted()
    }

    /// Exactly one password-family frame during login, bounded by `limit` bytes.
    pub async fn login_frame(&mut self, limit: usize) -> Result<Option<Bytes>> {
        loop {
            if let Some(header) = frame::header(&self.read)? {
                if header.tag != b'p' || header.len > limit {
                    return Err(PgError::fatal(
                        SqlState::PROTOCOL_VIOLATION,
                        "expected a password response within its limit",
                    ));
                }
                if self.read.len() >= header.len {
                    return Ok(Some(self.read.split_to(header.len).freeze().slice(frame::HEADER_LEN..)));
                }
            }
            self.read.reserve(1024);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Errors: that of `work`, and 08006 when the client holds it up for longer than `limit`.
async fn in_time<T>(limit: Duration, work: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    // Most often the socket takes it at once, and no clock is needed.
    if let Some(done) = work.as_mut().now_or_never() {
        return Ok(done?);
    }
    let done = timer::timeout(limit, work).await.map_err(|_| lost(UNREAD))?;
    Ok(done?)
}

fn lost(why: &str) -> PgError {
    PgError::fatal(SqlState::CONNECTION_FAILURE, why.to_owned())
}

const LATE: &str = "terminating connection because a message was not complete in time";
const UNREAD: &str = "client does not take its answer";
/// How often a client is looked after that may be short of room.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const READ_LEN: usize = 16 * 1024;
/// What a client that says nothing keeps for what it may say next; most statements fit.
const REST_LEN: usize = 4 * 1024;
const LONG_LEN: usize = 32 * 1024;
const FULL_LEN: usize = 128 * 1024;
/// Buffers that grew past this are given back when they are empty.
const KEEP_LEN: usize = 8 * 1024;

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
