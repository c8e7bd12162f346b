//! How servers join a transaction, are used beside it for a while, and leave.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Kind, Pin, Transaction};
use crate::backend::{FoundPool, Identity, PooledServer, ServerAddress};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Executor;
use crate::executor::handed::Handed;
use crate::executor::participant::Participant;
use crate::planner::ReadFrom;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};
use crate::wire::reply_queue::To;

impl Transaction {
    /// Takes servers out, to use several side by side. `put_back` must follow on every way, errors included: a server
    /// that is missing would be missing in ROLLBACK TO SAVEPOINT and COMMIT, and what it has done would be lost.
    ///
    /// Errors: those of `join`; then all are still in their places.
    pub async fn take(&mut self, nodes: &[NodeId]) -> Result<Vec<Participant>> {
        for node in nodes {
            self.join(*node).await?;
        }
        let take = |node: &NodeId| {
            let at = self.participants.iter().position(|p| p.node == *node).expect("joined above");
            self.participants.remove(at)
        };
        Ok(nodes.iter().map(take).collect())
    }

    /// The only server, where it has run statements in the client's block, has nothing to answer and nothing to learn first.
    fn settled(&self) -> Option<&Participant> {
        let [only] = &self.participants[..] else { return None };
        let is_settled = only.began && only.statements > 0 && !only.is_unsynced && !only.server.owes();
        is_settled.then_some(only)
    }

    /// Is the client in a block that goes on, on one server that waits for it?
    pub fn is_settled(&self) -> bool {
        self.kind == Kind::Explicit && !self.failed && self.settled().is_some()
    }

    /// The server of `is_settled`, to run a statement for this shard group alone: where it has run one for it before.
    /// `put_back` must follow, as after `take`.
    pub fn take_settled(&mut self, node: NodeId, group: ShardGroupId) -> Option<Participant> {
        let knows_group = self.settled().is_some_and(|only| only.node == node && only.groups.contains(&group));
        if knows_group { self.participants.pop() } else { None }
    }

    /// Has the client said BEGIN, and nothing that a server has to hear of?
    pub fn is_blank(&self) -> bool {
        self.kind == Kind::Explicit
            && !self.failed
            && self.participants.is_empty()
            && self.journal.is_empty()
            && self.private_map.is_none()
            && self.settings == self.settings_before
            && self.begin == "BEGIN"
    }

    /// The first server of a blank block, to run a statement for this shard group alone, when one is idle and carries what is
    /// needed: BEGIN is queued on it. `put_back` must follow, as after `take`.
    pub fn join_at_once(
        &mut self,
        node: NodeId,
        group: ShardGroupId,
        pools: &PoolsAtHand,
        now: Instant,
    ) -> Option<Participant> {
        let mut server = match &self.kept {
            Some(kept) => kept.take(node)?,
            None => self.executor.take_idle(node, group, &self.identity, pools, now)?,
        };
        let target = server.cancel_target();
        if !server.carries(&self.settings_before) || self.cancel.add(target.clone()).is_err() {
            if !self.cancel.remove(&target) {
                server.poison();
            }
            match &self.kept {
                Some(kept) => kept.put(node, server),
                None => self.handed.put(node, server),
            }
            return None;
        }
        server.queue_query("BEGIN", To::Nobody);
        let mut participant = Participant::new(node, server, self.with_map(ShardMap::version));
        participant.began = true;
        participant.groups.push(group);
        Some(participant)
    }

    /// Gives a server back. One whose answers were not all read is of no further use.
    pub fn put_back(&mut self, mut participant: Participant) {
        if participant.server.owes() {
            participant.server.poison();
        }
        self.participants.push(participant);
    }

