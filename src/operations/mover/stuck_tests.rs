//! Something of a move stands still at its cut-over: clients go on, and so does the move once it can.

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
        let mut stage = Stage::set(1, TABLES).await;
        let settings = &mut stage.environment.settings;
        (settings.lock_timeout, settings.fence_patience) = (Duration::from_secs(2), hold);
        (settings.cutover_patience, settings.lock_patience) = (patience, Duration::from_secs(1));
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

const LONG: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_the_target_before_the_fence_keeps_no_client_waiting() {
    let mut held = Held::begin(LONG, SHORT).await;
    let locker = held.lock_target(&format!("public_{GROUP}.items")).await;
    // Another proxy's client, whom the hold does not concern.
    let other = held.stage.connect(SOURCE).await;
    other.batch_execute(&format!("UPDATE public_{GROUP}.items SET price = 7 WHERE tenant = 2")).await.unwrap();
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
    let locker = held.lock_target(&format!("public_{GROUP}.orders")).await;
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
