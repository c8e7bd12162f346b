//! What one client leaves behind, and what an error leaves of a transaction: on the wire, against a real cluster.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use support::Cluster;
use support::wire_client::Client;
use tenantry::wire::frontend::{self, Bind, Target};
use tenantry::wire::startup::write_session;

/// Two tenants of `items` that live on different workers.
fn tenants(cluster: &Cluster) -> (String, String) {
    cluster.psql("CREATE TABLE items (tenant int, id int, PRIMARY KEY (tenant, id))");
    cluster.psql("SELECT create_distributed_table('items', 'tenant')");
    let node_of = |tenant: u32| {
        cluster.psql(&format!(
            "SELECT nodename || nodeport FROM pg_dist_shard_placement \
             WHERE shardid = get_shard_id_for_distribution_column('items', {tenant})"
        ))
    };
    let other = (2..100).find(|t| node_of(*t) != node_of(1)).expect("two workers have shards");
    ("1".to_owned(), other.to_string())
}

#[test]
fn a_kept_connection_is_nobody_elses_however_its_session_ends() {
    let cluster = Cluster::start(1);
    for last in ["SELECT 1", "BEGIN"] {
        let mut client = Client::connect(cluster.port(), &[]);
        client.query("LISTEN mine");
        client.query("CREATE TEMP TABLE mine (a int)");
        client.query("SELECT pg_advisory_lock(42)");
        client.query(last);
        drop(client);
        std::thread::sleep(Duration::from_millis(300));
        let mut others: Vec<_> = (0..8).map(|_| Client::connect(cluster.port(), &[])).collect();
        for other in &mut others {
            // All at once, so that no two get the same connection.
            assert_eq!(other.query("BEGIN; SELECT to_regclass('pg_temp.mine')"), "C(BEGIN) T D(NULL) C(SELECT 1) Z(T)");
            assert_eq!(
                other.query("SELECT count(*) FROM pg_listening_channels()"),
                "T D(0) C(SELECT 1) Z(T)",
                "{last}"
            );
        }
        assert_eq!(cluster.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42"), "0");
    }
}

#[test]
fn what_a_lost_server_had_done_is_not_left_out_of_a_commit() {
    let cluster = Cluster::start(2);
    let (here, there) = tenants(&cluster);
    let on_second = cluster.psql(&format!(
        "SELECT nodeport FROM pg_dist_shard_placement \
         WHERE shardid = get_shard_id_for_distribution_column('items', {there})"
    )) == cluster.worker_port(1).to_string();
    let (alive, dying) = if on_second { (here, there) } else { (there, here) };
    let mut client = Client::connect(cluster.port(), &[]);
    client.query("BEGIN");
    assert_eq!(client.query(&format!("INSERT INTO items VALUES ({alive}, 1)")), "C(INSERT 0 1) Z(T)");
    client.query("SAVEPOINT s");
    cluster.signal_worker(1, "KILL");
    std::thread::sleep(Duration::from_millis(500));
    assert!(client.query("SELECT count(*) FROM items").starts_with("E("), "{dying}");
    assert_eq!(client.query("ROLLBACK TO SAVEPOINT s"), "C(ROLLBACK) Z(T)");
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(client.query(&format!("SELECT id FROM items WHERE tenant = {alive}")), "T D(1) C(SELECT 1) Z(I)");
}

#[test]
fn a_prepared_statement_means_the_tables_of_its_clients_search_path() {
    let cluster = Cluster::start(1);
    for schema in ["one", "two"] {
        cluster.psql(&format!("CREATE SCHEMA {schema}"));
        cluster.psql(&format!("CREATE TABLE {schema}.items (tenant int PRIMARY KEY, said text)"));
        cluster.psql(&format!("SELECT create_distributed_table('{schema}.items', 'tenant')"));
        cluster.psql(&format!("INSERT INTO {schema}.items VALUES (1, '{schema}')"));
    }
    // Both data threads, and their only connections, see both.
    for round in 0..4 {
        for schema in ["one", "two"] {
            let mut client = Client::connect(cluster.port(), &[("search_path", schema)]);
            let said = client.run_prepared("s", "SELECT said FROM items WHERE tenant = $1", &[Some("1")]);
            assert_eq!(said, format!("1 2 D({schema}) C(SELECT 1) Z(I)"), "round {round}");
        }
    }
}

/// T42: a server reads the constants of a statement once, when it parses it; clients that share what it parsed read
/// them each by their own settings.
#[test]
fn a_prepared_statement_reads_its_constants_by_its_own_clients_settings() {
    let cluster = Cluster::start(1);
    cluster.psql("CREATE TABLE events (tenant int PRIMARY KEY, at timestamptz, day date)");
    cluster.psql("SELECT create_distributed_table('events', 'tenant')");
    cluster.psql("INSERT INTO events VALUES (1, '2030-02-01 12:00+00', '2030-02-01')");
    let noon = "SELECT count(*) FROM events WHERE tenant = $1 AND at = '2030-02-01 12:00'::timestamptz";
    let day = "SELECT count(*) FROM events WHERE tenant = $1 AND day = $$1/2/2030$$::date";
    let count = |n: u32| format!("1 2 D({n}) C(SELECT 1) Z(I)");
    // Both data threads, and the connections of both, see both.
    for round in 0..4 {
        for (zone, style, at_noon, that_day) in [("UTC", "ISO, MDY", 1, 0), ("Asia/Tokyo", "ISO, DMY", 0, 1)] {
            let parameters = [("TimeZone", zone), ("DateStyle", style)];
            let mut client = Client::connect(cluster.port(), &parameters);
            assert_eq!(client.run_prepared("n", noon, &[Some("1")]), count(at_noon), "{round} {zone}");
            assert_eq!(client.run_prepared("d", day, &[Some("1")]), count(that_day), "{round} {style}");
            // By SET, by SET LOCAL and by set_config it is the same.
            let mut client = Client::connect(cluster.port(), &[("TimeZone", "America/Lima")]);
            client.query(&format!("SET TIME ZONE '{zone}'"));
            assert_eq!(client.run_prepared("n", noon, &[Some("1")]), count(at_noon), "{round} {zone}");
            client.query("SET TIME ZONE 'America/Lima'; DEALLOCATE n; BEGIN");
            client.query(&format!("SET LOCAL TIME ZONE '{zone}'"));
            let within = count(at_noon).replace("Z(I)", "Z(T)");
            assert_eq!(client.run_prepared("n", noon, &[Some("1")]), within, "{round} {zone}");
            client.query("ROLLBACK; DEALLOCATE n");
            client.query(&format!("SELECT set_config('TimeZone', '{zone}', false)"));
            assert_eq!(client.run_prepared("n", noon, &[Some("1")]), count(at_noon), "{round} {zone}");
        }
    }
}

/// T42: the same text, when something else than the text has changed. Several rounds, so that all data threads
/// remember both meanings.
#[test]
fn what_is_remembered_is_remembered_of_one_meaning() {
    let cluster = Cluster::start(2);
    let (here, there) = tenants(&cluster);
    cluster.psql(&format!("INSERT INTO items VALUES ({here}, 7), ({there}, 8)"));
    for role in ["reader", "stranger"] {
        cluster.psql(&format!("CREATE ROLE {role} LOGIN"));
    }
    cluster.psql("GRANT SELECT ON items TO reader");
    let connect = |parameters: &[(&str, &str)]| Client::connect(cluster.port(), parameters);
    let both_ways = |client: &mut Client, sql: &str| {
        let simple = client.query(sql);
        client.query("DEALLOCATE ALL");
        let prepared = client.run_prepared("s", sql, &[]);
        assert_eq!(simple.replacen("T ", "", 1), prepared.replacen("1 2 ", "", 1).replacen("1 E", "E", 1), "{sql}");
        simple
    };
    let read = format!("SELECT id FROM items WHERE tenant = {here}");
    // Who asks.
    for _ in 0..4 {
        assert_eq!(both_ways(&mut connect(&[("user", "reader")]), &read), "T D(7) C(SELECT 1) Z(I)");
        assert_eq!(both_ways(&mut connect(&[("user", "stranger")]), &read), "E(42501) Z(I)");
    }
    // The types that its parameters are said to have.
    let by_parameter = "SELECT id FROM items WHERE tenant = $1";
    let typed = |client: &mut Client, oid: u32| {
        frontend::parse(b"", by_parameter, &[oid], &mut client.out);
        client.bind_and_execute("", &[Some(&here)]);
        frontend::sync(&mut client.out);
        client.answer()
    };
    for _ in 0..4 {
        let client = &mut connect(&[]);
        assert_eq!(typed(client, 23), "1 2 D(7) C(SELECT 1) Z(I)", "int4");
        assert_eq!(typed(client, 25).trim_start_matches("1 "), "E(42883) Z(I)", "text");
        assert_eq!(typed(client, 20), "1 2 D(7) C(SELECT 1) Z(I)", "int8");
    }
    // What the session has set since.
    let client = &mut connect(&[]);
    cluster.psql("CREATE SCHEMA empty; CREATE TABLE empty.items (tenant int, id int)");
    for _ in 0..2 {
        assert_eq!(both_ways(client, &read), "T D(7) C(SELECT 1) Z(I)");
        client.query("SET search_path = empty");
        assert_eq!(both_ways(client, &read), "T C(SELECT 0) Z(I)");
        client.query("RESET search_path");
    }
    // A transaction that has failed on one server, and a statement that belongs to another.
    let read_there = format!("SELECT id FROM items WHERE tenant = {there}");
    for _ in 0..2 {
        client.query("BEGIN");
        assert_eq!(client.query(&format!("INSERT INTO items VALUES ({here}, 7)")), "E(23505) Z(E)");
        assert_eq!(client.query(&read_there), "E(25P02) Z(E)");
        client.query("ROLLBACK");
        assert_eq!(both_ways(client, &read_there), "T D(8) C(SELECT 1) Z(I)");
    }
    // What the name stands for: a local table, a distributed one, one that is distributed otherwise.
    let count = "SELECT count(*) FROM later WHERE tenant = 1";
    let clients = &mut [connect(&[]), connect(&[]), connect(&[]), connect(&[])];
    let mut all_count = |answer: &str| {
        for client in clients.iter_mut() {
            assert_eq!(both_ways(client, count), answer);
        }
    };
    all_count("E(42P01) Z(I)");
    cluster
        .psql("CREATE TABLE later (tenant int, other int); INSERT INTO later SELECT 1, i FROM generate_series(1, 9) i");
    all_count("T D(9) C(SELECT 1) Z(I)");
    cluster.psql("SELECT create_distributed_table('later', 'tenant')");
    all_count("T D(9) C(SELECT 1) Z(I)");
    cluster.psql("DROP TABLE later");
    all_count("E(42P01) Z(I)");
    cluster.psql("CREATE TABLE later (tenant int, other int)");
    cluster.psql("SELECT create_distributed_table('later', 'other')");
    cluster.psql("INSERT INTO later SELECT 1, i FROM generate_series(1, 8) i");
    all_count("T D(8) C(SELECT 1) Z(I)");
    cluster.psql("ALTER TABLE later RENAME TO former");
    all_count("E(42P01) Z(I)");
}

#[test]
fn a_failed_copy_is_over_when_its_error_has_been_told() {
    let cluster = Cluster::start(2);
    let (here, there) = tenants(&cluster);
    let mut client = Client::connect(cluster.port(), &[]);
    client.query(&format!("INSERT INTO items VALUES ({here}, 1), ({there}, 1)"));
    client.query("BEGIN");
    client.query("SAVEPOINT s");
    frontend::query("COPY items FROM STDIN", &mut client.out);
    for tenant in [&here, &there] {
        frontend::copy_data(format!("{tenant}\t1\n").as_bytes(), &mut client.out);
    }
    frontend::copy_done(&mut client.out);
    assert_eq!(client.answer(), "G E(23505) Z(E)");
    assert_eq!(client.query("ROLLBACK TO SAVEPOINT s"), "C(ROLLBACK) Z(T)");
    assert_eq!(client.query("SELECT count(*) FROM items"), "T D(2) C(SELECT 1) Z(T)");
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
}

#[test]
fn a_sync_in_the_middle_of_copy_data_means_nothing() {
    let cluster = Cluster::start(1);
    cluster.psql("CREATE TABLE plain (a int)");
    let mut client = Client::connect(cluster.port(), &[]);
    frontend::query("COPY plain FROM STDIN", &mut client.out);
    frontend::copy_data(b"not a number\n", &mut client.out);
    // Long enough that the server has answered before the rest arrives.
    client.flush();
    std::thread::sleep(Duration::from_millis(300));
    frontend::sync(&mut client.out);
    frontend::copy_data(&[b'\n'; 200_000], &mut client.out);
    frontend::sync(&mut client.out);
    frontend::copy_done(&mut client.out);
    assert_eq!(client.answer(), "G E(22P02) Z(I)");
    assert_eq!(client.query("SELECT 1"), "T D(1) C(SELECT 1) Z(I)");
    assert_eq!(client.query("SELECT 2"), "T D(2) C(SELECT 1) Z(I)");
}

#[test]
fn a_write_that_fails_on_one_copy_of_a_reference_table_was_never_said_to_be_done() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE colours (id int PRIMARY KEY)");
    cluster.psql("SELECT create_reference_table('colours')");
    support::psql(&cluster.worker_dsn(1), "INSERT INTO colours VALUES (7)");
    let mut client = Client::connect(cluster.port(), &[]);
    assert_eq!(client.query("INSERT INTO colours VALUES (7)"), "E(23505) Z(I)");
    assert_eq!(client.query("INSERT INTO colours VALUES (8)"), "C(INSERT 0 1) Z(I)");
}

