//! Notices and warnings of the proxy's own, as far as the client wants to hear of them: `client_min_messages`.

use super::run::Session;
use crate::error::{PgError, SqlState};
use crate::wire::answer;

/// Which of them it hears of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hears {
    #[default]
    Notices,
    Warnings,
    /// Neither.
    Errors,
}

impl Hears {
    /// From a value of `client_min_messages`. Source: PostgreSQL src/backend/utils/error/elog.c, should_output_to_client().
    pub fn parse(value: &str) -> Self {
        match value {
            "warning" => Self::Warnings,
            "error" => Self::Errors,
            _ => Self::Notices,
        }
    }
}

impl Session {
    /// `severity`: NOTICE or WARNING.
    pub(super) fn tell(&mut self, severity: &str, message: &PgError) {
        let least = if severity == "WARNING" { Hears::Warnings } else { Hears::Notices };
        if self.hears <= least {
            answer::notice(severity, message, self.client.out());
        }
    }

    pub(super) fn warn_with(&mut self, code: SqlState, message: &str) {
        self.tell("WARNING", &PgError::new(code, message));
    }

    /// That a command has no effect, or another, outside of a block.
    pub(super) fn warn(&mut self, message: &str) {
        self.warn_with(SqlState::NO_ACTIVE_SQL_TRANSACTION, message);
    }

    /// What the transaction has to tell.
    pub fn put_notices(&mut self) {
        let notices = self.transaction.as_mut().map_or(Vec::new(), |txn| txn.take_notices());
        for (severity, notice) in notices {
            self.tell(severity, &notice);
        }
    }
}
