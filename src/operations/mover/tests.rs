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

    /// The catalog has shard group 102008 on the first worker, with a shard of `orders`; the worker's schema is the caller's.
    pub async fn give_one_shard_group(&self) {
        let rows = "INSERT INTO tenantry.shard_group VALUES (102008, 1, -2147483648, 2147483647, 1);
             INSERT INTO tenantry.shard VALUES (102008, 'public.orders'::regclass, 102008)";
        self.coordinator.batch_execute(rows).await.unwrap();
    }

    /// Until an unfinished move is repaired. As the maintenance job does: what goes wrong is tried again.
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

    /// Ends a worker in good order: it waits for its change streams to have taken all that there is.
    pub fn stop(&mut self, node: NodeId) {
        let cluster = self.cluster.as_mut().unwrap();
        tokio::task::block_in_place(|| cluster.stop_worker(node.0 as usize - 1)).unwrap();
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
