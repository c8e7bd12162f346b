//! No setting, whoever makes it, changes by which rules a text is read.

use super::{Stage, code, row};
use crate::support;
use crate::wire::{Wire, frame, startup_packet};

/// Threat T29 of docs/threats.md.
pub fn encodings_are_those_that_texts_are_read_in(stage: &Stage) {
    let mut one = stage.app();
    assert_eq!(code(&one.query("SET client_encoding = 'SJIS'")), "0A000");
    assert_eq!(code(&one.query("SELECT set_config('client_encoding', 'GBK', false)")), "0A000");
    assert_eq!(code(&one.query("SET NAMES 'BIG5'")), "0A000");
    // The same bytes are another name there, of a tenant that may live elsewhere.
    assert_eq!(code(&one.query("SET client_encoding = 'LATIN1'")), "0A000");
    assert_eq!(code(&one.query("SELECT set_config('client_encoding', 'win1252', false)")), "0A000");
    // What Postgres does not know either is its error.
    for unknown in
        ["SET client_encoding = 'UTF9'", "SET NAMES ''", "SELECT set_config('client_encoding', 'auto', false)"]
    {
        assert_eq!(code(&one.query(unknown)), "22023", "{unknown}");
    }
    let mut asking = Wire::connect(stage.port());
    let parameters = [("user", "app"), ("database", "postgres"), ("client_encoding", "UTF9")];
    asking.send(&startup_packet(3 << 16, &parameters));
    assert!(asking.rest_without_parameters().contains(&"E 22023".to_owned()));
    assert_eq!(code(&one.query("SET standard_conforming_strings = off")), "0A000");
    assert_eq!(code(&one.query("SELECT set_config('standard_conforming_strings', 'off', false)")), "0A000");
}

/// Goal: no way is left in which a server reads a text by other rules than the proxy. Method: a role whose default they are on every
/// server, made behind the proxy's back, and a client that asks for them in its first packet.
pub fn backslashes_are_letters(stage: &Stage) {
    stage.served.psql("CREATE ROLE legacy LOGIN");
    stage.served.psql("GRANT SELECT ON items TO legacy");
    let workers = [stage.served.worker_dsn(0), stage.served.worker_dsn(1)];
    for dsn in workers.iter().chain([&stage.served.coordinator_dsn()]) {
        support::psql(dsn, "ALTER ROLE legacy SET standard_conforming_strings = off");
    }
    // A change of another default through the proxy, which reads all of them then.
    stage.served.psql("ALTER ROLE legacy SET work_mem = '7MB'");
    let mut legacy = Wire::login(stage.port(), "legacy");
    assert_eq!(row(&legacy.query("SELECT 'a\\', 'b'")), "a\\,b");
    let of_tenant = "SELECT count(*), 'c\\' FROM items WHERE tenant = 1 AND name <> 'd\\'";
    assert_eq!(row(&legacy.query(of_tenant)), "0,c\\");
    legacy.query("RESET standard_conforming_strings");
    assert_eq!(row(&legacy.query("SELECT 'a\\', 'b'")), "a\\,b");
    // Nor is it kept by who began with it.
    for dsn in workers.iter().chain([&stage.served.coordinator_dsn()]) {
        support::psql(dsn, "ALTER ROLE legacy RESET standard_conforming_strings");
    }
    stage.served.psql("ALTER ROLE legacy SET work_mem = '8MB'");
    for sql in ["SHOW work_mem", "RESET ALL"] {
        legacy.query(sql);
        assert_eq!(row(&legacy.query("SELECT 'a\\', 'b', current_setting('work_mem')")), "a\\,b,7MB", "{sql}");
    }
    for value in ["off", "f", "of", "no", "0"] {
        let mut asking = Wire::connect(stage.port());
        let option = format!("-c standard_conforming_strings={value}");
        let parameters = [("user", "app"), ("database", "postgres"), ("options", option.as_str())];
        asking.send(&startup_packet(3 << 16, &parameters));
        assert!(asking.rest_without_parameters().contains(&"E 0A000".to_owned()), "{value}");
    }
}

/// Threats T28 and T29 of docs/threats.md: a function turns what the proxy reads texts by. It is put back before the next one comes.
pub fn hidden_code_does_not_change_how_texts_are_read(stage: &Stage) {
    for (mut one, hides) in readers(stage) {
        for (begin, end) in [("SELECT 1", "SELECT 1"), ("BEGIN", "COMMIT"), ("BEGIN", "ROLLBACK")] {
            one.query(begin);
            for hides in [hides.clone(), hides.replace("unread()", "unread() FROM items WHERE tenant = 1 LIMIT 1")] {
                assert_eq!(code(&one.query(&hides)), "no error");
                for (name, value) in [("standard_conforming_strings", "on"), ("client_encoding", "UTF8")] {
                    assert_eq!(
                        one.told.get(name).map(String::as_str),
                        Some(value),
                        "{begin}, {hides}: the client knows"
                    );
                    assert_eq!(row(&one.query(&format!("SHOW {name}"))), value, "{begin}");
                }
                assert_eq!(row(&one.query("SELECT 'a\\', 'b', 'ä'")), "a\\,b,ä", "{begin}");
                let of_tenant = "SELECT count(*), 'c\\' FROM items WHERE tenant = 1 AND name <> 'd\\'";
                assert_eq!(row(&one.query(of_tenant)), "3,c\\", "{begin}");
            }
            one.query(end);
            assert_eq!(row(&one.query("SELECT 'a\\', 'b', 'ä'")), "a\\,b,ä", "{end}");
        }
    }
    stage.served.psql("DROP FUNCTION unread()");
}

