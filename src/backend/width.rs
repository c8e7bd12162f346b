//! How many connections of a pool work at once: so few that more would serve nothing faster.
//!
//! A server that is busy serves a short statement no sooner because another connection waits beside it; it only changes
//! between more processes, each with caches of its own. So who finds all connections of a pool in use waits for one of
//! them, rather than opening another, unless more have been seen to answer more. How many that takes depends on the server's cores,
//! its disks and the statements, so it is tried, as a climber in fog tries the next step:
//!
//! ```text
//!   rest ──> another width ──> answers per second, against those before ──> better: stay there, try further
//!     └─────────────────────────────────────────────────────────────────── not: back, rest longer, then the other way
//! ```
//!
//! Only connections that come and go count. One that is kept for long without an answer (a long statement, a client that thinks
//! within its transaction, a lock) says nothing of how busy the server is, and has another beside it.
//!
//! Source: hill climbing over the number of threads, as in .NET's thread pool: J. L. Hellerstein, V. Morrison,
//! E. Eilebrecht, "Applying control theory in the real world", SIGMETRICS Performance Evaluation Review 37(3), 2009.

use std::time::Duration;

/// One pool's.
#[derive(Debug)]
pub(super) struct Width {
    /// Connections that come and go.
    short: usize,
    /// Connections kept for long: the most of late, slowly forgotten. Those that are closed would have to be opened again.
    long: f64,
    /// Of this epoch.
    answers: u64,
    time: Duration,
    stage: Stage,
    goes: Way,
    /// Epochs of the next rest.
    pause: u32,
}

/// What happened since the look before.
#[derive(Debug)]
pub(super) struct Seen {
    pub elapsed: Duration,
    pub answers: u64,
    /// Connections that have been with the same session all this time, and have answered nothing.
    pub long: usize,
    /// Has somebody waited, although all that may be open are?
    pub is_short: bool,
}

#[derive(Debug)]
enum Stage {
    Rests {
        epochs: u32,
    },
    /// The width has just changed: what was opened has to warm up.
    Settles {
        before: Place,
    },
    Tries {
        before: Place,
    },
}

#[derive(Debug, Clone, Copy)]
struct Place {
    short: usize,
    answers_per_second: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Default for Width {
    fn default() -> Self {
        Self {
            short: AT_FIRST,
            long: 0.0,
            answers: 0,
            time: Duration::ZERO,
            stage: Stage::Rests { epochs: PAUSE_MIN },
            goes: Way::Up,
            pause: PAUSE_MIN,
        }
    }
}

impl Width {
    /// Most connections to have, never more than `size`.
    pub fn most(&self, size: usize) -> usize {
        self.short.saturating_add(self.long.round() as usize).min(size)
    }

    /// Of these many connections, are there more than come and go at the best?
    pub fn is_wider(&self, open: usize) -> bool {
        open > self.short
    }

    /// Takes in what was seen; to be called every few milliseconds while somebody waits, or it is wider.
    pub fn look(&mut self, seen: &Seen, size: usize) {
        let kept = LONG_HALF_LIFE.as_secs_f64() / seen.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        self.long = (self.long * 0.5f64.powf(1.0 / kept)).max(seen.long as f64);
        self.answers += seen.answers;
        self.time += seen.elapsed;
        if seen.is_short && self.time < EPOCH {
            return;
        }
        let rate = std::mem::take(&mut self.answers) as f64 / std::mem::take(&mut self.time).as_secs_f64();
        if !seen.is_short {
            self.stop_trying(rate);
            return;
        }
        self.stage = match self.stage {
            Stage::Rests { epochs } if epochs > 1 => Stage::Rests { epochs: epochs - 1 },
            Stage::Rests { .. } => self.step(rate, size),
            Stage::Settles { before } => Stage::Tries { before },
            Stage::Tries { before } if rate >= before.answers_per_second * self.gain_wanted() => {
                self.pause = PAUSE_MIN;
                self.step(rate, size)
            }
            Stage::Tries { before } => {
                self.short = before.short;
                self.goes = self.goes.other();
                self.rest()
            }
        };
    }

    /// More connections must be worth it, fewer are better already when they do as well.
    fn gain_wanted(&self) -> f64 {
        match self.goes {
            Way::Up => 1.05,
            Way::Down => 0.99,
        }
    }

    /// One step from where `rate` answers come in a second; a rest where there is nowhere to go.
    fn step(&mut self, rate: f64, size: usize) -> Stage {
        let before = Place { short: self.short, answers_per_second: rate };
        self.short = match self.goes {
            Way::Up => (self.short + self.short.div_ceil(3)).min(size),
            Way::Down => (self.short - self.short.div_ceil(4)).max(LEAST),
        };
        if self.short == before.short {
            self.goes = self.goes.other();
            return self.rest();
        }
        Stage::Settles { before }
    }

    fn rest(&mut self) -> Stage {
        let epochs = self.pause;
        self.pause = (self.pause * 2).clamp(PAUSE_AGAIN, PAUSE_MAX);
        Stage::Rests { epochs }
    }

