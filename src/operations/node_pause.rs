//! `citus_pause_node_within_txn`: nobody writes to a node until the transaction ends.
//!
//! ```text
//!   the node: LOCK TABLE shards, copies IN EXCLUSIVE MODE ── reads go on, writes of every proxy wait ── COMMIT, ROLLBACK
//!             └ force: who has kept it from its locks for the cooldown is sent away
//! ```
//!
//! The locks are on the node itself, so they hold against every proxy, and are gone when the node goes. The control role takes them
//! (`control_role.rs`): who may pause a node need not be able to write there.

use std::time::Duration;

use super::control_role::Lent;
use super::ddl::{keep_moves_out, places};
use crate::catalog::{Catalog, nodes, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardMap};
use crate::transport::timer;

/// `cooldown`: with `force`, for how long others may keep the node from its locks before their sessions there are ended.
///
/// A move under way that concerns the node's tables is waited for, and none begins. Errors: 42704 when there is no such worker.
pub async fn pause_node(
    txn: &mut Transaction,
    catalog: &Catalog,
    node_id: i32,
    force: bool,
    cooldown: Duration,
) -> Result<()> {
    // Nor does the node get another primary meanwhile, other than by `citus_update_node` in the same transaction.
    txn.query(NodeId::COORDINATOR, nodes::keep()).await?;
    let map = txn.reload_map().await?;
    let id = u32::try_from(node_id).map_or(NodeId::COORDINATOR, NodeId);
    if id.is_coordinator() || map.node(id).is_none() {
        return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("node {node_id} not found"))
            .detail("Only writes to a worker can be paused.")
            .hint("SELECT nodeid, nodename, nodeport FROM pg_dist_node; shows all nodes."));
    }
    let distributed = map.tables().filter(|table| !table.is_reference());
    keep_moves_out(txn, &distributed.map(|table| table.colocation).collect()).await?;
    let tables = tables_on(&txn.map(), id);
    if tables.is_empty() {
        return Ok(());
    }
    let lock = format!("LOCK TABLE {} IN EXCLUSIVE MODE", tables.join(", "));
    if !force {
        let lock = Lent::to(txn, catalog, id, &lock).await?;
        return txn.query(id, &lock.call()).await.map(|_| ());
    }
    lock_by_force(txn, catalog, id, &lock, cooldown).await
}

/// Runs `statements` on the node, as the control role; sessions there that are in their way for longer than the cooldown are ended.
///
/// Errors: the node's.
pub(super) async fn lock_by_force(
    txn: &mut Transaction,
    catalog: &Catalog,
    node: NodeId,
    statements: &str,
    cooldown: Duration,
) -> Result<()> {
    let lent = Lent::to(txn, catalog, node, statements).await?;
    let rows = txn.query(node, "SELECT pg_catalog.pg_backend_pid()").await?;
    let process = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or_default();
    let call = lent.call();
    let locked = txn.query(node, &call);
    tokio::select! {
        biased;
        locked = locked => locked.map(|_| ()),
        error = send_away(catalog, node, process, cooldown) => Err(error),
    }
}

/// All that is written on a node, always in the same order.
pub(super) fn tables_on(map: &ShardMap, node: NodeId) -> Vec<String> {
    let all = map.tables().flat_map(|table| places(map, table, &table.name));
    let mut tables: Vec<String> = all.filter(|(at, _)| *at == node).map(|(_, name)| name).collect();
    tables.sort();
    tables
}

/// From the end of the cooldown on, ends all sessions that the process waits for. Returns when it cannot.
async fn send_away(catalog: &Catalog, node: NodeId, process: i64, cooldown: Duration) -> PgError {
    timer::sleep(cooldown).await;
    loop {
        if let Err(error) = end_blockers(catalog, node, process).await {
            return error;
        }
        timer::sleep(LOOK_EVERY).await;
    }
}

async fn end_blockers(catalog: &Catalog, node: NodeId, process: i64) -> Result<()> {
    let client = catalog.client(node).await?;
    // A prepared transaction counts as process 0: it ends with its commit, which is on its way.
    let sql = "SELECT pg_catalog.pg_terminate_backend(blocker) \
               FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1::pg_catalog.int8::pg_catalog.int4)) blocker WHERE blocker <> 0";
    client.execute(sql, &[&process]).await.map(|_| ()).map_err(pg_error)
}

const LOOK_EVERY: Duration = Duration::from_millis(100);
