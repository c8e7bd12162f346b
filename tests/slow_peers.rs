//! Peers that are slow, or gone without a word: the one is waited for, the other is not.

mod support;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use std::time::Duration;

use support::served::Served;
use support::wait_until;
use wire::{Wire, frame, message};

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
    assert!(wait_until(Duration::from_secs(30), || served.running("COPY %wide") == 1), "it waits");
    std::thread::sleep(Duration::from_secs(8));
    assert!(!sending.is_finished(), "it still waits");
    lock.query("ROLLBACK");
    let (answers, mut wire) = sending.join().expect("it only sends");
    assert_eq!(answers, ["G", "C COPY 30000", "Z I"]);
    assert_eq!(wire.query("SELECT count(*) FROM wide WHERE tenant = 1")[1], "D 30000");
}
