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

/// Sequences, clocks and random values: each default is computed once, and every copy has its value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_are_computed_once_for_all_copies() {
    let cluster = Cluster::start(2);
    let port = cluster.worker_port(1);
    cluster.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    cluster.psql(
        "CREATE SEQUENCE codes INCREMENT BY 5;
         CREATE TABLE kinds (id serial PRIMARY KEY, name text UNIQUE, made timestamptz NOT NULL DEFAULT clock_timestamp(),
             code text DEFAULT 'K' || nextval('codes'), token uuid DEFAULT gen_random_uuid(), weight numeric(6, 2) DEFAULT random() * 10);
         INSERT INTO kinds (name) VALUES ('before'), ('also before');
         CREATE TABLE tags (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, length int GENERATED ALWAYS AS (length(name)) STORED);
         CREATE TABLE staged (name text); INSERT INTO staged SELECT 's' || i FROM generate_series(1, 50) i",
    );
    cluster.psql("SELECT create_reference_table('kinds')");
    cluster.psql("SELECT create_reference_table('tags')");
    let same = |nodes: usize, what: &str| {
        for table in ["kinds", "tags"] {
            let rows = format!("SELECT count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM {table} t");
            let on_coordinator = psql(&cluster.coordinator_dsn(), &rows);
            for worker in 0..nodes {
                assert_eq!(psql(&cluster.worker_dsn(worker), &rows), on_coordinator, "{table}: {what}");
            }
        }
    };
    for (sql, answer) in [
        ("INSERT INTO kinds (name) VALUES ('a') RETURNING id, code", "3|K11"),
        ("INSERT INTO kinds (name, id) VALUES ('b', DEFAULT), ('c', 77), ('d', DEFAULT) RETURNING id", "4\n77\n6"),
        ("INSERT INTO kinds VALUES (DEFAULT, 'e'), (DEFAULT, 'f') RETURNING id, made IS NULL", "7|f\n8|f"),
        ("INSERT INTO kinds AS k DEFAULT VALUES RETURNING k.id, name IS NULL", "9|t"),
        (
            "INSERT INTO kinds(name)VALUES('a'),('g') ON CONFLICT (name) DO UPDATE SET code = EXCLUDED.id || '!' RETURNING id, code",
            "3|10!\n11|K51",
        ),
        ("INSERT INTO kinds (name) SELECT name FROM staged", ""),
        ("INSERT INTO kinds (name) SELECT 'r' || id FROM kinds WHERE id < 5", ""),
        ("INSERT INTO tags (name) VALUES ('x'), (E'it''s (a, \"b\")') RETURNING id, length", "1|1\n2|13"),
        ("INSERT INTO tags VALUES (DEFAULT, 'y') RETURNING id", "3"),
        ("INSERT INTO tags OVERRIDING SYSTEM VALUE VALUES (5000, 'z') RETURNING id", "5000"),
        ("INSERT INTO tags (name) SELECT name FROM staged", ""),
        ("UPDATE tags SET name = name || '!' WHERE id = 1", ""),
    ] {
        assert_eq!(cluster.psql(sql), answer, "{sql}");
        same(1, sql);
    }
    cluster.psql_script(
        "COPY kinds (name) FROM STDIN;\ncopied\nand this\n\\.\nCOPY tags (name) FROM STDIN CSV;\n\"x, y\"\n\\.",
    );
    same(1, "COPY");
    assert_eq!(cluster.psql("SELECT count(*), count(DISTINCT token), count(DISTINCT id) FROM kinds"), "66|66|66");

    let mut client = connect(&cluster.dsn()).await;
    let sql = "INSERT INTO kinds (name, weight) VALUES ($1, $2::int4), ($3, DEFAULT)
        ON CONFLICT (name) DO UPDATE SET name = kinds.name || $1 RETURNING id";
    let insert = client.prepare(sql).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..3 {
        let rows = client.query(&insert, &[&format!("p{n}"), &n, &format!("q{n}")]).await.unwrap();
        ids.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
    let block = client.transaction().await.unwrap();
    let id: i32 = block.query_one("INSERT INTO tags (name) VALUES ('undone') RETURNING id", &[]).await.unwrap().get(0);
    assert_eq!(block.query_one("SELECT currval('tags_id_seq')", &[]).await.unwrap().get::<_, i64>(0), i64::from(id));
    block.rollback().await.unwrap();
    // Who waits behind each other's rows draws different numbers.
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let dsn = cluster.dsn();
            tokio::spawn(async move {
                let client = connect(&dsn).await;
                for n in 0..25 {
                    client
                        .execute("INSERT INTO tags (name) VALUES ($1), ('-')", &[&format!("{writer} {n}")])
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    same(1, "many clients");
    // A node that comes later has the same rows, and what is written then.
    cluster.psql(&format!("SELECT citus_add_node('127.0.0.1', {port})"));
    assert_eq!(cluster.psql("SELECT setval('kinds_id_seq', 1000)"), "1000");
    assert_eq!(cluster.psql("INSERT INTO kinds (name) VALUES ('later') RETURNING id"), "1001");
    same(2, "a new node");
    cluster.psql("CREATE ROLE app LOGIN; GRANT INSERT, SELECT ON tags, kinds TO app");
    let as_app = cluster.dsn().replace("postgres@", "app@");
    assert_eq!(psql(&as_app, "INSERT INTO tags (name) VALUES ('app') RETURNING name"), "app");
    let error = support::psql_error(&as_app, "INSERT INTO kinds (name) VALUES ('app')");
    assert!(error.contains("42501") && error.contains("kinds_id_seq"), "as in Postgres: {error}");
    cluster.psql("ALTER TABLE kinds ADD COLUMN more int DEFAULT 5; ALTER TABLE kinds ALTER COLUMN code DROP DEFAULT");
    assert_eq!(cluster.psql("INSERT INTO kinds (name) VALUES ('last') RETURNING code IS NULL, more"), "t|5");
    same(2, "all");

    for (sql, words) in [
        ("INSERT INTO tags VALUES (7, 'n')", "428C9: cannot insert a non-DEFAULT value into column \"id\""),
        ("INSERT INTO tags (id, name) VALUES (DEFAULT, 'n'), (8, 'n')", "428C9"),
        ("INSERT INTO tags (id, name) SELECT 1, 'n'", "Use OVERRIDING SYSTEM VALUE to override."),
        ("UPDATE tags SET id = 7 WHERE id = 1", "428C9: column \"id\" can only be updated to DEFAULT"),
        ("UPDATE tags SET id = DEFAULT WHERE id = 1", "0A000"),
        ("UPDATE kinds SET made = DEFAULT", "The default of column \"made\" may differ from node to node."),
        ("INSERT INTO kinds (name) VALUES ('a') ON CONFLICT (name) DO UPDATE SET token = DEFAULT", "0A000"),
        ("INSERT INTO tags OVERRIDING USER VALUE VALUES (1, 'n')", "0A000"),
        ("INSERT INTO kinds (name) VALUES ('n', 1)", "42601"),
        ("INSERT INTO kinds (name) SELECT name FROM staged RETURNING id", "0A000"),
    ] {
        let error = cluster.psql_error(sql);
        assert!(error.contains(words), "{sql}: {error}");
    }
    same(2, "refusals");
}
