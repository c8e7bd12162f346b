//! Holds in all proxies that live: a cut-over is to meet no transaction that could not be repeated, whoever serves it.
//!
//! ```text
//!   who is there? ──1 s at most, nobody waits──> present
//!   hold here, and ask those ──until all have drained──> fence ...   release
//!                              └ not in time: release, wait a little, again
//! ```
//!
//! Who stands still or is cut off does not answer the first question, and is not waited for. The fence stops him.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::MoverEnvironment;
use crate::catalog::Catalog;
use crate::catalog::holds::{self, Extent};
use crate::error::{PgError, Result, SqlState};
use crate::executor::{Guards, PULSE, pulse};
use crate::shard_map::{NodeId, ShardGroupId};

/// What is held, until it is released or dropped.
#[derive(Default)]
pub struct Held {
    extent: Extent,
    /// Clients wait no longer in other proxies.
    limit: Duration,
    _guards: Guards,
    elsewhere: Option<Question>,
}

impl Held {
    /// Statements of these groups, in this proxy alone.
    pub fn here(environment: &MoverEnvironment, groups: &[ShardGroupId]) -> Self {
        let extent = Extent { groups: groups.to_vec(), ..Extent::default() };
        Self::begin(environment, extent, environment.settings.fence_patience + LATER)
    }

    /// Transactions that may write and come to these groups, in this proxy alone.
    pub fn writes(environment: &MoverEnvironment, groups: &[ShardGroupId]) -> Self {
        let extent = Extent { write_groups: groups.to_vec(), ..Extent::default() };
        Self::begin(environment, extent, WRITES_LIMIT)
    }

    /// Statements that name one of these local tables, in this proxy alone.
    pub fn tables(environment: &MoverEnvironment, tables: Vec<String>) -> Self {
        let extent = Extent { tables, ..Extent::default() };
        Self::begin(environment, extent, environment.settings.fence_patience + LATER)
    }

    fn begin(environment: &MoverEnvironment, extent: Extent, limit: Duration) -> Self {
        Self { _guards: environment.holds.begin_all(&extent), extent, limit, elsewhere: None }
    }

    /// Asks the proxies that are `present` to hold the same, and waits until all that had entered it have left, here and there.
    ///
    /// Errors: 55P03 when they have not at `until`; the catalog's.
    pub async fn drain(&mut self, environment: &MoverEnvironment, present: &[String], until: Instant) -> Result<()> {
        let Self { extent, limit, elsewhere, .. } = self;
        let asked = async {
            if present.is_empty() {
                return Ok(());
            }
            let question = Question::ask(environment, extent, *limit).await?;
            elsewhere.insert(question).answered_by(present).await
        };
        let drained = async { tokio::join!(asked, environment.holds.drained(extent)).0 };
        timeout_at(until, drained).await.unwrap_or_else(|_| Err(not_drained()))
    }

    pub fn release(&mut self) {
        *self = Self::default();
    }
}

/// The statements of these groups are slowed down (executor/pulse.rs), in all proxies, until it is dropped.
pub async fn slow_down(environment: &MoverEnvironment, groups: &[ShardGroupId]) {
    tokio::join!(pulse(&environment.holds, groups), slow_down_elsewhere(environment, groups));
}

/// Told of again from time to time: a proxy may have come, or heard nothing.
async fn slow_down_elsewhere(environment: &MoverEnvironment, groups: &[ShardGroupId]) {
    let extent = Extent { groups: groups.to_vec(), in_pulses: true, ..Extent::default() };
    let mut asked: Option<Question> = None;
    loop {
        let is_asked = match &asked {
            Some(question) => question.ring().await,
            None => Ok(false),
        };
        match is_asked {
            Ok(true) => {}
            Ok(false) => asked = Question::ask(environment, &extent, PULSE).await.inspect_err(unheard).ok(),
            Err(error) => unheard(&error),
        }
        tokio::time::sleep(TELL_AGAIN_EVERY).await;
    }
}

fn unheard(error: &PgError) {
    tracing::debug!(%error, "could not ask other proxies to slow writers down");
}

/// The other proxies that answer.
///
/// Errors: the catalog's.
pub async fn present(environment: &MoverEnvironment) -> Result<Vec<String>> {
    let mut others = {
        let client = environment.catalog.client(NodeId::COORDINATOR).await?;
        holds::others(&**client, &environment.instance).await?
    };
    if others.is_empty() {
        return Ok(others);
    }
    let question = Question::ask(environment, &Extent::default(), CALL_PATIENCE).await?;
    if timeout(CALL_PATIENCE, question.answered_by(&others)).await.is_ok_and(|answered| answered.is_ok()) {
        return Ok(others);
    }
    let silent = question.unanswered(&others).await?;
    tracing::info!(proxies = ?silent, "proxies do not answer, and are not asked to hold a shard");
    others.retain(|other| !silent.contains(other));
    Ok(others)
}

/// A row of `tenantry.hold`, which goes when this is dropped.
struct Question {
    catalog: Arc<Catalog>,
    id: i64,
}

impl Question {
    /// Cancel safe.
    async fn ask(environment: &MoverEnvironment, extent: &Extent, limit: Duration) -> Result<Self> {
        let (catalog, instance, extent) = (environment.catalog.clone(), environment.instance.clone(), extent.clone());
        // By itself, so that the row is known, and goes, also when nobody waits for it any more.
        let asking = tokio::spawn(async move {
            let id = holds::ask(&**catalog.client(NodeId::COORDINATOR).await?, &instance, &extent, limit).await?;
            Ok(Self { catalog, id })
        });
        asking.await.unwrap_or_else(|_| Err(PgError::new(SqlState::ADMIN_SHUTDOWN, "the proxy is stopping")))
    }

    /// Waits for the answers of all of `asked` that live.
    async fn answered_by(&self, asked: &[String]) -> Result<()> {
        let mut answers = self.catalog.answers_to_holds();
        while !self.unanswered(asked).await?.is_empty() {
            // A ring may be lost.
            let _ = timeout(LOOK_EVERY, answers.changed()).await;
        }
        Ok(())
    }

    /// Tells the others of it once more. False when it is gone.
    async fn ring(&self) -> Result<bool> {
        holds::ring(&**self.catalog.client(NodeId::COORDINATOR).await?, self.id).await
    }

    async fn unanswered(&self, asked: &[String]) -> Result<Vec<String>> {
        holds::unanswered(&**self.catalog.client(NodeId::COORDINATOR).await?, self.id, asked).await
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let (catalog, id) = (self.catalog.clone(), self.id);
        let end = async move {
            let ended = async { holds::end(&**catalog.client(NodeId::COORDINATOR).await?, id).await };
            if let Err(error) = ended.await {
                tracing::debug!(%error, "other proxies are not told of the end of a hold");
            }
        };
        // The process ends: others see that by themselves.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end);
        }
    }
}

fn not_drained() -> PgError {
    PgError::new(SqlState::LOCK_NOT_AVAILABLE, "transactions that use the shard did not end in time")
}

/// Who is there answers in milliseconds, unless the machine is busy.
const CALL_PATIENCE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const TELL_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// Others wait no longer than here.
const LATER: Duration = Duration::from_secs(1);
/// Longer than a copy for which writers would be kept waiting. From then on the tables' locks alone do it.
const WRITES_LIMIT: Duration = Duration::from_secs(3600);
