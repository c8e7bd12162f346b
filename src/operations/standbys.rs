//! Standbys of workers: noted down by their users, followed when they take their primary's place.

use std::sync::Arc;

use super::create_distributed_table::number;
use super::nodes::{address, no_such_node};
use crate::catalog::nodes::{self, NewNode};
use crate::catalog::{Address, Catalog, connect, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::NodeId;

/// `SELECT citus_add_secondary_node(...)`: the standby at `host` and `port` copies the primary of a node. Answers its id.
///
/// Errors: 42704 when there is no such primary, 42710 when the address is another node's, 08006 when one of both cannot be
/// reached, 55000 when it is no standby of it, 0A000 for the coordinator's.
pub async fn add_secondary_node(
    txn: &mut Transaction,
    catalog: &Arc<Catalog>,
    (host, port): (&str, i32),
    (primary_host, primary_port): (&str, i32),
    cluster: String,
) -> Result<i64> {
    let (standby, primary) = (address(host, port)?, address(primary_host, primary_port)?);
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    let node = map.node_at(&primary.host, primary.port).ok_or_else(|| no_such_node(&primary))?;
    if node.id.is_coordinator() {
        return Err(PgError::unsupported("standbys of the coordinator are not in the catalog")
            .hint("Name its servers in the configuration: coordinator.host = \"10.0.0.5,10.0.0.6\"."));
    }
    if let Some(known) = number(txn, &nodes::find_standby(&standby.host, standby.port)).await?
        && node.standbys.iter().any(|s| s.host == standby.host && s.port == standby.port)
    {
        return Ok(known);
    }
    if let Some(other) = number(txn, &nodes::find(&standby.host, standby.port)).await? {
        return Err(has_address(other));
    }
    check_standby(catalog, &primary, &standby).await?;
    let row = NewNode {
        id: None,
        host: standby.host,
        port: standby.port,
        group_id: Some(node.group_id),
        role: "secondary".to_owned(),
        cluster,
        should_have_shards: true,
        is_active: true,
    };
    let id = number(txn, &nodes::insert(&row)).await?.unwrap_or_default();
    txn.reload_map().await?;
    Ok(id)
}

/// `SELECT citus_update_node(...)` of a standby of this group: it is at another address now.
///
/// Errors: 42710 when another node has the address, 08006 and 55000 as above.
pub(super) async fn update_standby(
    txn: &mut Transaction,
    catalog: &Arc<Catalog>,
    (id, group): (NodeId, i64),
    new: &Address,
) -> Result<()> {
    let map = txn.reload_map().await?;
    let primary = map.nodes().iter().find(|node| i64::from(node.group_id) == group);
    let primary = primary.ok_or_else(|| no_such_node(new))?;
    if let Some(other) = number(txn, &nodes::find(&new.host, new.port)).await? {
        return if other == i64::from(id.0) { Ok(()) } else { Err(has_address(other)) };
    }
    check_standby(catalog, &Address { host: primary.host.clone(), port: primary.port }, new).await?;
    txn.query(NodeId::COORDINATOR, &nodes::set_address(id, &new.host, new.port, None)).await?;
    txn.reload_map().await?;
    Ok(())
}

/// 42710: an address is that of one node.
pub(super) fn has_address(node: impl std::fmt::Display) -> PgError {
    PgError::new(
        SqlState::DUPLICATE_OBJECT,
        format!("there is already another node with the specified hostname and port: node {node}"),
    )
}

/// Does it copy this primary?
async fn check_standby(catalog: &Catalog, primary: &Address, standby: &Address) -> Result<()> {
    let ask = async |address: &Address| {
        let client = connect(catalog.settings(), address).await?;
        let sql = "SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system())";
        let row = client.query_one(sql, &[]).await.map_err(pg_error)?;
        Ok::<(bool, i64), PgError>((row.try_get(0).map_err(pg_error)?, row.try_get(1).map_err(pg_error)?))
    };
    let ((_, original), (in_recovery, copy)) = (ask(primary).await?, ask(standby).await?);
    let why = match (in_recovery, original == copy) {
        (true, true) => return Ok(()),
        (_, false) => "It is not a copy of that server.",
        (false, true) => "It is not in recovery: it takes writes itself.",
    };
    Err(PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{}:{} is no standby of {}:{}", standby.host, standby.port, primary.host, primary.port),
    )
    .detail(why)
    .hint("Make one with pg_basebackup --write-recovery-conf, and start it."))
}
