//! What the whole process holds to one node: how many connections there may be, who waits for one, whether it is up.
//!
//! ```text
//!   Pool (thread 0) ──┐                     ┌─ places: open < limit, few logins at once
//!   Pool (thread 0) ──┼── queue, in order ──┤  full: the server refuses one more, for a moment nobody tries
//!   Pool (thread 1) ──┘                     └─ outage: one attempt at a time, with pauses; others wait, up to a limit
//! ```
//!
//! A `Place` is the right to one connection; dropped with it. Who finds none waits in one queue, whatever its pool and
//! thread. While somebody waits because the node is full, idle connections of other pools are closed for him
//! (`Node::is_pressed`), and used ones when they come back. The lock is taken when connections open or close, or when
//! somebody waits; a statement on a pooled connection takes none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use super::control::ControlLink;
use super::hosts::{Found, Hosts, Purpose};
use super::link::Link;
use super::login::ServerAddress;
use super::nodes::Nodes;
use super::place::{Place, Ticket};
use super::pool_settings::PoolSettings;
use super::pool_tally::PoolTally;
use super::queue::{Granted, Queues, Waiter, Wish};
use super::width::Width;
use crate::error::Result;
use crate::transport::timer;

mod outage;

/// One node, shared by all pools of the process.
pub struct Node {
    /// Of its primary, as the catalog has it: its name.
    pub address: ServerAddress,
    pub(super) purpose: Purpose,
    pub(super) hosts: Mutex<Hosts>,
    /// The catalog does not have it any more.
    pub(super) is_gone: AtomicBool,
    /// Of a standby, see `Nodes::note_replayed`.
    pub(super) as_of: Mutex<Option<Instant>>,
    nodes: Weak<Nodes>,
    settings: Arc<ArcSwap<PoolSettings>>,
    /// Of all nodes.
    paused: Arc<AtomicBool>,
    /// Length of the queue, to be read without the lock.
    waiting: AtomicUsize,
    is_pressed: AtomicBool,
    /// See `overseer.rs`.
    pub(super) is_overseen: AtomicBool,
    /// See `Nodes::take_news`.
    pub(super) has_news: AtomicBool,
    next: AtomicU64,
    state: Mutex<State>,
}

/// What the lock protects. Names of fields are those of `figures.rs`.
#[derive(Default)]
pub(super) struct State {
    pub share: Option<usize>,
    pub open: usize,
    pub logging_in: usize,
    pub queues: Queues,
    pub pools: HashMap<u64, PoolCount>,
    /// Connections that are logged in, by number.
    pub links: HashMap<u64, (u64, Arc<Link>)>,
    /// Those that no pool here knows of, by number too.
    pub control: HashMap<u64, ControlLink>,
    pub outage: Option<Outage>,
    full: Option<Full>,
    /// Settings or widths may have changed since every pool was looked at, or one was too wide then.
    pub may_be_too_wide: bool,
}

/// One pool of one thread.
pub(super) struct PoolCount {
    pub user: String,
    pub database: String,
    pub open: usize,
    pub width: Width,
    pub tally: Arc<PoolTally>,
    pub longest_wait: Duration,
    pub timeouts: u64,
}

impl PoolCount {
    /// Most connections to have open, for now.
    pub fn most(&self, settings: &PoolSettings) -> usize {
        match settings.has_widths() {
            true => self.width.most(settings.size),
            false => settings.size,
        }
    }
}

/// See `Node::next_of`.
pub(super) enum Next {
    /// Nobody needs it now.
    Keep,
    Hand(Waiter),
    /// Its place goes to another pool, or is one too many.
    Close,
}

/// The server had no connection left, although we may hold more: others have them, or one of ours is still on its way out.
struct Full {
    /// So many of ours it has.
    open: usize,
    until: Instant,
}

/// The node did not let us in.
pub(super) struct Outage {
    since: Instant,
    failures: u32,
    next_try: Instant,
    is_trying: bool,
    pub why: String,
}

