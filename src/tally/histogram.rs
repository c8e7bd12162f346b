//! How long things took, by fixed bounds.

use std::ops::AddAssign;
use std::time::Duration;

use super::Count;

/// Upper bounds of the buckets; one more bucket is for what took longer. Unit: microseconds.
pub const BOUNDS_MICROS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// Counts durations as they are observed.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; BUCKETS],
    micros: Count,
}

/// What a histogram has counted; those of several threads are added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Each without those before it.
    buckets: [u64; BUCKETS],
    /// All durations together.
    pub micros: u64,
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS_MICROS.len());
        self.buckets[bucket].add(1);
        self.micros.add(micros);
    }

    pub fn read(&self) -> Distribution {
        Distribution { buckets: std::array::from_fn(|at| self.buckets[at].get()), micros: self.micros.get() }
    }
}

impl Distribution {
    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// For each bound, how many took at most so long.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let sums = self.buckets.iter().scan(0, |sum, of_bucket| {
            *sum += of_bucket;
            Some(*sum)
        });
        BOUNDS_MICROS.into_iter().zip(sums)
    }
}

impl AddAssign for Distribution {
    fn add_assign(&mut self, other: Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, more)| *sum += more);
        self.micros += other.micros;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_below_every_bound_that_it_kept() {
        let (histogram, other) = (Histogram::default(), Histogram::default());
        [100, 101, 20_000_000].into_iter().for_each(|micros| histogram.record(Duration::from_micros(micros)));
        other.record(Duration::from_micros(7));
        let mut all = histogram.read();
        all += other.read();
        let below: Vec<_> = all.cumulative().collect();
        assert_eq!((below[0], below[1], below[15]), ((100, 2), (250, 3), (10_000_000, 3)));
        assert_eq!((all.count(), all.micros), (4, 20_000_208));
    }
}
