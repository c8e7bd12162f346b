//! ALTER, DROP and COMMENT ON STATISTICS: what is done to an extended statistics object is done to those of the shards.
//!
//! The statement does not name the table; the coordinator says whose the object is before the statement runs there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ddl::{keep_moves_out, places};
use crate::catalog::quote::literal;
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::planner::{Ddl, QualifiedName};
use crate::shard_map::{NodeId, Table, TableOid};

/// Runs the statement in the client's transaction. `drops`: DROP STATISTICS, of one object or several.
///
/// Errors: the server's; 0A000 for another schema, in which shards' objects would meet.
pub async fn change(
    txn: &mut Transaction,
    ddl: &Ddl,
    names: &[QualifiedName],
    (drops, sets_schema): (bool, bool),
) -> Result<()> {
    let mut owners = Vec::new();
    for name in names {
        owners.extend(owner(txn, name).await?.map(|(table, object)| (name, table, object)));
    }
    if sets_schema && !owners.is_empty() {
        return Err(PgError::unsupported("statistics of a distributed or reference table must stay in its schema"));
    }
    keep_moves_out(txn, &owners.iter().map(|(_, table, _)| table.colocation).collect()).await?;
    let text = ddl.query.text().clone();
    txn.query_for_client(&text).await?;
    if owners.is_empty() {
        return Ok(());
    }
    let map = txn.reload_map().await?;
    let text = text.trim_end().trim_end_matches(';');
    let mut work: BTreeMap<NodeId, String> = BTreeMap::new();
    for (name, table, object) in &owners {
        let (start, end) = (name.at as usize, (name.at + name.len) as usize);
        let (Some(head), Some(tail)) = (text.get(..start), text.get(end..)) else {
            return Err(PgError::new(SqlState::INTERNAL_ERROR, "a name lies outside its statement"));
        };
        for (node, place) in places(&map, table, object) {
            let statement = match drops {
                true => format!("DROP STATISTICS IF EXISTS {place};\n"),
                false => format!("{head}{place}{tail};\n"),
            };
            work.entry(node).or_default().push_str(&statement);
        }
    }
    txn.query_each(work.into_iter().collect()).await
}

/// The managed table that a statistics object is of, and the object's own name; none when it is a local table's or nobody's.
async fn owner(txn: &mut Transaction, name: &QualifiedName) -> Result<Option<(Arc<Table>, String)>> {
    let place = match &name.schema {
        Some(schema) => format!("n.nspname = {}", literal(schema)),
        None => "pg_catalog.pg_statistics_obj_is_visible(e.oid)".to_owned(),
    };
    let sql = format!(
        "SELECT e.stxrelid::pg_catalog.int8, e.stxname FROM pg_catalog.pg_statistic_ext e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace WHERE e.stxname = {} AND {place}",
        literal(&name.name)
    );
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    let Some([Some(oid), Some(object)]) = rows.first().map(Vec::as_slice) else { return Ok(None) };
    let table = oid.parse().ok().and_then(|oid| txn.map().table_by_oid(TableOid(oid)).cloned());
    Ok(table.map(|table| (table, object.clone())))
}
