//! The same figures as `/metrics` tells them: read when they are asked for, so statements pay nothing for it.

use super::Console;
use crate::admin::{Exposition, Labels};
use crate::backend::{NodeFigures, PoolFigures};
use crate::planner::Plan;
use crate::tally::Distribution;

impl Console {
    /// Puts everything on the page.
    pub fn tell(&self, page: &mut Exposition) {
        self.tell_sessions(page);
        self.tell_transactions(page);
        let nodes: Vec<_> = self.nodes.figures().into_iter().map(|node| (node.name(), node)).collect();
        tell_nodes(&nodes, page);
    }

    fn tell_sessions(&self, page: &mut Exposition) {
        let states: Vec<_> = self.presences.by_state().map(|(state, count)| (state.label(), count)).collect();
        let states: Vec<_> = states.iter().map(|(state, count)| ([("state", *state)], *count as f64)).collect();
        page.gauge("tenantry_session_clients", states.iter().map(|(labels, count)| (&labels[..], *count)));
        let totals = self.tallies.totals();
        let kinds = Plan::KINDS.map(|kind| [("plan", kind)]);
        let statements = kinds.iter().zip(totals.statements).map(|(labels, count)| (&labels[..], count));
        page.counter("tenantry_session_statements_total", statements);
        page.histogram("tenantry_session_request_seconds", [(NONE, totals.requests)]);
        page.counter("tenantry_session_transactions_total", [(NONE, totals.transactions)]);
        page.counter(
            "tenantry_session_plan_cache_total",
            [
                (&[("cache", "shape"), ("outcome", "hit")][..], totals.shapes.hits),
                (&[("cache", "shape"), ("outcome", "miss")][..], totals.shapes.misses),
                (&[("cache", "text"), ("outcome", "hit")][..], totals.plans.hits),
                (&[("cache", "text"), ("outcome", "miss")][..], totals.plans.misses),
            ],
        );
        page.counter(
            "tenantry_session_bytes_total",
            [
                (&[("direction", "received")][..], totals.received_bytes),
                (&[("direction", "sent")][..], totals.sent_bytes),
            ],
        );
    }

    fn tell_transactions(&self, page: &mut Exposition) {
        page.gauge("tenantry_holds", [(NONE, self.holds.held() as f64)]);
        page.histogram("tenantry_hold_seconds", [(NONE, self.holds.lengths.read())]);
        page.histogram("tenantry_hold_wait_seconds", [(NONE, self.holds.waits.read())]);
        let outcomes = &self.transaction_ids.outcomes;
        page.counter(
            "tenantry_two_phase_commits_total",
            [
                (&[("outcome", "committed")][..], outcomes.committed.get()),
                (&[("outcome", "rolled_back")][..], outcomes.rolled_back.get()),
                (&[("outcome", "unknown")][..], outcomes.unknown.get()),
            ],
        );
    }
}

/// Labels are nodes, never roles.
fn tell_nodes(nodes: &[(String, NodeFigures)], page: &mut Exposition) {
    let sum = |node: &NodeFigures, of: fn(&PoolFigures) -> u64| node.pools.iter().map(of).sum::<u64>();
    let all = |node: &NodeFigures, of: fn(&PoolFigures) -> Distribution| {
        node.pools.iter().map(of).fold(Distribution::default(), |mut all, one| {
            all += one;
            all
        })
    };
    let mut connections = Vec::new();
    let mut bytes = Vec::new();
    for (name, node) in nodes {
        for (state, count) in [
            ("in_use", sum(node, |pool| pool.in_use as u64)),
            ("idle", sum(node, |pool| pool.idle as u64)),
            ("logging_in", node.logging_in as u64),
        ] {
            connections.push(([("node", name.as_str()), ("state", state)], count as f64));
        }
        for (direction, count) in
            [("received", sum(node, |pool| pool.received_bytes)), ("sent", sum(node, |pool| pool.sent_bytes))]
        {
            bytes.push(([("node", name.as_str()), ("direction", direction)], count));
        }
    }
    page.gauge("tenantry_pool_connections", connections.iter().map(|(labels, count)| (&labels[..], *count)));
    page.counter("tenantry_pool_bytes_total", bytes.iter().map(|(labels, count)| (&labels[..], *count)));
    let labels: Vec<_> = nodes.iter().map(|(name, _)| [("node", name.as_str())]).collect();
    let each = || labels.iter().map(|labels| &labels[..]).zip(nodes.iter().map(|(_, node)| node));
    let mut gauge = |name: &str, of: fn(&NodeFigures) -> f64| {
        page.gauge(name, each().map(|(labels, node)| (labels, of(node))));
    };
    gauge("tenantry_pool_connections_max", |node| node.limit as f64);
    gauge("tenantry_pool_connections_wanted", |node| node.pools.iter().map(|pool| pool.most as f64).sum());
    gauge("tenantry_pool_waiting", |node| node.waiting as f64);
    gauge("tenantry_pool_longest_waiting_seconds", |node| node.longest_waiting.as_secs_f64());
    gauge("tenantry_pool_node_is_up", |node| f64::from(u8::from(node.outage.is_none())));
    let lags = each().filter_map(|(labels, node)| Some((labels, node.lag?.as_secs_f64())));
    page.gauge("tenantry_pool_replica_lag_seconds", lags);
    let timeouts = each().map(|(labels, node)| (labels, sum(node, |pool| pool.timeouts)));
    page.counter("tenantry_pool_timeouts_total", timeouts);
    let waits = each().map(|(labels, node)| (labels, all(node, |pool| pool.waits)));
    page.histogram("tenantry_pool_wait_seconds", waits);
    let answers = each().map(|(labels, node)| (labels, all(node, |pool| pool.answers)));
    page.histogram("tenantry_pool_answer_seconds", answers);
}

const NONE: Labels<'static> = &[];
