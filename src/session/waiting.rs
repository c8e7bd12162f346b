//! The short way where every connection is in use: the statement waits for one, and then goes it all the same.
//!
//! With more clients than connections that is how most statements begin. The long way waits as well, but a transaction
//! and a batch would be made for each.

use bytes::Bytes;

use super::run::Session;
use super::short_way::ShortWay;
use crate::error::{Result, SqlState};
use crate::shard_map::{NodeId, ShardGroupId};

/// A statement for whose server there is no connection at once.
pub(super) struct Wanted {
    pub node: NodeId,
    pub group: ShardGroupId,
    /// The client's messages.
    pub unit: Bytes,
}

impl Session {
    /// Waits for a connection; the messages go their way with it then, or are left to the long way.
    pub(super) async fn wait_for_server(&mut self, wanted: Wanted) -> Result<Option<ShortWay>> {
        let Wanted { node, group, unit } = wanted;
        let tag = unit.first().copied().unwrap_or_default();
        self.note_request(tag, &unit);
        self.cancel.handle.begin().await;
        // It is noted once more when it goes its way.
        self.load.asked_bytes -= unit.len() as u64;
        let executor = self.thread.executor.clone();
        let Some(pool) = executor.pool_at_hand(node, &self.identity, &self.pools) else {
            self.client.put_back(unit);
            return Ok(None);
        };
        let checkout = executor.pools.checkout_from(&pool, &self.identity, Some(group.0));
        let waited = self.cancel.handle.unless_cancelled(checkout).await;
        match waited.and_then(|server| self.cancel.handle.check().map(|()| server)) {
            Ok(server) => {
                self.pools.handed.put(node, server);
                self.has_begun = true;
                let way = self.short_way_of(unit);
                self.has_begun = false;
                Ok(match way {
                    // Its connection was of no use, and there is no other again.
                    Some(ShortWay::Wait(wanted)) => {
                        self.client.put_back(wanted.unit);
                        None
                    }
                    way => way,
                })
            }
            // It was waited for there, and is elsewhere now.
            Err(error)
                if error.code() == SqlState::CONNECTION_FAILURE
                    && executor.current_address(node).as_ref() != Some(pool.address()) =>
            {
                self.client.put_back(unit);
                Ok(None)
            }
            Err(error) => {
                self.fail(error)?;
                self.ready().await?;
                Ok(None)
            }
        }
    }
}
