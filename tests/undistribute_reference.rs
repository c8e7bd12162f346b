//! Reference tables become local again while others write and read them: who comes meanwhile waits, and does what he came for.

mod support;

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_command, wait_until};

/// Goal: a COPY that comes while a reference table becomes local waits, and its rows are in the local one.
#[test]
fn a_copy_waits_for_its_reference_table_to_become_local() {
    let served = Served::start(2);
    served.psql("CREATE TABLE words (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), word text)");
    served.psql("SELECT create_reference_table('words')");
    let mut caller = Client::connect(served.proxy_port(0), &[]);
    caller.query("BEGIN");
    caller.query("SELECT undistribute_table('words')");
    let copies: Vec<_> = [("words", "1\tnow\tone\n"), ("words (id, word)", "2\ttwo\n")]
        .map(|(columns, row)| {
            let mut copy = psql_command(&served.dsn(0))
                .args(["-c", &format!("COPY {columns} FROM STDIN")])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("psql runs");
            copy.stdin.take().expect("it is piped").write_all(row.as_bytes()).expect("it takes a row");
            copy
        })
        .into();
    let wait = "SELECT count(*) FROM pg_locks WHERE relation = 'words'::regclass AND NOT granted";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), wait) == "2"), "both wait");
    let said = caller.query("COMMIT");
    assert!(said.contains("C(COMMIT)"), "{said}");
    for copy in copies {
        let output = copy.wait_with_output().expect("psql ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let rows = "SELECT string_agg(word, ' ' ORDER BY id), count(at) FROM words";
    assert_eq!(psql(&served.coordinator_dsn(), rows), "one two|2");
}

/// Goal: who joins a reference table while it becomes local waits, and gets his rows: of one tenant and of all, in every protocol. Only
/// who has used the worker before in his transaction has to repeat it.
#[test]
fn joins_with_a_reference_table_wait_for_it_to_become_local() {
    let served = Served::start(2);
    let tenant = &served.tenants()[0];
    served.psql("CREATE SCHEMA \"Of words\"; CREATE TABLE \"Of words\".words (id int PRIMARY KEY, word text)");
    served
        .psql("INSERT INTO \"Of words\".words VALUES (1, 'one'); SELECT create_reference_table('\"Of words\".words')");
    let all = "SELECT count(*), min(word) FROM items JOIN \"Of words\".words USING (id)";
    let one = format!("{all} WHERE tenant = {tenant}");
    let rows = format!("SELECT word FROM items JOIN \"Of words\".words USING (id) WHERE tenant <> {tenant}");
    let connect = || Client::connect(served.proxy_port(0), &[]);
    let mut prepared = connect();
    prepared.query(&format!("PREPARE p (int) AS {all} WHERE tenant = $1"));
    let [mut bound, mut in_block, mut late] = [connect(), connect(), connect()];
    let by_name = format!("{all} WHERE tenant = $1");
    let expected = bound.run_prepared("s", &by_name, &[Some(tenant)]);
    assert!(expected.contains("one"), "{expected}");
    in_block.query("BEGIN");
    late.query("BEGIN");
    late.query(&format!("SELECT 1 FROM items WHERE tenant = {tenant}"));

    let mut caller = connect();
    caller.query("BEGIN");
    caller.query("SELECT undistribute_table('\"Of words\".words')");
    let mut readers = [connect(), connect(), connect()];
    for (reader, sql) in readers.iter_mut().zip([&one, &all.to_owned(), &rows]) {
        reader.send(sql);
    }
    prepared.send(&format!("EXECUTE p ({tenant})"));
    bound.bind_and_execute("s", &[Some(tenant)]);
    tenantry::wire::frontend::sync(&mut bound.out);
    bound.flush();
    in_block.send(&one);
    late.send(&one);
    let wait =
        "SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = to_regclass('\"Of words\".words') AND NOT granted";
    let waiting =
        || (0..2).map(|worker| psql(&served.worker_dsn(worker), wait).parse::<u32>().expect("a number")).sum::<u32>();
    assert!(wait_until(PATIENCE, || waiting() >= 7), "all wait: {}", waiting());
    assert!(caller.query("COMMIT").contains("C(COMMIT)"));
    for (reader, row) in readers.iter_mut().zip(["D(1,one)", "D(2,one)", "D(one)"]) {
        let said = reader.answer();
        assert!(said.contains(row) && !said.contains("E("), "{row}: {said}");
    }
    for said in [prepared.answer(), bound.answer(), in_block.answer()] {
        assert!(said.contains("D(1,one)") && !said.contains("E("), "{said}");
    }
    in_block.query("COMMIT");
    let said = late.answer();
    assert!(said.contains("40001"), "{said}");
    late.query("ROLLBACK");
    assert!(late.query(&one).contains("D(1,one)"));

    // What is nowhere is still told of.
    served.psql("SELECT create_reference_table('\"Of words\".words')");
    let mut caller = connect();
    caller.query("BEGIN");
    caller.query("DROP TABLE \"Of words\".words");
    let mut reader = connect();
    reader.send(&one);
    assert!(wait_until(PATIENCE, || waiting() == 1), "it waits");
    caller.query("COMMIT");
    let said = reader.answer();
    assert!(said.contains("42P01"), "{said}");
}

const PATIENCE: Duration = Duration::from_secs(60);
