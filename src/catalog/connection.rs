//! Control connections: who we are on coordinator and workers, and server errors as `PgError`s.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType};
use tokio_postgres::error::ErrorPosition;

use super::gate::{self, Gate};
use super::way::Way;
use crate::backend::{Nodes, ServerAccess};
use crate::error::{PgError, Result, SqlState};
use crate::transport::timer;

/// How the control channel reaches the coordinator; workers are reached with the same database, user and password.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host of the coordinator Postgres. Default: 127.0.0.1. Reload: no.
    pub host: String,
    /// Its port. Default: 5432. Reload: no.
    pub port: u16,
    /// Its standbys: one of them may take its place. Default: none. Reload: no.
    pub standbys: Vec<Address>,
    /// The one database that clients see, of the same name on every node. Reload: no.
    pub dbname: String,
    /// A superuser of coordinator and workers. Reload: no.
    pub user: String,
    /// Its password; none where the servers trust us. Reload: no.
    pub password: Option<String>,
    /// Longest wait for a login. Unit: time. Default: 5s. Reload: no.
    pub connect_timeout: Duration,
    /// Control connections per node at most. Default: 8. Reload: no.
    pub connections_max: usize,
    /// Encryption, and the password where none is given above. Reload: no.
    pub access: ServerAccess,
    /// What sessions' connections know of the nodes: where they are, whether they answer. None: nobody looks after ours.
    pub nodes: Option<Arc<Nodes>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 5432,
            standbys: Vec::new(),
            dbname: "postgres".into(),
            user: "postgres".into(),
            password: None,
            connect_timeout: Duration::from_secs(5),
            connections_max: 8,
            access: ServerAccess::default(),
            nodes: None,
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Settings {
    /// By what address the coordinator is known, whichever of its servers takes writes.
    pub fn coordinator(&self) -> Address {
        Address { host: self.host.clone(), port: self.port }
    }

    /// Where its server may be.
    pub fn coordinator_hosts(&self) -> Vec<Address> {
        std::iter::once(self.coordinator()).chain(self.standbys.iter().cloned()).collect()
    }

    /// How the control channel logs in, wherever.
    pub(super) fn login(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .dbname(&self.dbname)
            .user(&self.user)
            .application_name("tenantry control")
            .options("-c search_path=pg_catalog,pg_temp")
            .connect_timeout(self.connect_timeout)
            .keepalives_idle(DEAD_PEER_AFTER)
            .tcp_user_timeout(DEAD_PEER_AFTER);
        Gate::prepare(&mut config);
        config
    }

    /// How it logs in there.
    pub(super) fn login_at(&self, Address { host, port }: &Address) -> tokio_postgres::Config {
        let mut config = self.login();
        config.host(host).port(*port);
        let from_file = || self.access.passwords.find(host, *port, &self.dbname, &self.user);
        if let Some(password) = self.password.as_deref().or_else(from_file) {
            config.password(password);
        }
        config
    }

    /// What a connection is made through.
    pub(super) fn gate(&self) -> Gate {
        Gate::new(self.access.dialer.clone())
    }

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

/// A peer that is silent this long below us (no acknowledgement) is gone.
const DEAD_PEER_AFTER: Duration = Duration::from_secs(15);
/// No more patience than sessions have with a node that is silent.
pub(super) const PROMPT: Duration = Duration::ZERO;
