//! The way without a change stream: writes wait while the rows are copied (`shard_transfer_mode => 'block_writes'`).
//!
//! ```text
//!   source:  BEGIN; LOCK TABLE ... IN EXCLUSIVE MODE ── reads go on, writes wait ── ACCESS EXCLUSIVE, marker, RENAME; COMMIT
//!                └─ COPY, keys, indexes, foreign keys, sums ──> target            └─ the same marker on every target before
//! ```
//!
//! It needs no slot, no publication and no replica identity, so no `wal_level = logical`. All that happens on the source is
//! one transaction: a crash before its end leaves everything as it was, and from there on it is a cutover like any other.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::cutover::{self, FENCE, Sides};
use super::everywhere::Held;
use super::guard::Guard;
use super::lock_watch::LockWatch;
use super::pieces::Routes;
use super::session::{self, Session, is_lock_failure, not_answering, with_short_locks};
use super::snapshot::SourceTable;
use super::state::{Move, MoveState};
use super::target::{self, Target};
use super::throttle::CopyThrottle;
use super::{
    MoveReport, MoverEnvironment, Notify, StopPoint, copy, definition, finish_switched, part, room, snapshot, undo,
    verify,
};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::{PgError, Result, SqlState};

/// All states, one after the other; see `run` in mod.rs.
pub async fn run(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &mut Move,
    held: &mut Held,
    notify: &Notify<'_>,
) -> Result<MoveReport> {
    environment.stop_at(StopPoint::Planned)?;
    undo::close(environment, catalog, mv).await?;
    let source = session::connect(environment, mv.source).await?;
    let targets = Target::connect(environment, mv).await?;
    if mv.renames() {
        part::check_names(mv)?;
        part::check(&source, mv).await?;
    }
    let map = environment.catalog.map();
    let routes = Routes::new(mv, &map)?;
    let tables = snapshot::tables(&source, mv, &map, &routes).await?;
    room::check(environment, &source, mv, &tables, &targets).await?;
    let settings = &environment.settings;
    let name = identifier(&mv.name());
    let marker = format!("CREATE SCHEMA {name}; {}", snapshot::marker_table(&mv.marker()));
    with_short_locks(environment, (&source, mv.source), &marker).await?;
    // Its transaction is what keeps writers out: it ends with the move.
    let locker = session::connect(environment, mv.source).await?;
    let locks = LockWatch::of(environment, &locker, mv.source).await?;
    let blocked_at = lock_writes(environment, (&locker, &locks), &tables).await?;
    let definition = definition::read(&source, mv).await?;
    definition::tell_of_indexes_left_behind(&source, mv, notify).await?;
    for target in &targets {
        target::create_shards(target, mv, &definition).await?;
    }
    mv.advance(catalog, MoveState::TargetCreated, "Setting Up").await?;
    environment.stop_at(StopPoint::TargetCreated)?;

    let watch = Guard::begin(environment, mv);
    mv.note_phase(catalog, "Copying Data", tables.iter().map(|t| t.bytes).sum()).await?;
    let throttle = CopyThrottle::new(environment, &watch);
    let copy = copy::copy(environment, catalog, mv, &tables, &routes, None, throttle);
    // Writers wait: for a node that does not answer, not for ever.
    let copied = watch.during(copy).await?;
    mv.advance(catalog, MoveState::Copied, "Creating Constraints").await?;
    environment.stop_at(StopPoint::Copied)?;

    watch.during(target::build_keys_and_indexes(&targets, mv, &definition)).await?;
    environment.stop_at(StopPoint::IndexesBuilt)?;
    mv.note_phase(catalog, "Creating Foreign Keys", 0).await?;
    let finished = async {
        for target in &targets {
            target::finish(environment, target, mv, &definition, &mut None).await?;
        }
        if settings.verify { verify::verify_at_rest(environment, mv, &tables).await } else { Ok(()) }
    };
    watch.during(finished).await?;
    mv.advance(catalog, MoveState::CaughtUp, "Completing").await?;
    environment.stop_at(StopPoint::CaughtUp)?;

    let sides = Sides { catalog, source: &source, targets: &targets, watch: &watch, back: None };
    let attempts = cut_over(environment, sides, mv, &tables, (&locker, &locks), held).await?;
    let report = MoveReport {
        move_id: mv.id,
        rows_copied: copied.rows,
        bytes_copied: copied.bytes,
        rows_applied: 0,
        hold: blocked_at.elapsed(),
        attempts,
    };
    environment.stop_at(StopPoint::Switched)?;
    finish_switched(environment, catalog, mv, &report).await;
    Ok(report)
}

