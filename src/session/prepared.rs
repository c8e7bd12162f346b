//! Prepared statements of a client: protocol-level and SQL-level ones share one name space, as in Postgres.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;

use super::own_settings;
use super::place::Place;
use super::run::Session;
use super::shapes::Keep;
use super::statement::{Naming, Number, Parsed, Statement, Unnamed};
use super::statement_plans::without_our_schema;
use crate::backend::{Description, Plans, PooledServer, ShareUnnamed, StatementKey, quote_literal};
use crate::catalog::is_away;
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::Request;
use crate::executor::{Retry, Routed};
use crate::planner::{FunctionCall, Plan, SessionCommand};
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};
use crate::sql::lexer::{self, Token, TokenKind, string_value};
use crate::sql::{Splice, Spliced, With};
use crate::wire::frontend::{Bind, Target};
use crate::wire::nested_oids::may_nest;
use crate::wire::reply_queue::To;
use crate::wire::{answer, rows};

impl Session {
    pub fn new_statement(&self, text: &str, types: Vec<u32>) -> Result<Statement> {
        let map_version = self.map_version();
        let known = self.context_of(|context| self.thread.plans.parsed(text, &types, context));
        if let Some(parsed) = known.filter(|parsed| parsed.columns == self.columns_for(&parsed.plan)) {
            return Ok(Statement::new(parsed, map_version, &self.search_path));
        }
        let whole = text;
        let tokens = lexer::lex(text, true)?;
        let parts = crate::sql::statements::split(text, &tokens);
        if parts.len() > 1 {
            return Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            ));
        }
        let text = parts.first().map_or("", |r| &text[r.text.clone()]);
        let plan = self.plan(text)?;
        let has_constants = may_have_constants(text);
        let unnamed = (!may_name_a_moment(whole, &tokens)).then(|| Rc::new(Unnamed::new(text)));
        let (number, text, types) = (Rc::default(), text.into(), types.into());
        let columns = self.columns_for(&plan);
        let parsed = Parsed { number, text, types, plan, has_constants, columns, unnamed };
        self.context_of(|context| self.thread.plans.keep_parsed(whole, &parsed, context));
        Ok(Statement::new(parsed, map_version, &self.search_path))
    }

    /// While this number stays, the tables that a statement names have the columns that they have now. Of local tables only
    /// changes are counted, whatever they are.
    fn columns_for(&self, plan: &Plan) -> u64 {
        let columns = self.with_map(ShardMap::columns);
        match plan {
            Plan::Coordinator(_) => columns.wrapping_add(self.thread.executor.catalog.schema_changes()),
            _ => columns,
        }
    }

    /// Errors: 53400 when the client has as many statements as it may.
    pub fn check_room(&self, text_len: usize) -> Result<()> {
        let bounds = self.thread.executor.settings.load();
        self.statements.check_room(text_len, bounds.client_statements, bounds.client_statement_bytes)
    }

    pub fn statement(&self, name: &[u8]) -> Result<Rc<Statement>> {
        self.statements.get(name).cloned().ok_or_else(|| no_statement(name))
    }

    /// The statement with a plan for the map and the search_path as they are now: as in Postgres, names are looked up again.
    ///
    /// Errors: 0A000 where they mean other columns by now than the client was told.
    pub async fn current(&mut self, statement: Rc<Statement>) -> Result<Rc<Statement>> {
        match statement.is_for(self.map_version(), &self.search_path) {
            true => Ok(statement),
            false => Box::pin(self.planned_anew(&statement)).await,
        }
    }

    async fn planned_anew(&mut self, statement: &Statement) -> Result<Rc<Statement>> {
        let (map_version, search_path) = (self.map_version(), self.search_path.clone());
        let plan = self.plan(&statement.text)?;
        let (description, looks_elsewhere) = (statement.known_description(), !statement.looks_in(&search_path));
        let types = match &description {
            // Values come as they were asked for before.
            Some(described) if looks_elsewhere => described.parameters.as_slice().into(),
            _ => statement.types.clone(),
        };
        let now = Statement {
            parsed: Parsed { number: Rc::default(), plan, types, unnamed: None, ..statement.parsed.clone() },
            map_version,
            search_path: search_path.clone(),
            also_fits: RefCell::default(),
            description: RefCell::new(description.clone()),
            is_opaque: OnceCell::new(),
            parameters: statement.parameters.clone(),
            naming: statement.naming.clone(),
        };
        let is_unsure = looks_elsewhere && description.is_some() && !self.has_failed();
        let fits = Some((map_version, search_path));
        if is_unsure && *statement.also_fits.borrow() != fits {
            if self.describes_otherwise(&now).await? {
                return Err(changes_result_type());
            }
            *statement.also_fits.borrow_mut() = fits;
        }
        Ok(Rc::new(now))
    }

    /// What servers know the statement by. The same for the same names, text, types, columns and search_path, in every
    /// session of this thread, and for the same settings where it has constants. Plans are the server's business: it makes
    /// them anew for another role.
    pub fn key_of(&self, statement: &Statement, query: &Spliced, group: Option<ShardGroupId>) -> StatementKey {
        let settings = if statement.has_constants { self.settings_of_constants() } else { String::new() };
        let mut known = statement.number.borrow_mut();
        if known.number == 0 || known.settings != settings {
            let any_shard = query.render(Some(ShardGroupId(0)));
            let (types, columns) = (&statement.types, statement.columns);
            let number = self.thread.plans.statement_id(&any_shard, types, &self.search_path, columns, &settings);
            *known = Number { number, settings };
        }
        StatementKey { statement: known.number, group: group.map_or(0, |g| g.0) }
    }

    /// What servers know a statement without a name by, and how they may plan it, where it is to be kept there. Its constants are read
    /// by nobody's settings.
    pub(super) fn key_of_unnamed(
        &self,
        statement: &Statement,
        group: Option<ShardGroupId>,
    ) -> Option<(StatementKey, Plans)> {
        let unnamed = statement.unnamed.as_ref().filter(|unnamed| unnamed.comes_again())?;
        let share = self.thread.executor.settings.load().share_unnamed;
        if share == ShareUnnamed::Off || statement.has_constants && !self.settings_of_constants().is_empty() {
            return None;
        }
        // A server that has parsed it refuses other columns (0A000, "cached plan must not change result type"), and here it can't be run again.
        let must_go_on = self.is_in_block() || self.batch.has_checkpoint;
        if unnamed.names_all_columns && must_go_on && share != ShareUnnamed::Planned {
            return None;
        }
        let plans = match share {
            ShareUnnamed::Planned => Plans::Any,
            ShareUnnamed::Auto if statement.plan.has_one_good_plan() => Plans::Any,
            _ => Plans::WithValues,
        };
        Some((self.key_of_kept(unnamed, group), plans))
    }

    pub(super) fn key_of_kept(&self, unnamed: &Unnamed, group: Option<ShardGroupId>) -> StatementKey {
        let schema_changes = self.thread.executor.catalog.schema_changes();
        let statement = unnamed.number(schema_changes, || self.thread.plans.fresh_number());
        StatementKey { statement, group: group.map_or(0, |g| g.0) }
    }

    /// Which statements of simple queries servers may keep: those that are planned once for all values.
    pub(super) fn keep_simple(&self) -> Keep {
        match self.thread.executor.settings.load().share_unnamed {
            ShareUnnamed::Off | ShareUnnamed::Parsed => Keep::Nothing,
            // See `key_of_unnamed`.
            ShareUnnamed::Auto if self.is_in_block() => Keep::FixedColumns,
            ShareUnnamed::Auto | ShareUnnamed::Planned => Keep::Everything,
        }
    }

    /// What its constants are read by now.
    fn settings_of_constants(&self) -> String {
        match &self.transaction {
            Some(txn) => txn.settings_of_constants(),
            None => self.settings.of_constants(),
        }
    }

    /// What the statement takes and gives, as the coordinator says; asked for once.
    pub async fn describe(&mut self, statement: &Statement) -> Result<Rc<Description>> {
        if let Some(known) = statement.description.borrow().clone() {
            return Ok(known);
        }
        let description = Rc::new(self.ask_description(statement).await?);
        *statement.description.borrow_mut() = Some(description.clone());
        Ok(description)
    }

    /// Does it give other columns than the client was told?
    pub async fn describes_otherwise(&mut self, statement: &Statement) -> Result<bool> {
        let Some(told) = statement.description.borrow().clone() else { return Ok(false) };
        let now = self.ask_description(statement).await?;
        // Of which table they are does not matter.
        // Source: PostgreSQL src/backend/utils/cache/plancache.c, RevalidateCachedQuery(), and execTuples.c, ExecTypeFromTL().
        let columns = |fields: &Option<Bytes>| fields.as_deref().map(rows::read_row_description).transpose();
        Ok(columns(&told.fields)? != columns(&now.fields)?)
    }

    async fn ask_description(&mut self, statement: &Statement) -> Result<Description> {
        let mut description = self.ask_servers_description(statement).await?;
        let columns = description.fields.as_deref().map_or(Vec::new(), rows::column_types);
        if columns.iter().chain(&description.parameters).any(|oid| may_nest(*oid)) {
            let executor = &self.thread.executor;
            let forms = |types| executor.object_ids.forms(&executor.catalog, types);
            description.fields_nest = Box::pin(forms(&columns)).await.is_some();
            description.parameters_nest = Box::pin(forms(&description.parameters)).await.is_some();
        }
        Ok(description)
    }

    async fn ask_servers_description(&mut self, statement: &Statement) -> Result<Description> {
        let nothing = Description::new(Vec::new(), None);
        let text = match &*statement.plan {
            Plan::Empty | Plan::Transaction(_) | Plan::CopyIn(_) | Plan::CopyOut(_) | Plan::Ddl(_) => {
                return Ok(nothing);
            }
            Plan::Session(SessionCommand::Execute { name, .. }) => {
                // One that is not there yet is missed when it is executed. It may be the statement itself.
                let target = self.statements.get(name.as_bytes()).filter(|target| !target.is_execute()).cloned();
                let Some(target) = target else { return Ok(nothing) };
                let fields = Box::pin(self.describe(&target)).await?.fields.clone();
                return Ok(Description { fields, ..nothing });
            }
            Plan::Session(SessionCommand::Show { name }) => own_settings::describing(name),
            Plan::Session(_) => return Ok(nothing),
            Plan::Coordinator(c) => c.query.render(None),
            Plan::FunctionCall(call) => describing(call),
            _ => statement.text.to_string(),
        };
        // What the session keeps there, its temporary tables, no other connection sees; nor what its transaction has made.
        let has_own =
            self.is_pinned() || self.transaction.as_mut().and_then(|t| t.participant(NodeId::COORDINATOR)).is_some();
        // One that has failed answers nothing.
        if has_own && !self.has_failed() {
            // The question's own Sync must not end what the client's messages began there.
            self.pause().await?;
            let participant = self.txn().join(NodeId::COORDINATOR).await?;
            let result = participant.server.describe(&text, &statement.types).await;
            participant.is_unsynced = false;
            if result.is_err() {
                // Who asked again would hear of the failed transaction (25P02) instead of what is wrong.
                self.txn().failed = true;
                self.forget_unanswered_parse(statement);
            }
            return result.map_err(|e| in_own_words(&statement.plan, e));
        }
        let mut lost = 0;
        loop {
            match self.describe_beside(&text, &statement.types).await {
                // Our own question: where it was lost, it is asked again.
                Err(error) if is_away(&error) && lost < LOST_MAX => lost += 1,
                described => return described.map_err(|e| in_own_words(&statement.plan, e)),
            }
        }
    }

    async fn describe_beside(&mut self, text: &str, types: &[u32]) -> Result<Description> {
        self.coordinator_for_a_moment().await?.describe(text, types).await
    }

    /// The client's Bind as `node` understands it.
    pub async fn bind_for(&self, node: NodeId, statement: &Statement, bind: Bind) -> Bind {
        if node.is_coordinator() || !statement.parameters_nest(&bind) {
            return bind;
        }
        let executor = &self.thread.executor;
        let types = statement.known_types();
        Box::pin(executor.object_ids.bind_for(&executor.catalog, node, &bind, &types)).await.into_owned()
    }

    pub(super) async fn coordinator_for_a_moment(&mut self) -> Result<PooledServer> {
        let executor = &self.thread.executor;
        let mut server = executor.pools.checkout(&executor.coordinator, &self.identity).await?;
        server.knows_user_types = true;
        server.carry(self.transaction.as_ref().map_or(&self.settings, |t| &t.settings)).await?;
        Ok(server)
    }

    /// PREPARE name (types) AS body; `command` is all of it.
    pub async fn prepare(&mut self, name: &str, types: &[String], body: &str, command: &str) -> Result<()> {
        let key = Bytes::copy_from_slice(name.as_bytes());
        self.check_room(command.len())?;
        let mut oids = Vec::new();
        if !types.is_empty() {
            let asked: Vec<_> =
                types.iter().map(|t| format!("{}::pg_catalog.regtype::oid", quote_literal(t))).collect();
            let rows = self.txn().query(NodeId::COORDINATOR, &format!("SELECT {}", asked.join(", "))).await?;
            oids.extend(rows.iter().flatten().map(|v| v.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)));
        }
        let mut statement = self.new_statement(body, oids)?;
        let description = self.describe(&statement).await?;
        if self.statements.contains(&key) {
            return Err(PgError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        statement.parsed.types = description.parameters.as_slice().into();
        statement.parsed.number = Rc::default();
        statement.naming = Some(Naming { at: SystemTime::now(), command: Some(command.into()) });
        self.statements.insert(key, Rc::new(statement));
        answer::command_complete("PREPARE", self.client.out());
        Ok(())
    }

    /// EXECUTE name (arguments): the same path as Bind and Execute, with text values, and rows as they were `asked` for.
    /// Nothing of it went to the client when it may be run again, which is so in the simple protocol (`describe`) only.
    pub async fn execute_prepared(
        &mut self,
        name: &str,
        arguments: &[String],
        asked: Request<'_>,
    ) -> Result<Option<Retry>> {
        let describe = asked.describe;
        let statement = self.statement(name.as_bytes())?;
        self.await_table_holds(&statement.text).await?;
        self.refuse_shadowed(&statement.text).await?;
        let statement = self.current(statement).await?;
        if statement.is_execute() {
            return Err(PgError::unsupported("EXECUTE of a statement that is an EXECUTE itself is not supported"));
        }
        let required = statement.parameter_count() as usize;
        // Source: PostgreSQL src/backend/commands/prepare.c, ExecuteQuery(): without parameters nobody looks at the arguments.
        let arguments = if required == 0 { &[] } else { arguments };
        if arguments.len() != required {
            return Err(PgError::new(
                SqlState::SYNTAX_ERROR,
                format!("wrong number of parameters for prepared statement \"{name}\""),
            )
            .detail(format!("Expected {required} parameters but got {}.", arguments.len())));
        }
        // One that came by Parse may have left them open.
        let types = match statement.types.len() == required && !statement.types.contains(&0) {
            true => statement.types.clone(),
            false => self.describe(&statement).await?.parameters.as_slice().into(),
        };
        let values = self.evaluate(arguments, &types).await?;
        let values: Vec<_> = values.iter().map(Option::as_deref).collect();
        let bind = Bind::text(&values).with_results_of(asked.bind);
        self.note_opaque_code(&statement.text);
        let request = Request { bind: &bind, types: &types, describe };
        let (node, group, query, shared) =
            match self.place(&statement.plan, &statement.text, request, Some(&statement)).await? {
                Place::Server { node, group, query, shared } => (node, group, query, shared),
                Place::Virtual(plan) => {
                    return Box::pin(self.run_virtual(&plan, &statement.text, request)).await.map(|()| None);
                }
            };
        let returns_rows = self.describe(&statement).await?.fields.is_some();
        self.join_for_group(node, group).await?;
        let key = self.key_of(&statement, &query, group);
        let repeat_from = self.repeat_from(node).filter(|_| describe);
        let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
        participant.groups.extend(group.filter(|g| !participant.groups.contains(g)));
        let server = &mut participant.server;
        let server_name = if shared {
            server.ensure_prepared(key, Plans::Any, &statement.types, To::Nobody, || query.render(group));
            key.name()
        } else {
            server.queue_parse("", &query.render(group), &types, To::Nobody);
            String::new()
        };
        server.queue_bind(&bind, b"", &server_name, To::Nobody);
        if returns_rows && (describe || bind.result_formats().contains(&1)) {
            // Binary rows may name types, which the description says.
            server.queue_describe(Target::Portal(b""), if describe { To::Client } else { To::Nobody });
        }
        server.queue_execute(b"", 0, To::Client);
        server.queue_sync();
        let routed = Routed { group, query: Some(&query), repeat_from, ..Routed::default() };
        let relayed = self.relay_with_copy(node, routed).await?;
        if relayed.error == Some(SqlState::FEATURE_NOT_SUPPORTED)
            && let Some(participant) = self.transaction.as_mut().and_then(|t| t.participant(node))
        {
            // "cached plan must not change result type": as long as this connection lives, it would say so again.
            participant.server.retire();
        }
        self.note_relayed(node, &relayed);
        Ok(relayed.retry)
    }

    /// Argument expressions as text values of the parameter types. Plain constants need no server.
    async fn evaluate(&mut self, arguments: &[String], types: &[u32]) -> Result<Vec<Option<String>>> {
        if let Some(constants) = arguments.iter().map(|a| plain_constant(a)).collect::<Option<Vec<_>>>() {
            return Ok(constants.into_iter().map(Some).collect());
        }
        let asked: Vec<_> = types.iter().map(|t| format!("pg_catalog.format_type({t}, NULL)")).collect();
        let names = self.txn().query(NodeId::COORDINATOR, &format!("SELECT {}", asked.join(", "))).await?;
        let casts = arguments
            .iter()
            .zip(names.iter().flatten())
            .map(|(argument, name)| format!("(({argument})::{})::text", name.as_deref().unwrap_or("text")));
        let sql = format!("SELECT {}", casts.collect::<Vec<_>>().join(", "));
        let rows = self.txn().query(NodeId::COORDINATOR, &sql).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    pub fn deallocate(&mut self, name: Option<&str>) -> Result<()> {
        match name {
            None => {
                self.statements.clear();
                answer::command_complete("DEALLOCATE ALL", self.client.out());
            }
            Some(name) => {
                self.statements.remove(name.as_bytes()).ok_or_else(|| no_statement(name.as_bytes()))?;
                answer::command_complete("DEALLOCATE", self.client.out());
            }
        }
        Ok(())
    }
}

/// Are there constants in the text whose meaning hangs on settings? Some that hang on none are taken for such.
fn may_have_constants(text: &str) -> bool {
    let dollar_quotes = || text.split('$').skip(1).any(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
    text.contains('\'') || dollar_quotes() || text.to_ascii_lowercase().contains("null")
}

/// May a constant of the text mean the time when it is parsed, as `'now'::timestamptz` does? Some that do not are taken
/// for such. Source: PostgreSQL manual, 8.5.1.4 Special Values.
fn may_name_a_moment(text: &str, tokens: &[Token]) -> bool {
    let names_one = |token: &Token| match string_value(text, token).filter(|_| token.kind != TokenKind::UString) {
        Some(value) => ["now", "today", "tomorrow", "yesterday"].iter().any(|w| value.to_ascii_lowercase().contains(w)),
        None => true,
    };
    tokens.iter().filter(|token| token.is_string()).any(names_one)
}

/// Digits, or a quoted string without anything to unescape.
fn plain_constant(argument: &str) -> Option<String> {
    let text = argument.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.to_owned());
    }
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    (!inner.contains(['\'', '\\'])).then(|| inner.to_owned())
}

