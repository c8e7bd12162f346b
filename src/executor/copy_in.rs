//! COPY FROM STDIN into managed tables: rows are cut out of the stream, hashed and sent on, unchanged.
//!
//! ```text
//!   CopyData ──> RowSplitter ──row──> buffer per shard group ──full──> COPY ... FROM STDIN on its node
//! ```
//!
//! A node has one connection, so its shards take turns: each full buffer is a COPY of its own, all in one transaction.
//! Memory is bounded by `Bounds`, whatever the client sends: while a node takes nothing, nothing is taken from the client.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;

use super::combine::{COPY_HEADER, COPY_TRAILER};
use super::object_ids::{Forms, Way};
use super::reference::{self, set_writing};
use super::scatter::null_tenant;
use super::staged;
use super::{Client, Settings, Transaction, Use, Values};
use crate::backend::{Server, quote_ident};
use crate::error::{PgError, Result, SqlState};
use crate::planner::{CopyFormat, CopyIn, CopyOptions};
use crate::shard_map::hash::Value;
use crate::shard_map::{ColocationGroup, HashType, NodeId, ShardGroupId, Table, TableKind};
use crate::sql::Operand;
use crate::wire::copy_rows::{self, CopyTarget, CsvOptions, FieldValue, Header, RowSplitter};
use crate::wire::frontend::Bind;
use crate::wire::nested_oids::replace_in_tuples;
use crate::wire::reader::Reader;
use crate::wire::reply_queue::{To, Verdict};
use crate::wire::{answer, frontend};

/// What a COPY may keep of its data. Unit: bytes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Rows that wait to be sent.
    buffer: usize,
    /// The longest row.
    row: usize,
}

impl Bounds {
    fn new(settings: &Settings) -> Self {
        Self { buffer: settings.copy_buffer_bytes, row: settings.copy_row_bytes }
    }

    /// Of a client that may take so many more bytes. A row may be there as it came, in a buffer that has grown by
    /// doubling, and among those that wait.
    fn within(self, memory: usize) -> Self {
        let share = memory / 4;
        Self { buffer: self.buffer.min(share), row: self.row.min(share) }
    }
}

