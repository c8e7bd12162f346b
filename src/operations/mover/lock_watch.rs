//! Waits for locks end in time by our own clock.
//!
//! A server measures `lock_timeout` by the time of day. Where that is put back by an hour, whoever waits does so for an hour
//! longer, and all who queue behind him.

use std::pin::pin;
use std::time::Duration;

use tokio_postgres::Client;

use super::{MoverEnvironment, session};
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

/// Watches one session.
pub struct LockWatch<'a> {
    environment: &'a MoverEnvironment,
    node: NodeId,
    /// Its server process, and since when that lives: numbers come again.
    process: (i32, String),
}

impl<'a> LockWatch<'a> {
    /// `session` is one with `node`, and idle.
    pub async fn of(environment: &'a MoverEnvironment, session: &Client, node: NodeId) -> Result<Self> {
        let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let row = session.query_one(sql, &[]).await.map_err(pg_error)?;
        Ok(Self { environment, node, process: (row.get(0), row.get(1)) })
    }

    /// Awaits `statements` of the session, for which `lock_timeout` is set to `timeout`.
    ///
    /// Errors: theirs; 55P03 where a wait was ended from here.
    pub async fn during<T>(&self, timeout: Duration, statements: impl Future<Output = Result<T>>) -> Result<T> {
        let mut statements = pin!(statements);
        let (mut pause, mut has_ended) = (timeout + OVERDUE_AFTER, false);
        loop {
            tokio::select! {
                biased;
                done = &mut statements => return done.map_err(|error| match error.code() {
                    SqlState::QUERY_CANCELED if has_ended => {
                        PgError::new(SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout")
                    }
                    _ => error,
                }),
                () = tokio::time::sleep(pause) => {}
            }
            match self.end_wait().await {
                Ok(ended) => has_ended |= ended,
                Err(error) => {
                    tracing::warn!(node = %self.node, %error, "could not look for an overdue wait for a lock")
                }
            }
            pause = OVERDUE_AFTER;
        }
    }

    /// False when it does not wait for a lock.
    async fn end_wait(&self) -> Result<bool> {
        let client = match self.environment.is_member(self.node) {
            true => self.environment.catalog.client(self.node).await?,
            false => return self.end_wait_by(&*session::connect(self.environment, self.node).await?).await,
        };
        self.end_wait_by(&client).await
    }

    async fn end_wait_by(&self, client: &Client) -> Result<bool> {
        let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                   WHERE pid = $1 AND backend_start::text = $2 AND wait_event_type = 'Lock'";
        let row = client.query_opt(sql, &[&self.process.0, &self.process.1]).await.map_err(pg_error)?;
        Ok(row.is_some())
    }
}

/// Enough for a server in order to do it by itself.
const OVERDUE_AFTER: Duration = Duration::from_secs(1);
