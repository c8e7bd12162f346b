//! What runs by itself, on the control runtime, for as long as the proxy does.
//!
//! Every proxy runs the same jobs; what must not be done twice at once is guarded in the catalog.

mod holds;
mod loads;
mod mends;
mod primaries;
mod rebalances;
mod replicas;
mod rivals;
mod sequences;
mod shares;
mod two_phase_recovery;
mod ways_back;

pub use holds::hold_for_others;
pub use loads::publish_loads;
pub use primaries::{follow as follow_primaries, hosts_of_coordinator, look_for_coordinator};
pub use replicas::watch as watch_replicas;
pub use sequences::lend_values;
pub use shares::share_connections;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::operations::mover::{self, MoverEnvironment, Recovered};
use crate::tally::Recurring;

#[derive(Debug, Clone)]
pub struct Settings {
    /// A commit over several nodes takes milliseconds; one that has not ended after this time is looked at. Default: 15s.
    pub recovery_patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { recovery_patience: Duration::from_secs(15) }
    }
}

/// All jobs, until `stop`.
pub async fn run(environment: MoverEnvironment, settings: Arc<ArcSwap<Settings>>, stop: CancellationToken) {
    let rebalances = rebalances::run(environment.clone(), stop.clone());
    let ways_back = ways_back::run(environment.clone(), stop.clone());
    let catalog = environment.catalog.clone();
    let mends = mends::run(&catalog, stop.clone());
    tokio::join!(maintain(environment, settings, stop), rebalances, ways_back, mends);
}

/// The steady loop: ends what crashed proxies left half done.
async fn maintain(environment: MoverEnvironment, settings: Arc<ArcSwap<Settings>>, stop: CancellationToken) {
    let (mut no_transactions, mut no_moves, mut no_repair): (Recurring, Recurring, Recurring) = Default::default();
    let mut tick = tokio::time::interval(EVERY);
    let mut transactions = two_phase_recovery::Recovery::default();
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let patience = settings.load().recovery_patience;
        match transactions.recover(&environment.catalog, patience).await {
            Ok(resolved) => {
                no_transactions.works(NO_TRANSACTIONS);
                if resolved > 0 {
                    tracing::info!(resolved, "resolved prepared transactions that nobody was going to end");
                }
            }
            Err(error) => no_transactions.failed(&error, NO_TRANSACTIONS),
        }
        match mover::recover_all(&environment).await {
            Ok(Recovered { repaired, failed }) => {
                no_moves.works(NO_MOVES);
                match failed {
                    Some((id, error)) => no_repair.failed(&format!("shard move {id}: {error}"), NO_REPAIR),
                    None => no_repair.works(NO_REPAIR),
                }
                if repaired > 0 {
                    tracing::info!(repaired, "repaired moves that nobody was going to end");
                }
            }
            Err(error) => no_moves.failed(&error, NO_MOVES),
        }
    }
}

const NO_TRANSACTIONS: &str = "could not look for prepared transactions";
const NO_MOVES: &str = "could not look for unfinished moves";
const NO_REPAIR: &str = "could not repair a shard move";
const EVERY: Duration = Duration::from_secs(5);
