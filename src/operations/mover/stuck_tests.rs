//! Something of a move stands still at its cut-over: clients go on, and so does the move once it can.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::tests::{GROUP, SOURCE, Stage, TABLES, TARGET, write};
use super::*;

/// A move under a writer whose cut-over is held by a reader of the source, for as long as `reader` is kept.
struct Held {
    stage: Arc<Stage>,
    moving: JoinHandle<Result<Option<MoveReport>>>,
    reader: Client,
    writer: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
}

impl Held {
    /// Returns while statements are held. An attempt waits long enough for its lock to do something meanwhile.
    async fn begin(patience: Duration, hold: Duration) -> Held {
        Self::begin_within(patience, hold, MoveLimits::default()).await
    }

    async fn begin_within(patience: Duration, hold: Duration, limits: MoveLimits) -> Held {
        let mut stage = Stage::set(1, TABLES).await;
        stage.environment.limits.store(Arc::new(limits));
        let settings = &mut stage.environment.settings;
        (settings.lock_timeout, settings.fence_patience) = (Duration::from_secs(2), hold);
        (settings.cutover_patience, settings.lock_patience) = (patience, Duration::from_secs(1));
        settings.silence_patience = patience;
        let reader = stage.connect(SOURCE).await;
        let stage = Arc::new(stage);
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let writer = {
            let (stage, stop, acknowledged) = (stage.clone(), stop.clone(), acknowledged.clone());
            // Fails at any error that a client would see.
            tokio::spawn(async move { write(&stage, 1, &stop, &acknowledged, &AtomicI64::new(0)).await })
        };
        let moving = {
            let stage = stage.clone();
            tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
        };
        // Opened once the slot exists, else the slot would wait for it.
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
        until(&moving, async || stage.number(SOURCE, slots).await == 1).await;
        let read = format!("BEGIN; SELECT count(*) FROM public_{GROUP}.orders");
        reader.batch_execute(&read).await.unwrap();
        let held = Held { stage, moving, reader, writer, stop, acknowledged };
        held.attempt().await;
        held
    }

    /// Until the next attempt at the cut-over waits for the reader.
    async fn attempt(&self) {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
        let holds = &self.stage.environment.holds;
        until(&self.moving, async || holds.is_held(GROUP) && self.stage.number(SOURCE, waiting).await > 0).await;
    }

    /// A lock that somebody takes on the target.
    async fn lock_target(&self, table: &str) -> Client {
        let locker = self.stage.connect(TARGET).await;
        locker.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE")).await.unwrap();
        locker
    }

    /// A lock on the target that a change is certain to wait for: one of another proxy's client, whom no hold concerns.
    async fn lock_change(&self) -> Client {
        let locker = self.lock_target(&format!("public_{GROUP}.items")).await;
        let other = self.stage.connect(SOURCE).await;
        other.batch_execute(&format!("UPDATE public_{GROUP}.items SET price = 7 WHERE tenant = 2")).await.unwrap();
        locker
    }

    /// The target's marker table.
    async fn marker(&self) -> String {
        let newest = "SELECT max(moveid) FROM tenantry.shard_move";
        let id: i64 = self.stage.coordinator.query_one(newest, &[]).await.unwrap().get(0);
        format!("tenantry_move_{id}.marker")
    }

    async fn end_reader(&self) {
        self.reader.batch_execute("COMMIT").await.unwrap();
    }

