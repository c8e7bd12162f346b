//! `tenantry_rehearse_move`: a move up to the moment before its cutover, and back.
//!
//! The same engine does the same work: copy, indexes, changes, foreign keys, comparison. Then the copy is dropped, as after
//! a failure, and nothing is left behind. No statement is held.

use std::time::Instant;

use serde_json::{Value, json};

use super::explain::request;
use super::{MoveRequest, MoverEnvironment, MoverSettings, Notify, move_shard_group};
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

/// One row of what was measured; none when the shard is on that node already (a warning says so).
///
/// Errors: those of the move.
pub async fn tenantry_rehearse_move(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let request = request(environment, &map, arguments).await?;
    refuse_to_close_a_way_back(environment, request).await?;
    let settings = MoverSettings { flips: false, ..environment.settings.clone() };
    let rehearsal = MoverEnvironment { settings, ..environment.clone() };
    let start = Instant::now();
    let Some(report) = move_shard_group(&rehearsal, request, notify).await? else { return Ok(json!([])) };
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!([{
        "move_id": report.move_id,
        "rows_copied": report.rows_copied,
        "bytes_copied": report.bytes_copied,
        "rows_applied": report.rows_applied,
        "seconds": seconds,
        "bytes_per_second": report.bytes_copied as f64 / seconds.max(0.001),
        "change_milliseconds": report.hold.as_secs_f64() * 1000.0,
    }]))
}

/// A move ends the way back of the move before it; a rehearsal must not.
async fn refuse_to_close_a_way_back(environment: &MoverEnvironment, request: MoveRequest) -> Result<()> {
    let catalog = environment.catalog.client(NodeId::COORDINATOR).await?;
    let sql = "SELECT back_of FROM tenantry.shard_move WHERE shard_group_id = $1 AND state = 'undoable'";
    if let Some(row) = catalog.query_opt(sql, &[&(request.group.0 as i64)]).await.map_err(pg_error)? {
        let text = format!("the last move of shard group {} can still be undone", request.group);
        return Err(PgError::new(SqlState::OBJECT_IN_USE, text).detail("A rehearsal would end that.").hint(format!(
            "Wait until that time is over, or run SELECT tenantry_keep_move({});",
            row.get::<_, i64>(0)
        )));
    }
    Ok(())
}
