//! Statements that name an index or a statistics object, and not its table: what is done to it is done to those of the shards.
//!
//! The coordinator says whose the object is before the statement runs there: afterwards it may be nobody's.

use std::collections::BTreeMap;
use std::iter::once;
use std::sync::Arc;

use super::ddl::{keep_moves_out, places, refuse_concurrently};
use crate::catalog::quote::{identifier, literal, qualified};
use crate::error::{PgError, Result};
use crate::executor::Transaction;
use crate::planner::{Ddl, QualifiedName};
use crate::shard_map::{NodeId, ShardMap, Table, TableOid};
use crate::sql::{Splice, Spliced, With};

/// DROP INDEX, of one or several.
///
/// Errors: the server's; 0A000 for CONCURRENTLY.
pub async fn drop_indexes(
    txn: &mut Transaction,
    ddl: &Ddl,
    names: &[QualifiedName],
    (concurrently, if_exists, cascade): (bool, bool, bool),
) -> Result<()> {
    let owned = owned(txn, names, owner_of_index).await?;
    if concurrently && !owned.is_empty() {
        return Err(refuse_concurrently());
    }
    let Some(map) = run_here(txn, ddl, &owned).await? else { return Ok(()) };
    let (exists, behaviour) = (if if_exists { "IF EXISTS " } else { "" }, if cascade { " CASCADE" } else { "" });
    let drop = |(_, node, place)| (node, format!("DROP INDEX {exists}{place}{behaviour}"));
    run_there(txn, all_places(&owned, &map).into_iter().map(drop).collect()).await
}

/// ALTER INDEX, REINDEX INDEX, COMMENT ON INDEX; `part`: the index that ATTACH PARTITION is about.
///
/// Errors: the server's.
pub async fn alter_index(
    txn: &mut Transaction,
    ddl: &Ddl,
    name: &QualifiedName,
    part: Option<&QualifiedName>,
) -> Result<()> {
    let owned_index = owned(txn, once(name), owner_of_index).await?;
    let owned_part = owned(txn, part, owner_of_index).await?;
    let Some(map) = run_here(txn, ddl, &owned_index).await? else { return Ok(()) };
    // A partition's places are in the same order.
    let mut parts = all_places(&owned_part, &map).into_iter().map(|(part, _, place)| (part, place));
    let alter = |(index, node, place)| (node, renamed(ddl, once((index, place)).chain(parts.next())));
    run_there(txn, all_places(&owned_index, &map).into_iter().map(alter).collect()).await
}

/// ALTER or COMMENT ON STATISTICS, of one object; `drops`: DROP STATISTICS, of one or several.
///
/// Errors: the server's; 0A000 for another schema, in which shards' objects would meet.
pub async fn change_statistics(
    txn: &mut Transaction,
    ddl: &Ddl,
    names: &[QualifiedName],
    (drops, sets_schema): (bool, bool),
) -> Result<()> {
    let owned = owned(txn, names, owner_of_statistics).await?;
    if sets_schema && !owned.is_empty() {
        return Err(PgError::unsupported("statistics of a distributed or reference table must stay in its schema"));
    }
    let Some(map) = run_here(txn, ddl, &owned).await? else { return Ok(()) };
    let change = |(object, node, place)| match drops {
        true => (node, format!("DROP STATISTICS IF EXISTS {place}")),
        false => (node, renamed(ddl, once((object, place)))),
    };
    run_there(txn, all_places(&owned, &map).into_iter().map(change).collect()).await
}

/// An object of a managed table.
struct Owned<'a> {
    written: &'a QualifiedName,
    table: Arc<Table>,
    name: String,
}

/// Those of the named objects that are managed tables'; local tables' and nobody's are left out.
async fn owned<'a>(
    txn: &mut Transaction,
    names: impl IntoIterator<Item = &'a QualifiedName>,
    owner_of: fn(&QualifiedName) -> String,
) -> Result<Vec<Owned<'a>>> {
    let mut owned = Vec::new();
    for written in names {
        let rows = txn.query(NodeId::COORDINATOR, &owner_of(written)).await?;
        let Some([Some(oid), Some(name)]) = rows.first().map(Vec::as_slice) else { continue };
        let table = oid.parse().ok().and_then(|oid| txn.map().table_by_oid(TableOid(oid)).cloned());
        owned.extend(table.map(|table| Owned { written, table, name: name.clone() }));
    }
    Ok(owned)
}

/// Asks for an index's table and its own name.
fn owner_of_index(index: &QualifiedName) -> String {
    let written = match &index.schema {
        Some(schema) => qualified(schema, &index.name),
        None => identifier(&index.name),
    };
    format!(
        "SELECT i.indrelid::pg_catalog.int8, c.relname FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indexrelid = pg_catalog.to_regclass({})",
        literal(&written)
    )
}

fn owner_of_statistics(object: &QualifiedName) -> String {
    let place = match &object.schema {
        Some(schema) => format!("n.nspname = {}", literal(schema)),
        None => "pg_catalog.pg_statistics_obj_is_visible(e.oid)".to_owned(),
    };
    format!(
        "SELECT e.stxrelid::pg_catalog.int8, e.stxname FROM pg_catalog.pg_statistic_ext e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace WHERE e.stxname = {} AND {place}",
        literal(&object.name)
    )
}

/// Runs the statement on the coordinator while no shard of the objects' tables moves. The map as it is then, because a node that was
/// added meanwhile has copies of reference tables too; none when nothing is left to be done.
async fn run_here(txn: &mut Transaction, ddl: &Ddl, owned: &[Owned<'_>]) -> Result<Option<Arc<ShardMap>>> {
    keep_moves_out(txn, &owned.iter().map(|object| object.table.colocation).collect()).await?;
    txn.query_for_client(ddl.query.text()).await?;
    if owned.is_empty() { Ok(None) } else { txn.reload_map().await.map(Some) }
}

/// Everywhere but on the coordinator, by their names there.
fn all_places<'o, 'a>(owned: &'o [Owned<'a>], map: &ShardMap) -> Vec<(&'o Owned<'a>, NodeId, String)> {
    let of =
        |object: &'o Owned<'a>| places(map, &object.table, &object.name).into_iter().map(move |(n, p)| (object, n, p));
    owned.iter().flat_map(of).collect()
}

/// The statement with other names for these objects.
fn renamed<'o, 'a: 'o>(ddl: &Ddl, names: impl Iterator<Item = (&'o Owned<'a>, String)>) -> String {
    let rename = |(object, name): (&Owned<'_>, String)| {
        let QualifiedName { at, len, .. } = *object.written;
        Splice { at, len, with: With::Fixed(name.into()) }
    };
    let text = Spliced::new(ddl.query.text().clone(), names.map(rename).collect()).render(None);
    text.trim_end().trim_end_matches(';').to_owned()
}

/// All of a node's statements in one message.
async fn run_there(txn: &mut Transaction, statements: Vec<(NodeId, String)>) -> Result<()> {
    let mut work: BTreeMap<NodeId, String> = BTreeMap::new();
    for (node, statement) in statements {
        let all = work.entry(node).or_default();
        all.push_str(&statement);
        all.push_str(";\n");
    }
    txn.query_each(work.into_iter().collect()).await
}
