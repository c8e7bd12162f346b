//! Name -> arguments -> operation -> result.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::arguments::{
    AddNode, AddSecondaryNode, CoordinatorHost, CreateDistributedTable, CreateTimePartitions, DropOldTimePartitions,
    NodeAddress, NodeProperty, OneTable, PauseNode, RunCommand, RunOnWorker, UndistributeTable, UpdateNode, read,
    required,
};
use super::cluster_size;
use crate::catalog::Catalog;
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::operations::create_distributed_table::{self, create_distributed_table};
use crate::operations::mover::MoverEnvironment;
use crate::operations::reference_table::create_reference_table;
use crate::operations::standbys::add_secondary_node as add_secondary;
use crate::operations::undistribute_table::undistribute_table;
use crate::operations::{node_pause, node_state, nodes, run_command, time_partitions};
use crate::planner::{Figures, Provided};
use crate::shard_map::TableOid;

/// What functions need besides the client's transaction.
pub struct Environment {
    pub catalog: Arc<Catalog>,
    /// For what copies rows to a new node.
    pub mover: MoverEnvironment,
    /// `citus.shard_count` as the session has it, for `create_distributed_table`.
    pub shard_count: u32,
}

/// Carries out one call. The result goes into `tenantry_result.<name>`: a scalar, an array of objects for rows, or null.
///
/// Errors: 42883 for a name that is not provided; whatever the operation reports.
pub async fn call(name: &str, arguments: Value, txn: &mut Transaction, env: &Environment) -> Result<Value> {
    txn.require_atomic().await?;
    match name {
        "create_distributed_table" => distribute(arguments, txn, env).await,
        "create_reference_table" => {
            let arguments: OneTable = read(name, arguments)?;
            let table = required(arguments.table_name, "table_name")?;
            create_reference_table(txn, TableOid(table)).await.map(|()| Value::Null)
        }
        "undistribute_table" => {
            let UndistributeTable { table_name, cascade_via_foreign_keys: cascade } = read(name, arguments)?;
            let (table, cascade) =
                (required(table_name, "table_name")?, required(cascade, "cascade_via_foreign_keys")?);
            undistribute_table(txn, TableOid(table), cascade).await.map(|()| Value::Null)
        }
        "create_time_partitions" => create_time_partitions(arguments, txn).await,
        "drop_old_time_partitions" => {
            let DropOldTimePartitions { table_name, older_than } = read(name, arguments)?;
            let (table, moment) = (required(table_name, "table_name")?, required(older_than, "older_than")?);
            time_partitions::drop_old(txn, TableOid(table), &moment).await.map(|()| Value::Null)
        }
        // Shells are empty from the start.
        "truncate_local_data_after_distributing_table" => Ok(Value::Null),
        // A worker has them before it is active.
        "replicate_reference_tables" => Ok(Value::Null),
        "citus_add_node" | "master_add_node" => add_node(name, arguments, txn, env, true).await,
        "citus_add_inactive_node" | "master_add_inactive_node" => add_node(name, arguments, txn, env, false).await,
        "citus_activate_node" | "master_activate_node" => {
            let (host, port) = node_address(name, arguments)?;
            node_state::activate_node(txn, &env.mover, &host, port).await.map(|id| json!(id))
        }
        "citus_disable_node" | "master_disable_node" => {
            let (host, port) = node_address(name, arguments)?;
            node_state::disable_node(txn, &env.mover, &host, port).await.map(|()| Value::Null)
        }
        "citus_add_secondary_node" | "master_add_secondary_node" => add_secondary_node(name, arguments, txn, env).await,
        "citus_update_node" | "master_update_node" => update_node(name, arguments, txn, env).await,
        "citus_pause_node_within_txn" => {
            let PauseNode { node_id, force, lock_cooldown } = read(name, arguments)?;
            let (id, cooldown) = (required(node_id, "node_id")?, required(lock_cooldown, "lock_cooldown")?);
            let force = required(force, "force")?;
            node_pause::pause_node(txn, &env.catalog, id, force, cooldown_of(cooldown)).await.map(|()| Value::Null)
        }
        "citus_check_cluster_node_health" => node_state::check_health(&env.catalog, &txn.map()).await,
        "citus_check_connection_to_node" => {
            let (host, port) = node_address(name, arguments)?;
            let address = nodes::address(&host, port)?;
            Ok(json!(node_state::reaches(&env.catalog, &address).await))
        }
        "citus_remove_node" | "master_remove_node" => {
            let (host, port) = node_address(name, arguments)?;
            nodes::remove_node(txn, &env.mover, &host, port).await.map(|()| Value::Null)
        }
        "citus_set_coordinator_host" => {
            let CoordinatorHost { host, port } = read(name, arguments)?;
            let (host, port) = (required(host, "host")?, required(port, "port")?);
            nodes::set_coordinator_host(txn, &host, port).await.map(|()| Value::Null)
        }
        "citus_set_node_property" | "master_set_node_property" => {
            let NodeProperty { nodename, nodeport, property, value } = read(name, arguments)?;
            let (host, port) = (required(nodename, "nodename")?, required(nodeport, "nodeport")?);
            let (property, value) = (required(property, "property")?, required(value, "value")?);
            nodes::set_node_property(txn, &host, port, &property, value).await.map(|()| Value::Null)
        }
        "run_command_on_workers"
        | "run_command_on_all_nodes"
        | "run_command_on_coordinator"
        | "run_command_on_shards"
        | "run_command_on_placements"
        | "run_command_on_colocated_placements" => run_elsewhere(name, arguments, txn).await,
        "master_run_on_worker" => {
            let RunOnWorker { worker_name, port, command, parallel } = read(name, arguments)?;
            let (names, ports) = (required(worker_name, "worker_name")?, required(port, "port")?);
            let (commands, parallel) = (required(command, "command")?, required(parallel, "parallel")?);
            run_command::on_named(txn, names, ports, commands, parallel).await
        }
        "tenantry_cluster_edit" => cluster_size::request(name, arguments, txn).await,
        "tenantry_cluster_status" => cluster_size::status(txn).await,
        "citus_stat_tenants_reset" => {
            txn.executor.loads.reset(&env.catalog).await?;
            Ok(Value::Null)
        }
        _ => Err(PgError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name} is not provided"))),
    }
}

