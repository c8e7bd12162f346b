//! `pool.share_unnamed`: statements without a name that come again are kept on workers' connections, parsed or planned too, and
//! nobody can tell but by the time they take.

mod support;

use std::time::Duration;

use support::served::Served;
use support::wait_until;
use support::wire_client::Client;
use tenantry::wire::frontend::{self, Bind, Target};

/// One thread and few connections to each worker, of which the one used last comes first: what is kept meets everyone.
fn config(kept: &str) -> &'static str {
    match kept {
        "auto" => "[pool]\nsize = 2\n",
        "parsed" => "[pool]\nsize = 2\nshare_unnamed = \"parsed\"\n",
        "planned" => "[pool]\nsize = 2\nshare_unnamed = \"planned\"\n",
        _ => "[pool]\nsize = 2\nshare_unnamed = \"off\"\n",
    }
}

#[test]
fn statements_without_a_name_are_kept_parsed_and_nobody_can_tell() {
    nobody_can_tell("parsed");
}

/// As is the default.
#[test]
fn statements_without_a_name_are_kept_as_is_best_and_nobody_can_tell() {
    nobody_can_tell("auto");
}

#[test]
fn statements_without_a_name_are_kept_planned_and_nobody_can_tell() {
    nobody_can_tell("planned");
}

fn nobody_can_tell(mode: &str) {
    let mut served = Served::start_with(2, 1, config(mode));
    served.start_proxy(1);
    let tenants = served.tenants();
    served.psql(
        "CREATE FUNCTION kept() RETURNS bigint LANGUAGE sql VOLATILE \
         AS 'SELECT count(*) FROM pg_catalog.pg_prepared_statements'",
    );
    what_comes_again_is_kept(&served, &tenants[0]);
    conversations_stay_the_same(&served, &tenants[0]);
    values_are_planned_for(&served, &tenants[0], mode);
    tables_may_change_in_between(&served, &tenants[0]);
    tables_may_change_meanwhile(&served, &tenants[0], mode);
    functions_may_be_made_in_between(&served, &tenants[0]);
    parameters_have_the_types_of_the_parse(&served, &tenants[0]);
    constants_are_read_anew(&served, &tenants[0]);
    shards_may_move_in_between(&served, &tenants[0]);
    nothing_is_kept_any_more(&served, &tenants[1], mode);
    types_that_another_proxy_has_changed_are_noticed(&served);
}

fn unnamed(client: &mut Client, sql: &str, values: &[Option<&str>]) -> String {
    frontend::parse(b"", sql, &[], &mut client.out);
    client.bind_and_execute("", values);
    frontend::sync(&mut client.out);
    client.answer()
}