impl Node {
    pub(super) fn new(nodes: &Arc<Nodes>, address: &ServerAddress, purpose: Purpose) -> Self {
        Self {
            address: address.clone(),
            purpose,
            hosts: Mutex::new(Hosts::only(address.clone())),
            is_gone: AtomicBool::new(false),
            as_of: Mutex::default(),
            nodes: Arc::downgrade(nodes),
            settings: nodes.settings().clone(),
            paused: nodes.paused.clone(),
            waiting: AtomicUsize::new(0),
            is_pressed: AtomicBool::new(false),
            is_overseen: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
            next: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// A number that nothing else here has.
    pub(super) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A pool's number here.
    pub(super) fn register(&self, user: &str, database: &str, tally: Arc<PoolTally>) -> u64 {
        let number = self.next_number();
        let count = PoolCount {
            user: user.to_owned(),
            database: database.to_owned(),
            open: 0,
            width: Width::default(),
            tally,
            longest_wait: Duration::ZERO,
            timeouts: 0,
        };
        self.lock().pools.insert(number, count);
        number
    }

    pub(super) fn settings(&self) -> &Arc<ArcSwap<PoolSettings>> {
        &self.settings
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Its servers, in the order in which they are to be asked.
    pub(super) fn hosts(&self) -> Vec<ServerAddress> {
        lock(&self.hosts).in_turn()
    }

    /// Where it is now, as far as is known.
    pub fn current_host(&self) -> ServerAddress {
        lock(&self.hosts).current().clone()
    }

    /// Is this server to be asked for its timeline before `found_primary`?
    pub fn is_doubtful(&self, host: &ServerAddress) -> bool {
        lock(&self.hosts).is_doubtful(host)
    }

    /// This server takes writes; `timeline`: its own, where that was asked. False: another one was promoted since, and nothing is to
    /// be written there. When it is another than before, what goes on at that one is given up.
    pub fn found_primary(&self, host: &ServerAddress, timeline: Option<i32>) -> bool {
        match lock(&self.hosts).found(host, timeline) {
            Found::Same => return true,
            Found::Earlier => return false,
            Found::Another => {}
        }
        tracing::warn!(node = %self.address, %host, timeline, "another server of the node takes writes now");
        self.give_up_all();
        if let Some(nodes) = self.nodes.upgrade() {
            nodes.promoted.notify_one();
        }
        true
    }

    /// It is the node's primary no more.
    pub(super) fn has_left(&self, host: &ServerAddress) -> bool {
        let hosts = lock(&self.hosts);
        hosts.is_replaced || hosts.current() != host
    }

    /// Whoever waits for one of its connections waits no longer, and nobody gets one that is open.
    pub(super) fn give_up_all(&self) {
        self.lock().give_up_all();
    }

    /// The catalog has given its server's place to another one. Sessions that are in the midst of something have a moment left: a commit
    /// that takes the server out of use may be on its way there.
    pub(super) fn replace(self: &Arc<Self>) {
        self.retire_all();
        if std::mem::replace(&mut lock(&self.hosts).is_replaced, true) {
            return;
        }
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            timer::sleep(LEAVE_WITHIN).await;
            if let Some(node) = node.upgrade().filter(|node| lock(&node.hosts).is_replaced) {
                node.give_up_all();
            }
        });
    }

    /// For how long at most a standby may lack what its primary has written; `None`: nobody knows.
    pub(super) fn lag(&self) -> Option<Duration> {
        lock(&self.as_of).map(|as_of| as_of.elapsed())
    }

    /// May a standby be read from, so far as that goes?
    pub(super) fn is_near(&self) -> bool {
        let most = self.settings.load().replica_lag;
        most.is_zero() || self.lag().is_some_and(|lag| lag <= most)
    }

    pub(super) fn limit(&self, state: &State) -> usize {
        if self.is_paused() {
            return 0;
        }
        if self.is_gone.load(Ordering::Acquire) {
            // For who still looks for it there.
            return 1;
        }
        match (self.settings.load().node_connections, state.share) {
            (0, Some(share)) => share,
            // Until its own limit is known: enough to begin with, few enough for any server.
            (0, None) => UNKNOWN_LIMIT,
            (limit, _) => limit,
        }
    }

    /// So many may be open now.
    fn room(&self, state: &State) -> usize {
        let limit = self.limit(state);
        state.fullness().map_or(limit, |full| limit.min(full.open))
    }

    /// Does somebody wait, on any thread?
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Is there more open than is to be, or does somebody wait although nothing more may be opened?
    pub(super) fn is_pressed(&self) -> bool {
        self.is_pressed.load(Ordering::Acquire)
    }

    /// Is an idle connection of this pool to be closed?
    pub(super) fn wants_back(&self, pool: u64) -> bool {
        let (state, settings) = (self.lock(), self.settings.load());
        state.is_over(self.room(&state), &settings) || state.is_too_wide(pool, &settings)
    }

    /// Joins the queue for a place; the receiver may have one at once. `turn`: the ticket of who has waited before.
    ///
    /// Errors: 08006 once the node has been down for too long.
    pub(super) fn wait(
        self: &Arc<Self>,
        pool: u64,
        turn: Option<u64>,
        wish: Option<Wish>,
    ) -> Result<(Ticket, oneshot::Receiver<Result<Granted>>)> {
        let (sender, receiver) = oneshot::channel();
        let ticket = turn.unwrap_or_else(|| self.next_number());
        let mut state = self.lock();
        if let Some(outage) = &state.outage
            && (outage.is_trying || Instant::now() < outage.next_try)
            && self.is_given_up(outage)
        {
            return Err(self.unreachable(&outage.why));
        }
        let since = Instant::now();
        state.queues.push(pool, Waiter { ticket, since, wish, sender });
        self.settle(state);
        if self.is_waited_for() && self.settings.load().has_widths() {
            self.oversee();
        }
        Ok((Ticket { node: self.clone(), pool, number: ticket, since, is_timeout: false }, receiver))
    }

    /// See `Nodes::take_news`.
    pub(super) fn note_news(&self) {
        self.has_news.store(true, Ordering::Release);
    }

    /// Idle connections are closed, used ones when they come back.
    pub(super) fn retire_all(&self) {
        self.lock().links.values().for_each(|(_, link)| link.retire());
    }

    /// Looks again whether more is open than may be: the settings may have changed.
    pub(super) fn review(self: &Arc<Self>) {
        let mut state = self.lock();
        state.may_be_too_wide = true;
        self.settle(state);
    }

    /// What becomes of the connection `number` of `pool`, which has become free `now`: one of its own pool's first waiters gets it,
    /// unless somebody of another pool, who needs it closed, has waited for long. A waiter that is chosen leaves the queue.
    pub(super) fn next_of(self: &Arc<Self>, pool: u64, number: u64, now: Instant) -> Next {
        let mut state = self.lock();
        let room = self.room(&state);
        if state.open > room || state.is_too_wide(pool, &self.settings.load()) {
            return Next::Close;
        }
        let is_full = state.open >= room;
        let stranger = state.queues.first(|other| is_full && other != pool).map(|(_, waiter)| waiter);
        match (state.queues.first_of(pool), stranger) {
            (None, None) => Next::Keep,
            (None, Some(_)) => Next::Close,
            (Some(own), Some(stranger)) if stranger.ticket < own.ticket && stranger.since.elapsed() > PATIENCE => {
                Next::Close
            }
            (Some(_), _) => {
                let open = state.pools.get(&pool).map_or(0, |pool| pool.open);
                let chosen = state.queues.take_for(pool, number, open, now);
                self.settle(state);
                chosen.map_or(Next::Keep, Next::Hand)
            }
        }
    }

    /// Gives places to those who may have one, first come first served; then says what the rest waits for.
    pub(super) fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let settings = self.settings.load();
        let room = self.room(&state);
        loop {
            let may_try = match &state.outage {
                None => state.logging_in < LOGINS_AT_ONCE,
                Some(outage) => !outage.is_trying && Instant::now() >= outage.next_try,
            };
            if state.open >= room || !may_try {
                break;
            }
            let Some(pool) = state.first_with_room(&settings) else { break };
            let Some(waiter) = state.queues.take_first_of(pool) else { break };
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let is_trial = state.outage.as_mut().map(|outage| outage.is_trying = true).is_some();
            let place = Place { node: Some(self.clone()), pool, number, is_logging_in: true, is_trial };
            state.open += 1;
            state.logging_in += 1;
            if let Some(pool) = state.pools.get_mut(&pool) {
                pool.open += 1;
            }
            if let Err(Ok(Granted::Place(mut unsent))) = waiter.sender.send(Ok(Granted::Place(place))) {
                // Taken back here: dropping it would take the lock.
                unsent.node = None;
                state.close(&unsent);
            }
        }
        self.waiting.store(state.queues.len(), Ordering::Release);
        // Nothing else makes a pool too wide, and there may be many.
        if state.may_be_too_wide {
            state.may_be_too_wide = state.pools.values().any(|pool| pool.open > pool.most(&settings));
        }
        let is_pressed = state.may_be_too_wide || state.is_over(room, &settings);
        self.is_pressed.store(is_pressed, Ordering::Release);
        drop(state);
        if is_pressed && let Some(nodes) = self.nodes.upgrade() {
            nodes.ring();
        }
    }

