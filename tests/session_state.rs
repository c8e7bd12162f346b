//! Session state follows the client and reaches nobody else: two or more clients share pools of three connections in
//! front of a coordinator and two workers.

#[path = "session_state/cursors.rs"]
mod cursors;
#[path = "session_state/statements.rs"]
mod statements;
mod support;
#[path = "session_state/texts.rs"]
mod texts;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use std::time::Duration;

use support::served::Served;
use wire::{Wire, frame, startup_packet};

/// One thread, so that all clients share one pool for each node.
const CONFIG: &str =
    "[limits]\nstatements = 40\n[pool]\nsize = 3\ncheckout_timeout = \"3s\"\nprepared_statements = 20\n";

/// One cluster for the whole file. The test that holds it runs every part in turn, so that it ends with them.
#[test]
fn state_of_a_session_is_its_own_and_follows_it() {
    let stage = Stage::start();
    policies_see_the_settings_of_their_client(&stage);
    settings_end_where_postgres_ends_them(&stage);
    settings_by_other_names_are_carried(&stage);
    names_follow_the_search_path(&stage);
    settings_of_a_pipeline_end_with_it(&stage);
    what_the_client_is_told_of_settings_stays_right(&stage);
    backslashes_are_letters(&stage);
    what_cannot_be_carried_is_refused(&stage);
    hidden_state_reaches_nobody(&stage);
    roles_follow_their_client(&stage);
    defaults_of_a_role_reach_its_next_login(&stage);
    texts::texts_mean_what_postgres_reads(&stage);
    what_pins_is_let_go_of_when_it_is_gone(&stage);
    sequences_values_are_the_transactions_own(&stage);
    an_idle_listener_is_notified(&stage);
    statements::names_of_prepared_statements_are_the_clients_own(&stage);
    statements::a_client_is_shown_what_it_has_prepared(&stage);
    statements::servers_keep_a_bounded_number_of_statements(&stage);
    statements::a_changed_table_is_noticed_by_prepared_statements(&stage);
    cursors::many_tenants_can_be_read_in_read_only_transactions(&stage);
    cursors::cursors_stay_open_beside_other_queries(&stage);
    texts::nothing_of_a_text_is_too_deep_or_too_long(&stage);
}

struct Stage {
    served: Served,
    /// Two tenants of `items` that live on different workers.
    tenants: [u32; 2],
}

impl Stage {
    fn start() -> Self {
        let served = Served::start_with(2, 1, CONFIG);
        for sql in [
            "CREATE TABLE items (tenant int, id int, name text, PRIMARY KEY (tenant, id))",
            "SELECT create_distributed_table('items', 'tenant')",
            "INSERT INTO items SELECT t, i, 'name ' || i FROM generate_series(1, 40) t, generate_series(1, 3) i",
            "CREATE TABLE plain (id serial, said text)",
            "CREATE TABLE triggered (id int)",
            "CREATE ROLE app LOGIN",
            "CREATE ROLE other NOLOGIN",
            "CREATE ROLE preset LOGIN",
            "GRANT other TO app",
            "GRANT SELECT, INSERT ON items TO app",
            "GRANT SELECT ON items TO other",
            "GRANT SELECT ON items TO preset",
            "GRANT ALL ON plain TO app",
            "GRANT ALL ON triggered TO app",
            "GRANT ALL ON SEQUENCE plain_id_seq TO app",
            "ALTER ROLE preset SET app.tenant = 'all'",
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY own ON items USING (current_setting('app.tenant', true) IN (tenant::text, 'all'))",
            "CREATE FUNCTION hide() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
               PERFORM set_config('app.tenant', 'all', false); PERFORM set_config('work_mem', '9MB', false);
               PERFORM pg_advisory_lock(99); RETURN 1; END $$",
            "CREATE FUNCTION calls_hide() RETURNS int LANGUAGE sql AS 'SELECT hide()'",
            "CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM hide(); RETURN NEW; END $$",
            "CREATE TRIGGER hidden BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION on_insert()",
            "CREATE VIEW viewed AS SELECT hide() AS seen",
            "GRANT SELECT ON viewed TO app",
        ] {
            served.psql(sql);
        }
        let node_of = |tenant: u32| {
            served.psql(&format!(
                "SELECT nodeport FROM pg_dist_shard_placement \
                 WHERE shardid = get_shard_id_for_distribution_column('items', {tenant})"
            ))
        };
        let there = (2..40).find(|t| node_of(*t) != node_of(1)).expect("two workers have shards");
        Self { served, tenants: [1, there] }
    }

