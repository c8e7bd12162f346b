//! Partitioned tables in shards: what stands there, what they weigh, and moves of all kinds under clients whose rows go
//! from partition to partition. What statements answer is compared with a plain Postgres in `regress/partitions.sql`.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::served::{Served, Stop, connect};
use support::{psql, psql_error, wait_until};

const TENANTS: i64 = 4;

const TABLES: &str = "
    CREATE TABLE events (tenant bigint NOT NULL, id bigint NOT NULL, at date NOT NULL, n bigint DEFAULT 0, PRIMARY KEY (tenant, id, at))
        PARTITION BY RANGE (at);
    CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE events_2026 (at date NOT NULL, n bigint DEFAULT 0, id bigint NOT NULL, tenant bigint NOT NULL);
    CREATE INDEX a_name_of_its_own ON events_2026 (tenant, n);
    ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE events_rest PARTITION OF events DEFAULT PARTITION BY HASH (id);
    CREATE TABLE events_rest_0 PARTITION OF events_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE events_rest_1 PARTITION OF events_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE INDEX ON events (tenant, n);
    CREATE INDEX waiting ON ONLY events (at, n); CREATE INDEX waiting_2026 ON events_2026 (at, n);
    ALTER INDEX waiting ATTACH PARTITION waiting_2026;
    CREATE TABLE marks (tenant bigint NOT NULL, id bigint, kind text) PARTITION BY LIST (kind);
    CREATE TABLE marks_a PARTITION OF marks FOR VALUES IN ('a');
    CREATE TABLE marks_b PARTITION OF marks FOR VALUES IN ('b');
    INSERT INTO events SELECT i % 4, -i, date '2025-01-01' + i % 900, 0 FROM generate_series(1, 4000) i;
    INSERT INTO marks SELECT i % 4, -i, CASE WHEN i % 3 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 400) i";

/// A unique index of a partitioned table alone waits for those of its partitions, before the table is distributed and after, as in
/// Postgres: each partition's own forbids what it forbids, and the whole is valid when all are attached.
#[test]
fn unique_indexes_of_only_the_parent_wait_for_their_partitions() {
    let served = Served::start(2);
    served.psql(
        "CREATE TABLE seats (tenant int, id int, hall text) PARTITION BY LIST (hall);
         CREATE TABLE seats_a PARTITION OF seats FOR VALUES IN ('a'); CREATE TABLE seats_b PARTITION OF seats FOR VALUES IN ('b');
         CREATE UNIQUE INDEX early ON ONLY seats (tenant, hall, id); CREATE UNIQUE INDEX early_a ON seats_a (tenant, hall, id);
         ALTER INDEX early ATTACH PARTITION early_a",
    );
    served.psql("SELECT create_distributed_table('seats', 'tenant', shard_count => 4)");
    served.psql("INSERT INTO seats SELECT i, 1, h FROM generate_series(1, 20) i, (VALUES ('a'), ('b')) v (h)");
    let is_valid = |index: &str, wanted: &str| {
        let sql =
            "SELECT DISTINCT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = ";
        assert_eq!(served.everywhere(&format!("{sql}'{index}'")), [wanted; 3], "{index}");
    };
    let refused = |sql: &str, words: &str| {
        let error = psql_error(&served.dsn(0), sql);
        assert!(error.contains(words), "{sql}: {error}");
    };
    is_valid("early", "f");
    refused("INSERT INTO seats VALUES (3, 1, 'a')", "23505");
    served.psql("INSERT INTO seats VALUES (3, 1, 'b')");
    // What is there already is in its way on one shard, and so on all.
    refused("CREATE UNIQUE INDEX early_b ON seats_b (tenant, hall, id)", "23505");
    served.psql("DELETE FROM seats WHERE tenant = 3");
    served.psql("CREATE UNIQUE INDEX early_b ON seats_b (tenant, hall, id)");
    served.psql("ALTER INDEX early ATTACH PARTITION early_b");
    is_valid("early", "t");
    refused("INSERT INTO seats VALUES (4, 1, 'b')", "23505");

    served.psql("CREATE UNIQUE INDEX late ON ONLY seats (hall, tenant)");
    is_valid("late", "f");
    served.psql(
        "CREATE UNIQUE INDEX late_a ON seats_a (hall, tenant); CREATE UNIQUE INDEX late_b ON seats_b (hall, tenant)",
    );
    served.psql("ALTER INDEX late ATTACH PARTITION late_a");
    is_valid("late", "f");
    refused("INSERT INTO seats VALUES (4, 2, 'a')", "23505");
    served.psql("ALTER INDEX late ATTACH PARTITION late_b");
    is_valid("late", "t");
    refused("CREATE UNIQUE INDEX ON ONLY seats (hall, id)", "0A000: creating unique indexes on non-partition columns");
    refused("CREATE UNIQUE INDEX ON ONLY seats (tenant, id)", "0A000: unique constraint on partitioned table");
}

