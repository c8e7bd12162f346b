//! The wire protocol, message by message: the proxy answers as a plain Postgres does.

mod support;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::Cluster;
use wire::{Wire, cancel_packet, startup_packet};

/// One cluster for the whole file. The test that holds it runs every part in turn, so that it ends with them.
#[test]
fn the_proxy_speaks_as_postgres_does() {
    let cluster = Cluster::start(2);
    prepare(&cluster);
    conversations_are_answered_alike(&cluster);
    connections_begin_alike(&cluster);
    settings_never_leak_to_another_client(&cluster);
    cancel_requests_need_the_right_key(&cluster);
    statements_may_name_themselves(&cluster);
    no_bytes_hurt_the_proxy(&cluster);
}

/// Named by Parse: one Postgres runs them until its stack is full.
fn statements_may_name_themselves(cluster: &Cluster) {
    let mut wire = Wire::login(cluster.port(), "postgres");
    for message in ["P a : EXECUTE a", "S", "P b : EXECUTE c", "S", "P c : EXECUTE b", "S", "D S a", "D S b", "S"] {
        wire.send(&wire::frame(message));
    }
    for message in ["B - a", "E - 0", "S", "B - b", "E - 0", "S"] {
        wire.send(&wire::frame(message));
    }
    for message in ["Q EXECUTE a", "Q EXECUTE b", "Q SELECT 'the end'"] {
        wire.send(&wire::frame(message));
    }
    let answers = wire.answers_until("D the end");
    assert!(!answers.contains(&"closed".to_owned()), "{answers:?}");
    assert_eq!(cluster.psql("SELECT 1"), "1");
}

fn prepare(cluster: &Cluster) {
    let rows = "SELECT t, i, 'name ' || i FROM generate_series(1, 4) t, generate_series(1, 3) i";
    cluster.psql(
        "CREATE TABLE items (tenant int, id int, name text, PRIMARY KEY (tenant, id));
         CREATE TABLE plain_items (LIKE items INCLUDING ALL);
         CREATE TABLE plain_too (tenant int, id int, name text);
         CREATE ROLE ann;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO ann;",
    );
    cluster.psql("SELECT create_distributed_table('items', 'tenant')");
    cluster.psql(&format!("INSERT INTO items {rows}"));
    cluster.psql(&format!("INSERT INTO plain_items {rows}"));
}

fn conversations_are_answered_alike(cluster: &Cluster) {
    let mut different = String::new();
    for (title, messages) in wire::conversations(include_str!("protocol/conversations.txt")) {
        println!("{title}");
        let proxy = converse(cluster.port(), &messages);
        let plain: Vec<_> = messages.iter().map(|m| m.replace("items", "plain_items")).collect();
        let server = converse(cluster.port() + 1, &plain);
        if proxy != server {
            let line = |i: usize| {
                let (p, s) = (proxy.get(i).map_or("-", String::as_str), server.get(i).map_or("-", String::as_str));
                let mark = if p == s { ' ' } else { '!' };
                format!("  {mark} proxy {p:<50} server {s}\n")
            };
            different.push_str(&format!("== {title}\n"));
            different.extend((0..proxy.len().max(server.len())).map(line));
        }
    }
    assert!(different.is_empty(), "answered differently:\n{different}");
}

/// Everything that is answered, and to an epilogue that brings any state to an end.
fn converse(port: u16, messages: &[String]) -> Vec<String> {
    let mut wire = Wire::login(port, "postgres");
    for message in messages {
        wire.send(&wire::frame(message));
    }
    wire.send(&wire::frame("S"));
    wire.send(&wire::frame("Q ROLLBACK"));
    wire.send(&wire::frame("Q SELECT 'the end'"));
    wire.answers_until("D the end")
}

