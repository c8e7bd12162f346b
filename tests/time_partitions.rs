//! Partitions of ranges of time, made and dropped by the functions that users know, on shards and in local tables.

mod support;

use std::process::Command;

use support::{Cluster, psql};

#[test]
fn partitions_of_time_are_made_and_dropped_everywhere() {
    let cluster = Cluster::start(2);
    cluster.psql(
        "SET citus.shard_count = 4;
         CREATE TABLE events (tenant bigint, at timestamptz, note text, PRIMARY KEY (tenant, at)) PARTITION BY RANGE (at);
         SELECT create_distributed_table('events', 'tenant');
         CREATE TABLE \"Local\" (day date) PARTITION BY RANGE (day)",
    );
    let names = |table: &str| {
        let sql = format!(
            "SELECT string_agg(partition::text, ' ' ORDER BY to_value::timestamptz) FROM time_partitions
             WHERE parent_table = '{table}'::regclass"
        );
        cluster.psql(&sql)
    };
    let make = |table: &str, interval: &str, from: &str, to: &str| {
        cluster.psql(&format!(
            "SELECT create_time_partitions(table_name := '{table}', partition_interval := '{interval}',
                end_at := '{to}', start_from := '{from}')"
        ))
    };
    assert_eq!(make("events", "1 month", "2026-01-15", "2026-04-10"), "t");
    assert_eq!(names("events"), "events_p2026_01 events_p2026_02 events_p2026_03 events_p2026_04");
    assert_eq!(make("events", "1 month", "2026-01-01", "2026-05-01"), "f", "all are there");
    // Behind and before what there is.
    assert_eq!(
        cluster
            .psql("SELECT * FROM get_missing_time_partition_ranges('events', '1 month', '2026-06-20', '2025-12-31')"),
        "events_p2025_12|2025-12-01 00:00:00+00|2026-01-01 00:00:00+00
events_p2026_05|2026-05-01 00:00:00+00|2026-06-01 00:00:00+00
events_p2026_06|2026-06-01 00:00:00+00|2026-07-01 00:00:00+00"
    );
    assert_eq!(make("events", "1 month", "2025-12-31", "2026-06-20"), "t");
    let listed = "SELECT partition_column, from_value, to_value, access_method FROM time_partitions
        WHERE partition = 'events_p2026_02'::regclass";
    assert_eq!(cluster.psql(listed), "at|2026-02-01 00:00:00+00|2026-03-01 00:00:00+00|heap");
    cluster.psql("INSERT INTO events SELECT i % 20, timestamptz '2025-12-01' + i * interval '1 day' FROM generate_series(0, 211) i");
    let shards = |name: &str| {
        let sql =
            format!("SELECT count(*) FROM pg_class WHERE relname = '{name}' AND relispartition AND relkind = 'r'");
        psql(&cluster.worker_dsn(0), &sql).parse::<i32>().unwrap()
            + psql(&cluster.worker_dsn(1), &sql).parse::<i32>().unwrap()
    };
    assert_eq!((shards("events_p2025_12"), shards("events_p2026_06")), (4, 4));
    assert_eq!(cluster.psql("SELECT count(*) FROM events_p2026_02"), "28");

    let old = "CALL drop_old_time_partitions('events', '2026-03-31')";
    let output = Command::new("psql").args(["-X", "-d", &cluster.dsn(), "-c", old]).output().expect("psql runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("dropping events_p2025_12 with start time 2025-12-01 00:00:00+00 and end time 2026-01-01"),
        "{said}"
    );
    assert_eq!(names("events"), "events_p2026_03 events_p2026_04 events_p2026_05 events_p2026_06");
    assert_eq!((shards("events_p2025_12"), shards("events_p2026_02"), shards("events_p2026_03")), (0, 0, 4));
    assert_eq!(cluster.psql("SELECT count(*) FROM events"), "122");
    // Undone with the transaction that it is part of.
    cluster.psql("BEGIN; CALL drop_old_time_partitions('events', 'infinity'); SELECT create_time_partitions('events', '1 year', '2031-01-01', '2030-01-01'); ROLLBACK");
    assert_eq!(cluster.psql("SELECT count(*) FROM events"), "122");
    cluster.psql("CREATE TABLE events_rest PARTITION OF events DEFAULT");
    assert_eq!(make("events", "1 month", "2026-07-01", "2026-07-02"), "t", "a default partition is none of time");

    for (interval, wanted) in [
        ("1 day", "Local_p2026_02_03"),
        ("2 weeks", "Local_p2026_02_02"),
        ("1 week", "Local_p2026w06"),
        ("3 months", "Local_p2026q1"),
        ("1 year", "Local_p2026"),
    ] {
        assert_eq!(make("\"Local\"", interval, "2026-02-03", "2026-02-04"), "t");
        assert_eq!(names("\"Local\""), format!("\"{wanted}\""), "{interval}");
        cluster.psql("INSERT INTO \"Local\" VALUES ('2026-02-03')");
        cluster.psql("CALL drop_old_time_partitions(older_than => '2028-01-01', table_name => '\"Local\"')");
        assert_eq!(names("\"Local\""), "", "{interval}");
    }
    cluster.psql("CREATE TABLE hours (at timestamp) PARTITION BY RANGE (at)");
    assert_eq!(make("hours", "6 hours", "2026-02-03 07:30", "2026-02-03 15:00"), "t");
    assert_eq!(names("hours"), "hours_p2026_02_03_0700 hours_p2026_02_03_1300");

    cluster.psql(
        "CREATE TABLE plain (at date); CREATE TABLE two (a date, b date) PARTITION BY RANGE (a, b);
         CREATE TABLE numbers (a int) PARTITION BY RANGE (a); CREATE TABLE part PARTITION OF \"Local\" FOR VALUES FROM ('2026-01-01') TO ('2026-01-11')",
    );
    for (sql, words) in [
        ("SELECT create_time_partitions('plain', '1 day', now() + '1 day')", "42809: plain is not partitioned"),
        (
            "SELECT create_time_partitions('two', '1 day', now() + '1 day')",
            "partitioned tables with multiple partition columns are not supported",
        ),
        (
            "CALL drop_old_time_partitions('numbers', now())",
            "type of the partition column of the table numbers must be date, timestamp or timestamptz",
        ),
        (
            "SELECT create_time_partitions('\"Local\"', '1 hour', '2030-01-01')",
            "partition interval of date partitioned table must be day or multiple days",
        ),
        (
            "SELECT create_time_partitions('\"Local\"', '1 day', '2026-02-01', '2026-01-01')",
            "22023: partition interval does not fit the partitions of \"Local\"",
        ),
        (
            "SELECT create_time_partitions('hours', '-1 hour', '2030-01-01')",
            "22023: partition interval must be a positive value",
        ),
        ("SELECT create_time_partitions('hours', '6 hours', '2020-01-01')", "22023: start_from must be before end_at"),
        ("SELECT create_time_partitions('hours', NULL, '2020-01-01')", "22004"),
        ("SELECT create_time_partitions('nowhere', '1 day', '2020-01-01')", "42P01"),
        // Not even carried out: what has been dropped, or cleaned up, is gone.
        (
            "SELECT drop_old_time_partitions('numbers', 'infinity')",
            "42809: drop_old_time_partitions(unknown, unknown) is a procedure",
        ),
        ("SELECT citus_cleanup_orphaned_resources()", "HINT:  To call a procedure, use CALL."),
        ("CALL citus_rebalance_wait()", "42809: citus_rebalance_wait() is not a procedure"),
        ("CALL create_distributed_table('plain', 'at')", "HINT:  To call a function, use SELECT."),
    ] {
        let error = cluster.psql_error(sql);
        assert!(error.contains(words), "{sql}: {error}");
    }
    cluster.psql("CREATE ROLE app LOGIN");
    let as_app = cluster.dsn().replace("postgres@", "app@");
    for sql in [
        "SELECT create_time_partitions('events', '1 month', '2027-01-01', '2026-10-01')",
        "CALL drop_old_time_partitions('events', now() + '10 years')",
    ] {
        let error = support::psql_error(&as_app, sql);
        assert!(error.contains("42501"), "{sql}: {error}");
    }

    // A tenant of a partitioned table is isolated like any other: its partitions are no tables beside it.
    let rows = cluster.psql("SELECT count(*) FROM events");
    cluster.psql("SELECT isolate_tenant_to_new_shard('events', 7)");
    assert_eq!(cluster.psql("SELECT DISTINCT tenant FROM tenantry_tenants"), "7");
    assert_eq!(cluster.psql("SELECT count(*) FROM events"), rows);
}
