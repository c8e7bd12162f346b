//! `get_rebalance_progress`: what is being moved, cut, put together or distributed, and what waits for its turn, one row for each
//! shard and node that it goes to.

use serde_json::{Value, json};

use super::plan::ShardMove;
use super::positions::positions;
use super::run::address;
use super::sizes::{shard_sizes, shards_of};
use crate::catalog::pg_error;
use crate::error::Result;
use crate::operations::mover::MoverEnvironment;
use crate::shard_map::{ColocationId, NodeId, ShardGroupId};

/// Rows of Citus's `get_rebalance_progress`: progress 0 waits, 1 is being moved, 2 is there.
///
/// Sizes are bytes with indexes; the target's is what has been copied, in proportion to the shard's part of its group and, of a
/// split, to the node's pieces. Of a tenant that is isolated nobody knows the size before it is copied: it is that of the shard.
/// A local table has no shards yet.
pub async fn get_rebalance_progress(environment: &MoverEnvironment) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let sizes = shard_sizes(environment, &map).await?;
    let positions = positions(environment).await?;
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    let mut found = Vec::new();
    for row in client.query(UNDER_WAY, &[]).await.map_err(pg_error)? {
        let number = |at: usize| row.try_get::<_, i32>(at).map_err(pg_error);
        let large = |at: usize| row.try_get::<_, i64>(at).map_err(pg_error);
        let step = ShardMove {
            colocation: ColocationId(number(0)? as u32),
            group: ShardGroupId(large(1)? as u64),
            source: NodeId(number(2)? as u32),
            target: NodeId(number(3)? as u32),
        };
        let (progress, status): (i64, String) = (large(4)?, row.try_get(5).map_err(pg_error)?);
        let (total, copied) = (large(6)?, large(7)? as f64 * row.try_get::<_, f64>(11).map_err(pg_error)?);
        let part = if total > 0 { (copied / total as f64).min(1.0) } else { 0.0 };
        let (source, target) = (map.node(step.source), map.node(step.target));
        let move_id: Option<i64> = row.try_get(8).map_err(pg_error)?;
        let position = move_id.and_then(|id| positions.get(&id));
        let operation: &str = row.try_get(9).map_err(pg_error)?;
        let local: Option<u32> = row.try_get(10).map_err(pg_error)?;
        let of_group = shards_of(&map, &step).into_iter().map(|(table, shard)| (table.oid.0, Some(shard)));
        for (table, shard) in local.map(|table| (table, None)).into_iter().chain(of_group) {
            let size = match shard {
                Some(shard) => sizes.get(&shard).copied().unwrap_or(0),
                None => total as u64,
            };
            let there = if progress == 2 { size } else { (size as f64 * part) as u64 };
            found.push(json!({
                "sessionid": 0,
                "table_name": table.to_string(),
                "shardid": shard.map(|shard| shard.0),
                "shard_size": size,
                "sourcename": source.map_or_else(|| address(&map, step.source), |n| n.host.clone()),
                "sourceport": source.map(|n| n.port),
                "targetname": target.map_or_else(|| address(&map, step.target), |n| n.host.clone()),
                "targetport": target.map(|n| n.port),
                "progress": progress,
                "source_shard_size": if progress == 2 { 0 } else { size },
                "target_shard_size": there,
                "operation_type": operation,
                "source_lsn": position.map(|at| at.source.as_str()),
                "target_lsn": position.map(|at| at.target.as_str()),
                "status": status,
            }));
        }
    }
    Ok(Value::Array(found))
}

/// Moves under way, whoever asked for them, and what a running job has not begun or has done. Last how much of what is copied goes to
/// the target.
const UNDER_WAY: &str = "
SELECT m.colocationid, g.id, m.source_node, t.node, 1::bigint, m.phase, m.bytes_total, m.bytes_copied, m.moveid,
    CASE WHEN m.is_rehearsal THEN 'rehearse' WHEN m.relation IS NOT NULL THEN 'distribute' WHEN m.tenant IS NOT NULL THEN 'isolate' WHEN m.join_rest IS NOT NULL THEN 'return'
        WHEN m.back_of IS NOT NULL THEN 'undo' WHEN cardinality(m.united_groups) > 0 THEN 'merge'
        WHEN cardinality(m.piece_groups) > 0 THEN 'split' ELSE 'move' END,
    m.relation, t.part
FROM tenantry.shard_move m,
    unnest(CASE WHEN cardinality(m.united_groups) > 0 THEN m.united_groups ELSE ARRAY[m.shard_group_id] END) g (id),
    LATERAL (
        SELECT node, count(*)::float8 / cardinality(m.piece_nodes) FROM unnest(m.piece_nodes) node GROUP BY node
        UNION ALL SELECT m.target_node, 1 WHERE cardinality(m.piece_nodes) = 0) t (node, part)
WHERE m.state NOT IN ('done', 'failed', 'undoable')
UNION ALL
SELECT t.colocationid, t.shard_group_id, t.source_node, t.target_node,
    CASE t.state WHEN 'done' THEN 2 ELSE 0 END::bigint, CASE t.state WHEN 'done' THEN 'Completed' ELSE 'Not Started Yet' END,
    0::bigint, 0::bigint, NULL::bigint, 'move', NULL::oid, 1
FROM tenantry.job_task t JOIN tenantry.job j ON j.id = t.job_id AND j.finished_at IS NULL
WHERE t.state IN ('runnable', 'blocked', 'done')
ORDER BY 1, 2, 4";
