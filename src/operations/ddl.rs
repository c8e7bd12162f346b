//! Schema changes: the shell first, because Postgres itself checks and locks there; then every shard with the same text.
//!
//! What the statement made of the shell is checked before any shard hears of it, so that a change which shards cannot
//! follow (a unique key without the distribution column, a serial column) is refused and undone with the transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::create_distributed_table::number;
use super::missing_types;
use super::mover;
use super::named_objects;
use super::partitions;
use super::schema_privileges;
use super::sequences;
use super::shard_schemas;
use super::table_checks::{self, Intent};
use super::table_definition::TableDefinition;
use super::triggers;
use super::waiting_keys;
use crate::backend::Row;
use crate::catalog::quote::{identifier, literal, qualified, shard_schema};
use crate::catalog::tables;
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::planner::{Coordinator, Ddl, DdlAction};
use crate::shard_map::{ColocationId, NodeId, ShardMap, Table, TableKind, TableOid};
use crate::sql::Spliced;

/// Runs a schema change in the client's transaction.
pub async fn run(txn: &mut Transaction, ddl: &Ddl) -> Result<()> {
    if !matches!(ddl.action, DdlAction::DropIndex { concurrently: true, .. }) {
        txn.require_atomic().await?;
    }
    keep_moves_out(txn, &concerned(&txn.map(), ddl)).await?;
    match &ddl.action {
        DdlAction::CreateIndex { concurrently: true } => Err(refuse_concurrently()),
        DdlAction::Maintenance => Err(PgError::unsupported("VACUUM and ANALYZE cannot run inside a transaction block")),
        DdlAction::DropIndex { names, concurrently, if_exists, cascade } => {
            named_objects::drop_indexes(txn, ddl, names, (*concurrently, *if_exists, *cascade)).await
        }
        DdlAction::Statistics { names, drops, sets_schema } => {
            named_objects::change_statistics(txn, ddl, names, (*drops, *sets_schema)).await
        }
        DdlAction::AlterIndex { name, part } => named_objects::alter_index(txn, ddl, name, part.as_ref()).await,
        DdlAction::DropTable { .. } => {
            let drawn = drawn_sequences(txn, &ddl.tables).await?;
            txn.query_for_client(ddl.query.text()).await?;
            sweep(txn).await?;
            sequences::forget(txn, &drawn.iter().filter_map(drawn_from).collect()).await
        }
        DdlAction::Truncate { cascade, restart_identity } => truncate(txn, ddl, *cascade, *restart_identity).await,
        DdlAction::SchemaPrivileges { schemas, names_at } => {
            schema_privileges::change(txn, ddl.query.text(), schemas, names_at.clone()).await
        }
        DdlAction::CreatePartition => {
            txn.query_for_client(ddl.query.text()).await?;
            // With IF NOT EXISTS nothing may have happened.
            match partitions::adopt(txn, parent(ddl)?).await? {
                0 => Ok(()),
                _ => {
                    let map = txn.reload_map().await?;
                    send_to_shards(txn, &map, &ddl.tables, &ddl.query).await
                }
            }
        }
        DdlAction::AttachPartition { partition } => {
            partitions::distribute_partition(txn, parent(ddl)?, partition).await?;
            change_tables(txn, ddl).await
        }
        DdlAction::AddWaitingKey { table } => {
            waiting_keys::refuse_rows(txn, &ddl.query.text()[table.at as usize..(table.at + table.len) as usize])
                .await?;
            txn.query_for_client(ddl.query.text()).await?;
            settle_what_leans_on_shells(txn).await
        }
        DdlAction::DrawFromSequence => draw_from_sequence(txn, ddl).await,
        DdlAction::AlterTable | DdlAction::CreateIndex { .. } | DdlAction::Lock | DdlAction::Other => {
            change_tables(txn, ddl).await
        }
    }
}

/// Colocation groups whose shards, or copies of reference tables, the statement may touch.
fn concerned(map: &ShardMap, ddl: &Ddl) -> BTreeSet<ColocationId> {
    // Through foreign keys to a reference table, CASCADE reaches any distributed table.
    let cascades =
        matches!(ddl.action, DdlAction::Truncate { cascade: true, .. } | DdlAction::DropTable { cascade: true, .. });
    if cascades && ddl.tables.iter().any(|t| t.is_reference()) {
        return map.tables().map(|t| t.colocation).collect();
    }
    ddl.tables.iter().map(|t| t.colocation).collect()
}

