//! Frames under abuse: what is wrong in itself, cut short, sent by halves, too large, or in an order that need not be.
//! Where Postgres can be asked, the same bytes go to it, and the answers are compared.

#[path = "protocol/both.rs"]
mod both;
mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "protocol/wire.rs"]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use both::{Both, lines, proxy};
use support::served::Served;
use support::{psql, wait_until};
use wire::{frame, message, with_length};

/// One cluster for the whole file. The test that holds it runs every part in turn, so that it ends with them.
#[test]
fn frames_hurt_nobody() {
    let cluster = Served::start_with(2, 2, "[limits]\nmessage_timeout = \"2s\"\nreader_timeout = \"3s\"\n");
    prepare(&cluster);
    let parts: &[fn(&Served)] = &[
        lengths_that_cannot_be_end_the_session,
        claimed_lengths_cost_no_memory,
        bytes_too_many_or_too_few_are_a_violation,
        counters_reach_their_ends,
        payload_stays_payload,
        errors_before_sync_skip_what_follows,
        odd_messages_are_answered_as_postgres_does,
        messages_cut_short_do_nothing,
        half_sent_messages_hold_no_server,
        pipelines_without_sync_are_not_kept,
        readers_that_do_not_read_cost_little,
        answers_are_whole_messages,
    ];
    // Every part runs and tells what it found, whatever the others did.
    let run = |part: &fn(&Served)| {
        let start = std::time::Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| part(&cluster)));
        eprintln!("{:?} {}", start.elapsed(), if ended.is_ok() { "passed" } else { "FAILED" });
        ended.is_ok()
    };
    let failed = parts.iter().filter(|part| !run(part)).count();
    assert_eq!(failed, 0, "parts failed");
    assert!(!cluster.logged(0).contains("panicked"), "{}", cluster.logged(0));
}

/// `items` is distributed, `notes` is not. Postgres has plain tables of these names in a schema of its own.
fn prepare(cluster: &Served) {
    let tables = |schema: &str| {
        format!(
            "CREATE TABLE {schema}.items (tenant int, id int, name text, PRIMARY KEY (tenant, id));
             CREATE TABLE {schema}.notes (tenant int, id int, name text);"
        )
    };
    let rows = "SELECT t, i, 'name ' || i FROM generate_series(1, 4) t, generate_series(1, 3) i";
    cluster.psql(&tables("public"));
    cluster.psql("SELECT create_distributed_table('items', 'tenant')");
    psql(&cluster.coordinator_dsn(), &format!("CREATE SCHEMA plain; {}", tables("plain")));
    cluster.psql(&format!("INSERT INTO items {rows}"));
    psql(&cluster.coordinator_dsn(), &format!("INSERT INTO plain.items {rows}"));
}

/// T17. Postgres closes without a word; here the client is told why.
fn lengths_that_cannot_be_end_the_session(cluster: &Served) {
    const SMALL: &[u8] = b"DECHSXcfp";
    for tag in *b"QPBdFDECHSXcfp" {
        let mut lengths = vec![0, 1, 2, 3, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, u32::MAX];
        if SMALL.contains(&tag) {
            lengths.extend([10_001, 1 << 20]);
        }
        for length in lengths {
            let mut wire = proxy(cluster);
            wire.send(&with_length(tag, length, b""));
            let answer = wire.answers_until("Z");
            assert_eq!(answer, ["E 08P01", "closed"], "{} {length:#x}", tag as char);
        }
    }
    // In the middle of a transaction, too, nothing stays.
    let mut wire = proxy(cluster);
    wire.send(&lines(&["Q BEGIN", "Q INSERT INTO items VALUES (1, 300, 'x')"]));
    wire.answers_until("Z T");
    wire.send(&with_length(b'Q', 2, b""));
    assert_eq!(wire.answers_until("E").last().map(String::as_str), Some("closed"));
    assert_eq!(cluster.psql("SELECT count(*) FROM items WHERE tenant = 1 AND id = 300"), "0");
    let mut both = Both::new(cluster);
    for tag in *b"?\0\xffRZTKa1" {
        both.say(&format!("unknown tag {tag}"), &message(tag, b""));
        both.say(&format!("unknown tag {tag} behind an error"), &[frame("P - : SELEC"), message(tag, b"")].concat());
    }
    both.say("a password when nobody asked", &message(b'p', b"secret\0"));
    both.say("a password behind an error", &[frame("P - : SELEC"), message(b'p', b"secret\0")].concat());
    both.agree();
}

