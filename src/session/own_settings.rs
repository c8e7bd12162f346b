//! Settings that Postgres does not know: what they are before anybody sets them.
//!
//! ```text
//!   SHOW citus.shard_count                   is answered here
//!   current_setting('citus.shard_count')     by the coordinator, which is lent the defaults until the end of the transaction
//! ```
//!
//! Once such a setting was set it is a session's like any other. RESET leaves it empty, which is as if it had not been set.

use serde_json::Value;

use super::run::Session;
use crate::backend::{quote_ident, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::Request;
use crate::operations::create_distributed_table::SHARD_COUNT_DEFAULT;
use crate::planner::{MOVES_PER_NODE_SETTING, OWN_SETTINGS, POOL_MODE_SETTING, READ_FROM_SETTING, SHARD_COUNT_SETTING};
use crate::shard_map::NodeId;
use crate::wire::answer;
use crate::wire::rows::Field;

/// Has the columns of the answer to SHOW.
pub fn describing(name: &str) -> String {
    format!("SELECT ''::pg_catalog.text AS {}", quote_ident(name))
}

impl Session {
    /// As the client, his role or his database has set it; none: nobody has.
    pub async fn own_setting(&mut self, name: &str) -> Result<Option<String>> {
        let sql = format!("SELECT nullif(pg_catalog.current_setting({}, true), '')", quote_literal(name));
        let rows = self.txn().query(NodeId::COORDINATOR, &sql).await?;
        Ok(rows.into_iter().flatten().next().flatten())
    }

    /// Errors: 22023 for what is no such number.
    pub(super) async fn shard_count(&mut self) -> Result<u32> {
        let Some(value) = self.own_setting(SHARD_COUNT_SETTING).await? else { return Ok(SHARD_COUNT_DEFAULT) };
        value.trim().parse().map_err(|_| {
            let message = format!("invalid value for parameter \"{SHARD_COUNT_SETTING}\": \"{value}\"");
            PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
        })
    }

    /// SHOW, in the words of Postgres.
    pub(super) async fn show_own(&mut self, name: &str, request: Request<'_>) -> Result<()> {
        let value = self.own_setting(name).await?.unwrap_or_else(|| self.default_of(name));
        if request.describe {
            let field = Field { name: name.to_owned(), type_oid: 25, type_modifier: -1 };
            answer::row_description(&[field], self.client.out());
        }
        answer::text_row(&[Some(&value)], self.client.out());
        answer::command_complete("SHOW", self.client.out());
        Ok(())
    }

    /// Of all of them, as JSON.
    pub(super) fn defaults(&self) -> String {
        let default = |name: &str| (name.to_owned(), Value::String(self.default_of(name)));
        Value::Object(OWN_SETTINGS.into_iter().map(default).collect()).to_string()
    }

    fn default_of(&self, name: &str) -> String {
        match name {
            SHARD_COUNT_SETTING => SHARD_COUNT_DEFAULT.to_string(),
            MOVES_PER_NODE_SETTING => self.thread.shared.mover.moves_per_node().to_string(),
            READ_FROM_SETTING => "primary".to_owned(),
            POOL_MODE_SETTING if self.thread.executor.pools.are_for_sessions() => "session".to_owned(),
            POOL_MODE_SETTING => "transaction".to_owned(),
            _ => String::new(),
        }
    }
}