/// From here to the end of the transaction no shard of these groups moves. The transaction's map is fresh afterwards:
/// while it waited, a move may have ended.
///
/// Errors: 55P03 when the transaction has used shards of a group that is being moved, since the move waits for it.
pub(super) async fn keep_moves_out(txn: &mut Transaction, colocations: &BTreeSet<ColocationId>) -> Result<()> {
    if colocations.is_empty() {
        return Ok(());
    }
    let map = txn.map();
    for colocation in colocations {
        let groups = map.colocation(*colocation).map(|c| c.shard_groups.as_slice()).unwrap_or_default();
        if !groups.iter().any(|g| txn.uses(g.id)) {
            txn.query(NodeId::COORDINATOR, &mover::share_statement(*colocation)).await?;
        } else if number(txn, &mover::try_share_statement(*colocation)).await? != Some(1) {
            txn.failed = true;
            return Err(PgError::new(
                SqlState::LOCK_NOT_AVAILABLE,
                "a shard that this transaction has used is being moved, so its tables cannot be changed now",
            )
            .hint("Retry the transaction, or run the schema change as its first statement."));
        }
    }
    txn.reload_map().await?;
    Ok(())
}

/// Runs a statement on the coordinator and on every active worker: roles, schemas, extensions, types, functions.
pub async fn run_on_all_nodes(txn: &mut Transaction, statement: &Coordinator) -> Result<()> {
    txn.require_atomic().await?;
    txn.keep_nodes().await?;
    let text = statement.query.render(None);
    let lower = text.to_ascii_lowercase();
    let sets_password = lower.contains("password");
    // It may be a trigger's function.
    let before = if lower.contains("function") { Some(triggers::all_standing(txn).await?) } else { None };
    txn.query_for_client(&text).await?;
    let mut each = text;
    if sets_password {
        // Each server would salt a password in its own way; a login passed through needs one verifier everywhere.
        for row in txn.query(NodeId::COORDINATOR, "SELECT role, stored FROM tenantry.passwords_set_here()").await? {
            if let [Some(role), Some(stored)] = row.as_slice() {
                each.push_str(&format!(";\nALTER ROLE {} PASSWORD {}", identifier(role), literal(stored)));
            }
        }
    }
    let workers: Vec<NodeId> = txn.map().active_workers().map(|n| n.id).collect();
    // Bodies were checked on the coordinator; tables that they name may be there only.
    each.insert_str(0, "SET LOCAL check_function_bodies TO off;\n");
    txn.query_each(workers.into_iter().map(|node| (node, each.clone())).collect()).await?;
    if let Some(before) = before {
        triggers::check_changed(txn, &before).await?;
    }
    sweep(txn).await
}

/// VACUUM, ANALYZE and the like: per node the statements to run one by one, outside a transaction, the coordinator's
/// shell first.
pub fn maintenance(map: &ShardMap, ddl: &Ddl) -> Result<Vec<(NodeId, Vec<String>)>> {
    let mut work: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    work.insert(NodeId::COORDINATOR, vec![ddl.query.text().to_string()]);
    for (node, text) in shard_texts(map, &ddl.tables, &ddl.query)? {
        work.entry(node).or_default().push(text);
    }
    Ok(work.into_iter().collect())
}

/// Removes the shards, copies and rows of every table whose shell is gone, whatever statement took it away.
pub async fn sweep(txn: &mut Transaction) -> Result<()> {
    let gone = txn
        .query(
            NodeId::COORDINATOR,
            "SELECT t.logicalrelid::pg_catalog.int8 FROM tenantry.distributed_table t \
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.logicalrelid)",
        )
        .await?;
    let gone: Vec<TableOid> = gone.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok().map(TableOid)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    // Nobody adds a table to a group whose schemas are about to go.
    txn.query(NodeId::COORDINATOR, tables::lock()).await?;
    let map = txn.map();
    let known = |oid: &TableOid| map.table_by_oid(*oid).filter(|t| !t.is_reference()).map(|t| t.colocation);
    keep_moves_out(txn, &gone.iter().filter_map(known).collect()).await?;
    let dropped: Vec<_> = gone.iter().filter_map(|oid| map.table_by_oid(*oid).cloned()).collect();
    remove(txn, &gone, &dropped).await
}