/// T17. Memory is taken for bytes that came, not for bytes that were announced.
fn claimed_lengths_cost_no_memory(cluster: &Served) {
    let before = resident(cluster);
    let clients: Vec<_> = (0..60)
        .map(|n| {
            let mut wire = proxy(cluster);
            wire.send(&with_length(b"QPBdF"[n % 5], 0x3fef_0000, b"SELECT"));
            wire
        })
        .collect();
    // Their sessions have read what there is when a later client has been served on both threads.
    (0..4).for_each(|_| drop(proxy(cluster).query("SELECT 1")));
    let grown = resident(cluster).saturating_sub(before);
    assert!(grown < 64 << 20, "60 clients that announced a gigabyte each took {grown} bytes");
    drop(clients);
}

/// T21. Each message of each type with every byte missing from its end, with one too many, and with a NUL anywhere.
fn bytes_too_many_or_too_few_are_a_violation(cluster: &Served) {
    let mut both = Both::new(cluster);
    let parse = frame("P s : SELECT name FROM items WHERE tenant = $1 AND id = 1");
    let bind = frame("B p s : 1");
    let whole: &[(&str, &[&[u8]])] = &[
        ("Q SELECT 'ran'", &[]),
        ("Q INSERT INTO items VALUES (1, 301, 'x')", &[]),
        ("P t : SELECT 'ran'", &[]),
        ("B - s : 1", &[&parse]),
        ("D S s", &[&parse]),
        ("D P p", &[&parse, &bind]),
        ("E p 0", &[&parse, &bind]),
        ("C S s", &[&parse]),
        ("C P p", &[&parse, &bind]),
        ("H", &[]),
        ("S", &[]),
        ("c", &[]),
        ("f why", &[]),
        ("d 1", &[]),
    ];
    for (line, before) in whole {
        let whole = frame(line);
        let (tag, payload) = (whole[0], &whole[5..]);
        let mut variants: Vec<Vec<u8>> = (0..payload.len()).map(|cut| payload[..cut].to_vec()).collect();
        variants.extend([b"\0".as_slice(), b"x", b"\0\0\0\0", b"; SELECT 1\0"].map(|more| [payload, more].concat()));
        variants.extend((0..payload.len()).map(|at| [&payload[..at], b"\0", &payload[at..]].concat()));
        for variant in variants {
            let bytes =
                [&before.concat()[..], &message(tag, &variant), &frame("S"), &frame("Q SELECT 'next'")].concat();
            let title = format!("{line}: {}", variant.escape_ascii());
            if tag == b'B' { both.say_with_any_error(&title, &bytes) } else { both.say(&title, &bytes) }
        }
    }
    both.agree();
    assert_eq!(cluster.psql("SELECT count(*) FROM items WHERE id = 301"), "0");
}

/// T18. Numbers of parameters and formats up to what their fields hold.
fn counters_reach_their_ends(cluster: &Served) {
    let mut both = Both::new(cluster);
    for (count, shape) in [32_768, 65_535].into_iter().flat_map(|n| [(n, 0), (n, 1), (n, 2)]) {
        let numbers = (2..=count).map(|n| format!("${n}")).collect::<Vec<_>>().join(",");
        let sql = match shape {
            0 => format!("SELECT id FROM items WHERE tenant = $1 AND id IN ({numbers}) ORDER BY id"),
            1 => format!("SELECT count(*) FROM items WHERE tenant <> $1 AND id IN ({numbers})"),
            _ => format!("SELECT count(*) FROM notes WHERE tenant = $1 AND id IN ({numbers})"),
        };
        let values: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
        let bytes = [
            message(b'P', &[b"s\0", sql.as_bytes(), b"\0\0\0"].concat()),
            frame("D S s"),
            message(b'B', &bind("", "s", &values, 0)),
            frame("D P -"),
            frame("E - 0"),
            frame("S"),
        ];
        both.say(&format!("{count} parameters, shape {shape}"), &bytes.concat());
    }
    for formats in [1, 2, 1664, 32_768, 65_535] {
        let bytes = [
            frame("P - : SELECT id, name FROM items WHERE tenant = $1"),
            message(b'B', &bind("", "", &["1".to_owned()], formats)),
            frame("E - 0"),
            frame("S"),
        ];
        both.say(&format!("{formats} result formats"), &bytes.concat());
    }
    for columns in [1664, 1665, 32_768, 65_536] {
        let columns = vec!["id"; columns].join(",");
        both.say_lines("many columns of one tenant", &[&format!("Q SELECT {columns} FROM items WHERE tenant = 1")]);
        both.say_lines(
            "many columns of all",
            &[&format!("P s : SELECT {columns} FROM items ORDER BY tenant, id"), "D S s", "S"],
        );
        both.say_lines("many columns of nothing", &[&format!("P s : SELECT {columns} FROM notes"), "D S s", "S"]);
    }
    for parameter in ["$0", "$65535", "$2147483648", "$99999999999999999999"] {
        both.say_lines(parameter, &[&format!("P - : SELECT id FROM items WHERE tenant = {parameter}"), "S"]);
    }
    let types = |count: u16, held: usize| {
        let head = [&b"\0SELECT $1::int\0"[..], &count.to_be_bytes()].concat();
        message(b'P', &[head, 23u32.to_be_bytes().repeat(held)].concat())
    };
    for (count, held) in [(65_535, 65_535), (65_535, 1), (1, 0), (0, 1), (1, 2)] {
        both.say(&format!("{count} types announced, {held} there"), &[types(count, held), frame("S")].concat());
    }
    both.agree();
}

