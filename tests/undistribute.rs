//! Tables become local again: with every row and all that they were before, whoever writes, and whoever dies meanwhile.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::ledger::Load;
use support::served::{Served, Stop};
use support::wire_client::Client;
use support::{psql, psql_error, signal, wait_until};

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

#[test]
fn what_foreign_keys_connect_becomes_local_together() {
    let served = Served::start(2);
    served.psql(
        "CREATE TABLE countries (code text PRIMARY KEY, n serial); CREATE TABLE codes (code int PRIMARY KEY);
         CREATE TABLE apart (tenant int PRIMARY KEY); CREATE TABLE cities (code text REFERENCES countries);
         CREATE TABLE stores (tenant int, country text REFERENCES countries ON DELETE CASCADE, opened date, PRIMARY KEY (tenant, opened))
             PARTITION BY RANGE (opened);
         CREATE TABLE stores_2025 PARTITION OF stores FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         CREATE TABLE stores_2026 PARTITION OF stores FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         CREATE TABLE visits (tenant int, opened date, id int, PRIMARY KEY (tenant, id))",
    );
    served.psql(
        "INSERT INTO countries (code) VALUES ('de'), ('fr'); INSERT INTO codes VALUES (1);
         SELECT create_reference_table('countries'); SELECT create_reference_table('codes');
         SELECT create_distributed_table('apart', 'tenant', shard_count => 4);
         SELECT create_distributed_table('stores', 'tenant', colocate_with => 'apart');
         SELECT create_distributed_table('visits', 'tenant', colocate_with => 'apart')",
    );
    let key = "ALTER TABLE visits ADD FOREIGN KEY (tenant, opened) REFERENCES stores ON DELETE CASCADE";
    served.psql(key);
    served.psql(
        "INSERT INTO stores SELECT t, CASE t % 2 WHEN 0 THEN 'de' ELSE 'fr' END, '2025-07-01'::date + t * 10 FROM generate_series(1, 40) t;
         INSERT INTO visits SELECT t, '2025-07-01'::date + t * 10, i FROM generate_series(1, 40) t, generate_series(1, 5) i;
         INSERT INTO cities VALUES ('de'); INSERT INTO apart SELECT generate_series(1, 40)",
    );
    // From the far end, by way of a partitioned table and a reference table.
    served.psql("SELECT undistribute_table('visits', cascade_via_foreign_keys => true)");
    let managed = "SELECT string_agg(table_name::text, ' ' ORDER BY table_name::text) FROM citus_tables";
    assert_eq!(served.psql(managed), "apart codes", "what is not connected stays");
    let counts =
        "SELECT (SELECT count(*) FROM stores_2025), (SELECT count(*) FROM stores), (SELECT count(*) FROM visits),
        (SELECT count(*) FROM countries), (SELECT count(*) FROM cities)";
    assert_eq!(psql(&served.coordinator_dsn(), counts), "18|40|200|2|1");
    assert_eq!(served.psql("SELECT count(*) FROM apart"), "40");
    let refused = served.psql_error("INSERT INTO visits VALUES (1, '2025-01-01', 9)");
    assert!(refused.contains("23503"), "{refused}");
    served.psql("DELETE FROM countries WHERE code = 'fr'; INSERT INTO countries (code) VALUES ('it')");
    assert_eq!(psql(&served.coordinator_dsn(), counts), "9|20|100|2|1", "keys do what they say");

    served.psql("SELECT undistribute_table('codes'); INSERT INTO codes VALUES (2); UPDATE codes SET code = code + 1 WHERE code = 2");
    for worker in 0..2 {
        let left = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')";
        assert_eq!(psql(&served.worker_dsn(worker), left), "");
        let noted = "SELECT count(*) FROM tenantry.reference_copy";
        assert_eq!(psql(&served.worker_dsn(worker), noted), "0");
    }
    served.psql("SELECT create_reference_table('codes')");
    assert_eq!(psql(&served.worker_dsn(1), "SELECT string_agg(code::text, ' ' ORDER BY code) FROM codes"), "1 3");
}

