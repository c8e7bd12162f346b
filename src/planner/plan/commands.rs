//! Commands that are about the client's transaction or session.

use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionCommand {
    /// `options` as written after BEGIN / START TRANSACTION, e.g. `ISOLATION LEVEL REPEATABLE READ`; the command tag is the one or the other.
    Begin {
        tag: &'static str,
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
        /// To the value that it has, and which the statement does not tell.
        from_current: bool,
        text: String,
    },
    /// RESET, and SET to DEFAULT, which may be LOCAL.
    Reset {
        name: String,
        local: bool,
        text: String,
    },
    ResetAll,
    /// SHOW of a setting that is none of Postgres's.
    Show {
        name: String,
    },
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
