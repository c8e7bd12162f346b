//! Things to drop. A record is committed before its object is created, so that a crash leaves nothing unknown.

use tokio_postgres::{GenericClient, Row};

use super::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

/// When an object is to be dropped, seen from its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It served the operation only.
    Always,
    /// It is the result; drop it if the operation fails.
    OnFailure,
    /// It is what the operation replaced.
    OnSuccess,
}

impl Policy {
    fn as_str(self) -> &'static str {
        match self {
            Policy::Always => "always",
            Policy::OnFailure => "on_failure",
            Policy::OnSuccess => "on_success",
        }
    }

    fn read(text: &str) -> Result<Self> {
        [Policy::Always, Policy::OnFailure, Policy::OnSuccess].into_iter().find(|p| p.as_str() == text).ok_or_else(
            || PgError::new(SqlState::DATA_CORRUPTED, format!("unknown cleanup policy \"{text}\" in the catalog")),
        )
    }
}

/// An object on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub operation: i64,
    /// `schema`, `slot`, `publication`, `subscription`, `role` or `table`.
    pub object_type: String,
    pub object_name: String,
    pub node: NodeId,
    pub policy: Policy,
}

/// A number of its own for an operation.
pub async fn next_operation(client: &impl GenericClient) -> Result<i64> {
    let row = client.query_one("SELECT pg_catalog.nextval('tenantry.operation_id')", &[]).await.map_err(pg_error)?;
    row.try_get(0).map_err(pg_error)
}

/// Answers the record's id. Recording the same object again changes its policy only.
pub async fn add(client: &impl GenericClient, record: &Record) -> Result<i64> {
    let row = client
        .query_one(
            "INSERT INTO tenantry.cleanup (operation_id, object_type, object_name, nodeid, policy) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (operation_id, object_type, object_name, nodeid) \
             DO UPDATE SET policy = excluded.policy RETURNING record_id",
            &[
                &record.operation,
                &record.object_type,
                &record.object_name,
                &(record.node.0 as i32),
                &record.policy.as_str(),
            ],
        )
        .await
        .map_err(pg_error)?;
    row.try_get(0).map_err(pg_error)
}

/// Every record with its id, oldest first.
pub async fn all(client: &impl GenericClient) -> Result<Vec<(i64, Record)>> {
    let rows = client.query(&format!("{SELECT} ORDER BY record_id"), &[]).await.map_err(pg_error)?;
    rows.iter().map(read).collect()
}

/// The records of one operation, newest first: the order in which to drop.
pub async fn of_operation(client: &impl GenericClient, operation: i64) -> Result<Vec<(i64, Record)>> {
    let text = format!("{SELECT} WHERE operation_id = $1 ORDER BY record_id DESC");
    let rows = client.query(&text, &[&operation]).await.map_err(pg_error)?;
    rows.iter().map(read).collect()
}

/// When the object is gone, or is to stay.
pub async fn remove(client: &impl GenericClient, record_id: i64) -> Result<()> {
    client.execute("DELETE FROM tenantry.cleanup WHERE record_id = $1", &[&record_id]).await.map_err(pg_error)?;
    Ok(())
}

const SELECT: &str = "SELECT record_id, operation_id, object_type, object_name, nodeid, policy FROM tenantry.cleanup";

fn read(row: &Row) -> Result<(i64, Record)> {
    let node: i32 = row.try_get(4).map_err(pg_error)?;
    let record = Record {
        operation: row.try_get(1).map_err(pg_error)?,
        object_type: row.try_get(2).map_err(pg_error)?,
        object_name: row.try_get(3).map_err(pg_error)?,
        node: NodeId(node as u32),
        policy: Policy::read(row.try_get(5).map_err(pg_error)?)?,
    };
    Ok((row.try_get(0).map_err(pg_error)?, record))
}
