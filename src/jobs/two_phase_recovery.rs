//! Ends prepared transactions whose owner will not.
//!
//! ```text
//!   worker: gid prepared long ago ──> decide abort, first writer wins ──> the decision that stands
//!                                         commit: COMMIT PREPARED      abort: ROLLBACK PREPARED
//! ```
//!
//! Whether the owner still lives does not matter: its own decision and ours go through the same row, and only the first
//! counts (`executor/two_phase.rs`). Waiting a while first keeps us from aborting what is merely slow. That is measured, and
//! decisions are kept, by this process's clock: a server's may jump.
//! Global ids that are not ours are never touched. Servers that were nodes and were fenced are looked at once more, whose last transaction
//! was the fence itself.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::catalog::two_phase::{self, Decision};
use crate::catalog::{Address, Catalog, connect, nodes, pg_error};
use crate::error::Result;
use crate::executor::transaction_of_gid;
use crate::shard_map::{Node, NodeId};
use crate::tally::Recurring;

/// What was seen before.
#[derive(Default)]
pub struct Recovery {
    /// Prepared transactions, and since when they are known.
    prepared: HashMap<String, Instant>,
    /// Decisions that are carried out, and since when.
    carried_out: HashMap<String, Instant>,
    /// By node.
    troubles: HashMap<NodeId, Recurring>,
}

impl Recovery {
    /// Resolves what is left behind on every node that can be reached; returns how many prepared transactions that were.
    pub async fn recover(&mut self, catalog: &Catalog, patience: Duration) -> Result<usize> {
        let map = catalog.map();
        let mut resolved = 0;
        let mut all_seen = true;
        let mut left = Left::default();
        for node in map.active_workers() {
            let recovered = async {
                let worker = catalog.client(node.id).await?;
                self.recover_node(catalog, &worker, node.id, patience, &mut left).await
            };
            match recovered.await {
                Ok(count) => {
                    resolved += count;
                    if let Some(mut trouble) = self.troubles.remove(&node.id) {
                        trouble.works(&unseen(node));
                    }
                }
                Err(error) => {
                    all_seen = false;
                    self.troubles.entry(node.id).or_default().failed(&error, &unseen(node));
                }
            }
        }
        for (node, address) in nodes::fenced(&**catalog.client(NodeId::COORDINATOR).await?).await? {
            match self.recover_fenced(catalog, node, &address, patience, &mut left).await {
                Ok(count) => resolved += count,
                Err(error) => {
                    all_seen = false;
                    tracing::debug!(%error, host = %address.host, port = address.port, "a fenced server cannot be reached");
                }
            }
        }
        self.troubles.retain(|id, _| map.node(*id).is_some());
        self.prepared.retain(|gid, _| left.gids.contains(gid));
        if all_seen {
            self.forget_carried_out(catalog, &left).await?;
        }
        Ok(resolved)
    }

    async fn recover_fenced(
        &mut self,
        catalog: &Catalog,
        node: NodeId,
        address: &Address,
        patience: Duration,
        left: &mut Left,
    ) -> Result<usize> {
        let server = connect(catalog.settings(), address).await?;
        let before = left.gids.len();
        let resolved = self.recover_node(catalog, &server, node, patience, left).await?;
        if left.gids.len() == before {
            nodes::forget_fenced(&**catalog.client(NodeId::COORDINATOR).await?, address).await?;
        }
        Ok(resolved)
    }

    async fn recover_node(
        &mut self,
        catalog: &Catalog,
        worker: &Client,
        node: NodeId,
        patience: Duration,
        left: &mut Left,
    ) -> Result<usize> {
        let prepared = worker
            .query("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()", &[])
            .await
            .map_err(pg_error)?;
        let mut resolved = 0;
        for row in prepared {
            let gid: String = row.get(0);
            let Some(transaction) = transaction_of_gid(&gid) else { continue };
            let since = *self.prepared.entry(gid.clone()).or_insert_with(Instant::now);
            if since.elapsed() < patience {
                left.note(&gid, transaction);
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
                    left.note(&gid, transaction);
                    tracing::debug!(%error, gid, "could not end a prepared transaction");
                }
            }
        }
        Ok(resolved)
    }

    /// Decision rows are kept until no node has the transaction any more, and for a while longer:
    /// the row is what stops a slow owner from deciding otherwise.
    async fn forget_carried_out(&mut self, catalog: &Catalog, left: &Left) -> Result<()> {
        let coordinator = catalog.client(NodeId::COORDINATOR).await?;
        let decided = two_phase::all(&**coordinator).await?;
        let over: Vec<_> = decided.into_iter().map(|d| d.txn).filter(|txn| !left.transactions.contains(txn)).collect();
        for transaction in due(&mut self.carried_out, over, Instant::now()) {
            two_phase::forget(&**coordinator, &transaction).await?;
        }
        Ok(())
    }
}

fn unseen(node: &Node) -> String {
    format!("could not look for prepared transactions on node {}:{}", node.host, node.port)
}

/// Those of `over` that have been over for long enough at `now`. The others are kept in mind.
fn due(since: &mut HashMap<String, Instant>, over: Vec<String>, now: Instant) -> Vec<String> {
    let before = std::mem::take(since);
    let mut due = Vec::new();
    for transaction in over {
        let began = before.get(&transaction).copied().unwrap_or(now);
        if now.duration_since(began) >= KEEP_DECISIONS {
            due.push(transaction);
        } else {
            since.insert(transaction, began);
        }
    }
    due
}

/// What is still prepared somewhere.
#[derive(Default)]
struct Left {
    gids: HashSet<String>,
    transactions: HashSet<String>,
}

impl Left {
    fn note(&mut self, gid: &str, transaction: &str) {
        self.gids.insert(gid.to_owned());
        self.transactions.insert(transaction.to_owned());
    }
}

const KEEP_DECISIONS: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_kept_for_an_hour_of_our_own_clock() {
        let (mut since, began) = (HashMap::new(), Instant::now());
        let over = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(due(&mut since, over(&["a", "b"]), began), over(&[]));
        assert_eq!(due(&mut since, over(&["b"]), began + KEEP_DECISIONS / 2), over(&[]), "a is prepared again");
        assert_eq!(due(&mut since, over(&["a", "b"]), began + KEEP_DECISIONS), over(&["b"]));
        assert_eq!(due(&mut since, over(&["a"]), began + KEEP_DECISIONS * 2), over(&["a"]));
        assert!(since.is_empty());
    }
}
