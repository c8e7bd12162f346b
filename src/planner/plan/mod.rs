//! The plan: data, decided once. After planning nobody looks at the SQL again.
//!
//!   Plan ── Router, Scatter, Combine          routes.rs
//!        ├─ Insert, InsertSelect,
//!        │  ReferenceWrite                    writes.rs
//!        ├─ Coordinator                       coordinator.rs
//!        ├─ CopyIn, CopyOut                   copy.rs
//!        ├─ Ddl                               ddl.rs
//!        ├─ FunctionCall                      function_call.rs
//!        └─ Transaction, Session              commands.rs
//!
//! `{plan}` prints one line; EXPLAIN, logs and the routing tests use it: `display.rs`.

mod commands;
mod coordinator;
mod copy;
mod ddl;
mod display;
mod function_call;
mod routes;
mod writes;

pub use commands::{SessionCommand, TransactionCommand};
pub use coordinator::{Coordinator, Figures, Sequences, SetConfig};
pub use copy::{CopyFormat, CopyIn, CopyOptions, CopyOut};
pub use ddl::{Ddl, DdlAction};
pub use function_call::{Call, FunctionCall};
pub use routes::{Combine, Router, Rowset, Scatter, Shards};
pub use writes::{
    Computed, Filled, FilledInsert, FilledPart, Filling, Given, Insert, InsertRow, InsertSelect, ReferenceWrite, Words,
    WriteCommand,
};

pub use crate::sql::QualifiedName;

use crate::shard_map::ColocationId;
use crate::sql::{Access, Operand};

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
    /// The same where the proxy has to draw the distribution column's default.
    FilledInsert(FilledInsert),
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

    /// Is one plan for all values as good as one for the values at hand? Where nothing is read but by a unique key, there is only one
    /// that is good.
    pub fn has_one_good_plan(&self) -> bool {
        match self {
            Plan::Router(router) => router.one_row_of.is_some(),
            Plan::Insert(insert) => insert.reads_nothing,
            _ => false,
        }
    }

    /// The values that must lie in one shard group for it to be right, where a part of it was planned so.
    pub fn for_one_shard(&self) -> Option<(ColocationId, &[Operand])> {
        let source = match self {
            Plan::InsertSelect(insert) => &insert.source,
            Plan::CopyOut(CopyOut::Query { source, .. }) => source,
            Plan::Combine(combine) => {
                return combine.rowsets.iter().find_map(|rowset| match &rowset.shards {
                    Shards::One(operands) => Some((rowset.colocation, &**operands)),
                    _ => None,
                });
            }
            _ => return None,
        };
        match &**source {
            Plan::Router(router) => Some((router.colocation, &router.operands)),
            _ => None,
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
            Plan::Insert(_) | Plan::FilledInsert(_) => 4,
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

#[derive(Debug, Clone)]
pub struct Explain {
    pub inner: Box<Plan>,
    /// As one JSON document, for tools that draw plans.
    pub is_json: bool,
}
