//! Which of a node's servers is its primary, when two of them take writes: the one that was promoted last.
//!
//! ```text
//!   a standby of the catalog's takes writes ─┬─ on a newer timeline: it was promoted ──> the catalog follows
//!                                            │        the catalog cannot be reached ──> this proxy follows, and tells it later
//!                                            └─ else another was promoted since ──> it is told of, and taken out of use
//! ```
//!
//! A proxy that was frozen or cut off during a failover may go on with an old primary that lives: no message reaches it before
//! its clients' statements do. So the shards on that server get other names as soon as it can be reached, by whichever proxy can.
//! `replicas.rs` looks after every standby once a second anyway, and calls this when one is in recovery no more.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio_postgres::Client;

use super::primaries::{change, note_failover};
use crate::backend::{Nodes, ServerAddress, WRITTEN_TIMELINE};
use crate::catalog::{Address, Catalog, connect, is_away, nodes, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::operations::take_out_of_use;
use crate::shard_map::{NodeId, Standby};
use crate::tally::Recurring;

/// The primary's timeline is this one: it is noted where that is new, unless a standby of its was found in its place.
pub async fn note_timeline(catalog: &Catalog, pools: &Arc<Nodes>, node: NodeId, timeline: i32) {
    let map = catalog.map();
    let Some(row) = map.node(node).filter(|row| row.timeline < Some(timeline)) else { return };
    let primary = ServerAddress { host: row.host.clone(), port: row.port };
    if pools.primary_of(&primary).is_some_and(|now| now == primary)
        && let Err(error) = change(catalog, &nodes::note_timeline(&row.host, row.port, timeline)).await
    {
        tracing::debug!(%error, %primary, "could not note a timeline down");
    }
}

/// A server that the catalog calls a standby.
pub struct Rival<'a> {
    node: NodeId,
    host: &'a ServerAddress,
    /// It takes writes although another server was promoted.
    is_told: bool,
    trouble: Recurring,
}

impl<'a> Rival<'a> {
    pub fn new(node: NodeId, host: &'a ServerAddress) -> Self {
        Self { node, host, is_told: false, trouble: Recurring::default() }
    }

    /// All is as it should be.
    pub fn is_standby(&mut self) {
        if std::mem::take(&mut self.is_told) {
            tracing::info!(host = %self.host, "an earlier primary is a standby now");
            replaced_primaries_writable().decrement(1.0);
        }
    }

    /// It takes writes. Gives the session back when it can be used again.
    pub async fn look(&mut self, catalog: &Catalog, pools: &Nodes, session: Client) -> Option<Client> {
        match patiently(PATIENCE, self.settle(catalog, pools, &session)).await {
            Ok(()) => self.trouble.works(UNSETTLED),
            // Whoever changes nodes has locked them; it is tried again.
            Err(error) if error.code() == SqlState::LOCK_NOT_AVAILABLE => {
                tracing::debug!(%error, host = %self.host, "waits for who changes nodes");
            }
            Err(error) => {
                self.trouble.failed(&error, UNSETTLED);
                return None;
            }
        }
        Some(session)
    }

    async fn settle(&mut self, catalog: &Catalog, pools: &Nodes, session: &Client) -> Result<()> {
        let map = catalog.map();
        let Some(row) = map.node(self.node) else { return Ok(()) };
        let is_it = |standby: &Standby| (&standby.host, standby.port) == (&self.host.host, self.host.port);
        let Some(noted) = row.timeline.filter(|_| row.standbys.iter().any(is_it)) else { return Ok(()) };
        let (timeline, system) = ask(session).await?;
        let Some(timeline) = timeline else { return Ok(()) };
        if timeline > noted {
            let primary = ServerAddress { host: row.host.clone(), port: row.port };
            let told = patiently(TOLD_WITHIN, note_failover(catalog, &primary, self.host, timeline)).await;
            // Until it can be told, what is written to the old primary would be lost.
            if told.as_ref().is_err_and(is_away)
                && let Some(node) = pools.known(&primary)
            {
                node.found_primary(self.host, Some(timeline));
            }
            return told;
        }
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::error!(
                host = %self.host, primary = %format!("{}:{}", row.host, row.port), timeline, noted,
                "a server that was replaced as primary takes writes as well, stop it or make it a standby"
            );
            replaced_primaries_writable().increment(1.0);
        }
        // Only while the primary is known to be the newer one now, and a copy of the same server.
        let Ok(primary) = connect(catalog.settings(), &Address { host: row.host.clone(), port: row.port }).await else {
            return Ok(());
        };
        let (of_primary, same) = ask(&primary).await?;
        if of_primary.is_none_or(|of_primary| of_primary < noted) || system != same {
            return Ok(());
        }
        take_out_of_use(catalog, session, self.node, &Address { host: self.host.host.clone(), port: self.host.port })
            .await
    }
}

impl Drop for Rival<'_> {
    fn drop(&mut self) {
        if self.is_told {
            replaced_primaries_writable().decrement(1.0);
        }
    }
}

/// How many earlier primaries take writes, all in all.
pub fn replaced_primaries_writable() -> Gauge {
    gauge!("tenantry_replaced_primaries_writable")
}

/// A server's timeline, none when it is in recovery, and what it shares with its copies.
async fn ask(session: &Client) -> Result<(Option<i32>, i64)> {
    let sql = format!(
        "SELECT CASE WHEN NOT pg_is_in_recovery() THEN {WRITTEN_TIMELINE} END, system_identifier FROM pg_control_system()"
    );
    let row = session.query_one(&sql, &[]).await.map_err(pg_error)?;
    Ok((row.try_get(0).map_err(pg_error)?, row.try_get(1).map_err(pg_error)?))
}

/// Errors: 08006 when it takes longer than that.
async fn patiently<T>(longest: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let slow = || PgError::new(SqlState::CONNECTION_FAILURE, format!("it took longer than {} s", longest.as_secs()));
    tokio::time::timeout(longest, work).await.unwrap_or_else(|_| Err(slow()))
}

const UNSETTLED: &str = "could not settle which of two servers that take writes is the primary";
const PATIENCE: Duration = Duration::from_secs(10);
/// The catalog of a failover; longer than locks there are waited for.
const TOLD_WITHIN: Duration = Duration::from_secs(6);
