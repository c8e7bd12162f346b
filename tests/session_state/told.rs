//! What a client is told of settings (ParameterStatus): what its next statement runs with, and once.

use super::{Stage, row};
use crate::wire::{self, Wire, frame};

pub fn what_the_client_is_told_of_settings_stays_right(stage: &Stage) {
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
    // RESET goes to what it has connected with, and tells of nothing else on the way.
    for (sql, wanted) in [
        ("SET timezone = 'UTC'", &["TimeZone UTC"][..]),
        ("RESET timezone", &["TimeZone Asia/Tokyo"]),
        ("RESET timezone", &[]),
        ("SET timezone TO DEFAULT", &[]),
        ("BEGIN; SET timezone = 'UTC'; SAVEPOINT s; RESET ALL", &["TimeZone Asia/Tokyo"]),
        ("ROLLBACK TO s", &["TimeZone UTC"]),
        ("RESET timezone; COMMIT", &["TimeZone Asia/Tokyo"]),
        ("SHOW timezone", &[]),
    ] {
        two.send(&frame(&format!("Q {sql}")));
        let frames = two.frames_until_ready();
        assert!(frames.iter().all(|(tag, _)| *tag != b'E'), "{sql}: {frames:?}");
        let mut said = told(frames);
        // In one packet it hears of each step.
        let steps = sql.matches(';').count();
        assert_eq!(said.split_off(said.len().saturating_sub(1).min(steps)), wanted, "{sql}");
    }
    assert_eq!(row(&two.query("SHOW timezone")), "Asia/Tokyo");
    let tag = |answer: Vec<String>| answer.into_iter().find(|said| said.starts_with('C'));
    assert_eq!(tag(two.query("SET timezone TO DEFAULT")).as_deref(), Some("C SET"));
    assert_eq!(tag(two.query("RESET ALL")).as_deref(), Some("C RESET"));
    two.send(&frame("Q SELECT 1"));
    assert_eq!(told(two.frames_until_ready()), Vec::<String>::new());
    // What code sets that nobody looks into is told once, by whichever server ran it.
    stage.served.psql(
        "CREATE FUNCTION zoned(zone text) RETURNS int LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('TimeZone', zone, false); RETURN 1; END $$",
    );
    let mut three = stage.superuser();
    for (n, from) in
        ["", "FROM items WHERE tenant = 1 AND id = 1", "FROM items WHERE tenant = 2 AND id = 1"].iter().enumerate()
    {
        for (before, after) in [("SELECT 1", "SELECT 1"), ("BEGIN", "COMMIT")] {
            three.query("SET timezone = 'UTC'");
            three.query(before);
            let zone = format!("Etc/GMT+{}", n + 1);
            three.send(&frame(&format!("Q SELECT zoned('{zone}') {from}")));
            assert_eq!(told(three.frames_until_ready()), [format!("TimeZone {zone}")], "{before} {from}");
            three.send(&frame(&format!("Q {after}")));
            assert_eq!(told(three.frames_until_ready()), Vec::<String>::new(), "{before} {from}");
            assert_eq!(row(&three.query("SHOW timezone")), zone);
        }
    }
    stage.served.psql("DROP FUNCTION zoned(text)");
}

