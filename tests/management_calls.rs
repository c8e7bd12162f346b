//! Management functions as people and drivers call them: names of arguments, wrong uses, privileges, blocks; what they are told.

mod support;

use std::time::Duration;

use support::serve::psql_says;
use support::served::Served;
use support::{psql, psql_error, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Goal: who calls a function wrongly is told what is wrong, in words of what was called, and nothing has changed.
/// Method: each call by hand, as superuser and as a role that may not.
#[test]
fn a_wrong_call_is_told_in_its_own_words() {
    let served = Served::start(2);
    served.psql("CREATE ROLE app LOGIN");
    served.psql("GRANT CREATE ON SCHEMA public TO app");
    served.psql("CREATE SCHEMA \"App X\"");
    served.psql("CREATE TABLE \"App X\".\"Users\" (\"Tenant\" text PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('\"App X\".\"Users\"', 'Tenant')");
    let [first, second] = [0, 1].map(|at| served.worker_port(at));
    let shard = served.psql(&format!(
        "SELECT min(shardid) FROM pg_dist_shard JOIN pg_dist_shard_placement USING (shardid) WHERE nodeport = {first}"
    ));
    for (call, code, why) in [
        (format!("citus_remove_node('127.0.0.1', {first})"), "55000", "complete successfully is \"App X\".\"Users\""),
        (
            format!("citus_set_coordinator_host('127.0.0.1', {second})"),
            "42710",
            "there is already another node with the specified hostname and port",
        ),
        (
            format!("citus_move_shard_placement({shard}, 77, 2)"),
            "55000",
            "could not find placement matching \"node 77\"",
        ),
        (
            format!("citus_drain_node('127.0.0.1', {first}, rebalance_strategy => 'none_such')"),
            "42704",
            "could not find rebalance strategy with name none_such",
        ),
        ("citus_job_status(job_id => 99)".to_owned(), "42704", "no job found with jobid: 99"),
    ] {
        let refused = psql_error(&served.dsn(0), &format!("SELECT {call}"));
        assert!(refused.contains(code) && refused.contains(why), "{call}: {refused}");
    }
    assert_eq!(served.psql("SELECT count(*) FROM pg_dist_node WHERE shouldhaveshards"), "2");

    // Drivers have a statement described before they run it.
    let describes = "SELECT * FROM get_rebalance_table_shards_plan(nosuch => $1::int)";
    let described = tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(async { support::served::connect(&served.dsn(0)).await.prepare(describes).await.map(drop) });
    let told =
        described.expect_err("there is no such argument").as_db_error().expect("a server's").message().to_owned();
    assert_eq!(told, "function get_rebalance_table_shards_plan(nosuch => integer) does not exist");

    let app = served.dsn(0).replace("postgres@", "app@");
    served.psql("CREATE TABLE mine (k int)");
    served.psql("ALTER TABLE mine OWNER TO app");
    for call in [
        "create_distributed_table('mine', 'k')",
        "create_reference_table('mine')",
        "undistribute_table('mine')",
        "citus_add_rebalance_strategy('mine', 'citus_shard_cost_1', 'citus_node_capacity_1', 'citus_shard_allowed_on_node_true', 0)",
        "tenantry_cluster_pause()",
    ] {
        let refused = psql_error(&app, &format!("SELECT {call}"));
        let name = call.split('(').next().expect("a name");
        let why = format!("permission denied for function {name}");
        assert!(refused.contains("42501") && refused.contains(&why), "{call}: {refused}");
    }
}

/// Goal: a strategy whose function was dropped is told from one that is not there, also when it is the default.
#[test]
fn a_strategy_that_has_lost_its_function_says_so() {
    let served = Served::start(1);
    served.psql("CREATE FUNCTION weight(bigint) RETURNS float4 LANGUAGE sql AS 'SELECT 1::float4'");
    let add = "citus_add_rebalance_strategy('mine', 'weight', 'citus_node_capacity_1', 'citus_shard_allowed_on_node_true', 0)";
    served.psql(&format!("SELECT {add}"));
    served.psql("SELECT citus_set_default_rebalance_strategy('mine')");
    served.psql("DROP FUNCTION weight(bigint)");
    for call in ["get_rebalance_table_shards_plan()", "citus_rebalance_start('mine')"] {
        let refused = psql_error(&served.dsn(0), &format!("SELECT * FROM {call}"));
        let why = "a function of rebalance strategy mine does not exist any more";
        assert!(refused.contains("42883") && refused.contains(why), "{refused}");
    }
}

/// Goal: how a rebalance stands is asked for in a transaction block too, as drivers open one around everything.
/// Method: blocks that have done nothing, that read only, that have written, and that have failed for the schema's change.
#[test]
fn how_things_are_is_told_in_a_transaction_block() {
    let served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let shard = served.psql("SELECT min(shardid) FROM pg_dist_shard");
    let calls = [
        "get_rebalance_table_shards_plan()",
        "tenantry_rebalance_preview()",
        &format!("tenantry_explain_move({shard}, 1)"),
        "citus_rebalance_status()",
        "get_rebalance_progress()",
    ];
    for before in ["SELECT 1", "SET TRANSACTION READ ONLY", "INSERT INTO items VALUES (1)", "SAVEPOINT s"] {
        for call in calls {
            served.psql(&format!("BEGIN; {before}; SELECT count(*) FROM {call}; ROLLBACK"));
        }
    }
    // It would tell something else than what the block sees, or wait for the block's own locks.
    let [port, locks] = [&served.worker_port(0).to_string(), "LOCK TABLE items"];
    let closes = &format!("SELECT citus_set_node_property('127.0.0.1', {port}, 'shouldhaveshards', false)");
    for before in [closes, locks, "ALTER TABLE items ADD COLUMN note text"] {
        for call in calls {
            let refused =
                psql_error(&served.dsn(0), &format!("BEGIN; {before}; SELECT count(*) FROM {call}; ROLLBACK"));
            let why = "cannot run in a transaction that has changed the cluster or the schema";
            assert!(refused.contains("25001") && refused.contains(why), "{before}, {call}: {refused}");
        }
    }
    let refused = psql_error(&served.dsn(0), "BEGIN; SELECT citus_rebalance_start(); ROLLBACK");
    assert!(refused.contains("25001: citus_rebalance_start cannot run inside a transaction block"), "{refused}");
}

/// Goal: who waits for a move keeps no server connection meanwhile: none that could end for being idle, and none that others need.
/// Method: a role whose idle sessions servers end at once moves a shard that somebody's transaction keeps.
#[test]
fn who_waits_for_a_move_keeps_no_server_connection() {
    let served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("CREATE ROLE operator LOGIN IN ROLE tenantry_admin");
    served.psql("ALTER ROLE operator SET idle_session_timeout = '50ms'");
    let shard = "get_shard_id_for_distribution_column('items', 1)";
    let [source, target] = ["=", "<>"].map(|is| {
        served.psql(&format!(
            "SELECT nodeid FROM pg_dist_node WHERE groupid {is} (SELECT groupid FROM pg_dist_placement WHERE shardid = {shard})"
        ))
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let keeper = runtime.block_on(support::served::connect(&served.dsn(0)));
    runtime.block_on(keeper.batch_execute("BEGIN; INSERT INTO items VALUES (1)")).expect("it is written");
    std::thread::scope(|scope| {
        let operator = served.dsn(0).replace("postgres@", "operator@");
        let call = format!("SELECT citus_move_shard_placement({shard}, {source}, {target})");
        let moved = scope.spawn(move || psql_says(&operator, &call));
        let long = "SELECT count(*) FROM tenantry.shard_move WHERE now() - started_at > '1 s'";
        assert!(wait_until(PATIENCE, || served.psql(long) == "1"));
        let kept = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'operator'";
        assert_eq!(psql(&served.coordinator_dsn(), kept), "0");
        runtime.block_on(keeper.batch_execute("COMMIT")).expect("it is committed");
        assert_eq!(moved.join().expect("psql ran"), "");
    });
    assert_eq!(served.psql("SELECT state FROM tenantry.shard_move"), "done");
}

/// Goal: what is a warning has a warning's SQLSTATE.
#[test]
fn a_warning_has_a_code_of_its_own() {
    let served = Served::start(1);
    let told = psql_says(&served.dsn(0), "SELECT * FROM get_rebalance_table_shards_plan(threshold => 0)");
    assert!(told.contains("WARNING:  01000: the given threshold is lower"), "{told}");
}
