//! Nodes of several servers, the coordinator too: whichever standby is promoted is followed, and sessions that ask for it
//! read from those that are left.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::ledger::{Ledger, Load};
use support::served::Served;
use support::wire_client::Client;
use support::{dsn, psql, psql_error, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody who waits is sent away by the clock.
const PATIENT: &str = "[pool]\noutage_timeout = \"10min\"\n";

/// Goal: whichever of two standbys is promoted, clients wait and lose nothing acknowledged.
/// Method: one cluster; the second worker has two standbys. First it is killed while one of them is down and the other is
/// promoted; then that one is stopped, the first one takes its place, and it comes back as a standby.
#[test]
fn either_of_two_standbys_takes_the_primarys_place() {
    let mut served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    let [old, first, second] = [1, 3, 4].map(|at| served.worker_port(at));
    // Who comes back has missed something, and finds it.
    psql(&dsn(old), "ALTER SYSTEM SET wal_keep_size = '1GB'");
    for standby in [first, second] {
        served.servers().add_standby_of(old, standby).expect("it copies the worker");
        add_standby(&served, standby, old);
    }
    wait_for_copies(old, 2);
    let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {old}"));
    let primary = |served: &Served| {
        served.psql(&format!("SELECT nodeport FROM pg_dist_node WHERE nodeid = {node} AND noderole = 'primary'"))
    };

    // The first one is down when the primary dies, so the second one is promoted.
    served.servers().stop_at(first).expect("it stops");
    wait_for_copies(old, 1);
    let ledger = fail_over(&mut served, &tenants, 100_000_000, |served| {
        served.servers().kill_at(old).expect("it ends");
        second
    });
    ledger.check(&served.psql("SELECT id FROM items"), 100_000_000);
    assert!(wait_until(PATIENCE, || primary(&served) == second.to_string()), "{}", primary(&served));

    // The old primary comes back as if nothing had been: nobody asks it, not even for reads.
    served.servers().restart_at(old, None).expect("it starts");
    served.psql(&format!("INSERT INTO items VALUES ({}, 1)", tenants[1]));
    let mut reader = Reader::new(&served, &tenants[1], "replica");
    assert_eq!(reader.ports(4), BTreeSet::from([second]), "the primary, because no standby is there");
    served.servers().stop_at(old).expect("it stops");

    // The first one follows the second, and takes its place when that is stopped.
    served.servers().restart_at(first, Some(second)).expect("it starts");
    wait_for_copies(second, 1);
    let ledger = fail_over(&mut served, &tenants, 200_000_000, |served| {
        served.servers().stop_at(second).expect("it stops");
        first
    });
    ledger.check(&served.psql("SELECT id FROM items"), 200_000_000);
    assert!(wait_until(PATIENCE, || primary(&served) == first.to_string()), "{}", primary(&served));

    // What was primary is a standby now, and is read from.
    served.servers().restart_at(second, Some(first)).expect("it starts");
    wait_for_copies(first, 1);
    assert!(wait_until(PATIENCE, || reader.ports(1) == BTreeSet::from([second])), "it is read from");

    // All that is done with nodes knows the new primary.
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[1]));
    let to = served.worker_port(0);
    served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {first}, '127.0.0.1', {to})"));
    served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {to}, '127.0.0.1', {first})"));
    served.psql("UPDATE items SET id = id");
}

