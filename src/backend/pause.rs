//! What operators do to all connections of the process at once: PAUSE, RESUME, RECONNECT, WAIT_CLOSE.
//!
//! ```text
//!   paused:  a node's limit is 0 ── idle connections are closed, used ones when they come back
//!                                └─ who needs one waits in the node's queue, as long as the pause lasts
//! ```
//!
//! Statements on connections in use go on, so a pause begins by itself and is complete when the last transaction has ended.
//! Control connections (catalog, moves, recovery) are others and go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::Node;
use super::nodes::Nodes;

impl Nodes {
    /// No connection is given out from now on. False when that was so already.
    pub fn pause(self: &Arc<Self>) -> bool {
        let is_new = !self.paused.swap(true, Ordering::AcqRel);
        self.all().iter().for_each(|node| node.review());
        is_new
    }

    /// Who waits goes on. False when nothing was paused.
    pub fn resume(self: &Arc<Self>) -> bool {
        let was_paused = self.paused.swap(false, Ordering::AcqRel);
        self.all().iter().for_each(|node| node.review());
        was_paused
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Connections that are open or being opened.
    pub fn open(&self) -> usize {
        self.all().iter().map(|node| node.lock().open).sum()
    }

    /// Connections that are open and will not be used again.
    pub fn closing(&self) -> usize {
        let of_node = |node: &Arc<Node>| node.lock().links.values().filter(|(_, link)| !link.may_be_reused()).count();
        self.all().iter().map(of_node).sum()
    }

    /// Connections that are open now are not used again: idle ones are closed, used ones when they come back.
    pub fn reconnect(&self) {
        self.all().iter().for_each(|node| node.retire_all());
        self.ring();
    }
}
