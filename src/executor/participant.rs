//! A server that takes part in a client's transaction: how it is brought in.

use super::journal::Entry;
use crate::backend::{PooledServer, SessionSettings};
use crate::error::Result;
use crate::shard_map::{NodeId, ShardGroupId};
use crate::wire::answer::Status;
use crate::wire::reply_queue::To;

/// A server that takes part.
pub struct Participant {
    pub node: NodeId,
    pub server: PooledServer,
    /// Shard groups it was used for: their statements pass a hold, so that the transaction can end.
    pub groups: Vec<ShardGroupId>,
    /// Statements whose answers are complete. While there is none, joining can be undone.
    pub statements: u32,
    /// In a transaction block of ours or the client's.
    pub began: bool,
    /// Messages of the extended protocol were queued since the last Sync.
    pub is_unsynced: bool,
    pub(super) settings_before: SessionSettings,
}

impl Participant {
    /// Queues the Sync that ends what was queued since the last one. Outside a block that commits it, so where it
    /// must not stay it is rolled back first.
    pub fn end_messages(&mut self, succeeded: bool) {
        if !std::mem::take(&mut self.is_unsynced) {
            return;
        }
        if !succeeded && !self.began && !self.server.skips() {
            // BEGIN makes a block of what has run, so that ROLLBACK has something to end and does not warn.
            self.server.queue_between("BEGIN");
            self.server.queue_between("ROLLBACK");
        }
        self.server.queue_sync();
    }
}

/// Brings a connection to the settings wanted, before anything else runs on it: a statement must never run
/// with another client's settings, so this is one round trip of its own.
pub(super) async fn carry_settings(server: &mut PooledServer, wanted: &SessionSettings) -> Result<()> {
    if let Some(sql) = server.settings.statements_to(wanted) {
        let result = server.query(&sql).await;
        if result.is_err() && server.status() == Status::Idle {
            server.poison();
        }
        result?;
    }
    // Equal or not: what is the same value is compared faster next time.
    server.settings = wanted.clone();
    Ok(())
}

pub(super) async fn begin(participant: &mut Participant, begin: &str, journal: &[Entry]) -> Result<()> {
    participant.began = true;
    if begin == "BEGIN" && journal.is_empty() {
        participant.server.queue_query("BEGIN", To::Nobody);
        return Ok(());
    }
    // With options of the client's BEGIN may fail, and then nothing may run behind it.
    participant.server.query(begin).await?;
    for entry in journal {
        participant.server.query(&entry.sql).await?;
    }
    Ok(())
}
