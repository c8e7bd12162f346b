//! The lock of a colocation group, on the coordinator: moves have it alone, schema changes share it.
//!
//! A move's session keeps it from start to end. Whoever can take it knows that no move of the group is alive.

use std::time::Duration;

use super::session::Session;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::ColocationId;

/// First key of the advisory locks on colocation groups: "tncy" in ASCII. The second is the group's id.
const CLASS: i32 = i32::from_be_bytes(*b"tncy");

/// For a transaction that changes tables of the group (DDL, truncate, new tables): waits for moves, and they for it.
pub fn share_statement(colocation: ColocationId) -> String {
    format!("SELECT pg_catalog.pg_advisory_xact_lock_shared({CLASS}, {})", colocation.0 as i32)
}

/// As `share_statement`, without waiting; answers 1 or 0.
pub fn try_share_statement(colocation: ColocationId) -> String {
    format!("SELECT pg_catalog.pg_try_advisory_xact_lock_shared({CLASS}, {})::pg_catalog.int4", colocation.0 as i32)
}

/// Takes the lock for as long as `session` lives.
///
/// Errors: 55P03 when moves or schema changes keep it for longer than `patience`.
pub async fn acquire(session: &Session, colocation: ColocationId, patience: Duration) -> Result<()> {
    let key = colocation.0 as i32;
    let sql = format!(
        "SET lock_timeout TO {}; SELECT pg_advisory_lock({CLASS}, {key}); SET lock_timeout TO 0",
        patience.as_millis().max(1)
    );
    session.batch_execute(&sql).await.map_err(pg_error).map_err(|error| match error.code() {
        SqlState::LOCK_NOT_AVAILABLE => {
            PgError::new(error.code(), format!("colocation group {colocation} is being moved or changed"))
                .hint("Try again when the other operation has ended.")
        }
        _ => error,
    })
}

/// First key of the advisory locks on ways back: "tncu" in ASCII. The second is the move's id.
const WAY_BACK: i32 = i32::from_be_bytes(*b"tncu");

/// Takes the lock of a way back for as long as `session` lives. Who has it sees that, and gives it up.
///
/// Errors: 55P03 when he does not within `patience`.
pub async fn acquire_way_back(session: &Session, id: i64, patience: Duration) -> Result<()> {
    let sql = format!(
        "SET lock_timeout TO {}; SELECT pg_advisory_lock({WAY_BACK}, {}); SET lock_timeout TO 0",
        patience.as_millis().max(1),
        id as i32
    );
    session.batch_execute(&sql).await.map_err(pg_error)
}

/// Takes it if nobody has it.
pub async fn try_acquire_way_back(session: &Session, id: i64) -> Result<bool> {
    let sql = "SELECT pg_try_advisory_lock($1, $2)";
    Ok(session.query_one(sql, &[&WAY_BACK, &(id as i32)]).await.map_err(pg_error)?.get(0))
}

pub async fn release_way_back(session: &Session, id: i64) -> Result<()> {
    let sql = "SELECT pg_advisory_unlock($1, $2)";
    session.query_one(sql, &[&WAY_BACK, &(id as i32)]).await.map_err(pg_error)?;
    Ok(())
}

/// The condition that somebody waits for the lock of a way back.
pub fn is_way_back_wanted(id: i64) -> String {
    format!(
        "EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND NOT l.granted AND l.classid = {WAY_BACK} \
         AND l.objid = {} AND l.objsubid = 2 \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        id as u32
    )
}

/// Takes the lock if nobody has it.
pub async fn try_acquire(session: &Session, colocation: ColocationId) -> Result<bool> {
    let sql = "SELECT pg_try_advisory_lock($1, $2)";
    let row = session.query_one(sql, &[&CLASS, &(colocation.0 as i32)]).await.map_err(pg_error)?;
    Ok(row.get(0))
}

pub async fn release(session: &Session, colocation: ColocationId) -> Result<()> {
    let sql = "SELECT pg_advisory_unlock($1, $2)";
    session.query_one(sql, &[&CLASS, &(colocation.0 as i32)]).await.map_err(pg_error)?;
    Ok(())
}
