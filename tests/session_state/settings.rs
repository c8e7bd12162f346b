//! Settings: whichever way they are made, they are the client's on every server, and end when Postgres ends them.

use super::{Stage, code, row};
use crate::wire::{Wire, frame};

pub fn policies_see_the_settings_of_their_client(stage: &Stage) {
    for way in [
        "SET app.tenant = 'all'",
        "SET SESSION app.tenant TO 'all'",
        "/* a /* nested */ comment */ SET -- and another\n app.tenant = 'all'",
        "SELECT 1; SET app.tenant = 'all'",
        "SELECT set_config('app.tenant', 'all', false)",
        "SELECT pg_catalog.set_config('app.tenant', 'a' || 'll', false), 1 AS more",
        "SELECT /* hidden */ SET_CONFIG ('app.tenant', 'all', false) -- here",
        "SELECT 1; SELECT set_config('app.tenant', (SELECT max('all'::text)), 'off'); SELECT 2",
        "BEGIN; SET app.tenant = 'all'; COMMIT",
        "BEGIN; SELECT set_config('app.tenant', 'all', false); COMMIT",
        "SELECT U&\"set\\005fconfig\"('app.tenant', 'all', false)",
        "SELECT \"set_config\"\u{c}(\r'app.tenant', E'a\\x6cl', false) --\r, 1",
        "WITH x AS (SELECT set_config('app.tenant', 'all', false)) SELECT * FROM x",
        "PREPARE p AS SELECT set_config($1, $2, $3); EXECUTE p('app.tenant', 'all', false)",
        "PREPARE q (text) AS SELECT set_config('app.tenant', $1, false); EXECUTE q('a' || 'll'); DEALLOCATE q",
    ] {
        let (mut one, mut two) = (stage.app(), stage.app());
        assert!(!stage.seen(&mut two).ends_with("all"));
        let said = one.query(way);
        assert_eq!(code(&said), "no error", "{way}: {said:?}");
        for _ in 0..2 {
            assert_eq!(stage.seen(&mut one), "2 all", "{way}");
            let others = stage.seen(&mut two);
            assert!(others.starts_with('0') && !others.contains("all"), "{way} leaked: {others}");
        }
    }
    // Parameters, in text and in binary.
    let mut one = stage.app();
    for message in ["P - : SELECT set_config($1, $2, $3)", "B - - : app.tenant : all : false", "D P -", "E - 0", "S"] {
        one.send(&frame(message));
    }
    let said = one.answers_until("Z");
    assert_eq!(said, ["1", "2", "T 1", "D all", "C SELECT 1", "Z I"]);
    assert_eq!(stage.seen(&mut one), "2 all");
    for way in [&[("options", "-c app.tenant=all")][..], &[("options", "--app.tenant=all")], &[("app.tenant", "all")]] {
        let mut one = Wire::login_with(stage.port(), "app", way);
        assert_eq!(stage.seen(&mut one), "2 all", "{way:?}");
        one.query("SET app.tenant = 'none'");
        assert_eq!(stage.seen(&mut one), "0 none", "{way:?}");
        one.query("RESET app.tenant");
        assert_eq!(stage.seen(&mut one), "2 all", "{way:?}");
        one.query("SELECT set_config('app.tenant', 'none', false)");
        one.query("RESET ALL");
        assert_eq!(stage.seen(&mut one), "2 all", "{way:?}");
    }
    // The role's own default, on the node that runs the statement.
    let mut preset = Wire::login(stage.port(), "preset");
    assert_eq!(stage.seen(&mut preset), "2 all");
    assert_eq!(row(&preset.query("SELECT count(*) FROM items")), "120");
}