/// A Bind's payload: text parameters, and as many result formats (all text).
fn bind(portal: &str, statement: &str, values: &[String], formats: u16) -> Vec<u8> {
    let mut payload = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0"].concat();
    payload.extend((values.len() as u16).to_be_bytes());
    for value in values {
        payload.extend((value.len() as u32).to_be_bytes());
        payload.extend(value.as_bytes());
    }
    payload.extend(formats.to_be_bytes());
    payload.resize(payload.len() + 2 * formats as usize, 0);
    payload
}

/// T18. Values that look like messages, larger than any buffer.
fn payload_stays_payload(cluster: &Served) {
    let evil = frame("Q DROP TABLE items").iter().map(|b| if *b == 0 { 1 } else { *b }).collect::<Vec<u8>>();
    let evil = String::from_utf8(evil).expect("ASCII");
    let mut both = Both::new(cluster);
    for repeats in [1, 3_000, 100_000] {
        let text = evil.repeat(repeats);
        let parameters = [text.clone(), "1".to_owned()];
        let bytes = [
            frame("Q BEGIN"),
            frame("P - : UPDATE items SET name = $1 WHERE tenant = $2 AND id = 1"),
            message(b'B', &bind("", "", &parameters, 0)),
            frame("E - 0"),
            frame("S"),
            frame("Q SELECT length(name), md5(name) FROM items WHERE tenant = 1 AND id = 1"),
            frame("Q SELECT name FROM items WHERE tenant = 1 AND id = 1"),
            frame("Q COPY items FROM STDIN"),
            message(b'd', format!("2\t302\t{text}\n").as_bytes()),
            frame("c"),
            frame("Q SELECT length(name), md5(name) FROM items WHERE tenant = 2 AND id = 302"),
            frame("Q SELECT name FROM items ORDER BY tenant, id"),
            frame(&format!("Q SELECT length('{text}'), id FROM items WHERE tenant = 1 AND id = 2")),
            frame("Q ROLLBACK"),
        ];
        both.say(&format!("messages in values, {repeats} times"), &bytes.concat());
    }
    both.agree();
}

/// T22. One ErrorResponse, one ReadyForQuery for each Sync, and nothing behind an error runs before the next.
fn errors_before_sync_skip_what_follows(cluster: &Served) {
    let bad = [
        "P - : SELEC",
        "P - : SELECT nothing FROM items WHERE tenant = 1",
        "B - nothing",
        "E nothing 0",
        "D S nothing",
        "D P nothing",
        "B - - : 1",
    ];
    let mut both = Both::new(cluster);
    both.say_file(include_str!("protocol/errors.txt"), &[("{bad}", &bad)]);
    both.agree();
}

