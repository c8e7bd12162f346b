//! Plans that are not one server's: the only `match plan` over all kinds.

use serde_json::Value;
use tokio::sync::mpsc;

use super::prepared::{DESCRIBING_SCHEMA, describing};
use super::run::Session;
use crate::backend::{Description, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::{self, Request};
use crate::executor::{Kind, Routed, combine, copy_in, copy_out, reference, relay, staged};
use crate::functions;
use crate::operations::create_distributed_table::SHARD_COUNT_DEFAULT;
use crate::operations::ddl;
use crate::operations::mover::{MOVES_PER_NODE, Notice};
use crate::planner::{
    Combine, Coordinator, CopyOptions, CopyOut, Ddl, DdlAction, Explain, FilledInsert, FunctionCall, Given,
    InsertSelect, MOVES_PER_NODE_SETTING, Plan, Rowset, Sequences, Shards,
};
use crate::shard_map::NodeId;
use crate::sql::{Access, Splice, Spliced, With};
use crate::wire::answer;
use crate::wire::frontend::Target;
use crate::wire::reply_queue::To;

impl Session {
    /// Runs a plan and answers with rows (described if `request.describe`) and a command tag.
    ///
    /// Errors: as values, for the caller to report; the client's answer so far stands.
    pub async fn run_virtual(&mut self, plan: &Plan, text: &str, request: Request<'_>) -> Result<()> {
        self.choose_servers(plan).await?;
        // All but those of transactions are boxed: the future of every message would have room for the largest of them.
        match plan {
            Plan::Empty => answer::empty_query(self.client.out()),
            Plan::Scatter(plan) => {
                self.txn();
                let txn = self.transaction.as_mut().expect("there is one now");
                let describe = request.describe && plan.returns_rows;
                let count =
                    Box::pin(scatter::scatter(txn, &mut self.client, plan, Request { describe, ..request })).await?;
                answer::command_complete(&count.tag(), self.client.out());
            }
            Plan::Insert(plan) => {
                self.txn();
                let txn = self.transaction.as_mut().expect("there is one now");
                let describe = request.describe && plan.returns_rows;
                let count =
                    Box::pin(scatter::insert(txn, &mut self.client, plan, Request { describe, ..request })).await?;
                answer::command_complete(&count.tag(), self.client.out());
            }
            Plan::FilledInsert(plan) => Box::pin(self.filled_insert(plan, text, request)).await?,
            Plan::InsertSelect(plan) => {
                let rows = Box::pin(self.insert_select(plan, text, request)).await?;
                answer::command_complete(&format!("INSERT 0 {rows}"), self.client.out());
            }
            Plan::ReferenceWrite(plan) => {
                self.txn();
                let txn = self.transaction.as_mut().expect("there is one now");
                Box::pin(reference::write(txn, &mut self.client, plan, request)).await?;
            }
            Plan::CopyIn(plan) => {
                self.txn().require_atomic().await?;
                let txn = self.transaction.as_mut().expect("there is one now");
                let rows = Box::pin(copy_in::copy_in(txn, &mut self.client, plan)).await?;
                answer::command_complete(&format!("COPY {rows}"), self.client.out());
            }
            Plan::CopyOut(plan) => Box::pin(self.copy_out(plan, text, request)).await?,
            Plan::Ddl(plan) => Box::pin(self.ddl(plan)).await?,
            Plan::FunctionCall(call) => Box::pin(self.function_call(call, request)).await?,
            Plan::Transaction(command) => self.transaction_command(command).await?,
            Plan::Session(command) => Box::pin(self.session_command(command, text, request)).await?,
            // Source of the words: PostgreSQL src/backend/access/transam/xact.c, RequireTransactionBlock().
            Plan::Combine(Combine { needs_block: true, .. })
            | Plan::Coordinator(Coordinator { needs_block: true, .. })
                if !self.is_in_block() =>
            {
                let why = "DECLARE CURSOR can only be used in transaction blocks";
                return Err(PgError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, why));
            }
            Plan::Coordinator(plan) if !plan.sets.is_empty() => Box::pin(self.set_config(plan, request)).await?,
            Plan::Coordinator(plan) => Box::pin(self.coordinator_statement(plan)).await?,
            Plan::Explain(plan) => self.explain(plan, request),
            Plan::Router(_) | Plan::Combine(_) => {
                return Err(PgError::new(SqlState::INTERNAL_ERROR, "a statement of one server was not placed"));
            }
        }
        Ok(())
    }

    fn explain(&mut self, plan: &Explain, request: Request<'_>) {
        use crate::wire::rows::Field;
        if request.describe {
            let type_oid = if plan.is_json { 114 } else { 25 };
            let field = Field { name: "QUERY PLAN".to_owned(), type_oid, type_modifier: -1 };
            answer::row_description(&[field], self.client.out());
        }
        let line = plan.inner.to_string();
        let told = match plan.is_json {
            true => serde_json::json!([{ "Plan": { "Node Type": line } }]).to_string(),
            false => line,
        };
        answer::text_row(&[Some(&told)], self.client.out());
        answer::command_complete("EXPLAIN", self.client.out());
    }

    /// A statement that calls `set_config`: it runs on the coordinator, then the settings are carried everywhere.
    async fn set_config(&mut self, plan: &Coordinator, request: Request<'_>) -> Result<()> {
        self.gather_figures(&plan.needs).await?;
        self.note_session_effects(plan).await?;
        for set in &plan.sets {
            super::settings::refuse_unsafe_name(&set.name, request.bind)?;
        }
        let participant = self.txn().join(NodeId::COORDINATOR).await?;
        let server = &mut participant.server;
        server.queue_parse("", &plan.query.render(None), request.types, To::Nobody);
        server.queue_bind(request.bind, b"", "", To::Nobody);
        if request.describe {
            server.queue_describe(Target::Portal(b""), To::Client);
        }
        server.queue_execute(b"", 0, To::Client);
        server.queue_sync();
        self.relay_own(Routed { query: Some(&plan.query), ..Routed::default() }).await?;
        if self.transaction.as_ref().is_some_and(|t| t.failed) {
            return Ok(());
        }
        self.carry_set_config(&plan.sets, request.bind).await
    }

    /// A statement that may change names or roles: the coordinator alone, or every node.
    async fn coordinator_statement(&mut self, plan: &Coordinator) -> Result<()> {
        if plan.on_all_nodes {
            self.txn().require_atomic().await?;
            let txn = self.transaction.as_mut().expect("there is one now");
            ddl::run_on_all_nodes(txn, plan).await?;
            let tag = txn.client_tag().to_owned();
            txn.announce_change().await?;
            answer::command_complete(&tag, self.client.out());
            return Ok(());
        }
        let leans = !plan.outside_transaction && !plan.pins;
        self.note_session_effects(plan).await?;
        let txn = self.txn();
        if leans {
            txn.require_atomic().await?;
        }
        txn.schema_changed = true;
        let sql = plan.query.render(None);
        let participant = txn.join(NodeId::COORDINATOR).await?;
        participant.server.queue_query(&sql, To::Client);
        self.relay_own(Routed { query: Some(&plan.query), ..Routed::default() }).await?;
        if leans && self.transaction.as_ref().is_some_and(|t| !t.failed) {
            let txn = self.transaction.as_mut().expect("checked");
            ddl::sweep(txn).await?;
            ddl::settle_what_leans_on_shells(txn).await?;
            txn.announce_change().await?;
        }
        Ok(())
    }

    /// Relays what was queued on the coordinator.
    async fn relay_own(&mut self, routed: Routed<'_>) -> Result<()> {
        let txn = self.transaction.as_mut().expect("the coordinator takes part");
        let routed = Routed { commits_itself: txn.commits_itself(), ..routed };
        let participant = txn.participant(NodeId::COORDINATOR).expect("it takes part");
        let relayed = relay(&mut participant.server, &mut self.client, routed).await?;
        self.note_relayed(NodeId::COORDINATOR, &relayed);
        Ok(())
    }

    async fn ddl(&mut self, plan: &Ddl) -> Result<()> {
        if plan.action == DdlAction::Maintenance {
            return self.maintenance(plan).await;
        }
        if plan.action == DdlAction::Lock && self.txn().kind == Kind::Auto {
            // Source of the words: PostgreSQL src/backend/access/transam/xact.c, RequireTransactionBlock().
            let why = "LOCK TABLE can only be used in transaction blocks";
            return Err(PgError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, why));
        }
        self.txn().require_atomic().await?;
        let restarts = matches!(plan.action, DdlAction::Truncate { restart_identity: true, .. });
        self.note_renumbered(restarts.then_some(Sequences::Any));
        let txn = self.transaction.as_mut().expect("there is one now");
        ddl::run(txn, plan).await?;
        txn.announce_change().await?;
        let tag = txn.client_tag().to_owned();
        answer::command_complete(&tag, self.client.out());
        Ok(())
    }

    /// VACUUM and ANALYZE: each shard by itself, outside a transaction.
    async fn maintenance(&mut self, plan: &Ddl) -> Result<()> {
        if self.txn().kind != Kind::Auto {
            return Err(PgError::new(
                SqlState::ACTIVE_SQL_TRANSACTION,
                "VACUUM and ANALYZE of distributed tables cannot run inside a transaction block",
            ));
        }
        let txn = self.transaction.as_mut().expect("there is one now");
        let mut tag = String::new();
        for (node, texts) in ddl::maintenance(&txn.map(), plan)? {
            for sql in texts {
                txn.query(node, &sql).await?;
            }
            if let Some(participant) = txn.participant(node) {
                participant.server.last_tag().clone_into(&mut tag);
            }
        }
        answer::command_complete(&tag, self.client.out());
        Ok(())
    }

    /// Calls of provided functions: Postgres evaluates the arguments, we act, Postgres runs the statement with the
    /// results in the calls' places.
    async fn function_call(&mut self, call: &FunctionCall, request: Request<'_>) -> Result<()> {
        if call.calls.iter().any(|c| functions::is_procedure(&c.name) != call.is_procedure) {
            self.check_kinds(call, request).await?;
        }
        let moves = call.calls.iter().any(|c| functions::runs_by_itself(&c.name));
        if moves {
            self.check_block(call)?;
        } else {
            let txn = self.txn();
            // No snapshot is to be older than the locks that a function takes.
            txn.begin_read_committed();
            txn.require_atomic().await?;
        }
        let mut splices: Vec<Splice> = call.outside().cloned().collect();
        for c in &call.calls {
            let arguments = call.arguments(c);
            let sql = format!("SELECT tenantry_arguments.{}({arguments})", c.name);
            let evaluated = self.evaluate_arguments(&sql, request).await.map_err(|e| without_our_schema(e, &c.name))?;
            let result = self.call_function(&c.name, evaluated, moves).await?;
            splices.push(Splice {
                at: c.name_at.start,
                len: c.arguments_at.end + 1 - c.name_at.start,
                with: With::Fixed(
                    format!("tenantry_result.{}({}::pg_catalog.jsonb)", c.name, quote_literal(&result.to_string()))
                        .into(),
                ),
            });
        }
        self.gather_figures(&call.needs).await?;
        self.put_notices();
        let query = Spliced::new(call.text.clone(), splices);
        let participant = self.txn().join(NodeId::COORDINATOR).await?;
        let server = &mut participant.server;
        server.queue_parse("", &query.render(None), request.types, To::Nobody);
        server.queue_bind(request.bind, b"", "", To::Nobody);
        if request.describe && !call.is_procedure {
            server.queue_describe(Target::Portal(b""), To::Client);
        }
        server.queue_execute(b"", 0, To::Client);
        server.queue_sync();
        self.relay_own(Routed { query: Some(&query), ..Routed::default() }).await
    }

    /// What works beside the client's transaction is not rolled back with it, and would wait for locks that it holds.
    ///
    /// Errors: 25001 inside a transaction block, but for what only tells, while the block has changed nothing that it tells of.
    fn check_block(&mut self, call: &FunctionCall) -> Result<()> {
        let txn = self.txn();
        if txn.kind == Kind::Auto {
            return Ok(());
        }
        let has_changed = txn.schema_changed || txn.changed_catalog();
        let Some(c) = call.calls.iter().find(|c| has_changed || !functions::only_tells(&c.name)) else { return Ok(()) };
        let name = &c.name;
        let message = match functions::only_tells(name) {
            true => format!("{name} cannot run in a transaction that has changed the cluster or the schema"),
            false => format!("{name} cannot run inside a transaction block"),
        };
        Err(PgError::new(SqlState::ACTIVE_SQL_TRANSACTION, message))
    }

    /// Before anything is done: SELECT of a procedure, or CALL of a function, is 42809 in Postgres's words.
    async fn check_kinds(&mut self, call: &FunctionCall, request: Request<'_>) -> Result<()> {
        let server = &mut self.txn().join(NodeId::COORDINATOR).await?.server;
        server.queue_parse("", &describing(call), request.types, To::Nobody);
        server.queue_sync();
        let name = &call.calls[0].name;
        server.finish().await.map(drop).map_err(|e| without_our_schema(e, name))
    }

    async fn evaluate_arguments(&mut self, sql: &str, request: Request<'_>) -> Result<Value> {
        let participant = self.txn().join(NodeId::COORDINATOR).await?;
        let server = &mut participant.server;
        server.queue_parse("", sql, request.types, To::Nobody);
        server.queue_bind(&request.bind.with_results(false), b"", "", To::Nobody);
        server.queue_execute(b"", 0, To::Nobody);
        server.queue_sync();
        let rows = server.finish().await?;
        let json = rows.first().and_then(|r| r.first()).and_then(Option::as_deref).unwrap_or("null");
        serde_json::from_str(json)
            .map_err(|e| PgError::new(SqlState::INTERNAL_ERROR, "the arguments are not JSON").detail(e.to_string()))
    }

    async fn call_function(&mut self, name: &str, arguments: Value, by_itself: bool) -> Result<Value> {
        if by_itself {
            return self.call_by_itself(name, arguments).await;
        }
        let shard_count = match name {
            "create_distributed_table" => self.shard_count().await?,
            _ => SHARD_COUNT_DEFAULT,
        };
        let shared = &self.thread.shared;
        let (catalog, mover) = (shared.catalog.clone(), shared.mover.clone());
        let env = functions::Environment { catalog, mover, shard_count };
        functions::call(name, arguments, self.txn(), &env).await
    }

    /// Long work runs where it does not keep the other clients of this thread waiting, and goes on when this client goes away.
    /// What it has to say leaves at once.
    async fn call_by_itself(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let shared = self.thread.shared.clone();
        let only_waits = name.ends_with("_wait");
        let name = name.to_owned();
        let mover = shared.mover.with_moves_per_node(self.moves_per_node().await?);
        // It may take hours, in which the client's servers have nothing to do: others use them, and none ends for being idle.
        let txn = self.txn();
        if txn.kind == Kind::Auto && !txn.is_unsynced() {
            txn.finish_auto();
        }
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut run = shared.control.spawn(async move {
            let notify = |notice| drop(tell.send(notice));
            functions::call_by_itself(&name, arguments, &mover, &notify).await
        });
        let ended = loop {
            let ended = async {
                (&mut run).await.map_err(|_| PgError::new(SqlState::INTERNAL_ERROR, "the operation ended unexpectedly"))
            };
            tokio::select! {
                biased;
                Some(notice) = told.recv() => {
                    self.tell_of(notice);
                    self.client.flush_early().await?;
                }
                ended = self.cancel.handle.unless_cancelled(ended) => break ended,
            }
        };
        while let Ok(notice) = told.try_recv() {
            self.tell_of(notice);
        }
        match ended {
            Err(cancelled) if cancelled.code() == SqlState::QUERY_CANCELED && only_waits => {
                run.abort();
                Err(cancelled)
            }
            Err(cancelled) if cancelled.code() == SqlState::QUERY_CANCELED => {
                Err(cancelled.detail("Only waiting for the operation was cancelled: it goes on by itself."))
            }
            ended => ended?,
        }
    }

    fn tell_of(&mut self, notice: Notice) {
        let (level, mut message) = match notice.is_warning {
            true => ("WARNING", PgError::new(SqlState::WARNING, notice.message)),
            false => ("NOTICE", PgError::notice(notice.message)),
        };
        if let Some(detail) = notice.detail {
            message = message.detail(detail);
        }
        if let Some(hint) = notice.hint {
            message = message.hint(hint);
        }
        self.tell(level, &message);
    }

    /// How many moves this session lets one node take part in; none: as the configuration says. Errors: 22023.
    async fn moves_per_node(&mut self) -> Result<Option<usize>> {
        let Some(value) = self.own_setting(MOVES_PER_NODE_SETTING).await? else { return Ok(None) };
        let most = value.trim().parse().ok().filter(|most| MOVES_PER_NODE.contains(most));
        most.map(Some).ok_or_else(|| {
            let range = format!("({} .. {})", MOVES_PER_NODE.start(), MOVES_PER_NODE.end());
            let text = format!("{value} is outside the valid range for parameter \"{MOVES_PER_NODE_SETTING}\" {range}");
            PgError::new(SqlState::INVALID_PARAMETER_VALUE, text)
        })
    }

    async fn filled_insert(&mut self, plan: &FilledInsert, text: &str, request: Request<'_>) -> Result<()> {
        self.txn().require_atomic().await?;
        // What is wrong with it is told of the client's text, and before anything is drawn.
        self.describe_on_coordinator(text, request).await?;
        let txn = self.transaction.as_mut().expect("there is one now");
        let describe = request.describe && plan.insert.returns_rows;
        let count = scatter::filled_insert(txn, &mut self.client, plan, Request { describe, ..request }).await?;
        answer::command_complete(&count.tag(), self.client.out());
        Ok(())
    }

    /// INSERT ... SELECT: the rows are computed into a table of the target's columns, then routed one by one.
    async fn insert_select(&mut self, plan: &InsertSelect, text: &str, request: Request<'_>) -> Result<u64> {
        self.txn().require_atomic().await?;
        let returned = match &plan.words {
            // What is wrong with them is told of the client's text, and before anything is computed.
            Some(_) => self.describe_on_coordinator(text, request).await?.fields,
            None => None,
        };
        let source = self.gathered(&plan.source, &plan.source_text, request).await?;
        let mut names = plan.columns.clone();
        if !plan.are_listed {
            names.truncate(self.describe_on_coordinator(&source.render(None), request).await?.columns());
        }
        let columns: Vec<_> = names.iter().map(|c| crate::backend::quote_ident(c)).collect();
        let columns = columns.join(", ");
        let txn = self.txn();
        let all = staged::stage(txn, &plan.table, &names).await?;
        let source = typed_by_target(&source.render(None), &plan.given);
        let fill = format!("INSERT INTO pg_temp.tenantry_source ({columns}) {source}");
        let participant = txn.join(NodeId::COORDINATOR).await?;
        let filled = combine::run_bound(participant, &fill, &request.bind.with_results(false), request.types).await;
        if let Err(error) = filled {
            txn.failed = true;
            return Err(error);
        }
        let Some(words) = &plan.words else { return staged::spread(txn, &plan.table, &all).await };
        let describe = request.describe && words.returns_rows;
        // Without a list, what is not given can't be named.
        let said = if plan.are_listed { &all } else { &names };
        let rows = staged::rows(txn, &plan.table, said).await?;
        if rows.is_empty() {
            // No shard is concerned, but the client hears of the columns, and whether ON CONFLICT has an index to go by: a plan tells.
            let bind = request.bind.with_results(false);
            let coordinator = txn.join(NodeId::COORDINATOR).await?;
            let planned = combine::run_bound(coordinator, &format!("EXPLAIN {text}"), &bind, request.types).await;
            txn.failed |= planned.is_err();
            planned?;
            if describe {
                let formats = request.bind.result_formats();
                answer::fields_or_no_data(returned.as_ref(), &formats, self.client.out());
            }
            return Ok(0);
        }
        let insert = words.around(&plan.table, rows);
        let txn = self.transaction.as_mut().expect("the rows were read in it");
        let count = scatter::insert(txn, &mut self.client, &insert, Request { describe, ..request }).await?;
        Ok(count.rows)
    }

    async fn describe_on_coordinator(&mut self, text: &str, request: Request<'_>) -> Result<Description> {
        let coordinator = self.txn().join(NodeId::COORDINATOR).await?;
        let described = coordinator.server.describe(text, request.types).await;
        self.txn().failed |= described.is_err();
        described
    }

    /// Makes a query's rows something that the coordinator can read; gives the query that reads them.
    pub async fn gathered(&mut self, plan: &Plan, text: &str, request: Request<'_>) -> Result<Spliced> {
        self.txn().require_atomic().await?;
        let rowset = |colocation, shards, query: &Spliced| Rowset {
            name: "tenantry_gathered".to_owned(),
            colocation,
            shards,
            query: query.clone(),
            shell_query: Spliced::verbatim(text),
        };
        let combine = match plan {
            Plan::Coordinator(c) if !c.sets.is_empty() => {
                return Err(PgError::unsupported("cannot use the rows of set_config in another statement"));
            }
            Plan::Coordinator(c) => {
                self.gather_figures(&c.needs).await?;
                return Ok(c.query.clone());
            }
            Plan::Combine(c) => c.clone(),
            Plan::Scatter(s) if s.access == Access::Read => {
                Combine::all_of("", rowset(s.colocation, s.shards.clone(), &s.query))
            }
            Plan::Router(r) if r.access == Access::Read => {
                Combine::all_of("", rowset(r.colocation, Shards::One(r.operands.clone()), &r.query))
            }
            _ => {
                return Err(PgError::unsupported("cannot use the rows of this statement in another one")
                    .hint("Run it by itself."));
            }
        };
        combine::gather(self.txn(), &combine, request).await
    }

    async fn copy_out(&mut self, plan: &CopyOut, text: &str, request: Request<'_>) -> Result<()> {
        let _ = text;
        match plan {
            CopyOut::Table { table, columns, options } if !table.is_reference() => {
                self.txn();
                let txn = self.transaction.as_mut().expect("there is one now");
                let rows = copy_out::copy_table(txn, &mut self.client, table, columns, options).await?;
                answer::command_complete(&format!("COPY {rows}"), self.client.out());
                Ok(())
            }
            CopyOut::Table { table, columns, options } => {
                let columns: Vec<_> = columns.iter().map(|c| crate::backend::quote_ident(c)).collect();
                let (schema, name) = (&table.schema, &table.name);
                let (schema, name) = (crate::backend::quote_ident(schema), crate::backend::quote_ident(name));
                let source = format!("{schema}.{name} ({})", columns.join(", "));
                self.copy_from_coordinator(&source, options).await
            }
            CopyOut::Query { source, text, options } => {
                let query = self.gathered(source, text, request).await?;
                self.copy_from_coordinator(&format!("({})", query.render(None)), options).await
            }
        }
    }

    async fn copy_from_coordinator(&mut self, source: &str, options: &CopyOptions) -> Result<()> {
        let sql = format!("COPY {source} TO STDOUT {}", options.whole_text());
        let participant = self.txn().join(NodeId::COORDINATOR).await?;
        participant.server.queue_query(&sql, To::Client);
        self.relay_own(Routed::default()).await
    }
}

