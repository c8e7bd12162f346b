//! Statements that the coordinator runs, what they leave behind there, and what must be gathered before them.

use crate::sql::{Access, Operand, Spliced};

#[derive(Debug, Clone)]
pub struct Coordinator {
    /// Names of system views (`pg_dist_node`, `citus_tables`, ...) spliced.
    pub query: Spliced,
    pub access: Access,
    pub returns_rows: bool,
    /// Leaves state behind that only this connection has (temporary table, LISTEN, session advisory lock,
    /// WITH HOLD cursor, or a body nobody can look into): the session keeps the connection.
    pub pins: bool,
    /// A cursor that ends with its block.
    pub needs_block: bool,
    /// As `pins`, and Postgres cannot show what it has left: a body that nobody here can look into.
    pub pins_unknown: bool,
    /// May end what the session keeps its connection for.
    pub frees: bool,
    /// Sequences whose values it asks for that the session has drawn (`currval`, `lastval`).
    pub recalls: Option<Sequences>,
    /// Sequences that are set anew (`setval`, ALTER SEQUENCE): values that workers were lent before are not used any more.
    pub renumbers: Option<Sequences>,
    /// Calls of `set_config`, whose settings must follow the client.
    pub sets: Vec<SetConfig>,
    /// May change names: the shard map's shadows are read again afterwards (CREATE/ALTER/DROP of anything).
    pub changes_schema: bool,
    /// CREATE/ALTER/DROP ROLE, SCHEMA, EXTENSION, TYPE, FUNCTION, GRANT ...: every worker runs it too.
    pub on_all_nodes: bool,
    /// Cannot run inside a transaction block (VACUUM, CREATE DATABASE, ...).
    pub outside_transaction: bool,
    /// What its system views and inline functions need before they are read.
    pub needs: Vec<Figures>,
}

/// A call of `set_config`. Its value is asked for when it has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetConfig {
    /// A literal or a parameter.
    pub name: Operand,
    pub is_local: Operand,
}

/// Sequences that a statement sets anew, or recalls values of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sequences {
    /// By name, without their schemas.
    Named(Vec<String>),
    /// Which, nobody can tell from its text.
    Any,
}

impl Sequences {
    /// Both.
    pub fn and(self, other: Option<Self>) -> Self {
        match (self, other) {
            (own, None) => own,
            (Sequences::Named(mut names), Some(Sequences::Named(more))) => {
                names.extend(more);
                Sequences::Named(names)
            }
            _ => Sequences::Any,
        }
    }
}

/// Figures gathered before a statement that reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figures {
    /// From the workers into `pg_temp.tenantry_shard_sizes(shardid bigint, nodeid int, size bigint, table_size bigint,
    /// relation_size bigint)`.
    ShardSizes,
    /// Loads that this proxy has seen, into the catalog.
    Loads,
    /// Values of settings that Postgres does not know and nobody has set, into these.
    Settings,
    /// What the session has prepared, as JSON into the setting `tenantry.prepared_statements`.
    PreparedStatements,
    /// Rows of the workers' `pg_stat_activity`, as JSON into the setting `tenantry.activity`.
    Activity,
    /// Of their `pg_locks`, into `tenantry.locks`.
    Locks,
    /// Who waits for whom on each of them, into `tenantry.lock_waits`.
    LockWaits,
}