/// Threat T36 of docs/threats.md.
pub fn settings_end_where_postgres_ends_them(stage: &Stage) {
    let mut one = stage.app();
    one.query("SET app.tenant = 'none'");
    for (ways, inside) in [
        ("SET LOCAL app.tenant = 'all'", "2 all"),
        ("SELECT set_config('app.tenant', 'all', true)", "2 all"),
        ("SET app.tenant = 'all'", "2 all"),
        ("SAVEPOINT s; SET app.tenant = 'all'; RELEASE s", "2 all"),
        ("SAVEPOINT s; SELECT set_config('app.tenant', 'all', true); ROLLBACK TO s", "0 none"),
        ("SAVEPOINT s; SELECT set_config('app.tenant', 'all', false); ROLLBACK TO s", "0 none"),
        ("SET LOCAL app.tenant = 'x'; SELECT set_config('app.tenant', 'all', true)", "2 all"),
    ] {
        // Before, and after, the servers have joined.
        for first in ["SELECT 1", "SELECT count(*) FROM items"] {
            one.query("BEGIN");
            one.query(first);
            assert_eq!(code(&one.query(ways)), "no error", "{ways}");
            assert_eq!(stage.seen(&mut one), inside, "{ways} behind {first}");
            one.query("ROLLBACK");
            assert_eq!(stage.seen(&mut one), "0 none", "{ways} behind {first}");
        }
    }
    one.query("BEGIN; SELECT set_config('app.tenant', 'all', true); COMMIT");
    assert_eq!(stage.seen(&mut one), "0 none");
    one.query("SELECT set_config('app.tenant', 'all', true)");
    assert_eq!(stage.seen(&mut one), "0 none");
    one.query("BEGIN; SET app.tenant = 'all'; SELECT 1/0");
    one.query("COMMIT");
    assert_eq!(stage.seen(&mut one), "0 none");
    for discard in ["DISCARD ALL", "RESET ALL", "RESET app.tenant", "SET app.tenant TO DEFAULT"] {
        one.query("SET app.tenant = 'all'");
        assert_eq!(stage.seen(&mut one), "2 all", "{discard}");
        assert_eq!(code(&one.query(discard)), "no error");
        assert!(stage.seen(&mut one).starts_with('0'), "{discard}");
    }
    // In Postgres's words, which differ by what it stands in.
    let discard = &["= DISCARD ALL", "S"];
    for (before, wanted) in [
        (&["= SELECT 1"][..], "DISCARD ALL cannot be executed within a pipeline"),
        (&["= SELECT count(*) FROM items WHERE tenant = 1"], "DISCARD ALL cannot be executed within a pipeline"),
        (&["= BEGIN"], "DISCARD ALL cannot run inside a transaction block"),
    ] {
        let messages = [before, discard].concat();
        one.send(&messages.iter().flat_map(|line| frame(line)).collect::<Vec<_>>());
        let frames = one.frames_until_ready();
        let error = frames.iter().find(|(tag, _)| *tag == b'E').expect("it is refused");
        assert!(String::from_utf8_lossy(&error.1).contains(wanted), "{before:?}: {error:?}");
        one.query("ROLLBACK");
    }
    for discard in ["DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES"] {
        one.query("SET app.tenant = 'all'");
        let said = one.query(discard);
        assert_eq!(said, [format!("C {discard}"), "Z I".to_owned()]);
        assert_eq!(stage.seen(&mut one), "2 all", "{discard}");
    }
}

