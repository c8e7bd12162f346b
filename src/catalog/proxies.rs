//! The proxies that live on one catalog, and how they share the nodes' connections.
//!
//! ```text
//!   A alone         takes 1/1                    divisor 1
//!   B comes         B takes nothing yet          A 1, B none     B sees that A has taken the whole
//!                   A closes what is over 1/2    A 2, B none     said when it is done
//!                   B takes 1/2                  A 2, B 2
//!   A dies          B takes 1/1, after a while   B 1
//! ```

use std::net::SocketAddr;

use tokio_postgres::Client;

use super::{Settings, connect_to_coordinator, pg_error};
use crate::error::{PgError, Result, SqlState};

/// This proxy, for as long as its session lives.
pub struct Membership {
    client: Client,
    id: i32,
}

/// Where a proxy is reached. An address that stands for all of a machine's is none to tell others.
#[derive(Debug, Clone, Copy)]
pub struct Endpoints {
    pub clients: SocketAddr,
    pub admin: Option<SocketAddr>,
}

/// How many share, and which part is ours: one in `part`. `None`: nothing is free yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub proxies: u32,
    pub part: Option<u32>,
}

/// What a proxy asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// It keeps to one in so many.
    pub kept: Option<u32>,
    /// It may take a larger part, if that is free.
    pub may_grow: bool,
    /// Even if it is not free.
    pub anyway: bool,
}

impl Membership {
    /// Makes this proxy known. `kept` as in `Wish`: what it holds already, when it was known before.
    pub async fn join(settings: &Settings, instance: &str, endpoints: Endpoints, kept: Option<u32>) -> Result<Self> {
        let mut client = connect_to_coordinator(settings).await?;
        // The server must notice soon when this machine is gone: until then our part is nobody's.
        client
            .batch_execute("SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3")
            .await
            .map_err(pg_error)?;
        let transaction = client.transaction().await.map_err(pg_error)?;
        let row = transaction
            .query_one(
                "INSERT INTO tenantry.proxy (instance, divisor, clients_host, clients_port, admin_host, admin_port)
                 SELECT $1::text, $2::int, coalesce($3::text, seen), $4::int,
                     CASE WHEN $6::int IS NOT NULL THEN coalesce($5::text, seen) END, $6::int
                 FROM (SELECT coalesce(host(inet_client_addr()), '127.0.0.1') AS seen) s RETURNING id",
                &[
                    &instance,
                    &kept.map(|kept| kept as i32),
                    &host(endpoints.clients),
                    &i32::from(endpoints.clients.port()),
                    &endpoints.admin.and_then(host),
                    &endpoints.admin.map(|address| i32::from(address.port())),
                ],
            )
            .await
            .map_err(pg_error)?;
        let id: i32 = row.try_get(0).map_err(pg_error)?;
        // Before the row is seen by others.
        transaction.execute("SELECT pg_catalog.pg_advisory_lock($1, $2)", &[&LOCK, &id]).await.map_err(pg_error)?;
        transaction.commit().await.map_err(pg_error)?;
        Ok(Self { client, id })
    }

    /// Errors: 08006 when the session is lost, 42704 when somebody has deleted the row; then `join` again.
    pub async fn share(&self, wish: Wish) -> Result<Share> {
        let row = self
            .client
            .query_one(
                "SELECT proxies, part FROM tenantry.share_connections($1, $2, $3, $4)",
                &[&self.id, &wish.kept.map(|kept| kept as i32), &wish.may_grow, &wish.anyway],
            )
            .await
            .map_err(pg_error)?;
        let (proxies, part): (Option<i32>, Option<i32>) =
            (row.try_get(0).map_err(pg_error)?, row.try_get(1).map_err(pg_error)?);
        let proxies =
            proxies.ok_or_else(|| PgError::new(SqlState::UNDEFINED_OBJECT, "this proxy is not in the catalog"))?;
        Ok(Share { proxies: proxies as u32, part: part.map(|part| part as u32) })
    }
}

/// `None`: the one that the coordinator sees.
fn host(address: SocketAddr) -> Option<String> {
    (!address.ip().is_unspecified()).then(|| address.ip().to_string())
}

/// Of the advisory locks by which proxies are known: "tshr" in ASCII. It stands in the schema too.
const LOCK: i32 = i32::from_be_bytes(*b"tshr");
