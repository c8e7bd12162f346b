//! Tables become local again: with every row and all that they were before, whoever writes, and whoever dies meanwhile.

mod support;

use std::time::Duration;

use support::served::Served;
use support::{psql, psql_error, wait_until};

/// Of every kind of what a table may have and a shell keeps.
const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('bad', 'good');
    CREATE TYPE point3 AS (x int, moods mood[]);
    CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := NEW.note || '!'; RETURN NEW; END $$;
    CREATE TABLE orders (tenant int, id bigserial, note text NOT NULL DEFAULT 'none', moods mood[], place point3, parent bigint,
        twice bigint GENERATED ALWAYS AS (tenant * 2) STORED, PRIMARY KEY (tenant, id),
        CONSTRAINT parents FOREIGN KEY (tenant, parent) REFERENCES orders, CHECK (note <> ''));
    CREATE INDEX by_note ON orders (lower(note)) WHERE id > 5;
    CREATE STATISTICS together ON id, note FROM orders;
    CREATE TRIGGER a_louder BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION louder();
    CREATE TRIGGER off BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION louder();
    ALTER TABLE orders DISABLE TRIGGER off;
    CREATE POLICY even ON orders USING (id % 2 = 0);
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
    COMMENT ON TABLE orders IS 'what was ordered'; COMMENT ON CONSTRAINT parents ON orders IS 'family';
    GRANT SELECT ON orders TO PUBLIC";
const DEFINITION: &str = "SELECT tenantry.table_family('orders'::regclass), 'orders'::regclass::oid, (SELECT string_agg(concat_ws(' ',
    conname, oid, convalidated, obj_description(oid)), ', ' ORDER BY oid) FROM pg_constraint WHERE conrelid = 'orders'::regclass),
    (SELECT string_agg(tgname || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'orders'::regclass)";
const ROWS: &str = "SELECT count(*), md5(string_agg(orders::text, E'\\n' ORDER BY tenant, id)) FROM orders";

#[test]
fn a_table_is_local_again_with_every_row_and_all_that_it_was() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    served.psql(TABLES);
    let definition = psql(&served.coordinator_dsn(), DEFINITION);
    served.psql("SET citus.shard_count = 8; SELECT create_distributed_table('orders', 'tenant')");
    served.psql(
        "INSERT INTO orders (tenant, id, note, moods, place, parent) SELECT t, t * 1000 + i, 'n' || i, '{good,bad}', ROW(i, '{bad}')::point3,
            CASE WHEN i > 1 THEN t * 1000 + 1 END FROM generate_series(1, 40) t, generate_series(1, 50) i ORDER BY i;
         UPDATE orders SET note = note || '?' WHERE tenant = 7",
    );
    let drawn: i64 = served.psql("INSERT INTO orders (tenant) VALUES (3) RETURNING id").parse().expect("a number");
    let rows = served.psql("SELECT tenant, id, note, moods, place, parent, twice FROM orders ORDER BY tenant, id");
    assert_eq!(psql(&served.dsn(1), "SELECT count(*) FROM orders"), "2001");

    // In a transaction that changes its mind; the other proxy and this one go on as before.
    served.psql(
        "BEGIN; INSERT INTO orders (tenant, id) VALUES (1, 1); SELECT undistribute_table('orders');
         INSERT INTO orders (tenant, id) VALUES (2, 1); UPDATE orders SET note = 'x' WHERE tenant < 30; ROLLBACK",
    );
    let now = || served.psql("SELECT tenant, id, note, moods, place, parent, twice FROM orders ORDER BY tenant, id");
    assert_eq!(now(), rows);
    assert_eq!(served.psql("SELECT citus_table_type FROM citus_tables"), "distributed");

    let said = support::serve::psql_says(&served.dsn(0), "SELECT undistribute_table('orders')");
    assert!(said.contains("moving the data of public.orders"), "{said}");
    assert_eq!(psql(&served.dsn(1), "SELECT count(*) FROM orders"), "2001", "another proxy knows at once or finds out");
    assert_eq!(now(), rows);
    assert_eq!(psql(&served.coordinator_dsn(), ROWS).split('|').next(), Some("2001"), "they are on the coordinator");
    assert_eq!(psql(&served.coordinator_dsn(), DEFINITION), definition, "the table is what it was before");
    expect_nothing_left(&served);

    let next: i64 = served.psql("INSERT INTO orders (tenant) VALUES (3) RETURNING id").parse().expect("a number");
    assert!(next > drawn, "{next} comes behind {drawn}, which a worker had been lent");
    assert_eq!(
        served.psql("SELECT note FROM orders WHERE note LIKE 'none!%'"),
        "none!\nnone!",
        "its trigger fires again"
    );
    let broken = served.psql_error("INSERT INTO orders (tenant, parent) VALUES (3, -1)");
    assert!(broken.contains("23503"), "{broken}");
    // And there and back.
    served.psql("SELECT create_distributed_table('orders', 'tenant'); SELECT undistribute_table('orders')");
    assert_eq!(psql(&served.coordinator_dsn(), DEFINITION), definition);
    assert_eq!(served.psql("SELECT count(*) FROM orders"), "2002");
    expect_nothing_left(&served);
}