/// Policies hide rows from an owner who has said so himself; a snapshot hides what was committed after it.
#[test]
fn no_row_is_lost_that_is_hidden_from_who_calls() {
    let served = Served::start(1);
    served.psql("CREATE ROLE clerk LOGIN; GRANT tenantry_admin TO clerk; GRANT CREATE ON SCHEMA public TO clerk");
    let as_clerk = served.dsn(0).replace("postgres@", "clerk@");
    psql(
        &as_clerk,
        "CREATE TABLE papers (tenant int, is_secret boolean); CREATE POLICY seen ON papers USING (NOT is_secret);
         INSERT INTO papers SELECT t, t % 2 = 0 FROM generate_series(1, 100) t;
         ALTER TABLE papers ENABLE ROW LEVEL SECURITY; ALTER TABLE papers FORCE ROW LEVEL SECURITY",
    );
    let state = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'papers'::regclass";
    for call in ["create_distributed_table('papers', 'tenant')", "undistribute_table('papers')"] {
        psql(&as_clerk, &format!("SELECT {call}"));
        assert_eq!(served.psql("SELECT count(*) FROM papers"), "100", "{call}");
        assert_eq!(psql(&as_clerk, "SELECT count(*) FROM papers"), "50", "{call}");
        assert_eq!(psql(&served.coordinator_dsn(), state), "t|t", "{call}");
    }
    served.psql("CREATE TABLE later (tenant int PRIMARY KEY)");
    for call in ["create_distributed_table('later', 'tenant')", "create_reference_table('later')"] {
        let old = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT {call}");
        let error = served.psql_error(&old);
        assert!(
            error.contains("0A000: cannot move the rows of a table in a transaction that is repeatable read"),
            "{error}"
        );
    }
    served.psql("ALTER ROLE postgres SET default_transaction_isolation = 'repeatable read'");
    served.psql("SELECT create_distributed_table('later', 'tenant')");
    served.psql("SELECT undistribute_table('later')");
    assert_eq!(served.psql("SELECT count(*) FROM citus_tables"), "0", "a call by itself needs nothing");
}

/// Goal: clients of two proxies write all the time while their table becomes local; no acknowledged write is missing or
/// there twice, and nobody is told of it.
#[test]
fn no_write_is_lost_while_a_table_becomes_local() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    let tenants = served.tenants();
    served.psql("CREATE TABLE words (id bigint PRIMARY KEY, word text); SELECT create_reference_table('words')");
    let loads =
        [0, 1].map(|proxy| Load::start(served.proxy_port(proxy), &tenants, 2, 1000 + proxy as u64 * 100_000_000));
    let stop = Arc::new(Stop::default());
    let writers = [0, 1].map(|proxy| {
        let (port, stop) = (served.proxy_port(proxy), stop.clone());
        std::thread::spawn(move || {
            let (mut client, mut written) = (Client::connect(port, &[]), 0);
            while !stop.is_set() {
                let said = client.query(&format!("INSERT INTO words VALUES ({})", proxy * 1_000_000 + written));
                assert!(!said.contains("E("), "{said}");
                written += 1;
            }
            written
        })
    });
    for call in
        ["undistribute_table('items')", "undistribute_table('words')", "create_distributed_table('items', 'tenant')"]
    {
        served.psql(&format!("SELECT {call}"));
        loads.iter().for_each(Load::await_progress);
    }
    served.psql("SELECT undistribute_table('items')");
    loads.iter().for_each(Load::await_progress);
    let ledgers = loads.map(Load::end);
    stop.set();
    let written: usize = writers.map(|writer| writer.join().expect("it writes")).iter().sum();
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT count(*) FROM words"), written.to_string());
    let present = psql(&served.coordinator_dsn(), "SELECT id FROM items WHERE id >= 1000");
    for (ledger, first) in ledgers.iter().zip([1000, 100_001_000]) {
        let errors: Vec<_> = ledger.errors().map(|done| &done.said).collect();
        assert!(errors.is_empty(), "{errors:?}");
        let own =
            present.lines().filter(|id| id.parse::<u64>().is_ok_and(|id| id / 100_000_000 == first / 100_000_000));
        ledger.check(&own.collect::<Vec<_>>().join("\n"), first);
    }
}

