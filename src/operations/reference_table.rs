//! Makes a local table a reference table: all its rows on every worker, under its own schema and name.
//!
//! The coordinator's table stays what it was: it is the coordinator's copy.

use super::create_distributed_table::{
    copy_all, has_rows, lock_and_read, next_ids, number, refuse_distributed, rows_of,
};
use super::missing_types;
use super::table_checks::{self, Intent};
use crate::catalog::quote::{identifier, literal, qualified};
use crate::catalog::{shards, tables};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::executor::reference::REFERENCE_WRITE;
use crate::shard_map::{ColocationId, NodeId, ShardId, TableOid};

/// `SELECT create_reference_table(...)`.
pub async fn create_reference_table(txn: &mut Transaction, oid: TableOid) -> Result<()> {
    let family = lock_and_read(txn, oid).await?;
    let definition = family.root();
    let map = txn.map();
    refuse_distributed(&map, definition)?;
    table_checks::check_new(definition, &map, Intent::Reference)?;
    if map.active_workers().next().is_none() {
        return Err(PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "no worker nodes are available for placing shards",
        )
        .hint("Add more worker nodes."));
    }
    let colocation = match number(txn, &tables::find_colocation(1, 0, 0)).await? {
        Some(id) => id,
        None => number(txn, &tables::insert_colocation(1, 0, 0)).await?.unwrap_or_default(),
    };
    let shard: Vec<_> = next_ids(txn, 1).await?.into_iter().map(|id| (ShardId(id), None)).collect();
    txn.query(NodeId::COORDINATOR, &tables::insert_reference(oid, ColocationId(colocation as u32))).await?;
    txn.query(NodeId::COORDINATOR, &shards::insert_shards(oid, &shard)).await?;
    let map = txn.reload_map().await?;
    let table = map.table_by_oid(oid).cloned().ok_or_else(|| {
        PgError::new(SqlState::INTERNAL_ERROR, format!("table {} is not in the catalog", definition.printed))
    })?;
    missing_types::make(txn, oid).await?;
    let stages = definition.for_copy(&map)?;
    let workers: Vec<NodeId> = map.active_workers().map(|n| n.id).collect();
    let record = remember_copy(&definition.schema, &definition.name);
    let first = format!("{}{}{record}", create_schema(&definition.schema), stages.table);
    txn.query_each(workers.iter().map(|node| (*node, first.clone())).collect()).await?;
    if has_rows(txn, &rows_of(definition)).await? {
        txn.notice(PgError::notice("Copying data from local table..."));
        copy_all(txn, definition, &table).await?;
        txn.notice(PgError::notice("copying the data has completed"));
    }
    let name = qualified(&definition.schema, &definition.name);
    let seal = format!(
        "CREATE TRIGGER tenantry_shell BEFORE INSERT OR UPDATE OR DELETE ON {name} FOR EACH STATEMENT \
         WHEN (pg_catalog.current_setting('{REFERENCE_WRITE}', true) IS DISTINCT FROM 'on') \
         EXECUTE FUNCTION tenantry.refuse_copy_write()"
    );
    txn.query(NodeId::COORDINATOR, &seal).await?;
    let last = format!("{}{}{}", stages.keys_and_indexes, stages.foreign_keys, stages.rest);
    if last.is_empty() {
        return Ok(());
    }
    txn.query_each(workers.into_iter().map(|node| (node, last.clone())).collect()).await
}

/// A schema that was made before its node was added may be missing there; asking first avoids a notice.
pub(super) fn create_schema(schema: &str) -> String {
    format!(
        "DO $tenantry$ BEGIN IF pg_catalog.to_regnamespace({}) IS NULL THEN CREATE SCHEMA {}; END IF; END $tenantry$;\n",
        literal(&identifier(schema)),
        identifier(schema),
    )
}

/// Notes on the worker that the table is ours, so that adding the node again may replace it.
pub(super) fn remember_copy(schema: &str, name: &str) -> String {
    format!(
        "INSERT INTO tenantry.reference_copy (schema, name) VALUES ({}, {}) ON CONFLICT DO NOTHING;\n",
        literal(schema),
        literal(name)
    )
}
