//! Reads transaction control: BEGIN, COMMIT, SAVEPOINT and their relatives.

use crate::error::PgError;

use super::Cursor;
use super::lexer::is_keyword;

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

/// What BEGIN and SET TRANSACTION say of a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modes {
    /// `REPEATABLE READ`
    pub isolation: Option<&'static str>,
    pub reads_only: Option<bool>,
    pub is_deferrable: bool,
}

impl Modes {
    /// Reads them wherever they stand in the text. What is no mode is passed over.
    pub fn read(text: &str) -> Self {
        let tokens = super::lexer::lex(text, true).unwrap_or_default();
        let (mut modes, mut c) = (Modes::default(), Cursor::new(text, &tokens));
        while !c.at_end() {
            let found = LEVELS.iter().find(|(words, _)| c.take_all(words));
            if let Some((_, level)) = found {
                modes.isolation = Some(level);
            } else if c.take_all(&["read", "only"]) {
                modes.reads_only = Some(true);
            } else if c.take_all(&["read", "write"]) {
                modes.reads_only = Some(false);
            } else if c.take_all(&["not", "deferrable"]) {
                modes.is_deferrable = false;
            } else if c.take("deferrable") {
                modes.is_deferrable = true;
            } else {
                c.advance();
            }
        }
        modes
    }

    /// Does DEFERRABLE mean something? Without a level it may: the session's default is not known here.
    pub fn is_safely_deferred(&self) -> bool {
        self.is_deferrable && self.isolation.is_none_or(|level| level == "SERIALIZABLE")
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The settings that SET SESSION CHARACTERISTICS AS TRANSACTION sets, and their values.
pub fn characteristics(text: &str) -> Vec<(&'static str, String)> {
    let modes = Modes::read(text);
    let tokens = super::lexer::lex(text, true).unwrap_or_default();
    let is_deferrable = tokens.iter().any(|token| is_keyword(text, token, "deferrable")).then_some(modes.is_deferrable);
    let on = |is_on: bool| if is_on { "on" } else { "off" }.to_owned();
    let settings = [
        ("default_transaction_isolation", modes.isolation.map(str::to_ascii_lowercase)),
        ("default_transaction_read_only", modes.reads_only.map(on)),
        ("default_transaction_deferrable", is_deferrable.map(on)),
    ];
    settings.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

const LEVELS: &[(&[&str], &str)] = &[
    (&["isolation", "level", "serializable"], "SERIALIZABLE"),
    (&["isolation", "level", "repeatable", "read"], "REPEATABLE READ"),
    (&["isolation", "level", "read", "committed"], "READ COMMITTED"),
    (&["isolation", "level", "read", "uncommitted"], "READ UNCOMMITTED"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_in_any_order() {
        let modes = Modes::read("SET TRANSACTION READ only, ISOLATION LEVEL /* */ Repeatable Read, not deferrable");
        assert_eq!(modes, Modes { isolation: Some("REPEATABLE READ"), reads_only: Some(true), is_deferrable: false });
        assert_eq!(Modes::read("BEGIN READ WRITE").reads_only, Some(false));
        assert!(Modes::read("SET CONSTRAINTS ALL DEFERRED").is_empty());
    }

    #[test]
    fn characteristics_are_settings_of_their_own() {
        let of = |modes: &str| {
            let settings = characteristics(&format!("SET SESSION CHARACTERISTICS AS TRANSACTION {modes}"));
            settings
                .iter()
                .map(|(name, value)| format!("{}={value}", &name["default_transaction_".len()..]))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(of("READ WRITE, ISOLATION LEVEL REPEATABLE READ"), "isolation=repeatable read read_only=off");
        assert_eq!(of("NOT DEFERRABLE"), "deferrable=off");
        assert_eq!(of("READ ONLY DEFERRABLE"), "read_only=on deferrable=on");
    }
}