fn connections_begin_alike(cluster: &Cluster) {
    let mut different = String::new();
    let mut both = |title: &str, bytes: &[u8]| {
        let answer = |port| {
            let mut wire = Wire::connect(port);
            wire.send(bytes);
            wire.shut();
            wire.rest_without_parameters()
        };
        let (proxy, server) = (answer(cluster.port()), answer(cluster.port() + 1));
        if proxy != server {
            different.push_str(&format!("{title}: proxy {proxy:?}, server {server:?}\n"));
        }
    };
    let session = startup_packet(3 << 16, &[("user", "postgres"), ("database", "postgres")]);
    let (ssl, gss) = (wire::request(5679), wire::request(5680));
    let query = wire::frame("Q SELECT 1");
    both("a session", &[&session[..], &query].concat());
    both("3.0 with an option", &startup_packet(3 << 16, &[("user", "postgres"), ("options", "-c work_mem=5MB")]));
    both("an option that is none", &startup_packet(3 << 16, &[("user", "postgres"), ("options", "-c nonsense=5MB")]));
    both("a setting with a bad value", &startup_packet(3 << 16, &[("user", "postgres"), ("work_mem", "much")]));
    both("a database that is not there", &startup_packet(3 << 16, &[("user", "postgres"), ("database", "none")]));
    both("a role that is not there", &startup_packet(3 << 16, &[("user", "nobody"), ("database", "postgres")]));
    both("no user", &startup_packet(3 << 16, &[("database", "postgres")]));
    both("nothing", b"");
    both("a packet that is cut off", &session[..session.len() - 3]);
    assert!(different.is_empty(), "connections begin differently:\n{different}");

    for (title, bytes) in [
        ("encryption is refused and the session goes on", [&ssl[..], &session].concat()),
        ("both kinds are refused", [&ssl[..], &gss, &session].concat()),
        ("in the other order too", [&gss[..], &ssl, &session].concat()),
    ] {
        let mut wire = Wire::connect(cluster.port());
        wire.send(&bytes);
        let answer = wire.raw_until_ready();
        let refusals = answer.iter().take_while(|b| **b == b'N').count();
        assert!(refusals > 0 && answer[refusals] == b'R', "{title}: {:?}", &answer[..answer.len().min(20)]);
    }
    for minor in [0, 2, 9999] {
        let parameters = [("user", "postgres"), ("database", "postgres"), ("_pq_.invented", "1")];
        let mut wire = Wire::connect(cluster.port());
        wire.send(&startup_packet(3 << 16 | minor, &parameters));
        let said = wire.answers_until("Z");
        assert!(said[0].starts_with("v ") && said[0].ends_with("_pq_.invented"), "{minor}: {said:?}");
    }
    let lies = [&[0u8, 0, 0, 3][..], &[0; 8], &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0], &startup_packet(2 << 16, &[])];
    for garbage in lies.into_iter().chain([
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 64],
        &ssl[..7],
        &[&ssl[..], &ssl].concat(),
    ]) {
        let mut wire = Wire::connect(cluster.port());
        wire.send(garbage);
        wire.shut();
        wire.rest();
    }
    assert_eq!(cluster.psql("SELECT 1"), "1");
}

