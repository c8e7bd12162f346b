//! Figures per second of the last whole period, as `SHOW STATS` tells them: differences of totals that were noted then.
//!
//! ```text
//!   totals noted:   start ─── earlier ─────── later ──── now
//!   told:                        └── a period ──┘
//! ```

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a period is. PgBouncer's, if nothing else is set there.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Everything that has happened since the start. Times in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub transactions: u64,
    pub statements: u64,
    /// What clients sent before it was their turn again.
    pub requests: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub transaction_micros: u64,
    pub request_micros: u64,
    /// Waits for a connection.
    pub waits: u64,
    pub wait_micros: u64,
}

/// Per second, and times of one each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Average {
    pub transactions: u64,
    pub statements: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub transaction_micros: u64,
    pub request_micros: u64,
    pub wait_micros: u64,
}

#[derive(Debug)]
pub struct Averages {
    noted: Mutex<(Sample, Sample)>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    sums: Sums,
}

impl Default for Averages {
    fn default() -> Self {
        Self::begun(Instant::now())
    }
}

impl Averages {
    fn begun(at: Instant) -> Self {
        let start = Sample { at, sums: Sums::default() };
        Self { noted: Mutex::new((start, start)) }
    }

    /// A period has ended.
    pub fn note(&self, now: Instant, sums: Sums) {
        let mut noted = self.noted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *noted = (noted.1, Sample { at: now, sums });
    }

    /// Of the last period; of the time since the start until one has ended.
    pub fn tell(&self, now: Instant, sums: Sums) -> Average {
        let (earlier, later) = *self.noted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_first = earlier.at == later.at;
        average(earlier, if is_first { Sample { at: now, sums } } else { later })
    }
}

fn average(earlier: Sample, later: Sample) -> Average {
    let seconds = later.at.saturating_duration_since(earlier.at).as_secs_f64();
    let grown = |of: fn(&Sums) -> u64| of(&later.sums).saturating_sub(of(&earlier.sums));
    let per_second = |of| if seconds > 0.0 { (grown(of) as f64 / seconds).round() as u64 } else { 0 };
    let of_one = |micros, count| grown(micros).checked_div(grown(count)).unwrap_or(0);
    Average {
        transactions: per_second(|sums| sums.transactions),
        statements: per_second(|sums| sums.statements),
        received_bytes: per_second(|sums| sums.received_bytes),
        sent_bytes: per_second(|sums| sums.sent_bytes),
        transaction_micros: of_one(|sums| sums.transaction_micros, |sums| sums.transactions),
        request_micros: of_one(|sums| sums.request_micros, |sums| sums.requests),
        wait_micros: of_one(|sums| sums.wait_micros, |sums| sums.waits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_the_last_whole_period() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let sums = |n: u64| Sums {
            transactions: 120 * n,
            statements: 600 * n,
            requests: 300 * n,
            received_bytes: 6000 * n,
            sent_bytes: 60 * n,
            transaction_micros: 1200 * n,
            request_micros: 900 * n,
            ..Sums::default()
        };
        let averages = Averages::begun(start);
        assert_eq!(averages.tell(start, Sums::default()), Average::default());
        assert_eq!(averages.tell(after(10), sums(1)).transactions, 12, "before a period has ended: since the start");
        averages.note(after(60), sums(1));
        averages.note(after(120), sums(3));
        let told = averages.tell(after(150), sums(9));
        let want = Average {
            transactions: 4,
            statements: 20,
            received_bytes: 200,
            sent_bytes: 2,
            transaction_micros: 10,
            request_micros: 3,
            wait_micros: 0,
        };
        assert_eq!(told, want, "what came since is not told yet");
    }
}
