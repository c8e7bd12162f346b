//! Brings the catalog's nodes to the pools, and failovers that the pools have found to the catalog.
//!
//! ```text
//!   catalog ──primaries and their standbys──> pools ──a standby takes writes──> their rows exchange addresses
//! ```
//!
//! So every proxy and every tool sees the primary in `pg_dist_node`, and a proxy started later asks it first.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Nodes, ServerAddress};
use crate::catalog::{self, Catalog, nodes, pg_error};
use crate::error::Result;
use crate::shard_map::NodeId;
use crate::tally::Recurring;

/// Never ends. `coordinator` is what sessions know it by; its other servers are in the configuration.
pub async fn follow(catalog: Arc<Catalog>, pools: Arc<Nodes>, coordinator: ServerAddress) {
    let mut versions = catalog.versions();
    let (mut unnamed, mut unnoted) = (Recurring::default(), Recurring::default());
    loop {
        versions.borrow_and_update();
        let map = catalog.map();
        let workers = map.nodes().iter().filter(|node| !node.id.is_coordinator()).map(|node| {
            let standbys = node.standbys.iter().map(|s| ServerAddress { host: s.host.clone(), port: s.port }).collect();
            (ServerAddress { host: node.host.clone(), port: node.port }, standbys)
        });
        let others = standbys_of_coordinator(catalog.settings());
        let hosts: Vec<_> = workers.chain([(coordinator.clone(), others)]).collect();
        pools.set_hosts(&hosts);
        match name_coordinator(&catalog, &pools, &coordinator).await {
            Ok(()) => unnamed.works(UNNAMED),
            Err(error) => unnamed.failed(&error, UNNAMED),
        }
        for (old, new) in pools.promoted().into_iter().filter(|(old, _)| *old != coordinator) {
            if hosts.iter().any(|(primary, standbys)| *primary == old && standbys.contains(&new)) {
                match note(&catalog, &old, &new).await {
                    Ok(()) => {
                        unnoted.works(UNNOTED);
                        tracing::info!(%old, %new, "pg_dist_node follows a failover");
                    }
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
pub fn standbys_of_coordinator(settings: &catalog::Settings) -> Vec<ServerAddress> {
    settings.standbys.iter().map(|s| ServerAddress { host: s.host.clone(), port: s.port }).collect()
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

async fn note(catalog: &Catalog, old: &ServerAddress, new: &ServerAddress) -> Result<()> {
    change(catalog, &nodes::exchange_addresses((&old.host, old.port), (&new.host, new.port))).await
}

async fn change(catalog: &Catalog, sql: &str) -> Result<()> {
    let mut client = catalog.client(NodeId::COORDINATOR).await?;
    let transaction = client.transaction().await.map_err(pg_error)?;
    transaction.batch_execute(&format!("SET LOCAL lock_timeout = '2s'; {sql}")).await.map_err(pg_error)?;
    transaction.commit().await.map_err(pg_error)?;
    catalog.refresh().await.map(|_| ())
}

const UNNAMED: &str = "could not note down where the coordinator is";
const UNNOTED: &str = "could not note a failover down";
const AGAIN_AFTER: Duration = Duration::from_secs(5);
