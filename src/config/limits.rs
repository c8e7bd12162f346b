//! The file's section on what one client may cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::invalid;
use super::units::{Size, Time};
use crate::error::Result;
use crate::executor::{self, ClientLimits, MESSAGE_BYTES_MAX};
use crate::session::SessionBounds;
use crate::sql::Complexity;

/// What one client may cost, and how many there may be. Those of messages, memory and analysis hold for sessions that begin after a reload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest message, then SQLSTATE 08P01. Unit: size, at most 1023MB. Default: 1023MB. Reload: yes.
    pub message: Size,
    /// Longest time for a message to arrive, and a second more for each MB. Unit: time. Default: 30s. Reload: yes.
    pub message_timeout: Time,
    /// A client that takes nothing of its answer for so long is left. Unit: time. Default: 10min. Reload: yes.
    pub reader_timeout: Time,
    /// A client that answers nothing for so long, not even its kernel, is gone. Unit: time, at least 3s. Default: 1min. Reload: yes.
    pub dead_client_after: Time,
    /// Most memory of what a session keeps and a message of its, then SQLSTATE 53200. Unit: size. Default: 1GB. Reload: yes.
    pub memory: Size,
    /// Deepest nesting that is analysed, then SQLSTATE 54001; at most 200. Default: 200. Reload: yes.
    pub nesting: usize,
    /// Most operators that are analysed, then SQLSTATE 54001; at most 10000. Default: 10000. Reload: yes.
    pub operators: usize,
    /// Most tokens that are analysed, then SQLSTATE 54001; at most 2000000. Default: 2000000. Reload: yes.
    pub tokens: usize,
    /// Most CPU time to parse and plan a statement that is analysed, then SQLSTATE 54001. Unit: time. Default: 2s. Reload: yes.
    pub parse_time: Time,
    /// Most sessions, then SQLSTATE 53300. Default: 20000. Reload: yes.
    pub clients: usize,
    /// Of these so many are kept for superusers and admin.users. Default: 10. Reload: yes.
    pub clients_kept: usize,
    /// Most sessions of one role that is no superuser; 0 for no limit. Default: 0. Reload: yes.
    pub clients_per_role: usize,
    /// Most connections of one address that have not logged in, then SQLSTATE 53300. Default: 5000. Reload: yes.
    pub logins_per_address: usize,
    /// Most prepared statements, then SQLSTATE 53400. Default: 10000. Reload: yes.
    pub statements: usize,
    /// Most memory of their texts together, then SQLSTATE 53400. Unit: size. Default: 16MB. Reload: yes.
    pub statement_texts: Size,
}

impl Default for Limits {
    fn default() -> Self {
        let of = executor::Settings::default();
        Self {
            message: Size(of.client.message_bytes),
            message_timeout: Time(of.client.message_timeout),
            reader_timeout: Time(of.client.reader_timeout),
            dead_client_after: Time(of.client.dead_after),
            memory: Size(of.client.memory_bytes),
            nesting: of.client.complexity.nesting,
            operators: of.client.complexity.operators,
            tokens: of.client.complexity.tokens,
            parse_time: Time(of.client.complexity.time),
            clients: 20_000,
            clients_kept: 10,
            clients_per_role: 0,
            logins_per_address: 5000,
            statements: of.client_statements,
            statement_texts: Size(of.client_statement_bytes),
        }
    }
}

impl Limits {
    /// Errors: F0000 for what cannot be.
    pub fn client(&self) -> Result<ClientLimits> {
        if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&self.message.0) {
            return Err(invalid("limits.message", "must be between 16kB and 1023MB"));
        }
        if self.dead_client_after.0 < DEAD_CLIENT_AFTER_MIN {
            return Err(invalid("limits.dead_client_after", "must be at least 3s"));
        }
        if self.memory.0 < MESSAGE_BYTES_MIN {
            return Err(invalid("limits.memory", "must be at least 16kB"));
        }
        let most = Complexity::MAX;
        for (name, value, most) in [
            ("limits.nesting", self.nesting, most.nesting),
            ("limits.operators", self.operators, most.operators),
            ("limits.tokens", self.tokens, most.tokens),
        ] {
            if !(1..=most).contains(&value) {
                return Err(invalid(name, &format!("must be between 1 and {most}")));
            }
        }
        Ok(ClientLimits {
            message_bytes: self.message.0,
            message_timeout: self.message_timeout.0,
            reader_timeout: self.reader_timeout.0,
            dead_after: self.dead_client_after.0,
            memory_bytes: self.memory.0,
            complexity: Complexity {
                nesting: self.nesting,
                operators: self.operators,
                tokens: self.tokens,
                time: self.parse_time.0,
            },
        })
    }
}

impl Limits {
    /// Errors: F0000 for what cannot be.
    pub fn sessions(&self) -> Result<SessionBounds> {
        if self.clients_kept >= self.clients {
            return Err(invalid("limits.clients_kept", "must be less than limits.clients"));
        }
        let of_role = Some(self.clients_per_role).filter(|most| *most > 0);
        Ok(SessionBounds { all: self.clients, kept: self.clients_kept, of_role })
    }
}

/// The kernel counts whole seconds, and asks two times.
const DEAD_CLIENT_AFTER_MIN: Duration = Duration::from_secs(3);

/// Postgres's own limit for small messages lies below.
const MESSAGE_BYTES_MIN: usize = 16 << 10;
