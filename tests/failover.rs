//! Servers that go and come back: what it costs the clients whose rows they hold.

mod support;

use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::ledger::{Done, Ledger, Load};
use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_error, signal, wait_until};
use tenantry::wire::frontend;

const PATIENCE: Duration = Duration::from_secs(60);

/// Goal: a server that is restarted costs its tenants a pause; only what was under way when it went down fails.
/// Method: one cluster, clients that write down everything; each story does something to the second worker.
#[test]
fn a_server_that_goes_and_comes_back_costs_a_pause() {
    let mut served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    for (number, way) in [Way::Fast, Way::Immediate, Way::Kill].into_iter().enumerate() {
        a_restart_is_waited_for(&mut served, &tenants, way, (number as u64 + 1) * 100_000_000);
    }
    a_server_that_waits_for_all_to_go_ends(&mut served, &tenants, 500_000_000);
    a_failover_is_followed(&mut served, &tenants, 400_000_000);
    standbys_are_read_from_by_who_asks(&mut served, &tenants);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As `pg_ctl restart` does.
    Fast,
    /// `pg_ctl restart -m immediate`
    Immediate,
    /// All its processes, as when the machine goes.
    Kill,
}

fn a_restart_is_waited_for(served: &mut Served, tenants: &[String], way: Way, first_id: u64) {
    let load = Load::start(served.proxy_port(0), tenants, 3, first_id);
    match way {
        Way::Fast => served.servers().stop_worker(1),
        Way::Immediate => {
            let file = psql(&served.worker_dsn(1), "SELECT pg_read_file('postmaster.pid')");
            signal(file.lines().next().and_then(|line| line.parse().ok()).expect("a process id"), "QUIT");
            // It is gone when this has waited for it.
            served.servers().stop_worker(1)
        }
        Way::Kill => served.servers().kill_worker(1),
    }
    .expect("it ends");
    let down = Instant::now();
    // Long enough for every client to have come to it, and for attempts to reach it that fail.
    std::thread::sleep(Duration::from_millis(700));
    let up = Instant::now();
    served.servers().restart_worker(1).expect("it starts");
    load.await_progress();
    let ledger = load.end();
    only_what_was_under_way_failed(&ledger, tenants, down);
    let waited =
        |tenant: &String| ledger.done.iter().filter(|d| d.tenant == *tenant && d.began < up && d.ended > up).count();
    assert!(waited(&tenants[1]) >= 3, "{way:?}: everybody waits: {}", waited(&tenants[1]));
    ledger.check(&served.psql("SELECT id FROM items"), first_id);
}

/// `pg_ctl stop -m smart`: nobody is sent away, nobody new let in. The proxy lets go of it, so it ends, and nothing at all fails.
fn a_server_that_waits_for_all_to_go_ends(served: &mut Served, tenants: &[String], first_id: u64) {
    let load = Load::start(served.proxy_port(0), tenants, 3, first_id);
    let file = psql(&served.worker_dsn(1), "SELECT pg_read_file('postmaster.pid')");
    signal(file.lines().next().and_then(|line| line.parse().ok()).expect("a process id"), "TERM");
    let worker = (Ipv4Addr::LOCALHOST, served.worker_port(1));
    assert!(wait_until(PATIENCE, || TcpStream::connect(worker).is_err()), "connections keep it from ending");
    let up = Instant::now();
    served.servers().restart_worker(1).expect("it starts");
    load.await_progress();
    let ledger = load.end();
    let failed: Vec<_> = ledger.errors().collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(waited(&ledger, &tenants[1], up) > 0, "somebody waits");
    ledger.check(&served.psql("SELECT id FROM items"), first_id);
}

