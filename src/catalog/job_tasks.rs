//! Tasks of background jobs as rows: each is one move of a shard group.

use std::time::Duration;

use tokio_postgres::{GenericClient, Row};

use super::pg_error;
use crate::error::Result;
use crate::shard_map::{ColocationId, NodeId, ShardGroupId};

/// A move that a job is to do, has begun, or waits to try again.
#[derive(Debug, Clone)]
pub struct Task {
    pub id: i64,
    pub colocation: ColocationId,
    pub group: ShardGroupId,
    pub source: NodeId,
    pub target: NodeId,
    /// How often it has failed.
    pub retries: u32,
    /// It must not begin before this time has passed.
    pub pause: Duration,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEnd {
    Done,
    /// It failed for good.
    Error,
    Cancelled,
    /// The job ended before its turn came.
    Unscheduled,
}

impl TaskEnd {
    fn as_str(self) -> &'static str {
        match self {
            TaskEnd::Done => "done",
            TaskEnd::Error => "error",
            TaskEnd::Cancelled => "cancelled",
            TaskEnd::Unscheduled => "unscheduled",
        }
    }
}

/// `group` of `colocation` from `source` to `target`, as a new task of the job.
pub async fn add(
    client: &impl GenericClient,
    job: i64,
    (colocation, group): (ColocationId, ShardGroupId),
    (source, target): (NodeId, NodeId),
) -> Result<()> {
    let sql = "INSERT INTO tenantry.job_task (job_id, colocationid, shard_group_id, source_node, target_node) \
               VALUES ($1, $2, $3, $4, $5)";
    let (source, target) = (source.0 as i32, target.0 as i32);
    let result = client.execute(sql, &[&job, &(colocation.0 as i32), &(group.0 as i64), &source, &target]).await;
    result.map(|_| ()).map_err(pg_error)
}

/// For who takes the job over: what was running when its last owner died may begin again.
pub async fn take_over(client: &impl GenericClient, job: i64) -> Result<()> {
    let sql =
        "UPDATE tenantry.job_task SET state = 'runnable' WHERE job_id = $1 AND state IN ('running', 'cancelling')";
    client.execute(sql, &[&job]).await.map(|_| ()).map_err(pg_error)
}

/// Those that have not begun, in the order of their ids.
pub async fn runnable(client: &impl GenericClient, job: i64) -> Result<Vec<Task>> {
    let sql = "SELECT id, colocationid, shard_group_id, source_node, target_node, retries, \
                   greatest(extract(epoch FROM not_before - pg_catalog.clock_timestamp()), 0)::pg_catalog.float8 \
               FROM tenantry.job_task WHERE job_id = $1 AND state IN ('runnable', 'blocked') ORDER BY id";
    client.query(sql, &[&job]).await.map_err(pg_error)?.iter().map(read).collect()
}

pub async fn begin(client: &impl GenericClient, task: i64) -> Result<()> {
    let sql = "UPDATE tenantry.job_task SET state = 'running', started_at = coalesce(started_at, pg_catalog.now()), \
               not_before = NULL WHERE id = $1";
    client.execute(sql, &[&task]).await.map(|_| ()).map_err(pg_error)
}

pub async fn end(client: &impl GenericClient, task: i64, how: TaskEnd, message: Option<&str>) -> Result<()> {
    let sql = "UPDATE tenantry.job_task SET state = $2::text::tenantry.citus_task_status, \
               message = coalesce($3, message), finished_at = pg_catalog.now() WHERE id = $1";
    client.execute(sql, &[&task, &how.as_str(), &message]).await.map(|_| ()).map_err(pg_error)
}

/// It has failed and is tried again after `pause`.
pub async fn put_off(client: &impl GenericClient, task: i64, pause: Duration, message: &str) -> Result<()> {
    let sql = "UPDATE tenantry.job_task SET state = 'runnable', retries = retries + 1, message = $3, \
               not_before = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $2) WHERE id = $1";
    client.execute(sql, &[&task, &pause.as_secs_f64(), &message]).await.map(|_| ()).map_err(pg_error)
}

/// What has begun is being given up.
pub async fn give_up(client: &impl GenericClient, job: i64) -> Result<()> {
    let sql = "UPDATE tenantry.job_task SET state = 'cancelling' WHERE job_id = $1 AND state = 'running'";
    client.execute(sql, &[&job]).await.map(|_| ()).map_err(pg_error)
}

/// Ends all that have not begun.
pub async fn end_rest(client: &impl GenericClient, job: i64, how: TaskEnd) -> Result<()> {
    let sql = "UPDATE tenantry.job_task SET state = $2::text::tenantry.citus_task_status, finished_at = pg_catalog.now() \
               WHERE job_id = $1 AND state IN ('runnable', 'blocked')";
    client.execute(sql, &[&job, &how.as_str()]).await.map(|_| ()).map_err(pg_error)
}

fn read(row: &Row) -> Result<Task> {
    let number = |at: usize| row.try_get::<_, i32>(at).map_err(pg_error);
    let group: i64 = row.try_get(2).map_err(pg_error)?;
    let pause: Option<f64> = row.try_get(6).map_err(pg_error)?;
    Ok(Task {
        id: row.try_get(0).map_err(pg_error)?,
        colocation: ColocationId(number(1)? as u32),
        group: ShardGroupId(group as u64),
        source: NodeId(number(3)? as u32),
        target: NodeId(number(4)? as u32),
        retries: number(5)?.max(0) as u32,
        pause: Duration::try_from_secs_f64(pause.unwrap_or(0.0)).unwrap_or_default(),
    })
}
