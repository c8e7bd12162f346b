//! Cursors of SQL and of the protocol, and transactions that only read: how long they live, and what may run beside them.

use super::{Stage, code, row};
use crate::wire::{Wire, frame};

/// Of one tenant and of all; what is written meanwhile is not seen, and a rollback takes the cursor along.
pub fn cursors_outlive_their_transaction(stage: &Stage) {
    let (mut one, mut two) = (stage.superuser(), stage.superuser());
    for (of, rows) in
        [("WHERE tenant = 1", 3), ("WHERE id > 0", 120), ("a JOIN items b USING (id) WHERE b.tenant = 2", 120)]
    {
        let select = format!("SELECT count(*) OVER (), id FROM items {of}");
        for declare in [
            "DECLARE c SCROLL CURSOR WITH HOLD FOR",
            "BEGIN; DECLARE c CURSOR WITH HOLD FOR",
            "BEGIN; DECLARE c NO SCROLL CURSOR WITH HOLD FOR",
        ] {
            let said = one.query(&format!("{declare} {select}"));
            assert_eq!(code(&said), "no error", "{declare} {select}: {said:?}");
            if declare.starts_with("BEGIN") {
                assert_eq!(one.query("COMMIT"), ["C COMMIT", "Z I"]);
            }
            two.query("BEGIN; INSERT INTO items VALUES (1, 99), (2, 99)");
            two.query("ROLLBACK");
            assert!(row(&one.query("FETCH 1 FROM c")).starts_with(&format!("{rows},")), "{declare} {select}");
            let rest = one.query("FETCH ALL FROM c");
            assert_eq!(rest.iter().filter(|said| said.starts_with("D ")).count(), rows - 1, "{declare} {select}");
            assert_eq!(code(&two.query("FETCH 1 FROM c")), "34000");
            assert_eq!(code(&one.query("CLOSE c")), "no error");
        }
        one.query(&format!("BEGIN; DECLARE c CURSOR WITH HOLD FOR {select}"));
        one.query("ROLLBACK");
        assert_eq!(code(&one.query("FETCH 1 FROM c")), "34000");
    }
}

pub fn cursors_stay_open_beside_other_queries(stage: &Stage) {
    let mut one = stage.superuser();
    for begin in ["BEGIN", "BEGIN READ ONLY"] {
        one.query(begin);
        for (name, query) in [
            ("a", "SELECT id FROM items WHERE tenant = 1 ORDER BY id"),
            ("b", "SELECT count(*) FROM items GROUP BY tenant"),
            ("c", "SELECT tenant FROM items WHERE id = 1 ORDER BY tenant"),
            ("d", "SELECT tenant + 1 FROM items WHERE id = 1 ORDER BY tenant"),
            ("e", "SELECT 1"),
        ] {
            assert_eq!(code(&one.query(&format!("DECLARE {name} SCROLL CURSOR FOR {query}"))), "no error", "{query}");
        }
        for wanted in ["1 3 1 2 1", "2 3 2 3 ", "3 3 3 4 "] {
            let said: Vec<_> = ["a", "b", "c", "d", "e"]
                .iter()
                .map(|name| {
                    let said = one.query(&format!("FETCH {name}"));
                    said.iter().find_map(|a| a.strip_prefix("D ")).unwrap_or("").to_owned()
                })
                .collect();
            assert_eq!(said.join(" "), wanted, "{begin}");
            assert_eq!(row(&one.query("SELECT count(*) FROM items")), "120", "{begin}");
        }
        assert_eq!(row(&one.query("FETCH BACKWARD 1 FROM c")), "2");
        one.query("CLOSE ALL");
        for _ in 0..20 {
            assert_eq!(row(&one.query("SELECT count(*) FROM items")), "120");
        }
        let tables = one.query("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()");
        assert!(row(&tables).parse::<u32>().unwrap() < 8, "{tables:?}");
        one.query("COMMIT");
        // Portals of the protocol.
        one.query(begin);
        for message in ["P - : SELECT tenant FROM items WHERE id = 1 ORDER BY tenant", "B p -", "E p 2", "S"] {
            one.send(&frame(message));
        }
        assert_eq!(one.answers_until("Z"), ["1", "2", "D 1", "D 2", "s", "Z T"], "{begin}");
        assert_eq!(row(&one.query("SELECT count(*) FROM items")), "120");
        for message in ["E p 1", "C P p", "S"] {
            one.send(&frame(message));
        }
        assert_eq!(one.answers_until("Z"), ["D 3", "s", "3", "Z T"], "{begin}");
        one.query("COMMIT");
    }
}