    fn address(&self, node: NodeId) -> Result<ServerAddress> {
        self.with_map(|map| self.executor.address(map, node)).ok_or_else(|| {
            PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "a shard's node is not in the catalog any more")
                .hint("Retry the query.")
        })
    }

    /// Has the node been removed?
    pub fn has_left(&self, node: NodeId) -> bool {
        !node.is_coordinator() && self.with_map(|map| map.node(node).is_none())
    }

    /// The server of `node`, joining it when it does not take part yet.
    ///
    /// Errors: 08006 and what logging in says, 53300 when no connection is free.
    pub async fn join(&mut self, node: NodeId) -> Result<&mut Participant> {
        if let Some(at) = self.participants.iter().position(|p| p.node == node) {
            return Ok(&mut self.participants[at]);
        }
        let (mut server, is_kept, is_replica) = match self.pinned.take() {
            Some(pinned) if node.is_coordinator() => (pinned, true, false),
            other => {
                self.pinned = other;
                let (server, is_replica) = self.checkout(node).await?;
                if self.read_from == ReadFrom::Replica && !is_replica && !node.is_coordinator() {
                    self.warning(is_read_at_primary(&self.address(node)?, self.executor.pools.replica_lag()));
                }
                (server, false, is_replica)
            }
        };
        server.knows_user_types = node.is_coordinator();
        server.carry(&self.settings_before).await?;
        if node.is_coordinator() {
            if let Some(pin) = self.pins {
                keep(&mut server, pin);
            }
            let leftovers = &mut server.leftovers;
            if (is_kept || self.kept.is_some()) && leftovers.sequences_of != self.memory {
                leftovers.sequences_of = self.memory;
                server.query("DISCARD SEQUENCES").await?;
            } else if self.kind == Kind::Auto && leftovers.sequences_of != self.memory {
                leftovers.sequences_of = 0;
            }
        }
        let target = server.cancel_target();
        if let Err(cancelled) = self.cancel.add(target.clone()) {
            let is_quiet = self.cancel.remove(&target);
            if is_kept {
                self.pinned = Some(server);
            } else if !is_quiet {
                server.poison();
            }
            return Err(cancelled);
        }
        let map_version = self.with_map(ShardMap::version);
        self.participants.push(Participant::new(node, server, map_version));
        let participant = self.participants.last_mut().expect("just pushed");
        participant.is_replica = is_replica;
        if self.kind != Kind::Auto {
            participant.begin(&self.begin, &self.journal, self.memory, self.is_single).await?;
            // What was SET stands in the journal, between the savepoints that it was set between.
            participant.server.settings = self.settings.clone();
        }
        Ok(participant)
    }

    /// A connection that was logged in with the defaults that its role and database have now, and whether it is to a
    /// standby.
    async fn checkout(&self, node: NodeId) -> Result<(PooledServer, bool)> {
        if !self.read_from.is_replicas()
            && let Some(server) = self.kept.as_ref().and_then(|kept| kept.take(node))
        {
            return Ok((server, false));
        }
        let mut handed = self.handed.take(node).filter(|_| !self.read_from.is_replicas());
        loop {
            let address = self.address(node)?;
            let replica =
                if self.read_from.is_replicas() { Box::pin(self.checkout_replica(node)).await? } else { None };
            let is_replica = replica.is_some();
            let mut server = match replica
                .or_else(|| handed.take())
                .or_else(|| self.executor.pools.find(&address, &self.identity).take_idle(Instant::now()))
            {
                Some(server) => server,
                None => {
                    // Boxed: rare, and large; every future that joins a server would have room for it.
                    let checkout = Box::pin(self.executor.pools.checkout(&address, &self.identity));
                    match self.cancel.unless_cancelled(checkout).await {
                        // It was waited for there, and is elsewhere now.
                        Err(error)
                            if error.code() == SqlState::CONNECTION_FAILURE && self.address(node)? != address =>
                        {
                            continue;
                        }
                        checked_out => checked_out?,
                    }
                }
            };
            if self.executor.map.with(|map| is_current(&mut server, map)) {
                return Ok((server, is_replica));
            }
            server.poison();
        }
    }

    /// One of the node's standbys, for a client always the same one while it can be reached; none: read at the primary.
    async fn checkout_replica(&self, node: NodeId) -> Result<Option<PooledServer>> {
        let standbys = self.with_map(|map| map.node(node).map(|node| node.standbys.clone())).unwrap_or_default();
        let first = self.client as usize % standbys.len().max(1);
        for standby in standbys[first..].iter().chain(&standbys[..first]) {
            let address = ServerAddress { host: standby.host.clone(), port: standby.port };
            let checkout = self.executor.pools.checkout_reader(&address, &self.identity);
            if let Some(server) = self.cancel.unless_cancelled(checkout).await? {
                return Ok(Some(server));
            }
        }
        Ok(None)
    }

    /// May a statement that only reads do so at standbys? Not where the client's own transaction, or something before it,
    /// may have written.
    pub fn may_read_replicas(&self) -> bool {
        let is_harmless = |p: &Participant| p.is_replica || self.kind == Kind::Auto && p.node.is_coordinator();
        self.kind != Kind::Explicit && !self.changed_catalog() && self.participants.iter().all(is_harmless)
    }

    pub fn has_replicas(&self) -> bool {
        self.participants.iter().any(|p| p.is_replica)
    }

    /// Standbys leave: what comes may write. Their answers are all there.
    pub async fn dismiss_replicas(&mut self) {
        let (leaving, staying) = std::mem::take(&mut self.participants).into_iter().partition(|p| p.is_replica);
        self.participants = staying;
        for mut participant in leaving {
            participant.end_messages(true);
            let ended = match participant.began {
                true => participant.server.query("COMMIT").await.map(|_| ()),
                false => participant.server.finish().await.map(|_| ()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "could not end reads at a standby; its connection is closed");
                participant.server.poison();
            }
            self.release(participant);
        }
    }

    /// Undoes a join whose first statement did nothing, so that another server can take its place.
    pub async fn leave(&mut self, node: NodeId) -> Result<()> {
        let Some(at) = self.participants.iter().position(|p| p.node == node) else { return Ok(()) };
        let mut participant = self.participants.swap_remove(at);
        let ended = if participant.began { participant.server.query("ROLLBACK").await.map(|_| ()) } else { Ok(()) };
        participant.server.settings = participant.settings_before.clone();
        self.release(participant);
        ended
    }

    pub(super) fn release(&mut self, mut participant: Participant) {
        let is_quiet = self.cancel.remove(&participant.server.cancel_target());
        if self.pins.is_some() && participant.node.is_coordinator() {
            // A cancel that is on its way still finds the session that it is meant for.
            self.has_lost_pin |= participant.server.is_poisoned();
            self.pinned = Some(participant.server).filter(|server| !server.is_poisoned());
            return;
        }
        if !is_quiet || participant.is_unsynced {
            participant.server.poison();
        }
        match self.kept.as_ref().filter(|_| !participant.is_replica) {
            Some(kept) => kept.put(participant.node, participant.server),
            None => {
                let reads_otherwise = participant.server.may_read_otherwise();
                participant.server.leftovers.is_unsure |= self.is_opaque || reads_otherwise;
            }
        }
    }
}

