//! What a ring knows of one socket.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::task::Waker;

pub struct Slot {
    pub socket: RawFd,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// The kernel has been asked for what comes, or to tell when something has.
    pub is_receiving: bool,
    /// It has been asked to leave the rest where it is.
    pub is_stopping: bool,
    pub received: VecDeque<Received>,
    /// Something may be there that the kernel was not asked for: the socket is to be read itself.
    pub may_have_more: bool,
    /// More comes than fits into one of the thread's buffers.
    pub is_long: bool,
    /// The peer has closed its side.
    pub has_ended: bool,
    /// To be told to whoever asks next.
    pub error: Option<io::Error>,
    /// The turns in which something was queued last, and something to send.
    pub queued_in: u64,
    pub sent_in: u64,
    /// Sent by the session, not taken by the socket; the kernel has been asked to tell when there is room.
    pub unsent: Vec<u8>,
    pub waits_for_room: bool,
    /// Nobody has it any more: it is closed when all is sent.
    pub given_up: Option<TcpStream>,
}

/// A piece in one of the thread's buffers.
pub struct Received {
    pub buffer: u16,
    pub at: u16,
    pub end: u16,
}

impl Slot {
    pub fn new(socket: RawFd) -> Self {
        Self {
            socket,
            reader: None,
            writer: None,
            is_receiving: false,
            is_stopping: false,
            received: VecDeque::new(),
            may_have_more: false,
            is_long: false,
            has_ended: false,
            error: None,
            queued_in: 0,
            sent_in: 0,
            unsent: Vec::new(),
            waits_for_room: false,
            given_up: None,
        }
    }

    /// Is nothing under way at the kernel that would tell of this slot?
    pub fn is_at_rest(&self) -> bool {
        !self.is_receiving && !self.waits_for_room
    }
}
