//! Prepared statements: names of the client's own, known to servers as far as there is room, and right when tables change.

use super::{Stage, code, row};
use crate::wire::{Wire, frame};

/// Threat T41 of docs/threats.md.
pub fn names_of_prepared_statements_are_the_clients_own(stage: &Stage) {
    let (mut one, mut two) = (stage.superuser(), stage.superuser());
    let run = |client: &mut Wire, messages: &[&str]| {
        messages.iter().for_each(|m| client.send(&frame(m)));
        client.send(&frame("S"));
        client.answers_until("Z")
    };
    assert_eq!(run(&mut one, &["P s : SELECT 'one' || $1"]), ["1", "Z I"]);
    assert_eq!(run(&mut two, &["P s : SELECT 'two'"]), ["1", "Z I"]);
    for _ in 0..3 {
        assert_eq!(row(&run(&mut one, &["B - s : x", "E - 0"])), "onex");
        assert_eq!(row(&run(&mut two, &["B - s", "E - 0"])), "two");
    }
    assert_eq!(run(&mut one, &["P s : SELECT 2"]), ["E 42P05", "Z I"]);
    assert_eq!(row(&run(&mut one, &["B - s : y", "E - 0"])), "oney");
    assert_eq!(code(&run(&mut two, &["B - t", "E - 0"])), "26000");
    // A Parse that failed leaves the name free.
    assert_eq!(code(&run(&mut one, &["P t : SELECT nothing FROM items WHERE tenant = 1", "B - t", "E - 0"])), "42703");
    assert_eq!(code(&run(&mut one, &["P t : SELECT FROM WHERE"])), "42601");
    assert_eq!(run(&mut one, &["P t : SELECT 5", "B - t", "E - 0"]), ["1", "2", "D 5", "C SELECT 1", "Z I"]);
    // SQL's statements share the name space, and DEALLOCATE ALL empties it, on this side only.
    one.query("PREPARE u (int) AS SELECT id FROM items WHERE tenant = $1 AND id = 2");
    assert_eq!(row(&one.query("EXECUTE u(1)")), "2");
    assert_eq!(row(&run(&mut one, &["B - u : 1", "E - 0"])), "2");
    assert_eq!(code(&one.query("PREPARE u AS SELECT 1")), "42P05");
    assert_eq!(code(&one.query("EXECUTE nothing")), "26000");
    assert_eq!(code(&one.query("DEALLOCATE nothing")), "26000");
    assert_eq!(code(&one.query("DEALLOCATE ALL")), "no error");
    for name in ["s", "t", "u"] {
        assert_eq!(code(&run(&mut one, &[&format!("B - {name}")])), "26000");
    }
    assert_eq!(row(&run(&mut two, &["B - s", "E - 0"])), "two");
    // The same text, with other types and under another search_path.
    let typed = |client: &mut Wire, oid: u32, value: &str| {
        let mut parse = frame("P v : SELECT pg_typeof($1)");
        parse.truncate(parse.len() - 2);
        parse.extend(1u16.to_be_bytes());
        parse.extend(oid.to_be_bytes());
        let length = parse.len() as u32 - 1;
        parse[1..5].copy_from_slice(&length.to_be_bytes());
        client.send(&parse);
        run(client, &[&format!("B - v : {value}"), "E - 0", "C S v"])
    };
    for _ in 0..2 {
        assert_eq!(row(&typed(&mut one, 23, "1")), "integer");
        assert_eq!(row(&typed(&mut two, 25, "1")), "text");
        assert_eq!(row(&typed(&mut one, 1700, "1")), "numeric");
    }
    stage.served.psql("CREATE SCHEMA a CREATE TABLE things (id int, what int)");
    stage.served.psql("CREATE SCHEMA b CREATE TABLE things (id text, other text)");
    stage.served.psql("INSERT INTO a.things VALUES (1, 1); INSERT INTO b.things VALUES ('x', 'b')");
    for _ in 0..3 {
        for (client, path, value, wanted) in [(&mut one, "a", "1", "1,1"), (&mut two, "b", "x", "x,b")] {
            client.query(&format!("SET search_path = {path}"));
            let said = run(client, &["P - : SELECT * FROM things WHERE id = $1", &format!("B - - : {value}"), "E - 0"]);
            assert_eq!(row(&said), wanted);
            let said = run(
                client,
                &["P w : SELECT * FROM things WHERE id = $1", &format!("B - w : {value}"), "E - 0", "C S w"],
            );
            assert_eq!(row(&said), wanted);
        }
    }
    for client in [&mut one, &mut two] {
        client.query("DISCARD ALL");
    }
    // More than a client may have.
    let mut refused = String::new();
    for n in 0..60 {
        let said = run(&mut one, &[&format!("P many{n} : SELECT {n}")]);
        if said != ["1", "Z I"] {
            refused = format!("{n} {}", code(&said));
            break;
        }
    }
    assert_eq!(refused, "40 53400");
    assert_eq!(code(&one.query("PREPARE more AS SELECT 1")), "53400");
    assert_eq!(row(&run(&mut one, &["B - many3", "E - 0"])), "3");
    assert_eq!(row(&run(&mut one, &["C S many3", "P again : SELECT 'again'", "B - again", "E - 0"])), "again");
    assert_eq!(row(&run(&mut two, &["P - : SELECT 1", "B - -", "E - 0"])), "1", "another client is not concerned");
}

