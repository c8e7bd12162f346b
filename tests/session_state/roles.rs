//! Roles and what they have by default follow their client.

use super::{Stage, code, row};
use crate::wire::{Wire, frame};

/// Threat T37 of docs/threats.md.
pub fn roles_follow_their_client(stage: &Stage) {
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

pub fn defaults_of_a_role_reach_its_next_login(stage: &Stage) {
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

/// Goal: as on one Postgres, a change of a role's defaults is for sessions that come after it. Method: sessions from before and behind a
/// change take turns on the same few connections, which are opened anew in between; what they see here and there, and have been told.
pub fn open_sessions_keep_what_they_began_with(stage: &Stage) {
    let mut boss = stage.superuser();
    let login = || Wire::login(stage.port(), "preset");
    let mut before = login();
    let zone = row(&before.query("SHOW TimeZone"));
    let mut asking = Wire::login_with(stage.port(), "preset", &[("statement_timeout", "55s")]);
    let change =
        ["app.tenant = 'none'", "TimeZone = 'Asia/Tokyo'", "statement_timeout = '77s'", "search_path = nowhere"];
    for set in change {
        assert_eq!(code(&boss.query(&format!("ALTER ROLE preset SET {set}"))), "no error", "{set}");
    }
    let check = |client: &mut Wire, zone: &str, timeout: &str, tenant: &str, found: &str| {
        let all = "current_setting('TimeZone'), current_setting('statement_timeout'), current_setting('app.tenant')";
        for from in [String::new(), format!("FROM public.items WHERE tenant = {}", stage.tenants[1])] {
            let seen = client.query(&format!("SELECT {all}, count(*) {from}"));
            assert!(row(&seen).starts_with(&format!("{zone},{timeout},{tenant},")), "{from}: {seen:?}");
        }
        assert_eq!(code(&client.query("SELECT name FROM items WHERE tenant = 1")), found);
        assert_eq!(client.told.get("TimeZone").map(String::as_str), Some(zone));
    };
    // More often than there are connections.
    let mut later = login();
    for _ in 0..4 {
        check(&mut before, &zone, "0", "all", "no error");
        check(&mut login(), "Asia/Tokyo", "77s", "none", "42P01");
        check(&mut later, "Asia/Tokyo", "77s", "none", "42P01");
        check(&mut asking, &zone, "55s", "all", "no error");
    }
    // What the session sets itself ends at what it began with.
    for end in ["RESET app.tenant", "SET app.tenant TO DEFAULT", "RESET ALL", "DISCARD ALL"] {
        before.query("SET app.tenant = 'none'");
        assert_eq!(stage.seen(&mut before), "0 none");
        assert_eq!(code(&before.query(end)), "no error");
        check(&mut before, &zone, "0", "all", "no error");
    }
    before.query("BEGIN; SET LOCAL app.tenant = 'none'; SET LOCAL app.tenant TO DEFAULT");
    assert_eq!(stage.seen(&mut before), "2 all");
    before.query("COMMIT");
    // And those who began with that keep it when it is gone.
    for sql in ["ALTER ROLE preset RESET ALL", "ALTER ROLE preset SET app.tenant = 'all'"] {
        assert_eq!(code(&boss.query(sql)), "no error");
    }
    for _ in 0..4 {
        check(&mut later, "Asia/Tokyo", "77s", "none", "42P01");
        check(&mut login(), &zone, "0", "all", "no error");
        check(&mut before, &zone, "0", "all", "no error");
        check(&mut asking, &zone, "55s", "all", "no error");
    }
}

/// Goal: as on one Postgres, a session goes on whose default of its role names a tablespace or a configuration that is not there, or no
/// more. Method: those are the defaults of sessions that see them change.
pub fn kept_defaults_may_name_what_is_gone(stage: &Stage) {
    let mut boss = stage.superuser();
    let mut run = |sql: &str| assert_eq!(code(&boss.query(sql)), "no error", "{sql}");
    let look = "SELECT current_setting('default_text_search_config'), name FROM items WHERE tenant =";
    let look = format!("{look} {}", stage.tenants[1]);
    let mut earlier = Wire::login(stage.port(), "preset");
    let otherwise = row(&earlier.query(&look));
    run("CREATE TEXT SEARCH CONFIGURATION rules (COPY = simple)");
    for set in [
        "default_text_search_config = 'public.rules'",
        "default_tablespace = nowhere",
        "temp_tablespaces = nowhere, gone",
    ] {
        run(&format!("ALTER ROLE preset SET {set}"));
    }
    let mut client = Wire::login(stage.port(), "preset");
    let own = row(&client.query(&look));
    assert!(own.starts_with("public.rules,"), "{own}");
    run("ALTER ROLE preset RESET ALL");
    assert_eq!(row(&client.query(&look)), own);
    run("DROP TEXT SEARCH CONFIGURATION rules");
    run("ALTER ROLE preset SET app.tenant = 'all'");
    for client in [&mut client, &mut earlier, &mut Wire::login(stage.port(), "preset")] {
        assert_eq!(row(&client.query(&look)), otherwise);
        assert_eq!(code(&client.query("RESET default_tablespace; RESET temp_tablespaces")), "no error");
    }
}
