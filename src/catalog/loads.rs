//! What each proxy has seen of tenants' and shard groups' loads: rows of `tenantry.load`, which are not logged.

use std::time::Duration;

use tokio_postgres::GenericClient;

use super::pg_error;
use crate::error::Result;
use crate::shard_map::{ColocationId, ShardGroupId};

/// Statements that read, all statements, microseconds, bytes.
pub type Figures = [i64; 4];

/// When figures were counted.
#[derive(Debug, Clone, Copy)]
pub struct Period {
    /// Since the period at hand began.
    pub age: Duration,
    pub length: Duration,
    /// Both periods, as far as anything was counted.
    pub covers: Duration,
}

/// Of a shard group, or of one tenant in it.
#[derive(Debug, Clone)]
pub struct Row {
    pub colocation: ColocationId,
    pub group: ShardGroupId,
    pub tenant: Option<String>,
    pub now: Figures,
    pub before: Figures,
}

/// Puts `rows` in the place of all that this proxy has written before. What dead proxies have left goes too.
pub async fn replace(client: &impl GenericClient, proxy: &str, period: Period, rows: &[Row]) -> Result<()> {
    let column = |of: fn(&Row) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
    let now = |at: usize| rows.iter().map(|row| row.now[at]).collect::<Vec<i64>>();
    let before = |at: usize| rows.iter().map(|row| row.before[at]).collect::<Vec<i64>>();
    let tenants: Vec<Option<&str>> = rows.iter().map(|row| row.tenant.as_deref()).collect();
    client
        .execute(
            REPLACE,
            &[
                &proxy,
                &period.age.as_secs_f64(),
                &period.length.as_secs_f64(),
                &period.covers.as_secs_f64(),
                &column(|row| row.colocation.0.into()),
                &column(|row| row.group.0 as i64),
                &tenants,
                &now(0),
                &now(1),
                &now(2),
                &now(3),
                &before(0),
                &before(1),
                &before(2),
                &before(3),
            ],
        )
        .await
        .map_err(pg_error)?;
    Ok(())
}

/// When all proxies' figures were last thrown away, as text to compare.
pub async fn last_reset(client: &impl GenericClient) -> Result<String> {
    let row = client.query_one("SELECT coalesce(max(at)::text, '') FROM tenantry.load_reset", &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(pg_error)
}

/// Throws all proxies' figures away; `last_reset` is different from now on, and is answered.
pub async fn reset(client: &impl GenericClient) -> Result<String> {
    client
        .batch_execute(
            "DELETE FROM tenantry.load; DELETE FROM tenantry.load_reset;
             INSERT INTO tenantry.load_reset (at) VALUES (pg_catalog.clock_timestamp())",
        )
        .await
        .map_err(pg_error)?;
    last_reset(client).await
}

const REPLACE: &str = "
WITH gone AS (
    DELETE FROM tenantry.load l
    WHERE l.proxy = $1 OR l.written < pg_catalog.clock_timestamp() - 3 * l.lasts * interval '1 second'
        OR l.written > pg_catalog.clock_timestamp()
            AND NOT EXISTS (SELECT FROM tenantry.tenantry_proxies p WHERE p.instance = l.proxy)
)
INSERT INTO tenantry.load (proxy, began, lasts, covers, colocationid, shard_group_id, tenant,
    reads, statements, micros, bytes, reads_before, statements_before, micros_before, bytes_before)
SELECT $1, pg_catalog.clock_timestamp() - $2 * interval '1 second', $3, $4, r.*
FROM unnest($5::int8[], $6::int8[], $7::text[], $8::int8[], $9::int8[], $10::int8[], $11::int8[],
    $12::int8[], $13::int8[], $14::int8[], $15::int8[]) r";
