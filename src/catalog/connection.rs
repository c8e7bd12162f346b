//! Control connections: who we are on coordinator and workers, and server errors as `PgError`s.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType};
use tokio_postgres::error::ErrorPosition;

use super::gate;
use super::settings::{Address, Settings};
use super::way::Way;
use crate::error::{PgError, Result, SqlState};
use crate::transport::timer;

impl Settings {
    /// Each host gets its time, which its `Way` sees to; this is for names that take for ever to be looked up.
    fn longest_connect(&self, hosts: &[Address]) -> Duration {
        self.connect_timeout * (2 * u32::try_from(hosts.len()).unwrap_or(1).max(1))
    }

    /// A pool of control connections to the one of `hosts` that takes writes; opens none yet.
    pub fn pool(&self, hosts: &[Address]) -> Result<Pool> {
        let (way, manager) = (Way::new(self, hosts, PROMPT), ManagerConfig { recycling_method: RecyclingMethod::Fast });
        Pool::builder(Manager::from_connect(self.login(), way, manager))
            .max_size(self.connections_max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(self.connect_timeout))
            .create_timeout(Some(self.longest_connect(hosts)))
            .recycle_timeout(Some(self.connect_timeout))
            .build()
            .map_err(|e| PgError::new(SqlState::INTERNAL_ERROR, format!("could not build a connection pool: {e}")))
    }
}

/// One control connection of its own, for work that must not share: checks of a new node, a replication session.
///
/// Errors: 08006 with Citus's text when nobody answers within `connect_timeout`, the server's own error otherwise.
pub async fn connect(settings: &Settings, address: &Address) -> Result<tokio_postgres::Client> {
    connect_to_primary(settings, std::slice::from_ref(address)).await
}

/// The same to the coordinator, whichever of its servers takes writes.
pub async fn connect_to_coordinator(settings: &Settings) -> Result<tokio_postgres::Client> {
    connect_to_primary(settings, &settings.coordinator_hosts()).await
}

/// The same to the one of `hosts` that takes writes, when they are several; the first is what errors name.
pub async fn connect_to_primary(settings: &Settings, hosts: &[Address]) -> Result<tokio_postgres::Client> {
    connect_patiently(settings, hosts, PROMPT).await
}

/// The same for work that may take `patience` for an answer before the node is asked whether it is alive at all.
pub async fn connect_patiently(
    settings: &Settings,
    hosts: &[Address],
    patience: Duration,
) -> Result<tokio_postgres::Client> {
    let first = hosts.first().map_or(String::new(), |first| format!("{}:{}", first.host, first.port));
    let failed = |reason: &str| {
        PgError::new(
            SqlState::CONNECTION_FAILURE,
            format!(
                "connection to the remote node {}@{first} failed with the following error: {reason}",
                settings.user
            ),
        )
    };
    let (way, longest) = (Way::new(settings, hosts, patience), settings.longest_connect(hosts));
    let connected = timer::with_lender(async {
        let (client, connection) = way.connect().await?;
        Way::run(connection);
        Ok(client)
    });
    match timer::timeout(longest, connected).await {
        Err(_) => Err(failed(&format!("no answer within {} s", longest.as_secs_f32()))),
        Ok(Err(error)) => {
            let error = pg_error(error);
            let failed = failed(error.message());
            Err(match error.hint_text() {
                Some(hint) => failed.hint(hint),
                None => failed,
            })
        }
        Ok(Ok(client)) => Ok(client),
    }
}

/// A checked-out control connection, with pool errors as `PgError`s.
pub async fn checkout(pool: &Pool) -> Result<Object> {
    timer::with_lender(pool.get()).await.map_err(|error| match error {
        PoolError::Backend(error) => pg_error(error),
        PoolError::Timeout(TimeoutType::Wait) => {
            PgError::new(SqlState::TOO_MANY_CONNECTIONS, "no control connection became free in time")
        }
        other => PgError::new(SqlState::CONNECTION_FAILURE, format!("could not open a control connection: {other}")),
    })
}

/// Is a server gone, going or coming? Or do all control connections wait for one that may be gone?
pub fn is_away(error: &PgError) -> bool {
    let codes = [
        SqlState::CONNECTION_FAILURE,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::TOO_MANY_CONNECTIONS,
    ];
    codes.contains(&error.code()) || Some(error.code()) == SqlState::from_bytes(b"57P02")
}

/// A server's error with all its fields, or our gate's; anything else is a lost connection (08006).
pub fn pg_error(error: tokio_postgres::Error) -> PgError {
    if let Some(refusal) = gate::refusal(&error) {
        return refusal.clone();
    }
    let Some(db) = error.as_db_error() else {
        let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), |source| source.to_string());
        return PgError::new(SqlState::CONNECTION_FAILURE, reason);
    };
    let code = SqlState::from_bytes(db.code().code().as_bytes()).unwrap_or(SqlState::INTERNAL_ERROR);
    let mut out = PgError::new(code, db.message());
    if let Some(detail) = db.detail() {
        out = out.detail(detail);
    }
    if let Some(hint) = db.hint() {
        out = out.hint(hint);
    }
    if let Some(ErrorPosition::Original(position)) = db.position() {
        out = out.field(b'P', position.to_string());
    }
    let fields = [
        (b'W', db.where_()),
        (b's', db.schema()),
        (b't', db.table()),
        (b'c', db.column()),
        (b'd', db.datatype()),
        (b'n', db.constraint()),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            out = out.field(key, value);
        }
    }
    out
}

/// No more patience than sessions have with a node that is silent.
pub(super) const PROMPT: Duration = Duration::ZERO;
