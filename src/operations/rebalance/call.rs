//! The SQL functions that move shards, from named arguments (JSON) to a JSON result.
//!
//! They commit as they go, so they must not run inside a client's transaction block (25001), and a client that goes
//! away must not cancel them. Messages are Citus's.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::plan::{Costs, Options, RebalanceStrategy, ShardMove, plan};
use super::run::{carry_out, costs, rebalance, shard_sizes};
use crate::catalog::jobs::{self, Job, JobState};
use crate::catalog::nodes::set_should_have_shards;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::operations::mover::{MoveRequest, MoverEnvironment, Notice, Notify, move_shard_group};
use crate::shard_map::{ColocationId, Node, NodeId, ShardGroupId, ShardId, ShardMap, TableOid};

/// Carries out the function called `name`; `master_` forms are Citus's older names.
///
/// Errors: 42883 when it is none of these.
pub async fn call(environment: &MoverEnvironment, name: &str, arguments: &Value, notify: &Notify<'_>) -> Result<Value> {
    match name {
        "citus_move_shard_placement" | "master_move_shard_placement" => {
            citus_move_shard_placement(environment, arguments, notify).await
        }
        "rebalance_table_shards" => rebalance_table_shards(environment, arguments, notify).await,
        "get_rebalance_table_shards_plan" => get_rebalance_table_shards_plan(environment, arguments, notify).await,
        "citus_drain_node" | "master_drain_node" => citus_drain_node(environment, arguments, notify).await,
        "citus_rebalance_start" => citus_rebalance_start(environment, arguments, notify).await,
        "citus_rebalance_status" => citus_rebalance_status(environment, arguments, notify).await,
        "citus_rebalance_wait" => citus_rebalance_wait(environment, arguments, notify).await,
        "citus_rebalance_stop" => citus_rebalance_stop(environment, arguments, notify).await,
        _ => Err(PgError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name} does not move shards"))),
    }
}

/// `citus_move_shard_placement`, by node names or by node ids. All colocated shards move with it.
pub async fn citus_move_shard_placement(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let shard = ShardId(integer(arguments, "shard_id")? as u64);
    let Some((_, group)) = map.group_of_shard(shard) else {
        return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("could not find valid entry for shard {shard}")));
    };
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
    move_shard_group(environment, MoveRequest { group, source, target }, notify).await?;
    Ok(Value::Null)
}

/// `rebalance_table_shards`: moves now, in the foreground.
pub async fn rebalance_table_shards(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let options = options(&*environment.catalog.refresh().await?, arguments)?;
    rebalance(environment, &options, notify).await?;
    Ok(Value::Null)
}

/// `get_rebalance_table_shards_plan`: one row per shard, so several per shard group.
pub async fn get_rebalance_table_shards_plan(
    environment: &MoverEnvironment,
    arguments: &Value,
    _: &Notify<'_>,
) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let sizes = shard_sizes(environment, &map).await?;
    let mut rows = Vec::new();
    for step in planned(environment, &map, &options(&map, arguments)?).await? {
        let (source, target) = (map.node(step.source), map.node(step.target));
        for table in map.tables_of(step.colocation) {
            let shard = table.shards.iter().find(|s| map.group_of_shard(**s).is_some_and(|(_, g)| g == step.group));
            let Some(shard) = shard else { continue };
            rows.push(json!({
                "table_name": table.oid.0.to_string(),
                "shardid": shard.0,
                "shard_size": sizes.get(shard).copied().unwrap_or(0),
                "sourcename": source.map(|n| n.host.as_str()),
                "sourceport": source.map(|n| n.port),
                "targetname": target.map(|n| n.host.as_str()),
                "targetport": target.map(|n| n.port),
            }));
        }
    }
    Ok(Value::Array(rows))
}

/// `citus_drain_node`: the node gets no more shards, and those it has go elsewhere.
pub async fn citus_drain_node(environment: &MoverEnvironment, arguments: &Value, notify: &Notify<'_>) -> Result<Value> {
    let (host, port) = (text(arguments, "nodename")?, integer(arguments, "nodeport")?);
    let map = environment.catalog.refresh().await?;
    let Some(node) = node_at(&map, (host, port)) else {
        return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("node at \"{host}:{port}\" does not exist")));
    };
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    client.batch_execute(&set_should_have_shards(host, node.port, false)).await.map_err(pg_error)?;
    let strategy = strategy(arguments)?;
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
    rebalance(environment, &Options { drain_only: true, ..Options::new(strategy) }, notify).await?;
    Ok(Value::Null)
}

