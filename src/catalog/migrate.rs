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
    (5, "table_definition", include_str!("schema/005_table_definition.sql")),
    (10, "moves", include_str!("schema/010_moves.sql")),
    (20, "cluster_requests", include_str!("schema/020_cluster_requests.sql")),
    (30, "administration", include_str!("schema/030_administration.sql")),
    (40, "tenants", include_str!("schema/040_tenants.sql")),
    (50, "rebalance", include_str!("schema/050_rebalance.sql")),
    (60, "node_functions", include_str!("schema/060_node_functions.sql")),
    (65, "role_passwords", include_str!("schema/065_role_passwords.sql")),
    (70, "cluster_control", include_str!("schema/070_cluster_control.sql")),
    (80, "isolation", include_str!("schema/080_isolation.sql")),
    (90, "split", include_str!("schema/090_split.sql")),
    (95, "proxies", include_str!("schema/095_proxies.sql")),
    (100, "distribute", include_str!("schema/100_distribute.sql")),
    (110, "orphans", include_str!("schema/110_orphans.sql")),
    (120, "undo", include_str!("schema/120_undo.sql")),
    (121, "return", include_str!("schema/121_return.sql")),
    (130, "loads", include_str!("schema/130_loads.sql")),
    (131, "rebalance_by_load", include_str!("schema/131_rebalance_by_load.sql")),
    (132, "proxy_endpoints", include_str!("schema/132_proxy_endpoints.sql")),
    (133, "look_before_moving", include_str!("schema/133_look_before_moving.sql")),
    (140, "standbys", include_str!("schema/140_standbys.sql")),
    (160, "copy_time", include_str!("schema/160_copy_time.sql")),
    (170, "cancel_requests", include_str!("schema/170_cancel_requests.sql")),
    (180, "task_transfer_mode", include_str!("schema/180_task_transfer_mode.sql")),
    (190, "partitions", include_str!("schema/190_partitions.sql")),
    (200, "sequences", include_str!("schema/200_sequences.sql")),
    (205, "triggers", include_str!("schema/205_triggers.sql")),
    (220, "distribute_partitions", include_str!("schema/220_distribute_partitions.sql")),
    (221, "reference_defaults", include_str!("schema/221_reference_defaults.sql")),
    (222, "time_partitions", include_str!("schema/222_time_partitions.sql")),
    (223, "drawing_functions", include_str!("schema/223_drawing_functions.sql")),
    (240, "clocks", include_str!("schema/240_clocks.sql")),
    (250, "cancelled_requests", include_str!("schema/250_cancelled_requests.sql")),
    (251, "primary_node", include_str!("schema/251_primary_node.sql")),
    (252, "request_job", include_str!("schema/252_request_job.sql")),
    (260, "shard_count", include_str!("schema/260_shard_count.sql")),
    (261, "known_names", include_str!("schema/261_known_names.sql")),
    (262, "table_details", include_str!("schema/262_table_details.sql")),
    (263, "cancelled_moves", include_str!("schema/263_cancelled_moves.sql")),
    (270, "pauses_and_leftovers", include_str!("schema/270_pauses_and_leftovers.sql")),
    (280, "united_shards", include_str!("schema/280_united_shards.sql")),
    (281, "waiting_indexes", include_str!("schema/281_waiting_indexes.sql")),
    (290, "rehearsals", include_str!("schema/290_rehearsals.sql")),
    (300, "size_functions", include_str!("schema/300_size_functions.sql")),
    (310, "prepared_statements", include_str!("schema/310_prepared_statements.sql")),
    (311, "reference_copies", include_str!("schema/311_reference_copies.sql")),
    (316, "holds", include_str!("schema/316_holds.sql")),
    (320, "activity", include_str!("schema/320_activity.sql")),
    (321, "run_command", include_str!("schema/321_run_command.sql")),
    (330, "undistribute", include_str!("schema/330_undistribute.sql")),
    (340, "holds_of_writes", include_str!("schema/340_holds_of_writes.sql")),
    (341, "holds_of_tables", include_str!("schema/341_holds_of_tables.sql")),
    (350, "schema_grants", include_str!("schema/350_schema_grants.sql")),
    (360, "definition_at_once", include_str!("schema/360_definition_at_once.sql")),
    (370, "requests_by_number", include_str!("schema/370_requests_by_number.sql")),
    (371, "nodes_kept", include_str!("schema/371_nodes_kept.sql")),
    (380, "old_names", include_str!("schema/380_old_names.sql")),
    (385, "holds_in_pulses", include_str!("schema/385_holds_in_pulses.sql")),
    (386, "mends", include_str!("schema/386_mends.sql")),
    (390, "fenced_servers", include_str!("schema/390_fenced_servers.sql")),
    (391, "moves_that_block_writes", include_str!("schema/391_moves_that_block_writes.sql")),
    (392, "oldest_names", include_str!("schema/392_oldest_names.sql")),
    (395, "mock_login", include_str!("schema/395_mock_login.sql")),
    (400, "timelines", include_str!("schema/400_timelines.sql")),
    (420, "least_load", include_str!("schema/420_least_load.sql")),
    (435, "calls", include_str!("schema/435_calls.sql")),
    (450, "waiting_keys", include_str!("schema/450_waiting_keys.sql")),
];

/// Key of the advisory lock: "tenantry" in ASCII.
const LOCK: i64 = i64::from_be_bytes(*b"tenantry");

/// Applies what is missing. Errors: 55000 when the database was written by a newer Tenantry.
pub async fn migrate(client: &mut Client) -> Result<()> {
    let transaction = client.transaction().await.map_err(pg_error)?;
    transaction.execute("SELECT pg_catalog.pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(pg_error)?;
    transaction
        .batch_execute(
            "SET LOCAL client_min_messages = warning;
             CREATE SCHEMA IF NOT EXISTS tenantry;
             CREATE TABLE IF NOT EXISTS tenantry.migration (
                 number int PRIMARY KEY, name text NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT pg_catalog.now())",
        )
        .await
        .map_err(pg_error)?;
    let rows = transaction.query("SELECT number FROM tenantry.migration", &[]).await.map_err(pg_error)?;
    let applied: Vec<i32> = rows.iter().map(|row| row.try_get(0).map_err(pg_error)).collect::<Result<_>>()?;
    if let Some(unknown) = applied.iter().find(|number| MIGRATIONS.iter().all(|m| m.0 != **number)) {
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the catalog was written by a newer version of Tenantry",
        )
        .detail(format!("This program does not know its migration {unknown}."))
        .hint("Upgrade this proxy."));
    }
    for (number, name, text) in MIGRATIONS.iter().filter(|m| !applied.contains(&m.0)) {
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
