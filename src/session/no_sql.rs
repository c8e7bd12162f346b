//! A text that names managed tables and cannot be read here: where it is no SQL at all, the client hears so in Postgres's words.
//!
//! ```text
//!   SELECT * FORM orders     refused ──> Parse "SELECT;SELECT * FORM orders" on the coordinator ──> 42601, and where
//!   SELECT (o.point).* ...   refused ──> the same: it can be read, so it is more than one command ──> 0A000
//! ```
//!
//! Two commands in one Parse are refused once they are read, before any name is looked up: nothing is locked, nothing runs.

use super::run::Session;
use crate::backend::Description;
use crate::error::{PgError, Result};
use crate::planner::may_be_no_sql;
use crate::shard_map::NodeId;

impl Session {
    /// What the client is told of a statement that was refused with this.
    pub(super) async fn refusal(&mut self, text: &str, refused: PgError) -> PgError {
        if !may_be_no_sql(&refused) {
            return refused;
        }
        let read = self.read_on_coordinator(&format!("{FIRST}{text}")).await;
        read.err().and_then(|error| at_its_place(error, FIRST.len())).unwrap_or(refused)
    }

    async fn read_on_coordinator(&mut self, text: &str) -> Result<Description> {
        // Another connection may not be had while the session has this one.
        let has_own = self.transaction.as_mut().and_then(|t| t.participant(NodeId::COORDINATOR)).is_some();
        if !has_own {
            return self.coordinator_for_a_moment().await?.describe(text, &[]).await;
        }
        self.pause().await?;
        let participant = self.txn().join(NodeId::COORDINATOR).await?;
        let result = participant.server.describe(text, &[]).await;
        participant.is_unsynced = false;
        self.txn().failed |= result.is_err();
        result
    }
}

/// What is said of no place in the text is said of the two commands. `before`: characters that are not the client's.
fn at_its_place(error: PgError, before: usize) -> Option<PgError> {
    let position: usize = error.fields().find(|(key, _)| *key == b'P')?.1.parse().ok()?;
    let position = position.saturating_sub(before).max(1).to_string();
    Some(error.map_fields(|key, value| if key == b'P' { position.clone() } else { value }))
}

const FIRST: &str = "SELECT;";
