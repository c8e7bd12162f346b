//! The fence of `citus_update_node(..., force => true)`: the old server, which is alive, is taken out of use with the change.
//!
//! ```text
//!   old server: LOCK shards, copies of reference tables ── RENAME ── PREPARE ──────────── COMMIT PREPARED
//!   catalog:                          the node's address ─────────────────── COMMIT
//! ```
//!
//! The old server takes part in the client's transaction, so both happen or neither does (`executor/two_phase.rs`). Whoever writes there
//! meanwhile waits; afterwards he finds no shard, reads the map again and goes to the new server. Transactions that keep the fence from
//! its locks have their sessions there ended after a cooldown: what they have not committed nobody was told to be done. The control role
//! locks and renames (`control_role.rs`), whoever calls.
//!
//! A primary whose standby was promoted by somebody else gets the same names without further ado (`take_out_of_use`): there is no
//! client's transaction that it could be part of, and what is under way there is lost already.

use std::time::Duration;

use tokio_postgres::Client;

use super::node_check::{Facts, STARTED_AT};
use super::node_pause::{lock_by_force, tables_on};
use super::nodes::refuse_while_moving;
use crate::catalog::quote::{identifier, qualified, shard_schema};
use crate::catalog::{Address, Catalog, nodes, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap, Table};

/// From the end of the transaction on, shards and copies of reference tables have other names on the node's server of `map`, `old`, whose
/// facts are `known`. The catalog has the new address already.
///
/// Errors: 55000 while a move uses the node, 55P03 when the locks are not to be had.
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
    let lock = (!tables.is_empty()).then(|| format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", ")));
    let statements: Vec<_> = lock.into_iter().chain(renames(map, node)).collect();
    if !statements.is_empty() {
        lock_by_force(txn, catalog, node, &statements.join("; "), cooldown).await.map_err(with_hint)?;
    }
    txn.query(NodeId::COORDINATOR, &nodes::note_fenced(node, &old.host, old.port)).await?;
    txn.notice(
        PgError::new(SqlState::SUCCESSFUL_COMPLETION, format!("the old server {}:{} was taken out of use", old.host, old.port))
            .detail("Its shards and copies of reference tables have other names there (tenantry_fenced_...). What was written there and had not reached the new server by then is there only.")
            .hint("Stop it, or make it a standby of the new one."),
    );
    Ok(())
}

/// The server at `address`, which was the node's primary, takes writes although its standby was promoted: shards and copies of reference
/// tables get other names there, if they have not, and sessions there end.
///
/// `session`: the control user's. Errors: what the server or the catalog says. What was done by then stays, and another call does the rest.
pub async fn take_out_of_use(catalog: &Catalog, session: &Client, node: NodeId, address: &Address) -> Result<()> {
    let map = catalog.map();
    let (all, copies) = (all_schemas(&map), copies(&map));
    let wanted = all.iter().map(|(_, schema)| schema.clone()).collect();
    let schemas = names_there(session, SCHEMAS_THERE, wanted).await?;
    let tables = names_there(session, TABLES_THERE, copies.iter().map(|(_, name)| name.clone()).collect()).await?;
    if schemas.is_empty() && tables.is_empty() {
        return Ok(());
    }
    // What commits over several nodes have prepared there ends as it ended elsewhere: it would keep locks.
    catalog
        .client(NodeId::COORDINATOR)
        .await?
        .batch_execute(&nodes::note_fenced(node, &address.host, address.port))
        .await
        .map_err(pg_error)?;
    let change = async |statements: Vec<String>| {
        let sql = format!("BEGIN READ WRITE; {FOR_THE_FENCE}; {}; COMMIT", statements.join("; "));
        let changed = session.batch_execute(&sql).await.map_err(pg_error);
        if changed.is_err() {
            session.batch_execute("ROLLBACK").await.map_err(pg_error)?;
        }
        changed
    };
    if !schemas.is_empty() {
        let numbered = all.iter().enumerate().filter(|(_, (_, schema))| schemas.contains(schema));
        let rename =
            |(number, (group, schema)): (usize, &(ShardGroupId, String))| rename_schema(schema, *group, number);
        change(numbered.map(rename).collect()).await?;
        tracing::warn!(host = %address.host, port = address.port, "an earlier primary was taken out of use");
    }
    // Who has found a shard before that has not committed yet, or has its answer by now.
    session.batch_execute(END_SESSIONS).await.map_err(pg_error)?;
    if tables.is_empty() {
        return Ok(());
    }
    let numbered = copies.iter().enumerate().filter(|(_, (_, name))| tables.contains(name));
    change(numbered.map(|(number, (table, _))| rename_copy(table, number)).collect()).await
}

/// Those of `names` that the server has.
async fn names_there(session: &Client, sql: &str, names: Vec<String>) -> Result<Vec<String>> {
    let rows = session.query(sql, &[&names]).await.map_err(pg_error)?;
    rows.iter().map(|row| row.try_get(0).map_err(pg_error)).collect()
}

/// Of all shards, wherever they are now: a proxy that has not heard of a failover may not have heard of a move either.
fn all_schemas(map: &ShardMap) -> Vec<(ShardGroupId, String)> {
    map.nodes().iter().flat_map(|node| schemas_on(map, node.id)).collect()
}

fn rename_schema(schema: &str, group: ShardGroupId, number: usize) -> String {
    format!("ALTER SCHEMA {} RENAME TO tenantry_fenced_{group}_{number}", identifier(schema))
}

/// `table`: as statements name it.
fn rename_copy(table: &str, number: usize) -> String {
    format!("ALTER TABLE {table} RENAME TO tenantry_fenced_{number}")
}

/// Copies of reference tables, as statements name them and as `TABLES_THERE` does; at every call in the same order.
fn copies(map: &ShardMap) -> Vec<(String, String)> {
    let name = |table: &Table| (qualified(&table.schema, &table.name), format!("{}.{}", table.schema, table.name));
    map.tables().filter(|table| table.is_reference()).map(|table| name(table)).collect()
}

const SCHEMAS_THERE: &str = "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY ($1::text[]) ORDER BY 1";
const TABLES_THERE: &str = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname || '.' || c.relname = ANY ($1::text[]) ORDER BY 1";
/// A server whose standby is gone confirms nothing any more.
const FOR_THE_FENCE: &str = "SET LOCAL synchronous_commit TO local; SET LOCAL lock_timeout TO '2s'";
/// Of clients. The control user's are those of other proxies, which see the same.
const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
     AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'tenantry control'";

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
    let schemas = schemas_on(map, node).into_iter().enumerate();
    let schemas = schemas.map(|(number, (group, schema))| rename_schema(&schema, group, number));
    let copies = copies(map).into_iter().enumerate().map(|(number, (table, _))| rename_copy(&table, number));
    schemas.chain(copies).collect()
}

fn with_hint(error: PgError) -> PgError {
    if error.code() != SqlState::LOCK_NOT_AVAILABLE {
        return error;
    }
    error.hint("See pg_locks and pg_prepared_xacts on the old server, or stop it: then nothing has to be locked there.")
}

/// After the cooldown only prepared transactions can be in the way, which their owners end, or the recovery does.
const PREPARED_END_WITHIN: Duration = Duration::from_secs(30);
