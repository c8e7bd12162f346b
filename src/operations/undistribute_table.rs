//! Makes a distributed or a reference table a local one again: its rows on the coordinator, under the same name and OID.
//!
//! ```text
//!   coordinator   shell, sealed            <──rows──   worker   public_102008.orders   locked, then dropped
//!                 the same table, open again                    public_102010.orders
//! ```
//!
//! The shell has kept everything but rows: keys, indexes, foreign keys, triggers, defaults, statistics, privileges. Everything
//! happens in the client's transaction: until it commits, the table is distributed with all its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::create_distributed_table::{lock_and_read, refuse_old_snapshot};
use super::ddl;
use super::partitions::Family;
use super::sequences;
use super::table_definition::TableDefinition;
use super::waiting_keys;
use crate::catalog::nodes;
use crate::catalog::quote::{identifier, literal, qualified, shard_schema};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::executor::copy_back::copy_back;
use crate::shard_map::{NodeId, ShardMap, Table, TableOid};
use crate::transport::timer;

/// `SELECT undistribute_table(...)`. `cascade`: with all tables that foreign keys connect it with.
///
/// Errors: 42P01 for a local table, 42501 for who does not own the table, 0A000 for a partition, and without `cascade` for a table
/// with a foreign key; 0A000 where the snapshot may be older than the locks.
pub async fn undistribute_table(txn: &mut Transaction, oid: TableOid, cascade: bool) -> Result<()> {
    refuse_old_snapshot(txn).await?;
    let families = lock(txn, oid, cascade).await?;
    let tables = families.iter().map(|family| managed(&txn.map(), family.root())).collect::<Result<Vec<_>>>()?;
    let map = txn.map();
    // What is still to be checked would be checked on rows that are gone.
    let nodes: Vec<NodeId> = map.active_workers().map(|node| node.id).chain([NodeId::COORDINATOR]).collect();
    txn.query_each(nodes.iter().map(|node| (*node, "SET CONSTRAINTS ALL IMMEDIATE".to_owned())).collect()).await?;
    let forced = forcing_policies(txn, &families).await?;
    lock_shards(txn, &locks_of_shards(&map, &tables, &forced)).await?;
    for definition in families.iter().flat_map(Family::definitions) {
        let unseal = format!("DROP TRIGGER IF EXISTS tenantry_shell ON {}", definition.quoted());
        txn.query(NodeId::COORDINATOR, &unseal).await?;
    }
    for (family, table) in families.iter().zip(&tables).filter(|(_, table)| !table.is_reference()) {
        txn.notice(PgError::notice(format!("moving the data of {}", family.root().printed)));
        bring_back(txn, &map, family, table, forced.contains(&table.oid)).await?;
    }
    for family in &families {
        waiting_keys::put_back_to(txn, &family.oids()).await?;
    }
    let definitions = || families.iter().flat_map(Family::definitions);
    let members: Vec<_> = definitions().filter_map(|d| map.table_by_oid(d.oid()).cloned()).collect();
    let drawn = definitions().flat_map(|d| &d.columns).filter_map(|c| Some(c.sequence.as_ref()?.oid)).collect();
    ddl::remove(txn, &members.iter().map(|table| table.oid).collect::<Vec<_>>(), &members).await?;
    sequences::forget(txn, &drawn).await
}

/// The tables that become local ones, with their partitions, locked on the coordinator. Moves are waited for before any of them is:
/// until then everything goes on.
async fn lock(txn: &mut Transaction, oid: TableOid, cascade: bool) -> Result<Vec<Family>> {
    let mut families: BTreeMap<TableOid, Family> = BTreeMap::new();
    loop {
        let wanted = if cascade { connected(txn, oid).await? } else { vec![oid] };
        let new: Vec<_> = wanted.into_iter().filter(|oid| !families.contains_key(oid)).collect();
        if new.is_empty() {
            return Ok(families.into_values().collect());
        }
        let mut colocations = BTreeSet::new();
        for oid in &new {
            let family = Family::read(txn, *oid).await?;
            colocations.insert(check(txn, &family, cascade).await?.colocation);
        }
        // Who adds a node has these two in the same order.
        txn.query(NodeId::COORDINATOR, nodes::lock_against_changes()).await?;
        ddl::keep_moves_out(txn, &colocations).await?;
        for oid in new {
            let family = lock_and_read(txn, oid).await?;
            // It may have changed while the locks were waited for.
            check(txn, &family, cascade).await?;
            families.insert(oid, family);
        }
    }
}

