//! Makes a local table a distributed one: shards on the workers, rows moved into them, an empty shell left behind.
//!
//! Everything happens in the client's transaction. Nothing runs before all checks have passed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::ddl::keep_moves_out;
use super::missing_types;
use super::partitions::{Family, refuse_partition_alone, register};
use super::sequences;
use super::table_checks::{self, Intent};
use super::table_definition::{ColumnDefinition, TableDefinition};
use super::triggers;
use super::waiting_keys;
use crate::catalog::quote::{identifier, literal, qualified, shard_schema};
use crate::catalog::{nodes, shards, tables};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::executor::copy_in::route_rows;
use crate::shard_map::{
    ColocationId, HashType, NodeId, ShardGroup, ShardGroupId, ShardMap, Table, TableKind, TableOid, hash,
};

/// `SELECT create_distributed_table(...)`.
#[derive(Debug, Clone)]
pub struct Request {
    pub table: TableOid,
    pub column: Option<String>,
    /// `hash`, `range` or `append`.
    pub method: String,
    /// `default`, `none` or a table's name.
    pub colocate_with: String,
    /// As given in the call.
    pub shard_count: Option<i32>,
    /// `citus.shard_count` of the session.
    pub shard_count_default: u32,
}

pub async fn create_distributed_table(txn: &mut Transaction, request: Request) -> Result<()> {
    check_request(&request)?;
    let expected = wait_for_moves(txn, &request).await?;
    let mut family = lock_and_read(txn, request.table).await?;
    refuse_distributed(&txn.map(), family.root())?;
    refuse_partition_alone(family.root())?;
    let waiting = waiting_keys::take_down(txn, &family.oids()).await?;
    if waiting_keys::set_aside(txn, &family.oids()).await? || !waiting.is_empty() {
        family = Family::read(txn, request.table).await?;
    }
    let definition = family.root();
    let map = txn.map();
    let (column, hash) = distribution_column(definition, request.column.as_deref().unwrap_or_default())?;
    let column = column.clone();
    family.check_kinds()?;
    let known = known_colocation(txn, &map, definition, &column, &request).await?;
    let is_new = known.is_none();
    let colocation = match known {
        Some(colocation) => colocation,
        None => new_colocation(txn, &map, &column, &request).await?,
    };
    // Another has made it, or the table was changed, while the locks were waited for.
    if !is_new && known != expected {
        keep_moves_out(txn, &BTreeSet::from([colocation])).await?;
    }
    let map = txn.map();
    let intent = Intent::Distributed { column: &column.name, colocation };
    // Of a new group nobody is a member yet, and a foreign key to an older one is refused with the right words.
    for member in family.definitions() {
        table_checks::check_new(member, &map, intent)?;
    }

    let groups = if is_new {
        let count = wanted_shard_count(&request);
        let groups = place(txn, &map, count).await?;
        txn.query(NodeId::COORDINATOR, &shards::insert_groups(colocation, &groups)).await?;
        groups
    } else {
        map.colocation(colocation).map(|c| c.shard_groups.clone()).unwrap_or_default()
    };
    check_schema_name(&definition.schema, &groups)?;
    let nodes: BTreeSet<NodeId> = groups.iter().map(|group| group.node).collect();
    for member in family.definitions() {
        triggers::check_functions(txn, member, &nodes).await?;
    }
    let group_ids: Vec<ShardGroupId> = groups.iter().map(|group| group.id).collect();
    for (n, member) in family.definitions().enumerate() {
        let ids = match (is_new, n) {
            (true, 0) => group_ids.iter().map(|group| group.0).collect(),
            _ => next_ids(txn, groups.len()).await?,
        };
        register(txn, member, &column.name, colocation, &ids, &group_ids).await?;
    }
    sequences::prepare(txn, family.definitions(), &column.name).await?;
    let schema_exists = map.tables_of(colocation).iter().any(|t| t.schema == definition.schema);
    let map = txn.reload_map().await?;
    let table = map.table_by_oid(request.table).cloned().ok_or_else(|| {
        PgError::new(SqlState::INTERNAL_ERROR, format!("table {} is not in the catalog", definition.printed))
    })?;
    debug_assert!(matches!(table.kind, TableKind::Distributed { hash: h, .. } if h == hash));
    missing_types::make(txn, request.table).await?;
    make_shards(txn, &map, &family, &groups, schema_exists).await?;
    move_rows(txn, family.root(), &table).await?;
    if !waiting.is_empty() {
        // Only now is there no row in the shell that it would not allow.
        waiting.put_back(txn).await?;
        family = Family::read(txn, request.table).await?;
        for member in family.definitions() {
            table_checks::check(member, &map, intent)?;
        }
    }
    finish_shards(txn, &map, &family, &groups).await?;
    for member in family.definitions() {
        seal_shell(txn, member).await?;
    }
    Ok(())
}

