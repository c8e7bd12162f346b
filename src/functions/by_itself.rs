//! Functions that run outside the client's transaction: they move rows, and go on when the client goes away.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::catalog::Catalog;
use crate::error::{PgError, Result, SqlState};
use crate::executor::Holds;
use crate::operations::mover::{MoverEnvironment, Notice};
use crate::operations::rebalance::call;

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

/// Carries out one call; what it has to say comes with the result.
///
/// Errors: whatever the operation reports.
pub async fn call_by_itself(
    name: &str,
    arguments: Value,
    catalog: Arc<Catalog>,
    holds: Arc<Holds>,
) -> Result<(Value, Vec<Notice>)> {
    let environment = MoverEnvironment::new(catalog, holds);
    let notices = Mutex::new(Vec::new());
    let notify = |notice: Notice| notices.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(notice);
    let value = match name {
        "citus_move_shard_placement" | "master_move_shard_placement" => {
            call::citus_move_shard_placement(&environment, &arguments, &notify).await
        }
        "rebalance_table_shards" => call::rebalance_table_shards(&environment, &arguments, &notify).await,
        "get_rebalance_table_shards_plan" => {
            call::get_rebalance_table_shards_plan(&environment, &arguments, &notify).await
        }
        "citus_drain_node" | "master_drain_node" => call::citus_drain_node(&environment, &arguments, &notify).await,
        "citus_rebalance_start" => call::citus_rebalance_start(&environment, &arguments, &notify).await,
        "citus_rebalance_status" => call::citus_rebalance_status(&environment, &arguments, &notify).await,
        "citus_rebalance_wait" => call::citus_rebalance_wait(&environment, &arguments, &notify).await,
        "citus_rebalance_stop" => call::citus_rebalance_stop(&environment, &arguments, &notify).await,
        _ => Err(PgError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name} is not provided"))),
    }?;
    Ok((value, notices.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())))
}
