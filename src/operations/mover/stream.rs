//! Applies the source's change stream to the target, exactly once and in the source's order.
//!
//! ```text
//!   ReplicationStream ──> Begin Insert Update ... Commit ──> BEGIN; INSERT; UPDATE; progress; COMMIT ──> target
//!                    <── confirm(lsn): only what is committed on the target
//! ```
//!
//! Several small source transactions share one target transaction while more of the stream is at hand. The position is
//! stored on the target in the same transaction (`progress`). Statements are pipelined: many are on their way at once,
//! their answers are awaited in order. An Apply does nothing on its own: it runs while one of its `run_...` functions
//! is awaited and rests otherwise, at the end of a source transaction, with no transaction open on the target.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};
use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::state::Move;
use super::xid_snapshot::XidSnapshot;
use crate::backend::replication::{Event, ReplicationStream};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal, qualified};
use crate::error::{PgError, Result, SqlState};
use crate::wire::pgoutput::{Lsn, Message, OldTuple, Relation, ReplicaIdentity, Tuple, Value};

/// The applying end of a move's stream.
pub struct Apply {
    stream: ReplicationStream,
    target: Session,
    /// Schema of `marker` and `progress` on the target, unquoted.
    schema: String,
    /// What the stream's schemas are called on the target, by their names on the source; unquoted.
    renamed: HashMap<String, String>,
    /// Schema of the marker table on the source, unquoted.
    marker_schema: String,
    tables: HashMap<u32, Arc<Table>>,
    statements: HashMap<String, Statement>,
    /// Statements whose answers are due, oldest first.
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    is_open: bool,
    in_source_transaction: bool,
    is_skipping: bool,
    /// Transactions up to here are on the target already.
    applied_before: Lsn,
    last_commit: Lsn,
    changes_in_batch: usize,
    marker_seen: i64,
    marker_applied: i64,
    rows: u64,
    alignment: Option<Alignment>,
}

/// While the target is brought to exactly one snapshot of the source.
struct Alignment {
    snapshot: XidSnapshot,
    /// Transactions that the snapshot does not see, kept back in commit order.
    held: Vec<Vec<Message>>,
    held_bytes: usize,
    /// The one being received.
    current: Option<Vec<Message>>,
    /// Position before the first of them: further must not be confirmed.
    safe: Lsn,
}

struct Pending {
    answer: Pin<Box<dyn Future<Output = std::result::Result<u64, tokio_postgres::Error>> + Send>>,
    /// The change must hit exactly one row of this table.
    table: Option<Arc<Table>>,
}

/// A table of the stream and what applying to it needs.
struct Table {
    /// Quoted.
    name: String,
    is_marker: bool,
    has_full_identity: bool,
    columns: Vec<Column>,
}

struct Column {
    /// Quoted.
    name: String,
    /// As SQL spells it, schema included.
    type_name: String,
    is_key: bool,
    /// GENERATED ALWAYS AS IDENTITY: can be inserted (overriding), never set by UPDATE.
    is_always_identity: bool,
}

impl Apply {
    /// Transactions that ended at or before `applied` are skipped.
    pub fn new(stream: ReplicationStream, target: Session, mv: &Move, applied: Lsn) -> Self {
        Self {
            stream,
            target,
            schema: mv.target_name(),
            renamed: mv
                .shard_schemas()
                .into_iter()
                .zip(mv.target_schemas())
                .chain([(mv.name(), mv.target_name())])
                .collect(),
            marker_schema: mv.name(),
            tables: HashMap::new(),
            statements: HashMap::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            is_open: false,
            in_source_transaction: false,
            is_skipping: false,
            applied_before: applied,
            last_commit: applied,
            changes_in_batch: 0,
            marker_seen: 0,
            marker_applied: 0,
            rows: 0,
            alignment: None,
        }
    }

    /// Rows inserted, updated and deleted so far, markers left out.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Runs until the marker row is committed on the target, and with it everything that was committed before it.
    ///
    /// Not cancel safe: after a cancelled call the Apply may only be dropped.
    pub async fn run_until_marker(&mut self, marker: i64) -> Result<()> {
        while self.marker_applied < marker {
            let event = self.stream.next().await?;
            self.take(event).await?;
        }
        self.rest().await
    }