/// Is it called by CALL?
pub fn is_procedure(name: &str) -> bool {
    matches!(name, "citus_cleanup_orphaned_resources" | "citus_cleanup_orphaned_shards" | "drop_old_time_partitions")
}

/// Every name that the planner is to look out for.
pub fn provided() -> Provided {
    Provided {
        functions: HashSet::from([
            "create_distributed_table",
            "create_distributed_table_concurrently",
            "citus_cleanup_orphaned_resources",
            "citus_cleanup_orphaned_shards",
            "create_reference_table",
            "undistribute_table",
            "create_time_partitions",
            "drop_old_time_partitions",
            "truncate_local_data_after_distributing_table",
            "replicate_reference_tables",
            "citus_add_node",
            "master_add_node",
            "citus_remove_node",
            "master_remove_node",
            "citus_add_secondary_node",
            "master_add_secondary_node",
            "citus_add_inactive_node",
            "master_add_inactive_node",
            "citus_activate_node",
            "master_activate_node",
            "citus_disable_node",
            "master_disable_node",
            "citus_update_node",
            "master_update_node",
            "citus_pause_node_within_txn",
            "citus_check_cluster_node_health",
            "citus_check_connection_to_node",
            "citus_set_coordinator_host",
            "citus_set_node_property",
            "master_set_node_property",
            "citus_drain_node",
            "master_drain_node",
            "citus_move_shard_placement",
            "master_move_shard_placement",
            "rebalance_table_shards",
            "get_rebalance_table_shards_plan",
            "tenantry_rebalance_preview",
            "tenantry_explain_move",
            "tenantry_rehearse_move",
            "citus_rebalance_start",
            "citus_rebalance_status",
            "citus_rebalance_wait",
            "citus_rebalance_stop",
            "citus_job_status",
            "citus_job_wait",
            "citus_job_cancel",
            "citus_task_wait",
            "get_rebalance_progress",
            "isolate_tenant_to_new_shard",
            "tenantry_isolate_tenant",
            "citus_split_shard_by_split_points",
            "tenantry_split_shard",
            "alter_distributed_table",
            "tenantry_return_tenant",
            "tenantry_undo_move",
            "tenantry_keep_move",
            "tenantry_cancel_move",
            "run_command_on_workers",
            "run_command_on_all_nodes",
            "run_command_on_coordinator",
            "run_command_on_shards",
            "run_command_on_placements",
            "run_command_on_colocated_placements",
            "master_run_on_worker",
            "tenantry_cluster_edit",
            "tenantry_cluster_status",
            "citus_stat_tenants_reset",
        ]),
        inline: HashMap::from([
            ("citus_version", None),
            ("citus_add_rebalance_strategy", None),
            ("citus_set_default_rebalance_strategy", None),
            ("citus_shard_cost_1", None),
            ("citus_shard_cost_by_disk_size", None),
            ("citus_node_capacity_1", None),
            ("citus_shard_allowed_on_node_true", None),
            ("citus_job_list", None),
            ("citus_stat_tenants", None),
            ("tenantry_recommend", None),
            ("tenantry_shard_cost_by_load", None),
            ("tenantry_shard_cost_by_statements", None),
            ("tenantry_shard_cost_by_bytes", None),
            ("tenantry_cluster_pause", None),
            ("tenantry_cluster_resume", None),
            ("tenantry_cluster_cancel", None),
            ("citus_is_coordinator", None),
            ("citus_is_primary_node", None),
            ("citus_coordinator_nodeid", None),
            ("citus_copy_shard_placement", None),
            ("master_copy_shard_placement", None),
            ("master_get_table_metadata", None),
            ("master_get_table_ddl_events", None),
            ("master_create_empty_shard", None),
            ("citus_update_table_statistics", None),
            ("master_update_table_statistics", None),
            ("citus_calculate_gpid", None),
            ("citus_nodeid_for_gpid", None),
            ("citus_pid_for_gpid", None),
            ("citus_get_active_worker_nodes", None),
            ("master_get_active_worker_nodes", None),
            ("column_to_column_name", None),
            ("column_name_to_column", None),
            ("shard_name", None),
            ("get_shard_id_for_distribution_column", None),
            ("get_missing_time_partition_ranges", None),
            ("citus_total_relation_size", Some(Figures::ShardSizes)),
            ("citus_table_size", Some(Figures::ShardSizes)),
            ("citus_relation_size", Some(Figures::ShardSizes)),
        ]),
        views: HashMap::from([
            ("pg_dist_node", None),
            ("pg_dist_partition", None),
            ("pg_dist_shard", None),
            ("pg_dist_placement", None),
            ("pg_dist_shard_placement", None),
            ("pg_dist_colocation", None),
            ("pg_dist_rebalance_strategy", None),
            ("pg_dist_background_job", None),
            ("pg_dist_background_task", None),
            ("pg_dist_background_task_depend", None),
            ("pg_dist_cleanup", None),
            ("citus_nodes", None),
            ("pg_prepared_statements", Some(Figures::PreparedStatements)),
            ("citus_tables", Some(Figures::ShardSizes)),
            ("citus_shards", Some(Figures::ShardSizes)),
            ("time_partitions", None),
            ("tenantry_tenants", None),
            ("tenantry_loads", Some(Figures::Loads)),
            ("tenantry_proxies", None),
            ("citus_stat_tenants", Some(Figures::Loads)),
            ("citus_stat_activity", Some(Figures::Activity)),
            ("citus_dist_stat_activity", Some(Figures::Activity)),
            ("citus_locks", Some(Figures::Locks)),
            ("citus_lock_waits", Some(Figures::LockWaits)),
        ]),
    }
}

