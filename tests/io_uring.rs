//! `listen.io`: drivers, pools, long answers, slow and rude clients, by io_uring and by epoll. Other tests take what the
//! machine gives.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use support::serve::{Authority, Serve, psql_says};
use support::{Cluster, ended_in_time, python, wait_until};

#[test]
fn sockets_by_io_uring_do_what_is_wanted() {
    if let Err(error) = io_uring::IoUring::new(2) {
        eprintln!("skipped: io_uring is not to be had here: {error}");
        return;
    }
    sockets_do_what_is_wanted("io-uring");
}

#[test]
fn sockets_by_epoll_do_what_is_wanted() {
    sockets_do_what_is_wanted("epoll");
}

fn sockets_do_what_is_wanted(io: &str) {
    let cluster = Cluster::start(2);
    let authority = Authority::new();
    authority.sign("proxy");
    let (certificate, key) = (authority.file("proxy.crt"), authority.file("proxy.key"));
    let tls = format!("[tls]\nmode = \"allow\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"");
    let listen = format!("auth = \"trust-loopback\"\nio = \"{io}\"\nthreads = 2");
    let sections = format!("{tls}\n[admin]\nusers = [\"postgres\"]");
    let mut served = Serve::start(&cluster, cluster.port() + 12, &listen, &sections);
    let dsn = format!("postgresql://postgres@127.0.0.1:{}/postgres", served.port);
    assert_eq!(psql_says(&dsn, "SELECT 1"), "1", "its threads are at work");
    assert_eq!(served.has_rings(), io == "io-uring");
    println!("{}", python("use_psycopg.py", &[&dsn]));
    println!("{}", python("use_asyncpg.py", &[&dsn]));
    println!("{}", python("use_admin_database.py", &[&format!("{dsn}?sslmode=disable")]));
    many_clients(&dsn);
    long_answers_and_loads(&dsn);
    let before = served.resident_kb();
    a_client_that_does_not_read(served.port, &dsn, || served.resident_kb().saturating_sub(before));
    clients_that_leave(served.port, &dsn);
    let encrypted = format!("{dsn}?sslmode=require");
    assert_eq!(psql_says(&encrypted, "SELECT length(repeat('x', 3000000))"), "3000000");
    assert_eq!(psql_says(&encrypted, "SELECT repeat('x', 3000000)").len(), 3_000_000);
    assert!(served.is_running());
    served.signal("TERM");
    assert!(wait_until(Duration::from_secs(30), || !served.is_running()), "it ends");
}

/// Everybody's writes are there, and counted once.
fn many_clients(dsn: &str) {
    psql_says(dsn, "CREATE TABLE counters (tenant int PRIMARY KEY, value int NOT NULL)");
    psql_says(dsn, "SELECT create_distributed_table('counters', 'tenant')");
    psql_says(dsn, "INSERT INTO counters SELECT t, 0 FROM generate_series(1, 100) t");
    let script = tempfile::NamedTempFile::new().expect("a temporary file");
    let text = "\\set tenant random(1, 100)\nBEGIN;\nSELECT value FROM counters WHERE tenant = :tenant;\n\
                UPDATE counters SET value = value + 1 WHERE tenant = :tenant;\nCOMMIT;\n";
    std::fs::write(script.path(), text).expect("it can be written");
    for mode in ["simple", "extended", "prepared"] {
        let output = ended_in_time("pgbench")
            .args(["-n", "-M", mode, "-c", "40", "-j", "2", "-t", "25", "-f"])
            .arg(script.path())
            .arg(dsn)
            .output()
            .expect("pgbench runs");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("1000/1000"), "{mode}: {said}");
    }
    assert_eq!(psql_says(dsn, "SELECT sum(value) FROM counters"), "3000");
}

fn long_answers_and_loads(dsn: &str) {
    psql_says(dsn, "CREATE TABLE long (tenant int, id int, note text)");
    psql_says(dsn, "SELECT create_distributed_table('long', 'tenant')");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let rows: String = (0..200_000).map(|i| format!("{}\t{i}\t{}\n", i % 20, "note ".repeat(i % 10))).collect();
    std::fs::write(file.path(), &rows).expect("it can be written");
    let copy = format!("\\copy long FROM '{}'", file.path().display());
    assert_eq!(psql_says(dsn, &copy), "");
    let of_one = psql_says(dsn, "SELECT id, note FROM long WHERE tenant = 3 ORDER BY id");
    assert_eq!(of_one.lines().count(), 10_000);
    assert!(of_one.lines().enumerate().all(|(i, line)| line.starts_with(&format!("{}|", i * 20 + 3))), "in order");
    let mut all: Vec<String> = psql_says(dsn, "COPY long TO STDOUT").lines().map(|l| l.trim_end().to_owned()).collect();
    let mut expected: Vec<&str> = rows.lines().map(str::trim_end).collect();
    all.sort_unstable();
    expected.sort_unstable();
    assert!(all == expected, "{} of {} rows, or others", all.len(), expected.len());
}

/// Its answer waits at the server, and others do not wait for it.
fn a_client_that_does_not_read(port: u16, dsn: &str, grown_kb: impl Fn() -> u64) {
    let mut client = log_in(port);
    query(&mut client, "SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
    for tenant in 1..50 {
        assert!(psql_says(dsn, &format!("SELECT value FROM counters WHERE tenant = {tenant}")).parse::<u32>().is_ok());
    }
    assert!(grown_kb() < 40_000, "{} kB more, of an answer of 100 MB that nobody reads", grown_kb());
    let (mut len, mut piece) = (0, vec![0; 1 << 20]);
    while len < 100_000 * 1007 {
        len += client.read(&mut piece).expect("the rest comes");
    }
}

/// What they ran is stopped, and their connections go back.
fn clients_that_leave(port: u16, dsn: &str) {
    for _ in 0..20 {
        let mut client = log_in(port);
        query(&mut client, "SELECT pg_sleep(600)");
    }
    let sleepers = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    let all_stopped = || psql_says(dsn, sleepers) == "0";
    assert!(wait_until(Duration::from_secs(60), all_stopped), "statements of clients that have left go on");
}

fn log_in(port: u16) -> TcpStream {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let mut packet = ((8 + parameters.len()) as u32).to_be_bytes().to_vec();
    packet.extend(0x0003_0000u32.to_be_bytes());
    packet.extend(parameters);
    client.write_all(&packet).expect("it is read");
    let mut heard = Vec::new();
    while !heard.ends_with(b"Z\0\0\0\x05I") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("a greeting");
        heard.push(byte[0]);
    }
    client
}

fn query(client: &mut TcpStream, text: &str) {
    let mut packet = b"Q".to_vec();
    packet.extend(((5 + text.len()) as u32).to_be_bytes());
    packet.extend(text.as_bytes());
    packet.push(0);
    client.write_all(&packet).expect("it is read");
}