/// Removes what the catalog knows of the tables that are `gone`, with the shards and copies of those that are `dropped`, which
/// are the same where they were known. Nobody adds a table to their groups meanwhile, or moves a shard.
pub(super) async fn remove(txn: &mut Transaction, gone: &[TableOid], dropped: &[Arc<Table>]) -> Result<()> {
    // The tables' names may be known no more; where their shards are, and who lives beside them, the fresh map knows.
    let placements = txn.reload_map().await?;
    for oid in gone {
        txn.query(NodeId::COORDINATOR, &tables::delete(*oid)).await?;
    }
    let colocations: BTreeSet<ColocationId> = dropped.iter().map(|t| t.colocation).collect();
    for colocation in &colocations {
        txn.query(NodeId::COORDINATOR, &tables::delete_empty_colocation(*colocation)).await?;
    }
    let mut work: BTreeMap<NodeId, String> = BTreeMap::new();
    let mut schemas: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    // Together, because a partition goes with its parent.
    let mut doomed: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    let mut schemas_done = BTreeSet::new();
    for table in dropped {
        if table.is_reference() {
            let name = qualified(&table.schema, &table.name);
            for node in placements.active_workers() {
                work.entry(node.id).or_default().push_str(&forget_copy(table, &name));
            }
            continue;
        }
        let Some(colocation) = placements.colocation(table.colocation) else { continue };
        let schema_empty = !placements
            .tables_of(table.colocation)
            .iter()
            .any(|other| other.schema == table.schema && !gone.contains(&other.oid));
        if schema_empty && !schemas_done.insert((table.colocation, table.schema.clone())) {
            continue;
        }
        for group in &colocation.shard_groups {
            let schema = shard_schema(&table.schema, group.id);
            if schema_empty {
                schemas.entry(group.node).or_default().push(schema);
            } else {
                doomed.entry(group.node).or_default().push(qualified(&schema, &table.name));
            }
        }
    }
    for (node, drops) in shard_schemas::drops(txn, &schemas).await? {
        work.entry(node).or_default().push_str(&drops);
    }
    for (node, names) in doomed {
        work.entry(node).or_default().push_str(&format!("DROP TABLE {} CASCADE;\n", names.join(", ")));
    }
    txn.query_each(work.into_iter().collect()).await?;
    txn.reload_map().await?;
    Ok(())
}

/// The copy may be gone already, with its schema: then nothing is said about it.
fn forget_copy(table: &Table, name: &str) -> String {
    format!(
        "DELETE FROM tenantry.reference_copy WHERE schema = {} AND name = {};\n\
         DO $tenantry$ BEGIN IF pg_catalog.to_regclass({}) IS NOT NULL THEN DROP TABLE {name} CASCADE; END IF; \
         END $tenantry$;\n",
        literal(&table.schema),
        literal(&table.name),
        literal(name)
    )
}

/// Minds what a statement on a local table may have done to distributed ones: a foreign key, which waits from now on, or a view
/// that would only ever see an empty shell. For statements that ran on the coordinator alone and may have changed its schema.
///
/// Errors: 0A000 for a view, and for a foreign key of a reference table.
pub async fn settle_what_leans_on_shells(txn: &mut Transaction) -> Result<()> {
    let rows = txn
        .query(
            NodeId::COORDINATOR,
            "SELECT t.logicalrelid::pg_catalog.int8 FROM tenantry.distributed_table t WHERE t.partmethod = 'h' AND (EXISTS ( \
                 SELECT FROM pg_catalog.pg_constraint k WHERE k.confrelid = t.logicalrelid AND k.contype = 'f' \
                 AND k.conrelid NOT IN (SELECT m.logicalrelid FROM tenantry.distributed_table m WHERE m.partmethod = 'h')) \
             OR EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid \
                 WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refobjid = t.logicalrelid \
                 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND w.ev_class <> t.logicalrelid))",
        )
        .await?;
    let oids: Vec<u32> = rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect();
    if oids.is_empty() {
        return Ok(());
    }
    waiting_keys::set_aside(txn, &oids).await?;
    let map = txn.map();
    for oid in oids {
        let Some(table) = map.table_by_oid(TableOid(oid)) else { continue };
        let Some(column) = table.distribution_column() else { continue };
        let definition = TableDefinition::read(txn, table.oid).await?;
        let intent = Intent::Distributed { column: &column.name, colocation: table.colocation };
        table_checks::check(&definition, &map, intent)?;
    }
    Ok(())
}