/// Goal: who has rows of one server locked and goes on to another is not kept from it by a call that waits for the first.
#[test]
fn a_transaction_of_several_tenants_and_a_call_do_not_wait_for_each_other() {
    let served = Served::start(2);
    let tenants = served.tenants();
    let mut client = Client::connect(served.proxy_port(0), &[]);
    client.query("BEGIN");
    client.query(&format!("UPDATE items SET id = 2 WHERE tenant = {}", tenants[0]));
    let calls = {
        let dsn = served.dsn(0);
        std::thread::spawn(move || psql(&dsn, "SELECT undistribute_table('items')"))
    };
    let other = served.worker_dsn(1);
    let locked = "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation::regclass::text LIKE '%.items'";
    assert!(wait_until(PATIENCE, || psql(&other, locked) == "t"), "it has the other server's locks");
    let said = client.query(&format!("UPDATE items SET id = 2 WHERE tenant = {}", tenants[1]));
    assert!(said.contains("UPDATE 1"), "{said}");
    client.query("COMMIT");
    calls.join().expect("it goes on");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT string_agg(id::text, ' ') FROM items"), "2 2");
    // A client's own patience counts.
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    client.query("BEGIN");
    client.query(&format!("UPDATE items SET id = 3 WHERE tenant = {}", tenants[0]));
    let error = served.psql_error("SET lock_timeout = '300ms'; SELECT undistribute_table('items')");
    assert!(error.contains("55P03"), "{error}");
}

/// Goal: whenever the proxy dies, the table is either distributed or local, with every row, and can be used as it is.
#[test]
fn a_proxy_that_dies_leaves_a_table_that_is_whole() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    // A row that comes to the coordinator waits for whoever keeps the lock there.
    served.psql(
        "CREATE FUNCTION passes(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN true; END $$;
         CREATE TABLE orders (tenant int, id int, CHECK (passes(id)))",
    );
    served.psql(
        "SELECT create_distributed_table('orders', 'tenant', shard_count => 4);
         INSERT INTO orders SELECT t, i FROM generate_series(1, 40) t, generate_series(1, 10) i",
    );
    let rows = |served: &Served| psql(&served.dsn(1), "SELECT count(*), count(DISTINCT (tenant, id)) FROM orders");
    let prepared = |served: &Served| served.everywhere("SELECT count(*) FROM pg_prepared_xacts").concat();
    for (gate, waits) in [
        ("SELECT pg_advisory_xact_lock(77)", "COPY"),
        ("LOCK TABLE tenantry.two_phase IN EXCLUSIVE MODE", "decide_commit"),
    ] {
        let mut gatekeeper = Client::connect(served.coordinator_port, &[]);
        gatekeeper.query("BEGIN");
        gatekeeper.query(gate);
        let mut caller = Client::connect(served.proxy_port(0), &[]);
        caller.send("SELECT undistribute_table('orders')");
        let is_there = format!(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%{waits}%' AND wait_event_type = 'Lock'"
        );
        assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), &is_there) == "t"), "it gets to {waits}");
        served.kill_proxy(0);
        // Nobody decides any more.
        let ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        psql(&served.coordinator_dsn(), ends);
        gatekeeper.query("COMMIT");
        assert!(wait_until(PATIENCE, || prepared(&served) == "000"), "{waits}: the parts are ended");
        assert_eq!(rows(&served), "400|400", "{waits}");
        assert_eq!(psql(&served.dsn(1), "SELECT citus_table_type FROM citus_tables"), "distributed", "{waits}");
        psql(&served.dsn(1), "INSERT INTO orders VALUES (41, 1); DELETE FROM orders WHERE tenant = 41");
        served.start_proxy(0);
    }
    // Decided; a worker has not heard of it.
    let mut gatekeeper = Client::connect(served.coordinator_port, &[]);
    gatekeeper.query("BEGIN");
    gatekeeper.query("LOCK TABLE tenantry.two_phase IN EXCLUSIVE MODE");
    let mut caller = Client::connect(served.proxy_port(0), &[]);
    caller.send("SELECT undistribute_table('orders')");
    assert!(wait_until(PATIENCE, || prepared(&served) == "011"), "both workers are prepared");
    let backend = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'PREPARE TRANSACTION%' AND pid <> pg_backend_pid()
        ORDER BY state_change DESC LIMIT 1";
    let pid: u32 = psql(&served.worker_dsn(1), backend).parse().expect("a process");
    signal(pid, "STOP");
    gatekeeper.query("COMMIT");
    let is_local = "SELECT count(*) FROM tenantry.distributed_table";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), is_local) == "0"), "it is decided");
    served.kill_proxy(0);
    assert_eq!(rows(&served), "400|400");
    assert!(wait_until(PATIENCE, || prepared(&served) == "000"), "the other proxy carries it out");
    signal(pid, "TERM");
    signal(pid, "CONT");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT count(*) FROM ONLY orders"), "400");
    served.start_proxy(0);
    expect_nothing_left(&served);
}

