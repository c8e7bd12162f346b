//! What a rebalance has still to carry, and how long that will take at its pace so far.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::Value;
use tokio::time::timeout;

use crate::catalog::pg_error;
use crate::catalog::shards::sizes;
use crate::error::Result;
use crate::operations::mover::MoverEnvironment;
use crate::shard_map::{NodeId, ShardId};

/// Adds `bytes_left` and `estimated_seconds_left` to the details of an unfinished job. Where a server does not tell the sizes of
/// its shards soon, they are left out; the time also while nothing has been copied.
///
/// Errors: those of the catalog.
pub async fn tell(environment: &MoverEnvironment, job: i64, details: &mut Value) -> Result<()> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    let Some(pace) = client.query_opt(PACE, &[&job]).await.map_err(pg_error)? else { return Ok(()) };
    let (seconds, copied): (Option<f64>, i64) = (pace.get(0), pace.get(1));
    let (under_way, nodes, groups): (i64, Vec<i32>, Vec<i64>) = (pace.get(2), pace.get(3), pace.get(4));
    drop(client);
    let nodes = nodes.into_iter().map(|node| waiting(environment, NodeId(node as u32), &groups));
    let Ok(Ok(waiting)) = timeout(PATIENCE, try_join_all(nodes)).await else { return Ok(()) };
    let left = under_way + waiting.into_iter().sum::<i64>();
    details["bytes_left"] = left.into();
    if let Some(seconds) = seconds.filter(|seconds| copied > 0 && *seconds > 0.0) {
        details["estimated_seconds_left"] = (left as f64 * seconds / copied as f64).round().into();
    }
    Ok(())
}

/// Bytes of the tables of those groups that stand on the node, as moves count them.
async fn waiting(environment: &MoverEnvironment, node: NodeId, groups: &[i64]) -> Result<i64> {
    let map = environment.catalog.map();
    let Some(sql) = sizes(&map, node) else { return Ok(0) };
    let waits = |shard: i64| {
        map.group_of_shard(ShardId(shard as u64)).is_some_and(|(_, group)| groups.contains(&(group.0 as i64)))
    };
    let client = environment.catalog.client(node).await?;
    let mut bytes = 0;
    for row in client
        .query(
            &format!("SELECT shardid::int8, table_size FROM ({sql}) s (shardid, size, table_size, relation_size)"),
            &[],
        )
        .await
        .map_err(pg_error)?
    {
        if waits(row.get(0)) {
            bytes += row.get::<_, Option<i64>>(1).unwrap_or(0);
        }
    }
    Ok(bytes)
}

/// Of an unfinished job: its age, bytes copied, bytes that moves under way have left; and where the groups are whose moves have not
/// begun to copy.
const PACE: &str = "
WITH t AS (
    SELECT t.state, t.source_node, t.shard_group_id, coalesce(m.bytes_total, 0) AS total, coalesce(m.bytes_copied, 0) AS copied
    FROM tenantry.job_task t LEFT JOIN LATERAL (
        SELECT * FROM tenantry.shard_move m
        WHERE m.shard_group_id = t.shard_group_id AND m.source_node = t.source_node AND NOT m.is_rehearsal
        AND m.target_node = t.target_node AND m.started_at >= t.started_at ORDER BY moveid DESC LIMIT 1) m ON true
    WHERE t.job_id = $1
)
SELECT extract(epoch FROM clock_timestamp() - j.started_at)::float8,
    (SELECT coalesce(sum(copied), 0)::int8 FROM t),
    (SELECT coalesce(sum(greatest(total - copied, 0)), 0)::int8 FROM t WHERE state = 'running'),
    ARRAY(SELECT DISTINCT source_node FROM t WHERE state IN ('runnable', 'blocked') OR state = 'running' AND total = 0),
    ARRAY(SELECT shard_group_id FROM t WHERE state IN ('runnable', 'blocked') OR state = 'running' AND total = 0)
FROM tenantry.job j WHERE j.id = $1 AND j.finished_at IS NULL";

/// Who asks how a rebalance gets on need not know this at any price.
const PATIENCE: Duration = Duration::from_secs(1);