async fn change_tables(txn: &mut Transaction, ddl: &Ddl) -> Result<()> {
    let before = txn.map();
    // ALTER TABLE and CREATE INDEX change the first table; others that they name are what a foreign key refers to.
    let changed = match ddl.action {
        DdlAction::AlterTable | DdlAction::AttachPartition { .. } | DdlAction::CreateIndex { .. } => {
            &ddl.tables[..ddl.tables.len().min(1)]
        }
        _ => &ddl.tables[..],
    };
    refuse_mixed(changed)?;
    let triggers_before = triggers::standing(txn, changed).await?;
    let drawn_before = drawn_sequences(txn, changed).await?;
    txn.query_for_client(ddl.query.text()).await?;
    if let Err(error) = txn.reload_map().await {
        // The distribution column is gone: the catalog no longer fits its table.
        return Err(if error.code() == SqlState::DATA_CORRUPTED { touches_partition_column() } else { error });
    }
    let after = txn.map();
    let drawn_after = drawn_sequences(txn, changed).await?;
    if drawn_after.iter().any(|drawn| !drawn_before.contains(drawn)) {
        return Err(refuse_drawing());
    }
    for table in &ddl.tables {
        check_change(txn, &before, &after, table).await?;
    }
    triggers::check_changed(txn, &triggers_before).await?;
    if ddl.action == DdlAction::AlterTable {
        for table in changed {
            keep_guard_on(txn, table).await?;
            missing_types::make(txn, table.oid).await?;
        }
    }
    send_to_shards(txn, &after, changed, &ddl.query).await?;
    let gone = drawn_before.iter().filter(|drawn| !drawn_after.contains(drawn));
    sequences::forget(txn, &gone.filter_map(drawn_from).collect()).await
}

fn refuse_drawing() -> PgError {
    PgError::unsupported(
        "cannot add a serial, identity or nextval default together with a constraint or another change",
    )
    .hint("Use one statement for each change.")
}

/// The shell draws from the sequence itself; shards are told to draw from what their servers are lent. The workers' copies
/// of a reference table never draw.
///
/// Errors: 0A000 for a new column where there are rows: each would wait for its value.
async fn draw_from_sequence(txn: &mut Transaction, ddl: &Ddl) -> Result<()> {
    let table = ddl.tables.first().cloned().ok_or_else(|| {
        PgError::new(SqlState::INTERNAL_ERROR, "the table that is to draw from a sequence is missing")
    })?;
    let (before, old) = (txn.map(), TableDefinition::read(txn, table.oid).await?);
    txn.query_for_client(ddl.query.text()).await?;
    let after = txn.reload_map().await?;
    check_change(txn, &before, &after, &table).await?;
    if table.is_reference() {
        return Ok(());
    }
    let now = TableDefinition::read(txn, table.oid).await?;
    let only_the_parent = now.kind == 'p' && ddl.query.text().to_ascii_lowercase().contains("only");
    if now.constraint_count() != old.constraint_count() || only_the_parent {
        return Err(refuse_drawing());
    }
    let mut drawing = now.clone();
    drawing.columns = now.columns_that_draw_anew(&old).cloned().collect();
    let column = table.distribution_column().map_or("", |column| &column.name);
    sequences::prepare(txn, std::iter::once(&drawing), column).await?;
    let groups = after.colocation(table.colocation).map(|c| c.shard_groups.clone()).unwrap_or_default();
    let mut work: BTreeMap<NodeId, String> = BTreeMap::new();
    for group in groups {
        let (statements, adds) = now.new_draws(&old, group.id);
        if adds {
            let shard = qualified(&shard_schema(&table.schema, group.id), &table.name);
            txn.query(group.node, &format!("LOCK TABLE {shard} IN ACCESS EXCLUSIVE MODE")).await?;
            let sql = format!("SELECT FROM {shard} LIMIT 1");
            if !txn.query(group.node, &sql).await?.is_empty() {
                return Err(PgError::unsupported(
                    "cannot add a column that draws from a sequence because the table is not empty",
                )
                .hint(
                    "You can first call ALTER TABLE .. ADD COLUMN .. smallint/int/bigint, \
                     then set the default by ALTER TABLE .. ALTER COLUMN .. SET DEFAULT nextval('..').",
                ));
            }
        }
        work.entry(group.node).or_default().push_str(&statements);
    }
    work.retain(|_, statements| !statements.is_empty());
    txn.query_each(work.into_iter().collect()).await?;
    // It may have drawn from another before.
    let drawn_before = old.columns.iter().filter_map(|column| Some(column.sequence.as_ref()?.oid)).collect();
    sequences::forget(txn, &drawn_before).await
}

