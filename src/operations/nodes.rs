//! Workers come and go: checks before a server is taken in, what it must have before it gets shards, its row.
//!
//! What is made on the new server is made on a control connection and may be made again; the node's row belongs to
//! the client's transaction and decides.

use std::sync::Arc;

use super::create_distributed_table::number;
use super::node_objects;
use crate::catalog::nodes::{self, NewNode};
use crate::catalog::{Address, Catalog, connect, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardMap};

/// `SELECT citus_add_node(...)`.
#[derive(Debug, Clone)]
pub struct AddNode {
    pub host: String,
    pub port: i32,
    /// -1: the next free one; 0: the coordinator.
    pub group_id: i32,
    pub role: String,
    pub cluster: String,
}

/// Answers the node's id; that of the existing node when it is already there.
pub async fn add_node(txn: &mut Transaction, catalog: &Arc<Catalog>, request: AddNode) -> Result<i64> {
    let address = address(&request.host, request.port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    if let Some(id) = number(txn, &nodes::find(&address.host, address.port)).await? {
        return Ok(id);
    }
    if request.role != "primary" {
        return Err(PgError::unsupported(format!("nodes with role {} are not supported yet", request.role))
            .hint("Add primaries only."));
    }
    if request.group_id == 0 {
        txn.query(NodeId::COORDINATOR, &nodes::set_coordinator(&address.host, address.port)).await?;
        txn.reload_map().await?;
        return Ok(number(txn, &nodes::find(&address.host, address.port)).await?.unwrap_or_default());
    }
    check_server(catalog, &map, &address).await?;
    prepare_server(txn, catalog, &map, &address).await?;
    let row = NewNode {
        host: address.host,
        port: address.port,
        group_id: u32::try_from(request.group_id).ok(),
        role: request.role,
        cluster: request.cluster,
        should_have_shards: true,
    };
    let id = number(txn, &nodes::insert(&row)).await?.unwrap_or_default();
    txn.reload_map().await?;
    Ok(id)
}

/// `SELECT citus_remove_node(...)`. Errors: 55000 while it holds shards.
pub async fn remove_node(txn: &mut Transaction, host: &str, port: i32) -> Result<()> {
    let address = address(host, port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    let Some(node) = map.node_at(&address.host, address.port) else { return Err(no_such_node(&address)) };
    refuse_last_placement(&map, node.id, &address)?;
    let row_id = number(txn, &nodes::find(&address.host, address.port)).await?.unwrap_or_default();
    txn.query(NodeId::COORDINATOR, &nodes::delete(NodeId(row_id as u32))).await?;
    txn.reload_map().await?;
    Ok(())
}

/// `SELECT citus_set_coordinator_host(...)`.
pub async fn set_coordinator_host(txn: &mut Transaction, host: &str, port: i32) -> Result<()> {
    let address = address(host, port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    txn.query(NodeId::COORDINATOR, &nodes::set_coordinator(&address.host, address.port)).await?;
    txn.reload_map().await?;
    Ok(())
}

/// `SELECT citus_set_node_property(...)`.
pub async fn set_node_property(
    txn: &mut Transaction,
    host: &str,
    port: i32,
    property: &str,
    value: bool,
) -> Result<()> {
    let address = address(host, port)?;
    if property != "shouldhaveshards" {
        return Err(PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "only the 'shouldhaveshards' property can be set using this function",
        ));
    }
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    let node = map.node_at(&address.host, address.port).ok_or_else(|| no_such_node(&address))?;
    if value && node.id.is_coordinator() {
        return Err(
            PgError::unsupported("the coordinator cannot hold shards yet").hint("Add a worker on the same host.")
        );
    }
    let sql = nodes::set_should_have_shards(&address.host, address.port, value);
    txn.query(NodeId::COORDINATOR, &sql).await?;
    txn.reload_map().await?;
    Ok(())
}

fn address(host: &str, port: i32) -> Result<Address> {
    let port = u16::try_from(port).ok().filter(|p| *p > 0).ok_or_else(|| {
        PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid port number: {port}"))
            .detail("A port is a number from 1 to 65535.")
    })?;
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, "invalid node name")
            .detail(format!("A node's name is a host name or an address of 1 to {HOST_BYTES_MAX} bytes.")));
    }
    Ok(Address { host: host.to_owned(), port })
}

fn no_such_node(address: &Address) -> PgError {
    PgError::new(SqlState::UNDEFINED_OBJECT, format!("node at \"{}:{}\" does not exist", address.host, address.port))
}

