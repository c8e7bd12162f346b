//! Moves that have failed, or whose owner is gone: finished past the point of no return, undone before it.
//!
//! ```text
//!   the row's state        both nodes say
//!   up to copied                                    undone
//!   caught_up              fence, all is there      the switch, then as switched;  catalog refuses it: the source serves again
//!   caught_up              anything else            undone
//!   switched                                        the source's remains are dropped
//! ```

use super::environment::MoverEnvironment;
use super::session::Session;
use super::state::{Move, MoveState};
use super::target::Target;
use super::{MOVES_AT_ONCE, cleanup, cutover, join, lock, part, session, undo};
use crate::catalog::pg_error;
use crate::error::{PgError, Result};
use crate::shard_map::NodeId;

/// Repairs every move whose owner is gone: finishes what is past the point of no return, undoes the rest.
///
/// Returns the number of repaired moves. Safe to run anywhere, at any time, because a living move has its locks.
/// Errors: of the last that could not be repaired.
pub async fn recover(environment: &MoverEnvironment) -> Result<usize> {
    let Recovered { repaired, failed } = recover_all(environment).await?;
    failed.map_or(Ok(repaired), |(_, error)| Err(error))
}

/// What a round of repairs has come to.
#[derive(Debug)]
pub struct Recovered {
    pub repaired: usize,
    /// The last move that could not be repaired, and why.
    pub failed: Option<(i64, PgError)>,
}

/// As `recover`, for those who try for ever. Errors: those of the catalog.
pub async fn recover_all(environment: &MoverEnvironment) -> Result<Recovered> {
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    let mut recovered = Recovered { repaired: 0, failed: None };
    for mv in Move::unfinished(&catalog).await? {
        let Some(release_lane) = lock::try_acquire_lane(&catalog, mv.colocation).await? else { continue };
        let (id, group) = (mv.id, mv.group);
        if lock::try_acquire_group(&catalog, group).await? {
            match repair(environment, &catalog, mv).await {
                Ok(()) => recovered.repaired += 1,
                Err(error) => recovered.failed = Some((id, error)),
            }
            lock::release_group(&catalog, group).await?;
        }
        catalog.batch_execute(&release_lane).await.map_err(pg_error)?;
    }
    Ok(recovered)
}

pub(super) async fn repair_failed(environment: &MoverEnvironment, mv: &Move, error: &PgError) -> Result<()> {
    settle(environment, mv, Some(error)).await
}

/// Waits until nobody works on the move any more, and repairs it. `error`: why it has failed, if it has.
pub(super) async fn settle(environment: &MoverEnvironment, mv: &Move, error: Option<&PgError>) -> Result<()> {
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    lock::acquire_lane(environment, &catalog, mv.colocation, *MOVES_AT_ONCE.end(), environment.settings.lock_patience)
        .await?;
    lock::acquire_group(environment, &catalog, mv.group, environment.settings.lock_patience).await?;
    let mv = mv.reload(&catalog).await?;
    if let Some(error) = error
        && let Err(unnoted) = mv.note_error(&catalog, error).await
    {
        // A catalog that takes no writes is no reason to keep the source waiting.
        tracing::warn!(move_id = mv.id, error = %unnoted, "could not note why a shard move failed");
    }
    repair(environment, &catalog, mv).await
}

/// Finishes or undoes a move that nobody works on. `catalog` has all lanes of the colocation group, or one and the shard
/// group's lock.
pub(super) async fn repair(environment: &MoverEnvironment, catalog: &Session, mv: Move) -> Result<()> {
    let mut mv = mv.reload(catalog).await?;
    let environment = &environment.of(&mv);
    match mv.state {
        MoveState::Done | MoveState::Failed | MoveState::Undoable => return Ok(()),
        MoveState::Switched => {}
        // The flip of a local table is one transaction, the source's own.
        MoveState::CaughtUp if mv.table.is_some() => {}
        // So is a new node's.
        MoveState::CaughtUp if mv.newcomer.is_some() => {}
        MoveState::CaughtUp => {
            let source = session::connect(environment, mv.source).await?;
            let targets = match Target::connect(environment, &mv).await {
                Ok(targets) => targets,
                Err(error) => {
                    // Nobody has written to whole shards there: clients need not wait for a target that is down.
                    if mv.part.is_none() && mv.join.is_none() {
                        cutover::unfence(&source, &mv).await?;
                        return cleanup::clean_up(environment, catalog, &mut mv).await;
                    }
                    return Err(error);
                }
            };
            let goes_on = match mv.join {
                Some(join) => join::is_merged(environment, &mv, join).await?,
                None => cutover::is_fence_applied(&source, &targets, &mv).await?,
            };
            if goes_on {
                undo::adopt(&targets, &mv).await?;
                cutover::carry_fenced_sequences(&source, &targets, &mv).await?;
                let back = Move::way_back(catalog, mv.id).await?;
                if let Some(back) = back.filter(|back| back.state == MoveState::Undoable) {
                    undo::mark_start(&source, &targets, &back).await?;
                }
                let map = environment.catalog.refresh().await?;
                part::leave_rest(&source, &mv, &map).await?;
                if let Err(refused) = cutover::flip(catalog, &mut mv).await {
                    go_back(catalog, &source, &mv, refused).await?;
                } else {
                    environment.catalog.refresh().await?;
                }
            } else {
                cutover::unfence(&source, &mv).await?;
            }
        }
        MoveState::Planned | MoveState::TargetCreated | MoveState::Copied => {}
    }
    cleanup::clean_up(environment, catalog, &mut mv).await
}

/// The catalog does not take the flip, because its disk is full for one: the source serves again, if that is still possible.
///
/// Errors: `refused` when it is not, or when the row is not as it was.
async fn go_back(catalog: &Session, source: &Session, mv: &Move, refused: PgError) -> Result<()> {
    // Asked of the session that got the error: what it was refused has not happened.
    let is_as_it_was = mv.reload(catalog).await?.state == MoveState::CaughtUp;
    // What stays of the source has no longer the tenant's rows.
    if !is_as_it_was || !mv.can_go_back() || mv.part.is_some() {
        return Err(refused);
    }
    tracing::warn!(move_id = mv.id, error = %refused, "could not switch a shard to its target, going back to its source");
    cutover::unfence(source, mv).await
}
