//! Cancel requests: they reach the statement that is meant, on every server that runs it, and nothing else.

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use support::served::Served;
use support::wire_client::Client;
use support::{psql, signal, wait_until};
use tenantry::wire::frontend;
use tenantry::wire::startup::write_cancel;

const PATIENCE: Duration = Duration::from_secs(30);
const CANCELLED: &str = "E(57014)";

/// Sends a cancel request from `source` and waits until the proxy has closed its connection.
fn cancel_from(source: Ipv4Addr, port: u16, pid: u32, key: &[u8]) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).expect("all of 127.0.0.0/8 is ours");
    socket.connect(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into()).expect("the proxy listens");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut out = BytesMut::new();
    write_cancel(pid, key, &mut out);
    stream.write_all(&out).expect("the proxy reads");
    assert_eq!(stream.read(&mut [0]).expect("it is closed in time"), 0, "a cancel request has no answer");
}

fn cancel(port: u16, client: &Client) {
    cancel_from(Ipv4Addr::LOCALHOST, port, client.pid, &client.key);
}

fn await_running(served: &Served, words: &str, count: usize) {
    assert!(wait_until(PATIENCE, || served.running(words) == count), "{words}: {} run", served.running(words));
}

/// Goal: T14, T15, T16 of the threat list. Method: pools of one connection, so that clients follow each other on the same
/// servers; raw cancel requests, also wrong, late, many, and to a server that takes none.
#[test]
fn a_cancel_reaches_the_right_statement_only() {
    let served = Served::start_with(2, 1, "[pool]\nsize = 1\nsilence_max = \"60s\"\n");
    let tenants = served.tenants();
    t14_guessed_keys_reach_nothing(&served, &tenants);
    t15_a_late_cancel_reaches_no_later_statement(&served, &tenants);
    every_server_that_runs_the_statement_is_reached(&served, &tenants);
    who_waits_for_a_connection_is_reached(&served, &tenants);
    t16_a_storm_of_cancels_and_a_server_that_takes_none(&served, &tenants);
}

/// Goal: behind a balancer a cancel request comes to any proxy. Method: two proxies that each have a session with the same
/// number; requests to the one for a session of the other, with right and wrong keys.
#[test]
fn a_cancel_is_passed_on_to_the_proxy_of_its_session() {
    let mut served = Served::start(2);
    let tenants = served.tenants();
    served.start_proxy(1);
    let (here, there) = (served.proxy_port(0), served.proxy_port(1));
    let known = "SELECT count(*) FROM tenantry.tenantry_proxies";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), known) == "2"));
    let mut client = Client::connect(there, &[]);
    let mut namesake = Client::connect(here, &[]);
    while namesake.pid < client.pid {
        namesake = Client::connect(here, &[]);
    }
    client.send(&format!("SELECT 18, pg_sleep(60) FROM items WHERE tenant = {}", tenants[0]));
    namesake.send(&format!("SELECT 19, pg_sleep(60) FROM items WHERE tenant = {}", tenants[0]));
    await_running(&served, "SELECT 18,", 1);
    await_running(&served, "SELECT 19,", 1);
    let wrong: Vec<u8> = client.key.iter().map(|byte| !byte).collect();
    cancel_from(Ipv4Addr::LOCALHOST, here, client.pid, &wrong);
    assert_eq!(served.running("SELECT 18,") + served.running("SELECT 19,"), 2, "a wrong key reaches nobody anywhere");

    // Many that nobody knows, from many places: they take no control connection while others look for them.
    std::thread::scope(|threads| {
        for number in 0..180u8 {
            let (client, wrong) = (&client, &wrong);
            let source = Ipv4Addr::new(127, 0, 1, number % 3 + 1);
            threads.spawn(move || cancel_from(source, here, client.pid, &[&wrong[1..], &[number]].concat()));
        }
    });
    assert!(!served.logged(0).contains("no control connection became free"), "{}", served.logged(0));

    cancel(here, &client);
    // It is there when the request's connection is closed: what comes next is not cancelled.
    assert_eq!(client.answer(), "T E(57014) Z(I)");
    assert_eq!(client.query(&format!("SELECT id FROM items WHERE tenant = {}", tenants[0])), "T D(1) C(SELECT 1) Z(I)");
    assert_eq!(served.running("SELECT 19,"), 1, "the other's session goes on");
    cancel(there, &namesake);
    assert_eq!(namesake.answer(), "T E(57014) Z(I)");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT count(*) FROM tenantry.cancel_request"), "0");
    // Keys are not for everybody.
    psql(&served.coordinator_dsn(), "CREATE ROLE passer_by");
    let may = "SELECT has_table_privilege('passer_by', 'tenantry.cancel_request', 'SELECT')";
    assert_eq!(psql(&served.coordinator_dsn(), may), "f");
}

