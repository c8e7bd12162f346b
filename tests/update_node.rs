//! `citus_update_node` while the old server is alive: what was taken out of use is written to no more, whoever has not heard of it.
//! A member of tenantry_admin calls it, who has no rights on what is there.

mod support;

use std::time::Duration;

use support::ledger::{Ledger, Load};
use support::served::Served;
use support::wire_client::Client;
use support::{dsn, psql, psql_command, psql_error, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// Names that stale statements look for.
const SHARDS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\_%'";
const COPIES: &str = "SELECT count(*) FROM pg_class WHERE relname = 'colors'";
const KEEPER: &str = "CREATE ROLE keeper LOGIN IN ROLE tenantry_admin";

/// Goal: with `force` nothing that was acknowledged is missing, although the old server is alive, a proxy has not heard of the
/// change and a transaction is open there; what is rolled back leaves the old server as it was.
/// Method: all that the old server acknowledges before is on its standby (synchronous replication), which is promoted. Proxy 1 is
/// frozen meanwhile; when it goes on, the old server would acknowledge alone.
#[test]
fn a_server_that_was_replaced_by_force_is_written_to_no_more() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("CREATE TABLE colors (id int PRIMARY KEY)");
    served.psql("SELECT create_reference_table('colors')");
    served.psql(KEEPER);
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    let (old, new) = (served.worker_port(1), served.worker_port(3));
    let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {old}"));
    served.servers().add_standby_of(old, new).expect("it copies the worker");
    psql(&dsn(old), "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (*)'");
    psql(&dsn(old), "SELECT pg_reload_conf()");
    let copied = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    assert!(wait_until(PATIENCE, || psql(&dsn(old), copied) == "1"), "it streams");

    let loads =
        [0, 1].map(|proxy| Load::start(served.proxy_port(proxy), &tenants, 3, 1_000 + proxy as u64 * 100_000_000));
    let insert = |id: u64| format!("INSERT INTO items VALUES ({}, {id})", tenants[1]);
    let mut open = Client::connect(served.proxy_port(1), &[]);
    assert_eq!(open.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(open.query(&insert(1)), "C(INSERT 0 1) Z(T)");
    let mut keeping = Client::connect(served.proxy_port(1), &[]);
    assert_eq!(keeping.query("SET tenantry.pool_mode = 'session'"), "C(SET) Z(I)");
    assert_eq!(keeping.query(&insert(2)), "C(INSERT 0 1) Z(I)");
    loads.iter().for_each(Load::await_progress);
    served.signal_proxy(1, "STOP");
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");

    let update = |more: &str| format!("SELECT citus_update_node({node}, '127.0.0.1', {new}{more})");
    let refused = psql_error(&served.dsn(0), &update(""));
    assert!(refused.contains("55000") && refused.contains("still takes writes"), "{refused}");
    let forced = update(", force => true, lock_cooldown => 300");
    let names = [psql(&dsn(old), SHARDS), psql(&dsn(old), COPIES)];
    let by_keeper = served.dsn(0).replace("postgres@", "keeper@");
    let mut client = Client::connect(served.proxy_port(0), &[("user", "keeper")]);
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    let pause = format!("SELECT citus_pause_node_within_txn({node}, force => true, lock_cooldown => 300)");
    assert_eq!(client.query(&pause), "T D() C(SELECT 1) Z(T)");
    assert!(client.query(&forced).ends_with("C(SELECT 1) Z(T)"));
    assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!([psql(&dsn(old), SHARDS), psql(&dsn(old), COPIES)], names, "it is as before");

    let told = told(&by_keeper, &forced);
    assert!(told.contains(&format!("the old server 127.0.0.1:{old} was taken out of use")), "{told}");
    psql(&dsn(old), "ALTER SYSTEM RESET synchronous_standby_names");
    psql(&dsn(old), "SELECT pg_reload_conf()");
    loads[0].await_progress();
    served.signal_proxy(1, "CONT");
    loads[1].await_progress();
    assert_eq!(keeping.query(&insert(3)), "C(INSERT 0 1) Z(I)");
    let lost = open.query("COMMIT");
    assert!(lost.contains("E("), "its session there was ended: {lost}");
    assert_eq!(psql(&served.dsn(1), "INSERT INTO colors VALUES (1)"), "");
    assert_eq!(psql(&dsn(new), "SELECT count(*) FROM colors"), "1");

    let present = served.psql("SELECT id FROM items");
    for id in ["2", "3"] {
        assert!(present.lines().any(|line| line == id), "{id} was acknowledged");
    }
    let done = loads.into_iter().flat_map(|load| load.end().done).collect();
    Ledger { done }.check(&served.psql("SELECT id FROM items"), 1_000);
    assert_eq!([psql(&dsn(old), SHARDS), psql(&dsn(old), COPIES)], ["0", "0"]);
    let fenced = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'tenantry\\_fenced\\_%'";
    assert_eq!(psql(&dsn(old), fenced), names[0]);
    let is_noted = || psql(&served.coordinator_dsn(), "SELECT count(*) FROM tenantry.fenced_server") != "0";
    assert!(wait_until(PATIENCE, || !is_noted()), "nobody has to look there any more");
    let lent = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'as\\_control%'";
    assert!(wait_until(PATIENCE, || psql(&dsn(old), lent) == "0"), "and the keeper can do nothing more there");
}

/// Goal: writes that wait for a paused node go on at the standby that was promoted meanwhile, once all is committed together; nothing that
/// was acknowledged is missing, whether the catalog knew of the standby or not, and nobody follows the promotion before.
/// Method: replication is asynchronous; clients of two proxies work all the time.
#[test]
fn a_pause_a_promotion_and_an_update_are_one_transaction() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("CREATE TABLE colors (id int PRIMARY KEY)");
    served.psql("SELECT create_reference_table('colors')");
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {}", served.worker_port(1)));
    let at = format!("SELECT nodeport FROM pg_dist_node WHERE nodeid = {node}");
    served.psql(KEEPER);
    let loads =
        [0, 1].map(|proxy| Load::start(served.proxy_port(proxy), &tenants, 3, 1_000 + proxy as u64 * 100_000_000));
    for (old, new, is_listed) in [(1, 3, false), (3, 4, true)] {
        let [old, new] = [old, new].map(|number| served.worker_port(number));
        served.servers().add_standby_of(old, new).expect("it copies the worker");
        if is_listed {
            served.psql(&format!("SELECT citus_add_secondary_node('127.0.0.1', {new}, '127.0.0.1', {old})"));
            let noted = format!("SELECT timeline IS NOT NULL FROM tenantry.node WHERE nodeid = {node}");
            assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), &noted) == "t"), "proxies look after both");
        }
        let mut client = Client::connect(served.proxy_port(0), &[("user", "keeper")]);
        assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
        let pause = format!("SELECT citus_pause_node_within_txn({node}, force => true, lock_cooldown => 300)");
        assert_eq!(client.query(&pause), "T D() C(SELECT 1) Z(T)");
        let copied = "SELECT pg_current_wal_lsn() = replay_lsn FROM pg_stat_replication";
        assert!(wait_until(PATIENCE, || psql(&dsn(old), copied) == "t"), "it has everything");
        assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
        // Longer than proxies take to see it.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(served.psql(&at), old.to_string(), "it is for the transaction to follow");
        let update =
            format!("SELECT citus_update_node({node}, '127.0.0.1', {new}, force => true, lock_cooldown => 300)");
        let said = client.query(&update);
        assert!(said.ends_with("C(SELECT 1) Z(T)"), "{said}");
        assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
        loads.iter().for_each(Load::await_progress);
        assert_eq!(served.psql(&at), new.to_string());
        assert_eq!([psql(&dsn(old), SHARDS), psql(&dsn(old), COPIES)], ["0", "0"], "the old one is out of use");
    }
    let done = loads.into_iter().flat_map(|load| load.end().done).collect();
    Ledger { done }.check(&served.psql("SELECT id FROM items"), 1_000);
}

