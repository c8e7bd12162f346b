//! The copy out of the slot's snapshot.
//!
//! ```text
//!   source ──COPY (SELECT ...) TO STDOUT──> here, frame by frame ──COPY ... FROM STDIN──> target
//!                                             └─ in pieces: row by row ──> a buffer per piece ──full──> its node
//! ```
//!
//! Memory is flat: each side waits for the other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt, pin_mut};

use super::guard::Guard;
use super::pieces::Routes;
use super::session::{self, Session};
use super::snapshot::SourceTable;
use super::state::{Move, MoveState};
use super::throttle::CopyThrottle;
use super::{MoverEnvironment, StopPoint};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::{PgError, Result, SqlState};
use crate::executor::combine::{COPY_HEADER, COPY_TRAILER};
use crate::shard_map::ShardGroupId;
use crate::wire::copy_rows::{CopyFormat, CopyTarget, FieldValue, RowSplitter};

/// What a copy has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    pub rows: u64,
    pub bytes: u64,
    pub took: Duration,
}

/// Copies every table out of the exported snapshot, or, where nobody writes, as it is: from `target_created` to `copied`. The move's
/// row tells of it meanwhile.
pub async fn copy(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &mut Move,
    tables: &[SourceTable],
    routes: &Routes,
    snapshot: Option<&str>,
    watch: &Guard,
) -> Result<Copied> {
    mv.note_phase(catalog, "Copying Data", tables.iter().map(|t| t.bytes).sum()).await?;
    let throttle = CopyThrottle::new(environment, watch);
    let copied = watch.during(copy_all(environment, catalog, mv, tables, routes, snapshot, throttle)).await?;
    mv.advance(catalog, MoveState::Copied, "Creating Constraints").await?;
    environment.stop_at(StopPoint::Copied)?;
    Ok(copied)
}

async fn copy_all(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &Move,
    tables: &[SourceTable],
    routes: &Routes,
    snapshot: Option<&str>,
    throttle: CopyThrottle<'_>,
) -> Result<Copied> {
    let source = session::connect(environment, mv.source).await?;
    let mut targets = Vec::new();
    for (node, groups) in mv.targets() {
        let session = session::connect_as_replica(environment, node).await?;
        targets.extend(groups.into_iter().map(|group| (group, session.clone())));
    }
    source.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(pg_error)?;
    if let Some(snapshot) = snapshot {
        let sql = format!("SET TRANSACTION SNAPSHOT {}", literal(snapshot));
        source.batch_execute(&sql).await.map_err(pg_error)?;
    }
    let mut meter =
        Meter { throttle, catalog, mv, began: Instant::now(), done: Copied::default(), noted: Instant::now() };
    for table in tables {
        let rows = match &targets[..] {
            [(group, target)] => copy_whole(&source, target, table, &table.name_in(mv, *group), &mut meter).await?,
            _ => copy_in_pieces(&source, &targets, table, (mv, routes), &mut meter).await?,
        };
        meter.done.rows += rows;
        meter.note().await?;
    }
    source.batch_execute("COMMIT").await.map_err(pg_error)?;
    Ok(meter.done)
}

/// Counts what is copied, tells those who watch, and keeps to the limits.
struct Meter<'a> {
    throttle: CopyThrottle<'a>,
    catalog: &'a Session,
    mv: &'a Move,
    began: Instant,
    /// Rows of whole tables only.
    done: Copied,
    /// When the move's row was told last.
    noted: Instant,
}

impl Meter<'_> {
    /// Returns when so many bytes may go.
    ///
    /// Errors: those of the throttle and of the catalog.
    async fn admit(&mut self, bytes: usize) -> Result<()> {
        self.throttle.admit(bytes).await?;
        self.done.bytes += bytes as u64;
        if self.noted.elapsed() < NOTE_EVERY { Ok(()) } else { self.note().await }
    }

    async fn note(&mut self) -> Result<()> {
        self.done.took = self.began.elapsed();
        self.noted = Instant::now();
        self.mv.note_copied(self.catalog, self.done).await
    }
}

