//! What moves are given: the catalog, the holds, their limits, and how long they try.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::cancel::Wishes;
use super::newcomer::Newcomer;
use super::state::Move;
use super::throttle::MoveLimits;
use crate::catalog::{Address, Catalog};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Holds;
use crate::shard_map::NodeId;

/// What moves need from the rest of the proxy.
#[derive(Clone)]
pub struct MoverEnvironment {
    pub catalog: Arc<Catalog>,
    pub holds: Arc<Holds>,
    pub settings: MoverSettings,
    /// They may change while a move runs.
    pub limits: Arc<ArcSwap<MoveLimits>>,
    /// For tests: end here as a crash would, with everything left as it is.
    pub stop_at: Option<StopPoint>,
    /// A server that may be in no catalog yet.
    pub(super) newcomer: Option<(NodeId, Address)>,
    /// What this proxy is called among those that live.
    pub(super) instance: Arc<str>,
    /// Which moves somebody has cancelled.
    pub(super) wishes: Arc<Wishes>,
}

#[derive(Debug, Clone)]
pub struct MoverSettings {
    /// Longest wait for table locks in one attempt; others queue behind a waiting lock for as long. Below the servers'
    /// `deadlock_timeout`, so that in a deadlock it is the move that gives way, never a client. Default: 200ms.
    pub lock_timeout: Duration,
    /// Attempts at locks outside the cutover go on for this time. Default: 60s.
    pub lock_patience: Duration,
    /// Longest wait for other moves and schema changes of the colocation group, and for a place on the nodes. Default: 10min.
    pub group_patience: Duration,
    /// Longest wait for transactions that were open on the source before the move. Default: 10min.
    pub slot_patience: Duration,
    /// Attempts at the cutover go on for this time. Default: 5min.
    pub cutover_patience: Duration,
    /// A cutover starts when a change needs at most this time to be committed on the target. Default: 20ms.
    pub near: Duration,
    /// Longest wait for that. Default: 10min.
    pub catch_up_patience: Duration,
    /// Longest time for which an attempt at the cutover keeps clients waiting before it is taken back. Default: 5s.
    pub fence_patience: Duration,
    /// Longest time for which a node of the move may answer nothing. Default: 60s.
    pub silence_patience: Duration,
    /// Longest pause of a copy for one standby. Default: 10min.
    pub standby_patience: Duration,
    /// Compare both sides before the cutover. Default: yes.
    pub verify: bool,
    /// Go on to the cutover; otherwise all is taken back before it. Default: yes.
    pub flips: bool,
    /// Moves may have a way back, where `MoveLimits::undo_window` wants it. Default: yes.
    pub keeps_way_back: bool,
    /// In the place of `MoveLimits::per_node`, where the caller has asked for another. Default: none.
    pub per_node: Option<usize>,
}

impl Default for MoverSettings {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_millis(200),
            lock_patience: Duration::from_secs(60),
            group_patience: Duration::from_secs(600),
            slot_patience: Duration::from_secs(600),
            cutover_patience: Duration::from_secs(300),
            near: Duration::from_millis(20),
            catch_up_patience: Duration::from_secs(600),
            fence_patience: Duration::from_secs(5),
            silence_patience: Duration::from_secs(60),
            standby_patience: Duration::from_secs(600),
            verify: true,
            flips: true,
            keeps_way_back: true,
            per_node: None,
        }
    }
}

/// Points of a move at which a test may crash it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopPoint {
    Planned,
    TargetCreated,
    /// Publication and slot exist, nothing is copied.
    SlotCreated,
    Copied,
    IndexesBuilt,
    CaughtUp,
    /// The source's schemas are renamed.
    Fenced,
    /// ... and all changes are on the target.
    FenceApplied,
    /// ... and the tenant's rows are among those of its interval.
    Merged,
    Switched,
}

impl MoverEnvironment {
    pub fn new(catalog: Arc<Catalog>, holds: Arc<Holds>, limits: Arc<ArcSwap<MoveLimits>>) -> Self {
        let (settings, instance, wishes) = (MoverSettings::default(), Arc::from(""), Arc::default());
        Self { catalog, holds, settings, limits, stop_at: None, newcomer: None, instance, wishes }
    }

    /// By a proxy that others know.
    pub fn driven_by(self, instance: &str) -> Self {
        Self { instance: instance.into(), ..self }
    }

    /// For work on this move, whose target may be in no catalog yet.
    pub(super) fn of(&self, mv: &Move) -> Self {
        let newcomer = mv.newcomer.as_ref().map(|Newcomer { address, .. }| (mv.target, address.clone()));
        Self { newcomer, ..self.clone() }
    }

    /// Where a node's servers may be.
    ///
    /// Errors: 42704 when there is no such node.
    pub(super) fn hosts(&self, node: NodeId) -> Result<Vec<Address>> {
        match &self.newcomer {
            Some((id, address)) if *id == node => Ok(vec![address.clone()]),
            _ => self.catalog.hosts(node),
        }
    }

    /// Does it take part in the cluster? Nobody waits for one to come back that does not.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.newcomer.as_ref().is_none_or(|(id, _)| *id != node)
    }

    /// Most moves that one node may take part in now.
    pub fn moves_per_node(&self) -> usize {
        self.settings.per_node.unwrap_or_else(|| self.limits.load().per_node)
    }

    /// With as many as the caller asks for, if he does.
    pub fn with_moves_per_node(&self, per_node: Option<usize>) -> Self {
        let mut environment = self.clone();
        environment.settings.per_node = per_node;
        environment
    }

    /// For moves off a server that is to go.
    pub fn without_way_back(&self) -> Self {
        let mut environment = self.clone();
        environment.settings.keeps_way_back = false;
        environment
    }

    pub(super) fn stop_at(&self, point: StopPoint) -> Result<()> {
        if self.stop_at == Some(point) { Err(PgError::fatal(STOPPED, "stopped for a test")) } else { Ok(()) }
    }
}

/// What a test's stop looks like: no error of a server's has it here.
pub(super) const STOPPED: SqlState = SqlState::ADMIN_SHUTDOWN;
