//! Applies the source's change stream to the target, exactly once and in the source's order.
//!
//! ```text
//!   ReplicationStream ──> Begin Insert Update ... Commit ──> BEGIN; INSERT; UPDATE; progress; COMMIT ──> target
//!                    <── confirm(lsn): only what is committed on the target
//! ```
//!
//! Several small source transactions share one target transaction while more of the stream is at hand. The position is
//! stored on the target in the same transaction (`progress`). Where the source is cut into pieces, each change goes to
//! its piece's node, and their transactions end together. An Apply does nothing on its own: it runs while one of its
//! `run_...` functions is awaited and rests otherwise, at the end of a source transaction, with no transaction open on a
//! target.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::change::{Column, Table, TextValue};
use super::pieces::Routes;
use super::row_index::IS_HASHED;
use super::sink::{Progress, Sink};
use super::state::Move;
use super::target::Target;
use super::throttle::Pace;
use super::xid_snapshot::XidSnapshot;
use crate::backend::replication::{Event, ReplicationStream};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, qualified};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::ShardGroupId;
use crate::wire::pgoutput::{Lsn, Message, Relation, ReplicaIdentity, Tuple, Value};

/// The applying end of a move's stream.
pub struct Apply {
    stream: ReplicationStream,
    /// One per target node.
    sinks: Vec<Sink>,
    /// Shard groups that rows go to, each with the index of its node's sink.
    places: Vec<(ShardGroupId, usize)>,
    routes: Routes,
    /// The schemas on the source, unquoted, and what they are without the shard group.
    schemas: HashMap<String, String>,
    /// The schemas at each place, by the latter, unquoted.
    placed: Vec<HashMap<String, String>>,
    /// Schema of the marker table on the source, unquoted.
    marker_schema: String,
    /// The marker table on the targets, quoted.
    marker: String,
    tables: HashMap<u32, Known>,
    in_source_transaction: bool,
    is_skipping: bool,
    /// Transactions up to here are on the target already.
    applied_before: Lsn,
    last_commit: Lsn,
    changes_in_batch: usize,
    marker_seen: i64,
    /// Whoever waits for a marker is told.
    applied_to: watch::Sender<AppliedTo>,
    progress: Progress,
    rows: u64,
    /// The newest transactions that were applied, oldest first.
    applied: VecDeque<u32>,
    alignment: Option<Alignment>,
    /// Switched off while statements are held.
    pub pace: Pace,
}

/// Tells of markers that are committed on the targets.
pub struct Arrivals(watch::Receiver<AppliedTo>);

#[derive(Debug, Default)]
struct AppliedTo {
    marker: i64,
    /// It will never be more.
    has_failed: bool,
}

impl Arrivals {
    /// Returns true when the marker is there, false when it cannot get there any more.
    pub async fn wait(&mut self, marker: i64) -> bool {
        let seen = self.0.wait_for(|applied| applied.marker >= marker || applied.has_failed).await;
        seen.is_ok_and(|applied| applied.marker >= marker)
    }
}

/// A table that the stream has described.
#[derive(Clone)]
struct Known {
    table: Arc<Table>,
    /// Its name at each place, quoted; of the marker table, at each sink.
    names: Arc<Vec<String>>,
    /// The condition for its rows there, where those of others are among them.
    own_rows: Option<String>,
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

impl Apply {
    /// Transactions that ended at or before `applied` are skipped.
    pub fn new(
        stream: ReplicationStream,
        targets: &[Target],
        mv: &Move,
        routes: Routes,
        applied: Lsn,
        pace: Pace,
    ) -> Self {
        let places = targets.iter().enumerate().flat_map(|(sink, t)| t.groups.iter().map(move |group| (*group, sink)));
        let groups = targets.iter().flat_map(|target| target.groups.iter().copied());
        let progress = Progress::default();
        let sink = |target: &Target| Sink::new(target.session.clone(), &mv.target_name(), progress.clone());
        Self {
            stream,
            sinks: targets.iter().map(sink).collect(),
            placed: groups.map(|group| mv.schemas.iter().cloned().zip(mv.placed_schemas(group)).collect()).collect(),
            places: places.collect(),
            routes,
            schemas: mv.shard_schemas().into_iter().zip(mv.schemas.iter().cloned().cycle()).collect(),
            marker_schema: mv.name(),
            marker: mv.target_marker(),
            tables: HashMap::new(),
            in_source_transaction: false,
            is_skipping: false,
            applied_before: applied,
            last_commit: applied,
            changes_in_batch: 0,
            marker_seen: 0,
            applied_to: watch::Sender::default(),
            progress,
            rows: 0,
            applied: VecDeque::new(),
            alignment: None,
            pace,
        }
    }

    /// Rows inserted, updated and deleted so far, markers left out.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// For those who wait for a marker while somebody else runs this.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals(self.applied_to.subscribe())
    }