/// SET ... FROM CURRENT: a value of the transaction, of the server or of the role becomes the session's.
pub fn what_is_current_is_kept(stage: &Stage) {
    for (ways, wanted) in [
        ("SET LOCAL app.tenant = 'all'; SET app.tenant FROM CURRENT", "2 all"),
        ("SELECT set_config('app.tenant', 'all', true); SET SESSION app.tenant FROM CURRENT", "2 all"),
        ("SET LOCAL app.tenant = 'all'; SET LOCAL app.tenant FROM CURRENT", "0 none"),
        ("SAVEPOINT s; SET LOCAL app.tenant = 'all'; SET app.tenant FROM CURRENT; ROLLBACK TO s", "0 none"),
    ] {
        for first in ["SELECT 1", "SELECT count(*) FROM items"] {
            let mut one = stage.app();
            one.query("SET app.tenant = 'none'");
            one.query(&format!("BEGIN; {first}"));
            let said = one.query(ways);
            assert_eq!(code(&said), "no error", "{ways}: {said:?}");
            assert_eq!(one.query("COMMIT"), ["C COMMIT", "Z I"], "{ways}");
            assert_eq!(stage.seen(&mut one), wanted, "{ways} behind {first}");
        }
    }
    let mut one = stage.app();
    assert_eq!(one.query("SET LOCAL work_mem FROM CURRENT"), ["N 25P01", "C SET", "Z I"]);
    assert_eq!(one.query("SET role FROM CURRENT"), ["C SET", "Z I"]);
    assert_eq!(one.query("SET search_path FROM CURRENT"), ["C SET", "Z I"]);
    assert_eq!(one.query("SET NAMES"), ["C SET", "Z I"]);
    assert_eq!(code(&one.query("SET NAMES utf8")), "42601");
    assert_eq!(code(&one.query("SET nothing_such FROM CURRENT")), "42704");
    assert_eq!(row(&one.query("SELECT count(*) FROM items")), "0");
    // Who has logged in stays who he is.
    let other = [("session_authorization", "other")];
    let mut one = Wire::login_with(stage.port(), "postgres", &other);
    assert_eq!(row(&one.query("SELECT session_user || ' ' || current_user")), "postgres postgres");
}

/// Goal: settings that other statements than SET x set, or set several of, are carried as those. Method: what a worker's connection, which was
/// told later, says of them.
pub fn settings_by_other_names_are_carried(stage: &Stage) {
    let options = [("options", "-c statement_timeout=7s -c default_transaction_read_only=on")];
    let mut one = Wire::login_with(stage.port(), "postgres", &options);
    let there = |client: &mut Wire| {
        let settings = "current_setting('transaction_isolation') || ' ' || current_setting('transaction_read_only') || ' ' \
                        || current_setting('statement_timeout')";
        stage.tenants.map(|tenant| {
            let here = row(&client.query(&format!("SELECT {settings}")));
            let there = row(&client.query(&format!("SELECT {settings} FROM items WHERE tenant = {tenant} LIMIT 1")));
            assert_eq!(here, there);
            there
        })
    };
    for (sql, wanted) in [
        ("SELECT 1", "read committed on 7s"),
        // As JDBC does it.
        ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", "serializable on 7s"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "serializable off 7s"),
        ("SET default_transaction_read_only = on", "serializable on 7s"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE, ISOLATION LEVEL REPEATABLE READ",
            "repeatable read off 7s",
        ),
        ("RESET default_transaction_isolation", "read committed off 7s"),
        ("SET default_transaction_read_only TO DEFAULT", "read committed on 7s"),
        ("SET statement_timeout = '9s'", "read committed on 9s"),
        ("SET statement_timeout TO DEFAULT", "read committed on 7s"),
        // What is said of a transaction later than at its beginning, and of the one chained to it.
        ("BEGIN; SET LOCAL statement_timeout = '9s'; SET LOCAL statement_timeout TO DEFAULT", "read committed on 7s"),
        ("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ", "repeatable read on 7s"),
        ("ROLLBACK; BEGIN; SET TRANSACTION READ WRITE, ISOLATION LEVEL SERIALIZABLE", "serializable off 7s"),
        ("COMMIT AND CHAIN", "serializable off 7s"),
        ("ROLLBACK AND CHAIN", "serializable off 7s"),
        ("ROLLBACK; BEGIN; BEGIN READ WRITE, ISOLATION LEVEL SERIALIZABLE", "serializable off 7s"),
        ("ROLLBACK", "read committed on 7s"),
    ] {
        assert_eq!(code(&one.query(sql)), "no error", "{sql}");
        assert_eq!(there(&mut one), [wanted; 2], "{sql}");
    }
    // A value of several parts, of which a statement names one.
    let date = "SELECT '2024-02-03'::date::text FROM items WHERE tenant = 1 LIMIT 1";
    for (sql, wanted) in [
        ("SET datestyle = 'SQL, DMY'", "03/02/2024"),
        ("SET DateStyle TO German", "03.02.2024"),
        ("SET DateStyle TO SQL", "03/02/2024"),
        ("SET datestyle TO MDY", "02/03/2024"),
        ("RESET DateStyle", "2024-02-03"),
    ] {
        assert_eq!(code(&one.query(sql)), "no error", "{sql}");
        assert_eq!(row(&one.query(date)), wanted, "{sql}");
    }
    let mut two = Wire::login_with(stage.port(), "postgres", &[("TimeZone", "Asia/Tokyo")]);
    for sql in ["SET TIME ZONE 3", "SET TIME ZONE LOCAL"] {
        assert_eq!(code(&two.query(sql)), "no error", "{sql}");
    }
    let zone = "SELECT current_setting('TimeZone') FROM items WHERE tenant = 1 LIMIT 1";
    assert_eq!(row(&two.query(zone)), "Asia/Tokyo");
}