/// Goal: what an operator forces stands, although the server that was left was promoted later than the one that was chosen: no proxy
/// follows the promotion back.
/// Method: the primary becomes a standby for a moment and is promoted, while its own standby is down; that one is made writable without
/// a promotion.
#[test]
fn what_an_operator_forces_is_not_taken_back() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let tenant = served.tenant_of("items", 1);
    let (old, new) = (served.worker_port(1), served.worker_port(3));
    served.servers().add_standby_of(old, new).expect("it copies the worker");
    served.psql(&format!("SELECT citus_add_secondary_node('127.0.0.1', {new}, '127.0.0.1', {old})"));
    let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {old}"));
    let timeline = format!("SELECT timeline FROM tenantry.node WHERE nodeid = {node}");
    let noted = |served: &Served, is: &str| wait_until(PATIENCE, || psql(&served.coordinator_dsn(), &timeline) == is);
    let data = std::path::PathBuf::from(psql(&dsn(new), "SHOW data_directory"));
    served.servers().stop_at(new).expect("it stops");
    served.servers().restart_at(old, Some(new)).expect("it starts as a standby");
    assert_eq!(psql(&dsn(old), "SELECT pg_promote()"), "t");
    assert!(noted(&served, "2"), "its promotion is noted");

    let mut client = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    let pause = format!("SELECT citus_pause_node_within_txn({node}, force => true, lock_cooldown => 300)");
    assert_eq!(client.query(&pause), "T D() C(SELECT 1) Z(T)");
    std::fs::remove_file(data.join("standby.signal")).expect("it was a standby");
    served.servers().restart_at(new, None).expect("it starts");
    let update = format!("SELECT citus_update_node({node}, '127.0.0.1', {new}, force => true, lock_cooldown => 300)");
    let said = client.query(&update);
    assert!(said.ends_with("C(SELECT 1) Z(T)"), "{said}");
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(psql(&dsn(old), SHARDS), "0", "the old one is out of use");
    let newest = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!([psql(&dsn(old), newest), psql(&dsn(new), newest)], ["2", "1"]);

    // Longer than proxies take to see who takes writes.
    for id in 1..=10 {
        let insert = format!("INSERT INTO items VALUES ({tenant}, {id})");
        assert_eq!(psql(&served.dsn(id % 2), &insert), "", "insert {id}");
        std::thread::sleep(Duration::from_millis(400));
    }
    assert_eq!(served.psql(&format!("SELECT nodeport FROM pg_dist_node WHERE nodeid = {node}")), new.to_string());
    assert_eq!(psql(&served.coordinator_dsn(), &timeline), "2");
    let there = format!("SELECT count(*), current_setting('port') FROM items WHERE tenant = {tenant}");
    assert_eq!(served.psql(&there), format!("10|{new}"));
}

