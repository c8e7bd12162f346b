//! What sessions count. Handles are looked up once per data thread; labels come from closed sets, never a tenant.

use std::cell::RefCell;
use std::collections::HashMap;

use metrics::{Counter, counter};

use crate::error::SqlState;

/// Counters of client sessions.
pub struct Metrics {
    /// Clients that ever logged in.
    pub logins: Counter,
    /// Statements run again because a shard had moved or a plan had gone stale.
    pub repeats: Counter,
    errors: RefCell<HashMap<[u8; 2], Counter>>,
}

impl Metrics {
    /// Looks the counters up in the installed recorder.
    pub fn new() -> Self {
        Self {
            logins: counter!("tenantry_session_logins_total"),
            repeats: counter!("tenantry_session_repeats_total"),
            errors: RefCell::default(),
        }
    }

    /// An error went to a client. Counted by SQLSTATE class: 23 integrity, 40 retry, ...
    pub fn error(&self, code: SqlState) {
        let class = [code.bytes()[0], code.bytes()[1]];
        let mut errors = self.errors.borrow_mut();
        let of_class = errors
            .entry(class)
            .or_insert_with(|| counter!("tenantry_session_errors_total", "sqlstate_class" => code.class().to_owned()));
        of_class.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn what_is_counted_is_rendered() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let metrics = Metrics::new();
            metrics.repeats.increment(7);
            metrics.error(SqlState::UNIQUE_VIOLATION);
        });
        let text = handle.render();
        assert!(text.contains("tenantry_session_repeats_total 7\n"), "{text}");
        assert!(text.contains("tenantry_session_errors_total{sqlstate_class=\"23\"} 1\n"), "{text}");
    }
}
