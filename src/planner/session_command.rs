//! Plans SET, RESET, SHOW, DISCARD, PREPARE, EXECUTE, DEALLOCATE.

use crate::error::{PgError, SqlState};
use crate::sql::set_statement::SessionStatement;
use crate::sql::{Access, Encoding, read_encoding};

use super::names::coordinator;
use super::transaction::refuse_snapshot;
use super::{Coordinator, Plan, SessionCommand, TransactionCommand};

/// `text`: the statement, without comments around it.
pub(super) fn plan_session(statement: SessionStatement, text: &str) -> Result<Plan, PgError> {
    Ok(Plan::Session(match statement {
        // They belong to the transaction.
        SessionStatement::Set { name, values, .. } if name == "transaction_read_only" => {
            let is_on = values.first().is_none_or(|value| is_on(value));
            let text = if is_on { "SET TRANSACTION READ ONLY" } else { "SET TRANSACTION READ WRITE" };
            return Ok(set_for_transaction(text, true));
        }
        SessionStatement::Set { name, .. } if name == "transaction_isolation" || name == "transaction_deferrable" => {
            return Ok(set_for_transaction(text, true));
        }
        // What the client has connected with is its default.
        SessionStatement::Set { name, local, values } if values.is_empty() => {
            SessionCommand::Reset { name, local, text: text.to_owned() }
        }
        SessionStatement::Set { name, local, values } => {
            check_setting(&name, values.first().map(String::as_str))?;
            SessionCommand::Set { name, local, from_current: false, text: text.to_owned() }
        }
        SessionStatement::SetFromCurrent { name, local } => {
            SessionCommand::Set { name, local, from_current: true, text: text.to_owned() }
        }
        SessionStatement::SetForTransaction { takes_snapshot: true } => return Err(refuse_snapshot()),
        SessionStatement::SetForTransaction { takes_snapshot: false } => {
            return Ok(set_for_transaction(text, false));
        }
        SessionStatement::SetConstraints { names } => {
            return Ok(Plan::Transaction(TransactionCommand::SetConstraints { names, text: text.to_owned() }));
        }
        SessionStatement::Reset { name } => SessionCommand::Reset { name, local: false, text: text.to_owned() },
        SessionStatement::ResetAll => SessionCommand::ResetAll,
        SessionStatement::Show { name: Some(name) } if is_own_setting(&name) => SessionCommand::Show { name },
        SessionStatement::Show { .. } => {
            return Ok(Coordinator { access: Access::Read, returns_rows: true, ..coordinator(text) }.into());
        }
        SessionStatement::DiscardAll => SessionCommand::DiscardAll,
        SessionStatement::DiscardSome => {
            return Ok(Coordinator { access: Access::Read, frees: true, ..coordinator(text) }.into());
        }
        SessionStatement::Prepare { name, types, body } => SessionCommand::Prepare { name, types, body },
        SessionStatement::Execute { name, arguments } => SessionCommand::Execute { name, arguments },
        SessionStatement::Deallocate { name } => SessionCommand::Deallocate { name },
    }))
}

fn set_for_transaction(text: &str, is_setting: bool) -> Plan {
    Plan::Transaction(TransactionCommand::SetForTransaction { text: text.to_owned(), is_setting })
}

/// Settings that Postgres does not know. Before they are set it has no value of theirs.
pub(super) fn is_own_setting(name: &str) -> bool {
    OWN_SETTINGS.contains(&name)
}

pub const SHARD_COUNT_SETTING: &str = "citus.shard_count";
/// Citus's name for `moves.per_node`.
pub const MOVES_PER_NODE_SETTING: &str = "citus.max_background_task_executors_per_node";
pub const READ_FROM_SETTING: &str = "tenantry.read_from";
pub const POOL_MODE_SETTING: &str = "tenantry.pool_mode";
pub const OWN_SETTINGS: [&str; 4] = [SHARD_COUNT_SETTING, MOVES_PER_NODE_SETTING, READ_FROM_SETTING, POOL_MODE_SETTING];

/// Who answers a session's reads: `tenantry.read_from`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadFrom {
    #[default]
    Primary,
    /// Standbys; where a node has none that can be read from its primary, which the client is told.
    Replica,
    /// The same, without a word.
    PreferReplica,
}

impl ReadFrom {
    /// Errors: 22023.
    pub fn parse(value: &str) -> Result<Self, PgError> {
        match value.to_ascii_lowercase().as_str() {
            "primary" => Ok(Self::Primary),
            "replica" => Ok(Self::Replica),
            "prefer_replica" => Ok(Self::PreferReplica),
            _ => Err(PgError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"tenantry.read_from\": \"{value}\""),
            )
            .hint("Available values: primary, replica, prefer_replica.")),
        }
    }

    pub fn is_replicas(self) -> bool {
        self != Self::Primary
    }
}

/// Who asks for it has server connections of his own until his session ends, or for a transaction at a time: `tenantry.pool_mode`.
///
/// Errors: 22023.
pub fn keeps_servers(pool_mode: &str) -> Result<bool, PgError> {
    match pool_mode.to_ascii_lowercase().as_str() {
        "session" => Ok(true),
        "transaction" => Ok(false),
        _ => Err(PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"tenantry.pool_mode\": \"{pool_mode}\""),
        )
        .hint("Available values: transaction, session.")),
    }
}

/// Settings that change how a text is cut into tokens cannot be allowed: the proxy and a server would read
/// different statements. `None`: a value that is computed.
///
/// Errors: 0A000, 22023 for values that the setting does not have.
pub fn check_setting(name: &str, value: Option<&str>) -> Result<(), PgError> {
    let text = value.unwrap_or("a value that is computed");
    match name {
        "standard_conforming_strings" if !value.is_some_and(is_on) => {
            Err(PgError::unsupported("cannot turn standard_conforming_strings off")
                .hint("Write backslash escapes as E'...'."))
        }
        "client_encoding" => match value.map(read_encoding) {
            Some(Some(Encoding::Utf8 | Encoding::SqlAscii)) => Ok(()),
            Some(None) => Err(PgError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"client_encoding\": \"{text}\""),
            )),
            Some(Some(Encoding::Other)) | None => {
                Err(PgError::unsupported(format!("client encoding \"{text}\" is not supported"))
                    .detail("Texts are analysed, and tenants hashed, as UTF8.")
                    .hint("Set client_encoding to UTF8."))
            }
        },
        "tenantry.read_from" => ReadFrom::parse(text).map(drop),
        "tenantry.pool_mode" => keeps_servers(text).map(drop),
        _ => Ok(()),
    }
}

/// Postgres takes any unique beginning of true, yes, on.
fn is_on(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    value == "1" || value == "on" || (!value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_by_which_texts_are_read_otherwise_are_refused() {
        let code = |name, value| check_setting(name, value).err().map(|error| error.code());
        for (value, wanted) in [
            (Some("utf-8"), None),
            (Some("SJIS"), Some(SqlState::FEATURE_NOT_SUPPORTED)),
            (None, Some(SqlState::FEATURE_NOT_SUPPORTED)),
            (Some("auto"), Some(SqlState::INVALID_PARAMETER_VALUE)),
        ] {
            assert_eq!(code("client_encoding", value), wanted, "{value:?}");
        }
        for off in ["off", "OFF", "of", "f", " n", "0", ""] {
            assert!(code("standard_conforming_strings", Some(off)).is_some(), "{off}");
        }
        assert_eq!(code("standard_conforming_strings", Some("tru")), None);
        assert!(code("standard_conforming_strings", None).is_some());
    }
}