fn t14_guessed_keys_reach_nothing(served: &Served, tenants: &[String]) {
    let port = served.proxy_port(0);
    let guesser = Ipv4Addr::new(127, 0, 0, 2);
    let mut client = Client::connect(port, &[]);
    client.send(&format!("SELECT 14, pg_sleep(60) FROM items WHERE tenant = {}", tenants[0]));
    await_running(served, "SELECT 14,", 1);
    for number in 0u32..300 {
        let wrong: Vec<u8> =
            client.key.iter().map(|byte| !byte).zip(number.to_be_bytes()).map(|(a, b)| a ^ b).collect();
        cancel_from(guesser, port, client.pid, &wrong);
    }
    cancel_from(guesser, port, client.pid, &client.key);
    cancel_from(Ipv4Addr::LOCALHOST, port, client.pid, &[&client.key[..], &[0]].concat());
    assert_eq!(served.running("SELECT 14,"), 1, "who has guessed so often is not listened to, even when right");
    cancel(port, &client);
    assert_eq!(client.answer(), "T E(57014) Z(I)");

    let clients: Vec<_> = (0..64).map(|_| Client::connect(port, &[])).collect();
    let mut keys: Vec<_> = clients.iter().map(|client| &client.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), clients.len(), "each session has a key of its own");
}

fn t15_a_late_cancel_reaches_no_later_statement(served: &Served, tenants: &[String]) {
    let port = served.proxy_port(0);
    let (mut a, mut b) = (Client::connect(port, &[]), Client::connect(port, &[]));
    let plain = format!("SELECT id FROM items WHERE tenant = {}", tenants[0]);
    let said = "T D(1) C(SELECT 1) Z(I)";
    let mut cancelled = 0;
    for round in 0..150 {
        // It ends at about the time when the cancel arrives: sometimes before it, sometimes after.
        let meant =
            format!("SELECT id, pg_sleep({}) FROM items WHERE tenant = {}", f64::from(round % 10) / 2e3, tenants[0]);
        let in_block = round % 3 == 0;
        if in_block {
            a.query("BEGIN");
        }
        if round % 2 == 0 {
            a.send(&meant);
        } else {
            frontend::parse(b"", &meant, &[], &mut a.out);
            a.bind_and_execute("", &[]);
            frontend::sync(&mut a.out);
            a.flush();
        }
        let (pid, key) = (a.pid, a.key.clone());
        let canceller = std::thread::spawn(move || cancel_from(Ipv4Addr::LOCALHOST, port, pid, &key));
        // In a block the first one holds the only connection until it is over.
        if !in_block {
            assert_eq!(b.query(&plain), said, "round {round}: another client");
        }
        canceller.join().unwrap();
        let of_a = a.answer();
        cancelled += usize::from(of_a.contains(CANCELLED));
        if in_block {
            a.query("ROLLBACK");
        }
        assert_eq!(a.query(&plain), said, "round {round}: its own next statement, after {of_a}");
    }
    assert!(cancelled > 10, "only {cancelled} cancels came in time");
}