/// Goal: names mean what the search_path finds that is in force, however it came to be. Method: two tables of one name in two schemas, whose
/// rows say which one was read, of one tenant and of all.
pub fn names_follow_the_search_path(stage: &Stage) {
    for schema in ["north", "south"] {
        stage.served.psql(&format!("CREATE SCHEMA {schema}"));
        stage.served.psql(&format!("CREATE TABLE {schema}.places (tenant int, said text)"));
        stage.served.psql(&format!("SELECT create_distributed_table('{schema}.places', 'tenant')"));
        stage.served.psql(&format!("INSERT INTO {schema}.places VALUES (1, '{schema}')"));
    }
    let mut one = stage.superuser();
    one.query("SET search_path = north");
    for set in [
        "SET search_path = south",
        "SET LOCAL search_path = south",
        "SET SCHEMA 'south'",
        "SELECT set_config('search_path', 'south', false)",
        "SELECT set_config('search_path', 'south', true)",
    ] {
        for (ways, found) in [
            (vec!["BEGIN", "SAVEPOINT s", set], "south"),
            (vec!["BEGIN", "SAVEPOINT s", set, "RELEASE s"], "south"),
            (vec!["BEGIN", "SAVEPOINT s", set, "ROLLBACK TO s"], "north"),
            (vec!["BEGIN", "SAVEPOINT s", "SAVEPOINT r", set, "RELEASE r", "SELECT 1/0", "ROLLBACK TO s"], "north"),
            (vec!["BEGIN", set, "ROLLBACK"], "north"),
            (vec![&format!("{set}; SELECT 1/0")], "north"),
            (vec!["SELECT 1", &format!("SELECT 1; {set}; SELECT 1/0")], "north"),
        ] {
            for sql in &ways {
                one.query(sql);
            }
            for read in ["SELECT said FROM places WHERE tenant = 1", "SELECT max(said) FROM places"] {
                assert_eq!(row(&one.query(read)), found, "{read} behind {ways:?}");
            }
            one.query("ROLLBACK");
            assert_eq!(row(&one.query("SELECT said FROM places WHERE tenant = 1")), "north", "behind {ways:?}");
        }
    }
    for schema in ["north", "south"] {
        stage.served.psql(&format!("DROP TABLE {schema}.places"));
        stage.served.psql(&format!("DROP SCHEMA {schema}"));
    }
}