/// The statement with every provided function in the form that only describes.
pub(super) fn describing(call: &FunctionCall) -> String {
    let names = call.calls.iter().map(|c| Splice {
        at: c.name_at.start,
        len: c.name_at.end - c.name_at.start,
        with: With::Fixed(format!("{DESCRIBING_SCHEMA}.{}", c.name).into()),
    });
    Spliced::new(call.text.clone(), names.chain(call.splices.iter().cloned()).collect()).render(None)
}

/// An error about the form that describes, in terms of the functions that the client called.
fn in_own_words(plan: &Plan, error: PgError) -> PgError {
    let Plan::FunctionCall(call) = plan else { return error };
    if !error.message().contains(DESCRIBING_SCHEMA) {
        return error;
    }
    call.calls.iter().fold(error, |error, c| without_our_schema(error, &c.name))
}

/// The client would take the new columns for the old ones; drivers prepare again when they read this. asyncpg knows it by the routine that
/// Postgres names.
pub(super) fn changes_result_type() -> PgError {
    PgError::unsupported("cached plan must not change result type").field(b'R', "RevalidateCachedQuery")
}

fn no_statement(name: &[u8]) -> PgError {
    let name = String::from_utf8_lossy(name);
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{name}\" does not exist")
    };
    PgError::new(SqlState::INVALID_SQL_STATEMENT_NAME, message)
}

/// Its functions have the types of the provided ones and never run.
pub(super) const DESCRIBING_SCHEMA: &str = "tenantry_describe";

/// So often a description may be lost with its server.
const LOST_MAX: u32 = 5;
