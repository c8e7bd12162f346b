//! Reads transaction control: BEGIN, COMMIT, SAVEPOINT and their relatives.

use crate::error::PgError;

use super::Cursor;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionStatement {
    /// The modes as written behind BEGIN or START TRANSACTION.
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
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase {
        command: &'static str,
    },
}

/// None when the statement is not transaction control. Errors: 42601.
pub fn read_transaction_statement(cursor: Cursor<'_>) -> Option<Result<TransactionStatement, PgError>> {
    let mut c = cursor;
    let verb =
        c.take_any(&["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"])?;
    if verb == "prepare" && !c.is("transaction") {
        return None;
    }
    Some(read(verb, c))
}

fn read(verb: &str, mut c: Cursor<'_>) -> Result<TransactionStatement, PgError> {
    use TransactionStatement::*;
    let two_phase = |command| Ok(TwoPhase { command });
    let statement = match verb {
        "begin" | "start" => {
            if verb == "start" {
                c.expect("transaction")?;
            } else {
                c.take_any(&["work", "transaction"]);
            }
            return Ok(Begin { options: c.rest_text().to_owned() });
        }
        "prepare" => return two_phase("PREPARE TRANSACTION"),
        "commit" if c.is("prepared") => return two_phase("COMMIT PREPARED"),
        "rollback" if c.is("prepared") => return two_phase("ROLLBACK PREPARED"),
        "commit" | "end" => {
            c.take_any(&["work", "transaction"]);
            Commit { chain: read_chain(&mut c)? }
        }
        "rollback" | "abort" => {
            c.take_any(&["work", "transaction"]);
            if verb == "rollback" && c.take("to") {
                RollbackTo { name: read_savepoint_name(&mut c)? }
            } else {
                Rollback { chain: read_chain(&mut c)? }
            }
        }
        "savepoint" => Savepoint { name: c.identifier()? },
        _ => Release { name: read_savepoint_name(&mut c)? },
    };
    c.expect_end()?;
    Ok(statement)
}

fn read_chain(c: &mut Cursor<'_>) -> Result<bool, PgError> {
    if !c.take("and") {
        return Ok(false);
    }
    let no = c.take("no");
    c.expect("chain")?;
    Ok(!no)
}

/// `[SAVEPOINT] name`; a savepoint may itself be called savepoint.
fn read_savepoint_name(c: &mut Cursor<'_>) -> Result<String, PgError> {
    if c.peek_at(1).is_some() {
        c.take("savepoint");
    }
    c.identifier()
}
