//! What the sessions of each data thread have counted since the process was started.

use std::sync::{Arc, Mutex};

use crate::tally::{Count, Distribution, Histogram, Traffic};

/// Of one data thread. A request is what a client sends before it is its turn again: a simple query, or all messages up
/// to a Sync.
#[derive(Debug, Default)]
pub struct Tally {
    /// From a request's first message to the end of its answer.
    pub requests: Histogram,
    pub statements: Count,
    /// Blocks, and requests outside of one.
    pub transactions: Count,
    pub transaction_micros: Count,
    /// With clients.
    pub traffic: Arc<Traffic>,
}

/// Of all threads.
#[derive(Debug, Default)]
pub struct Tallies {
    threads: Mutex<Vec<Arc<Tally>>>,
}

/// The sum over all threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub requests: Distribution,
    pub statements: u64,
    pub transactions: u64,
    pub transaction_micros: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl Tallies {
    /// A new one, for the calling thread.
    pub fn add(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(tally.clone());
        tally
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for tally in self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter() {
            totals.requests += tally.requests.read();
            totals.statements += tally.statements.get();
            totals.transactions += tally.transactions.get();
            totals.transaction_micros += tally.transaction_micros.get();
            totals.received_bytes += tally.traffic.received.get();
            totals.sent_bytes += tally.traffic.sent.get();
        }
        totals
    }
}