/// Goal: a table whose shards have just moved becomes local as any other, and what was kept to undo the moves goes with it.
#[test]
fn a_table_whose_moves_could_still_be_undone_becomes_local_and_nothing_is_left() {
    let mut served = Served::start_with(2, 2, "[moves]\nundo_window = \"1h\"\n");
    served.start_proxy(1);
    served.psql(
        "CREATE TABLE orders (tenant int, id int, PRIMARY KEY (tenant, id)); CREATE TABLE notes (tenant int, note text);
         SELECT create_distributed_table('orders', 'tenant', shard_count => 2);
         SELECT create_distributed_table('notes', 'tenant', colocate_with => 'orders');
         INSERT INTO orders SELECT t, i FROM generate_series(1, 20) t, generate_series(1, 10) i; INSERT INTO notes SELECT generate_series(1, 20), 'n'",
    );
    let placements = "SELECT shardid, nodeport FROM pg_dist_shard_placement JOIN pg_dist_shard USING (shardid)
        WHERE logicalrelid = 'orders'::regclass ORDER BY 1";
    let moves: Vec<String> = served
        .psql(placements)
        .lines()
        .map(|line| {
            let (shard, port) = line.split_once('|').expect("two columns");
            let other = served.worker_port(u16::from(port == served.worker_port(0).to_string()));
            served.psql(&format!(
                "SELECT citus_move_shard_placement({shard}, '127.0.0.1', {port}, '127.0.0.1', {other})"
            ));
            psql(&served.coordinator_dsn(), "SELECT max(moveid) FROM tenantry.shard_move WHERE back_of IS NULL")
        })
        .collect();
    let followed = "SELECT 1 FROM pg_replication_slots WHERE active";
    assert!(wait_until(PATIENCE, || served.everywhere(followed).len() == 2), "both ways back are followed");

    // The other table's shards are still there, but not what they were.
    served.psql("INSERT INTO orders VALUES (1, 11); SELECT undistribute_table('orders')");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT count(*) FROM orders"), "201");
    let refused = served.psql_error(&format!("SELECT tenantry_undo_move({})", moves[0]));
    assert!(
        refused.contains("55000: tables of shard group") && refused.contains("were changed since it was moved"),
        "{refused}"
    );
    assert_eq!(served.psql("SELECT count(*) FROM notes"), "20");

    served.psql("SELECT undistribute_table('notes')");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT count(*) FROM notes"), "20");
    let gone = wait_until(PATIENCE, || served.everywhere(OF_MOVES).is_empty());
    assert!(gone, "{:?}", served.everywhere(OF_MOVES));
    let open = "SELECT moveid, state, error FROM tenantry.shard_move WHERE state <> 'done'";
    let ended = || psql(&served.coordinator_dsn(), open).lines().all(|line| line.contains("|failed|"));
    assert!(wait_until(PATIENCE, ended), "{}", psql(&served.coordinator_dsn(), open));
    expect_nothing_left(&served);
    for id in &moves {
        let refused = served.psql_error(&format!("SELECT tenantry_undo_move({id})"));
        assert!(refused.contains(&format!("55000: shard move {id} can no longer be undone")), "{refused}");
    }
    // The same workers take the next table.
    served.psql("SELECT create_distributed_table('orders', 'tenant')");
    assert_eq!(psql(&served.dsn(1), "SELECT count(*) FROM orders"), "201");
}

