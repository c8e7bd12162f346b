//! What one client may cost, and how many may come: each limit is a setting, and is tried with frames of the protocol.

mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "protocol/wire.rs"]
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::served::Served;
use support::wait_until;
use wire::{Wire, frame, message};

const CONFIG: &str = "
[limits]
memory = \"4MB\"
nesting = 20
operators = 100
tokens = 5000
clients = 8
clients_kept = 3
clients_per_role = 4
logins_per_address = 12
statement_texts = \"64MB\"
";

/// One cluster; each part leaves it without sessions.
#[test]
fn what_a_client_may_cost_is_a_setting() {
    let cluster = Served::start_with(1, 1, CONFIG);
    list_admin(&cluster, "keeper");
    cluster.psql("CREATE TABLE items (tenant int, id int, name text)");
    cluster.psql("SELECT create_distributed_table('items', 'tenant')");
    cluster.psql("CREATE ROLE app LOGIN; CREATE ROLE other LOGIN; CREATE ROLE keeper LOGIN;");
    cluster.psql("GRANT ALL ON items TO app");
    what_is_analysed_is_bounded(&cluster);
    what_a_session_keeps_is_bounded(&cluster);
    a_message_is_no_larger_than_the_memory(&cluster);
    copies_are_no_larger_than_the_memory(&cluster);
    clients_come_in_while_there_is_room(&cluster);
    connections_that_do_not_log_in_are_few(&cluster);
    a_pause_outlasts_the_time_for_a_message(&cluster);
    assert!(!cluster.logged(0).contains("panicked"), "{}", cluster.logged(0));
}

/// The role is one of the proxy's admins from now on.
fn list_admin(cluster: &Served, role: &str) {
    let file = cluster.config_file(0);
    let text = std::fs::read_to_string(&file).expect("it was written");
    std::fs::write(&file, text.replace("[admin]", &format!("[admin]\nusers = [\"{role}\"]")))
        .expect("it can be written");
    cluster.signal_proxy(0, "HUP");
    let is_read = || cluster.logged(0).contains("configuration was read again");
    assert!(wait_until(Duration::from_secs(30), is_read), "{}", cluster.logged(0));
}

fn login(cluster: &Served, user: &str) -> Wire {
    Wire::login(cluster.proxy_port(0), user)
}

/// What a login is told: its error, or that it is in.
fn tried(cluster: &Served, user: &str) -> (Wire, String) {
    let mut wire = Wire::connect(cluster.proxy_port(0));
    wire.send(&wire::startup_packet(3 << 16, &[("user", user), ("database", "postgres")]));
    let answers = wire.answers_until("Z");
    let said = answers.iter().find(|answer| answer.starts_with(['E', 'Z'])).cloned();
    (wire, said.unwrap_or_default())
}

fn await_empty(cluster: &Served) {
    let sessions = || {
        let page = cluster.metrics(0);
        let of =
            |state| Served::metric(&page, &format!("tenantry_session_clients{{state=\"{state}\"}}")).unwrap_or(0.0);
        ["active", "idle", "idle_in_transaction"].map(of).iter().sum::<f64>()
    };
    assert!(wait_until(Duration::from_secs(30), || sessions() == 0.0), "{} sessions", sessions());
}