#[test]
fn reset_goes_back_to_what_the_client_connected_with() {
    let cluster = Cluster::start(1);
    let mut client = Client::connect(cluster.port(), &[("TimeZone", "Asia/Tokyo"), ("options", "-c search_path=mine")]);
    for reset in ["RESET ALL", "RESET timezone", "DISCARD ALL"] {
        client.query("SET timezone = 'UTC'");
        assert!(client.query(reset).ends_with("Z(I)"));
        assert_eq!(client.query("SHOW timezone"), "T D(Asia/Tokyo) C(SHOW) Z(I)", "{reset}");
    }
    assert_eq!(client.query("SHOW search_path"), "T D(mine) C(SHOW) Z(I)");
}

#[test]
fn a_portal_of_an_earlier_batch_can_be_described() {
    let cluster = Cluster::start(1);
    let mut client = Client::connect(cluster.port(), &[]);
    client.query("BEGIN");
    frontend::parse(b"s", "SELECT 1", &[], &mut client.out);
    Bind::text(&[]).write(b"p", b"s", &mut client.out);
    frontend::sync(&mut client.out);
    assert_eq!(client.answer(), "1 2 Z(T)");
    frontend::describe(Target::Portal(b"p"), &mut client.out);
    frontend::sync(&mut client.out);
    assert_eq!(client.answer(), "T Z(T)");
}

