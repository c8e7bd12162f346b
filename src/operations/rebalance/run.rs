//! Measures, plans, and has the mover do it: several moves side by side, as the limits allow.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::plan::ShardMove;
use super::sizes::shards_of;
use crate::error::{PgError, Result, SqlState};
use crate::operations::mover::{
    MoveReport, MoveRequest, MoverEnvironment, Notice, Notify, TransferMode, move_shard_group,
};
use crate::shard_map::{NodeId, ShardMap};

/// How many moves go on at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub moves: usize,
    /// That read from or write to one node.
    pub moves_per_node: usize,
    /// May two of them be of one colocation group?
    pub colocated: bool,
}

impl Limits {
    pub fn of(environment: &MoverEnvironment) -> Self {
        let moves = environment.limits.load().at_once;
        Self { moves, moves_per_node: environment.moves_per_node(), colocated: false }
    }

    /// May `step` begin while `running` go on?
    pub fn admit<'a>(&self, step: &ShardMove, running: impl Iterator<Item = &'a ShardMove> + Clone) -> bool {
        let uses = |node: NodeId| running.clone().filter(|m| m.source == node || m.target == node).count();
        running.clone().count() < self.moves
            && uses(step.source) < self.moves_per_node
            && uses(step.target) < self.moves_per_node
            && (self.colocated || running.clone().all(|m| m.colocation != step.colocation))
            && running.clone().all(|m| m.group != step.group)
    }
}

/// Carries out a plan. When a move fails, those under way come to their end, and no further one begins.
pub async fn carry_out_all(
    environment: &MoverEnvironment,
    steps: Vec<ShardMove>,
    mode: TransferMode,
    limits: Limits,
    notify: &Notify<'_>,
) -> Result<Vec<MoveReport>> {
    let (mut waiting, mut running) = (VecDeque::from(steps), Vec::<ShardMove>::new());
    let (mut under_way, mut reports) = (FuturesUnordered::new(), Vec::new());
    let mut failed = None;
    loop {
        while failed.is_none()
            && let Some(at) = waiting.iter().position(|step| limits.admit(step, running.iter()))
        {
            let step = waiting.remove(at).expect("found just now");
            running.push(step.clone());
            under_way.push(async move { (carry_out(environment, &step, mode, notify).await, step) });
        }
        let Some((ended, step)) = under_way.next().await else { break };
        running.retain(|other| *other != step);
        match ended {
            Ok(report) => reports.extend(report),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(reports), Err)
}

/// One step of a plan; None when somebody else has done it meanwhile.
pub async fn carry_out(
    environment: &MoverEnvironment,
    step: &ShardMove,
    mode: TransferMode,
    notify: &Notify<'_>,
) -> Result<Option<MoveReport>> {
    if !is_there(environment, step).await? {
        return Ok(None);
    }
    let map = environment.catalog.map();
    let shard = shards_of(&map, step).into_iter().map(|(_, shard)| shard.0).min();
    notify(Notice::new(format!(
        "Moving shard {} from {} to {} ...",
        shard.unwrap_or(step.group.0),
        address(&map, step.source),
        address(&map, step.target)
    )));
    let request = MoveRequest { group: step.group, source: step.source, target: step.target, mode };
    match move_shard_group(environment, request, notify).await {
        // While it waited for its turn.
        Err(error) if is_of_its_place(&error) && !is_there(environment, step).await? => Ok(None),
        ended => ended,
    }
}

/// Not after a crash behind the move, when somebody has moved it by hand, or when it was split or dropped.
async fn is_there(environment: &MoverEnvironment, step: &ShardMove) -> Result<bool> {
    let map = environment.catalog.refresh().await?;
    let home = map.colocation(step.colocation).and_then(|c| c.group(step.group)).map(|g| g.node);
    Ok(home == Some(step.source))
}

/// See `mover::check`.
fn is_of_its_place(error: &PgError) -> bool {
    matches!(error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE | SqlState::UNDEFINED_OBJECT)
}

/// `host:port`, as messages show it.
pub fn address(map: &ShardMap, node: NodeId) -> String {
    map.node(node).map_or_else(|| format!("node {node}"), |n| format!("{}:{}", n.host, n.port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_map::{ColocationId, ShardGroupId};

    #[test]
    fn a_node_takes_part_in_as_many_moves_as_it_may() {
        let step = |colocation, group, source, target| ShardMove {
            colocation: ColocationId(colocation),
            group: ShardGroupId(group),
            source: NodeId(source),
            target: NodeId(target),
        };
        let running = [step(1, 10, 1, 3)];
        let limits = Limits { moves: 2, moves_per_node: 1, colocated: true };
        let admit = |limits: Limits, step| limits.admit(&step, running.iter());
        assert!(admit(limits, step(1, 11, 2, 4)));
        assert!(!admit(limits, step(1, 11, 1, 4)), "its source is busy");
        assert!(!admit(limits, step(1, 11, 2, 3)), "its target is busy");
        assert!(!admit(limits, step(1, 11, 3, 4)), "its source is another's target");
        assert!(!admit(Limits { colocated: false, ..limits }, step(1, 11, 2, 4)));
        assert!(admit(Limits { colocated: false, ..limits }, step(2, 11, 2, 4)));
        assert!(!admit(Limits { moves: 1, ..limits }, step(2, 11, 2, 4)));
        assert!(admit(Limits { moves_per_node: 2, ..limits }, step(2, 11, 1, 3)));
        assert!(!admit(Limits { moves_per_node: 2, ..limits }, step(1, 10, 2, 4)), "a group makes one move at a time");
    }
}
