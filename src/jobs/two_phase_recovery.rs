//! Ends prepared transactions whose owner will not.
//!
//! ```text
//!   worker: gid prepared long ago ──> decide abort, first writer wins ──> the decision that stands
//!                                         commit: COMMIT PREPARED      abort: ROLLBACK PREPARED
//! ```
//!
//! Whether the owner still lives does not matter: its own decision and ours go through the same row, and only the first
//! counts (`executor/two_phase.rs`). Waiting a while first keeps us from aborting what is merely slow.
//! Global ids that are not ours are never touched.

use std::time::Duration;

use crate::catalog::two_phase::{self, Decision};
use crate::catalog::{Catalog, pg_error};
use crate::error::Result;
use crate::executor::transaction_of_gid;
use crate::shard_map::NodeId;

/// Resolves what is left behind on every node that can be reached; returns how many prepared transactions that were.
pub async fn recover(catalog: &Catalog, patience: Duration) -> Result<usize> {
    let map = catalog.map();
    let mut resolved = 0;
    let mut all_seen = true;
    let mut left = std::collections::HashSet::new();
    for node in map.active_workers() {
        match recover_node(catalog, node.id, patience, &mut left).await {
            Ok(count) => resolved += count,
            Err(error) => {
                all_seen = false;
                tracing::warn!(node = %node.id, %error, "could not look for prepared transactions on a node");
            }
        }
    }
    if all_seen {
        forget_carried_out(catalog, &left).await?;
    }
    Ok(resolved)
}

async fn recover_node(
    catalog: &Catalog,
    node: NodeId,
    patience: Duration,
    left: &mut std::collections::HashSet<String>,
) -> Result<usize> {
    let worker = catalog.client(node).await?;
    let prepared = worker
        .query(
            "SELECT gid, prepared < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1) \
             FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()",
            &[&patience.as_secs_f64()],
        )
        .await
        .map_err(pg_error)?;
    let mut resolved = 0;
    for row in prepared {
        let (gid, is_old): (String, bool) = (row.get(0), row.get(1));
        let Some(transaction) = transaction_of_gid(&gid) else { continue };
        if !is_old {
            left.insert(transaction.to_owned());
            continue;
        }
        let decision = {
            let coordinator = catalog.client(NodeId::COORDINATOR).await?;
            two_phase::decide(&**coordinator, transaction, Decision::Abort, &[node]).await?
        };
        let verb = match decision {
            Decision::Commit => "COMMIT",
            Decision::Abort => "ROLLBACK",
        };
        let sql = format!("{verb} PREPARED {}", crate::catalog::quote::literal(&gid));
        match worker.batch_execute(&sql).await {
            Ok(()) => resolved += 1,
            // Its owner or another recovery was faster; the next look shows whether it is gone.
            Err(error) => {
                left.insert(transaction.to_owned());
                tracing::debug!(%error, gid, "could not end a prepared transaction");
            }
        }
    }
    Ok(resolved)
}

/// Decision rows are kept until no node has the transaction any more, and for a while longer:
/// the row is what stops a slow owner from deciding otherwise.
async fn forget_carried_out(catalog: &Catalog, left: &std::collections::HashSet<String>) -> Result<()> {
    let coordinator = catalog.client(NodeId::COORDINATOR).await?;
    let old = coordinator
        .query(
            "SELECT txn FROM tenantry.two_phase \
             WHERE decided_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1)",
            &[&KEEP_DECISIONS_SECONDS],
        )
        .await
        .map_err(pg_error)?;
    for row in old {
        let transaction: String = row.get(0);
        if !left.contains(&transaction) {
            two_phase::forget(&**coordinator, &transaction).await?;
        }
    }
    Ok(())
}

const KEEP_DECISIONS_SECONDS: f64 = 3600.0;
