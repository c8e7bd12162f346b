//! What a plan would make of the nodes: looked at before it runs.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::call::{Planned, planned};
use super::plan::{Bytes, ShardMove, Weights};
use super::sizes::group_bytes;
use crate::error::Result;
use crate::operations::mover::{MoverEnvironment, Notify};
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};

/// One node, before the plan and after it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcome {
    pub groups_before: usize,
    pub groups_after: usize,
    /// As the strategy weighs.
    pub cost_before: f64,
    pub cost_after: f64,
    pub moves_in: usize,
    pub moves_out: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// `tenantry_rebalance_preview`: one row for each active worker, and for others that hold shards.
pub async fn tenantry_rebalance_preview(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let Planned { map, moves, weights } = planned(environment, arguments, notify).await?;
    let bytes = match weights.bytes.is_empty() {
        true => group_bytes(environment, &map).await?,
        false => weights.bytes.clone(),
    };
    let rows = outcomes(&map, &weights, &bytes, &moves).into_iter().map(|(id, outcome)| {
        let node = map.node(id);
        json!({
            "nodeid": id.0,
            "nodename": node.map(|n| n.host.as_str()),
            "nodeport": node.map(|n| n.port),
            "shard_groups_before": outcome.groups_before,
            "shard_groups_after": outcome.groups_after,
            "cost_before": outcome.cost_before,
            "cost_after": outcome.cost_after,
            "moves_in": outcome.moves_in,
            "moves_out": outcome.moves_out,
            "bytes_in": outcome.bytes_in,
            "bytes_out": outcome.bytes_out,
        })
    });
    Ok(Value::Array(rows.collect()))
}

/// Over all colocation groups, those that the plan leaves alone too.
pub fn outcomes(map: &ShardMap, weights: &Weights, bytes: &Bytes, moves: &[ShardMove]) -> BTreeMap<NodeId, Outcome> {
    let mut outcomes: BTreeMap<NodeId, Outcome> =
        map.active_workers().map(|node| (node.id, Outcome::default())).collect();
    let targets: HashMap<ShardGroupId, NodeId> = moves.iter().map(|step| (step.group, step.target)).collect();
    for group in map.colocations().flat_map(|c| &c.shard_groups) {
        let goes = targets.get(&group.id).copied();
        let (cost, bytes) = (weights.told_cost(group.id), bytes.get(&group.id).copied().unwrap_or(0));
        let source = outcomes.entry(group.node).or_default();
        source.groups_before += 1;
        source.cost_before += cost;
        if goes.is_some() {
            source.moves_out += 1;
            source.bytes_out += bytes;
        }
        let target = outcomes.entry(goes.unwrap_or(group.node)).or_default();
        target.groups_after += 1;
        target.cost_after += cost;
        if goes.is_some() {
            target.moves_in += 1;
            target.bytes_in += bytes;
        }
    }
    outcomes
}
