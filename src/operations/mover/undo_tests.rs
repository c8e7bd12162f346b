//! Moves are undone: nothing that was written since is lost, whatever crashes, and nothing is left of the way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use super::tests::{GROUP, SOURCE, Stage, TABLES, TARGET, write};
use super::undo::{look_after, open_ways_back, tenantry_keep_move, tenantry_undo_move};
use super::*;

/// What the job does, until it is dropped.
fn keeper(stage: &Arc<Stage>) -> JoinHandle<()> {
    let stage = stage.clone();
    tokio::spawn(async move {
        loop {
            for id in open_ways_back(&stage.environment).await.unwrap() {
                look_after(&stage.environment, id, &mut None).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

pub async fn moved(stage: &Stage) -> (i64, NodeId, NodeId) {
    let source = stage.node_of_group().await;
    let target = if source == SOURCE { TARGET } else { SOURCE };
    let report = stage.move_to(source, target).await.unwrap().unwrap();
    assert_eq!(stage.node_of_group().await, target);
    (report.move_id, source, target)
}

pub async fn undo(environment: &MoverEnvironment, id: i64) -> Result<()> {
    tenantry_undo_move(environment, &json!({ "move_id": id }), &|_| {}).await.map(drop)
}

async fn text(stage: &Stage, sql: &str) -> String {
    stage.coordinator.query_one(sql, &[]).await.unwrap().get(0)
}

/// Until the newest way back is in this state.
async fn way_back_is(stage: &Stage, state: &str) {
    let sql = "SELECT state FROM tenantry.shard_move WHERE back_of IS NOT NULL ORDER BY moveid DESC LIMIT 1";
    while text(stage, sql).await != state {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Until so many increments more are acknowledged.
async fn writes(acknowledged: &AtomicI64, more: i64) {
    let from = acknowledged.load(Ordering::SeqCst);
    while acknowledged.load(Ordering::SeqCst) < from + more {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_undone_with_everything_that_was_written_since() {
    let stage = Arc::new(Stage::set(1, TABLES).await);
    let limits = stage.environment.limits.clone();
    let open = MoveLimits { undo_window: Duration::from_secs(3600), ..MoveLimits::default() };
    limits.store(Arc::new(open.clone()));
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let writer = {
        let (stage, stop, acknowledged) = (stage.clone(), stop.clone(), acknowledged.clone());
        // Fails at any error that a client would see.
        tokio::spawn(async move { write(&stage, 1, &stop, &acknowledged, &AtomicI64::new(0)).await })
    };
    writes(&acknowledged, 5).await;
    let mut keeping = keeper(&stage);

    let (id, source, target) = moved(&stage).await;
    writes(&acknowledged, 20).await;
    assert_eq!(stage.number(target, "SELECT count(*) FROM pg_replication_slots").await, 1);
    // The fence of the move holds: nobody finds the old copy.
    let old = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\_%'";
    assert_eq!(stage.number(source, old).await, 0);
    // The proxy that looks after it dies, and another goes on.
    keeping.abort();
    writes(&acknowledged, 20).await;
    keeping = keeper(&stage);
    writes(&acknowledged, 5).await;
    undo(&stage.environment, id).await.unwrap();
    assert_eq!(stage.node_of_group().await, source);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    writes(&acknowledged, 5).await;
    let twice = undo(&stage.environment, id).await.unwrap_err();
    assert_eq!(twice.message(), format!("shard move {id} can no longer be undone"));
    let unknown = undo(&stage.environment, 4711).await.unwrap_err();
    assert_eq!(unknown.code(), SqlState::UNDEFINED_OBJECT);

    // Crashes of the move, and of its undoing.
    use StopPoint::*;
    for point in [Copied, CaughtUp, Fenced, FenceApplied, Switched] {
        let source = stage.node_of_group().await;
        let target = if source == SOURCE { TARGET } else { SOURCE };
        let mut crashing = stage.environment.clone();
        crashing.stop_at = Some(point);
        let request = MoveRequest { group: GROUP, source, target, mode: TransferMode::Online };
        let stopped = move_shard_group(&crashing, request, &|_| {}).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        stage.repair().await;
        let id = if stage.node_of_group().await == target {
            let latest = "SELECT max(moveid)::text FROM tenantry.shard_move WHERE back_of IS NULL";
            text(&stage, latest).await.parse().unwrap()
        } else {
            assert_eq!(stage.leftovers().await, Vec::<String>::new(), "{point:?}");
            moved(&stage).await.0
        };
        writes(&acknowledged, 5).await;
        let stopped = undo(&crashing, id).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        if point == Copied {
            assert_eq!(super::split_tests::under_way(&stage).await, [("undo".to_owned(), source.0 as u16)]);
        }
        stage.repair().await;
        let home = stage.node_of_group().await;
        match point {
            Fenced => {}
            _ => assert_eq!(home == source, matches!(point, FenceApplied | Switched), "{point:?}"),
        }
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "{point:?}");
        writes(&acknowledged, 5).await;
    }

    // Its time is over.
    limits.store(Arc::new(MoveLimits { undo_window: Duration::from_millis(500), ..open.clone() }));
    let (id, ..) = moved(&stage).await;
    limits.store(Arc::new(open.clone()));
    way_back_is(&stage, "done").await;
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    let late = undo(&stage.environment, id).await.unwrap_err();
    assert_eq!(late.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert_eq!(late.message(), format!("shard move {id} can no longer be undone"));

    // The next move of the shard, or its owner, ends it.
    let (first, ..) = moved(&stage).await;
    let (second, _, target) = moved(&stage).await;
    let ended = undo(&stage.environment, first).await.unwrap_err();
    assert_eq!(ended.message(), format!("shard move {first} can no longer be undone"));
    tenantry_keep_move(&stage.environment, &json!({ "move_id": second })).await.unwrap();
    assert_eq!((stage.node_of_group().await, stage.leftovers().await), (target, Vec::new()));

    // Its slot fills no disk: an open transaction keeps it back while others write.
    let (id, _, target) = moved(&stage).await;
    let settings = stage.environment.catalog.settings().clone();
    let address = crate::catalog::Address { host: "127.0.0.1".into(), port: stage.ports.first + 1 + target.0 as u16 };
    let idle = crate::catalog::connect(&settings, &address).await.unwrap();
    idle.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    limits.store(Arc::new(MoveLimits { slot_wal_bytes: 8 << 20, ..open.clone() }));
    let noise = "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1048576))";
    for _ in 0..12 {
        stage.workers[target.0 as usize - 1].batch_execute(noise).await.unwrap();
    }
    way_back_is(&stage, "done").await;
    idle.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    assert!(undo(&stage.environment, id).await.is_err());
    let why = "SELECT error FROM tenantry.shard_move WHERE back_of IS NOT NULL ORDER BY moveid DESC LIMIT 1";
    assert!(text(&stage, why).await.contains("keeps too much WAL"));
    limits.store(Arc::new(open));

    // What was changed since cannot be changed back.
    let (id, _, target) = moved(&stage).await;
    keeping.abort();
    stage.workers[target.0 as usize - 1]
        .batch_execute("ALTER TABLE public_102008.events ADD COLUMN more int")
        .await
        .unwrap();
    let changed = undo(&stage.environment, id).await.unwrap_err();
    assert!(changed.message().contains("were changed since it was moved"), "{changed}");
    assert_eq!((stage.node_of_group().await, stage.leftovers().await), (target, Vec::new()));

    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    let _ = keeping.await;
    let count = acknowledged.load(Ordering::SeqCst);
    let sql = format!("SELECT n FROM public_{GROUP}.orders WHERE tenant = 1 AND id = 1");
    assert_eq!(stage.number(target, &sql).await, count, "every acknowledged increment is there, once");
    let sql = format!("SELECT count(*) FROM public_{GROUP}.items WHERE tenant = 1 AND line > 1");
    assert_eq!(stage.number(target, &sql).await, count);
    let sql = format!("SELECT nextval('public_{GROUP}.ticket')");
    assert_eq!(stage.number(target, &sql).await, count + 1, "sequences came along");
    Arc::into_inner(stage).unwrap().strike().await;
}
