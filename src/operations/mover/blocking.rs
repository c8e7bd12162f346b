//! The way without a change stream: writes wait while the rows are copied (`shard_transfer_mode => 'block_writes'`).
//!
//! ```text
//!   source:  BEGIN; LOCK TABLE ... IN EXCLUSIVE MODE ── reads go on, writes wait ── ACCESS EXCLUSIVE, marker, RENAME; COMMIT
//!                └─ COPY, keys, indexes, foreign keys, sums ──> target            └─ the same marker on every target before
//!   proxies: hold writes ──────────────────────────────────────────── hold all ── flip ── release
//! ```
//!
//! Writers that can be brought to the target wait for the lock; a transaction that has used another shard group, and so cannot, does
//! not come so far: proxies hold it until the rows are there.
//!
//! It needs no slot, no publication and no replica identity, so no `wal_level = logical`. All that happens on the source is
//! one transaction: a crash before its end leaves everything as it was, and from there on it is a cutover like any other.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::cutover::{self, Cutover, FENCE, Sides};
use super::everywhere::{self, Held};
use super::guard::Guard;
use super::lock_watch::LockWatch;
use super::pieces::Routes;
use super::session::{self, Session, is_lock_failure, not_answering, with_short_locks};
use super::snapshot::SourceTable;
use super::state::{Move, MoveState};
use super::target::{self, Target};
use super::{
    MoveReport, MoverEnvironment, MoverSettings, Notify, StopPoint, copy, definition, finish_switched, part, room,
    snapshot, undo, verify,
};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::ShardGroupId;

/// All states, one after the other; see `run` in mod.rs.
pub async fn run(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &mut Move,
    held: &mut Held,
    notify: &Notify<'_>,
) -> Result<MoveReport> {
    environment.stop_at(StopPoint::Planned)?;
    mv.note_blocks_writes(catalog).await?;
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
    let locker = Locker::begin(environment, mv, &tables).await?;
    let held_writes = locker.lock_writes().await?;
    let blocked_at = Instant::now();
    let definition = definition::read(&source, mv).await?;
    definition::tell_of_indexes_left_behind(&source, mv, notify).await?;
    for target in &targets {
        target::create_shards(target, mv, &definition).await?;
    }
    mv.advance(catalog, MoveState::TargetCreated, "Setting Up").await?;
    environment.stop_at(StopPoint::TargetCreated)?;

    let watch = Guard::begin(environment, mv);
    // Writers wait: for a node that does not answer, not for ever.
    let copied = copy::copy(environment, catalog, mv, &tables, &routes, None, &watch).await?;
    watch.during(target::build_keys_and_indexes(&targets, mv, &definition)).await?;
    environment.stop_at(StopPoint::IndexesBuilt)?;
    mv.note_phase(catalog, "Creating Foreign Keys", 0).await?;
    let finished = async {
        target::finish(environment, &targets, mv, &definition, &mut None).await?;
        if settings.verify { verify::verify_at_rest(environment, mv, &tables).await } else { Ok(()) }
    };
    watch.during(finished).await?;
    mv.advance(catalog, MoveState::CaughtUp, "Completing").await?;
    environment.stop_at(StopPoint::CaughtUp)?;

    let sides = Sides { catalog, source: &source, targets: &targets, watch: &watch, back: None };
    let sequences = cutover::sequences(&source, mv).await?;
    let attempts = locker.lock_all(held, &watch).await?;
    cut_over(environment, sides, mv, &locker.session, &sequences).await?;
    held.release();
    drop(held_writes);
    let report = MoveReport::of(mv, copied, 0, Cutover { hold: blocked_at.elapsed(), attempts });
    environment.stop_at(StopPoint::Switched)?;
    finish_switched(environment, catalog, mv, &report).await;
    Ok(report)
}

/// Whose transaction keeps clients out.
struct Locker<'a> {
    environment: &'a MoverEnvironment,
    session: Session,
    watch: LockWatch<'a>,
    /// Their names, separated by commas.
    tables: String,
    groups: Vec<ShardGroupId>,
}

impl<'a> Locker<'a> {
    /// Its transaction has begun, and has no locks.
    async fn begin(environment: &'a MoverEnvironment, mv: &Move, tables: &[SourceTable]) -> Result<Self> {
        let session = session::connect(environment, mv.source).await?;
        let watch = LockWatch::of(environment, &session, mv.source).await?;
        let lock_timeout = environment.settings.lock_timeout.as_millis().max(1);
        session.batch_execute(&format!("BEGIN; SET LOCAL lock_timeout TO {lock_timeout}")).await.map_err(pg_error)?;
        Ok(Self { environment, session, watch, tables: snapshot::to_lock(tables), groups: mv.held_groups() })
    }

