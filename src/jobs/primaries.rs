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
use crate::catalog::{Catalog, nodes, pg_error};
use crate::error::Result;

/// Never ends. `coordinator` is where sessions reach it.
pub async fn follow(catalog: Arc<Catalog>, pools: Arc<Nodes>, coordinator: ServerAddress) {
    let mut versions = catalog.versions();
    loop {
        versions.borrow_and_update();
        let map = catalog.map();
        let workers = map.nodes().iter().filter(|node| !node.id.is_coordinator()).map(|node| {
            let standbys = node.standbys.iter().map(|s| ServerAddress { host: s.host.clone(), port: s.port }).collect();
            (ServerAddress { host: node.host.clone(), port: node.port }, standbys)
        });
        let hosts: Vec<_> = workers.chain([(coordinator.clone(), Vec::new())]).collect();
        pools.set_hosts(&hosts);
        for (old, new) in pools.promoted() {
            if hosts.iter().any(|(primary, standbys)| *primary == old && standbys.contains(&new)) {
                match note(&catalog, &old, &new).await {
                    Ok(()) => tracing::info!(%old, %new, "pg_dist_node follows a failover"),
                    Err(error) => tracing::warn!(%old, %new, %error, "could not note a failover down, will retry"),
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

async fn note(catalog: &Catalog, old: &ServerAddress, new: &ServerAddress) -> Result<()> {
    let mut client = crate::catalog::checkout(catalog.pool()).await?;
    let transaction = client.transaction().await.map_err(pg_error)?;
    let sql = nodes::exchange_addresses((&old.host, old.port), (&new.host, new.port));
    transaction.batch_execute(&format!("SET LOCAL lock_timeout = '2s'; {sql}")).await.map_err(pg_error)?;
    transaction.commit().await.map_err(pg_error)?;
    catalog.refresh().await.map(|_| ())
}

const AGAIN_AFTER: Duration = Duration::from_secs(5);