/// Goal: who asks for standbys gets any that is there; without one the primary answers, said aloud or not; who did not ask
/// never reads from one.
/// Method: a worker with two standbys that stand still, so that what they lack shows who was asked.
#[test]
fn any_standby_that_is_there_is_read_from_by_who_asks() {
    let mut served = Served::start(1);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("INSERT INTO items VALUES (1, 1)");
    let [primary, first, second] = [0, 1, 2].map(|at| served.worker_port(at));
    let mut quiet = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(quiet.query("SET tenantry.read_from = 'prefer_replica'"), "C(SET) Z(I)");
    let count = "SELECT count(*) FROM items WHERE tenant = 1";
    let rows = |count: u32| format!("T D({count}) C(SELECT 1) Z(I)");
    assert_eq!(quiet.query(count), rows(1), "there is no standby");
    for standby in [first, second] {
        served.servers().add_standby_of(primary, standby).expect("it copies the worker");
        add_standby(&served, standby, primary);
        psql(&dsn(standby), "SELECT pg_wal_replay_pause()");
        let is_paused = || psql(&dsn(standby), "SELECT pg_get_wal_replay_pause_state()") == "paused";
        assert!(wait_until(PATIENCE, is_paused), "it stands still");
    }
    served.psql("INSERT INTO items VALUES (1, 2)");

    let mut spread = Reader::new(&served, "1", "replica");
    let mut preferring = Reader::new(&served, "1", "prefer_replica");
    let both = BTreeSet::from([first, second]);
    assert_eq!((spread.ports(12), preferring.ports(12)), (both.clone(), both), "sessions are spread");
    let mut asking = Client::connect(served.proxy_port(0), &[("options", "-c tenantry.read_from=replica")]);
    let mut plain = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(asking.query("INSERT INTO items VALUES (1, 3)"), "C(INSERT 0 1) Z(I)");
    assert_eq!((asking.query(count), quiet.query(count)), (rows(1), rows(1)), "not even what it wrote itself");
    assert_eq!(plain.query(count), rows(3), "nothing stale unasked");
    assert_eq!(asking.query("SET tenantry.read_from = 'primary'"), "C(SET) Z(I)");
    assert_eq!(asking.query(count), rows(3));
    assert_eq!(quiet.query("RESET tenantry.read_from"), "C(RESET) Z(I)");
    assert_eq!(quiet.query(count), rows(3));

    served.servers().kill_at(first).expect("it ends");
    for reader in [&mut spread, &mut preferring] {
        assert!(wait_until(PATIENCE, || reader.ports(12) == BTreeSet::from([second])), "the other one is there");
        assert!(reader.failed <= 12, "only what was under way when it died");
    }
    served.servers().kill_at(second).expect("it ends");
    for reader in [&mut spread, &mut preferring] {
        assert!(wait_until(PATIENCE, || reader.ports(12) == BTreeSet::from([primary])), "the primary is there");
    }
    let told = told_by_psql(&served.dsn(0), "replica", count);
    assert!(told.contains(&format!("WARNING:  node 127.0.0.1:{primary} is read at its primary")), "{told}");
    assert_eq!(told_by_psql(&served.dsn(0), "prefer_replica", count), "");
    let refused = psql_error(&served.dsn(0), "SET tenantry.read_from = 'nearest'");
    assert!(refused.contains("Available values: primary, replica, prefer_replica."), "{refused}");
}

/// Goal: a standby that is further behind than `pool.replica_lag` is not read from; one that has all that an idle primary
/// wrote long ago is.
/// Method: a standby whose replay is paused and resumed around a write.
#[test]
fn a_standby_that_is_too_far_behind_is_not_read_from() {
    let bound = Duration::from_secs(2);
    let mut served = Served::start_with(1, 2, "[pool]\nreplica_lag = \"2s\"\n");
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("INSERT INTO items VALUES (1, 1)");
    let [primary, standby] = [0, 1].map(|at| served.worker_port(at));
    served.servers().add_standby_of(primary, standby).expect("it copies the worker");
    add_standby(&served, standby, primary);
    let at = |port: u16| BTreeSet::from([port]);
    let mut reader = Reader::new(&served, "1", "replica");
    let mut quiet = Reader::new(&served, "1", "prefer_replica");
    // Nobody writes: the time since the last write is not the standby's lag.
    std::thread::sleep(2 * bound);
    assert!(wait_until(PATIENCE, || reader.ports(12) == at(standby)), "it has everything");

    psql(&dsn(standby), "SELECT pg_wal_replay_pause()");
    let is_paused = || psql(&dsn(standby), "SELECT pg_get_wal_replay_pause_state()") == "paused";
    assert!(wait_until(PATIENCE, is_paused), "it stands still");
    served.psql("INSERT INTO items VALUES (1, 2)");
    assert!(wait_until(PATIENCE, || reader.ports(12) == at(primary)), "it is too far behind");
    assert_eq!(quiet.ports(12), at(primary));
    let count = "SELECT count(*) FROM items WHERE tenant = 1";
    let told = told_by_psql(&served.dsn(0), "replica", count);
    assert!(told.contains(&format!("WARNING:  node 127.0.0.1:{primary} is read at its primary")), "{told}");
    assert!(told.contains("no more than 2s behind (pool.replica_lag)"), "{told}");
    assert_eq!(told_by_psql(&served.dsn(0), "prefer_replica", count), "");
    let lag = format!("tenantry_pool_replica_lag_seconds{{node=\"127.0.0.1:{standby} (standby)\"}}");
    assert!(Served::metric(&served.metrics(0), &lag).is_some_and(|lag| lag > bound.as_secs_f64()), "it is told");

    psql(&dsn(standby), "SELECT pg_wal_replay_resume()");
    assert!(wait_until(PATIENCE, || reader.ports(12) == at(standby)), "it has caught up");
    assert_eq!(quiet.ports(12), at(standby));
}

