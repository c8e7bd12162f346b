//! Carries out what `citus_rebalance_start` has written down: one rebalance at a time, by one proxy.
//!
//! ```text
//!   tenantry.job ──an unfinished rebalance?──> advisory lock on a connection of its own ──> move after move
//! ```
//!
//! The lock ends with the connection: a proxy that dies leaves the rest of its job to the next that looks.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::catalog::{connect_to_coordinator, jobs, pg_error};
use crate::error::Result;
use crate::operations::mover::{MoverEnvironment, Notice};
use crate::operations::rebalance::job::{KIND, run_rebalance_job};
use crate::shard_map::NodeId;
use crate::tally::Recurring;

/// Looks for work until `stop`. A move under way at the stop is repaired by the next proxy.
pub async fn run(environment: MoverEnvironment, stop: CancellationToken) {
    let mut trouble = Recurring::default();
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        match stop.run_until_cancelled(work(&environment)).await {
            Some(Err(error)) => trouble.failed(&error, IDLE),
            Some(Ok(())) => trouble.works(IDLE),
            None => {}
        }
    }
}

async fn work(environment: &MoverEnvironment) -> Result<()> {
    let waiting = {
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        jobs::unfinished(&**client).await?.into_iter().any(|job| job.kind == KIND)
    };
    if !waiting {
        return Ok(());
    }
    let settings = environment.catalog.settings();
    let owner = connect_to_coordinator(settings).await?;
    let row = owner.query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&LOCK]).await.map_err(pg_error)?;
    if !row.get::<_, bool>(0) {
        return Ok(());
    }
    let notify = |notice: Notice| tracing::info!(notice = notice.message, "rebalance");
    for job in jobs::unfinished(&owner).await?.iter().filter(|job| job.kind == KIND) {
        run_rebalance_job(environment, job, &notify).await?;
    }
    Ok(())
}

const IDLE: &str = "could not work on rebalances";
const EVERY: Duration = Duration::from_millis(500);
/// Key of the advisory lock: "rebalanc" in ASCII.
const LOCK: i64 = i64::from_be_bytes(*b"rebalanc");
