//! Control connections, as far as the node that they go to looks after them: others open them (`catalog`).
//!
//! ```text
//!   another server of the node takes writes ──> all are given up
//!   the node is silent (guard.rs)           ──> those that wait for an answer, and those that nobody uses
//! ```
//!
//! They take no place of the pools: how many there are is for their owner to bound.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::link::Link;
use super::node::Node;

/// One of them, for as long as its owner keeps it.
pub(super) struct ControlLink {
    link: Weak<Link>,
    /// How long it may be left without an answer before the node is asked for a sign of life; `silence_max` at least.
    pub patience: Duration,
}

impl ControlLink {
    /// `None`: it is closed.
    pub fn link(&self) -> Option<Arc<Link>> {
        self.link.upgrade()
    }

    pub fn give_up(&self) {
        if let Some(link) = self.link() {
            link.give_up();
        }
    }
}

impl Node {
    /// From here on this connection to the node's primary is given up when another server takes writes, and when it is silent.
    pub fn look_after(self: &Arc<Self>, link: &Arc<Link>, patience: Duration) {
        let number = self.next_number();
        self.lock().control.insert(number, ControlLink { link: Arc::downgrade(link), patience });
    }
}