/// A schema's tables: what they are parts of, their constraints and indexes, and what these are parts of.
const STRUCTURE: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT concat_ws(' ', c.relname, c.relkind, pg_get_expr(c.relpartbound, c.oid), 'of', p.relname,
            (SELECT string_agg(concat(k.conname, k.contype, k.conislocal, k.coninhcount), ',' ORDER BY k.conname)
             FROM pg_constraint k WHERE k.conrelid = c.oid),
            (SELECT string_agg(concat(a.attname, a.attislocal, a.attinhcount), ',' ORDER BY a.attname)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS line
        FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent
        WHERE c.relnamespace = 'SCHEMA'::regnamespace AND c.relkind IN ('r', 'p', 'i', 'I')) lines";

/// The shards' schemas on each worker.
fn shard_schemas(served: &Served) -> Vec<(String, String)> {
    let sql = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^public_[0-9]+$' ORDER BY nspname";
    let of = |worker| {
        let dsn = served.worker_dsn(worker);
        psql(&dsn, sql).lines().map(|schema| (dsn.clone(), schema.to_owned())).collect::<Vec<_>>()
    };
    (0..2).flat_map(of).collect()
}

fn expect_shards_like_shells(served: &Served, when: &str) {
    let shells = psql(&served.coordinator_dsn(), &STRUCTURE.replace("SCHEMA", "public"));
    assert!(shells.contains("a_name_of_its_own"), "{shells}");
    let schemas = shard_schemas(served);
    let groups = psql(&served.coordinator_dsn(), "SELECT count(*) FROM tenantry.shard_group");
    assert_eq!(schemas.len().to_string(), groups, "{when}: {schemas:?}");
    for (dsn, schema) in schemas {
        assert_eq!(psql(&dsn, &STRUCTURE.replace("SCHEMA", &schema)), shells, "{when}: {schema}");
    }
}

/// Rows of each table that has any, added up over the shards, by the workers themselves.
fn rows_on_workers(served: &Served, table: &str) -> i64 {
    let count = |(dsn, schema): (String, String)| {
        psql(&dsn, &format!("SELECT count(*) FROM {schema}.{table}")).parse::<i64>().expect("a number")
    };
    shard_schemas(served).into_iter().map(count).sum()
}

/// Writes ids from `first` on: through the parent and into partitions, prepared and not; every other row is then moved to
/// another partition by an UPDATE, every fifth deleted. Fails at the first error. Returns how many ids there were.
async fn write(dsn: String, tenant: i64, first: i64, stop: Arc<Stop>) -> i64 {
    let client = connect(&dsn).await;
    let insert = client.prepare("INSERT INTO events VALUES ($1, $2, '2025-05-05', 0)").await.unwrap();
    let read = client.prepare("SELECT count(*) FROM events WHERE tenant = $1 AND id = $2").await.unwrap();
    let run = |id: i64, sql: String| {
        let client = &client;
        async move { client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("id {id}: {:?}", e.as_db_error())) }
    };
    let mut id = first;
    while !stop.is_set() {
        match id % 4 {
            0 => drop(client.execute(&insert, &[&tenant, &id]).await.unwrap()),
            1 => run(id, format!("INSERT INTO events VALUES ({tenant}, {id}, '2025-05-05')")).await,
            2 => {
                run(id, format!("INSERT INTO events_2025 (tenant, id, at) VALUES ({tenant}, {id}, '2025-06-06')")).await
            }
            _ => run(id, format!("BEGIN; INSERT INTO events VALUES ({tenant}, {id}, '2025-07-07'); COMMIT")).await,
        }
        if id % 2 == 0 {
            let at = if id % 3 == 0 { "2026-06-06" } else { "2031-01-01" };
            run(id, format!("UPDATE events SET at = '{at}', n = n + 1 WHERE tenant = {tenant} AND id = {id}")).await;
        }
        if id % 5 == 0 {
            run(id, format!("DELETE FROM events WHERE tenant = {tenant} AND id = {id}")).await;
        }
        // Without a key each change of a row looks through its table on the way.
        if marks(id) {
            run(id, format!("INSERT INTO marks VALUES ({tenant}, {id}, 'a')")).await;
            run(id, format!("UPDATE marks SET kind = 'b' WHERE tenant = {tenant} AND id = {id} AND {id} % 20 = 0"))
                .await;
        }
        let count: i64 = client.query_one(&read, &[&tenant, &id]).await.unwrap().get(0);
        assert_eq!(count, i64::from(id % 5 != 0), "id {id} is read back");
        id += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    id - first
}

/// Do the writers put this id into `marks` too?
fn marks(id: i64) -> bool {
    id % 10 == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitioned_tables_are_distributed_and_move_under_clients() {
    let mut served = Served::start_with(2, 2, "[moves]\nundo_window = \"1h\"\n");
    served.start_proxy(1);
    served.psql(TABLES);
    refusals_before(&served);
    served.psql("SELECT create_distributed_table('events', 'tenant', shard_count => 2)");
    served.psql("SELECT create_distributed_table('marks', 'tenant', colocate_with => 'events')");
    what_stands_where(&served);

    let stop = Arc::new(Stop::default());
    let writers: Vec<_> = (0..TENANTS)
        .map(|w| {
            let dsn = served.dsn(usize::try_from(w % 2).unwrap());
            (w, tokio::spawn(write(dsn, w % TENANTS, w * 1_000_000, stop.clone())))
        })
        .collect();
    every_kind_of_move(&served).await;
    stop.set();
    let mut written = Vec::new();
    for (w, writer) in writers {
        let count = writer.await.unwrap();
        assert!(count > 20, "writer {w} wrote {count}");
        written.push((w * 1_000_000, count));
    }
    every_row_is_where_it_belongs(&served, &written);
    expect_shards_like_shells(&served, "after all moves");
    partitions_come_and_go(&served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitioned_tables_are_distributed_while_clients_write_them() {
    let mut served = Served::start_with(2, 2, "");
    served.start_proxy(1);
    served.psql(TABLES);
    // A partition that is large enough for changes to come while it is copied.
    served.psql("INSERT INTO events SELECT i % 4, -i, '2026-02-02', 0 FROM generate_series(10001, 30000) i");
    let stop = Arc::new(Stop::default());
    let writers: Vec<_> = (0..TENANTS)
        .map(|w| {
            let dsn = served.dsn(usize::try_from(w % 2).unwrap());
            (w, tokio::spawn(write(dsn, w % TENANTS, w * 1_000_000, stop.clone())))
        })
        .collect();
    let client = connect(&served.dsn(0)).await;
    for sql in [
        "SELECT create_distributed_table_concurrently('events', 'tenant', shard_count => 2)",
        "SELECT create_distributed_table_concurrently('marks', 'tenant', colocate_with => 'events')",
    ] {
        // Each writer has written some, before and after.
        let ids = served.psql("SELECT count(*) FROM events WHERE id >= 0").parse::<i64>().unwrap();
        let more = wait_until(Duration::from_secs(60), || {
            served.psql("SELECT count(*) FROM events WHERE id >= 0").parse::<i64>().unwrap() > ids + 40
        });
        assert!(more, "clients write");
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {:?}", e.as_db_error()));
    }
    stop.set();
    let mut written = Vec::new();
    for (w, writer) in writers {
        let count = writer.await.unwrap();
        assert!(count > 20, "writer {w} wrote {count}");
        written.push((w * 1_000_000, count));
    }
    served.psql("DELETE FROM events WHERE id < -10000");
    let managed = "SELECT count(*), count(DISTINCT colocationid), bool_and(column_to_column_name(logicalrelid, partkey) = 'tenant')
        FROM pg_dist_partition";
    assert_eq!(served.psql(managed), "9|1|t");
    every_row_is_where_it_belongs(&served, &written);
    let left = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM marks)";
    assert_eq!(psql(&served.coordinator_dsn(), left), "0", "the shells are empty");
    expect_shards_like_shells(&served, "distributed concurrently");
    partitions_come_and_go(&served);
}

/// `accounts` is referred to, by a partitioned table and a plain one; `entries` refers to it and to a reference table.
const KEYED: &str = "
    CREATE TABLE kinds (id int PRIMARY KEY);
    INSERT INTO kinds SELECT generate_series(1, 3);
    CREATE TABLE accounts (tenant bigint, id bigint, n bigint DEFAULT 0, PRIMARY KEY (tenant, id)) PARTITION BY HASH (id);
    CREATE TABLE accounts_0 PARTITION OF accounts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE accounts_1 PARTITION OF accounts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE entries (tenant bigint, id bigint, account bigint, kind int, at date, body text, PRIMARY KEY (tenant, id, at))
        PARTITION BY RANGE (at);
    CREATE TABLE entries_2025 PARTITION OF entries FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE entries_rest PARTITION OF entries DEFAULT;
    ALTER TABLE entries_2025 ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE notes (tenant bigint, account bigint, body text);
    INSERT INTO accounts SELECT t, i FROM generate_series(1, 40) t, generate_series(1, 5) i";

/// One line for each foreign key of a schema and what it made on partitions, on either side; the schema's own name left out.
const FOREIGN_KEYS: &str = "
    SELECT string_agg(replace(concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(k.oid), convalidated, conparentid <> 0,
        confrelid::regclass), 'SCHEMA.', ''), E'\\n' ORDER BY conrelid::regclass::text, conname, confrelid::regclass::text)
    FROM pg_constraint k WHERE contype = 'f' AND connamespace = 'SCHEMA'::regnamespace";

/// Keys from and to partitioned tables stand on every shard after every kind of move, and hold; by size, partitions count.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn partitioned_tables_take_their_foreign_keys_along() {
    let served = Served::start(2);
    served.psql(KEYED);
    served.psql("SELECT create_reference_table('kinds')");
    served.psql("SELECT create_distributed_table('accounts', 'tenant', shard_count => 8)");
    served.psql("SELECT create_distributed_table('entries', 'tenant', colocate_with => 'accounts')");
    served.psql("SELECT create_distributed_table('notes', 'tenant', colocate_with => 'accounts')");
    for key in [
        "ALTER TABLE entries ADD FOREIGN KEY (tenant, account) REFERENCES accounts ON DELETE CASCADE",
        "ALTER TABLE entries ADD FOREIGN KEY (kind) REFERENCES kinds",
        "ALTER TABLE notes ADD FOREIGN KEY (tenant, account) REFERENCES accounts ON DELETE CASCADE",
    ] {
        served.psql(key);
    }
    served.psql(
        "INSERT INTO entries SELECT tenant, id, id, 1 + id % 3, date '2025-12-01' + id::int * 9, '' FROM accounts",
    );
    served.psql("INSERT INTO notes SELECT tenant, id, 'n' FROM accounts");
    let shard =
        |tenant: i64| served.psql(&format!("SELECT get_shard_id_for_distribution_column('accounts', {tenant})"));
    let port_of =
        |shard: &str| served.psql(&format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}"));
    let alike = |when: &str| {
        let shards = shard_schemas(&served);
        let of = |(dsn, schema): &(String, String)| psql(dsn, &FOREIGN_KEYS.replace("SCHEMA", schema));
        let first = of(&shards[0]);
        assert!(first.contains("REFERENCES accounts(tenant, id) ON DELETE CASCADE t f accounts"), "{first}");
        // entries and its partitions to accounts, their partitions and kinds; notes to accounts and their partitions.
        assert!(first.lines().count() == 11 && !first.contains(" f f ") && !first.contains(" f t "), "{first}");
        for shard in &shards {
            assert_eq!(of(shard), first, "{when}: {}", shard.1);
        }
    };
    alike("distributed");

    // Clients delete what others refer to, and break keys, while shards move.
    let stop = Arc::new(Stop::default());
    let writers: Vec<_> = (1..=4).map(|tenant| tokio::spawn(use_keys(served.dsn(0), tenant, stop.clone()))).collect();
    let client = connect(&served.dsn(0)).await;
    let run = |sql: String| {
        let client = &client;
        async move { client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {:?}", e.as_db_error())) }
    };
    for mode in ["auto", "block_writes"] {
        let shard = shard(1);
        let from: u16 = port_of(&shard).parse().expect("a port");
        let to = served.worker_port(0) + served.worker_port(1) - from;
        run(format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to}, '{mode}')"))
            .await;
        alike(mode);
    }
    let cut = shard(2);
    // One hash, half of the rest, and the other half.
    let points = served.psql(&format!(
        "SELECT ARRAY[shardminvalue::bigint, (shardminvalue::bigint + shardmaxvalue::bigint) / 2] FROM pg_dist_shard WHERE shardid = {cut}"
    ));
    run(format!("SELECT citus_split_shard_by_split_points({cut}, '{points}', ARRAY[2, 1, 2])")).await;
    alike("split by points");
    run("SELECT isolate_tenant_to_new_shard('entries', 3, 'CASCADE')".to_owned()).await;
    alike("isolated");
    stop.set();
    for writer in writers {
        assert!(writer.await.unwrap() > 5);
    }
    assert_eq!(served.psql("SELECT count(*) FROM accounts"), "200");
    assert_eq!(served.psql("SELECT count(*) FROM entries JOIN accounts a USING (tenant) WHERE a.id = account"), "200");
    assert_eq!(served.psql("SELECT count(*) FROM notes"), "200");

    partitions_weigh_what_they_hold(&served);
}

/// Takes accounts with all that refers to them away, puts them there again, and tries what no key allows; fails at the first
/// wrong answer. Returns how often.
async fn use_keys(dsn: String, tenant: i64, stop: Arc<Stop>) -> i64 {
    let client = connect(&dsn).await;
    let mut times = 0;
    while !stop.is_set() {
        let id = 1 + times % 5;
        let block = format!(
            "BEGIN; DELETE FROM accounts WHERE tenant = {tenant} AND id = {id};
             INSERT INTO accounts VALUES ({tenant}, {id});
             INSERT INTO entries VALUES ({tenant}, {id}, {id}, 1, '2025-05-05', 'again');
             INSERT INTO notes VALUES ({tenant}, {id}, 'again'); COMMIT"
        );
        client.batch_execute(&block).await.unwrap_or_else(|e| panic!("{block}: {:?}", e.as_db_error()));
        for broken in [
            format!("INSERT INTO entries VALUES ({tenant}, 1000, 77, 1, '2031-05-05')"),
            format!(
                "INSERT INTO entries_2025 (tenant, id, account, kind, at) VALUES ({tenant}, 1000, 1, 9, '2025-05-05')"
            ),
            format!("INSERT INTO notes VALUES ({tenant}, 77)"),
        ] {
            let error = client.batch_execute(&broken).await.expect_err(&broken);
            assert_eq!(error.code().map(|code| code.code()), Some("23503"), "{broken}: {error:?}");
        }
        times += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    times
}

/// A worker that has more bytes, all of them in one partition, gives a shard away.
fn partitions_weigh_what_they_hold(served: &Served) {
    served.psql("SELECT rebalance_table_shards(rebalance_strategy => 'by_shard_count')");
    let groups = "SELECT string_agg(n::text, '|' ORDER BY n) FROM (SELECT count(*) n FROM pg_dist_placement p \
                  JOIN pg_dist_shard s USING (shardid) WHERE s.logicalrelid = 'accounts'::regclass GROUP BY groupid) p";
    let before = served.psql(groups);
    let plan = "SELECT count(*) FROM get_rebalance_table_shards_plan(rebalance_strategy => 'by_disk_size')";
    assert_eq!(served.psql(plan), "0", "{before}");
    let shard = served.psql("SELECT get_shard_id_for_distribution_column('entries', 5)");
    let home = served.psql(&format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}"));
    // Three times what an empty shard counts for.
    served.psql(
        "INSERT INTO entries SELECT 5, -i, 1, 1, '2025-02-02', repeat('x', 3000000) FROM generate_series(1, 100) i",
    );
    let plan = "SELECT DISTINCT sourceport FROM get_rebalance_table_shards_plan(rebalance_strategy => 'by_disk_size')";
    assert_eq!(served.psql(plan), home);
    served.psql("SELECT rebalance_table_shards(rebalance_strategy => 'by_disk_size')");
    assert_ne!(served.psql(groups), before, "shards have left");
    assert_eq!(served.psql("SELECT count(*) FROM entries WHERE tenant = 5 AND id < 0"), "100");
}

/// The cut-over locks the moving shard's own partitioned tables and partitions; neighbours work on theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cutover_locks_no_parents_but_the_shards_own() {
    let served = Served::start(2);
    served.psql(TABLES);
    served.psql("SELECT create_distributed_table('events', 'tenant', shard_count => 4)");
    let shard_of =
        |tenant: i64| served.psql(&format!("SELECT get_shard_id_for_distribution_column('events', {tenant})"));
    let port_of = |tenant: i64| {
        served.psql(&format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {}", shard_of(tenant)))
    };
    let is_beside = |tenant: &i64| port_of(*tenant) == port_of(0) && shard_of(*tenant) != shard_of(0);
    let neighbour = (1..100).find(is_beside).expect("four groups on two workers");
    let from: u16 = port_of(0).parse().expect("a port");
    let (source, to) = (from - served.worker_port(0), served.worker_port(0) + served.worker_port(1) - from);
    // One keeps the fence waiting at a partition; the other is in the middle of its own transaction all the while.
    let reader = connect(&served.dsn(0)).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM events_2026 WHERE tenant = 0").await.unwrap();
    let beside = connect(&served.dsn(0)).await;
    beside.batch_execute(&format!("BEGIN; SELECT count(*) FROM events WHERE tenant = {neighbour}")).await.unwrap();
    let mover = connect(&served.dsn(0)).await;
    let sql = format!("SELECT citus_move_shard_placement({}, '127.0.0.1', {from}, '127.0.0.1', {to})", shard_of(0));
    let moving = tokio::spawn(async move { mover.batch_execute(&sql).await });
    let watch = connect(&served.worker_dsn(source)).await;
    let sql = "SELECT c.relnamespace::regnamespace::text, c.relkind::text, l.granted FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
               WHERE l.mode = 'AccessExclusiveLock' AND c.relnamespace::regnamespace::text LIKE 'public\\_%' AND c.relkind IN ('r', 'p')";
    let own = format!("public_{}", shard_of(0));
    let (mut has_parent, mut waits) = (false, false);
    while !(has_parent && waits) {
        assert!(!moving.is_finished(), "the reader keeps it waiting: {:?}", moving.await);
        for row in watch.query(sql, &[]).await.unwrap() {
            assert_eq!(row.get::<_, String>(0), own);
            has_parent |= row.get::<_, String>(1) == "p" && row.get::<_, bool>(2);
            waits |= !row.get::<_, bool>(2);
        }
    }
    for id in 1..20 {
        let insert = format!("INSERT INTO events VALUES ({neighbour}, {id}, '2026-03-03')");
        beside.batch_execute(&insert).await.unwrap();
        let update = format!("UPDATE events SET at = '2031-01-01' WHERE tenant = {neighbour} AND id = {id}");
        beside.batch_execute(&update).await.unwrap();
    }
    assert!(!moving.is_finished());
    reader.batch_execute("COMMIT").await.unwrap();
    moving.await.unwrap().unwrap_or_else(|e| panic!("{:?}", e.as_db_error()));
    beside.batch_execute("COMMIT").await.unwrap();
    assert_eq!(served.psql(&format!("SELECT count(*) FROM events_rest WHERE tenant = {neighbour} AND id > 0")), "19");
    assert_eq!(served.psql("SELECT count(*) FROM events WHERE tenant = 0"), "1000");
}

fn refusals_before(served: &Served) {
    for (sql, wanted) in [
        ("SELECT create_distributed_table('events_2025', 'tenant')", "Relation \"events_2025\" is a partition."),
        ("SELECT create_distributed_table('events_rest', 'tenant')", "Relation \"events_rest\" is a partition."),
        ("SELECT create_distributed_table_concurrently('events_2025', 'tenant')", "\"events_2025\" is a partition."),
        ("SELECT create_reference_table('events')", "cannot make a reference table of public.events"),
        ("SELECT create_reference_table('events_2025')", "cannot make a reference table of public.events_2025"),
        ("SELECT create_distributed_table('events', 'n')", "cannot create constraint on \"events\""),
    ] {
        let error = psql_error(&served.dsn(0), sql);
        assert!(error.contains(wanted), "{sql}: {error}");
    }
}

fn what_stands_where(served: &Served) {
    expect_shards_like_shells(served, "distributed");
    let managed = "SELECT count(*), count(DISTINCT colocationid), bool_and(column_to_column_name(logicalrelid, partkey) = 'tenant')
        FROM pg_dist_partition";
    assert_eq!(served.psql(managed), "9|1|t");
    let left = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM marks)";
    assert_eq!(psql(&served.coordinator_dsn(), left), "0", "the shells are empty");
    assert_eq!((rows_on_workers(served, "events"), rows_on_workers(served, "marks")), (4000, 400));
    for table in ["events", "events_2026", "events_rest_1"] {
        let error = psql_error(
            &served.coordinator_dsn(),
            &format!("INSERT INTO {table} (tenant, id, at) VALUES (1, 1, '2026-01-01')"),
        );
        assert!(error.contains("has been distributed meanwhile"), "{error}");
    }
    // A parent weighs what its partitions weigh, and nothing is counted twice where tables are added up.
    let sizes = "SELECT citus_table_size('events') = citus_table_size('events_2025') + citus_table_size('events_2026')
        + citus_table_size('events_rest') AND citus_table_size('events') > 100000
        AND citus_table_size('events_rest') = citus_table_size('events_rest_0') + citus_table_size('events_rest_1')";
    assert_eq!(served.psql(sizes), "t");
    let total = served.psql("SELECT citus_total_relation_size('events') + citus_total_relation_size('marks')");
    assert_eq!(served.psql("SELECT sum(shard_size) FROM citus_shards"), total);
    let printed =
        "SELECT table_size = pg_size_pretty(SIZE::bigint) FROM citus_tables WHERE table_name = 'events'::regclass";
    let events = served.psql("SELECT citus_total_relation_size('events')");
    assert_eq!(served.psql(&printed.replace("SIZE", &events)), "t");
}

/// Each tenant's shard is moved, moved back, cut, isolated, put together again.
async fn every_kind_of_move(served: &Served) {
    let client = connect(&served.dsn(0)).await;
    let run = |sql: String| {
        let client = &client;
        async move { client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {:?}", e.as_db_error())) }
    };
    let shard = |tenant: i64| served.psql(&format!("SELECT get_shard_id_for_distribution_column('events', {tenant})"));
    let away = |shard: &str| {
        let sql = format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}");
        let from: u16 = served.psql(&sql).parse().expect("a port");
        let to = served.worker_port(0) + served.worker_port(1) - from;
        format!("{shard}, '127.0.0.1', {from}, '127.0.0.1', {to}")
    };
    for mode in ["auto", "auto", "block_writes", "auto"] {
        run(format!("SELECT citus_move_shard_placement({}, '{mode}')", away(&shard(1)))).await;
        expect_shards_like_shells(served, mode);
    }
    let last = "SELECT max(moveid) FROM tenantry.shard_move WHERE state = 'done'";
    run(format!("SELECT tenantry_undo_move({})", psql(&served.coordinator_dsn(), last))).await;
    expect_shards_like_shells(served, "undone");
    let other = format!(
        "SELECT nodeid FROM pg_dist_node WHERE groupid > 0 AND nodeport <> \
         (SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {})",
        shard(1)
    );
    let other = served.psql(&other);
    run(format!("SELECT * FROM tenantry_rehearse_move({}, {other})", shard(1))).await;
    let explained = served.psql(&format!("SELECT * FROM tenantry_explain_move({}, {other})", shard(1)));
    assert!(explained.contains("marks_a"), "{explained}");
    run(format!("SELECT tenantry_split_shard({}, 3, ARRAY[1, 2])", shard(1))).await;
    let middle = "SELECT (shardminvalue::bigint + shardmaxvalue::bigint) / 2 FROM pg_dist_shard WHERE shardid =";
    let middle = served.psql(&format!("{middle} {}", shard(0)));
    run(format!("SELECT citus_split_shard_by_split_points({}, ARRAY['{middle}'], ARRAY[2, 1])", shard(0))).await;
    expect_shards_like_shells(served, "split");
    run("SELECT isolate_tenant_to_new_shard('events', 2, 'CASCADE')".to_owned()).await;
    run("SELECT tenantry_isolate_tenant('marks', 3, 1)".to_owned()).await;
    expect_shards_like_shells(served, "isolated");
    run(format!("SELECT citus_move_shard_placement({})", away(&shard(2)))).await;
    run("SELECT tenantry_return_tenant('events', 2)".to_owned()).await;
    expect_shards_like_shells(served, "returned");
}

fn every_row_is_where_it_belongs(served: &Served, written: &[(i64, i64)]) {
    let ids = || written.iter().flat_map(|(first, count)| *first..first + count);
    let count = |sql: &str| served.psql(sql).parse::<i64>().expect("a number");
    let kept = i64::try_from(ids().filter(|id| id % 5 != 0).count()).unwrap();
    let in_2026 = i64::try_from(ids().filter(|id| id % 5 != 0 && id % 2 == 0 && id % 3 == 0).count()).unwrap();
    let in_rest = i64::try_from(ids().filter(|id| id % 5 != 0 && id % 2 == 0 && id % 3 != 0).count()).unwrap();
    assert_eq!(count("SELECT count(*) FROM events WHERE id >= 0"), kept);
    assert_eq!(count("SELECT count(DISTINCT id) FROM events WHERE id >= 0"), kept, "each once");
    assert_eq!(count("SELECT count(*) FROM events_2025 WHERE id >= 0"), kept - in_2026 - in_rest);
    assert_eq!(count("SELECT count(*) FROM events_2026 WHERE id >= 0 AND n = 1"), in_2026);
    assert_eq!(count("SELECT count(*) FROM events_rest WHERE id >= 0 AND n = 1"), in_rest);
    assert_eq!(count("SELECT count(*) FROM events WHERE id < 0"), 4000);
    let marked = |of: i64| i64::try_from(ids().filter(|id| marks(*id) && id % of == 0).count()).unwrap();
    assert_eq!(count("SELECT count(*) FROM marks WHERE id >= 0"), marked(1));
    assert_eq!(count("SELECT count(*) FROM marks_b WHERE id >= 0"), marked(20));
    let on_workers = rows_on_workers(served, "events");
    assert_eq!(on_workers, 4000 + kept, "nothing is left where it was");
}

fn partitions_come_and_go(served: &Served) {
    for sql in [
        "CREATE TABLE events_2032 PARTITION OF events FOR VALUES FROM ('2032-01-01') TO ('2033-01-01')",
        "CREATE TABLE joining (tenant bigint NOT NULL, id bigint NOT NULL, at date NOT NULL, n bigint DEFAULT 0)",
        "INSERT INTO joining SELECT i, i, '2033-03-03' FROM generate_series(1, 30) i",
        "ALTER TABLE events ATTACH PARTITION joining FOR VALUES FROM ('2033-01-01') TO ('2034-01-01')",
        "CREATE INDEX added_later ON events (n, tenant)",
        "CREATE INDEX by_kind ON ONLY marks (kind)",
        "CREATE INDEX by_kind_a ON marks_a (kind)",
        "ALTER INDEX public.by_kind ATTACH PARTITION public.by_kind_a",
        "CREATE INDEX by_kind_b ON marks_b (kind)",
        "ALTER INDEX by_kind ATTACH PARTITION by_kind_b;",
        "ALTER TABLE marks ADD COLUMN body text",
        "ALTER TABLE events DETACH PARTITION events_2025",
    ] {
        psql(&served.dsn(1), sql);
    }
    expect_shards_like_shells(served, "changed");
    assert_eq!(served.psql("SELECT count(*) FROM joining WHERE tenant = 7"), "1");
    served.psql("CREATE SCHEMA other");
    served.psql("CREATE TABLE outer_parts (tenant bigint, id bigint, at date, n bigint) PARTITION BY RANGE (at)");
    served.psql("CREATE TABLE apart (tenant bigint NOT NULL, id bigint, kind text, body text)");
    served.psql("SELECT create_distributed_table('apart', 'tenant', colocate_with => 'none', shard_count => 2)");
    for (sql, wanted) in [
        ("ALTER TABLE events DETACH PARTITION joining CONCURRENTLY", "DETACH PARTITION CONCURRENTLY"),
        (
            "CREATE TABLE p PARTITION OF marks (FOREIGN KEY (tenant) REFERENCES marks) FOR VALUES IN ('c')",
            "foreign keys are not supported",
        ),
        ("CREATE TABLE other.p PARTITION OF marks FOR VALUES IN ('c')", "must be in its schema"),
        ("ALTER TABLE marks ATTACH PARTITION apart FOR VALUES IN ('c')", "not colocated"),
        (
            "ALTER TABLE outer_parts ATTACH PARTITION events_2025 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
            "inheritance between local and managed",
        ),
    ] {
        let error = psql_error(&served.dsn(1), sql);
        assert!(error.contains(wanted) && error.contains("0A000"), "{sql}: {error}");
    }
    served.psql("DROP TABLE apart, outer_parts, joining");
    expect_shards_like_shells(served, "a partition is dropped");
    served.psql("DROP TABLE events");
    let gone = "SELECT count(*) FROM pg_class WHERE relname ~ '^(events|joining)' AND relname !~ '2025'";
    assert_eq!(served.everywhere(gone), ["0", "0", "0"]);
    let left = "SELECT string_agg(logicalrelid::text, ' ' ORDER BY logicalrelid::text) FROM pg_dist_partition";
    assert_eq!(served.psql(left), "events_2025 marks marks_a marks_b");
    served.psql("DROP TABLE marks, events_2025");
    let remains = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^(public_[0-9]|tenantry_move)'";
    let gone = wait_until(Duration::from_secs(30), || served.everywhere(remains).is_empty());
    assert!(gone, "{:?}", served.everywhere(remains));
}
