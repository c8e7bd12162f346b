//! The fence of `citus_update_node(..., force => true)`: the old server, which is alive, is taken out of use with the change.
//!
//! ```text
//!   old server: LOCK shards, copies of reference tables ── RENAME ── PREPARE ──────────── COMMIT PREPARED
//!   catalog:                          the node's address ─────────────────── COMMIT
//! ```
//!
//! The old server takes part in the client's transaction, so both happen or neither does (`executor/two_phase.rs`). Whoever writes there
//! meanwhile waits; afterwards he finds no shard, reads the map again and goes to the new server. Transactions that keep the fence from
//! its locks have their sessions there ended after a cooldown: what they have not committed nobody was told to be done.

use std::time::Duration;

use super::node_check::{Facts, STARTED_AT};
use super::node_pause::{lock_by_force, tables_on};
use super::nodes::refuse_while_moving;
use crate::catalog::quote::{identifier, qualified, shard_schema};
use crate::catalog::{Address, Catalog, nodes};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};

/// From the end of the transaction on, shards and copies of reference tables have other names on the node's server of `map`, `old`, whose
/// facts are `known`. The catalog has the new address already.
///
/// Errors: 55000 while a move uses the node, 55P03 when the locks are not to be had, 42501 for a role that may not rename what is there.
pub(super) async fn fence(
    txn: &mut Transaction,
    catalog: &Catalog,
    map: &ShardMap,
    (node, old, known): (NodeId, &Address, &Facts),
    cooldown: Duration,
) -> Result<()> {
    refuse_while_moving(txn, "update", node, old, false).await?;
    let started = txn.query(node, STARTED_AT).await?;
    if !started.first().and_then(|row| row.first()?.as_deref()).is_some_and(|at| known.are_of_server_started_at(at)) {
        let why = format!("the old server {}:{} was started again, or another one answers there", old.host, old.port);
        return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, why).hint("Call citus_update_node again."));
    }
    // A standby that was its own and is promoted confirms nothing any more. Afterwards nobody else uses the connection.
    txn.query(node, "SET synchronous_commit TO local").await?;
    let patience = (cooldown + PREPARED_END_WITHIN).as_millis();
    let limit = format!(
        "SELECT pg_catalog.set_config('lock_timeout', '{patience}', true) \
         WHERE pg_catalog.current_setting('lock_timeout') = '0'"
    );
    txn.query(node, &limit).await?;
    let tables = tables_on(map, node);
    if !tables.is_empty() {
        let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
        lock_by_force(txn, catalog, node, &lock, cooldown).await.map_err(with_hint)?;
    }
    let renames = renames(map, node);
    if !renames.is_empty() {
        txn.query(node, &renames.join("; ")).await.map_err(with_hint)?;
    }
    txn.query(NodeId::COORDINATOR, &nodes::note_fenced(node, &old.host, old.port)).await?;
    txn.notice(
        PgError::new(SqlState::SUCCESSFUL_COMPLETION, format!("the old server {}:{} was taken out of use", old.host, old.port))
            .detail("Its shards and copies of reference tables have other names there (tenantry_fenced_...). What was written there and had not reached the new server by then is there only.")
            .hint("Stop it, or make it a standby of the new one."),
    );
    Ok(())
}

/// The schemas of the shards that are on a node, each with its shard group; at every call in the same order.
pub(super) fn schemas_on(map: &ShardMap, node: NodeId) -> Vec<(ShardGroupId, String)> {
    let mut all = Vec::new();
    for colocation in map.colocations() {
        let mut schemas: Vec<_> = map.tables_of(colocation.id).iter().map(|t| t.schema.clone()).collect();
        schemas.sort();
        schemas.dedup();
        for group in colocation.shard_groups.iter().filter(|group| group.node == node) {
            all.extend(schemas.iter().map(|schema| (group.id, shard_schema(schema, group.id))));
        }
    }
    all
}

/// Names that no proxy asks for, and no user's object has.
fn renames(map: &ShardMap, node: NodeId) -> Vec<String> {
    let schemas = schemas_on(map, node).into_iter().enumerate().map(|(number, (group, schema))| {
        format!("ALTER SCHEMA {} RENAME TO tenantry_fenced_{group}_{number}", identifier(&schema))
    });
    let copies = map.tables().filter(|table| table.is_reference()).enumerate().map(|(number, table)| {
        format!("ALTER TABLE {} RENAME TO tenantry_fenced_{number}", qualified(&table.schema, &table.name))
    });
    schemas.chain(copies).collect()
}

fn with_hint(error: PgError) -> PgError {
    match error.code() {
        SqlState::LOCK_NOT_AVAILABLE => error.hint(
            "See pg_locks and pg_prepared_xacts on the old server, or stop it: then nothing has to be locked there.",
        ),
        SqlState::INSUFFICIENT_PRIVILEGE => {
            error.hint("Call citus_update_node as a superuser, or stop the old server first.")
        }
        _ => error,
    }
}

/// After the cooldown only prepared transactions can be in the way, which their owners end, or the recovery does.
const PREPARED_END_WITHIN: Duration = Duration::from_secs(30);
