//! Statements of a shard group that is being cut over wait here, in the order in which they came; they don't fail.
//!
//! ```text
//!   statement ── try_enter ──> entered ──────────────── its transaction's end ── leave
//!                    └ held: wait ... released, try_enter          │
//!   move ────── begin ─────────── drained: all that had entered ───┘── fence ── end of the hold
//! ```
//!
//! Who enters is what could not be run again elsewhere once a part of it is done; the rest is stopped by the fence, and repeated.
//! A shard group whose writes alone are held is entered by transactions that may not write.
//! So do statements wait that name a local table which is about to be distributed; what has been sent that names one, and could not be
//! repeated, has entered.
//! A hold is this process's own. Other proxies are asked for theirs (operations/mover/everywhere.rs).

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Notify, oneshot, watch};

use crate::catalog::holds::Extent;
use crate::shard_map::ShardGroupId;
use crate::tally::Histogram;
use crate::transport::timer;

/// The shard groups that are held.
#[derive(Debug, Default)]
pub struct Holds {
    groups: DashMap<ShardGroupId, State>,
    /// Local tables by their names, without schemas.
    tables: DashMap<String, watch::Receiver<()>>,
    /// Statements under way that could not be run again, by number.
    under_way: DashMap<u64, String>,
    next: AtomicU64,
    /// Lets the common case, nothing held, cost one load.
    count: AtomicUsize,
    /// The last has left a held group.
    left: Notify,
    /// How long holds took, and how long statements waited for their end.
    pub lengths: Histogram,
    pub waits: Histogram,
}

/// Of a shard group that is held, or that somebody has entered.
#[derive(Debug, Default)]
struct State {
    /// Transactions that may use it.
    entered: usize,
    queue: Option<Arc<Queue>>,
    /// Of transactions that may write.
    write_queue: Option<Arc<Queue>>,
}

impl State {
    fn queue_of(&mut self, scope: Scope) -> &mut Option<Arc<Queue>> {
        match scope {
            Scope::Statements => &mut self.queue,
            Scope::Writes => &mut self.write_queue,
        }
    }

    fn is_idle(&self) -> bool {
        self.entered == 0 && self.queue.is_none() && self.write_queue.is_none()
    }
}

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Statements,
    /// Those that may write and have to enter. The others wait for the tables' locks.
    Writes,
}

/// Who waits for the end of a hold, first come first; `None` when it has ended.
#[derive(Debug)]
struct Queue(Mutex<Option<VecDeque<oneshot::Sender<()>>>>);

impl Queue {
    fn new(waiting: VecDeque<oneshot::Sender<()>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(waiting))))
    }

    /// Is told of the end of the hold; at once when it has ended.
    fn stand(&self) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        if let Some(waiting) = &mut *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            waiting.push_back(wake);
        }
        woken
    }

    /// Ends it; who has waited is to be woken, or to wait for another end.
    fn end(&self) -> VecDeque<oneshot::Sender<()>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take().unwrap_or_default()
    }
}

/// Holds a shard group until it is dropped.
#[derive(Debug)]
pub struct HoldGuard {
    holds: Arc<Holds>,
    group: ShardGroupId,
    scope: Scope,
    queue: Arc<Queue>,
    since: Instant,
}

/// Holds statements that name a table until it is dropped.
#[derive(Debug)]
pub struct TableHoldGuard {
    holds: Arc<Holds>,
    table: String,
    /// Dropping it wakes everybody who waits.
    release: watch::Sender<()>,
}

/// What is held, until it is dropped.
#[derive(Debug, Default)]
pub struct Guards {
    _groups: Vec<HoldGuard>,
    _tables: Vec<TableHoldGuard>,
}

/// A statement under way that could not be run again, until it is dropped.
#[derive(Debug)]
pub struct EnteredTables {
    holds: Arc<Holds>,
    number: u64,
}

impl Holds {
    /// From now on statements wait whose text has this name in it.
    pub fn begin_table(self: &Arc<Self>, table: &str) -> TableHoldGuard {
        let (release, waiting) = watch::channel(());
        if self.tables.insert(table.to_owned(), waiting).is_none() {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        TableHoldGuard { holds: self.clone(), table: table.to_owned(), release }
    }

    /// The tables that are held and that the statement names. Perhaps only a word looks like one: then it waits in vain.
    pub fn tables_of(&self, text: &str) -> Vec<String> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        self.tables.iter().filter(|table| names(text, table.key())).map(|table| table.key().clone()).collect()
    }

    /// A statement is going to be sent, and a hold of a table that it names counts it until this is dropped.
    pub fn enter_tables(self: &Arc<Self>, text: &str) -> EnteredTables {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.under_way.insert(number, text.to_owned());
        EnteredTables { holds: self.clone(), number }
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
        self.begin_for(group, Scope::Statements)
    }

    /// All that is in `extent`.
    pub fn begin_all(self: &Arc<Self>, extent: &Extent) -> Guards {
        let statements = extent.groups.iter().map(|group| self.begin(*group));
        let writes = extent.write_groups.iter().map(|group| self.begin_for(*group, Scope::Writes));
        Guards {
            _groups: statements.chain(writes).collect(),
            _tables: extent.tables.iter().map(|table| self.begin_table(table)).collect(),
        }
    }

