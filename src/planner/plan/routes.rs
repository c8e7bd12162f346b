//! Statements that run on shards: one shard group, many of them, or rows of many combined on the coordinator.

use std::sync::Arc;

use crate::shard_map::{ColocationId, Table};
use crate::sql::{Access, Operand, Spliced};

/// One shard group runs the text. All operands must lie in one group (NULLs aside); when they don't,
/// the caller plans again for many shards. No operand but NULLs: no row can match, any group will do.
#[derive(Debug, Clone)]
pub struct Router {
    pub colocation: ColocationId,
    pub operands: Vec<Operand>,
    pub query: Spliced,
    pub access: Access,
    /// SELECT ... FOR UPDATE and the like: a read that locks.
    pub locks_rows: bool,
    pub returns_rows: bool,
    /// The one table that it concerns, of which it is one row at most, by a unique key.
    pub one_row_of: Option<Arc<Table>>,
}

#[derive(Debug, Clone)]
pub struct Scatter {
    pub colocation: ColocationId,
    pub shards: Shards,
    pub query: Spliced,
    pub access: Access,
    pub returns_rows: bool,
}

/// Which shard groups of a colocation group are concerned.
#[derive(Debug, Clone)]
pub enum Shards {
    All,
    /// Only those that hold one of these values.
    Holding(Vec<Operand>),
    /// The one that holds all of these values. Where they lie in several, the query is to be planned for many shards.
    One(Vec<Operand>),
}

/// Rowsets, then `query` on the client's coordinator connection.
#[derive(Debug, Clone)]
pub struct Combine {
    pub rowsets: Vec<Rowset>,
    /// Names the rowsets as `pg_temp.<name>`; takes the statement's own parameters.
    pub query: Spliced,
    /// A WITH HOLD cursor: the session keeps its coordinator connection.
    pub pins: bool,
    /// Any other cursor: it ends with its block.
    pub needs_block: bool,
}

impl Combine {
    /// The rows of one rowset as they are, in a statement that begins with `head`.
    pub fn all_of(head: &str, rowset: Rowset) -> Self {
        let query = Spliced::verbatim(format!("{head}{}", rowset.all()));
        Self { rowsets: vec![rowset], query, pins: false, needs_block: false }
    }
}

/// Rows gathered from shards.
#[derive(Debug, Clone)]
pub struct Rowset {
    /// Name of the temporary table on the coordinator, unique within the plan: `tenantry_rows_0`, ...
    pub name: String,
    pub colocation: ColocationId,
    pub shards: Shards,
    /// What each shard runs. May use the statement's parameters.
    pub query: Spliced,
    /// The same query over the shells (system views and all names as the coordinator knows them): gives names and
    /// types of the columns.
    pub shell_query: Spliced,
}

impl Rowset {
    /// A query that gives all of it.
    pub fn all(&self) -> String {
        format!("SELECT * FROM pg_temp.{}", self.name)
    }
}
