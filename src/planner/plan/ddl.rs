//! Schema changes of managed tables.

use std::ops::Range;
use std::sync::Arc;

use super::QualifiedName;
use crate::shard_map::Table;
use crate::sql::Spliced;

/// A schema change of managed tables. `query` is run on the shell with `shell` names and spliced for every shard.
#[derive(Debug, Clone)]
pub struct Ddl {
    pub action: DdlAction,
    /// The statement, spliced for a shard group (distributed tables) or unchanged (reference tables).
    pub query: Spliced,
    /// The managed tables it changes, in the order named.
    pub tables: Vec<Arc<Table>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DdlAction {
    AlterTable,
    /// ALTER TABLE whose one action gives a column values of a sequence: ADD COLUMN, SET DEFAULT, ADD GENERATED.
    DrawFromSequence,
    /// CREATE TABLE ... PARTITION OF the first table.
    CreatePartition,
    /// ALTER TABLE ... ATTACH PARTITION to the first table; `partition` as written, perhaps a local table.
    AttachPartition {
        partition: QualifiedName,
    },
    /// ALTER TABLE that gives a local table, as written, a foreign key to a distributed one.
    AddWaitingKey {
        table: QualifiedName,
    },
    CreateIndex {
        concurrently: bool,
    },
    /// Indexes by name as written; the executor asks the coordinator whose they are.
    DropIndex {
        names: Vec<QualifiedName>,
        concurrently: bool,
        if_exists: bool,
        cascade: bool,
    },
    /// ALTER or COMMENT ON STATISTICS, of one object (`sets_schema`: SET SCHEMA), or DROP STATISTICS; names as written.
    Statistics {
        names: Vec<QualifiedName>,
        drops: bool,
        sets_schema: bool,
    },
    /// ALTER INDEX, REINDEX INDEX, COMMENT ON INDEX: `name` as written, and the index that ATTACH PARTITION is about.
    AlterIndex {
        name: QualifiedName,
        part: Option<QualifiedName>,
    },
    /// Also unmanaged tables may be named: `others` in the same statement.
    DropTable {
        others: bool,
        if_exists: bool,
        cascade: bool,
    },
    Truncate {
        cascade: bool,
        restart_identity: bool,
    },
    /// GRANT, REVOKE ON SCHEMA: the same on every node, and there for the shard schemas of those that hold shards.
    SchemaPrivileges {
        schemas: Vec<String>,
        /// The bytes of the statement's list of schemas.
        names_at: Range<u32>,
    },
    /// VACUUM, ANALYZE: outside a transaction, every shard.
    Maintenance,
    /// LOCK TABLE, in a transaction block.
    Lock,
    /// GRANT, REVOKE, COMMENT ON TABLE/COLUMN/CONSTRAINT/POLICY/TRIGGER, CREATE TRIGGER, POLICY, ...: text spliced per shard.
    Other,
}
