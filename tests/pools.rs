//! Connections to servers: shared among proxies, never leaked, never handed on in a state that is not known.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::meddler::{Meddler, Rows, answers};
use support::served::{Served, Stop};
use support::wire_client::Client;
use support::{psql, signal, wait_until};
use tenantry::wire::frontend;

const PATIENCE: Duration = Duration::from_secs(60);
const ONE_ROW: &str = "T D(1) C(SELECT 1) Z(I)";

/// Goal: what the pools promise, also when clients, servers and other proxies misbehave: T24, T26, T43, T44, T49 of the
/// threat list. Method: one cluster; each story says what it does to it, and leaves it in order.
#[test]
fn connections_are_shared_and_never_leaked() {
    let mut served = Served::start_with(
        2,
        2,
        "[pool]\nadaptive = true\nsize = 60\nsilence_max = \"1s\"\ncheck_timeout = \"2s\"\noutage_timeout = \"1s\"\n[log]\nfilter = \"info\"\n",
    );
    let tenants = served.tenants();
    proxies_share_what_the_servers_take(&mut served, &tenants);
    a_full_server_is_queued_for_in_order(&served, &tenants);
    a_smaller_pool_closes_what_is_over(&served, &tenants);
    connections_are_looked_after_while_nobody_has_them(&served, &tenants);
    a_server_that_is_down_is_not_asked_all_the_time(&served, &tenants);
    statements_of_vanished_clients_end(&served, &tenants);
    t24_clients_that_go_at_any_moment_harm_nobody(&served, &tenants);
    t49_a_flood_of_connections_is_survived(&mut served, &tenants);
    t43_a_server_that_crashes_is_reached_again(&served, &tenants);
    t44_a_server_that_stands_still_stops_only_its_own_tenants(&served, &tenants);
    t26_a_broken_server_harms_nobody(&served, &tenants);
}

fn read(tenant: &str) -> String {
    format!("SELECT id FROM items WHERE tenant = {tenant}")
}

fn write(tenant: &str) -> String {
    format!("UPDATE items SET id = 1 WHERE tenant = {tenant}")
}

/// A figure of a proxy about its connections to a worker.
fn figure(served: &Served, proxy: usize, name: &str, worker: u16) -> usize {
    let port = served.admin_port(proxy);
    let Ok(mut http) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return 0 };
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut page = String::new();
    http.read_to_string(&mut page).expect("it answers");
    let node = format!("node=\"127.0.0.1:{}\"", served.worker_port(worker));
    let of_it = page.lines().filter(|line| line.starts_with(name) && line.contains(&node));
    of_it.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number") as usize).sum()
}

fn await_figure(served: &Served, proxy: usize, name: &str, worker: u16, wanted: usize) {
    let is = || figure(served, proxy, name, worker);
    assert!(
        wait_until(PATIENCE, || is() == wanted),
        "{name} of proxy {proxy} is {}, not {wanted}\n{}",
        is(),
        served.logged(proxy)
    );
}

/// Connections of sessions to a worker, not those of the proxies' own.
fn held(served: &Served, worker: u16) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
               AND application_name <> 'tenantry control' AND pid <> pg_backend_pid()";
    psql(&served.worker_dsn(worker), sql).parse().expect("a number")
}

/// Nobody is in a transaction, nobody has what nobody uses.
fn await_rest(served: &Served) {
    let open = "SELECT pid, state, application_name, query FROM pg_stat_activity \
                WHERE (state LIKE 'idle in%' OR state = 'active') AND pid <> pg_backend_pid() \
                AND application_name <> 'tenantry control' AND backend_type = 'client backend'";
    let all = |worker| figure(served, 0, "tenantry_pool_connections{", worker);
    let is_at_rest = || {
        served.everywhere(open).iter().all(String::is_empty) && (0..2).all(|worker| all(worker) == idle(served, worker))
    };
    assert!(
        wait_until(PATIENCE, is_at_rest),
        "open: {:?}, connections {} {}, idle {} {}\n{}",
        served.everywhere(open),
        all(0),
        all(1),
        idle(served, 0),
        idle(served, 1),
        served.logged(0)
    );
}

fn idle(served: &Served, worker: u16) -> usize {
    let port = served.worker_port(worker);
    figure(served, 0, &format!("tenantry_pool_connections{{node=\"127.0.0.1:{port}\",state=\"idle\"}}"), worker)
}

