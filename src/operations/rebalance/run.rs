//! Measures, plans, and has the mover do it: one move after the other.

use super::plan::{Costs, Options, RebalanceStrategy, ShardMove, plan};
use crate::catalog::pg_error;
use crate::catalog::shards::{Measure, sizes};
use crate::error::Result;
use crate::operations::mover::{MoveReport, MoveRequest, MoverEnvironment, Notice, Notify, move_shard_group};
use crate::shard_map::{NodeId, ShardMap};

/// Moves shard groups until the plan is empty. A move that fails ends it; those before it stay.
pub async fn rebalance(
    environment: &MoverEnvironment,
    options: &Options,
    notify: &Notify<'_>,
) -> Result<Vec<MoveReport>> {
    let map = environment.catalog.refresh().await?;
    let costs = match options.strategy {
        RebalanceStrategy::ByDiskSize => costs(environment, &map).await?,
        RebalanceStrategy::ByShardCount => Costs::new(),
    };
    let mut reports = Vec::new();
    for step in plan(&map, &costs, options) {
        reports.extend(carry_out(environment, &step, notify).await?);
    }
    Ok(reports)
}

/// One step of a plan; None when somebody else has done it meanwhile.
pub async fn carry_out(
    environment: &MoverEnvironment,
    step: &ShardMove,
    notify: &Notify<'_>,
) -> Result<Option<MoveReport>> {
    let map = environment.catalog.map();
    notify(Notice::new(format!(
        "Moving shard {} from {} to {} ...",
        step.group,
        address(&map, step.source),
        address(&map, step.target)
    )));
    let request = MoveRequest { group: step.group, source: step.source, target: step.target };
    move_shard_group(environment, request, notify).await
}

/// Bytes of every shard group, all its tables with their indexes, asked of each node once.
pub async fn costs(environment: &MoverEnvironment, map: &ShardMap) -> Result<Costs> {
    let mut costs = Costs::new();
    for (shard, bytes) in shard_sizes(environment, map).await? {
        if let Some((_, group)) = map.group_of_shard(shard) {
            *costs.entry(group).or_default() += bytes;
        }
    }
    Ok(costs)
}

/// Bytes of every shard, for plans that are shown.
pub async fn shard_sizes(
    environment: &MoverEnvironment,
    map: &ShardMap,
) -> Result<std::collections::HashMap<crate::shard_map::ShardId, u64>> {
    let mut found = std::collections::HashMap::new();
    for node in map.active_workers() {
        let Some(sql) = sizes(map, node.id, None, Measure::Total) else { continue };
        let client = environment.catalog.client(node.id).await?;
        for row in client.query(&sql, &[]).await.map_err(pg_error)? {
            let shard = row.try_get::<_, i32>(0).map(i64::from).or_else(|_| row.try_get::<_, i64>(0));
            let bytes: Option<i64> = row.try_get(1).map_err(pg_error)?;
            let shard = crate::shard_map::ShardId(shard.map_err(pg_error)? as u64);
            found.insert(shard, bytes.unwrap_or(0).max(0) as u64);
        }
    }
    Ok(found)
}

/// `host:port`, as messages show it.
pub fn address(map: &ShardMap, node: NodeId) -> String {
    map.node(node).map_or_else(|| format!("node {node}"), |n| format!("{}:{}", n.host, n.port))
}