/// T23.
fn odd_messages_are_answered_as_postgres_does(cluster: &Served) {
    let inside = ["P - : SELECT 1", "B - -", "E - 0", "D P -", "C P -", "F", "! 3f 00 00 00 04"];
    let text = [r"\.\n", r"1\t330\tx\n\.\n2\t330\tx\n", r"\.", r"1\t330\t\.\n", r"1\t330\tx\n\.", r"1\t330\tx\n\.x\n"];
    let csv = text.map(|piece| piece.replace(r"\t", ","));
    let rows =
        ["SELECT id FROM items WHERE tenant = 2 ORDER BY id", "SELECT id FROM notes", "SELECT generate_series(1, 3)"];
    let mut both = Both::new(cluster);
    let values: &[(&str, &[&str])] = &[
        ("{table}", &["items", "notes"]),
        ("{inside}", &inside),
        ("{text}", &text),
        ("{csv}", &csv.each_ref().map(String::as_str)),
        ("{limit}", &["1", "2", "3", "4"]),
        ("{rows}", &rows),
    ];
    both.say_file(include_str!("protocol/odd_messages.txt"), values);
    both.agree();
    // Postgres has the fast path; here it is refused, and the conversation goes on.
    let call = message(b'F', &[&2284u32.to_be_bytes()[..], &[0, 0, 0, 0, 0, 0]].concat());
    let mut wire = proxy(cluster);
    wire.send(&[call.clone(), frame("Q SELECT 'goes on'")].concat());
    assert_eq!(wire.answers_until("D goes on"), ["E 0A000", "Z I", "T 1", "D goes on", "C SELECT 1", "Z I"]);
    wire.send(&[frame("P - : SELEC"), call, frame("S")].concat());
    assert_eq!(wire.answers_until("Z"), ["E 42601", "Z I"]);
}

/// T19. A connection that ends within a message, in every way, at every byte.
fn messages_cut_short_do_nothing(cluster: &Served) {
    let conversations: &[&[&str]] = &[
        &["Q INSERT INTO items VALUES (1, 340, 'x')"],
        &["Q INSERT INTO notes VALUES (1, 340, 'x')"],
        &["Q INSERT INTO items VALUES (1, 340, 'x'), (2, 340, 'x'), (3, 340, 'x')"],
        &["P - : INSERT INTO items VALUES ($1, 340, 'x')", "B - - : 1", "E - 0", "S"],
        &[
            "Q BEGIN",
            "Q INSERT INTO items VALUES (1, 340, 'x')",
            "Q INSERT INTO items VALUES (2, 340, 'x')",
            "Q COMMIT",
        ],
        &["Q COPY items FROM STDIN (FORMAT csv)", "d 1,340,x\\n2,340,x\\n", "c"],
        &["Q COPY notes FROM STDIN (FORMAT csv)", "d 1,340,x\\n2,340,x\\n", "c"],
        &["P - : COPY items FROM STDIN (FORMAT csv)", "B - -", "E - 0", "d 1,340,x\\n", "c", "S"],
    ];
    let count = "SELECT (SELECT count(*) FROM items WHERE id = 340) + (SELECT count(*) FROM notes WHERE id = 340)";
    for conversation in conversations {
        let whole = lines(conversation);
        // By a reset and by an end in turn; at every seventh byte, and just before the last.
        for cut in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
            let mut wire = proxy(cluster);
            wire.send(&whole[..cut]);
            if cut % 2 == 0 {
                wire.reset();
            } else {
                wire.shut();
                wire.rest();
            }
        }
        let quiet = wait_until(Duration::from_secs(10), || open_transactions(cluster) == 0);
        assert!(quiet, "{conversation:?}: servers are still in a transaction of a client that went away");
        assert_eq!(cluster.psql(count), "0", "{conversation:?} was executed in part");
    }
    // What was answered and not ended by a Sync is not there either, and does not go on under another client.
    for end in 0..12 {
        let mut wire = proxy(cluster);
        let pipeline = ["P - : INSERT INTO items VALUES ($1, 340, 'x')", "B - - : 1", "E - 0", "H"];
        wire.send(&[lines(&pipeline), if end % 3 == 0 { frame("X") } else { Vec::new() }].concat());
        // The answers end here: without a Sync there is no ReadyForQuery to wait for.
        assert_eq!([(); 3].map(|()| wire.next()), ["1", "2", "C INSERT 0 1"]);
        if end % 3 == 1 {
            wire.reset();
        } else {
            wire.shut();
            wire.rest();
        }
        assert_eq!(proxy(cluster).query("INSERT INTO items VALUES (1, 341, 'x')")[0], "C INSERT 0 1");
        assert_eq!(cluster.psql("DELETE FROM items WHERE id = 341 RETURNING id"), "341");
        assert_eq!(cluster.psql(count), "0");
    }
    // The whole of it does something: the cuts above are not in vain.
    let mut wire = proxy(cluster);
    wire.send(&lines(conversations[0]));
    wire.answers_until("Z");
    assert_eq!(cluster.psql(count), "1");
    cluster.psql("DELETE FROM items WHERE id = 340");
}

