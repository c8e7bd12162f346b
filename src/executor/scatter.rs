//! Many shards, one answer: the same kind of statement on every concerned shard group.
//!
//! ```text
//!   tasks ──by node──> one server each, all at work at once ──task by task──> Sink (client, or a COPY into a rowset)
//! ```
//!
//! Each node's statements leave in as few writes as fit; its answers wait in the sockets' buffers until their turn, which
//! bounds memory. Each task has its own Sync, so that one shard's error leaves the connection in step.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use super::defaults::{self, Drawn, Value};
use super::object_ids::Forms;
use super::relay::{Routed, in_the_users_terms, names_moved_shard, of_gone_copy};
use super::{Client, Executor, Participant, Transaction, Use};
use crate::backend::{BROKEN_ROW, Server};
use crate::error::{PgError, Result, SqlState};
use crate::planner::{FilledInsert, Insert, Scatter};
use crate::shard_map::{ColocationGroup, NodeId, ShardGroupId};
use crate::sql::{Access, Spliced};
use crate::wire::frontend::{self, Bind, Target};
use crate::wire::reply_queue::{To, Verdict};
use crate::wire::rows::FIRST_USER_OID;
use crate::wire::{frame, rows};

use super::route::{Found, Values};

/// A statement's values and how its answer should look.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub bind: &'a Bind,
    /// Parameter types, complete where the statement has parameters.
    pub types: &'a [u32],
    /// The client wants a RowDescription.
    pub describe: bool,
}

impl<'a> Request<'a> {
    pub fn values(&self) -> Values<'a> {
        Values::Bind { bind: self.bind, types: self.types }
    }

    /// Values and types for a text that may name only some of the parameters: the others are NULL. A worker infers users'
    /// types from where a parameter stands, so one that stands nowhere is told as text.
    fn only_for(&self, sql: &str) -> (Cow<'a, Bind>, Cow<'a, [u32]>) {
        let used = parameters_in(sql, self.bind.parameter_count() as usize);
        if used.iter().all(|used| *used) {
            return (Cow::Borrowed(self.bind), Cow::Borrowed(self.types));
        }
        let is_kept = |n: usize, oid: u32| oid < FIRST_USER_OID || used.get(n) == Some(&true);
        let types = self.types.iter().enumerate().map(|(n, oid)| if is_kept(n, *oid) { *oid } else { TEXT });
        (Cow::Owned(self.bind.only(&used)), Cow::Owned(types.collect()))
    }
}

/// Which of the parameters `$1` to `$count` a text may name. A dollar sign in a string counts too: one more does no harm.
fn parameters_in(sql: &str, count: usize) -> Vec<bool> {
    let mut used = vec![false; count];
    for at in memchr::memchr_iter(b'$', sql.as_bytes()) {
        let digits = sql.as_bytes()[at + 1..].iter().take_while(|b| b.is_ascii_digit()).take(6);
        let number = digits.fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
        if let Some(used) = number.checked_sub(1).and_then(|n| used.get_mut(n)) {
            *used = true;
        }
    }
    used
}

/// One shard group's statement.
#[derive(Debug)]
pub struct Task {
    pub group: ShardGroupId,
    pub node: NodeId,
    pub sql: String,
}

/// What the shards' command tags say together: `UPDATE`, 12.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Count {
    pub command: String,
    pub rows: u64,
}

impl Count {
    /// The tag of all shards together. Source: PostgreSQL manual, CommandComplete.
    pub fn tag(&self) -> String {
        let oid = if self.command == "INSERT" { " 0" } else { "" };
        format!("{}{oid} {}", self.command, self.rows)
    }
}

/// Where rows go.
pub enum Sink<'a> {
    Client(&'a mut Client),
    /// Into an open COPY ... FROM STDIN (FORMAT binary): a binary DataRow's payload is a COPY tuple.
    Copy {
        server: &'a mut Server,
        bytes_left: usize,
    },
    /// Kept, task by task, to be put in another order.
    Collect(&'a mut Collected),
}

/// Frames of rows by task, and the description.
#[derive(Default)]
pub struct Collected {
    description: Option<Bytes>,
    rows: Vec<Vec<Bytes>>,
}

impl Sink<'_> {
    fn begin_task(&mut self) {
        if let Sink::Collect(collected) = self {
            collected.rows.push(Vec::new());
        }
    }

    fn description(&mut self, frame: &Bytes) {
        match self {
            Sink::Client(client) => client.out().extend_from_slice(frame),
            Sink::Collect(collected) => collected.description = Some(frame.clone()),
            Sink::Copy { .. } => {}
        }
    }

    async fn row(&mut self, frame: &Bytes) -> Result<()> {
        match self {
            Sink::Client(client) => {
                client.out().extend_from_slice(frame);
                client.flush_if_long().await
            }
            Sink::Collect(collected) => {
                collected.rows.last_mut().expect("a task has begun").push(frame.clone());
                Ok(())
            }
            Sink::Copy { server, bytes_left } => {
                let tuple = &frame[frame::HEADER_LEN..];
                *bytes_left = bytes_left.checked_sub(tuple.len()).ok_or_else(too_large)?;
                frontend::copy_data(tuple, server.queue());
                if server.queue().len() >= COPY_WRITE_LEN { server.flush().await } else { Ok(()) }
            }
        }
    }
}