/// Goal: what is sent without a Sync in between is one transaction for settings too. Method: a policy shows a tenant's rows, or does not.
pub fn settings_of_a_pipeline_end_with_it(stage: &Stage) {
    let mut one = stage.app();
    let rows = "SELECT count(*) FROM items WHERE tenant = 1";
    for (statements, inside, behind) in [
        (vec!["SET LOCAL app.tenant = 'all'", rows], "3", "0 "),
        (vec!["SELECT set_config('app.tenant', 'all', true)", rows], "all 3", "0 "),
        (
            vec![rows, "SET LOCAL app.tenant = 'all'", rows, "INSERT INTO plain (said) VALUES ('x')", rows],
            "0 3 3",
            "0 ",
        ),
        (vec!["SET app.tenant = 'all'", rows, "SELECT 1/0"], "3", "0 "),
        (vec!["SELECT set_config('app.tenant', 'all', false)", rows, "SELECT 1/0"], "all 3", "0 "),
        (vec!["SET app.tenant = 'all'", rows], "3", "2 all"),
        (vec!["RESET app.tenant", rows, "SELECT 1/0"], "0", "2 all"),
        (vec!["RESET app.tenant"], "", "0 "),
        (vec!["SET app.tenant = 'all'"], "", "2 all"),
    ] {
        for sql in &statements {
            for message in [&format!("P - : {sql}"), "B - -", "E - 0"] {
                one.send(&frame(message));
            }
        }
        one.send(&frame("S"));
        let said: Vec<_> =
            one.answers_until("Z").iter().filter_map(|a| a.strip_prefix("D ").map(str::to_owned)).collect();
        assert_eq!(said.join(" "), inside, "{statements:?}");
        assert_eq!(stage.seen(&mut one), behind, "{statements:?}");
    }
}

pub fn settings_that_postgres_does_not_know_have_defaults(stage: &Stage) {
    let mut one = stage.app();
    let moves = "citus.max_background_task_executors_per_node";
    for (name, default, other) in [
        ("citus.shard_count", "32", "4"),
        (moves, "1", "3"),
        ("tenantry.read_from", "primary", "prefer_replica"),
        ("tenantry.pool_mode", "transaction", "session"),
    ] {
        let ask = |client: &mut Wire, value: &str, when: &str| {
            for sql in [
                format!("SHOW {name}"),
                format!("show {}", name.to_ascii_uppercase()),
                format!("SELECT current_setting('{name}')"),
                format!("SELECT pg_catalog.current_setting ('{}', true)", name.to_ascii_uppercase()),
                format!("PREPARE asks AS SELECT current_setting('{name}'); EXECUTE asks; DEALLOCATE asks"),
            ] {
                assert_eq!(row(&client.query(&sql)), value, "{when}: {sql}");
            }
        };
        ask(&mut one, default, "before");
        assert_eq!(one.query(&format!("SHOW {name}")), ["T 1", &format!("D {default}"), "C SHOW", "Z I"]);
        for undone in [format!("RESET {name}"), format!("SET {name} TO DEFAULT"), "DISCARD ALL".to_owned()] {
            one.query(&format!("SET {name} = '{other}'"));
            ask(&mut one, other, "set");
            assert_eq!(code(&one.query(&undone)), "no error", "{undone}");
            ask(&mut one, default, &undone);
        }
        // In a block, with what ends with it; nobody hears of it later.
        one.query("BEGIN");
        ask(&mut one, default, "in a block");
        one.query(&format!("SAVEPOINT a; SET LOCAL {name} = '{other}'"));
        ask(&mut one, other, "set in a block");
        one.query("ROLLBACK TO a");
        ask(&mut one, default, "back");
        one.query(&format!("SET {name} = '{other}'; COMMIT"));
        ask(&mut one, other, "committed");
        one.query(&format!("RESET {name}"));
        // A driver that describes the statement first, and one that describes its portal.
        let parsed = &*format!("P - : SHOW {name}");
        for messages in [[parsed, "D S -", "B - -", "E - 0", "S"], [parsed, "B - -", "D P -", "E - 0", "S"]] {
            for message in messages {
                one.send(&frame(message));
            }
            let said = one.answers_until("Z");
            let known = ["1", "2", "t 0", "T 1", &*format!("D {default}"), "C SHOW", "Z I"];
            assert!(said.contains(&"T 1".to_owned()) && said.iter().all(|frame| known.contains(&&**frame)), "{said:?}");
        }
        assert_eq!(code(&one.query("RESET citus.never; SHOW citus.unknown")), "42704");
    }
    // A role's own, and what those who begin with it hear.
    stage.served.psql("ALTER ROLE preset SET citus.shard_count = 7");
    let mut preset = Wire::login(stage.port(), "preset");
    assert_eq!(row(&preset.query("SHOW citus.shard_count")), "7");
    assert_eq!(row(&preset.query("SET citus.shard_count = 5; RESET citus.shard_count; SHOW citus.shard_count")), "7");
    stage.served.psql("ALTER ROLE preset RESET citus.shard_count");
    let mut owner = stage.superuser();
    owner.query("CREATE TABLE counted (tenant int)");
    for (count, wrong) in [("0", "22023"), ("64001", "22023"), ("-1", "22023"), ("many", "22023 or 22P02")] {
        owner.query(&format!("SET citus.shard_count = '{count}'"));
        for function in ["create_distributed_table", "create_distributed_table_concurrently"] {
            let said = code(&owner.query(&format!("SELECT {function}('counted', 'tenant')")));
            assert!(wrong.contains(&said), "{function} with {count}: {said}");
        }
    }
    assert_eq!(code(&owner.query("RESET citus.shard_count; DROP TABLE counted")), "no error");
}