/// As many transactions as this, each with a connection to the tenant's server.
fn open(served: &Served, proxy: usize, tenant: &str, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| Client::connect(served.proxy_port(proxy), &[])).collect();
    for client in &mut clients {
        assert_eq!(client.query(&format!("BEGIN; {}", read(tenant))), "C(BEGIN) T D(1) C(SELECT 1) Z(T)");
    }
    clients
}

/// Each server takes 60, 3 of them for superusers only; a proxy keeps 11 for itself.
fn proxies_share_what_the_servers_take(served: &mut Served, tenants: &[String]) {
    let (max, alone, half) = ("tenantry_pool_connections_max", 57 - 11, 57 / 2 - 11);
    let wanted = "tenantry_pool_connections_wanted";
    served.psql(&read(&tenants[0]));
    await_figure(served, 0, max, 0, alone);
    // Few to begin with; who keeps one for long makes nobody else wait.
    assert!(figure(served, 0, wanted, 0) < alone);
    let all = open(served, 0, &tenants[0], alone);
    assert!(figure(served, 0, wanted, 0) >= alone);
    served.start_proxy(1);
    await_figure(served, 0, max, 0, half);
    let mut newcomer = Client::connect(served.proxy_port(1), &[]);
    assert_eq!(newcomer.query(&read(&tenants[0])), ONE_ROW, "it gets few connections, but some");
    assert!(figure(served, 1, max, 0) < half, "the other one has not given back what is over its half");
    assert_eq!(held(served, 0), alone + 1);
    drop(all);
    await_figure(served, 1, max, 0, half);

    // More clients than there are connections, through both: nobody is refused, and the sum is kept.
    let (stop, most) = (Stop::default(), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        let clients: Vec<_> = (0..60)
            .map(|number| {
                let mut client = Client::connect(served.proxy_port(number % 2), &[]);
                let tenant = &tenants[0];
                threads.spawn(move || {
                    for _ in 0..10 {
                        client.query("BEGIN");
                        assert_eq!(client.query(&read(tenant)), "T D(1) C(SELECT 1) Z(T)");
                        client.query("SELECT pg_sleep(0.01)");
                        client.query("COMMIT");
                    }
                })
            })
            .collect();
        threads.spawn(|| {
            while !stop.is_set() {
                most.fetch_max(held(served, 0), Ordering::SeqCst);
            }
        });
        let outcomes: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        stop.set();
        outcomes.into_iter().for_each(|outcome| outcome.expect("no client met an error"));
    });
    let most = most.into_inner();
    assert!((half..=2 * half).contains(&most), "at most {most} connections of two halves of {half}");

    // What has died takes nothing.
    served.kill_proxy(1);
    await_figure(served, 0, max, 0, alone);
    drop(open(served, 0, &tenants[0], alone));
    await_rest(served);
    // Nor is kept what was opened beside long ones, though nobody else needs it: each of the two threads has its eight.
    let kept = || figure(served, 0, "tenantry_pool_connections{", 0);
    assert!(wait_until(PATIENCE, || kept() <= 16), "{} connections are kept", kept());
}

/// Has the first proxy read another configuration.
fn set(served: &Served, text: &str) {
    let read = || served.logged(0).matches("configuration was read again").count();
    let before = read();
    std::fs::write(served.config_file(0), text).expect("the folder can be written");
    served.signal_proxy(0, "HUP");
    assert!(wait_until(PATIENCE, || read() > before), "{}", served.logged(0));
}

fn a_full_server_is_queued_for_in_order(served: &Served, tenants: &[String]) {
    let before = std::fs::read_to_string(served.config_file(0)).expect("it was written");
    let narrow = |timeout| {
        before.replace("size = 60", &format!("size = 60\nnode_connections = 1\ncheckout_timeout = \"{timeout}\""))
    };
    set(served, &narrow("2s"));
    assert!(wait_until(PATIENCE, || held(served, 0) <= 1), "what is too many is closed");
    let mut holders = open(served, 0, &tenants[0], 1);
    let mut late = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(late.query(&read(&tenants[0])), "E(53300) Z(I)", "when the deadline has passed");
    set(served, &narrow("2min"));
    let sql = format!("BEGIN; {}", read(&tenants[0]));
    let mut waiters: Vec<_> = (0..3).map(|_| Client::connect(served.proxy_port(0), &[])).collect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        waiter.send(&sql);
        await_figure(served, 0, "tenantry_pool_waiting", 0, number + 1);
    }
    // For a moment the holder's own thread goes first, because closing a connection for another costs more.
    std::thread::sleep(Duration::from_millis(300));
    for (number, mut waiter) in waiters.into_iter().enumerate() {
        holders.pop().expect("one holds it").query("COMMIT");
        assert_eq!(waiter.answer(), "C(BEGIN) T D(1) C(SELECT 1) Z(T)", "first come, first served");
        await_figure(served, 0, "tenantry_pool_waiting", 0, 2 - number);
        holders.push(waiter);
    }
    drop(holders);
    set(served, &before);
    await_rest(served);
}