/// A COPY under way.
pub struct CopyRouter {
    table: Arc<Table>,
    columns: Vec<String>,
    options: String,
    /// The data's, without a header.
    format: copy_rows::CopyFormat,
    copy_target: CopyTarget,
    /// What binary values of the columns name types in; `None`: in nothing.
    forms: Option<Forms>,
    splitter: RowSplitter,
    target: Where,
    buffers: HashMap<Option<ShardGroupId>, BytesMut>,
    buffered: usize,
    limit: usize,
    rows: u64,
    /// The rows of a reference table lack columns whose defaults would differ from node to node: they go into a temporary
    /// table first, with all these columns.
    staged: Option<Vec<String>>,
    /// The last value that only the coordinator could read.
    asked: Option<(Vec<u8>, Value<'static>)>,
}

enum Where {
    Shards {
        colocation: Arc<ColocationGroup>,
        hash: HashType,
        /// Of the distribution column.
        used: Use,
    },
    /// Every one of these gets every row.
    Everywhere(Vec<NodeId>),
}

impl CopyRouter {
    /// `columns` are those of the data, in its order.
    ///
    /// Errors: 22004 when the distribution column is missing.
    pub async fn new(
        txn: &mut Transaction,
        table: &Arc<Table>,
        columns: &[String],
        options: &CopyOptions,
        bounds: Bounds,
    ) -> Result<Self> {
        let staged = match staged::left_to_defaults(table, columns).is_empty() {
            true => None,
            false => Some(staged::stage(txn, table, columns).await?),
        };
        if table.is_reference() {
            // As a write of rows would, before the nodes are chosen: citus_add_node waits for this lock.
            let name = format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name));
            txn.query(NodeId::COORDINATOR, &format!("LOCK TABLE ONLY {name} IN ROW EXCLUSIVE MODE")).await?;
            reference::refuse_local(txn, table).await?;
            txn.query(NodeId::COORDINATOR, &set_writing(true)).await?;
            txn.refresh_nodes().await?;
        }
        let map = txn.map();
        let (target, column) = match table.kind {
            TableKind::Reference => {
                let mut nodes = vec![NodeId::COORDINATOR];
                if staged.is_none() {
                    nodes.extend(map.active_workers().map(|n| n.id));
                }
                (Where::Everywhere(nodes), 0)
            }
            TableKind::Distributed { .. } if staged.is_some() => (Where::Everywhere(vec![NodeId::COORDINATOR]), 0),
            TableKind::Distributed { column, hash } => {
                let column = &table.columns[column];
                let colocation = map.colocation(table.colocation).ok_or_else(super::stale_plan)?.clone();
                let at = columns.iter().position(|c| *c == column.name).ok_or_else(|| {
                    PgError::new(
                        SqlState::NULL_VALUE_NOT_ALLOWED,
                        "cannot perform an INSERT without a partition column value",
                    )
                })?;
                (Where::Shards { colocation, hash, used: Use::stored_in(table) }, at)
            }
        };
        let forms = match options.format {
            CopyFormat::Binary => {
                let executor = &txn.executor;
                Box::pin(executor.object_ids.forms_of_columns(&executor.catalog, table, columns)).await
            }
            _ => None,
        };
        let header = if options.header { Header::Skip } else { Header::Absent };
        let copy_target = CopyTarget { table: table.name.clone(), columns: columns.to_vec(), column };
        Ok(Self {
            table: table.clone(),
            columns: columns.to_vec(),
            options: options.text.clone(),
            format: split_format(options, Header::Absent),
            splitter: RowSplitter::new(split_format(options, header), copy_target.clone(), bounds.row),
            copy_target,
            forms,
            target,
            buffers: HashMap::new(),
            buffered: 0,
            limit: bounds.buffer,
            rows: 0,
            staged,
            asked: None,
        })
    }

    /// Takes the payload of one CopyData message.
    pub async fn push(&mut self, txn: &mut Transaction, data: &[u8]) -> Result<()> {
        // A long message is not there twice.
        for piece in data.chunks(COPY_DATA_LEN) {
            self.splitter.push(piece);
            self.route(txn).await?;
        }
        Ok(())
    }

    /// What it keeps of the data. Unit: bytes.
    fn kept_bytes(&self) -> usize {
        self.splitter.kept_bytes() + self.buffered
    }

    /// The data is complete: sends what is left and waits for every node. Returns the number of rows.
    pub async fn finish(mut self, txn: &mut Transaction) -> Result<u64> {
        self.splitter.finish();
        self.route(txn).await?;
        while let Some(group) = self.buffers.keys().next().copied() {
            self.send(txn, group).await?;
        }
        for participant in txn.participants() {
            participant.server.finish_copy().await?;
        }
        if self.table.is_reference() {
            txn.query(NodeId::COORDINATOR, &set_writing(false)).await?;
        }
        if let Some(columns) = &self.staged {
            staged::spread(txn, &self.table, columns).await?;
        }
        Ok(self.rows)
    }

    async fn route(&mut self, txn: &mut Transaction) -> Result<()> {
        while let Some(row) = self.splitter.next_row()? {
            let group = match &self.target {
                Where::Everywhere(_) => None,
                Where::Shards { colocation, hash, used } => {
                    let typmod = used.type_modifier();
                    let known = match &row.value {
                        FieldValue::Null => return Err(null_in_copy(&self.table)),
                        FieldValue::Text(text) => {
                            std::str::from_utf8(text).ok().and_then(|t| hash.read_stored_text(t, typmod))
                        }
                        // A domain's values have the form of its base type's.
                        FieldValue::Binary(bytes) => hash.read_stored_binary(hash.oid(), bytes, typmod),
                    };
                    let value = match known {
                        Some(value) => value,
                        None => ask(txn, &row.value, *hash, *used, &mut self.asked).await?,
                    };
                    Some(colocation.group_of(&value).ok_or_else(super::stale_plan)?.id)
                }
            };
            self.rows += 1;
            self.buffered += row.bytes.len();
            let buffer = self.buffers.entry(group).or_default();
            buffer.extend_from_slice(row.bytes);
            if buffer.len() >= CHUNK_LEN {
                self.send(txn, group).await?;
            } else if self.buffered > self.limit {
                let largest = self.buffers.iter().max_by_key(|(_, b)| b.len()).map(|(g, _)| *g);
                self.send(txn, largest.expect("something is buffered")).await?;
            }
        }
        Ok(())
    }

    /// Rows waited here while other groups took the place of theirs.
    async fn route_again(&mut self, txn: &mut Transaction, now: Arc<ColocationGroup>, data: &[u8]) -> Result<()> {
        if let Where::Shards { colocation, .. } = &mut self.target {
            *colocation = now;
        }
        let again = RowSplitter::new(self.format.clone(), self.copy_target.clone(), usize::MAX);
        let (splitter, rows) = (std::mem::replace(&mut self.splitter, again), self.rows);
        if self.format == copy_rows::CopyFormat::Binary {
            self.splitter.push(COPY_HEADER);
        }
        self.splitter.push(data);
        if self.format == copy_rows::CopyFormat::Binary {
            self.splitter.push(COPY_TRAILER);
        }
        self.splitter.finish();
        let routed = Box::pin(self.route(txn)).await;
        (self.splitter, self.rows) = (splitter, rows);
        routed
    }

    async fn send(&mut self, txn: &mut Transaction, group: Option<ShardGroupId>) -> Result<()> {
        let Some(data) = self.buffers.remove(&group) else { return Ok(()) };
        self.buffered -= data.len();
        let nodes = match (&self.target, group) {
            (Where::Everywhere(nodes), _) => nodes.clone(),
            (Where::Shards { colocation, .. }, Some(group)) => {
                // As the map is now: a hold may have ended because the group is elsewhere.
                txn.enter(&[group]).await?;
                let map = txn.map();
                let now = map.colocation(colocation.id).ok_or_else(super::stale_plan)?;
                match now.group(group) {
                    Some(group) => vec![group.node],
                    None => return self.route_again(txn, now.clone(), &data).await,
                }
            }
            (Where::Shards { .. }, None) => unreachable!("rows of shards have a group"),
        };
        let schema = match group {
            None => format!("{}.", quote_ident(&self.table.schema)),
            Some(group) => {
                let mut schema = String::new();
                crate::sql::push_shard_schema(&mut schema, &self.table.schema, group);
                schema
            }
        };
        let columns: Vec<_> = self.columns.iter().map(|c| quote_ident(c)).collect();
        let place = match &self.staged {
            Some(_) => "pg_temp.tenantry_source".to_owned(),
            None => format!("{schema}{}", quote_ident(&self.table.name)),
        };
        let sql = format!("COPY {place} ({}) FROM STDIN {}", columns.join(", "), self.options);
        for node in nodes {
            let data = self.data_for(txn, node, &data).await;
            if group.is_none() && txn.has_left(node) {
                continue;
            }
            let participant = txn.join(node).await?;
            participant.groups.extend(group.filter(|g| !participant.groups.contains(g)));
            let server = &mut participant.server;
            // The shard before must be stored before this connection can begin another COPY.
            let previous = server.finish_copy().await;
            participant.statements += 1;
            if let Err(error) = previous {
                txn.failed = true;
                return Err(error);
            }
            let server = &mut participant.server;
            server.queue_query(&sql, To::Nobody);
            if self.format == copy_rows::CopyFormat::Binary {
                frontend::copy_data(COPY_HEADER, server.queue());
            }
            for chunk in data.chunks(COPY_DATA_LEN) {
                frontend::copy_data(chunk, server.queue());
                // Of a long row, no second copy waits on its way.
                if server.queue().len() >= QUEUE_LEN {
                    server.flush().await?;
                }
            }
            if self.format == copy_rows::CopyFormat::Binary {
                frontend::copy_data(COPY_TRAILER, server.queue());
            }
            frontend::copy_done(server.queue());
            server.flush().await?;
        }
        Ok(())
    }
}