/// Which columns of the tables draw from which sequences.
async fn drawn_sequences(txn: &mut Transaction, tables: &[Arc<Table>]) -> Result<Vec<Row>> {
    let oids: Vec<String> = tables.iter().map(|table| table.oid.to_string()).collect();
    let sql = format!(
        "SELECT t.oid, d.attnum, d.sequence FROM pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]) t (oid), \
         tenantry.drawn_sequences(t.oid) d",
        oids.join(",")
    );
    txn.query(NodeId::COORDINATOR, &sql).await
}

/// The sequence of such a row.
fn drawn_from(row: &Row) -> Option<u32> {
    row.get(2)?.as_ref()?.parse().ok()
}

/// The partitioned table that a statement about a partition is for.
fn parent(ddl: &Ddl) -> Result<&Arc<Table>> {
    ddl.tables.first().ok_or_else(|| PgError::new(SqlState::INTERNAL_ERROR, "a partition's parent is missing"))
}

/// All of a node's texts in one message.
async fn send_to_shards(txn: &mut Transaction, map: &ShardMap, tables: &[Arc<Table>], query: &Spliced) -> Result<()> {
    let mut work: BTreeMap<NodeId, String> = BTreeMap::new();
    for (node, text) in shard_texts(map, tables, query)? {
        let all = work.entry(node).or_default();
        all.push_str(text.trim_end().trim_end_matches(';'));
        all.push_str(";\n");
    }
    txn.query_each(work.into_iter().collect()).await
}

/// DISABLE TRIGGER ALL or USER is for the shards; what keeps old proxies from writing into the shell stays. Postgres leaves
/// such triggers of its partitions alone.
async fn keep_guard_on(txn: &mut Transaction, table: &Table) -> Result<()> {
    let off = format!(
        "SELECT 'ALTER TABLE ' || tgrelid::pg_catalog.regclass || ' ENABLE TRIGGER tenantry_shell' \
         FROM pg_catalog.pg_trigger WHERE tgrelid = {} AND tgname = 'tenantry_shell' AND tgenabled <> 'O'",
        table.oid
    );
    let rows = txn.query(NodeId::COORDINATOR, &off).await?;
    if let Some([Some(enable)]) = rows.first().map(Vec::as_slice) {
        txn.query(NodeId::COORDINATOR, enable).await?;
    }
    Ok(())
}

/// What became of a table, seen on its shell.
async fn check_change(txn: &mut Transaction, before: &ShardMap, after: &ShardMap, table: &Arc<Table>) -> Result<()> {
    let definition = TableDefinition::read(txn, table.oid).await?;
    let Some(now) = after.table_by_oid(table.oid) else { return Ok(()) };
    if now.schema != table.schema {
        return Err(PgError::unsupported(
            "moving a distributed or reference table to another schema is not supported yet",
        )
        .hint("Create a table in the other schema and INSERT ... SELECT into it."));
    }
    match (&table.kind, &now.kind) {
        (TableKind::Distributed { column: old, .. }, TableKind::Distributed { column: new, .. }) => {
            if table.columns[*old].type_oid != now.columns[*new].type_oid {
                return Err(touches_partition_column());
            }
            let column = &now.columns[*new].name;
            table_checks::check(&definition, after, Intent::Distributed { column, colocation: now.colocation })
        }
        _ => {
            table_checks::check(&definition, after, Intent::Reference)?;
            check_reference_defaults(before, now)
        }
    }
}

