//! SET, RESET, DISCARD: the client's settings follow the client, not a connection.

use std::rc::Rc;

use super::notices::Hears;
use super::run::Session;
use crate::backend::{config_statement, quote_literal, set_statement};
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::Request;
use crate::executor::{Kind, Routed, Transaction, changed_parameters, relay};
use crate::planner::{ReadFrom, SessionCommand, SetConfig, keeps_servers};
use crate::shard_map::NodeId;
use crate::sql::Operand;
use crate::sql::transaction_statement::characteristics;
use crate::wire::answer;
use crate::wire::frontend::Bind;
use crate::wire::reply_queue::To;

impl Session {
    pub async fn session_command(&mut self, command: &SessionCommand, text: &str, request: Request<'_>) -> Result<()> {
        match command {
            SessionCommand::Set { name, local, from_current: false, text } => self.set(name, *local, text).await,
            SessionCommand::Set { name, local, from_current: true, text } => self.keep(name, *local, text).await,
            SessionCommand::Reset { name, local: true, text } => {
                let startup = self.startup_settings.iter().find(|(known, _)| known == name);
                let own = startup.and_then(|(_, sql)| sql.strip_prefix("SET ").map(|rest| format!("SET LOCAL {rest}")));
                self.set(name, true, own.as_deref().unwrap_or(text)).await
            }
            SessionCommand::Reset { name, local: false, text } => {
                if !self.reset(text, |n| n == *name).await? {
                    return Ok(());
                }
                self.txn().note_settings(Some(name), text, |settings| settings.reset(name));
                self.note_startup(|n| n == *name);
                self.after_setting(name).await
            }
            SessionCommand::Show { name } => Box::pin(self.show_own(name, request)).await,
            SessionCommand::ResetAll => {
                if !self.reset("RESET ALL", has_default_of_all).await? {
                    return Ok(());
                }
                self.txn().note_settings(None, "RESET ALL", |settings| settings.reset_all());
                self.note_startup(has_default_of_all);
                self.after_setting("search_path").await
            }
            SessionCommand::DiscardAll => self.discard_all().await,
            SessionCommand::Prepare { name, types, body } => {
                let body = text[body.start as usize..body.end as usize].to_owned();
                self.prepare(name, types, &body, text).await
            }
            SessionCommand::Execute { name, arguments } => {
                self.execute_prepared(name, arguments, request).await.map(|_| ())
            }
            SessionCommand::Deallocate { name } => self.deallocate(name.as_deref()),
        }
    }

    /// RESET, or SET to DEFAULT, goes back to what the client asked for when it connected. Servers do not know it: they were told
    /// later. False when it was refused.
    async fn reset(&mut self, text: &str, is_reset: impl Fn(&str) -> bool) -> Result<bool> {
        let startup = self.startup_settings.iter().filter(|(name, _)| is_reset(name)).map(|(_, sql)| sql);
        let sql = std::iter::once(text).chain(startup).collect::<Vec<_>>().join(";");
        if sql == text {
            return self.run_on_every_server(text).await;
        }
        let txn = self.txn();
        let told = txn.join(NodeId::COORDINATOR).await?.server.parameters().to_vec();
        let everywhere = txn.participants().iter().map(|p| (p.node, sql.clone())).collect();
        txn.query_each(everywhere).await?;
        if txn.kind != Kind::Auto {
            txn.note_told();
        }
        let now = txn.join(NodeId::COORDINATOR).await?.server.parameters().to_vec();
        let is_set = text.get(..3).is_some_and(|verb| verb.eq_ignore_ascii_case("set"));
        answer::command_complete(if is_set { "SET" } else { "RESET" }, self.client.out());
        for (name, value) in changed_parameters(&told, &now) {
            self.tell_parameter(&name, &value);
        }
        Ok(true)
    }

    /// Every server that takes part has gone back to these.
    fn note_startup(&mut self, is_reset: impl Fn(&str) -> bool) {
        let startup = self.startup_settings.clone();
        for (name, sql) in startup.iter().filter(|(name, _)| is_reset(name)) {
            self.txn().note_settings(Some(name), sql, |settings| settings.set(name, sql.to_owned()));
        }
    }

