//! Plans transaction control.

use crate::error::PgError;
use crate::sql::transaction_statement::TransactionStatement;

use super::{Plan, TransactionCommand};

pub(super) fn plan_transaction(statement: TransactionStatement) -> Result<Plan, PgError> {
    Ok(Plan::Transaction(match statement {
        TransactionStatement::Begin { tag, options } => {
            if options.to_ascii_lowercase().contains("snapshot") {
                return Err(refuse_snapshot());
            }
            TransactionCommand::Begin { tag, options }
        }
        TransactionStatement::Commit { chain } => TransactionCommand::Commit { chain },
        TransactionStatement::Rollback { chain } => TransactionCommand::Rollback { chain },
        TransactionStatement::Savepoint { name } => TransactionCommand::Savepoint { name },
        TransactionStatement::Release { name } => TransactionCommand::Release { name },
        TransactionStatement::RollbackTo { name } => TransactionCommand::RollbackTo { name },
        TransactionStatement::TwoPhase { command } => {
            return Err(PgError::unsupported(format!("cannot execute {command} through this proxy"))
                .detail("Prepared transactions are used to commit on several nodes at once.")
                .hint(
                    "Use COMMIT: a transaction that wrote on several nodes is committed on all of them or on none.",
                ));
        }
    }))
}

pub(super) fn refuse_snapshot() -> PgError {
    PgError::unsupported("cannot import a snapshot")
        .detail("A snapshot identifier belongs to one server, and a transaction may run on several.")
}