    /// A table with changes whose rows are found by reading all of it, as the source calls it.
    pub fn slow_table(&self) -> Option<&str> {
        let is_slow = |table: &Table| table.has_full_identity && !table.columns.iter().any(|column| column.is_hashed);
        self.tables.values().find(|known| is_slow(&known.table)).map(|known| known.table.name.as_str())
    }

    /// Grows while changes are applied.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Runs until the marker row is committed on the target, and with it everything that was committed before it.
    ///
    /// Not cancel safe: after a cancelled call the Apply may only be dropped.
    pub async fn run_until_marker(&mut self, marker: i64) -> Result<()> {
        while self.applied_to.borrow().marker < marker {
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
            let applied = self.run_until_told(&stop).await;
            if applied.is_err() {
                // `work` may wait for a marker.
                self.applied_to.send_modify(|applied| applied.has_failed = true);
            }
            applied
        };
        tokio::join!(work, apply)
    }

    async fn run_until_told(&mut self, stop: &CancellationToken) -> Result<()> {
        loop {
            let may_stop = !self.in_source_transaction;
            let event = tokio::select! {
                biased;
                () = stop.cancelled(), if may_stop => return self.rest().await,
                event = self.stream.next() => event?,
            };
            self.take(event).await?;
        }
    }

    /// Has a transaction been applied that the snapshot of the source does not see? A commit is in the stream as soon as
    /// it is logged, and visible on the source a moment later.
    pub fn is_ahead_of(&self, snapshot: &XidSnapshot) -> bool {
        self.applied.iter().any(|xid| !snapshot.sees(*xid))
    }

