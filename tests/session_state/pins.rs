//! What a session leaves on the coordinator keeps its connection, for as long as it is there, and is nobody else's.

use std::time::Duration;

use super::{Stage, code, cursors, row};
use crate::support;
use crate::wire::{Wire, frame};

/// Threat T32 of docs/threats.md.
pub fn hidden_state_reaches_nobody(stage: &Stage) {
    for way in [
        "SELECT hide()",
        "SELECT public . HIDE ()",
        "SELECT calls_hide()",
        "INSERT INTO triggered VALUES (1)",
        "SELECT * FROM viewed",
        "SELECT hide() FROM items WHERE tenant = 1 LIMIT 1",
        "SELECT calls_hide() FROM items WHERE tenant = 1 LIMIT 1",
        "COPY (SELECT hide()) TO STDOUT",
        "BEGIN; SELECT hide(); COMMIT",
        "PREPARE p AS SELECT hide(); EXECUTE p",
        "DO $$ BEGIN PERFORM hide(); END $$",
        "SELECT query_to_xml('SELECT hide()', true, false, '')",
        "SELECT ts_stat('SELECT hide()::text::tsvector')",
        "DO 'BEGIN EXECUTE ''SET app.tenant = ''''all''''''; END'",
    ] {
        // Policies would hide the rows that call the function.
        let mut one = Wire::login_with(stage.port(), "app", &[("options", "-c app.tenant=1")]);
        let said = one.query(way);
        assert_eq!(code(&said), "no error", "{way}: {said:?}");
        let show = "current_setting('app.tenant', true) || current_setting('work_mem')";
        let nothing = |ways: &str| {
            let mut others: Vec<_> = (0..2).map(|_| stage.app()).collect();
            for other in &mut others {
                // In a transaction, so that no two have the same connection.
                other.query("BEGIN");
                let here = row(&other.query(&format!("SELECT coalesce({show}, '')")));
                let locks = row(&other.query(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                                              AND pid = pg_backend_pid()",
                ));
                assert!(!here.contains("all") && !here.contains("9MB") && locks == "0", "{ways}: {here} {locks}");
                for tenant in stage.tenants {
                    let there = other.query(&format!("SELECT count(*) FROM items WHERE tenant = {tenant}"));
                    assert_eq!(row(&there), "0", "{ways}");
                }
            }
        };
        nothing(way);
        // A pinned session keeps its connection; gone, it leaves nothing.
        drop(one);
        nothing(way);
    }
    let free = || stage.served.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 99") == "0";
    assert!(support::wait_until(Duration::from_secs(10), free));
}

/// Threat T30 of docs/threats.md, the other way round. Goal: a session that has a temporary table never reads or writes a distributed one
/// that gets the same name later. Method: both have a row that says which one it is of.
pub fn a_name_that_is_taken_later_is_refused(stage: &Stage) {
    for (begin, mode) in [("SELECT 1", "transaction"), ("BEGIN", "transaction"), ("SELECT 1", "session")] {
        let options = [("options", &*format!("-c tenantry.pool_mode={mode}"))];
        let mut one = Wire::login_with(stage.port(), "postgres", &options);
        one.query(begin);
        one.query("CREATE TEMP TABLE taken (tenant int, said text)");
        one.query("INSERT INTO taken VALUES (1, 'own')");
        one.send(&["P s : SELECT said FROM taken WHERE tenant = $1", "D S s", "C S s", "S"].map(frame).concat());
        assert!(one.answers_until("Z").contains(&"T 1".to_owned()), "it is described, behind {begin}, {mode}");
        one.query("PREPARE known AS SELECT said FROM taken WHERE tenant = 1");
        assert_eq!(row(&one.query("EXECUTE known")), "own");
        for sql in [
            "CREATE TABLE taken (tenant int, said text)",
            "SELECT create_distributed_table('taken', 'tenant')",
            "INSERT INTO taken VALUES (1, 'others')",
        ] {
            stage.served.psql(sql);
        }
        for sql in [
            "SELECT said FROM taken WHERE tenant = 1",
            "SELECT max(said) FROM taken",
            "EXECUTE known",
            "UPDATE taken SET said = 'changed' WHERE tenant = 1",
            "DELETE FROM taken",
            "INSERT INTO taken VALUES (2, 'new')",
            "COPY taken TO STDOUT",
            "TRUNCATE taken",
            "DROP TABLE taken",
        ] {
            one.query("SAVEPOINT s");
            assert_eq!(code(&one.query(sql)), "0A000", "{sql} behind {begin}, {mode}");
            one.query("ROLLBACK TO s");
            one.send(&[frame(&format!("= {sql}")), frame("S")].concat());
            assert_eq!(code(&one.answers_until("Z")), "0A000", "{sql} in a pipeline, behind {begin}, {mode}");
            one.query("ROLLBACK TO s");
        }
        assert_eq!(row(&one.query("SELECT said FROM pg_temp.taken")), "own", "{begin}, {mode}");
        assert_eq!(row(&one.query("SELECT said FROM public.taken WHERE tenant = 1")), "others", "{begin}, {mode}");
        assert_eq!(row(&one.query("SELECT count(*) FROM items WHERE tenant = 1")), "3", "{begin}, {mode}");
        let mut other = stage.superuser();
        assert_eq!(row(&other.query("SELECT said FROM taken WHERE tenant = 1")), "others");
        assert_eq!(code(&one.query("DROP TABLE pg_temp.taken")), "no error");
        assert_eq!(row(&one.query("SELECT said FROM taken WHERE tenant = 1")), "others", "{begin}, {mode}");
        one.query("COMMIT");
        assert_eq!(row(&one.query("SELECT said FROM taken WHERE tenant = 1")), "others", "{begin}, {mode}");
        stage.served.psql("DROP TABLE taken");
    }
}