/// Goal: `citus_update_node` under load costs a pause, and only what was under way fails.
/// Method: the second worker has a standby that nobody was told of; it dies, clients wait for it, the standby is promoted, and
/// the node's address becomes its. The same as with a standby by name, whose own address changes too.
#[test]
fn a_node_that_gets_another_address_under_load_is_followed() {
    let mut served = Served::start_with(2, 2, PATIENT);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    let [first, old, new] = [0, 1, 3].map(|at| served.worker_port(at));
    served.servers().add_standby_of(old, new).expect("it copies the worker");
    wait_for_copies(old, 1);
    let id =
        |served: &Served, port: u16| served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {port}"));
    let update = |node: &str, host: &str, port: u16| format!("SELECT citus_update_node({node}, '{host}', {port})");
    let node = id(&served, old);
    let refused = psql_error(&served.dsn(0), &update(&node, "127.0.0.1", new));
    assert!(refused.contains("55000") && refused.contains("in recovery (a standby)"), "{refused}");

    let load = Load::start(served.proxy_port(0), &tenants, 3, 1_000);
    served.servers().kill_at(old).expect("it ends");
    let down = Instant::now();
    std::thread::sleep(Duration::from_millis(700));
    let updated = Instant::now();
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    served.psql(&update(&node, "127.0.0.1", new));
    load.await_progress();
    let ledger = load.end();
    only_a_pause(&ledger, &tenants, down, updated);
    ledger.check(&served.psql("SELECT id FROM items"), 1_000);
    assert_eq!(served.psql(&format!("SELECT nodeport FROM pg_dist_node WHERE nodeid = {node}")), new.to_string());

    // While all is well nobody notices: another name of the same server.
    let load = Load::start(served.proxy_port(0), &tenants, 3, 100_000_000);
    served.psql(&update(&id(&served, first), "localhost", first));
    load.await_progress();
    served.psql(&update(&id(&served, first), "127.0.0.1", first));
    load.await_progress();
    let ledger = load.end();
    assert_eq!(ledger.errors().count(), 0, "{:?}", ledger.errors().next());
    ledger.check(&served.psql("SELECT id FROM items"), 100_000_000);

    // A standby's own address, taken out and in.
    let standby = served.worker_port(4);
    served.servers().add_standby_of(new, standby).expect("it copies the worker");
    add_standby(&served, standby, new);
    // The other way to say it.
    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {standby})"));
    let by_group = format!("SELECT citus_add_node('127.0.0.1', {standby}, groupid => GROUP, noderole => 'secondary')");
    let group = served.psql(&format!("SELECT groupid FROM pg_dist_node WHERE nodeid = {node}"));
    let refused = psql_error(&served.dsn(0), &by_group.replace("GROUP", "99"));
    assert!(refused.contains("42704") && refused.contains("there is no primary in group 99"), "{refused}");
    let secondary = served.psql(&by_group.replace("GROUP", &group));
    let refused = psql_error(&served.dsn(0), &update(&secondary, "127.0.0.1", first));
    assert!(refused.contains("42710"), "{refused}");
    let refused = psql_error(&served.dsn(0), &update(&secondary, "localhost", first));
    assert!(refused.contains("55000") && refused.contains("It is not a copy of that server."), "{refused}");
    served.psql(&update(&secondary, "localhost", standby));
    let row = format!("SELECT nodename, noderole, isactive FROM pg_dist_node WHERE nodeid = {secondary}");
    assert_eq!(served.psql(&row), "localhost|secondary|t");
    let mut reader = Reader::new(&served, &tenants[1], "replica");
    assert!(wait_until(PATIENCE, || reader.ports(12) == BTreeSet::from([standby])), "it is read from");
    served.psql(&format!("SELECT citus_disable_node('localhost', {standby})"));
    assert_eq!(served.psql(&row), "localhost|secondary|f");
    assert!(wait_until(PATIENCE, || reader.ports(12) == BTreeSet::from([new])), "it is out");
    assert_eq!(served.psql(&format!("SELECT citus_activate_node('localhost', {standby})")), secondary);
    assert!(wait_until(PATIENCE, || reader.ports(12) == BTreeSet::from([standby])), "it is in again");

    // A node without shards, out and in; what it missed of reference tables it has then.
    let third = served.servers().add_worker().expect("it starts").port();
    served.psql("CREATE TABLE colors (id int PRIMARY KEY)");
    served.psql("SELECT create_reference_table('colors')");
    let added = served.psql(&format!("SELECT citus_add_node('127.0.0.1', {third})"));
    served.psql(&format!("SELECT citus_disable_node('127.0.0.1', {third})"));
    served.psql("INSERT INTO colors VALUES (1)");
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[0]));
    let moved = format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {first}, '127.0.0.1', {third})");
    let refused = psql_error(&served.dsn(0), &moved);
    assert!(refused.contains(&format!("citus_activate_node('127.0.0.1', {third})")), "{refused}");
    assert_eq!(served.psql(&format!("SELECT citus_activate_node('127.0.0.1', {third})")), added);
    assert_eq!(psql(&dsn(third), "SELECT count(*) FROM colors"), "1");
    served.psql(&moved);
    let refused = psql_error(&served.dsn(0), &format!("SELECT citus_disable_node('127.0.0.1', {third})"));
    assert!(refused.contains("because it contains the only shard placement for shard"), "{refused}");
}

