//! The plan: data, decided once. After planning nobody looks at the SQL again.
//!
//! `{plan}` prints one line; EXPLAIN, logs and the routing tests use it.

use std::ops::Range;
use std::sync::Arc;

use crate::shard_map::{ColocationId, Table};
pub use crate::sql::QualifiedName;
use crate::sql::{Access, Operand, Splice, Spliced, With};

/// What a statement becomes. Refusals are `PgError`s with SQLSTATE 0A000, not plans.
#[derive(Debug, Clone)]
pub enum Plan {
    /// No statement: only white space and comments.
    Empty,
    /// One shard group holds all that is meant.
    Router(Router),
    /// Every concerned shard group runs the same text; rows are concatenated, counts added.
    Scatter(Scatter),
    /// Rows are fetched from the shards into rowsets, and a final statement runs over them on the coordinator.
    Combine(Combine),
    /// INSERT ... VALUES into a distributed table.
    Insert(Insert),
    /// INSERT ... SELECT whose rows are computed first and then routed one by one.
    InsertSelect(InsertSelect),
    /// No distributed table is named: the coordinator runs the text.
    Coordinator(Coordinator),
    /// INSERT, UPDATE, DELETE of a reference table: every node.
    ReferenceWrite(ReferenceWrite),
    CopyIn(CopyIn),
    CopyOut(CopyOut),
    /// A schema change of managed tables: shell, shards, reference copies.
    Ddl(Ddl),
    /// The statement calls functions that Tenantry provides.
    FunctionCall(FunctionCall),
    Transaction(TransactionCommand),
    Session(SessionCommand),
    /// EXPLAIN of a statement that one worker cannot explain: what we would do.
    Explain(Explain),
}

impl Plan {
    /// Names of `kind`'s values.
    pub const KINDS: [&str; 13] = [
        "empty",
        "router",
        "scatter",
        "combine",
        "insert",
        "insert_select",
        "coordinator",
        "reference_write",
        "copy",
        "ddl",
        "function_call",
        "transaction",
        "session",
    ];

    /// Shards are read and nothing else is done to them, no row locked: standbys can do that.
    pub fn only_reads(&self) -> bool {
        match self {
            Plan::Router(router) => router.access == Access::Read && !router.locks_rows,
            Plan::Scatter(scatter) => scatter.access == Access::Read,
            Plan::Combine(_) => true,
            _ => false,
        }
    }

    /// May it write? Not asked of what the proxy ends itself.
    pub fn may_write(&self) -> bool {
        match self {
            Plan::Router(router) => router.access == Access::Write,
            Plan::Scatter(scatter) => scatter.access == Access::Write,
            Plan::Coordinator(coordinator) => coordinator.access == Access::Write,
            Plan::Combine(_) | Plan::Session(_) | Plan::Transaction(_) | Plan::Explain(_) | Plan::Empty => false,
            _ => true,
        }
    }

    /// Does it set anything that ends with the transaction, or with its failure?
    pub fn sets_for_transaction(&self) -> bool {
        match self {
            Plan::Session(command) => {
                matches!(command, SessionCommand::Set { .. } | SessionCommand::Reset { .. } | SessionCommand::ResetAll)
            }
            Plan::Coordinator(coordinator) => !coordinator.sets.is_empty(),
            Plan::Transaction(command) => matches!(command, TransactionCommand::SetForTransaction { .. }),
            _ => false,
        }
    }

    /// May it run in a transaction that has failed?
    /// Source: PostgreSQL src/backend/tcop/postgres.c, IsTransactionExitStmt().
    pub fn may_follow_failure(&self) -> bool {
        use TransactionCommand::{Commit, Rollback, RollbackTo};
        matches!(self, Plan::Empty | Plan::Transaction(Commit { .. } | Rollback { .. } | RollbackTo { .. }))
    }

    /// What kind of plan it is, as an index into `KINDS`; EXPLAIN is of the kind that it explains.
    pub fn kind(&self) -> usize {
        match self {
            Plan::Empty => 0,
            Plan::Router(_) => 1,
            Plan::Scatter(_) => 2,
            Plan::Combine(_) => 3,
            Plan::Insert(_) => 4,
            Plan::InsertSelect(_) => 5,
            Plan::Coordinator(_) => 6,
            Plan::ReferenceWrite(_) => 7,
            Plan::CopyIn(_) | Plan::CopyOut(_) => 8,
            Plan::Ddl(_) => 9,
            Plan::FunctionCall(_) => 10,
            Plan::Transaction(_) => 11,
            Plan::Session(_) => 12,
            Plan::Explain(explain) => explain.inner.kind(),
        }
    }
}

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

