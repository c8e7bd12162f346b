//! Functions that run outside the client's transaction: they move rows, and go on when the client goes away.

use std::collections::HashSet;
use std::sync::Mutex;

use serde_json::Value;

use crate::error::{PgError, Result, SqlState};
use crate::operations::mover::{
    MoverEnvironment, Notice, Notify, cancel, distribute, explain, isolate, join, orphans, rehearse, shard_count,
    split, undo,
};
use crate::operations::rebalance::{call, job, preview, progress};

/// Does this function run outside the client's transaction?
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
            | "tenantry_rebalance_preview"
            | "tenantry_explain_move"
            | "tenantry_rehearse_move"
            | "rebalance_status"
            | "rebalance_stop"
            | "job_status"
            | "job_wait"
            | "job_cancel"
            | "task_wait"
            | "get_rebalance_progress"
            | "isolate_tenant_to_new_shard"
            | "tenantry_isolate_tenant"
            | "split_shard_by_split_points"
            | "tenantry_split_shard"
            | "alter_distributed_table"
            | "create_distributed_table_concurrently"
            | "cleanup_orphaned_resources"
            | "cleanup_orphaned_shards"
            | "tenantry_return_tenant"
            | "tenantry_undo_move"
            | "tenantry_keep_move"
            | "tenantry_cancel_move"
    )
}

/// Of those that run outside of it: does this one only tell what is committed, and change nothing?
pub fn only_tells(name: &str) -> bool {
    matches!(
        name,
        "get_rebalance_table_shards_plan"
            | "tenantry_rebalance_preview"
            | "tenantry_explain_move"
            | "citus_rebalance_status"
            | "citus_job_status"
            | "get_rebalance_progress"
    )
}

/// Carries out one call; what it has to say on the way goes to `notify`, the same only once: many moves have the same to say of a
/// table.
///
/// Errors: whatever the operation reports.
pub async fn call_by_itself(
    name: &str,
    arguments: Value,
    environment: &MoverEnvironment,
    notify: &Notify<'_>,
) -> Result<Value> {
    let said = Mutex::new(HashSet::new());
    let notify: &Notify<'_> = &|notice: Notice| {
        if said.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(notice.message.clone()) {
            notify(notice);
        }
    };
    match name {
        "citus_move_shard_placement" | "master_move_shard_placement" => {
            call::citus_move_shard_placement(environment, &arguments, notify).await
        }
        "rebalance_table_shards" => call::rebalance_table_shards(environment, &arguments, notify).await,
        "get_rebalance_table_shards_plan" => {
            call::get_rebalance_table_shards_plan(environment, &arguments, notify).await
        }
        "tenantry_explain_move" => explain::tenantry_explain_move(environment, &arguments).await,
        "tenantry_rehearse_move" => rehearse::tenantry_rehearse_move(environment, &arguments, notify).await,
        "tenantry_rebalance_preview" => preview::tenantry_rebalance_preview(environment, &arguments, notify).await,
        "citus_drain_node" | "master_drain_node" => call::citus_drain_node(environment, &arguments, notify).await,
        "citus_rebalance_start" => job::citus_rebalance_start(environment, &arguments, notify).await,
        "citus_rebalance_status" => job::citus_rebalance_status(environment, &arguments).await,
        "citus_rebalance_wait" => job::citus_rebalance_wait(environment).await,
        "citus_rebalance_stop" => job::citus_rebalance_stop(environment).await,
        "citus_job_status" => job::citus_job_status(environment, &arguments).await,
        "citus_job_wait" => job::citus_job_wait(environment, &arguments).await,
        "citus_job_cancel" => job::citus_job_cancel(environment, &arguments).await,
        "citus_task_wait" => job::citus_task_wait(environment, &arguments).await,
        "isolate_tenant_to_new_shard" => isolate::isolate_tenant_to_new_shard(environment, &arguments, notify).await,
        "tenantry_isolate_tenant" => isolate::tenantry_isolate_tenant(environment, &arguments, notify).await,
        "citus_split_shard_by_split_points" => {
            split::citus_split_shard_by_split_points(environment, &arguments, notify).await
        }
        "tenantry_split_shard" => split::tenantry_split_shard(environment, &arguments, notify).await,
        "alter_distributed_table" => shard_count::alter_distributed_table(environment, &arguments, notify).await,
        "create_distributed_table_concurrently" => {
            distribute::create_distributed_table_concurrently(environment, &arguments, notify).await
        }
        "citus_cleanup_orphaned_resources" | "citus_cleanup_orphaned_shards" => {
            orphans::citus_cleanup_orphaned_resources(environment, notify).await
        }
        "tenantry_return_tenant" => join::tenantry_return_tenant(environment, &arguments, notify).await,
        "tenantry_undo_move" => undo::tenantry_undo_move(environment, &arguments, notify).await,
        "tenantry_cancel_move" => cancel::tenantry_cancel_move(environment, &arguments, notify).await,
        "tenantry_keep_move" => undo::tenantry_keep_move(environment, &arguments).await,
        "get_rebalance_progress" => progress::get_rebalance_progress(environment).await,
        _ => Err(PgError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name} is not provided"))),
    }
}