/// Threats T38, T39 of docs/threats.md.
pub fn what_pins_is_let_go_of_when_it_is_gone(stage: &Stage) {
    for (made, gone) in [
        ("LISTEN one; LISTEN two", "UNLISTEN one; UNLISTEN two"),
        ("LISTEN one", "UNLISTEN *"),
        ("BEGIN; LISTEN one; ROLLBACK", "UNLISTEN one"),
        ("CREATE TEMP TABLE mine (id int)", "DROP TABLE mine"),
        ("CREATE TEMP TABLE mine (id int)", "DISCARD TEMP"),
        ("CREATE TEMP VIEW mine AS SELECT 1", "DROP VIEW mine"),
        ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)"),
        ("SELECT pg_try_advisory_lock(7, 8)", "SELECT pg_advisory_unlock_all()"),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "CLOSE c"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id", "CLOSE c"),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT id FROM items WHERE tenant = 1; COMMIT", "CLOSE ALL"),
        ("LISTEN one; CREATE TEMP TABLE mine (id int)", "UNLISTEN *; DROP TABLE mine"),
        ("DO 'BEGIN CREATE TEMP TABLE mine (id int);END'", "DISCARD ALL"),
    ] {
        // More clients than there are connections: one that stays pinned keeps the last from working.
        let mut clients: Vec<_> = (0..4).map(|_| stage.app()).collect();
        for client in &mut clients {
            for sql in made.split("; ").chain(["SELECT 1"]).chain(gone.split("; ")) {
                assert_eq!(code(&client.query(sql)), "no error", "{made}: {sql}");
            }
        }
    }
    cursors::cursors_outlive_their_transaction(stage);
    // Nothing is seen by two.
    let (mut one, mut two) = (stage.app(), stage.app());
    one.query("CREATE TEMP TABLE mine (id int)");
    one.query("INSERT INTO mine VALUES (1)");
    one.query("SELECT pg_advisory_lock(7)");
    for _ in 0..3 {
        assert_eq!(row(&one.query("SELECT count(*) FROM mine")), "1");
        assert_eq!(code(&two.query("SELECT count(*) FROM mine")), "42P01");
        assert_eq!(row(&two.query("SELECT pg_try_advisory_lock(7)")), "f");
        assert_eq!(row(&one.query("SELECT count(*) FROM items, mine")), "0", "policies");
    }
    one.query("DISCARD ALL");
    assert_eq!(code(&one.query("SELECT count(*) FROM mine")), "42P01");
    let freed = || row(&two.query("SELECT pg_try_advisory_lock(7)")) == "t";
    assert!(support::wait_until(Duration::from_secs(10), freed));
    // A lost connection that kept something is a lost session: going on without it would be silently wrong.
    let mut three = stage.superuser();
    three.query("LISTEN here");
    let pid = row(&three.query("SELECT pg_backend_pid()"));
    support::psql(&stage.served.coordinator_dsn(), &format!("SELECT pg_terminate_backend({pid})"));
    assert_eq!(three.next(), "E 57P01");
    assert_eq!(three.next(), "closed");
}