/// Goal: a client reads dates and times by what it was told last, so that is how servers write them, whatever code of somebody's has set.
/// Method: what it was told, and what the coordinator and a worker say, behind a function that sets two settings for the session, and one
/// that sets them for the transaction.
pub fn what_hidden_code_sets_is_what_the_client_is_told(stage: &Stage) {
    for (name, is_local) in [("elsewhere", false), ("meanwhile", true)] {
        let sets = format!(
            "set_config('TimeZone', 'Asia/Tokyo', {is_local}), set_config('DateStyle', 'German, DMY', {is_local})"
        );
        let body = format!("BEGIN PERFORM {sets}; RETURN 1; END");
        stage.served.psql(&format!("CREATE FUNCTION {name}() RETURNS int LANGUAGE plpgsql AS $$ {body} $$"));
    }
    let check = |one: &mut Wire, zone: &str, style: &str, when: &str| {
        for (name, wanted) in [("TimeZone", zone), ("DateStyle", style)] {
            let shown = format!("current_setting('{name}')");
            for from in ["", "FROM items WHERE tenant = 1 LIMIT 1"] {
                assert_eq!(row(&one.query(&format!("SELECT {shown} {from}"))), wanted, "{from}: {when}");
            }
            assert_eq!(one.told.get(name).map(String::as_str), Some(wanted), "told: {when}");
        }
    };
    let (tokyo, berlin) = (("Asia/Tokyo", "German, DMY"), ("Europe/Berlin", "SQL, DMY"));
    let there = "FROM items WHERE tenant = 1 LIMIT 1";
    for mode in ["transaction", "session"] {
        let options = [("options", &*format!("-c tenantry.pool_mode={mode}"))];
        let mut one = Wire::login_with(stage.port(), "postgres", &options);
        for (texts, inside, behind) in [
            (vec!["SELECT elsewhere()"], None, tokyo),
            (vec!["SELECT meanwhile()"], None, berlin),
            (vec!["DO $$ BEGIN PERFORM elsewhere(); END $$"], None, tokyo),
            (vec![&format!("SELECT elsewhere() {there}")], None, tokyo),
            (vec!["SELECT max(elsewhere()) FROM items"], None, tokyo),
            (vec!["SELECT elsewhere(); SELECT 1"], None, tokyo),
            (vec!["SELECT elsewhere(); SELECT 1/0"], None, berlin),
            (vec!["BEGIN", "SELECT elsewhere()", "COMMIT"], Some(tokyo), tokyo),
            (vec!["BEGIN", "SELECT elsewhere()", "ROLLBACK"], Some(tokyo), berlin),
            (vec!["BEGIN", "SELECT meanwhile()", "COMMIT"], Some(tokyo), berlin),
            (vec!["BEGIN", &format!("SELECT elsewhere() {there}"), "COMMIT"], Some(tokyo), tokyo),
            (vec!["BEGIN", &format!("SELECT meanwhile() {there}"), "COMMIT"], Some(tokyo), berlin),
            (
                vec!["BEGIN", "SAVEPOINT s", &format!("SELECT elsewhere() {there}"), "ROLLBACK TO s", "COMMIT"],
                Some(berlin),
                berlin,
            ),
            (
                vec!["BEGIN", "SELECT elsewhere()", "SAVEPOINT s", "SELECT 1/0", "ROLLBACK TO s", "COMMIT"],
                Some(tokyo),
                tokyo,
            ),
            (vec!["BEGIN", "SET TimeZone = 'UTC'", "SELECT elsewhere()", "ROLLBACK"], Some(tokyo), berlin),
            (vec!["BEGIN", "SELECT elsewhere()", "SET TimeZone = 'UTC'", "COMMIT"], None, ("UTC", "German, DMY")),
            (vec!["SELECT elsewhere()", "SET TimeZone = 'UTC'"], None, ("UTC", "German, DMY")),
        ] {
            one.query("SET TimeZone = 'Europe/Berlin'; SET DateStyle = 'SQL, DMY'");
            for (at, sql) in texts.iter().enumerate() {
                one.query(sql);
                // Before the block's end.
                if let Some((zone, style)) = inside.filter(|_| at + 2 == texts.len()) {
                    check(&mut one, zone, style, &format!("in {texts:?}, {mode}"));
                }
            }
            one.query("COMMIT");
            check(&mut one, behind.0, behind.1, &format!("{texts:?}, {mode}"));
            one.query("DISCARD ALL");
            let zone = row(&one.query("SHOW TimeZone"));
            check(&mut one, &zone, "ISO, MDY", &format!("nothing of {texts:?} stays, {mode}"));
        }
        one.query("SELECT elsewhere()");
        let mut other = Wire::login(stage.port(), "postgres");
        let zone = row(&other.query("SHOW TimeZone"));
        assert_ne!(zone, tokyo.0);
        check(&mut other, &zone, "ISO, MDY", "another's");
    }
    for name in ["elsewhere", "meanwhile"] {
        stage.served.psql(&format!("DROP FUNCTION {name}()"));
    }
}