    /// Runs until the target holds exactly what `snapshot` sees of the source, and rests there.
    ///
    /// `marker` was inserted after the snapshot was taken. What the snapshot sees has its commit record before the
    /// marker's, because a commit becomes visible after it is logged; of the other transactions before the marker none
    /// can be needed by a visible one, because that would have seen it. So those are kept back until `release`. What has
    /// been applied already must be seen (`is_ahead_of`).
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
                self.pace.spend(size).await;
                self.sort(Message::decode(bytes)?, size).await?;
            }
            Event::Keepalive(end) => {
                // Nothing before `end` concerns us any more: the source need not keep that WAL.
                if !self.is_open() && !self.in_source_transaction && self.alignment.is_none() {
                    self.last_commit = self.last_commit.max(end);
                    self.stream.confirm(end).await?;
                }
            }
        }
        // The batch grows as long as there is more at hand.
        if self.is_open() && !self.in_source_transaction && !self.stream.has_received() {
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
            Message::Begin { xid, .. } => {
                self.in_source_transaction = true;
                if self.applied.len() == APPLIED_MAX {
                    self.applied.pop_front();
                }
                self.applied.push_back(xid);
            }
            Message::Commit { end_lsn, .. } => {
                self.in_source_transaction = false;
                self.last_commit = self.last_commit.max(end_lsn);
                // A marker is waited for.
                let is_marked = self.marker_seen > self.applied_to.borrow().marker;
                if is_marked || self.changes_in_batch >= BATCH_CHANGES_MAX {
                    self.commit().await?;
                }
            }
            Message::Insert { relation, new } => {
                let Known { table, names, .. } = self.table(relation)?;
                if table.is_marker {
                    for at in 0..self.sinks.len() {
                        let (sql, values) = table.insert(&names[at], new.clone())?;
                        self.sinks[at].change(&table, sql, values).await?;
                    }
                    return Ok(());
                }
                let place = self.place(&table, &new, None)?;
                let (sql, values) = table.insert(&names[place], new)?;
                self.change(place, &table, sql, values).await?;
            }
            Message::Update { relation, old, new } => {
                let Known { table, names, .. } = self.table(relation)?;
                let place = self.place(&table, &new, old.as_ref().map(|old| old.tuple()))?;
                if let Some((sql, values)) = table.update(&names[place], old, new)? {
                    self.change(place, &table, sql, values).await?;
                }
            }
            Message::Delete { relation, old } => {
                let Known { table, names, .. } = self.table(relation)?;
                let place = self.place(&table, old.tuple(), None)?;
                let (sql, values) = table.delete(&names[place], &old)?;
                self.change(place, &table, sql, values).await?;
            }
            Message::Truncate { relations, cascade, .. } => {
                let tables: Vec<Known> = relations.iter().map(|oid| self.table(*oid)).collect::<Result<_>>()?;
                let cascade = if cascade { " CASCADE" } else { "" };
                for (place, (_, sink)) in self.places.iter().enumerate() {
                    for known in tables.iter() {
                        if let Some(own_rows) = &known.own_rows {
                            let delete = format!("DELETE FROM ONLY {} WHERE {own_rows}", known.names[place]);
                            self.sinks[*sink].run(delete).await?;
                        }
                    }
                    let tables = tables.iter().filter(|known| known.own_rows.is_none());
                    let names: Vec<&str> = tables.map(|known| known.names[place].as_str()).collect();
                    if names.is_empty() {
                        continue;
                    }
                    self.sinks[*sink].run(format!("TRUNCATE {}{cascade}", names.join(", "))).await?;
                }
            }
            Message::Relation(_) | Message::Type { .. } | Message::Origin { .. } | Message::Logical { .. } => {}
        }
        Ok(())
    }

    fn note_marker(&mut self, message: &Message) {
        let Message::Insert { relation, new } = message else { return };
        if !self.tables.get(relation).is_some_and(|known| known.table.is_marker) {
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
        let is_marker = relation.schema == self.marker_schema;
        let names: Vec<String> = match self.schemas.get(&relation.schema) {
            Some(schema) => self.placed.iter().map(|schemas| qualified(&schemas[schema], &relation.name)).collect(),
            None if is_marker => vec![self.marker.clone(); self.sinks.len()],
            None => return Err(not_described()),
        };
        // The places are alike.
        let sql = format!(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attidentity = 'a', {IS_HASHED} FROM pg_attribute a
             WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped"
        );
        let first = self.places.first().map_or(0, |(_, sink)| *sink);
        let rows = self.sinks[first].session.query(&sql, &[&names[0]]).await.map_err(pg_error)?;
        let columns = relation
            .columns
            .iter()
            .map(|column| {
                let row = rows.iter().find(|row| row.get::<_, &str>(0) == column.name).ok_or_else(|| {
                    PgError::new(
                        SqlState::UNDEFINED_COLUMN,
                        format!("column \"{}\" of {} is missing on the target node", column.name, names[0]),
                    )
                })?;
                Ok(Column {
                    name: identifier(&column.name),
                    type_name: row.get(1),
                    is_hashed: row.get(3),
                    is_key: column.is_key,
                    is_always_identity: row.get(2),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let key = match self.schemas.get(&relation.schema).and_then(|s| self.routes.column_of(s, &relation.name)) {
            Some(key) => relation.columns.iter().position(|column| column.name == key),
            None => None,
        };
        let has_full_identity = relation.identity == ReplicaIdentity::Full;
        let name = qualified(&relation.schema, &relation.name);
        let table = Arc::new(Table { name, is_marker, has_full_identity, columns, key });
        let own_rows = self.routes.own_rows(&relation.schema, table.key.map(|key| relation.columns[key].name.as_str()));
        self.tables.insert(relation.oid, Known { table, names: Arc::new(names), own_rows });
        Ok(())
    }

    fn table(&self, oid: u32) -> Result<Known> {
        self.tables.get(&oid).cloned().ok_or_else(not_described)
    }

    /// Index of the place that the row is at. Rows do not change places: distribution columns cannot be updated.
    fn place(&self, table: &Table, row: &Tuple, old: Option<&Tuple>) -> Result<usize> {
        let Some(key) = table.key else {
            return if self.places.len() == 1 { Ok(0) } else { Err(table.malformed()) };
        };
        let value = match (row.get(key), old.and_then(|old| old.get(key))) {
            (Some(Value::Unchanged), Some(value)) => value,
            (Some(value), _) => value,
            (None, _) => return Err(table.malformed()),
        };
        let Value::Text(text) = value else { return Err(table.malformed()) };
        let group = self.routes.group_of_text(text)?;
        self.places.iter().position(|(id, _)| *id == group).ok_or_else(|| table.malformed())
    }

    async fn change(&mut self, place: usize, table: &Arc<Table>, sql: String, values: Vec<TextValue>) -> Result<()> {
        self.rows += 1;
        self.changes_in_batch += 1;
        self.sinks[self.places[place].1].change(table, sql, values).await
    }

    fn is_open(&self) -> bool {
        self.sinks.iter().any(Sink::is_open)
    }

    /// Ends the targets' transactions, where one is open.
    async fn rest(&mut self) -> Result<()> {
        if self.is_open() { self.commit().await } else { Ok(()) }
    }

    async fn commit(&mut self) -> Result<()> {
        let safe = self.alignment.as_ref().map_or(self.last_commit, |a| a.safe);
        try_join_all(self.sinks.iter_mut().map(|sink| sink.commit(safe))).await?;
        self.changes_in_batch = 0;
        if self.alignment.is_none() {
            self.applied_to.send_modify(|applied| applied.marker = self.marker_seen);
        }
        self.stream.confirm(safe).await
    }
}

fn not_described() -> PgError {
    PgError::new(SqlState::PROTOCOL_VIOLATION, "a change of a table that the stream has not described")
}

/// More than there can be transactions that are about to become visible.
const APPLIED_MAX: usize = 4096;
/// Changes in one target transaction, unless one source transaction has more.
const BATCH_CHANGES_MAX: usize = 1000;
/// What alignment keeps in memory.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