/// Transactions of clients on all servers.
fn open_transactions(cluster: &Served) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' \
               AND (state LIKE 'idle in transaction%' OR state = 'active')";
    cluster.everywhere(sql).iter().filter(|count| *count != "0").count()
}

/// T20. More of them than there are places in the pools, and everybody else is served.
fn half_sent_messages_hold_no_server(cluster: &Served) {
    let queries = [
        frame("Q SELECT name FROM items WHERE tenant = 1"),
        frame("P - : SELECT name FROM items WHERE tenant = $1"),
        [frame("P s : SELECT name FROM items WHERE tenant = $1"), frame("B - s : 1")].concat(),
    ];
    let half: Vec<_> = (0..150)
        .map(|n| {
            let (mut wire, query) = (proxy(cluster), &queries[n % queries.len()]);
            wire.send(&query[..query.len() - 1]);
            wire
        })
        .collect();
    for tenant in 1..=4 {
        let answer = proxy(cluster).query(&format!("SELECT count(*) FROM items WHERE tenant = {tenant}"));
        assert_eq!(answer[1], "D 3");
    }
    for mut wire in half {
        assert_eq!(wire.answers_until("E").last().map(String::as_str), Some("closed"), "its time is over");
    }
    // Slowly is not half: every byte in its own segment, within the time.
    let mut wire = proxy(cluster);
    for byte in &queries[0] {
        wire.send(&[*byte]);
    }
    assert_eq!(wire.answers_until("Z").len(), 6);
}

/// What one client sends without a Sync does not pile up, whatever its messages are.
fn pipelines_without_sync_are_not_kept(cluster: &Served) {
    let before = resident(cluster);
    let parse = "P s : SELECT name FROM items WHERE tenant = $1";
    for (round, repeated) in [
        &["P - : SELECT name FROM items WHERE tenant = 1"][..],
        &["P - : SELECT name FROM items WHERE tenant = 1", "B - -"],
        &["B - s : 1"],
        &["B - s : 1", "B - s : 2"],
        &["D S s"],
        &["C S nothing"],
        &["C P nothing"],
        &["B - s : 1", "E - 0"],
        &["P t : SELECT 1", "C S t"],
        &["B - s : 1", "D P -"],
    ]
    .into_iter()
    .enumerate()
    {
        let mut wire = proxy(cluster);
        wire.send(&lines(&[parse, "S"]));
        wire.answers_until("Z");
        let mut reader = wire.reader();
        let reading = std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while matches!(std::io::Read::read(&mut reader, &mut bytes), Ok(n) if n > 0) {}
        });
        let some = lines(repeated).repeat(1000);
        for _ in 0..20 {
            wire.send(&some);
        }
        let grown = resident(cluster).saturating_sub(before);
        assert!(grown < 48 << 20, "round {round}, {repeated:?}: {grown} bytes more");
        wire.shut();
        reading.join().expect("it only reads");
    }
}

