//! What one client leaves behind on a server connection for the next, and how it is cleared away.
//!
//! ```text
//!   settings that were tracked     SET what differs            before the next statement
//!   state that nobody could see    WIPE, then SET everything   a function may have set, locked, listened
//!   values of sequences            DISCARD SEQUENCES           before a transaction that may ask for them
//! ```

use std::sync::Arc;

use super::server::Server;
use super::settings::SessionSettings;
use crate::error::Result;
use crate::wire::answer::Status;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Code that nobody here could read has run: it may have left any state behind.
    pub is_unsure: bool,
    /// As above, for a connection that its session keeps: only DISCARD ALL ends that.
    pub keeps_unknown: bool,
    /// A fingerprint of the defaults of roles and databases that it was logged in with; None: it is new.
    pub role_settings: Option<Arc<str>>,
    /// Whose sequence values (`currval`, `lastval`) it remembers, a number of the session's; 0: perhaps those of several.
    pub sequences_of: u64,
}

impl Server {
    /// Brings the connection to the settings wanted, and rids it of what others left, before anything else runs on it: a
    /// statement must never run with another client's state, so this is one round trip of its own.
    ///
    /// Errors: the server's, for a setting that it does not take.
    pub async fn carry(&mut self, wanted: &SessionSettings) -> Result<()> {
        let sql = match self.leftovers.is_unsure {
            true => Some(format!("{WIPE}{}", wanted.statements())),
            false => self.settings.statements_to(wanted),
        };
        if let Some(sql) = sql {
            let result = self.query(&sql).await;
            if result.is_err() && self.status() == Status::Idle {
                self.poison();
            }
            result?;
            self.leftovers.is_unsure = false;
        }
        // What comes from here on is its user's doing.
        self.take_changed_parameters();
        // Equal or not: what is the same value is compared faster next time.
        self.settings = wanted.clone();
        Ok(())
    }

    /// Would `carry` have nothing to do?
    pub fn carries(&self, wanted: &SessionSettings) -> bool {
        !self.leftovers.is_unsure && self.settings == *wanted
    }

    /// Does a connection that its session keeps have a reason left? Asked outside a transaction.
    pub async fn is_kept_for_something(&mut self) -> Result<bool> {
        if self.leftovers.keeps_unknown {
            return Ok(true);
        }
        let rows = self.query(KEPT).await?;
        Ok(rows.first().and_then(|row| row.first()).and_then(Option::as_deref) != Some("f"))
    }
}

/// DISCARD ALL without forgetting prepared statements, which are nobody's own.
/// Source: PostgreSQL manual, DISCARD.
const WIPE: &str = "CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL;UNLISTEN *;\
                    SELECT pg_catalog.pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES;";

const KEPT: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)";
