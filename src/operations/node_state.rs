//! Nodes that are there already: taken in and out of service, found at another address, asked for their health.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::create_distributed_table::number;
use super::mover::MoverEnvironment;
use super::mover::leaving::end_ways_back;
use super::node_check::{Facts, check_server, facts, other_names};
use super::node_fence::{fence, schemas_on};
use super::nodes::{address, no_such_node, prepare_server, refuse_last_placement, refuse_while_moving};
use super::standbys::{has_address, update_standby};
use crate::catalog::nodes;
use crate::catalog::{Address, Catalog, connect, connect_to_primary, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardMap};

/// `SELECT citus_activate_node(...)`: checks the server, gives it what it lacks, and puts it into service. Answers its id.
///
/// Errors: 42704 when there is no such node, and those of `citus_add_node`.
pub async fn activate_node(txn: &mut Transaction, mover: &MoverEnvironment, host: &str, port: i32) -> Result<i64> {
    let address = address(host, port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    if let Some(standby) = set_standby_active(txn, &address, true).await? {
        return Ok(standby);
    }
    let node = map.node_at(&address.host, address.port).ok_or_else(|| no_such_node(&address))?;
    let row_id = number(txn, &nodes::find(&address.host, address.port)).await?.unwrap_or_default();
    if !node.is_active && !node.id.is_coordinator() {
        check_server(txn, &mover.catalog, &map, &address).await?;
        prepare_server(txn, mover, &map, (node.id, &address)).await?;
        txn.query(NodeId::COORDINATOR, &nodes::set_active(node.id, true)).await?;
        txn.reload_map().await?;
    }
    Ok(row_id)
}

/// `SELECT citus_disable_node(...)`: nothing is written to it or read from it any more. Moves from it or to it can no longer be
/// undone, whatever becomes of the transaction.
///
/// Errors: 55000 while it holds shards or a move uses it, 42704 when there is no such node, 0A000 for the coordinator.
pub async fn disable_node(txn: &mut Transaction, mover: &MoverEnvironment, host: &str, port: i32) -> Result<()> {
    let address = address(host, port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    if set_standby_active(txn, &address, false).await?.is_some() {
        return Ok(());
    }
    let node = map.node_at(&address.host, address.port).ok_or_else(|| no_such_node(&address))?;
    if node.id.is_coordinator() {
        return Err(PgError::unsupported("the coordinator cannot be disabled"));
    }
    refuse_last_placement(&map, node.id, &address)?;
    txn.query(NodeId::COORDINATOR, &nodes::set_active(node.id, false)).await?;
    refuse_while_moving(txn, "remove or disable", node.id, &address, false).await?;
    txn.unless_cancelled(end_ways_back(mover, node.id, &address)).await?;
    txn.reload_map().await?;
    Ok(())
}

/// A standby is taken in or out of what is asked for the primary and for reads. Its id, if it is one.
async fn set_standby_active(txn: &mut Transaction, address: &Address, value: bool) -> Result<Option<i64>> {
    let id = number(txn, &nodes::find_standby(&address.host, address.port)).await?;
    if let Some(id) = id {
        txn.query(NodeId::COORDINATOR, &nodes::set_active(NodeId(id as u32), value)).await?;
        txn.reload_map().await?;
    }
    Ok(id)
}

/// `SELECT citus_update_node(...)`: the node's server, or the standby that took its place, is at another address now; or a
/// standby is.
///
/// The server there must hold all shards of the node. While the old one still takes writes, the new one may lack what was
/// acknowledged there: that is refused unless `force`. Then the old one is fenced; `force` is for how long others may keep it from its
/// locks there.
/// Errors: 42704 when there is no such node, 42710 when another node has the address, 55000 otherwise, and those of `fence`.
pub async fn update_node(
    txn: &mut Transaction,
    catalog: &Arc<Catalog>,
    node_id: i32,
    (host, port): (&str, i32),
    force: Option<Duration>,
) -> Result<()> {
    let new = address(host, port)?;
    txn.query(NodeId::COORDINATOR, nodes::lock()).await?;
    let map = txn.reload_map().await?;
    let id = u32::try_from(node_id).map_or(NodeId(0), NodeId);
    if let Some(group) = number(txn, &nodes::group_of_standby(id)).await? {
        return update_standby(txn, catalog, (id, group), &new).await;
    }
    let node = map.node(id).filter(|_| node_id > 0).ok_or_else(|| {
        PgError::new(SqlState::UNDEFINED_OBJECT, format!("node {node_id} not found"))
            .hint("SELECT nodeid, nodename, nodeport FROM pg_dist_node; shows all nodes.")
    })?;
    if (node.host.as_str(), node.port) == (new.host.as_str(), new.port) {
        return Ok(());
    }
    if let Some(other) = map.node_at(&new.host, new.port) {
        return Err(has_address(other.id));
    }
    let old = Address { host: node.host.clone(), port: node.port };
    let (found, timeline) = match node.is_active && !node.id.is_coordinator() {
        true => check_takes_over(catalog, &map, (node.id, &old), &new, force.is_some()).await?,
        false => (OldServer::Harmless, None),
    };
    let change = match number(txn, &nodes::find_standby(&new.host, new.port)).await? {
        None => nodes::set_address(node.id, &new.host, new.port, timeline),
        Some(_) if node.standbys.iter().any(|s| s.host == new.host && s.port == new.port) => {
            // The old server stays in the list, and must not look like one that was promoted since.
            let old_timeline = if let OldServer::TakesWrites(known) = &found { known.timeline } else { None };
            let timeline = timeline.max(old_timeline).max(node.timeline);
            nodes::exchange_addresses((&node.host, node.port), (&new.host, new.port), timeline)
        }
        Some(other) => return Err(has_address(other)),
    };
    txn.query(NodeId::COORDINATOR, &change).await?;
    match found {
        OldServer::Harmless => {}
        OldServer::Silent(error) => txn.warning(is_silent(node.id, &old, &error)),
        OldServer::TakesWrites(known) => {
            let of_old = (node.id, &old, &*known);
            fence(txn, catalog, &map, of_old, force.unwrap_or_default()).await?;
        }
    }
    txn.reload_map().await?;
    Ok(())
}

/// What can be said of the server that a node had.
enum OldServer {
    /// It is the new one, or a standby; or nothing is there.
    Harmless,
    /// It does not answer.
    Silent(PgError),
    TakesWrites(Box<Facts>),
}

fn is_silent(node: NodeId, old: &Address, error: &PgError) -> PgError {
    PgError::new(SqlState::WARNING, format!("the old server {}:{} of node {node} cannot be reached", old.host, old.port))
        .detail(format!(
            "If it is alive all the same, proxies that have not heard of the change can write there, and what they write is lost: {}.",
            error.message()
        ))
        .hint("See to it that it is stopped, and comes back as a standby of the new one only.")
}

/// What is to be done about the old server, and which timeline the new one is on.
async fn check_takes_over(
    catalog: &Catalog,
    map: &ShardMap,
    (node, old): (NodeId, &Address),
    new: &Address,
    force: bool,
) -> Result<(OldServer, Option<i32>)> {
    let settings = catalog.settings();
    let client = connect(settings, new).await?;
    let refused = |why: String| {
        PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("cannot update node {node} to {}:{}", new.host, new.port),
        )
        .detail(why)
    };
    let candidate = facts(&client).await?;
    if candidate.in_recovery {
        return Err(refused("The server there is in recovery (a standby).".to_owned())
            .hint("Promote it first: SELECT pg_promote();"));
    }
    let missing = missing_schemas(&client, map, node).await?;
    if !missing.is_empty() {
        return Err(refused(format!("The server there lacks shards of the node: {}.", missing.join(", ")))
            .hint("Give the address of the same server, or of a standby of it that was promoted."));
    }
    if let Some(same) = other_names(catalog, map, Some(node), &candidate).await.into_iter().next() {
        return Err(refused(same));
    }
    let asked = async { facts(&connect(settings, old).await?).await };
    let known = match asked.await {
        Err(error) => return Ok((OldServer::Silent(error), candidate.timeline)),
        Ok(known) if known.identity == candidate.identity || known.in_recovery => {
            return Ok((OldServer::Harmless, candidate.timeline));
        }
        Ok(known) => known,
    };
    // Nor is it the same one, started again in between.
    client.simple_query("SELECT 1").await.map_err(pg_error)?;
    if !force {
        return Err(refused(format!("The old server {}:{} still takes writes.", old.host, old.port))
            .hint("Stop it first, or call citus_update_node with force := true."));
    }
    Ok((OldServer::TakesWrites(Box::new(known)), candidate.timeline))
}

/// Shard schemas that should be on the node and are not on this server; at most five are named.
async fn missing_schemas(client: &tokio_postgres::Client, map: &ShardMap, node: NodeId) -> Result<Vec<String>> {
    let wanted: Vec<String> = schemas_on(map, node).into_iter().map(|(_, schema)| schema).collect();
    let sql = "SELECT w.name FROM pg_catalog.unnest($1::pg_catalog.text[]) w (name) \
               WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = w.name) ORDER BY 1 LIMIT 5";
    let rows = client.query(sql, &[&wanted]).await.map_err(pg_error)?;
    rows.iter().map(|row| row.try_get(0).map_err(pg_error)).collect()
}

/// `SELECT * FROM citus_check_cluster_node_health()`: can the proxy reach every node, and is every standby one? Nodes need no way to each
/// other.
pub async fn check_health(catalog: &Arc<Catalog>, map: &ShardMap) -> Result<Value> {
    let coordinator = catalog.settings().coordinator();
    let mut to: Vec<Address> = vec![coordinator.clone()];
    to.extend(map.active_workers().map(|n| Address { host: n.host.clone(), port: n.port }));
    let hosts = |address: &Address| match *address == coordinator {
        true => catalog.settings().coordinator_hosts(),
        false => vec![address.clone()],
    };
    let asked = to.iter().map(async |address| answers(catalog, &hosts(address)).await);
    let mut answers = futures_util::future::join_all(asked).await;
    let all_standbys = map.active_workers().flat_map(|node| &node.standbys);
    let standbys: Vec<_> = all_standbys.map(|s| Address { host: s.host.clone(), port: s.port }).collect();
    answers.extend(futures_util::future::join_all(standbys.iter().map(|s| is_standby(catalog, s))).await);
    to.extend(standbys);
    let row = |(address, result): (&Address, bool)| {
        json!({
            "from_nodename": coordinator.host, "from_nodeport": coordinator.port,
            "to_nodename": address.host, "to_nodeport": address.port, "result": result,
        })
    };
    Ok(Value::Array(to.iter().zip(answers).map(row).collect()))
}

/// An old primary that came back takes writes although it is to copy another one.
async fn is_standby(catalog: &Catalog, address: &Address) -> bool {
    let ask = async {
        let row = connect(catalog.settings(), address).await?.query_one("SELECT pg_is_in_recovery()", &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(pg_error)
    };
    Ok::<_, PgError>(true) == ask.await
}

/// `SELECT citus_check_connection_to_node(...)`.
pub async fn reaches(catalog: &Arc<Catalog>, address: &Address) -> bool {
    answers(catalog, std::slice::from_ref(address)).await
}

/// Does the one of these that takes writes, when they are several?
async fn answers(catalog: &Catalog, hosts: &[Address]) -> bool {
    match connect_to_primary(catalog.settings(), hosts).await {
        Ok(client) => client.simple_query("SELECT 1").await.is_ok(),
        Err(_) => false,
    }
}
