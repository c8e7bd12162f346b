//! The moment of the move: hold, fence, last changes, flip, release.
//!
//! ```text
//!   hold ─ LOCK tables, last marker, RENAME schemas; COMMIT ─ marker on the target ─ sequences ─ flip ─ refresh ─ release
//!          └ no lock in time: release, wait a little, again     └ not in time: rename back, release, again (attempt.rs)
//! ```
//!
//! After the rename no client can write to (or read from) the source any more, whatever map it has; transactions
//! that were open on the tables had ended, because the lock waited for them. The flip is one catalog transaction.

use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryMessage;

use super::attempt::{Attempt, Fence, Hold, attempt, beside_stream};
use super::attempts::Attempts;
use super::everywhere::Held;
use super::guard::Guard;
use super::join::Merge;
use super::lock_watch::LockWatch;
use super::marker::Marker;
use super::part;
use super::session::{Session, check_alive};
use super::snapshot::{SourceTable, to_lock};
use super::state::{Move, MoveState, taken_over};
use super::stream::Apply;
use super::target::Target;
use super::{MoverEnvironment, StopPoint, undo};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::Result;

/// How the cutover went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutover {
    /// Time for which statements waited, in the attempt that succeeded.
    pub hold: Duration,
    pub attempts: u32,
}

/// The sessions of a cutover, and who watches it.
pub struct Sides<'a> {
    pub catalog: &'a Session,
    pub source: &'a Session,
    pub targets: &'a [Target],
    pub watch: &'a Guard,
    /// The way back, if there is to be one.
    pub back: Option<&'a Move>,
}

/// Moves the placement. `held` keeps the hold when this fails half-way, so that whoever repairs can release it.
///
/// Errors: 55P03 when the locks could not be had, 57014 when the last changes did not arrive before `cutover_patience` was over;
/// the source is as before then.
pub async fn cut_over(
    environment: &MoverEnvironment,
    sides: Sides<'_>,
    mv: &mut Move,
    tables: &[SourceTable],
    marker: &mut Marker,
    apply: &mut Apply,
    held: &mut Held,
) -> Result<Cutover> {
    let settings = &environment.settings;
    let sequences = sequences(sides.source, mv).await?;
    let merge = Merge::of(environment, mv, tables).await?;
    let source_locks = LockWatch::of(environment, sides.source, mv.source).await?;
    let mut attempts = Attempts::new(environment, sides.watch);
    loop {
        let present = attempts.next(marker, apply).await?;
        let held_at = Instant::now();
        *held = Held::here(environment, &mv.held_groups());
        let hold = Hold {
            held: &mut *held,
            present,
            until: (held_at + settings.fence_patience).into(),
            spares_transactions: attempts.spares_transactions(),
        };
        let (id, statements) = fence(mv, tables, marker, &sequences, settings.lock_timeout);
        let fence = Fence { statements, id, merge: merge.as_ref(), source_locks: &source_locks };
        let patience = attempts.patience();
        let attempt = attempt(environment, &sides, mv, fence, apply.arrivals(), hold, patience);
        match beside_stream(apply, sides.watch, patience, attempt).await? {
            Attempt::Stands(answer) => {
                if let Some(merge) = &merge {
                    merge.commit().await?;
                    environment.stop_at(StopPoint::Merged)?;
                }
                if !mv.can_go_back() {
                    carry(&sides, mv, &answer).await?;
                }
                switch(environment, &sides, mv).await?;
                held.release();
                return Ok(Cutover { hold: held_at.elapsed(), attempts: attempts.number });
            }
            Attempt::Again(why) => {
                // Its end has released the locks of the move, which others may be repairing.
                check_alive(sides.catalog).await?;
                attempts.pause(why, apply).await?;
            }
        }
    }
}

/// What goes to the targets when the fence stands and all before it is there. `answer`: the fence's. Repeatable.
pub async fn carry(sides: &Sides<'_>, mv: &Move, answer: &[SimpleQueryMessage]) -> Result<()> {
    undo::adopt(sides.targets, mv).await?;
    carry_sequences(sides.targets, answer).await?;
    match sides.back {
        Some(back) => undo::mark_start(sides.source, sides.targets, back).await,
        None => Ok(()),
    }
}

/// What is left to do then.
pub async fn switch(environment: &MoverEnvironment, sides: &Sides<'_>, mv: &mut Move) -> Result<()> {
    part::leave_rest(sides.source, mv, &environment.catalog.map()).await?;
    flip(sides.catalog, mv).await?;
    if let Err(error) = environment.catalog.refresh().await {
        // The move has happened. Statements on the old map meet the fence and ask again.
        tracing::warn!(move_id = mv.id, %error, "could not reload the shard map after a move");
    }
    Ok(())
}

/// One transaction, flushed at its end even where commits are not.
fn fence(
    mv: &Move,
    tables: &[SourceTable],
    marker: &mut Marker,
    sequences: &[(String, String)],
    lock_timeout: Duration,
) -> (i64, String) {
    let (id, insert) = marker.statement(FENCE);
    let mut statements = vec![
        "BEGIN".to_owned(),
        format!("SET LOCAL lock_timeout TO {}", lock_timeout.as_millis().max(1)),
        "SET LOCAL synchronous_commit TO on".to_owned(),
    ];
    let names = to_lock(tables);
    if !names.is_empty() {
        statements.push(format!("LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"));
    }
    statements.push(insert);
    statements.extend(fence_statements(mv, sequences));
    (id, statements.join("; "))
}

