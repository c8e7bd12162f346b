//! Peers that are slow, or gone without a word: the one is waited for, the other is not.

mod support;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use std::time::Duration;

use socket2::{SockFilter, SockRef};

use support::served::Served;
use support::wait_until;
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
    SockRef::from(&gone.reader()).attach_filter(&[DROP]).expect("the kernel filters");
    let locked = || support::psql(&served.worker_dsn(0), OPEN) != "0";
    assert!(locked(), "it is in its transaction");
    assert!(wait_until(PATIENCE, || !locked()), "its transaction ends");
    assert_eq!(served.psql("UPDATE items SET note = 'after' WHERE tenant = 1 RETURNING note"), "after");
    assert_eq!(quiet.query("SELECT 2")[1], "D 2", "who is only quiet stays");
}

/// BPF's RET 0: of what comes, nothing is let through.
const DROP: SockFilter = SockFilter::new(6, 0, 0, 0);
const OPEN: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'";
