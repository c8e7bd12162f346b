//! Statements that wait in the proxy, in the place of a lock, for as long as their clients' `lock_timeout` and `statement_timeout` say.

mod support;

use std::time::Duration;

use support::line::Line;
use support::served::Served;
use support::wire_client::Client;
use support::{psql, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody waits for so long here.
const LONG_MS: u64 = 600_000;

/// What a client does before, and what it is told when it has waited.
const HASTY: [(&str, &str); 9] = [
    ("SET lock_timeout = '200ms'", "55P03"),
    ("SET statement_timeout = 200", "57014"),
    ("SET lock_timeout TO '200ms'; SET statement_timeout = '1h'", "55P03"),
    ("SET statement_timeout = '200ms'; SET lock_timeout = '1h'", "57014"),
    ("SELECT set_config('lock_timeout', '200ms', false)", "55P03"),
    ("BEGIN; SET LOCAL lock_timeout = '200ms'", "55P03"),
    ("BEGIN; SELECT set_config('statement_timeout', '200ms', true)", "57014"),
    // Of those before it.
    (
        "SET lock_timeout = '1h'; BEGIN; SET LOCAL lock_timeout = '2h'; SAVEPOINT s; SET LOCAL lock_timeout = '200ms'",
        "55P03",
    ),
    (
        "SET lock_timeout = '1h'; BEGIN; SAVEPOINT s; SET LOCAL lock_timeout = '2h'; ROLLBACK TO s; RESET lock_timeout; \
      SET lock_timeout = '200ms'",
        "55P03",
    ),
];
/// What it does when others are told nothing.
const PATIENT: [&str; 6] = [
    "SELECT 1",
    "SET lock_timeout = 0; SET statement_timeout = '0'",
    "SET lock_timeout = '1h'",
    "BEGIN; SET LOCAL lock_timeout = '200ms'; COMMIT",
    "BEGIN; SET lock_timeout = '200ms'; ROLLBACK",
    "SET lock_timeout = '200ms'; RESET lock_timeout",
];

/// Goal: a wait for the cut-over of a shard, or of a local table, ends when the client says, however it has said so and whatever it runs;
/// who has said nothing waits for the end.
/// Method: what a proxy that cuts over asks the other for is asked by hand, so that it lasts.
#[test]
fn a_wait_for_a_cut_over_ends_when_the_client_says() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    let tenants = served.tenants();
    served.psql("CREATE TABLE plain (id int); INSERT INTO plain VALUES (1)");
    served.psql(
        "CREATE ROLE hasty LOGIN; GRANT ALL ON items TO hasty; GRANT ALL ON plain TO hasty; ALTER ROLE hasty SET lock_timeout = '200ms'",
    );
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[1]));
    let of_shard = format!("SELECT id FROM items WHERE tenant = {}", tenants[1]);
    let of_plain = "SELECT id FROM plain".to_owned();
    for (held, sql) in [(format!("'{{{shard}}}', '{{}}'"), of_shard), ("'{}', '{plain}'".to_owned(), of_plain)] {
        let mut hasty: Vec<_> =
            HASTY.iter().map(|(before, code)| (client(&served, &[], before), *before, *code)).collect();
        let reset = "SET lock_timeout = '1h'; RESET ALL; SELECT 1";
        for (parameters, before, code) in [
            (("user", "hasty"), "SELECT 1", "55P03"),
            (("options", "-c lock_timeout=200"), "SELECT 1", "55P03"),
            (("options", "-c statement_timeout=200ms"), reset, "57014"),
        ] {
            hasty.push((client(&served, &[parameters], before), before, code));
        }
        let mut patient: Vec<_> = PATIENT.iter().map(|before| client(&served, &[], before)).collect();
        let hold = Hold::begin(&served, &held);
        for (client, before, code) in &mut hasty {
            let ends = [format!("E({code}) Z(I)"), format!("E({code}) Z(E)")];
            let said = client.query(&sql);
            assert!(ends.iter().any(|end| said.ends_with(end)), "{before}, {sql}: {said}");
            client.query("ROLLBACK");
            prepare(client, before);
            let said = client.run_prepared("", &sql, &[]);
            assert!(ends.iter().any(|end| said.ends_with(end)), "{before}, {sql}: {said}");
        }
        for client in &mut patient {
            client.send(&sql);
        }
        assert!(hold.is_there(), "it is held until now");
        hold.end();
        for (client, before) in patient.iter_mut().zip(PATIENT) {
            assert_eq!(client.answer(), "T D(1) C(SELECT 1) Z(I)", "{before}");
        }
        for (client, ..) in &mut hasty {
            client.query("ROLLBACK");
            assert_eq!(client.query(&sql), "T D(1) C(SELECT 1) Z(I)", "the session goes on");
        }
    }

    // Statements of all tenants, writes, COPY; in a block that can go on at its savepoint.
    let mut client = client(&served, &[], "SET lock_timeout = '200ms'");
    let hold = Hold::begin(&served, &format!("'{{{shard}}}', '{{}}'"));
    for sql in [
        "SELECT count(*) FROM items",
        "UPDATE items SET id = id",
        "COPY items TO STDOUT",
        "SELECT tenant FROM items ORDER BY 1",
    ] {
        let said = client.query(sql);
        assert!(said.ends_with("E(55P03) Z(I)"), "{sql}: {said}");
    }
    client.query("BEGIN");
    let other = format!("UPDATE items SET id = 2 WHERE tenant = {}", tenants[0]);
    assert_eq!(client.query(&other), "C(UPDATE 1) Z(T)");
    client.query("SAVEPOINT s");
    assert_eq!(client.query(&format!("DELETE FROM items WHERE tenant = {}", tenants[1])), "E(55P03) Z(E)");
    assert_eq!(client.query("ROLLBACK TO s"), "C(ROLLBACK) Z(T)");
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    hold.end();
    assert_eq!(client.query("SELECT id FROM items ORDER BY id"), "T D(1) D(2) C(SELECT 2) Z(I)");
}