    /// Runs for as long as `work` takes, and to the end of the source transaction that is arriving then.
    ///
    /// `work` is awaited to its end even when applying fails; its result comes first.
    pub async fn run_while<T>(&mut self, work: impl Future<Output = T>) -> (T, Result<()>) {
        let stop = CancellationToken::new();
        let work = async {
            let result = work.await;
            stop.cancel();
            result
        };
        let apply = async {
            loop {
                let may_stop = !self.in_source_transaction;
                let event = tokio::select! {
                    biased;
                    () = stop.cancelled(), if may_stop => return self.rest().await,
                    event = self.stream.next() => event?,
                };
                self.take(event).await?;
            }
        };
        tokio::join!(work, apply)
    }

    /// Runs until the target holds exactly what `snapshot` sees of the source, and rests there.
    ///
    /// `marker` was inserted after the snapshot was taken. What the snapshot sees has its commit record before the
    /// marker's, because a commit becomes visible after it is logged; of the other transactions before the marker none
    /// can be needed by a visible one, because that would have seen it. So those are kept back until `release`.
    /// Answers false, having applied all, when too much would have to be kept.
    pub async fn run_to_snapshot(&mut self, snapshot: XidSnapshot, marker: i64) -> Result<bool> {
        let safe = self.last_commit;
        self.alignment = Some(Alignment { snapshot, held: Vec::new(), held_bytes: 0, current: None, safe });
        while self.marker_seen < marker {
            let event = self.stream.next().await?;
            self.take(event).await?;
            let held_bytes = self.alignment.as_ref().map_or(0, |a| a.held_bytes);
            if held_bytes > HELD_BYTES_MAX && !self.in_source_transaction {
                self.release().await?;
                return Ok(false);
            }
        }
        // To the end of the marker's own transaction.
        while self.in_source_transaction {
            let event = self.stream.next().await?;
            self.take(event).await?;
        }
        self.rest().await?;
        Ok(true)
    }

    /// Applies what `run_to_snapshot` kept back.
    pub async fn release(&mut self) -> Result<()> {
        let Some(alignment) = self.alignment.take() else { return Ok(()) };
        for message in alignment.held.into_iter().flatten() {
            self.apply(message).await?;
        }
        self.rest().await
    }

