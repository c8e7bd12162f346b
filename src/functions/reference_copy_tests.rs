//! Reference tables on their way to a new node: given up at every point, and taken back.

use std::time::{Duration, Instant};

use super::tests::{Cluster, add_node};
use crate::catalog::{Address, connect};
use crate::operations::mover::{StopPoint, recover};
use crate::shard_map::NodeId;

/// Whatever a copy must not leave on a server.
const LEFT: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%'
    UNION ALL SELECT 'identity ' || relname FROM pg_class WHERE relreplident = 'f'
    UNION ALL SELECT 'index ' || relname FROM pg_class WHERE relname LIKE 'tenantry\\_rows%'";
const COPIES: &str =
    "SELECT 'table ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
const ROWS: &str = "SELECT (SELECT count(*) || md5(string_agg(c::text, ',' ORDER BY id)) FROM public.countries c)
    || (SELECT count(*) || md5(string_agg(c::text, ',' ORDER BY id)) FROM public.cities c)
    || (SELECT count(*) || md5(string_agg(n::text, ',' ORDER BY n::text)) FROM public.notes n)";

async fn ask_server(cluster: &Cluster, port: u16, sql: &str) -> Vec<String> {
    let address = Address { host: "127.0.0.1".into(), port };
    let client = connect(cluster.env.catalog.settings(), &address).await.unwrap();
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Asks until the answer is this one.
async fn await_answer(cluster: &Cluster, port: u16, sql: &str, answer: &[&str]) {
    let began = Instant::now();
    loop {
        let answered = ask_server(cluster, port, sql).await;
        if answered == answer {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{answered:?} for {sql}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Goal: a copy that ends at any point, by a crash or by ROLLBACK, leaves nothing, and the next one works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_ends_anywhere_leaves_nothing() {
    let mut cluster = Cluster::start(2).await;
    let [first, second] = [0, 1].map(|at| cluster.servers.workers()[at].port());
    let coordinator = cluster.servers.coordinator().port();
    cluster.call("citus_add_node", &add_node(first)).await.unwrap();
    cluster
        .sql(
            "CREATE TABLE countries (id int PRIMARY KEY, name text NOT NULL, UNIQUE (name, id));
             CREATE TABLE cities (id int PRIMARY KEY, country int NOT NULL REFERENCES countries);
             CREATE TABLE notes (note text);
             INSERT INTO countries SELECT i, repeat('x', 50) || i FROM generate_series(1, 20000) i;
             INSERT INTO cities SELECT i, i FROM generate_series(1, 5000) i;
             INSERT INTO notes SELECT i::text FROM generate_series(1, 100) i",
        )
        .await;
    for table in ["countries", "cities", "notes"] {
        cluster.call("create_reference_table", &format!("'{table}'")).await.unwrap();
    }
    use StopPoint::*;
    for point in [Planned, SlotCreated, TargetCreated, Copied, IndexesBuilt, CaughtUp] {
        cluster.env.mover.stop_at = Some(point);
        let stopped = cluster.call("citus_add_node", &add_node(second)).await.unwrap_err();
        assert_eq!(stopped.message(), "stopped for a test", "{point:?}");
        cluster.env.mover.stop_at = None;
        // The locks end with the client's connection.
        let began = Instant::now();
        while recover(&cluster.env.mover).await.unwrap() == 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "{point:?}: nothing is repaired");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(ask_server(&cluster, coordinator, LEFT).await, Vec::<String>::new(), "{point:?}");
        let there = ask_server(&cluster, second, &format!("{LEFT} UNION ALL {COPIES}")).await;
        assert_eq!(there, Vec::<String>::new(), "{point:?}");
    }
    let state = "SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";

    // A server that dies meanwhile is waited for, but not for ever; what it had is replaced when it is back.
    for over in ["started_at = started_at - interval '6 minutes'", "cancelled = true"] {
        cluster.env.mover.stop_at = Some(Copied);
        cluster.call("citus_add_node", &add_node(second)).await.unwrap_err();
        cluster.env.mover.stop_at = None;
        cluster.servers.kill_worker(1).unwrap();
        let began = Instant::now();
        while recover(&cluster.env.mover).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(30), "{over}: the server is not looked for");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(cluster.ask(NodeId::COORDINATOR, state).await, ["copied"], "{over}");
        assert_eq!(ask_server(&cluster, coordinator, LEFT).await, Vec::<String>::new(), "no WAL is kept for it");
        cluster.sql(&format!("UPDATE tenantry.shard_move SET {over} WHERE state = 'copied'")).await;
        assert_eq!(recover(&cluster.env.mover).await.unwrap(), 1, "{over}");
        assert_eq!(cluster.ask(NodeId::COORDINATOR, state).await, ["failed"], "{over}");
        cluster.servers.restart_worker(1).unwrap();
    }

    let mut txn = cluster.begin();
    cluster.call_in(&mut txn, "citus_add_node", &add_node(second)).await.unwrap();
    assert_eq!(ask_server(&cluster, second, ROWS).await, ask_server(&cluster, coordinator, ROWS).await);
    txn.rollback().await.unwrap();
    await_answer(&cluster, coordinator, state, &["failed"]).await;
    assert_eq!(ask_server(&cluster, second, COPIES).await, Vec::<String>::new());

    cluster.call("citus_add_node", &add_node(second)).await.unwrap();
    await_answer(&cluster, coordinator, state, &["done"]).await;
    assert_eq!(ask_server(&cluster, coordinator, LEFT).await, Vec::<String>::new());
    assert_eq!(ask_server(&cluster, second, LEFT).await, Vec::<String>::new());
    assert_eq!(ask_server(&cluster, second, ROWS).await, ask_server(&cluster, coordinator, ROWS).await);
    let keys =
        "SELECT conname || convalidated FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1";
    assert_eq!(ask_server(&cluster, second, keys).await, ask_server(&cluster, first, keys).await);
    // Out of service, and in again: what it had is replaced.
    cluster.call("citus_disable_node", &add_node(second)).await.unwrap();
    cluster.call("citus_activate_node", &add_node(second)).await.unwrap();
    await_answer(
        &cluster,
        coordinator,
        "SELECT count(*)::text FROM tenantry.shard_move WHERE finished_at IS NULL",
        &["0"],
    )
    .await;
    assert_eq!(ask_server(&cluster, second, ROWS).await, ask_server(&cluster, coordinator, ROWS).await);
    assert_eq!(cluster.ask(NodeId::COORDINATOR, state).await, ["done"]);
    cluster.servers.stop();
}