#[test]
fn what_cannot_become_local_is_refused_before_anything_is_locked() {
    let served = Served::start(1);
    served.psql(
        "CREATE TABLE countries (code text PRIMARY KEY); CREATE TABLE plain (tenant int);
         CREATE TABLE stores (tenant int PRIMARY KEY, country text REFERENCES countries ON DELETE CASCADE);
         CREATE TABLE \"Items\" (tenant int REFERENCES stores);
         CREATE TABLE events (tenant int, at date) PARTITION BY RANGE (at);
         CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    );
    served.psql(
        "ALTER TABLE \"Items\" DROP CONSTRAINT \"Items_tenant_fkey\"; SELECT create_reference_table('countries');
         SELECT create_distributed_table('stores', 'tenant', shard_count => 4);
         SELECT create_distributed_table('\"Items\"', 'tenant', colocate_with => 'stores');
         ALTER TABLE \"Items\" ADD FOREIGN KEY (tenant) REFERENCES stores;
         CREATE ROLE clerk LOGIN; GRANT tenantry_admin TO clerk; GRANT CREATE ON SCHEMA public TO clerk;
         ALTER TABLE events OWNER TO clerk; ALTER TABLE events_2026 OWNER TO clerk",
    );
    let as_clerk = served.dsn(0).replace("postgres@", "clerk@");
    psql(&as_clerk, "SELECT create_distributed_table('events', 'tenant', colocate_with => 'none')");
    for (table, code, message, hint) in [
        ("plain", "42P01", "cannot undistribute table because the table is not distributed", ""),
        ("nowhere", "42P01", "relation \"nowhere\" does not exist", ""),
        ("events_2026", "0A000", "cannot undistribute table because it is a partition", "or detach it first."),
        (
            "stores",
            "0A000",
            "cannot complete operation because table stores has a foreign key",
            "Use cascade option to undistribute all the relations involved in a foreign key relationship with public.stores by \
             executing SELECT undistribute_table($$public.stores$$, cascade_via_foreign_keys=>true)",
        ),
        (
            "\"Items\"",
            "0A000",
            "cannot complete operation because table Items has a foreign key",
            "undistribute_table($$public.\"Items\"$$, cascade_via_foreign_keys=>true)",
        ),
        ("countries", "0A000", "cannot complete operation because table countries has a foreign key", ""),
    ] {
        let error = served.psql_error(&format!("SELECT undistribute_table('{table}')"));
        assert!(error.contains(&format!("{code}: {message}")) && error.contains(hint), "{table}: {error}");
    }
    let old = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM plain; SELECT undistribute_table('events')";
    let error = served.psql_error(old);
    assert!(error.contains("0A000") && error.contains("READ COMMITTED"), "{error}");
    let null = served.psql_error("SELECT undistribute_table(NULL)");
    assert!(null.contains("22004"), "{null}");

    served.psql("CREATE ROLE other LOGIN; GRANT tenantry_admin TO other; GRANT ALL ON events TO other");
    let as_other = served.dsn(0).replace("postgres@", "other@");
    for sql in ["SELECT undistribute_table('events')", "SELECT tenantry.silence_triggers('events'::regclass)"] {
        let error = psql_error(&as_other, sql);
        assert!(error.contains("42501: must be owner of table"), "{error}");
    }
    served.psql("ALTER TABLE events_2026 OWNER TO other");
    let error = psql_error(&as_clerk, "SELECT undistribute_table('events')");
    assert!(error.contains("42501: must be owner of table events_2026"), "{error}");
    served.psql("ALTER TABLE events_2026 OWNER TO clerk; REVOKE tenantry_admin FROM clerk");
    let error = psql_error(&as_clerk, "SELECT undistribute_table('events')");
    assert!(error.contains("42501"), "{error}");
    served.psql("GRANT tenantry_admin TO clerk; INSERT INTO events VALUES (1, '2026-02-02')");
    psql(&as_clerk, "SELECT undistribute_table('events')");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT * FROM events_2026"), "1|2026-02-02");
}

/// No shard, no copy, no row of the catalog, no sequence that was lent.
fn expect_nothing_left(served: &Served) {
    let catalog = "SELECT (SELECT count(*) FROM tenantry.distributed_table) + (SELECT count(*) FROM tenantry.shard)
        + (SELECT count(*) FROM tenantry.shard_group) + (SELECT count(*) FROM tenantry.colocation)";
    assert_eq!(psql(&served.coordinator_dsn(), catalog), "0");
    for worker in 0..2 {
        let left = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^public_[0-9]+$')
            + (SELECT count(*) FROM pg_class WHERE relname ~ '^lent_[0-9]+_counter$' OR relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S'))";
        let is_clean = || psql(&served.worker_dsn(worker), left) == "0";
        assert!(
            wait_until(Duration::from_secs(10), is_clean),
            "worker {worker}: {}",
            psql(&served.worker_dsn(worker), left)
        );
    }
}