/// `citus_rebalance_start`: the same in the background; answers the job's id, 0 when there is nothing to do.
pub async fn citus_rebalance_start(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let moves = planned(environment, &map, &options(&map, arguments)?).await?;
    let mut pooled = environment.catalog.client(NodeId::COORDINATOR).await?;
    let client: &mut tokio_postgres::Client = &mut pooled;
    let transaction = client.transaction().await.map_err(pg_error)?;
    // One rebalance at a time, also when two are started at the same moment.
    transaction.batch_execute("LOCK TABLE tenantry.job IN SHARE ROW EXCLUSIVE MODE").await.map_err(pg_error)?;
    if let Some(running) = jobs::unfinished(&transaction).await?.iter().find(|job| job.kind == KIND) {
        return Err(PgError::new(
            SqlState::OBJECT_IN_USE,
            format!("A rebalance is already running as job {}", running.id),
        )
        .detail("A rebalance was already scheduled as background job")
        .hint("To monitor progress, run: SELECT * FROM citus_rebalance_status();"));
    }
    if moves.is_empty() {
        notify(Notice::new("No moves available for rebalancing"));
        return Ok(json!(0));
    }
    let listed: Vec<Value> = moves
        .iter()
        .map(|m| json!({"colocation": m.colocation.0, "group": m.group.0, "source": m.source.0, "target": m.target.0}))
        .collect();
    let id = jobs::add(&transaction, KIND, &json!({"moves": listed}), "Rebalance all colocation groups").await?;
    transaction.commit().await.map_err(pg_error)?;
    notify(
        Notice::new(format!("Scheduled {} moves as job {id}", moves.len()))
            .detail("Rebalance scheduled as background job")
            .hint("To monitor progress, run: SELECT * FROM citus_rebalance_status();"),
    );
    Ok(json!(id))
}

/// Does a job of `citus_rebalance_start`, or the rest of it after a crash. For the job runner.
///
/// Errors are stored in the job; this returns those of the catalog only.
pub async fn run_rebalance_job(environment: &MoverEnvironment, job: &Job, notify: &Notify<'_>) -> Result<()> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    jobs::advance(&**client, job.id, JobState::Scheduled, JobState::Running, None).await?;
    for step in listed_moves(job) {
        match jobs::find(&**client, job.id).await?.map(|job| job.state) {
            Some(JobState::Running) => {}
            Some(JobState::Cancelling) => {
                jobs::advance(&**client, job.id, JobState::Cancelling, JobState::Cancelled, None).await?;
                return Ok(());
            }
            _ => return Ok(()),
        }
        let map = environment.catalog.refresh().await?;
        let home = map.colocation(step.colocation).and_then(|c| c.group(step.group)).map(|g| g.node);
        if home != Some(step.source) {
            continue; // done before a crash, moved by hand, or dropped
        }
        if let Err(error) = carry_out(environment, &step, notify).await {
            jobs::advance(&**client, job.id, JobState::Running, JobState::Failed, Some(&error.to_string())).await?;
            jobs::advance(&**client, job.id, JobState::Cancelling, JobState::Cancelled, Some(&error.to_string()))
                .await?;
            return Ok(());
        }
    }
    if !jobs::advance(&**client, job.id, JobState::Running, JobState::Finished, None).await? {
        jobs::advance(&**client, job.id, JobState::Cancelling, JobState::Cancelled, None).await?;
    }
    Ok(())
}

/// `citus_rebalance_status`: the newest rebalance, with its moves.
pub async fn citus_rebalance_status(environment: &MoverEnvironment, _: &Value, _: &Notify<'_>) -> Result<Value> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    let row = client.query_opt(STATUS, &[&KIND]).await.map_err(pg_error)?;
    let Some(row) = row else { return Ok(json!([])) };
    let text: String = row.try_get(0).map_err(pg_error)?;
    let status: Value = serde_json::from_str(&text)
        .map_err(|e| PgError::new(SqlState::INTERNAL_ERROR, format!("could not read a job's status: {e}")))?;
    Ok(json!([status]))
}

