//! Shares the nodes' connections among the proxies that live on the catalog.
//!
//! ```text
//!   every second: how many proxies are there? ──more──> keep to less at once, say so when it is done
//!                                             └─fewer─> take more, after a while and when it is free
//!   now and then: how many connections does each node take?    share = what it takes / proxies - control connections
//! ```
//!
//! A node is asked on a connection of its own, at once when it was away or full: it may have been made smaller. One that lets nobody in
//! because it is shutting down waits for all connections to end (`pg_ctl stop -m smart`), so it gets them.
//! Where `pool.node_connections` is set it counts instead, on every node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::backend::{Nodes, ServerAddress};
use crate::catalog::proxies::{Endpoints, Membership, Wish};
use crate::catalog::{Catalog, pg_error};
use crate::error::{Result, SqlState};
use crate::shard_map::NodeId;
use crate::tally::Recurring;

/// Never ends: for as long as this process has connections it counts as a proxy. `coordinator` is where sessions reach it.
pub async fn share_connections(
    catalog: Arc<Catalog>,
    nodes: Arc<Nodes>,
    coordinator: ServerAddress,
    us: (String, Endpoints),
) {
    let mut sharer = Sharer {
        catalog,
        nodes,
        coordinator,
        us,
        part: None,
        since: Instant::now(),
        fewer_since: None,
        limits: HashMap::new(),
        trouble: Recurring::default(),
    };
    loop {
        if let Err(error) = sharer.run().await {
            sharer.trouble.failed(&error, UNASKED);
        }
        tokio::time::sleep(EVERY).await;
    }
}

struct Sharer {
    catalog: Arc<Catalog>,
    nodes: Arc<Nodes>,
    coordinator: ServerAddress,
    /// What this process is called, and where it is reached.
    us: (String, Endpoints),
    /// We keep to one in so many; `None` at first.
    part: Option<u32>,
    /// When that began.
    since: Instant,
    /// Since when there are fewer proxies than that.
    fewer_since: Option<Instant>,
    /// What nodes take.
    limits: HashMap<NodeId, Limit>,
    trouble: Recurring,
}

struct Limit {
    connections: usize,
    /// `None`: it is to be asked again as soon as it answers.
    asked: Option<Instant>,
}