    fn port(&self) -> u16 {
        self.served.proxy_port(0)
    }

    fn app(&self) -> Wire {
        Wire::login(self.port(), "app")
    }

    fn superuser(&self) -> Wire {
        Wire::login(self.port(), "postgres")
    }

    /// How many of the two tenants, on two workers, a policy shows; and the setting on the coordinator.
    fn seen(&self, client: &mut Wire) -> String {
        let mut seen = 0;
        for tenant in self.tenants {
            let answer = client.query(&format!("SELECT count(*) FROM items WHERE tenant = {tenant}"));
            seen += i32::from(answer.contains(&"D 3".to_owned()));
        }
        let here = row(&client.query("SELECT current_setting('app.tenant', true)"));
        format!("{seen} {here}")
    }
}

/// The first row of an answer; the whole answer when there is none.
fn row(answer: &[String]) -> String {
    let first = answer.iter().find_map(|a| a.strip_prefix('D'));
    first.map_or_else(|| answer.join(" "), |row| row.trim_start().to_owned())
}

fn code(answer: &[String]) -> String {
    answer.iter().find_map(|a| a.strip_prefix("E ")).unwrap_or("no error").to_owned()
}

fn policies_see_the_settings_of_their_client(stage: &Stage) {
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
fn settings_end_where_postgres_ends_them(stage: &Stage) {
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
    for discard in ["DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES"] {
        one.query("SET app.tenant = 'all'");
        let said = one.query(discard);
        assert_eq!(said, [format!("C {discard}"), "Z I".to_owned()]);
        assert_eq!(stage.seen(&mut one), "2 all", "{discard}");
    }
}

/// Goal: settings that other statements than SET x set, or set several of, are carried as those. Method: what a worker's connection, which was
/// told later, says of them.
fn settings_by_other_names_are_carried(stage: &Stage) {
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
fn names_follow_the_search_path(stage: &Stage) {
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
fn settings_of_a_pipeline_end_with_it(stage: &Stage) {
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

/// Threat T29 of docs/threats.md.
fn what_the_client_is_told_of_settings_stays_right(stage: &Stage) {
    let told = |answer: Vec<(u8, Vec<u8>)>| {
        let parameters = answer.into_iter().filter(|(tag, _)| *tag == b'S');
        parameters
            .map(|(_, p)| String::from_utf8_lossy(&p).replace('\0', " ").trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let mut one = stage.app();
    let mut two = Wire::login_with(stage.port(), "app", &[("application_name", "two"), ("TimeZone", "Asia/Tokyo")]);
    one.send(&frame("Q SET application_name = 'one'"));
    assert_eq!(told(one.frames_until_ready()), ["application_name one"]);
    one.send(&frame("Q SELECT set_config('timezone', 'Europe/Berlin', false)"));
    assert_eq!(told(one.frames_until_ready()), ["TimeZone Europe/Berlin"]);
    for _ in 0..3 {
        // Whatever the connections carried for the other client, nobody hears of it.
        for (client, name, zone) in [(&mut one, "one", "Europe/Berlin"), (&mut two, "two", "Asia/Tokyo")] {
            client.send(&frame("Q SELECT current_setting('application_name'), current_setting('timezone')"));
            let frames = client.frames_until_ready();
            let row = frames.iter().find(|(tag, _)| *tag == b'D').map(|(_, p)| wire::values(p).join(","));
            assert_eq!(row, Some(format!("{name},{zone}")));
            assert_eq!(told(frames), Vec::<String>::new());
        }
    }
    // What a rollback takes back the client is told again.
    one.query("BEGIN; SET application_name = 'inside'");
    one.send(&frame("Q ROLLBACK"));
    assert_eq!(told(one.frames_until_ready()), ["application_name one"]);
    one.send(&frame("Q DISCARD ALL"));
    let mut said = told(one.frames_until_ready());
    said.sort();
    let zone = stage.served.psql("SHOW timezone");
    assert!(said.contains(&"application_name tenantry".to_owned()), "{said:?}");
    assert!(said.contains(&format!("TimeZone {zone}")), "{said:?}");
    two.send(&frame("Q SELECT 1"));
    assert_eq!(told(two.frames_until_ready()), Vec::<String>::new());
    assert_eq!(code(&one.query("SET client_encoding = 'SJIS'")), "0A000");
    assert_eq!(code(&one.query("SELECT set_config('client_encoding', 'GBK', false)")), "0A000");
    assert_eq!(code(&one.query("SET NAMES 'BIG5'")), "0A000");
    // The same bytes are another name there, of a tenant that may live elsewhere.
    assert_eq!(code(&one.query("SET client_encoding = 'LATIN1'")), "0A000");
    assert_eq!(code(&one.query("SELECT set_config('client_encoding', 'win1252', false)")), "0A000");
    assert_eq!(code(&one.query("SET standard_conforming_strings = off")), "0A000");
    assert_eq!(code(&one.query("SELECT set_config('standard_conforming_strings', 'off', false)")), "0A000");
}

/// Goal: no way is left in which a server reads a text by other rules than the proxy. Method: a role whose default they are on every
/// server, made behind the proxy's back, and a client that asks for them in its first packet.
fn backslashes_are_letters(stage: &Stage) {
    stage.served.psql("CREATE ROLE legacy LOGIN");
    stage.served.psql("GRANT SELECT ON items TO legacy");
    let workers = [stage.served.worker_dsn(0), stage.served.worker_dsn(1)];
    for dsn in workers.iter().chain([&stage.served.coordinator_dsn()]) {
        support::psql(dsn, "ALTER ROLE legacy SET standard_conforming_strings = off");
    }
    let mut legacy = Wire::login(stage.port(), "legacy");
    assert_eq!(row(&legacy.query("SELECT 'a\\', 'b'")), "a\\,b");
    let of_tenant = "SELECT count(*), 'c\\' FROM items WHERE tenant = 1 AND name <> 'd\\'";
    assert_eq!(row(&legacy.query(of_tenant)), "0,c\\");
    legacy.query("RESET standard_conforming_strings");
    assert_eq!(row(&legacy.query("SELECT 'a\\', 'b'")), "a\\,b");
    for value in ["off", "f", "of", "no", "0"] {
        let mut asking = Wire::connect(stage.port());
        let option = format!("-c standard_conforming_strings={value}");
        let parameters = [("user", "app"), ("database", "postgres"), ("options", option.as_str())];
        asking.send(&startup_packet(3 << 16, &parameters));
        assert!(asking.rest_without_parameters().contains(&"E 0A000".to_owned()), "{value}");
    }
}

fn what_cannot_be_carried_is_refused(stage: &Stage) {
    let mut one = stage.superuser();
    for sql in [
        "SELECT set_config(name, setting, false) FROM pg_settings WHERE name = 'work_mem'",
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

/// Threat T32 of docs/threats.md.
fn hidden_state_reaches_nobody(stage: &Stage) {
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

/// Threat T37 of docs/threats.md.
fn roles_follow_their_client(stage: &Stage) {
    let mut one = stage.app();
    let mut two = stage.app();
    let who = |client: &mut Wire| {
        let there = stage.tenants.map(|tenant| {
            row(&client.query(&format!(
                "SELECT current_user || ' ' || session_user FROM items WHERE tenant = {tenant} LIMIT 1"
            )))
        });
        format!("{} {}", row(&client.query("SELECT current_user || ' ' || session_user")), there.join(" "))
    };
    for client in [&mut one, &mut two] {
        client.query("SET app.tenant = 'all'");
    }
    assert_eq!(code(&one.query("SET ROLE other")), "no error");
    assert_eq!(who(&mut one), "other app other app other app");
    assert_eq!(who(&mut two), "app app app app app app");
    one.query("RESET ROLE");
    assert_eq!(who(&mut one), "app app app app app app");
    one.query("BEGIN; SET LOCAL ROLE other");
    assert_eq!(who(&mut one), "other app other app other app");
    one.query("COMMIT");
    assert_eq!(who(&mut one), "app app app app app app");
    assert_eq!(code(&one.query("SELECT set_config('role', 'other', false)")), "no error");
    assert_eq!(who(&mut one), "other app other app other app");
    one.query("RESET ALL");
    one.query("SET app.tenant = 'all'");
    assert_eq!(who(&mut one), "other app other app other app", "RESET ALL leaves the role");
    one.query("DISCARD ALL");
    one.query("SET app.tenant = 'all'");
    assert_eq!(who(&mut one), "app app app app app app");
    for escape in
        ["SET ROLE postgres", "SET SESSION AUTHORIZATION postgres", "SELECT set_config('role', 'postgres', false)"]
    {
        assert_eq!(code(&one.query(escape)), "42501", "{escape}");
    }
    assert_eq!(who(&mut one), "app app app app app app");
    let mut boss = stage.superuser();
    assert_eq!(code(&boss.query("SET SESSION AUTHORIZATION app")), "no error");
    boss.query("SET app.tenant = 'all'");
    assert_eq!(who(&mut boss), "app app app app app app");
    assert_eq!(who(&mut stage.superuser()), "postgres postgres postgres postgres postgres postgres");
    assert_eq!(code(&boss.query("SET ROLE other")), "no error");
    assert_eq!(who(&mut boss), "other app other app other app", "a role behind an identity");
    assert_eq!(code(&boss.query("SET SESSION AUTHORIZATION app")), "no error");
    assert_eq!(who(&mut boss), "app app app app app app", "an identity ends the role");
    boss.query("SET ROLE other");
    boss.query("RESET SESSION AUTHORIZATION");
    assert_eq!(who(&mut boss), "postgres postgres postgres postgres postgres postgres");
    // Row security with statements that servers keep: the plan is not the other role's.
    for (client, role) in [(&mut stage.app(), "app"), (&mut stage.superuser(), "postgres")] {
        for message in ["P s : SELECT count(*) FROM items WHERE tenant = $1", "B - s : 1", "E - 0", "S"] {
            client.send(&frame(message));
        }
        assert_eq!(row(&client.answers_until("Z")), if role == "app" { "0" } else { "3" });
        if role == "postgres" {
            client.query("SET ROLE app");
            for message in ["B - s : 1", "E - 0", "S"] {
                client.send(&frame(message));
            }
            assert_eq!(row(&client.answers_until("Z")), "0");
        }
    }
}

fn defaults_of_a_role_reach_its_next_login(stage: &Stage) {
    let mut boss = stage.superuser();
    for (sql, seen) in [
        ("ALTER ROLE preset SET app.tenant = 'none'", "0 none"),
        ("ALTER ROLE preset RESET ALL; ALTER DATABASE postgres SET app.tenant = 'all'", "2 all"),
        ("ALTER DATABASE postgres RESET app.tenant; ALTER ROLE preset SET app.tenant = 'all'", "2 all"),
    ] {
        assert_eq!(code(&boss.query(sql)), "no error", "{sql}");
        // More often than there are connections.
        for _ in 0..4 {
            assert_eq!(stage.seen(&mut Wire::login(stage.port(), "preset")), seen, "{sql}");
        }
    }
    // What the proxy itself goes by does not stay what it was for those who logged in before.
    for (sql, found) in [("SET search_path = nowhere", "42P01"), ("RESET search_path", "no error")] {
        assert_eq!(code(&boss.query(&format!("ALTER ROLE preset {sql}"))), "no error");
        for _ in 0..4 {
            let mut client = Wire::login(stage.port(), "preset");
            assert_eq!(code(&client.query("SELECT name FROM items WHERE tenant = 1")), found, "{sql}");
        }
    }
}

/// Threats T38, T39 of docs/threats.md.
fn what_pins_is_let_go_of_when_it_is_gone(stage: &Stage) {
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

fn sequences_values_are_the_transactions_own(stage: &Stage) {
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
fn an_idle_listener_is_notified(stage: &Stage) {
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
