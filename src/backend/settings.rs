//! Session settings as the client sees them, and how a server connection is brought to them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a client has SET, by folded name: the statement that sets it. Cheap to clone and to compare.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings {
    entries: Arc<BTreeMap<String, String>>,
    bytes: usize,
}

impl PartialEq for SessionSettings {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries) || self.entries == other.entries
    }
}

impl SessionSettings {
    /// Remembers `statement` (`SET name TO ...`, without LOCAL) under the name it sets.
    pub fn set(&mut self, name: &str, statement: String) {
        self.end_role_of(name);
        self.bytes += entry_bytes(name, &statement);
        if let Some(old) = Arc::make_mut(&mut self.entries).insert(name.to_owned(), statement) {
            self.bytes -= entry_bytes(name, &old);
        }
    }

    pub fn reset(&mut self, name: &str) {
        self.end_role_of(name);
        if self.entries.contains_key(name)
            && let Some(old) = Arc::make_mut(&mut self.entries).remove(name)
        {
            self.bytes -= entry_bytes(name, &old);
        }
    }

    /// Who the session is decides what roles it may take: the one that it has taken is gone.
    /// Source: PostgreSQL src/backend/utils/init/miscinit.c, SetSessionUserId().
    fn end_role_of(&mut self, name: &str) {
        if name == "session_authorization" {
            self.reset("role");
        }
    }

    /// The statement that sets this one.
    pub fn statement_of(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(String::as_str)
    }

    /// Names and the statements that set them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, statement)| (name.as_str(), statement.as_str()))
    }

    pub fn reset_all(&mut self) {
        // RESET ALL leaves role and session authorization alone. Source: PostgreSQL manual, RESET.
        Arc::make_mut(&mut self.entries).retain(|name, _| is_identity(name));
        self.bytes = self.entries.iter().map(|(name, statement)| entry_bytes(name, statement)).sum();
    }

    /// What they take. Unit: bytes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those of its statements that `sets_for_constants`; empty where it has none.
    pub fn of_constants(&self) -> String {
        let statements = self.entries.iter().filter(|(name, _)| READ_CONSTANTS.contains(&name.as_str()));
        statements.map(|(_, statement)| statement.as_str()).collect::<Vec<_>>().join(";")
    }

    /// The statements that turn a connection carrying `self` into one carrying `wanted`; `None` when it already does.
    pub fn statements_to(&self, wanted: &SessionSettings) -> Option<String> {
        if self == wanted {
            return None;
        }
        let mut sql = String::new();
        let mut reset_identity = |name: &str, statement: &str| {
            if self.entries.contains_key(name) {
                sql.push_str(statement);
            }
        };
        reset_identity("session_authorization", "RESET SESSION AUTHORIZATION;");
        reset_identity("role", "RESET ROLE;");
        if self.entries.iter().any(|(name, old)| !is_identity(name) && wanted.entries.get(name) != Some(old)) {
            sql.push_str("RESET ALL;");
            wanted.push_all(&mut sql, |_, _| true);
        } else {
            wanted.push_all(&mut sql, |name, statement| {
                is_identity(name) || self.entries.get(name).map(String::as_str) != Some(statement)
            });
        }
        Some(sql)
    }

    /// The statements that bring a connection without any settings to these.
    pub fn statements(&self) -> String {
        let mut sql = String::new();
        self.push_all(&mut sql, |_, _| true);
        sql
    }

    fn push_all(&self, sql: &mut String, mut wanted: impl FnMut(&str, &str) -> bool) {
        // Identity last: what it may not set must have been set before. It ends the role.
        let turn = |name: &str| match name {
            "session_authorization" => 1,
            "role" => 2,
            _ => 0,
        };
        for now in 0..=2 {
            for (name, statement) in self.entries.iter().filter(|(name, _)| turn(name) == now) {
                if wanted(name, statement) {
                    sql.push_str(statement);
                    sql.push(';');
                }
            }
        }
    }
}

/// What sessions of one thread began with lately. Those that began alike share one value, which is compared at once.
#[derive(Default)]
pub struct SharedSettings {
    latest: RefCell<VecDeque<SessionSettings>>,
}

impl SharedSettings {
    /// An equal value that others have too, if there is one.
    pub fn share(&self, settings: SessionSettings) -> SessionSettings {
        let mut latest = self.latest.borrow_mut();
        if let Some(known) = latest.iter().find(|known| **known == settings) {
            return known.clone();
        }
        latest.truncate(SHARED_MAX - 1);
        latest.push_front(settings.clone());
        settings
    }
}