    fn begin_for(self: &Arc<Self>, group: ShardGroupId, scope: Scope) -> HoldGuard {
        let mut state = self.groups.entry(group).or_default();
        let older = state.queue_of(scope).take();
        if older.is_none() && scope == Scope::Statements {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        // Who waits for the end of an older hold waits for this one's.
        let queue = Queue::new(older.map(|older| older.end()).unwrap_or_default());
        *state.queue_of(scope) = Some(queue.clone());
        drop(state);
        HoldGuard { holds: self.clone(), group, scope, queue, since: Instant::now() }
    }

    pub fn is_held(&self, group: ShardGroupId) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.groups.get(&group).is_some_and(|state| state.queue.is_some())
    }

    /// Shard groups held now.
    pub fn held(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until `group` is not held; false after `timeout`. Who has come first is woken first.
    pub async fn wait(&self, group: ShardGroupId, timeout: Duration) -> bool {
        let released = async {
            loop {
                // Cloned so that no lock of the map is kept while waiting.
                let queue = self.groups.get(&group).and_then(|state| state.queue.clone());
                let Some(queue) = queue else { return };
                // Without a message, it had ended before.
                let _ = queue.stand().await;
            }
        };
        let since = Instant::now();
        let is_released = timer::timeout(timeout, released).await.is_ok();
        self.waits.record(since.elapsed());
        is_released
    }

    pub fn holds_writes(&self, group: ShardGroupId) -> bool {
        self.groups.get(&group).is_some_and(|state| state.write_queue.is_some())
    }

    /// Waits until writes of `group` are not held, as for the lock that is taken then: for as long as it takes.
    pub async fn wait_to_write(&self, group: ShardGroupId) {
        loop {
            let queue = self.groups.get(&group).and_then(|state| state.write_queue.clone());
            let Some(queue) = queue else { return };
            let _ = queue.stand().await;
        }
    }

    /// A transaction is going to use `group`, and a hold that begins from now on counts it until `leave`. False when the group is
    /// held.
    pub fn try_enter(&self, group: ShardGroupId, may_write: bool) -> bool {
        let mut state = self.groups.entry(group).or_default();
        let is_free = state.queue.is_none() && !(may_write && state.write_queue.is_some());
        state.entered += usize::from(is_free);
        is_free
    }

    /// Ends what `try_enter` began.
    pub fn leave(&self, groups: &HashSet<ShardGroupId>) {
        for group in groups {
            let Entry::Occupied(mut state) = self.groups.entry(*group) else { continue };
            state.get_mut().entered -= 1;
            match state.get() {
                idle if idle.is_idle() => drop(state.remove()),
                State { entered: 0, .. } => {
                    drop(state);
                    self.left.notify_waiters();
                }
                _ => {}
            }
        }
    }

    /// Waits until all have left that had entered something of `extent`, which is held.
    pub async fn drained(&self, extent: &Extent) {
        let is_empty = |group| self.groups.get(group).is_none_or(|state| state.entered == 0);
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            let named = |text: &str| extent.tables.iter().any(|table| names(text, table));
            let is_named = !extent.tables.is_empty() && self.under_way.iter().any(|statement| named(&statement));
            if !is_named && extent.groups.iter().chain(&extent.write_groups).all(is_empty) {
                return;
            }
            left.await;
        }
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let is_counted = self.scope == Scope::Statements;
        if is_counted {
            self.holds.lengths.record(self.since.elapsed());
        }
        // Another hold of the same group may have taken this one's place.
        if let Entry::Occupied(mut state) = self.holds.groups.entry(self.group)
            && state.get_mut().queue_of(self.scope).take_if(|queue| Arc::ptr_eq(queue, &self.queue)).is_some()
        {
            if state.get().is_idle() {
                state.remove();
            }
            if is_counted {
                self.holds.count.fetch_sub(1, Ordering::SeqCst);
            }
        }
        for wake in self.queue.end() {
            // Who has given up waiting is not there any more.
            let _ = wake.send(());
        }
    }
}

