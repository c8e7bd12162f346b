//! Watches what a move does to its servers: WAL that its slot keeps, standbys that cannot follow; whether they answer at all; and
//! whether somebody wants it to end.
//!
//! ```text
//!   every half second:  source: pg_replication_slots ──keeps too much──> the move ends, and its slot with it
//!                       source, targets: pg_stat_replication ──too far behind──> copying pauses
//!                                        no answer ──for silence_patience──> the move ends
//!                       coordinator: tenantry.shard_move ──cancelled──> the move ends
//! ```
//!
//! The guard has connections of its own to the move's nodes: those of the move may be busy for hours. It never breaks into a fence or a
//! flip; those ask before they begin.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::MoverEnvironment;
use super::cancel::cancelled;
use super::session::{self, Session};
use super::state::Move;
use super::throttle::MoveLimits;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

/// Looks after one move until it is dropped.
pub struct Guard {
    seen: watch::Receiver<Seen>,
    patience: Duration,
    _looking: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    has_looked: bool,
    /// The slot keeps too much, a node is silent, or somebody wants it: the move must end with this.
    over: Option<PgError>,
    /// A standby that is too far behind.
    lagging: Option<String>,
}

impl Guard {
    pub fn begin(environment: &MoverEnvironment, mv: &Move) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let mut nodes: Vec<NodeId> = [mv.source].into_iter().chain(mv.targets().into_iter().map(|(n, _)| n)).collect();
        nodes.sort();
        nodes.dedup();
        let (slot, id, source) = (mv.name(), mv.id, mv.source);
        let watched = Watched { environment: environment.clone(), id, slot, source, nodes };
        let looking = AbortOnDropHandle::new(tokio::spawn(watched.look(sender)));
        Self { seen, patience: environment.settings.standby_patience, _looking: looking }
    }

    /// Awaits `work`; leaves it, dropped half-way, when the slot keeps too much, a node is silent or the move is cancelled. For work
    /// that a crash may interrupt.
    ///
    /// Errors: 53400, 08006, 57000 then; those of `work`.
    pub async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut seen = self.seen.clone();
        let over = async {
            match seen.wait_for(|seen| seen.over.is_some()).await.map(|seen| seen.over.clone()) {
                Ok(Some(error)) => error,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            error = over => Err(error),
        }
    }

    /// Errors: 53400 when the slot keeps too much, 08006 when a node is silent, 57000 when the move is cancelled.
    pub fn check(&self) -> Result<()> {
        self.seen.borrow().over.clone().map_or(Ok(()), Err)
    }

    /// Returns when every standby is near enough.
    ///
    /// Errors: 55000 when one stays behind for longer than `standby_patience`.
    pub async fn await_standbys(&self) -> Result<()> {
        let mut seen = self.seen.clone();
        if let Some(name) = &seen.borrow().lagging {
            tracing::info!(standby = name, "a move waits for a standby");
        }
        let near = seen.wait_for(|seen| seen.has_looked && seen.lagging.is_none());
        if tokio::time::timeout(self.patience, near).await.is_ok() {
            return Ok(());
        }
        let name = self.seen.borrow().lagging.clone().unwrap_or_default();
        Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("standby \"{name}\" stays too far behind for a move"),
        )
        .detail("Copying pauses while a standby has more than moves.standby_lag of WAL still to replay.")
        .hint("See pg_stat_replication, or set moves.standby_lag to 0B."))
    }
}

/// What is looked at.
struct Watched {
    environment: MoverEnvironment,
    id: i64,
    slot: String,
    source: NodeId,
    nodes: Vec<NodeId>,
}

