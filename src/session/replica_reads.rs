//! Reads from standbys, for sessions that ask for it: `SET tenantry.read_from = 'replica'`.
//!
//! Before a statement joins servers it is known whether it only reads. Where it does, outside a transaction block, the
//! workers that join for it are standbys. Those leave before a statement of the same message or pipeline that may write.

use super::pipeline::interrupted;
use super::run::Session;
use crate::error::Result;
use crate::planner::{Plan, ReadFrom};

impl Session {
    /// Before a statement of this plan joins servers.
    pub async fn choose_servers(&mut self, plan: &Plan) -> Result<()> {
        if self.concerns_replicas() { self.choose(plan.only_reads()).await } else { Ok(()) }
    }

    /// Does the session read from standbys, or has it just done so?
    pub fn concerns_replicas(&self) -> bool {
        self.read_from.is_replicas() || self.transaction.as_ref().is_some_and(|txn| txn.read_from.is_replicas())
    }

    pub async fn choose(&mut self, only_reads: bool) -> Result<()> {
        let wants = only_reads && self.read_from.is_replicas() && !self.avoids_replicas;
        if self.transaction.is_none() && !wants {
            return Ok(());
        }
        let wanted = wants && self.txn().may_read_replicas();
        if !wanted && self.txn().has_replicas() {
            if self.batch.is_open() {
                // Their answers go to the client first.
                self.settle().await?;
                if self.is_interrupted() {
                    return Err(interrupted());
                }
            }
            let current = self.batch.current;
            let txn = self.txn();
            txn.dismiss_replicas().await;
            if current.is_some_and(|node| txn.participant(node).is_none()) {
                self.batch.current = None;
            }
        }
        self.txn().read_from = if wanted { self.read_from } else { ReadFrom::Primary };
        Ok(())
    }
}
