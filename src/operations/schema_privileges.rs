//! GRANT and REVOKE on schemas: what a role may do in a schema, it may do in the schemas of its shards.
//!
//! ```text
//!   GRANT USAGE ON SCHEMA s TO app      coordinator, every worker: as written
//!                                       each worker: s_102010, s_102011, ... in the place of s
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::ddl::keep_moves_out;
use super::mover;
use crate::catalog::quote::{identifier, shard_schema};
use crate::catalog::{Catalog, pg_error, tables};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardMap, Table};

/// Runs `text` in the client's transaction. `schemas` are those of its list that hold shards; `names_at`, where the list is.
pub(super) async fn change(txn: &mut Transaction, text: &str, schemas: &[String], names_at: Range<u32>) -> Result<()> {
    let (Some(head), Some(tail)) = (text.get(..names_at.start as usize), text.get(names_at.end as usize..)) else {
        return Err(PgError::new(SqlState::INTERNAL_ERROR, "the names of schemas lie outside their statement"));
    };
    txn.keep_nodes().await?;
    // Nobody makes shards in these schemas meanwhile, and none is on its way to another node.
    txn.query(NodeId::COORDINATOR, tables::lock()).await?;
    let map = txn.reload_map().await?;
    let colocations = map.tables().filter(|t| !t.is_reference() && schemas.contains(&t.schema)).map(|t| t.colocation);
    keep_moves_out(txn, &colocations.collect()).await?;
    txn.query_for_client(text).await?;
    let map = txn.map();
    let mut names = shard_schemas(&map, schemas);
    let work = map.active_workers().map(|node| {
        // On lines of their own: the text may end in a comment.
        let mut statements = format!("{text}\n;\n");
        if let Some(names) = names.remove(&node.id) {
            let names: Vec<String> = names.iter().map(|name| identifier(name)).collect();
            statements.push_str(&format!("{head}{}{tail}\n;\n", names.join(", ")));
        }
        (node.id, statements)
    });
    let work = work.collect();
    txn.query_each(work).await
}

/// Gives roles in the schemas of shards what they may do in the tables' schemas, once, where an earlier version has not. False when that
/// has to wait, for moves and schema changes that are under way, or for another proxy that does it.
///
/// Errors: those of the coordinator and of nodes with shards.
pub async fn mend(catalog: &Catalog) -> Result<bool> {
    let mut session = catalog.connect(NodeId::COORDINATOR).await?;
    let locked = session.transaction().await.map_err(pg_error)?;
    let wanted = "SELECT FROM tenantry.mend WHERE name = 'schema_grants' FOR UPDATE SKIP LOCKED";
    if locked.query_opt(wanted, &[]).await.map_err(pg_error)?.is_none() {
        let is_done = "SELECT NOT EXISTS (SELECT FROM tenantry.mend WHERE name = 'schema_grants')";
        return Ok(locked.query_one(is_done, &[]).await.map_err(pg_error)?.get(0));
    }
    // As for a schema change, but nobody waits behind this.
    if let Err(error) = locked.batch_execute(&format!("{} NOWAIT", tables::lock())).await.map_err(pg_error) {
        return if error.code() == SqlState::LOCK_NOT_AVAILABLE { Ok(false) } else { Err(error) };
    }
    let distributed =
        |map: &ShardMap| -> Vec<Arc<Table>> { map.tables().filter(|t| !t.is_reference()).cloned().collect() };
    let tables = distributed(&*catalog.refresh().await?);
    for colocation in tables.iter().map(|table| table.colocation).collect::<BTreeSet<_>>() {
        let shared = locked.query_one(&mover::try_share_statement(colocation), &[]).await.map_err(pg_error)?;
        if shared.get::<_, i32>(0) != 1 {
            return Ok(false);
        }
    }
    // A move may have ended before.
    let map = catalog.refresh().await?;
    let schemas: BTreeSet<String> = distributed(&map).iter().map(|table| table.schema.clone()).collect();
    let schemas: Vec<String> = schemas.into_iter().collect();
    let mut work: BTreeMap<NodeId, String> = BTreeMap::new();
    for row in locked.query(GRANTED, &[&schemas]).await.map_err(pg_error)? {
        let (schema, privilege, grantee): (String, &str, &str) = (row.get(0), row.get(1), row.get(2));
        for (node, names) in shard_schemas(&map, &[schema]) {
            let names: Vec<String> = names.iter().map(|name| identifier(name)).collect();
            let grant = format!("GRANT {privilege} ON SCHEMA {} TO {grantee};\n", names.join(", "));
            work.entry(node).or_default().push_str(&grant);
        }
    }
    for (node, grants) in work {
        catalog.client(node).await?.batch_execute(&grants).await.map_err(pg_error)?;
    }
    locked.execute("DELETE FROM tenantry.mend WHERE name = 'schema_grants'", &[]).await.map_err(pg_error)?;
    locked.commit().await.map_err(pg_error)?;
    Ok(true)
}

/// Schema, privilege, and who has it, for SQL.
const GRANTED: &str = "SELECT n.nspname::text, g.privilege_type,
        CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) END
    FROM pg_catalog.pg_namespace n,
        pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) g
    WHERE n.nspname = ANY ($1) ORDER BY 1, 2, 3";

/// The schemas of these schemas' shards, by node.
fn shard_schemas(map: &ShardMap, schemas: &[String]) -> BTreeMap<NodeId, BTreeSet<String>> {
    let mut names: BTreeMap<NodeId, BTreeSet<String>> = BTreeMap::new();
    for table in map.tables().filter(|t| !t.is_reference() && schemas.contains(&t.schema)) {
        let groups = map.colocation(table.colocation).map(|c| c.shard_groups.as_slice()).unwrap_or_default();
        for group in groups {
            names.entry(group.node).or_default().insert(shard_schema(&table.schema, group.id));
        }
    }
    names
}
