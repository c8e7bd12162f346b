//! Transactions over several workers while the coordinator, which decides on them, is away.

mod support;

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use support::ledger::Load;
use support::served::Served;
use support::wire_client::Client;
use support::{psql, signal, wait_until};
use tenantry::wire::frontend::{self, Target};

const PATIENCE: Duration = Duration::from_secs(60);

/// Goal: a transaction over two workers costs a pause when the coordinator is restarted before it commits.
/// Method: the coordinator dies; a statement, a block and a pipeline write on both workers, and wait; the coordinator comes back.
#[test]
fn a_commit_waits_for_the_coordinator() {
    let mut served = Served::start_with(2, 2, "[pool]\noutage_timeout = \"10min\"\n");
    let tenants = served.tenants();
    let [a, b] = [&tenants[0], &tenants[1]];
    let both = |id: u32| format!("INSERT INTO items VALUES ({a}, {id}), ({b}, {id})");
    let one_by_one = |id: u32| [a, b].map(|tenant| format!("INSERT INTO items VALUES ({tenant}, {id})")).join("; ");
    let asked = [both(10), format!("BEGIN; {}; COMMIT", one_by_one(11)), one_by_one(12)];
    let done = "C(INSERT 0 1)";
    let told = [
        "C(INSERT 0 2) Z(I)".to_owned(),
        format!("C(BEGIN) {done} {done} C(COMMIT) Z(I)"),
        format!("{done} {done} Z(I)"),
    ];
    let clients: Vec<Client> = asked.iter().map(|_| Client::connect(served.proxy_port(0), &[])).collect();
    served.servers().kill_coordinator().expect("it ends");
    let work = clients.into_iter().zip(asked);
    let work: Vec<_> = work.map(|(mut client, sql)| std::thread::spawn(move || client.query(&sql))).collect();
    // Their rows are there, and not committed.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE '%xact_id%'";
    let wait = |worker: u16| psql(&served.worker_dsn(worker), open) == "3";
    assert!(wait_until(PATIENCE, || wait(0) && wait(1)), "somebody does not wait");
    served.servers().restart_coordinator().expect("it starts");
    for (work, told) in work.into_iter().zip(told) {
        assert_eq!(work.join().expect("it is answered"), told);
    }
    for id in [10, 11, 12] {
        assert_eq!(served.psql(&format!("SELECT count(*) FROM items WHERE id = {id}")), "2");
    }
}

/// Goal: a coordinator that is stopped with `-m smart` ends when the clients that use it have come to the end of what they do; tenants go
/// on all the time.
#[test]
fn a_coordinator_that_waits_for_all_to_go_ends() {
    let mut served = Served::start_with(2, 2, "[pool]\noutage_timeout = \"10min\"\n");
    served.start_proxy(1);
    let tenants = served.tenants();
    served.psql("CREATE TABLE local_one (id int)");
    let load = Load::start(served.proxy_port(0), &tenants, 2, 1000);
    let mut clients = [0, 1].map(|proxy| Client::connect(served.proxy_port(proxy), &[]));
    for client in &mut clients {
        assert_eq!(client.query("BEGIN; INSERT INTO local_one VALUES (1)"), "C(BEGIN) C(INSERT 0 1) Z(T)");
    }
    let file = psql(&served.coordinator_dsn(), "SELECT pg_read_file('postmaster.pid')");
    let process = file.lines().next().and_then(|line| line.parse().ok()).expect("a process id");
    signal(process, "TERM");
    let is_open = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    load.await_progress();
    assert!(is_open(served.coordinator_port), "it waits for the transactions");
    for client in &mut clients {
        assert_eq!(client.query("INSERT INTO local_one VALUES (2); COMMIT"), "C(INSERT 0 1) C(COMMIT) Z(I)");
    }
    assert!(wait_until(PATIENCE, || !is_open(served.coordinator_port)), "connections keep it from ending");
    load.await_progress();
    let [waiting, _] = &mut clients;
    waiting.send("SELECT count(*) FROM local_one");
    served.servers().restart_coordinator().expect("it starts");
    assert_eq!(waiting.answer(), "T D(4) C(SELECT 1) Z(I)");
    for proxy in [0, 1] {
        let listens = || psql(&served.dsn(proxy), "SELECT count(*) FROM tenantry_proxies") == "2";
        assert!(wait_until(PATIENCE, listens), "proxy {proxy} is there again");
    }
    load.await_progress();
    let ledger = load.end();
    let failed: Vec<_> = ledger.errors().collect();
    assert!(failed.is_empty(), "{failed:?}");
    ledger.check(&served.psql("SELECT id FROM items"), 1000);
}

/// Goal: what cannot be committed is not told to be complete.
/// Method: the same, and the coordinator does not come back in time.
#[test]
fn a_commit_that_waits_in_vain_is_an_error_and_nothing_else() {
    let mut served = Served::start_with(2, 2, "[pool]\noutage_timeout = \"1s\"\n");
    let tenants = served.tenants();
    let [a, b] = [&tenants[0], &tenants[1]];
    let mut client = Client::connect(served.proxy_port(0), &[]);
    served.servers().kill_coordinator().expect("it ends");
    assert_eq!(client.query(&format!("INSERT INTO items VALUES ({a}, 10), ({b}, 10)")), "E(08006) Z(I)");
    let each = [a, b].map(|tenant| format!("INSERT INTO items VALUES ({tenant}, 11)"));
    assert_eq!(client.query(&each.join("; ")), "C(INSERT 0 1) E(08006) Z(I)");
    for tenant in [a, b] {
        let count = format!("SELECT count(*) FROM items WHERE tenant = {tenant}");
        assert_eq!(client.query(&count), "T D(1) C(SELECT 1) Z(I)", "nothing of it is there");
    }
}

/// Goal: what the proxy itself asks the coordinator for a statement is asked again when that goes away.
/// Method: a description waits for a lock on the coordinator, and its backend is ended.
#[test]
fn a_description_that_was_lost_is_asked_for_again() {
    let served = Served::start(1);
    let tenants = served.tenants();
    let sql = format!("SELECT id FROM items WHERE tenant = {} AND id < $1", tenants[0]);
    let described = move |client: &mut Client| {
        frontend::parse(b"", &sql, &[], &mut client.out);
        frontend::describe(Target::Statement(b""), &mut client.out);
        frontend::sync(&mut client.out);
        client.answer()
    };
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let coordinator = served.coordinator_dsn();
    let mut gate = Client::connect(served.worker_port(0) - 1, &[]);
    assert_eq!(gate.query("BEGIN; LOCK TABLE items"), "C(BEGIN) C(LOCK TABLE) Z(T)");
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'client backend'";
    let asked = std::thread::spawn(move || described(&mut client));
    assert!(wait_until(PATIENCE, || !psql(&coordinator, waiting).is_empty()), "it waits");
    let first = psql(&coordinator, waiting);
    psql(&coordinator, &format!("SELECT pg_terminate_backend({first})"));
    let is_another = || !["", first.as_str()].contains(&psql(&coordinator, waiting).as_str());
    assert!(wait_until(PATIENCE, is_another), "it is asked for again");
    assert_eq!(gate.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(asked.join().expect("it is answered"), "1 t T Z(I)");
}