/// Clients, who keep their servers and who do not, and what sets what texts are read by where nobody looks into: a block, and a function.
fn readers(stage: &Stage) -> Vec<(Wire, String)> {
    let sets =
        "set_config('standard_conforming_strings', 'off', false), set_config('client_encoding', 'latin1', false)";
    let body = format!("BEGIN PERFORM {sets}; RETURN 1; END");
    stage.served.psql(&format!("CREATE OR REPLACE FUNCTION unread() RETURNS int LANGUAGE plpgsql AS $$ {body} $$"));
    let mut readers = Vec::new();
    for hides in [format!("DO $$ BEGIN PERFORM {sets}; END $$"), "SELECT unread()".to_owned()] {
        for mode in ["transaction", "session"] {
            let options = [("options", &*format!("-c tenantry.pool_mode={mode}"))];
            readers.push((Wire::login_with(stage.port(), "postgres", &options), hides.clone()));
        }
    }
    readers
}

/// Threats T28 and T29 of docs/threats.md: the same for what comes in one packet with it, whose answers nobody waits for.
pub fn hidden_code_does_not_change_how_the_rest_of_a_packet_is_read(stage: &Stage) {
    let text = "= SELECT 'a\\', 'b', 'ä'";
    let of_tenant = "= SELECT count(*), 'a\\', 'b', 'ä' FROM items WHERE tenant = 1 AND name <> 'd\\'";
    let of_all = "= SELECT count(*), 'a\\', 'b', 'ä' FROM items WHERE name <> 'd\\'";
    let parsed = "P s : SELECT 'a\\', $1::text";
    for (mut one, statement) in readers(stage) {
        one.send(&[frame(&parsed.replace("P s", "P known")), frame("S")].concat());
        one.answers_until("Z");
        let hides = &*format!("= {statement}");
        for (rest, wanted) in [
            (&[text][..], "a\\,b,ä"),
            (&[text, "H", hides, text], "a\\,b,ä"),
            (&[of_tenant], "3,a\\,b,ä"),
            (&[of_all], "120,a\\,b,ä"),
            (&[parsed, "B - s : ä", "E - 0", "C S s"], "a\\,ä"),
            (&[parsed, "D S s", "B - s : ä", "E - 0", "C S s"], "a\\,ä"),
            (&["B - known : ä", "E - 0"], "a\\,ä"),
            (&["= SET app.said = 'ä\\'", "= SHOW app.said"], "ä\\"),
            (&["= SAVEPOINT s", text], "a\\,b,ä"),
            (&["= SAVEPOINT s", hides, "= ROLLBACK TO s", text], "a\\,b,ä"),
        ] {
            for (begin, end) in [("BEGIN", "COMMIT"), ("BEGIN", "ROLLBACK"), ("SELECT 1", "SELECT 1")] {
                if rest[0].contains("SAVEPOINT") && begin != "BEGIN" {
                    continue;
                }
                one.query(begin);
                for _ in 0..2 {
                    let messages = [&[hides], rest, &["S"]].concat();
                    one.send(&messages.iter().flat_map(|line| frame(line)).collect::<Vec<_>>());
                    let said = one.answers_until("Z");
                    let last = said.iter().rfind(|answer| answer.starts_with('D')).cloned();
                    assert_eq!(last, Some(format!("D {wanted}")), "{begin}, {hides}, {rest:?}: {said:?}");
                    assert_eq!(code(&said), "no error", "{begin}, {hides}, {rest:?}: {said:?}");
                    for (name, value) in [("standard_conforming_strings", "on"), ("client_encoding", "UTF8")] {
                        let told = one.told.get(name).map(String::as_str);
                        assert_eq!(told, Some(value), "{begin}, {hides}, {rest:?}: the client knows");
                    }
                }
                one.query(end);
                assert_eq!(row(&one.query("SELECT 'a\\', 'b', 'ä'")), "a\\,b,ä", "{end}");
            }
        }
        // Several statements of one Query.
        for rest in [text, of_tenant] {
            let said = one.query(&format!("{statement}; {}", &rest[2..]));
            assert!(said.iter().any(|answer| answer.ends_with("a\\,b,ä")), "{statement}: {said:?}");
        }
    }
    stage.served.psql("DROP FUNCTION unread()");
}