/// Goal: `pg_prepared_statements` is the client's own. Method: two clients that prepare in both ways, on shared connections; the rows
/// without times are those of a session with Postgres itself.
pub fn a_client_is_shown_what_it_has_prepared(stage: &Stage) {
    let coordinator = stage.served.coordinator_dsn();
    let port =
        coordinator.rsplit(':').next().and_then(|rest| rest.split('/').next()).and_then(|port| port.parse().ok());
    let direct = Wire::login(port.expect("a port"), "postgres");
    let shown = "SELECT name, statement, parameter_types, from_sql, prepare_time BETWEEN now() - interval '1 minute' AND now() \
                 FROM pg_prepared_statements ORDER BY 1";
    let mut answers = Vec::new();
    for mut one in [direct, stage.superuser()] {
        one.query("BEGIN");
        one.query("PREPARE \"By SQL\" (int, text) AS SELECT id FROM plain WHERE id = $1 AND said = $2");
        one.query("COMMIT");
        for message in
            ["P by_message : SELECT $1::date, $2::int[]", "P other : SELECT 'it''s \\ \"x\"'", "P - : SELECT 1", "S"]
        {
            one.send(&frame(message));
        }
        one.answers_until("Z");
        one.query("PREPARE gone AS SELECT 1; DEALLOCATE gone");
        let mut said = one.query(shown);
        // In a transaction, by a name with its schema, under another, and as a prepared statement itself.
        said.extend(one.query("BEGIN READ ONLY"));
        said.extend(one.query(
            "SELECT count(p.*), max(pg_typeof(p.parameter_types)::text) FROM pg_catalog.pg_prepared_statements p",
        ));
        said.extend(one.query("COMMIT"));
        one.query("PREPARE look AS SELECT name FROM pg_prepared_statements WHERE NOT from_sql ORDER BY 1");
        said.extend(one.query("EXECUTE look"));
        said.extend(one.query("DEALLOCATE ALL"));
        said.extend(one.query("SELECT * FROM pg_prepared_statements"));
        answers.push(said);
    }
    assert_eq!(answers[1], answers[0]);
    // Nobody else's.
    let (mut one, mut two) = (stage.superuser(), stage.superuser());
    one.query("PREPARE mine AS SELECT 1");
    assert_eq!(row(&two.query("SELECT count(*) FROM pg_prepared_statements")), "0");
    assert_eq!(row(&one.query("SELECT name FROM pg_prepared_statements")), "mine");
    assert_eq!(code(&one.query("COPY (SELECT name FROM pg_prepared_statements) TO STDOUT")), "no error");
    one.query("DEALLOCATE ALL");
}

