//! Background jobs as rows: written by operations, taken and stepped by `jobs/`. Channel `tenantry_jobs` rings.

use tokio_postgres::{GenericClient, Row};

use super::pg_error;
use crate::error::{PgError, Result, SqlState};

/// Citus's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Scheduled,
    Running,
    Finished,
    Cancelling,
    Cancelled,
    Failing,
    Failed,
}

impl JobState {
    const ALL: [JobState; 7] = [
        JobState::Scheduled,
        JobState::Running,
        JobState::Finished,
        JobState::Cancelling,
        JobState::Cancelled,
        JobState::Failing,
        JobState::Failed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Scheduled => "scheduled",
            JobState::Running => "running",
            JobState::Finished => "finished",
            JobState::Cancelling => "cancelling",
            JobState::Cancelled => "cancelled",
            JobState::Failing => "failing",
            JobState::Failed => "failed",
        }
    }

    /// Nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Finished | JobState::Cancelled | JobState::Failed)
    }
}

#[derive(Debug, Clone)]
pub struct Job {
    pub id: i64,
    pub kind: String,
    pub state: JobState,
    pub arguments: serde_json::Value,
    pub description: String,
    pub error: Option<String>,
}

impl Job {
    /// Is what is under way to be given up?
    pub fn gives_up(&self) -> bool {
        self.state == JobState::Cancelling && self.arguments.get(GIVES_UP).is_some_and(|wish| *wish == true)
    }
}

/// Answers the new job's id.
pub async fn add(
    client: &impl GenericClient,
    kind: &str,
    arguments: &serde_json::Value,
    description: &str,
) -> Result<i64> {
    let row = client
        .query_one(
            "INSERT INTO tenantry.job (kind, arguments, description) VALUES ($1, $2::text::jsonb, $3) RETURNING id",
            &[&kind, &arguments.to_string(), &description],
        )
        .await
        .map_err(pg_error)?;
    row.try_get(0).map_err(pg_error)
}

/// What is under way for the job is to be given up too, once it is `Cancelling`.
pub async fn give_up(client: &impl GenericClient, id: i64) -> Result<()> {
    let sql = "UPDATE tenantry.job SET arguments = arguments || jsonb_build_object($2::text, true) WHERE id = $1";
    client.execute(sql, &[&id, &GIVES_UP]).await.map(|_| ()).map_err(pg_error)
}

/// Changes the state if it still is `from`; false when somebody else was first. Notes the times.
pub async fn advance(
    client: &impl GenericClient,
    id: i64,
    from: JobState,
    to: JobState,
    error: Option<&str>,
) -> Result<bool> {
    let changed = client
        .execute(
            "UPDATE tenantry.job SET state = $3::text::tenantry.citus_job_status, error = coalesce($4, error), \
             started_at = CASE WHEN $5 THEN coalesce(started_at, now()) ELSE started_at END, \
             finished_at = CASE WHEN $6 THEN now() END \
             WHERE id = $1 AND state = $2::text::tenantry.citus_job_status",
            &[&id, &from.as_str(), &to.as_str(), &error, &(to == JobState::Running), &to.is_final()],
        )
        .await
        .map_err(pg_error)?;
    Ok(changed == 1)
}

pub async fn find(client: &impl GenericClient, id: i64) -> Result<Option<Job>> {
    let row = client.query_opt(&format!("{SELECT} WHERE id = $1"), &[&id]).await.map_err(pg_error)?;
    row.as_ref().map(read).transpose()
}

/// Jobs that somebody must still work on, oldest first.
pub async fn unfinished(client: &impl GenericClient) -> Result<Vec<Job>> {
    let rows = client.query(&format!("{SELECT} WHERE finished_at IS NULL ORDER BY id"), &[]).await.map_err(pg_error)?;
    rows.iter().map(read).collect()
}

const GIVES_UP: &str = "gives_up_moves";
const SELECT: &str = "SELECT id, kind, state::text, arguments::text, description, error FROM tenantry.job";

fn read(row: &Row) -> Result<Job> {
    let broken = |what: String| PgError::new(SqlState::DATA_CORRUPTED, format!("a job's row cannot be read: {what}"));
    let state: &str = row.try_get(2).map_err(pg_error)?;
    let arguments: &str = row.try_get(3).map_err(pg_error)?;
    Ok(Job {
        id: row.try_get(0).map_err(pg_error)?,
        kind: row.try_get(1).map_err(pg_error)?,
        state: JobState::ALL
            .into_iter()
            .find(|s| s.as_str() == state)
            .ok_or_else(|| broken(format!("state \"{state}\"")))?,
        arguments: serde_json::from_str(arguments).map_err(|e| broken(e.to_string()))?,
        description: row.try_get(4).map_err(pg_error)?,
        error: row.try_get(5).map_err(pg_error)?,
    })
}
