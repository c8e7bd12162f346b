//! Which shards a step of a plan moves, and how large shards are.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::{Bytes, ShardMove};
use crate::catalog::pg_error;
use crate::catalog::shards::sizes;
use crate::error::Result;
use crate::operations::mover::MoverEnvironment;
use crate::shard_map::{ShardId, ShardMap, Table};

/// The tables of the moved group, each with its shard in it.
pub fn shards_of(map: &ShardMap, step: &ShardMove) -> Vec<(Arc<Table>, ShardId)> {
    let in_group = |shard: &ShardId| map.group_of_shard(*shard).is_some_and(|(_, group)| group == step.group);
    let shard_of = |table: &Table| table.shards.iter().copied().find(in_group);
    map.tables_of(step.colocation).into_iter().filter_map(|t| shard_of(&t).map(|shard| (t, shard))).collect()
}

/// Bytes of every shard group, all its tables with their indexes, asked of each node once.
pub async fn group_bytes(environment: &MoverEnvironment, map: &ShardMap) -> Result<Bytes> {
    let mut bytes = Bytes::new();
    for (shard, size) in shard_sizes(environment, map).await? {
        if let Some((_, group)) = map.group_of_shard(shard) {
            *bytes.entry(group).or_default() += size;
        }
    }
    Ok(bytes)
}

/// Bytes of every shard, for plans that are shown.
pub async fn shard_sizes(environment: &MoverEnvironment, map: &ShardMap) -> Result<HashMap<ShardId, u64>> {
    let mut found = HashMap::new();
    for node in map.active_workers() {
        let Some(sql) = sizes(map, node.id) else { continue };
        let client = environment.catalog.client(node.id).await?;
        for row in client.query(&sql, &[]).await.map_err(pg_error)? {
            let shard = row.try_get::<_, i32>(0).map(i64::from).or_else(|_| row.try_get::<_, i64>(0));
            let bytes: Option<i64> = row.try_get(1).map_err(pg_error)?;
            found.insert(ShardId(shard.map_err(pg_error)? as u64), bytes.unwrap_or(0).max(0) as u64);
        }
    }
    Ok(found)
}
