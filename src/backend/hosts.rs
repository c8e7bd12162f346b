//! The servers of one node, a primary and its standbys: which of them takes writes?
//!
//! The catalog names the primary first. Who took writes last is asked first; a server in recovery takes none
//! (`in_hot_standby`, which it reports at login), so after a failover the next login finds the standby that was promoted.
//!
//! ```text
//!   old primary   timeline 1 ─────────────────────  wakes up, takes writes: on an earlier timeline, never chosen
//!   standby       timeline 1 ──promoted──> timeline 2 ──>
//! ```
//!
//! Every promotion begins a new timeline, so of two servers that both take writes the one on the newer timeline was promoted
//! last. A server that took no writes before is asked for its own, and taken when it is newer than what is known.

use std::time::Duration;

use super::login::{Identity, ServerAccess, ServerAddress};
use super::node::Node;
use super::pool::is_outage;
use super::server::Server;
use crate::error::{PgError, Result, SqlState};
use crate::transport::timer;

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
    /// The timeline of `current`, when it is known.
    timeline: Option<i32>,
    /// The catalog has given the server's place to another one: it is asked no more.
    pub is_replaced: bool,
}

/// What becomes of a server that takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is the node's primary, as before.
    Same,
    /// It was promoted, and is the primary from now on.
    Another,
    /// Another server was promoted since.
    Earlier,
}

/// Servers of one node, as the catalog or the configuration names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHosts {
    /// By which the node is known.
    pub primary: ServerAddress,
    pub standbys: Vec<ServerAddress>,
    /// The primary's, as far as that was noted.
    pub timeline: Option<i32>,
}

impl Hosts {
    pub fn only(primary: ServerAddress) -> Self {
        Self { all: vec![primary], current: 0, is_known: false, timeline: None, is_replaced: false }
    }

    pub fn current(&self) -> &ServerAddress {
        &self.all[self.current]
    }

    /// In the order in which they are asked.
    pub fn in_turn(&self) -> Vec<ServerAddress> {
        if self.is_replaced {
            return Vec::new();
        }
        let others = self.all.iter().enumerate().filter(|(at, _)| *at != self.current).map(|(_, host)| host);
        std::iter::once(self.current()).chain(others).cloned().collect()
    }

    pub fn standbys(&self) -> &[ServerAddress] {
        &self.all[1..]
    }

    /// The standbys are these now, and the primary's timeline is this one. True when another server is the primary than before:
    /// what was found out here is older than what the catalog knows.
    pub fn set(&mut self, standbys: &[ServerAddress], timeline: Option<i32>) -> bool {
        let current = self.current().clone();
        self.is_replaced = false;
        self.all.truncate(1);
        self.all.extend_from_slice(standbys);
        self.current = self.all.iter().position(|host| *host == current).unwrap_or(0);
        if timeline.is_some() && timeline >= self.timeline {
            (self.current, self.timeline) = (0, timeline);
        }
        *self.current() != current
    }

    /// Is this server to be asked for its timeline before it is believed?
    pub fn is_doubtful(&self, host: &ServerAddress) -> bool {
        self.all.len() > 1 && (self.timeline.is_none() || host != self.current())
    }

    /// This one takes writes, on that timeline if it was asked.
    pub fn found(&mut self, host: &ServerAddress, timeline: Option<i32>) -> Found {
        let Some(at) = self.all.iter().position(|known| known == host && !self.is_replaced) else {
            return Found::Earlier;
        };
        if at == self.current {
            self.timeline = self.timeline.max(timeline);
            self.is_known = true;
            return Found::Same;
        }
        if timeline <= self.timeline {
            return Found::Earlier;
        }
        (self.current, self.timeline, self.is_known) = (at, timeline, true);
        Found::Another
    }

    /// Who took writes last, if anybody has been found.
    pub fn primary(&self) -> Option<&ServerAddress> {
        self.is_known.then(|| self.current())
    }

    /// The standby that takes writes in place of the primary that the catalog names, and its timeline.
    pub fn promoted(&self) -> Option<(&ServerAddress, i32)> {
        Some((self.current(), self.timeline?)).filter(|_| self.current != 0)
    }
}