/// The statement of a `Scatter` plan for each concerned shard group.
pub fn tasks_of(
    txn: &Transaction,
    query: &Spliced,
    groups: &[ShardGroupId],
    plan_colocation: crate::shard_map::ColocationId,
) -> Result<Vec<Task>> {
    let map = txn.map();
    let colocation = map.colocation(plan_colocation).ok_or_else(super::stale_plan)?;
    groups
        .iter()
        .map(|id| {
            let group = colocation.group(*id).ok_or_else(super::stale_plan)?;
            Ok(Task { group: *id, node: group.node, sql: query.render(Some(*id)) })
        })
        .collect()
}

/// Runs a `Scatter` plan; returns the rows it read or wrote.
pub async fn scatter(
    txn: &mut Transaction,
    client: &mut Client,
    plan: &Scatter,
    request: Request<'_>,
) -> Result<Count> {
    let groups = txn.free_groups(plan.colocation, |c| request.values().groups(c, &plan.shards)).await?;
    if plan.access == Access::Write {
        txn.require_atomic().await?;
    }
    let tasks = tasks_of(txn, &plan.query, &groups, plan.colocation)?;
    let ran = run_tasks(txn, tasks, request, Sink::Client(client)).await;
    ran.map_err(|error| of_gone_copy(&error, &plan.query).unwrap_or(error))
}

/// Runs an `Insert` plan whose rows belong to several shard groups.
pub async fn insert(txn: &mut Transaction, client: &mut Client, plan: &Insert, request: Request<'_>) -> Result<Count> {
    let colocation = plan.table.colocation;
    let hash = txn.map().colocation(colocation).and_then(|c| c.hash).ok_or_else(super::stale_plan)?;
    let used = Use::stored_in(&plan.table);
    let mut values = Vec::with_capacity(plan.rows.len());
    for row in &plan.rows {
        values.push(match request.values().find(&row.tenant, hash, used) {
            Found::Value(value) => value,
            Found::Null => return Err(null_tenant()),
            Found::Unknown => {
                txn.ask_value(&row.tenant, hash, used, request.values()).await?.ok_or_else(null_tenant)?
            }
        });
    }
    let groups_of = |c: &ColocationGroup| {
        let groups: BTreeSet<_> = values.iter().filter_map(|value| c.group_of(value)).map(|g| g.id).collect();
        groups.into_iter().collect()
    };
    let groups: Vec<ShardGroupId> = txn.free_groups(colocation, groups_of).await?;
    if groups.len() > 1 {
        txn.require_atomic().await?;
    }
    // Read again: a hold may have ended because the group is elsewhere now.
    let map = txn.map();
    let colocation = map.colocation(colocation).ok_or_else(super::stale_plan)?;
    let mut rows_of: BTreeMap<ShardGroupId, Vec<usize>> = BTreeMap::new();
    for (at, value) in values.iter().enumerate() {
        let group = colocation.group_of(value).ok_or_else(super::stale_plan)?;
        rows_of.entry(group.id).or_default().push(at);
    }
    let mut tasks = Vec::new();
    for (id, rows) in &rows_of {
        let group = colocation.group(*id).ok_or_else(super::stale_plan)?;
        let sql = if groups.len() == 1 {
            plan.query.render(Some(*id))
        } else {
            let texts: Vec<&str> = rows.iter().map(|at| &*plan.rows[*at].text).collect();
            format!("{} {} {}", plan.head.render(Some(*id)), texts.join(", "), plan.tail.render(Some(*id)))
        };
        tasks.push(Task { group: *id, node: group.node, sql });
    }
    if !plan.returns_rows {
        return run_tasks(txn, tasks, request, Sink::Client(client)).await;
    }
    // Node by node, as `run_tasks` goes through them.
    tasks.sort_by_key(|task| task.node);
    let order: Vec<_> = tasks.iter().map(|task| rows_of[&task.group].as_slice()).collect();
    let mut collected = Collected::default();
    let count = run_tasks(txn, tasks, request, Sink::Collect(&mut collected)).await?;
    client.out().extend_from_slice(collected.description.as_deref().unwrap_or(&[]));
    for row in in_the_order_given(collected.rows, &order) {
        client.out().extend_from_slice(&row);
        client.flush_if_long().await?;
    }
    Ok(count)
}