/// How many statements the connection to the tenant's worker keeps.
fn kept(client: &mut Client, tenant: &str) -> u32 {
    let said = client.query(&format!("SELECT kept() FROM items WHERE tenant = {tenant} LIMIT 1"));
    let count = said.strip_prefix("T D(").and_then(|rest| rest.split(')').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

fn what_comes_again_is_kept(served: &Served, tenant: &str) {
    let [mut one, mut two] = [(); 2].map(|()| Client::connect(served.proxy_port(0), &[]));
    let before = kept(&mut one, tenant);
    let sql = "SELECT count(*) FROM items WHERE tenant = $1";
    assert_eq!(unnamed(&mut one, sql, &[Some(tenant)]), "1 2 D(1) C(SELECT 1) Z(I)");
    assert_eq!(kept(&mut one, tenant), before, "a text that came once");
    for client in [&mut one, &mut two] {
        assert_eq!(unnamed(client, sql, &[Some(tenant)]), "1 2 D(1) C(SELECT 1) Z(I)");
    }
    assert_eq!(kept(&mut one, tenant), before + 1);
}

/// Each conversation three times: its statement is parsed alone, then parsed to be kept, then found.
fn conversations_stay_the_same(served: &Served, tenant: &str) {
    let sql = |n: usize| format!("SELECT {n}, id FROM items WHERE tenant = $1 AND id < $2");
    type Say = fn(&mut Client, &str, &str);
    let conversations: &[(Say, &str)] = &[
        // The portal described, as most drivers do.
        (
            |client, sql, tenant| {
                frontend::parse(b"", sql, &[], &mut client.out);
                Bind::text(&[Some(tenant), Some("9")]).write(b"", b"", &mut client.out);
                frontend::describe(Target::Portal(b""), &mut client.out);
                frontend::execute(b"", 0, &mut client.out);
            },
            "1 2 T D(0,1) C(SELECT 1)",
        ),
        // The statement described, and bound twice.
        (
            |client, sql, tenant| {
                frontend::parse(b"", sql, &[], &mut client.out);
                frontend::describe(Target::Statement(b""), &mut client.out);
                for most in ["9", "0"] {
                    client.bind_and_execute("", &[Some(tenant), Some(most)]);
                }
            },
            "1 t T 2 D(1,1) C(SELECT 1) 2 C(SELECT 0)",
        ),
        // Rows in parts, and a Flush in between.
        (
            |client, sql, tenant| {
                frontend::parse(b"", sql, &[], &mut client.out);
                frontend::flush(&mut client.out);
                Bind::text(&[Some(tenant), Some("9")]).write(b"p", b"", &mut client.out);
                frontend::execute(b"p", 1, &mut client.out);
                frontend::execute(b"p", 1, &mut client.out);
            },
            "1 2 D(2,1) s C(SELECT 0)",
        ),
        // A value that is none; the statement is there nevertheless.
        (
            |client, sql, tenant| {
                frontend::parse(b"", sql, &[], &mut client.out);
                client.bind_and_execute("", &[Some(tenant), Some("x")]);
                frontend::sync(&mut client.out);
                assert_eq!(client.answer(), "1 E(22P02) Z(I)");
                client.bind_and_execute("", &[Some(tenant), Some("9")]);
            },
            "2 D(3,1) C(SELECT 1)",
        ),
        // In a block, after a failure in which it is not run.
        (
            |client, sql, tenant| {
                client.query("BEGIN");
                assert_eq!(unnamed(client, sql, &[Some(tenant), Some("9")]), "1 2 D(4,1) C(SELECT 1) Z(T)");
                client.query("SAVEPOINT s");
                assert_eq!(unnamed(client, "SELECT 1 / 0", &[]), "1 E(22012) Z(E)");
                assert_eq!(unnamed(client, sql, &[Some(tenant), Some("9")]), "E(25P02) Z(E)");
                client.query("ROLLBACK TO s");
                assert_eq!(unnamed(client, sql, &[Some(tenant), Some("9")]), "1 2 D(4,1) C(SELECT 1) Z(T)");
                client.query("COMMIT");
                frontend::parse(b"", sql, &[], &mut client.out);
                client.bind_and_execute("", &[Some(tenant), Some("9")]);
            },
            "1 2 D(4,1) C(SELECT 1)",
        ),
    ];
    let mut client = Client::connect(served.proxy_port(0), &[]);
    for (n, (say, wanted)) in conversations.iter().enumerate() {
        for round in 0..3 {
            say(&mut client, &sql(n), tenant);
            frontend::sync(&mut client.out);
            assert_eq!(client.answer(), format!("{wanted} Z(I)"), "conversation {n}, round {round}");
        }
    }
}

/// Parsed: with the values of each Bind, however often it comes. Planned: as the server likes, which is one plan for all after five.
fn values_are_planned_for(served: &Served, tenant: &str, mode: &str) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    served.psql(
        "CREATE FUNCTION plans(like_this text) RETURNS text LANGUAGE sql VOLATILE \
         AS $$SELECT format('%s of %s', sum(generic_plans), sum(generic_plans + custom_plans)) \
              FROM pg_catalog.pg_prepared_statements WHERE statement LIKE like_this$$",
    );
    let plans = |client: &mut Client| {
        client.query(&format!("SELECT plans('%id = $2 AND 7%') FROM items WHERE tenant = {tenant} LIMIT 1"))
    };
    let sql = "SELECT count(*) FROM items WHERE tenant = $1 AND id = $2 AND 7 > 6";
    // The first is not kept.
    for _ in 0..10 {
        assert_eq!(unnamed(&mut client, sql, &[Some(tenant), Some("1")]), "1 2 D(1) C(SELECT 1) Z(I)");
    }
    let said = plans(&mut client);
    let wanted = if mode == "planned" { "4 of 9" } else { "0 of 4" };
    assert_eq!(said, format!("T D({wanted}) C(SELECT 1) Z(I)"));
    // In one pipeline, an error among them: what it skipped is not taken for done.
    for value in ["1", "1", "1", "x", "1", "1"] {
        frontend::parse(b"", sql, &[], &mut client.out);
        client.bind_and_execute("", &[Some(tenant), Some(value)]);
    }
    frontend::sync(&mut client.out);
    let once = "1 2 D(1) C(SELECT 1)";
    assert_eq!(client.answer(), format!("{once} {once} {once} 1 E(22P02) Z(I)"));
    for _ in 0..7 {
        assert_eq!(unnamed(&mut client, sql, &[Some(tenant), Some("1")]), format!("{once} Z(I)"));
    }
    let generic = plans(&mut client).starts_with("T D(0 of ");
    assert_eq!(generic, mode != "planned");
    // By a unique key.
    served.psql("CREATE UNIQUE INDEX items_once ON items (tenant, id)");
    for _ in 0..10 {
        assert_eq!(unnamed(&mut client, sql, &[Some(tenant), Some("1")]), format!("{once} Z(I)"));
    }
    assert_eq!(plans(&mut client).starts_with("T D(0 of "), mode == "parsed");
    served.psql("DROP INDEX items_once");
}

/// By another proxy, while the statement waits for the table: it has left for the server as it was, and finds another column.
fn tables_may_change_meanwhile(served: &Served, tenant: &str, mode: &str) {
    served.psql("CREATE TABLE beside (tenant int, id int)");
    served.psql("SELECT create_distributed_table('beside', 'tenant', colocate_with => 'items')");
    let [mut reader, mut changer] = [0, 1].map(|proxy| Client::connect(served.proxy_port(proxy), &[]));
    let all = "SELECT * FROM items WHERE tenant = $1";
    let mut columns = String::new();
    for (number, (begins, uses)) in [(false, false), (true, false), (true, true)].into_iter().enumerate() {
        for _ in 0..3 {
            let said = unnamed(&mut reader, all, &[Some(tenant)]);
            assert_eq!(said, format!("1 2 D({tenant},1{columns}) C(SELECT 1) Z(I)"));
        }
        if begins {
            reader.query("BEGIN");
        }
        if uses {
            let sql = "SELECT count(*) FROM beside WHERE tenant = $1";
            assert_eq!(unnamed(&mut reader, sql, &[Some(tenant)]), "1 2 D(0) C(SELECT 1) Z(T)");
        }
        assert_eq!(changer.query("BEGIN"), "C(BEGIN) Z(T)");
        let change = format!("ALTER TABLE items ADD late{number} int DEFAULT {number}");
        assert_eq!(changer.query(&change), "C(ALTER TABLE) Z(T)");
        frontend::parse(b"", all, &[], &mut reader.out);
        reader.bind_and_execute("", &[Some(tenant)]);
        frontend::sync(&mut reader.out);
        reader.flush();
        let waits = "SELECT DISTINCT 'waits' FROM pg_locks WHERE locktype = 'relation' AND NOT granted";
        assert!(wait_until(Duration::from_secs(30), || served.everywhere(waits).iter().any(|said| said == "waits")));
        assert_eq!(changer.query("COMMIT"), "C(COMMIT) Z(I)");
        columns += &format!(",{number}");
        let status = if begins { 'T' } else { 'I' };
        let wanted = match mode == "planned" && uses {
            // As of a statement with a name.
            true => "1 E(0A000) Z(E)".to_owned(),
            false => format!("1 2 D({tenant},1{columns}) C(SELECT 1) Z({status})"),
        };
        assert_eq!(reader.answer(), wanted, "begins: {begins}, uses: {uses}");
        if begins {
            reader.query("ROLLBACK");
        }
    }
    for number in 0..3 {
        changer.query(&format!("ALTER TABLE items DROP late{number}"));
    }
    changer.query("DROP TABLE beside");
}

/// A function that fits better: who has parsed it before would go on with the other.
fn functions_may_be_made_in_between(served: &Served, tenant: &str) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let made = |argument: &str| {
        served.psql(&format!(
            "CREATE FUNCTION made(a {argument}) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT '{argument}'$$"
        ));
    };
    let sql = "SELECT made(id) FROM items WHERE tenant = $1";
    for argument in ["numeric", "double precision", "integer"] {
        made(argument);
        for round in 0..3 {
            let said = unnamed(&mut client, sql, &[Some(tenant)]);
            assert_eq!(said, format!("1 2 D({argument}) C(SELECT 1) Z(I)"), "round {round}");
        }
    }
}

