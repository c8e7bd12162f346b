//! The process's counters: the recorder that collects what the rooms' handles count, and what each figure on `/metrics` means.

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::error::{PgError, Result, SqlState};

/// What a metric is, as Prometheus says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric of the page. docs/operations.md says the same with its labels.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    /// One sentence, without a period.
    pub help: &'static str,
}

impl Metric {
    /// The one of this name, among all that there are.
    pub fn named(name: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.name == name)
    }
}

/// Makes this process's counters collectable. Handles made before this call count nothing.
///
/// Errors: XX000 when another recorder is installed already.
pub fn install() -> Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder().map_err(|error| {
        PgError::new(SqlState::INTERNAL_ERROR, format!("could not install the metrics recorder: {error}"))
    })?;
    for Metric { name, kind, unit, help } in METRICS {
        match kind {
            Kind::Counter => describe_counter!(*name, *unit, *help),
            Kind::Gauge => describe_gauge!(*name, *unit, *help),
            Kind::Histogram => describe_histogram!(*name, *unit, *help),
        }
    }
    Ok(handle)
}

/// Keeps what histograms remember bounded, until `stop`.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
        handle.run_upkeep();
    }
}

const UPKEEP: Duration = Duration::from_secs(5);

const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, help }
}

const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit: Unit::Seconds, help }
}

/// Every metric of the page, whether a room counts it or it is read when the page is.
const METRICS: &[Metric] = &[
    gauge("tenantry_session_clients", Unit::Count, "Client sessions, by what they do now"),
    counter("tenantry_session_logins_total", Unit::Count, "Clients that have logged in"),
    counter("tenantry_session_statements_total", Unit::Count, "Statements, by the kind of their plan"),
    histogram("tenantry_session_request_seconds", "From a client's request to the end of its answer"),
    counter("tenantry_session_transactions_total", Unit::Count, "Transaction blocks, and requests outside of one"),
    counter(
        "tenantry_session_plan_cache_total",
        Unit::Count,
        "Plans that were looked for, by cache and whether it had them",
    ),
    counter(
        "tenantry_session_bytes_total",
        Unit::Bytes,
        "Bytes received from clients and sent to them, before encryption",
    ),
    counter(
        "tenantry_session_repeats_total",
        Unit::Count,
        "Statements run again because a shard had moved or a plan had gone stale",
    ),
    counter("tenantry_session_errors_total", Unit::Count, "Errors sent to clients, by class of SQLSTATE"),
    gauge("tenantry_pool_connections", Unit::Count, "Connections to a server, by what they do now"),
    gauge("tenantry_pool_connections_max", Unit::Count, "Most connections to a server that this proxy may have"),
    gauge(
        "tenantry_pool_connections_wanted",
        Unit::Count,
        "Connections that the server's pools open for now, all together",
    ),
    gauge("tenantry_pool_waiting", Unit::Count, "Sessions that wait for a connection now"),
    gauge("tenantry_pool_longest_waiting_seconds", Unit::Seconds, "How long the first session that waits has waited"),
    histogram("tenantry_pool_wait_seconds", "Waits of sessions for a connection"),
    counter("tenantry_pool_timeouts_total", Unit::Count, "Waits that ended with SQLSTATE 53300"),
    gauge(
        "tenantry_pool_replica_lag_seconds",
        Unit::Seconds,
        "For how long at most a standby may lack what its primary has written",
    ),
    gauge(
        "tenantry_replaced_primaries_writable",
        Unit::Count,
        "Servers that take writes although another one was promoted in their place",
    ),
    gauge("tenantry_pool_node_is_up", Unit::Count, "0 while the server cannot be reached, otherwise 1"),
    histogram("tenantry_pool_answer_seconds", "From what was sent to a server to the end of its answer"),
    counter("tenantry_pool_bytes_total", Unit::Bytes, "Bytes received from a server and sent to it"),
    counter("tenantry_two_phase_commits_total", Unit::Count, "Commits over several servers, by outcome"),
    gauge("tenantry_holds", Unit::Count, "Shards held for a cutover now"),
    histogram("tenantry_hold_seconds", "How long shards were held"),
    histogram("tenantry_hold_wait_seconds", "How long statements waited for the end of a hold"),
    gauge(
        "tenantry_catalog_is_older",
        Unit::Count,
        "1 while the catalog lacks moves that this proxy has seen, otherwise 0",
    ),
    counter("tenantry_moves_total", Unit::Count, "Moves that this proxy brought to an end, by outcome"),
];
