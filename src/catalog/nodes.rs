//! Rows of `tenantry.node`, as statements for a client's transaction.

use tokio_postgres::GenericClient;

use super::quote::literal;
use super::{Address, pg_error};
use crate::error::Result;
use crate::shard_map::NodeId;

/// A node to be added.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// As `next_id` has given; the next one when none.
    pub id: Option<NodeId>,
    pub host: String,
    pub port: u16,
    /// The next free one when none; 0 for the coordinator.
    pub group_id: Option<u32>,
    pub role: String,
    pub cluster: String,
    pub should_have_shards: bool,
    pub is_active: bool,
}

/// Answers one row: the `nodeid` of a node that is going to be added.
pub fn next_id() -> &'static str {
    "SELECT pg_catalog.nextval('tenantry.node_id')"
}

/// Answers one row: the new `nodeid`.
pub fn insert(node: &NewNode) -> String {
    // Groups whose numbers users have chosen do not come from the sequence.
    let next = "greatest(pg_catalog.nextval('tenantry.node_group_id'), (SELECT max(groupid) + 1 FROM tenantry.node))";
    let group = node.group_id.map_or(next.to_owned(), |g| g.to_string());
    let id = node.id.map_or("DEFAULT".to_owned(), |id| id.to_string());
    format!(
        "INSERT INTO tenantry.node (nodeid, groupid, nodename, nodeport, noderole, nodecluster, shouldhaveshards, isactive) \
         VALUES ({id}, {group}, {}, {}, {}, {}, {}, {}) RETURNING nodeid",
        literal(&node.host),
        node.port,
        literal(&node.role),
        literal(&node.cluster),
        node.should_have_shards,
        node.is_active
    )
}

/// Answers `nodeid, groupid` of the node at an address; no row when there is none.
pub fn find(host: &str, port: u16) -> String {
    format!("SELECT nodeid, groupid FROM tenantry.node WHERE nodename = {} AND nodeport = {port}", literal(host))
}

/// Answers `nodeid` of the standby at an address; no row when there is none.
pub fn find_standby(host: &str, port: u16) -> String {
    let host = literal(host);
    format!("SELECT nodeid FROM tenantry.node WHERE nodename = {host} AND nodeport = {port} AND noderole = 'secondary'")
}

/// Answers `groupid` of the standby with this id; no row when it is none.
pub fn group_of_standby(node: NodeId) -> String {
    format!("SELECT groupid FROM tenantry.node WHERE nodeid = {node} AND noderole = 'secondary'")
}

/// A standby at `new` has taken the place of the primary at `old`: their rows exchange addresses, so that a node keeps its
/// id. Nothing happens when they do not stand so.
pub fn exchange_addresses(old: (&str, u16), new: (&str, u16), timeline: Option<i32>) -> String {
    let timeline = timeline_or_null(timeline);
    let is = |row: &str, role: &str, (host, port): (&str, u16)| {
        format!("{row}.noderole = '{role}' AND {row}.nodename = {} AND {row}.nodeport = {port}", literal(host))
    };
    format!(
        "UPDATE tenantry.node n SET nodename = other.nodename, nodeport = other.nodeport, \
             timeline = CASE n.noderole WHEN 'primary' THEN {timeline}::pg_catalog.int4 END FROM tenantry.node other \
         WHERE other.groupid = n.groupid AND ({} AND {} OR {} AND {})",
        is("n", "primary", old),
        is("other", "secondary", new),
        is("n", "secondary", new),
        is("other", "primary", old)
    )
}

/// The same for who has found it to be so, not for who was told: nothing happens either when the primary is on that timeline or a newer
/// one.
pub fn follow_failover(old: (&str, u16), new: (&str, u16), timeline: i32) -> String {
    format!(
        "{} AND NOT EXISTS (SELECT FROM tenantry.node newer WHERE newer.groupid = n.groupid AND newer.noderole = 'primary' \
         AND newer.timeline >= {timeline})",
        exchange_addresses(old, new, Some(timeline))
    )
}

/// The primary at this address writes that timeline. It never goes back.
pub fn note_timeline(host: &str, port: u16, timeline: i32) -> String {
    format!(
        "UPDATE tenantry.node SET timeline = {timeline} WHERE nodename = {} AND nodeport = {port} AND noderole = 'primary' \
         AND (timeline IS NULL OR timeline < {timeline})",
        literal(host)
    )
}

/// For who changes nodes: waits for everybody who leans on the set of nodes. Taken before `tables::lock`.
pub fn lock() -> &'static str {
    "LOCK TABLE tenantry.node IN SHARE ROW EXCLUSIVE MODE"
}

/// For who leans on the set of nodes: no node comes or goes until the transaction ends. Taken before `tables::lock`.
pub fn lock_against_changes() -> &'static str {
    "LOCK TABLE tenantry.node IN SHARE MODE"
}