/// Goal: who waits for one shard after the other waits for as long as he says in sum.
/// Method: one client waits for a shard that is released in the middle of its time, and then for another one. Another one comes then, whose
/// time ends after the first one's, but before what that would have if it began anew.
#[test]
fn waits_for_several_cut_overs_are_one_wait() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    let tenants = served.tenants();
    let shard_of = |tenant: &String| {
        let shard = format!("SELECT get_shard_id_for_distribution_column('items', {tenant})");
        served.psql(&shard).parse::<u64>().expect("a number")
    };
    let mut shards: Vec<_> = tenants.iter().map(shard_of).collect();
    shards.sort_unstable();
    let [first, second] = [0, 1].map(|at| Hold::begin(&served, &format!("'{{{}}}', '{{}}'", shards[at])));
    let (said, told) = std::sync::mpsc::channel();
    let ask = |number: usize, timeout: &str| {
        let before = format!("SET lock_timeout = '{timeout}'");
        let (said, mut client) = (said.clone(), client(&served, &[], &before));
        std::thread::spawn(move || said.send((number, client.query("UPDATE items SET id = id"))))
    };
    let waiting = ask(1, "4s");
    std::thread::sleep(Duration::from_secs(2));
    first.end();
    let later = ask(2, "3s");
    for number in [1, 2] {
        assert_eq!(told.recv().expect("they end"), (number, "E(55P03) Z(I)".to_owned()));
    }
    for thread in [waiting, later] {
        thread.join().expect("it ends").expect("it is heard");
    }
    second.end();
}

fn client(served: &Served, parameters: &[(&str, &str)], before: &str) -> Client {
    let mut client = Client::connect(served.proxy_port(1), parameters);
    prepare(&mut client, before);
    client
}

fn prepare(client: &mut Client, before: &str) {
    for sql in before.split("; ") {
        let said = client.query(sql);
        assert!(!said.contains("E("), "{sql}: {said}");
    }
}

/// A hold that proxy 0 seems to ask proxy 1 for.
struct Hold<'a> {
    served: &'a Served,
    id: String,
}

impl<'a> Hold<'a> {
    /// Returns when it holds.
    fn begin(served: &'a Served, held: &str) -> Self {
        let sql = format!(
            "WITH asked AS (INSERT INTO tenantry.hold (asker, shard_groups, tables, milliseconds) \
             SELECT instance, {held}, {LONG_MS} FROM tenantry.tenantry_proxies ORDER BY id LIMIT 1 RETURNING id) \
             SELECT id || pg_notify('tenantry_hold', id::text)::text FROM asked"
        );
        let id = psql(&served.coordinator_dsn(), &sql);
        let answered = format!("SELECT cardinality(answered) FROM tenantry.hold WHERE id = {id}");
        assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), &answered) == "1"), "it is held");
        Self { served, id }
    }

    fn is_there(&self) -> bool {
        let there = format!("SELECT count(*) FROM tenantry.hold WHERE id = {}", self.id);
        psql(&self.served.coordinator_dsn(), &there) == "1"
    }

    fn end(self) {
        let end =
            format!("DELETE FROM tenantry.hold WHERE id = {0}; SELECT pg_notify('tenantry_hold', '{0}')", self.id);
        psql(&self.served.coordinator_dsn(), &end);
    }
}

/// Goal: who comes to where a shard has left, and cannot hear where it is, waits for as long as he says.
/// Method: a proxy that is cut off from the catalog, over a move that the other makes.
#[test]
fn a_wait_for_a_shard_that_has_left_ends_when_the_client_says() {
    let mut served = Served::start_with(2, 2, "hold_timeout = \"10min\"\n");
    let tenants = served.tenants();
    let line = Line::to(served.coordinator_port);
    let coordinator = std::mem::replace(&mut served.coordinator_port, line.port);
    served.start_proxy(1);
    served.coordinator_port = coordinator;
    let sql = format!("UPDATE items SET id = id + 1 WHERE tenant = {}", tenants[1]);
    let hasty = [("SET lock_timeout = '200ms'", "55P03"), ("SET statement_timeout = '200ms'", "57014")];
    let mut hasty: Vec<_> = hasty.iter().map(|(before, code)| (client(&served, &[], before), *code)).collect();
    let mut patient = client(&served, &[], "SELECT 1");
    for client in hasty.iter_mut().map(|(client, _)| client).chain([&mut patient]) {
        assert_eq!(client.query(&sql), "C(UPDATE 1) Z(I)");
        client.query(&format!("SET search_path = public; BEGIN; {sql}; ROLLBACK"));
    }
    line.cut();
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[1]));
    served.psql(&format!("SELECT citus_move_shard_placement({shard}, 2, 1)"));
    for (client, code) in &mut hasty {
        assert_eq!(client.query(&sql), format!("E({code}) Z(I)"));
        let said = client.run_prepared("", &sql, &[]);
        assert!(said.ends_with(&format!("E({code}) Z(I)")), "{said}");
        client.query("BEGIN");
        assert_eq!(client.query(&sql), format!("E({code}) Z(E)"));
        assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    patient.send(&sql);
    line.mend();
    assert_eq!(patient.answer(), "C(UPDATE 1) Z(I)");
    for (client, _) in &mut hasty {
        assert_eq!(client.query(&sql), "C(UPDATE 1) Z(I)");
    }
    assert_eq!(served.psql(&format!("SELECT id FROM items WHERE tenant = {}", tenants[1])), "7");
}