fn tables_may_change_in_between(served: &Served, tenant: &str) {
    let [mut one, mut two] = [(); 2].map(|()| Client::connect(served.proxy_port(0), &[]));
    let all = "SELECT * FROM items WHERE tenant = $1";
    let row = |rest: &str, end: &str| format!("1 2 D({tenant},1{rest}) C(SELECT 1) Z({end})");
    let missing = "SELECT more FROM items WHERE tenant = $1";
    for _ in 0..3 {
        assert_eq!(unnamed(&mut one, all, &[Some(tenant)]), row("", "I"));
        assert_eq!(unnamed(&mut one, missing, &[Some(tenant)]), "E(42703) Z(I)");
    }
    // In a transaction of its own.
    one.query("BEGIN");
    one.query("ALTER TABLE items ADD more int DEFAULT 5");
    for _ in 0..3 {
        assert_eq!(unnamed(&mut one, all, &[Some(tenant)]), row(",5", "T"));
    }
    one.query("ROLLBACK");
    for client in [&mut one, &mut two] {
        assert_eq!(unnamed(client, all, &[Some(tenant)]), row("", "I"));
    }
    // By somebody else, between two statements of a transaction: an error would fail it.
    one.query("BEGIN");
    assert_eq!(unnamed(&mut one, "SELECT 1", &[]), "1 2 D(1) C(SELECT 1) Z(T)");
    assert_eq!(two.query("ALTER TABLE items ADD more int DEFAULT 6"), "C(ALTER TABLE) Z(I)");
    assert_eq!(unnamed(&mut one, all, &[Some(tenant)]), row(",6", "T"));
    one.query("COMMIT");
    for _ in 0..3 {
        assert_eq!(unnamed(&mut one, missing, &[Some(tenant)]), "1 2 D(6) C(SELECT 1) Z(I)");
    }
    two.query("ALTER TABLE items DROP more");
    for client in [&mut one, &mut two] {
        assert_eq!(unnamed(client, all, &[Some(tenant)]), row("", "I"));
    }
}

