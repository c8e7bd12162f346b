//! Rebalances in the background: a row of `tenantry.job` with a task for each move.
//!
//! ```text
//!   citus_rebalance_start ──> job scheduled, tasks runnable
//!   jobs/rebalances.rs    ──> run_rebalance_job: running ──> every task done          ──> finished
//!                                  │ citus_rebalance_stop: cancelling, moves given up  ──> cancelled
//!                                  └ a task fails for good                             ──> failed
//! ```
//!
//! A task that fails for a reason that may pass (a node that is down, locks that were not to be had) is tried again, with
//! growing pauses. Messages are Citus's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::call::{Planned, integer, planned};
use super::left;
use super::plan::ShardMove;
use super::positions::{Position, positions};
use super::run::{Limits, carry_out};
use crate::catalog::job_tasks::{self, Task, TaskEnd};
use crate::catalog::jobs::{self, Job, JobState};
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::operations::mover::cancel::wish_end;
use crate::operations::mover::{MoverEnvironment, Notice, Notify, TransferMode};
use crate::shard_map::NodeId;

/// `citus_rebalance_start`: plans now, moves in the background; answers the job's id, 0 when there is nothing to do.
pub async fn citus_rebalance_start(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    TransferMode::of(arguments)?;
    // In the caller's word, which is shown to those who ask after the job.
    let mode = arguments.get(TRANSFER_MODE).and_then(Value::as_str).unwrap_or("auto").to_owned();
    let Planned { moves, .. } = planned(environment, arguments, notify).await?;
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
    let colocated = arguments.get(COLOCATED).and_then(Value::as_bool).unwrap_or(false);
    let drains = arguments.get(DRAINS).and_then(Value::as_bool).unwrap_or(false);
    let per_node = environment.settings.per_node;
    let arguments = json!({ COLOCATED: colocated, TRANSFER_MODE: mode, DRAINS: drains, PER_NODE: per_node });
    let id = jobs::add(&transaction, KIND, &arguments, "Rebalance all colocation groups").await?;
    for step in &moves {
        job_tasks::add(&transaction, id, (step.colocation, step.group), (step.source, step.target)).await?;
    }
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
/// Errors of moves are stored in the job; this returns those of the catalog only.
pub async fn run_rebalance_job(environment: &MoverEnvironment, job: &Job, notify: &Notify<'_>) -> Result<()> {
    {
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        jobs::advance(&**client, job.id, JobState::Scheduled, JobState::Running, None).await?;
        job_tasks::take_over(&**client, job.id).await?;
    }
    let colocated = job.arguments.get(COLOCATED).and_then(Value::as_bool).unwrap_or(false);
    let mode = TransferMode::of(&job.arguments)?;
    let drains = job.arguments.get(DRAINS).and_then(Value::as_bool).unwrap_or(false);
    let per_node = job.arguments.get(PER_NODE).and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok());
    let environment = environment.with_moves_per_node(per_node);
    let environment = &if drains { environment.without_way_back() } else { environment };
    let (mut running, mut under_way) = (Vec::<ShardMove>::new(), FuturesUnordered::new());
    let mut failed: Option<PgError> = None;
    let mut pauses = Pauses::default();
    loop {
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        let now = jobs::find(&**client, job.id).await?;
        let state = now.as_ref().map(|job| job.state);
        let gives_up = now.is_some_and(|job| job.gives_up());
        if gives_up {
            job_tasks::give_up(&**client, job.id).await?;
            // One that waits for its locks has no row yet: it is told again.
            for step in &running {
                wish_end(&client, step.group, step.source, step.target).await?;
            }
        }
        let waiting = match (&failed, state) {
            (None, Some(JobState::Running)) => job_tasks::runnable(&**client, job.id).await?,
            _ => Vec::new(),
        };
        // The limit may change while the job runs.
        let limits = Limits { colocated, ..Limits::of(environment) };
        for task in &waiting {
            let step = step(task);
            if pauses.left(task).is_zero() && limits.admit(&step, running.iter()) {
                job_tasks::begin(&**client, task.id).await?;
                running.push(step.clone());
                let task = task.clone();
                under_way
                    .push(async move { (carry_out(environment, &step, mode, notify).await.map(|_| ()), task, step) });
            }
        }
        drop(client);
        if under_way.is_empty() {
            // Whoever waits for his time to come again is waited for.
            let Some(pause) = waiting.iter().map(|task| pauses.left(task)).min() else { break };
            tokio::time::sleep(pause.min(LOOK_EVERY)).await;
            continue;
        }
        let look_again = tokio::time::sleep(LOOK_EVERY);
        let (ended, task, step) = tokio::select! {
            Some(ended) = under_way.next() => ended,
            () = look_again => continue,
        };
        running.retain(|other| *other != step);
        if let Err(error) = note_end(environment, &task, ended, gives_up).await? {
            failed = failed.or(Some(error));
        }
    }
    finish(environment, job, failed).await
}

