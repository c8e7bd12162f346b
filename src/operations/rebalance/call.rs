//! The SQL functions that move shards, from named arguments (JSON) to a JSON result.
//!
//! They commit as they go, so they must not run inside a client's transaction block (25001), and a client that goes
//! away must not cancel them. Messages are Citus's.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio_postgres::GenericClient;

use super::plan::{Options, ShardMove, Weights, plan};
use super::run::{Limits, carry_out_all};
use super::sizes::{shard_sizes, shards_of};
use super::strategy::Strategy;
use crate::catalog::nodes::set_should_have_shards;
use crate::catalog::pg_error;
use crate::catalog::quote::literal;
use crate::error::{PgError, Result, SqlState};
use crate::operations::mover::{
    MoveRequest, MoverEnvironment, Notice, Notify, TransferMode, group_of, move_shard_group,
};
use crate::shard_map::{ColocationId, Node, NodeId, ShardId, ShardMap, TableOid};

/// `citus_move_shard_placement`, by node names or by node ids. All colocated shards move with it.
pub async fn citus_move_shard_placement(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let mode = TransferMode::of(arguments)?;
    let map = environment.catalog.refresh().await?;
    let (_, group) = group_of(&map, ShardId(integer(arguments, "shard_id")? as u64), "move")?;
    let (source, target) = if arguments.get("source_node_id").is_some() {
        (NodeId(integer(arguments, "source_node_id")? as u32), NodeId(integer(arguments, "target_node_id")? as u32))
    } else {
        let source = (text(arguments, "source_node_name")?, integer(arguments, "source_node_port")?);
        let target = (text(arguments, "target_node_name")?, integer(arguments, "target_node_port")?);
        if source == target {
            return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, "cannot move shard to the same node"));
        }
        let Some(target_node) = node_at(&map, target) else {
            return Err(PgError::unsupported("Moving shards to a non-existing node is not supported")
                .hint(format!("Add the target node via SELECT citus_add_node('{}', {});", target.0, target.1)));
        };
        let Some(source_node) = node_at(&map, source) else {
            return Err(PgError::new(
                SqlState::UNDEFINED_OBJECT,
                format!("could not find placement matching \"{}:{}\"", source.0, source.1),
            )
            .hint("Confirm the placement still exists and try again."));
        };
        (source_node.id, target_node.id)
    };
    move_shard_group(environment, MoveRequest { group, source, target, mode }, notify).await?;
    Ok(Value::Null)
}

/// `rebalance_table_shards`: moves now, in the foreground.
pub async fn rebalance_table_shards(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let mode = TransferMode::of(arguments)?;
    let Planned { moves, .. } = planned(environment, arguments, notify).await?;
    carry_out_all(environment, moves, mode, Limits::of(environment), notify).await?;
    Ok(Value::Null)
}

/// `get_rebalance_table_shards_plan`: one row per shard, so several per shard group.
pub async fn get_rebalance_table_shards_plan(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let Planned { map, moves, .. } = planned(environment, arguments, notify).await?;
    let sizes = shard_sizes(environment, &map).await?;
    let mut rows = Vec::new();
    for step in moves {
        let (source, target) = (map.node(step.source), map.node(step.target));
        for (table, shard) in shards_of(&map, &step) {
            rows.push(json!({
                "table_name": table.oid.0.to_string(),
                "shardid": shard.0,
                "shard_size": sizes.get(&shard).copied().unwrap_or(0),
                "sourcename": source.map(|n| n.host.as_str()),
                "sourceport": source.map(|n| n.port),
                "targetname": target.map(|n| n.host.as_str()),
                "targetport": target.map(|n| n.port),
            }));
        }
    }
    Ok(Value::Array(rows))
}

