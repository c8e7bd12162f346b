//! Measures how far standbys are behind their primaries, for `pool.replica_lag` and the metric.
//!
//! ```text
//!   primary:  12:00:01 wrote up to 100     12:00:02 up to 100     12:00:03 up to 170
//!   standby:  has replayed up to 120  ──> it has all that was written at 12:00:02
//! ```
//!
//! Positions in the WAL are compared, not clocks, so a primary at rest makes no standby look old. The moment is that before
//! the primary was asked: the standby has at least what was committed by then. When one of both stays silent the moment
//! stands still, and so the standby gets older with each second that nothing is known of it. One that takes writes itself is
//! for `rivals.rs`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::rivals;
use crate::backend::{Nodes, ServerAddress, WRITTEN_TIMELINE};
use crate::catalog::{Address, Catalog, connect, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{Node, NodeId};

/// Until `stop`. Each standby is looked after by itself: one that is silent keeps nobody from being read.
pub async fn watch(catalog: Arc<Catalog>, nodes: Arc<Nodes>, stop: CancellationToken) {
    rivals::replaced_primaries_writable().set(0.0);
    let mut versions = catalog.versions();
    let mut watched: HashMap<(NodeId, ServerAddress), AbortOnDropHandle<()>> = HashMap::new();
    loop {
        versions.borrow_and_update();
        let map = catalog.map();
        let of_node = |node: &Node| {
            let id = node.id;
            let standbys = node.standbys.iter().map(|s| ServerAddress { host: s.host.clone(), port: s.port });
            standbys.map(move |standby| (id, standby)).collect::<Vec<_>>()
        };
        let all: Vec<_> = map.nodes().iter().flat_map(of_node).collect();
        watched.retain(|known, _| all.contains(known));
        for (node, standby) in all {
            let (catalog, nodes) = (catalog.clone(), nodes.clone());
            watched.entry((node, standby.clone())).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(async move { follow(&catalog, &nodes, node, &standby).await }))
            });
        }
        match stop.run_until_cancelled(versions.changed()).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
}

/// Never ends.
async fn follow(catalog: &Catalog, nodes: &Arc<Nodes>, node: NodeId, standby: &ServerAddress) {
    let (mut history, mut session) = (History::default(), None);
    let mut rival = rivals::Rival::new(node, standby);
    loop {
        let asked = Instant::now();
        match timeout(PATIENCE, written(catalog, node)).await.unwrap_or_else(|_| Err(silent())) {
            Ok(position) => {
                history.note(asked, position);
                rivals::note_timeline(catalog, nodes, node, position.timeline).await;
            }
            Err(error) => tracing::debug!(%node, %error, "could not ask a primary how far it is"),
        }
        let answer = timeout(PATIENCE, replayed(catalog, standby, session.take())).await;
        match answer.unwrap_or_else(|_| Err(silent())) {
            Ok((open, Some(position))) => {
                session = Some(open);
                rival.is_standby();
                // Where it has nothing of what was seen, what was known before stays, and gets older.
                if let Some(as_of) = history.as_of(position) {
                    nodes.note_replayed(standby, as_of);
                }
            }
            Ok((open, None)) => session = rival.look(catalog, nodes, open).await,
            Err(error) => tracing::debug!(%standby, %error, "could not ask a standby how far it is"),
        }
        // Often enough for a small bound to be of use.
        let most = nodes.settings().load().replica_lag;
        tokio::time::sleep(if most.is_zero() { EVERY } else { (most / 4).clamp(EVERY_AT_LEAST, EVERY) }).await;
    }
}

/// How far a primary has written.
async fn written(catalog: &Catalog, node: NodeId) -> Result<Position> {
    let client = catalog.client(node).await?;
    let sql = format!("SELECT {WRITTEN_TIMELINE}, (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8");
    let row = client.query_one(&sql, &[]).await.map_err(pg_error)?;
    Ok(Position { timeline: row.try_get(0).map_err(pg_error)?, byte: row.try_get(1).map_err(pg_error)? })
}

