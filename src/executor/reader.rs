//! Whether a client is still there that may not have taken all of its answers, as far as the kernel can tell.
//!
//! ```text
//!   little is unread ──> nothing acknowledged for limits.dead_client_after ──> gone: the kernel looks
//!   much is          ──> it may be short of room, and acknowledges nothing else: its own time, limits.reader_timeout ──> left
//! ```
//!
//! The kernel counts both alike, so its limit is off while a client may be short of room.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::error::Result;
use crate::transport::unacknowledged;

/// What a client's socket takes in any case while its client reads nothing.
const ROOM: usize = 32 * 1024;

/// How much of its answers a client may not have taken.
#[derive(Debug)]
pub(super) struct Reader {
    /// As for a client that is quiet.
    dead_after: Duration,
    /// Unit: bytes.
    unread: usize,
    /// It may be short of room: since when it has not acknowledged more, and how much is missing.
    slow: Option<(Instant, usize)>,
}

impl Reader {
    pub fn new(dead_after: Duration) -> Self {
        Self { dead_after, unread: 0, slow: None }
    }

    /// So many bytes are to be sent to it.
    pub fn note_answer(&mut self, socket: &impl AsFd, bytes: usize) {
        self.unread = self.unread.saturating_add(bytes);
        if self.unread <= ROOM || self.slow.is_some() {
            return;
        }
        if unacknowledged(socket).is_ok_and(|bytes| bytes == 0) {
            self.unread = bytes;
        }
        if self.unread > ROOM && SockRef::from(socket).set_tcp_user_timeout(None).is_ok() {
            self.slow = Some((Instant::now(), 0));
        }
    }

    /// May it be short of room?
    pub fn is_slow(&self) -> bool {
        self.slow.is_some()
    }

    /// Looks how far it has come. False when it has taken nothing more for `limit`.
    ///
    /// Errors: the kernel's.
    pub fn look(&mut self, socket: &impl AsFd, limit: Duration) -> Result<bool> {
        let Some((since, missing)) = self.slow else { return Ok(true) };
        match unacknowledged(socket)? {
            0 => {
                SockRef::from(socket).set_tcp_user_timeout(Some(self.dead_after))?;
                (self.unread, self.slow) = (0, None);
            }
            still if still == missing => return Ok(since.elapsed() < limit),
            still => self.slow = Some((Instant::now(), still)),
        }
        Ok(true)
    }
}
