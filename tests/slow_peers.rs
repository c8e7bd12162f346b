//! Peers that are slow, or gone without a word: the one is waited for, the other is not.

mod support;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use std::time::Duration;

use support::relay::{Relay, drop_all};
use support::served::Served;
use support::wait_until;
use support::wire_client::Client;
use wire::{Wire, frame, message};

const PATIENCE: Duration = Duration::from_secs(60);

/// Goal: a server that takes nothing for long is slow, and not gone: it acknowledges that it has no room. Method: a COPY of more than all
/// buffers together waits for a lock, for longer than a server may be silent that is gone.
#[test]
fn a_server_that_takes_nothing_for_long_is_waited_for() {
    let served = Served::start_with(1, 1, "[pool]\ndead_peer_after = \"3s\"\n");
    served.psql("CREATE TABLE wide (tenant int, note text)");
    served.psql("SELECT create_distributed_table('wide', 'tenant', shard_count => 1)");
    let mut lock = Wire::login(served.worker_port(0), "postgres");
    let shard = served.psql("SELECT 'public_' || get_shard_id_for_distribution_column('wide', 1)");
    lock.query(&format!("BEGIN; LOCK TABLE {shard}.wide"));

    let rows: Vec<u8> = (0..1000).flat_map(|_| format!("1\t{}\n", "y".repeat(1000)).into_bytes()).collect();
    let mut wire = Wire::login(served.proxy_port(0), "postgres");
    let sending = std::thread::spawn(move || {
        wire.send(&frame("Q COPY wide FROM STDIN"));
        (0..30).for_each(|_| wire.send(&message(b'd', &rows)));
        wire.send(&frame("c"));
        (wire.answers_until("Z"), wire)
    });
    assert!(wait_until(PATIENCE, || served.running("COPY %wide") == 1), "it waits");
    std::thread::sleep(Duration::from_secs(8));
    assert!(!sending.is_finished(), "it still waits");
    lock.query("ROLLBACK");
    let (answers, mut wire) = sending.join().expect("it only sends");
    assert_eq!(answers, ["G", "C COPY 30000", "Z I"]);
    assert_eq!(wire.query("SELECT count(*) FROM wide WHERE tenant = 1")[1], "D 30000");
}

/// Threat T44 of docs/threats.md. Goal: a client's machine that goes without a word, in a transaction, holds no server and no lock for long.
/// Method: its kernel drops all that comes, as a network does that is cut.
#[test]
fn a_client_that_is_gone_without_a_word_holds_nothing() {
    let served = Served::start_with(1, 1, "[limits]\ndead_client_after = \"3s\"\n");
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY, note text)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("INSERT INTO items VALUES (1, 'before')");
    let [mut gone, mut quiet] = [(); 2].map(|()| Wire::login(served.proxy_port(0), "postgres"));
    gone.query("BEGIN; UPDATE items SET note = 'lost' WHERE tenant = 1");
    quiet.query("BEGIN; SELECT 1");
    drop_all(&gone.reader());
    let locked = || support::psql(&served.worker_dsn(0), OPEN) != "0";
    assert!(locked(), "it is in its transaction");
    assert!(wait_until(PATIENCE, || !locked()), "its transaction ends");
    assert_eq!(served.psql("UPDATE items SET note = 'after' WHERE tenant = 1 RETURNING note"), "after");
    assert_eq!(quiet.query("SELECT 2")[1], "D 2", "who is only quiet stays");
}

/// Goal: so does one that goes while its answer is on the way: to the kernel that is another matter, of data that nobody acknowledges. One that takes
/// its time to read is there, and gets all of it. Method: one is gone before it is answered, with and without the end of its request, and one that has
/// not taken all of a long answer; two others read nothing for longer than a client may be silent, of an answer that the proxy's socket takes and of
/// one that it does not.
#[test]
fn a_client_that_is_gone_while_its_answer_is_on_the_way_holds_nothing() {
    let served = Served::start_with(1, 1, "[limits]\ndead_client_after = \"3s\"\nreader_timeout = \"20s\"\n");
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY, note text)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("INSERT INTO items VALUES (1, 'before')");
    let login = || Wire::login(served.proxy_port(0), "postgres");
    let rows = |count: usize| format!("Q SELECT repeat('x', 1000) FROM generate_series(1, {count})");
    let slow = [500, 20_000].map(|count| {
        let mut client = login();
        client.take_little();
        client.send(&frame(&rows(count)));
        (client, count)
    });
    let is_free = || {
        let sql = "SET lock_timeout TO '60s'; UPDATE items SET note = 'after' RETURNING note";
        assert_eq!(served.psql(sql), "after", "its transaction ends");
    };
    let update = "UPDATE items SET note = 'lost' WHERE tenant = 1";
    for asked in [frame(&format!("Q {update}")), [frame(&format!("= {update}")), frame("H")].concat()] {
        let [mut has_it, mut gone] = [login(), login()];
        has_it.query("BEGIN; SELECT FROM items WHERE tenant = 1 FOR UPDATE");
        gone.query("BEGIN");
        gone.send(&asked);
        assert!(wait_until(PATIENCE, || served.running("UPDATE %items%") == 1), "it waits for the row");
        drop_all(&gone.reader());
        has_it.query("ROLLBACK");
        is_free();
    }
    for (mut client, count) in slow {
        let got = client.answers_until("Z").iter().filter(|answer| answer.starts_with("D ")).count();
        assert_eq!(got, count, "who is only slow stays");
    }
    let mut gone = login();
    gone.take_little();
    gone.query(&format!("BEGIN; {update}"));
    gone.send(&frame(&rows(500)));
    let mut first = [0; 1];
    std::io::Read::read_exact(&mut gone.reader(), &mut first).expect("its answer begins");
    drop_all(&gone.reader());
    is_free();
}

