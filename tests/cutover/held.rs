//! What a session holds over the cutover: prepared statements, cursors, portals, copies.

use super::{PATIENCE, ROWS, Stage, TENANT, insert};
use crate::support::{psql, wait_until};
use crate::wire::{self, Wire, frame};

/// C09.
pub fn prepared_statements_go_along(stage: &Stage) {
    let from = stage.home();
    let mut clients = [stage.client(0), stage.client(1)];
    let run = |wire: &mut Wire, id: i64| {
        wire.send(&[frame(&format!("B - s : {TENANT} : {id}")), frame("E - 0"), frame("S")].concat());
        assert_eq!(wire.answers_until("Z"), ["2", "C INSERT 0 1", "Z I"]);
        assert_eq!(wire.query(&format!("EXECUTE t({})", id + 100)), ["C INSERT 0 1", "Z I"]);
    };
    for (id, wire) in (1..).zip(&mut clients) {
        wire.send(&[frame("P s : INSERT INTO ledger VALUES ($1, $2, '')"), frame("S")].concat());
        assert_eq!(wire.answers_until("Z"), ["1", "Z I"]);
        let prepare = format!("PREPARE t(bigint) AS INSERT INTO ledger VALUES ({TENANT}, $1, '')");
        assert_eq!(wire.query(&prepare), ["C PREPARE", "Z I"]);
        run(wire, id);
    }
    stage.moving().join().expect("it moves");
    for (id, wire) in (11..).zip(&mut clients) {
        run(wire, id);
    }
    stage.ends_with("prepared statements", Some(from), &[1, 2, 11, 12, 101, 102, 111, 112]);
}

/// C12: a portal with a row limit, and a cursor.
pub fn cursors_and_portals_go_on_where_they_were(stage: &Stage) {
    let from = stage.home();
    let select = format!("SELECT id FROM ledger WHERE tenant = {TENANT} ORDER BY id DESC");
    let mut portal = stage.client(0);
    portal.query("BEGIN");
    portal.send(&[frame(&format!("P - : {select}")), frame("B p -"), frame("E p 2"), frame("S")].concat());
    assert_eq!(portal.answers_until("Z"), ["1", "2", "D -1", "D -2", "s", "Z T"]);
    let mut cursor = stage.client(1);
    cursor.query("BEGIN");
    cursor.query(&format!("DECLARE c CURSOR FOR {select}"));
    assert_eq!(cursor.query("FETCH 2 FROM c")[1..3], ["D -1", "D -2"]);
    let moving = stage.moving();
    stage.await_state("caught_up");
    stage.others_go_on(1..5);
    assert_eq!(cursor.query("FETCH 2 FROM c")[1..3], ["D -3", "D -4"], "rows of its own snapshot");
    cursor.query("COMMIT");
    portal.send(&[frame("E p 2"), frame("S")].concat());
    assert_eq!(portal.answers_until("Z"), ["D -3", "D -4", "s", "Z T"]);
    assert!(!moving.is_finished(), "the portal keeps its place");
    assert_eq!(portal.query("COMMIT"), ["C COMMIT", "Z I"]);
    moving.join().expect("it moves");
    assert!(portal.query(&select)[1..].starts_with(&["D 4".to_owned()]), "and the next statement is at the new one");
    stage.ends_with("cursors", Some(from), &[1, 2, 3, 4]);
}

/// C12: cursors WITH HOLD outlive their transaction, and the move that follows it. They show the rows of their snapshot, in both
/// directions, and keep no fence waiting once that transaction has ended; the session itself finds the tenant where it is.
pub fn held_cursors_keep_their_rows(stage: &Stage) {
    let from = stage.home();
    let one = format!("SELECT id FROM ledger WHERE tenant = {TENANT} ORDER BY id DESC");
    let all = format!("SELECT id, count(*) OVER () FROM ledger ORDER BY tenant = {TENANT} DESC, id DESC");
    let forms = [(&one, String::new()), (&all, format!(",{}", 3 * ROWS))];
    let mut clients: Vec<_> = forms.iter().zip(0..).map(|(form, proxy)| (form, stage.client(proxy))).collect();
    let fetch = |client: &mut Wire, what: &str, ids: &[i64], rest: &str| {
        let rows: Vec<_> = ids.iter().map(|id| format!("D {id}{rest}")).collect();
        let said = client.query(&format!("FETCH {what} FROM kept"));
        assert_eq!(said[1..said.len() - 2], rows, "{what}: {said:.300?}");
    };
    for ((query, rest), client) in &mut clients {
        let declared = client.query(&format!("DECLARE kept SCROLL CURSOR WITH HOLD FOR {query}"));
        assert_eq!(declared, ["C DECLARE CURSOR", "Z I"]);
        fetch(client, "2", &[-1, -2], rest);
    }
    // Its transaction is open at first: it has used the old place, and is waited for.
    let mut open = stage.client(1);
    open.query("BEGIN");
    open.query(&format!("DECLARE kept SCROLL CURSOR WITH HOLD FOR {one}"));
    fetch(&mut open, "2", &[-1, -2], "");
    let moving = stage.moving();
    stage.await_state("caught_up");
    stage.others_go_on(1..5);
    assert!(!moving.is_finished(), "the transaction keeps its place");
    fetch(&mut open, "2", &[-3, -4], "");
    assert_eq!(open.query("COMMIT"), ["C COMMIT", "Z I"]);
    moving.join().expect("it moves, whatever is held");
    fetch(&mut open, "2", &[-5, -6], "");
    clients.push((&forms[0], open));
    for (((_, rest), client), id) in clients.iter_mut().zip(5..) {
        assert_eq!(client.query(&insert(id)), ["C INSERT 0 1", "Z I"]);
        fetch(client, "ABSOLUTE 3", &[-3], rest);
        fetch(client, "BACKWARD ALL", &[-2, -1], rest);
        fetch(client, "FIRST", &[-1], rest);
        let told = client.query("MOVE ALL IN kept");
        let left = if rest.is_empty() { ROWS - 1 } else { 3 * ROWS - 1 };
        assert_eq!(told, [format!("C MOVE {left}"), "Z I".to_owned()], "all rows of then, and none since");
        // In a transaction that writes to the tenant, too.
        client.query("BEGIN");
        client.query(&format!("UPDATE ledger SET note = 'held' WHERE tenant = {TENANT} AND id = {id}"));
        fetch(client, "FIRST", &[-1], rest);
        assert_eq!(client.query("COMMIT"), ["C COMMIT", "Z I"]);
        assert_eq!(client.query("CLOSE kept"), ["C CLOSE CURSOR", "Z I"]);
        assert!(client.query("FETCH FROM kept")[0].starts_with("E 34000"));
        client.query(&format!("DECLARE kept CURSOR WITH HOLD FOR {one}"));
        fetch(client, "1", &[id], "");
    }
    stage.ends_with("held cursors", Some(from), &[1, 2, 3, 4, 5, 6, 7]);
}