/// Keeps moves out of the colocation group that the table is to join, if there is one, and tells which. While they are waited for,
/// the table is read and written, and other tables are distributed: a move of this kind may need the same locks to end.
async fn wait_for_moves(txn: &mut Transaction, request: &Request) -> Result<Option<ColocationId>> {
    refuse_old_snapshot(txn).await?;
    let map = txn.reload_map().await?;
    let definition = TableDefinition::read(txn, request.table).await?;
    refuse_distributed(&map, &definition)?;
    let (column, _) = distribution_column(&definition, request.column.as_deref().unwrap_or_default())?;
    let known = known_colocation(txn, &map, &definition, column, request).await?;
    if let Some(colocation) = known {
        // Who adds a node has these two in the same order.
        txn.query(NodeId::COORDINATOR, nodes::lock_against_changes()).await?;
        keep_moves_out(txn, &BTreeSet::from([colocation])).await?;
    }
    Ok(known)
}

pub(super) fn check_request(request: &Request) -> Result<()> {
    if request.column.is_none() {
        return Err(PgError::unsupported("single-shard tables (a NULL distribution column) are not supported yet")
            .hint(
                "Give a distribution column, or use create_reference_table() for small tables that all tenants share.",
            ));
    }
    if request.method != "hash" {
        return Err(PgError::unsupported(format!("distribution type {} is not supported", request.method))
            .hint("Use distribution type hash."));
    }
    let (count, parameter) = match request.shard_count {
        Some(count) => (i64::from(count), "shard_count"),
        None => (request.shard_count_default.into(), "citus.shard_count"),
    };
    if !(1..=i64::from(SHARD_COUNT_MAX)).contains(&count) {
        return Err(PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("{count} is outside the valid range for parameter \"{parameter}\" (1 .. {SHARD_COUNT_MAX})"),
        ));
    }
    let names_a_table = !matches!(request.colocate_with.to_ascii_lowercase().as_str(), "default" | "none");
    if names_a_table && request.shard_count.is_some() {
        return Err(PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "Cannot use colocate_with with a table and shard_count at the same time",
        ));
    }
    Ok(())
}

/// Rows that were written after the snapshot was taken, and before a lock was had, would be lost.
///
/// Errors: 0A000 where a transaction keeps its first snapshot.
pub(super) async fn refuse_old_snapshot(txn: &mut Transaction) -> Result<()> {
    let level = txn.show(&["transaction_isolation"]).await?.pop().unwrap_or_default();
    if level.starts_with("read ") {
        return Ok(());
    }
    Err(PgError::unsupported(format!("cannot move the rows of a table in a transaction that is {level}"))
        .detail("Its snapshot may be older than some of them.")
        .hint("Use BEGIN ISOLATION LEVEL READ COMMITTED, or no transaction block."))
}

/// Keeps writers of the table and its partitions, of nodes and of colocation groups out, then reads what is true now.
pub(super) async fn lock_and_read(txn: &mut Transaction, table: TableOid) -> Result<Family> {
    refuse_old_snapshot(txn).await?;
    let definition = TableDefinition::read(txn, table).await?;
    txn.query(NodeId::COORDINATOR, nodes::lock_against_changes()).await?;
    txn.query(NodeId::COORDINATOR, tables::lock()).await?;
    if matches!(definition.kind, 'r' | 'p') {
        let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", rows_of(&definition));
        txn.query(NodeId::COORDINATOR, &lock).await?;
    }
    txn.reload_map().await?;
    Family::read(txn, table).await
}

