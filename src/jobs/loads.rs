//! Writes what this proxy has seen of loads to the catalog, every few seconds.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::executor::loads::Loads;

/// Until `stop`.
pub async fn publish_loads(catalog: Arc<Catalog>, loads: Arc<Loads>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(loads.pause())).await.is_some() {
        if let Some(Err(error)) = stop.run_until_cancelled(loads.publish(&catalog)).await {
            tracing::debug!(%error, "could not write loads to the catalog, will retry");
        }
    }
}
