//! Texts: read as Postgres reads them, and never too much for the process.

use super::{Stage, code, row};
use crate::wire::frame;

/// One tenant has the rows 1 to 3; what a token means decides which tenant is asked and what comes back.
/// Threats T28, T30, T31, T33 of docs/threats.md.
pub fn texts_mean_what_postgres_reads(stage: &Stage) {
    let mut one = stage.superuser();
    let mut wrong = Vec::new();
    for (sql, wanted) in [
        ("SELECT count(*) FROM items WHERE tenant = 1 /* AND tenant = 2 /* */ ' */ AND id > 1", "2"),
        ("SELECT count(*) FROM items -- WHERE tenant = 2\rWHERE tenant = 1", "3"),
        ("SELECT/**/count(*)FROM/**/items\u{c}WHERE\u{c}tenant/**/=/*;*/1", "3"),
        ("SELECT count(*) FROM items WHERE tenant = 1 AND name <> '/* '' -- '", "3"),
        ("SELECT count(*) FROM items WHERE tenant = 1 AND name <> '\\'' OR tenant = 2'", "3"),
        ("SELECT count(*) FROM items WHERE tenant = 1 AND name <> E'\\' OR tenant = 2'", "3"),
        ("SELECT count(*) FROM items WHERE tenant = 1 AND name <> $a$' OR $$ tenant = 2$a$", "3"),
        ("SELECT count(*) FROM items WHERE tenant = 1 AND name = 'na'\n'me 1'", "1"),
        ("SELECT count(*) FROM items WHERE \"tenant\" = 1 AND NAME = U&'name\\0020' '1'", "42601"),
        ("SELECT count(*) FROM items i WHERE i.TENANT = '1'::int", "3"),
        ("SELECT count(*) FROM (SELECT tenant AS other, id AS tenant FROM items) x WHERE tenant = 1", "40"),
        ("SELECT count(*) FROM (SELECT 1 AS tenant, id FROM items WHERE tenant = 2) x WHERE tenant = 1", "3"),
        ("SELECT count(*) FROM items WHERE tenant = 1 OR tenant = 2", "6"),
        ("SELECT count(*) FROM items WHERE NOT tenant = 1", "117"),
        ("SELECT count(*) FROM items WHERE tenant = 1 AND tenant = 2", "0"),
        ("SELECT count(*) FROM items WHERE tenant = NULL", "0"),
        ("SELECT count(*) FROM items WHERE tenant = 1.0", "3"),
        ("SELECT count(*) FROM items WHERE tenant::text = '1'", "3"),
        ("SELECT count(*) FROM items WHERE tenant IN (1, 2, 2, NULL)", "6"),
        ("SELECT count(*) FROM items WHERE tenant = (SELECT 1)", "3"),
        ("SELECT count(*) FROM items WHERE tenant = 0 - -1", "3"),
        ("UPDATE items SET tenant = 2 WHERE tenant = 1", "0A000"),
        ("SELECT count(*) FROM items WHERE tenant = 1 AND name = 'a\\", "42601"),
        ("SELECT count(*) FROM items WHERE tenant = 1 /* /* */", "42601"),
    ] {
        let said = one.query(sql);
        let got = if wanted.len() == 5 { code(&said) } else { row(&said) };
        if got != wanted {
            wrong.push(format!("{sql}: {said:?}, not {wanted}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    // Values are never written into a text.
    for (sql, value, wanted) in [
        ("SELECT 0-$1::int FROM items WHERE tenant = 1 AND id = 1", "-1", "1"),
        ("SELECT $1::text || count(*) FROM items WHERE tenant = 1", "a'\\\"--", "a'\\\"--3"),
        ("SELECT max(name || $1) FROM items", "'; DROP", "name 3'; DROP"),
        ("SELECT count(*) FROM items WHERE tenant = $1", "1", "3"),
    ] {
        for message in [&format!("P - : {sql}"), &format!("B - - : {value}"), "E - 0", "S"] {
            one.send(&frame(message));
        }
        let said = one.answers_until("Z");
        assert_eq!(row(&said), wanted, "{sql}: {said:?}");
    }
    // Two statements in one Parse; several in one Query are one transaction.
    one.send(&frame("P - : SELECT 1; SELECT 2"));
    one.send(&frame("S"));
    assert_eq!(code(&one.answers_until("Z")), "42601");
    let many =
        "INSERT INTO items VALUES (1, 9, ';'); INSERT INTO items VALUES (2, 9, ';'); SET app.x = '1'; SELECT 1/0";
    assert_eq!(code(&one.query(many)), "22012");
    assert_eq!(row(&one.query("SELECT count(*), current_setting('app.x', true) FROM items WHERE id = 9")), "0,");
    let many = "INSERT INTO items VALUES (1, 9, ';'); BEGIN; INSERT INTO items VALUES (2, 9, ';')";
    assert_eq!(code(&one.query(many)), "no error");
    assert_eq!(one.query("ROLLBACK"), ["C ROLLBACK", "Z I"]);
    assert_eq!(row(&one.query("SELECT count(*) FROM items WHERE id = 9")), "0");
    // What is no UTF-8 is refused before it is read.
    for sql in [&b"SELECT '\xff'"[..], b"SELECT count(*) FROM items WHERE tenant = 1 AND name = '\xc3'", b"\xa1\x27"] {
        let mut message = vec![b'Q'];
        message.extend((sql.len() as u32 + 5).to_be_bytes());
        message.extend(sql);
        message.push(0);
        one.send(&message);
        assert_eq!(code(&one.answers_until("Z")), "22021");
    }
}

/// Threat T11 of docs/threats.md: names and values that would end a quoted text, wherever the proxy writes one of its own with them.
/// Method: what hides in them would drop `items`.
pub fn names_that_end_a_text_are_names(stage: &Stage) {
    let drops = "'; DROP TABLE items; --";
    let name = format!("\"s{drops}\".\"t\"\"{drops}\"");
    let (quoted, value) = (name.replace('\'', "''"), drops.replace('\'', "''"));
    let mut one = stage.superuser();
    let mut run = |sql: &str| {
        let said = one.query(sql);
        assert_eq!(code(&said), "no error", "{sql}: {said:?}");
        row(&said)
    };
    run(&format!("CREATE SCHEMA \"s{drops}\""));
    run(&format!("CREATE TABLE {name} (\"k'\"\"\" text PRIMARY KEY, \"v\\\" text)"));
    run(&format!("SELECT create_distributed_table('{quoted}', 'k''\"')"));
    run(&format!("INSERT INTO {name} VALUES ('{value}', 'x'), (E'back\\\\slash''', 'y'), ('$1 $$', 'z')"));
    run(&format!("ALTER TABLE {name} ADD COLUMN \"c{drops}\" int DEFAULT 7"));
    run(&format!("CREATE INDEX \"i{drops}\" ON {name} (\"c{drops}\")"));
    let of_tenant = format!("SELECT \"v\\\", \"c{drops}\" FROM {name} WHERE \"k'\"\"\" = '{value}'");
    assert_eq!(run(&of_tenant), "x,7");
    run(&format!("CREATE ROLE \"r{drops}\""));
    run(&format!("GRANT USAGE ON SCHEMA \"s{drops}\" TO \"r{drops}\""));
    run(&format!("GRANT ALL ON {name} TO \"r{drops}\""));
    run(&format!("SET ROLE \"r{drops}\""));
    assert_eq!(run(&format!("SELECT count(*), current_user FROM {name} GROUP BY 2")), format!("3,r{drops}"));
    run("RESET ROLE");
    for setting in ["application_name", "app.said"] {
        run(&format!("SET {setting} = '{value}'"));
        let there = format!("SELECT current_setting('{setting}') FROM items WHERE tenant = 1 LIMIT 1");
        assert_eq!(run(&there), drops);
    }
    run(&format!("SET search_path = \"s{drops}\", public"));
    assert_eq!(run(&format!("SELECT count(*) FROM \"t\"\"{drops}\"")), "3");
    run("DISCARD ALL");
    for sql in
        ["BEGIN", "SAVEPOINT ?", "ROLLBACK TO ?", "DECLARE ? CURSOR FOR SELECT 1", "COMMIT", "LISTEN ?", "UNLISTEN ?"]
    {
        run(&sql.replace('?', &format!("\"{drops}\"")));
    }
    run(&format!("PREPARE \"{drops}\" AS SELECT count(*) FROM items"));
    assert_eq!(run(&format!("EXECUTE \"{drops}\"")), "120");
    // Publications, slots and copies of a move; the new shard of one tenant.
    let shard = run(&format!("SELECT get_shard_id_for_distribution_column('{quoted}', '{value}')"));
    let from = run(&format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}"));
    let ports = [0, 1].map(|worker| stage.served.worker_port(worker).to_string());
    let to = ports.iter().find(|port| **port != from).expect("there are two");
    run(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to})"));
    let new = "shard_transfer_mode => 'block_writes'";
    run(&format!("SELECT isolate_tenant_to_new_shard('{quoted}', '{value}', {new})"));
    assert_eq!(run(&of_tenant), "x,7");
    assert_eq!(run(&format!("SELECT count(*) FROM {name}")), "3");
    run(&format!("DROP TABLE {name}"));
    run(&format!("DROP SCHEMA \"s{drops}\""));
    assert_eq!(run("SELECT count(*) FROM items"), "120");
}

/// The process lives, and what is refused is refused by its own code.
pub fn nothing_of_a_text_is_too_deep_or_too_long(stage: &Stage) {
    let n = 50_000;
    let repeat = |before: &str, middle: &str, after: &str| format!("{}{middle}{}", before.repeat(n), after.repeat(n));
    let shapes = [
        repeat("(", "1", ")"),
        repeat("NOT ", "true", ""),
        repeat("- ", "1", ""),
        repeat("(SELECT ", "1", ")"),
        repeat("[", "1", "]"),
        repeat("ARRAY[", "1", "]"),
        repeat("CASE WHEN true THEN ", "1", " END"),
        repeat("coalesce(", "1", ")"),
        repeat("(1, ", "1", ")"),
        repeat("1 + ", "1", ""),
        repeat("true AND ", "true", ""),
        repeat("1 = ", "1", ""),
        repeat("'a' || ", "'b'", ""),
        repeat("", "1", "::int"),
        repeat("", "'{1}'::int[]", "[1]"),
        repeat("", "1", " COLLATE \"C\""),
        repeat("", "true", " IS TRUE"),
        repeat("/*", "", "*/"),
        repeat("EXISTS (SELECT 1 FROM items WHERE ", "true", ")"),
        repeat("CAST(", "1", " AS int)"),
    ];
    for (number, shape) in shapes.iter().enumerate() {
        for sql in [
            format!("SELECT {shape}"),
            format!("SELECT 1 FROM items WHERE tenant = 1 AND id = {shape}"),
            format!("SELECT 1 {} SELECT {shape}", "UNION ".repeat(2)),
            format!("EXPLAIN SELECT {shape} FROM items"),
        ] {
            let mut client = stage.superuser();
            let said = client.query(&sql);
            assert_ne!(
                said.last().map(String::as_str),
                Some("closed"),
                "shape {number}: {:?}",
                &said[..said.len().min(4)]
            );
            client.send(&frame(&format!("P - : {sql}")));
            client.send(&frame("B - -"));
            client.send(&frame("S"));
            let said = client.answers_until("Z");
            assert_ne!(said.last().map(String::as_str), Some("closed"), "shape {number}");
            if sql.contains("items") && said.iter().any(|a| a.starts_with("E ")) {
                assert!(
                    ["54001", "42601", "0A000", "42804", "42P18", "42846", "42883", "42725"].contains(&&*code(&said)),
                    "shape {number}: {}",
                    code(&said)
                );
            }
        }
    }
    for joined in ["UNION ALL SELECT 1 ", ", (SELECT 1) ", "; SELECT 1 "] {
        let mut client = stage.superuser();
        let said = client.query(&format!("SELECT id FROM items WHERE tenant = 1 {}", joined.repeat(20_000)));
        assert_ne!(said.last().map(String::as_str), Some("closed"), "{joined}");
    }
    assert_eq!(row(&stage.superuser().query("SELECT count(*) FROM items")), "120");
}
