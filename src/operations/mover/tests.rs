//! Moves between real servers, with writers at work, and crashes at every point.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use super::*;
use crate::catalog::{Catalog, Settings as CatalogSettings, connect};
use crate::dev_cluster;
use crate::executor::Holds;
use crate::shard_map::ShardId;
use tokio_postgres::Client;

pub const GROUP: ShardGroupId = ShardGroupId(102008);
use crate::dev_cluster::ports::PortRange;

pub const SOURCE: NodeId = NodeId(1);
pub const TARGET: NodeId = NodeId(2);

/// A coordinator and two workers; the shard groups, from 102008 on, stand on the first.
pub(crate) struct Stage {
    pub ports: PortRange,
    cluster: Option<dev_cluster::DevCluster>,
    pub environment: MoverEnvironment,
    pub workers: Vec<Client>,
    pub coordinator: Client,
}

impl Stage {
    pub async fn set(groups: i64, tables: &str) -> Stage {
        let ports = PortRange::reserve();
        let base_port = ports.first;
        let settings = dev_cluster::Settings {
            base_port,
            workers: 2,
            max_connections: 50,
            shared_buffers_mib: 16,
            ..dev_cluster::Settings::default()
        };
        let cluster = tokio::task::spawn_blocking(|| dev_cluster::DevCluster::start(settings)).await.unwrap().unwrap();
        let settings = CatalogSettings { port: base_port + 1, ..CatalogSettings::default() };
        let catalog = Catalog::open(settings.clone()).await.unwrap();
        let coordinator = connect(&settings, &settings.coordinator()).await.unwrap();
        let mut workers = Vec::new();
        for address in cluster.workers() {
            let address = crate::catalog::Address { host: address.ip().to_string(), port: address.port() };
            coordinator
                .batch_execute(&format!(
                    "INSERT INTO tenantry.node (nodename, nodeport) VALUES ('{}', {})",
                    address.host, address.port
                ))
                .await
                .unwrap();
            workers.push(connect(&settings, &address).await.unwrap());
        }
        coordinator
            .batch_execute(&format!(
                "CREATE TABLE public.orders (tenant bigint, id bigint, PRIMARY KEY (tenant, id));
                 INSERT INTO tenantry.colocation (shardcount, distributioncolumntype) VALUES (greatest({groups}, 1), 20);
                 INSERT INTO tenantry.distributed_table (logicalrelid, partmethod, partkey, colocationid)
                     VALUES ('public.orders'::regclass, 'h', 1, 1);
                 INSERT INTO tenantry.shard_group
                     SELECT 102008 + i, 1, i * 1000, i * 1000 + 999, 1 FROM generate_series(0, {groups} - 1) i;
                 INSERT INTO tenantry.shard SELECT id, 'public.orders'::regclass, id FROM tenantry.shard_group",
            ))
            .await
            .unwrap();
        catalog.refresh().await.unwrap();
        for group in (102008..102008 + groups).rev() {
            workers[0]
                .batch_execute(&format!("CREATE SCHEMA public_{group}; SET search_path TO public_{group}; {tables}"))
                .await
                .unwrap();
        }
        workers[1].batch_execute("SET search_path TO public_102008").await.unwrap();
        let environment = MoverEnvironment::new(catalog, Arc::new(Holds::default()), Arc::default());
        Stage { ports, cluster: Some(cluster), environment, workers, coordinator }
    }

    pub async fn move_to(&self, source: NodeId, target: NodeId) -> Result<Option<MoveReport>> {
        move_shard_group(
            &self.environment,
            MoveRequest { group: GROUP, source, target, mode: TransferMode::Online },
            &|notice| println!("notice: {notice:?}"),
        )
        .await
    }

    pub async fn node_of_group(&self) -> NodeId {
        let sql = "SELECT nodeid FROM tenantry.shard_group WHERE id = 102008";
        NodeId(self.coordinator.query_one(sql, &[]).await.unwrap().get::<_, i32>(0) as u32)
    }

