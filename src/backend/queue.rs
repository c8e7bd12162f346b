//! Who waits for a connection to one node: a queue for each pool, in the order of arrival over all.
//!
//! With many more clients than connections every statement waits, so nothing here takes longer because many wait: only
//! the first few of each pool are looked at. A connection goes to the first of them who is at home there (homes.rs), but nobody is
//! overtaken for more than a few rounds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use tokio::sync::oneshot;

use super::homes::Subject;
use super::place::Place;
use crate::error::Result;

/// What a wait ends with.
pub(super) enum Granted {
    /// For a connection of its own.
    Place(Place),
    /// One of its pool lies ready for it.
    Connection,
}

/// One session that waits.
pub(super) struct Waiter {
    /// Later ones have higher tickets.
    pub ticket: u64,
    pub since: Instant,
    pub wish: Option<Wish>,
    pub sender: oneshot::Sender<Result<Granted>>,
}

/// What somebody waits for a connection for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub subject: Subject,
    /// The connection where it is at home.
    pub home: u64,
}

/// All that wait, by the number of their pool. Queues that are empty are not kept.
#[derive(Default)]
pub(super) struct Queues {
    of: HashMap<u64, Queue>,
    len: usize,
}

/// Those of one pool.
#[derive(Default)]
struct Queue {
    waiters: VecDeque<Queued>,
    /// How many have left it.
    left: u64,
}

struct Queued {
    waiter: Waiter,
    /// How many will have left it before, first come first served.
    due: u64,
}

impl Queues {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Behind those with lower tickets: who comes back with one takes its turn.
    pub fn push(&mut self, pool: u64, waiter: Waiter) {
        let Queue { waiters, left } = self.of.entry(pool).or_default();
        let at = waiters.partition_point(|other| other.waiter.ticket < waiter.ticket);
        waiters.insert(at, Queued { waiter, due: *left + at as u64 });
        self.len += 1;
    }

    /// The first of one pool.
    pub fn first_of(&self, pool: u64) -> Option<&Waiter> {
        self.of.get(&pool)?.first()
    }

    /// The first of all whose pool is such a one, and its pool.
    pub fn first(&self, is_such: impl Fn(u64) -> bool) -> Option<(u64, &Waiter)> {
        let firsts = self.of.iter().filter_map(|(&pool, queue)| Some((pool, queue.first()?)));
        firsts.filter(|&(pool, _)| is_such(pool)).min_by_key(|(_, waiter)| waiter.ticket)
    }

    /// Takes out the first of one pool.
    pub fn take_first_of(&mut self, pool: u64) -> Option<Waiter> {
        self.take(pool, 0)
    }

    /// Takes out who gets the connection `home` of one pool, which has `open` of them: who is at home there, if one of the first is; the
    /// first of all where that one has been passed over for long.
    pub fn take_for(&mut self, pool: u64, home: u64, open: usize, now: Instant) -> Option<Waiter> {
        let Queue { waiters, left } = self.of.get(&pool)?;
        let first = waiters.front()?;
        let is_overdue = *left > first.due + (ROUNDS_MAX * open) as u64
            || now.saturating_duration_since(first.waiter.since) > PASSED_OVER_MAX;
        let is_at_home = |queued: &Queued| queued.waiter.wish.is_some_and(|wish| wish.home == home);
        let at = match is_overdue {
            true => None,
            false => waiters.iter().take(LOOKED_AT).position(is_at_home),
        };
        self.take(pool, at.unwrap_or(0))
    }

    /// Takes out who has this ticket of that pool, if it still waits.
    pub fn remove(&mut self, pool: u64, ticket: u64) -> Option<Waiter> {
        let at = self.of.get(&pool)?.waiters.binary_search_by_key(&ticket, |queued| queued.waiter.ticket).ok()?;
        self.take(pool, at)
    }

    fn take(&mut self, pool: u64, at: usize) -> Option<Waiter> {
        let queue = self.of.get_mut(&pool)?;
        let queued = queue.waiters.remove(at)?;
        queue.left += 1;
        self.len -= 1;
        if queue.waiters.is_empty() {
            self.of.remove(&pool);
        }
        Some(queued.waiter)
    }