/// One for each of the two threads is all that may stay.
fn a_smaller_pool_closes_what_is_over(served: &Served, tenants: &[String]) {
    let before = std::fs::read_to_string(served.config_file(0)).expect("it was written");
    let begun = open(served, 0, &tenants[0], 12);
    set(served, &before.replace("adaptive = true\nsize = 60", "size = 1"));
    drop(begun);
    assert!(wait_until(PATIENCE, || idle(served, 0) <= 2), "{} are idle", idle(served, 0));
    set(served, &before);
    await_rest(served);
}

/// Too old, idle for too long, or ill: such a connection is given to nobody.
fn connections_are_looked_after_while_nobody_has_them(served: &Served, tenants: &[String]) {
    let before = std::fs::read_to_string(served.config_file(0)).expect("it was written");
    let with = |setting: &str| set(served, &before.replace("size = 60", &format!("size = 60\n{setting}")));
    // One thread's pool is enough: the client stays on it.
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let sql = format!("SELECT pg_backend_pid() FROM items WHERE tenant = {}", tenants[0]);
    let pid = |client: &mut Client| {
        let said = client.query(&sql);
        said.strip_prefix("T D(").and_then(|said| said.split(')').next()?.parse::<u32>().ok())
    };
    let first = pid(&mut client).expect("a process id");
    assert_eq!(pid(&mut client), Some(first), "it is used again");

    with("age_max = \"1s\"");
    // Its age was settled when it was opened: only what is opened from now on grows old.
    signal(first, "TERM");
    let mut young = None;
    assert!(wait_until(PATIENCE, || {
        young = pid(&mut client).filter(|pid| *pid != first);
        young.is_some()
    }));
    assert!(wait_until(PATIENCE, || pid(&mut client) != young), "another one takes its place");

    with("idle_timeout = \"1s\"");
    assert!(pid(&mut client).is_some());
    assert!(wait_until(PATIENCE, || idle(served, 0) == 0), "{} are idle", idle(served, 0));
    assert!(wait_until(PATIENCE, || held(served, 0) == 0), "its server knows");

    with("check_after = \"1ms\"");
    let stuck = pid(&mut client).expect("a process id");
    signal(stuck, "STOP");
    std::thread::sleep(Duration::from_millis(10));
    assert!(pid(&mut client).is_some_and(|pid| pid != stuck), "one that does not answer is not used");
    signal(stuck, "CONT");
    set(served, &before);
    drop(client);
    await_rest(served);
}

