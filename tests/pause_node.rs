//! `citus_pause_node_within_txn`, and the other names of Citus's that go with it.

mod support;

use std::time::Duration;

use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_error, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Goal: writes to a worker wait until the transaction ends, whichever proxy they come through; reads and other workers' writes
/// go on; with `force` nobody holds it up.
/// Method: two proxies; who waits is seen on the worker.
#[test]
fn writes_to_a_node_wait_for_the_transaction_that_paused_it() {
    let mut served = Served::start(2);
    let tenants = served.tenants();
    served.psql("CREATE TABLE colors (id int PRIMARY KEY)");
    served.psql("SELECT create_reference_table('colors')");
    served.start_proxy(1);
    let port = served.worker_port(0);
    let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {port}"));
    let pause = |arguments: &str| format!("SELECT citus_pause_node_within_txn({node}{arguments})");
    let update = |tenant: &str| format!("UPDATE items SET id = id + 1 WHERE tenant = {tenant}");
    let waiting = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        psql(&served.worker_dsn(0), sql).parse::<u32>().expect("a number")
    };

    let mut pausing = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(pausing.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(pausing.query(&pause("")), "T D() C(SELECT 1) Z(T)");
    let write = |sql: String| {
        let mut client = Client::connect(served.proxy_port(1), &[]);
        std::thread::spawn(move || client.query(&sql))
    };
    let waiters = [write(update(&tenants[0])), write("INSERT INTO colors VALUES (1)".to_owned())];
    assert!(wait_until(PATIENCE, || waiting() == 2), "{} wait", waiting());
    let mut other = Client::connect(served.proxy_port(1), &[]);
    let read = format!("SELECT id FROM items WHERE tenant = {}", tenants[0]);
    assert_eq!(other.query(&read), "T D(1) C(SELECT 1) Z(I)", "reads go on");
    assert_eq!(other.query(&update(&tenants[1])), "C(UPDATE 1) Z(I)", "so do writes elsewhere");
    assert_eq!(pausing.query(&update(&tenants[0])), "C(UPDATE 1) Z(T)", "and its own");
    assert_eq!(pausing.query("COMMIT"), "C(COMMIT) Z(I)");
    let said = waiters.map(|waiter| waiter.join().expect("it goes on"));
    assert_eq!(said, ["C(UPDATE 1) Z(I)", "C(INSERT 0 1) Z(I)"]);
    assert_eq!(served.psql(&read), "3");

    // Somebody is in the way.
    assert_eq!(other.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(other.query(&update(&tenants[0])), "C(UPDATE 1) Z(T)");
    assert_eq!(pausing.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(pausing.query(&pause(", force => true, lock_cooldown => 100")), "T D() C(SELECT 1) Z(T)");
    let told = other.query(&update(&tenants[0]));
    assert!(told.contains("E(57P01)"), "it was sent away: {told}");
    assert_eq!(pausing.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(served.psql(&read), "3", "nothing of either is there");

    for nobody in ["0", "-1", "99"] {
        let refused = psql_error(&served.dsn(0), &format!("SELECT citus_pause_node_within_txn({nobody})"));
        assert!(refused.contains("42704"), "{refused}");
    }
    served.psql("CREATE ROLE app LOGIN");
    let by_app = served.dsn(0).replace("postgres@", "app@");
    assert!(psql_error(&by_app, &pause("")).contains("42501"), "it is for administrators");
}

/// Goal: what moves under way have made is in `pg_dist_cleanup`, and nothing is afterwards; names that mean nothing here say so.
#[test]
fn what_a_move_leaves_is_listed_until_it_is_gone() {
    let served = Served::start_with(2, 2, "[moves]\ncopy_rate = \"64kB\"\n");
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY, ballast text)");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 2)");
    served.psql("INSERT INTO items SELECT t, repeat(md5(t::text), 100) FROM generate_series(1, 200) t");
    let shard = served.psql("SELECT get_shard_id_for_distribution_column('items', 1)");
    let place = format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}");
    let from = served.psql(&place);
    let to = [0, 1].map(|worker| served.worker_port(worker).to_string()).into_iter().find(|to| *to != from);
    let to = to.expect("the other");
    let listed = "SELECT string_agg(object_type || ' ' || policy_type, ', ' ORDER BY record_id) FROM pg_dist_cleanup";
    assert_eq!(served.psql(listed), "");
    let moving = std::thread::spawn({
        let (dsn, from, to) = (served.dsn(0), from.clone(), to.clone());
        let sql = format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to})");
        move || psql(&dsn, &sql)
    });
    assert!(wait_until(PATIENCE, || served.psql(listed) == "3 0, 4 0, 1 1"), "{}", served.psql(listed));
    let shard_at = "SELECT nodeport FROM pg_dist_cleanup c JOIN pg_dist_node n ON n.groupid = c.node_group_id \
                    WHERE c.object_type = 1 AND c.object_name ~ '^public_[0-9]+[.]items$'";
    assert_eq!(served.psql(shard_at), to);
    moving.join().expect("it moves");
    assert!(wait_until(PATIENCE, || served.psql(listed).is_empty()), "{}", served.psql(listed));
    assert_eq!(served.psql(&place), to);

    served.psql("CALL citus_cleanup_orphaned_shards()");
    for arguments in [format!("{shard}, '127.0.0.1', {to}, '127.0.0.1', {from}"), format!("{shard}, 1, 2")] {
        let refused = psql_error(&served.dsn(0), &format!("SELECT citus_copy_shard_placement({arguments})"));
        assert!(refused.contains("0A000") && refused.contains("citus_move_shard_placement"), "{refused}");
    }
}