    /// Clients' statements go on while the move does not, each after a hold at most.
    async fn clients_go_on(&self) {
        let holds = &self.stage.environment.holds;
        let budget = self.stage.environment.settings.fence_patience * 3;
        let from = self.acknowledged.load(Ordering::SeqCst);
        while self.acknowledged.load(Ordering::SeqCst) < from + 50 {
            assert!(!self.moving.is_finished(), "the move waits");
            assert!(holds.wait(GROUP, budget).await, "clients wait for something that nobody knows the end of");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The writer ends; all that it wrote is on `home`, and nothing of the move anywhere.
    async fn end(self, home: NodeId) {
        let Held { stage, writer, stop, acknowledged, reader, .. } = self;
        drop(reader);
        stop.store(true, Ordering::SeqCst);
        writer.await.unwrap();
        assert_eq!(stage.node_of_group().await, home);
        let sql = format!("SELECT n FROM public_{GROUP}.orders WHERE tenant = 1 AND id = 1");
        let count = acknowledged.load(Ordering::SeqCst);
        assert_eq!(stage.number(home, &sql).await, count, "every acknowledged increment is there, once");
        assert_eq!(stage.leftovers().await, Vec::<String>::new());
        Arc::into_inner(stage).unwrap().strike().await;
    }
}

async fn until(moving: &JoinHandle<Result<Option<MoveReport>>>, mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        assert!(!moving.is_finished(), "the move has ended");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Every process of a worker, which stands still until it is dropped.
struct Frozen(Vec<i32>);

impl Frozen {
    async fn server(stage: &Stage, node: NodeId) -> Frozen {
        let sql = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
        let mut frozen = Self::those(stage, node, sql).await;
        // From here on there are no more; those that are logging in are not in pg_stat_activity yet.
        let all = frozen.0.iter().copied().flat_map(children).chain(frozen.0.clone());
        frozen.0 = all.collect();
        frozen.signal("STOP");
        frozen
    }

    /// The process that sends the move's changes.
    async fn sender(stage: &Stage) -> Frozen {
        Self::those(stage, SOURCE, "SELECT active_pid FROM pg_replication_slots WHERE active").await
    }

    async fn those(stage: &Stage, node: NodeId, sql: &str) -> Frozen {
        let rows = stage.workers[node.0 as usize - 1].query(sql, &[]).await.unwrap();
        let frozen = Frozen(rows.iter().map(|row| row.get(0)).collect());
        frozen.signal("STOP");
        frozen
    }

    fn signal(&self, name: &str) {
        for pid in &self.0 {
            // One or the other backend has ended by itself.
            let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

/// Processes that this one has started.
fn children(parent: i32) -> Vec<i32> {
    let parent_of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: the state, and the parent.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let processes = std::fs::read_dir("/proc").expect("there are processes").flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}

const LONG: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_the_target_before_the_fence_keeps_no_client_waiting() {
    let mut held = Held::begin(LONG, SHORT).await;
    let locker = held.lock_change().await;
    held.clients_go_on().await;
    held.end_reader().await;
    locker.batch_execute("COMMIT").await.unwrap();
    (&mut held.moving).await.unwrap().unwrap().unwrap();
    let other = format!("SELECT count(*) FROM public_{GROUP}.items WHERE tenant = 2 AND price = 7");
    assert_eq!(held.stage.number(TARGET, &other).await, 50);
    held.end(TARGET).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_the_target_behind_the_fence_keeps_no_client_waiting() {
    let mut held = Held::begin(LONG, SHORT).await;
    // The last marker cannot arrive.
    let locker = held.lock_target(&held.marker().await).await;
    held.end_reader().await;
    held.clients_go_on().await;
    locker.batch_execute("COMMIT").await.unwrap();
    let report = (&mut held.moving).await.unwrap().unwrap().unwrap();
    assert!(report.attempts > 1, "{report:?}");
    held.end(TARGET).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_the_target_that_stays_ends_the_move() {
    let mut held = Held::begin(Duration::from_secs(5), SHORT).await;
    let locker = held.lock_change().await;
    held.end_reader().await;
    let error = (&mut held.moving).await.unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
    assert!(error.to_string().contains("No change has been applied for too long"), "{error}");
    // The locked table stays until the lock is gone.
    locker.batch_execute("COMMIT").await.unwrap();
    held.stage.repair().await;
    held.end(SOURCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_lost_behind_the_fence_is_noticed_at_once() {
    let mut held = Held::begin(LONG, LONG).await;
    let locker = held.lock_target(&held.marker().await).await;
    held.end_reader().await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until(&held.moving, async || held.stage.number(TARGET, end).await > 0).await;
    locker.batch_execute("COMMIT").await.unwrap();
    let ended = tokio::time::timeout(LONG / 5, &mut held.moving).await;
    let error = ended.expect("nobody waits for a marker that cannot come").unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::ADMIN_SHUTDOWN, "{error}");
    held.end(SOURCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_goes_on_when_its_frozen_target_does() {
    let mut held = Held::begin(LONG, SHORT).await;
    let frozen = Frozen::server(&held.stage, TARGET).await;
    held.end_reader().await;
    held.clients_go_on().await;
    drop(frozen);
    let report = (&mut held.moving).await.unwrap().unwrap().unwrap();
    assert!(report.attempts > 1, "{report:?}");
    held.end(TARGET).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_whose_target_stays_frozen_leaves_nothing_on_the_source() {
    // Its way back has a slot on the target.
    let limits = MoveLimits { undo_window: LONG, ..MoveLimits::default() };
    let mut held = Held::begin_within(Duration::from_secs(8), SHORT, limits).await;
    let frozen = Frozen::server(&held.stage, TARGET).await;
    held.end_reader().await;
    held.clients_go_on().await;
    let error = (&mut held.moving).await.unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::CONNECTION_FAILURE, "{error}");
    assert!(error.message().contains("node 2 does not answer"), "{error}");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(held.stage.number(SOURCE, slots).await, 0, "no WAL is kept for it");
    drop(frozen);
    held.stage.repair().await;
    held.end(SOURCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_whose_source_is_frozen_leaves_nothing_once_it_goes_on() {
    let mut held = Held::begin(Duration::from_secs(6), SHORT).await;
    let frozen = Frozen::server(&held.stage, SOURCE).await;
    let error = (&mut held.moving).await.unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::CONNECTION_FAILURE, "{error}");
    let holds = &held.stage.environment.holds;
    assert!(holds.wait(GROUP, LONG).await, "nobody is kept waiting by the move");
    drop(frozen);
    held.end_reader().await;
    held.stage.repair().await;
    held.end(SOURCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_sender_of_changes_stops_nobody_but_the_move() {
    let mut held = Held::begin(Duration::from_secs(8), SHORT).await;
    let frozen = Frozen::sender(&held.stage).await;
    held.end_reader().await;
    held.clients_go_on().await;
    let error = (&mut held.moving).await.unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
    drop(frozen);
    held.stage.repair().await;
    held.end(SOURCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_of_a_dead_proxy_is_taken_back_while_the_target_is_frozen() {
    let mut stage = Stage::set(1, TABLES).await;
    stage.environment.stop_at = Some(StopPoint::FenceApplied);
    assert_eq!(stage.move_to(SOURCE, TARGET).await.unwrap_err().code(), STOPPED);
    stage.environment.stop_at = None;
    let frozen = Frozen::server(&stage, TARGET).await;
    let named = format!("SELECT count(*) FROM pg_namespace WHERE nspname = 'public_{GROUP}'");
    let began = Instant::now();
    while stage.number(SOURCE, &named).await == 0 {
        println!("{:?}", recover(&stage.environment).await);
        assert!(began.elapsed() < LONG / 5, "clients of the source wait for the target");
    }
    drop(frozen);
    stage.repair().await;
    assert_eq!(stage.node_of_group().await, SOURCE);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_wait_for_a_move_do_not_wait_for_its_frozen_target() {
    let mut stage = Stage::set(1, TABLES).await;
    stage.environment.settings.silence_patience = SHORT;
    let slow = MoveLimits { copy_rate_bytes: 20 << 10, ..MoveLimits::default() };
    stage.environment.limits.store(Arc::new(slow));
    let stage = Arc::new(stage);
    let moving = {
        let environment = stage.environment.clone();
        let request = MoveRequest { group: GROUP, source: SOURCE, target: TARGET, mode: TransferMode::BlockWrites };
        tokio::spawn(async move { move_shard_group(&environment, request, &|_| {}).await })
    };
    let copying = "SELECT count(*) FROM tenantry.shard_move WHERE phase = 'Copying Data'";
    until(&moving, async || stage.coordinator.query_one(copying, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    let frozen = Frozen::server(&stage, TARGET).await;
    let sql = format!("UPDATE public_{GROUP}.orders SET n = 5 WHERE tenant = 1 AND id = 1");
    let written = tokio::time::timeout(LONG / 5, stage.workers[0].batch_execute(&sql)).await;
    written.expect("the lock is given back").unwrap();
    let error = moving.await.unwrap().unwrap_err();
    assert!(error.message().contains("node 2 does not answer"), "{error}");
    drop(frozen);
    stage.repair().await;
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}