/// 20 on each connection; one pipeline uses 35, each twice, and one of them fails.
pub fn servers_keep_a_bounded_number_of_statements(stage: &Stage) {
    let mut one = stage.superuser();
    for round in 0..4 {
        let mut wanted = Vec::new();
        for n in 0..35 {
            let sql = match n % 2 {
                0 => format!("SELECT {n} + $1::int"),
                _ => format!("SELECT {n} + max(id) + $1::int FROM items WHERE tenant = 1"),
            };
            one.send(&frame(&format!("P e{n} : {sql}")));
            one.send(&frame(&format!("B - e{n} : 1000")));
            one.send(&frame("E - 0"));
            wanted.push(format!("D {}", 1000 + n + if n % 2 == 0 { 0 } else { 3 }));
        }
        for n in 0..35 {
            one.send(&frame(&format!("B - e{n} : 2000")));
            one.send(&frame("E - 0"));
            wanted.push(format!("D {}", 2000 + n + if n % 2 == 0 { 0 } else { 3 }));
        }
        if round % 2 == 1 {
            one.send(&frame("P - : SELECT 1/0"));
            one.send(&frame("B - -"));
            one.send(&frame("E - 0"));
        }
        one.send(&frame("S"));
        let said = one.answers_until("Z");
        let rows: Vec<_> = said.iter().filter(|a| a.starts_with("D ")).cloned().collect();
        assert_eq!(rows, wanted, "round {round}: {said:?}");
        assert_eq!(code(&said), if round % 2 == 1 { "22012" } else { "no error" });
        one.query("DEALLOCATE ALL");
    }
    // What a server keeps is nobody's to read, but code that nobody looks into can count it.
    let count = "DO $$ BEGIN IF (SELECT count(*) FROM pg_prepared_statements) NOT BETWEEN 10 AND 20
                 THEN RAISE EXCEPTION 'too many'; END IF; END $$";
    assert_eq!(code(&one.query(count)), "no error");
}

pub fn a_changed_table_is_noticed_by_prepared_statements(stage: &Stage) {
    let (mut one, mut two) = (stage.superuser(), stage.superuser());
    stage.served.psql("CREATE TABLE changing (tenant int, a int)");
    stage.served.psql("SELECT create_distributed_table('changing', 'tenant')");
    stage.served.psql("INSERT INTO changing VALUES (1, 1)");
    stage.served.psql("CREATE TABLE changing_too AS SELECT 1 AS tenant, 1 AS a");
    for (n, table) in ["changing", "changing_too"].iter().enumerate() {
        for client in [&mut one, &mut two] {
            client.query(&format!("PREPARE p{n} AS SELECT * FROM {table} WHERE tenant = 1"));
            client.send(&frame(&format!("P e{n} : SELECT * FROM {table} WHERE tenant = $1")));
            client.send(&frame(&format!("B - e{n} : 1")));
            client.send(&frame("E - 0"));
            client.send(&frame("S"));
            assert_eq!(row(&client.answers_until("Z")), "1,1");
            assert_eq!(row(&client.query(&format!("EXECUTE p{n}"))), "1,1");
        }
        stage.served.psql(&format!("ALTER TABLE {table} ADD COLUMN b text DEFAULT 'new'"));
        // Outside a transaction: parsed anew, the client sees the new columns. It has not described them before.
        for (client, executes_first) in [(&mut one, n == 0), (&mut two, n != 0)] {
            if executes_first {
                assert_eq!(row(&client.query(&format!("EXECUTE p{n}"))), "1,1,new", "{table}");
            }
            client.send(&frame(&format!("B - e{n} : 1")));
            client.send(&frame("E - 0"));
            client.send(&frame("S"));
            let said = client.answers_until("Z");
            assert_eq!(row(&said), "1,1,new", "{table}: {said:?}");
            assert_eq!(row(&client.query(&format!("EXECUTE p{n}"))), "1,1,new", "{table}");
        }
        // Inside one it is passed on.
        one.query("BEGIN");
        one.query(&format!("EXECUTE p{n}"));
        one.send(&frame(&format!("B - e{n} : 1")));
        one.send(&frame("E - 0"));
        one.send(&frame("S"));
        assert_eq!(row(&one.answers_until("Z")), "1,1,new");
        one.query("COMMIT");
    }
}

