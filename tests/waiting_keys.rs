//! Tables that refer to each other are distributed one by one, those that are referred to first: the foreign keys of those that
//! are still local wait, and nobody writes a row that could not be checked.

mod support;

use support::serve::psql_says;
use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_error};

/// Rows, and names that have to be quoted in every way.
const TABLES: &str = r#"
    CREATE TABLE companies (id bigint PRIMARY KEY, name text NOT NULL);
    CREATE TABLE campaigns (id bigserial, company_id bigint NOT NULL REFERENCES companies (id) ON DELETE CASCADE, name text,
        PRIMARY KEY (company_id, id));
    CREATE TABLE ads (id int, company_id bigint, campaign_id bigint, boss int, PRIMARY KEY (company_id, id),
        FOREIGN KEY (company_id, campaign_id) REFERENCES campaigns (company_id, id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        FOREIGN KEY (company_id, boss) REFERENCES ads);
    CREATE SCHEMA "100% it's";
    CREATE TABLE "100% it's"."o'\\ \ne"" REFERENCES x(" ("%s" bigint, "a\b'c" int, PRIMARY KEY ("%s", "a\b'c"));
    CREATE TABLE parts (company bigint, part int, PRIMARY KEY (company, part),
        CONSTRAINT "it's\ one %s" FOREIGN KEY (company, part) REFERENCES "100% it's"."o'\\ \ne"" REFERENCES x(" MATCH FULL ON DELETE CASCADE)
        PARTITION BY RANGE (part);
    CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (10);
    INSERT INTO companies SELECT i, 'n' || i FROM generate_series(1, 20) i;
    INSERT INTO campaigns (company_id, name) SELECT i, 'c' || i FROM generate_series(1, 20) i, generate_series(1, 3);
    INSERT INTO ads SELECT id, company_id, id FROM campaigns;
    INSERT INTO "100% it's"."o'\\ \ne"" REFERENCES x(" VALUES (1, 1), (2, 2);
    INSERT INTO parts VALUES (1, 1), (2, 2)"#;
const KEYS: &str = "SET search_path = pg_catalog; SELECT conrelid::regclass, conname, pg_get_constraintdef(oid), coninhcount \
    FROM pg_constraint WHERE contype = 'f' AND (connamespace = 'public'::regnamespace OR connamespace = (SELECT oid FROM pg_namespace \
    WHERE nspname = '100% it''s')) ORDER BY conrelid::regclass::text, conname";
const DISTRIBUTE: [&str; 3] = [
    "SELECT create_distributed_table('companies', 'id')",
    "SELECT create_distributed_table('campaigns', 'company_id')",
    "SELECT create_distributed_table('ads', 'company_id')",
];

/// Goal: in the order in which Citus's users do it, with rows in all tables, and every key stands at the end.
#[test]
fn tables_are_distributed_in_the_order_of_their_keys() {
    let served = Served::start(2);
    served.psql(TABLES);
    let keys = psql(&served.coordinator_dsn(), KEYS);
    assert_eq!(keys.lines().count(), 5, "{keys}");

    let said = psql_says(&served.dsn(0), DISTRIBUTE[0]);
    let notice =
        "foreign key \"campaigns_company_id_fkey\" of table public.campaigns waits until that is distributed too";
    assert!(said.contains(notice) && !said.contains("ads_"), "{said}");
    // Nothing can be written that nobody could check; all else goes on.
    for write in [
        "INSERT INTO campaigns (company_id) VALUES (1)",
        "INSERT INTO campaigns (company_id) SELECT id FROM generate_series(1, 3) id",
        "UPDATE campaigns SET name = 'x' WHERE company_id = 1",
        "MERGE INTO campaigns USING (VALUES (99)) v (id) ON company_id = v.id WHEN NOT MATCHED THEN INSERT (company_id) VALUES (v.id)",
        "COPY campaigns (company_id) FROM PROGRAM 'echo 1'",
    ] {
        let refused = psql_error(&served.coordinator_dsn(), write);
        assert!(
            refused.contains("0A000") && refused.contains("cannot write to table \"campaigns\""),
            "{write}: {refused}"
        );
    }
    let refused = served.psql_error("INSERT INTO campaigns (company_id) VALUES (1)");
    let hint = "SELECT create_distributed_table('public.campaigns', ...), or drop the foreign key.";
    assert!(refused.contains("0A000") && refused.contains(hint), "{refused}");
    assert_eq!(served.psql("SELECT count(*) FROM campaigns"), "60");
    served.psql("DELETE FROM campaigns WHERE company_id = 20; INSERT INTO companies VALUES (21, 'n21')");
    let depends = served.psql_error("DROP TABLE companies");
    assert!(depends.contains("2BP01") && depends.contains("campaigns_company_id_fkey"), "{depends}");

    for statement in &DISTRIBUTE[1..] {
        served.psql(statement);
    }
    served.psql(
        r#"SET search_path = "100% it's", public; SELECT create_distributed_table('"o''\\ \ne"" REFERENCES x("', '"%s"')"#,
    );
    served.psql("SELECT create_distributed_table('parts', 'company')");
    assert_eq!(psql(&served.coordinator_dsn(), KEYS), keys, "they are what they were");
    assert_eq!(served.psql("SELECT count(*) FROM campaigns"), "57");
    assert_eq!(served.psql("SELECT count(*) FROM ads"), "57");
    assert_eq!(served.psql("SELECT count(*) FROM parts"), "2");
    for (write, name) in [
        ("INSERT INTO campaigns (company_id) VALUES (77)", "campaigns_company_id_fkey"),
        ("INSERT INTO ads VALUES (1000, 1, 77)", "ads_company_id_campaign_id_fkey"),
        ("INSERT INTO parts VALUES (1, 7)", "it's\\ one %s"),
    ] {
        let broken = served.psql_error(write);
        assert!(broken.contains("23503") && broken.contains(name), "{write}: {broken}");
    }
    served.psql("INSERT INTO campaigns (company_id) VALUES (21); DELETE FROM companies WHERE id < 11");
    assert_eq!(served.psql("SELECT count(*), min(company_id) FROM campaigns"), "28|11");
    assert_eq!(served.psql("SELECT count(*), min(company_id) FROM ads"), "27|11");
}

/// Goal: rows that the key would not allow are found when the waiting table is distributed, and nothing has happened then.
#[test]
fn a_waiting_key_is_checked_when_its_table_is_distributed() {
    let served = Served::start(2);
    served.psql(TABLES);
    served.psql(&DISTRIBUTE[..1].concat());
    served.psql("DELETE FROM companies WHERE id = 5");
    let broken = served.psql_error(DISTRIBUTE[1]);
    assert!(broken.contains("23503") && broken.contains("campaigns_company_id_fkey"), "{broken}");
    let other_shards =
        served.psql_error("SELECT create_distributed_table('campaigns', 'company_id', colocate_with => 'none')");
    assert!(other_shards.contains("0A000") && other_shards.contains("not colocated"), "{other_shards}");
    let waits = served.psql_error("INSERT INTO campaigns (company_id) VALUES (1)");
    assert!(waits.contains("cannot write to table"), "{waits}");
    served.psql("DELETE FROM campaigns WHERE company_id = 5");
    served.psql(DISTRIBUTE[1]);
    assert_eq!(served.psql("SELECT count(*) FROM campaigns"), "57");
}

/// Goal: as programs' migrations make them: tables that refer to one that is distributed already.
#[test]
fn a_table_that_refers_to_a_distributed_one_waits_to_be_distributed() {
    let served = Served::start(2);
    served.psql(
        "CREATE TABLE countries (code text PRIMARY KEY); CREATE TABLE companies (id bigint PRIMARY KEY);
         SELECT create_reference_table('countries'); SELECT create_distributed_table('companies', 'id')",
    );
    let create = "CREATE TABLE campaigns (id bigint, company_id bigint REFERENCES companies ON DELETE CASCADE, country text REFERENCES countries,
        PRIMARY KEY (company_id, id))";
    let said = psql_says(&served.dsn(0), create);
    assert!(said.contains("foreign key \"campaigns_company_id_fkey\" of table public.campaigns waits"), "{said}");
    let refused = served.psql_error("INSERT INTO campaigns VALUES (1, 1)");
    assert!(refused.contains("cannot write to table \"campaigns\""), "{refused}");

    // In one transaction, by Parse and Bind, and on a table that is there.
    let mut client = Client::connect(served.proxy_port(0), &[]);
    for statement in [
        "BEGIN",
        "CREATE TABLE ads (id bigint, company_id bigint, PRIMARY KEY (company_id, id))",
        "ALTER TABLE ads ADD CONSTRAINT of_company FOREIGN KEY (company_id) REFERENCES companies (id) DEFERRABLE INITIALLY DEFERRED",
        "SELECT create_distributed_table('ads', 'company_id')",
        "INSERT INTO ads VALUES (1, 7)",
    ] {
        let said = client.run_prepared("", statement, &[]);
        assert!(said.ends_with("Z(T)"), "{statement}: {said}");
    }
    let broken = client.query("COMMIT");
    assert!(broken.contains("E(23503)"), "{broken}");
    assert_eq!(served.psql("SELECT to_regclass('ads') IS NULL"), "t");

    served.psql(
        "CREATE TABLE ads (id bigint, company_id bigint, PRIMARY KEY (company_id, id)); INSERT INTO ads VALUES (1, 7)",
    );
    let key = "ALTER TABLE ads ADD CONSTRAINT of_company FOREIGN KEY (company_id) REFERENCES companies (id)";
    let refused = served.psql_error(key);
    assert!(refused.contains("0A000") && refused.contains("The table has rows: distribute it first"), "{refused}");
    served.psql("DELETE FROM ads");
    served.psql(key);
    served.psql("ALTER TABLE IF EXISTS nowhere ADD FOREIGN KEY (company_id) REFERENCES companies (id)");
    let refused = served.psql_error("ALTER TABLE countries ADD id bigint REFERENCES companies");
    assert!(refused.contains("0A000") && refused.contains("foreign keys from reference tables"), "{refused}");

    for statement in &DISTRIBUTE[1..] {
        served.psql(statement);
    }
    served.psql("INSERT INTO companies VALUES (1); INSERT INTO campaigns VALUES (1, 1); INSERT INTO ads VALUES (1, 1)");
    for write in [
        "INSERT INTO campaigns VALUES (2, 2)",
        "INSERT INTO ads VALUES (2, 2)",
        "INSERT INTO campaigns VALUES (2, 1, 'xx')",
    ] {
        let broken = served.psql_error(write);
        assert!(broken.contains("23503"), "{write}: {broken}");
    }
}