/// T35: 54001 where the statement would have to be understood; others are the server's business.
fn what_is_analysed_is_bounded(cluster: &Served) {
    let mut wire = login(cluster, "app");
    let of_tenant = |condition: &str| format!("SELECT count(*) FROM items WHERE tenant = 1 AND {condition}");
    let nested = |n: usize| of_tenant(&format!("{}true{}", "(".repeat(n), ")".repeat(n)));
    let chained = |n: usize| of_tenant(&vec!["id = 1"; n].join(" OR "));
    let listed = |n: usize| of_tenant(&format!("id IN ({})", vec!["1"; n].join(",")));
    for (sql, more) in [(nested(10), nested(30)), (chained(30), chained(60)), (listed(2000), listed(3000))] {
        assert_eq!(wire.query(&sql), ["T 1", "D 0", "C SELECT 1", "Z I"], "{sql:.100}");
        assert_eq!(wire.query(&more), ["E 54001", "Z I"], "{more:.100}");
        wire.send(&[message(b'P', &[b"\0", more.as_bytes(), b"\0\0\0"].concat()), frame("S")].concat());
        assert_eq!(wire.answers_until("Z"), ["E 54001", "Z I"], "{more:.100}");
    }
    let plain = format!("SELECT {}1{}", "(".repeat(30), ")".repeat(30));
    assert_eq!(wire.query(&plain), ["T 1", "D 1", "C SELECT 1", "Z I"]);
    drop(wire);
    await_empty(cluster);
}

