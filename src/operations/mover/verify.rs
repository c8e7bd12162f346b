//! Are both sides the same? Counted and summed on snapshots that match exactly, while clients go on writing.
//!
//! ```text
//!   source:  snapshot S taken ─── marker inserted ───────────── sums under S ──┐
//!   target:  everything S sees applied, the rest kept back ─ S' ─ sums under S' ┴─ equal?
//!                                                               (the rest is applied meanwhile)
//! ```

use super::MoverEnvironment;
use super::marker::Marker;
use super::session::{self, Session};
use super::snapshot::SourceTable;
use super::state::Move;
use super::stream::Apply;
use super::xid_snapshot::XidSnapshot;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};

/// Compares row counts and checksums of every table.
///
/// No lock is taken that a client could notice. Errors: XX001 when a table differs.
pub async fn verify(
    environment: &MoverEnvironment,
    mv: &Move,
    tables: &[SourceTable],
    marker: &mut Marker,
    apply: &mut Apply,
) -> Result<()> {
    let (source, target) = aligned(environment, mv, marker, apply).await?;
    apply.release().await?;
    for table in tables {
        let (on_source, on_target) = digests(table);
        let (sums, applied) = apply
            .run_while(async { tokio::join!(source.query_one(&on_source, &[]), target.query_one(&on_target, &[])) })
            .await;
        applied?;
        let (source, target) = (sums.0.map_err(pg_error)?, sums.1.map_err(pg_error)?);
        let (source_rows, target_rows): (i64, i64) = (source.get(0), target.get(0));
        if source_rows != target_rows || source.get::<_, &str>(1) != target.get::<_, &str>(1) {
            return Err(PgError::new(
                SqlState::DATA_CORRUPTED,
                format!("the copy of {} on the target node differs from the source", table.name),
            )
            .detail(format!("The source has {source_rows} rows, the target {target_rows}.")));
        }
    }
    Ok(())
}

/// Two open transactions that see the same rows, one on each side. The Apply rests with the later changes kept back.
async fn aligned(
    environment: &MoverEnvironment,
    mv: &Move,
    marker: &mut Marker,
    apply: &mut Apply,
) -> Result<(Session, Session)> {
    let target = session::connect(environment, mv.target).await?;
    for _ in 0..ATTEMPTS {
        let source = session::connect(environment, mv.source).await?;
        source.batch_execute(BEGIN).await.map_err(pg_error)?;
        let row = source.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(pg_error)?;
        let snapshot = XidSnapshot::parse(row.get(0))?;
        let id = marker.insert("verify").await?;
        if apply.run_to_snapshot(snapshot, id).await? {
            target.batch_execute(&format!("{BEGIN}; SELECT 1")).await.map_err(pg_error)?;
            return Ok((source, target));
        }
    }
    Err(PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "could not find a quiet moment to compare source and target")
        .detail("Each time, transactions with too many changes ended just then."))
}

fn digests(table: &SourceTable) -> (String, String) {
    let sums = format!(
        "SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text, 0)::numeric), 0)::text FROM ONLY",
        table.columns.join(", ")
    );
    (format!("{sums} {}{}", table.name, table.condition()), format!("{sums} {}", table.target))
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const ATTEMPTS: usize = 5;