impl CopyRouter {
    /// The rows as `node` knows the types in them.
    async fn data_for<'d>(&self, txn: &Transaction, node: NodeId, data: &'d [u8]) -> Cow<'d, [u8]> {
        let Some(forms) = self.forms.as_ref().filter(|_| !node.is_coordinator()) else { return Cow::Borrowed(data) };
        let executor = &txn.executor;
        let mut theirs = data.to_vec();
        let replace = executor
            .object_ids
            .replace(&executor.catalog, Way::To(node), |look| replace_in_tuples(&mut theirs, forms, look));
        Box::pin(replace).await;
        Cow::Owned(theirs)
    }
}

async fn ask(
    txn: &mut Transaction,
    value: &FieldValue<'_>,
    hash: HashType,
    used: Use,
    asked: &mut Option<(Vec<u8>, Value<'static>)>,
) -> Result<Value<'static>> {
    let (is_binary, bytes): (bool, &[u8]) = match value {
        FieldValue::Null => return Err(null_tenant()),
        FieldValue::Text(text) => (false, text),
        FieldValue::Binary(bytes) => (true, bytes),
    };
    if let Some((_, value)) = asked.as_ref().filter(|(known, _)| known[..] == *bytes) {
        return Ok(value.clone());
    }
    let bind = Bind::one(is_binary, Some(bytes));
    let values = Values::Bind { bind: &bind, types: &[hash.oid()] };
    let value = txn.ask_value(&Operand::Param(0), hash, used, values).await?.ok_or_else(null_tenant)?;
    *asked = Some((bytes.to_vec(), value.clone()));
    Ok(value)
}

