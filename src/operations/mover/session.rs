//! Connections of a move: its own, never pooled, because they carry settings, snapshots and locks of the move.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use crate::backend::replication::PLAIN_FORMS;
use crate::backend::{Identity, Secret, ServerAddress};
use crate::error::{PgError, Result, SqlState};

/// A control connection to one server. Closed on drop.
pub type Session = Arc<Client>;

/// Connects and sets what makes text forms exact, names unambiguous and commits durable.
///
/// Errors: 08006 when the node cannot be reached, the server's own when it refuses.
pub async fn connect(address: &ServerAddress, identity: &Identity) -> Result<Session> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&address.host)
        .port(address.port)
        .user(&identity.user)
        .dbname(&identity.database)
        .application_name("tenantry mover")
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(KEEPALIVE_IDLE);
    if let Secret::Password(password) = &identity.secret {
        config.password(password);
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|error| {
        let error = pg_error(error);
        PgError::new(
            error.code(),
            format!(
                "connection to the remote node {}@{address} failed with the following error: {}",
                identity.user,
                error.message()
            ),
        )
    })?;
    // Ends when the client is dropped or the server goes away; either way the client's calls say so.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let forms: String = PLAIN_FORMS.iter().map(|(name, value)| format!("SET {name} TO '{value}'; ")).collect();
    client.batch_execute(&format!("{forms}{SETTINGS}")).await.map_err(pg_error)?;
    Ok(Arc::new(client))
}

/// A connection that writes rows as they are: no triggers, no foreign key checks.
pub async fn connect_as_replica(address: &ServerAddress, identity: &Identity) -> Result<Session> {
    let session = connect(address, identity).await?;
    session.batch_execute("SET session_replication_role TO replica").await.map_err(pg_error)?;
    Ok(session)
}

/// Postgres's fields of a driver error; 08006 for what isn't the server's.
pub fn pg_error(error: tokio_postgres::Error) -> PgError {
    let Some(db) = error.as_db_error() else {
        use std::error::Error;
        let cause = error.source().map_or_else(|| error.to_string(), |cause| cause.to_string());
        return PgError::new(SqlState::CONNECTION_FAILURE, cause);
    };
    let code = SqlState::from_bytes(db.code().code().as_bytes()).unwrap_or(SqlState::INTERNAL_ERROR);
    let mut copy = PgError::new(code, db.message());
    if let Some(detail) = db.detail() {
        copy = copy.detail(detail);
    }
    if let Some(hint) = db.hint() {
        copy = copy.hint(hint);
    }
    copy
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

const SETTINGS: &str = "SET search_path TO pg_catalog; SET synchronous_commit TO on; SET statement_timeout TO 0; \
     SET lock_timeout TO 0; SET idle_in_transaction_session_timeout TO 0; SET client_min_messages TO warning; \
     SET check_function_bodies TO off; SET default_transaction_isolation TO 'read committed'; \
     SET default_transaction_read_only TO off; SET row_security TO off";