/// An error about our stand-in function, in terms of the function that the user called.
pub(super) fn without_our_schema(error: PgError, name: &str) -> PgError {
    let ours = ["tenantry_arguments", DESCRIBING_SCHEMA].map(|schema| format!("{schema}.{name}"));
    error.map_fields(|key, value| match key {
        b'M' | b'D' | b'H' => ours.iter().fold(value, |value, ours| value.replace(ours, name)),
        // A position in our text would point anywhere in the user's.
        b'P' => "1".to_owned(),
        _ => value,
    })
}

/// The query that gives the rows of an INSERT, with its constants without a type in the place of what they have become among the
/// gathered rows, which is text.
fn typed_by_target(query: &str, given: &[Given]) -> String {
    if given.is_empty() {
        return query.to_owned();
    }
    let column = |(n, given): (usize, &Given)| match given {
        Given::Computed => format!("c{n}"),
        Given::Untyped(None) => "NULL".to_owned(),
        Given::Untyped(Some(value)) => crate::backend::quote_literal(value),
    };
    let columns: Vec<_> = given.iter().enumerate().map(column).collect();
    let names: Vec<_> = (0..given.len()).map(|n| format!("c{n}")).collect();
    format!("SELECT {} FROM ({query}\n) AS given ({})", columns.join(", "), names.join(", "))
}
