//! GRANT and REVOKE on schemas: what a role may do in a schema, it may do in the schemas of its shards.
//!
//! ```text
//!   GRANT USAGE ON SCHEMA s TO app      coordinator, every worker: as written
//!                                       each worker: s_102010, s_102011, ... in the place of s
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::ddl::keep_moves_out;
use crate::catalog::quote::{identifier, shard_schema};
use crate::catalog::tables;
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardMap};

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
