//! The process's counters: the recorder that collects them and the handles that count.
//!
//! Labels come from closed sets; never a tenant, never a statement's text.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
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

/// Counters of client sessions, looked up once. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    /// Clients connected now.
    pub sessions: Gauge,
    /// Clients that ever logged in.
    pub logins: Counter,
    /// Statements run, of whatever kind.
    pub statements: Counter,
    /// Errors sent to clients.
    pub errors: Counter,
}

impl Metrics {
    /// Looks the counters up in the installed recorder.
    pub fn new() -> Self {
        Self {
            sessions: gauge!("tenantry_session_clients"),
            logins: counter!("tenantry_session_logins_total"),
            statements: counter!("tenantry_session_statements_total"),
            errors: counter!("tenantry_session_errors_total"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

const UPKEEP: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let metrics = Metrics::new();
            metrics.sessions.increment(2.0);
            metrics.sessions.decrement(1.0);
            metrics.statements.increment(7);
        });
        let text = handle.render();
        assert!(text.contains("tenantry_session_clients 1\n"), "{text}");
        assert!(text.contains("tenantry_session_statements_total 7\n"), "{text}");
    }
}