    /// A number from the worker with this node id.
    pub async fn number(&self, node: NodeId, sql: &str) -> i64 {
        self.workers[node.0 as usize - 1].query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Until an unfinished move is repaired. As the maintenance job does: what goes wrong is tried again.
    /// The catalog has shard group 102008 on the first worker, with a shard of `orders`; the worker's schema is the caller's.
    pub async fn give_one_shard_group(&self) {
        let rows = "INSERT INTO tenantry.shard_group VALUES (102008, 1, -2147483648, 2147483647, 1);
             INSERT INTO tenantry.shard VALUES (102008, 'public.orders'::regclass, 102008)";
        self.coordinator.batch_execute(rows).await.unwrap();
    }

    pub async fn repair(&self) {
        let mut failures = 0;
        loop {
            match recover(&self.environment).await {
                Ok(0) => {}
                Ok(_) => return,
                Err(error) => {
                    failures += 1;
                    assert!(failures < 20, "{error}");
                }
            }
            // The lock of the move that has just ended is given back when its session's end has reached the server.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that a move may leave, on both workers, but for the shard group's own schema.
    pub async fn remains(&self) -> Vec<String> {
        let sql = "SELECT 'slot ' || slot_name FROM pg_replication_slots
             UNION ALL SELECT 'publication ' || pubname FROM pg_publication
             UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'tenantry%'
             UNION ALL SELECT 'mark ' || nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') LIKE 'tenantry move%'
             UNION ALL SELECT 'identity ' || relname FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'public_%' AND relreplident = 'f'";
        let mut found: Vec<String> = Vec::new();
        for worker in &self.workers {
            found.extend(worker.query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
        }
        found
    }

    /// As `remains`; the shard group's schema must be where the catalog has it and nowhere else.
    pub async fn leftovers(&self) -> Vec<String> {
        let mut found = self.remains().await;
        let holders = "SELECT count(*) FROM pg_namespace WHERE nspname = 'public_102008'";
        let home = self.node_of_group().await;
        for node in [SOURCE, TARGET] {
            let count = self.number(node, holders).await;
            if count != i64::from(node == home) {
                found.push(format!("{count} shard schemas on node {node}"));
            }
        }
        found
    }

    /// A connection of its own to a worker.
    pub async fn connect(&self, node: NodeId) -> Client {
        let port = self.ports.first + 1 + node.0 as u16;
        let address = crate::catalog::Address { host: "127.0.0.1".into(), port };
        connect(self.environment.catalog.settings(), &address).await.unwrap()
    }

    /// Ends a server as a power failure would.
    pub fn kill(&mut self, node: NodeId) {
        let cluster = self.cluster.as_mut().unwrap();
        tokio::task::block_in_place(|| match node {
            NodeId::COORDINATOR => cluster.kill_coordinator(),
            _ => cluster.kill_worker(node.0 as usize - 1),
        })
        .unwrap();
    }

    pub async fn restart(&mut self, node: NodeId) {
        let cluster = self.cluster.as_mut().unwrap();
        if node.is_coordinator() {
            tokio::task::block_in_place(|| cluster.restart_coordinator()).unwrap();
            let settings = self.environment.catalog.settings();
            self.coordinator = connect(settings, &settings.coordinator()).await.unwrap();
            return;
        }
        tokio::task::block_in_place(|| cluster.restart_worker(node.0 as usize - 1)).unwrap();
        self.workers[node.0 as usize - 1] = self.connect(node).await;
    }

    pub async fn strike(mut self) {
        let cluster = self.cluster.take();
        tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
    }
}

pub const TABLES: &str = "
    CREATE SEQUENCE ticket;
    CREATE TABLE orders (tenant bigint, id bigint, n bigint NOT NULL DEFAULT 0, note text, big text,
        doubled bigint GENERATED ALWAYS AS (n * 2) STORED, PRIMARY KEY (tenant, id));
    CREATE INDEX orders_note ON orders (note);
    CREATE TABLE items (tenant bigint, order_id bigint, line int, price numeric(10,2), at timestamptz DEFAULT now(),
        data jsonb, PRIMARY KEY (tenant, order_id, line),
        FOREIGN KEY (tenant, order_id) REFERENCES orders (tenant, id) ON DELETE CASCADE);
    CREATE TABLE events (tenant bigint, kind char(3), body json, ok bool);
    INSERT INTO orders SELECT t, i, 0, 'note ' || i, repeat(md5(i::text), 400) FROM generate_series(1, 8) t, generate_series(1, 50) i;
    INSERT INTO items SELECT t, i, 1, i * 1.5, now(), '{\"a\": 1}' FROM generate_series(1, 8) t, generate_series(1, 50) i;
    INSERT INTO events SELECT t, 'x', '{\"k\": 1}', t % 2 = 0 FROM generate_series(1, 8) t";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_shard_group_moves_under_writers() {
    let stage = Arc::new(Stage::set(1, TABLES).await);
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged: Arc<Vec<AtomicI64>> = Arc::new((0..8).map(|_| AtomicI64::new(0)).collect());
    let longest = Arc::new(AtomicI64::new(0));
    let writers: Vec<_> = (1..=8i64)
        .map(|tenant| {
            let (stage, stop, acknowledged, longest) =
                (stage.clone(), stop.clone(), acknowledged.clone(), longest.clone());
            tokio::spawn(
                async move { write(&stage, tenant, &stop, &acknowledged[tenant as usize - 1], &longest).await },
            )
        })
        .collect();
    for (source, target) in [(SOURCE, TARGET), (TARGET, SOURCE), (SOURCE, TARGET)] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let report = stage.move_to(source, target).await.unwrap().unwrap();
        println!("{report:?}");
        assert_eq!(stage.node_of_group().await, target);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    println!("longest wait {} us, {:?}", longest.load(Ordering::SeqCst), acknowledged);
    for (tenant, count) in (1i64..).zip(acknowledged.iter()) {
        let count = count.load(Ordering::SeqCst);
        assert!(count > 10);
        let sql = format!("SELECT n FROM orders WHERE tenant = {tenant} AND id = 1");
        assert_eq!(stage.number(TARGET, &sql).await, count, "every acknowledged increment is there, once");
        let sql = format!("SELECT count(*) FROM items WHERE tenant = {tenant} AND line > 1");
        assert_eq!(stage.number(TARGET, &sql).await, count);
        let sql = format!("SELECT count(*) FROM orders WHERE tenant = {tenant} AND length(big) <> 12800");
        assert_eq!(stage.number(TARGET, &sql).await, 0, "values out of line survive updates that do not touch them");
        let sql = format!("SELECT count(*) FROM events WHERE tenant = {tenant}");
        assert_eq!(stage.number(TARGET, &sql).await, 1, "tables without a key move too");
    }
    assert_eq!(stage.number(TARGET, "SELECT nextval('ticket')").await, stage_tickets(&acknowledged) + 1);
    let keys = "SELECT count(*) FROM pg_constraint WHERE connamespace = 'public_102008'::regnamespace AND convalidated";
    assert_eq!(stage.number(TARGET, keys).await, 3, "two primary keys and a foreign key");
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}

fn stage_tickets(acknowledged: &[AtomicI64]) -> i64 {
    acknowledged.iter().map(|a| a.load(Ordering::SeqCst)).sum()
}

/// One client as the proxy would serve it: waits at the hold, follows the placement, runs again what the fence refused.
pub async fn write(stage: &Stage, tenant: i64, stop: &AtomicBool, acknowledged: &AtomicI64, longest: &AtomicI64) {
    write_to(stage, GROUP, tenant, stop, acknowledged, longest).await
}

/// The same in any shard group.
pub async fn write_to(
    stage: &Stage,
    group: ShardGroupId,
    tenant: i64,
    stop: &AtomicBool,
    acknowledged: &AtomicI64,
    longest: &AtomicI64,
) {
    let settings = stage.environment.catalog.settings().clone();
    let mut servers = Vec::new();
    for address in stage.cluster.as_ref().unwrap().workers() {
        let address = crate::catalog::Address { host: address.ip().to_string(), port: address.port() };
        let server = connect(&settings, &address).await.unwrap();
        let set = format!("SET search_path TO public_{group}; SET synchronous_commit TO off");
        server.batch_execute(&set).await.unwrap();
        servers.push(server);
    }
    let mut line = 1;
    while !stop.load(Ordering::SeqCst) {
        line += 1;
        let sql = format!(
            "BEGIN; UPDATE orders SET n = n + 1, note = 'now {line}' WHERE tenant = {tenant} AND id = 1;
             INSERT INTO items VALUES ({tenant}, 1, {line}, {line}, DEFAULT, '{{}}');
             UPDATE events SET ok = NOT ok WHERE tenant = {tenant}; SELECT nextval('ticket'); COMMIT"
        );
        let start = Instant::now();
        loop {
            stage.environment.holds.wait(group, Duration::from_secs(10)).await;
            let map = stage.environment.catalog.map();
            let node = map.colocation(ColocationId(1)).unwrap().group(group).unwrap().node;
            let server = &servers[node.0 as usize - 1];
            match server.batch_execute(&sql).await {
                Ok(()) => break,
                Err(error) => {
                    let error = crate::catalog::pg_error(error);
                    server.batch_execute("ROLLBACK").await.unwrap();
                    assert!(
                        matches!(error.code(), SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME),
                        "tenant {tenant}: {error}"
                    );
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        longest.fetch_max(start.elapsed().as_micros() as i64, Ordering::SeqCst);
        acknowledged.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_point_is_repaired_and_leaves_nothing() {
    let mut stage = Stage::set(1, TABLES).await;
    use StopPoint::*;
    for point in [Planned, TargetCreated, SlotCreated, Copied, IndexesBuilt, CaughtUp, Fenced, FenceApplied, Switched] {
        let source = stage.node_of_group().await;
        let target = if source == SOURCE { TARGET } else { SOURCE };
        stage.environment.stop_at = Some(point);
        let stopped = stage.move_to(source, target).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        stage.environment.stop_at = None;
        stage.repair().await;
        let home = stage.node_of_group().await;
        match point {
            // The last changes may have arrived before the crash: then the move is finished.
            Fenced => {}
            FenceApplied | Switched => assert_eq!(home, target, "{point:?}"),
            _ => assert_eq!(home, source, "{point:?}"),
        }
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "{point:?}");
        assert_eq!(stage.number(home, "SELECT count(*) FROM orders").await, 400, "{point:?}");
        assert_eq!(recover(&stage.environment).await.unwrap(), 0, "{point:?}");
    }
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_delays_the_move_and_nobody_else() {
    let mut stage = Stage::set(1, TABLES).await;
    stage.environment.settings.lock_timeout = Duration::from_millis(50);
    let settings = stage.environment.catalog.settings().clone();
    let address = crate::catalog::Address { host: "127.0.0.1".into(), port: stage.ports.first + 2 };
    let idle = connect(&settings, &address).await.unwrap();
    let stage = Arc::new(stage);
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    // Opened once the slot exists, else the slot would wait for it.
    while stage.number(SOURCE, "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL").await
        == 0
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    idle.batch_execute("BEGIN; UPDATE public_102008.orders SET n = 77 WHERE tenant = 1 AND id = 2").await.unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        stage.environment.holds.wait(GROUP, Duration::from_secs(10)).await;
        stage.number(SOURCE, "SELECT count(*) FROM orders WHERE tenant = 2").await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    idle.batch_execute("COMMIT").await.unwrap();
    let report = moving.await.unwrap().unwrap().unwrap();
    assert!(report.attempts > 1, "{report:?}");
    assert_eq!(stage.number(TARGET, "SELECT n FROM orders WHERE tenant = 1 AND id = 2").await, 77);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}

/// C03: the last position is taken when nobody can commit any more. Here somebody does while the fence waits for its locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_while_the_fence_waits_arrives() {
    let mut stage = Stage::set(1, TABLES).await;
    stage.environment.settings.lock_timeout = Duration::from_secs(60);
    let stage = Arc::new(stage);
    let writer = stage.connect(SOURCE).await;
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    // Opened once the slot exists, else the slot would wait for it.
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
    while stage.number(SOURCE, slots).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let update = |n: i64| format!("UPDATE public_102008.orders SET n = {n} WHERE tenant = 1 AND id = 2");
    writer.batch_execute(&format!("BEGIN; {}", update(1))).await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    while stage.number(SOURCE, waits).await == 0 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.batch_execute(&format!("{}; SAVEPOINT s; {}; COMMIT", update(2), update(3))).await.unwrap();
    let report = moving.await.unwrap().unwrap().unwrap();
    assert_eq!(report.attempts, 1, "{report:?}");
    assert_eq!(stage.number(TARGET, "SELECT n FROM orders WHERE tenant = 1 AND id = 2").await, 3);
    let late = writer.batch_execute(&update(4)).await.unwrap_err();
    assert_eq!(late.code(), Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE), "nobody comes after it");
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    drop(writer);
    Arc::into_inner(stage).unwrap().strike().await;
}

/// C22: a part of a transaction over several nodes that is prepared and not decided yet. Its session may be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_are_waited_for_and_arrive() {
    let stage = Arc::new(Stage::set(1, TABLES).await);
    let moving = |source, target| {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(source, target).await })
    };
    let prepare = |node, n: i64| {
        let stage = stage.clone();
        async move {
            let sql = format!(
                "BEGIN; UPDATE public_102008.orders SET n = {n} WHERE tenant = 1 AND id = 2; PREPARE TRANSACTION 'part_{n}'"
            );
            stage.connect(node).await.batch_execute(&sql).await.unwrap();
        }
    };
    let state = |wanted: &'static str| {
        let stage = stage.clone();
        async move {
            let sql = "SELECT count(*) FROM tenantry.shard_move WHERE finished_at IS NULL AND state = $1";
            while stage.coordinator.query_one(sql, &[&wanted]).await.unwrap().get::<_, i64>(0) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    // Prepared while the move goes on, it keeps the fence waiting.
    let first = moving(SOURCE, TARGET);
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
    while stage.number(SOURCE, slots).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    prepare(SOURCE, 1).await;
    state("caught_up").await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    while stage.number(SOURCE, waits).await == 0 {
        assert!(!first.is_finished(), "{:?}", first.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.workers[0].batch_execute("COMMIT PREPARED 'part_1'").await.unwrap();
    first.await.unwrap().unwrap().unwrap();
    let n = "SELECT n FROM public_102008.orders WHERE tenant = 1 AND id = 2";
    assert_eq!(stage.number(TARGET, n).await, 1);
    // Prepared before, it keeps the slot waiting.
    for (number, end, left) in [(2, "ROLLBACK", 1), (3, "COMMIT", 3)] {
        let home = stage.node_of_group().await;
        let other = if home == SOURCE { TARGET } else { SOURCE };
        prepare(home, number).await;
        let second = moving(home, other);
        state("target_created").await;
        let ended = format!("{end} PREPARED 'part_{number}'");
        stage.workers[home.0 as usize - 1].batch_execute(&ended).await.unwrap();
        second.await.unwrap().unwrap().unwrap();
        assert_eq!(stage.number(other, n).await, left, "{end}");
    }
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_move_leaves_the_source_as_it_was_and_can_be_repeated() {
    let stage = Stage::set(1, TABLES).await;
    // A schema of the group's name is in the way: not ours, so it must survive.
    stage.workers[1].batch_execute("CREATE SCHEMA public_102008").await.unwrap();
    let error = stage.move_to(SOURCE, TARGET).await.unwrap_err();
    assert!(error.message().contains("already exists"), "{error}");
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM pg_namespace WHERE nspname = 'public_102008'").await, 1);
    stage.workers[1].batch_execute("DROP SCHEMA public_102008").await.unwrap();
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    assert!(stage.move_to(SOURCE, TARGET).await.unwrap().is_some());
    assert!(stage.move_to(SOURCE, TARGET).await.unwrap().is_none(), "already there");
    let same = stage.move_to(SOURCE, SOURCE).await.unwrap_err();
    assert_eq!(
        (same.code(), same.message()),
        (SqlState::INVALID_PARAMETER_VALUE, "cannot move shard to the same node")
    );
    assert!(stage.environment.catalog.map().group_of_shard(ShardId(102008)).is_some());
    stage.strike().await;
}

/// Everything that Postgres lets a shard have, or nearly.
const RICH_TABLES: &str = r#"
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := coalesce(NEW.note, ''stamped''); RETURN NEW; END';
    CREATE TABLE kinds (id bigint GENERATED ALWAYS AS IDENTITY (START WITH 100) PRIMARY KEY, ref int REFERENCES public.ref,
        note text, doc json, tags text[], mood public.mood, at interval, big text, CONSTRAINT short CHECK (length(note) < 99))
        WITH (fillfactor = 80);
    ALTER TABLE kinds ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
    ALTER TABLE kinds ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TRIGGER stamp BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION stamp();
    CREATE INDEX kinds_partial ON kinds (note) WHERE ref IS NOT NULL;
    CREATE STATISTICS kinds_stats ON note, ref FROM kinds;
    CREATE VIEW noted AS SELECT id, note FROM kinds WHERE note IS NOT NULL;
    ALTER TABLE kinds ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON kinds FOR SELECT TO reader USING (ref = 1);
    GRANT SELECT ON kinds TO reader;
    CREATE TABLE codes ("Code ""x""" text NOT NULL, value int, UNIQUE ("Code ""x"""));
    ALTER TABLE codes REPLICA IDENTITY USING INDEX "codes_Code ""x""_key";
    CREATE TABLE days (day date, n int, PRIMARY KEY (day)) PARTITION BY RANGE (day);
    CREATE TABLE days_old PARTITION OF days FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE days_rest PARTITION OF days DEFAULT;
    CREATE INDEX days_n ON days (n);
    CREATE TABLE bag (a int, b json, c float8);
    CREATE TABLE years (year int PRIMARY KEY) PARTITION BY RANGE (year);
    CREATE TABLE years_2000 PARTITION OF years FOR VALUES FROM (2000) TO (2100);
    INSERT INTO years VALUES (2020);
    CREATE TABLE loose (n int, big text, twice int GENERATED ALWAYS AS (n * 2) STORED);
    CREATE TABLE swaps (id int UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
    CREATE TABLE parts (id int PRIMARY KEY, of int REFERENCES parts DEFERRABLE INITIALLY DEFERRED, year int REFERENCES years);
    INSERT INTO kinds (ref, note, doc, big) SELECT 1, 'n' || i, '{"b":  1}', repeat('x', 9000) FROM generate_series(1, 9) i;
    INSERT INTO codes SELECT 'c' || i, i FROM generate_series(1, 9) i;
    INSERT INTO days SELECT date '2020-12-28' + i, i FROM generate_series(1, 9) i;
    INSERT INTO loose SELECT i, repeat(md5(i::text), 400) FROM generate_series(1, 9) i;
    INSERT INTO swaps SELECT generate_series(1, 9);
    INSERT INTO bag SELECT i % 2, '{"k":  [1]}', i / 3.0 FROM generate_series(1, 9) i; INSERT INTO bag SELECT * FROM bag"#;

/// Each of these reaches the target through the stream.
const CHANGES: &str = r#"
    SET search_path TO public_102008;
    INSERT INTO kinds (ref, doc, tags, mood, at, big) VALUES
        (1, '[1,  2]', ARRAY['a,"b', NULL, '{}'], 'sad', '-1 day 02:03:04.5', repeat('y', 9000));
    UPDATE kinds SET note = 'changed', mood = 'happy' WHERE id = 101;
    UPDATE kinds SET big = repeat('z', 9000) WHERE id = 102;
    DELETE FROM kinds WHERE id = 103;
    UPDATE codes SET "Code ""x""" = 'other' WHERE value = 1;
    DELETE FROM codes WHERE value = 2;
    UPDATE days SET day = '2020-02-03' WHERE n = 9;
    UPDATE bag SET c = 'NaN' WHERE a = 1;
    DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag);
    INSERT INTO bag VALUES (NULL, NULL, NULL), (NULL, NULL, '-0'), (NULL, NULL, 0);
    DELETE FROM bag WHERE a IS NULL AND c IS NULL;
    UPDATE loose SET n = n + 1;
    DELETE FROM loose WHERE n = 10;
    UPDATE swaps SET id = id % 9 + 1;
    BEGIN; INSERT INTO parts VALUES (2, 3, 2020); INSERT INTO parts VALUES (3, 2); COMMIT;
    BEGIN; INSERT INTO codes VALUES ('gone', 1); SAVEPOINT s; INSERT INTO codes VALUES ('kept', 1); ROLLBACK TO s;
    INSERT INTO codes VALUES ('stays', 5); COMMIT;
    BEGIN; INSERT INTO codes SELECT 'bulk' || i, i FROM generate_series(1, 5000) i; COMMIT;
    TRUNCATE days_rest; INSERT INTO days VALUES ('2030-01-01', 7)"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_table_and_of_change_arrives() {
    let stage = Stage::set(0, "").await;
    for worker in &stage.workers {
        worker
            .batch_execute(
                "CREATE TABLE public.ref (id int PRIMARY KEY); INSERT INTO public.ref VALUES (1);
                 CREATE TYPE public.mood AS ENUM ('happy', 'sad'); CREATE ROLE reader",
            )
            .await
            .unwrap();
    }
    let schema = format!("CREATE SCHEMA public_102008; SET search_path TO public_102008; {RICH_TABLES}");
    stage.workers[0].batch_execute(&schema).await.unwrap();
    stage.give_one_shard_group().await;
    stage.environment.catalog.refresh().await.unwrap();
    let mv = Move::new(ColocationId(1), GROUP, (SOURCE, TARGET), vec!["public".into()]);
    let source = session::connect(&stage.environment, SOURCE).await.unwrap();
    let before = definition::read(&source, &mv).await.unwrap();
    // The foreign key has to wait for this, and with it the move, while changes are applied.
    let target = session::connect(&stage.environment, TARGET).await.unwrap();
    target.batch_execute("BEGIN; LOCK TABLE public.ref IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let stage = Arc::new(stage);
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    let waiting = "SELECT count(*) FROM tenantry.shard_move WHERE phase = 'Creating Foreign Keys'";
    while stage.coordinator.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for change in CHANGES.split("TRUNCATE") {
        let change = if change.starts_with(" days") { format!("TRUNCATE{change}") } else { change.to_owned() };
        stage.workers[0].batch_execute(&change).await.unwrap();
    }
    target.batch_execute("COMMIT").await.unwrap();
    let report = moving.await.unwrap().unwrap().unwrap();
    assert!(report.rows_applied > 5000, "{report:?}");
    let after = definition::read(&target, &mv).await.unwrap();
    let sorted = |mut statements: Vec<String>| {
        statements.sort();
        statements
    };
    assert_eq!(sorted(after.tables), sorted(before.tables));
    assert_eq!(sorted(after.keys_and_indexes), sorted(before.keys_and_indexes));
    assert_eq!(after.foreign_keys, before.foreign_keys);
    assert_eq!(sorted(after.rest), sorted(before.rest));
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM kinds WHERE note = 'stamped'").await, 1);
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM codes").await, 8 + 2 + 5000);
    let loose = "SELECT count(*) FROM loose WHERE length(big) = 12800 AND twice = 2 * n AND n BETWEEN 2 AND 9";
    assert_eq!(stage.number(TARGET, loose).await, 8, "also large values of tables without a key");
    assert_eq!(stage.number(TARGET, "SELECT count(DISTINCT id) FROM swaps").await, 9);
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM parts a JOIN parts b ON a.of = b.id").await, 2);
    let next = "INSERT INTO kinds DEFAULT VALUES RETURNING id";
    assert_eq!(stage.number(TARGET, next).await, 110, "the identity column goes on where it was");
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_differs_is_never_switched_to() {
    let mut stage = Stage::set(0, "").await;
    stage.environment.settings.slot_patience = Duration::from_millis(300);
    for worker in &stage.workers {
        worker
            .batch_execute("CREATE TABLE public.ref (id int PRIMARY KEY); INSERT INTO public.ref VALUES (1)")
            .await
            .unwrap();
    }
    stage.workers[0]
        .batch_execute(
            "CREATE SCHEMA public_102008; SET search_path TO public_102008;
             CREATE TABLE orders (id int PRIMARY KEY, ref int REFERENCES public.ref, note text);
             INSERT INTO orders SELECT i, 1, 'n' FROM generate_series(1, 20) i",
        )
        .await
        .unwrap();
    stage.give_one_shard_group().await;
    let target = session::connect(&stage.environment, TARGET).await.unwrap();
    target.batch_execute("BEGIN; LOCK TABLE public.ref IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let stage = Arc::new(stage);
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    let waiting = "SELECT count(*) FROM tenantry.shard_move WHERE phase = 'Creating Foreign Keys'";
    while stage.coordinator.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.workers[1].batch_execute("UPDATE public_102008.orders SET note = 'N' WHERE id = 7").await.unwrap();
    target.batch_execute("COMMIT").await.unwrap();
    let error = moving.await.unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::DATA_CORRUPTED, "{error}");
    assert_eq!(stage.node_of_group().await, SOURCE);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());

    // Neither does a transaction that never ends keep a slot for ever.
    stage.workers[0].batch_execute("BEGIN; UPDATE orders SET note = 'open' WHERE id = 1").await.unwrap();
    let error = stage.move_to(SOURCE, TARGET).await.unwrap_err();
    assert_eq!(error.code(), SqlState::LOCK_NOT_AVAILABLE, "{error}");
    stage.workers[0].batch_execute("COMMIT").await.unwrap();
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    assert!(stage.move_to(SOURCE, TARGET).await.unwrap().is_some());
    Arc::into_inner(stage).unwrap().strike().await;
}