/// Goal: names of a prepared statement are looked up in the search_path of the moment it runs, as by one Postgres. Method: tables of two schemas,
/// distributed and local, are told apart by what they say; one has other columns, which its client was not told of.
pub fn prepared_statements_follow_the_search_path(stage: &Stage) {
    for (schema, column) in [("east", "said text"), ("west", "said text"), ("far", "said text, more int")] {
        stage.served.psql(&format!("CREATE SCHEMA {schema}"));
        for table in ["places", "near"] {
            stage.served.psql(&format!("CREATE TABLE {schema}.{table} (tenant int, {column})"));
        }
        stage.served.psql(&format!("SELECT create_distributed_table('{schema}.places', 'tenant')"));
        for table in ["places", "near"] {
            stage.served.psql(&format!("INSERT INTO {schema}.{table} VALUES (1, '{schema}')"));
        }
    }
    let statements = [
        "SELECT said FROM places WHERE tenant = $1",
        "SELECT max(said) FROM places WHERE tenant <= $1",
        "SELECT said FROM near WHERE tenant = $1",
        "SELECT * FROM places WHERE tenant = $1",
    ];
    let mut one = stage.superuser();
    one.query("SET search_path = east");
    for (n, sql) in statements.iter().enumerate() {
        one.query(&format!("PREPARE p{n} (int) AS {sql}"));
        for message in [format!("P e{n} : {sql}"), format!("D S e{n}"), "S".to_owned()] {
            one.send(&frame(&message));
        }
        one.answers_until("Z");
    }
    // What the row says, or the error, by both protocols.
    let run = |one: &mut Wire, n: usize| {
        for message in [&format!("B - e{n} : 1"), "E - 0", "S"] {
            one.send(&frame(message));
        }
        [one.answers_until("Z"), one.query(&format!("EXECUTE p{n} (1)"))].map(|answer| match code(&answer).as_str() {
            "no error" => row(&answer).trim_start_matches("1,").to_owned(),
            code => code.to_owned(),
        })
    };
    for _ in 0..2 {
        for schema in ["west", "east"] {
            one.query(&format!("SET search_path = {schema}"));
            for (n, sql) in statements.iter().enumerate() {
                assert_eq!(run(&mut one, n), [schema; 2], "{sql}");
                assert_eq!(run(&mut one, n), [schema; 2], "{sql}");
            }
        }
    }
    one.query("BEGIN; SET LOCAL search_path = west");
    assert_eq!(run(&mut one, 0), ["west"; 2]);
    one.query("COMMIT");
    assert_eq!(run(&mut one, 0), ["east"; 2]);
    one.query("SET search_path = far");
    assert_eq!(run(&mut one, 0), ["far"; 2], "the columns are the same");
    assert_eq!(run(&mut one, 3), ["0A000"; 2], "they are others");
    one.query("SET search_path = pg_catalog");
    assert_eq!(run(&mut one, 0), ["42P01"; 2]);
    one.query("RESET search_path");
    assert_eq!(run(&mut one, 2), ["42P01"; 2]);
    one.query("SET search_path = east");
    for (n, sql) in statements.iter().enumerate() {
        assert_eq!(run(&mut one, n), ["east"; 2], "{sql}");
    }
    for schema in ["east", "west", "far"] {
        for table in ["places", "near"] {
            stage.served.psql(&format!("DROP TABLE {schema}.{table}"));
        }
        stage.served.psql(&format!("DROP SCHEMA {schema}"));
    }
}
