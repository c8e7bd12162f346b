//! How fast a move may go, so that those who use the same servers do not suffer from it.
//!
//! ```text
//!   copy:   frame ──standbys near?──a second's bytes left?──> target
//!   stream: message ────────────────a second's bytes left?──> target      (never while statements are held)
//! ```
//!
//! Limits are looked up each time: a reload of the configuration slows a running move down, or lets it go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::MoverEnvironment;
use super::guard::Guard;
use crate::error::Result;

/// What a move may take of its servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveLimits {
    /// Most bytes a second that one move copies; 0: as fast as it goes. Default: 0.
    pub copy_rate_bytes: u64,
    /// Most bytes a second of changes that one move applies; 0: as fast as it goes. Default: 0.
    pub change_rate_bytes: u64,
    /// Copying pauses while a standby of the source or of a target has more WAL still to replay; 0: it never does.
    /// Default: 256 MB.
    pub standby_lag_bytes: u64,
    /// A move ends when its slot keeps more WAL on the source; 0: it may keep any. Default: 16 GB.
    pub slot_wal_bytes: u64,
    /// For so long the change stream runs backwards after a move, so that it can be undone; 0: it cannot. Default: 0.
    pub undo_window: Duration,
    /// Most moves of any kind that read from or write to one node at the same time. Default: 1.
    pub per_node: usize,
    /// Most moves of one colocation group, and most of one rebalance, at the same time. Default: 4.
    pub at_once: usize,
}

impl Default for MoveLimits {
    fn default() -> Self {
        Self {
            copy_rate_bytes: 0,
            change_rate_bytes: 0,
            standby_lag_bytes: 256 << 20,
            slot_wal_bytes: 16 << 30,
            undo_window: Duration::ZERO,
            per_node: 1,
            at_once: 4,
        }
    }
}

/// Spreads bytes over time.
pub struct Pace {
    limits: Arc<ArcSwap<MoveLimits>>,
    rate: fn(&MoveLimits) -> u64,
    owed: Owed,
    since: Instant,
    /// Off: bytes cost nothing.
    pub is_on: bool,
}

impl Pace {
    pub fn new(environment: &MoverEnvironment, rate: fn(&MoveLimits) -> u64) -> Self {
        let limits = environment.limits.clone();
        Self { limits, rate, owed: Owed::default(), since: Instant::now(), is_on: true }
    }

    /// Returns when so many bytes may go.
    pub async fn spend(&mut self, bytes: usize) {
        if !self.is_on {
            return;
        }
        self.owed.0 += bytes as f64;
        loop {
            let rate = (self.rate)(&self.limits.load());
            let passed = std::mem::replace(&mut self.since, Instant::now()).elapsed();
            match self.owed.pay(rate, passed) {
                None => return,
                Some(wait) => tokio::time::sleep(wait.min(LOOK_EVERY)).await,
            }
        }
    }
}

/// Bytes that went, less those for which time has passed since; negative: that many may go at once.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Owed(f64);

impl Owed {
    /// How long it takes at this rate (bytes a second) until nothing is owed; none if nothing is.
    fn pay(&mut self, rate: u64, passed: Duration) -> Option<Duration> {
        if rate == 0 {
            self.0 = 0.0;
            return None;
        }
        let rate = rate as f64;
        self.0 = (self.0 - passed.as_secs_f64() * rate).max(-rate * CREDIT_SECONDS);
        (self.0 > 0.0).then(|| Duration::from_secs_f64(self.0 / rate))
    }
}

/// Of a copy: its rate, and the standbys of both ends.
pub struct CopyThrottle<'a> {
    pace: Pace,
    guard: &'a Guard,
}

impl<'a> CopyThrottle<'a> {
    pub fn new(environment: &MoverEnvironment, guard: &'a Guard) -> Self {
        Self { pace: Pace::new(environment, |limits| limits.copy_rate_bytes), guard }
    }

    /// Returns when so many bytes may go.
    ///
    /// Errors: 55000 when a standby stays behind for too long.
    pub async fn admit(&mut self, bytes: usize) -> Result<()> {
        self.guard.await_standbys().await?;
        self.pace.spend(bytes).await;
        Ok(())
    }
}

/// What was not used of so much time may be used later.
const CREDIT_SECONDS: f64 = 0.5;
/// A new limit holds within this time.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_at_the_rate_and_no_faster() {
        let mut owed = Owed(1000.0);
        assert_eq!(owed.pay(500, Duration::ZERO), Some(Duration::from_secs(2)));
        assert_eq!(owed.pay(500, Duration::from_secs(1)), Some(Duration::from_secs(1)));
        assert_eq!(owed.pay(500, Duration::from_secs(1)), None);
        // A pause of a minute is no licence for a minute's bytes at once.
        assert_eq!(owed.pay(500, Duration::from_secs(60)), None);
        owed.0 += 750.0;
        assert_eq!(owed.pay(500, Duration::ZERO), Some(Duration::from_secs(1)));
        assert_eq!(owed.pay(0, Duration::ZERO), None, "without a limit nothing is owed");
        assert_eq!(owed, Owed(0.0));
    }
}
