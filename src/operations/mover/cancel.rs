//! `tenantry_cancel_move`: a move under way is given up, whichever proxy drives it, and all is as it was before.
//!
//! The wish is written into the move's row. The guards (guard.rs) of a proxy's moves read it twice a second, all together by
//! one question.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;

use super::state::{Move, MoveState};
use super::{MoverEnvironment, Notice, Notify, session};
use crate::catalog::{Catalog, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{NodeId, ShardGroupId};

/// Returns when the move has ended and nothing of it is left; after a minute anyway, with a warning.
///
/// Errors: 42704 for an unknown move; 55000 for one that has ended, or whose switch came first.
pub async fn tenantry_cancel_move(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let id = arguments
        .get("move_id")
        .and_then(Value::as_i64)
        .ok_or_else(|| PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "move_id cannot be NULL"))?;
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    let wish = "UPDATE tenantry.shard_move SET cancelled = true
                WHERE moveid = $1 AND state NOT IN ('switched', 'done', 'failed', 'undoable')";
    let is_wished = catalog.execute(wish, &[&id]).await.map_err(pg_error)? == 1;
    let Some(mv) = Move::find(&catalog, id).await? else {
        return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("shard move {id} does not exist"))
            .hint("See tenantry.shard_move."));
    };
    if !is_wished {
        return Err(match mv.state {
            MoveState::Undoable => too_late(id, "is a way back that nobody has asked for")
                .hint("tenantry_keep_move of the move that it belongs to drops it."),
            MoveState::Failed if mv.is_rehearsal => too_late(id, "was a rehearsal, and has ended already"),
            MoveState::Failed => too_late(id, "has failed already"),
            _ => too_late(id, "is done already").hint("See tenantry_undo_move."),
        });
    }
    let since = Instant::now();
    loop {
        match mv.reload(&catalog).await?.state {
            MoveState::Failed => return Ok(Value::Null),
            MoveState::Switched | MoveState::Done => {
                return Err(too_late(id, "was done first").hint("See tenantry_undo_move."));
            }
            _ if since.elapsed() >= PATIENCE => {
                let text = format!("shard move {id} is going to be given up, but has not ended yet");
                notify(Notice::warning(text).hint("Can its nodes be reached? See tenantry.shard_move."));
                return Ok(Value::Null);
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// As `tenantry_cancel_move`, of the move of a shard group between two nodes, if one is under way. Returns at once.
pub async fn wish_end(catalog: &Client, group: ShardGroupId, source: NodeId, target: NodeId) -> Result<()> {
    let sql = "UPDATE tenantry.shard_move SET cancelled = true
               WHERE shard_group_id = $1 AND source_node = $2 AND target_node = $3
               AND state NOT IN ('switched', 'done', 'failed', 'undoable')";
    let (source, target) = (source.0 as i32, target.0 as i32);
    catalog.execute(sql, &[&(group.0 as i64), &source, &target]).await.map(|_| ()).map_err(pg_error)
}

/// What was last read of whether moves are to end. One for all moves of a proxy.
#[derive(Default)]
pub struct Wishes(tokio::sync::Mutex<Option<(Instant, HashSet<i64>)>>);

impl Wishes {
    /// Is the move to end, as far as was known `READ_EVERY` ago? Cancel safe.
    pub async fn to_end(&self, catalog: &Catalog, id: i64) -> Result<bool> {
        // Who comes meanwhile has the same answer.
        let mut read = self.0.lock().await;
        if let Some((at, wished)) = &*read
            && at.elapsed() < READ_EVERY
        {
            return Ok(wished.contains(&id));
        }
        let client = catalog.client(NodeId::COORDINATOR).await?;
        let sql = "SELECT moveid FROM tenantry.shard_move WHERE cancelled AND state NOT IN ('done', 'failed')";
        let rows = client.query(sql, &[]).await.map_err(pg_error)?;
        let wished: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        Ok(read.insert((Instant::now(), wished)).1.contains(&id))
    }
}

/// What a move ends with that somebody has cancelled; no server's error, and no reason to try again.
pub fn cancelled(id: i64) -> PgError {
    PgError::new(SqlState::OPERATOR_INTERVENTION, format!("shard move {id} was cancelled"))
        .detail("Everything is as it was before it.")
}

fn too_late(id: i64, why: &str) -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("shard move {id} {why}"))
}

/// A little less than guards wait between two looks.
const READ_EVERY: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