    /// Everybody, with the number of the pool.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.of.iter().flat_map(|(&pool, queue)| queue.waiters.iter().map(move |queued| (pool, &queued.waiter)))
    }

    /// Takes out everybody.
    pub fn drain(&mut self) -> impl Iterator<Item = Waiter> {
        std::mem::take(self).of.into_values().flat_map(|queue| queue.waiters).map(|queued| queued.waiter)
    }
}

impl Queue {
    fn first(&self) -> Option<&Waiter> {
        self.waiters.front().map(|queued| &queued.waiter)
    }
}

/// So many of those who came first are looked at.
const LOOKED_AT: usize = 64;
/// For so many rounds of the pool's connections somebody may be passed over: nearly always his home is among them.
const ROUNDS_MAX: usize = 4;
/// And not for longer than that: where statements take long, nobody gains by it.
const PASSED_OVER_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(arrivals: &[(u64, u64)]) -> Queues {
        let mut queues = Queues::default();
        for &(pool, ticket) in arrivals {
            queues.push(pool, waiter(ticket, None));
        }
        queues
    }

    fn waiter(ticket: u64, home: Option<u64>) -> Waiter {
        let wish = home.map(|home| Wish { subject: 0, home });
        Waiter { ticket, since: Instant::now(), wish, sender: oneshot::channel().0 }
    }

    fn tickets(queues: &mut Queues, is_such: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut all = Vec::new();
        while let Some((pool, _)) = queues.first(&is_such) {
            all.extend(queues.take_first_of(pool).map(|waiter| waiter.ticket));
        }
        all
    }

    #[test]
    fn who_came_first_is_first_over_all_pools_that_may_have_one() {
        let arrivals = [(7, 1), (8, 2), (7, 3), (9, 4), (8, 5)];
        assert_eq!(tickets(&mut queues(&arrivals), |_| true), [1, 2, 3, 4, 5]);
        let mut queues = queues(&arrivals);
        assert_eq!(tickets(&mut queues, |pool| pool != 7), [2, 4, 5]);
        assert_eq!((queues.len(), queues.first_of(7).map(|waiter| waiter.ticket)), (2, Some(1)));
    }

    #[test]
    fn who_comes_back_takes_its_turn() {
        let arrivals = [(7, 2), (7, 4), (8, 3), (7, 1), (7, 3)];
        assert_eq!(tickets(&mut queues(&arrivals), |pool| pool == 7), [1, 2, 3, 4]);
    }

    #[test]
    fn a_connection_goes_to_who_is_at_home_there() {
        let mut queues = Queues::default();
        for (ticket, home) in [(1, Some(10)), (2, None), (3, Some(11)), (4, Some(10)), (5, Some(11))] {
            queues.push(7, waiter(ticket, home));
        }
        let mut next_for =
            |home, after| queues.take_for(7, home, 2, Instant::now() + after).map(|waiter| waiter.ticket);
        assert_eq!(next_for(11, Duration::ZERO), Some(3));
        assert_eq!(next_for(12, Duration::ZERO), Some(1), "nobody is at home there");
        assert_eq!(next_for(10, Duration::ZERO), Some(4));
        assert_eq!(next_for(11, PASSED_OVER_MAX * 2), Some(2), "it has waited for long");
        assert_eq!(next_for(10, Duration::ZERO), Some(5));
        assert_eq!(next_for(10, Duration::ZERO), None);
    }

    #[test]
    fn nobody_is_passed_over_for_more_than_some_rounds() {
        let mut queues = Queues::default();
        queues.push(7, waiter(0, Some(1)));
        let open = 3;
        let others = (1..1000).map(|ticket| {
            queues.push(7, waiter(ticket, Some(2)));
            queues.take_for(7, 2, open, Instant::now()).expect("two wait").ticket
        });
        let passed_over = others.take_while(|ticket| *ticket != 0).count();
        assert_eq!(passed_over, ROUNDS_MAX * open + 1);
    }

    #[test]
    fn who_leaves_is_not_waited_on() {
        let mut queues = queues(&[(7, 1), (7, 2), (7, 5), (8, 6)]);
        assert!(queues.remove(7, 2).is_some() && queues.remove(7, 2).is_none() && queues.remove(8, 5).is_none());
        assert!(queues.remove(8, 6).is_some());
        assert_eq!((queues.len(), queues.iter().count()), (2, 2));
        assert_eq!(queues.drain().count(), 2);
        assert_eq!((queues.len(), tickets(&mut queues, |_| true)), (0, vec![]));
    }
}
