//! Ping rows that travel through the stream: what is seen on the target has everything before it on the target too.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::attempt::stuck;
use super::session::{Session, not_answering};
use super::sink::Progress;
use super::state::Move;
use super::stream::Apply;
use super::{MoverEnvironment, everywhere};
use crate::catalog::pg_error;
use crate::catalog::quote::literal;
use crate::error::{PgError, Result, SqlState};
use crate::executor::PULSE;
use crate::shard_map::ShardGroupId;

/// Writes markers on the source; the only one to do so.
pub struct Marker {
    source: Session,
    table: String,
    last: i64,
    environment: MoverEnvironment,
    groups: Vec<ShardGroupId>,
}

impl Marker {
    pub fn new(source: Session, mv: &Move, environment: &MoverEnvironment) -> Self {
        Self { source, table: mv.marker(), last: 0, environment: environment.clone(), groups: mv.sources() }
    }

    /// Commits the next marker and answers its id. Flushed, so that it doesn't wait for anybody else's commit.
    pub async fn insert(&mut self, purpose: &str) -> Result<i64> {
        let (id, sql) = self.statement(purpose);
        self.source.batch_execute(&sql).await.map_err(pg_error)?;
        Ok(id)
    }

    /// The next marker's id and the statement that inserts it, for a transaction that does more.
    pub fn statement(&mut self, purpose: &str) -> (i64, String) {
        self.last += 1;
        (self.last, format!("INSERT INTO {} VALUES ({}, {})", self.table, self.last, literal(purpose)))
    }

    /// Runs the stream until a marker needs at most `near` from commit to commit; the longer that takes, the less near
    /// will do (2 % of the time waited): under steady heavy writing a somewhat longer hold is better than none.
    /// Writers that are faster than the target can follow are slowed down.
    ///
    /// Errors: 55000 when that is never so within `patience`, or no marker arrives at all.
    pub async fn catch_up(&mut self, apply: &mut Apply, near: Duration, patience: Duration) -> Result<()> {
        let start = Instant::now();
        let mut throttle = None;
        loop {
            if throttle.is_none() && start.elapsed() > THROTTLE_AFTER {
                let work = throttle_while_it_follows(self.environment.clone(), self.groups.clone(), apply.progress());
                throttle = Some(AbortOnDropHandle::new(tokio::spawn(work)));
            }
            let left = patience.saturating_sub(start.elapsed());
            let inserted = timeout(left, self.insert("ping")).await;
            let id = inserted.unwrap_or_else(|_| Err(not_answering("source")))?;
            let sent = Instant::now();
            // A cancelled Apply is of no more use; neither is one that is stuck.
            let answered = apply.progress().count();
            if let Ok(arrived) = timeout(left, apply.run_until_marker(id)).await {
                arrived?;
            } else {
                return Err(if apply.progress().count() > answered { behind(apply) } else { stuck() });
            }
            if sent.elapsed() <= near + start.elapsed() / 50 {
                return Ok(());
            }
            if start.elapsed() > patience {
                return Err(behind(apply));
            }
        }
    }
}

/// The stream gets on, but not as fast as clients write.
fn behind(apply: &Apply) -> PgError {
    let error = PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the target node does not catch up with the writes on the source node",
    );
    match apply.slow_table() {
        None => error.hint("Try again when less is written to this shard."),
        Some(table) => error
            .detail(format!(
                "Table {table} has no primary key, and no column to find rows by: each change reads all of it."
            ))
            .hint("Add a primary key, or move the shard with shard_transfer_mode => 'block_writes'."),
    }
}

/// Slows the groups' writers down in all proxies, until it is dropped. While the target does not follow at all, nobody is slowed down:
/// that would not help it.
async fn throttle_while_it_follows(environment: MoverEnvironment, groups: Vec<ShardGroupId>, progress: Progress) {
    loop {
        tokio::select! {
            () = everywhere::slow_down(&environment, &groups) => {}
            () = standstill(&progress) => {}
        }
        let answered = progress.count();
        while progress.count() == answered {
            tokio::time::sleep(PULSE).await;
        }
    }
}

/// Returns when nothing has been applied for a while.
async fn standstill(progress: &Progress) {
    let (mut answered, mut moved_at) = (progress.count(), Instant::now());
    while moved_at.elapsed() <= STANDSTILL {
        tokio::time::sleep(PULSE).await;
        let before = std::mem::replace(&mut answered, progress.count());
        if answered != before {
            moved_at = Instant::now();
        }
    }
}

/// A move gets by without slowing anybody down for this time.
const THROTTLE_AFTER: Duration = Duration::from_secs(3);
/// Longer than a busy target takes for one change.
const STANDSTILL: Duration = Duration::from_secs(1);