/// A new column's default would be evaluated on each node, each time with another result.
fn check_reference_defaults(before: &ShardMap, now: &Table) -> Result<()> {
    let old = before.table_by_oid(now.oid);
    let added = now.columns.iter().find(|c| c.has_volatile_default && old.is_some_and(|t| !t.has_column(&c.name)));
    match added {
        None => Ok(()),
        Some(column) => Err(PgError::unsupported(format!(
            "cannot add column \"{}\" with a default that is not immutable to a reference table",
            column.name
        ))
        .detail("Each node would compute other values for the rows that are there.")
        .hint("Add the column without a default, fill it by UPDATE with constants, then set the default.")),
    }
}

fn touches_partition_column() -> PgError {
    PgError::unsupported("cannot execute ALTER TABLE command involving partition column")
}

/// One text cannot be spliced for shards that are cut differently.
fn refuse_mixed(tables: &[Arc<Table>]) -> Result<()> {
    let distributed: BTreeSet<_> = tables.iter().filter(|t| !t.is_reference()).map(|t| t.colocation).collect();
    let references = tables.iter().any(|t| t.is_reference());
    if distributed.len() + usize::from(references) <= 1 {
        return Ok(());
    }
    Err(PgError::unsupported("cannot change tables of different colocation groups in one statement")
        .hint("Use one statement for each table."))
}

/// The statement for every shard group (distributed tables) or every worker (reference tables).
fn shard_texts(map: &ShardMap, tables: &[Arc<Table>], query: &Spliced) -> Result<Vec<(NodeId, String)>> {
    let Some(distributed) = tables.iter().find(|t| !t.is_reference()) else {
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        return Ok(map.active_workers().map(|node| (node.id, query.render(None))).collect());
    };
    if !query.depends_on_shard() {
        return Err(PgError::unsupported("the statement names no distributed table that it could be run for"));
    }
    let colocation = map.colocation(distributed.colocation).ok_or_else(|| {
        PgError::new(SqlState::DATA_CORRUPTED, format!("colocation group {} does not exist", distributed.colocation))
    })?;
    Ok(colocation.shard_groups.iter().map(|group| (group.node, query.render(Some(group.id)))).collect())
}

/// On each node one TRUNCATE for all its shards and copies, so that foreign keys between them are no obstacle.
async fn truncate(txn: &mut Transaction, ddl: &Ddl, cascade: bool, restart_identity: bool) -> Result<()> {
    txn.query_for_client(ddl.query.text()).await?;
    // A node that was added meanwhile has copies of reference tables too.
    let map = txn.reload_map().await?;
    let mut names: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for table in &ddl.tables {
        for (node, name) in places(&map, table, &table.name) {
            names.entry(node).or_default().push(name);
        }
    }
    let options =
        format!("{}{}", if restart_identity { " RESTART IDENTITY" } else { "" }, if cascade { " CASCADE" } else { "" });
    let work = names.into_iter().map(|(node, names)| (node, format!("TRUNCATE {}{options}", names.join(", "))));
    txn.query_each(work.collect()).await
}

/// Every place of an object called `name` that stands beside a table, the coordinator left out.
pub(super) fn places(map: &ShardMap, table: &Table, name: &str) -> Vec<(NodeId, String)> {
    if table.is_reference() {
        return map.active_workers().map(|node| (node.id, qualified(&table.schema, name))).collect();
    }
    let groups = map.colocation(table.colocation).map(|c| c.shard_groups.as_slice()).unwrap_or_default();
    groups.iter().map(|g| (g.node, qualified(&shard_schema(&table.schema, g.id), name))).collect()
}

pub(super) fn refuse_concurrently() -> PgError {
    PgError::unsupported("CONCURRENTLY is not supported on distributed and reference tables yet")
        .hint("Leave out CONCURRENTLY; writes to the table wait while the index changes.")
}