/// The table's name where its rows are meant: those of a partitioned table are its partitions'.
pub(super) fn rows_of(definition: &TableDefinition) -> String {
    let name = qualified(&definition.schema, &definition.name);
    if definition.kind == 'p' { name } else { format!("ONLY {name}") }
}

pub(super) fn refuse_distributed(map: &ShardMap, definition: &TableDefinition) -> Result<()> {
    match map.table_by_oid(definition.oid()) {
        None => Ok(()),
        Some(_) => Err(PgError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("table \"{}\" is already distributed", definition.name),
        )),
    }
}

pub(super) fn distribution_column<'a>(
    definition: &'a TableDefinition,
    name: &str,
) -> Result<(&'a ColumnDefinition, HashType)> {
    // As everywhere in SQL functions that take a column's name: folded unless it is in double quotes.
    let folded = match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_lowercase(),
    };
    let column = definition.column(name).or_else(|| definition.column(&folded)).ok_or_else(|| {
        PgError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" of relation \"{}\" does not exist", definition.name),
        )
    })?;
    if column.is_generated {
        return Err(PgError::unsupported(format!("cannot distribute relation: {}", definition.name))
            .detail("Distribution column must not use GENERATED ALWAYS AS (...) STORED."));
    }
    if !column.is_hashable {
        return Err(PgError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("could not identify a hash function for type {}", column.type_name),
        )
        .detail("Partition column types must have a hash function defined to use hash partitioning."));
    }
    if !column.is_deterministic {
        return Err(PgError::unsupported(
            "Hash distributed partition columns may not use a non deterministic collation",
        ));
    }
    let hash = HashType::from_oid(column.base_oid).ok_or_else(|| {
        PgError::unsupported(format!("cannot distribute by a column of type {} yet", column.type_name))
            .hint("Choose an integer, text, uuid, date, timestamp or numeric column.")
    })?;
    Ok((column, hash))
}

/// The colocation group to join.
async fn known_colocation(
    txn: &mut Transaction,
    map: &ShardMap,
    definition: &TableDefinition,
    column: &ColumnDefinition,
    request: &Request,
) -> Result<Option<ColocationId>> {
    match request.colocate_with.to_ascii_lowercase().as_str() {
        "default" => {
            let known = tables::find_colocation(wanted_shard_count(request), column.type_oid, column.collation_oid);
            Ok(number(txn, &known).await?.map(|id| ColocationId(id as u32)))
        }
        "none" => Ok(None),
        _ => colocate_with(txn, map, definition, column, &request.colocate_with).await.map(Some),
    }
}

async fn new_colocation(
    txn: &mut Transaction,
    map: &ShardMap,
    column: &ColumnDefinition,
    request: &Request,
) -> Result<ColocationId> {
    refuse_without_workers(map)?;
    let fresh = tables::insert_colocation(wanted_shard_count(request), column.type_oid, column.collation_oid);
    let id = number(txn, &fresh).await?.unwrap_or_default();
    Ok(ColocationId(id as u32))
}

async fn colocate_with(
    txn: &mut Transaction,
    map: &ShardMap,
    definition: &TableDefinition,
    column: &ColumnDefinition,
    other: &str,
) -> Result<ColocationId> {
    // Resolved by the client's own search_path; Postgres says when there is no such relation.
    let oid = number(txn, &format!("SELECT {}::pg_catalog.regclass::pg_catalog.oid", literal(other))).await?;
    let target = colocation_partner(map, definition, other, oid)?;
    let rows = txn.query(NodeId::COORDINATOR, &tables::colocation(target)).await?;
    let cell = |i: usize| rows.first().and_then(|r| r.get(i).cloned().flatten()).unwrap_or_default();
    check_same_key(definition, column, other, (&cell(1), &cell(2)))?;
    Ok(target)
}