/// The same for who may have no rights on the table.
pub fn keep() -> &'static str {
    "SELECT tenantry.keep_nodes()"
}

/// A primary goes with its standbys.
pub fn delete(node: NodeId) -> String {
    format!(
        "DELETE FROM tenantry.node WHERE nodeid = {node} OR noderole = 'secondary' AND groupid = \
         (SELECT groupid FROM tenantry.node WHERE nodeid = {node} AND noderole = 'primary')"
    )
}

/// Answers `moveid, colocationid, keeps` for the unfinished moves of shards that read or write the node. `keeps` is 1 where rows may
/// be on it alone although the catalog does not say so yet.
pub fn unfinished_moves(node: NodeId) -> String {
    format!(
        "SELECT moveid, colocationid, (state = 'caught_up' AND (tenant IS NOT NULL OR join_rest IS NOT NULL))::pg_catalog.int4 \
         FROM tenantry.shard_move WHERE state NOT IN ('done', 'failed', 'undoable') \
         AND relations IS NULL AND ({node} IN (source_node, target_node) OR {node} = ANY (piece_nodes)) ORDER BY moveid"
    )
}

pub fn set_should_have_shards(host: &str, port: u16, value: bool) -> String {
    format!(
        "UPDATE tenantry.node SET shouldhaveshards = {value} WHERE nodename = {} AND nodeport = {port}",
        literal(host)
    )
}

pub fn set_active(node: NodeId, value: bool) -> String {
    format!("UPDATE tenantry.node SET isactive = {value} WHERE nodeid = {node}")
}

/// The node's server is at another address from now on, on this timeline if that is known.
pub fn set_address(node: NodeId, host: &str, port: u16, timeline: Option<i32>) -> String {
    let timeline = timeline_or_null(timeline);
    format!(
        "UPDATE tenantry.node SET nodename = {}, nodeport = {port}, timeline = {timeline} WHERE nodeid = {node}",
        literal(host)
    )
}

/// One that is not known is NULL.
fn timeline_or_null(timeline: Option<i32>) -> String {
    timeline.map_or("NULL".to_owned(), |timeline| timeline.to_string())
}

/// The server there was taken out of use; a recovery is to look there once more.
pub fn note_fenced(node: NodeId, host: &str, port: u16) -> String {
    format!(
        "INSERT INTO tenantry.fenced_server (nodeid, nodename, nodeport) VALUES ({node}, {}, {port}) \
         ON CONFLICT (nodename, nodeport) DO UPDATE SET nodeid = excluded.nodeid, fenced_at = excluded.fenced_at",
        literal(host)
    )
}

/// Those servers, and the nodes that they were. What could not be reached for a day is forgotten.
pub async fn fenced(client: &impl GenericClient) -> Result<Vec<(NodeId, Address)>> {
    let sql = "WITH forgotten AS (DELETE FROM tenantry.fenced_server WHERE fenced_at < pg_catalog.now() - interval '1 day') \
               SELECT nodeid, nodename, nodeport FROM tenantry.fenced_server";
    let rows = client.query(sql, &[]).await.map_err(pg_error)?;
    let read = |row: &tokio_postgres::Row| {
        let port = row.get::<_, i32>(2);
        (NodeId(row.get::<_, i32>(0) as u32), Address { host: row.get(1), port: port as u16 })
    };
    Ok(rows.iter().map(read).collect())
}

/// Nothing is left to be done there.
pub async fn forget_fenced(client: &impl GenericClient, address: &Address) -> Result<()> {
    let sql = "DELETE FROM tenantry.fenced_server WHERE nodename = $1 AND nodeport = $2";
    client.execute(sql, &[&address.host, &i32::from(address.port)]).await.map(|_| ()).map_err(pg_error)
}

/// Gives the coordinator an address that workers and users know; the row is made when there is none.
pub fn set_coordinator(host: &str, port: u16) -> String {
    let host = literal(host);
    format!(
        "WITH changed AS (UPDATE tenantry.node SET nodename = {host}, nodeport = {port} \
             WHERE groupid = 0 AND noderole = 'primary' RETURNING nodeid) \
         INSERT INTO tenantry.node (groupid, nodename, nodeport, shouldhaveshards) \
         SELECT 0, {host}, {port}, false WHERE NOT EXISTS (SELECT FROM changed)"
    )
}

/// Ids of the workers that take part, as committed now.
pub async fn active_workers(client: &impl GenericClient) -> Result<Vec<NodeId>> {
    let sql = "SELECT nodeid FROM tenantry.node WHERE isactive AND groupid <> 0 AND noderole = 'primary'";
    let rows = client.query(sql, &[]).await.map_err(pg_error)?;
    Ok(rows.iter().map(|row| NodeId(row.get::<_, i32>(0) as u32)).collect())
}