/// `citus_rebalance_wait`: returns when no rebalance is running.
pub async fn citus_rebalance_wait(environment: &MoverEnvironment, _: &Value, _: &Notify<'_>) -> Result<Value> {
    loop {
        // The connection goes back while we sleep: many may wait.
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        if !jobs::unfinished(&**client).await?.iter().any(|job| job.kind == KIND) {
            return Ok(Value::Null);
        }
        drop(client);
        tokio::time::sleep(WAIT_PAUSE).await;
    }
}

/// `citus_rebalance_stop`: the running move comes to its end, no further one starts.
pub async fn citus_rebalance_stop(environment: &MoverEnvironment, _: &Value, _: &Notify<'_>) -> Result<Value> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    for job in jobs::unfinished(&**client).await?.into_iter().filter(|job| job.kind == KIND) {
        if jobs::advance(&**client, job.id, JobState::Scheduled, JobState::Cancelled, None).await?
            || jobs::advance(&**client, job.id, JobState::Running, JobState::Cancelling, None).await?
        {
            return Ok(Value::Null);
        }
    }
    Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "no ongoing rebalance that can be stopped"))
}

async fn planned(environment: &MoverEnvironment, map: &ShardMap, options: &Options) -> Result<Vec<ShardMove>> {
    let costs = match options.strategy {
        RebalanceStrategy::ByDiskSize => costs(environment, map).await?,
        RebalanceStrategy::ByShardCount => Costs::new(),
    };
    Ok(plan(map, &costs, options))
}

fn listed_moves(job: &Job) -> Vec<ShardMove> {
    let number = |step: &Value, key: &str| step.get(key).and_then(Value::as_u64);
    let read = |step: &Value| {
        Some(ShardMove {
            colocation: ColocationId(number(step, "colocation")? as u32),
            group: ShardGroupId(number(step, "group")?),
            source: NodeId(number(step, "source")? as u32),
            target: NodeId(number(step, "target")? as u32),
        })
    };
    job.arguments.get("moves").and_then(Value::as_array).into_iter().flatten().filter_map(read).collect()
}

fn options(map: &ShardMap, arguments: &Value) -> Result<Options> {
    let mut options = Options::new(strategy(arguments)?);
    if let Some(threshold) = arguments.get("threshold").and_then(Value::as_f64) {
        options.threshold = threshold;
    }
    if let Some(threshold) = arguments.get("improvement_threshold").and_then(Value::as_f64) {
        options.improvement_threshold = threshold;
    }
    if let Some(limit) = arguments.get("max_shard_moves").and_then(Value::as_i64) {
        options.max_shard_moves = usize::try_from(limit).unwrap_or(0);
    }
    options.drain_only = arguments.get("drain_only").and_then(Value::as_bool).unwrap_or(false);
    let excluded = arguments.get("excluded_shard_list").and_then(Value::as_array);
    options.excluded = excluded
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .filter_map(|shard| map.group_of_shard(ShardId(shard)))
        .map(|(_, group)| group)
        .collect::<HashSet<_>>();
    if let Some(relation) = arguments.get("relation").and_then(Value::as_u64) {
        let table = map.table_by_oid(TableOid(relation as u32)).ok_or_else(|| {
            PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "relation is not distributed")
                .detail(format!("The relation with oid {relation} is not a distributed table."))
        })?;
        options.only = Some(table.colocation);
    }
    Ok(options)
}

fn strategy(arguments: &Value) -> Result<RebalanceStrategy> {
    match arguments.get("rebalance_strategy").and_then(Value::as_str) {
        None | Some("by_disk_size") => Ok(RebalanceStrategy::ByDiskSize),
        Some("by_shard_count") => Ok(RebalanceStrategy::ByShardCount),
        Some(other) => Err(PgError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("could not find rebalance strategy with name {other}"),
        )
        .hint("Strategies are by_disk_size and by_shard_count.")),
    }
}

fn node_at<'a>(map: &'a ShardMap, (host, port): (&str, i64)) -> Option<&'a Node> {
    map.node_at(host, u16::try_from(port).ok()?)
}