/// Lets writers of open transactions end and keeps others waiting from then on; answers since when.
///
/// Errors: 55P03 when the lock could not be had before `lock_patience` was over.
async fn lock_writes(
    environment: &MoverEnvironment,
    (locker, locks): (&Session, &LockWatch<'_>),
    tables: &[SourceTable],
) -> Result<Instant> {
    let settings = &environment.settings;
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout TO {}; {}",
            settings.lock_timeout.as_millis().max(1),
            lock(tables, "EXCLUSIVE")
        );
        let attempt = async { locker.batch_execute(&begin).await.map_err(pg_error) };
        match locks.during(settings.lock_timeout, attempt).await {
            Ok(()) => return Ok(Instant::now()),
            Err(error) if is_lock_failure(&error) && start.elapsed() < settings.lock_patience => {}
            Err(error) => return Err(error),
        }
        locker.batch_execute("ROLLBACK").await.map_err(pg_error)?;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Waits for readers too, and moves the placement; answers the number of attempts.
///
/// Errors: 55P03 when readers' transactions stay open for longer than `lock_patience`: one that wants to write next waits
/// for this move, so that it cannot be waited for.
async fn cut_over(
    environment: &MoverEnvironment,
    sides: Sides<'_>,
    mv: &mut Move,
    tables: &[SourceTable],
    (locker, locks): (&Session, &LockWatch<'_>),
    held: &mut Held,
) -> Result<u32> {
    let settings = &environment.settings;
    let start = Instant::now();
    let mut pause = Duration::from_millis(20);
    let sequences = cutover::sequences(sides.source, mv).await?;
    for attempts in 1.. {
        sides.watch.check()?;
        *held = Held::here(environment, &mv.held_groups());
        let stronger = format!("SAVEPOINT cutover; {}", lock(tables, "ACCESS EXCLUSIVE"));
        let attempt = async { locker.batch_execute(&stronger).await.map_err(pg_error) };
        match locks.during(settings.lock_timeout, attempt).await {
            Ok(()) => {
                let insert = |table: String| format!("INSERT INTO {table} VALUES (1, {})", literal(FENCE));
                let marked = async {
                    for target in sides.targets {
                        target.session.batch_execute(&insert(mv.target_marker())).await.map_err(pg_error)?;
                    }
                    Ok(())
                };
                // Nothing is fenced yet: the end of the locker's session lets everybody go on.
                timeout(settings.fence_patience, marked).await.unwrap_or_else(|_| Err(not_answering("target")))?;
                let mut statements = vec!["SET LOCAL synchronous_commit TO on".to_owned(), insert(mv.marker())];
                statements.extend(cutover::fence_statements(mv, &sequences));
                let answer = locker.simple_query(&statements.join("; ")).await.map_err(pg_error)?;
                environment.stop_at(StopPoint::Fenced)?;
                environment.stop_at(StopPoint::FenceApplied)?;
                cutover::carry(&sides, mv, &answer).await?;
                cutover::switch(environment, &sides, mv).await?;
                held.release();
                return Ok(attempts);
            }
            Err(error) if is_lock_failure(&error) => {
                // What was locked before the savepoint stays locked.
                locker.batch_execute("ROLLBACK TO SAVEPOINT cutover").await.map_err(pg_error)?;
                held.release();
                if start.elapsed() > settings.lock_patience {
                    return Err(error.hint("Transactions on this shard were open for too long; try again later."));
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    unreachable!("the loop has no other end")
}

fn lock(tables: &[SourceTable], mode: &str) -> String {
    let names = snapshot::to_lock(tables);
    if names.is_empty() { "SELECT 1".to_owned() } else { format!("LOCK TABLE {names} IN {mode} MODE") }
}

/// How rows get across while clients are at work; Citus's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransferMode {
    /// `auto` and `force_logical`: clients read and write all the time. Tables without a replica identity get a full one.
    #[default]
    Online,
    /// `block_writes`: writes wait until the shard has moved.
    BlockWrites,
}

impl TransferMode {
    /// The argument `shard_transfer_mode` of a call; online where there is none.
    ///
    /// Errors: 22P02 for another word.
    pub fn of(arguments: &serde_json::Value) -> Result<Self> {
        match arguments.get("shard_transfer_mode").and_then(serde_json::Value::as_str) {
            None | Some("auto" | "force_logical") => Ok(Self::Online),
            Some("block_writes") => Ok(Self::BlockWrites),
            Some(other) => Err(PgError::new(
                SqlState::INVALID_TEXT_REPRESENTATION,
                format!("invalid input value for enum citus.shard_transfer_mode: \"{other}\""),
            )),
        }
    }
}