async fn distribute(arguments: Value, txn: &mut Transaction, env: &Environment) -> Result<Value> {
    let arguments: CreateDistributedTable = read("create_distributed_table", arguments)?;
    let request = create_distributed_table::Request {
        table: TableOid(required(arguments.table_name, "table_name")?),
        column: arguments.distribution_column,
        method: required(arguments.distribution_type, "distribution_type")?,
        colocate_with: required(arguments.colocate_with, "colocate_with")?,
        shard_count: arguments.shard_count,
        shard_count_default: env.shard_count,
    };
    create_distributed_table(txn, request).await.map(|()| Value::Null)
}

async fn create_time_partitions(arguments: Value, txn: &mut Transaction) -> Result<Value> {
    let arguments: CreateTimePartitions = read("create_time_partitions", arguments)?;
    let wanted = time_partitions::Wanted {
        table: TableOid(required(arguments.table_name, "table_name")?),
        interval: required(arguments.partition_interval, "partition_interval")?,
        start_from: required(arguments.start_from, "start_from")?,
        end_at: required(arguments.end_at, "end_at")?,
    };
    time_partitions::create(txn, &wanted).await.map(|made| json!(made))
}

fn node_address(name: &str, arguments: Value) -> Result<(String, i32)> {
    let NodeAddress { nodename, nodeport } = read(name, arguments)?;
    Ok((required(nodename, "nodename")?, required(nodeport, "nodeport")?))
}