/// Goal: a call that waits for a move keeps nobody else waiting, and goes on when it has ended.
#[test]
fn a_table_that_moves_becomes_local_afterwards_and_nobody_waits_with_it() {
    let served = Served::start_with(2, 2, "[moves]\ncopy_rate = \"64kB\"\n");
    served.psql("CREATE TABLE papers (tenant int, paper text); CREATE TABLE other (tenant int)");
    served.psql("SELECT create_distributed_table('papers', 'tenant', shard_count => 1)");
    served.psql("INSERT INTO papers SELECT t, repeat('x', 1000) || t FROM generate_series(1, 2000) t");
    let placement =
        served.psql("SELECT shardid, nodeport FROM pg_dist_shard_placement JOIN pg_dist_shard USING (shardid)");
    let (shard, port) = placement.split_once('|').expect("two columns");
    let target = served.worker_port(u16::from(port == served.worker_port(0).to_string()));
    let begin = |sql: String| {
        let dsn = served.dsn(0);
        std::thread::spawn(move || psql(&dsn, &sql))
    };
    let moving =
        begin(format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {port}, '127.0.0.1', {target})"));
    let copies = "SELECT count(*) FROM tenantry.shard_move WHERE bytes_copied > 0 AND state <> 'done'";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), copies) == "1"), "it copies");
    let calling = begin("SELECT undistribute_table('papers')".to_owned());
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), waits) == "1"), "it waits");
    served.psql("SELECT create_distributed_table('other', 'tenant', colocate_with => 'none')");
    served.psql("INSERT INTO papers VALUES (1, 'new'); INSERT INTO other VALUES (1)");
    assert_eq!(served.psql("SELECT count(*) FROM papers JOIN (SELECT 1) AS one ON true"), "2001");
    assert_eq!(psql(&served.coordinator_dsn(), copies), "1", "the move goes on");
    let file = served.config_file(0);
    let text = std::fs::read_to_string(&file).expect("it was written").replace("64kB", "0B");
    std::fs::write(&file, text).expect("it can be written");
    served.signal_proxy(0, "HUP");
    moving.join().expect("the move ends");
    calling.join().expect("then it is its turn");
    assert_eq!(psql(&served.coordinator_dsn(), "SELECT count(*) FROM ONLY papers"), "2001");
    served.psql("SELECT undistribute_table('other')");
    expect_nothing_left(&served);
}

/// Goal: whoever owns a table can take it away, also as the last of shards whose schemas somebody else has made.
#[test]
fn the_last_table_of_shards_goes_with_schemas_that_are_anothers() {
    let served = Served::start(2);
    served.psql("CREATE ROLE clerk LOGIN; GRANT tenantry_admin TO clerk; GRANT CREATE ON SCHEMA public TO clerk");
    let as_clerk = |dsn: String| dsn.replace("postgres@", "clerk@");
    for last in ["SELECT undistribute_table('papers')", "DROP TABLE papers"] {
        served.psql("CREATE TABLE first (tenant int); SELECT create_distributed_table('first', 'tenant')");
        psql(&as_clerk(served.dsn(0)), "CREATE TABLE papers (tenant int); INSERT INTO papers VALUES (1)");
        psql(&as_clerk(served.dsn(0)), "SELECT create_distributed_table('papers', 'tenant', colocate_with => 'first')");
        served.psql("DROP TABLE first");
        psql(&as_clerk(served.dsn(0)), last);
        served.psql("DROP TABLE IF EXISTS papers");
        expect_nothing_left(&served);
    }
    // The servers' own function is for nothing else.
    let worker = (0..2).map(|worker| as_clerk(served.worker_dsn(worker))).collect::<Vec<_>>();
    served.psql("CREATE TABLE first (tenant int); SELECT create_distributed_table('first', 'tenant')");
    let shard = "SELECT min(nspname) FROM pg_namespace WHERE nspname LIKE 'public\\_%'";
    for (worker, dsn) in worker.iter().enumerate() {
        let shard = psql(&served.worker_dsn(worker as u16), shard);
        psql(
            &served.worker_dsn(worker as u16),
            "CREATE SCHEMA IF NOT EXISTS of_1; CREATE SCHEMA IF NOT EXISTS of_clerk AUTHORIZATION clerk",
        );
        for schema in [shard.as_str(), "public", "of_1", "of_clerk", "nowhere_1"] {
            let refused = psql_error(dsn, &format!("SELECT tenantry.drop_shard_schema('{schema}')"));
            assert!(refused.contains(&format!("42501: must be owner of schema {schema}")), "{refused}");
        }
    }
    assert_eq!(served.psql("SELECT count(*) FROM first"), "0");
}

/// What moves make on servers beside shards.
const OF_MOVES: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%'";
const PATIENCE: Duration = Duration::from_secs(60);