/// How long tasks that have failed are still put off, by this process's clock: the coordinator's may jump. What that says counts
/// once, for a job that is taken over.
#[derive(Default)]
struct Pauses {
    /// By task and how often it has failed: when it may begin.
    until: HashMap<(i64, u32), Instant>,
}

impl Pauses {
    fn left(&mut self, task: &Task) -> Duration {
        let most = if task.retries == 0 { Duration::ZERO } else { retry_pause(task.retries - 1) };
        let until = self.until.entry((task.id, task.retries)).or_insert_with(|| Instant::now() + task.pause.min(most));
        until.saturating_duration_since(Instant::now())
    }
}

/// Before the next attempt at a task that has failed once more than `retries` times.
fn retry_pause(retries: u32) -> Duration {
    RETRY_PAUSE * 2u32.pow(retries.min(RETRIES_MAX))
}

fn step(task: &Task) -> ShardMove {
    ShardMove { colocation: task.colocation, group: task.group, source: task.source, target: task.target }
}

/// The inner error is one that ends the job.
async fn note_end(
    environment: &MoverEnvironment,
    task: &Task,
    ended: Result<()>,
    gives_up: bool,
) -> Result<Result<()>> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    match ended {
        Ok(()) => job_tasks::end(&**client, task.id, TaskEnd::Done, None).await?,
        Err(error) if gives_up => {
            job_tasks::end(&**client, task.id, TaskEnd::Cancelled, Some(&error.to_string())).await?;
        }
        Err(error) if may_pass(&error) && task.retries < RETRIES_MAX => {
            job_tasks::put_off(&**client, task.id, retry_pause(task.retries), &error.to_string()).await?;
        }
        Err(error) => {
            job_tasks::end(&**client, task.id, TaskEnd::Error, Some(&error.to_string())).await?;
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// A node that could not be reached, locks that were not to be had: next time it may work.
pub fn may_pass(error: &PgError) -> bool {
    // Who cancels a move does not want it again.
    error.code() != SqlState::OPERATOR_INTERVENTION
        && (matches!(error.code().class(), "08" | "40" | "53" | "57") || error.code() == SqlState::LOCK_NOT_AVAILABLE)
}

async fn finish(environment: &MoverEnvironment, job: &Job, failed: Option<PgError>) -> Result<()> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    let error = failed.map(|error| error.to_string());
    let (end, rest) = match error {
        Some(_) => (JobState::Failed, TaskEnd::Unscheduled),
        None => (JobState::Finished, TaskEnd::Cancelled),
    };
    if !jobs::advance(&**client, job.id, JobState::Running, end, error.as_deref()).await? {
        jobs::advance(&**client, job.id, JobState::Cancelling, JobState::Cancelled, error.as_deref()).await?;
    }
    job_tasks::end_rest(&**client, job.id, rest).await
}

/// `citus_rebalance_status`: the newest rebalance, with its moves.
pub async fn citus_rebalance_status(environment: &MoverEnvironment, arguments: &Value) -> Result<Value> {
    status(environment, None, is_raw(arguments)).await
}

/// `citus_job_status`: the same of any job. Errors: 42704 when there is no such job.
pub async fn citus_job_status(environment: &MoverEnvironment, arguments: &Value) -> Result<Value> {
    let id = integer(arguments, "job_id")?;
    match status(environment, Some(id), is_raw(arguments)).await? {
        Value::Array(rows) if rows.is_empty() => Err(no_such_job(id)),
        rows => Ok(rows),
    }
}

/// Are sizes wanted as numbers of bytes?
fn is_raw(arguments: &Value) -> bool {
    arguments.get("raw").and_then(Value::as_bool).unwrap_or(false)
}

async fn status(environment: &MoverEnvironment, job: Option<i64>, is_raw: bool) -> Result<Value> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    let row = client.query_opt(STATUS, &[&KIND, &job, &is_raw]).await.map_err(pg_error)?;
    let Some(row) = row else { return Ok(json!([])) };
    let text: String = row.try_get(0).map_err(pg_error)?;
    let mut status: Value = serde_json::from_str(&text)
        .map_err(|e| PgError::new(SqlState::INTERNAL_ERROR, format!("could not read a job's status: {e}")))?;
    if let Some(id) = status["job_id"].as_i64() {
        left::tell(environment, id, &mut status["details"]).await?;
    }
    let tasks = status.pointer_mut("/details/tasks").and_then(Value::as_array_mut).filter(|tasks| !tasks.is_empty());
    if let Some(tasks) = tasks {
        let positions = positions(environment).await?;
        for task in tasks {
            let move_id = task.get("move_id").and_then(Value::as_i64);
            let Some(Position { source, target, lag }) = move_id.and_then(|id| positions.get(&id)) else { continue };
            let lag = if is_raw { json!(lag) } else { json!(in_words(&client, *lag).await?) };
            task["LSN"] = json!({ "lag": lag, "source": source, "target": target });
        }
    }
    Ok(json!([status]))
}