/// A connection to the node's primary; each of its servers gets `deadline` to let us in.
///
/// Errors: 08006 when none of them does; what the first says that is not down.
pub(super) async fn connect_to_primary(
    access: &ServerAccess,
    node: &Node,
    identity: &Identity,
    deadline: Duration,
) -> Result<(Server, ServerAddress)> {
    let mut why = None;
    for host in &node.hosts() {
        match Server::connect(access, host, identity, deadline).await {
            Ok(server) if server.is_standby() => drop(why.get_or_insert_with(|| takes_no_writes(host))),
            Ok(mut server) => {
                let timeline = match node.is_doubtful(host) {
                    true => timer::timeout(deadline, timeline_of(&mut server)).await.unwrap_or_default(),
                    false => None,
                };
                if node.found_primary(host, timeline) {
                    return Ok((server, host.clone()));
                }
                why.get_or_insert_with(|| was_replaced(host));
            }
            // Of several reasons the first server's.
            Err(error) if is_outage(&error) => drop(why.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    Err(why.unwrap_or_else(|| was_replaced(&node.address)))
}

/// `None`: it does not say, or is in recovery.
async fn timeline_of(server: &mut Server) -> Option<i32> {
    let rows = server.query(&format!("SELECT {WRITTEN_TIMELINE}")).await.ok()?;
    rows.first()?.first()?.as_ref()?.parse().ok()
}

/// An expression: the timeline that a primary writes, which its control file has only after the next checkpoint. Anybody may ask.
pub const WRITTEN_TIMELINE: &str = "('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::pg_catalog.int4";

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

fn was_replaced(host: &ServerAddress) -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, format!("another server was promoted in the place of {host}"))
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

    fn three() -> Hosts {
        let mut hosts = Hosts::only(host(1));
        hosts.set(&[host(2), host(3)], None);
        hosts
    }

    #[test]
    fn who_took_writes_last_is_asked_first() {
        let mut hosts = three();
        assert_eq!(hosts.in_turn(), [host(1), host(2), host(3)]);
        assert_eq!(hosts.primary(), None);
        assert_eq!(hosts.found(&host(3), Some(2)), Found::Another);
        assert_eq!(hosts.found(&host(3), None), Found::Same);
        assert_eq!(hosts.in_turn(), [host(3), host(1), host(2)]);
        assert_eq!((hosts.promoted(), hosts.primary()), (Some((&host(3), 2)), Some(&host(3))));
    }

    #[test]
    fn it_is_remembered_when_the_standbys_change_and_it_is_still_one() {
        let mut hosts = three();
        hosts.found(&host(3), Some(2));
        assert!(!hosts.set(&[host(3)], Some(1)), "the catalog has not heard of it yet");
        assert_eq!(hosts.current(), &host(3));
        assert!(hosts.set(&[host(2)], Some(1)));
        assert_eq!(hosts.current(), &host(1));
        assert_eq!(hosts.found(&host(9), Some(9)), Found::Earlier, "a stranger is not");
    }

    #[test]
    fn who_was_replaced_is_not_taken_again() {
        let mut hosts = three();
        assert!(hosts.is_doubtful(&host(1)), "its timeline is not known");
        assert_eq!(hosts.found(&host(1), Some(1)), Found::Same);
        assert!(!hosts.is_doubtful(&host(1)) && hosts.is_doubtful(&host(2)));
        assert_eq!(hosts.found(&host(2), Some(1)), Found::Earlier, "it was never promoted");
        assert_eq!(hosts.found(&host(2), Some(2)), Found::Another);
        assert_eq!(hosts.found(&host(1), Some(1)), Found::Earlier);
        assert_eq!(hosts.found(&host(3), Some(2)), Found::Earlier, "nor is another one promoted beside it");
        assert_eq!(hosts.found(&host(3), None), Found::Earlier, "nor who does not say");
        assert_eq!(hosts.found(&host(1), Some(3)), Found::Another, "it was a standby, and promoted");
        // The catalog has followed others of whom nothing was heard here.
        assert!(!hosts.set(&[host(2), host(3)], Some(4)));
        assert_eq!(hosts.found(&host(2), Some(5)), Found::Another);
        assert!(hosts.set(&[host(2), host(3)], Some(6)));
        assert_eq!((hosts.current(), hosts.promoted()), (&host(1), None));
        hosts.is_replaced = true;
        assert_eq!(hosts.in_turn(), []);
        assert_eq!(hosts.found(&host(1), Some(9)), Found::Earlier);
    }
}