fn every_server_that_runs_the_statement_is_reached(served: &Served, tenants: &[String]) {
    let port = served.proxy_port(0);
    let mut client = Client::connect(port, &[]);
    for (servers, sql) in [
        (2, "SELECT count(*) FROM items WHERE pg_sleep(60) IS NOT NULL".to_owned()),
        (1, format!("SELECT 1; SELECT pg_sleep(60) FROM items WHERE tenant = {}", tenants[1])),
        (1, "SELECT pg_sleep(60)".to_owned()),
    ] {
        client.send(&sql);
        await_running(served, "pg_sleep(60)", servers);
        cancel(port, &client);
        let said = client.answer();
        assert!(said.ends_with("E(57014) Z(I)"), "{sql}: {said}");
        await_running(served, "pg_sleep(60)", 0);
    }
}

fn who_waits_for_a_connection_is_reached(served: &Served, tenants: &[String]) {
    let port = served.proxy_port(0);
    let (mut holder, mut waiter) = (Client::connect(port, &[]), Client::connect(port, &[]));
    let sql = format!("SELECT id FROM items WHERE tenant = {}", tenants[0]);
    holder.query("BEGIN");
    assert_eq!(holder.query(&sql), "T D(1) C(SELECT 1) Z(T)");
    waiter.send(&sql);
    let (pid, key) = (waiter.pid, waiter.key.clone());
    let answer = std::thread::spawn(move || waiter.answer());
    // Nothing shows from outside that it waits already, so it is asked until it has heard.
    while !answer.is_finished() {
        cancel_from(Ipv4Addr::LOCALHOST, port, pid, &key);
    }
    let answer = answer.join().unwrap();
    assert_eq!(answer, "E(57014) Z(I)");
    assert_eq!(holder.query("COMMIT"), "C(COMMIT) Z(I)");
}

fn t16_a_storm_of_cancels_and_a_server_that_takes_none(served: &Served, tenants: &[String]) {
    let port = served.proxy_port(0);
    let mut client = Client::connect(port, &[]);
    // It survives the first few, so that the storm meets something.
    client.send(
        "DO $$ BEGIN FOR i IN 1 .. 5 LOOP \
             BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; \
         END LOOP; END $$",
    );
    await_running(served, "FOR i IN", 1);
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| (0..125).for_each(|_| cancel(port, &client)));
        }
    });
    let said = client.answer();
    assert!(["C(DO) Z(I)", "E(57014) Z(I)"].contains(&said.as_str()), "{said}");
    assert_eq!(client.query("SELECT 1"), "T D(1) C(SELECT 1) Z(I)");
    drop(client);

    let mut stuck = Client::connect(port, &[]);
    stuck.send(&format!("SELECT 16, pg_sleep(60) FROM items WHERE tenant = {}", tenants[1]));
    await_running(served, "SELECT 16,", 1);
    let postmaster = psql(&served.worker_dsn(1), "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)");
    signal(postmaster.parse().expect("a process id"), "STOP");
    let (pid, key) = (stuck.pid, stuck.key.clone());
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let key = key.clone();
            std::thread::spawn(move || cancel_from(Ipv4Addr::LOCALHOST, port, pid, &key))
        })
        .collect();
    let mut other = Client::connect(port, &[]);
    for _ in 0..3 {
        other.send(&format!("SELECT 17, pg_sleep(60) FROM items WHERE tenant = {}", tenants[0]));
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT 17,%'";
        assert!(wait_until(PATIENCE, || psql(&served.worker_dsn(0), sql) == "1"));
        cancel(port, &other);
        assert_eq!(other.answer(), "T E(57014) Z(I)", "other nodes' statements are cancelled meanwhile");
    }
    signal(postmaster.parse().expect("a process id"), "CONT");
    assert_eq!(stuck.answer(), "T E(57014) Z(I)");
    waiting.into_iter().for_each(|request| request.join().unwrap());
    let plain = format!("SELECT id FROM items WHERE tenant = {}", tenants[1]);
    for client in [&mut stuck, &mut other] {
        assert_eq!(client.query(&plain), "T D(1) C(SELECT 1) Z(I)");
    }
}
