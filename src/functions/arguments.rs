//! Arguments as Postgres evaluated them. Field names are those of the SQL signatures.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{PgError, Result, SqlState};

#[derive(Deserialize)]
pub struct CreateDistributedTable {
    pub table_name: Option<u32>,
    pub distribution_column: Option<String>,
    pub distribution_type: Option<String>,
    pub colocate_with: Option<String>,
    pub shard_count: Option<i32>,
}

#[derive(Deserialize)]
pub struct OneTable {
    #[serde(alias = "function_name")]
    pub table_name: Option<u32>,
}

#[derive(Deserialize)]
pub struct UndistributeTable {
    pub table_name: Option<u32>,
    pub cascade_via_foreign_keys: Option<bool>,
}

/// Times as Postgres prints them in the session.
#[derive(Deserialize)]
pub struct CreateTimePartitions {
    pub table_name: Option<u32>,
    pub partition_interval: Option<String>,
    pub start_from: Option<String>,
    pub end_at: Option<String>,
}

#[derive(Deserialize)]
pub struct DropOldTimePartitions {
    pub table_name: Option<u32>,
    pub older_than: Option<String>,
}

#[derive(Deserialize)]
pub struct AddNode {
    pub nodename: Option<String>,
    pub nodeport: Option<i32>,
    pub groupid: Option<i32>,
    pub noderole: Option<String>,
    pub nodecluster: Option<String>,
}

#[derive(Deserialize)]
pub struct AddSecondaryNode {
    pub nodename: Option<String>,
    pub nodeport: Option<i32>,
    pub primaryname: Option<String>,
    pub primaryport: Option<i32>,
    pub nodecluster: Option<String>,
}

#[derive(Deserialize)]
pub struct NodeAddress {
    pub nodename: Option<String>,
    pub nodeport: Option<i32>,
}

#[derive(Deserialize)]
pub struct CoordinatorHost {
    pub host: Option<String>,
    pub port: Option<i32>,
}

#[derive(Deserialize)]
pub struct NodeProperty {
    pub nodename: Option<String>,
    pub nodeport: Option<i32>,
    pub property: Option<String>,
    pub value: Option<bool>,
}

#[derive(Deserialize)]
pub struct ClusterEdit {
    pub workers: Option<i32>,
}

/// `lock_cooldown` in milliseconds.
#[derive(Deserialize)]
pub struct PauseNode {
    pub node_id: Option<i32>,
    pub force: Option<bool>,
    pub lock_cooldown: Option<i32>,
}

#[derive(Deserialize)]
pub struct UpdateNode {
    pub node_id: Option<i32>,
    pub new_node_name: Option<String>,
    pub new_node_port: Option<i32>,
    pub force: Option<bool>,
    pub lock_cooldown: Option<i32>,
}

/// Of all functions that run a command elsewhere.
#[derive(Deserialize)]
pub struct RunCommand {
    #[serde(alias = "table_name1")]
    pub table_name: Option<u32>,
    pub table_name2: Option<u32>,
    pub command: Option<String>,
    pub parallel: Option<bool>,
    pub give_warning_for_connection_errors: Option<bool>,
}

/// Three lists of the same length.
#[derive(Deserialize)]
pub struct RunOnWorker {
    pub worker_name: Option<Vec<String>>,
    pub port: Option<Vec<i32>>,
    pub command: Option<Vec<String>>,
    pub parallel: Option<bool>,
}

/// Postgres has typed the arguments already; what doesn't fit here is our own mistake.
pub fn read<T: DeserializeOwned>(name: &str, arguments: Value) -> Result<T> {
    serde_json::from_value(arguments).map_err(|e| {
        PgError::new(SqlState::INTERNAL_ERROR, format!("arguments of {name} do not fit its signature"))
            .detail(e.to_string())
    })
}

pub fn required<T>(argument: Option<T>, name: &str) -> Result<T> {
    argument
        .ok_or_else(|| PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, format!("argument \"{name}\" must not be null")))
}
