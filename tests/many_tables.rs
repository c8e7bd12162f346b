//! How work grows with the number of tables.

mod support;

use serde_json::Value;
use support::psql;
use support::served::Served;
use tenantry::catalog::LOAD;

/// Goal: to read the catalog, as every change of the schema does, takes work in proportion to the tables, not to their square.
/// Method: rows that the steps of the statement have looked at, as EXPLAIN ANALYZE counts them, with so many tables and with twice as
/// many. Small tables would be read whole each time, which is cheaper as long as they are small: here indexes are used.
#[test]
fn reading_the_catalog_grows_with_the_tables() {
    let served = Served::start(1);
    let work = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            served.psql(&format!(
                "CREATE TABLE many_{number} (tenant int, id serial, at timestamptz DEFAULT now(), note text DEFAULT '', \
                 PRIMARY KEY (tenant, id))"
            ));
            served.psql(&format!("SELECT create_distributed_table('many_{number}', 'tenant', shard_count => 2)"));
        }
        let explained = format!("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {LOAD}");
        let by_index = format!("{}?options=-cenable_seqscan%3Doff", served.coordinator_dsn());
        let plan: Value = serde_json::from_str(&psql(&by_index, &explained)).unwrap();
        rows_looked_at(&plan[0]["Plan"])
    };
    let (few, many) = (work(0..20), work(20..40));
    assert!(many < 2.1 * few, "{few} rows were looked at for 20 tables, {many} for 40");
}

/// By a step of a plan and by those below it.
fn rows_looked_at(step: &Value) -> f64 {
    let rows =
        ["Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck"];
    let own: f64 = rows.iter().filter_map(|rows| step[rows].as_f64()).sum();
    let below = step["Plans"].as_array().map_or(0.0, |steps| steps.iter().map(rows_looked_at).sum());
    own * step["Actual Loops"].as_f64().unwrap_or(1.0) + below
}
