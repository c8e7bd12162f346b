//! For how long a move can still be undone.
//!
//! Servers' clocks may jump, so the proxy that keeps the way back measures what passes, by a clock that only goes forward, and
//! writes down what is left: who takes over goes on from there. While no proxy runs, nothing passes.

use std::time::{Duration, Instant};

use super::session::Session;
use crate::catalog::pg_error;
use crate::error::Result;

/// What is left of one way back's time.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    id: i64,
    left: Duration,
    /// When it was.
    at: Instant,
    written: Instant,
}

impl Window {
    /// The time of way back `id` begins, unless it has begun before.
    pub async fn begin(catalog: &Session, id: i64, window: Duration) -> Result<()> {
        let sql = format!("{WRITE} AND undo_left IS NULL");
        catalog.execute(&sql, &[&id, &window.as_secs_f64()]).await.map_err(pg_error)?;
        Ok(())
    }

    /// As it was written down, or as `known` from before: whichever is less.
    pub async fn take_over(catalog: &Session, id: i64, known: Option<Self>) -> Result<Self> {
        let left = Self::written(catalog, id).await?;
        let now = Instant::now();
        let left = known.map_or(left, |known| left.min(known.left_at(now)));
        Ok(Self { id, left, at: now, written: now })
    }

    /// Is there any left, as it was written down last?
    pub async fn is_open(catalog: &Session, id: i64) -> Result<bool> {
        Self::written(catalog, id).await.map(|left| !left.is_zero())
    }

    /// For who keeps the way back, often: false when it is over. Writes down what is left, now and then.
    pub async fn goes_on(&mut self, catalog: &Session) -> Result<bool> {
        let now = Instant::now();
        (self.left, self.at) = (self.left_at(now), now);
        if self.left.is_zero() || now - self.written >= WRITE_EVERY {
            catalog.execute(WRITE, &[&self.id, &self.left.as_secs_f64()]).await.map_err(pg_error)?;
            self.written = now;
        }
        Ok(!self.left.is_zero())
    }

    fn left_at(&self, now: Instant) -> Duration {
        self.left.saturating_sub(now - self.at)
    }

    async fn written(catalog: &Session, id: i64) -> Result<Duration> {
        let sql = "SELECT undo_left FROM tenantry.shard_move WHERE moveid = $1";
        let left: Option<f64> = catalog.query_one(sql, &[&id]).await.map_err(pg_error)?.get(0);
        Ok(Duration::try_from_secs_f64(left.unwrap_or(0.0)).unwrap_or_default())
    }
}

const WRITE: &str = "UPDATE tenantry.shard_move \
    SET undo_left = $2, undo_until = clock_timestamp() + make_interval(secs => $2) WHERE moveid = $1";
/// What a proxy that dies has not written down is added to the time.
const WRITE_EVERY: Duration = Duration::from_secs(2);
