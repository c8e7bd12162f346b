//! The short way where every connection is in use: the statement waits for one, and then goes it all the same.
//!
//! With more clients than connections that is how most statements begin. The long way waits as well, but a transaction
//! and a batch would be made for each.

use bytes::Bytes;

use super::run::Session;
use super::short_way::ShortWay;
use crate::error::{Result, SqlState};
use crate::shard_map::NodeId;

/// A statement for whose server there is no connection at once.
pub(super) struct Wanted {
    pub node: NodeId,
    /// The client's messages.
    pub unit: Bytes,
}

impl Session {
    /// Waits for a connection and goes on with it; or leaves the messages to the long way.
    pub(super) async fn wait_for_server(&mut self, wanted: Wanted) -> Result<()> {
        let Wanted { node, unit } = wanted;
        let tag = unit.first().copied().unwrap_or_default();
        self.note_request(tag, &unit);
        self.cancel.handle.begin().await;
        // It is noted once more when it goes its way.
        self.load.asked_bytes -= unit.len() as u64;
        let executor = self.thread.executor.clone();
        let Some(address) = executor.current_address(node) else {
            self.client.put_back(unit);
            return Ok(());
        };
        let checkout = executor.pools.checkout(&address, &self.identity);
        let waited = self.cancel.handle.unless_cancelled(checkout).await;
        match waited.and_then(|server| self.cancel.handle.check().map(|()| server)) {
            Ok(server) => {
                self.pools.handed.put(node, server);
                self.has_begun = true;
                let way = self.short_way_of(unit);
                self.has_begun = false;
                match way {
                    Some(ShortWay::Statement(under_way)) => self.go_with_statement(under_way).await,
                    Some(ShortWay::Command(command)) => self.go_with_command(command).await,
                    // Its connection was of no use, and there is no other again.
                    Some(ShortWay::Wait(wanted)) => {
                        self.client.put_back(wanted.unit);
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
            // It was waited for there, and is elsewhere now.
            Err(error)
                if error.code() == SqlState::CONNECTION_FAILURE && executor.current_address(node) != Some(address) =>
            {
                self.client.put_back(unit);
                Ok(())
            }
            Err(error) => {
                self.fail(error)?;
                self.ready().await
            }
        }
    }
}