/// Goal: a server that is only known by another name stays as it is, and one that cannot be reached is told of.
/// Method: `force` for both.
#[test]
fn a_server_of_another_name_stays_as_it_is() {
    let mut served = Served::start(2);
    let tenants = served.tenants();
    let (first, old, new) = (served.worker_port(0), served.worker_port(1), served.worker_port(3));
    let node = |port: u16| served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {port}"));
    let update = |node: &str, host: &str, port: u16| {
        format!("SELECT citus_update_node({node}, '{host}', {port}, force => true, lock_cooldown => 100)")
    };
    let (node_first, node_old) = (node(first), node(old));
    let names = psql(&dsn(first), SHARDS);
    assert_eq!(told(&served.dsn(0), &update(&node_first, "localhost", first)), "");
    assert_eq!(psql(&dsn(first), SHARDS), names);
    assert_eq!(served.psql(&format!("SELECT id FROM items WHERE tenant = {}", tenants[0])), "1");

    served.servers().add_standby_of(old, new).expect("it copies the worker");
    served.servers().kill_at(old).expect("it ends");
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    let told = told(&served.dsn(0), &update(&node_old, "127.0.0.1", new));
    assert!(told.contains(&format!("the old server 127.0.0.1:{old} of node {node_old} cannot be reached")), "{told}");
    assert_eq!(served.psql("SELECT count(*) FROM items"), "2");
}

/// Goal: when a proxy dies between the change and the end of the fence, another one ends it.
/// Method: what it leaves then, made by hand: the decision to commit, a part that is prepared on the old server.
#[test]
fn a_fence_that_a_dead_proxy_left_is_ended() {
    let mut served = Served::start(1);
    let port = served.servers().add_worker().expect("it starts").port();
    psql(&dsn(port), "BEGIN; CREATE TABLE there (); PREPARE TRANSACTION 'tenantry_dead_1_7'");
    psql(
        &served.coordinator_dsn(),
        &format!(
            "INSERT INTO tenantry.two_phase (txn, decision, nodes) VALUES ('tenantry_dead_1', 'commit', '{{7}}'); \
             INSERT INTO tenantry.fenced_server VALUES (7, '127.0.0.1', {port})"
        ),
    );
    let ended = "SELECT count(*) FROM pg_class WHERE relname = 'there'";
    assert!(wait_until(PATIENCE, || psql(&dsn(port), ended) == "1"), "it is committed");
    let is_noted = || psql(&served.coordinator_dsn(), "SELECT count(*) FROM tenantry.fenced_server") != "0";
    assert!(wait_until(PATIENCE, || !is_noted()), "nobody has to look there any more");
}

/// Goal: what a role was lent on a node does not outlive its session, when the proxy that lent it dies.
/// Method: functions of such names, for a session that has ended and for one that goes on.
#[test]
fn what_a_dead_proxy_has_lent_is_taken_back() {
    let served = Served::start(1);
    let worker = served.worker_dsn(0);
    let ended = psql(&worker, "SELECT pg_backend_pid()");
    let alive = psql(&worker, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
    for process in [&ended, &alive] {
        psql(&worker, &format!("CREATE FUNCTION tenantry.as_control_{process}_0() RETURNS void LANGUAGE sql AS ''"));
    }
    served.psql("CALL citus_cleanup_orphaned_resources()");
    let left = psql(&worker, "SELECT proname FROM pg_proc WHERE proname ~ 'as_control'");
    assert_eq!(left, format!("as_control_{alive}_0"));
}

/// What psql says besides the answer.
fn told(dsn: &str, sql: &str) -> String {
    let output = psql_command(dsn).args(["-c", sql]).output().expect("psql runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}