/// INSERT ... VALUES: the whole text when all rows belong to one group, else split by rows.
#[derive(Debug, Clone)]
pub struct Insert {
    pub table: Arc<Table>,
    pub rows: Vec<InsertRow>,
    /// The whole statement.
    pub query: Spliced,
    /// Everything up to and including VALUES; then rows joined by commas; then `tail`.
    pub head: Spliced,
    /// ON CONFLICT and RETURNING, perhaps empty.
    pub tail: Spliced,
    pub returns_rows: bool,
}

#[derive(Debug, Clone)]
pub struct InsertRow {
    /// `(1, $2, now())`
    pub text: Box<str>,
    pub tenant: Operand,
}

#[derive(Debug, Clone)]
pub struct InsertSelect {
    pub table: Arc<Table>,
    /// Target columns by name, in order.
    pub columns: Vec<String>,
    /// The statement lists them; otherwise they are the table's, and the last ones may get nothing but their defaults.
    pub are_listed: bool,
    /// The SELECT, planned by itself.
    pub source: Box<Plan>,
    /// Its text.
    pub source_text: Box<str>,
}

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

#[derive(Debug, Clone)]
pub struct Explain {
    pub inner: Box<Plan>,
    /// As one JSON document, for tools that draw plans.
    pub is_json: bool,
}

/// Figures gathered before a statement that reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figures {
    /// From the workers into `pg_temp.tenantry_shard_sizes(shardid bigint, nodeid int, size bigint, table_size bigint,
    /// relation_size bigint)`.
    ShardSizes,
    /// Loads that this proxy has seen, into the catalog.
    Loads,
    /// What the session has prepared, as JSON into the setting `tenantry.prepared_statements`.
    PreparedStatements,
    /// Rows of the workers' `pg_stat_activity`, as JSON into the setting `tenantry.activity`.
    Activity,
    /// Of their `pg_locks`, into `tenantry.locks`.
    Locks,
    /// Who waits for whom on each of them, into `tenantry.lock_waits`.
    LockWaits,
}

#[derive(Debug, Clone)]
pub struct ReferenceWrite {
    pub table: Arc<Table>,
    pub query: Spliced,
    /// What is put into it when it runs.
    pub filling: Option<Filling>,
    pub command: WriteCommand,
    /// Names of functions called anywhere in the text, folded, unqualified: the executor asks the coordinator whether
    /// each is immutable.
    pub functions: Vec<String>,
    pub has_on_conflict: bool,
    pub returns_rows: bool,
}

/// What an INSERT leaves to defaults that would differ from node to node: values that are drawn once, and put into its
/// text.
#[derive(Debug, Clone)]
pub struct Filling {
    /// Whose defaults, by name.
    pub columns: Vec<String>,
    /// For how many rows.
    pub rows: usize,
    pub places: Vec<Filled>,
}

/// Replaces `len` bytes at byte `at`.
#[derive(Debug, Clone)]
pub struct Filled {
    pub at: u32,
    pub len: u32,
    pub parts: Vec<FilledPart>,
}

#[derive(Debug, Clone)]
pub enum FilledPart {
    Text(String),
    /// The value for a row and one of the filling's columns, both from 0.
    Value {
        row: usize,
        column: usize,
    },
}

