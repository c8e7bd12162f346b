//! Are both sides the same? Counted and summed on snapshots that match exactly, while clients go on writing.
//!
//! ```text
//!   source:  snapshot S taken ─── marker inserted ───────────── sums under S ──┐
//!   target:  everything S sees applied, the rest kept back ─ S' ─ sums under S' ┴─ equal?
//!                                                               (the rest is applied meanwhile)
//! ```

use std::time::Duration;

use futures_util::future::try_join_all;

use super::MoverEnvironment;
use super::marker::Marker;
use super::session::{self, Session};
use super::snapshot::SourceTable;
use super::state::Move;
use super::stream::Apply;
use super::xid_snapshot::XidSnapshot;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::ShardGroupId;

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
    let (source, targets) = aligned(environment, mv, marker, apply).await?;
    apply.release().await?;
    for alike in alike(tables) {
        let (compared, applied) = apply.run_while(compare(&source, &targets, mv, &alike)).await;
        applied?;
        compared?;
    }
    Ok(())
}

/// As `verify`, while nobody writes.
pub async fn verify_at_rest(environment: &MoverEnvironment, mv: &Move, tables: &[SourceTable]) -> Result<()> {
    let source = session::connect(environment, mv.source).await?;
    let targets = targets(environment, mv).await?;
    for alike in alike(tables) {
        compare(&source, &targets, mv, &alike).await?;
    }
    Ok(())
}

/// Tables of one name together: shard groups that become one have one each.
fn alike(tables: &[SourceTable]) -> Vec<Vec<&SourceTable>> {
    let mut found: Vec<Vec<&SourceTable>> = Vec::new();
    for table in tables {
        match found.iter_mut().find(|alike| alike[0].is_alike(table)) {
            Some(alike) => alike.push(table),
            None => found.push(vec![table]),
        }
    }
    found
}

/// The sessions of the target nodes, each with the shard groups there.
type Sessions = Vec<(Vec<ShardGroupId>, Session)>;

async fn targets(environment: &MoverEnvironment, mv: &Move) -> Result<Sessions> {
    let mut targets = Vec::new();
    for (node, groups) in mv.targets() {
        targets.push((groups, session::connect(environment, node).await?));
    }
    Ok(targets)
}

/// Tables of one name on the source with what became of them.
async fn compare(source: &Session, targets: &Sessions, mv: &Move, tables: &[&SourceTable]) -> Result<()> {
    let Some(table) = tables.first() else { return Ok(()) };
    let of_groups = targets.iter().flat_map(|(groups, target)| groups.iter().map(move |group| (*group, target)));
    let on_targets = of_groups.map(|(group, target)| digest(target, mv, table, Some(group)));
    let on_source = async {
        let mut sum = Digest::default();
        for table in tables {
            sum = sum.add(digest(source, mv, table, None).await?);
        }
        Ok::<_, PgError>(sum)
    };
    let sums = tokio::join!(on_source, try_join_all(on_targets));
    let (source, target) = (sums.0?, sums.1?.into_iter().fold(Digest::default(), Digest::add));
    if target.misplaced > 0 {
        return Err(PgError::new(
            SqlState::DATA_CORRUPTED,
            format!("{} rows of {} went to the wrong piece", target.misplaced, table.name),
        ));
    }
    if source != target {
        return Err(PgError::new(
            SqlState::DATA_CORRUPTED,
            format!("the copy of {} on the target node differs from the source", table.name),
        )
        .detail(format!("The source has {} rows, the target {}.", source.rows, target.rows)));
    }
    Ok(())
}

/// What two copies of the same rows have in common, and what their pieces add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Digest {
    rows: i64,
    /// Of the rows' 64-bit hashes.
    sum: i128,
    /// Rows that belong to another piece.
    misplaced: i64,
}

impl Digest {
    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, sum: self.sum + other.sum, misplaced: self.misplaced + other.misplaced }
    }
}

/// Of the source's table, or of the copy in a shard group.
async fn digest(session: &Session, mv: &Move, table: &SourceTable, group: Option<ShardGroupId>) -> Result<Digest> {
    let piece = mv.pieces.iter().find(|piece| Some(piece.group) == group);
    let condition = match (piece, &table.key) {
        (Some(piece), Some(key)) => piece.condition(key),
        _ => "true".to_owned(),
    };
    let from = match group {
        None => format!("{}{}", table.name, table.condition()),
        Some(group) => table.name_in(mv, group),
    };
    let sql = format!(
        "SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text, 0)::numeric), 0)::text,
            count(*) FILTER (WHERE NOT ({condition})) FROM ONLY {from}",
        table.columns.join(", ")
    );
    let row = session.query_one(&sql, &[]).await.map_err(pg_error)?;
    let sum: &str = row.get(1);
    let sum =
        sum.parse().map_err(|_| PgError::new(SqlState::INTERNAL_ERROR, format!("checksum out of range: {sum}")))?;
    Ok(Digest { rows: row.get(0), sum, misplaced: row.get(2) })
}

/// Open transactions that see the same rows, one on each node. The Apply rests with the later changes kept back.
async fn aligned(
    environment: &MoverEnvironment,
    mv: &Move,
    marker: &mut Marker,
    apply: &mut Apply,
) -> Result<(Session, Sessions)> {
    let targets = targets(environment, mv).await?;
    for _ in 0..ATTEMPTS {
        let source = session::connect(environment, mv.source).await?;
        let snapshot = loop {
            source.batch_execute(BEGIN).await.map_err(pg_error)?;
            let row = source.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(pg_error)?;
            let snapshot = XidSnapshot::parse(row.get(0))?;
            if !apply.is_ahead_of(&snapshot) {
                break snapshot;
            }
            source.batch_execute("ROLLBACK").await.map_err(pg_error)?;
            tokio::time::sleep(VISIBLE_SOON).await;
        };
        let id = marker.insert("verify").await?;
        if apply.run_to_snapshot(snapshot, id).await? {
            for (_, target) in &targets {
                target.batch_execute(&format!("{BEGIN}; SELECT 1")).await.map_err(pg_error)?;
            }
            return Ok((source, targets));
        }
    }
    Err(PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "could not find a quiet moment to compare source and target")
        .detail("Each time, transactions with too many changes ended just then."))
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const ATTEMPTS: usize = 5;
const VISIBLE_SOON: Duration = Duration::from_millis(1);