/// Goal: a server that comes back smaller than it was costs a pause too, although as many clients as before want it: those that it has no
/// room for wait for those that it has. Method: its `max_connections` goes from 60 to 12 under 20 clients whose statements take a while.
#[test]
fn a_server_that_comes_back_smaller_costs_a_pause() {
    let mut served = Served::start_with(2, 2, "[pool]\ncheckout_timeout = \"5s\"\n");
    let tenants = served.tenants();
    let (port, up) = (served.proxy_port(0), Arc::new(AtomicBool::new(false)));
    let statement = format!("SELECT id, pg_sleep(0.05) FROM items WHERE tenant = {}", tenants[1]);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (up, statement) = (up.clone(), statement.clone());
            std::thread::spawn(move || {
                let mut client = Client::connect(port, &[]);
                let mut said = Vec::new();
                while said.iter().filter(|(began_up, _)| *began_up).count() < 10 {
                    said.push((up.load(Ordering::SeqCst), client.query(&statement)));
                }
                said
            })
        })
        .collect();
    assert!(wait_until(PATIENCE, || served.running("pg_sleep") > 12), "more than there will be room for");
    served.servers().resize_worker(1, 12).expect("it starts");
    up.store(true, Ordering::SeqCst);
    let said: Vec<_> = clients.into_iter().flat_map(|client| client.join().expect("its session goes on")).collect();
    let failed = |wanted: &dyn Fn(bool, &str) -> bool| -> Vec<_> {
        said.iter().filter(|(began_up, said)| said.contains("E(") && wanted(*began_up, said)).cloned().collect()
    };
    assert_eq!(failed(&|_, said| said.contains("E(53300)")), []);
    assert_eq!(failed(&|began_up, _| began_up), [], "nothing was under way any more");
}

/// The second worker dies, its standby is promoted; then the old primary comes back as if nothing had been.
fn a_failover_is_followed(served: &mut Served, tenants: &[String], first_id: u64) {
    let (old, new) = (served.worker_port(1), served.worker_port(3));
    served.servers().add_standby(1, new).expect("it copies the worker");
    let standby = format!("postgresql://postgres@127.0.0.1:{new}/postgres");
    let refused = psql_error(
        &served.dsn(0),
        &format!("SELECT citus_add_secondary_node('127.0.0.1', {new}, '127.0.0.1', {})", served.worker_port(0)),
    );
    assert!(refused.contains("55000") && refused.contains("It is not a copy of that server."), "{refused}");
    let added = served.psql(&format!("SELECT citus_add_secondary_node('127.0.0.1', {new}, '127.0.0.1', {old})"));
    let again = served.psql(&format!("SELECT citus_add_secondary_node('127.0.0.1', {new}, '127.0.0.1', {old})"));
    assert_eq!(added, again, "it is there already");
    // What is acknowledged is on the standby too.
    psql(&served.worker_dsn(1), "ALTER SYSTEM SET synchronous_standby_names = '*'");
    psql(&served.worker_dsn(1), "SELECT pg_reload_conf()");
    let is_sync = || psql(&served.worker_dsn(1), "SELECT sync_state FROM pg_stat_replication") == "sync";
    assert!(wait_until(PATIENCE, is_sync), "it streams");
    let node = |port: u16| served.psql(&format!("SELECT noderole, nodeid FROM pg_dist_node WHERE nodeport = {port}"));
    let (primary, secondary) = (node(old), node(new));
    assert!(primary.starts_with("primary") && secondary.starts_with("secondary"), "{primary} {secondary}");

    let load = Load::start(served.proxy_port(0), tenants, 3, first_id);
    served.servers().kill_worker(1).expect("it ends");
    let down = Instant::now();
    std::thread::sleep(Duration::from_millis(700));
    let promoted = Instant::now();
    assert_eq!(psql(&standby, "SELECT pg_promote()"), "t");
    load.await_progress();
    let ledger = load.end();
    only_what_was_under_way_failed(&ledger, tenants, down);
    assert!(waited(&ledger, &tenants[1], promoted) >= 3, "everybody waits");
    ledger.check(&served.psql("SELECT id FROM items"), first_id);

    // The catalog follows: the node keeps its id, and with it its shards.
    let node = |port: u16| served.psql(&format!("SELECT noderole, nodeid FROM pg_dist_node WHERE nodeport = {port}"));
    assert!(wait_until(PATIENCE, || node(new) == primary), "{} {}", node(new), node(old));
    assert_eq!(node(old), secondary);

    served.servers().restart_worker(1).expect("it starts");
    served.start_proxy(1);
    for proxy in [0, 1] {
        let id = first_id + 99_000_000 + proxy as u64;
        psql(&served.dsn(proxy), &format!("INSERT INTO items VALUES ({}, {id})", tenants[1]));
        let schemas = "SELECT string_agg(format('SELECT id FROM %I.items', nspname), ' UNION ALL ') \
                       FROM pg_namespace WHERE nspname LIKE 'public\\_%'";
        let ids = |dsn: &str| psql(dsn, &psql(dsn, schemas));
        assert!(ids(&standby).lines().any(|line| line == id.to_string()), "it went to the new primary");
        assert!(!ids(&served.worker_dsn(1)).lines().any(|line| line == id.to_string()), "not to the old one");
    }
    served.kill_proxy(1);
    // Commits over several nodes and moves know the new one too.
    served.psql("UPDATE items SET id = id");
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[1]));
    let to = served.worker_port(0);
    served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {new}, '127.0.0.1', {to})"));
    let count = format!("SELECT count(*) > 0 FROM items WHERE tenant = {}", tenants[1]);
    assert_eq!(served.psql(&count), "t");
    served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {to}, '127.0.0.1', {new})"));
    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {old})"));
    assert_eq!(served.psql("SELECT count(*) FROM pg_dist_node"), "2");
}