    async fn set(&mut self, name: &str, local: bool, text: &str) -> Result<()> {
        self.warn_of_local(local);
        if !self.run_on_every_server(text).await? {
            return Ok(());
        }
        self.note_set(name, local, text);
        self.after_setting(name).await
    }

    /// SET ... FROM CURRENT: what a later server is told is the value.
    async fn keep(&mut self, name: &str, local: bool, text: &str) -> Result<()> {
        self.warn_of_local(local);
        if !self.run_on_every_server(text).await? {
            return Ok(());
        }
        if let Some(value) = self.value_of(name).await? {
            self.note_set(name, local, &config_statement(name, &value, local));
        }
        self.after_setting(name).await
    }

    /// Its server would not say so: there it runs in a block of the pipeline's.
    fn warn_of_local(&mut self, local: bool) {
        if local && !self.is_in_block() && self.transaction.as_ref().is_some_and(|txn| txn.kind != Kind::Auto) {
            self.warn("SET LOCAL can only be used in transaction blocks");
        }
    }

    /// Every server that takes part has this value, which `text` gives to others.
    fn note_set(&mut self, name: &str, local: bool, text: &str) {
        if local {
            if self.txn().kind != Kind::Auto {
                self.txn().remember(text);
                self.txn().note_own_setting(Some(name), true);
                self.search_path_is_local |= is_path(name);
            }
        } else {
            // Parts of it that this statement has not named are as they were before.
            let coordinator = self.txn().participant(NodeId::COORDINATOR).filter(|_| name == "datestyle");
            let date_style = coordinator.and_then(|p| p.server.parameter("DateStyle").map(str::to_owned));
            let names = (name != "session_characteristics").then_some(name);
            self.txn().note_settings(names, text, |settings| match (name, date_style) {
                (_, Some(style)) => settings.set(name, set_statement(name, &style)),
                // Several at once, each of which may be set anew by itself.
                ("session_characteristics", _) => characteristics(text)
                    .into_iter()
                    .for_each(|(name, value)| settings.set(name, set_statement(name, &value))),
                _ => settings.set(name, text.to_owned()),
            });
        }
    }

    /// The coordinator says whether it is right, and its answer goes to the client; the others follow.
    /// False when it was refused.
    async fn run_on_every_server(&mut self, sql: &str) -> Result<bool> {
        self.txn();
        let txn = self.transaction.as_mut().expect("there is one now");
        let participant = txn.join(NodeId::COORDINATOR).await?;
        participant.server.queue_query(sql, To::Client);
        let relayed = relay(&mut participant.server, &mut self.client, Routed::default()).await?;
        let txn = self.transaction.as_mut().expect("the coordinator takes part");
        if let Some(code) = relayed.error {
            self.thread.metrics.error(code);
            txn.failed = true;
            return Ok(false);
        }
        if txn.kind != Kind::Auto {
            txn.note_told();
        }
        // No statement that counts: who joins anew runs it again.
        let others: Vec<_> = txn.participants().iter().map(|p| p.node).filter(|n| !n.is_coordinator()).collect();
        txn.query_each(others.into_iter().map(|node| (node, sql.to_owned())).collect()).await?;
        Ok(true)
    }

    async fn after_setting(&mut self, name: &str) -> Result<()> {
        self.sets_own |= name.starts_with("tenantry.");
        let coordinator = self.transaction.as_mut().and_then(|txn| txn.participant(NodeId::COORDINATOR));
        if let Some(application) = coordinator.and_then(|p| p.server.parameter("application_name")) {
            self.presence.set_application(application);
        }
        if is_path(name) {
            // A rollback takes it back, also one of what runs as one without a BEGIN.
            self.search_path_is_local |= self.transaction.as_ref().is_some_and(|txn| txn.kind != Kind::Auto);
            self.read_search_path().await?;
        }
        Ok(())
    }

