//! The commands of the admin database, and what their texts mean.

use bytes::Bytes;

use super::tables::Table;
use crate::error::{PgError, Result, SqlState};
use crate::sql::lexer::{Token, TokenKind, fold};

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Show(Table),
    Reload,
    /// All pools, or those of the database with this name, which is all.
    Pause(Option<String>),
    Resume(Option<String>),
    Reconnect(Option<String>),
    /// Done when the connections are gone that RECONNECT has found.
    WaitClose(Option<String>),
    /// Nobody new comes in, or may come in again.
    Disable(String),
    Enable(String),
    /// All sessions end, and who comes waits for RESUME.
    Kill(Option<String>),
    /// The session with this number in SHOW CLIENTS ends.
    KillClient(u32),
    Shutdown(Shutdown),
    /// Drivers send these unasked. There is nothing to be undone, but they want to be told that they are in a block.
    Begin,
    Commit,
    RollBack,
    /// Of a parameter that drivers set when they connect: it changes nothing here.
    Set,
    /// Forgets a prepared statement, or all. psycopg does it when a transaction was rolled back.
    Deallocate(Option<Bytes>),
}

/// What the process waits for before it ends. Nobody new comes in from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Nothing: open transactions are rolled back.
    AtOnce,
    /// Transactions that are open, for as long as after SIGTERM.
    ForServers,
    /// Sessions that are open, for however long.
    ForClients,
}

impl Command {
    /// Reads the tokens of one statement.
    ///
    /// Errors: 42601 for what is no command, 0A000 for what only PgBouncer or a database does.
    pub fn read(text: &str, tokens: &[Token]) -> Result<Self> {
        let words: Vec<String> = tokens.iter().map(|token| token.text(text).to_ascii_lowercase()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["kill_client", number] if number.parse::<u32>().is_ok() => {
                Ok(Self::KillClient(number.parse().unwrap_or_default()))
            }
            ["show"] => Ok(Self::Show(Table::Help)),
            ["show", name] => match Table::named(name) {
                Some(table) => Ok(Self::Show(table)),
                None if POOLERS_OWN.contains(name) => {
                    Err(PgError::unsupported(format!("SHOW {} is not supported", name.to_ascii_uppercase()))
                        .detail("It shows parts of PgBouncer that there are none of here.")
                        .hint(HINT))
                }
                None if name.starts_with("peer") => Err(PgError::unsupported("proxies are not shown here")
                    .hint("SELECT from tenantry_proxies in the served database.")),
                None => Err(PgError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("there is nothing to show under the name \"{name}\""),
                )
                .hint(HINT)),
            },
            ["reload"] => Ok(Self::Reload),
            ["pause"] => Ok(Self::Pause(None)),
            ["resume"] => Ok(Self::Resume(None)),
            ["reconnect"] => Ok(Self::Reconnect(None)),
            ["wait_close"] => Ok(Self::WaitClose(None)),
            ["kill"] => Ok(Self::Kill(None)),
            ["shutdown"] => Ok(Self::Shutdown(Shutdown::AtOnce)),
            ["shutdown", "wait_for_servers"] => Ok(Self::Shutdown(Shutdown::ForServers)),
            ["shutdown", "wait_for_clients"] => Ok(Self::Shutdown(Shutdown::ForClients)),
            [first, _] if OF_A_DATABASE.contains(first) && tokens[1].is_identifier() => {
                let database = fold(text, &tokens[1]).to_string();
                Ok(match *first {
                    "pause" => Self::Pause(Some(database)),
                    "resume" => Self::Resume(Some(database)),
                    "reconnect" => Self::Reconnect(Some(database)),
                    "wait_close" => Self::WaitClose(Some(database)),
                    "disable" => Self::Disable(database),
                    "enable" => Self::Enable(database),
                    _ => Self::Kill(Some(database)),
                })
            }
            ["disable" | "enable"] => Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                format!("{} needs the name of the database", words[0].to_uppercase()),
            )),
            ["suspend", ..] => Err(PgError::unsupported("SUSPEND is not supported")
                .hint("PAUSE, or start another process with --take-over.")),
            ["begin" | "start", ..] => Ok(Self::Begin),
            ["commit" | "end", ..] => Ok(Self::Commit),
            ["rollback" | "abort"] | ["rollback", "work" | "transaction"] => Ok(Self::RollBack),
            ["set", rest @ ..] => set(rest),
            ["deallocate", "all"] | ["deallocate", "prepare", "all"] => Ok(Self::Deallocate(None)),
            ["deallocate", _] | ["deallocate", "prepare", _] if tokens[words.len() - 1].is_identifier() => {
                let name = fold(text, &tokens[words.len() - 1]);
                Ok(Self::Deallocate(Some(Bytes::copy_from_slice(name.as_bytes()))))
            }
            [first, ..] if tokens[0].kind == TokenKind::Word && is_sql(first) => {
                Err(PgError::unsupported("the admin database has commands of its own only").hint(HINT))
            }
            [first, ..] => {
                let error = PgError::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{first}\""));
                Err(error.field(b'P', position(text, tokens[0])).hint(HINT))
            }
            [] => Err(PgError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input")),
        }
    }

    /// What stands behind the command in CommandComplete.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Show(_) => "SHOW",
            Self::Reload => "RELOAD",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Reconnect(_) => "RECONNECT",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Begin => "BEGIN",
            Self::Commit => "COMMIT",
            Self::RollBack => "ROLLBACK",
            Self::Set => "SET",
            Self::Deallocate(Some(_)) => "DEALLOCATE",
            Self::Deallocate(None) => "DEALLOCATE ALL",
        }
    }
}

