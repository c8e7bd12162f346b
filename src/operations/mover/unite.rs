//! Shard groups that are neighbours are put together: fewer shards, and the undoing of a split.
//!
//! ```text
//!   other nodes: public_<2> ──move──┐
//!   one node:    public_<1>  public_<2>  public_<3> ──fence, all in one transaction──> tenantry_moved_<id>_<n> ──> dropped
//!                     └─ one slot; every row, copied or changed ──> public_<new> on the same node
//! ```
//!
//! First those on other nodes move to the node, each a move of its own, which stands when a later step fails. What follows is a
//! split turned round: one source, so one slot, one fence and one last marker for all of them.

use std::collections::BTreeSet;

use super::pieces::Piece;
use super::state::Move;
use super::{MoveRequest, MoverEnvironment, Notify, TransferMode, begin, carry_out, move_shard_group, schemas};
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{ColocationId, NodeId, ShardGroup, ShardGroupId, ShardMap};

/// Puts the groups, which are given in the order of their hashes, together on `node`; answers what they are called now.
///
/// Errors: 55000 when one of them is not there any more, or they are no neighbours; those of a move. Nothing is put together then.
pub(super) async fn unite(
    environment: &MoverEnvironment,
    colocation: ColocationId,
    groups: &[ShardGroupId],
    node: NodeId,
    notify: &Notify<'_>,
) -> Result<ShardGroupId> {
    // What moves now is not to stay where it gets to.
    let moving = environment.without_way_back();
    for group in groups {
        let map = environment.catalog.refresh().await?;
        let source = neighbours(&map, colocation, groups)?.into_iter().find(|g| g.id == *group).map(|g| g.node);
        if let Some(source) = source.filter(|source| *source != node) {
            let request = MoveRequest { group: *group, source, target: node, mode: TransferMode::Online };
            move_shard_group(&moving, request, notify).await?;
        }
    }
    let catalog = begin(environment, colocation, &BTreeSet::from([node])).await?;
    // What was true before the lock may not be now.
    let map = environment.catalog.refresh().await?;
    let found = neighbours(&map, colocation, groups)?;
    let (Some(first), Some(last)) = (found.first(), found.last()) else { return Err(changed()) };
    if found.iter().any(|group| group.node != node) {
        return Err(changed());
    }
    let sql = "SELECT nextval('tenantry.shard_id')";
    let id: i64 = catalog.query_one(sql, &[]).await.map_err(pg_error)?.get(0);
    let piece = Piece { group: ShardGroupId(id as u64), node, min: first.min, max: last.max };
    let mv = Move::new(colocation, first.id, (node, node), schemas(&map, colocation));
    let mv = Move::plan(&catalog, Move { pieces: vec![piece], united: groups.to_vec(), ..mv }).await?;
    carry_out(environment, catalog, mv, TransferMode::Online, notify).await?;
    Ok(piece.group)
}

/// The groups as they are now.
fn neighbours(map: &ShardMap, colocation: ColocationId, groups: &[ShardGroupId]) -> Result<Vec<ShardGroup>> {
    let find = |id: &ShardGroupId| map.colocation(colocation).and_then(|known| known.group(*id)).cloned();
    let found: Vec<ShardGroup> = groups.iter().filter_map(find).filter(|group| group.tenant.is_none()).collect();
    let meet = found.windows(2).all(|pair| pair[0].max.checked_add(1) == Some(pair[1].min));
    if found.len() == groups.len() && found.len() > 1 && meet { Ok(found) } else { Err(changed()) }
}

fn changed() -> PgError {
    let message = "shards that were to be put together have been moved, split or taken apart meanwhile";
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint("Run it again.")
}
