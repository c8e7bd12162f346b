//! Statements of the proxy's own: what is run on a server for somebody here, its answers read to the end.

use std::time::Duration;

use super::{BROKEN_ROW, Row, Server};
use crate::backend::prepared::{Plans, StatementKey};
use crate::backend::settings::SessionSettings;
use crate::error::{PgError, Result};
use crate::transport::timer;
use crate::wire::answer::Status;
use crate::wire::frontend::{self, Bind};
use crate::wire::reply_queue::{To, Verdict};
use crate::wire::rows;

impl Server {
    /// Runs SQL in the simple protocol and returns the rows of its last result, as text.
    ///
    /// Errors: the server's own, after its ReadyForQuery; the connection stays usable then.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.queue_query(sql, To::Nobody);
        self.finish().await
    }

    /// As `query`, of a statement that this connection keeps prepared: for one that takes as long to plan as to run.
    pub async fn query_prepared(&mut self, key: StatementKey, sql: &str) -> Result<Vec<Row>> {
        self.ensure_prepared(key, Plans::Any, &[], To::Nobody, || sql.to_owned());
        self.queue_bind_prepared(&Bind::text(&[]), key, To::Nobody);
        self.queue_execute(b"", 0, To::Nobody);
        self.queue_sync();
        self.finish().await
    }

    /// As `query`, with the rows of every result.
    pub async fn query_all(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.queue_query(sql, To::Nobody);
        self.read_replies(true, true).await
    }

    /// Sends what is queued and reads every reply that is due. Returns the rows of the last result, as text;
    /// the first error once all replies are in.
    pub async fn finish(&mut self) -> Result<Vec<Row>> {
        self.read_replies(true, false).await
    }

    /// Like `finish`, for replies of a COPY FROM STDIN whose data has been queued.
    pub async fn finish_copy(&mut self) -> Result<()> {
        self.read_replies(false, false).await.map(|_| ())
    }

    async fn read_replies(&mut self, refuse_copy: bool, keep_all: bool) -> Result<Vec<Row>> {
        self.flush().await?;
        let (mut result, mut error, mut columns) = (Vec::new(), None, None);
        while self.owes() {
            if self.pop_simulated().is_some() {
                continue;
            }
            let (frame, verdict) = self.next_reply().await?;
            match (verdict, frame.tag) {
                (Verdict::Error(_), _) => {
                    let server_error = PgError::from_body(frame.payload());
                    if self.broken {
                        return Err(server_error);
                    }
                    error.get_or_insert(server_error);
                }
                (_, b'C') => {
                    let tag = frame.payload().strip_suffix(&[0]).unwrap_or(frame.payload());
                    self.last_tag = String::from_utf8_lossy(tag).into_owned();
                }
                (_, b'T') => {
                    columns = rows::column_count(frame.payload());
                    if !keep_all {
                        result.clear();
                    }
                }
                (_, b'D') => {
                    let row = rows::read_data_row(frame.payload()).ok();
                    let row = row.filter(|_| columns.is_none() || columns == rows::column_count(frame.payload()));
                    let row = row.ok_or_else(|| self.lost(BROKEN_ROW))?;
                    result.push(row.iter().map(|v| v.map(|v| String::from_utf8_lossy(v).into_owned())).collect());
                }
                (_, b'G') if refuse_copy => {
                    // A COPY FROM STDIN that nobody feeds: end it, its error follows.
                    frontend::copy_fail("no data is sent here", &mut self.write);
                    self.flush().await?;
                }
                _ => {}
            }
        }
        error.map_or(Ok(result), Err)
    }

    /// Does it answer a Sync in time? When not, it is broken.
    pub(in crate::backend) async fn is_well(&mut self, timeout: Duration) -> bool {
        self.queue_sync();
        let is_well = matches!(timer::timeout(timeout, self.finish()).await, Ok(Ok(_)));
        self.broken |= !is_well;
        is_well
    }

    /// Takes away everything that a session has left on it, so that another may have it.
    ///
    /// Errors: the server's; then it must not be reused.
    pub async fn discard_all(&mut self) -> Result<()> {
        if self.status != Status::Idle || self.owes() || self.has_unsent() {
            return Err(self.lost("it was left in the middle of something"));
        }
        self.query("DISCARD ALL").await?;
        self.prepared.clear();
        self.settings = SessionSettings::default();
        self.retired = false;
        Ok(())
    }
}