impl Filling {
    /// The statement with what `value` says for each row and column.
    pub fn fill<'v>(&self, query: &Spliced, value: impl Fn(usize, usize) -> &'v str) -> Spliced {
        let filled = self.places.iter().map(|place| {
            let parts = place.parts.iter().map(|part| match part {
                FilledPart::Text(text) => text,
                FilledPart::Value { row, column } => value(*row, *column),
            });
            Splice { at: place.at, len: place.len, with: With::Fixed(parts.collect::<String>().into()) }
        });
        Spliced::new(query.text().clone(), query.splices().iter().cloned().chain(filled).collect())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteCommand {
    Insert,
    Update,
    Delete,
}

/// COPY managed_table FROM STDIN.
#[derive(Debug, Clone)]
pub struct CopyIn {
    pub table: Arc<Table>,
    /// Columns in the order of the data.
    pub columns: Vec<String>,
    pub options: CopyOptions,
}

/// COPY managed_table TO STDOUT, or COPY (query) TO STDOUT with a managed table in the query.
#[derive(Debug, Clone)]
pub enum CopyOut {
    Table {
        table: Arc<Table>,
        columns: Vec<String>,
        options: CopyOptions,
    },
    /// `source` is the plan of the query alone; its text is wrapped again in COPY (...) TO STDOUT.
    Query {
        source: Box<Plan>,
        text: Box<str>,
        options: CopyOptions,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    pub format: CopyFormat,
    pub delimiter: u8,
    pub null: String,
    pub header: bool,
    pub quote: u8,
    pub escape: u8,
    /// The option list as the user wrote it, without HEADER, in the form `(FORMAT csv, NULL 'x')`, or empty:
    /// what the shards' COPY statements carry.
    pub text: String,
}

impl CopyOptions {
    /// The options with HEADER, where the user asked for it.
    pub fn whole_text(&self) -> String {
        match (self.header, self.text.strip_prefix('(')) {
            (false, _) => self.text.clone(),
            (true, Some(rest)) => format!("(HEADER, {rest}"),
            (true, None) => "(HEADER)".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}

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

/// Calls of provided functions inside a statement, from left to right. For each: evaluate the arguments by
/// `SELECT tenantry_arguments.<name>(<args>)`, do it, then the statement runs on the coordinator with the call
/// replaced by `tenantry_result.<name>('<jsonb>')`.
#[derive(Debug, Clone)]
pub struct FunctionCall {
    pub text: Arc<str>,
    pub calls: Vec<Call>,
    /// System views and inline functions, anywhere in the statement.
    pub splices: Vec<Splice>,
    /// Figures that these need.
    pub needs: Vec<Figures>,
    /// It answers no rows.
    pub is_procedure: bool,
}

impl FunctionCall {
    /// The text of a call's arguments, names in it spliced.
    pub fn arguments(&self, call: &Call) -> String {
        let Range { start, end } = call.arguments_at;
        let inside = self.splices.iter().filter(|s| call.arguments_at.contains(&s.at));
        let inside = inside.map(|s| Splice { at: s.at - start, ..s.clone() });
        Spliced::new(&self.text[start as usize..end as usize], inside.collect()).render(None)
    }

    /// Splices of what is left when the calls are replaced.
    pub fn outside(&self) -> impl Iterator<Item = &Splice> {
        let inside = |s: &Splice| self.calls.iter().any(|c| c.arguments_at.contains(&s.at));
        self.splices.iter().filter(move |s| !inside(s))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Folded, unqualified: `citus_add_node`.
    pub name: String,
    /// Byte range of the function's name as written, schema included.
    pub name_at: Range<u32>,
    /// Byte range of the arguments, parentheses excluded.
    pub arguments_at: Range<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionCommand {
    /// `options` as written after BEGIN / START TRANSACTION, e.g. `ISOLATION LEVEL REPEATABLE READ`.
    Begin {
        options: String,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint {
        name: String,
    },
    Release {
        name: String,
    },
    RollbackTo {
        name: String,
    },
    /// SET TRANSACTION ..., SET CONSTRAINTS ALL: every present and later server of this transaction. `is_setting`: it was
    /// written as the setting that it is, `SET transaction_isolation = ...`.
    SetForTransaction {
        text: String,
        is_setting: bool,
    },
    /// SET CONSTRAINTS with names, here without their schemas.
    SetConstraints {
        names: Vec<String>,
        text: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCommand {
    /// `SET [SESSION|LOCAL] name ...`; `text` is the whole statement. Folded name; `TIME ZONE` is `timezone`,
    /// `SET NAMES` is `client_encoding`, `SET ROLE` is `role`, `SET SESSION AUTHORIZATION` is `session_authorization`.
    Set {
        name: String,
        local: bool,
        text: String,
    },
    /// RESET, and SET to DEFAULT, which may be LOCAL.
    Reset {
        name: String,
        local: bool,
        text: String,
    },
    ResetAll,
    /// DISCARD ALL (the other DISCARDs are coordinator statements).
    DiscardAll,
    /// `body` is the statement's byte range in the text; `types` as written, may be empty.
    Prepare {
        name: String,
        types: Vec<String>,
        body: Range<u32>,
    },
    /// Arguments as written, one text each. `wrapped` is EXPLAIN options text when the statement was EXPLAIN EXECUTE.
    Execute {
        name: String,
        arguments: Vec<String>,
    },
    Deallocate {
        name: Option<String>,
    },
}

/// What planning needs to know besides the text.
pub struct Context<'a> {
    pub map: &'a crate::shard_map::ShardMap,
    /// The client's search_path as schemas, `"$user"` already replaced, `pg_catalog` left out.
    pub search_path: &'a [String],
    pub standard_conforming_strings: bool,
    pub provided: &'a Provided,
    /// More is not analysed.
    pub complexity: crate::sql::Complexity,
}

/// Names that Tenantry answers for: folded, without schema. They may be written bare or with `pg_catalog.`.
#[derive(Debug, Clone, Default)]
pub struct Provided {
    pub functions: std::collections::HashSet<&'static str>,
    /// Ordinary SQL functions in schema `tenantry` of the coordinator, and the figures each needs: only `tenantry.` is spliced
    /// in front of the name, and their arguments may be columns. Statements on distributed tables must not call them.
    pub inline: std::collections::HashMap<&'static str, Option<Figures>>,
    /// System views, living in schema `tenantry` of the coordinator, and the figures each needs.
    pub views: std::collections::HashMap<&'static str, Option<Figures>>,
}

/// May the plan be a router plan, or has it been tried and its operands lie in several groups?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Any,
    ManyShards,
}