fn set(rest: &[&str]) -> Result<Command> {
    let name = rest.iter().find(|word| !matches!(**word, "session" | "local")).copied().unwrap_or_default();
    if DRIVER_PARAMETERS.contains(&name) || is_keyword_pair(rest) {
        return Ok(Command::Set);
    }
    Err(PgError::unsupported("settings cannot be set from here")
        .hint("Edit the configuration file, then RELOAD. SHOW CONFIG says which settings need a restart."))
}

/// `SET SESSION CHARACTERISTICS AS TRANSACTION ...`, `SET TRANSACTION ...`
fn is_keyword_pair(rest: &[&str]) -> bool {
    matches!(rest, ["session", "characteristics", ..] | ["transaction", ..])
}

fn is_sql(word: &str) -> bool {
    SQL_COMMANDS.contains(&word)
}

/// Counted in characters from 1.
fn position(text: &str, token: Token) -> String {
    (text[..token.start as usize].chars().count() + 1).to_string()
}

/// Splits a text into the tokens of its statements and reads each.
pub fn read_all(text: &str) -> Result<Vec<Command>> {
    let tokens = crate::sql::lexer::lex(text, true)?;
    let parts = crate::sql::statements::split(text, &tokens);
    parts.into_iter().map(|part| Command::read(text, &tokens[part.tokens])).collect()
}

pub const HINT: &str = "SHOW HELP lists the commands.";

/// Source: PgBouncer manual, "Admin console", "Process controlling commands".
const OF_A_DATABASE: &[&str] = &["pause", "resume", "reconnect", "wait_close", "disable", "enable", "kill"];
/// Source: PgBouncer manual, "Admin console", "Show commands".
const POOLERS_OWN: &[&str] = &["mem", "fds", "sockets", "active_sockets", "dns_hosts", "dns_zones"];
const SQL_COMMANDS: &[&str] = &[
    "select",
    "insert",
    "update",
    "delete",
    "merge",
    "with",
    "values",
    "table",
    "create",
    "alter",
    "drop",
    "truncate",
    "copy",
    "call",
    "do",
    "explain",
    "analyze",
    "vacuum",
    "lock",
    "grant",
    "revoke",
    "declare",
    "fetch",
    "prepare",
    "execute",
    "discard",
    "reset",
    "listen",
    "unlisten",
    "notify",
    "savepoint",
    "release",
];
/// What drivers set before their users can say anything.
const DRIVER_PARAMETERS: &[&str] = &[
    "application_name",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "names",
    "standard_conforming_strings",
    "statement_timeout",
    "lock_timeout",
    "timezone",
    "time",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_known_however_it_is_written() {
        let read = |text: &str| read_all(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read("SHOW POOLS"), [Command::Show(Table::Pools)]);
        assert_eq!(read(" show /* all */ clients ; -- now\n"), [Command::Show(Table::Clients)]);
        assert_eq!(read("SHOW STATS; RELOAD;"), [Command::Show(Table::Stats), Command::Reload]);
        assert_eq!(read("pause; RESUME \"Shop\""), [Command::Pause(None), Command::Resume(Some("Shop".to_owned()))]);
        assert_eq!(read("Reconnect Shop"), [Command::Reconnect(Some("shop".to_owned()))]);
        assert_eq!(read("KILL_CLIENT 7; kill shop"), [Command::KillClient(7), Command::Kill(Some("shop".to_owned()))]);
        let shutdowns = [Shutdown::AtOnce, Shutdown::ForServers, Shutdown::ForClients].map(Command::Shutdown);
        assert_eq!(read("SHUTDOWN; shutdown WAIT_FOR_SERVERS; SHUTDOWN wait_for_clients"), shutdowns);
        assert_eq!(read("WAIT_CLOSE; DISABLE shop"), [Command::WaitClose(None), Command::Disable("shop".to_owned())]);
        assert_eq!(read("BEGIN ISOLATION LEVEL SERIALIZABLE"), [Command::Begin]);
        assert_eq!(read("set extra_float_digits = 3"), [Command::Set]);
        let named = Bytes::from_static(b"_Pg3_0");
        assert_eq!(read("DEALLOCATE \"_Pg3_0\""), [Command::Deallocate(Some(named))]);
        assert_eq!(read(";"), []);
    }

    #[test]
    fn what_is_no_command_is_refused_with_a_way_out() {
        for (text, code, message) in [
            ("SHOW TENANTS", "42704", "there is nothing to show under the name \"tenants\""),
            ("SHOW POOLS ALL", "42601", "syntax error at or near \"show\""),
            ("SHOW MEM", "0A000", "SHOW MEM is not supported"),
            ("SUSPEND", "0A000", "SUSPEND is not supported"),
            ("ENABLE", "42601", "ENABLE needs the name of the database"),
            ("KILL_CLIENT shop", "42601", "syntax error at or near \"kill_client\""),
            ("SHUTDOWN NOW", "42601", "syntax error at or near \"shutdown\""),
            ("PAUSE 'shop'", "42601", "syntax error at or near \"pause\""),
            ("SELECT 1", "0A000", "the admin database has commands of its own only"),
            ("SET pool.size = 3", "0A000", "settings cannot be set from here"),
            ("frobnicate", "42601", "syntax error at or near \"frobnicate\""),
            ("'", "42601", "unterminated quoted string at or near \"'\""),
            ("$1", "42601", "syntax error at or near \"$1\""),
        ] {
            let error = read_all(text).expect_err(text);
            assert_eq!((error.code().to_string().as_str(), error.message()), (code, message), "{text}");
        }
        let hint = read_all("SHOW FDS").expect_err("refused").hint_text().map(str::to_owned);
        assert!(hint.is_some_and(|hint| hint.contains("SHOW HELP")));
    }
}
