//! While somebody waits for a connection to a node, or a pool of it is wide: looks every few milliseconds how wide they should be.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::node::{Node, State};
use super::width::Seen;
use crate::transport::timer;

/// What the look before has seen.
struct Overseer {
    node: Arc<Node>,
    at: Instant,
    /// How often each connection that was in use had been given out, and had answered.
    uses: HashMap<u64, (u32, u32)>,
    /// Answers of each pool, and waits for its connections.
    counts: HashMap<u64, (u64, u64)>,
}

impl Node {
    /// Somebody has begun to wait: from now on somebody looks, until there has been no reason to for a while.
    pub(super) fn oversee(self: &Arc<Self>) {
        if self.is_overseen.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut overseer = Overseer::new(self.clone());
        tokio::spawn(async move {
            let mut calm = Duration::ZERO;
            while calm < CALM || !overseer.may_go() {
                timer::sleep(EVERY).await;
                let (elapsed, is_needed) = overseer.look();
                calm = if is_needed { Duration::ZERO } else { calm + elapsed };
            }
        });
    }
}

impl Overseer {
    fn new(node: Arc<Node>) -> Self {
        Self { node, at: Instant::now(), uses: HashMap::new(), counts: HashMap::new() }
    }

    /// How much time has passed since the look before, and whether there is something to look after.
    fn look(&mut self) -> (Duration, bool) {
        let elapsed = self.at.elapsed();
        self.at += elapsed;
        let settings = self.node.settings().load();
        let mut state = self.node.lock();
        let mut long: HashMap<u64, usize> = HashMap::new();
        let mut uses = HashMap::with_capacity(self.uses.len());
        for (&number, (pool, link)) in &state.links {
            let Some(count) = link.uses() else { continue };
            let so_far = (count, link.answers());
            if self.uses.get(&number) == Some(&so_far) {
                *long.entry(*pool).or_default() += 1;
            }
            uses.insert(number, so_far);
        }
        self.uses = uses;
        let State { pools, queues, .. } = &mut *state;
        let mut is_needed = queues.len() > 0;
        for (number, pool) in pools {
            let now = (pool.tally.answers.read().count(), pool.tally.waits.read().count());
            let before = self.counts.insert(*number, now).unwrap_or(now);
            let has_waited = queues.first_of(*number).is_some() || now.1 > before.1;
            let seen = Seen {
                elapsed,
                answers: now.0 - before.0,
                long: long.get(number).copied().unwrap_or_default(),
                is_short: has_waited && pool.open >= pool.most(&settings),
            };
            pool.width.look(&seen, settings.size);
            is_needed |= pool.width.is_wider(pool.open);
        }
        state.may_be_too_wide = true;
        self.node.settle(state);
        (elapsed, is_needed && settings.has_widths())
    }

    /// Who comes from now on calls another; nobody has come meanwhile.
    fn may_go(&self) -> bool {
        let state = self.node.lock();
        let nobody_waits = state.queues.len() == 0;
        self.node.is_overseen.store(!nobody_waits, Ordering::Release);
        nobody_waits
    }
}

/// A connection that has been with one session from one look to the next, and has answered nothing, is kept for long.
const EVERY: Duration = Duration::from_millis(20);
const CALM: Duration = Duration::from_millis(500);
