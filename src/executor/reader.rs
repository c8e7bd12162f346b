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

/// A client's socket takes twice as much in any case while its client reads nothing. Unit: bytes.
const HALF_ROOM: u64 = 16 * 1024;

/// How much of its answers a client may not have taken.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// It may be short of room: since when it has not acknowledged more, and how much is missing. Few are, of many clients.
    slow: Option<Box<(Instant, usize)>>,
}

impl Reader {
    /// So many bytes are to be sent to it, with which they are `sent` in all.
    pub fn note_answer(&mut self, socket: &impl AsFd, sent: u64, bytes: u64) {
        // Up to the next look as much is added as may be unread at this one.
        let is_time = sent / HALF_ROOM != (sent - bytes) / HALF_ROOM;
        if !is_time || self.slow.is_some() {
            return;
        }
        let unread = unacknowledged(socket).map_or(u64::MAX, |before| (before as u64).saturating_add(bytes));
        if unread > HALF_ROOM && SockRef::from(socket).set_tcp_user_timeout(None).is_ok() {
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
                self.slow = None;
            }
            still if still == *missing => return Ok(since.elapsed() < limits.reader_timeout),
            still => (*since, *missing) = (Instant::now(), still),
        }
        Ok(true)
    }
}