    /// Is no connection to be given out?
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }
}

impl State {
    fn give_up_all(&mut self) {
        self.links.values().for_each(|(_, link)| link.give_up());
        self.control.drain().for_each(|(_, control)| control.give_up());
    }

    /// Has the server refused a connection as one too many a moment ago?
    fn fullness(&self) -> Option<&Full> {
        self.full.as_ref().filter(|full| Instant::now() < full.until)
    }

    pub fn is_full(&self) -> bool {
        self.fullness().is_some()
    }

    /// The pool of the first who waits and whose pool may have one more connection.
    fn first_with_room(&self, settings: &PoolSettings) -> Option<u64> {
        let has_room = |pool| self.pools.get(&pool).is_none_or(|pool| pool.open < pool.most(settings));
        self.queues.first(has_room).map(|(pool, _)| pool)
    }

    /// Is more open than may be, or needed for somebody else?
    fn is_over(&self, room: usize, settings: &PoolSettings) -> bool {
        self.open > room || self.open >= room && self.first_with_room(settings).is_some()
    }

    /// Does it have more connections than are of use?
    fn is_too_wide(&self, pool: u64, settings: &PoolSettings) -> bool {
        self.pools.get(&pool).is_some_and(|pool| pool.open > pool.most(settings))
    }

    pub fn close(&mut self, place: &Place) {
        self.open -= 1;
        self.logging_in -= usize::from(place.is_logging_in);
        self.links.remove(&place.number);
        if let Some(pool) = self.pools.get_mut(&place.pool) {
            pool.open -= 1;
        }
        if place.is_trial
            && let Some(outage) = &mut self.outage
        {
            outage.is_trying = false;
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held; if something did, the counts are still the best there are.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Connections to a node before our share of it is known, for a moment after the start.
const UNKNOWN_LIMIT: usize = 8;
/// A node that has just come back is not met by everybody at once.
const LOGINS_AT_ONCE: usize = 8;
/// From this wait on a waiter of another pool goes before a connection's own pool: closing a connection for somebody
/// else costs more than handing it on, so it is not done for every statement.
const PATIENCE: Duration = Duration::from_millis(100);
/// What is under way at a server that was replaced has so long to end.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
