//! Connections of a move: its own, never pooled, because they carry settings, snapshots and locks of the move.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::lock_watch::LockWatch;
use super::{MoverEnvironment, MoverSettings};
use crate::backend::replication::PLAIN_FORMS;
use crate::backend::{Identity, Secret, ServerAddress};
use crate::catalog::{Address, Settings, connect_patiently, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

/// A control connection to one server. Closed on drop.
pub type Session = Arc<Client>;

/// Attempts at one login: it is tried again when the server did not find the time, because a disk that is busy, or many who
/// come at once, must not end a move. Whoever refuses at once is not asked again.
pub struct Logins {
    /// How long an attempt takes that had no answer.
    in_vain: Duration,
    left: u32,
    pause: Duration,
    began: Instant,
}

impl Logins {
    /// The first attempt begins.
    pub fn begin(settings: &Settings) -> Self {
        Self { in_vain: settings.connect_timeout, left: LOGINS - 1, pause: LOGIN_PAUSE, began: Instant::now() }
    }

    /// Is an attempt that has failed to be followed by another? Then that begins, after a pause.
    pub async fn go_on(&mut self, error: &PgError) -> bool {
        let had_no_time = error.code() == SqlState::CONNECTION_FAILURE && self.began.elapsed() >= self.in_vain;
        if !had_no_time || self.left == 0 {
            return false;
        }
        tracing::info!(%error, "a login of a move is tried again");
        tokio::time::sleep(self.pause).await;
        (self.left, self.pause, self.began) = (self.left - 1, self.pause * 2, Instant::now());
        true
    }
}

/// Connects and sets what makes text forms exact, names unambiguous and commits durable.
///
/// Errors: 08006 when the node cannot be reached, the server's own when it refuses.
pub async fn connect(environment: &MoverEnvironment, node: NodeId) -> Result<Session> {
    let settings = environment.catalog.settings();
    // A move waits longer for its workers than statements do.
    let is_waited_for = !node.is_coordinator() && environment.is_member(node);
    let patience = if is_waited_for { environment.settings.silence_patience } else { Duration::ZERO };
    let hosts = environment.hosts(node)?;
    let mut logins = Logins::begin(settings);
    let client = loop {
        match connect_patiently(settings, &hosts, patience).await {
            Err(error) if logins.go_on(&error).await => {}
            done => break done?,
        }
    };
    let forms: String = PLAIN_FORMS.iter().map(|(name, value)| format!("SET {name} TO '{value}'; ")).collect();
    client.batch_execute(&format!("{forms}{SETTINGS}")).await.map_err(pg_error)?;
    Ok(Arc::new(client))
}

/// A connection that writes rows as they are: no triggers, no foreign key checks.
pub async fn connect_as_replica(environment: &MoverEnvironment, node: NodeId) -> Result<Session> {
    let session = connect(environment, node).await?;
    session.batch_execute("SET session_replication_role TO replica").await.map_err(pg_error)?;
    Ok(session)
}

/// Where and as whom a replication connection to `node` logs in: at the primary that the catalog names, because a slot
/// does not follow a failover.
pub fn replication_login(environment: &MoverEnvironment, node: NodeId) -> Result<(ServerAddress, Identity)> {
    let settings = environment.catalog.settings();
    let Address { host, port } = environment.catalog.hosts(node)?.swap_remove(0);
    let secret = settings.password.clone().map_or(Secret::None, Secret::Password);
    let identity = Identity { user: settings.user.clone(), database: settings.dbname.clone(), secret };
    Ok((ServerAddress { host, port }, identity))
}

/// Is the session's server still there? Who waits for something else does not notice that it is not.
///
/// Errors: 08006 when it is gone, or silent.
pub async fn check_alive(session: &Client) -> Result<()> {
    match tokio::time::timeout(SILENT_AFTER, session.batch_execute("")).await {
        Ok(answered) => answered.map_err(pg_error),
        Err(_) => Err(PgError::new(SqlState::CONNECTION_FAILURE, "a node does not answer")),
    }
}

/// `which`: the source or the target.
pub fn not_answering(which: &str) -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, format!("the {which} node does not answer"))
}

/// Most attempts at one login, and the pause after the first.
const LOGINS: u32 = 4;
const LOGIN_PAUSE: Duration = Duration::from_millis(500);

/// Longer than a busy server takes for nothing at all.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// Runs statements that need strong locks on tables in use: each attempt waits for at most `lock_timeout`, so that
/// nobody queues behind it for longer. All statements, or none. `node` is the session's.
///
/// Errors: 55P03 when no attempt got its locks before `lock_patience` was over.
pub async fn with_short_locks(
    environment: &MoverEnvironment,
    session: (&Client, NodeId),
    statements: &str,
) -> Result<()> {
    with_short_locks_while(environment, session, statements, || Ok(())).await
}

/// As `with_short_locks`; `goes_on` is asked between two attempts.
///
/// Errors: those of `goes_on` too.
pub async fn with_short_locks_while(
    environment: &MoverEnvironment,
    (session, node): (&Client, NodeId),
    statements: &str,
    goes_on: impl Fn() -> Result<()>,
) -> Result<()> {
    let MoverSettings { lock_timeout, lock_patience: patience, .. } = environment.settings;
    let text = format!("BEGIN; SET LOCAL lock_timeout TO {}; {statements}; COMMIT", lock_timeout.as_millis().max(1));
    let watch = LockWatch::of(environment, session, node).await?;
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let attempt = async { session.batch_execute(&text).await.map_err(pg_error) };
        let error = match watch.during(lock_timeout, attempt).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error.code() != SqlState::CONNECTION_FAILURE {
            session.batch_execute("ROLLBACK").await.map_err(pg_error)?;
        }
        if !is_lock_failure(&error) || start.elapsed() > patience {
            return Err(error);
        }
        goes_on()?;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Somebody else had the lock: worth another try.
pub fn is_lock_failure(error: &PgError) -> bool {
    matches!(error.code(), SqlState::LOCK_NOT_AVAILABLE | SqlState::DEADLOCK_DETECTED)
}

const SETTINGS: &str = "SET search_path TO pg_catalog; SET synchronous_commit TO on; SET statement_timeout TO 0; \
     SET lock_timeout TO 0; SET idle_in_transaction_session_timeout TO 0; SET client_min_messages TO warning; \
     SET check_function_bodies TO off; SET default_transaction_isolation TO 'read committed'; \
     SET default_transaction_read_only TO off; SET row_security TO off";
