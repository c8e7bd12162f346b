//! Workers come and go: checks before a server is taken in, what it must have before it gets shards, its row.
//!
//! What is made on the new server is made on a control connection and may be made again; the node's row belongs to
//! the client's transaction and decides.

use super::create_distributed_table::number;
use super::mover::leaving::end_ways_back;
use super::mover::{self, MoverEnvironment};
use super::node_check::check_server;
use super::node_objects;
use super::reference_copies;
use super::sequences;
use super::standbys::{add_secondary_node, has_address};
use crate::catalog::nodes::{self, NewNode};
use crate::catalog::{Address, Catalog, connect, connect_to_coordinator, pg_error, quote};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{ColocationId, NodeId, ShardMap};

/// `SELECT citus_add_node(...)`.
#[derive(Debug, Clone)]
pub struct AddNode {
    pub host: String,
    pub port: i32,
    /// -1: the next free one; 0: the coordinator.
    pub group_id: i32,
    pub role: String,
    pub cluster: String,
    /// An inactive one is only noted down: `activate_node` checks and prepares it.
    pub is_active: bool,
}

/// Answers the node's id; that of the existing node when it is already there. A secondary one is a standby of the primary of
/// its group.
pub async fn add_node(txn: &mut Transaction, mover: &MoverEnvironment, request: AddNode) -> Result<i64> {
    let catalog = &mover.catalog;
    let address = address(&request.host, request.port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    if let Some(id) = number(txn, &nodes::find(&address.host, address.port)).await? {
        return Ok(id);
    }
    if request.role == "secondary" {
        if !request.is_active {
            return Err(PgError::unsupported("standbys cannot be added as inactive nodes")
                .hint("Add it with citus_add_secondary_node, and take it out with citus_disable_node."));
        }
        let group = u32::try_from(request.group_id).ok();
        let primary = map.nodes().iter().find(|node| Some(node.group_id) == group).ok_or_else(|| {
            PgError::new(SqlState::UNDEFINED_OBJECT, format!("there is no primary in group {}", request.group_id)).hint(
                "Give the groupid of the standby's primary: SELECT nodename, nodeport, groupid FROM pg_dist_node;",
            )
        })?;
        let primary = (primary.host.as_str(), i32::from(primary.port));
        return add_secondary_node(txn, catalog, (&request.host, request.port), primary, request.cluster).await;
    }
    if request.role != "primary" {
        return Err(PgError::unsupported(format!("nodes with role {} are not supported", request.role)));
    }
    if request.cluster != "default" {
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, "primaries must be added to the default cluster"));
    }
    if request.group_id < -1 {
        let message = format!("group {} is not valid", request.group_id);
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
            .hint("Leave groupid out, or give a number that no other node has; 0 is the coordinator's."));
    }
    if request.group_id == 0 {
        txn.query(NodeId::COORDINATOR, &nodes::set_coordinator(&address.host, address.port)).await?;
        txn.reload_map().await?;
        return Ok(number(txn, &nodes::find(&address.host, address.port)).await?.unwrap_or_default());
    }
    if map.nodes().iter().any(|node| i64::from(node.group_id) == i64::from(request.group_id)) {
        let message = format!("group {} already has a primary node", request.group_id);
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
            .hint("A standby of that node is added with citus_add_secondary_node."));
    }
    let mut id = None;
    if request.is_active {
        check_server(txn, catalog, &map, &address).await?;
        let next = next_id(catalog).await?;
        prepare_server(txn, mover, &map, (next, &address)).await?;
        id = Some(next);
    }
    let row = NewNode {
        id,
        is_active: request.is_active,
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

/// Drawn beside the client's transaction: with what a sequence writes for a draw, now and then, that would be one that has written.
async fn next_id(catalog: &Catalog) -> Result<NodeId> {
    let coordinator = catalog.client(NodeId::COORDINATOR).await?;
    let id: i64 = coordinator.query_one(nodes::next_id(), &[]).await.map_err(pg_error)?.get(0);
    Ok(NodeId(id as u32))
}

/// `SELECT citus_remove_node(...)`: with its standbys, if it has some. Moves from it or to it can no longer be undone, whatever
/// becomes of the transaction.
///
/// Errors: 55000 while it holds shards or a move uses it.
pub async fn remove_node(txn: &mut Transaction, mover: &MoverEnvironment, host: &str, port: i32) -> Result<()> {
    let address = address(host, port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    if let Some(standby) = number(txn, &nodes::find_standby(&address.host, address.port)).await? {
        txn.query(NodeId::COORDINATOR, &nodes::delete(NodeId(standby as u32))).await?;
        txn.reload_map().await?;
        return Ok(());
    }
    let Some(node) = map.node_at(&address.host, address.port) else { return Err(no_such_node(&address)) };
    refuse_last_placement(&map, node.id, &address)?;
    let row_id = number(txn, &nodes::find(&address.host, address.port)).await?.unwrap_or_default();
    txn.query(NodeId::COORDINATOR, &nodes::delete(NodeId(row_id as u32))).await?;
    refuse_while_moving(txn, "remove or disable", node.id, &address, true).await?;
    txn.unless_cancelled(end_ways_back(mover, node.id, &address)).await?;
    txn.reload_map().await?;
    Ok(())
}

/// `SELECT citus_set_coordinator_host(...)`. Errors: 42710 when another node has the address.
pub async fn set_coordinator_host(txn: &mut Transaction, host: &str, port: i32) -> Result<()> {
    let address = address(host, port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    let standby = number(txn, &nodes::find_standby(&address.host, address.port)).await?;
    let other = map.node_at(&address.host, address.port).map(|node| node.id).filter(|id| !id.is_coordinator());
    if let Some(other) = other.or(standby.map(|id| NodeId(id as u32))) {
        return Err(has_address(other));
    }
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

/// Errors: 22023 for what can be no address.
pub fn address(host: &str, port: i32) -> Result<Address> {
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

pub(super) fn no_such_node(address: &Address) -> PgError {
    PgError::new(SqlState::UNDEFINED_OBJECT, format!("node at \"{}:{}\" does not exist", address.host, address.port))
}

pub(super) fn refuse_last_placement(map: &ShardMap, node: NodeId, address: &Address) -> Result<()> {
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
                quote::readable(&table.schema),
                quote::readable(&table.name)
            ))
            .hint(way_to_empty(map, node, address)));
        }
    }
    Ok(())
}

