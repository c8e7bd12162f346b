//! Reference tables: the same rows on every node, also on one that is added meanwhile.

mod support;

use std::time::Duration;

use support::{Cluster, psql};
use tokio_postgres::{Client, NoTls};

async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_local_and_distributed_tables_reach_every_copy() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE countries (code text PRIMARY KEY, name text)");
    cluster.psql("SELECT create_reference_table('countries')");
    cluster.psql("CREATE TABLE staged (code text, name text)");
    cluster.psql("INSERT INTO staged SELECT 'c' || i, 'n' || i FROM generate_series(1, 20) i");
    // A table of the same name on the workers would answer in its place.
    for worker in 0..2 {
        psql(
            &cluster.worker_dsn(worker),
            "CREATE TABLE staged (code text, name text); INSERT INTO staged VALUES ('wrong', 'w')",
        );
    }
    cluster.psql("INSERT INTO countries (name, code) SELECT name, code FROM staged ORDER BY random() LIMIT 10");
    cluster.psql("INSERT INTO countries (code) SELECT 'x' FROM staged LIMIT 1");
    let same = |what: &str| {
        let rows = "SELECT count(*), md5(string_agg(code || coalesce(name, '-'), ',' ORDER BY code)) FROM countries";
        let on_coordinator = psql(&cluster.coordinator_dsn(), rows);
        for worker in 0..2 {
            assert_eq!(psql(&cluster.worker_dsn(worker), rows), on_coordinator, "{what}");
        }
        on_coordinator
    };
    assert!(same("from a local table").starts_with("11|"));
    for sql in [
        "INSERT INTO countries SELECT code, name FROM staged ON CONFLICT DO NOTHING",
        "INSERT INTO countries SELECT code, name FROM staged RETURNING code",
        "UPDATE countries SET name = s.name FROM staged s WHERE s.code = countries.code",
    ] {
        assert!(cluster.psql_error(sql).contains("0A000"), "{sql}");
    }
    // All or nothing: a duplicate key on the way leaves every copy as it was.
    cluster.psql_error("INSERT INTO countries (code) SELECT 'x' FROM staged LIMIT 1");
    assert!(same("after a failure").starts_with("11|"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waited_for_a_new_node_reaches_it() {
    let cluster = Cluster::start(2);
    let port = cluster.worker_port(1);
    cluster.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    cluster.psql("CREATE TABLE countries (code text PRIMARY KEY, name text)");
    cluster.psql("SELECT create_reference_table('countries')");
    cluster.psql("INSERT INTO countries VALUES ('a', '1'), ('b', '1')");

    let (adder, writer, copier, frozen) = (
        connect(&cluster.dsn()).await,
        connect(&cluster.dsn()).await,
        connect(&cluster.dsn()).await,
        connect(&cluster.dsn()).await,
    );
    frozen.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM countries").await.unwrap();
    adder.batch_execute(&format!("BEGIN; SELECT citus_add_node('127.0.0.1', {port})")).await.unwrap();
    let written =
        tokio::spawn(async move { writer.batch_execute("UPDATE countries SET name = '2' WHERE code = 'a'").await });
    let copied = tokio::spawn(async move {
        let sink = copier.copy_in::<_, bytes::Bytes>("COPY countries FROM STDIN").await?;
        let mut sink = Box::pin(sink);
        futures_util::SinkExt::send(&mut sink, bytes::Bytes::from("c\t1\n")).await?;
        sink.as_mut().finish().await
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!written.is_finished() && !copied.is_finished(), "they wait for the node");
    adder.batch_execute("COMMIT").await.unwrap();
    written.await.unwrap().unwrap();
    copied.await.unwrap().unwrap();
    // Its snapshot is older than the node, its lock is not.
    frozen.batch_execute("UPDATE countries SET name = '3' WHERE code = 'b'; COMMIT").await.unwrap();
    for dsn in [cluster.coordinator_dsn(), cluster.worker_dsn(0), cluster.worker_dsn(1)] {
        assert_eq!(
            psql(&dsn, "SELECT string_agg(code || name, ' ' ORDER BY code) FROM countries"),
            "a2 b3 c1",
            "{dsn}"
        );
    }
}

#[test]
fn what_would_write_one_copy_or_read_an_empty_shell_is_refused() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE countries (code text PRIMARY KEY, parent text REFERENCES countries ON DELETE CASCADE)");
    // The bodies are older than what they name.
    cluster.psql("CREATE FUNCTION add_country() RETURNS void LANGUAGE sql AS 'INSERT INTO countries VALUES (''f'')'");
    cluster.psql("CREATE VIEW all_countries AS SELECT * FROM countries");
    cluster.psql("SELECT create_reference_table('countries')");
    cluster.psql("INSERT INTO countries VALUES ('a', NULL), ('b', 'a')");
    for sql in ["SELECT add_country()", "INSERT INTO all_countries VALUES ('v')"] {
        assert!(cluster.psql_error(sql).contains("on one node only"), "{sql}");
    }
    assert_eq!(cluster.psql("SELECT count(*) FROM all_countries"), "2");
    cluster.psql_script(
        "COPY countries FROM STDIN;\nc\t\\N\n\\.\nBEGIN;\nUPDATE countries SET parent = 'c' WHERE code = 'a';\nCOMMIT;",
    );
    cluster.psql("DELETE FROM countries WHERE code = 'c'");
    for dsn in [cluster.coordinator_dsn(), cluster.worker_dsn(0), cluster.worker_dsn(1)] {
        assert_eq!(psql(&dsn, "SELECT count(*) FROM countries"), "0", "{dsn}: the delete cascades on every node");
    }

    cluster.psql("CREATE TABLE orders (tenant bigint, id bigint)");
    cluster.psql("CREATE FUNCTION count_orders() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM orders); END'");
    let complaint = cluster.psql_error("SELECT create_distributed_table('orders', 'tenant')");
    assert!(complaint.contains("0A000") && complaint.contains("count_orders()"), "{complaint}");
    cluster.psql("DROP FUNCTION count_orders(); CREATE VIEW some_orders AS SELECT * FROM orders");
    let complaint = cluster.psql_error("SELECT create_distributed_table('orders', 'tenant')");
    assert!(complaint.contains("0A000") && complaint.contains("some_orders"), "{complaint}");
    cluster.psql("DROP VIEW some_orders");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant')");
    for sql in [
        "CREATE VIEW some_orders AS SELECT * FROM orders",
        "CREATE VIEW some_orders AS SELECT * FROM orders WHERE tenant = 1",
        "CREATE MATERIALIZED VIEW some_orders AS SELECT count(*) FROM orders",
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM orders'",
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM orders; END",
        "DO 'BEGIN PERFORM * FROM orders; END'",
    ] {
        assert!(cluster.psql_error(sql).contains("0A000"), "{sql}");
    }
}