fn integer(arguments: &Value, name: &str) -> Result<i64> {
    arguments.get(name).and_then(Value::as_i64).ok_or_else(|| missing(name))
}

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str> {
    arguments.get(name).and_then(Value::as_str).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> PgError {
    PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, format!("{name} cannot be NULL"))
}

/// The kind of a rebalance in `tenantry.job`; `job_type` in what users see.
pub const KIND: &str = "rebalance";

const WAIT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// One row, as JSON. A move of the job is known by its group, its ends, and that it began after the job was written.
const STATUS: &str = r#"
WITH j AS (SELECT * FROM tenantry.job WHERE kind = $1 ORDER BY id DESC LIMIT 1),
moves AS (
    SELECT m.*, w.ordinality AS task_id, s.nodename || ':' || s.nodeport AS source, t.nodename || ':' || t.nodeport AS target,
        CASE WHEN m.state = 'done' OR m.state = 'switched' THEN 'done' WHEN m.state = 'failed' THEN 'error'
             WHEN m.state IS NOT NULL THEN 'running'
             WHEN j.state IN ('cancelled', 'cancelling') THEN 'cancelled' WHEN j.state = 'failed' THEN 'unscheduled'
             WHEN j.state = 'finished' THEN 'done' ELSE 'runnable' END AS task_state, (w.value ->> 'group')::bigint AS group_id
    FROM j, jsonb_array_elements(j.arguments -> 'moves') WITH ORDINALITY w
    LEFT JOIN LATERAL (
        SELECT * FROM tenantry.shard_move m
        WHERE m.shard_group_id = (w.value ->> 'group')::bigint AND m.source_node = (w.value ->> 'source')::int
        AND m.target_node = (w.value ->> 'target')::int AND m.started_at >= j.created_at ORDER BY moveid DESC LIMIT 1) m ON true
    LEFT JOIN tenantry.node s ON s.nodeid = (w.value ->> 'source')::int
    LEFT JOIN tenantry.node t ON t.nodeid = (w.value ->> 'target')::int
)
SELECT jsonb_build_object('job_id', j.id, 'state', j.state, 'job_type', j.kind, 'description', j.description,
    'started_at', j.started_at, 'finished_at', j.finished_at, 'details', jsonb_build_object(
        'tasks', (SELECT coalesce(jsonb_agg(jsonb_build_object('task_id', task_id, 'state', task_state, 'phase', phase,
            'hosts', jsonb_build_object('source', source, 'target', target),
            'size', jsonb_build_object('source', pg_size_pretty(bytes_total), 'target', pg_size_pretty(bytes_copied)),
            'command', format('SELECT pg_catalog.citus_move_shard_placement(%s,%s,%s,''auto'')', group_id, source_node, target_node),
            'message', coalesce(error, ''), 'retried', 0) ORDER BY task_id), '[]')
            FROM moves WHERE task_state IN ('running', 'error')),
        'task_state_counts', (SELECT coalesce(jsonb_object_agg(task_state, n), '{}')
            FROM (SELECT task_state, count(*) AS n FROM moves GROUP BY task_state) c)))::text
FROM j"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_strategy_is_refused() {
        let error = options(&ShardMap::default(), &json!({"rebalance_strategy": "by_magic"})).unwrap_err();
        assert_eq!(error.message(), "could not find rebalance strategy with name by_magic");
    }

    #[test]
    fn arguments_left_out_or_null_take_the_defaults() {
        let options = options(&ShardMap::default(), &json!({"threshold": null, "max_shard_moves": 3})).unwrap();
        assert_eq!((options.strategy, options.max_shard_moves), (RebalanceStrategy::ByDiskSize, 3));
        assert!((options.threshold - 0.1).abs() < 1e-9 && !options.drain_only);
    }

    #[test]
    fn the_moves_of_a_job_are_read_back() {
        let arguments = json!({"moves": [{"colocation": 1, "group": 102008, "source": 1, "target": 2}, {"broken": 1}]});
        let (kind, description) = (KIND.to_owned(), String::new());
        let job = Job { id: 1, kind, state: JobState::Running, arguments, description, error: None };
        assert_eq!(listed_moves(&job).len(), 1);
    }
}
