//! What the connections of one pool have counted, and the waits for them.

use crate::tally::{Histogram, Traffic};

#[derive(Debug, Default)]
pub struct PoolTally {
    /// From what was sent to the end of its answer, which is what was sent up to a Sync.
    pub answers: Histogram,
    /// Waits for a connection.
    pub waits: Histogram,
    pub traffic: Traffic,
}