/// The first worker gets a standby that stands still: what it does not have shows who was asked.
fn standbys_are_read_from_by_who_asks(served: &mut Served, tenants: &[String]) {
    let (tenant, port) = (&tenants[0], served.worker_port(4));
    served.servers().add_standby(0, port).expect("it copies the worker");
    let standby = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    let primary = served.worker_port(0);
    served.psql(&format!("SELECT citus_add_secondary_node('127.0.0.1', {port}, '127.0.0.1', {primary})"));
    psql(&standby, "SELECT pg_wal_replay_pause()");
    let is_paused = || psql(&standby, "SELECT pg_get_wal_replay_pause_state()") == "paused";
    assert!(wait_until(PATIENCE, is_paused), "it stands still");
    served.psql(&format!("INSERT INTO items VALUES ({tenant}, 1)"));

    let mut plain = Client::connect(served.proxy_port(0), &[]);
    let mut asking = Client::connect(served.proxy_port(0), &[("options", "-c tenantry.read_from=replica")]);
    let of_tenant = |id: u32| format!("SELECT count(*) FROM items WHERE tenant = {tenant} AND id = {id}");
    let of_all = |id: u32| format!("SELECT count(*) FROM items WHERE id = {id}");
    let rows = |id: u32| format!("SELECT id FROM items WHERE id = {id}");
    let by_parameter = format!("SELECT count(*) FROM items WHERE tenant = {tenant} AND id = $1");
    let insert = |id: u32| format!("INSERT INTO items VALUES ({tenant}, {id})");
    let (stale, fresh) = ("T D(0) C(SELECT 1) Z(I)", "T D(1) C(SELECT 1) Z(I)");
    // Twice, because the second time the shape is known and the statement prepared.
    for round in 0..2 {
        let name = format!("by_parameter_{round}");
        assert_eq!(plain.query(&of_tenant(1)), fresh, "nothing stale unasked");
        assert_eq!(plain.query(&of_all(1)), fresh);
        assert_eq!(plain.run_prepared(&name, &by_parameter, &[Some("1")]), "1 2 D(1) C(SELECT 1) Z(I)");
        assert_eq!(asking.query(&of_tenant(1)), stale);
        assert_eq!(asking.query(&of_all(1)), stale, "over all tenants too");
        assert_eq!(asking.query(&rows(1)), "T C(SELECT 0) Z(I)");
        assert_eq!(asking.run_prepared(&name, &by_parameter, &[Some("1")]), "1 2 D(0) C(SELECT 1) Z(I)");
    }
    // Not in a transaction block, not behind a write, not with a lock.
    assert_eq!(asking.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(asking.query(&of_tenant(1)), "T D(1) C(SELECT 1) Z(T)");
    assert_eq!(asking.query("COMMIT"), "C(COMMIT) Z(I)");
    let locking = format!("SELECT id FROM items WHERE tenant = {tenant} AND id = 1 FOR UPDATE");
    assert_eq!(asking.query(&locking), fresh);
    let several = format!("{}; {}; {}", of_tenant(1), insert(2), of_tenant(2));
    assert_eq!(asking.query(&several), "T D(0) C(SELECT 1) C(INSERT 0 1) T D(1) C(SELECT 1) Z(I)");
    for (sql, values) in [(&by_parameter, &[Some("1")][..]), (&insert(3), &[]), (&by_parameter, &[Some("3")])] {
        frontend::parse(b"", sql, &[], &mut asking.out);
        asking.bind_and_execute("", values);
    }
    frontend::sync(&mut asking.out);
    assert_eq!(asking.answer(), "1 2 D(0) C(SELECT 1) 1 2 C(INSERT 0 1) 1 2 D(1) C(SELECT 1) Z(I)");
    assert_eq!(asking.query(&of_tenant(3)), stale, "alone again it is stale");

    // The setting is one like others.
    assert_eq!(asking.query("SET tenantry.read_from = 'primary'"), "C(SET) Z(I)");
    assert_eq!(asking.query(&of_tenant(1)), fresh);
    assert_eq!(asking.query("RESET tenantry.read_from"), "C(RESET) Z(I)");
    assert_eq!(asking.query(&of_tenant(1)), stale, "back to what it asked for at login");
    assert_eq!(asking.query("SET tenantry.read_from = 'nearest'"), "E(22023) Z(I)");
    assert_eq!(plain.query("BEGIN; SET tenantry.read_from = 'replica'; ROLLBACK"), "C(BEGIN) C(SET) C(ROLLBACK) Z(I)");
    assert_eq!(plain.query(&of_tenant(1)), fresh, "it was taken back");
    assert_eq!(plain.query("SET tenantry.read_from TO replica"), "C(SET) Z(I)");
    assert_eq!(plain.query(&of_tenant(1)), stale);
    assert_eq!(plain.query("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_eq!(plain.query(&of_tenant(1)), fresh);

    // A table that the standby has not heard of.
    served.psql("CREATE TABLE news (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('news', 'tenant')");
    served.psql(&format!("INSERT INTO news VALUES ({tenant}, 1)"));
    let of_news = format!("SELECT count(*) FROM news WHERE tenant = {tenant}");
    assert_eq!(asking.query(&of_news), fresh, "the primary knows");
    let mut all = vec![asking.query("SELECT count(*) FROM news")];
    all.push(asking.run_prepared("news", "SELECT count(*) FROM news", &[]).replace("1 2 D", "T D"));
    assert_eq!(all, [fresh, fresh]);

    psql(&standby, "SELECT pg_wal_replay_resume()");
    assert!(wait_until(PATIENCE, || asking.query(&of_tenant(1)) == fresh), "it catches up");
    let file = psql(&standby, "SELECT pg_read_file('postmaster.pid')");
    signal(file.lines().next().and_then(|line| line.parse().ok()).expect("a process id"), "INT");
    for _ in 0..50 {
        let said = asking.query(&of_tenant(1));
        assert!(said == fresh || said.contains("E(57P01)"), "without a standby the primary answers: {said}");
    }
    assert_eq!(asking.query(&of_tenant(1)), fresh);
}

/// How often somebody of a tenant began before `up` and was answered well after it.
fn waited(ledger: &Ledger, tenant: &str, up: Instant) -> usize {
    let waited = |d: &&Done| d.tenant == tenant && d.began < up && d.ended > up && !d.said.contains("E(");
    ledger.done.iter().filter(waited).count()
}

/// `down`: from here on the second worker was gone.
fn only_what_was_under_way_failed(ledger: &Ledger, tenants: &[String], down: Instant) {
    for failed in ledger.errors() {
        let code = failed.said.split_once("E(").expect("an error").1;
        assert!(
            ["57P01", "57P02", "08006", "08007", "40003", "57P03"].iter().any(|c| code.starts_with(c)),
            "{failed:?}"
        );
        assert!(failed.id.is_some() || !code.starts_with("40003"), "a read is never in doubt: {failed:?}");
        assert_eq!(failed.tenant, tenants[1], "tenants of other servers notice nothing: {failed:?}");
        assert!(failed.began < down, "it began when nothing was under way any more: {failed:?}");
    }
}

/// Goal: a server that is away is told of in the log when it goes and when it is back, not at every attempt to reach it.
/// Method: coordinator and worker are away until some loop has tried ten times; then WARN lines are counted.
#[test]
fn an_outage_is_told_when_it_begins_and_when_it_is_over() {
    let mut served = Served::start_with(1, 2, TELLS_EACH_TRY);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let began = Instant::now();
    served.servers().kill_coordinator().expect("it ends");
    served.servers().kill_worker(0).expect("it ends");
    let waiting = std::thread::spawn(move || client.query("SELECT count(*) FROM items WHERE tenant = 1"));
    let rebalances = "could not work on rebalances";
    let tries = || messages(&served, "DEBUG").iter().filter(|said| said.starts_with(rebalances)).count();
    assert!(wait_until(PATIENCE, || tries() >= 10), "it is tried again and again");
    let told = messages(&served, "WARN");
    for message in [rebalances, "a node cannot be reached"] {
        assert!(told.iter().any(|said| said.starts_with(message)), "{message} in {told:?}");
    }
    let most = 1 + began.elapsed().as_secs() as usize / 60;
    for message in &told {
        let times = told.iter().filter(|said| *said == message).count();
        // One for each of the two nodes.
        let nodes = if message.starts_with("a node") { 2 } else { 1 };
        assert!(times <= most * nodes, "{message}: {times} times");
    }

    served.servers().restart_coordinator().expect("it starts");
    served.servers().restart_worker(0).expect("it starts");
    assert_eq!(waiting.join().expect("it waits"), "T D(0) C(SELECT 1) Z(I)");
    for message in [format!("no longer: {rebalances}"), "a node can be reached again".to_owned()] {
        assert!(wait_until(PATIENCE, || messages(&served, "INFO").contains(&message)), "{message}");
    }
}

/// As above, of a move that cannot be repaired because a node of it is away.
#[test]
fn a_move_that_cannot_be_repaired_is_told_once() {
    let mut served = Served::start_with(2, 1, TELLS_EACH_TRY);
    let began = Instant::now();
    served.servers().kill_worker(1).expect("it ends");
    let abandoned = "INSERT INTO tenantry.shard_move (colocationid, shard_group_id, source_node, target_node, schemas)
        VALUES (1, 1, 1, 2, '{}')";
    psql(&served.coordinator_dsn(), abandoned);
    let unrepaired = "could not repair a shard move";
    let told = |level| messages(&served, level).iter().filter(|said| said.starts_with(unrepaired)).count();
    assert!(wait_until(PATIENCE, || told("DEBUG") > 0), "it is tried again");
    assert!(told("WARN") <= 1 + began.elapsed().as_secs() as usize / 60);
    served.servers().restart_worker(1).expect("it starts");
    let over = format!("no longer: {unrepaired}");
    assert!(wait_until(PATIENCE, || messages(&served, "INFO").contains(&over)), "{over}");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT state FROM tenantry.shard_move"), "failed");
}

/// What is tried again and again is logged each time, and as JSON.
const TELLS_EACH_TRY: &str = "[log]\nformat = \"json\"\nfilter = \"info,tenantry::tally::recurring=debug\"\n";

/// What the proxy has logged of its own at this level.
fn messages(served: &Served, level: &str) -> Vec<String> {
    let lines = served.logged(0);
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines
        .filter(|line| line["level"] == level)
        // The library of control connections tells of each that has ended.
        .filter(|line| line["target"].as_str().is_some_and(|target| target.starts_with("tenantry")))
        .filter_map(|line| Some(line["message"].as_str()?.to_owned()))
        .collect()
}