/// As Postgres prints a number of bytes for people.
async fn in_words(client: &Client, bytes: i64) -> Result<String> {
    let row = client.query_one("SELECT pg_catalog.pg_size_pretty($1::pg_catalog.int8)", &[&bytes]).await;
    row.map_err(pg_error)?.try_get(0).map_err(pg_error)
}

/// `citus_rebalance_wait`: returns when no rebalance is running.
pub async fn citus_rebalance_wait(environment: &MoverEnvironment) -> Result<Value> {
    loop {
        // The connection goes back while we sleep: many may wait.
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        if !jobs::unfinished(&**client).await?.iter().any(|job| job.kind == KIND) {
            return Ok(Value::Null);
        }
        drop(client);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `citus_job_wait`: returns when the job is in the desired state, or has ended when none is named.
///
/// Errors: 42704 when there is no such job, 55000 when it has ended in another state.
pub async fn citus_job_wait(environment: &MoverEnvironment, arguments: &Value) -> Result<Value> {
    let id = integer(arguments, "jobid")?;
    await_state(
        environment,
        arguments,
        "SELECT state::text, finished_at IS NOT NULL FROM tenantry.job WHERE id = $1",
        id,
    )
    .await?
    .ok_or_else(|| no_such_job(id))
}

/// `citus_task_wait`: the same for one task.
pub async fn citus_task_wait(environment: &MoverEnvironment, arguments: &Value) -> Result<Value> {
    let id = integer(arguments, "taskid")?;
    let sql = "SELECT state::text, finished_at IS NOT NULL FROM tenantry.job_task WHERE id = $1";
    await_state(environment, arguments, sql, id)
        .await?
        .ok_or_else(|| PgError::new(SqlState::UNDEFINED_OBJECT, format!("no task found with taskid: {id}")))
}

/// `None` when the row is not there.
async fn await_state(environment: &MoverEnvironment, arguments: &Value, sql: &str, id: i64) -> Result<Option<Value>> {
    let desired = arguments.get("desired_status").and_then(Value::as_str);
    loop {
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        let Some(row) = client.query_opt(sql, &[&id]).await.map_err(pg_error)? else { return Ok(None) };
        let (state, is_over): (String, bool) = (row.try_get(0).map_err(pg_error)?, row.try_get(1).map_err(pg_error)?);
        match desired {
            Some(desired) if state == desired => return Ok(Some(Value::Null)),
            Some(desired) if is_over => {
                return Err(PgError::new(
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("will not reach the desired status \"{desired}\": it has ended as \"{state}\""),
                ));
            }
            None if is_over => return Ok(Some(Value::Null)),
            _ => {}
        }
        drop(client);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `citus_rebalance_stop`: the running moves are given up, no further one starts.
pub async fn citus_rebalance_stop(environment: &MoverEnvironment) -> Result<Value> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    for job in jobs::unfinished(&**client).await?.into_iter().filter(|job| job.kind == KIND) {
        if cancel(environment, job.id).await? {
            return Ok(Value::Null);
        }
    }
    Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "no ongoing rebalance that can be stopped"))
}

/// `citus_job_cancel`, as `citus_rebalance_stop`. A job that has ended stays as it is. Errors: 42704 when there is no such job.
pub async fn citus_job_cancel(environment: &MoverEnvironment, arguments: &Value) -> Result<Value> {
    let id = integer(arguments, "jobid")?;
    if !cancel(environment, id).await? {
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        jobs::find(&**client, id).await?.ok_or_else(|| no_such_job(id))?;
    }
    Ok(Value::Null)
}

async fn cancel(environment: &MoverEnvironment, id: i64) -> Result<bool> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    if jobs::advance(&**client, id, JobState::Scheduled, JobState::Cancelled, None).await? {
        job_tasks::end_rest(&**client, id, TaskEnd::Cancelled).await?;
        return Ok(true);
    }
    jobs::give_up(&**client, id).await?;
    jobs::advance(&**client, id, JobState::Running, JobState::Cancelling, None).await
}