    /// What is leaned on here, with the settings as they are now: the schemas that names are looked for in, what the client
    /// hears of; whether standbys are read from and servers are kept, where the client has ever said so.
    pub async fn read_search_path(&mut self) -> Result<()> {
        let names = ["search_path", "role", "session_authorization", "client_min_messages"];
        let shown = self.txn().show(&names).await?;
        let [path, role, authorization, least] = &shown[..] else { return Ok(()) };
        self.search_path = split_path(path, if role == "none" { authorization } else { role }).into();
        self.hears = Hears::parse(least);
        if self.is_open && !self.sets_own {
            return Ok(());
        }
        let sql = "SELECT pg_catalog.current_setting('tenantry.read_from', true), \
                   pg_catalog.current_setting('tenantry.pool_mode', true)";
        let rows = self.txn().query(NodeId::COORDINATOR, sql).await?;
        let Some([read_from, pool_mode]) = rows.first().map(Vec::as_slice) else { return Ok(()) };
        // A role's default may be anything.
        self.read_from = read_from.as_deref().and_then(|from| ReadFrom::parse(from).ok()).unwrap_or_default();
        let keeps = pool_mode.as_deref().and_then(|mode| keeps_servers(mode).ok());
        if std::mem::replace(&mut self.wants_kept, keeps) != keeps && self.is_open {
            self.keep_servers();
        }
        Ok(())
    }

    /// As the session has asked for, or the configuration says: from its next transaction on.
    pub fn keep_servers(&mut self) {
        let keeps = self.wants_kept.unwrap_or_else(|| self.thread.executor.pools.are_for_sessions());
        if keeps != self.kept.is_some() {
            self.kept = keeps.then(Rc::default);
        }
        self.is_open = true;
    }

    async fn value_of(&mut self, name: &str) -> Result<Option<String>> {
        let ask = format!("SELECT pg_catalog.current_setting({}, true)", quote_literal(name));
        Ok(self.txn().query(NodeId::COORDINATOR, &ask).await?.into_iter().flatten().next().flatten())
    }

    /// Behind `set_config`, which has run on the coordinator: the other servers follow, and later connections.
    pub async fn carry_set_config(&mut self, sets: &[SetConfig], bind: &Bind) -> Result<()> {
        let mut touches_path = false;
        for set in sets {
            let Some(name) = text_of(&set.name, bind)?.map(|name| name.to_ascii_lowercase()) else { continue };
            let is_local = text_of(&set.is_local, bind)?.is_some_and(|value| is_true(&value));
            let Some(value) = self.value_of(&name).await? else { continue };
            let sql = config_statement(&name, &value, is_local);
            let txn = self.txn();
            let others = txn.participants().iter().map(|p| p.node).filter(|node| !node.is_coordinator());
            let work = others.map(|node| (node, sql.clone())).collect();
            txn.query_each(work).await?;
            if !is_local {
                txn.note_settings(Some(&name), &sql, |settings| settings.set(&name, sql.clone()));
            } else if txn.kind != Kind::Auto {
                txn.remember(&sql);
                txn.note_own_setting(Some(&name), true);
            }
            touches_path |= is_path(&name);
            self.sets_own |= name.starts_with("tenantry.");
        }
        if touches_path { self.after_setting("search_path").await } else { Ok(()) }
    }

    async fn discard_all(&mut self) -> Result<()> {
        let is_among_others = |txn: &Transaction| txn.kind != Kind::Auto || !txn.is_untouched();
        if self.transaction.as_ref().is_some_and(is_among_others) {
            let message = match self.batch.is_open() && !self.is_in_block() {
                true => "DISCARD ALL cannot be executed within a pipeline",
                false => "DISCARD ALL cannot run inside a transaction block",
            };
            return Err(PgError::new(SqlState::ACTIVE_SQL_TRANSACTION, message));
        }
        self.statements.clear();
        self.portals.clear();
        self.forget_drawn();
        if let Some(kept) = &self.kept {
            kept.wipe();
        }
        let told = self.coordinator_parameters().await?;
        if let Some(mut pinned) = self.pinned.take() {
            // What it kept is discarded with it.
            pinned.poison();
        }
        self.settings = self.startup_settings.clone();
        let now = self.coordinator_parameters().await?;
        self.read_search_path().await?;
        answer::command_complete("DISCARD ALL", self.client.out());
        for (name, value) in changed_parameters(&told, &now) {
            self.tell_parameter(&name, &value);
        }
        Ok(())
    }