async fn run_elsewhere(name: &str, arguments: Value, txn: &mut Transaction) -> Result<Value> {
    let RunCommand { table_name, table_name2, command, parallel, give_warning_for_connection_errors: warns } =
        read(name, arguments)?;
    let command = run_command::Command {
        text: required(command, "command")?,
        is_parallel: parallel.unwrap_or(true),
        warns: warns.unwrap_or(false),
    };
    let table = || required(table_name, "table_name").map(TableOid);
    match name {
        "run_command_on_workers" => run_command::on_workers(txn, &command).await,
        "run_command_on_all_nodes" => run_command::on_all_nodes(txn, &command, false).await,
        "run_command_on_coordinator" => run_command::on_all_nodes(txn, &command, true).await,
        "run_command_on_shards" => run_command::on_shards(txn, table()?, &command, false).await,
        "run_command_on_placements" => run_command::on_shards(txn, table()?, &command, true).await,
        _ => {
            let tables = [table()?, TableOid(required(table_name2, "table_name2")?)];
            run_command::on_colocated(txn, tables, &command).await
        }
    }
}

async fn update_node(name: &str, arguments: Value, txn: &mut Transaction, env: &Environment) -> Result<Value> {
    let UpdateNode { node_id, new_node_name, new_node_port, force, lock_cooldown } = read(name, arguments)?;
    let (id, host) = (required(node_id, "node_id")?, required(new_node_name, "new_node_name")?);
    let (port, cooldown) = (required(new_node_port, "new_node_port")?, required(lock_cooldown, "lock_cooldown")?);
    let force = force.unwrap_or(false).then(|| cooldown_of(cooldown));
    node_state::update_node(txn, &env.catalog, id, (&host, port), force).await.map(|()| Value::Null)
}

/// `lock_cooldown`: milliseconds.
fn cooldown_of(milliseconds: i32) -> Duration {
    Duration::from_millis(milliseconds.max(0).unsigned_abs().into())
}

async fn add_secondary_node(name: &str, arguments: Value, txn: &mut Transaction, env: &Environment) -> Result<Value> {
    let AddSecondaryNode { nodename, nodeport, primaryname, primaryport, nodecluster } = read(name, arguments)?;
    let (host, port) = (required(nodename, "nodename")?, required(nodeport, "nodeport")?);
    let (primary, primary_port) = (required(primaryname, "primaryname")?, required(primaryport, "primaryport")?);
    let cluster = required(nodecluster, "nodecluster")?;
    add_secondary(txn, &env.catalog, (&host, port), (&primary, primary_port), cluster).await.map(|id| json!(id))
}

async fn add_node(
    name: &str,
    arguments: Value,
    txn: &mut Transaction,
    env: &Environment,
    is_active: bool,
) -> Result<Value> {
    let arguments: AddNode = read(name, arguments)?;
    let request = nodes::AddNode {
        host: required(arguments.nodename, "nodename")?,
        port: required(arguments.nodeport, "nodeport")?,
        group_id: required(arguments.groupid, "groupid")?,
        role: required(arguments.noderole, "noderole")?,
        cluster: required(arguments.nodecluster, "nodecluster")?,
        is_active,
    };
    nodes::add_node(txn, &env.mover, request).await.map(|id| json!(id))
}
