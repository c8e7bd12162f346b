//! The right to one connection to a node, and the right to wait for one.

use std::sync::Arc;
use std::time::Instant;

use super::link::Link;
use super::node::Node;
use super::pool::is_outage;
use crate::error::PgError;

/// The right to one connection, for as long as it is open.
pub(super) struct Place {
    pub node: Option<Arc<Node>>,
    pub pool: u64,
    pub number: u64,
    pub is_logging_in: bool,
    /// The one attempt to reach a node that is down.
    pub is_trial: bool,
}

impl Place {
    /// The connection is there.
    pub fn logged_in(&mut self, link: Arc<Link>) {
        let Some(node) = &self.node else { return };
        let mut state = node.lock();
        state.logging_in -= usize::from(std::mem::take(&mut self.is_logging_in));
        self.is_trial = false;
        node.end_outage(&mut state);
        state.links.insert(self.number, (self.pool, link));
        node.settle(state);
    }

    /// The server had none left.
    pub fn refused(mut self) {
        if let Some(node) = self.node.take() {
            node.begin_fullness(&self);
        }
    }

    /// It could not be opened. Errors that only a node in good health can have say that it is up.
    pub fn failed(mut self, error: &PgError) {
        let Some(node) = self.node.clone() else { return };
        if is_outage(error) {
            node.begin_outage(error.message(), std::mem::take(&mut self.is_trial));
        } else {
            self.is_trial = false;
            node.end_outage(&mut node.lock());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            let mut state = node.lock();
            state.close(self);
            node.settle(state);
        }
    }
}

/// A place in the queue. Left when dropped.
pub(super) struct Ticket {
    pub node: Arc<Node>,
    pub pool: u64,
    pub number: u64,
    pub since: Instant,
    pub is_timeout: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.node.lock();
        let has_left = state.queues.remove(self.pool, self.number).is_some();
        if let Some(pool) = state.pools.get_mut(&self.pool) {
            let waited = self.since.elapsed();
            pool.tally.waits.record(waited);
            pool.longest_wait = pool.longest_wait.max(waited);
            pool.timeouts += u64::from(self.is_timeout);
        }
        if has_left {
            self.node.settle(state);
        }
    }
}