pub fn many_tenants_can_be_read_in_read_only_transactions(stage: &Stage) {
    let read = |client: &mut Wire, title: &str| {
        assert_eq!(row(&client.query("SELECT count(*) FROM items")), "120", "{title}");
        assert_eq!(
            row(&client.query("SELECT max(a.id) FROM items a JOIN items b ON a.id = b.id AND a.name = b.name")),
            "3",
            "{title}"
        );
        assert_eq!(row(&client.query("SELECT name FROM items ORDER BY name DESC LIMIT 1")), "name 3", "{title}");
        assert_eq!(
            row(&client.query("SELECT count(*) FROM citus_tables WHERE citus_table_type = 'distributed'")),
            "2",
            "{title}"
        );
        assert_eq!(row(&client.query("SELECT id FROM items WHERE tenant = 1 AND id = 2")), "2", "{title}");
        assert_eq!(row(&client.query("SHOW transaction_read_only")), "on", "{title}");
    };
    let refuse = |client: &mut Wire, title: &str, begin: &str, end: &str| {
        for write in [
            "INSERT INTO plain (said) VALUES ('no')",
            "INSERT INTO items VALUES (1, 9, 'no')",
            "UPDATE items SET name = 'no'",
            "CREATE TABLE no (id int)",
            "CREATE TEMP TABLE no (id int)",
            "INSERT INTO items SELECT tenant, id + 10, name FROM items WHERE tenant = 2",
            "INSERT INTO items SELECT id + 50 AS a, id + 60 AS b, name FROM items",
            "SELECT nextval('plain_id_seq')",
        ] {
            client.query(begin);
            read(client, title);
            assert_eq!(code(&client.query(write)), "25006", "{title}: {write}");
            client.query(end);
        }
        client.query(begin);
        read(client, title);
        client.query("SAVEPOINT s");
        read(client, title);
        client.query("SAVEPOINT s");
        assert_eq!(code(&client.query("INSERT INTO plain (said) VALUES ('no')")), "25006", "{title}");
        client.query("ROLLBACK TO s");
        read(client, title);
        client.query("SELECT 1/0");
        client.query("ROLLBACK TO SAVEPOINT s");
        client.query("RELEASE s");
        read(client, title);
        assert_eq!(code(&client.query("INSERT INTO plain (said) VALUES ('no')")), "25006", "{title}");
        client.query("ROLLBACK TO s");
        read(client, title);
        client.query(end);
    };
    let mut one = stage.superuser();
    for begin in [
        "BEGIN READ ONLY",
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "BEGIN TRANSACTION READ ONLY ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE",
        "BEGIN; SET TRANSACTION READ ONLY",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "BEGIN; SET LOCAL transaction_read_only = on",
        "BEGIN; SELECT count(*) FROM items; SET TRANSACTION READ ONLY",
    ] {
        refuse(&mut one, begin, begin, "COMMIT");
    }
    // DEFERRABLE means something with SERIALIZABLE only, and takes a transaction that never may write.
    for begin in [
        "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
    ] {
        one.query(begin);
        assert_eq!(row(&one.query("SELECT count(*) FROM items WHERE tenant = 1")), "3", "{begin}");
        assert_eq!(row(&one.query("SHOW transaction_deferrable")), "on", "{begin}");
        assert_eq!(code(&one.query("SELECT count(*) FROM items")), "0A000", "{begin}");
        one.query("ROLLBACK");
    }
    one.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    assert_eq!(row(&one.query("SHOW transaction_isolation")), "repeatable read");
    one.query("COMMIT");
    for way in [
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET default_transaction_read_only = on",
        "SELECT set_config('default_transaction_read_only', 'on', false)",
    ] {
        let mut two = stage.superuser();
        two.query(way);
        refuse(&mut two, way, "BEGIN", "COMMIT");
        // Without a transaction block too.
        read(&mut two, way);
        assert_eq!(code(&two.query("INSERT INTO plain (said) VALUES ('no')")), "25006", "{way}");
        assert_eq!(code(&two.query("INSERT INTO items VALUES (1, 9, 'no'), (2, 9, 'no')")), "25006", "{way}");
        two.query("BEGIN READ WRITE");
        assert_eq!(code(&two.query("INSERT INTO plain (said) VALUES ('yes')")), "no error", "{way}");
        assert_eq!(row(&two.query("SELECT count(*) FROM items")), "120");
        two.query("ROLLBACK");
    }
    let mut three = Wire::login_with(stage.port(), "postgres", &[("options", "-c default_transaction_read_only=on")]);
    read(&mut three, "startup");
    assert_eq!(row(&one.query("SELECT count(*) FROM items")), "120");
}
