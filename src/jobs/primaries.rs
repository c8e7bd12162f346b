//! Brings the catalog's nodes to the pools, and failovers that the pools have found to the catalog.
//!
//! ```text
//!   catalog ──primaries and their standbys──> pools ──a standby takes writes──> their rows exchange addresses
//! ```
//!
//! The coordinator's servers are in the configuration: whether another one of them was promoted is asked of themselves. Of workers'
//! standbys `rivals.rs` finds that out. So every proxy and every tool sees the primary in `pg_dist_node`, and a proxy started later asks it first.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{NodeHosts, Nodes, ServerAddress, WRITTEN_TIMELINE};
use crate::catalog::{self, Address, Catalog, connect, nodes, pg_error};
use crate::error::Result;
use crate::shard_map::NodeId;
use crate::tally::Recurring;

/// Never ends. `coordinator` is what sessions know it by; its other servers are in the configuration.
pub async fn follow(catalog: Arc<Catalog>, pools: Arc<Nodes>, coordinator: ServerAddress) {
    let looking = async {
        loop {
            tokio::time::sleep(AGAIN_AFTER).await;
            look_for_coordinator(catalog.settings(), &pools).await;
        }
    };
    tokio::select! {
        () = looking => {}
        () = follow_nodes(&catalog, &pools, &coordinator) => {}
    }
}

async fn follow_nodes(catalog: &Catalog, pools: &Arc<Nodes>, coordinator: &ServerAddress) {
    let mut versions = catalog.versions();
    let (mut unnamed, mut unnoted) = (Recurring::default(), Recurring::default());
    loop {
        versions.borrow_and_update();
        let map = catalog.map();
        let workers = map.nodes().iter().filter(|node| !node.id.is_coordinator()).map(|node| {
            let standbys = node.standbys.iter().map(|s| ServerAddress { host: s.host.clone(), port: s.port }).collect();
            let primary = ServerAddress { host: node.host.clone(), port: node.port };
            NodeHosts { primary, standbys, timeline: node.timeline }
        });
        let hosts: Vec<_> = workers.chain([hosts_of_coordinator(catalog.settings())]).collect();
        pools.set_hosts(&hosts);
        match name_coordinator(catalog, pools, coordinator).await {
            Ok(()) => unnamed.works(UNNAMED),
            Err(error) => unnamed.failed(&error, UNNAMED),
        }
        for (old, new, timeline) in pools.promoted().into_iter().filter(|(old, ..)| old != coordinator) {
            if hosts.iter().any(|known| known.primary == old && known.standbys.contains(&new)) {
                match note_failover(catalog, &old, &new, timeline).await {
                    Ok(()) => unnoted.works(UNNOTED),
                    Err(error) => unnoted.failed(&error, UNNOTED),
                }
            }
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return },
            () = pools.until_promoted() => {}
            () = tokio::time::sleep(AGAIN_AFTER) => {}
        }
    }
}

/// As the configuration names them.
pub fn hosts_of_coordinator(settings: &catalog::Settings) -> NodeHosts {
    let address = |at: &Address| ServerAddress { host: at.host.clone(), port: at.port };
    let standbys = settings.standbys.iter().map(address).collect();
    NodeHosts { primary: address(&settings.coordinator()), standbys, timeline: None }
}

/// Has another of the coordinator's servers been promoted? Then the pools go there. The one that they are at is asked by who uses it;
/// at the start, when they are at none, all are.
pub async fn look_for_coordinator(settings: &catalog::Settings, pools: &Arc<Nodes>) {
    let NodeHosts { primary, standbys, .. } = hosts_of_coordinator(settings);
    let Some(node) = pools.known(&primary).filter(|_| !standbys.is_empty()) else { return };
    let known = pools.primary_of(&primary);
    let others = std::iter::once(&primary).chain(&standbys).filter(|host| Some(*host) != known.as_ref());
    let asked = others.map(async |host| Some((timeline_of(settings, host).await.ok()??, host)));
    let answers = futures_util::future::join_all(asked).await;
    if let Some((timeline, host)) = answers.into_iter().flatten().max_by_key(|(timeline, _)| *timeline) {
        node.found_primary(host, Some(timeline));
    }
}

/// What a server that takes writes is on; none when it is in recovery.
async fn timeline_of(settings: &catalog::Settings, host: &ServerAddress) -> Result<Option<i32>> {
    let address = Address { host: host.host.clone(), port: host.port };
    let ask = async {
        let client = connect(settings, &address).await?;
        let sql = format!("SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN {WRITTEN_TIMELINE} END");
        client.query_one(&sql, &[]).await.and_then(|row| row.try_get(0)).map_err(pg_error)
    };
    tokio::time::timeout(settings.connect_timeout, ask).await.unwrap_or(Ok(None))
}

/// When the coordinator's row in `pg_dist_node` names one of its servers, it names the one that takes writes.
async fn name_coordinator(catalog: &Catalog, pools: &Arc<Nodes>, coordinator: &ServerAddress) -> Result<()> {
    let map = catalog.map();
    let (Some(row), Some(now)) = (map.node(NodeId::COORDINATOR), pools.primary_of(coordinator)) else { return Ok(()) };
    let is_known = catalog.settings().coordinator_hosts().iter().any(|h| (&h.host, h.port) == (&row.host, row.port));
    if !is_known || (&row.host, row.port) == (&now.host, now.port) {
        return Ok(());
    }
    change(catalog, &nodes::set_coordinator(&now.host, now.port)).await
}

/// The standby `new` was promoted, to this timeline.
pub(super) async fn note_failover(
    catalog: &Catalog,
    old: &ServerAddress,
    new: &ServerAddress,
    timeline: i32,
) -> Result<()> {
    change(catalog, &nodes::follow_failover((&old.host, old.port), (&new.host, new.port), timeline)).await?;
    tracing::info!(%old, %new, timeline, "pg_dist_node follows a failover");
    Ok(())
}

pub(super) async fn change(catalog: &Catalog, sql: &str) -> Result<()> {
    let mut client = catalog.client(NodeId::COORDINATOR).await?;
    let transaction = client.transaction().await.map_err(pg_error)?;
    transaction.batch_execute(&format!("SET LOCAL lock_timeout = '2s'; {sql}")).await.map_err(pg_error)?;
    transaction.commit().await.map_err(pg_error)?;
    catalog.refresh().await.map(|_| ())
}

const UNNAMED: &str = "could not note down where the coordinator is";
const UNNOTED: &str = "could not note a failover down";
const AGAIN_AFTER: Duration = Duration::from_secs(5);
