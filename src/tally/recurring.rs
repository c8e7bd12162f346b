//! What fails again and again, told when it begins, once a minute while it lasts, and when it is over.
//!
//! For loops that try for ever: what they meet while the coordinator is away would fill the log otherwise. Each kind of
//! failure has one of its own. In between it is told at level debug.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// One kind of failure.
#[derive(Debug, Default)]
pub struct Recurring {
    began: Option<Instant>,
    /// When it failed last.
    last: Option<Instant>,
    told: Option<Instant>,
}

impl Recurring {
    /// It has failed. `what`: what could not be done.
    pub fn failed(&mut self, error: &impl Display, what: &str) {
        let now = Instant::now();
        if self.is_news(now) {
            let seconds = self.began.map_or(0, |began| now.duration_since(began).as_secs());
            tracing::warn!(%error, seconds, "{what}, will retry");
        } else {
            tracing::debug!(%error, "{what}, will retry");
        }
    }

    /// It works. `what`: what could not be done before.
    pub fn works(&mut self, what: &str) {
        if let Some(began) = std::mem::take(self).began {
            tracing::info!(seconds = began.elapsed().as_secs(), "no longer: {what}");
        }
    }

    fn is_news(&mut self, now: Instant) -> bool {
        if self.last.replace(now).is_some_and(|last| now.duration_since(last) >= TELL_EVERY) {
            // Nobody says when it works.
            self.began = None;
        }
        self.began.get_or_insert(now);
        let is_news = self.told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
        if is_news {
            self.told = Some(now);
        }
        is_news
    }
}

const TELL_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_when_it_begins_and_then_once_a_minute() {
        let (mut trouble, start) = (Recurring::default(), Instant::now());
        let told: Vec<u64> = (0..150).filter(|s| trouble.is_news(start + Duration::from_secs(*s))).collect();
        assert_eq!(told, [0, 60, 120]);
        trouble.works("");
        assert!(trouble.is_news(start + Duration::from_secs(151)), "a new one is told at once");
    }
}