fn no_such_job(id: i64) -> PgError {
    PgError::new(SqlState::UNDEFINED_OBJECT, format!("no job found with jobid: {id}"))
        .hint("SELECT * FROM citus_job_list(); shows all jobs.")
}

/// The kind of a rebalance in `tenantry.job`; `job_type` in what users see.
pub const KIND: &str = "rebalance";
/// Argument of `citus_rebalance_start`, kept in the job.
const COLOCATED: &str = "parallel_transfer_colocated_shards";
const TRANSFER_MODE: &str = "shard_transfer_mode";
const DRAINS: &str = "drain_only";
/// What the session that started it had set for moves on one node; null: nothing.
const PER_NODE: &str = "moves_per_node";

const LOOK_EVERY: Duration = Duration::from_millis(100);
const RETRIES_MAX: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// One row, as JSON; $3: sizes in bytes. A task's move is known by its group, its ends, and that it began after the task did.
const STATUS: &str = r#"
WITH j AS (SELECT * FROM tenantry.job WHERE CASE WHEN $2::bigint IS NULL THEN kind = $1 ELSE id = $2 END ORDER BY id DESC LIMIT 1),
tasks AS (
    SELECT t.id, t.state, t.retries, t.message, m.moveid,
        (SELECT min(s.shardid) FROM tenantry.shard s WHERE s.shard_group_id = t.shard_group_id) AS shard, coalesce(j.arguments ->> 'shard_transfer_mode', 'auto') AS mode, t.source_node, t.target_node,
        s.nodename || ':' || s.nodeport AS source, d.nodename || ':' || d.nodeport AS target,
        m.phase, m.bytes_total, m.bytes_copied, m.hold_microseconds, m.attempts, m.error,
        m.copy_microseconds / 1e6 AS seconds
    FROM j JOIN tenantry.job_task t ON t.job_id = j.id
    LEFT JOIN LATERAL (
        SELECT * FROM tenantry.shard_move m
        WHERE m.shard_group_id = t.shard_group_id AND m.source_node = t.source_node AND NOT m.is_rehearsal
        AND m.target_node = t.target_node AND m.started_at >= t.started_at ORDER BY moveid DESC LIMIT 1) m ON true
    LEFT JOIN tenantry.node s ON s.nodeid = t.source_node
    LEFT JOIN tenantry.node d ON d.nodeid = t.target_node
)
SELECT jsonb_build_object('job_id', j.id, 'state', j.state, 'job_type', j.kind, 'description', j.description,
    'started_at', j.started_at, 'finished_at', j.finished_at, 'details', jsonb_build_object(
        'tasks', (SELECT coalesce(jsonb_agg(jsonb_build_object('task_id', id, 'state', state, 'phase', phase,
            'hosts', jsonb_build_object('source', source, 'target', target),
            'move_id', moveid, 'size', jsonb_build_object(
                'source', CASE WHEN $3 THEN to_jsonb(bytes_total) ELSE to_jsonb(pg_size_pretty(bytes_total)) END,
                'target', CASE WHEN $3 THEN to_jsonb(bytes_copied) ELSE to_jsonb(pg_size_pretty(bytes_copied)) END),
            'command', format('SELECT pg_catalog.citus_move_shard_placement(%s,%s,%s,%L)', shard, source_node, target_node, mode),
            'message', coalesce(message, error, ''), 'retried', retries,
            'bytes', bytes_total, 'bytes_copied', bytes_copied,
            'bytes_per_second', CASE WHEN seconds > 0 THEN round(bytes_copied / seconds) END,
            'estimated_seconds_left', CASE WHEN bytes_copied > 0
                THEN round(greatest(bytes_total - bytes_copied, 0) * seconds / bytes_copied, 1) END) ORDER BY id), '[]')
            FROM tasks WHERE state IN ('running', 'cancelling', 'error')),
        'task_state_counts', (SELECT coalesce(jsonb_object_agg(state, n), '{}')
            FROM (SELECT state, count(*) AS n FROM tasks GROUP BY state) c),
        'bytes_moved', (SELECT coalesce(sum(bytes_copied), 0) FROM tasks WHERE state = 'done'),
        'hold_milliseconds', (SELECT jsonb_build_object('longest', round(max(hold_microseconds) / 1000.0, 1),
            'average', round(avg(hold_microseconds) / 1000.0, 1)) FROM tasks WHERE hold_microseconds IS NOT NULL)))::text
