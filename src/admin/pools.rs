//! What /metrics tells of the connections to the nodes: read when it is asked, so statements pay nothing for it.

use metrics::{counter, gauge};

use crate::backend::NodeFigures;

/// Puts the figures of every node into the installed recorder. Labels are nodes, never roles or tenants.
pub fn record(nodes: &[NodeFigures]) {
    for figures in nodes {
        let node = figures.address.to_string();
        let sum = |of: fn(&crate::backend::PoolFigures) -> usize| figures.pools.iter().map(of).sum::<usize>() as f64;
        for (state, connections) in [
            ("in_use", sum(|pool| pool.in_use)),
            ("idle", sum(|pool| pool.idle)),
            ("logging_in", figures.logging_in as f64),
        ] {
            gauge!("tenantry_pool_connections", "node" => node.clone(), "state" => state).set(connections);
        }
        let one = |name, value: f64| gauge!(name, "node" => node.clone()).set(value);
        one("tenantry_pool_connections_max", figures.limit as f64);
        one("tenantry_pool_waiting", figures.waiting as f64);
        one("tenantry_pool_longest_waiting_seconds", figures.longest_waiting.as_secs_f64());
        one("tenantry_pool_waited_seconds", figures.pools.iter().map(|pool| pool.waited.as_secs_f64()).sum());
        one("tenantry_pool_node_is_up", f64::from(u8::from(figures.outage.is_none())));
        let total = |of: fn(&crate::backend::PoolFigures) -> u64| figures.pools.iter().map(of).sum::<u64>();
        counter!("tenantry_pool_waits_total", "node" => node.clone()).absolute(total(|pool| pool.waits));
        counter!("tenantry_pool_timeouts_total", "node" => node.clone()).absolute(total(|pool| pool.timeouts));
    }
}