/// The pools that one session has used, by node.
#[derive(Default)]
pub struct PoolsAtHand {
    /// Of a map of this version.
    version: Cell<u64>,
    pools: RefCell<Vec<(NodeId, FoundPool)>>,
    /// Whose connections were all in use when one was looked for, and for which shard group.
    missing: Cell<Option<(NodeId, ShardGroupId)>>,
    pub handed: Handed,
}

impl PoolsAtHand {
    /// The node for which the last look found no connection that nobody uses, and the shard group, once.
    pub fn take_missing(&self) -> Option<(NodeId, ShardGroupId)> {
        self.missing.take()
    }

    fn with<T>(
        &self,
        version: u64,
        node: NodeId,
        find: impl FnOnce() -> Option<FoundPool>,
        look: impl FnOnce(&FoundPool) -> T,
    ) -> Option<T> {
        let mut pools = self.pools.borrow_mut();
        if self.version.replace(version) != version {
            pools.clear();
        }
        if let Some((_, pool)) = pools.iter().find(|(of, _)| *of == node) {
            return Some(look(pool));
        }
        if pools.len() >= AT_HAND_MAX {
            pools.clear();
        }
        let pool = find()?;
        let outcome = look(&pool);
        pools.push((node, pool));
        Some(outcome)
    }
}

/// Those of most clients: a tenant's, or a few.
const AT_HAND_MAX: usize = 8;

impl Executor {
    fn address(&self, map: &ShardMap, node: NodeId) -> Option<ServerAddress> {
        if node.is_coordinator() {
            return Some(self.coordinator.clone());
        }
        map.node(node).map(|node| ServerAddress { host: node.host.clone(), port: node.port })
    }

    /// Where the node is now; `None` for one that the map does not have.
    pub fn current_address(&self, node: NodeId) -> Option<ServerAddress> {
        self.map.with(|map| self.address(map, node))
    }

    /// Where connections to `node` wait; `None` for one that the map does not have.
    pub fn pool_at_hand(&self, node: NodeId, identity: &Identity, pools: &PoolsAtHand) -> Option<FoundPool> {
        self.map.with(|map| {
            let find = || Some(self.pools.find(&self.address(map, node)?, identity));
            pools.with(map.version(), node, find, FoundPool::clone)
        })
    }

    /// A connection to `node` that is idle and was used a moment ago, for a statement of this shard group.
    pub fn take_idle(
        &self,
        node: NodeId,
        group: ShardGroupId,
        identity: &Identity,
        pools: &PoolsAtHand,
        now: Instant,
    ) -> Option<PooledServer> {
        self.map.with(|map| {
            let find = || Some(self.pools.find(&self.address(map, node)?, identity));
            let handed = pools.handed.take(node);
            let look = |pool: &FoundPool| pool.take_idle(now).ok_or_else(|| pool.has_idle());
            let found = match handed {
                Some(server) => Ok(server),
                None => pools.with(map.version(), node, find, look)?,
            };
            pools.missing.set(matches!(found, Err(false)).then_some((node, group)));
            let mut server = found.ok()?;
            let is_current = is_current(&mut server, map);
            if !is_current {
                server.poison();
            }
            is_current.then_some(server)
        })
    }
}

fn is_read_at_primary(node: &ServerAddress, lag: Duration) -> PgError {
    let near = match lag.is_zero() {
        true => String::new(),
        false => format!(" and is known to be no more than {lag:?} behind (pool.replica_lag)"),
    };
    PgError::new(SqlState::WARNING, format!("node {node} is read at its primary"))
        .detail(format!("It has no standby that can be read from{near}."))
        .hint("SET tenantry.read_from = 'prefer_replica' if the primary may answer as well.")
}

/// Was it logged in with the defaults that its role and database have now?
fn is_current(server: &mut PooledServer, map: &ShardMap) -> bool {
    let known = server.leftovers.role_settings.get_or_insert_with(|| map.role_settings().clone());
    Arc::ptr_eq(known, map.role_settings()) || *known == *map.role_settings()
}

pub(super) fn keep(server: &mut PooledServer, pin: Pin) {
    server.retire();
    server.leftovers.keeps_unknown |= pin == Pin::Unknown;
}
