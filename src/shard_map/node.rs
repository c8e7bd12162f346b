//! A server that statements can be sent to.

use super::NodeId;

/// One Postgres server, as `pg_dist_node` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// Citus's group: 0 is the coordinator, each worker has its own.
    pub group_id: u32,
    pub host: String,
    pub port: u16,
    /// Holds reference tables and may be sent statements.
    pub is_active: bool,
    /// New shards may be placed here.
    pub should_have_shards: bool,
    /// The timeline that it writes, as far as that was noted: who is on an earlier one was replaced.
    pub timeline: Option<i32>,
    /// Servers that copy this one, and may take its place.
    pub standbys: Vec<Standby>,
}

/// Where a standby listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    pub host: String,
    pub port: u16,
}