fn way_to_empty(map: &ShardMap, node: NodeId, address: &Address) -> String {
    let has_another = map.active_workers().any(|other| other.id != node && other.should_have_shards);
    match has_another {
        true => format!(
            "To proceed, move its shards away, by SELECT citus_drain_node('{}', {}), or drop the tables.",
            address.host, address.port
        ),
        false => "To proceed, add a node that its shards can move to, make the tables local, by SELECT \
                  undistribute_table(...), or drop them."
            .to_owned(),
    }
}

/// Asked when the node's row is changed already: a move that is planned now waits for that row. `cannot`: what is being done.
///
/// `gives_up`: moves that nobody drives any more do not count; they will be undone without the node, as its server may be
/// dead. Errors: 55000 while a move uses the node.
pub(super) async fn refuse_while_moving(
    txn: &mut Transaction,
    cannot: &str,
    node: NodeId,
    address: &Address,
    gives_up: bool,
) -> Result<()> {
    for row in txn.query(NodeId::COORDINATOR, &nodes::unfinished_moves(node)).await? {
        let cell = |at: usize| row.get(at).and_then(|cell| cell.as_ref()?.parse::<i64>().ok()).unwrap_or_default();
        let (id, colocation, keeps) = (cell(0), ColocationId(cell(1) as u32), cell(2) != 0);
        // Whoever drives a move has a lane.
        if gives_up && !keeps && number(txn, &mover::try_share_statement(colocation)).await? == Some(1) {
            continue;
        }
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("cannot {cannot} the node {}:{} because shard move {id} uses it", address.host, address.port),
        )
        .hint("Try again when the move has ended; see tenantry.shard_move."));
    }
    Ok(())
}

/// Roles, schemas, extensions and types, which is committed there; then reference tables. The server becomes `node`, if the
/// transaction commits. Nobody else changes any of that meanwhile: see `Transaction::keep_nodes`.
///
/// Errors: 25001 when the transaction itself has.
pub(super) async fn prepare_server(
    txn: &mut Transaction,
    mover: &MoverEnvironment,
    map: &ShardMap,
    (node, address): (NodeId, &Address),
) -> Result<()> {
    if txn.changed_all_nodes {
        let what = "cannot add a node in a transaction that has changed roles, schemas, types, functions or the like";
        return Err(PgError::new(SqlState::ACTIVE_SQL_TRANSACTION, what)
            .detail("The node would not get what others do not see yet.")
            .hint("Commit it first."));
    }
    let settings = mover.catalog.settings();
    let coordinator = connect_to_coordinator(settings).await?;
    let mut worker = connect(settings, address).await?;
    reference_copies::keep_changes_out(txn, map).await?;
    let target = worker.transaction().await.map_err(pg_error)?;
    node_objects::copy_definitions(&coordinator, &target).await?;
    target.commit().await.map_err(pg_error)?;
    sequences::prepare_server(&coordinator, &mut worker).await?;
    reference_copies::copy_all(txn, mover, (&coordinator, &mut worker), (node, address)).await?;
    // Those of tables that have been distributed meanwhile.
    sequences::prepare_server(&coordinator, &mut worker).await
}

const HOST_BYTES_MAX: usize = 255;
