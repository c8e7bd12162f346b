//! Counts that are cheap to make and can be read from any thread at any time.
//!
//! Each data thread writes its own, so no two threads write the same cache line; who reads adds them up. Nothing here
//! allocates or locks.
//!
//! `Recurring` is the odd one: failures that come again and again, counted by the loop that meets them, so that the log tells
//! of each trouble once.

mod histogram;
mod recurring;
mod space_saving;

pub use histogram::{BOUNDS_MICROS, Distribution, Histogram};
pub use recurring::Recurring;
pub use space_saving::{Counter, SpaceSaving};

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Questions to a cache.
#[derive(Debug, Default)]
pub struct Lookups {
    pub hits: Count,
    pub misses: Count,
}

impl Lookups {
    pub fn note(&self, is_hit: bool) {
        if is_hit { self.hits.add(1) } else { self.misses.add(1) }
    }
}

/// Bytes over a connection.
#[derive(Debug, Default)]
pub struct Traffic {
    pub received: Count,
    pub sent: Count,
}
