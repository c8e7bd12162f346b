//! Brings the schema `tenantry` up to date. Each migration runs once, all of them in one transaction.
//!
//! Several proxies may start at once: an advisory lock lets one work while the others wait and then find nothing to do.

use tokio_postgres::Client;

use super::pg_error;
use crate::error::{PgError, Result, SqlState};

/// Number, name, text. Never changed once released: a change is a new migration.
const MIGRATIONS: &[(i32, &str, &str)] = &[
    (1, "routing", include_str!("schema/001_routing.sql")),
    (2, "operations", include_str!("schema/002_operations.sql")),
    (3, "views", include_str!("schema/003_views.sql")),
    (4, "functions", include_str!("schema/004_functions.sql")),
];

/// Key of the advisory lock: "tenantry" in ASCII.
const LOCK: i64 = i64::from_be_bytes(*b"tenantry");

/// Applies what is missing. Errors: 55000 when the database was written by a newer Tenantry.
pub async fn migrate(client: &mut Client) -> Result<()> {
    let transaction = client.transaction().await.map_err(pg_error)?;
    transaction.execute("SELECT pg_catalog.pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(pg_error)?;
    transaction
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS tenantry;
             CREATE TABLE IF NOT EXISTS tenantry.migration (
                 number int PRIMARY KEY, name text NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT pg_catalog.now())",
        )
        .await
        .map_err(pg_error)?;
    let applied: Option<i32> = transaction
        .query_one("SELECT max(number) FROM tenantry.migration", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(pg_error)?;
    let applied = applied.unwrap_or(0);
    let newest = MIGRATIONS.iter().map(|m| m.0).max().unwrap_or(0);
    if applied > newest {
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the catalog was written by a newer version of Tenantry",
        )
        .detail(format!("Its migration is {applied}, this program knows {newest}."))
        .hint("Upgrade this proxy."));
    }
    for (number, name, text) in MIGRATIONS.iter().filter(|m| m.0 > applied) {
        transaction.batch_execute(text).await.map_err(pg_error)?;
        transaction
            .execute("INSERT INTO tenantry.migration (number, name) VALUES ($1, $2)", &[number, name])
            .await
            .map_err(pg_error)?;
    }
    transaction.commit().await.map_err(pg_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_stand_in_order() {
        assert!(MIGRATIONS.windows(2).all(|w| w[0].0 < w[1].0));
    }
}