/// Goal: names of the oldest scripts tell what there is to tell, and say what to do instead where there is nothing.
/// Method: each of them; one command for each of two workers and one for a server that is none.
#[test]
fn the_oldest_names_tell_or_say_what_to_do() {
    let served = Served::start(2);
    served.tenants();
    served.psql("CREATE TABLE colors (id int PRIMARY KEY); SELECT create_reference_table('colors')");
    let ports = [1, 0, 7].map(|worker| served.worker_port(worker).to_string());
    let run = |parallel: bool| {
        format!(
            "SELECT node_port, success, result FROM master_run_on_worker(array['127.0.0.1', '127.0.0.1', '127.0.0.1'], \
             array[{}], array['SELECT inet_server_port()', 'SELECT 1/0', 'SELECT 1'], {parallel})",
            ports.join(", ")
        )
    };
    for parallel in [false, true] {
        let [first, second, none] = &ports;
        let said = format!(
            "{first}|t|{first}\n{second}|f|ERROR:  division by zero\n{none}|f|ERROR:  there is no active worker 127.0.0.1:{none}"
        );
        assert_eq!(served.psql(&run(parallel)), said);
    }
    let refused =
        served.psql_error("SELECT master_run_on_worker(array['127.0.0.1'], array[]::int[], array['SELECT 1'], true)");
    assert!(refused.contains("22023") && refused.contains("run_command_on_workers()"), "{refused}");
    served.psql("CREATE ROLE app LOGIN");
    let by_app = served.dsn(0).replace("postgres@", "app@");
    assert!(psql_error(&by_app, &run(true)).contains("42501"), "it is for administrators");

    let metadata = "SELECT part_storage_type, part_method, part_key, part_replica_count, part_max_size, part_placement_policy \
                    FROM master_get_table_metadata";
    assert_eq!(served.psql(&format!("{metadata}('items')")), "t|h|tenant|1||2");
    assert_eq!(served.psql(&format!("{metadata}('public.colors')")), "t|n||2||2");
    served.psql("CREATE TABLE bare (id int)");
    for (call, code, hint) in [
        ("master_get_table_metadata('bare')", "42P16", "citus_tables"),
        ("master_get_table_ddl_events('items')", "0A000", "pg_dump --schema-only --table=items"),
        ("master_create_empty_shard('items')", "0A000", "tenantry_split_shard"),
    ] {
        let refused = served.psql_error(&format!("SELECT {call}"));
        assert!(refused.contains(code) && refused.contains(hint), "{refused}");
    }
}