impl Watched {
    async fn look(self, sender: watch::Sender<Seen>) {
        let mut sessions: HashMap<NodeId, Session> = HashMap::new();
        let mut heard: HashMap<NodeId, Instant> = self.nodes.iter().map(|node| (*node, Instant::now())).collect();
        let patience = self.environment.settings.silence_patience;
        loop {
            let limits = self.environment.limits.load_full();
            let mut lagging = None;
            let looks = self.nodes.iter().map(|node| {
                let session = sessions.get(node).cloned();
                async { timeout(ANSWER_WITHIN.min(patience), self.look_at(*node, &limits, session)).await }
            });
            let wishes = self.environment.wishes.to_end(&self.environment.catalog, self.id);
            let (looks, wished) = tokio::join!(join_all(looks), timeout(ANSWER_WITHIN.min(patience), wishes));
            // Of a coordinator that is away nothing is heard; that ends no move.
            let is_cancelled = matches!(wished, Ok(Ok(true)));
            let mut over = is_cancelled.then(|| cancelled(self.id));
            for (node, look) in self.nodes.iter().zip(looks) {
                let error = match look.unwrap_or_else(|_| Err(silent(*node))) {
                    Ok(Look { session, kept, lag }) => {
                        (over, lagging) = (over.or(kept), lagging.or(lag));
                        sessions.insert(*node, session);
                        heard.insert(*node, Instant::now());
                        continue;
                    }
                    Err(error) => error,
                };
                // A server that is gone ends the move by itself; one that is frozen does not.
                tracing::debug!(%node, %error, "could not look after a move on a node");
                sessions.remove(node);
                if error.code() == SqlState::CONNECTION_FAILURE && heard[node].elapsed() >= patience {
                    over = over.or(Some(silent(*node)));
                }
            }
            sender.send_replace(Seen { has_looked: true, over, lagging });
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look_at(&self, node: NodeId, limits: &MoveLimits, session: Option<Session>) -> Result<Look> {
        let session = match session {
            Some(session) => session,
            None => session::connect(&self.environment, node).await?,
        };
        let mut kept = None;
        if node == self.source
            && let Some(row) = session.query_opt(KEPT, &[&self.slot]).await.map_err(pg_error)?
        {
            kept = self.judge(row.get(0), row.get::<_, i64>(1), limits.slot_wal_bytes);
        }
        let mut lag = None;
        if limits.standby_lag_bytes > 0
            && let Some(row) = session.query_opt(BEHIND, &[]).await.map_err(pg_error)?
            && row.get::<_, i64>(1).unsigned_abs() > limits.standby_lag_bytes
        {
            lag = Some(row.get(0));
        }
        Ok(Look { session, kept, lag })
    }

    fn judge(&self, status: Option<&str>, bytes: i64, limit: u64) -> Option<PgError> {
        let error = |why: String| {
            PgError::new(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                format!("replication slot \"{}\" keeps too much WAL on node {}", self.slot, self.source),
            )
            .detail(why)
        };
        match status {
            Some("unreserved" | "lost") => Some(
                error("It is over the server's max_slot_wal_keep_size.".to_owned())
                    .hint("Raise that setting on the source node, or run the move when less is written there."),
            ),
            _ if limit > 0 && bytes.unsigned_abs() > limit => Some(
                error(format!("It keeps {bytes} bytes, and moves.slot_wal allows {limit}."))
                    .hint("Raise that setting or moves.copy_rate, or run the move when less is written there."),
            ),
            _ => None,
        }
    }
}

/// What a node said.
struct Look {
    session: Session,
    /// Why the move must end.
    kept: Option<PgError>,
    /// Which standby it must wait for.
    lag: Option<String>,
}

fn silent(node: NodeId) -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, format!("node {node} does not answer"))
        .hint("Run the move again when it does; what is left of this one is removed then by itself.")
}

/// State of the slot, and bytes of WAL that are kept for it.
const KEPT: &str = "SELECT wal_status, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
    FROM pg_replication_slots WHERE slot_name = $1";

/// The standby that has most to replay, or, where it only keeps WAL, to write. Those that are still being made are
/// nobody's yet.
const BEHIND: &str = "SELECT coalesce(nullif(application_name, ''), client_addr::text, pid::text),
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, flush_lsn)), 0)::bigint
    FROM pg_stat_replication r
    WHERE state = 'streaming' AND NOT EXISTS (
        SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
    ORDER BY 2 DESC LIMIT 1";

/// Longer than a busy server takes for these questions.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(500);