/// Whatever is kept from message to message counts: the session that keeps too much ends, and its memory is given back.
fn what_a_session_keeps_is_bounded(cluster: &Served) {
    let text = "x".repeat(10_000);
    let statement = |n: usize| {
        let name = format!("s{n}\0");
        message(b'P', &[name.as_bytes(), b"SELECT '", text.as_bytes(), b"'\0\0\0"].concat())
    };
    let setting = |n: usize| frame(&format!("Q SET app.n{n} = '{text}'"));
    // A portal over all tenants is kept by the proxy, with its values.
    let portal = |n: usize| {
        let head = format!("p{n}\0s\0");
        let value = [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        message(b'B', &[head.as_bytes(), &[0, 0, 0, 1], &value, &[0, 0]].concat())
    };
    let savepoint = |n: usize| frame(&format!("Q SAVEPOINT s{n}; SET LOCAL app.x = '{text}'"));
    let all = frame("P s : SELECT count(*) FROM items WHERE name <> $1");
    type Frames<'f> = &'f dyn Fn(usize) -> Vec<u8>;
    let kinds: [(&str, Vec<u8>, Frames<'_>); 4] = [
        ("statements", Vec::new(), &statement),
        ("settings", Vec::new(), &setting),
        ("portals", [frame("Q BEGIN"), all].concat(), &portal),
        ("savepoints", frame("Q BEGIN"), &savepoint),
    ];
    for (kind, first, more) in kinds {
        let mut wire = login(cluster, "app");
        wire.send(&first);
        for n in 0..1000 {
            wire.send(&more(n));
            wire.send(&frame(if kind == "settings" || kind == "savepoints" { "S" } else { "H" }));
        }
        let answers = wire.answers_until("E 53200");
        assert_eq!(answers.last().map(String::as_str), Some("closed"), "{kind}: it must end");
        let end = answers.iter().rfind(|answer| answer.starts_with('E'));
        assert_eq!(end.map(String::as_str), Some("E 53200"), "{kind}: {answers:?}");
        assert!(answers.len() > 20, "{kind}: {} answers before it", answers.len());
        await_empty(cluster);
    }
    // What is given back does not count any more.
    let mut wire = login(cluster, "app");
    for n in 0..300 {
        wire.send(&[statement(n), frame(&format!("C S s{n}")), frame("S")].concat());
        assert_eq!(wire.answers_until("Z"), ["1", "3", "Z I"]);
        assert_eq!(wire.query(&format!("SET app.x = '{n}{text}'")), ["C SET", "Z I"]);
    }
    drop(wire);
    await_empty(cluster);
}

fn a_message_is_no_larger_than_the_memory(cluster: &Served) {
    let mut wire = login(cluster, "app");
    assert_eq!(wire.query(&format!("SELECT length('{}')", "x".repeat(3 << 20)))[1], "D 3145728");
    // Refused by its length, before the bytes come.
    wire.send(&wire::with_length(b'Q', 5 << 20, b"SELECT"));
    assert_eq!(wire.answers_until("Z"), ["E 53200", "closed"]);
    await_empty(cluster);
}

/// T45: what COPY gathers counts too, in both directions; it is sent on earlier, and taken later.
fn copies_are_no_larger_than_the_memory(cluster: &Served) {
    cluster.psql("CREATE TABLE wide (tenant int, note text)");
    cluster.psql("SELECT create_distributed_table('wide', 'tenant', shard_count => 256, colocate_with => 'none')");
    cluster.psql("GRANT ALL ON wide TO app");
    // A row in many messages, longer than a quarter of the memory.
    let mut wire = login(cluster, "app");
    let before = resident(cluster);
    wire.send(&[frame("Q COPY wide FROM STDIN"), message(b'd', b"1\t")].concat());
    let piece = message(b'd', &vec![b'x'; 64 << 10]);
    (0..16 * 40).for_each(|_| wire.send(&piece));
    wire.send(&[message(b'd', b"\n"), frame("c")].concat());
    assert_eq!(wire.answers_until("Z"), ["G", "E 54000", "Z I"]);
    let grown = resident(cluster).saturating_sub(before);
    assert!(grown < 16 << 20, "a row of 40 MB took {grown} bytes");

    // A worker that takes nothing: a little waits for each of many shards, and together it would be much.
    let mut lock = Wire::login(cluster.worker_port(0), "postgres");
    lock.query("BEGIN");
    let shards = "SELECT string_agg(format('LOCK TABLE %I.wide', nspname), ';') FROM pg_namespace \
                  WHERE to_regclass(format('%I.wide', nspname)) IS NOT NULL";
    lock.query(&support::psql(&cluster.worker_dsn(0), shards));
    let rows: Vec<u8> = (0..1000).flat_map(|t| format!("{t}\t{}\n", "y".repeat(1000)).into_bytes()).collect();
    let rows = message(b'd', &rows);
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    wire.send(&frame("Q COPY wide FROM STDIN"));
    let sending = std::thread::spawn(move || {
        for _ in 0..60 {
            wire.send(&rows);
            count.fetch_add(1, Ordering::Relaxed);
        }
        wire.send(&frame("c"));
        let answers = wire.answers_until("Z");
        (wire, answers)
    });
    assert!(wait_until(Duration::from_secs(30), || cluster.running("COPY %wide") == 1), "a shard's COPY waits");
    let mut last = usize::MAX;
    while std::mem::replace(&mut last, sent.load(Ordering::Relaxed)) != last {
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(last < 60, "not all of it was taken");
    let grown = resident(cluster).saturating_sub(before);
    assert!(grown < 15 << 20, "a COPY that waits took {grown} bytes, of {last} MB");
    lock.query("ROLLBACK");
    let (mut wire, answers) = sending.join().expect("it only sends");
    assert_eq!(answers, ["G", "C COPY 60000", "Z I"]);

    // A row that is longer than all of it leaves in pieces, to a client that takes its time.
    cluster.psql("TRUNCATE wide");
    cluster.psql("INSERT INTO wide VALUES (1, 'short'), (2, 'short'), (3, 'short')");
    let shard = cluster.psql("SELECT 'public_' || get_shard_id_for_distribution_column('wide', 2)");
    let long = format!("INSERT INTO {shard}.wide SELECT 2, repeat('z', 30000000)");
    support::psql(&cluster.worker_dsn(0), &long);
    for options in ["", "(FORMAT csv)", "(FORMAT binary)"] {
        let before = resident(cluster);
        wire.send(&frame(&format!("Q COPY wide TO STDOUT {options}")));
        std::thread::sleep(Duration::from_millis(500));
        let grown = resident(cluster).saturating_sub(before);
        assert!(grown < 16 << 20, "{options}: a row of 30 MB took {grown} bytes");
        let frames = wire.frames_until_ready();
        let data = frames.iter().filter(|(tag, _)| *tag == b'd');
        assert_eq!(data.filter(|(_, data)| data.len() > 30_000_000).count(), 1, "{options}: a message is a row");
        assert_eq!(frames[frames.len() - 2].1, b"COPY 4\0", "{options}");
        if options == "(FORMAT binary)" {
            // What was read can be written again.
            let all: Vec<u8> = frames.into_iter().filter(|(tag, _)| *tag == b'd').flat_map(|(_, data)| data).collect();
            cluster.psql("CREATE TABLE again (tenant int, note text); GRANT ALL ON again TO app");
            wire.send(&frame("Q COPY again FROM STDIN (FORMAT binary)"));
            all.chunks(64 << 10).for_each(|piece| wire.send(&message(b'd', piece)));
            wire.send(&frame("c"));
            assert_eq!(wire.answers_until("Z"), ["G", "C COPY 4", "Z I"]);
            assert_eq!(cluster.psql("SELECT sum(length(note)), sum(tenant) FROM again"), "30000015|8");
        }
    }
    drop((wire, lock));
    cluster.psql("DROP TABLE wide, again");
    await_empty(cluster);
}

/// Memory of the proxy. Unit: bytes.
fn resident(cluster: &Served) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.proxy_process(0))).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

fn clients_come_in_while_there_is_room(cluster: &Served) {
    let mut app: Vec<_> = (0..4).map(|_| login(cluster, "app")).collect();
    assert_eq!(tried(cluster, "app").1, "E 53300", "a fifth of the role");
    let other = login(cluster, "other");
    assert_eq!(tried(cluster, "other").1, "E 53300", "the rest is kept");
    let kept = [login(cluster, "keeper"), login(cluster, "keeper"), login(cluster, "postgres")];
    assert_eq!(tried(cluster, "postgres").1, "E 53300", "eight are in");
    assert_eq!(app[0].query("SELECT 1")[1], "D 1", "who is in is served");
    drop(kept);
    let is_in = |user: &str| wait_until(Duration::from_secs(30), || tried(cluster, user).1 == "Z I");
    assert!(is_in("keeper"), "a place that was left is free again");
    assert_eq!(tried(cluster, "other").1, "E 53300", "it is still a kept one");
    app.pop();
    assert!(is_in("other"));
    drop((app, other));
    await_empty(cluster);
}

/// T02.
fn connections_that_do_not_log_in_are_few(cluster: &Served) {
    let mut inside = login(cluster, "app");
    let port = cluster.proxy_port(0);
    let silent: Vec<_> = (0..12).map(|_| Wire::connect(port)).collect();
    // One more is told at once, whatever it says.
    let mut more = Wire::connect(port);
    assert_eq!(more.answers_until("Z"), ["E 53300", "closed"]);
    assert_eq!(inside.query("SELECT 1")[1], "D 1");
    drop(silent);
    assert!(wait_until(Duration::from_secs(30), || tried(cluster, "app").1 == "Z I"));
    drop(inside);
    await_empty(cluster);
}

/// What an operator has sent behind PAUSE is no message that does not come to its end.
fn a_pause_outlasts_the_time_for_a_message(cluster: &Served) {
    await_empty(cluster);
    let file = cluster.config_file(0);
    let text = std::fs::read_to_string(&file).expect("it was written");
    std::fs::write(&file, text.replace("[limits]", "[limits]\nmessage_timeout = \"1s\"")).expect("it can be written");
    cluster.signal_proxy(0, "HUP");
    assert!(wait_until(Duration::from_secs(30), || cluster.logged(0).contains("limits.message_timeout")));
    let mut busy = login(cluster, "app");
    busy.query("BEGIN");
    assert_eq!(busy.query("SELECT count(*) FROM pg_am WHERE false").last().map(String::as_str), Some("Z T"));
    let mut keeper = Wire::connect(cluster.proxy_port(0));
    keeper.send(&wire::startup_packet(3 << 16, &[("user", "keeper"), ("database", "tenantry")]));
    keeper.answers_until("Z");
    keeper.send(&[frame("Q PAUSE"), frame("Q RESUME")].concat());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(busy.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert_eq!(keeper.answers_until("Z"), ["C PAUSE", "Z I"]);
    assert_eq!(keeper.answers_until("Z"), ["C RESUME", "Z I"]);
}
