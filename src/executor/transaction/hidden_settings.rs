//! Settings that code has set which nobody here can read: those that servers report go with the client, as in one Postgres.
//!
//! ```text
//!   SELECT f() ── sets TimeZone ──> its server reports it ──> the client is told, and the session has SET it
//!   in a block:                                               the other servers get it too, until the end shows what stays
//! ```
//!
//! Invariant: what the client was told last is what its next statement runs with, on whatever server.

use super::{Kind, Transaction};
use crate::backend::{Change, config_statement};

/// Those that servers report and a client's own SET carries along. What texts are read by is not among them: it is put back
/// (src/backend/reading.rs).
const CARRIED: [&str; 5] =
    ["TimeZone", "DateStyle", "IntervalStyle", "application_name", "default_transaction_read_only"];

/// A setting, as the client is to know it.
struct Held {
    name: String,
    value: String,
    /// Set by hidden code, and to stay.
    is_new: bool,
}

impl Transaction {
    /// In a block that goes on: every server has from here on what hidden code has set on one.
    pub async fn spread_hidden_settings(&mut self) {
        if self.kind == Kind::Auto {
            return;
        }
        for (name, value) in self.not_spread() {
            // Until the end nobody knows whether it was set for longer; then it is the session's.
            let sql = config_statement(&name, &value, true);
            for server in self.participants.iter_mut().map(|p| &mut p.server) {
                if server.parameter(&name) != Some(&value) && server.query(&sql).await.is_err() {
                    server.poison();
                }
            }
            self.remember(&sql);
            self.parameter_changes.push((name.clone(), value.clone()));
            self.spread.retain(|(known, _)| *known != name);
            self.spread.push((name, value));
        }
    }

    /// The client itself has set this on every server that takes part; `None`: all of them. No code has.
    pub fn note_own_setting(&mut self, name: Option<&str>, is_local: bool) {
        let is_it = |reported: &str| name.is_none_or(|name| reported.eq_ignore_ascii_case(name));
        self.spread.retain(|(known, _)| !is_it(known));
        if is_local {
            // What it was before, the end of the transaction brings back.
            let mut reported = self.participants.iter().flat_map(|p| p.server.parameters());
            self.spread.extend(reported.find(|(reported, _)| is_it(reported)).cloned());
        } else {
            self.participants.iter_mut().for_each(|p| p.server.expect_parameters(is_it));
        }
    }

    /// What a server reports now that it did not before, and that not all have been given.
    fn not_spread(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for server in self.participants.iter().map(|p| &p.server) {
            for Change { name, before } in server.changed_parameters().iter().filter(|c| is_carried(&c.name)) {
                let given = self.spread.iter().find(|(known, _)| known == name).map_or(before, |(_, given)| given);
                let now = server.parameter(name).unwrap_or_default();
                if now != given && !found.iter().any(|(other, _)| other == name) {
                    found.push((name.clone(), now.to_owned()));
                }
            }
        }
        found
    }

    /// Before the servers are given back: what hidden code has set and is still so is the session's; of what is not, the client
    /// hears what holds. `stays`: the transaction has not failed.
    pub(super) fn end_hidden_settings(&mut self, stays: bool) {
        self.spread.clear();
        let (hides, keeps) = (self.has_hidden_code(), self.keeps_coordinator());
        let mut all: Vec<Held> = Vec::new();
        for server in self.participants.iter_mut().map(|p| &mut p.server) {
            for Change { name, before } in server.take_changed_parameters().into_iter().filter(|_| hides) {
                let now = server.parameter(&name).unwrap_or_default().to_owned();
                let held = match is_carried(&name) {
                    true => Held { is_new: stays && now != before, value: now, name },
                    false if keeps && !is_put_back(&name) => Held { value: now, is_new: false, name },
                    false => Held { value: before, is_new: false, name },
                };
                match all.iter_mut().find(|other| other.name == held.name) {
                    Some(other) if held.is_new && !other.is_new => *other = held,
                    Some(_) => {}
                    None => all.push(held),
                }
            }
        }
        for Held { name, value, is_new } in all {
            if is_new {
                self.settings.set(&name.to_ascii_lowercase(), config_statement(&name, &value, false));
            }
            self.parameter_changes.push((name, value));
        }
    }
}

fn is_carried(name: &str) -> bool {
    CARRIED.contains(&name)
}

fn is_put_back(name: &str) -> bool {
    matches!(name, "client_encoding" | "standard_conforming_strings")
}
