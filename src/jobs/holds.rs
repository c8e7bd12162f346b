//! Holds shard groups that other proxies are cutting over.
//!
//! ```text
//!   proxy that moves   ask ──────────────────────────> answered ── fence ── flip ── end
//!   this one            └> hold ── transactions end ──────┘                          └> newest map ── release
//! ```
//!
//! Its statements wait then as they do there, and none meets the fence that could not be run again elsewhere. A proxy that does not
//! answer in time is stopped by the fence alone. A move that cannot keep up asks for pulses: holds of a moment, again and again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::catalog::Catalog;
use crate::catalog::holds::{self, AskedHold};
use crate::error::Result;
use crate::executor::{Holds, pulse};
use crate::shard_map::NodeId;

/// Never ends: for as long as this process serves clients, others may ask. `instance` is its own name.
pub async fn hold_for_others(catalog: Arc<Catalog>, holds: Arc<Holds>, instance: String) {
    let answerer = Arc::new(Answerer { catalog, holds, instance });
    let mut held: HashMap<i64, (JoinHandle<()>, Arc<Notify>)> = HashMap::new();
    loop {
        let mut rung = answerer.catalog.holds_asked().await;
        held.retain(|_, (task, _)| !task.is_finished());
        rung.retain(|id| held.get(id).map(|(_, news)| news.notify_one()).is_none());
        match answerer.asked(&rung).await {
            Ok(asked) => held.extend(asked.into_iter().map(|asked| {
                let (answerer, news) = (answerer.clone(), Arc::new(Notify::new()));
                let heard = news.clone();
                (asked.id, (tokio::spawn(async move { answerer.hold(&asked, &heard).await }), news))
            })),
            // Who asked goes on without us.
            Err(error) => tracing::warn!(%error, "could not read what other proxies want to be held"),
        }
    }
}

struct Answerer {
    catalog: Arc<Catalog>,
    holds: Arc<Holds>,
    instance: String,
}

impl Answerer {
    async fn asked(&self, rung: &[i64]) -> Result<Vec<AskedHold>> {
        if rung.is_empty() {
            return Ok(Vec::new());
        }
        holds::asked(&**self.catalog.client(NodeId::COORDINATOR).await?, &self.instance, rung).await
    }

    /// From the question to its end, of which `news` tells.
    async fn hold(&self, asked: &AskedHold, news: &Notify) {
        if asked.extent.in_pulses {
            return self.slow_down(asked, news).await;
        }
        let guards = self.holds.begin_all(&asked.extent);
        let answered = async {
            self.holds.drained(&asked.extent).await;
            if let Err(error) = self.answer(asked).await {
                tracing::debug!(%error, "could not answer that a shard is held");
            }
            std::future::pending().await
        };
        let over = async {
            tokio::select! {
                () = answered => {}
                () = self.ended(asked, news) => {}
            }
        };
        let _ = timeout(asked.limit, over).await;
        // Statements that waited are to find the shard where it is now.
        if !asked.extent.is_empty()
            && let Ok(Err(error)) = timeout(REFRESH_PATIENCE, self.catalog.refresh()).await
        {
            tracing::debug!(%error, "could not reload the shard map after a hold");
        }
        drop(guards);
    }

    /// The same where writers are only to be slowed down.
    async fn slow_down(&self, asked: &AskedHold, news: &Notify) {
        tokio::select! {
            () = pulse(&self.holds, &asked.extent.groups) => {}
            () = self.ended(asked, news) => {}
        }
    }

    async fn answer(&self, asked: &AskedHold) -> Result<()> {
        holds::answer(&**self.catalog.client(NodeId::COORDINATOR).await?, &self.instance, asked.id).await
    }

    /// A ring may be lost. What nobody can be asked about for a while has ended, too.
    async fn ended(&self, asked: &AskedHold, news: &Notify) {
        let mut heard = Instant::now();
        while heard.elapsed() < SILENCE_MAX {
            let _ = timeout(LOOK_EVERY, news.notified()).await;
            let is_asked = async { holds::is_asked(&**self.catalog.client(NodeId::COORDINATOR).await?, asked).await };
            match timeout(SILENCE_MAX, is_asked).await {
                Ok(Ok(true)) => heard = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::debug!(%error, "could not ask whether a hold has ended"),
                Err(_) => {}
            }
        }
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(250);
const REFRESH_PATIENCE: Duration = Duration::from_secs(1);
/// Longer than a coordinator is away for a failover. Holds end before by their own limit, but for those in pulses and of writes.
const SILENCE_MAX: Duration = Duration::from_secs(20);
