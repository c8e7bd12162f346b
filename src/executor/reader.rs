//! Whether a client is still there that may not have taken all of its answers, as far as the kernel can tell.
//!
//! ```text
//!   little is unread ──> nothing acknowledged for limits.dead_client_after ──> gone: the kernel looks
//!   much is          ──> it may be short of room, and acknowledges nothing else: its own time, limits.reader_timeout ──> left
//! ```
//!
//! The kernel counts both alike, so its limit is off while a client may be short of room.

use std::os::fd::AsFd;
use std::time::Instant;

use socket2::SockRef;

use super::ClientLimits;
use crate::error::Result;
use crate::transport::unacknowledged;

/// What a client's socket takes in any case while its client reads nothing.
const ROOM: u32 = 32 * 1024;

/// How much of its answers a client may not have taken.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Unit: bytes.
    unread: u32,
    /// It may be short of room: since when it has not acknowledged more, and how much is missing. Few are, of many clients.
    slow: Option<Box<(Instant, usize)>>,
}

impl Reader {
    /// So many bytes are to be sent to it.
    pub fn note_answer(&mut self, socket: &impl AsFd, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.unread = self.unread.saturating_add(bytes);
        if self.unread <= ROOM || self.slow.is_some() {
            return;
        }
        if unacknowledged(socket).is_ok_and(|bytes| bytes == 0) {
            self.unread = bytes;
        }
        if self.unread > ROOM && SockRef::from(socket).set_tcp_user_timeout(None).is_ok() {
            self.slow = Some(Box::new((Instant::now(), 0)));
        }
    }

    /// May it be short of room?
    pub fn is_slow(&self) -> bool {
        self.slow.is_some()
    }

    /// Looks how far it has come. False when it has taken nothing more for its time. Once nothing is missing, it is gone when it
    /// acknowledges nothing for as long as a client that is quiet.
    ///
    /// Errors: the kernel's.
    pub fn look(&mut self, socket: &impl AsFd, limits: &ClientLimits) -> Result<bool> {
        let Some((since, missing)) = self.slow.as_deref_mut() else { return Ok(true) };
        match unacknowledged(socket)? {
            0 => {
                SockRef::from(socket).set_tcp_user_timeout(Some(limits.dead_after))?;
                (self.unread, self.slow) = (0, None);
            }
            still if still == *missing => return Ok(since.elapsed() < limits.reader_timeout),
            still => (*since, *missing) = (Instant::now(), still),
        }
        Ok(true)
    }
}
