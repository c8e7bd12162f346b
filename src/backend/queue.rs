//! Who waits for a connection to one node: a queue for each pool, in the order of arrival over all.
//!
//! With many more clients than connections every statement waits, so nothing here takes longer because many wait: only
//! the first of each pool is looked at.

use std::collections::VecDeque;
use std::time::Instant;

use foldhash::HashMap;
use tokio::sync::oneshot;

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
    pub sender: oneshot::Sender<Result<Granted>>,
}

/// All that wait, by the number of their pool. Queues that are empty are not kept.
#[derive(Default)]
pub(super) struct Queues {
    of: HashMap<u64, VecDeque<Waiter>>,
    len: usize,
}

impl Queues {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Behind those with lower tickets: who comes back with one takes its turn.
    pub fn push(&mut self, pool: u64, waiter: Waiter) {
        let queue = self.of.entry(pool).or_default();
        queue.insert(queue.partition_point(|other| other.ticket < waiter.ticket), waiter);
        self.len += 1;
    }

    /// The first of one pool.
    pub fn first_of(&self, pool: u64) -> Option<&Waiter> {
        self.of.get(&pool)?.front()
    }

    /// The first of all whose pool is such a one, and its pool.
    pub fn first(&self, is_such: impl Fn(u64) -> bool) -> Option<(u64, &Waiter)> {
        let firsts = self.of.iter().filter_map(|(&pool, queue)| Some((pool, queue.front()?)));
        firsts.filter(|&(pool, _)| is_such(pool)).min_by_key(|(_, waiter)| waiter.ticket)
    }

    /// Takes out the first of one pool.
    pub fn take_first_of(&mut self, pool: u64) -> Option<Waiter> {
        self.take(pool, 0)
    }

    /// Takes out who has this ticket of that pool, if it still waits.
    pub fn remove(&mut self, pool: u64, ticket: u64) -> Option<Waiter> {
        let at = self.of.get(&pool)?.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()?;
        self.take(pool, at)
    }

    fn take(&mut self, pool: u64, at: usize) -> Option<Waiter> {
        let queue = self.of.get_mut(&pool)?;
        let waiter = queue.remove(at)?;
        self.len -= 1;
        if queue.is_empty() {
            self.of.remove(&pool);
        }
        Some(waiter)
    }

    /// Everybody, with the number of the pool.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.of.iter().flat_map(|(&pool, queue)| queue.iter().map(move |waiter| (pool, waiter)))
    }

    /// Takes out everybody.
    pub fn drain(&mut self) -> impl Iterator<Item = Waiter> {
        std::mem::take(self).of.into_values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(arrivals: &[(u64, u64)]) -> Queues {
        let mut queues = Queues::default();
        for &(pool, ticket) in arrivals {
            queues.push(pool, Waiter { ticket, since: Instant::now(), sender: oneshot::channel().0 });
        }
        queues
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
    fn who_leaves_is_not_waited_on() {
        let mut queues = queues(&[(7, 1), (7, 2), (7, 5), (8, 6)]);
        assert!(queues.remove(7, 2).is_some() && queues.remove(7, 2).is_none() && queues.remove(8, 5).is_none());
        assert!(queues.remove(8, 6).is_some());
        assert_eq!((queues.len(), queues.iter().count()), (2, 2));
        assert_eq!(queues.drain().count(), 2);
        assert_eq!((queues.len(), tickets(&mut queues, |_| true)), (0, vec![]));
    }
}