pub fn sequences_values_are_the_transactions_own(stage: &Stage) {
    let (mut one, mut two) = (stage.app(), stage.app());
    for client in [&mut one, &mut two] {
        for sql in ["SELECT lastval()", "SELECT currval('plain_id_seq')"] {
            assert_eq!(code(&client.query(sql)), "0A000", "{sql}");
        }
    }
    one.query("INSERT INTO plain (said) VALUES ('one')");
    for _ in 0..3 {
        two.query("BEGIN");
        assert_eq!(code(&two.query("SELECT lastval()")), "55000");
        two.query("ROLLBACK");
        one.query("BEGIN");
        let id = row(&one.query("INSERT INTO plain (said) VALUES ('one') RETURNING id"));
        assert_eq!(row(&one.query("SELECT lastval(), currval('plain_id_seq')")), format!("{id},{id}"));
        one.query("COMMIT");
        two.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
        assert_eq!(code(&two.query("SELECT currval('plain_id_seq')")), "55000");
        two.query("ROLLBACK");
    }
    // A session with a connection of its own has them like with Postgres.
    one.query("LISTEN mine");
    assert_eq!(code(&one.query("SELECT lastval()")), "55000");
    let id = row(&one.query("SELECT nextval('plain_id_seq')"));
    assert_eq!(row(&one.query("SELECT currval('plain_id_seq')")), id);
}

/// Threat T40 of docs/threats.md.
pub fn an_idle_listener_is_notified(stage: &Stage) {
    let (mut listener, mut teller) = (stage.app(), stage.app());
    listener.query("LISTEN news");
    assert_eq!(code(&teller.query("NOTIFY news, 'first'")), "no error");
    // The listener has sent nothing.
    let said = listener.next();
    assert!(said.starts_with("A ") && said.ends_with(" news first"), "{said}");
    teller.query("SELECT pg_notify('news', 'second'); SELECT pg_notify('other', 'not for it')");
    assert!(listener.next().ends_with(" news second"));
    // In a transaction it waits, and comes before the client's turn.
    listener.query("BEGIN");
    teller.query("NOTIFY news, 'third'");
    assert_eq!(row(&listener.query("SELECT 3")), "3");
    let said = listener.query("COMMIT");
    assert!(
        said[..2].iter().any(|a| a.ends_with(" news third")) || listener.next().ends_with(" news third"),
        "{said:?}"
    );
    // Its own: by the process id that it knows itself by.
    let own = format!("A {} news own", listener.key.0);
    let said = listener.query("NOTIFY news, 'own'");
    assert!(said.contains(&own), "{said:?}");
    // While statements of its own run, on the coordinator and elsewhere: whole frames, nothing lost.
    listener.query("SET app.tenant = 'all'");
    let tellers: Vec<_> = (0..2)
        .map(|n| {
            let mut teller = stage.superuser();
            std::thread::spawn(move || {
                for i in 0..50 {
                    teller.query(&format!("SELECT pg_notify('news', '{n} {i} ' || repeat('x', 7000))"));
                }
            })
        })
        .collect();
    let mut heard = 0;
    for _ in 0..100 {
        for sql in [
            "SELECT repeat('y', 100000) FROM generate_series(1, 5)",
            "SELECT count(*) FROM items",
            "SELECT 1 FROM items WHERE tenant = 1",
        ] {
            let said = listener.query(sql);
            heard += said.iter().filter(|a| a.starts_with("A ")).count();
            assert!(said.iter().all(|a| ["T", "D", "C", "Z", "A"].contains(&a.split(' ').next().unwrap())), "{said:?}");
        }
    }
    tellers.into_iter().for_each(|t| t.join().expect("it tells"));
    while heard < 100 {
        assert!(listener.next().starts_with("A "), "heard {heard}");
        heard += 1;
    }
    listener.query("UNLISTEN news");
    teller.query("NOTIFY news, 'nobody hears'");
    assert!(listener.is_quiet_for(Duration::from_millis(300)));
    assert_eq!(row(&listener.query("SELECT 1")), "1");
}