    /// What the coordinator reports under the client's settings.
    async fn coordinator_parameters(&mut self) -> Result<Vec<(String, String)>> {
        let coordinator = self.txn().join(NodeId::COORDINATOR).await?;
        let parameters = coordinator.server.parameters().to_vec();
        self.end_auto();
        Ok(parameters)
    }

    /// Gives the kept connection back when nothing is left to keep it for.
    pub async fn unpin_if_free(&mut self) -> Result<()> {
        if self.transaction.is_some() || !std::mem::take(&mut self.may_unpin) {
            return Ok(());
        }
        let Some(server) = &mut self.pinned else { return Ok(()) };
        if !server.is_kept_for_something().await? {
            server.unretire();
            self.forward_notifications();
            self.pinned = None;
        }
        Ok(())
    }

    /// Puts the notifications that came meanwhile into the answer.
    pub fn forward_notifications(&mut self) {
        let Some(server) = &mut self.pinned else { return };
        let pid = server.key.0;
        for frame in server.take_notifications() {
            self.client.put_notification(&frame, pid, self.cancel.pid);
        }
    }
}

/// A constant's or a parameter's text; None for NULL.
fn text_of(operand: &Operand, bind: &Bind) -> Result<Option<String>> {
    Ok(match operand {
        Operand::Literal(text) => Some(text.to_string()),
        Operand::Param(n) => match bind.parameter(*n)? {
            (true, Some([byte])) => Some(if *byte == 0 { "false" } else { "true" }.to_owned()),
            (_, value) => value.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        },
        _ => None,
    })
}

/// As Postgres reads a boolean. Source: PostgreSQL src/backend/utils/adt/bool.c, parse_bool_with_len().
fn is_true(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    !value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value) || value == "on" || value == "1")
}

/// Does RESET ALL go back to its default? Source: PostgreSQL manual, RESET.
fn has_default_of_all(name: &str) -> bool {
    name != "role"
}

/// Is it one that the proxy leans on itself?
fn is_path(name: &str) -> bool {
    matches!(
        name,
        "search_path"
            | "role"
            | "session_authorization"
            | "client_min_messages"
            | "tenantry.read_from"
            | "tenantry.pool_mode"
    )
}

/// Reads a search_path as Postgres prints it: names separated by commas, quoted where needed.
fn split_path(path: &str, user: &str) -> Vec<String> {
    let mut schemas = Vec::new();
    let mut rest = path.trim_start();
    while !rest.is_empty() {
        let (name, quoted, after) = match rest.strip_prefix('"') {
            Some(inner) => {
                let mut name = String::new();
                let mut letters = inner.char_indices().peekable();
                let mut end = inner.len();
                while let Some((at, letter)) = letters.next() {
                    match letter {
                        '"' if letters.peek().is_some_and(|(_, l)| *l == '"') => {
                            letters.next();
                            name.push('"');
                        }
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        l => name.push(l),
                    }
                }
                (name, true, &inner[end..])
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_ascii_lowercase(), false, &rest[end..])
            }
        };
        let name = if quoted && name == "$user" { user.to_owned() } else { name };
        if !name.is_empty() && name != "pg_catalog" {
            schemas.push(name);
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    schemas
}

/// `set_config` by a parameter of a setting by which texts are read: nobody has checked the value.
///
/// Errors: 0A000.
pub fn refuse_unsafe_name(name: &Operand, bind: &Bind) -> Result<()> {
    let Operand::Param(_) = name else { return Ok(()) };
    match text_of(name, bind)?.map(|name| name.to_ascii_lowercase()) {
        Some(name) if ["client_encoding", "standard_conforming_strings"].contains(&&*name) => {
            Err(PgError::unsupported(format!("cannot set {name} by a parameter of set_config")).hint("Use SET."))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_path_is_read_as_postgres_prints_it() {
        assert_eq!(split_path("\"$user\", public", "ann"), ["ann", "public"]);
        assert_eq!(split_path("\"My \"\"S\", x,pg_catalog, public", "ann"), ["My \"S", "x", "public"]);
        assert!(split_path("", "ann").is_empty());
        assert!(split_path("\"\"", "ann").is_empty());
    }
}
