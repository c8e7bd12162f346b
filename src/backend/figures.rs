//! What pools and servers look like right now: for metrics, `SHOW POOLS` and `SHOW SERVERS`.
//!
//! `Nodes::figures()` gives one consistent picture of each node, from any thread, at the cost of its lock for a moment.
//! Nothing here changes anything.
//!
//! ```text
//!   NodeFigures                      one for each node that was ever connected to
//!     limit, open, logging_in, waiting, longest_waiting, outage
//!     pools:   PoolFigures           one for each role and database, all threads together (SHOW POOLS)
//!     servers: ServerFigures         one for each connection that is logged in (SHOW SERVERS)
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::hosts::Purpose;
use super::login::ServerAddress;
use super::node::Node;
use super::nodes::Nodes;
use crate::tally::Distribution;

/// Everything that this process holds to one node.
#[derive(Debug, Clone)]
pub struct NodeFigures {
    pub address: ServerAddress,
    /// A standby, for reads.
    pub is_replica: bool,
    /// For how long at most it may lack what its primary has written; zero for a primary. `None`: nobody knows.
    pub lag: Option<Duration>,
    /// Most connections that may be open: the share of this process.
    pub limit: usize,
    /// Connections that are open or being opened.
    pub open: usize,
    /// Those of them that are being opened.
    pub logging_in: usize,
    /// Sessions that wait for a connection.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub longest_waiting: Duration,
    /// Why the node cannot be reached; `None` while it can, as far as is known.
    pub outage: Option<String>,
    pub pools: Vec<PoolFigures>,
    pub servers: Vec<ServerFigures>,
}

/// All connections of one role to one database of one node. From `waits` on it is what has happened since the process was started.
#[derive(Debug, Clone, Default)]
pub struct PoolFigures {
    pub user: String,
    pub database: String,
    pub in_use: usize,
    pub idle: usize,
    pub waiting: usize,
    /// Most connections there are to be for now.
    pub most: usize,
    /// Connections that are being opened.
    pub logging_in: usize,
    /// How long the first of those who wait has waited.
    pub longest_waiting: Duration,
    /// How long those waited who asked for a new connection or for one in use.
    pub waits: Distribution,
    pub longest_wait: Duration,
    /// Waits that ended in 53300.
    pub timeouts: u64,
    /// How long it took from what was sent to the end of its answer.
    pub answers: Distribution,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// One connection to a server.
#[derive(Debug, Clone)]
pub struct ServerFigures {
    pub user: String,
    pub database: String,
    /// The server's process number.
    pub pid: u32,
    pub in_use: bool,
    /// A session waits for its answer.
    pub is_waited_for: bool,
    /// Whoever has it now is the last.
    pub is_closing: bool,
    pub age: Duration,
}

impl Nodes {
    /// All nodes, by address.
    pub fn figures(&self) -> Vec<NodeFigures> {
        let mut all: Vec<_> = self.all().iter().map(|node| figures(node)).collect();
        all.sort_by(|a, b| a.place().cmp(&b.place()));
        all
    }
}

impl NodeFigures {
    /// Its name, in metrics: a server may be a primary and, before or after, a standby.
    pub fn name(&self) -> String {
        if self.is_replica { format!("{} (standby)", self.address) } else { self.address.to_string() }
    }

    fn place(&self) -> (&str, u16, bool) {
        (&self.address.host, self.address.port, self.is_replica)
    }
}

fn figures(node: &Node) -> NodeFigures {
    let settings = node.settings().load();
    let state = node.lock();
    let mut pools: BTreeMap<(&str, &str), PoolFigures> = BTreeMap::new();
    for count in state.pools.values() {
        let pool = pools.entry((&count.user, &count.database)).or_default();
        // Those that are logged in are taken off below.
        pool.logging_in += count.open;
        pool.most += count.most(&settings);
        pool.waits += count.tally.waits.read();
        pool.answers += count.tally.answers.read();
        pool.received_bytes += count.tally.traffic.received.get();
        pool.sent_bytes += count.tally.traffic.sent.get();
        pool.longest_wait = pool.longest_wait.max(count.longest_wait);
        pool.timeouts += count.timeouts;
    }
    let of = |number: &u64| state.pools.get(number).map(|p| (p.user.as_str(), p.database.as_str()));
    for (pool, waiter) in state.queues.iter() {
        if let Some(pool) = of(&pool).and_then(|key| pools.get_mut(&key)) {
            pool.waiting += 1;
            pool.longest_waiting = pool.longest_waiting.max(waiter.since.elapsed());
        }
    }
    let mut servers = Vec::new();
    for (number, link) in state.links.values() {
        let Some(key) = of(number) else { continue };
        let in_use = link.is_used();
        if let Some(pool) = pools.get_mut(&key) {
            *(if in_use { &mut pool.in_use } else { &mut pool.idle }) += 1;
            pool.logging_in = pool.logging_in.saturating_sub(1);
        }
        servers.push(ServerFigures {
            user: key.0.to_owned(),
            database: key.1.to_owned(),
            pid: link.pid(),
            in_use,
            is_waited_for: in_use && link.waits_at().is_some(),
            is_closing: !link.may_be_reused(),
            age: link.opened.elapsed(),
        });
    }
    NodeFigures {
        address: node.address.clone(),
        is_replica: node.purpose == Purpose::Reads,
        lag: if node.purpose == Purpose::Reads { node.lag() } else { Some(Duration::ZERO) },
        limit: node.limit(&state),
        open: state.open,
        logging_in: state.logging_in,
        waiting: state.queues.len(),
        longest_waiting: state.queues.first(|_| true).map_or(Duration::ZERO, |(_, first)| first.since.elapsed()),
        outage: state.outage.as_ref().map(|outage| outage.why.clone()),
        pools: pools
            .into_iter()
            .map(|((user, database), pool)| PoolFigures { user: user.into(), database: database.into(), ..pool })
            .collect(),
        servers,
    }
}