/// The colocation group of the table with this oid, which the call calls `other`.
pub(super) fn colocation_partner(
    map: &ShardMap,
    definition: &TableDefinition,
    other: &str,
    oid: Option<i64>,
) -> Result<ColocationId> {
    let Some(target) = oid.and_then(|oid| map.table_by_oid(TableOid(oid as u32))) else {
        return Err(PgError::new(SqlState::INVALID_TABLE_DEFINITION, format!("relation {other} is not distributed"))
            .hint("Distribute that one first, or leave colocate_with out."));
    };
    if target.is_reference() {
        return Err(not_colocated(definition, other, "Replication models don't match for the tables.".to_owned())
            .hint("A reference table is on every node; colocate with a distributed table."));
    }
    Ok(target.colocation)
}

/// `key`: the colocation group's type and collation, by oid.
pub(super) fn check_same_key(
    definition: &TableDefinition,
    column: &ColumnDefinition,
    other: &str,
    key: (&str, &str),
) -> Result<()> {
    let differ = |what: &str| {
        let detail = format!("Distribution column {what} don't match for {other} and {}.", definition.name);
        Err(not_colocated(definition, other, detail).hint(format!(
            "Distribute it by a column with the same {}, or with colocate_with => 'none'.",
            what.trim_end_matches('s')
        )))
    };
    if key.0 != column.type_oid.to_string() {
        return differ("types");
    }
    if key.1 != column.collation_oid.to_string() {
        return differ("collations");
    }
    Ok(())
}

fn not_colocated(definition: &TableDefinition, other: &str, detail: String) -> PgError {
    let message = format!("cannot colocate tables {other} and {}", definition.name);
    PgError::new(SqlState::INVALID_PARAMETER_VALUE, message).detail(detail)
}

pub(super) fn wanted_shard_count(request: &Request) -> u32 {
    request.shard_count.map_or(request.shard_count_default, |count| count as u32)
}

pub(super) fn refuse_without_workers(map: &ShardMap) -> Result<()> {
    if map.active_workers().any(|n| n.should_have_shards) {
        return Ok(());
    }
    Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, "no worker nodes are available for placing shards")
        .hint("Add more worker nodes."))
}

async fn place(txn: &mut Transaction, map: &ShardMap, count: u32) -> Result<Vec<ShardGroup>> {
    let ids = next_ids(txn, count as usize).await?;
    Ok(deal_out(map, &ids))
}

/// Intervals of equal size, one for each id, dealt out to the workers in order of their addresses.
pub(super) fn deal_out(map: &ShardMap, ids: &[u64]) -> Vec<ShardGroup> {
    let mut workers: Vec<_> = map.active_workers().filter(|n| n.should_have_shards).collect();
    workers.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    let intervals = hash::intervals(ids.len() as u32).into_iter().zip(ids);
    intervals
        .zip(workers.iter().cycle())
        .map(|(((min, max), id), worker)| ShardGroup { id: ShardGroupId(*id), min, max, node: worker.id, tenant: None })
        .collect()
}

pub(super) async fn next_ids(txn: &mut Transaction, count: usize) -> Result<Vec<u64>> {
    let rows = txn.query(NodeId::COORDINATOR, &shards::next_ids(count)).await?;
    Ok(rows.into_iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect())
}

/// The first cell of the first row as a number.
pub(super) async fn number(txn: &mut Transaction, sql: &str) -> Result<Option<i64>> {
    let rows = txn.query(NodeId::COORDINATOR, sql).await?;
    Ok(rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()))
}

pub(super) fn check_schema_name(schema: &str, groups: &[ShardGroup]) -> Result<()> {
    let longest = groups.iter().map(|g| shard_schema(schema, g.id).len()).max().unwrap_or(0);
    if longest <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(PgError::unsupported(format!("cannot distribute tables of schema \"{schema}\": its name is too long"))
        .detail(format!(
            "The shards' schemas carry a number behind it, {longest} bytes in all; Postgres allows {NAME_BYTES_MAX}."
        ))
        .hint("Rename the schema."))
}

