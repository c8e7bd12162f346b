//! Servers that stand still with all their connections open: who waits for one finds out, and goes on with another.

mod support;

use std::time::Duration;

use support::frozen::Frozen;
use support::ledger::Load;
use support::served::Served;
use support::wire_client::Client;
use support::{dsn, psql, psql_error, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Goal: what waits for a coordinator that stands still goes on with the standby that takes its place: logins, and the
/// proxy's own work.
/// Method: while a rebalance moves shards every process of the coordinator is stopped, never to go on; clients of tenants work
/// on, somebody logs in, the standby is promoted, and the rebalance comes to its end there.
#[test]
fn a_coordinator_that_stands_still_is_replaced() {
    let config = "[pool]\noutage_timeout = \"10min\"\n[moves]\ncopy_rate = \"64kB\"\n";
    let mut served = Served::start_with(2, 2, config);
    served.psql("CREATE TABLE items (tenant int, id bigint, ballast text)");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 4)");
    served.psql("INSERT INTO items SELECT t, t, repeat(md5(t::text), 100) FROM generate_series(1, 200) t");
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    let (old, new) = (served.coordinator_port, served.worker_port(5));
    served.servers().add_standby_of(old, new).expect("it copies the coordinator");
    psql(&dsn(old), "ALTER SYSTEM SET synchronous_standby_names = '*'");
    psql(&dsn(old), "SELECT pg_reload_conf()");
    let is_sync = || psql(&dsn(old), "SELECT sync_state FROM pg_stat_replication") == "sync";
    assert!(wait_until(PATIENCE, is_sync), "it streams");
    served.coordinator_standby = Some(new);
    served.kill_proxy(0);
    served.start_proxy(0);

    let load = Load::start(served.proxy_port(0), &tenants, 2, 1_000_000);
    let leaving = served.worker_port(1);
    served.psql(&format!("SELECT citus_set_node_property('127.0.0.1', {leaving}, 'shouldhaveshards', false)"));
    let job = served.psql("SELECT citus_rebalance_start(drain_only => true)");
    let copying = "SELECT count(*) > 0 FROM tenantry.shard_move WHERE phase = 'Copying Data'";
    assert!(wait_until(PATIENCE, || psql(&dsn(old), copying) == "t"), "a shard moves");
    let frozen = Frozen::server(old);
    let coming = std::thread::spawn({
        let dsn = served.dsn(0);
        move || psql(&dsn, "SELECT count(*) > 0 FROM items")
    });
    load.await_progress();
    assert_eq!(psql(&dsn(new), "SELECT pg_promote()"), "t");
    assert_eq!(coming.join().expect("it is let in"), "t");
    assert_eq!(Client::connect(served.proxy_port(0), &[]).query("SELECT 1"), "T D(1) C(SELECT 1) Z(I)");
    let state = || psql(&dsn(new), &format!("SELECT state FROM tenantry.job WHERE id = {job}"));
    assert!(wait_until(PATIENCE, || state() == "finished"), "the rebalance is {}", state());
    let left = format!("SELECT count(*) FROM pg_dist_shard_placement WHERE nodeport = {leaving}");
    assert_eq!(served.psql(&left), "0");
    load.await_progress();
    let ledger = load.end();
    assert_eq!(ledger.errors().count(), 0, "tenants notice nothing: {:?}", ledger.errors().next());
    ledger.check(&served.psql("SELECT id FROM items WHERE id >= 1000000"), 1_000_000);

    // It goes on, and nobody who is here asks it again.
    drop(frozen);
    served.psql("CREATE TABLE notes (id int)");
    let made = "SELECT to_regclass('notes') IS NOT NULL";
    assert_eq!([psql(&dsn(old), made), psql(&dsn(new), made)], ["f", "t"]);
}

/// Goal: a question on a control connection to a worker that stands still is answered with an error, not never.
/// Method: a plan that asks every worker for sizes, while all processes of one are stopped; when they go on it is made.
#[test]
fn a_worker_that_stands_still_is_told_of() {
    let served = Served::start(2);
    served.tenants();
    let plan = "SELECT count(*) FROM get_rebalance_table_shards_plan(rebalance_strategy => 'by_disk_size')";
    assert_eq!(served.psql(plan), "0");
    let frozen = Frozen::server(served.worker_port(1));
    let told = psql_error(&served.dsn(0), plan);
    assert!(told.contains("08006"), "{told}");
    drop(frozen);
    assert_eq!(served.psql(plan), "0");
}