/// Errors: those of `undistribute_table`.
async fn check(txn: &mut Transaction, family: &Family, cascade: bool) -> Result<Arc<Table>> {
    let table = managed(&txn.map(), family.root())?;
    refuse_partition(family.root())?;
    require_owner(txn, family).await?;
    if !cascade {
        refuse_foreign_keys(family)?;
    }
    Ok(table)
}

/// Managed tables that foreign keys connect with this one, over local tables too; itself among them.
async fn connected(txn: &mut Transaction, oid: TableOid) -> Result<Vec<TableOid>> {
    let sql = format!(
        "WITH RECURSIVE key (one, other) AS MATERIALIZED ( \
             SELECT coalesce(pg_catalog.pg_partition_root(conrelid), conrelid), \
                 coalesce(pg_catalog.pg_partition_root(confrelid), confrelid) \
             FROM pg_catalog.pg_constraint WHERE contype = 'f'), \
         connected (oid) AS ( \
             SELECT {oid}::pg_catalog.oid UNION \
             SELECT CASE k.one WHEN c.oid THEN k.other ELSE k.one END FROM connected c JOIN key k ON c.oid IN (k.one, k.other)) \
         SELECT c.oid::pg_catalog.int8 FROM connected c WHERE c.oid = {oid} \
             OR EXISTS (SELECT FROM tenantry.distributed_table t WHERE t.logicalrelid = c.oid) ORDER BY c.oid"
    );
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    Ok(rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok().map(TableOid)).collect())
}

fn managed(map: &ShardMap, definition: &TableDefinition) -> Result<Arc<Table>> {
    map.table_by_oid(definition.oid()).cloned().ok_or_else(|| {
        let message = "cannot undistribute table because the table is not distributed";
        PgError::new(SqlState::UNDEFINED_TABLE, message).detail(format!("{} is a local table.", definition.printed))
    })
}

fn refuse_partition(definition: &TableDefinition) -> Result<()> {
    if !definition.is_partition {
        return Ok(());
    }
    Err(PgError::unsupported("cannot undistribute table because it is a partition")
        .detail(format!("{} is a partition.", definition.printed))
        .hint("Undistribute the partitioned table that it belongs to, or detach it first."))
}

async fn require_owner(txn: &mut Transaction, family: &Family) -> Result<()> {
    let oids: Vec<String> = family.definitions().map(|definition| definition.oid.to_string()).collect();
    let sql = format!(
        "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid IN ({}) \
         AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE') ORDER BY c.oid LIMIT 1",
        oids.join(", ")
    );
    match txn.query(NodeId::COORDINATOR, &sql).await?.first().map(Vec::as_slice) {
        Some([Some(name)]) => {
            Err(PgError::new(SqlState::INSUFFICIENT_PRIVILEGE, format!("must be owner of table {name}")))
        }
        _ => Ok(()),
    }
}

/// In the words that Citus's users know. A key to the table itself, or between its partitions, is no obstacle.
fn refuse_foreign_keys(family: &Family) -> Result<()> {
    let own: BTreeSet<u32> = family.definitions().map(|definition| definition.oid).collect();
    let leans = |definition: &TableDefinition| {
        definition
            .foreign_keys
            .iter()
            .map(|key| key.target)
            .chain(definition.referenced_by.iter().copied())
            .any(|other| !own.contains(&other))
    };
    if !family.definitions().any(leans) {
        return Ok(());
    }
    let TableDefinition { name, printed, .. } = family.root();
    Err(PgError::unsupported(format!("cannot complete operation because table {name} has a foreign key")).hint(format!(
        "Use cascade option to undistribute all the relations involved in a foreign key relationship with {printed} by \
         executing SELECT undistribute_table($${printed}$$, cascade_via_foreign_keys=>true)"
    )))
}

/// Of these tables those whose owner is subject to their policies: he would not see every row.
async fn forcing_policies(txn: &mut Transaction, families: &[Family]) -> Result<BTreeSet<TableOid>> {
    let oids: Vec<String> = families.iter().map(|family| family.root().oid.to_string()).collect();
    let sql = format!(
        "SELECT oid::pg_catalog.int8 FROM pg_catalog.pg_class WHERE relforcerowsecurity AND oid IN ({})",
        oids.join(", ")
    );
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    Ok(rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok().map(TableOid)).collect())
}