    /// Nobody waits: either because there are enough connections now, or because less is asked for.
    fn stop_trying(&mut self, rate: f64) {
        if let Stage::Settles { before } | Stage::Tries { before } = self.stage {
            if self.goes == Way::Down || rate < before.answers_per_second * self.gain_wanted() {
                self.short = before.short;
            }
            self.stage = Stage::Rests { epochs: PAUSE_MIN };
        }
    }
}

impl Way {
    fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// More than two cores keep busy, with what clients and network take in between.
const AT_FIRST: usize = 8;
const LEAST: usize = 4;
/// Long enough for a few hundred answers of a busy pool.
const EPOCH: Duration = Duration::from_millis(200);
/// Epochs between two tries: at first, after one that gave nothing, and at most. A try costs: new connections have plans to make.
const PAUSE_MIN: u32 = 2;
const PAUSE_AGAIN: u32 = 10;
const PAUSE_MAX: u32 = 80;
const LONG_HALF_LIFE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// A server of so many cores: connections beyond what keeps them busy cost it something each.
    fn answers_per_second(cores: f64, width: usize) -> f64 {
        let (width, fills) = (width as f64, cores * 3.0);
        cores * 20_000.0 * (1.0 - (-2.0 * width / fills).exp()) / (1.0 + 0.01 * (width - fills).max(0.0) / cores.sqrt())
    }

    /// Where it is after so many seconds of nothing but waiting, and the share of the best possible that was answered in the last half.
    fn climb(width: &mut Width, cores: f64, size: usize, seconds: u64, noise: &mut StdRng) -> f64 {
        let elapsed = Duration::from_millis(20);
        let (mut answered, mut best) = (0.0, 0.0f64);
        (1..=size).for_each(|width| best = best.max(answers_per_second(cores, width)));
        let looks = seconds * 50;
        for look in 0..looks {
            let most = width.most(size);
            assert!((LEAST.min(size)..=size).contains(&most), "{most}");
            let rate = answers_per_second(cores, most) * noise.random_range(0.9..1.1);
            answered += if look >= looks / 2 { rate } else { 0.0 };
            let answers = (rate * elapsed.as_secs_f64()) as u64;
            width.look(&Seen { elapsed, answers, long: 0, is_short: true }, size);
        }
        answered / (looks - looks / 2) as f64 / best
    }

    #[test]
    fn it_finds_how_many_a_server_can_use_whatever_its_size() {
        for seed in 0..40 {
            let mut noise = StdRng::seed_from_u64(seed);
            for (cores, size) in [(1.0, 32), (2.0, 64), (4.0, 64), (16.0, 64), (64.0, 400), (2.0, 6), (2.0, 1)] {
                let reached = climb(&mut Width::default(), cores, size, 60, &mut noise);
                assert!(reached > 0.93, "{reached} with {cores} cores, {size} connections, seed {seed}");
            }
        }
    }

    #[test]
    fn it_follows_a_server_that_becomes_larger_and_smaller() {
        for seed in 0..40 {
            let mut noise = StdRng::seed_from_u64(seed);
            let mut width = Width::default();
            for cores in [2.0, 32.0, 4.0, 16.0] {
                let reached = climb(&mut width, cores, 256, 180, &mut noise);
                assert!(reached > 0.9, "{reached} with {cores} cores, seed {seed}");
            }
        }
    }

    #[test]
    fn what_is_kept_for_long_has_others_beside_it_and_is_remembered() {
        let mut width = Width::default();
        let seen = |seconds, long| Seen { elapsed: Duration::from_secs(seconds), answers: 0, long, is_short: false };
        assert_eq!(width.most(100), AT_FIRST);
        width.look(&seen(1, 20), 100);
        assert_eq!(width.most(100), AT_FIRST + 20);
        assert_eq!(width.most(25), 25);
        width.look(&seen(3, 0), 100);
        assert_eq!(width.most(100), AT_FIRST + 10);
        // For good: nobody need look after it any more.
        width.look(&seen(60, 0), 100);
        assert_eq!(width.most(100), AT_FIRST);
    }

    #[test]
    fn a_try_that_ends_because_nobody_waits_keeps_what_was_opened_where_it_answers_more() {
        let mut width = Width::default();
        let look = |width: &mut Width, answers, is_short| {
            width.look(&Seen { elapsed: EPOCH, answers, long: 0, is_short }, 100);
        };
        for (answers, then) in [(900, 8), (1200, 11)] {
            look(&mut width, 1000, true);
            look(&mut width, 1000, true);
            assert_eq!(width.most(100), 11);
            look(&mut width, answers, false);
            assert_eq!(width.most(100), then);
        }
        width.goes = Way::Down;
        look(&mut width, 1000, true);
        look(&mut width, 1000, true);
        assert_eq!(width.most(100), 8);
        look(&mut width, 1000, false);
        assert_eq!(width.most(100), 11);
    }

    #[test]
    fn moments_without_anybody_waiting_do_not_make_it_wider_and_wider() {
        let mut noise = StdRng::seed_from_u64(1);
        let (mut width, mut sum) = (Width::default(), 0);
        for _ in 0..20_000 {
            let rate = answers_per_second(2.0, width.most(64)) * noise.random_range(0.9..1.1);
            let elapsed = Duration::from_millis(20);
            let answers = (rate * elapsed.as_secs_f64()) as u64;
            let is_short = noise.random_bool(0.97);
            width.look(&Seen { elapsed, answers, long: 0, is_short }, 64);
            sum += width.most(64);
        }
        assert!(sum < 20_000 * 16, "{} on average", sum / 20_000);
    }
}