/// T45. Back-pressure: what a client does not read stays on the server, and what a server does not take, with the client.
fn readers_that_do_not_read_cost_little(cluster: &Served) {
    let before = resident(cluster);
    let wide = "SELECT repeat('x', 1000) FROM generate_series(1, 30000)";
    let clients: Vec<_> = [
        format!("Q {wide}"),
        "Q SELECT repeat('x', 1000) FROM items, generate_series(1, 30000) WHERE tenant = 1".to_owned(),
        "Q SELECT repeat('x', 1000) FROM items, generate_series(1, 10000)".to_owned(),
        format!("Q COPY ({wide}) TO STDOUT"),
        "Q SELECT repeat('x', 30000000)".to_owned(),
        "Q SELECT repeat('x', 30000000) FROM items WHERE tenant = 2 AND id = 1".to_owned(),
    ]
    .iter()
    .flat_map(|query| std::iter::repeat_n(query, 3))
    .map(|query| {
        let mut wire = proxy(cluster);
        wire.take_little();
        wire.send(&frame(query));
        wire
    })
    .collect();
    std::thread::sleep(Duration::from_millis(500));
    let grown = resident(cluster).saturating_sub(before);
    assert!(grown < clients.len() << 20, "{} clients that do not read took {grown} bytes", clients.len());
    // After their time they are left, and their servers are free again.
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
                AND backend_type = 'client backend'";
    let is_free = || cluster.everywhere(busy).iter().all(|count| count == "0");
    if !wait_until(Duration::from_secs(20), is_free) {
        let who = busy.replace("count(*)", "string_agg(query, '; ')");
        panic!("clients that do not read hold their servers: {:?}", cluster.everywhere(&who));
    }
    drop(clients);
    // Many messages at once, whose answers are large, and one more that no buffer of a socket holds.
    let mut wire = proxy(cluster);
    let many = lines(&["P s : SELECT repeat('x', 1000) FROM generate_series(1, $1::int)"]);
    let mut bytes = [many, lines(&["B - s : 30000", "E - 0"]).repeat(20)].concat();
    bytes.extend(message(b'P', &[b"\0SELECT length('", &vec![b'y'; 30 << 20][..], b"')\0\0\0"].concat()));
    bytes.extend(lines(&["B - -", "E - 0", "S"]));
    let mut reader = wire.reader();
    let sending = std::thread::spawn(move || {
        wire.send(&bytes);
        wire
    });
    std::thread::sleep(Duration::from_millis(500));
    let grown = resident(cluster).saturating_sub(before);
    // 600 MB of answers; the long message itself is in memory as it came, as a text and as it leaves.
    assert!(grown < 160 << 20, "a pipeline of large answers took {grown} bytes");
    let mut piece = vec![0; 1 << 20];
    let mut last = Vec::new();
    while let Ok(n) = std::io::Read::read(&mut reader, &mut piece) {
        last.extend_from_slice(&piece[..n]);
        last.drain(..last.len().saturating_sub(6));
        if n == 0 || last.ends_with(b"Z\0\0\0\x05I") {
            break;
        }
    }
    assert_eq!(last, b"Z\0\0\0\x05I", "the whole pipeline was answered");
    drop(sending.join().expect("it only sends"));
    // A copy whose server is slow: its table is locked.
    let before = resident(cluster);
    let mut lock = proxy(cluster);
    lock.query("BEGIN");
    lock.query("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE");
    let mut copy = proxy(cluster);
    copy.send(&frame("Q COPY notes FROM STDIN"));
    let rows = message(b'd', &b"1\t350\tsome text of a row\n".repeat(40_000));
    let sending = std::thread::spawn(move || {
        (0..40).for_each(|_| copy.send(&rows));
        copy.send(&frame("c"));
        copy.answers_until("Z")
    });
    std::thread::sleep(Duration::from_millis(500));
    let grown = resident(cluster).saturating_sub(before);
    assert!(grown < 16 << 20, "a copy that waits took {grown} bytes");
    lock.query("ROLLBACK");
    assert_eq!(sending.join().expect("it only sends"), ["G", "C COPY 1600000", "Z I"]);
    cluster.psql("TRUNCATE notes");
}

/// T25. Notices, settings and errors come between messages, never within one; a row that breaks off is the last.
fn answers_are_whole_messages(cluster: &Served) {
    let mut wire = proxy(cluster);
    wire.query(
        "CREATE FUNCTION tell(n int) RETURNS text LANGUAGE plpgsql AS \
         $$ BEGIN RAISE NOTICE 'row %', n; PERFORM set_config('application_name', 'row ' || n, false); RETURN repeat('x', 3000); END $$",
    );
    let answers = wire.query("SELECT tell(n) FROM generate_series(1, 2000) n");
    let count = |tag: &str| answers.iter().filter(|a| a.starts_with(tag)).count();
    assert_eq!((count("T"), count("D"), count("N"), count("C"), count("Z")), (1, 2000, 2000, 1, 1));

    let mut wire = proxy(cluster);
    wire.send(&frame("Q SELECT pg_backend_pid()"));
    wire.send(&frame("Q SELECT repeat('y', 100000000)"));
    let pid = wire.answers_until("Z")[1].trim_start_matches("D ").to_owned();
    // Begun, not read on: the proxy holds a row whose rest is on the server.
    assert!(!wire.is_quiet_for(Duration::from_secs(10)));
    psql(&cluster.coordinator_dsn(), &format!("SELECT pg_terminate_backend({pid})"));
    let rest = wire.raw_to_the_end();
    let row = rest.iter().position(|b| *b == b'D').expect("a row has begun");
    let length = u32::from_be_bytes(rest[row + 1..row + 5].try_into().expect("four bytes")) as usize;
    let told = rest.len() - row - 1;
    assert!(told <= length || rest[row + 1 + length] == b'C', "{told} bytes of a row of {length}");
    let is_payload = rest[row + 11..(row + 1 + length).min(rest.len())].iter().all(|b| *b == b'y');
    assert!(is_payload, "something else stands in the middle of a row");
}

/// Resident memory of the proxy in bytes.
fn resident(cluster: &Served) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.proxy_process(0))).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}
