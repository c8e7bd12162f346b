//! Two servers of one node take writes, because the old primary was not stopped: the one that was promoted last is the node, for
//! every proxy and after every restart, and nothing is written to the other.

mod support;

use std::time::Duration;

use support::frozen::Frozen;
use support::served::Served;
use support::wire_client::Client;
use support::{dsn, psql, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const PATIENT: &str = "[pool]\noutage_timeout = \"10min\"\nsilence_max = \"1s\"\n";
/// Names that stale statements look for.
const NAMES: &str = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\_%'), \
                     (SELECT count(*) FROM pg_class WHERE relname = 'colors')";

/// Two proxies, and a worker at `old` with a standby at `new` that they look after.
struct Watched {
    served: Served,
    node: String,
    old: u16,
    new: u16,
}

impl Watched {
    fn start() -> Self {
        let mut served = Served::start_with(2, 2, PATIENT);
        served.start_proxy(1);
        let (old, new) = (served.worker_port(1), served.worker_port(3));
        served.servers().add_standby_of(old, new).expect("it copies the worker");
        served.psql(&format!("SELECT citus_add_secondary_node('127.0.0.1', {new}, '127.0.0.1', {old})"));
        let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {old}"));
        wait_for_timeline(&served, &node);
        Self { served, node, old, new }
    }
}

/// Goal: an old primary that was frozen while its standby was promoted, and wakes up, is written to by nobody: not by a proxy with a
/// transaction open there, nor by one that slept too, nor while the new one is away, nor by a proxy that starts then; it is
/// told of, and taken out of use.
#[test]
fn an_old_primary_that_wakes_up_is_written_to_no_more() {
    let Watched { mut served, node, old, new } = Watched::start();
    let tenant = &served.tenants()[1];
    served.psql("CREATE TABLE colors (id int PRIMARY KEY)");
    served.psql("SELECT create_reference_table('colors')");
    let primary = format!("SELECT nodeport FROM pg_dist_node WHERE nodeid = {node}");
    let insert = |id: u32| format!("INSERT INTO items VALUES ({tenant}, {id})");

    let mut open = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(open.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(open.query(&insert(10)), "C(INSERT 0 1) Z(T)");
    let mut keeping = Client::connect(served.proxy_port(1), &[]);
    assert_eq!(keeping.query("SET tenantry.pool_mode = 'session'"), "C(SET) Z(I)");
    assert_eq!(keeping.query(&insert(11)), "C(INSERT 0 1) Z(I)");
    let mut idle = Client::connect(served.proxy_port(1), &[]);
    assert_eq!(idle.query(&insert(12)), "C(INSERT 0 1) Z(I)");
    let all_there = "SELECT pg_current_wal_lsn() = replay_lsn FROM pg_stat_replication";
    assert!(wait_until(PATIENCE, || psql(&dsn(old), all_there) == "t"), "it has everything");

    let frozen = Frozen::server(old);
    served.signal_proxy(1, "STOP");
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    assert!(wait_until(PATIENCE, || served.psql(&primary) == new.to_string()), "it is followed");
    // What is under way at the old one has a moment left.
    std::thread::sleep(Duration::from_secs(3));
    drop(frozen);
    let said = open.query("COMMIT");
    assert!(said.contains("E(08006)") || said.contains("E(08007)") || said.contains("E(57P01)"), "{said}");
    assert!(wait_until(PATIENCE, || psql(&dsn(old), NAMES) == "0|0"), "it is out of use: {}", psql(&dsn(old), NAMES));
    served.signal_proxy(1, "CONT");
    assert_eq!(idle.query(&insert(13)), "C(INSERT 0 1) Z(I)");
    let said = keeping.query(&insert(14));
    assert!(said == "C(INSERT 0 1) Z(I)" || said.contains("E(57P01)") || said.contains("E(08006)"), "{said}");
    assert_eq!(psql(&served.dsn(1), &insert(15)), "");
    // Whatever its schema is called now.
    let there = |port: u16| {
        let tables = "SELECT string_agg(format('SELECT id FROM %s', oid::regclass), ' UNION ALL ') FROM pg_class \
                      WHERE relname = 'items' AND relkind = 'r'";
        psql(&dsn(port), &psql(&dsn(port), tables))
    };
    let lines = |port: u16| there(port).lines().map(str::to_owned).collect::<Vec<_>>();
    let told_of = "tenantry_replaced_primaries_writable";
    assert_eq!(Served::metric(&served.metrics(0), told_of), Some(1.0), "it is told of");
    let sick = "SELECT to_nodeport FROM citus_check_cluster_node_health() WHERE NOT result";
    assert_eq!(served.psql(sick), old.to_string(), "it is told of");
    assert!(served.logged(0).contains("takes writes as well"), "it is told of");

    // While the new one is away the old one is not asked, nor by who starts then.
    served.servers().stop_at(new).expect("it stops");
    served.kill_proxy(0);
    served.start_proxy(0);
    let waiting = [0, 1].map(|proxy| {
        let (dsn, sql) = (served.dsn(proxy), insert(20 + u32::try_from(proxy).expect("small")));
        std::thread::spawn(move || psql(&dsn, &sql))
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "they wait for the new one");
    assert_eq!(served.psql(&primary), new.to_string());
    served.servers().restart_at(new, None).expect("it starts");
    for waiting in waiting {
        waiting.join().expect("it goes on");
    }
    for id in ["10", "13", "14", "15", "20", "21"] {
        assert!(!lines(old).contains(&id.to_owned()), "{id} is at the old one: {:?}", lines(old));
    }
    for id in ["11", "12", "13", "15", "20", "21"] {
        assert!(lines(new).contains(&id.to_owned()), "{id} is at the new one: {:?}", lines(new));
    }
}

/// Goal: of an old primary that goes on and the standby that is promoted beside it, all proxies choose the standby, whatever
/// works for them, and the old one is taken out of use.
#[test]
fn who_was_promoted_last_is_chosen_although_the_old_one_goes_on() {
    let Watched { served, node, old, new } = Watched::start();
    let tenant = &served.tenants()[1];
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    let primary = format!("SELECT nodeport FROM pg_dist_node WHERE nodeid = {node}");
    assert!(wait_until(PATIENCE, || served.psql(&primary) == new.to_string()), "it is followed");
    let port = format!("SELECT current_setting('port') FROM items WHERE tenant = {tenant} LIMIT 1");
    for proxy in [0, 1] {
        assert!(wait_until(PATIENCE, || psql(&served.dsn(proxy), &port) == new.to_string()), "by proxy {proxy}");
    }
    assert!(wait_until(PATIENCE, || psql(&dsn(old), NAMES) == "0|0"), "it is out of use: {}", psql(&dsn(old), NAMES));
}

/// Goal: proxies that cannot reach the catalog write no more to an old primary that goes on than others do: they follow the standby that
/// was promoted beside it by themselves, and the catalog follows once it can be told.
/// Method: the coordinator is away; a transaction is open at the old primary, and connections to it are idle.
#[test]
fn a_proxy_without_the_catalog_follows_who_was_promoted_last() {
    let Watched { mut served, node, old, new } = Watched::start();
    let tenant = &served.tenants()[1];
    let insert = |id: usize| format!("INSERT INTO items VALUES ({tenant}, {id})");
    let mut clients = [0, 1].map(|proxy| Client::connect(served.proxy_port(proxy), &[]));
    let mut open = [0, 1].map(|proxy| Client::connect(served.proxy_port(proxy), &[]));
    for (id, (client, open)) in clients.iter_mut().zip(&mut open).enumerate() {
        assert_eq!(client.query(&insert(10 + id)), "C(INSERT 0 1) Z(I)");
        assert_eq!(open.query("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(open.query(&insert(20 + id)), "C(INSERT 0 1) Z(T)");
    }
    let all_there = "SELECT pg_current_wal_lsn() = replay_lsn FROM pg_stat_replication";
    assert!(wait_until(PATIENCE, || psql(&dsn(old), all_there) == "t"), "it has everything");

    served.servers().kill_coordinator().expect("it ends");
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    for (id, (client, mut open)) in clients.iter_mut().zip(open).enumerate() {
        let count =
            format!("SELECT 1 FROM items WHERE tenant = {tenant} AND current_setting('port') = '{new}' LIMIT 1");
        assert!(wait_until(PATIENCE, || client.query(&count) == "T D(1) C(SELECT 1) Z(I)"), "proxy {id} follows");
        assert_eq!(client.query(&insert(30 + id)), "C(INSERT 0 1) Z(I)");
        let said = open.query("COMMIT");
        assert!(said.contains("E(08006)") || said.contains("E(08007)"), "{said}");
    }
    served.servers().restart_coordinator().expect("it starts");
    let primary = format!("SELECT nodeport FROM pg_dist_node WHERE nodeid = {node}");
    assert!(wait_until(PATIENCE, || served.psql(&primary) == new.to_string()), "the catalog follows");
    assert!(wait_until(PATIENCE, || psql(&dsn(old), NAMES) == "0|0"), "it is out of use: {}", psql(&dsn(old), NAMES));
    let rows = format!("SELECT string_agg(id::text, ' ' ORDER BY id) FROM items WHERE tenant = {tenant} AND id >= 10");
    assert_eq!(served.psql(&rows), "10 11 30 31", "and nothing was written to the old one");
}

/// Goal: an old coordinator that wakes up is not the catalog again: not while the new one is away, nor for a proxy that starts
/// and asks it first.
#[test]
fn an_old_coordinator_that_wakes_up_is_not_believed() {
    let mut served = Served::start_with(1, 2, PATIENT);
    served.psql("CREATE TABLE notes (id int)");
    let (old, new) = (served.coordinator_port, served.worker_port(5));
    served.servers().add_standby_of(old, new).expect("it copies the coordinator");
    served.coordinator_standby = Some(new);
    served.kill_proxy(0);
    served.start_proxy(0);
    let port = "SELECT current_setting('port') FROM pg_catalog.pg_class LIMIT 1";
    assert_eq!(served.psql(port), old.to_string());

    // Nobody stops the old one.
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    served.start_proxy(1);
    assert_eq!(psql(&served.dsn(1), port), new.to_string(), "whoever starts takes the one that was promoted last");
    assert!(wait_until(PATIENCE, || served.psql(port) == new.to_string()), "and so do the others");

    served.servers().stop_at(new).expect("it stops");
    let waiting = [0, 1].map(|proxy| {
        let dsn = served.dsn(proxy);
        std::thread::spawn(move || psql(&dsn, "INSERT INTO notes VALUES (1)"))
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "they wait for the new one");
    served.servers().restart_at(new, None).expect("it starts");
    for waiting in waiting {
        waiting.join().expect("it goes on");
    }
    assert_eq!(psql(&dsn(new), "SELECT count(*) FROM notes"), "2");
    assert_eq!(psql(&dsn(old), "SELECT count(*) FROM notes"), "0");
}

/// Until it is known which timeline the node's primary is on.
fn wait_for_timeline(served: &Served, node: &str) {
    let sql = format!("SELECT timeline FROM tenantry.node WHERE nodeid = {node}");
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), &sql) == "1"), "it is noted");
}
