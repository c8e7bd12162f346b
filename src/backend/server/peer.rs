//! Whether the machine at the other end is still there, as far as the kernel can tell.
//!
//! ```text
//!   a statement ──> nothing acknowledged for dead_peer_after ──> lost
//!   much of COPY ──> the server takes no more: it acknowledges that it has no room, for as long as it likes
//! ```
//!
//! The kernel counts both alike, so its limit is off while a server may be short of room.

use std::time::Duration;

use socket2::SockRef;

use super::Server;
use crate::transport;

/// What a server may have been sent without an answer, in any case within what its socket takes.
const ROOM: usize = 32 * 1024;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// None: nobody watches.
    dead_after: Option<Duration>,
    /// Sent since the last answer was over. Unit: bytes.
    unanswered: usize,
    is_waited_for: bool,
}

impl Server {
    /// From here on a peer that acknowledges nothing for so long counts as gone.
    pub(in crate::backend) fn watch_peer(&mut self, dead_after: Duration) {
        self.peer.dead_after = Some(dead_after);
        if let Err(error) = transport::watch_peer(self.stream.socket(), dead_after) {
            tracing::warn!(%error, "could not have a server connection watched");
        }
    }

    /// So many bytes are to be sent to it.
    pub(super) fn wait_for_room(&mut self, bytes: usize) {
        self.peer.unanswered = self.peer.unanswered.saturating_add(bytes);
        if self.peer.unanswered > ROOM && !self.peer.is_waited_for && self.peer.dead_after.is_some() {
            self.peer.is_waited_for = SockRef::from(self.stream.socket()).set_tcp_user_timeout(None).is_ok();
        }
    }

    /// It has answered all.
    pub(super) fn end_wait_for_room(&mut self) {
        self.peer.unanswered = 0;
        if std::mem::take(&mut self.peer.is_waited_for)
            && SockRef::from(self.stream.socket()).set_tcp_user_timeout(self.peer.dead_after).is_err()
        {
            // Nobody would notice its end.
            self.retired = true;
        }
    }
}
