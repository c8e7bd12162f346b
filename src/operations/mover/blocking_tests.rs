//! Moves without a change stream: writes wait and none is lost, reads go on, whatever crashes.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::tests::{GROUP, SOURCE, Stage, TABLES, TARGET, write};
use super::*;

async fn move_blocking(environment: &MoverEnvironment, source: NodeId, target: NodeId) -> Result<Option<MoveReport>> {
    let request = MoveRequest { group: GROUP, source, target, mode: TransferMode::BlockWrites };
    move_shard_group(environment, request, &|notice| panic!("nothing to say: {notice:?}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_the_move_and_reads_do_not() {
    let stage = Arc::new(Stage::set(1, TABLES).await);
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let writer = {
        let (stage, stop, acknowledged) = (stage.clone(), stop.clone(), acknowledged.clone());
        tokio::spawn(async move { write(&stage, 1, &stop, &acknowledged, &AtomicI64::new(0)).await })
    };
    while acknowledged.load(Ordering::SeqCst) < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // Slow enough to look at.
    let limits = stage.environment.limits.clone();
    limits.store(Arc::new(MoveLimits { copy_rate_bytes: 100 << 10, ..MoveLimits::default() }));
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { move_blocking(&stage.environment, SOURCE, TARGET).await })
    };
    let copying = "SELECT count(*) FROM tenantry.shard_move WHERE phase = 'Copying Data'";
    while stage.coordinator.query_one(copying, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = acknowledged.load(Ordering::SeqCst);
    for _ in 0..20 {
        let sql = format!("SELECT count(*) FROM public_{GROUP}.orders");
        assert_eq!(stage.number(SOURCE, &sql).await, 400, "reads go on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!moving.is_finished());
    assert!(acknowledged.load(Ordering::SeqCst) <= before + 1, "writes wait");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(stage.number(SOURCE, slots).await, 0, "and no slot is needed");

    // A reader's open transaction is waited for.
    let settings = stage.environment.catalog.settings().clone();
    let address = crate::catalog::Address { host: "127.0.0.1".into(), port: stage.ports.first + 2 };
    let reader = crate::catalog::connect(&settings, &address).await.unwrap();
    reader.batch_execute(&format!("BEGIN; SELECT count(*) FROM public_{GROUP}.orders")).await.unwrap();
    limits.store(Arc::default());
    let caught_up = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'caught_up'";
    while stage.coordinator.query_one(caught_up, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!moving.is_finished());
    reader.batch_execute("COMMIT").await.unwrap();
    let report = moving.await.unwrap().unwrap().unwrap();
    assert!(report.attempts > 1 && report.rows_applied == 0, "{report:?}");
    assert_eq!(stage.node_of_group().await, TARGET);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    let at_move = acknowledged.load(Ordering::SeqCst);
    while acknowledged.load(Ordering::SeqCst) < at_move + 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    use StopPoint::*;
    for point in [Planned, TargetCreated, Copied, IndexesBuilt, CaughtUp, Fenced, Switched] {
        let source = stage.node_of_group().await;
        let target = if source == SOURCE { TARGET } else { SOURCE };
        let mut crashing = stage.environment.clone();
        crashing.stop_at = Some(point);
        let stopped = move_blocking(&crashing, source, target).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        stage.repair().await;
        let home = stage.node_of_group().await;
        assert_eq!(home == target, matches!(point, Fenced | Switched), "{point:?}");
        assert_eq!(stage.leftovers().await, Vec::<String>::new(), "{point:?}");
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    let (home, count) = (stage.node_of_group().await, acknowledged.load(Ordering::SeqCst));
    let sql = format!("SELECT n FROM public_{GROUP}.orders WHERE tenant = 1 AND id = 1");
    assert_eq!(stage.number(home, &sql).await, count, "every acknowledged increment is there, once");
    let sql = format!("SELECT nextval('public_{GROUP}.ticket')");
    assert!(stage.number(home, &sql).await > count, "sequences go on");

    let unknown = TransferMode::of(&serde_json::json!({"shard_transfer_mode": "gigantic"})).unwrap_err();
    assert_eq!(unknown.code(), SqlState::INVALID_TEXT_REPRESENTATION);
    Arc::into_inner(stage).unwrap().strike().await;
}
