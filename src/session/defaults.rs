//! What a session began with, by ALTER ROLE and ALTER DATABASE, stays its own: as in one Postgres, who comes after a change has the
//! new values, and who was there before has the old ones.
//!
//! ```text
//!   login      values of its role and database ──> began_with
//!   ALTER ROLE app SET ...                           server connections are opened anew
//!   begin      a newer map: what is not as it was ──> SET, as if the client had asked for it when it connected
//! ```

use std::sync::Arc;

use super::run::Session;
use crate::backend::{quote_literal, set_statement};
use crate::planner::check_setting;

/// Of one session.
#[derive(Default)]
pub struct Defaults {
    /// Names and values.
    began_with: Box<[(String, String)]>,
    /// `ShardMap::role_settings`, as they were looked at last.
    seen: Arc<str>,
}

impl Session {
    /// At login.
    pub(super) fn note_defaults(&mut self) {
        let Session { thread, identity, .. } = self;
        self.defaults = thread.executor.map.with(|map| {
            let began_with = map.defaults_of(&identity.user, &identity.database).into_values();
            Defaults {
                began_with: began_with.map(|default| (default.name.clone(), default.value.clone())).collect(),
                seen: map.role_settings().clone(),
            }
        });
    }

    /// Before a transaction, whose servers may have been logged in to since a change.
    pub(super) fn keep_defaults(&mut self) {
        let map = &self.thread.executor.map;
        let seen = &self.defaults.seen;
        let newer = map.with(|map| (!Arc::ptr_eq(map.role_settings(), seen)).then(|| map.role_settings().clone()));
        let Some(newer) = newer else { return };
        let has_changed = *newer != *self.defaults.seen;
        self.defaults.seen = newer;
        if has_changed {
            for (name, value) in self.changed_defaults() {
                // What the client has asked for itself comes before.
                for settings in [&mut self.startup_settings, &mut self.settings] {
                    if settings.statement_of(&name).is_none() {
                        settings.set(&name, keeping_statement(&name, &value));
                    }
                }
            }
            for settings in [&mut self.startup_settings, &mut self.settings] {
                *settings = self.thread.settings.share(std::mem::take(settings));
            }
        }
    }

    /// What it began with where that is another value now, and what its role and database had no value of their own for.
    fn changed_defaults(&self) -> Vec<(String, String)> {
        let began_with = &self.defaults.began_with;
        self.thread.executor.map.with(|map| {
            let now = map.defaults_of(&self.identity.user, &self.identity.database);
            let is_same = |(name, value): &&(String, String)| now.get(&**name).is_some_and(|now| now.value == *value);
            let changed = began_with.iter().filter(|began| !is_same(began)).cloned();
            let is_new = |name: &str| !began_with.iter().any(|(began, _)| began == name);
            let new = now.values().filter(|now| is_new(&now.name));
            let all = changed.chain(new.map(|now| (now.name.clone(), now.otherwise.clone())));
            // What texts are read by is the proxy's own on every connection.
            all.filter(|(name, value)| check_setting(name, Some(value)).is_ok()).collect()
        })
    }
}

/// A server takes a default that names what is not there for none, with a warning at the login, where it would refuse the SET.
/// Source: PostgreSQL src/backend/commands/tablespace.c, check_default_tablespace(), and the other check hooks that look names up.
fn keeping_statement(name: &str, value: &str) -> String {
    let statement = set_statement(name, value);
    if !NAME_OBJECTS.contains(&name) {
        return statement;
    }
    format!("DO {}", quote_literal(&format!("BEGIN {statement}; EXCEPTION WHEN OTHERS THEN NULL; END")))
}

/// But for roles: a statement must not run as another one than it was meant for.
const NAME_OBJECTS: [&str; 4] =
    ["default_table_access_method", "default_tablespace", "default_text_search_config", "temp_tablespaces"];