impl Drop for TableHoldGuard {
    fn drop(&mut self) {
        // Another hold of the same table may have taken this one's place.
        let is_own = |_: &String, waiting: &watch::Receiver<()>| self.release.subscribe().same_channel(waiting);
        if self.holds.tables.remove_if(&self.table, is_own).is_some() {
            self.holds.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for EnteredTables {
    fn drop(&mut self) {
        self.holds.under_way.remove(&self.number);
        if self.holds.held() > 0 {
            self.holds.left.notify_waiters();
        }
    }
}

/// As a word of its own, in any spelling: names are folded unless quoted.
fn names(text: &str, table: &str) -> bool {
    let (text, table) = (text.as_bytes(), table.as_bytes());
    let goes_on = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | 128..));
    text.windows(table.len().max(1)).enumerate().any(|(at, part)| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        part.eq_ignore_ascii_case(table) && !goes_on(before) && !goes_on(text.get(at + table.len()))
    })
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
    async fn who_has_come_first_is_woken_first() {
        let (holds, order) = (Arc::new(Holds::default()), Arc::new(Mutex::new(Vec::new())));
        let group = ShardGroupId(1);
        let first = holds.begin(group);
        let mut waiters = Vec::new();
        for number in 0..100 {
            let (holds, order) = (holds.clone(), order.clone());
            waiters.push(tokio::spawn(async move {
                assert!(holds.wait(group, Duration::from_secs(60)).await);
                order.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        // Another one in its place changes nothing.
        let second = holds.begin(group);
        drop(first);
        tokio::task::yield_now().await;
        assert!(order.lock().unwrap().is_empty());
        // Some give up.
        waiters.iter().skip(3).step_by(10).for_each(tokio::task::JoinHandle::abort);
        drop(second);
        let stayed = futures_util::future::join_all(waiters).await.iter().filter(|ended| ended.is_ok()).count();
        let all: Vec<_> = (0..100).filter(|number| number % 10 != 3).collect();
        assert_eq!(*order.lock().unwrap(), all);
        assert_eq!(stayed, all.len());
    }

    #[tokio::test]
    async fn a_hold_is_drained_when_all_have_left() {
        let holds = Arc::new(Holds::default());
        let (group, other) = (ShardGroupId(1), ShardGroupId(2));
        assert!(holds.try_enter(group, true) && holds.try_enter(group, false) && holds.try_enter(other, true));
        let guard = holds.begin(group);
        assert!(!holds.try_enter(group, false) && holds.try_enter(other, true));
        let extent = Extent { groups: vec![group], ..Extent::default() };
        let drained = {
            let holds = holds.clone();
            tokio::spawn(async move { holds.drained(&extent).await })
        };
        for _ in 0..2 {
            tokio::task::yield_now().await;
            assert!(!drained.is_finished());
            holds.leave(&HashSet::from([group]));
        }
        drained.await.unwrap();
        drop(guard);
        assert!(holds.try_enter(group, true));
        holds.leave(&HashSet::from([group, other]));
        holds.leave(&HashSet::from([other]));
        assert!(holds.groups.is_empty(), "nothing is kept of what nobody uses");
    }

    #[tokio::test]
    async fn while_writes_are_held_transactions_enter_that_may_not_write() {
        let holds = Arc::new(Holds::default());
        let group = ShardGroupId(1);
        let extent = Extent { write_groups: vec![group], ..Extent::default() };
        let writes = holds.begin_all(&extent);
        assert!(!holds.try_enter(group, true) && holds.try_enter(group, false));
        assert!(!holds.is_held(group) && holds.held() == 0, "other statements are not kept waiting");
        let waiter = {
            let holds = holds.clone();
            tokio::spawn(async move { holds.wait_to_write(group).await })
        };
        tokio::task::yield_now().await;
        // A hold of all statements, and its end, leave that of writes alone.
        let all = holds.begin(group);
        assert!(!holds.try_enter(group, false));
        drop(all);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished() && !holds.try_enter(group, true));
        holds.leave(&HashSet::from([group]));
        holds.drained(&extent).await;
        drop(writes);
        waiter.await.unwrap();
        assert!(holds.try_enter(group, true));
        holds.leave(&HashSet::from([group]));
        assert!(holds.groups.is_empty(), "nothing is kept of what nobody uses");
    }

    #[tokio::test]
    async fn statements_that_name_a_held_table_wait() {
        let holds = Arc::new(Holds::default());
        assert!(holds.tables_of("SELECT 1 FROM orders").is_empty());
        let guard = holds.begin_table("orders");
        assert_eq!(holds.tables_of("SELECT 1 FROM public.ORDERS"), ["orders"]);
        assert!(holds.tables_of("SELECT 1 FROM t, orders_2025, reorders").is_empty());
        assert!(!holds.is_held(ShardGroupId(1)));
        assert!(!holds.wait_for_tables("SELECT 1 FROM orders", Duration::from_millis(10)).await);
        drop(guard);
        assert!(holds.wait_for_tables("SELECT 1 FROM orders", Duration::from_secs(60)).await);
        assert!(holds.tables_of("SELECT 1 FROM orders").is_empty());
    }

    #[tokio::test]
    async fn a_hold_of_a_table_is_drained_when_no_statement_under_way_names_it() {
        let holds = Arc::new(Holds::default());
        let extent = Extent { tables: vec!["orders".to_owned()], ..Extent::default() };
        let (one, _other) = (holds.enter_tables("COPY orders"), holds.enter_tables("SELECT 1"));
        let older = holds.begin_all(&extent);
        let drained = {
            let (holds, extent) = (holds.clone(), extent.clone());
            tokio::spawn(async move { holds.drained(&extent).await })
        };
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        drop(one);
        drained.await.unwrap();
        let newer = holds.begin_all(&extent);
        drop(older);
        assert_eq!(holds.tables_of("COPY orders"), ["orders"], "the end of an older hold does not end a newer one");
        drop(newer);
        assert_eq!(holds.held(), 0);
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