/// Runs a `FilledInsert` plan. Errors: 22004 where the distribution column gets NULL.
pub async fn filled_insert(
    txn: &mut Transaction,
    client: &mut Client,
    plan: &FilledInsert,
    request: Request<'_>,
) -> Result<Count> {
    let table = &plan.insert.table;
    let mut tenants = vec![None; plan.insert.rows.len()];
    let mut drawn = Vec::new();
    if !plan.filling.places.is_empty() {
        let Drawn { values, literals } = defaults::draw(txn, table, &plan.filling).await?;
        for (row, _) in plan.filling.concerned().into_iter().enumerate().filter(|(_, is_drawn)| *is_drawn) {
            tenants[row] = Some(values[row].first().cloned().flatten().ok_or_else(null_tenant)?);
        }
        drawn = literals.into_iter().map(|row| row.into_iter().next().unwrap_or_default()).collect();
    }
    let values = defaults::compute(txn, table, &plan.computed).await?;
    let mut literals = Vec::with_capacity(values.len());
    for (computed, Value { literal, stored }) in plan.computed.iter().zip(values) {
        if computed.is_tenant {
            tenants[computed.row] = Some(stored.ok_or_else(null_tenant)?);
        }
        literals.push(literal);
    }
    insert(txn, client, &plan.filled(tenants, &drawn, &literals), request).await
}

/// What RETURNING gave, in the order of the VALUES, because applications match it with what they sent. Where a shard
/// gave fewer rows than it got (ON CONFLICT DO NOTHING) nobody can tell which, and the shards' order stands.
fn in_the_order_given(rows: Vec<Vec<Bytes>>, order: &[&[usize]]) -> Vec<Bytes> {
    let matches = rows.len() == order.len() && rows.iter().zip(order).all(|(rows, places)| rows.len() == places.len());
    if !matches {
        return rows.into_iter().flatten().collect();
    }
    let mut placed: Vec<_> = order.iter().copied().flatten().copied().zip(rows.into_iter().flatten()).collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, row)| row).collect()
}

pub fn null_tenant() -> PgError {
    PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "cannot perform an INSERT with NULL in the partition column")
}

/// Runs the tasks, all nodes at work at once, and sends their rows to `sink` task by task.
/// Returns the sum of the command tags' row counts.
///
/// Errors: the first shard's error, in the user's terms, after every answer that was under way is in.
pub async fn run_tasks(
    txn: &mut Transaction,
    tasks: Vec<Task>,
    request: Request<'_>,
    mut sink: Sink<'_>,
) -> Result<Count> {
    let mut by_node: BTreeMap<NodeId, Vec<Task>> = BTreeMap::new();
    for task in tasks {
        if txn.may_be_older(task.node, task.group) {
            txn.check_sees(task.node, task.group).await?;
        }
        by_node.entry(task.node).or_default().push(task);
    }
    let nodes: Vec<_> = by_node.keys().copied().collect();
    let taken = txn.take(&nodes).await?.into_iter().zip(by_node.into_values());
    let executor = txn.executor.clone();
    let mut at_work = Vec::new();
    for (participant, tasks) in taken {
        let ids = &executor.object_ids;
        let bind = ids.bind_for(&executor.catalog, participant.node, request.bind, request.types).await;
        at_work.push(Worker { participant, tasks, bind, queued: 0 });
    }
    let result = work(&executor, &mut at_work, request, &mut sink).await;
    for mut worker in at_work {
        worker.participant.groups.extend(worker.tasks.iter().map(|t| t.group));
        txn.put_back(worker.participant);
    }
    txn.failed |= result.is_err();
    result
}

