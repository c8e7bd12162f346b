//! Who has not logged in yet, by address: one that opens connections and says nothing must not take all there are. And
//! whether operators let anybody in.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;

use crate::error::{PgError, Result, SqlState};

#[derive(Default)]
pub struct Door {
    strangers: Arc<DashMap<IpAddr, usize>>,
    is_closed: AtomicBool,
}

/// One connection before its login, until dropped.
pub struct Stranger {
    strangers: Arc<DashMap<IpAddr, usize>>,
    address: IpAddr,
}

impl Door {
    /// Nobody new comes into the served database until it is opened again; who is in stays.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    pub fn open(&self) {
        self.is_closed.store(false, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Connections that have not logged in.
    pub fn strangers(&self) -> usize {
        self.strangers.iter().map(|waiting| *waiting).sum()
    }

    /// Counts a connection that has not logged in. Errors: 53300 when `most` of its address have not.
    pub fn knock(&self, address: IpAddr, most: usize) -> Result<Stranger> {
        let mut waiting = self.strangers.entry(address).or_default();
        if *waiting >= most {
            return Err(PgError::fatal(SqlState::TOO_MANY_CONNECTIONS, "too many connections that have not logged in")
                .detail(format!("{most} of this address are waited for.")));
        }
        *waiting += 1;
        Ok(Stranger { strangers: self.strangers.clone(), address })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.remove_if_mut(&self.address, |_, waiting| {
            *waiting = waiting.saturating_sub(1);
            *waiting == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_places_of_its_own() {
        let door = Door::default();
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let waiting: Vec<_> = (0..3).map(|_| door.knock(one, 3).unwrap()).collect();
        assert_eq!(door.knock(one, 3).err().map(|error| error.code()), Some(SqlState::TOO_MANY_CONNECTIONS));
        assert!(door.knock(two, 3).is_ok());
        drop(waiting);
        assert!(door.knock(one, 3).is_ok());
        assert!(door.strangers.is_empty(), "nothing is kept of who has gone");
    }
}
