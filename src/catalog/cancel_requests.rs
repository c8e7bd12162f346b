//! Cancel requests that one proxy got and another one's session is meant by: rows of `tenantry.cancel_request`, rung by
//! channel `tenantry_cancel` with the row's id. No clock says how long one is of use: it is while the proxy that asks waits for it.

use tokio_postgres::GenericClient;

use super::pg_error;
use crate::error::Result;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct CancelRequest {
    pub id: i64,
    pub pid: u32,
    pub key: Vec<u8>,
}

/// Asks all other proxies on behalf of the proxy `asker`; `None` when there are none.
pub async fn ask(client: &impl GenericClient, asker: &str, pid: u32, key: &[u8]) -> Result<Option<i64>> {
    let row = client.query_opt(ASK, &[&i64::from(pid), &key, &asker]).await.map_err(pg_error)?;
    row.map(|row| row.try_get(0)).transpose().map_err(pg_error)
}

/// Those among `rung` that nobody has carried out yet, and that somebody still waits for.
pub async fn pending(client: &impl GenericClient, rung: &[i64]) -> Result<Vec<CancelRequest>> {
    let rows = client.query(PENDING, &[&rung]).await.map_err(pg_error)?;
    rows.iter()
        .map(|row| {
            let pid: i64 = row.try_get(1)?;
            Ok(CancelRequest { id: row.try_get(0)?, pid: pid.try_into().unwrap_or(0), key: row.try_get(2)? })
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(pg_error)
}

pub async fn is_pending(client: &impl GenericClient, id: i64) -> Result<bool> {
    let row = client.query_opt("SELECT FROM tenantry.cancel_request WHERE id = $1", &[&id]).await.map_err(pg_error)?;
    Ok(row.is_some())
}

/// It was carried out, or nobody's.
pub async fn end(client: &impl GenericClient, id: i64) -> Result<()> {
    client.execute("DELETE FROM tenantry.cancel_request WHERE id = $1", &[&id]).await.map_err(pg_error)?;
    Ok(())
}

/// What proxies have left that died meanwhile goes first.
const ASK: &str = "WITH lives AS MATERIALIZED (
        SELECT instance FROM tenantry.tenantry_proxies
    ), old AS (
        DELETE FROM tenantry.cancel_request WHERE coalesce(asker, '') NOT IN (SELECT instance FROM lives)
    ), asked AS (
        INSERT INTO tenantry.cancel_request (pid, key, asker)
        SELECT $1, $2, $3 WHERE EXISTS (SELECT FROM lives WHERE instance = $3) AND (SELECT count(*) FROM lives) > 1
        RETURNING id
    )
    SELECT id, pg_notify('tenantry_cancel', id::text) FROM asked";
const PENDING: &str = "SELECT id, pid, key FROM tenantry.cancel_request
    WHERE id = ANY ($1) AND asker IN (SELECT instance FROM tenantry.tenantry_proxies)";