/// Statements with a name: whoever prepares one later gets it for the columns of now, on the same connections. The table of a
/// tenant, and a local one.
fn parameters_have_the_types_of_the_parse(served: &Served, tenant: &str) {
    const IN_RANGE: &str = "1 2 D(0) C(SELECT 1) Z(I)";
    for is_local in [false, true] {
        served.psql("CREATE TABLE typed (tenant int, id int, PRIMARY KEY (tenant, id))");
        if !is_local {
            served.psql("SELECT create_distributed_table('typed', 'tenant')");
        }
        let [mut one, mut two] = [(); 2].map(|()| Client::connect(served.proxy_port(0), &[]));
        let sql = "SELECT count(*) FROM typed WHERE tenant = $1 AND id = $2";
        let (small, large) = ([Some(tenant), Some("1")], [Some(tenant), Some("5000000000")]);
        assert_eq!(one.run_prepared("s", sql, &small), IN_RANGE);
        assert_eq!(two.run_prepared("s", sql, &large), "1 E(22003) Z(I)");
        // In the transaction itself, whose change never comes to be.
        assert_eq!(one.query("BEGIN; ALTER TABLE typed ALTER id TYPE bigint"), "C(BEGIN) C(ALTER TABLE) Z(T)");
        assert_eq!(one.run_prepared("t", sql, &large), "1 2 D(0) C(SELECT 1) Z(T)", "local: {is_local}");
        assert_eq!(one.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(two.run_prepared("t", sql, &large), "1 E(22003) Z(I)", "local: {is_local}");
        assert_eq!(one.query("ALTER TABLE typed ALTER id TYPE bigint"), "C(ALTER TABLE) Z(I)");
        assert_eq!(two.run_prepared("u", sql, &large), IN_RANGE, "local: {is_local}");
        // Who had prepared it before goes on with what it fits.
        one.bind_and_execute("s", &small);
        frontend::sync(&mut one.out);
        assert_eq!(one.answer(), "2 D(0) C(SELECT 1) Z(I)");
        served.psql("DROP TABLE typed");
    }
}

/// A moment after it was committed.
fn types_that_another_proxy_has_changed_are_noticed(served: &Served) {
    served.psql("CREATE TABLE typed (id int)");
    let mut client = Client::connect(served.proxy_port(1), &[]);
    let sql = "SELECT count(*) FROM typed WHERE id = $1";
    assert_eq!(client.run_prepared("s", sql, &[Some("5000000000")]), "1 E(22003) Z(I)");
    served.psql("ALTER TABLE typed ALTER id TYPE bigint");
    let mut number = 0;
    let mut takes_large_ones = || {
        number += 1;
        client.run_prepared(&format!("s{number}"), sql, &[Some("5000000000")]) == "1 2 D(0) C(SELECT 1) Z(I)"
    };
    assert!(wait_until(Duration::from_secs(30), &mut takes_large_ones));
}

fn constants_are_read_anew(served: &Served, tenant: &str) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    // A server reads such a constant when it parses it.
    for constant in ["'now'", "' NOW '", "E'\\x6eow'", "$$now$$", "'n'\n'ow'", "U&'\\006eow'"] {
        let now = format!("SELECT {constant}::timestamptz::text FROM items WHERE tenant = $1");
        let said: Vec<_> = (0..4).map(|_| unnamed(&mut client, &now, &[Some(tenant)])).collect();
        assert!(said.windows(2).all(|two| two[0].starts_with("1 2 D(2") && two[0] != two[1]), "{said:?}");
    }
    let noon = "SELECT extract(hour FROM '2030-02-01 12:00+00'::timestamptz)::int, \
                '2030-02-01 12:00'::timestamptz = '2030-02-01 12:00+00' FROM items WHERE tenant = $1";
    for _ in 0..3 {
        for (zone, said) in [("UTC", "12,t"), ("Asia/Tokyo", "21,f")] {
            let mut client = Client::connect(served.proxy_port(0), &[("TimeZone", zone)]);
            for _ in 0..2 {
                assert_eq!(
                    unnamed(&mut client, noon, &[Some(tenant)]),
                    format!("1 2 D({said}) C(SELECT 1) Z(I)"),
                    "{zone}"
                );
            }
        }
    }
}

