//! What ways back keep on a node that is about to leave, and elsewhere for its sake, goes before it does: later nobody could
//! reach it, and a slot keeps its server's WAL for ever.

use std::time::Duration;

use super::state::{Move, MoveState};
use super::{MoverEnvironment, cleanup, lock, session};
use crate::catalog::{Address, connect};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

/// Ends the ways back from and to the node, and waits until nothing of them is left. A server that cannot be reached is not
/// waited for: it keeps what it has, and who looks after its ways back ends them without it.
///
/// Errors: 55P03 when who looks after one does not let go of it; those of the servers.
pub async fn end_ways_back(environment: &MoverEnvironment, node: NodeId, address: &Address) -> Result<()> {
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    let concerned = |back: &Move| back.source == node || back.target == node;
    let backs: Vec<Move> = Move::undoable(&catalog).await?.into_iter().filter(concerned).collect();
    if backs.is_empty() || connect(environment.catalog.settings(), address).await.is_err() {
        return Ok(());
    }
    let mut environment = environment.clone();
    environment.settings.silence_patience = Duration::ZERO;
    for back in backs {
        let id = back.id;
        lock::acquire_way_back(&environment, &catalog, id, PATIENCE).await.map_err(|error| kept(error, &back))?;
        let mut back = back.reload(&catalog).await?;
        if back.state == MoveState::Undoable {
            match cleanup::clean_up(&environment, &catalog, &mut back).await {
                Err(error) if error.code() == SqlState::CONNECTION_FAILURE => {
                    tracing::warn!(move_id = id, %error, "a node leaves while the other one of a way back is away");
                }
                ended => ended?,
            }
        }
        lock::release_way_back(&catalog, id).await?;
    }
    Ok(())
}

fn kept(error: PgError, back: &Move) -> PgError {
    match error.code() {
        SqlState::LOCK_NOT_AVAILABLE => {
            let of = back.back_of.unwrap_or(back.id);
            PgError::new(error.code(), format!("the way back of shard move {of} is not let go of"))
                .detail("A proxy looks after it, and does not answer.")
                .hint(format!("Try again, or end the way back by SELECT tenantry_keep_move({of});"))
        }
        _ => error,
    }
}

/// Whoever looks after a way back is asked to let go of it three times a second.
const PATIENCE: Duration = Duration::from_secs(10);
