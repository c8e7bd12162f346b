//! Which statements one server connection has parsed. The same text and types of many clients are one entry.
//!
//! What was queued is taken for done; when an error makes the server skip it, it is taken back, last first.

use std::collections::VecDeque;

use bytes::BytesMut;
use foldhash::HashMap;

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

/// How servers may plan a statement that they keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plans {
    /// As they like: after some Binds perhaps with one plan for all values.
    Any,
    /// With the values of each Bind.
    WithValues,
}

/// Bounded: the statement that was not used for the longest time is closed when a new one would be too many.
#[derive(Debug)]
pub struct Prepared {
    known: HashMap<StatementKey, Known>,
    uses: u64,
    /// Parse and Close messages whose answers are due, in order.
    unconfirmed: VecDeque<Queued>,
    max: usize,
}

#[derive(Debug)]
struct Known {
    /// Under which the server knows it.
    name: Box<str>,
    /// When it was used last, counted in uses.
    used: u64,
    /// How often the server may have planned it with the values of a Bind; counted where that matters.
    plans: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queued {
    Parse(StatementKey),
    Close(StatementKey),
}

impl Prepared {
    pub fn new(max: usize) -> Self {
        Self { known: HashMap::default(), uses: 0, unconfirmed: VecDeque::new(), max: max.max(1) }
    }

    /// Does the server know it? Asking counts as use.
    pub fn is_known(&mut self, key: StatementKey) -> bool {
        self.uses += 1;
        let uses = self.uses;
        self.known.get_mut(&key).map(|known| known.used = uses).is_some()
    }

    /// The name under which the server knows it, or will; empty when it does not.
    pub fn name(&self, key: StatementKey) -> &str {
        self.known.get(&key).map_or("", |known| &known.name)
    }

    /// Before a Bind of `Plans::WithValues`: where the server has planned it so as often as it does before it may take to one plan for all
    /// values, the statement is closed, with a Close put into `queue`, to be parsed again. Returns whether it was.
    pub fn close_planned(&mut self, key: StatementKey, queue: &mut BytesMut) -> bool {
        let Some(known) = self.known.get_mut(&key) else { return false };
        known.plans += 1;
        let is_planned = known.plans > CUSTOM_PLANS;
        if is_planned {
            self.close(key, queue);
        }
        is_planned
    }

    /// Notes a statement whose Parse is on its way. Returns how many CloseComplete the caller has to swallow before its
    /// ParseComplete; their Close messages are put into `queue`. Portals of a statement that is closed live on.
    pub fn add(&mut self, key: StatementKey, queue: &mut BytesMut) -> usize {
        let mut closed = 0;
        while self.known.len() >= self.max {
            let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| *key) else {
                break;
            };
            self.close(oldest, queue);
            closed += 1;
        }
        self.uses += 1;
        self.know(key, self.uses, 1);
        self.unconfirmed.push_back(Queued::Parse(key));
        closed
    }

    fn close(&mut self, key: StatementKey, queue: &mut BytesMut) {
        self.known.remove(&key);
        frontend::close(Target::Statement(key.name().as_bytes()), queue);
        self.unconfirmed.push_back(Queued::Close(key));
    }

    /// The server has answered the oldest Parse or Close that was still unconfirmed.
    pub fn confirm(&mut self) {
        self.unconfirmed.pop_front();
    }

    /// An error made the server skip what is still unconfirmed.
    pub fn forget_unconfirmed(&mut self) {
        while let Some(skipped) = self.unconfirmed.pop_back() {
            match skipped {
                Queued::Parse(key) => drop(self.known.remove(&key)),
                Queued::Close(key) => self.know(key, 0, CUSTOM_PLANS),
            }
        }
    }

    fn know(&mut self, key: StatementKey, used: u64, plans: u32) {
        self.known.insert(key, Known { name: key.name().into(), used, plans });
    }

    pub fn clear(&mut self) {
        self.known.clear();
        self.unconfirmed.clear();
    }
}

/// So often a server plans a statement with the values at hand before it thinks of one plan for all values.
/// Source: PostgreSQL src/backend/utils/cache/plancache.c, choose_custom_plan().
const CUSTOM_PLANS: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(statement: u64) -> StatementKey {
        StatementKey { statement, group: 0 }
    }

    fn full(max: u64) -> Prepared {
        let mut prepared = Prepared::new(max as usize);
        for n in 0..max {
            assert_eq!(prepared.add(key(n), &mut BytesMut::new()), 0);
            prepared.confirm();
        }
        prepared
    }

    #[test]
    fn the_statement_unused_for_longest_makes_room() {
        let mut prepared = full(3);
        assert!(prepared.is_known(key(0)));
        let mut queue = BytesMut::new();
        assert_eq!(prepared.add(key(9), &mut queue), 1);
        assert!(prepared.is_known(key(0)) && !prepared.is_known(key(1)) && prepared.is_known(key(9)));
        assert_eq!(queue[0], b'C');
    }

    #[test]
    fn what_an_error_skipped_is_taken_back_exactly() {
        let mut prepared = full(2);
        prepared.add(key(2), &mut BytesMut::new());
        prepared.add(key(3), &mut BytesMut::new());
        prepared.add(key(2), &mut BytesMut::new());
        // Close 0 and Parse 2 were answered; Close 1, Parse 3, Close 2, Parse 2 were skipped.
        prepared.confirm();
        prepared.confirm();
        prepared.forget_unconfirmed();
        let known: Vec<_> = (0..4).filter(|n| prepared.is_known(key(*n))).collect();
        assert_eq!(known, [1, 2]);
        let mut prepared = full(2);
        prepared.add(key(2), &mut BytesMut::new());
        prepared.forget_unconfirmed();
        assert!(prepared.is_known(key(0)) && prepared.is_known(key(1)) && !prepared.is_known(key(2)));
    }

    #[test]
    fn after_five_plans_with_values_it_is_parsed_again() {
        let mut prepared = Prepared::new(2);
        let mut queue = BytesMut::new();
        for _ in 0..2 {
            assert!(!prepared.close_planned(key(1), &mut queue), "not known");
            prepared.add(key(1), &mut queue);
            prepared.confirm();
            for _ in 1..5 {
                assert!(!prepared.close_planned(key(1), &mut queue));
            }
            assert!(queue.is_empty());
            assert!(prepared.close_planned(key(1), &mut queue));
            assert!(!prepared.is_known(key(1)));
            assert_eq!(queue.split()[0], b'C');
            prepared.confirm();
        }
        // A Close that was skipped has closed nothing: the next Bind tries again.
        prepared.add(key(1), &mut queue);
        prepared.confirm();
        assert!((1..5).all(|_| !prepared.close_planned(key(1), &mut queue)));
        assert!(prepared.close_planned(key(1), &mut queue));
        prepared.forget_unconfirmed();
        assert!(prepared.is_known(key(1)) && prepared.close_planned(key(1), &mut queue));
    }
}
