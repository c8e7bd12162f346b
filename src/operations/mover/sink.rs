//! One target of a stream: statements are pipelined there, many on their way at once, their answers awaited in order.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tokio_postgres::Statement;

use super::change::{Table, TextValue};
use super::session::Session;
use crate::catalog::pg_error;
use crate::catalog::quote::{literal, qualified};
use crate::error::{PgError, Result, SqlState};
use crate::wire::pgoutput::Lsn;

pub struct Sink {
    pub session: Session,
    /// Where the position is stored, quoted.
    progress: String,
    statements: HashMap<String, Statement>,
    /// Statements whose answers are due, oldest first.
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    is_open: bool,
    answered: Progress,
}

/// How many statements a stream's targets have answered.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Pending {
    answer: Pin<Box<dyn Future<Output = std::result::Result<u64, tokio_postgres::Error>> + Send>>,
    /// The change must hit exactly one row of this table.
    table: Option<Arc<Table>>,
}

impl Sink {
    /// `schema` holds the table `progress`; unquoted.
    pub fn new(session: Session, schema: &str, answered: Progress) -> Self {
        let progress = qualified(schema, "progress");
        let (statements, pending) = (HashMap::new(), VecDeque::new());
        Self { session, progress, statements, pending, pending_bytes: 0, is_open: false, answered }
    }

    /// Is a transaction open there?
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Sends the change of one row.
    pub async fn change(&mut self, table: &Arc<Table>, sql: String, values: Vec<TextValue>) -> Result<()> {
        self.begin().await?;
        let statement = match self.statements.get(&sql) {
            Some(statement) => statement.clone(),
            None => match self.session.prepare(&sql).await {
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
        let session = self.session.clone();
        let answer = Box::pin(async move { session.execute_raw(&statement, values).await });
        self.send(Pending { answer, table: Some(table.clone()) }, bytes).await
    }

    /// Sends a statement that is no change of a row.
    pub async fn run(&mut self, sql: String) -> Result<()> {
        self.begin().await?;
        self.send_text(sql).await
    }

    async fn begin(&mut self) -> Result<()> {
        if self.is_open {
            return Ok(());
        }
        self.is_open = true;
        // Deferrable unique keys may be violated for a moment, as they were on the source. Where there is an index that finds the
        // row it is the way, whatever statistics say of a table that was filled just now.
        let begin = "BEGIN; SET CONSTRAINTS ALL DEFERRED; SET LOCAL enable_seqscan TO off; SET LOCAL jit TO off";
        self.send_text(begin.to_owned()).await
    }

    async fn send_text(&mut self, sql: String) -> Result<()> {
        let session = self.session.clone();
        let answer = Box::pin(async move { session.batch_execute(&sql).await.map(|()| 0) });
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
            self.answered.0.fetch_add(1, Ordering::Relaxed);
            pending.judge(answer)?;
        }
        Ok(())
    }

    /// Ends the transaction, if one is open; everything up to `position` is here then.
    pub async fn commit(&mut self, position: Lsn) -> Result<()> {
        if !self.is_open {
            return Ok(());
        }
        self.settle().await?;
        let sql = format!("UPDATE {} SET lsn = {}; COMMIT", self.progress, literal(&position.to_string()));
        self.session.batch_execute(&sql).await.map_err(pg_error)?;
        self.is_open = false;
        Ok(())
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

/// Statements on their way at once.
const PIPELINE_MAX: usize = 256;
const PIPELINE_BYTES_MAX: usize = 4 * 1024 * 1024;
