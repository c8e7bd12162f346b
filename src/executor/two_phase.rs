//! Ending a transaction on several servers at once.
//!
//! ```text
//!   who wrote?  none or one: COMMIT there, then on the readers
//!               several:     PREPARE on workers -> decision row, within the coordinator's own COMMIT if it wrote too
//!                            -> COMMIT PREPARED on workers
//! ```
//!
//! The decision row is the commit: first writer wins, so a recovery that decides "abort" and an owner that decides
//! "commit" cannot both succeed (docs/decisions). Whatever is left behind, `jobs/two_phase_recovery.rs` finishes.
//!
//! A coordinator that is away is waited for, as by statements: before anything is prepared, and for the decision, which is asked
//! for again when its answer was lost. A recovery keeps decisions for much longer than that may take.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use futures_util::future::join_all;

use super::{Executor, Participant};
use crate::backend::Row;
use crate::catalog;
use crate::catalog::two_phase::{Decision, Undecided};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;
use crate::tally::Count;
use crate::transport::timer;
use crate::wire::answer::Status;

/// Names of distributed transactions: unique over all proxies and restarts.
#[derive(Debug)]
pub struct TransactionIds {
    instance: String,
    next: AtomicU64,
    pub outcomes: Outcomes,
}

/// How commits over several servers ended.
#[derive(Debug, Default)]
pub struct Outcomes {
    pub committed: Count,
    pub rolled_back: Count,
    /// The client was told 08007.
    pub unknown: Count,
}