/// Goal: the way back, for those who don't go on.
#[test]
fn a_waiting_key_is_put_back_or_dropped() {
    let served = Served::start(1);
    served.psql(TABLES);
    served.psql("ALTER TABLE ads DROP CONSTRAINT ads_company_id_campaign_id_fkey");
    let keys = psql(&served.coordinator_dsn(), KEYS);
    served.psql(DISTRIBUTE[0]);
    for (call, hint) in [
        ("SELECT create_reference_table('campaigns')", "Distribute it by the same column"),
        ("SELECT create_distributed_table_concurrently('campaigns', 'company_id')", "Call create_distributed_table"),
    ] {
        let refused = served.psql_error(call);
        assert!(refused.contains("0A000") && refused.contains(hint), "{call}: {refused}");
    }
    served.psql("ALTER TABLE companies RENAME TO firms; SELECT undistribute_table('firms'); ALTER TABLE firms RENAME TO companies");
    assert_eq!(psql(&served.coordinator_dsn(), KEYS), keys);
    served.psql("INSERT INTO campaigns (company_id) VALUES (1)");
    let broken = served.psql_error("INSERT INTO campaigns (company_id) VALUES (77)");
    assert!(broken.contains("23503"), "{broken}");

    served.psql(DISTRIBUTE[0]);
    served.psql("ALTER TABLE campaigns DROP CONSTRAINT campaigns_company_id_fkey; INSERT INTO campaigns (company_id) VALUES (77)");

    // Who may distribute a table may not change everybody's.
    served.psql(
        "CREATE TABLE own (id int PRIMARY KEY); CREATE TABLE theirs (id int REFERENCES own); CREATE ROLE clerk LOGIN;
         GRANT tenantry_admin TO clerk; GRANT CREATE ON SCHEMA public TO clerk; ALTER TABLE own OWNER TO clerk",
    );
    let as_clerk = served.dsn(0).replace("postgres@", "clerk@");
    let refused = psql_error(&as_clerk, "SELECT create_distributed_table('own', 'id')");
    assert!(refused.contains("42501") && refused.contains("must be owner of table theirs"), "{refused}");
}