impl Sharer {
    /// Until the catalog cannot be asked, or the coordinator lets nobody in.
    async fn run(&mut self) -> Result<()> {
        self.ask_coordinator().await?;
        let (instance, endpoints) = &self.us;
        let membership = Membership::join(self.catalog.settings(), instance, *endpoints, self.part).await?;
        loop {
            self.ask(&membership).await?;
            self.trouble.works(UNASKED);
            self.set_shares().await?;
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn ask(&mut self, membership: &Membership) -> Result<()> {
        let fewer_for = self.fewer_since.map_or(Duration::ZERO, |since| since.elapsed());
        let is_new = self.part.is_none();
        let wish = Wish {
            kept: self.part.filter(|_| self.nodes.is_within_shares()),
            may_grow: is_new || fewer_for > PATIENCE,
            // Who stands still gives nothing back, and the rest must not wait for him for ever.
            anyway: is_new && self.since.elapsed() > PATIENCE || fewer_for > 2 * PATIENCE,
        };
        let share = membership.share(wish).await?;
        let part = share.part.map(|part| part.max(share.proxies));
        if part != self.part {
            tracing::info!(proxies = share.proxies, part, "this proxy's part of the nodes' connections has changed");
            (self.part, self.since) = (part, Instant::now());
        }
        let has_fewer = part.is_some_and(|part| share.proxies < part);
        self.fewer_since = has_fewer.then(|| self.fewer_since.unwrap_or_else(Instant::now));
        Ok(())
    }

    /// One that is shutting down gets whatever has been given back since the last time.
    async fn ask_coordinator(&mut self) -> Result<()> {
        let asked = ask_limit(&self.catalog, NodeId::COORDINATOR).await;
        self.note(NodeId::COORDINATOR, &self.coordinator.clone(), asked)
    }

    /// Errors: 57P03 when it is the coordinator that lets nobody in.
    async fn set_shares(&mut self) -> Result<()> {
        let map = self.catalog.map();
        let mut all = vec![(NodeId::COORDINATOR, self.coordinator.clone())];
        all.extend(
            map.nodes()
                .iter()
                .filter(|node| !node.id.is_coordinator())
                .map(|node| (node.id, ServerAddress { host: node.host.clone(), port: node.port })),
        );
        self.limits.retain(|id, _| all.iter().any(|(known, _)| known == id));
        let is_due = |(id, address): &&(NodeId, ServerAddress)| {
            let asked = self.limits.get(id).and_then(|limit| limit.asked);
            self.nodes.take_news(address) || asked.is_none_or(|asked| asked.elapsed() > ASK_AGAIN_AFTER)
        };
        let catalog = &self.catalog;
        let asked =
            all.iter().filter(is_due).map(|(id, address)| async move { (*id, address, ask_limit(catalog, *id).await) });
        for (id, address, answer) in join_all(asked).await {
            self.note(id, address, answer)?;
        }
        for (id, address) in &all {
            if let Some(limit) = self.limits.get(id) {
                let control = self.catalog.settings().connections_max + CONTROL_BESIDES;
                self.nodes.set_share(address, share_of(limit.connections, self.part, control));
            }
        }
        Ok(())
    }

    /// What a node has said of the connections that it takes.
    ///
    /// Errors: as `set_shares`.
    fn note(&mut self, id: NodeId, address: &ServerAddress, answer: Result<usize>) -> Result<()> {
        let error = match answer {
            Ok(connections) => {
                self.limits.insert(id, Limit { connections, asked: Some(Instant::now()) });
                return Ok(());
            }
            Err(error) => error,
        };
        tracing::debug!(%address, %error, "could not ask a node how many connections it takes");
        // What it took before is the best guess.
        if let Some(limit) = self.limits.get_mut(&id) {
            limit.asked = None;
        }
        if error.code() != SqlState::CANNOT_CONNECT_NOW {
            return Ok(());
        }
        self.nodes.let_go(address);
        self.catalog.let_go(id);
        if id.is_coordinator() { Err(error) } else { Ok(()) }
    }
}

/// What sessions may hold of a node's `limit` connections. `control`: those that the proxy may hold for itself.
fn share_of(limit: usize, part: Option<u32>, control: usize) -> usize {
    let Some(part) = part else { return FIRST_SHARE };
    let whole = limit / part.max(1) as usize;
    (whole - control.min(whole / 2)).max(1)
}

/// How many connections of ordinary roles a node takes.
async fn ask_limit(catalog: &Catalog, node: NodeId) -> Result<usize> {
    let client = catalog.connect(node).await?;
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('max_connections')::int \
             - pg_catalog.current_setting('superuser_reserved_connections')::int \
             - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0)",
            &[],
        )
        .await
        .map_err(pg_error)?;
    let limit: i32 = row.try_get(0).map_err(pg_error)?;
    Ok(usize::try_from(limit).unwrap_or_default())
}

const UNASKED: &str = "could not ask for a share of the nodes' connections";
const EVERY: Duration = Duration::from_secs(1);
/// A proxy that has lost its session for a moment comes back before the others have taken its part.
const PATIENCE: Duration = Duration::from_secs(10);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(15);
/// Besides those that `coordinator.connections_max` counts: two that listen, and one for an operation.
const CONTROL_BESIDES: usize = 3;
/// While others have not given back what is ours. The node itself refuses what is too many, and is asked again.
const FIRST_SHARE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_control_connections_fit_into_what_a_node_takes() {
        for limit in [3, 20, 57, 97, 497] {
            for proxies in 1..=8 {
                let share = share_of(limit, Some(proxies), 11);
                assert!(share >= 1);
                assert!(share == 1 || share * proxies as usize <= limit, "{limit} {proxies} {share}");
                assert!(limit < 60 || proxies > 2 || (share + 11) * proxies as usize <= limit);
            }
        }
        assert_eq!(share_of(97, Some(1), 11), 86);
        assert_eq!(share_of(97, Some(2), 11), 37);
        assert_eq!(share_of(97, None, 11), FIRST_SHARE);
    }
}
