//! The file's section on what one client may cost.

use serde::{Deserialize, Serialize};

use super::settings::invalid;
use super::units::{Size, Time};
use crate::error::Result;
use crate::executor::{self, ClientLimits, MESSAGE_BYTES_MAX};

/// What one client may cost. Those of messages hold for sessions that begin after a reload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest message, then SQLSTATE 08P01. Unit: size, at most 1023MB. Default: 1023MB. Reload: yes.
    pub message: Size,
    /// Longest time for a message to arrive, and a second more for each MB. Unit: time. Default: 30s. Reload: yes.
    pub message_timeout: Time,
    /// A client that takes nothing of its answer for so long is left. Unit: time. Default: 10min. Reload: yes.
    pub reader_timeout: Time,
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
        Ok(ClientLimits {
            message_bytes: self.message.0,
            message_timeout: self.message_timeout.0,
            reader_timeout: self.reader_timeout.0,
        })
    }
}

/// Postgres's own limit for small messages lies below.
const MESSAGE_BYTES_MIN: usize = 16 << 10;
