//! One attempt at a cutover: how long its clients may wait, and what happens to those who keep it from its end.
//!
//! ```text
//!   attempt:  hold, drain ─ locks, fence ─ last marker on the target ──> stands
//!                     └ not all before the hold's time is over: rename back, release ──> again
//!   stream:   ────────────────────────── goes on beside it ─────────────┴─ comes to rest, in its own time
//! ```
//!
//! The attempt itself never waits for a target, only for the news that the marker is there: a target that stands still (a lock
//! that somebody took on its table, a frozen server) costs clients one hold, and the move the time that it stands still.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

use super::cutover::{Sides, carry, unfence};
use super::everywhere::Held;
use super::guard::Guard;
use super::join::Merge;
use super::lock_watch::LockWatch;
use super::session::{is_lock_failure, not_answering};
use super::state::Move;
use super::stream::{Apply, Arrivals};
use super::{MoverEnvironment, StopPoint};
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};

/// How an attempt ended that left no doubt.
pub enum Attempt {
    /// The source is fenced and all its changes are on the targets; what the fence answered.
    Stands(Vec<SimpleQueryMessage>),
    /// The source is as before and clients go on; why.
    Again(PgError),
}

/// What keeps clients waiting.
pub struct Hold<'a> {
    pub held: &'a mut Held,
    /// The other proxies that are asked to hold, too.
    pub present: Vec<String>,
    /// When they must not wait any longer.
    pub until: Instant,
    /// Transactions that do not end are waited for, and not stopped by the fence.
    pub spares_transactions: bool,
}

impl Hold<'_> {
    pub fn release(&mut self) {
        self.held.release();
    }
}

/// What an attempt sends.
pub struct Fence<'a> {
    pub statements: String,
    /// Of its marker.
    pub id: i64,
    pub merge: Option<&'a Merge<'a>>,
    pub source_locks: &'a LockWatch<'a>,
}

/// Fences the source and waits for the last changes. Clients are let go as soon as it is sure that this one fails; the hold stays
/// when the fence stands, and when nobody knows what has become of it.
///
/// Errors: the source's; 08006 when it is silent for too long.
pub async fn attempt(
    environment: &MoverEnvironment,
    sides: &Sides<'_>,
    mv: &Move,
    fence: Fence<'_>,
    mut arrivals: Arrivals,
    mut hold: Hold<'_>,
    patience: Duration,
) -> Result<Attempt> {
    let drained_until = Instant::now() + environment.settings.lock_timeout;
    let drained = hold.held.drain(environment, &hold.present, drained_until.min(hold.until)).await;
    if let Err(error) = drained
        && hold.spares_transactions
    {
        hold.release();
        return Ok(Attempt::Again(error.hint(OPEN_TRANSACTIONS)));
    }
    let locks = async {
        if let Some(merge) = fence.merge {
            merge.lock().await?;
        }
        let fenced = async { sides.source.simple_query(&fence.statements).await.map_err(pg_error) };
        fence.source_locks.during(environment.settings.lock_timeout, fenced).await
    };
    let mut locks = std::pin::pin!(locks);
    let mut is_late = false;
    let fenced = match timeout_at(hold.until, &mut locks).await {
        Ok(fenced) => fenced,
        Err(_) => {
            // What the source does with it turns out when it answers.
            is_late = true;
            hold.release();
            let answered = sides.watch.during(locks);
            timeout(patience, answered).await.unwrap_or_else(|_| Err(not_answering("source")))
        }
    };
    let why = match fenced {
        Err(error) if is_lock_failure(&error) => {
            // It has given up the locks that it had.
            hold.release();
            let rolled_back = async { sides.source.batch_execute("ROLLBACK").await.map_err(pg_error) };
            timeout(patience, rolled_back).await.unwrap_or_else(|_| Err(not_answering("source")))?;
            error.hint(OPEN_TRANSACTIONS)
        }
        Err(error) => return Err(error),
        Ok(answer) => {
            environment.stop_at(StopPoint::Fenced)?;
            let arrived = async {
                if !arrivals.wait(fence.id).await {
                    return Ok(false);
                }
                environment.stop_at(StopPoint::FenceApplied)?;
                // Other moves change something here that a rename does not take back.
                if mv.can_go_back() {
                    carry(sides, mv, &answer).await?;
                }
                Ok(true)
            };
            match timeout_at(hold.until, arrived).await {
                Ok(Err(error)) => return Err(error),
                Ok(Ok(true)) if !is_late => return Ok(Attempt::Stands(answer)),
                _ => {
                    let mut unfenced = std::pin::pin!(unfence(sides.source, mv));
                    match timeout(PROMPT, &mut unfenced).await {
                        Ok(unfenced) => unfenced?,
                        Err(_) => {
                            hold.release();
                            let unfenced = sides.watch.during(unfenced);
                            timeout(patience, unfenced).await.unwrap_or_else(|_| Err(not_answering("source")))?;
                        }
                    }
                    too_late()
                }
            }
        }
    };
    hold.release();
    if let Some(merge) = fence.merge {
        timeout(patience, merge.unlock()).await.unwrap_or_else(|_| Err(not_answering("target")))?;
    }
    Ok(Attempt::Again(why))
}

/// Runs an attempt beside the stream. Once it has ended, applying may take `patience` more to come to rest.
///
/// Errors: 55000 when it does not, those of `watch` meanwhile; the move is over then.
pub async fn beside_stream<T>(
    apply: &mut Apply,
    watch: &Guard,
    patience: Duration,
    attempt: impl Future<Output = Result<T>>,
) -> Result<T> {
    let ended = CancellationToken::new();
    let attempt = async {
        let _ended = ended.clone().drop_guard();
        attempt.await
    };
    let stuck = async {
        ended.cancelled().await;
        let waited = async {
            tokio::time::sleep(patience).await;
            Err(stuck())
        };
        watch.during(waited).await
    };
    tokio::select! {
        biased;
        (attempted, applied) = apply.run_while(attempt) => {
            // Of the two, the stream's failure is the reason for the other.
            applied?;
            attempted
        }
        over = stuck => over,
    }
}

/// Errors: nothing but this one.
pub fn too_late() -> PgError {
    PgError::new(SqlState::QUERY_CANCELED, "the last changes did not reach the target node in time").hint(SEE_LOCKS)
}

/// The stream does not get on.
pub fn stuck() -> PgError {
    PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the target node does not catch up with the writes on the source node",
    )
    .detail("No change has been applied for too long.")
    .hint(SEE_LOCKS)
}

const OPEN_TRANSACTIONS: &str = "Transactions on this shard were open for too long; try again later.";
/// Longer than a source that is well takes to be renamed back.
const PROMPT: Duration = Duration::from_secs(1);
const SEE_LOCKS: &str =
    "See pg_locks and pg_stat_activity on the target node: somebody may have locked a table of the shard there.";
