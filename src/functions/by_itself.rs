//! Functions that run outside the client's transaction: they move rows, and go on when the client goes away.

use std::sync::Arc;

use serde_json::Value;

use crate::catalog::Catalog;
use crate::error::{PgError, Result, SqlState};
use crate::executor::Holds;

/// What an operation tells the client besides its result.
#[derive(Debug)]
pub struct Notice {
    /// `NOTICE` or `WARNING`.
    pub level: &'static str,
    pub message: PgError,
}

/// Must this function run outside a transaction block?
pub fn runs_by_itself(name: &str) -> bool {
    let name = name.strip_prefix("master_").unwrap_or(name);
    matches!(
        name.strip_prefix("citus_").unwrap_or(name),
        "move_shard_placement"
            | "rebalance_table_shards"
            | "drain_node"
            | "rebalance_start"
            | "rebalance_wait"
            | "get_rebalance_table_shards_plan"
            | "rebalance_status"
            | "rebalance_stop"
    )
}

/// Carries out one call.
pub async fn call_by_itself(
    name: &str,
    _arguments: Value,
    _catalog: Arc<Catalog>,
    _holds: Arc<Holds>,
) -> Result<(Value, Vec<Notice>)> {
    Err(PgError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name} is not provided")))
}