/// Reads the sequences, gives the schemas names that nobody asks for, and commits.
pub fn fence_statements(mv: &Move, sequences: &[(String, String)]) -> Vec<String> {
    let mut statements = Vec::new();
    for (schema, sequence) in sequences {
        let name = format!("{}.{}", identifier(schema), identifier(sequence));
        statements.push(format!("SELECT {}, last_value, is_called FROM {name}", literal(&name)));
    }
    for (schema, fenced) in mv.fences() {
        statements.push(format!("ALTER SCHEMA {} RENAME TO {}", identifier(&schema), identifier(&fenced)));
    }
    statements.push("COMMIT".to_owned());
    statements
}

/// Gives the source's schemas their names back, where they were fenced. Repeatable.
pub async fn unfence(source: &Session, mv: &Move) -> Result<()> {
    for (schema, fenced) in mv.fences() {
        if has_schema(source, &fenced).await? {
            let sql = format!("ALTER SCHEMA {} RENAME TO {}", identifier(&fenced), identifier(&schema));
            source.batch_execute(&sql).await.map_err(pg_error)?;
        }
    }
    Ok(())
}

/// Was the fence the last thing that happened on the source, and has it reached every target, with all before it?
pub async fn is_fence_applied(source: &Session, targets: &[Target], mv: &Move) -> Result<bool> {
    let mut rest = mv.rest_schemas().into_iter();
    for (_, fenced) in mv.fences() {
        // What stays has its new name already, or not yet.
        let is_left = match rest.next() {
            Some(rest) => has_schema(source, &rest).await?,
            None => false,
        };
        if !is_left && !has_schema(source, &fenced).await? {
            return Ok(false);
        }
    }
    let sql = format!("SELECT max(id) FROM {} WHERE purpose = $1", mv.marker());
    let last: Option<i64> = source.query_one(&sql, &[&FENCE]).await.map_err(pg_error)?.get(0);
    let Some(last) = last else { return Ok(false) };
    let sql = format!("SELECT EXISTS (SELECT FROM {} WHERE id = $1)", mv.target_marker());
    for target in targets {
        if !target.session.query_one(&sql, &[&last]).await.map_err(pg_error)?.get::<_, bool>(0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The one catalog transaction that makes the target true.
///
/// Errors: 55000 when the row or the placement is not as this move left it.
pub async fn flip(catalog: &Session, mv: &mut Move) -> Result<()> {
    if mv.renames() {
        let function = match (&mv.part, &mv.join) {
            (Some(_), _) => "switch_tenant",
            (None, Some(_)) => "switch_return",
            (None, None) => "switch_pieces",
        };
        let sql = format!("SELECT tenantry.{function}($1)");
        if !catalog.query_one(&sql, &[&mv.id]).await.map_err(pg_error)?.get::<_, bool>(0) {
            return Err(taken_over(mv.id));
        }
        mv.state = MoveState::Switched;
        return Ok(());
    }
    let sql = "WITH moved AS (
                   UPDATE tenantry.shard_move SET state = 'switched', phase = 'Completing'
                   WHERE moveid = $1 AND state = 'caught_up' RETURNING moveid)
               UPDATE tenantry.shard_group g SET nodeid = $4 FROM moved WHERE g.id = $2 AND g.nodeid = $3";
    let (group, source, target) = (mv.group.0 as i64, mv.source.0 as i32, mv.target.0 as i32);
    let flipped = catalog.execute(sql, &[&mv.id, &group, &source, &target]).await.map_err(pg_error)?;
    if flipped != 1 {
        return Err(taken_over(mv.id));
    }
    mv.state = MoveState::Switched;
    Ok(())
}

/// Sequences of the source's shard schemas, under the names they have now.
pub async fn sequences(source: &Session, mv: &Move) -> Result<Vec<(String, String)>> {
    let sql = "SELECT schemaname::text, sequencename::text FROM pg_sequences WHERE schemaname = ANY ($1)";
    let rows = source.query(sql, &[&mv.shard_schemas()]).await.map_err(pg_error)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// For a repair: the sequences of fenced schemas, put on the target.
pub async fn carry_fenced_sequences(source: &Session, targets: &[Target], mv: &Move) -> Result<()> {
    for (schema, fenced) in mv.fences() {
        let sql = "SELECT sequencename::text FROM pg_sequences WHERE schemaname = $1";
        for row in source.query(sql, &[&fenced]).await.map_err(pg_error)? {
            let (of, name) = (identifier(&schema), identifier(row.get(0)));
            let sql = format!(
                "SELECT {}, last_value, is_called FROM {}.{name}",
                literal(&format!("{of}.{name}")),
                identifier(&fenced)
            );
            carry_sequences(targets, &source.simple_query(&sql).await.map_err(pg_error)?).await?;
        }
    }
    Ok(())
}

/// A shard with sequences goes to one target, as a whole.
async fn carry_sequences(targets: &[Target], answer: &[SimpleQueryMessage]) -> Result<()> {
    let mut statements = Vec::new();
    for message in answer {
        if let SimpleQueryMessage::Row(row) = message
            && let (Some(name), Some(value), Some(is_called)) = (row.get(0), row.get(1), row.get(2))
        {
            statements.push(format!("SELECT setval({}, {value}, {})", literal(name), literal(is_called)));
        }
    }
    if statements.is_empty() {
        return Ok(());
    }
    for target in targets {
        target.session.batch_execute(&statements.join("; ")).await.map_err(pg_error)?;
    }
    Ok(())
}

pub async fn has_schema(session: &Session, name: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    Ok(session.query_one(sql, &[&name]).await.map_err(pg_error)?.get(0))
}

/// The purpose of the marker that goes with a fence.
pub const FENCE: &str = "fence";