/// Answers how many rows there were.
async fn copy_whole(
    source: &Session,
    target: &Session,
    table: &SourceTable,
    into: &str,
    meter: &mut Meter<'_>,
) -> Result<u64> {
    let rows = source.copy_out(&copy_out(table)).await.map_err(pg_error)?;
    let sink = target.copy_in::<_, Bytes>(&copy_in(table, into)).await.map_err(pg_error)?;
    pin_mut!(rows, sink);
    while let Some(frame) = rows.next().await {
        let frame = frame.map_err(pg_error)?;
        meter.admit(frame.len()).await?;
        sink.feed(frame).await.map_err(pg_error)?;
    }
    sink.finish().await.map_err(pg_error)
}

/// Answers how many rows there were. A node has one connection, so its pieces take turns: each full buffer is a COPY of its own.
async fn copy_in_pieces(
    source: &Session,
    targets: &[(ShardGroupId, Session)],
    table: &SourceTable,
    (mv, routes): (&Move, &Routes),
    meter: &mut Meter<'_>,
) -> Result<u64> {
    let places: HashMap<ShardGroupId, (&Session, String)> =
        targets.iter().map(|(group, target)| (*group, (target, copy_in(table, &table.name_in(mv, *group))))).collect();
    let is_key = |column: &String| table.key.as_deref().is_some_and(|key| *column == identifier(key));
    let column = table.stored.iter().position(is_key).ok_or_else(|| {
        PgError::new(SqlState::INTERNAL_ERROR, format!("the distribution column of {} is not copied", table.name))
    })?;
    let target = CopyTarget { table: table.name.clone(), columns: table.stored.clone(), column };
    let format = if table.is_binary { CopyFormat::Binary } else { CopyFormat::text() };
    let mut splitter = RowSplitter::new(format, target, ROW_BYTES_MAX);
    let mut buffers: HashMap<ShardGroupId, BytesMut> = HashMap::new();
    let mut row_count = 0;
    let rows = source.copy_out(&copy_out(table)).await.map_err(pg_error)?;
    pin_mut!(rows);
    let mut is_open = true;
    while is_open {
        match rows.next().await {
            Some(frame) => {
                let frame = frame.map_err(pg_error)?;
                meter.admit(frame.len()).await?;
                splitter.push(&frame);
            }
            None => {
                splitter.finish();
                is_open = false;
            }
        }
        while let Some(row) = splitter.next_row()? {
            let group = match &row.value {
                FieldValue::Text(text) => routes.group_of_text(text)?,
                FieldValue::Binary(bytes) => routes.group_of_binary(bytes)?,
                FieldValue::Null => {
                    let message = format!("a row of {} has no value in the distribution column", table.name);
                    return Err(PgError::new(SqlState::DATA_CORRUPTED, message));
                }
            };
            row_count += 1;
            let buffer = buffers.entry(group).or_default();
            buffer.extend_from_slice(row.bytes);
            if buffer.len() >= CHUNK_BYTES {
                let rows = buffer.split().freeze();
                send(&places[&group], table, rows).await?;
            }
        }
    }
    for (group, rows) in buffers.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        send(&places[&group], table, rows.freeze()).await?;
    }
    Ok(row_count)
}

async fn send((target, copy): &(&Session, String), table: &SourceTable, rows: Bytes) -> Result<()> {
    let sink = target.copy_in::<_, Bytes>(copy).await.map_err(pg_error)?;
    pin_mut!(sink);
    let (header, trailer): (&'static [u8], &'static [u8]) =
        if table.is_binary { (COPY_HEADER, COPY_TRAILER) } else { (b"", b"") };
    for part in [Bytes::from_static(header), rows, Bytes::from_static(trailer)] {
        if !part.is_empty() {
            sink.feed(part).await.map_err(pg_error)?;
        }
    }
    sink.finish().await.map_err(pg_error)?;
    Ok(())
}

/// ONLY: a table that others inherit from has rows of its own.
fn copy_out(table: &SourceTable) -> String {
    format!(
        "COPY (SELECT {} FROM ONLY {}{}) TO STDOUT (FORMAT {})",
        table.stored.join(", "),
        table.name,
        table.condition(),
        format_of(table)
    )
}

fn copy_in(table: &SourceTable, into: &str) -> String {
    format!("COPY {into} ({}) FROM STDIN (FORMAT {})", table.stored.join(", "), format_of(table))
}

fn format_of(table: &SourceTable) -> &'static str {
    if table.is_binary { "binary" } else { "text" }
}

/// How often the move's row is told how far the copy is.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// A piece's rows go out when this much has come together.
const CHUNK_BYTES: usize = 1024 * 1024;
/// As large as Postgres can make one, and a little.
const ROW_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024 - 1;
