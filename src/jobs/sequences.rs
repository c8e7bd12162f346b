//! Lends workers more values of sequences when shards ask for them. Those who draw many are lent many at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::backend::{Demand, Nodes};
use crate::catalog::Catalog;
use crate::error::{PgError, Result, SqlState};
use crate::operations::sequences::{AHEAD_MAX, lend};

/// Never ends.
pub async fn lend_values(catalog: Arc<Catalog>, nodes: Arc<Nodes>) {
    let mut customers: HashMap<Demand, Customer> = HashMap::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        let wanted = tokio::select! {
            wanted = nodes.demands().take() => wanted,
            Some((demand, lent)) = under_way.next() => {
                served(&mut customers, demand, lent).into_iter().collect()
            }
        };
        for demand in wanted {
            customers.retain(|_, customer| customer.is_served || customer.since.elapsed() < FORGOTTEN_AFTER);
            // Who waits asks again.
            if under_way.len() >= UNDER_WAY_MAX && !customers.contains_key(&demand) {
                continue;
            }
            let customer = customers.entry(demand.clone()).or_default();
            if let Some(ahead) = customer.ask() {
                let catalog = &catalog;
                under_way.push(async move {
                    let lent = serve(catalog, &demand, ahead).await;
                    (demand, lent)
                });
            }
        }
    }
}

async fn serve(catalog: &Catalog, demand: &Demand, ahead: i64) -> Result<()> {
    let node = catalog.map().node_at(&demand.node.host, demand.node.port).map(|node| node.id);
    let node = node.ok_or_else(|| PgError::new(SqlState::UNDEFINED_OBJECT, "there is no such node"))?;
    lend(catalog, node, demand.sequence, ahead).await
}

/// The same again, when it was asked for meanwhile.
fn served(customers: &mut HashMap<Demand, Customer>, demand: Demand, lent: Result<()>) -> Option<Demand> {
    if let Err(error) = lent {
        tracing::warn!(node = %demand.node, sequence = demand.sequence, %error, "could not lend values of a sequence");
    }
    let customer = customers.get_mut(&demand)?;
    customer.is_served = false;
    std::mem::take(&mut customer.asks_again).then_some(demand)
}

/// A worker that draws from a sequence.
struct Customer {
    is_served: bool,
    asks_again: bool,
    /// How many blocks ahead it was lent last, and when.
    ahead: i64,
    since: Instant,
}

impl Default for Customer {
    fn default() -> Self {
        Self { is_served: false, asks_again: false, ahead: 0, since: Instant::now() }
    }
}

impl Customer {
    /// How many blocks ahead to lend now; none while that is being done.
    fn ask(&mut self) -> Option<i64> {
        if self.is_served {
            self.asks_again = true;
            return None;
        }
        let is_busy = self.ahead > 0 && self.since.elapsed() < BUSY;
        self.ahead = if is_busy { (self.ahead * 2).min(AHEAD_MAX) } else { 1 };
        self.since = Instant::now();
        self.is_served = true;
        Some(self.ahead)
    }
}

/// Loans at the same time, each with a connection to the coordinator and one to a worker.
const UNDER_WAY_MAX: usize = 16;
/// Who asks again so soon is lent twice as much.
const BUSY: Duration = Duration::from_secs(1);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_often_is_lent_more_at_once() {
        let mut customer = Customer::default();
        let mut lent = Vec::new();
        for _ in 0..5 {
            lent.extend(customer.ask());
            assert_eq!(customer.ask(), None, "one at a time");
            customer.is_served = false;
        }
        assert_eq!(lent, [1, 2, 4, 6, 6]);
        customer.since = Instant::now().checked_sub(BUSY).expect("the clock runs for longer");
        assert_eq!(customer.ask(), Some(1));
    }
}
