//! All nodes that this process has connections to, and what is said of them from outside: their servers, shares, standbys.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::demands::Demands;
use super::hosts::{NodeHosts, Purpose};
use super::login::ServerAddress;
use super::node::{Node, lock};
use super::pool_settings::PoolSettings;

/// All nodes that this process has connections to.
pub struct Nodes {
    settings: Arc<ArcSwap<PoolSettings>>,
    nodes: Mutex<HashMap<(ServerAddress, Purpose), Arc<Node>>>,
    /// Each data thread's bell: close idle connections of nodes that are pressed.
    bells: Mutex<Vec<Weak<Notify>>>,
    /// Rings when a standby was found to have taken a primary's place.
    pub(super) promoted: Notify,
    demands: Arc<Demands>,
    /// No connection is given out.
    pub(super) paused: Arc<AtomicBool>,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").finish_non_exhaustive()
    }
}

impl Nodes {
    /// The settings may change at any time.
    pub fn new(settings: Arc<ArcSwap<PoolSettings>>) -> Arc<Self> {
        let promoted = Notify::new();
        Arc::new(Self {
            settings,
            nodes: Mutex::default(),
            bells: Mutex::default(),
            promoted,
            demands: Arc::default(),
            paused: Arc::default(),
        })
    }

    pub fn settings(&self) -> &Arc<ArcSwap<PoolSettings>> {
        &self.settings
    }

    /// What servers ask for beside what they answer.
    pub fn demands(&self) -> &Arc<Demands> {
        &self.demands
    }

    pub(super) fn node(self: &Arc<Self>, address: &ServerAddress, purpose: Purpose) -> Arc<Node> {
        let mut nodes = lock(&self.nodes);
        let key = (address.clone(), purpose);
        if let Some(node) = nodes.get(&key) {
            return node.clone();
        }
        let node = Arc::new(Node::new(self, address, purpose));
        nodes.insert(key, node.clone());
        node
    }

    /// The node whose primary has this address, if sessions or the catalog have named it.
    pub fn known(&self, address: &ServerAddress) -> Option<Arc<Node>> {
        lock(&self.nodes).get(&(address.clone(), Purpose::Writes)).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).values().cloned().collect()
    }

    /// The servers of all nodes are these now. Idle connections to what is not among them are closed; those to a primary whose place
    /// its standby has taken are given up.
    pub fn set_hosts(self: &Arc<Self>, all: &[NodeHosts]) {
        for NodeHosts { primary, standbys, timeline } in all {
            let node = self.node(primary, Purpose::Writes);
            let is_another = lock(&node.hosts).set(standbys, *timeline);
            if is_another {
                node.give_up_all();
            }
        }
        for node in self.all() {
            let is_gone = match node.purpose {
                Purpose::Writes => all.iter().all(|known| known.primary != node.address),
                Purpose::Reads => all.iter().all(|known| !known.standbys.contains(&node.address)),
            };
            if node.is_gone.swap(is_gone, Ordering::AcqRel) != is_gone {
                node.review();
            }
            let is_standby = || all.iter().any(|known| known.standbys.contains(&node.current_host()));
            match (is_gone, node.purpose) {
                (true, Purpose::Writes) if is_standby() => node.replace(),
                // Sessions that keep theirs would go on with a server that nobody else asks.
                (true, _) => node.retire_all(),
                (false, _) => {}
            }
        }
    }

    /// Primaries whose place a standby has taken, that standby, and its timeline.
    pub fn promoted(&self) -> Vec<(ServerAddress, ServerAddress, i32)> {
        let promoted = |node: Arc<Node>| {
            let hosts = lock(&node.hosts);
            let (host, timeline) = hosts.promoted()?;
            Some((node.address.clone(), host.clone(), timeline))
        };
        self.all().into_iter().filter_map(promoted).collect()
    }

    /// Which server takes writes for the node of this name, if that was found out.
    pub fn primary_of(self: &Arc<Self>, name: &ServerAddress) -> Option<ServerAddress> {
        lock(&self.node(name, Purpose::Writes).hosts).primary().cloned()
    }

    /// The standby there has all that its primary had written at that moment.
    pub fn note_replayed(self: &Arc<Self>, standby: &ServerAddress, as_of: Instant) {
        *lock(&self.node(standby, Purpose::Reads).as_of) = Some(as_of);
    }

    /// Waits until `promoted` has something new. Cancel safe.
    pub async fn until_promoted(&self) {
        self.promoted.notified().await;
    }

    /// This process's share of what a node takes, where `node_connections` does not say otherwise.
    /// Its standbys take as many.
    pub fn set_share(self: &Arc<Self>, address: &ServerAddress, connections: usize) {
        let node = self.node(address, Purpose::Writes);
        let standbys = lock(&node.hosts).standbys().to_vec();
        let is_copy = |other: &Arc<Node>| other.purpose == Purpose::Reads && standbys.contains(&other.address);
        for node in self.all().into_iter().filter(is_copy).chain([node]) {
            let mut state = node.lock();
            if state.share != Some(connections) {
                state.share = Some(connections);
                node.settle(state);
            }
        }
    }

    /// May the node's server take another number of connections than it did when this was asked last? It was away, goes, or has
    /// refused one as too many.
    pub fn take_news(&self, address: &ServerAddress) -> bool {
        self.known(address).is_some_and(|node| node.has_news.swap(false, Ordering::AcqRel))
    }

    /// Connections to the node that are open now are not used again, so that its server can end.
    pub fn let_go(&self, address: &ServerAddress) {
        if let Some(node) = self.known(address) {
            node.retire_all();
        }
        self.ring();
    }

    /// Is nowhere more open than the shares allow?
    pub fn is_within_shares(&self) -> bool {
        self.all().iter().all(|node| {
            let state = node.lock();
            state.open <= node.limit(&state)
        })
    }

    /// A data thread's bell.
    pub(super) fn bell(&self) -> Arc<Notify> {
        let bell = Arc::new(Notify::new());
        let mut bells = lock(&self.bells);
        bells.retain(|b| b.strong_count() > 0);
        bells.push(Arc::downgrade(&bell));
        bell
    }

    /// Every data thread looks after its idle connections.
    pub(super) fn ring(&self) {
        lock(&self.bells).iter().filter_map(Weak::upgrade).for_each(|bell| bell.notify_one());
    }
}
