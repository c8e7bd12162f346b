//! What is said of distributed tables and of what hangs on them: it reaches the shards, and means what it means in Postgres.

mod support;

use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_error};

/// Goal: comments on all that hangs on a table reach every shard, those on a reference table every copy, and go when they are
/// taken back.
/// Method: they are read on the worker itself, from the shards.
#[test]
fn comments_reach_the_shards_of_what_they_are_on() {
    let served = Served::start(1);
    for statement in [
        "CREATE TABLE orders (tenant int, id int, note text, CONSTRAINT orders_key PRIMARY KEY (tenant, id), CONSTRAINT few CHECK (id > 0))",
        "SELECT create_distributed_table('orders', 'tenant', shard_count => 2)",
        "CREATE INDEX by_note ON orders (note)",
        "CREATE STATISTICS together ON id, note FROM orders",
        "CREATE POLICY own ON orders USING (tenant = 1)",
        "CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER later BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION say()",
        "CREATE TABLE colors (id int PRIMARY KEY)",
        "SELECT create_reference_table('colors')",
    ] {
        served.psql(statement);
    }
    let things = [
        "TABLE orders",
        "COLUMN public.orders.note",
        "INDEX by_note",
        "INDEX public.orders_key",
        "STATISTICS together",
        "CONSTRAINT few ON orders",
        "CONSTRAINT orders_key ON public.orders",
        "POLICY own ON orders",
        "TRIGGER later ON orders",
        "CONSTRAINT colors_pkey ON colors",
        "INDEX colors_pkey",
    ];
    let commented = "SELECT count(*), string_agg(DISTINCT description, ', ' ORDER BY description) FROM pg_description \
                     WHERE description LIKE 'on %' OR description LIKE 'again %'";
    let expected = |word: &str| {
        let mut said: Vec<String> = things.iter().map(|thing| format!("{word} {thing}")).collect();
        said.sort();
        // Two shards of the nine, and one copy of the rest.
        format!("20|{}", said.join(", "))
    };
    for thing in things {
        served.psql(&format!("COMMENT ON {thing} IS 'on {thing}'"));
    }
    assert_eq!(psql(&served.worker_dsn(0), commented), expected("on"));
    // All or nothing, and the last word counts.
    let mut client = Client::connect(served.proxy_port(0), &[]);
    for end in ["ROLLBACK", "COMMIT"] {
        assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
        for thing in things {
            assert_eq!(client.query(&format!("COMMENT ON {thing} IS 'again {thing}'")), "C(COMMENT) Z(T)");
        }
        assert_eq!(client.query(end), format!("C({end}) Z(I)"));
        assert_eq!(psql(&served.worker_dsn(0), commented), expected(if end == "COMMIT" { "again" } else { "on" }));
    }
    // What they do not name is the coordinator's, and what is not there is told as by Postgres.
    served.psql("CREATE TABLE plain (id int PRIMARY KEY)");
    served.psql("COMMENT ON INDEX plain_pkey IS 'on the coordinator'");
    assert!(psql_error(&served.dsn(0), "COMMENT ON INDEX nothing IS 'x'").contains("42P01"));
    assert!(psql_error(&served.dsn(0), "COMMENT ON CONSTRAINT nothing ON orders IS 'x'").contains("42704"));
    for thing in things {
        served.psql(&format!("COMMENT ON {thing} IS NULL"));
    }
    assert_eq!(psql(&served.worker_dsn(0), commented), "0|");
}

/// Goal: a lock that would be over at once is an error, as in Postgres.
/// Method: the same statements on a distributed and on a local table.
#[test]
fn tables_are_locked_in_transaction_blocks_only() {
    let served = Served::start(1);
    served.tenants();
    served.psql("CREATE TABLE plain (id int)");
    let mut client = Client::connect(served.proxy_port(0), &[]);
    for table in ["items", "plain"] {
        assert_eq!(client.query(&format!("LOCK TABLE {table}")), "E(25P01) Z(I)");
        assert_eq!(client.run_prepared("", &format!("LOCK {table} IN SHARE MODE"), &[]), "1 2 E(25P01) Z(I)");
        assert_eq!(client.query(&format!("SELECT 1; LOCK TABLE {table}")), "T D(1) C(SELECT 1) C(LOCK TABLE) Z(I)");
        assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(client.query(&format!("LOCK TABLE {table} IN SHARE MODE")), "C(LOCK TABLE) Z(T)");
        assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    }
    let told = psql_error(&served.dsn(0), "LOCK TABLE items");
    assert!(told.contains("LOCK TABLE can only be used in transaction blocks"), "{told}");
}

/// Goal: what a schema change asks of the coordinator's catalogs beside itself does not grow with the number of parts that
/// a table's definition has.
/// Method: Postgres counts how often the transaction has run the function that reads a definition, which takes longer than the
/// change of a small table itself.
#[test]
fn a_schema_change_reads_the_tables_definition_once() {
    let served = Served::start(1);
    served.psql("CREATE TABLE orders (tenant int, id serial, note text, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('orders', 'tenant', shard_count => 2)");
    let changes = [
        "ALTER TABLE orders ADD COLUMN amount numeric DEFAULT 0",
        "ALTER TABLE orders RENAME COLUMN note TO remark",
        "CREATE INDEX by_remark ON orders (remark)",
    ];
    let mut client = Client::connect(served.proxy_port(0), &[]);
    client.query("BEGIN; SET LOCAL track_functions = 'all'");
    for change in changes {
        client.query(change);
    }
    let readings = "SELECT pg_stat_get_xact_function_calls('tenantry.shell_definition(oid)'::regprocedure)";
    assert_eq!(client.query(readings), format!("T D({}) C(SELECT 1) Z(T)", changes.len()));
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
}
