//! Shard groups of one colocation group move side by side under writers; what must not happen beside a move does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio::task::JoinHandle;

use super::tests::{GROUP, SOURCE, Stage, TABLES, TARGET, write_to};
use super::*;

const GROUPS: [ShardGroupId; 2] = [GROUP, ShardGroupId(GROUP.0 + 1)];

fn start(
    environment: &MoverEnvironment,
    group: ShardGroupId,
    (source, target): (NodeId, NodeId),
) -> JoinHandle<Result<Option<MoveReport>>> {
    let environment = environment.clone();
    let request = MoveRequest { group, source, target, mode: TransferMode::Online };
    tokio::spawn(async move { move_shard_group(&environment, request, &|_| {}).await })
}

/// Until so many moves copy at the same moment.
async fn copying(stage: &Stage, moves: i64, under_way: &[JoinHandle<Result<Option<MoveReport>>>]) {
    let sql = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'target_created' AND phase = 'Copying Data'";
    while stage.coordinator.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != moves {
        assert!(under_way.iter().all(|moving| !moving.is_finished()), "a move has ended before the other copied");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn nodes(stage: &Stage) -> Vec<NodeId> {
    let map = stage.environment.catalog.refresh().await.unwrap();
    GROUPS.iter().map(|group| map.colocation(ColocationId(1)).unwrap().group(*group).unwrap().node).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_groups_of_one_colocation_group_move_side_by_side() {
    let stage = Arc::new(Stage::set(2, TABLES).await);
    let environment = &stage.environment;
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged: Arc<[AtomicI64; 4]> = Arc::default();
    let writers: Vec<_> = (0..4usize)
        .map(|w| {
            let (stage, stop, acknowledged) = (stage.clone(), stop.clone(), acknowledged.clone());
            let (group, tenant) = (GROUPS[w % 2], 1 + w as i64);
            let longest = AtomicI64::new(0);
            tokio::spawn(async move { write_to(&stage, group, tenant, &stop, &acknowledged[w], &longest).await })
        })
        .collect();
    let slow = |per_node| Arc::new(MoveLimits { copy_rate_bytes: 1 << 20, per_node, ..MoveLimits::default() });
    let share = try_share_statement(ColocationId(1));
    let may_change = || async { stage.coordinator.query_one(&share, &[]).await.unwrap().get::<_, i32>(0) == 1 };

    // As many as the nodes may take part in, and no more; a reload lets the next one in.
    environment.limits.store(slow(1));
    let mut hasty = environment.clone();
    hasty.settings.group_patience = Duration::from_millis(50);
    let first = start(environment, GROUP, (SOURCE, TARGET));
    copying(&stage, 1, std::slice::from_ref(&first)).await;
    let refused = start(&hasty, GROUPS[1], (SOURCE, TARGET)).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), SqlState::LOCK_NOT_AVAILABLE, "{refused}");
    assert_eq!(refused.message(), "node 1 takes part in as many moves as it may at the same time");
    let second = start(environment, GROUPS[1], (SOURCE, TARGET));
    assert_eq!(stage.coordinator.query("SELECT FROM tenantry.shard_move", &[]).await.unwrap().len(), 1);
    // Nor more of one colocation group than may move at once.
    let lane = session::connect(environment, NodeId::COORDINATOR).await.unwrap();
    let patience = Duration::from_millis(50);
    let refused = lock::acquire_lane(environment, &lane, ColocationId(1), 1, patience).await.unwrap_err();
    assert_eq!(refused.message(), "colocation group 1 is being moved or changed");
    lock::acquire_lane(environment, &lane, ColocationId(1), 2, patience).await.unwrap();
    drop(lane);
    environment.limits.store(slow(2));
    let moving = [first, second];
    copying(&stage, 2, &moving).await;
    // Beside them no schema change, nothing that takes shard groups apart, and no second move of the same one.
    assert!(!may_change().await);
    let refused = begin(&hasty, ColocationId(1), &BTreeSet::new()).await.err().unwrap();
    assert_eq!(refused.code(), SqlState::LOCK_NOT_AVAILABLE, "{refused}");
    let refused = start(&hasty, GROUP, (SOURCE, TARGET)).await.unwrap().unwrap_err();
    assert!(refused.message().starts_with("node 1 takes part in"), "{refused}");
    let wide = hasty.with_moves_per_node(Some(3));
    let refused = start(&wide, GROUP, (SOURCE, TARGET)).await.unwrap().unwrap_err();
    assert_eq!(refused.message(), format!("shard group {GROUP} is being moved"));
    // Nor does anybody take one of them for dead.
    assert_eq!(recover(environment).await.unwrap(), 0);
    assert!(moving.iter().all(|moving| !moving.is_finished()));
    environment.limits.store(Arc::default());
    for moving in moving {
        let report = moving.await.unwrap().unwrap().unwrap();
        println!("{report:?}");
    }
    assert_eq!(nodes(&stage).await, [TARGET, TARGET]);

    // One dies, and is repaired beside the other, which goes on.
    environment.limits.store(slow(2));
    let mut crashing = environment.clone();
    crashing.stop_at = Some(StopPoint::SlotCreated);
    let alive = [start(environment, GROUPS[1], (TARGET, SOURCE))];
    copying(&stage, 1, &alive).await;
    let stopped = start(&crashing, GROUP, (TARGET, SOURCE)).await.unwrap().unwrap_err();
    assert_eq!(stopped.code(), STOPPED, "{stopped}");
    stage.repair().await;
    assert!(!alive[0].is_finished());
    // The next move repairs what it finds of its own shard group.
    start(&crashing, GROUP, (TARGET, SOURCE)).await.unwrap().unwrap_err();
    environment.limits.store(Arc::default());
    start(environment, GROUP, (TARGET, SOURCE)).await.unwrap().unwrap();
    for moving in alive {
        moving.await.unwrap().unwrap();
    }
    assert_eq!(nodes(&stage).await, [SOURCE, SOURCE]);
    while !may_change().await {
        // Sessions' ends are on their way.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    for (w, count) in acknowledged.iter().enumerate() {
        let (group, tenant, count) = (GROUPS[w % 2], 1 + w, count.load(Ordering::SeqCst));
        assert!(count > 10);
        let sql = format!("SELECT n FROM public_{group}.orders WHERE tenant = {tenant} AND id = 1");
        assert_eq!(stage.number(SOURCE, &sql).await, count, "every acknowledged increment is there, once");
        let sql = format!("SELECT count(*) FROM public_{group}.items WHERE tenant = {tenant} AND line > 1");
        assert_eq!(stage.number(SOURCE, &sql).await, count);
    }
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\_%'";
    assert_eq!([stage.number(SOURCE, schemas).await, stage.number(TARGET, schemas).await], [2, 0]);
    Arc::into_inner(stage).unwrap().strike().await;
}