fn null_in_copy(table: &Table) -> PgError {
    PgError::new(
        SqlState::NULL_VALUE_NOT_ALLOWED,
        format!("the partition column of table {}.{} cannot be NULL", table.schema, table.name),
    )
}

fn split_format(options: &CopyOptions, header: Header) -> copy_rows::CopyFormat {
    let null = options.null.clone().into_bytes();
    match options.format {
        CopyFormat::Text => copy_rows::CopyFormat::Text { delimiter: options.delimiter, null, header },
        CopyFormat::Binary => copy_rows::CopyFormat::Binary,
        CopyFormat::Csv => copy_rows::CopyFormat::Csv(CsvOptions {
            delimiter: options.delimiter,
            quote: options.quote,
            escape: options.escape,
            null,
            header,
            force_not_null: false,
            force_null: false,
        }),
    }
}

impl Transaction {
    /// Routes the rows of a `COPY ... TO STDOUT (FORMAT binary)` on one node into a managed table.
    pub async fn copy_rows(
        &mut self,
        from: NodeId,
        copy_out: &str,
        into: &Arc<Table>,
        columns: &[String],
    ) -> Result<u64> {
        route_rows(self, from, copy_out, into, columns).await
    }
}

/// COPY FROM STDIN of a client. Returns the number of rows.
///
/// Errors: after one the client may go on sending; the session ignores what it sends.
pub async fn copy_in(txn: &mut Transaction, client: &mut Client, plan: &CopyIn) -> Result<u64> {
    let bounds = Bounds::new(&txn.executor.settings.load()).within(client.memory_left());
    let router = CopyRouter::new(txn, &plan.table, &plan.columns, &plan.options, bounds).await?;
    let copied = take_rows(txn, client, plan, router).await;
    client.note_copied(0);
    match copied {
        Ok(rows) => Ok(rows),
        Err(error) => {
            end_copies(txn).await;
            let error = error.in_copy_of(staged::NAME, &plan.table.name);
            Err(reference::unless_local(txn, &plan.table, error).await)
        }
    }
}