async fn work(
    executor: &Executor,
    at_work: &mut [Worker<'_>],
    request: Request<'_>,
    sink: &mut Sink<'_>,
) -> Result<Count> {
    // Of the first answer, for all. Binary rows may name types.
    let mut describe = match request.describe {
        true => Some(To::Client),
        false => request.bind.result_formats().contains(&1).then_some(To::Nobody),
    };
    let mut columns = Columns::default();
    for worker in at_work.iter_mut() {
        worker.queue_more(request, &mut describe);
        worker.participant.server.flush().await?;
    }
    let (mut count, mut failure) = (Count::default(), None);
    for worker in at_work {
        for at in 0..worker.tasks.len() {
            if at == worker.queued {
                if failure.is_some() {
                    break;
                }
                worker.queue_more(request, &mut describe);
                worker.participant.server.flush().await?;
            }
            sink.begin_task();
            match read_answer(executor, &mut worker.participant, sink, &mut columns, failure.is_some()).await? {
                Ok(more) => {
                    count.rows += more.rows;
                    count.command = more.command;
                }
                // Who knows the shard by its schema's name runs the statement again.
                Err(error) if executor.map.with(|map| names_moved_shard(&error, map)) => {
                    failure.get_or_insert(error);
                }
                Err(error) => {
                    let routed = Routed { group: Some(worker.tasks[at].group), ..Routed::default() };
                    failure.get_or_insert(in_the_users_terms(error, routed));
                }
            }
            worker.participant.statements += 1;
        }
    }
    failure.map_or(Ok(count), Err)
}

/// Of all shards' rows alike.
#[derive(Default)]
struct Columns {
    /// Once a description or a row has come.
    count: Option<u16>,
    /// Where their values name types.
    forms: Option<Forms>,
}

struct Worker<'b> {
    participant: Participant,
    tasks: Vec<Task>,
    /// The parameters as this node knows their types.
    bind: Cow<'b, Bind>,
    queued: usize,
}

impl Worker<'_> {
    /// Queues statements as long as the write stays short: a server that cannot send its answer does not read either.
    fn queue_more(&mut self, request: Request<'_>, describe: &mut Option<To>) {
        let request = Request { bind: &self.bind, ..request };
        let server = &mut self.participant.server;
        while self.queued < self.tasks.len() && (server.queue().len() < PIPELINE_LEN || !server.has_unsent()) {
            let sql = &self.tasks[self.queued].sql;
            let (bind, types) = request.only_for(sql);
            server.queue_parse("", sql, &types, To::Nobody);
            server.queue_bind(&bind, b"", "", To::Nobody);
            if let Some(to) = describe.take() {
                server.queue_describe(Target::Portal(b""), to);
            }
            server.queue_execute(b"", 0, To::Client);
            server.queue_sync();
            self.queued += 1;
        }
    }
}

/// One task's answer up to its ReadyForQuery. The outer error is the connection's, the inner one the statement's.
async fn read_answer(
    executor: &Executor,
    participant: &mut Participant,
    sink: &mut Sink<'_>,
    columns: &mut Columns,
    discard: bool,
) -> Result<Result<Count>> {
    let (mut count, mut error) = (Count::default(), None);
    let (node, server) = (participant.node, &mut participant.server);
    loop {
        let (frame, verdict) = server.next_reply().await?;
        match (verdict, frame.tag) {
            (Verdict::Error(_), _) => {
                let server_error = PgError::from_body(frame.payload());
                if server.is_poisoned() {
                    return Err(server_error);
                }
                error.get_or_insert(server_error);
            }
            (Verdict::Part(due) | Verdict::Last(due), tag) => match tag {
                b'D' if !discard => {
                    let count = rows::column_count(frame.payload());
                    if count.is_none() || columns.count.is_some() && columns.count != count {
                        return Err(server.lost(BROKEN_ROW));
                    }
                    columns.count = count;
                    match &columns.forms {
                        None => sink.row(&frame.bytes).await?,
                        Some(forms) => {
                            let mut row = BytesMut::from(frame.bytes);
                            executor.object_ids.translate_rows(&executor.catalog, node, forms, &mut row).await;
                            sink.row(&row.freeze()).await?;
                        }
                    }
                }
                b'T' => {
                    columns.count = rows::column_count(frame.payload());
                    let mut description = BytesMut::from(frame.bytes);
                    columns.forms = executor.object_ids.translate(&executor.catalog, node, &mut description, 0).await;
                    if due.to == To::Client {
                        sink.description(&description.freeze());
                    }
                }
                b'n' if due.to == To::Client => sink.description(&frame.bytes),
                b'C' => {
                    count.rows += rows::tag_rows(frame.payload());
                    count.command = rows::tag_command(frame.payload());
                }
                _ => {}
            },
            (Verdict::Async, b'N') => {
                if let Sink::Client(client) = sink {
                    client.out().extend_from_slice(&frame.bytes);
                }
            }
            (Verdict::Ready(due), _) if due.reply == crate::wire::reply_queue::Reply::Sync => {
                return Ok(error.map_or(Ok(count), Err));
            }
            _ => {}
        }
    }
}

fn too_large() -> PgError {
    PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "the intermediate result is too large")
        .hint("Restrict the query to fewer tenants or columns, or aggregate on the shards.")
}

/// Statements queued for a server before its answers are read. Less than a socket buffer.
const PIPELINE_LEN: usize = 32 * 1024;
const COPY_WRITE_LEN: usize = 64 * 1024;
/// Source: PostgreSQL src/include/catalog/pg_type.dat.
const TEXT: u32 = 25;
