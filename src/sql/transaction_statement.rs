//! Reads transaction control: BEGIN, COMMIT, SAVEPOINT and their relatives.

use crate::error::PgError;

use super::Cursor;
use super::lexer::is_keyword;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionStatement {
    /// Its command tag, and the modes as written behind BEGIN or START TRANSACTION.
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
            let options = c.rest_text().to_owned();
            Modes::expect(&mut c)?;
            let tag = if verb == "start" { "START TRANSACTION" } else { "BEGIN" };
            return Ok(Begin { tag, options });
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
            if !modes.take_one(&mut c) {
                c.advance();
            }
        }
        modes
    }

    /// Are these, as written behind BEGIN, such as no server ever refuses? A standby has no SERIALIZABLE, and cannot READ WRITE.
    pub fn are_granted(options: &str) -> bool {
        let Ok(tokens) = super::lexer::lex(options, true) else { return false };
        let modes = Self::expect(&mut Cursor::new(options, &tokens));
        modes.is_ok_and(|modes| modes.isolation != Some("SERIALIZABLE") && modes.reads_only != Some(false))
    }

    /// Reads modes up to the end, with or without commas between them. Errors: 42601.
    pub(super) fn expect(c: &mut Cursor<'_>) -> Result<Self, PgError> {
        let mut modes = Self::default();
        while !c.at_end() {
            if !modes.take_one(c) {
                let known = LEVELS.iter().map(|(words, _)| *words).chain(OTHERS.iter().copied());
                let right = |words: &[&str]| words.iter().enumerate().take_while(|(n, word)| c.is_at(*n, word)).count();
                let right = known.map(right).max().unwrap_or_default();
                for _ in 0..right {
                    c.advance();
                }
                return Err(c.syntax_error());
            }
            if c.take_punct(b',') && c.at_end() {
                return Err(c.syntax_error());
            }
        }
        Ok(modes)
    }

    /// Takes the mode that stands here.
    fn take_one(&mut self, c: &mut Cursor<'_>) -> bool {
        if let Some((_, level)) = LEVELS.iter().find(|(words, _)| c.take_all(words)) {
            self.isolation = Some(level);
        } else if c.take_all(&["read", "only"]) {
            self.reads_only = Some(true);
        } else if c.take_all(&["read", "write"]) {
            self.reads_only = Some(false);
        } else if c.take_all(&["not", "deferrable"]) {
            self.is_deferrable = false;
        } else if c.take("deferrable") {
            self.is_deferrable = true;
        } else {
            return false;
        }
        true
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
const OTHERS: &[&[&str]] = &[&["read", "only"], &["read", "write"], &["not", "deferrable"], &["deferrable"]];

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
    fn modes_that_no_server_refuses_are_known() {
        for granted in [
            "",
            "ISOLATION LEVEL REPEATABLE READ",
            "read only, isolation level read committed",
            "READ ONLY NOT DEFERRABLE",
        ] {
            assert!(Modes::are_granted(granted), "{granted}");
        }
        for unsure in [
            "SERIALIZABLE",
            "ISOLATION LEVEL SERIALIZABLE, READ ONLY",
            "READ WRITE",
            "READ ONLY,",
            ", READ ONLY",
            "READ ONLY,, DEFERRABLE",
            "READ ONLY 1",
            "ISOLATION LEVEL",
            "READ ONLY 'x",
        ] {
            assert!(!Modes::are_granted(unsure), "{unsure}");
        }
    }

    #[test]
    fn what_is_no_mode_is_told_where_it_stands() {
        let of = |text: &str| {
            let tokens = super::super::lexer::lex(text, true).unwrap();
            let read = read_transaction_statement(Cursor::new(text, &tokens)).expect("it is one");
            read.err().map_or("right".to_owned(), |error| error.message().to_owned())
        };
        assert_eq!(of("BEGIN WORK ISOLATION LEVEL READ COMMITTED READ ONLY, NOT DEFERRABLE"), "right");
        assert_eq!(of("START TRANSACTION READ WRITE"), "right");
        assert_eq!(of("BEGIN ISOLATION LEVEL FOO"), "syntax error at or near \"FOO\"");
        assert_eq!(of("BEGIN ISOLATION LEVEL READ"), "syntax error at end of input");
        assert_eq!(of("BEGIN , READ ONLY"), "syntax error at or near \",\"");
        assert_eq!(of("BEGIN READ ONLY,"), "syntax error at end of input");
        assert_eq!(of("BEGIN READ ONLY 1"), "syntax error at or near \"1\"");
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
