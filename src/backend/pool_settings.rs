//! Bounds of server connections.

use std::time::Duration;

use super::login::ServerAccess;

/// Bounds of every pool, and of what all pools of the process hold to one node.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Does a session keep its server connections until it ends?
    pub mode: PoolMode,
    /// Most connections of one pool on one data thread.
    pub size: usize,
    /// Is a connection opened beside those in use only where more of them answer more?
    pub adaptive: bool,
    /// Most connections of this process to one node, over all pools and threads; 0 for its share of what the node takes.
    pub node_connections: usize,
    /// Longest wait for a connection before SQLSTATE 53300.
    pub checkout_timeout: Duration,
    /// Longest wait for a new connection to be logged in.
    pub connect_timeout: Duration,
    /// Idle connections are closed after this time.
    pub idle_timeout: Duration,
    /// Connections are not given out any more at this age, give or take a tenth.
    pub age_max: Duration,
    /// A connection that was idle for longer is asked whether it is well before it is given out.
    pub check_after: Duration,
    /// Longest wait for that answer, and for a node's sign of life.
    pub check_timeout: Duration,
    /// Longest pause between two attempts to reach a node that is down.
    pub reconnect_max: Duration,
    /// Statements wait for a node that is down until it has been so for this time.
    pub outage_timeout: Duration,
    /// Standbys that may lack more than the last so much time of their primary's writes are not read from; zero: any are.
    pub replica_lag: Duration,
    /// A node whose statements say nothing for this long is asked for a sign of life.
    pub silence_max: Duration,
    /// A connection whose peer acknowledges nothing for this long is lost.
    pub dead_peer_after: Duration,
    /// Most statements that one connection keeps prepared.
    pub prepared_statements: usize,
    /// How servers are reached.
    pub access: ServerAccess,
}

/// For how long a session has a server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// For a transaction.
    Transaction,
    /// From its first use until the session ends.
    Session,
}

/// What is kept on server connections of statements without a name that come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareUnnamed {
    /// As `Planned` where one plan is as good as any, else as `Parsed`.
    Auto,
    /// Nothing: they are parsed each time.
    Off,
    /// They stay parsed, and are planned each time with their values.
    Parsed,
    /// As with a name: the server may take to one plan for all values.
    Planned,
}

impl PoolSettings {
    /// Does the number of connections follow what they answer? Sessions that keep theirs say nothing of it.
    pub(super) fn has_widths(&self) -> bool {
        self.adaptive && self.mode == PoolMode::Transaction
    }
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 32,
            adaptive: true,
            node_connections: 0,
            checkout_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            age_max: Duration::from_secs(3600),
            check_after: Duration::from_secs(30),
            check_timeout: Duration::from_secs(4),
            reconnect_max: Duration::from_secs(1),
            outage_timeout: Duration::from_secs(30),
            replica_lag: Duration::ZERO,
            silence_max: Duration::from_secs(4),
            dead_peer_after: Duration::from_secs(12),
            prepared_statements: 500,
            access: ServerAccess::default(),
        }
    }
}