#[test]
fn a_question_to_the_coordinator_does_not_stay_outside_the_statements_transaction() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE days (day date, n numeric)");
    cluster.psql("SELECT create_distributed_table('days', 'day')");
    let mut client = Client::connect(cluster.port(), &[]);
    client.query("INSERT INTO days VALUES ('2024-01-01', 1), ('2024-01-02', 2), ('2024-01-03', 3)");
    // Dates in words are hashed by the coordinator, which then combines what the shards say.
    let sql = "SELECT sum(n) FROM days WHERE day IN ('1 January 2024', '2 January 2024', '3 January 2024')";
    assert_eq!(client.query(sql), "T D(6) C(SELECT 1) Z(I)");
}

#[test]
fn only_the_one_database_is_served() {
    let cluster = Cluster::start(1);
    let mut client = Client::connect(cluster.port(), &[]);
    assert_eq!(client.query("SELECT 1"), "T D(1) C(SELECT 1) Z(I)");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.port())).unwrap();
    let mut out = BytesMut::new();
    write_session(&[("user", "postgres"), ("database", "template1")], &mut out);
    stream.write_all(&out).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert!(String::from_utf8_lossy(&said).contains("3D000"));
}

/// Tools make types so that they may be there already, and workers hear nothing of what a DO block does.
#[test]
fn types_made_inside_of_a_do_block_reach_the_shards() {
    let cluster = Cluster::start(2);
    let make = |statement: &str| {
        cluster.psql(&format!("DO $$ BEGIN {statement}; EXCEPTION WHEN duplicate_object THEN null; END $$"))
    };
    make("CREATE SCHEMA kinds; CREATE TYPE kinds.mood AS ENUM ('good', 'bad')");
    make("CREATE TYPE point_with_mood AS (x int, moods kinds.mood[]); CREATE DOMAIN small AS int CHECK (value < 10)");
    make("CREATE DOMAIN small AS int");
    cluster.psql("CREATE TABLE felt (tenant int PRIMARY KEY, at point_with_mood, size small)");
    cluster.psql("SELECT create_distributed_table('felt', 'tenant')");
    cluster.psql("INSERT INTO felt SELECT t, (t, '{good,bad}')::point_with_mood, 7 FROM generate_series(1, 40) t");
    assert_eq!(cluster.psql("SELECT count(*) FROM felt WHERE at IS NOT NULL AND size = 7"), "40");
    assert!(support::psql_error(&cluster.dsn(), "INSERT INTO felt VALUES (50, NULL, 11)").contains("23514"));
    make("CREATE TYPE later AS ENUM ('now', 'then')");
    cluster.psql("ALTER TABLE felt ADD COLUMN \"when\" later DEFAULT 'now'");
    assert_eq!(cluster.psql("SELECT DISTINCT \"when\" FROM felt"), "now");
    make("CREATE TYPE copied AS ENUM ('once')");
    cluster.psql("CREATE TABLE known (id int PRIMARY KEY, kind copied)");
    cluster.psql("SELECT create_reference_table('known')");
    cluster.psql("INSERT INTO known VALUES (1, 'once')");
    assert_eq!(cluster.psql("SELECT kind FROM known JOIN felt ON id = tenant WHERE tenant = 1"), "once");

    // While clients go on, by connections that are nobody's: the types still have their owners.
    cluster.psql("CREATE ROLE thinker");
    make("CREATE SCHEMA minds AUTHORIZATION thinker; CREATE TYPE minds.thought AS ENUM ('deep')");
    make("CREATE DOMAIN minds.deep AS minds.thought[]; ALTER TYPE minds.thought OWNER TO thinker");
    cluster.psql("CREATE TABLE minded (tenant int PRIMARY KEY, of minds.deep)");
    cluster.psql("INSERT INTO minded SELECT t, '{deep}' FROM generate_series(1, 40) t");
    cluster.psql("SELECT create_distributed_table_concurrently('minded', 'tenant', colocate_with => 'none')");
    assert_eq!(cluster.psql("SELECT count(*) FROM minded WHERE of = '{deep}'"), "40");
    let owners = "SELECT string_agg(pg_get_userbyid(typowner), ' ' ORDER BY typname),
            string_agg(DISTINCT pg_get_userbyid(nspowner), ' ')
        FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE nspname = 'minds' AND typcategory <> 'A' OR typname = 'deep'";
    assert_eq!(support::psql(&cluster.worker_dsn(1), owners), "postgres thinker|thinker");
}

/// postgres.js gives a parameter the type 0 where it does not know better.
#[test]
fn types_that_are_left_open_are_found_out() {
    let cluster = Cluster::start(2);
    let (here, there) = tenants(&cluster);
    cluster.psql(&format!("INSERT INTO items VALUES ({here}, 1), ({there}, 2)"));
    let mut client = Client::connect(cluster.port(), &[]);
    for (sql, answer) in [
        ("SELECT id FROM items WHERE tenant IN ($1, $2) ORDER BY id", "1 2 D(1) D(2) C(SELECT 2) Z(I)"),
        ("SELECT count(*) FROM items WHERE tenant IN ($1, $2)", "1 2 D(2) C(SELECT 1) Z(I)"),
        ("SELECT max(id) FROM items WHERE tenant = $1 OR tenant = $2", "1 2 D(2) C(SELECT 1) Z(I)"),
    ] {
        for types in [&[][..], &[0], &[0, 0]] {
            frontend::parse(b"", sql, types, &mut client.out);
            client.bind_and_execute("", &[Some(&here), Some(&there)]);
            frontend::sync(&mut client.out);
            assert_eq!(client.answer(), answer, "{sql}, {types:?}");
        }
    }
}
