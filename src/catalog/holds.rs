//! Holds that one proxy asks the others for: rows of `tenantry.hold`.
//!
//! ```text
//!   proxy that moves   ask ── row ──rings──> the others   asked, hold, drain, answer ──rings──> unanswered
//!                      end ── no row ──rings──> is_asked, release
//! ```

use std::time::Duration;

use tokio_postgres::GenericClient;

use super::pg_error;
use crate::error::Result;
use crate::shard_map::ShardGroupId;

/// What is to be held. Nothing: who is asked only has to answer.
#[derive(Debug, Clone, Default)]
pub struct Extent {
    /// Statements of these wait.
    pub groups: Vec<ShardGroupId>,
    /// Transactions that may write wait when they come to these.
    pub write_groups: Vec<ShardGroupId>,
    /// Statements wait that name one of these local tables.
    pub tables: Vec<String>,
    /// Not all the time, but for a moment again and again (executor/pulse.rs). Nobody waits for an answer.
    pub in_pulses: bool,
}

impl Extent {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.write_groups.is_empty() && self.tables.is_empty()
    }
}

/// What a proxy is asked for.
#[derive(Debug, Clone)]
pub struct AskedHold {
    pub id: i64,
    pub asker: String,
    pub extent: Extent,
    /// It must not take longer.
    pub limit: Duration,
}

/// The other proxies that live.
pub async fn others(client: &impl GenericClient, asker: &str) -> Result<Vec<String>> {
    let sql = "SELECT instance FROM tenantry.tenantry_proxies WHERE instance <> $1";
    let rows = client.query(sql, &[&asker]).await.map_err(pg_error)?;
    rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>().map_err(pg_error)
}

/// Asks all other proxies; the question's id.
pub async fn ask(client: &impl GenericClient, asker: &str, extent: &Extent, limit: Duration) -> Result<i64> {
    let [groups, write_groups] = [&extent.groups, &extent.write_groups]
        .map(|groups| groups.iter().map(|group| group.0 as i64).collect::<Vec<_>>());
    let milliseconds = limit.as_millis() as i64;
    let row = client
        .query_one(ASK, &[&asker, &groups, &write_groups, &extent.tables, &milliseconds, &extent.in_pulses])
        .await
        .map_err(pg_error)?;
    row.try_get(0).map_err(pg_error)
}

/// Tells all proxies of the question once more; false when it is gone.
pub async fn ring(client: &impl GenericClient, id: i64) -> Result<bool> {
    let sql = "SELECT pg_notify('tenantry_hold', id::text) FROM tenantry.hold WHERE id = $1";
    Ok(client.query_opt(sql, &[&id]).await.map_err(pg_error)?.is_some())
}

/// Those among `asked` that live and have not answered.
pub async fn unanswered(client: &impl GenericClient, id: i64, asked: &[String]) -> Result<Vec<String>> {
    let rows = client.query(UNANSWERED, &[&id, &asked]).await.map_err(pg_error)?;
    rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>().map_err(pg_error)
}

/// Those among `rung` that others ask this proxy for.
pub async fn asked(client: &impl GenericClient, instance: &str, rung: &[i64]) -> Result<Vec<AskedHold>> {
    let sql = "SELECT id, asker, milliseconds, shard_groups, write_groups, tables, in_pulses FROM tenantry.hold
               WHERE id = ANY ($1) AND asker <> $2";
    let ids = |groups: Vec<i64>| groups.into_iter().map(|group| ShardGroupId(group as u64)).collect();
    let rows = client.query(sql, &[&rung, &instance]).await.map_err(pg_error)?;
    rows.iter()
        .map(|row| {
            Ok(AskedHold {
                id: row.try_get(0)?,
                asker: row.try_get(1)?,
                limit: Duration::from_millis(row.try_get::<_, i64>(2)? as u64),
                extent: Extent {
                    groups: ids(row.try_get(3)?),
                    write_groups: ids(row.try_get(4)?),
                    tables: row.try_get(5)?,
                    in_pulses: row.try_get(6)?,
                },
            })
        })
        .collect::<std::result::Result<_, _>>()
        .map_err(pg_error)
}

/// This proxy does so.
pub async fn answer(client: &impl GenericClient, instance: &str, id: i64) -> Result<()> {
    client.execute(ANSWER, &[&id, &instance]).await.map_err(pg_error)?;
    Ok(())
}

/// Is it still wanted, by a proxy that lives?
pub async fn is_asked(client: &impl GenericClient, asked: &AskedHold) -> Result<bool> {
    let sql = "SELECT FROM tenantry.hold WHERE id = $1 AND asker IN (SELECT instance FROM tenantry.tenantry_proxies)";
    Ok(client.query_opt(sql, &[&asked.id]).await.map_err(pg_error)?.is_some())
}

/// It is over.
pub async fn end(client: &impl GenericClient, id: i64) -> Result<()> {
    client.execute(END, &[&id]).await.map_err(pg_error)?;
    Ok(())
}

/// What proxies have left that died meanwhile goes first.
const ASK: &str = "WITH old AS (
        DELETE FROM tenantry.hold WHERE asker NOT IN (SELECT instance FROM tenantry.tenantry_proxies)
    ), asked AS (
        INSERT INTO tenantry.hold (asker, shard_groups, write_groups, tables, milliseconds, in_pulses)
            VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
    )
    SELECT id, pg_notify('tenantry_hold', id::text) FROM asked";
const UNANSWERED: &str = "SELECT p.instance FROM tenantry.tenantry_proxies p WHERE p.instance = ANY ($2)
    AND NOT EXISTS (SELECT FROM tenantry.hold h WHERE h.id = $1 AND p.instance = ANY (h.answered))";
const ANSWER: &str = "WITH answered AS (
        UPDATE tenantry.hold SET answered = answered || $2::text WHERE id = $1 RETURNING id
    )
    SELECT pg_notify('tenantry_held', id::text) FROM answered";
const END: &str = "WITH ended AS (DELETE FROM tenantry.hold WHERE id = $1 RETURNING id)
    SELECT pg_notify('tenantry_hold', id::text) FROM ended";
