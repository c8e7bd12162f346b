//! Session pooling: a session keeps its servers from their first use until it ends.

mod support;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use std::time::Duration;

use support::served::Served;
use support::wait_until;
use wire::{Wire, frame};

/// Goal: `pool.mode = "session"` is what its name says. Method: the process that serves a tenant, asked in both
/// protocols, in and outside of transactions; two connections for three sessions.
#[test]
fn a_session_keeps_its_servers_until_it_ends() {
    let served = Served::start_with(1, 1, "[pool]\nmode = \"session\"\nsize = 2\ncheckout_timeout = \"1s\"\n");
    served.psql("CREATE TABLE items (tenant int, id int, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("INSERT INTO items VALUES (1, 1)");
    let (mut first, mut second) = (login(&served), login(&served));
    let of_first = server_of(&mut first);
    assert_eq!(server_of(&mut first), of_first);
    let of_second = server_of(&mut second);
    assert_ne!(of_first, of_second, "each has its own");
    assert_eq!(first.query("BEGIN"), ["C BEGIN", "Z T"]);
    assert_eq!(server_of(&mut first), of_first, "a transaction too");
    assert_eq!(first.query("COMMIT"), ["C COMMIT", "Z I"]);
    first.send(&[frame(&format!("= {SERVER}")), frame("S")].concat());
    let answers = first.answers_until("Z");
    assert!(answers.contains(&of_first), "the extended protocol too: {answers:?}");
    // What a session leaves on its server is its own, and gone with it.
    assert_eq!(first.query("SET app.note = 'mine'"), ["C SET", "Z I"]);
    assert_eq!(first.query(NOTE)[1], "D mine");
    assert_ne!(second.query(NOTE)[1], "D mine");

    let mut third = login(&served);
    assert_eq!(third.query(SERVER), ["E 53300", "Z I"], "both connections are kept");
    drop(first);
    let mut got = Vec::new();
    let has_come = wait_until(Duration::from_secs(30), || {
        got = third.query(SERVER);
        got.len() == 4
    });
    assert!(has_come, "{got:?}");
    assert_eq!(got[1], of_first, "the connection goes to who comes next");
    assert_ne!(third.query(NOTE)[1], "D mine");
    assert_eq!(server_of(&mut second), of_second);
}

fn login(served: &Served) -> Wire {
    Wire::login(served.proxy_port(0), "postgres")
}

/// The process that serves the tenant.
fn server_of(wire: &mut Wire) -> String {
    let answers = wire.query(SERVER);
    assert_eq!(answers.len(), 4, "{answers:?}");
    answers[1].clone()
}

const SERVER: &str = "SELECT pg_backend_pid() FROM items WHERE tenant = 1";
const NOTE: &str = "SELECT current_setting('app.note', true) FROM items WHERE tenant = 1";
