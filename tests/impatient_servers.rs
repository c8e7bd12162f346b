//! Servers whose settings end what takes long, or is idle: the proxy's own work goes on all the same.

mod support;

use std::time::Duration;

use support::serve::psql_says;
use support::served::{Served, connect};
use support::{psql, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Goal: a superuser's defaults end neither moves nor what looks after them.
/// Method: servers that soon end statements, waits for locks, open transactions and idle sessions of the proxy's role. A client keeps a move waiting for longer than all of that.
#[test]
fn the_proxys_own_work_is_not_ended_by_its_roles_defaults() {
    let mut served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("CREATE ROLE client SUPERUSER LOGIN");
    for (name, value) in [
        ("statement_timeout", "200ms"),
        ("lock_timeout", "10ms"),
        ("idle_in_transaction_session_timeout", "100ms"),
        ("idle_session_timeout", "100ms"),
        ("default_transaction_isolation", "serializable"),
    ] {
        for server in [served.coordinator_dsn(), served.worker_dsn(0), served.worker_dsn(1)] {
            psql(&server, &format!("ALTER ROLE postgres SET {name} = '{value}'"));
        }
    }
    served.kill_proxy(0);
    served.start_proxy(0);

    let client = served.dsn(0).replace("postgres@", "client@");
    let shard = "get_shard_id_for_distribution_column('items', 1)";
    let [source, target] = ["=", "<>"].map(|is| {
        let sql = format!(
            "SELECT nodeid FROM pg_dist_node WHERE groupid {is} (SELECT groupid FROM pg_dist_placement WHERE shardid = {shard})"
        );
        psql(&client, &sql)
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let keeper = runtime.block_on(connect(&client));
    runtime.block_on(keeper.batch_execute("BEGIN; INSERT INTO items VALUES (1)")).expect("it is written");
    let call = format!("SELECT citus_move_shard_placement({shard}, {source}, {target})");
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| psql_says(&client, &call));
        let long = "SELECT count(*) FROM tenantry.shard_move WHERE now() - started_at > '3 s'";
        assert!(wait_until(PATIENCE, || psql(&client, long) == "1"));
        runtime.block_on(keeper.batch_execute("COMMIT")).expect("it is committed");
        assert_eq!(moved.join().expect("psql ran"), "");
    });
    assert_eq!(psql(&client, "SELECT state FROM tenantry.shard_move"), "done");
    assert_eq!(psql(&client, "SELECT count(*) FROM items"), "1");
    let log = served.logged(0);
    assert!(!log.contains("will retry") && !log.contains("ERROR"), "{log}");
}

/// Goal: a client whose statement is under way is not idle, although it has a transaction on a server that has nothing to do for it.
/// Method: a role whose idle transactions end at once writes on two workers; on one of them somebody else has the row.
#[test]
fn a_statement_on_two_servers_is_not_idle() {
    let served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY, n int)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("INSERT INTO items SELECT i, 0 FROM generate_series(1, 40) i");
    served.psql("CREATE ROLE hasty LOGIN SUPERUSER");
    served.psql("ALTER ROLE hasty SET idle_in_transaction_session_timeout = '50ms'");
    let hasty = served.dsn(0).replace("postgres@", "hasty@");
    let first = served.tenant_of("items", 0);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let keeper = runtime.block_on(connect(&served.dsn(0)));
    let keep = format!("BEGIN; UPDATE items SET n = 1 WHERE tenant = {first}");
    runtime.block_on(keeper.batch_execute(&keep)).expect("it is written");
    std::thread::scope(|scope| {
        let written = scope.spawn(|| psql_says(&hasty, "UPDATE items SET n = n + 1"));
        let waits = "SELECT count(*) FROM pg_stat_activity \
                     WHERE usename = 'hasty' AND wait_event_type = 'Lock' AND now() - query_start > '1 s'";
        assert!(wait_until(PATIENCE, || psql(&served.worker_dsn(0), waits) == "1" || written.is_finished()));
        runtime.block_on(keeper.batch_execute("COMMIT")).expect("it is committed");
        assert_eq!(written.join().expect("psql ran"), "");
    });
    assert_eq!(served.psql("SELECT sum(n) FROM items"), "41");
}
