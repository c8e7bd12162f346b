//! The servers of one node, a primary and its standbys: which of them takes writes?
//!
//! The catalog names the primary first. Who took writes last is asked first; a server in recovery takes none
//! (`in_hot_standby`, which it reports at login), so after a failover the next login finds the standby that was promoted.
//! Two servers that both take writes are not told apart: whoever promotes a standby must have stopped the old primary.

use std::time::Duration;

use super::login::{Identity, ServerAccess, ServerAddress};
use super::pool::is_outage;
use super::server::Server;
use crate::error::{PgError, Result, SqlState};

/// What connections are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Everything: at the node's primary, wherever that is.
    Writes,
    /// Reads that may be stale: at this standby.
    Reads,
}

/// Never empty.
#[derive(Debug)]
pub(super) struct Hosts {
    all: Vec<ServerAddress>,
    /// Where the one stands that took writes last; at first, that is to be asked first.
    current: usize,
    /// One was found that takes writes.
    is_known: bool,
}

impl Hosts {
    pub fn only(primary: ServerAddress) -> Self {
        Self { all: vec![primary], current: 0, is_known: false }
    }

    pub fn current(&self) -> &ServerAddress {
        &self.all[self.current]
    }

    /// In the order in which they are asked.
    pub fn in_turn(&self) -> Vec<ServerAddress> {
        let others = self.all.iter().enumerate().filter(|(at, _)| *at != self.current).map(|(_, host)| host);
        std::iter::once(self.current()).chain(others).cloned().collect()
    }

    pub fn standbys(&self) -> &[ServerAddress] {
        &self.all[1..]
    }

    /// The standbys are these now.
    pub fn set_standbys(&mut self, standbys: &[ServerAddress]) {
        if self.all[1..] == *standbys {
            return;
        }
        let current = self.current().clone();
        self.all.truncate(1);
        self.all.extend_from_slice(standbys);
        self.current = self.all.iter().position(|host| *host == current).unwrap_or(0);
    }

    /// This one takes writes. True when it is another than before.
    pub fn found(&mut self, host: &ServerAddress) -> bool {
        match self.all.iter().position(|known| known == host) {
            Some(at) => {
                self.is_known = true;
                std::mem::replace(&mut self.current, at) != at
            }
            None => false,
        }
    }

    /// Who took writes last, if anybody has been found.
    pub fn primary(&self) -> Option<&ServerAddress> {
        self.is_known.then(|| self.current())
    }

    /// The standby that takes writes in place of the primary that the catalog names.
    pub fn promoted(&self) -> Option<&ServerAddress> {
        (self.current != 0).then(|| self.current())
    }
}

/// A connection to the one of `hosts` that takes writes; each gets `deadline` to let us in.
///
/// Errors: 08006 when none of them does; what the first says that is not down.
pub(super) async fn connect_to_primary(
    access: &ServerAccess,
    hosts: &[ServerAddress],
    identity: &Identity,
    deadline: Duration,
) -> Result<(Server, ServerAddress)> {
    let mut why = None;
    for host in hosts {
        match Server::connect(access, host, identity, deadline).await {
            Ok(server) if server.is_standby() => drop(why.get_or_insert_with(|| takes_no_writes(host))),
            Ok(server) => return Ok((server, host.clone())),
            // Of several reasons the first server's.
            Err(error) if is_outage(&error) => drop(why.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    Err(why.unwrap_or_else(|| PgError::new(SqlState::INTERNAL_ERROR, "a node without a host")))
}

/// A connection to `host`, which must be in recovery: an old primary that came back is no copy of the node.
///
/// Errors: 08006 when it is not; what the server says.
pub(super) async fn connect_to_standby(
    access: &ServerAccess,
    host: &ServerAddress,
    identity: &Identity,
    deadline: Duration,
) -> Result<Server> {
    let server = Server::connect(access, host, identity, deadline).await?;
    if server.is_standby() {
        return Ok(server);
    }
    let why = format!("server at {host} is not in hot standby mode");
    Err(PgError::new(SqlState::CONNECTION_FAILURE, why))
}

/// Source of the words: libpq, `target_session_attrs`.
pub(super) fn takes_no_writes(host: &ServerAddress) -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, format!("server at {host} is in hot standby mode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(port: u16) -> ServerAddress {
        ServerAddress { host: "h".into(), port }
    }

    #[test]
    fn who_took_writes_last_is_asked_first() {
        let mut hosts = Hosts::only(host(1));
        hosts.set_standbys(&[host(2), host(3)]);
        assert_eq!(hosts.in_turn(), [host(1), host(2), host(3)]);
        assert_eq!(hosts.primary(), None);
        assert!(hosts.found(&host(3)) && !hosts.found(&host(3)));
        assert_eq!(hosts.in_turn(), [host(3), host(1), host(2)]);
        assert_eq!((hosts.promoted(), hosts.primary()), (Some(&host(3)), Some(&host(3))));
    }

    #[test]
    fn it_is_remembered_when_the_standbys_change_and_it_is_still_one() {
        let mut hosts = Hosts::only(host(1));
        hosts.set_standbys(&[host(2), host(3)]);
        hosts.found(&host(3));
        hosts.set_standbys(&[host(3)]);
        assert_eq!(hosts.current(), &host(3));
        hosts.set_standbys(&[host(2)]);
        assert_eq!(hosts.current(), &host(1));
        assert!(!hosts.found(&host(9)), "a stranger is not");
    }
}
