//! Attempts at a cutover, one after the other, while changes are applied: what comes before each, how long it may take, and the
//! pauses in between.

use std::time::{Duration, Instant};

use super::guard::Guard;
use super::marker::Marker;
use super::stream::Apply;
use super::{MoverEnvironment, everywhere};
use crate::error::{PgError, Result};

pub struct Attempts<'a> {
    environment: &'a MoverEnvironment,
    watch: &'a Guard,
    begun_at: Instant,
    pause: Duration,
    /// Of the attempt under way, from 1.
    pub number: u32,
}

impl<'a> Attempts<'a> {
    pub fn new(environment: &'a MoverEnvironment, watch: &'a Guard) -> Self {
        Self { environment, watch, begun_at: Instant::now(), pause: Duration::from_millis(20), number: 0 }
    }

    /// Begins the next: few changes are missing then, and are applied without a limit. The other proxies that are to hold, too.
    ///
    /// Errors: 55000 when changes come faster than they are applied; those of the guard.
    pub async fn next(&mut self, marker: &mut Marker, apply: &mut Apply) -> Result<Vec<String>> {
        let settings = &self.environment.settings;
        self.number += 1;
        let patience = match self.number {
            1 => settings.catch_up_patience,
            _ => settings.cutover_patience.saturating_sub(self.begun_at.elapsed()),
        };
        let calling = async {
            let (present, applied) = apply.run_while(everywhere::present(self.environment)).await;
            applied?;
            present
        };
        let present = self.watch.during(calling).await?;
        self.watch.during(marker.catch_up(apply, settings.near, patience)).await?;
        self.watch.check()?;
        apply.pace.is_on = false;
        Ok(present)
    }

    /// Are transactions that do not end to be waited for?
    pub fn spares_transactions(&self) -> bool {
        self.begun_at.elapsed() < self.environment.settings.cutover_patience / 2
    }

    /// How long whatever is no client may keep the attempt waiting.
    pub fn patience(&self) -> Duration {
        let settings = &self.environment.settings;
        settings.cutover_patience.saturating_sub(self.begun_at.elapsed()).max(settings.fence_patience)
    }

    /// After one that has failed: clients catch their breath, and transactions come to their end.
    ///
    /// Errors: `why` when the time is over.
    pub async fn pause(&mut self, why: PgError, apply: &mut Apply) -> Result<()> {
        if self.begun_at.elapsed() > self.environment.settings.cutover_patience {
            return Err(why);
        }
        apply.pace.is_on = true;
        let (_, applied) = apply.run_while(tokio::time::sleep(self.pause)).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(2));
        applied
    }
}