    /// Lets writers of open transactions end and keeps others waiting from then on, those in the proxies that could not be brought to
    /// the target; answers what does so there.
    ///
    /// Errors: 55P03 when the lock could not be had before `lock_patience` was over.
    async fn lock_writes(&self) -> Result<Held> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(10);
        let mut held = Held::default();
        while let Err(error) = self.try_lock("EXCLUSIVE", (&mut held, Held::writes), start).await {
            if !is_lock_failure(&error) || start.elapsed() > self.environment.settings.lock_patience {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        Ok(held)
    }

    /// Waits for readers too, and keeps everybody waiting from then on; answers the number of attempts.
    ///
    /// Errors: 55P03 when readers' transactions stay open for longer than `lock_patience`: one that wants to write next waits
    /// for this move, so that it cannot be waited for.
    async fn lock_all(&self, held: &mut Held, watch: &Guard) -> Result<u32> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(20);
        let mut attempts = 1;
        watch.check()?;
        while let Err(error) = self.try_lock("ACCESS EXCLUSIVE", (&mut *held, Held::here), start).await {
            if !is_lock_failure(&error) {
                return Err(error);
            }
            if start.elapsed() > self.environment.settings.lock_patience {
                return Err(error.hint("Transactions on this shard were open for too long; try again later."));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
            attempts += 1;
            watch.check()?;
        }
        Ok(attempts)
    }

    /// Holds in all proxies, by `hold`, and locks. `start`: of all attempts; the first half of their time is for transactions that have
    /// entered what is held to end.
    ///
    /// Errors: 55P03 when one has not ended, or has a lock; nothing is held then, and what was locked before still is. Those of the
    /// source and of the catalog.
    async fn try_lock(&self, mode: &str, (held, hold): (&mut Held, Hold), start: Instant) -> Result<()> {
        let MoverSettings { lock_timeout, lock_patience, .. } = self.environment.settings;
        let present = everywhere::present(self.environment).await?;
        self.session.batch_execute("SAVEPOINT unlocked").await.map_err(pg_error)?;
        *held = hold(self.environment, &self.groups);
        let drained = held.drain(self.environment, &present, tokio::time::Instant::now() + lock_timeout).await;
        let locked = match drained {
            Err(error) if start.elapsed() < lock_patience / 2 => Err(error),
            _ if self.tables.is_empty() => Ok(()),
            _ => {
                let sql = format!("LOCK TABLE {} IN {mode} MODE", self.tables);
                let lock = async { self.session.batch_execute(&sql).await.map_err(pg_error) };
                self.watch.during(lock_timeout, lock).await
            }
        };
        if locked.as_ref().is_err_and(is_lock_failure) {
            self.session.batch_execute("ROLLBACK TO SAVEPOINT unlocked").await.map_err(pg_error)?;
            held.release();
        }
        locked
    }
}

/// What is held of these groups.
type Hold = fn(&MoverEnvironment, &[ShardGroupId]) -> Held;

/// Moves the placement, while everybody waits.
async fn cut_over(
    environment: &MoverEnvironment,
    sides: Sides<'_>,
    mv: &mut Move,
    locker: &Session,
    sequences: &[(String, String)],
) -> Result<()> {
    let insert = |table: String| format!("INSERT INTO {table} VALUES (1, {})", literal(FENCE));
    let marked = async {
        for target in sides.targets {
            target.session.batch_execute(&insert(mv.target_marker())).await.map_err(pg_error)?;
        }
        Ok(())
    };
    // Nothing is fenced yet: the end of the locker's session lets everybody go on.
    timeout(environment.settings.fence_patience, marked).await.unwrap_or_else(|_| Err(not_answering("target")))?;
    let mut statements = vec!["SET LOCAL synchronous_commit TO on".to_owned(), insert(mv.marker())];
    statements.extend(cutover::fence_statements(mv, sequences));
    let answer = locker.simple_query(&statements.join("; ")).await.map_err(pg_error)?;
    environment.stop_at(StopPoint::Fenced)?;
    environment.stop_at(StopPoint::FenceApplied)?;
    cutover::carry(&sides, mv, &answer).await?;
    cutover::switch(environment, &sides, mv).await
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