/// Goal: pg_dump, which sets by this statement what not every server has, works.
pub fn a_setting_that_is_looked_up_is_carried(stage: &Stage) {
    let mut one = stage.superuser();
    let set = |name: &str| format!("SELECT set_config(name, '7MB', false) FROM pg_settings WHERE name = '{name}'");
    let seen = format!("SELECT current_setting('work_mem') FROM items WHERE tenant = {}", stage.tenants[1]);
    let before = row(&one.query(&seen));
    assert_eq!(code(&one.query(&set("no_such_setting"))), "no error");
    assert_eq!(row(&one.query(&seen)), before);
    assert_eq!(row(&one.query(&set("work_mem"))), "7MB");
    assert_eq!(row(&one.query(&seen)), "7MB");
}

pub fn what_cannot_be_carried_is_refused(stage: &Stage) {
    let mut one = stage.superuser();
    for sql in [
        "SELECT set_config(name, setting, false) FROM pg_settings WHERE name LIKE 'work_mem'",
        "SELECT set_config('app.tenant', 'all', id > 0) FROM plain",
        "SELECT set_config('app.tenant', 'a', true), set_config('app.tenant', 'b', false)",
        "SELECT set_config('app.tenant', 'all', false) FROM items",
        "SELECT set_config('app.tenant', 'all', false) FROM items WHERE tenant = 1",
        "COPY (SELECT set_config('app.tenant', 'all', false)) TO STDOUT",
        "EXPLAIN ANALYZE SELECT set_config('app.tenant', 'all', false)",
        "BEGIN; DECLARE c CURSOR FOR SELECT set_config('app.tenant', 'all', false)",
        "ROLLBACK; CREATE TABLE made AS SELECT set_config('app.tenant', 'all', false)",
        "UPDATE pg_settings SET setting = '9MB' WHERE name = 'work_mem'",
        "UPDATE pg_catalog.pg_settings SET setting = 'all' WHERE name = 'app.tenant'",
        "SELECT * FROM pg_prepared_statement()",
        "SELECT count(*) FROM items, pg_prepared_statement()",
        "SELECT count(*) FROM items, pg_prepared_statements",
        "CREATE VIEW made AS SELECT * FROM pg_prepared_statements",
        "SELECT U&\"set!005fconfig\" UESCAPE '!' ('app.tenant', 'all', false)",
        "SELECT query_to_xml('SELECT hide()', true, false, '') FROM items WHERE tenant = 1",
    ] {
        assert_eq!(code(&one.query(sql)), "0A000", "{sql}");
    }
    one.query("ROLLBACK");
    assert_eq!(row(&one.query("SELECT current_setting('work_mem')")), "4MB");
}
