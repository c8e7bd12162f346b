//! The process's counters: the recorder that collects what the rooms' handles count.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::error::{PgError, Result, SqlState};

/// Makes this process's counters collectable. Handles made before this call count nothing.
///
/// Errors: XX000 when another recorder is installed already.
pub fn install() -> Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().map_err(|error| {
        PgError::new(SqlState::INTERNAL_ERROR, format!("could not install the metrics recorder: {error}"))
    })
}

/// Keeps what histograms remember bounded, until `stop`.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
        handle.run_upkeep();
    }
}

const UPKEEP: Duration = Duration::from_secs(5);