/// C10: in flight, in both directions, that end well and that fail.
pub fn copies_are_whole(stage: &Stage) {
    let from = stage.home();
    let rows = |ids: std::ops::Range<i64>| {
        let lines: String = ids.map(|id| format!("{TENANT}\t{id}\tcopied\n")).collect();
        wire::message(b'd', lines.as_bytes())
    };
    let mut good = stage.client(0);
    good.send(&[frame("Q COPY ledger FROM STDIN"), rows(1..500)].concat());
    let mut bad = stage.client(1);
    bad.send(&[frame("Q COPY ledger FROM STDIN"), rows(1000..1500)].concat());
    let mut out = stage.client(1);
    let all = format!("SELECT id FROM ledger, generate_series(1, 10) WHERE tenant = {TENANT} ORDER BY 1");
    out.send(&frame(&format!("Q COPY (SELECT repeat('y', 1000), id FROM ({all}) a) TO STDOUT")));
    assert!(!out.is_quiet_for(PATIENCE), "it has begun");
    let moving = stage.moving();
    stage.await_state("caught_up");
    good.send(&[rows(500..1000), frame("c")].concat());
    assert_eq!(good.answers_until("Z"), ["G", "C COPY 999", "Z I"]);
    bad.send(&[rows(1500..1600), frame("f no more")].concat());
    assert_eq!(bad.answers_until("Z"), ["G", "E 57014", "Z I"]);
    assert!(!moving.is_finished(), "what is still being read keeps its place");
    let answers = out.answers_until("Z");
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("d ")).count(), 10 * ROWS as usize, "one snapshot");
    assert_eq!(answers.last().map(String::as_str), Some("Z I"));
    moving.join().expect("it moves");
    stage.ends_with("copies", Some(from), &(1..1000).collect::<Vec<_>>());
}

/// C10: copies that the old place has rows of already when the fence comes, from both proxies. It waits for their end, good or bad.
pub fn copies_whose_rows_are_at_the_old_place_end_before_the_fence(stage: &Stage) {
    const COUNT: i64 = 8000;
    let from = stage.home();
    let mut reader = stage.client(0);
    reader.query("BEGIN");
    reader.query(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
    let moving = stage.moving();
    // Its slot is there: it waits for no writer that comes now.
    stage.await_state("caught_up");
    let rows = |ids: std::ops::Range<i64>| {
        let lines: String = ids.map(|id| format!("{TENANT}\t{id}\t{}\n", "c".repeat(100))).collect();
        wire::message(b'd', lines.as_bytes())
    };
    let at_work = || {
        let sql = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid) \
                   WHERE query LIKE 'COPY public%ledger%FROM STDIN%' AND locktype = 'transactionid'";
        psql(&stage.served.worker_dsn(from), sql)
    };
    let mut copies: Vec<_> = [0, 1, 0, 1].map(|proxy| stage.client(proxy)).into_iter().collect();
    let first = |number: i64| 1 + number * 2 * COUNT;
    for (number, copy) in (0..).zip(&mut copies) {
        copy.send(&[frame("Q COPY ledger FROM STDIN"), rows(first(number)..first(number) + COUNT)].concat());
    }
    assert!(wait_until(PATIENCE, || at_work() == "4"), "{} have written", at_work());
    assert_eq!(reader.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert!(!moving.is_finished() && stage.home() == from, "they keep their place");
    for (number, mut copy) in (0..).zip(copies) {
        let (more, last) = (rows(first(number) + COUNT..first(number) + COUNT + 10), number < 2);
        copy.send(&[more, frame(if last { "c" } else { "f no more" })].concat());
        let end = if last { format!("C COPY {}", COUNT + 10) } else { "E 57014".to_owned() };
        assert_eq!(copy.answers_until("Z"), ["G".to_owned(), end, "Z I".to_owned()]);
    }
    moving.join().expect("it moves");
    let ids: Vec<_> = (0..2).flat_map(|number| first(number)..first(number) + COUNT + 10).collect();
    stage.ends_with("copies at the old place", Some(from), &ids);
}