/// The shards' tables, without keys and indexes. One text per node, so that it costs one round trip, not one per shard.
async fn make_shards(
    txn: &mut Transaction,
    map: &ShardMap,
    family: &Family,
    groups: &[ShardGroup],
    schema_exists: bool,
) -> Result<()> {
    let mut texts: HashMap<NodeId, String> = HashMap::new();
    for group in groups {
        let text = texts.entry(group.node).or_default();
        if !schema_exists {
            text.push_str(&family.root().shard_schema(group.id));
        }
        text.push_str(&family.for_shard(map, group.id)?.table);
    }
    txn.query_each(texts.into_iter().collect()).await
}

/// All that comes behind the rows.
async fn finish_shards(txn: &mut Transaction, map: &ShardMap, family: &Family, groups: &[ShardGroup]) -> Result<()> {
    let mut texts: HashMap<NodeId, String> = HashMap::new();
    for group in groups {
        let stages = family.for_shard(map, group.id)?;
        let text = texts.entry(group.node).or_default();
        text.push_str(&stages.keys_and_indexes);
        text.push_str(&stages.foreign_keys);
        text.push_str(&stages.rest);
    }
    texts.retain(|_, text| !text.is_empty());
    txn.query_each(texts.into_iter().collect()).await
}

/// Copies what the local table holds; afterwards it is empty.
async fn move_rows(txn: &mut Transaction, definition: &TableDefinition, table: &Arc<Table>) -> Result<()> {
    let shell = rows_of(definition);
    if !has_rows(txn, &shell).await? {
        return Ok(());
    }
    txn.notice(PgError::notice("Copying data from local table..."));
    copy_all(txn, definition, table).await?;
    // Deferred checks would fire on rows that are gone, and TRUNCATE refuses while they wait.
    txn.query(NodeId::COORDINATOR, "SET CONSTRAINTS ALL IMMEDIATE").await?;
    txn.query(NodeId::COORDINATOR, &format!("TRUNCATE {shell}")).await?;
    txn.notice(PgError::notice("copying the data has completed"));
    Ok(())
}

/// `table`: as `rows_of` names it.
pub(super) async fn has_rows(txn: &mut Transaction, table: &str) -> Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT FROM {table})::pg_catalog.int4");
    Ok(number(txn, &sql).await? == Some(1))
}

/// Sends every row of the coordinator's table to where it belongs: also those that its policies hide from its owner.
pub(super) async fn copy_all(txn: &mut Transaction, definition: &TableDefinition, table: &Arc<Table>) -> Result<u64> {
    let columns = definition.stored_columns();
    let list: Vec<String> = columns.iter().map(|c| identifier(c)).collect();
    let copy_out = format!("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)", list.join(", "), rows_of(definition));
    let name = definition.quoted();
    let hides = format!("SELECT pg_catalog.row_security_active({}::pg_catalog.oid)::pg_catalog.int4", definition.oid);
    let is_hidden = number(txn, &hides).await? == Some(1);
    if is_hidden {
        let all = format!("ALTER TABLE ONLY {name} NO FORCE ROW LEVEL SECURITY");
        txn.query(NodeId::COORDINATOR, &all).await?;
    }
    let count = route_rows(txn, NodeId::COORDINATOR, &copy_out, table, &columns).await?;
    if is_hidden {
        let again = format!("ALTER TABLE ONLY {name} FORCE ROW LEVEL SECURITY");
        txn.query(NodeId::COORDINATOR, &again).await?;
    }
    Ok(count)
}

/// From now on nobody writes into the shell, not even a proxy that has not heard of it yet.
pub(super) async fn seal_shell(txn: &mut Transaction, definition: &TableDefinition) -> Result<()> {
    let shell = qualified(&definition.schema, &definition.name);
    let sql = format!(
        "CREATE TRIGGER tenantry_shell BEFORE INSERT OR UPDATE OR DELETE ON {shell} FOR EACH STATEMENT \
         WHEN (pg_catalog.pg_trigger_depth() = 0) EXECUTE FUNCTION tenantry.refuse_shell_write()"
    );
    txn.query(NodeId::COORDINATOR, &sql).await.map(|_| ())
}

/// Shards of a new colocation group, where nobody says how many.
pub const SHARD_COUNT_DEFAULT: u32 = 32;
pub(super) const SHARD_COUNT_MAX: i32 = 64000;
const NAME_BYTES_MAX: usize = 63;