/// Goal: the coordinator's standby takes its place, and tenants notice nothing.
/// Method: clients of all tenants at work; the coordinator is killed, they go on; its standby is promoted, and what waited for
/// it goes on, and all that needs the catalog works.
#[test]
fn the_coordinators_standby_takes_its_place() {
    let mut served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("CREATE TABLE notes (id int)");
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    let (old, new) = (served.coordinator_port, served.worker_port(5));
    served.psql(&format!("SELECT citus_set_coordinator_host('127.0.0.1', {old})"));
    served.servers().add_standby_of(old, new).expect("it copies the coordinator");
    wait_for_copies(old, 1);
    served.coordinator_standby = Some(new);
    served.kill_proxy(0);
    served.start_proxy(0);

    let mut before = Client::connect(served.proxy_port(0), &[]);
    let load = Load::start(served.proxy_port(0), &tenants, 3, 1_000);
    served.servers().kill_at(old).expect("it ends");
    load.await_progress();
    let waiting = std::thread::spawn(move || before.query("INSERT INTO notes VALUES (1)"));
    load.await_progress();
    if waiting.is_finished() {
        panic!("it did not wait for the coordinator: {:?}", waiting.join());
    }
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    assert_eq!(waiting.join().expect("its session goes on"), "C(INSERT 0 1) Z(I)");
    load.await_progress();
    let ledger = load.end();
    assert_eq!(ledger.errors().count(), 0, "tenants notice nothing: {:?}", ledger.errors().next());
    ledger.check(&served.psql("SELECT id FROM items"), 1_000);

    // A proxy that starts with the old one gone finds it too.
    served.start_proxy(1);
    let third = served.servers().add_worker().expect("it starts").port();
    psql(&served.dsn(1), &format!("SELECT citus_add_node('127.0.0.1', {third})"));
    served.psql("ALTER TABLE items ADD COLUMN note text");
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[0]));
    let from = served.worker_port(0);
    served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {third})"));
    served.psql("UPDATE items SET note = 'all'");
    let placed = format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}");
    for proxy in [0, 1] {
        assert!(wait_until(PATIENCE, || psql(&served.dsn(proxy), &placed) == third.to_string()), "proxy {proxy} knows");
    }
    let coordinator = "SELECT nodeport FROM pg_dist_node WHERE groupid = 0";
    assert!(wait_until(PATIENCE, || served.psql(coordinator) == new.to_string()), "{}", served.psql(coordinator));
    assert_eq!(psql(&dsn(new), "SELECT count(*) FROM tenantry.node WHERE groupid > 0"), "3", "it is the catalog");
}