impl TransactionIds {
    /// `instance` names this run of this proxy; letters and digits.
    pub fn new(instance: String) -> Self {
        Self { instance, next: AtomicU64::new(1), outcomes: Outcomes::default() }
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    fn next(&self) -> String {
        format!("{PREFIX}{}_{}", self.instance, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Outcomes {
    fn note(&self, result: &Result<()>) {
        match result {
            Ok(()) => self.committed.add(1),
            Err(error) if error.code() == SqlState::TRANSACTION_RESOLUTION_UNKNOWN => self.unknown.add(1),
            Err(_) => self.rolled_back.add(1),
        }
    }
}

/// All our global transaction ids start so: `tenantry_<instance>_<number>_<node>`.
pub const PREFIX: &str = "tenantry_";

/// The transaction that a global id of ours belongs to.
pub fn transaction_of_gid(gid: &str) -> Option<&str> {
    gid.strip_prefix(PREFIX)?;
    Some(gid.rsplit_once('_')?.0)
}

/// Commits on all participants or on none; gives the participants back in any case.
///
/// Errors: what a server says before the decision, or the coordinator instead of it; 08006 when that is away for
/// `pool.outage_timeout`; 40001 when a recovery decided
/// against us; 08007 when the answer to COMMIT or to the decision was lost, or when a participant could not be told yet.
pub async fn commit(executor: &Rc<Executor>, mut participants: Vec<Participant>) -> (Vec<Participant>, Result<()>) {
    let result = match participants.as_mut_slice() {
        [] => Ok(()),
        [only] => end(only, "COMMIT").await,
        several => Box::pin(commit_several(executor, several)).await,
    };
    (participants, result)
}

async fn commit_several(executor: &Executor, participants: &mut [Participant]) -> Result<()> {
    let wrote = match ask_who_wrote(participants).await {
        Ok(wrote) => wrote,
        Err(error) => {
            roll_back(participants).await;
            return Err(error);
        }
    };
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for (participant, wrote) in participants.iter_mut().zip(wrote) {
        if wrote { writers.push(participant) } else { readers.push(participant) }
    }
    let result = match writers.as_mut_slice() {
        [] => Ok(()),
        [only] => end(only, "COMMIT").await,
        several => {
            let result = commit_prepared(executor, several).await;
            executor.transaction_ids.outcomes.note(&result);
            result
        }
    };
    let end_reads = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    for outcome in join_all(readers.iter_mut().map(|reader| end(reader, end_reads))).await {
        if let Err(error) = outcome {
            // It had nothing to commit; its connection is closed by the pool.
            tracing::debug!(%error, "could not end a read-only participant");
        }
    }
    result
}

/// A transaction without an id has written nothing. Exact where looking at statements would be a guess.
async fn ask_who_wrote(participants: &mut [Participant]) -> Result<Vec<bool>> {
    let ask = "SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL";
    let answers = join_all(participants.iter_mut().map(|p| p.server.query(ask))).await;
    let is_true = |rows: Vec<Row>| rows.first().and_then(|row| row.first()).and_then(Option::as_deref) == Some("t");
    answers.into_iter().map(|rows| rows.map(is_true)).collect()
}

/// The coordinator, when it wrote, is never prepared: its COMMIT is the decision, the row for it being part of what it
/// commits. So NOTIFY (every change of the catalog rings), LISTEN and temporary tables there are no obstacle.
async fn commit_prepared(executor: &Executor, writers: &mut [&mut Participant]) -> Result<()> {
    let transaction = executor.transaction_ids.next();
    let gid = |p: &Participant| format!("{transaction}_{}", p.node);
    // The coordinator first, if it is there.
    writers.sort_by_key(|p| !p.node.is_coordinator());
    let coordinators = writers.iter().filter(|p| p.node.is_coordinator()).count();
    let (coordinator, workers) = writers.split_at_mut(coordinators);
    if coordinator.is_empty()
        && let Err(error) = control_connection(executor, Instant::now()).await
    {
        roll_back_each(workers).await;
        return Err(error);
    }
    let nodes: Vec<NodeId> = workers.iter().map(|p| p.node).collect();
    let prepared = join_all(workers.iter_mut().map(|p| {
        let sql = format!("PREPARE TRANSACTION '{}'", gid(p));
        async move { prepare(p, &sql).await }
    }))
    .await;
    let decision = match prepared.iter().find_map(|r| r.as_ref().err()) {
        // Presumed abort: nothing was decided, so whatever cannot be reached now is rolled back by the recovery.
        Some(error) => Err(error.clone()),
        None => match coordinator {
            [coordinator] => decide_by_commit(executor, coordinator, &transaction, &nodes).await,
            _ => match decide(executor, &transaction, &nodes, Decision::Commit).await {
                Ok(Decision::Commit) => Ok(()),
                Ok(Decision::Abort) => Err(too_late()),
                Err(Undecided::Refused(error)) => Err(error),
                Err(Undecided::Lost(error)) => {
                    Err(unknown("the decision to commit could not be confirmed").detail(error.message().to_owned()))
                }
            },
        },
    };
    if let Err(error) = decision {
        // Undecided for all that we know: the recovery, which can find out, ends the prepared parts.
        if error.code() != SqlState::TRANSACTION_RESOLUTION_UNKNOWN {
            join_all(workers.iter_mut().zip(&prepared).map(|(p, prepared)| {
                let sql = match prepared {
                    Ok(()) => format!("ROLLBACK PREPARED '{}'", gid(p)),
                    Err(_) => "ROLLBACK".to_owned(),
                };
                async move { p.server.query(&sql).await }
            }))
            .await;
            roll_back_each(coordinator).await;
        }
        return Err(error);
    }
    let committed = join_all(workers.iter_mut().map(|p| {
        let sql = format!("COMMIT PREPARED '{}'", gid(p));
        async move { p.server.query(&sql).await }
    }))
    .await;
    if let Some(error) = committed.into_iter().find_map(Result::err) {
        return Err(unknown("the transaction is committed, but a node could not be told yet")
            .detail(error.message().to_owned())
            .hint("It becomes visible there as soon as the node can be reached."));
    }
    forget(executor, transaction);
    Ok(())
}

/// Commits the coordinator's part with the decision in it.
///
/// Errors: what the commit says (a deferred constraint), 40001 when a recovery was faster, 08007 when nobody can tell.
async fn decide_by_commit(
    executor: &Executor,
    coordinator: &mut Participant,
    transaction: &str,
    nodes: &[NodeId],
) -> Result<()> {
    let row = catalog::two_phase::decide_commit(transaction, nodes);
    coordinator.server.query(&row).await.map_err(|error| match error.code() {
        SqlState::UNIQUE_VIOLATION => too_late(),
        _ => error,
    })?;
    let Err(error) = coordinator.server.query("COMMIT").await else {
        return if coordinator.server.last_tag() == "COMMIT" { Ok(()) } else { Err(rolled_back()) };
    };
    if !coordinator.server.is_poisoned() {
        return Err(error);
    }
    // The answer was lost. Asking for an abort waits for that commit if it still runs, and learns how it ended.
    match decide(executor, transaction, nodes, Decision::Abort).await {
        Ok(Decision::Commit) => Ok(()),
        Ok(Decision::Abort) => Err(error),
        Err(_) => {
            Err(unknown("the connection was lost before the commit was confirmed").detail(error.message().to_owned()))
        }
    }
}

async fn decide(
    executor: &Executor,
    transaction: &str,
    nodes: &[NodeId],
    wanted: Decision,
) -> std::result::Result<Decision, Undecided> {
    let began = Instant::now();
    let mut lost = None;
    loop {
        let decided = match control_connection(executor, began).await {
            Ok(client) => catalog::two_phase::decide(&**client, transaction, wanted, nodes).await,
            Err(error) => Err(Undecided::Refused(error)),
        };
        match decided {
            // Whoever asks again hears what stands.
            Err(Undecided::Lost(error)) if catalog::is_away(&error) && is_awaited(executor, began) => {
                lost = Some(error);
                timer::sleep(AGAIN_AFTER).await;
            }
            Err(Undecided::Refused(error)) => {
                return Err(lost.map_or_else(|| Undecided::Refused(error), Undecided::Lost));
            }
            decided => return decided,
        }
    }
}

/// To the coordinator, which is waited for while it is away. `began`: since when.
async fn control_connection(executor: &Executor, began: Instant) -> Result<Object> {
    loop {
        match executor.catalog.client(NodeId::COORDINATOR).await {
            Err(error) if catalog::is_away(&error) && is_awaited(executor, began) => timer::sleep(AGAIN_AFTER).await,
            Err(error) if catalog::is_away(&error) => {
                return Err(PgError::new(SqlState::CONNECTION_FAILURE, "the coordinator cannot be reached")
                    .detail(error.message().to_owned())
                    .hint("It decides on transactions over several nodes. They wait for it for pool.outage_timeout."));
            }
            connected => return connected,
        }
    }
}

fn is_awaited(executor: &Executor, began: Instant) -> bool {
    began.elapsed() < executor.pools.outage_timeout()
}

fn too_late() -> PgError {
    PgError::new(SqlState::SERIALIZATION_FAILURE, "the transaction was rolled back because its commit took too long")
        .hint("Retry the transaction.")
}

fn rolled_back() -> PgError {
    PgError::new(SqlState::IN_FAILED_SQL_TRANSACTION, "current transaction is aborted, it was rolled back")
}

async fn roll_back_each(participants: &mut [&mut Participant]) {
    for outcome in join_all(participants.iter_mut().map(|p| end(p, "ROLLBACK"))).await {
        if let Err(error) = outcome {
            tracing::debug!(%error, "could not roll back a participant; its connection is closed");
        }
    }
}

/// The decision is carried out everywhere, so nobody will ask for it again. Nobody waits for this either.
fn forget(executor: &Executor, transaction: String) {
    let catalog = executor.catalog.clone();
    tokio::spawn(async move {
        let forgotten = match catalog.client(NodeId::COORDINATOR).await {
            Ok(client) => catalog::two_phase::forget(&**client, &transaction).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::warn!(%error, "could not delete a decision row; the recovery will");
        }
    });
}

/// PREPARE TRANSACTION in a failed or absent transaction is no error: it answers ROLLBACK. The tag tells.
async fn prepare(participant: &mut Participant, sql: &str) -> Result<()> {
    participant.server.query(sql).await?;
    if participant.server.last_tag() == "PREPARE TRANSACTION" {
        return Ok(());
    }
    Err(rolled_back())
}

async fn end(participant: &mut Participant, sql: &str) -> Result<()> {
    if !participant.began && participant.server.status() == Status::Idle {
        return Ok(());
    }
    let was_there = !participant.server.is_poisoned();
    let result = participant.server.query(sql).await;
    match result {
        // COMMIT of a failed transaction is no error: it answers ROLLBACK.
        Ok(_) if sql == "COMMIT" && participant.server.last_tag() != sql => Err(rolled_back()),
        Ok(_) => Ok(()),
        // The answer to COMMIT was lost: it may have happened.
        Err(error) if was_there && participant.server.is_poisoned() && sql == "COMMIT" => {
            Err(unknown("the connection was lost before the commit was confirmed").detail(error.message().to_owned()))
        }
        Err(error) => {
            // Cancelled before it had begun.
            if sql == "COMMIT" && !participant.server.is_poisoned() && participant.server.status() != Status::Idle {
                participant.server.query("ROLLBACK").await?;
            }
            Err(error)
        }
    }
}

async fn roll_back(participants: &mut [Participant]) {
    for outcome in join_all(participants.iter_mut().map(|p| end(p, "ROLLBACK"))).await {
        if let Err(error) = outcome {
            tracing::debug!(%error, "could not roll back a participant; its connection is closed");
        }
    }
}

fn unknown(message: &str) -> PgError {
    PgError::new(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, message)
}

const AGAIN_AFTER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_global_id_names_its_transaction() {
        let ids = TransactionIds::new("a1b2".to_owned());
        let transaction = ids.next();
        assert_eq!(transaction_of_gid(&format!("{transaction}_3")), Some(transaction.as_str()));
        assert_eq!(transaction_of_gid("somebody_elses_1"), None);
    }
}