async fn take_rows(txn: &mut Transaction, client: &mut Client, plan: &CopyIn, mut router: CopyRouter) -> Result<u64> {
    answer::copy_in_response(plan.options.format == CopyFormat::Binary, plan.columns.len(), client.out());
    client.flush().await?;
    loop {
        client.note_copied(router.kept_bytes());
        let Some(frame) = client.next_copy_frame().await? else {
            return Err(PgError::fatal(SqlState::CONNECTION_FAILURE, "unexpected EOF on client connection"));
        };
        match frame.tag {
            b'd' => router.push(txn, frame.payload()).await?,
            b'c' => return router.finish(txn).await,
            b'f' => {
                let reason = String::from_utf8_lossy(Reader::new(frame.payload()).cstr()?);
                return Err(PgError::new(SqlState::QUERY_CANCELED, format!("COPY from stdin failed: {reason}")));
            }
            // Drivers in the extended protocol send them along; they mean nothing here.
            b'H' | b'S' => {}
            tag => {
                return Err(PgError::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("unexpected message type 0x{tag:02X} during COPY from stdin"),
                ));
            }
        }
    }
}

/// Routes the rows of `COPY ... TO STDOUT (FORMAT binary)` on one node into a managed table.
pub async fn route_rows(
    txn: &mut Transaction,
    from: NodeId,
    copy_out: &str,
    into: &Arc<Table>,
    columns: &[String],
) -> Result<u64> {
    txn.require_atomic().await?;
    let options = CopyOptions {
        format: CopyFormat::Binary,
        delimiter: b'\t',
        null: String::new(),
        header: false,
        quote: b'"',
        escape: b'"',
        text: "(FORMAT binary)".to_owned(),
    };
    let bounds = Bounds::new(&txn.executor.settings.load());
    let mut router = CopyRouter::new(txn, into, columns, &options, bounds).await?;
    // Copies of a reference table: the node that the rows come from has them.
    if let Where::Everywhere(nodes) = &mut router.target {
        nodes.retain(|node| *node != from);
    }
    let mut source = txn.take(&[from]).await?.pop().expect("one was asked for");
    let routed = route_all(txn, &mut source.server, copy_out, &mut router).await;
    source.statements += 1;
    txn.put_back(source);
    let copied = match routed {
        Ok(()) => router.finish(txn).await,
        Err(error) => Err(error),
    };
    if copied.is_err() {
        end_copies(txn).await;
    }
    copied
}

async fn route_all(txn: &mut Transaction, source: &mut Server, copy_out: &str, router: &mut CopyRouter) -> Result<()> {
    source.queue_query(copy_out, To::Nobody);
    source.flush().await?;
    let mut failure = None;
    while source.owes() {
        let (frame, verdict) = source.next_reply().await?;
        match verdict {
            Verdict::Error(_) => {
                failure.get_or_insert(PgError::from_body(frame.payload()));
            }
            _ if frame.tag == b'd' && failure.is_none() => {
                failure = router.push(txn, frame.payload()).await.err();
            }
            _ => {}
        }
    }
    failure.map_or(Ok(()), Err)
}

/// After an error: what servers still say about their parts of the COPY is read, so that it is not taken for the answer
/// to the statement that comes next, a ROLLBACK TO SAVEPOINT for one.
async fn end_copies(txn: &mut Transaction) {
    txn.failed = true;
    for participant in txn.participants().iter_mut().filter(|p| p.server.owes() && !p.server.is_poisoned()) {
        if let Err(error) = participant.server.finish_copy().await {
            tracing::debug!(%error, "a part of a COPY that had failed before");
        }
    }
}

/// A shard's rows go out when this much has come together.
const CHUNK_LEN: usize = 128 * 1024;
/// One CopyData message; Postgres takes any length, small ones keep its buffers small.
const COPY_DATA_LEN: usize = 64 * 1024;
/// A buffer that grew up to its next row goes in one write, most often.
const QUEUE_LEN: usize = 2 * CHUNK_LEN;
