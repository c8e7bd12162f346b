//! Which statements one server connection has parsed. The same text and types of many clients are one entry.

use std::collections::{HashSet, VecDeque};

use bytes::BytesMut;

use crate::wire::frontend::{self, Target};

/// A statement as this process knows it: interned text and types, and the shard group it was spliced for (0: none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatementKey {
    pub statement: u64,
    pub group: u64,
}

impl StatementKey {
    /// The name under which servers know it.
    pub fn name(self) -> String {
        format!("tenantry_{}_{}", self.statement, self.group)
    }
}

/// Bounded: the oldest statement is closed when a new one would be too many.
#[derive(Debug, Default)]
pub struct Prepared {
    known: HashSet<StatementKey>,
    order: VecDeque<StatementKey>,
    unconfirmed: VecDeque<StatementKey>,
    evictions_due: usize,
}

impl Prepared {
    pub fn contains(&self, key: StatementKey) -> bool {
        self.known.contains(&key)
    }

    /// Notes a statement whose Parse is on its way. Returns how many CloseComplete the caller has to swallow
    /// before its ParseComplete; their Close messages are put into `queue`.
    pub fn add(&mut self, key: StatementKey, queue: &mut BytesMut) -> usize {
        let mut closed = 0;
        while self.order.len() >= MAX_PREPARED {
            let Some(oldest) = self.order.pop_front() else { break };
            if self.known.remove(&oldest) {
                frontend::close(Target::Statement(oldest.name().as_bytes()), queue);
                closed += 1;
                self.evictions_due += 1;
            }
        }
        if self.known.insert(key) {
            self.order.push_back(key);
            self.unconfirmed.push_back(key);
        }
        closed
    }

    /// The server has parsed the oldest statement that was still unconfirmed.
    pub fn confirm(&mut self) {
        self.unconfirmed.pop_front();
    }

    pub fn confirm_eviction(&mut self) {
        self.evictions_due = self.evictions_due.saturating_sub(1);
    }

    /// An error made the server skip the Parse messages that are still unconfirmed.
    pub fn forget_unconfirmed(&mut self) {
        for key in std::mem::take(&mut self.unconfirmed) {
            self.known.remove(&key);
            self.order.retain(|k| *k != key);
        }
    }

    /// Was a Close skipped, so that the server may know a statement that we do not?
    pub fn is_uncertain(&self) -> bool {
        self.evictions_due > 0
    }

    /// Forgets a statement; the caller closes it on the server.
    pub fn remove(&mut self, key: StatementKey) -> bool {
        self.order.retain(|k| *k != key);
        self.known.remove(&key)
    }

    pub fn clear(&mut self) {
        self.known.clear();
        self.order.clear();
        self.unconfirmed.clear();
    }
}

const MAX_PREPARED: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_statement_makes_room() {
        let mut prepared = Prepared::default();
        let key = |statement| StatementKey { statement, group: 0 };
        let mut queue = BytesMut::new();
        for n in 0..MAX_PREPARED as u64 {
            assert_eq!(prepared.add(key(n), &mut queue), 0);
        }
        assert_eq!(prepared.add(key(9_999), &mut queue), 1);
        assert!(!prepared.contains(key(0)) && prepared.contains(key(1)) && prepared.contains(key(9_999)));
        assert_eq!(queue[0], b'C');
    }
}
