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
    served.psql("CREATE SEQUENCE numbers");
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
    let number = second.query("SELECT nextval('numbers')")[1].clone();
    assert_eq!(second.query("SELECT lastval()")[1], number);
}

/// Goal: what a session has drawn from sequences is remembered from statement to statement where it keeps its connection, as PHP's
/// `lastInsertId()` wants it. Method: two sessions that have asked for that, and one that draws from the same sequence in between.
#[test]
fn sequences_remember_in_sessions_that_keep_their_connection() {
    let served = Served::start_with(1, 1, "[pool]\nsize = 3\ncheckout_timeout = \"5s\"\n");
    served.psql("CREATE TABLE plain (id serial, said text)");
    served.psql("CREATE TABLE orders (tenant int, id bigserial, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('orders', 'tenant')");
    for sql in [
        "CREATE ROLE web LOGIN",
        "GRANT ALL ON plain TO web",
        "GRANT ALL ON orders TO web",
        "GRANT ALL ON SEQUENCE plain_id_seq TO web",
        "GRANT ALL ON SEQUENCE orders_id_seq TO web",
        "ALTER ROLE web SET tenantry.pool_mode = 'session'",
    ] {
        served.psql(sql);
    }
    let port = served.proxy_port(0);
    let mut by_role = Wire::login(port, "web");
    let mut by_option = Wire::login_with(port, "postgres", &[("options", "-c tenantry.pool_mode=session")]);
    let mut plain = login(&served);
    assert_eq!(plain.query("SET tenantry.pool_mode = 'statement'"), ["E 22023", "Z I"]);
    for round in 0..3 {
        for client in [&mut by_role, &mut by_option] {
            assert_eq!(said(client, "SELECT lastval()").starts_with("E 55000"), round == 0);
            let id = said(client, "INSERT INTO plain (said) VALUES ('x') RETURNING id");
            plain.query("INSERT INTO plain (said) VALUES ('between')");
            assert_eq!(said(client, "SELECT lastval()"), id);
            assert_eq!(said(client, "SELECT currval('plain_id_seq')"), id);
            assert_eq!(said(client, "SELECT currval(pg_get_serial_sequence('plain', 'id'))"), id);
        }
        assert_eq!(said(&mut plain, "SELECT lastval()"), "E 0A000");
    }
    // Workers draw these: an older value would be wrong.
    let drawn = "INSERT INTO orders (tenant) VALUES (1)";
    assert_eq!(said(&mut by_role, drawn), "C INSERT 0 1");
    for sql in [
        "SELECT lastval()",
        "SELECT currval('orders_id_seq')",
        "SELECT currval(pg_get_serial_sequence('orders', 'id'))",
    ] {
        assert_eq!(said(&mut by_role, sql), "E 0A000", "{sql}");
    }
    let id = said(&mut by_role, "INSERT INTO plain (said) VALUES ('x') RETURNING id");
    assert_eq!(said(&mut by_role, "SELECT currval('plain_id_seq')"), id);
    assert_eq!(said(&mut by_role, "DISCARD ALL"), "C DISCARD ALL");
    assert_eq!(said(&mut by_role, "SELECT lastval()"), "E 55000");
    // In a block of a session that keeps nothing, too: its own draws, of this block.
    for sql in ["BEGIN", "INSERT INTO plain (said) VALUES ('x')", "SELECT lastval()"] {
        assert_ne!(&said(&mut plain, sql)[..1], "E", "{sql}");
    }
    plain.query(drawn);
    assert_eq!(said(&mut plain, "SELECT lastval()"), "E 0A000");
    assert_eq!(said(&mut plain, "ROLLBACK; BEGIN"), "C ROLLBACK");
    assert_eq!(said(&mut plain, "SELECT lastval()"), "E 55000");
    plain.query("ROLLBACK");
    // Asked for and given up in the middle of a session.
    assert_eq!(said(&mut plain, "SET tenantry.pool_mode = 'session'"), "C SET");
    let id = said(&mut plain, "SELECT nextval('plain_id_seq')");
    assert_eq!(said(&mut plain, "SELECT lastval()"), id);
    assert_eq!(said(&mut plain, "RESET tenantry.pool_mode"), "C RESET");
    assert_eq!(said(&mut plain, "SELECT lastval()"), "E 0A000");
}

/// The error of an answer, or its row, or its tag.
fn said(client: &mut Wire, sql: &str) -> String {
    let answer = client.query(sql);
    let find = |tag: &str| answer.iter().find(|part| part.starts_with(tag));
    find("E ").or_else(|| find("D ")).or_else(|| find("C ")).cloned().unwrap_or_default()
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