/// For each node the text after which nobody reads or writes what is there of these tables, and the transaction sees all of it.
fn locks_of_shards(map: &ShardMap, tables: &[Arc<Table>], forced: &BTreeSet<TableOid>) -> BTreeMap<NodeId, String> {
    let mut names: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    let mut work: BTreeMap<NodeId, String> = BTreeMap::new();
    for table in tables {
        for (node, name) in ddl::places(map, table, &table.name) {
            if forced.contains(&table.oid) {
                work.entry(node)
                    .or_default()
                    .push_str(&format!("ALTER TABLE ONLY {name} NO FORCE ROW LEVEL SECURITY;\n"));
            }
            names.entry(node).or_default().push(name);
        }
    }
    for (node, names) in names {
        let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE;\n", names.join(", "));
        work.entry(node).or_default().insert_str(0, &lock);
    }
    work
}

/// Runs these texts. Who has locks on one node and waits for another would wait for us, and we for him: none of the locks is kept
/// while one of them is not to be had, unless the client has a lock_timeout of his own.
async fn lock_shards(txn: &mut Transaction, locks: &BTreeMap<NodeId, String>) -> Result<()> {
    let on_each = |before: &str, after: &str| -> Vec<(NodeId, String)> {
        locks.iter().map(|(node, text)| (*node, format!("{before}{text}{after}"))).collect()
    };
    let instead = |sql: &str| locks.keys().map(|node| (*node, sql.to_owned())).collect();
    if txn.show(&["lock_timeout"]).await?.first().is_none_or(|timeout| timeout != "0") {
        return txn.query_each(on_each("", "")).await;
    }
    let begin = format!("SAVEPOINT tenantry_locks; SET LOCAL lock_timeout TO {};\n", LOCK_PATIENCE.as_millis());
    loop {
        match txn.query_each(on_each(&begin, "SET LOCAL lock_timeout TO 0")).await {
            Ok(()) => return txn.query_each(instead("RELEASE SAVEPOINT tenantry_locks")).await,
            Err(error) if matches!(error.code(), SqlState::LOCK_NOT_AVAILABLE | SqlState::DEADLOCK_DETECTED) => {
                txn.failed = false;
                let undo = "ROLLBACK TO SAVEPOINT tenantry_locks; RELEASE SAVEPOINT tenantry_locks";
                txn.query_each(instead(undo)).await?;
                let pause = async {
                    timer::sleep(LOCK_PAUSE).await;
                    Ok(())
                };
                txn.unless_cancelled(pause).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Copies every row into the shell. They were checked, and triggers fired for them, where they were written.
async fn bring_back(
    txn: &mut Transaction,
    map: &ShardMap,
    family: &Family,
    table: &Table,
    is_forced: bool,
) -> Result<()> {
    let groups = map.colocation(table.colocation).map(|c| c.shard_groups.clone()).unwrap_or_default();
    let (root, shell) = (family.root(), family.root().quoted());
    let mut silenced = Vec::new();
    for member in family.definitions() {
        let sql = format!("SELECT tenantry.silence_triggers({})", member.oid);
        let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
        silenced.extend(rows.into_iter().flatten().flatten().map(|states| (member.oid, states)));
    }
    if is_forced {
        let sql = format!("ALTER TABLE ONLY {shell} NO FORCE ROW LEVEL SECURITY");
        txn.query(NodeId::COORDINATOR, &sql).await?;
    }
    let columns = root.stored_columns();
    let list = columns.iter().map(|column| identifier(column)).collect::<Vec<_>>().join(", ");
    let copy_in = format!("COPY {shell} ({list}) FROM STDIN (FORMAT binary)");
    for group in &groups {
        let shard = qualified(&shard_schema(&root.schema, group.id), &root.name);
        let copy_out = format!("COPY (SELECT {list} FROM {shard}) TO STDOUT (FORMAT binary)");
        copy_back(txn, (group.node, group.id), (&copy_out, &copy_in), (table, &columns)).await?;
    }
    if is_forced {
        txn.query(NodeId::COORDINATOR, &format!("ALTER TABLE ONLY {shell} FORCE ROW LEVEL SECURITY")).await?;
    }
    for (oid, states) in silenced {
        let sql = format!("SELECT tenantry.restore_triggers({oid}, {})", literal(&states));
        txn.query(NodeId::COORDINATOR, &sql).await?;
    }
    Ok(())
}

/// For a lock on one node, while those on others are held.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// For who has waited for us meanwhile.
const LOCK_PAUSE: Duration = Duration::from_millis(200);
