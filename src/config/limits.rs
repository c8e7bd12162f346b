//! The file's section on what one client may cost, and what it means.

use serde::{Deserialize, Serialize};

use super::settings::invalid;
use super::units::{Size, Time};
use crate::error::Result;
use crate::executor::{ClientLimits, MESSAGE_BYTES_MAX};
use crate::session::Limits;

/// What one client may cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// The largest message of a client, then SQLSTATE 08P01. Unit: size, at most 1023MB. Default: 1023MB. Reload: no.
    pub message: Size,
    /// Longest time for a message to arrive, and a second more for each MB. Unit: time. Default: 30s. Reload: no.
    pub message_timeout: Time,
    /// A client that takes nothing of its answer for so long is left. Unit: time. Default: 10min. Reload: no.
    pub reader_timeout: Time,
}

impl Default for LimitsSection {
    fn default() -> Self {
        let Limits { client } = Limits::default();
        Self {
            message: Size(client.message_bytes),
            message_timeout: Time(client.message_timeout),
            reader_timeout: Time(client.reader_timeout),
        }
    }
}

impl LimitsSection {
    /// Errors: F0000 for what cannot be.
    pub fn check(self) -> Result<Limits> {
        if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&self.message.0) {
            return Err(invalid("limits.message", "must be between 16kB and 1023MB"));
        }
        Ok(Limits {
            client: ClientLimits {
                message_bytes: self.message.0,
                message_timeout: self.message_timeout.0,
                reader_timeout: self.reader_timeout.0,
            },
        })
    }
}

/// Postgres's own limit for small messages lies below.
const MESSAGE_BYTES_MIN: usize = 16 << 10;