FROM j"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_put_back_puts_no_task_off_for_longer_than_its_pause() {
        let task = |retries, seconds| Task {
            id: 1,
            colocation: crate::shard_map::ColocationId(1),
            group: crate::shard_map::ShardGroupId(2),
            source: NodeId(1),
            target: NodeId(2),
            retries,
            pause: Duration::from_secs(seconds),
        };
        let mut pauses = Pauses::default();
        assert!(pauses.left(&task(0, 3600)).is_zero());
        let left = pauses.left(&task(2, 3600));
        assert!(left > Duration::from_secs(1) && left <= Duration::from_secs(2), "{left:?}");
        assert!(!pauses.left(&task(2, 0)).is_zero(), "nor does one that was put forward bring it on");
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let error = |code| PgError::new(code, "x");
        assert!(may_pass(&error(SqlState::CONNECTION_FAILURE)));
        assert!(may_pass(&error(SqlState::LOCK_NOT_AVAILABLE)));
        assert!(may_pass(&error(SqlState::QUERY_CANCELED)) && !may_pass(&error(SqlState::OPERATOR_INTERVENTION)));
        assert!(!may_pass(&error(SqlState::DATA_CORRUPTED)));
        assert!(!may_pass(&error(SqlState::FEATURE_NOT_SUPPORTED)));
    }
}