/// Goal: a coordinator that was replaced takes its place again; who logs in meanwhile waits, and who listens is never silently
/// deaf: the session ends.
/// Method: the coordinator is stopped and its standby promoted; it comes back as a standby of that one, which is killed.
#[test]
fn the_coordinator_fails_back_and_listeners_are_told() {
    let mut served = Served::start(1);
    served.psql("CREATE TABLE notes (id int)");
    let (old, new) = (served.coordinator_port, served.worker_port(5));
    served.psql(&format!("SELECT citus_set_coordinator_host('127.0.0.1', {old})"));
    psql(&dsn(old), "ALTER SYSTEM SET wal_keep_size = '1GB'");
    served.servers().add_standby_of(old, new).expect("it copies the coordinator");
    wait_for_copies(old, 1);
    served.coordinator_standby = Some(new);
    served.kill_proxy(0);
    served.start_proxy(0);
    let listen = |served: &Served| {
        let mut listener = Client::connect(served.proxy_port(0), &[]);
        assert_eq!(listener.query("LISTEN news"), "C(LISTEN) Z(I)");
        served.psql("NOTIFY news");
        // What it has heard comes with the next answer, or alone before it.
        assert!(wait_until(PATIENCE, || listener.query("SELECT 1").contains('A')), "it hears");
        listener
    };
    let is_told = |mut listener: Client| {
        let said = listener.answer();
        let codes = ["E(57P01) closed", "E(57P02) closed", "E(08006) closed"];
        assert!(codes.contains(&said.as_str()), "{said}");
    };
    let is_primary = |served: &Served, port: u16| {
        let named = || served.psql("SELECT nodeport FROM pg_dist_node WHERE groupid = 0") == port.to_string();
        assert!(wait_until(PATIENCE, named), "{port} is the coordinator");
    };

    let listener = listen(&served);
    served.psql("INSERT INTO notes VALUES (1)");
    served.servers().stop_at(old).expect("it stops");
    is_told(listener);
    // Who comes while nobody is there waits, as statements do.
    let coming = std::thread::spawn({
        let dsn = served.dsn(0);
        move || psql(&dsn, "SELECT count(*) FROM notes")
    });
    std::thread::sleep(Duration::from_millis(700));
    assert!(!coming.is_finished(), "it was sent away");
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    assert_eq!(coming.join().expect("it is let in"), "1");
    is_primary(&served, new);

    served.servers().restart_at(old, Some(new)).expect("it starts");
    wait_for_copies(new, 1);
    let listener = listen(&served);
    served.psql("INSERT INTO notes VALUES (2)");
    served.servers().kill_at(new).expect("it ends");
    is_told(listener);
    // It waits for a standby no more.
    psql(&dsn(old), "ALTER SYSTEM RESET synchronous_standby_names");
    psql(&dsn(old), "SELECT pg_reload_conf()");
    assert_eq!(psql(&dsn(old), "SELECT pg_promote()"), "t");
    is_primary(&served, old);
    served.psql("INSERT INTO notes VALUES (3)");
    assert_eq!(psql(&dsn(old), "SELECT count(*) FROM notes"), "3", "nothing acknowledged is lost");
    drop(listen(&served));
}