/// Many clients want a server that lets nobody in: few attempts are made, further and further apart.
fn a_server_that_is_down_is_not_asked_all_the_time(served: &Served, tenants: &[String]) {
    let meddler = Meddler::before(served.worker_port(1));
    let node = served.move_worker(1, meddler.port);
    meddler.refuses.store(true, Ordering::SeqCst);
    let failed = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..20 {
            threads.spawn(|| {
                let mut client = Client::connect(served.proxy_port(0), &[]);
                for _ in 0..20 {
                    let said = client.query(&read(&tenants[1]));
                    assert_eq!(said, "E(08006) Z(I)");
                    failed.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    // The control connections, which ask by themselves, count too.
    let (attempts, failed) = (meddler.refused.load(Ordering::SeqCst), failed.into_inner());
    assert!(attempts > 0 && attempts * 5 < failed, "{attempts} attempts for {failed} statements");
    meddler.refuses.store(false, Ordering::SeqCst);
    let mut client = Client::connect(served.proxy_port(0), &[]);
    assert!(wait_until(PATIENCE, || client.query(&read(&tenants[1])) == ONE_ROW), "it is reached again");
    drop(client);
    served.psql(&format!("SELECT citus_update_node({node}, '127.0.0.1', {})", served.worker_port(1)));
    await_rest(served);
}

fn statements_of_vanished_clients_end(served: &Served, tenants: &[String]) {
    let sleeps = [
        format!("SELECT pg_sleep(600) FROM items WHERE tenant = {}", tenants[0]),
        "SELECT count(*) FROM items WHERE pg_sleep(600) IS NOT NULL".to_owned(),
        format!("BEGIN; UPDATE items SET id = 1; SELECT pg_sleep(600) FROM items WHERE tenant = {}", tenants[1]),
        "SELECT pg_sleep(600)".to_owned(),
    ];
    for (number, sql) in sleeps.iter().enumerate() {
        let mut client = Client::connect(served.proxy_port(0), &[]);
        client.send(sql);
        assert!(wait_until(PATIENCE, || served.running("pg_sleep(600)") > 0), "{sql}");
        if number % 2 == 0 {
            // A farewell that nobody reads lies before the end of the stream.
            client.out.extend_from_slice(b"X\0\0\0\x04");
            client.flush();
        }
        drop(client);
        assert!(wait_until(PATIENCE, || served.running("pg_sleep(600)") == 0), "{sql}");
    }
    // A client that waits for its long statement is left alone.
    let mut patient = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(patient.query("SELECT 1 FROM pg_sleep(4)"), ONE_ROW);
    await_rest(served);
}

fn t24_clients_that_go_at_any_moment_harm_nobody(served: &Served, tenants: &[String]) {
    let stop = Stop::default();
    let port = served.proxy_port(0);
    std::thread::scope(|threads| {
        for number in 0..4 {
            let (stop, tenant) = (&stop, &tenants[number % 2]);
            threads.spawn(move || {
                let mut client = Client::connect(port, &[]);
                for round in 0.. {
                    let token = number * 1_000_000 + round;
                    let said = if round % 2 == 0 {
                        client.query(&format!("SELECT {token}, id FROM items WHERE tenant = {tenant}"))
                    } else {
                        let sql = format!("SELECT $1::int, id FROM items WHERE tenant = {tenant}");
                        frontend::parse(b"", &sql, &[], &mut client.out);
                        client.bind_and_execute("", &[Some(&token.to_string())]);
                        frontend::sync(&mut client.out);
                        client.answer().replace("1 2 D", "T D")
                    };
                    assert_eq!(said, format!("T D({token},1) C(SELECT 1) Z(I)"), "everybody gets his own answer");
                    if stop.is_set() {
                        break;
                    }
                }
            });
        }
        let comers: Vec<_> = (0..4)
            .map(|number| {
                threads.spawn(move || {
                    for round in 0..50u64 {
                        let mut client = Client::connect(port, &[]);
                        let tenant = &tenants[(round % 2) as usize];
                        match (round + number) % 5 {
                            0 => client.send(&format!(
                                "SELECT 'lost', generate_series(1, 3000) FROM items WHERE tenant = {tenant}"
                            )),
                            1 => client.send("SELECT 'lost', count(*) FROM items"),
                            2 => client.send(&format!("BEGIN; UPDATE items SET id = 7 WHERE tenant = {tenant}")),
                            3 => {
                                frontend::parse(b"lost", &read(tenant), &[], &mut client.out);
                                client.bind_and_execute("lost", &[]);
                                frontend::flush(&mut client.out);
                                client.flush();
                            }
                            _ => client.send("COPY items FROM STDIN"),
                        }
                        // Not the same moment every time, up to when it has been answered.
                        std::thread::sleep(Duration::from_micros(rand::random_range(0..8_000)));
                        client.leave(round % 3 == 0);
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = comers.into_iter().map(|comer| comer.join()).collect();
        stop.set();
        outcomes.into_iter().for_each(|outcome| outcome.expect("the proxy goes on"));
    });
    await_rest(served);
    assert_eq!(served.psql("SELECT DISTINCT id FROM items"), "1", "what was not committed is not there");
}

fn t49_a_flood_of_connections_is_survived(served: &mut Served, tenants: &[String]) {
    let pid = served.proxy_pid(0).to_string();
    let limit = |files: &str| {
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}")]).status();
        assert!(set.expect("prlimit is installed").success());
    };
    let before = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let before = before.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let before: Vec<_> = before.split_whitespace().skip(3).take(2).map(str::to_owned).collect();
    limit("160:");
    let port = served.proxy_port(0);
    let mut inside = Client::connect(port, &[]);
    assert_eq!(inside.query(&read(&tenants[0])), ONE_ROW);
    let flood: Vec<_> =
        (0..400).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the kernel queues it")).collect();
    let full = "could not accept a client";
    assert!(wait_until(PATIENCE, || served.logged(0).contains(full)), "{}", served.logged(0));
    for tenant in tenants {
        assert_eq!(inside.query(&read(tenant)), ONE_ROW, "who is inside is served");
    }
    drop(flood);
    let mut after = Client::connect(port, &[]);
    assert_eq!(after.query(&read(&tenants[1])), ONE_ROW);
    limit(&before.join(":"));
    await_rest(served);
}

/// One backend is killed, so the postmaster ends all others and recovers, as after a restart in haste.
fn t43_a_server_that_crashes_is_reached_again(served: &Served, tenants: &[String]) {
    let port = served.proxy_port(0);
    let mut other = Client::connect(port, &[]);
    for _ in 0..2 {
        let mut inside = open(served, 0, &tenants[1], 1).pop().expect("one");
        let victim =
            psql(&served.worker_dsn(1), "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' LIMIT 1");
        signal(victim.parse().expect("a process id"), "KILL");
        let told = inside.query(&read(&tenants[1]));
        assert!(told.contains("E(08006)") || told.contains("E(57P0"), "{told}");
        assert_eq!(inside.query("ROLLBACK"), "C(ROLLBACK) Z(I)", "its session goes on");
        let mut is_back = || {
            assert_eq!(other.query(&read(&tenants[0])), ONE_ROW, "other servers' tenants notice nothing");
            inside.query(&read(&tenants[1])) == ONE_ROW
        };
        // Some of its processes die later than others, so it is back when many in a row say so.
        let mut in_a_row = 0;
        let is_steady = || {
            in_a_row = if is_back() { in_a_row + 1 } else { 0 };
            in_a_row == 30
        };
        assert!(wait_until(PATIENCE, is_steady), "it is reached again");
    }
    await_rest(served);
}

fn t44_a_server_that_stands_still_stops_only_its_own_tenants(served: &Served, tenants: &[String]) {
    let port = served.proxy_port(0);
    let mut stuck = open(served, 0, &tenants[1], 1).pop().expect("one");
    let pids = psql(
        &served.worker_dsn(1),
        "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' \
         UNION ALL SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int",
    );
    let pids: Vec<u32> = pids.lines().map(|pid| pid.parse().expect("a process id")).collect();
    pids.iter().for_each(|pid| signal(*pid, "STOP"));
    let told = std::thread::spawn(move || {
        let told = stuck.query("SELECT 1 FROM items WHERE tenant = 0 OR tenant <> 0");
        (told, stuck)
    });
    let mut other = Client::connect(port, &[]);
    while !told.is_finished() {
        assert_eq!(other.query(&read(&tenants[0])), ONE_ROW, "other servers' tenants are served");
    }
    let (told, mut stuck) = told.join().expect("it was told");
    assert!(told.contains("E(08006)"), "{told}");
    assert!(other.query(&read(&tenants[1])).contains("E(08006)"), "new statements fail when the limit has passed");
    assert_eq!(other.query(&write(&tenants[1])), "E(08006) Z(I)", "nothing of it was sent");
    pids.iter().for_each(|pid| signal(*pid, "CONT"));
    stuck.query("ROLLBACK");
    assert!(wait_until(PATIENCE, || stuck.query(&read(&tenants[1])) == ONE_ROW), "it is reached again");
    await_rest(served);
}

/// The connection ends when the server has the statement. Whether it was carried out nobody knows, unless it only reads, or
/// is in a block that was not committed.
fn t43_a_write_whose_answer_is_lost_is_in_doubt(client: &mut Client, tenant: &str) {
    let writes = [
        format!("{} AND 'meddle:6' <> ''", write(tenant)),
        format!("DELETE FROM items WHERE tenant = {tenant} AND 'meddle:6' <> ''"),
        format!("INSERT INTO items VALUES ({tenant}, length('meddle:6'))"),
        format!(
            "WITH gone AS (DELETE FROM items WHERE tenant = {tenant} RETURNING id) SELECT id, 'meddle:6' FROM gone"
        ),
    ];
    let reads = [
        format!("SELECT 'meddle:6' FROM items WHERE tenant = {tenant}"),
        format!("SELECT 'meddle:6' FROM items WHERE tenant = {tenant} FOR UPDATE"),
    ];
    for (statements, code) in [(&writes[..], "E(40003)"), (&reads, "E(08006)")] {
        for (number, sql) in statements.iter().enumerate() {
            // The second time it is known, and goes the short way.
            for round in 0..2 {
                assert_eq!(client.query(sql), format!("{code} Z(I)"), "{sql}");
                assert_eq!(client.query(&read(tenant)), ONE_ROW);
                let name = format!("in_doubt_{code}_{number}");
                for name in ["", &name] {
                    let said = client.run_prepared(if round == 0 { name } else { "" }, sql, &[]);
                    assert!(said.ends_with(&format!("{code} Z(I)")), "{sql}: {said}");
                    assert_eq!(client.query(&read(tenant)), ONE_ROW);
                }
            }
        }
    }
    for sql in &writes {
        assert_eq!(client.query(&format!("BEGIN; {sql}")), "C(BEGIN) E(08006) Z(E)", "it was not committed: {sql}");
        assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(client.query(&format!("{sql}; SELECT 1")), "E(08006) Z(I)", "nor was this: {sql}");
        assert_eq!(client.query(&read(tenant)), ONE_ROW);
    }
}

fn t26_a_broken_server_harms_nobody(served: &Served, tenants: &[String]) {
    let meddler = Meddler::before(served.worker_port(1));
    let node = served.move_worker(1, meddler.port);
    let port = served.proxy_port(0);
    let (mut client, mut other) = (Client::connect(port, &[]), Client::connect(port, &[]));
    for (number, (_, right)) in answers().into_iter().enumerate() {
        let said = client.query(&format!("SELECT 'meddle:{number}' FROM items WHERE tenant = {}", tenants[1]));
        assert_eq!(said, right, "answer {number}");
        for tenant in tenants {
            assert_eq!(client.query(&read(tenant)), ONE_ROW, "after answer {number}");
            assert_eq!(other.query(&read(tenant)), ONE_ROW, "after answer {number}");
        }
    }
    rows_of_another_width_are_believed_nowhere(served, tenants, &meddler);
    t43_a_write_whose_answer_is_lost_is_in_doubt(&mut client, &tenants[1]);
    client.query(&format!("BEGIN; UPDATE items SET id = 2 WHERE tenant = {}", tenants[1]));
    meddler.swallows_commit.store(true, Ordering::SeqCst);
    assert_eq!(client.query("COMMIT"), "E(08007) Z(I)", "nobody knows");
    assert_eq!(client.query(&read(&tenants[1])), ONE_ROW);
    served.psql(&format!("SELECT citus_update_node({node}, '127.0.0.1', {})", served.worker_port(1)));
}

/// Rows that are passed on as they are nobody counts; wherever they are put together, or read for the proxy's own sake, they must have the
/// values that their description names.
fn rows_of_another_width_are_believed_nowhere(served: &Served, tenants: &[String], meddler: &Meddler) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    // Who looks at every node for such meets them too.
    let worker = served.worker_dsn(1);
    psql(&worker, "BEGIN; CREATE TABLE undecided (); PREPARE TRANSACTION 'somebody''s own'");
    let has_looked = || served.logged(0).contains("could not look for prepared transactions");
    for rows in [Rows::WithoutTheLastValue, Rows::WithOneMoreValue, Rows::CutShort] {
        for sql in [
            "SELECT id FROM items",
            "SELECT id FROM items ORDER BY tenant",
            "SELECT count(*) FROM items",
            "SELECT tenant, count(*), max(id) FROM items GROUP BY tenant",
            "UPDATE items SET id = 1 RETURNING id",
            "SELECT count(*) FROM citus_stat_activity",
        ] {
            meddler.tell_rows(rows);
            let said = client.query(sql);
            assert!(said.ends_with("E(08006) Z(I)") && !said.contains("C("), "{rows:?}, {sql}: {said}");
            meddler.tell_rows(Rows::AsTheyAre);
            assert_eq!(client.query("SELECT id FROM items"), "T D(1) D(1) C(SELECT 2) Z(I)", "after {rows:?}, {sql}");
        }
        // Nobody can tell who has written, so nothing is committed.
        client.query("BEGIN");
        for tenant in tenants {
            client.query(&format!("UPDATE items SET id = 7 WHERE tenant = {tenant}"));
        }
        meddler.tell_rows(rows);
        assert_eq!(client.query("COMMIT"), "E(08006) Z(I)", "{rows:?}");
        assert!(wait_until(PATIENCE, has_looked), "{}", served.logged(0));
        meddler.tell_rows(Rows::AsTheyAre);
        assert_eq!(client.query("SELECT id FROM items"), "T D(1) D(1) C(SELECT 2) Z(I)", "{rows:?}");
    }
    psql(&worker, "ROLLBACK PREPARED 'somebody''s own'");
    assert!(!served.logged(0).contains("panicked"), "{}", served.logged(0));
}
