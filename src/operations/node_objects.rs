//! What a new worker gets before it gets shards: roles, types, functions and more (`node_definitions`), and the reference
//! tables with their rows. Safe to repeat: what is there already stays.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::{Client, Transaction as Target};

use super::node_definitions;
use super::reference_table::remember_copy;
use super::table_definition::TableDefinition;
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal, qualified};
use crate::error::Result;
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardMap};

/// A reference table as it is to be made on the new worker.
pub struct Reference {
    /// Quoted, with its schema.
    pub name: String,
    /// Removes a copy that an earlier attempt left; never a table that isn't ours.
    pub replace: String,
    pub create: String,
    pub keys_and_indexes: String,
    /// After all reference tables are there.
    pub foreign_keys: String,
    pub rest: String,
    columns: String,
}

impl Reference {
    /// Errors: 55000 for a foreign key to a table that is on no worker.
    pub fn of(definition: &TableDefinition, map: &ShardMap) -> Result<Self> {
        let name = definition.quoted();
        let stages = definition.for_copy(map)?;
        let columns: Vec<String> = definition.stored_columns().iter().map(|c| identifier(c)).collect();
        let (schema, relation) = (literal(&definition.schema), literal(&definition.name));
        Ok(Self {
            replace: format!(
                "DO $tenantry$ BEGIN IF EXISTS (SELECT FROM tenantry.reference_copy WHERE schema = {schema} \
                 AND name = {relation}) AND pg_catalog.to_regclass({}) IS NOT NULL THEN DROP TABLE {name} CASCADE; \
                 END IF; END $tenantry$;",
                literal(&name)
            ),
            create: format!("{}{}", stages.table, remember_copy(&definition.schema, &definition.name)),
            keys_and_indexes: stages.keys_and_indexes,
            foreign_keys: stages.foreign_keys,
            rest: stages.rest,
            columns: columns.join(", "),
            name,
        })
    }
}

/// Locks every reference table against writers until the client's transaction ends.
pub async fn lock_reference_tables(txn: &mut Transaction, map: &ShardMap) -> Result<Vec<Reference>> {
    let mut tables: Vec<_> = map.tables().filter(|t| t.is_reference()).collect();
    tables.sort_by_key(|t| t.oid);
    // Tables that a copy which was given up has not put back yet.
    let sql = "SELECT pg_catalog.unnest(full_identity) FROM tenantry.shard_move \
               WHERE relations IS NOT NULL AND state NOT IN ('done', 'failed')";
    let lent = txn.query(NodeId::COORDINATOR, sql).await?;
    let mut references = Vec::new();
    for table in tables {
        let name = qualified(&table.schema, &table.name);
        txn.query(NodeId::COORDINATOR, &format!("LOCK TABLE ONLY {name} IN EXCLUSIVE MODE")).await?;
        let mut definition = TableDefinition::read(txn, table.oid).await?;
        if lent.iter().flatten().flatten().any(|name| *name == definition.quoted()) {
            definition.forget_full_identity();
        }
        references.push(Reference::of(&definition, map)?);
    }
    Ok(references)
}

/// Makes the table and streams the committed rows into it.
pub async fn copy_reference_table(coordinator: &Client, target: &Target<'_>, reference: &Reference) -> Result<()> {
    let Reference { name, columns, .. } = reference;
    target.batch_execute(&reference.replace).await.map_err(pg_error)?;
    target.batch_execute(&reference.create).await.map_err(pg_error)?;
    let format = copy_format(coordinator, reference).await?;
    let out = format!("COPY (SELECT {columns} FROM ONLY {name}) TO STDOUT (FORMAT {format})");
    let rows = coordinator.copy_out(&out).await.map_err(pg_error)?;
    let into = format!("COPY {name} ({columns}) FROM STDIN (FORMAT {format})");
    let sink = target.copy_in::<_, Bytes>(&into).await.map_err(pg_error)?;
    let (mut rows, mut sink) = (std::pin::pin!(rows), std::pin::pin!(sink));
    while let Some(chunk) = rows.next().await {
        sink.send(chunk.map_err(pg_error)?).await.map_err(pg_error)?;
    }
    sink.as_mut().finish().await.map_err(pg_error)?;
    let Reference { keys_and_indexes, rest, .. } = reference;
    target.batch_execute(&format!("{keys_and_indexes}{rest}")).await.map_err(pg_error)
}

/// Types that users have made have another OID on each server, and some name others in their binary values.
async fn copy_format(coordinator: &Client, reference: &Reference) -> Result<&'static str> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = $1::text::regclass \
               AND attnum > 0 AND NOT attisdropped AND atttypid >= 16384)";
    let row = coordinator.query_one(sql, &[&reference.name]).await.map_err(pg_error)?;
    Ok(if row.get(0) { "text" } else { "binary" })
}

/// What `node_definitions` knows of the coordinator and the new worker does not have.
pub async fn copy_definitions(coordinator: &Client, target: &Target<'_>) -> Result<()> {
    target
        .batch_execute(
            "SET LOCAL client_min_messages = warning;
             SET LOCAL check_function_bodies = off;
             CREATE SCHEMA IF NOT EXISTS tenantry;
             GRANT USAGE ON SCHEMA tenantry TO PUBLIC;
             CREATE TABLE IF NOT EXISTS tenantry.reference_copy (schema text, name text, PRIMARY KEY (schema, name));
",
        )
        .await
        .map_err(pg_error)?;
    // Of copies that were given up: nobody is to drop with them what is made now.
    let sql = "SELECT format('DROP SCHEMA IF EXISTS tenantry_move_%s CASCADE', moveid) FROM tenantry.shard_move \
               WHERE relations IS NOT NULL AND state <> 'done'";
    for row in coordinator.query(sql, &[]).await.map_err(pg_error)? {
        target.batch_execute(row.get(0)).await.map_err(pg_error)?;
    }
    node_definitions::copy(coordinator, target).await?;
    // Members of tenantry_admin make shard schemas and reference copies as themselves.
    target
        .batch_execute(
            "GRANT SELECT, INSERT, DELETE ON tenantry.reference_copy TO tenantry_admin;
             DO $tenantry$ BEGIN EXECUTE pg_catalog.format('GRANT CREATE ON DATABASE %I TO tenantry_admin',
                 pg_catalog.current_database()); END $tenantry$",
        )
        .await
        .map_err(pg_error)
}
