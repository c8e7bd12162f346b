//! The size of a cluster as a wish, with real servers: 2 workers, then 20, then 2 again, while clients write.

mod support;

use std::process::Command;

use support::Cluster;
use support::ledger::Load;

/// Goal: what holds for two workers holds for twenty: every server is filled, emptied and removed, and clients notice
/// nothing. Method: 32 shard groups, so that 20 workers have one or two each; a ledger of what was acknowledged.
#[test]
fn a_cluster_grows_to_twenty_workers_and_back() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE items (tenant int, id bigint)");
    cluster.psql("SELECT create_distributed_table('items', 'tenant')");
    cluster.psql("INSERT INTO items SELECT t, i FROM generate_series(1, 200) t, generate_series(1, 50) i");
    let load = Load::start(cluster.port(), &["1".to_owned(), "2".to_owned()], 1, FIRST_ID);

    edit(&cluster, 20);
    assert_eq!(cluster.psql(WORKERS), "20");
    assert_eq!(cluster.psql(PLACEMENTS), "20|1|2", "each has its part");
    assert_eq!(cluster.psql(LOADED), "10000", "a question to all of them");
    load.await_progress();

    edit(&cluster, 2);
    assert_eq!(cluster.psql(WORKERS), "2");
    assert_eq!(cluster.psql(PLACEMENTS), "2|16|16");
    let ledger = load.end();
    let errors: Vec<_> = ledger.errors().take(3).collect();
    assert!(errors.is_empty(), "clients saw {errors:?}");
    assert_eq!(cluster.psql(LOADED), "10000");
    ledger.check(&cluster.psql(&format!("SELECT id FROM items WHERE id >= {FIRST_ID}")), FIRST_ID);
}

fn edit(cluster: &Cluster, workers: u16) {
    let edit = Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .args(["cluster", "edit", "--workers", &workers.to_string(), "--port", &cluster.port().to_string()])
        .output()
        .expect("the built binary can be run");
    let said = String::from_utf8_lossy(&edit.stdout);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("Successful"), "{said}{}{}", String::from_utf8_lossy(&edit.stderr), cluster.log());
}

/// Of the clients' rows; those that were loaded are below.
const FIRST_ID: u64 = 1_000;
const WORKERS: &str = "SELECT count(*) FROM pg_dist_node WHERE groupid <> 0";
const LOADED: &str = "SELECT count(*) FROM items WHERE id < 1000";
/// Workers with shard groups, the fewest and the most that one has.
const PLACEMENTS: &str =
    "SELECT count(*), min(n), max(n) FROM (SELECT count(*) n FROM pg_dist_placement GROUP BY groupid) p";
