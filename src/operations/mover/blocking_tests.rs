//! Moves without a change stream: writes wait and none is lost, reads go on, whatever crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::{Value, json};

use super::isolate::tenantry_isolate_tenant;
use super::isolate_tests::{BYSTANDER, CROWD, ROWS, group_of};
use super::split::tenantry_split_shard;
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
    let blocked = "SELECT count(*) FROM tenantry.shard_move WHERE blocks_writes";
    assert_eq!(stage.coordinator.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0), 1);
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

/// A part of the story in isolate_tests.rs, whose writer inserts for the bystander. `table` is the oid of the first table.
pub async fn splits_and_isolations_block_writes(stage: &Stage, table: i64, acknowledged: &AtomicI64) {
    let catalog = &stage.environment.catalog;
    let intervals = || catalog.map().colocation(ColocationId(1)).unwrap().intervals().len();
    let cut = |environment: &MoverEnvironment| {
        let shard = group_of(&catalog.map(), BYSTANDER).id;
        let shards = catalog.map().table_by_oid(crate::shard_map::TableOid(table as u32)).unwrap().shards.clone();
        let shard = shards.into_iter().find(|of| catalog.map().group_of_shard(*of).unwrap().1 == shard).unwrap();
        let arguments =
            json!({"shard_id": shard.0, "parts": 2, "node_ids": [1, 2], "shard_transfer_mode": "block_writes"});
        let environment = environment.clone();
        async move { tenantry_split_shard(&environment, &arguments, &quiet).await }
    };
    let isolate = |environment: &MoverEnvironment, tenant: i64| {
        let node = 3 - group_of(&catalog.map(), tenant).node.0;
        let arguments =
            json!({"table_name": table, "tenant_id": tenant, "node_id": node, "shard_transfer_mode": "block_writes"});
        let environment = environment.clone();
        async move { tenantry_isolate_tenant(&environment, &arguments, &quiet).await }
    };

    use StopPoint::*;
    let points = [Planned, TargetCreated, Copied, IndexesBuilt, CaughtUp, Fenced, Switched];
    for (point, tenant) in points.into_iter().zip(CROWD) {
        let goes_on = matches!(point, Fenced | Switched);
        let mut crashing = stage.environment.clone();
        crashing.stop_at = Some(point);
        let stopped = isolate(&crashing, tenant).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        stage.repair().await;
        assert_eq!(group_of(&catalog.map(), tenant).tenant.is_some(), goes_on, "{point:?}");
        let before = intervals();
        let stopped = cut(&crashing).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        stage.repair().await;
        assert_eq!(intervals() - before, usize::from(goes_on), "{point:?}");
        assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
    }
    let before = intervals();
    is_read_and_not_written(stage, acknowledged, cut(&stage.environment)).await;
    assert_eq!(intervals(), before + 1);
    is_read_and_not_written(stage, acknowledged, isolate(&stage.environment, BYSTANDER)).await;
    assert!(group_of(&catalog.map(), BYSTANDER).tenant.is_some());
    let map = catalog.map();
    for table in ["orders", "notes"] {
        let mut found = 0;
        for group in &map.colocation(ColocationId(1)).unwrap().shard_groups {
            let of_crowd = format!("tenant BETWEEN {} AND {}", CROWD.start(), CROWD.end());
            let sql = format!("SELECT count(*) FROM public_{}.{table} WHERE {of_crowd}", group.id);
            let mine = CROWD.filter(|tenant| group_of(&map, *tenant).id == group.id).count() as i64;
            let there = stage.number(group.node, &sql).await;
            assert_eq!(there, mine * ROWS, "{table} of {}", group.id);
            found += there;
        }
        assert_eq!(found, CROWD.count() as i64 * ROWS);
    }
}

/// Carries out an operation on the bystander's shard. A reader's open transaction keeps it from its end for a while.
async fn is_read_and_not_written(
    stage: &Stage,
    acknowledged: &AtomicI64,
    operation: impl Future<Output = Result<Value>> + Send + 'static,
) {
    let group = group_of(&stage.environment.catalog.map(), BYSTANDER);
    let settings = stage.environment.catalog.settings();
    let port = stage.ports.first + 1 + group.node.0 as u16;
    let address = crate::catalog::Address { host: "127.0.0.1".into(), port };
    let count = format!("SELECT count(*) FROM public_{}.orders WHERE tenant = {BYSTANDER}", group.id);
    let reader = crate::catalog::connect(settings, &address).await.unwrap();
    reader.batch_execute(&format!("BEGIN; {count}")).await.unwrap();
    let moving = tokio::spawn(operation);
    let caught_up = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'caught_up'";
    while stage.coordinator.query_one(caught_up, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = acknowledged.load(Ordering::SeqCst);
    // The stage's own connections wait with the writer.
    let other = crate::catalog::connect(settings, &address).await.unwrap();
    for _ in 0..20 {
        let seen: i64 = other.query_one(&count, &[]).await.unwrap().get(0);
        assert!((ROWS + before..=ROWS + before + 1).contains(&seen), "reads go on, writes wait: {before}, {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(other.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0, "no slot is needed");
    assert!(!moving.is_finished(), "it waits for the reader");
    assert!(acknowledged.load(Ordering::SeqCst) <= before + 1, "writes wait");
    reader.batch_execute("COMMIT").await.unwrap();
    moving.await.unwrap().unwrap();
    let at_end = acknowledged.load(Ordering::SeqCst);
    while acknowledged.load(Ordering::SeqCst) < at_end + 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.remains().await, Vec::<String>::new());
}

fn quiet(_: Notice) {}
