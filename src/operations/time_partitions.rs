//! Partitions of ranges of time: those that are wanted are made, old ones dropped; of distributed tables and local ones.
//!
//! Which these are, `tenantry.get_missing_time_partition_ranges` and the view `tenantry.time_partitions` say. Each is made
//! and dropped as the user's own CREATE TABLE ... PARTITION OF and DROP TABLE would do it.

use super::ddl;
use crate::catalog::quote::{identifier, literal, qualified};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::planner::{Ddl, DdlAction};
use crate::shard_map::{NodeId, TableOid};
use crate::sql::{Splice, Spliced, With};

/// What `create_time_partitions` was called with, as Postgres prints it.
pub struct Wanted {
    pub table: TableOid,
    pub interval: String,
    pub start_from: String,
    pub end_at: String,
}

/// Makes what is missing. False when all was there.
///
/// Errors: 42809 when the table is not partitioned, 22023 for an interval that does not fit it; those of CREATE TABLE.
pub async fn create(txn: &mut Transaction, wanted: &Wanted) -> Result<bool> {
    let (schema, name) = name_of(txn, wanted.table).await?;
    if txn.map().table_by_oid(wanted.table).is_none() {
        // Nobody else makes the same meanwhile.
        let lock = format!("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", qualified(&schema, &name));
        txn.query(NodeId::COORDINATOR, &lock).await?;
    }
    let sql = format!(
        "SELECT partition_name, range_from_value, range_to_value \
         FROM tenantry.get_missing_time_partition_ranges({}, {}, {}, {})",
        wanted.table,
        literal(&wanted.interval),
        literal(&wanted.end_at),
        literal(&wanted.start_from)
    );
    let missing = txn.query(NodeId::COORDINATOR, &sql).await?;
    for row in &missing {
        let [Some(partition), Some(from), Some(to)] = row.as_slice() else { continue };
        let place = format!("{}.", identifier(&schema));
        let (first, between) =
            ("CREATE TABLE ".to_owned() + &place, format!("{} PARTITION OF {place}", identifier(partition)));
        let text =
            format!("{first}{between}{} FOR VALUES FROM ({}) TO ({})", identifier(&name), literal(from), literal(to));
        let Some(table) = txn.map().table_by_oid(wanted.table).cloned() else {
            txn.query(NodeId::COORDINATOR, &text).await?;
            continue;
        };
        // Each schema's name is followed by a dot, which goes with it.
        let splice = |end: usize| Splice {
            at: (end - place.len()) as u32,
            len: place.len() as u32,
            with: With::ShardSchema(schema.as_str().into()),
        };
        let splices = vec![splice(first.len()), splice(first.len() + between.len())];
        let query = Spliced::new(text, splices);
        ddl::run(txn, &Ddl { action: DdlAction::CreatePartition, tables: vec![table], query }).await?;
    }
    if !missing.is_empty() {
        txn.announce_change().await?;
    }
    Ok(!missing.is_empty())
}

/// Drops the partitions whose time is over before `older_than`, the oldest first.
///
/// Errors: as `create`; those of DROP TABLE.
pub async fn drop_old(txn: &mut Transaction, table: TableOid, older_than: &str) -> Result<()> {
    let sql = format!(
        "SELECT n.nspname, c.relname, p.partition::pg_catalog.text, p.from_value, p.to_value \
         FROM tenantry.time_partition_key({table}) key, tenantry.time_partitions p \
         JOIN pg_catalog.pg_class c ON c.oid = p.partition JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE p.parent_table = {table}::pg_catalog.oid::pg_catalog.regclass \
           AND p.to_value::pg_catalog.timestamptz <= {}::pg_catalog.timestamptz \
         ORDER BY p.to_value::pg_catalog.timestamptz",
        literal(older_than)
    );
    let mut is_changed = false;
    for row in txn.query(NodeId::COORDINATOR, &sql).await? {
        let [Some(schema), Some(name), Some(printed), from, Some(to)] = row.as_slice() else { continue };
        let from = from.as_deref().unwrap_or("MINVALUE");
        txn.notice(PgError::notice(format!("dropping {printed} with start time {from} and end time {to}")));
        let tables = txn.map().table(schema, name).cloned().into_iter().collect();
        let action = DdlAction::DropTable { others: false, if_exists: false, cascade: false };
        let query = Spliced::verbatim(format!("DROP TABLE {}", qualified(schema, name)));
        ddl::run(txn, &Ddl { action, tables, query }).await?;
        is_changed = true;
    }
    if is_changed {
        txn.announce_change().await?;
    }
    Ok(())
}

/// Schema and name.
async fn name_of(txn: &mut Transaction, table: TableOid) -> Result<(String, String)> {
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {table}"
    );
    match txn.query(NodeId::COORDINATOR, &sql).await?.into_iter().next().as_deref() {
        Some([Some(schema), Some(name)]) => Ok((schema.clone(), name.clone())),
        _ => Err(PgError::new(SqlState::UNDEFINED_TABLE, format!("relation with OID {table} does not exist"))),
    }
}
