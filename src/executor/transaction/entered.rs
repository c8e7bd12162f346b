//! What cut-overs of shard groups and tables wait for in a transaction, and what of them it waits for itself.
//!
//! A transaction enters what it could not run again elsewhere, and holds count it until its end. What it does first it need not enter:
//! the cut-over's fence stops that. But it passes the holds of all that its servers were used for (`Participant::groups`), so that it
//! can end.

use std::collections::HashSet;

use super::{Limit, Transaction};
use crate::error::{PgError, Result, SqlState};
use crate::executor::hold::EnteredTables;
use crate::shard_map::{NodeId, ShardGroupId};

/// What it is counted in.
#[derive(Default)]
pub(super) struct Entered {
    groups: HashSet<ShardGroupId>,
    /// Whatever its statements under way name.
    tables: Vec<EnteredTables>,
}

impl Entered {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.tables.is_empty()
    }
}

impl Transaction {
    /// Has this transaction used the shard group? Then its statements must not be held.
    pub fn uses(&self, group: ShardGroupId) -> bool {
        self.entered.groups.contains(&group) || self.participants.iter().any(|p| p.groups.contains(&group))
    }

    /// Must a statement for the shard group enter it? Where servers have done something for this transaction it could not be run
    /// again, if the shard group left meanwhile.
    pub fn must_enter(&self, group: ShardGroupId) -> bool {
        !self.participants.is_empty() && !self.uses(group)
    }

    /// From here on a cut-over of these shard groups waits for the end of this transaction. Those that are being cut over are waited
    /// for, and none is kept from it meanwhile. However many they are, the client waits for them as for one lock.
    ///
    /// Errors: 40001 after the hold timeout; 55P03 and 57014 as `lock_timeout` and `statement_timeout` say.
    pub async fn enter(&mut self, groups: &[ShardGroupId]) -> Result<()> {
        let mut limit = None;
        while !self.try_enter(groups) {
            let limit = match limit {
                Some(limit) => limit,
                None => *limit.insert(self.patience().await?.begin()),
            };
            self.await_holds_of_writes(groups, limit).await?;
            self.await_holds_within(groups, limit).await?;
        }
        Ok(())
    }

    /// The same at once, for all of them or for none: false when one is held.
    pub fn try_enter(&mut self, groups: &[ShardGroupId]) -> bool {
        let mut entered = HashSet::new();
        for group in groups {
            if self.entered.groups.contains(group) || entered.contains(group) {
                continue;
            }
            if self.executor.holds.try_enter(*group, self.may_write) {
                entered.insert(*group);
            } else if !self.uses(*group) {
                self.executor.holds.leave(&entered);
                return false;
            }
        }
        self.entered.groups.extend(entered);
        true
    }

    /// A transaction that has written waits before it reads, too: the move could not wait for one that has read and writes then.
    ///
    /// Errors: 55P03 and 57014 when the client waits no longer.
    async fn await_holds_of_writes(&mut self, groups: &[ShardGroupId], limit: Limit) -> Result<()> {
        if !self.may_write {
            return Ok(());
        }
        for group in groups.iter().filter(|group| !self.uses(**group)) {
            let wait = limit.during(self.executor.holds.wait_to_write(*group));
            self.cancel.unless_cancelled(wait).await?;
        }
        Ok(())
    }

    /// Waits until none of these shard groups is being cut over. Groups that this transaction has used don't wait:
    /// the cut-over waits for it.
    ///
    /// Errors: 40001 after the hold timeout; 55P03 and 57014 when the client waits no longer.
    pub async fn await_holds(&mut self, groups: &[ShardGroupId]) -> Result<()> {
        if !groups.iter().any(|group| self.executor.holds.is_held(*group) && !self.uses(*group)) {
            return Ok(());
        }
        let limit = self.patience().await?.begin();
        self.await_holds_within(groups, limit).await
    }

    async fn await_holds_within(&mut self, groups: &[ShardGroupId], limit: Limit) -> Result<()> {
        for group in groups {
            if !self.executor.holds.is_held(*group) || self.uses(*group) {
                continue;
            }
            let timeout = self.executor.settings.load().hold_timeout;
            let wait = limit.during(self.executor.holds.wait(*group, timeout));
            if !self.cancel.unless_cancelled(wait).await? {
                return Err(PgError::new(
                    SqlState::SERIALIZATION_FAILURE,
                    "a shard is being moved and was not free in time",
                )
                .hint("Retry the query."));
            }
        }
        Ok(())
    }

    /// From here on a cut-over of tables that `text` names waits until another statement or the transaction's end: by then it
    /// meets their locks.
    pub fn enter_tables(&mut self, text: &str) {
        let is_under_way = self.participant(NodeId::COORDINATOR).is_some_and(|p| p.server.owes());
        if !is_under_way {
            self.entered.tables.clear();
        }
        self.entered.tables.push(self.executor.holds.enter_tables(text));
    }

    pub fn leave_tables(&mut self) {
        self.entered.tables.clear();
    }

    /// Whoever waits for this transaction need not any more.
    pub(super) fn leave_all(&mut self) {
        self.executor.holds.leave(&self.entered.groups);
        self.entered.groups.clear();
        self.leave_tables();
    }
}