/// `citus_drain_node`: the node gets no more shards, and those it has go elsewhere. It gets none either when that fails.
pub async fn citus_drain_node(environment: &MoverEnvironment, arguments: &Value, notify: &Notify<'_>) -> Result<Value> {
    let mode = TransferMode::of(arguments)?;
    let (host, port) = (text(arguments, "nodename")?, integer(arguments, "nodeport")?);
    let map = environment.catalog.refresh().await?;
    let Some(node) = node_at(&map, (host, port)) else {
        return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("node at \"{host}:{port}\" does not exist")));
    };
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    // A name that is wrong changes nothing.
    let strategy = arguments.get("rebalance_strategy");
    Strategy::find(&**client, strategy.and_then(Value::as_str)).await?;
    client.batch_execute(&set_should_have_shards(host, node.port, false)).await.map_err(pg_error)?;
    let map = environment.catalog.refresh().await?;
    let has_shards = map.colocations().any(|c| c.shard_groups.iter().any(|g| g.node == node.id));
    if has_shards && !map.active_workers().any(|n| n.should_have_shards) {
        client.batch_execute(&set_should_have_shards(host, node.port, true)).await.map_err(pg_error)?;
        environment.catalog.refresh().await?;
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("cannot drain node {host}:{port} because no other node may hold its shards"),
        )
        .hint("Add a node via citus_add_node, or allow shards on another via citus_set_node_property."));
    }
    let arguments = json!({"rebalance_strategy": strategy, "drain_only": true});
    let emptied = async {
        let Planned { moves, .. } = planned(environment, &arguments, notify).await?;
        carry_out_all(&environment.without_way_back(), moves, mode, Limits::of(environment), notify).await
    };
    emptied.await.map_err(|error| {
        let ways = format!(
            "The node gets no more shards: drain it again, or let it have some by SELECT \
             citus_set_node_property({}, {port}, 'shouldhaveshards', true);",
            literal(host)
        );
        let hint = [error.hint_text().unwrap_or_default(), &ways].join(" ").trim_start().to_owned();
        error.hint(hint)
    })?;
    Ok(Value::Null)
}

/// A plan, and what it was made from.
pub(super) struct Planned {
    pub map: Arc<ShardMap>,
    pub moves: Vec<ShardMove>,
    pub weights: Weights,
}

/// The moves that the arguments ask for, with what they were weighed by.
pub(super) async fn planned(environment: &MoverEnvironment, arguments: &Value, notify: &Notify<'_>) -> Result<Planned> {
    let map = environment.catalog.refresh().await?;
    let (strategy, only) = {
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        let name = arguments.get("rebalance_strategy").and_then(Value::as_str);
        (Strategy::find(&**client, name).await?, only(&**client, &map, arguments).await?)
    };
    let options = options(&map, arguments, &strategy, only, notify);
    let weights = strategy.weigh(environment, &map).await?;
    let moves = plan(&map, &weights, &options);
    Ok(Planned { map, moves, weights })
}

/// The colocation group of the table that the call names, if it names one.
async fn only(client: &impl GenericClient, map: &ShardMap, arguments: &Value) -> Result<Option<ColocationId>> {
    let Some(relation) = arguments.get("relation").and_then(Value::as_u64) else { return Ok(None) };
    if let Some(table) = map.table_by_oid(TableOid(relation as u32)) {
        return Ok(Some(table.colocation));
    }
    let row = client.query_one("SELECT $1::oid::regclass::text", &[&(relation as u32)]).await.map_err(pg_error)?;
    let message = format!("relation {} is not distributed", row.get::<_, &str>(0));
    Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
}

fn options(
    map: &ShardMap,
    arguments: &Value,
    strategy: &Strategy,
    only: Option<ColocationId>,
    notify: &Notify<'_>,
) -> Options {
    let number = |name: &str| arguments.get(name).and_then(Value::as_f64);
    let mut threshold = number("threshold").unwrap_or(strategy.default_threshold);
    if threshold < strategy.minimum_threshold {
        threshold = strategy.minimum_threshold;
        notify(
            Notice::warning(
                "the given threshold is lower than the minimum threshold allowed by the rebalance strategy, using the \
                 minimum allowed threshold instead",
            )
            .detail(format!("Using threshold of {threshold:.2}")),
        );
    }
    let limit = arguments.get("max_shard_moves").and_then(Value::as_i64);
    let excluded = arguments.get("excluded_shard_list").and_then(Value::as_array);
    let excluded: HashSet<_> = excluded
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .filter_map(|shard| map.group_of_shard(ShardId(shard)))
        .map(|(_, group)| group)
        .collect();
    Options {
        threshold,
        improvement_threshold: number("improvement_threshold").unwrap_or(strategy.improvement_threshold),
        max_shard_moves: limit.map(|limit| usize::try_from(limit).unwrap_or(0)),
        excluded,
        drain_only: arguments.get("drain_only").and_then(Value::as_bool).unwrap_or(false),
        only,
    }
}

fn node_at<'a>(map: &'a ShardMap, (host, port): (&str, i64)) -> Option<&'a Node> {
    map.node_at(host, u16::try_from(port).ok()?)
}

pub(super) fn integer(arguments: &Value, name: &str) -> Result<i64> {
    arguments.get(name).and_then(Value::as_i64).ok_or_else(|| missing(name))
}

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str> {
    arguments.get(name).and_then(Value::as_str).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> PgError {
    PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, format!("{name} cannot be NULL"))
}