/// How far a standby has replayed; none when it is in recovery no more. With the session that it was asked in.
async fn replayed(
    catalog: &Catalog,
    standby: &ServerAddress,
    session: Option<Client>,
) -> Result<(Client, Option<Position>)> {
    let session = match session.filter(|session| !session.is_closed()) {
        Some(session) => session,
        None => {
            let address = Address { host: standby.host.clone(), port: standby.port };
            connect(catalog.settings(), &address).await?
        }
    };
    let Some(row) = session.query_opt(REPLAYED, &[]).await.map_err(pg_error)? else { return Ok((session, None)) };
    let position = Position { timeline: row.try_get(0).map_err(pg_error)?, byte: row.try_get(1).map_err(pg_error)? };
    Ok((session, Some(position)))
}

fn silent() -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, format!("no answer within {} s", PATIENCE.as_secs()))
}

/// A place in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    timeline: i32,
    byte: i64,
}

/// What a primary had written, and when; the newest last.
#[derive(Debug, Default)]
struct History(VecDeque<(Instant, Position)>);

impl History {
    fn note(&mut self, at: Instant, position: Position) {
        match self.0.back_mut() {
            Some((last, same)) if *same == position => *last = at,
            _ => self.0.push_back((at, position)),
        }
        if self.0.len() > KEPT_MAX {
            // The older half is kept half as closely: what is long ago need not be known to the second.
            let (mut number, half) = (0, KEPT_MAX / 2);
            self.0.retain(|_| {
                number += 1;
                number > half || number % 2 == 0
            });
        }
    }

    /// A moment whose writes a standby that has replayed so much has all.
    fn as_of(&self, replayed: Position) -> Option<Instant> {
        let has = |(_, written): &&(Instant, Position)| {
            written.timeline == replayed.timeline && written.byte <= replayed.byte
        };
        self.0.iter().rev().find(has).map(|(at, _)| *at)
    }
}

const REPLAYED: &str = "
SELECT coalesce((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),
        (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())),
    (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8
WHERE pg_catalog.pg_is_in_recovery() AND pg_catalog.pg_last_wal_replay_lsn() IS NOT NULL";
const EVERY: Duration = Duration::from_secs(1);
const EVERY_AT_LEAST: Duration = Duration::from_millis(100);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
const KEPT_MAX: usize = 1200;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(byte: i64) -> Position {
        Position { timeline: 1, byte }
    }

    #[test]
    fn a_standby_is_as_old_as_the_last_moment_whose_writes_it_has() {
        let (mut written, start) = (History::default(), Instant::now());
        let second = |s: u64| start + Duration::from_secs(s);
        for (s, byte) in [(1, 100), (2, 100), (3, 170)] {
            written.note(second(s), at(byte));
        }
        assert_eq!(written.as_of(at(99)), None, "it has nothing of what was seen");
        assert_eq!(written.as_of(at(120)), Some(second(2)));
        assert_eq!(written.as_of(at(170)), Some(second(3)));
        // At rest: the same position is newer with each look.
        written.note(second(60), at(170));
        assert_eq!(written.as_of(at(170)), Some(second(60)));
        // After a failover the new primary may be behind what the old one wrote last.
        let next = |byte| Position { timeline: 2, byte };
        written.note(second(61), next(150));
        assert_eq!(written.as_of(at(170)), Some(second(60)), "who follows the old one stands still");
        assert_eq!(written.as_of(next(150)), Some(second(61)));
    }

    #[test]
    fn what_is_long_ago_is_remembered_less_closely() {
        let (mut written, start) = (History::default(), Instant::now());
        for s in 0..10_000 {
            written.note(start + Duration::from_secs(s), at(s as i64));
        }
        assert!(written.0.len() <= KEPT_MAX);
        let behind = |byte: i64| written.as_of(at(byte)).map(|at| at.duration_since(start).as_secs());
        assert_eq!(behind(9_990), Some(9_990));
        assert!(behind(9_000).is_some_and(|as_of| (8_900..=9_000).contains(&as_of)), "{:?}", behind(9_000));
    }
}