/// Threat T44 of docs/threats.md. Goal: a worker's machine that goes without a word, not even to the kernel, is told of (08006) by whatever waits
/// for it and by what comes, and keeps nobody waiting but its own tenants; when it is back they go on, and what it had locked is free. Method: a relay whose kernel drops all
/// that comes, new connections too, while statements are under way, in a block, and about to be sent on a connection at rest.
#[test]
fn a_server_that_is_gone_without_a_word_keeps_only_its_own_tenants_waiting() {
    let served = Served::start_with(2, 1, "[pool]\noutage_timeout = \"20s\"\n");
    let tenants = served.tenants();
    let relay = Relay::to(served.worker_port(1));
    served.move_worker(1, relay.port);
    let read = |tenant: &str| format!("SELECT id FROM items WHERE tenant = {tenant}");
    let [mut waits, mut writes, mut block, mut other] = [(); 4].map(|()| Client::connect(served.proxy_port(0), &[]));
    let change = format!("UPDATE items SET id = id WHERE tenant = {}", tenants[1]);
    assert_eq!(block.query(&format!("BEGIN; {change}")), "C(BEGIN) C(UPDATE 1) Z(T)");
    let under_way = [
        (&mut waits, format!("{} AND pg_sleep(300) IS NOT NULL", read(&tenants[1])), "E(08006) Z(I)"),
        // Nobody knows of a write whether it was carried out.
        (
            &mut writes,
            format!("DELETE FROM items WHERE tenant = {} AND pg_sleep(300) IS NULL", tenants[1]),
            "E(40003) Z(I)",
        ),
    ];
    std::thread::scope(|scope| {
        let told = under_way.map(|(client, sql, wanted)| scope.spawn(move || (client.query(&sql), wanted, client)));
        assert!(wait_until(PATIENCE, || served.running("pg_sleep(300)") == 2), "they are under way");
        relay.vanish();
        let at_rest = scope.spawn(|| {
            let said = block.query(&read(&tenants[1]));
            (said, block)
        });
        let coming = scope.spawn(|| Client::connect(served.proxy_port(0), &[]).query(&read(&tenants[1])));
        let is_over = || told.iter().all(|told| told.is_finished()) && at_rest.is_finished() && coming.is_finished();
        let mut served_meanwhile = 0;
        assert!(
            wait_until(PATIENCE, || {
                assert_eq!(
                    other.query(&read(&tenants[0])),
                    "T D(1) C(SELECT 1) Z(I)",
                    "other servers' tenants are served"
                );
                assert_eq!(Client::connect(served.proxy_port(0), &[]).query("SELECT 1"), "T D(1) C(SELECT 1) Z(I)");
                served_meanwhile += 1;
                is_over()
            }),
            "whoever waits for it is told"
        );
        assert!(served_meanwhile > 10, "{served_meanwhile}");
        let [reading, writing] = told.map(|told| {
            let (said, wanted, client) = told.join().expect("it was told");
            assert!(said.ends_with(wanted), "{said}");
            client
        });
        let (said, mut block) = at_rest.join().expect("it was told");
        assert_eq!(said, "E(08006) Z(E)");
        assert_eq!(block.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(coming.join().expect("it was told"), "E(08006) Z(I)", "what comes waits for pool.outage_timeout");
        assert_eq!(
            writing.query(&format!("DELETE FROM items WHERE tenant = {}", tenants[1])),
            "E(08006) Z(I)",
            "it was not sent"
        );
        relay.come_back();
        let is_back = || reading.query(&read(&tenants[1])) == "T D(1) C(SELECT 1) Z(I)";
        assert!(wait_until(PATIENCE, is_back), "it is reached again");
        // Nor does the server hear of the end of what it had under way: it finds out that nobody is there, and its locks are free.
        assert_eq!(block.query(&change), "C(UPDATE 1) Z(I)");
    });
}

const OPEN: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";

/// Goal: a server soon lets go of what a proxy holds whose machine is gone, whichever of its connections holds it. Method: the kernel's timers of
/// all connections to the servers, as they are when nothing is under way.
#[test]
fn servers_look_after_every_connection_of_a_proxy() {
    let served = Served::start_with(1, 1, "");
    served.tenants();
    let idle_max = Duration::from_secs(10);
    for (port, least) in [(served.proxy_port(0) + 1, 2), (served.worker_port(0), 1)] {
        assert!(wait_until(PATIENCE, || keepalives(port).len() >= least), "{port}: {:?}", keepalives(port));
        let timers = keepalives(port);
        assert!(timers.iter().all(|timer| *timer <= idle_max), "{port}: {timers:?}");
    }
}

/// In how long a server on this port asks each of its peers for a sign of life. Source: Linux, Documentation/networking/proc_net_tcp.rst.
fn keepalives(port: u16) -> Vec<Duration> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let timer = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, timer) = (fields.get(1)?, fields.get(3)?, fields.get(5)?);
        let when = timer.strip_prefix("02:")?;
        let is_there = local.ends_with(&format!(":{port:04X}")) && *state == "01";
        is_there.then(|| Duration::from_millis(10 * u64::from_str_radix(when, 16).expect("hexadecimal")))
    };
    table.lines().filter_map(timer).collect()
}