/// Goal: who counts what it hears hears of a change once, whichever servers have made it and said so. Method: blocks of several servers, and
/// of savepoints, by SET and by a function that nobody looks into; what is said with each statement.
pub fn a_change_is_told_once(stage: &Stage) {
    stage.served.psql(
        "CREATE FUNCTION zoned(zone text) RETURNS int LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('TimeZone', zone, false); RETURN 1; END $$",
    );
    let at = stage.tenants.map(|tenant| format!("FROM items WHERE tenant = {tenant} AND id = 1"));
    let [here, there] = at.map(|from| move |zone: &str| format!("SELECT zoned('{zone}') {from}"));
    let both = "SELECT count(zoned('Asia/Tokyo')) FROM items".to_owned();
    let [utc, set] = ["UTC", "Asia/Tokyo"].map(|zone| format!("SET TimeZone = '{zone}'"));
    let (first, second) = (here("Asia/Tokyo"), there("Asia/Tokyo"));
    for statements in [
        &[("BEGIN", ""), (&*first, "Asia/Tokyo"), (&*second, ""), ("COMMIT", "")][..],
        &[("BEGIN", ""), (&second, "Asia/Tokyo"), ("SELECT zoned('Asia/Tokyo')", ""), ("COMMIT", "")],
        &[("BEGIN", ""), (&both, "Asia/Tokyo"), (&first, ""), ("COMMIT", "")],
        &[("BEGIN", ""), (&set, "Asia/Tokyo"), (&first, ""), (&second, ""), ("COMMIT", "")],
        &[("BEGIN", ""), (&first, "Asia/Tokyo"), (&set, ""), ("ROLLBACK", "UTC")],
        &[("BEGIN", ""), (&first, "Asia/Tokyo"), (&second, ""), ("ROLLBACK", "UTC")],
        &[("BEGIN", ""), ("SAVEPOINT s", ""), (&set, "Asia/Tokyo"), ("ROLLBACK TO s", "UTC"), ("COMMIT", "")],
        &[("BEGIN", ""), ("SAVEPOINT s", ""), (&first, "Asia/Tokyo"), ("ROLLBACK TO s", "UTC"), ("COMMIT", "")],
        &[
            ("BEGIN", ""),
            (&second, "Asia/Tokyo"),
            ("SAVEPOINT s", ""),
            (&first, ""),
            ("ROLLBACK TO s", ""),
            ("COMMIT", ""),
        ],
        &[
            ("BEGIN", ""),
            ("SAVEPOINT s", ""),
            (&both, "Asia/Tokyo"),
            ("ROLLBACK TO s", "UTC"),
            (&set, "Asia/Tokyo"),
            ("COMMIT", ""),
        ],
        &[("BEGIN", ""), (&first, "Asia/Tokyo"), ("SELECT 1/0", "UTC"), ("ROLLBACK", "")],
        &[(&both, "Asia/Tokyo"), (&first, ""), (&second, "")],
    ] {
        let mut one = stage.superuser();
        one.query(&utc);
        for (sql, wanted) in statements {
            one.send(&frame(&format!("Q {sql}")));
            let zones = told(one.frames_until_ready()).into_iter();
            let zones: Vec<_> = zones.filter_map(|said| said.strip_prefix("TimeZone ").map(str::to_owned)).collect();
            assert_eq!(zones.join(", "), *wanted, "{sql} of {statements:?}");
        }
        let zone = one.told.get("TimeZone").cloned();
        assert_eq!(Some(row(&one.query("SHOW TimeZone"))), zone, "{statements:?}");
    }
    stage.served.psql("DROP FUNCTION zoned(text)");
}

/// Names and values of the settings that an answer tells of.
fn told(answer: Vec<(u8, Vec<u8>)>) -> Vec<String> {
    let parameters = answer.into_iter().filter(|(tag, _)| *tag == b'S');
    parameters.map(|(_, p)| String::from_utf8_lossy(&p).replace('\0', " ").trim_end().to_owned()).collect()
}