fn refuse_last_placement(map: &ShardMap, node: NodeId, address: &Address) -> Result<()> {
    for table in map.tables() {
        let Some(colocation) = map.colocation(table.colocation) else { continue };
        let held = table.shards.iter().zip(&colocation.shard_groups).find(|(_, group)| group.node == node);
        if let Some((shard, _)) = held {
            return Err(PgError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!(
                    "cannot remove or disable the node {}:{} because because it contains the only shard placement for \
                     shard {shard}",
                    address.host, address.port
                ),
            )
            .detail(format!(
                "One of the table(s) that prevents the operation complete successfully is {}.{}",
                table.schema, table.name
            ))
            .hint(
                "To proceed, either drop the tables or use undistribute_table() function to convert them to local tables",
            ));
        }
    }
    Ok(())
}

/// Everything that makes a server unfit, told at once. Errors: 08006 when it can't be reached, 55000 when unfit.
async fn check_server(catalog: &Catalog, map: &ShardMap, address: &Address) -> Result<()> {
    let settings = catalog.settings();
    let candidate = facts(&connect(settings, address).await?).await?;
    let coordinator = facts(&connect(settings, &settings.coordinator()).await?).await?;
    let mut complaints = Vec::new();
    if candidate.version < VERSION_MIN {
        complaints.push(format!("It runs PostgreSQL {}; 15 or later is needed.", candidate.version / 10000));
    }
    if candidate.in_recovery {
        complaints.push("It is in recovery (a standby).".to_owned());
    }
    if candidate.wal_level != "logical" {
        complaints.push(format!("Its wal_level is {}; logical is needed to move shards.", candidate.wal_level));
    }
    if candidate.max_prepared_transactions == 0 {
        complaints.push("Its max_prepared_transactions is 0; two-phase commit needs more.".to_owned());
    }
    if candidate.max_replication_slots == 0 {
        complaints.push("Its max_replication_slots is 0; moving shards needs more.".to_owned());
    }
    if candidate.encoding != coordinator.encoding {
        complaints.push(format!(
            "Its database \"{}\" has encoding {}, the coordinator's has {}.",
            settings.dbname, candidate.encoding, coordinator.encoding
        ));
    }
    if candidate.identity == coordinator.identity {
        complaints.push("It is the coordinator itself.".to_owned());
    }
    for worker in map.active_workers() {
        let at = Address { host: worker.host.clone(), port: worker.port };
        // A worker that is down cannot be the server that has just answered.
        if let Ok(client) = connect(settings, &at).await
            && facts(&client).await.is_ok_and(|known| known.identity == candidate.identity)
        {
            complaints.push(format!("It is the same server as node {}:{}.", worker.host, worker.port));
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("cannot add node {}:{}", address.host, address.port),
    )
    .detail(complaints.join(" "))
    .hint("Change the server's settings, restart it and call citus_add_node again."))
}

struct Facts {
    version: i32,
    in_recovery: bool,
    wal_level: String,
    max_prepared_transactions: i32,
    max_replication_slots: i32,
    encoding: String,
    /// Differs between servers, even between copies of one data folder.
    identity: String,
}

async fn facts(client: &tokio_postgres::Client) -> Result<Facts> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('wal_level'), \
             current_setting('max_prepared_transactions')::int, current_setting('max_replication_slots')::int, \
             current_setting('server_encoding'), \
             (SELECT system_identifier FROM pg_control_system()) || '/' || pg_postmaster_start_time()",
            &[],
        )
        .await
        .map_err(pg_error)?;
    let read = || {
        Ok(Facts {
            version: row.try_get(0)?,
            in_recovery: row.try_get(1)?,
            wal_level: row.try_get(2)?,
            max_prepared_transactions: row.try_get(3)?,
            max_replication_slots: row.try_get(4)?,
            encoding: row.try_get(5)?,
            identity: row.try_get(6)?,
        })
    };
    read().map_err(pg_error)
}

/// Roles, schemas, extensions, types and reference tables, in one transaction on the new server.
async fn prepare_server(txn: &mut Transaction, catalog: &Catalog, map: &ShardMap, address: &Address) -> Result<()> {
    // Nobody may write a reference table between its copy and the commit that makes the node known.
    let references = node_objects::lock_reference_tables(txn, map).await?;
    let settings = catalog.settings();
    let coordinator = connect(settings, &settings.coordinator()).await?;
    let mut worker = connect(settings, address).await?;
    let target = worker.transaction().await.map_err(pg_error)?;
    node_objects::copy_definitions(&coordinator, &target).await?;
    for reference in &references {
        node_objects::copy_reference_table(&coordinator, &target, reference).await?;
    }
    for reference in &references {
        target.batch_execute(&reference.foreign_keys).await.map_err(pg_error)?;
    }
    target.commit().await.map_err(pg_error)
}

const VERSION_MIN: i32 = 150000;
const HOST_BYTES_MAX: usize = 255;