fn settings_never_leak_to_another_client(cluster: &Cluster) {
    // More clients in turn than there are connections to leave something on.
    for round in 0..4 {
        let mut one = Wire::login(cluster.port(), "postgres");
        for sql in [
            "SET application_name = 'one'",
            "SET search_path = one, public",
            "SET app.tenant = 'one'",
            "SELECT set_config('app.other', 'one', false)",
            "SET ROLE ann",
            "SET work_mem = '9MB'",
            "SELECT id FROM items WHERE tenant = 1",
            "SELECT id FROM items WHERE tenant = 2",
            "CREATE TEMPORARY TABLE mine (id int)",
            "PREPARE mine AS SELECT 1",
            "SELECT pg_advisory_lock(4711)",
            "BEGIN",
            "SET app.tenant = 'rolled back'",
            "SELECT id FROM items WHERE tenant = 3",
        ] {
            one.query(sql);
        }
        let show = "SELECT current_setting('application_name'), current_setting('search_path'), \
                    current_setting('app.tenant', true), current_setting('app.other', true), current_user, \
                    current_setting('work_mem'), to_regclass('pg_temp.mine')";
        let show_there = "SELECT current_setting('app.tenant', true), current_user, current_setting('work_mem') \
                          FROM items WHERE id = 1 AND tenant = ";
        let nothing = |two: &mut Wire| {
            let answer = two.query(show).join(" ");
            for leaked in ["one", "ann", "9MB", "mine"] {
                assert!(!answer.contains(leaked), "round {round}: {leaked} leaked: {answer}");
            }
            for tenant in 1..=4 {
                let answer = two.query(&format!("{show_there}{tenant}")).join(" ");
                for leaked in ["one", "rolled", "ann", "9MB"] {
                    assert!(!answer.contains(leaked), "round {round}: {leaked} leaked: {answer}");
                }
            }
            assert!(two.query("EXECUTE mine").join(" ").contains("26000"));
        };
        nothing(&mut Wire::login(cluster.port(), "postgres"));
        drop(one);
        let mut two = Wire::login(cluster.port(), "postgres");
        nothing(&mut two);
        let free = "SELECT pg_try_advisory_lock(4711), pg_advisory_unlock(4711)";
        let freed = support::wait_until(Duration::from_secs(5), || two.query(free).join(" ").contains("D t,t"));
        assert!(freed, "round {round}: the lock of a client that went away is free");
    }
}

fn cancel_requests_need_the_right_key(cluster: &Cluster) {
    for sql in
        ["SELECT pg_sleep(30)", "SELECT pg_sleep(30) FROM items WHERE tenant = 1", "SELECT pg_sleep(30) FROM items"]
    {
        let mut wire = Wire::login(cluster.port(), "postgres");
        let (pid, key) = wire.key.clone();
        wire.send(&wire::frame(&format!("Q {sql}")));
        let mut wrong = key.clone();
        wrong[0] ^= 1;
        Wire::connect(cluster.port()).send_and_wait(&cancel_packet(pid, &wrong));
        Wire::connect(cluster.port()).send_and_wait(&cancel_packet(pid + 1000, &key));
        assert!(wire.is_quiet_for(Duration::from_millis(200)), "a wrong key cancels nothing");
        let start = Instant::now();
        Wire::connect(cluster.port()).send_and_wait(&cancel_packet(pid, &key));
        let answer = wire.answers_until("Z");
        assert!(answer.iter().any(|a| a == "E 57014"), "{sql}: {answer:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
        // A late one finds nothing to cancel.
        Wire::connect(cluster.port()).send_and_wait(&cancel_packet(pid, &key));
        assert!(wire.query("SELECT 'still here'").iter().any(|a| a == "D still here"));
    }
}

/// Thousands of connections that send bytes which may or may not be messages.
fn no_bytes_hurt_the_proxy(cluster: &Cluster) {
    static SEED: OnceLock<u64> = OnceLock::new();
    let start = Instant::now();
    let mut random = wire::Random(*SEED.get_or_init(|| 0x7465_6e61_6e74_7279));
    let mut connections = 0;
    while connections < 3000 && start.elapsed() < Duration::from_secs(15) {
        connections += 1;
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.port())).expect("it listens");
        let mut bytes = Vec::new();
        if random.below(4) > 0 {
            bytes = startup_packet(3 << 16, &[("user", "postgres"), ("database", "postgres")]);
            for _ in 0..random.below(12) {
                bytes.extend(random.message());
            }
        }
        for _ in 0..random.below(3) {
            random.spoil(&mut bytes);
        }
        // It may close in the middle; so may we.
        let _ = stream.write_all(&bytes);
        if random.below(2) == 0 {
            let mut wire = Wire::from(stream);
            wire.shut();
            wire.rest();
        }
    }
    assert!(connections > 500, "only {connections} connections in 15 s");
    assert_eq!(cluster.psql("SELECT count(*) FROM items WHERE id <= 3"), "12");
    let log = cluster.log();
    assert!(!log.contains("panicked"), "{log}");
}