fn shards_may_move_in_between(served: &Served, tenant: &str) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let sql = "SELECT count(*) FROM items WHERE tenant = $1 AND id = 1";
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {tenant})"));
    let [here, there] = [0, 1].map(|worker| served.worker_port(worker));
    for (from, to) in [(here, there), (there, here)] {
        for _ in 0..3 {
            assert_eq!(unnamed(&mut client, sql, &[Some(tenant)]), "1 2 D(1) C(SELECT 1) Z(I)");
        }
        served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to})"));
    }
    assert_eq!(unnamed(&mut client, sql, &[Some(tenant)]), "1 2 D(1) C(SELECT 1) Z(I)");
}

/// Once the setting is taken back.
fn nothing_is_kept_any_more(served: &Served, tenant: &str, mode: &str) {
    let file = served.config_file(0);
    let before = std::fs::read_to_string(&file).unwrap();
    let after = before.replace(config(mode), config("off"));
    assert_ne!(after, before);
    std::fs::write(&file, after).unwrap();
    served.signal_proxy(0, "HUP");
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let is_reloaded = || served.logged(0).contains("share_unnamed");
    assert!(support::wait_until(std::time::Duration::from_secs(20), is_reloaded), "{}", served.logged(0));
    let before = kept(&mut client, tenant);
    for _ in 0..4 {
        unnamed(&mut client, "SELECT id + 1 FROM items WHERE tenant = $1", &[Some(tenant)]);
    }
    assert_eq!(kept(&mut client, tenant), before);
}
