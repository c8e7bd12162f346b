//! Where the statements of a pool are at home: on the connection whose server process has their tables and plans in its caches.
//!
//! A process that serves thirty shards in turn finds little of them there. One that serves a few does the same statement in two thirds of
//! the time (docs/performance-log.md), keeps fewer plans, and has fewer statements to be prepared on it. So of those who wait for a connection,
//! one that comes back goes to who is at home there, if he need not be looked for long (queue.rs).

use std::cell::RefCell;
use std::rc::Rc;

use foldhash::HashMap;

/// What a statement is about: those with the same number use the same tables.
pub type Subject = u64;

/// Those of one pool.
#[derive(Debug, Default)]
pub(super) struct Homes {
    of: HashMap<Subject, u64>,
    /// Open connections, by number: how many subjects each is the home of.
    connections: HashMap<u64, usize>,
}

impl Homes {
    /// The connection where a subject is at home; one that has no home gets it where the fewest are. None: nothing is open.
    pub fn of(&mut self, subject: Subject) -> Option<u64> {
        if let Some(home) = self.of.get(&subject).filter(|home| self.connections.contains_key(home)) {
            return Some(*home);
        }
        if self.of.len() >= SUBJECTS_MAX {
            self.of.clear();
            self.connections.values_mut().for_each(|count| *count = 0);
        }
        let (&home, count) = self.connections.iter_mut().min_by_key(|(number, count)| (**count, **number))?;
        *count += 1;
        self.of.insert(subject, home);
        Some(home)
    }

    /// Another connection had nobody of its own to serve, and has served this subject: it stays there if that has fewer than its home.
    pub fn was_served_by(&mut self, connection: u64, subject: Subject) {
        let Some(home) = self.of.get(&subject) else { return };
        let (own, others) = (self.connections.get(&connection).copied(), self.connections.get(home).copied());
        if let (Some(own), Some(others)) = (own, others)
            && own + 1 < others
        {
            self.connections.insert(*home, others - 1);
            self.connections.insert(connection, own + 1);
            self.of.insert(subject, connection);
        }
    }
}

/// An open connection, as long as it is.
pub(super) struct House {
    pub number: u64,
    homes: Rc<RefCell<Homes>>,
}

impl House {
    pub fn new(number: u64, homes: Rc<RefCell<Homes>>) -> Self {
        homes.borrow_mut().connections.insert(number, 0);
        Self { number, homes }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.homes.borrow_mut().connections.remove(&self.number);
    }
}

/// More are forgotten, all of them: some have moved away long ago.
const SUBJECTS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_spread_evenly_and_stay_where_they_are() {
        let homes = Rc::new(RefCell::new(Homes::default()));
        assert_eq!(homes.borrow_mut().of(1), None);
        let houses = [7, 8].map(|number| House::new(number, homes.clone()));
        let all = |homes: &Rc<RefCell<Homes>>| [1, 2, 3, 4].map(|subject| homes.borrow_mut().of(subject).unwrap());
        assert_eq!(all(&homes), [7, 8, 7, 8]);
        assert_eq!(all(&homes), [7, 8, 7, 8]);
        // A connection that is new takes some over, until it has as many as others less one.
        let third = House::new(9, homes.clone());
        for subject in [1, 3, 2, 4] {
            homes.borrow_mut().was_served_by(9, subject);
        }
        assert_eq!(all(&homes), [9, 8, 7, 8]);
        // Those of one that is closed go where the fewest are.
        drop(houses);
        assert_eq!(all(&homes), [9; 4]);
        drop(third);
        assert_eq!(homes.borrow_mut().of(1), None);
        homes.borrow_mut().was_served_by(9, 1);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let homes = Rc::new(RefCell::new(Homes::default()));
        let _house = House::new(1, homes.clone());
        for subject in 0..3 * SUBJECTS_MAX as u64 {
            assert_eq!(homes.borrow_mut().of(subject), Some(1));
        }
        let homes = homes.borrow();
        assert!(homes.of.len() <= SUBJECTS_MAX && homes.connections[&1] == homes.of.len());
    }
}