/// Applications connect in few ways; each one is looked through with every login.
const SHARED_MAX: usize = 16;

/// What a statement's constants are read by, once for all, when it is parsed: `'1/2/2030'::date`, `'12:00'::timestamptz`.
/// Source: PostgreSQL manual, 20.11 Client Connection Defaults, 20.13 Version and Platform Compatibility.
const READ_CONSTANTS: &[&str] = &[
    "timezone",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "xmloption",
    "array_nulls",
    "backslash_quote",
    "standard_conforming_strings",
    "transform_null_equals",
];

/// May the statement, a SET or `set_config`, change what constants are read by?
pub fn sets_for_constants(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    READ_CONSTANTS.iter().chain(&["zone", "xml"]).any(|name| sql.contains(name))
}

fn entry_bytes(name: &str, statement: &str) -> usize {
    2 * size_of::<String>() + name.len() + statement.len()
}

fn is_identity(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

/// `SET name = 'value'`, quoted: for values that came as startup parameters.
pub fn set_statement(name: &str, value: &str) -> String {
    let name = name.split('.').map(quote_ident).collect::<Vec<_>>().join(".");
    // List settings take one quoted string per element; a single string would name one odd element.
    if LISTS.contains(&name.to_ascii_lowercase().trim_matches('"')) {
        let items: Vec<_> = value.split(',').map(|v| quote_literal(v.trim().trim_matches('"'))).collect();
        return format!("SET {name} = {}", items.join(", "));
    }
    format!("SET {name} = {}", quote_literal(value))
}

/// `SELECT set_config(...)`, quoted: for a value as `current_setting` gives it.
pub fn config_statement(name: &str, value: &str, is_local: bool) -> String {
    format!("SELECT pg_catalog.set_config({}, {}, {is_local})", quote_literal(name), quote_literal(value))
}

const LISTS: &[&str] = &["search_path", "datestyle", "temp_tablespaces", "session_preload_libraries"];

pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal that means the same whatever standard_conforming_strings says.
pub fn quote_literal(value: &str) -> String {
    if value.contains('\\') {
        format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> SessionSettings {
        let mut s = SessionSettings::default();
        pairs.iter().for_each(|(n, v)| s.set(n, set_statement(n, v)));
        s
    }

    #[test]
    fn a_connection_that_carries_the_same_settings_needs_nothing() {
        assert_eq!(settings(&[("a", "1")]).statements_to(&settings(&[("a", "1")])), None);
    }

    #[test]
    fn sessions_that_began_alike_share_one_value() {
        let shared = SharedSettings::default();
        let [first, second] = [(); 2].map(|()| shared.share(settings(&[("a", "1")])));
        assert!(Arc::ptr_eq(&first.entries, &second.entries));
        for n in 0..2 * SHARED_MAX {
            let own = settings(&[("a", &n.to_string())]);
            assert_eq!(shared.share(own.clone()), own);
        }
        assert_eq!(shared.latest.borrow().len(), SHARED_MAX);
    }

    #[test]
    fn nothing_of_the_last_client_stays() {
        let sql = settings(&[("app.tenant", "42")]).statements_to(&settings(&[("a", "1")])).unwrap();
        assert_eq!(sql, "RESET ALL;SET \"a\" = '1';");
        let sql = settings(&[("role", "x")]).statements_to(&settings(&[])).unwrap();
        assert_eq!(sql, "RESET ROLE;");
    }

    #[test]
    fn more_settings_are_added_without_a_reset() {
        let sql = settings(&[("a", "1")]).statements_to(&settings(&[("a", "1"), ("b", "it's")])).unwrap();
        assert_eq!(sql, "SET \"b\" = 'it''s';");
    }

    #[test]
    fn a_role_is_taken_by_whom_the_session_is_and_gone_with_him() {
        let mut wanted = settings(&[("session_authorization", "ann"), ("role", "sales")]);
        let sql = wanted.statements();
        assert!(sql.find("ann") < sql.find("sales"), "{sql}");
        wanted.set("session_authorization", set_statement("session_authorization", "bob"));
        assert_eq!(wanted.statements(), "SET \"session_authorization\" = 'bob';");
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        assert_eq!(set_statement("x", "y'; DROP TABLE t; --\\"), "SET \"x\" = E'y''; DROP TABLE t; --\\\\'");
    }
}