/// What psql wrote beside the answer.
fn told_by_psql(dsn: &str, read_from: &str, sql: &str) -> String {
    let set = format!("SET tenantry.read_from = '{read_from}'");
    let output = std::process::Command::new("psql").args(["-XqAt", dsn, "-c", &set, "-c", sql]).output();
    let output = output.expect("psql runs");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn add_standby(served: &Served, standby: u16, primary: u16) {
    served.psql(&format!("SELECT citus_add_secondary_node('127.0.0.1', {standby}, '127.0.0.1', {primary})"));
}

/// Waits until so many standbys stream from the server on this port; what it acknowledges from now on is on one of them.
fn wait_for_copies(primary: u16, standbys: usize) {
    psql(&dsn(primary), "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (*)'");
    psql(&dsn(primary), "SELECT pg_reload_conf()");
    let stream = "SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication";
    assert!(wait_until(PATIENCE, || psql(&dsn(primary), stream) == format!("{standbys}|1")), "they stream");
}

/// Clients of all tenants at work while the second worker's primary ends; then the server whose port `end` answers is
/// promoted.
fn fail_over(served: &mut Served, tenants: &[String], first_id: u64, end: impl FnOnce(&mut Served) -> u16) -> Ledger {
    let load = Load::start(served.proxy_port(0), tenants, 3, first_id);
    let heir = end(served);
    let down = Instant::now();
    // Long enough for every client to have come to it, and for attempts to reach it that fail.
    std::thread::sleep(Duration::from_millis(700));
    let promoted = Instant::now();
    assert_eq!(psql(&dsn(heir), "SELECT pg_promote()"), "t");
    load.await_progress();
    let ledger = load.end();
    only_a_pause(&ledger, tenants, down, promoted);
    ledger
}

/// `down`: from here on the second worker was gone. `up`: soon after that another server took its place.
fn only_a_pause(ledger: &Ledger, tenants: &[String], down: Instant, up: Instant) {
    for failed in ledger.errors() {
        assert_eq!(failed.tenant, tenants[1], "tenants of other servers notice nothing: {failed:?}");
        assert!(failed.began < down, "it began when nothing was under way any more: {failed:?}");
    }
    let waits = |done: &&support::ledger::Done| {
        done.tenant == tenants[1] && done.began < up && done.ended > up && !done.said.contains("E(")
    };
    assert!(ledger.done.iter().filter(waits).count() >= 3, "everybody waits");
}

/// Sessions that have asked for standbys.
struct Reader {
    sessions: Vec<Client>,
    /// Reads that failed, because the server that answered them went away.
    failed: usize,
    sql: String,
}

impl Reader {
    fn new(served: &Served, tenant: &str, read_from: &str) -> Self {
        let options = format!("-c tenantry.read_from={read_from}");
        let sessions = (0..12).map(|_| Client::connect(served.proxy_port(0), &[("options", &options)])).collect();
        let sql = format!("SELECT current_setting('port') FROM items WHERE tenant = {tenant} LIMIT 1");
        Self { sessions, failed: 0, sql }
    }

    /// Which servers answer the first `sessions`.
    fn ports(&mut self, sessions: usize) -> BTreeSet<u16> {
        let mut ports = BTreeSet::new();
        for session in &mut self.sessions[..sessions] {
            let said = session.query(&self.sql);
            match said.strip_prefix("T D(").and_then(|rest| rest.split_once(')')) {
                Some((port, _)) => drop(ports.insert(port.parse().expect("a port"))),
                None => {
                    assert!(said.contains("E(57P01)") || said.contains("E(08006)"), "{said}");
                    self.failed += 1;
                }
            }
        }
        ports
    }
}
