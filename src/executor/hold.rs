//! Statements of a shard group that is being cut over wait here; they don't fail.
//!
//! So do statements that name a local table which is about to be distributed.
//! A hold is this proxy's own: proxies that do not know of it are stopped by the fence (docs/life_of_a_move.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::watch;

use crate::shard_map::ShardGroupId;
use crate::tally::Histogram;
use crate::transport::timer;

/// The shard groups that are held.
#[derive(Debug, Default)]
pub struct Holds {
    held: DashMap<ShardGroupId, watch::Receiver<()>>,
    /// Local tables by their names, without schemas.
    tables: DashMap<String, watch::Receiver<()>>,
    /// Lets the common case, nothing held, cost one load.
    count: AtomicUsize,
    /// How long holds took, and how long statements waited for their end.
    pub lengths: Histogram,
    pub waits: Histogram,
}

/// Holds a shard group until it is dropped.
#[derive(Debug)]
pub struct HoldGuard {
    holds: Arc<Holds>,
    group: ShardGroupId,
    /// Dropping it wakes everybody who waits.
    release: watch::Sender<()>,
    since: Instant,
}

/// Holds statements that name a table until it is dropped.
#[derive(Debug)]
pub struct TableHoldGuard {
    holds: Arc<Holds>,
    table: String,
    /// Dropping it wakes everybody who waits.
    _release: watch::Sender<()>,
}

impl Holds {
    /// From now on statements wait whose text has this name in it. One at a time for each name.
    pub fn begin_table(self: &Arc<Self>, table: &str) -> TableHoldGuard {
        let (release, waiting) = watch::channel(());
        if self.tables.insert(table.to_owned(), waiting).is_none() {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        TableHoldGuard { holds: self.clone(), table: table.to_owned(), _release: release }
    }

    /// Does the statement name a table that is held? Perhaps only a word that looks like it: then it waits in vain.
    pub fn holds_table_of(&self, text: &str) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.tables.iter().any(|table| names(text, table.key()))
    }

    /// Waits until no table that the statement names is held; false after `timeout`.
    pub async fn wait_for_tables(&self, text: &str, timeout: Duration) -> bool {
        let released = async {
            loop {
                let named =
                    self.tables.iter().find(|table| names(text, table.key())).map(|table| table.value().clone());
                let Some(mut waiting) = named else { return };
                let _ = waiting.changed().await;
                tokio::task::yield_now().await;
            }
        };
        timer::timeout(timeout, released).await.is_ok()
    }

    /// From now on new statements of `group` wait.
    pub fn begin(self: &Arc<Self>, group: ShardGroupId) -> HoldGuard {
        let (release, waiting) = watch::channel(());
        if self.held.insert(group, waiting).is_none() {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        HoldGuard { holds: self.clone(), group, release, since: Instant::now() }
    }

    /// As `begin`, for several.
    pub fn begin_all(self: &Arc<Self>, groups: &[ShardGroupId]) -> Vec<HoldGuard> {
        groups.iter().map(|group| self.begin(*group)).collect()
    }

    pub fn is_held(&self, group: ShardGroupId) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.held.contains_key(&group)
    }

    /// Shard groups held now.
    pub fn held(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until `group` is not held; false after `timeout`.
    pub async fn wait(&self, group: ShardGroupId, timeout: Duration) -> bool {
        let released = async {
            loop {
                // The receiver is cloned so that no lock of the map is held while waiting.
                let Some(mut waiting) = self.held.get(&group).map(|w| w.clone()) else { return };
                // The only news is that the sender is gone.
                let _ = waiting.changed().await;
                tokio::task::yield_now().await;
            }
        };
        let since = Instant::now();
        let is_released = timer::timeout(timeout, released).await.is_ok();
        self.waits.record(since.elapsed());
        is_released
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        self.holds.lengths.record(self.since.elapsed());
        // Another hold of the same group may have taken this one's place.
        let own = self.release.subscribe();
        if self.holds.held.remove_if(&self.group, |_, waiting| waiting.same_channel(&own)).is_some() {
            self.holds.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for TableHoldGuard {
    fn drop(&mut self) {
        if self.holds.tables.remove(&self.table).is_some() {
            self.holds.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// In any spelling: names are folded unless quoted.
fn names(text: &str, table: &str) -> bool {
    text.as_bytes().windows(table.len().max(1)).any(|part| part.eq_ignore_ascii_case(table.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_statement_waits_until_the_hold_is_dropped() {
        let holds = Arc::new(Holds::default());
        let group = ShardGroupId(1);
        let guard = holds.begin(group);
        assert!(holds.is_held(group) && !holds.is_held(ShardGroupId(2)));
        assert!(!holds.wait(group, Duration::from_millis(10)).await);
        let waiter = {
            let holds = holds.clone();
            tokio::spawn(async move { holds.wait(group, Duration::from_secs(60)).await })
        };
        tokio::task::yield_now().await;
        drop(guard);
        assert!(waiter.await.unwrap());
        assert!(!holds.is_held(group));
    }

    #[tokio::test]
    async fn statements_that_name_a_held_table_wait() {
        let holds = Arc::new(Holds::default());
        assert!(!holds.holds_table_of("SELECT 1 FROM orders"));
        let guard = holds.begin_table("orders");
        assert!(holds.holds_table_of("SELECT 1 FROM public.ORDERS") && !holds.holds_table_of("SELECT 1 FROM t"));
        assert!(!holds.is_held(ShardGroupId(1)));
        assert!(!holds.wait_for_tables("SELECT 1 FROM orders", Duration::from_millis(10)).await);
        drop(guard);
        assert!(holds.wait_for_tables("SELECT 1 FROM orders", Duration::from_secs(60)).await);
        assert!(!holds.holds_table_of("SELECT 1 FROM orders"));
    }

    #[tokio::test]
    async fn the_end_of_an_older_hold_does_not_end_a_newer_one() {
        let holds = Arc::new(Holds::default());
        let group = ShardGroupId(1);
        let older = holds.begin(group);
        let newer = holds.begin(group);
        drop(older);
        assert!(holds.is_held(group));
        drop(newer);
        assert!(!holds.is_held(group));
    }
}