    async fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Change(bytes) => {
                let size = bytes.len();
                self.sort(Message::decode(bytes)?, size).await?;
            }
            Event::Keepalive(end) => {
                // Nothing before `end` concerns us any more: the source need not keep that WAL.
                if !self.is_open && !self.in_source_transaction && self.alignment.is_none() {
                    self.last_commit = self.last_commit.max(end);
                    self.stream.confirm(end).await?;
                }
            }
        }
        // The batch grows as long as there is more at hand.
        if self.is_open && !self.in_source_transaction && !self.stream.has_received() {
            self.commit().await?;
        }
        self.stream.answer().await
    }

    /// To the target now, or kept back, or dropped because it is there already.
    async fn sort(&mut self, message: Message, size: usize) -> Result<()> {
        if let Message::Relation(relation) = message {
            return self.learn(relation).await;
        }
        if let Message::Begin { final_lsn, xid } = message {
            self.in_source_transaction = true;
            self.is_skipping = final_lsn < self.applied_before;
            if let Some(alignment) = self.alignment.as_mut().filter(|a| !a.snapshot.sees(xid)) {
                alignment.current = Some(Vec::new());
            }
        }
        let ends = matches!(message, Message::Commit { .. });
        if self.is_skipping {
            self.in_source_transaction = !ends;
            return Ok(());
        }
        if self.alignment.as_ref().is_some_and(|a| a.current.is_some()) {
            self.in_source_transaction = !ends;
            self.note_marker(&message);
            let alignment = self.alignment.as_mut().expect("checked above");
            alignment.held_bytes += size;
            let mut current = alignment.current.take().expect("checked above");
            current.push(message);
            if ends {
                alignment.held.push(current)
            } else {
                alignment.current = Some(current)
            }
            return Ok(());
        }
        self.apply(message).await
    }

    async fn apply(&mut self, message: Message) -> Result<()> {
        self.note_marker(&message);
        match message {
            Message::Begin { .. } => self.in_source_transaction = true,
            Message::Commit { end_lsn, .. } => {
                self.in_source_transaction = false;
                self.last_commit = self.last_commit.max(end_lsn);
                // A marker is waited for.
                let is_marked = self.marker_seen > self.marker_applied;
                if is_marked || self.changes_in_batch >= BATCH_CHANGES_MAX {
                    self.commit().await?;
                }
            }
            Message::Insert { relation, new } => {
                let table = self.table(relation)?;
                let (sql, values) = table.insert(new)?;
                self.change(&table, sql, values).await?;
            }
            Message::Update { relation, old, new } => {
                let table = self.table(relation)?;
                if let Some((sql, values)) = table.update(old, new)? {
                    self.change(&table, sql, values).await?;
                }
            }
            Message::Delete { relation, old } => {
                let table = self.table(relation)?;
                let (sql, values) = table.delete(&old)?;
                self.change(&table, sql, values).await?;
            }
            Message::Truncate { relations, cascade, .. } => {
                let names: Result<Vec<String>> =
                    relations.iter().map(|oid| self.table(*oid).map(|t| t.name.clone())).collect();
                let cascade = if cascade { " CASCADE" } else { "" };
                let sql = format!("TRUNCATE {}{cascade}", names?.join(", "));
                self.begin().await?;
                let target = self.target.clone();
                let answer = Box::pin(async move { target.batch_execute(&sql).await.map(|()| 0) });
                self.send(Pending { answer, table: None }, 0).await?;
            }
            Message::Relation(_) | Message::Type { .. } | Message::Origin { .. } | Message::Logical { .. } => {}
        }
        Ok(())
    }

    fn note_marker(&mut self, message: &Message) {
        let Message::Insert { relation, new } = message else { return };
        if !self.tables.get(relation).is_some_and(|table| table.is_marker) {
            return;
        }
        if let Some(Value::Text(id)) = new.first()
            && let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok())
        {
            self.marker_seen = self.marker_seen.max(id);
        }
    }

    /// A table is described once per connection, before its first change.
    async fn learn(&mut self, relation: Relation) -> Result<()> {
        let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attidentity = 'a'
                   FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
        let schema = self.renamed.get(&relation.schema).unwrap_or(&relation.schema);
        let rows = self.target.query(sql, &[schema, &relation.name]).await.map_err(pg_error)?;
        let name = qualified(schema, &relation.name);
        let columns = relation
            .columns
            .iter()
            .map(|column| {
                let row = rows.iter().find(|row| row.get::<_, &str>(0) == column.name).ok_or_else(|| {
                    PgError::new(
                        SqlState::UNDEFINED_COLUMN,
                        format!("column \"{}\" of {name} is missing on the target node", column.name),
                    )
                })?;
                Ok(Column {
                    name: identifier(&column.name),
                    type_name: row.get(1),
                    is_key: column.is_key,
                    is_always_identity: row.get(2),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let is_marker = relation.schema == self.marker_schema;
        let has_full_identity = relation.identity == ReplicaIdentity::Full;
        self.tables.insert(relation.oid, Arc::new(Table { name, is_marker, has_full_identity, columns }));
        Ok(())
    }

    fn table(&self, oid: u32) -> Result<Arc<Table>> {
        self.tables.get(&oid).cloned().ok_or_else(|| {
            PgError::new(SqlState::PROTOCOL_VIOLATION, "a change of a table that the stream has not described")
        })
    }

    async fn change(&mut self, table: &Arc<Table>, sql: String, values: Vec<TextValue>) -> Result<()> {
        self.begin().await?;
        let statement = match self.statements.get(&sql) {
            Some(statement) => statement.clone(),
            None => match self.target.prepare(&sql).await {
                Ok(statement) => {
                    self.statements.insert(sql, statement.clone());
                    statement
                }
                Err(error) => {
                    // An earlier statement's failure is the reason, if there is one.
                    self.settle().await?;
                    return Err(pg_error(error));
                }
            },
        };
        let bytes = values.iter().map(TextValue::len).sum();
        let target = self.target.clone();
        let answer = Box::pin(async move { target.execute_raw(&statement, values).await });
        self.rows += u64::from(!table.is_marker);
        self.changes_in_batch += 1;
        self.send(Pending { answer, table: Some(table.clone()) }, bytes).await
    }

    async fn begin(&mut self) -> Result<()> {
        if self.is_open {
            return Ok(());
        }
        self.is_open = true;
        let target = self.target.clone();
        // Deferrable unique keys may be violated for a moment, as they were on the source.
        let answer =
            Box::pin(async move { target.batch_execute("BEGIN; SET CONSTRAINTS ALL DEFERRED").await.map(|()| 0) });
        self.send(Pending { answer, table: None }, 0).await
    }

    /// Puts a statement on its way. Its first poll does that; later ones only wait for the answer.
    async fn send(&mut self, mut pending: Pending, bytes: usize) -> Result<()> {
        let first = std::future::poll_fn(|context| Poll::Ready(pending.answer.as_mut().poll(context))).await;
        match first {
            Poll::Ready(answer) => pending.judge(answer)?,
            Poll::Pending => self.pending.push_back(pending),
        }
        self.pending_bytes += bytes;
        if self.pending.len() >= PIPELINE_MAX || self.pending_bytes >= PIPELINE_BYTES_MAX {
            self.settle().await?;
        }
        Ok(())
    }

    /// Awaits all answers that are due.
    async fn settle(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        while let Some(mut pending) = self.pending.pop_front() {
            let answer = pending.answer.as_mut().await;
            pending.judge(answer)?;
        }
        Ok(())
    }

    /// Ends the target's transaction, if one is open.
    async fn rest(&mut self) -> Result<()> {
        if self.is_open { self.commit().await } else { Ok(()) }
    }

    async fn commit(&mut self) -> Result<()> {
        let safe = self.alignment.as_ref().map_or(self.last_commit, |a| a.safe);
        if self.is_open {
            self.settle().await?;
            let progress = qualified(&self.schema, "progress");
            let sql = format!("UPDATE {progress} SET lsn = {}; COMMIT", literal(&safe.to_string()));
            self.target.batch_execute(&sql).await.map_err(pg_error)?;
            self.is_open = false;
        }
        self.changes_in_batch = 0;
        if self.alignment.is_none() {
            self.marker_applied = self.marker_seen;
        }
        self.stream.confirm(safe).await
    }
}

impl Pending {
    fn judge(&self, answer: std::result::Result<u64, tokio_postgres::Error>) -> Result<()> {
        match (answer, &self.table) {
            (Ok(1), _) | (Ok(_), None) => Ok(()),
            (Ok(rows), Some(table)) => Err(PgError::new(
                SqlState::DATA_CORRUPTED,
                format!("a change of one row of {} found {rows} rows on the target node", table.name),
            )),
            (Err(error), table) => {
                let error = pg_error(error);
                Err(match table {
                    Some(table) => error.field(b'W', format!("applying a change to {}", table.name)),
                    None => error,
                })
            }
        }
    }
}

impl Table {
    fn insert(&self, new: Tuple) -> Result<(String, Vec<TextValue>)> {
        self.check(&new)?;
        let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        let numbers: Vec<String> = (1..=names.len()).map(|n| format!("${n}")).collect();
        // Values of identity columns were chosen on the source.
        let sql = if names.is_empty() {
            format!("INSERT INTO {} DEFAULT VALUES", self.name)
        } else {
            format!(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
                self.name,
                names.join(", "),
                numbers.join(", ")
            )
        };
        Ok((sql, new.into_iter().map(TextValue::new).collect::<Result<_>>()?))
    }

    /// None when no column that was sent can have changed.
    fn update(&self, old: Option<OldTuple>, new: Tuple) -> Result<Option<(String, Vec<TextValue>)>> {
        self.check(&new)?;
        let identity = match &old {
            Some(old) => old.tuple(),
            None if self.has_full_identity => return Err(self.malformed()),
            None => &new,
        };
        self.check(identity)?;
        let (mut set, mut values) = (Vec::new(), Vec::new());
        for (i, (column, value)) in self.columns.iter().zip(&new).enumerate() {
            if *value == Value::Unchanged || (old.is_none() && column.is_key) {
                continue;
            }
            if column.is_always_identity {
                if old.is_some() && identity[i] != Value::Null && identity[i] != *value {
                    return Err(PgError::unsupported(format!(
                        "cannot replicate a change of column {} of {}, which is an identity column generated always",
                        column.name, self.name
                    )));
                }
                continue;
            }
            values.push(TextValue::new(value.clone())?);
            set.push(format!("{} = ${}", column.name, values.len()));
        }
        if set.is_empty() {
            return Ok(None);
        }
        let row = self.row(identity, &mut values)?;
        Ok(Some((format!("UPDATE {} SET {} WHERE {row}", self.name, set.join(", ")), values)))
    }

    fn delete(&self, old: &OldTuple) -> Result<(String, Vec<TextValue>)> {
        self.check(old.tuple())?;
        let mut values = Vec::new();
        let row = self.row(old.tuple(), &mut values)?;
        Ok((format!("DELETE FROM {} WHERE {row}", self.name), values))
    }

    /// The condition that finds the row, by its key or (with a full identity) by all its columns.
    fn row(&self, identity: &Tuple, values: &mut Vec<TextValue>) -> Result<String> {
        if self.has_full_identity {
            let mut numbers = Vec::new();
            for (column, value) in self.columns.iter().zip(identity) {
                values.push(TextValue::new(value.clone())?);
                numbers.push(format!("${}::{}", values.len(), column.type_name));
            }
            let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
            // Compares bytes: works for types without equality, and finds the row itself, not one that is merely equal.
            // Of several identical rows any will do.
            return Ok(format!(
                "ctid = (SELECT ctid FROM ONLY {} WHERE ROW({})::record *= ROW({})::record LIMIT 1)",
                self.name,
                names.join(", "),
                numbers.join(", ")
            ));
        }
        let mut conditions = Vec::new();
        for (column, value) in self.columns.iter().zip(identity).filter(|(column, _)| column.is_key) {
            values.push(TextValue::new(value.clone())?);
            conditions.push(format!("{} = ${}", column.name, values.len()));
        }
        if conditions.is_empty() { Err(self.malformed()) } else { Ok(conditions.join(" AND ")) }
    }

    fn check(&self, tuple: &Tuple) -> Result<()> {
        if tuple.len() == self.columns.len() { Ok(()) } else { Err(self.malformed()) }
    }

    fn malformed(&self) -> PgError {
        PgError::new(SqlState::PROTOCOL_VIOLATION, format!("malformed change of {} in the change stream", self.name))
    }
}

/// A value in its type's text form, whatever the type.
#[derive(Debug)]
struct TextValue(Option<Bytes>);

impl TextValue {
    fn new(value: Value) -> Result<Self> {
        match value {
            Value::Null => Ok(Self(None)),
            Value::Text(text) => Ok(Self(Some(text))),
            Value::Unchanged | Value::Binary(_) => {
                Err(PgError::new(SqlState::PROTOCOL_VIOLATION, "a value is missing in the change stream"))
            }
        }
    }

    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, Bytes::len)
    }
}

impl ToSql for TextValue {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0 {
            Some(text) => {
                out.put_slice(text);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

/// Statements on their way at once.
const PIPELINE_MAX: usize = 256;
const PIPELINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Changes in one target transaction, unless one source transaction has more.
const BATCH_CHANGES_MAX: usize = 1000;
/// What alignment keeps in memory.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
