//! Neighbours are put together between real servers, whatever crashes; a part of the story in isolate_tests.rs. And what clients
//! do meanwhile reaches the rows that it is about.

use std::sync::Arc;

use serde_json::json;

use super::isolate_tests::{BYSTANDER, CROWD, ROWS, TENANTS, group_of, set};
use super::split::tenantry_split_shard;
use super::split_tests::{every_row_is_in_its_piece, shard_of, under_way};
use super::tests::{SOURCE, Stage};
use super::undo::tenantry_undo_move;
use super::unite::unite;
use super::*;
use crate::shard_map::ShardId;

/// `table` is the oid of the first table. The shard has been split; a writer inserts for the bystander.
pub async fn splits_are_undone_under_a_writer(stage: &Stage, table: i64) {
    let catalog = &stage.environment.catalog;
    let quiet = |_: Notice| {};
    use StopPoint::*;
    for point in [Planned, TargetCreated, SlotCreated, Copied, IndexesBuilt, CaughtUp, Fenced, FenceApplied, Switched] {
        let shard = shard_of(&catalog.map(), table, BYSTANDER);
        let whole = group_of(&catalog.map(), BYSTANDER);
        let cut = json!({"shard_id": shard, "parts": 2});
        tenantry_split_shard(&stage.environment, &cut, &quiet).await.unwrap();
        let split = last_move(stage).await;
        let pieces = within(&catalog.map(), &whole);
        let mut crashing = stage.environment.clone();
        crashing.stop_at = Some(point);
        let undo = json!({ "move_id": split });
        let stopped = tenantry_undo_move(&crashing, &undo, &quiet).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        if point == Copied {
            let merge = ("merge".to_owned(), whole.node.0 as u16);
            assert_eq!(under_way(stage).await, [merge.clone(), merge]);
        }
        stage.repair().await;
        assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        let is_whole = within(&catalog.map(), &whole).len() == 1;
        match point {
            Fenced => {}
            _ => assert_eq!(is_whole, matches!(point, FenceApplied | Switched), "{point:?}"),
        }
        if !is_whole {
            assert_eq!(within(&catalog.map(), &whole), pieces, "{point:?}: all is as before");
            tenantry_undo_move(&stage.environment, &undo, &quiet).await.unwrap();
            assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        }
        let now = within(&catalog.map(), &whole);
        assert_eq!((now.len(), now[0].node, now[0].max), (1, whole.node, whole.max), "{point:?}");
        every_row_is_in_its_piece(stage, point).await;
        let again = tenantry_undo_move(&stage.environment, &undo, &quiet).await.unwrap_err();
        assert_eq!(again.message(), format!("shard move {split} can no longer be undone"));
        let of_undo = json!({ "move_id": last_move(stage).await });
        let refused = tenantry_undo_move(&stage.environment, &of_undo, &quiet).await.unwrap_err();
        assert_eq!(refused.code(), SqlState::FEATURE_NOT_SUPPORTED, "{refused}");
    }
    // Pieces that have gone elsewhere come back first.
    let shard = shard_of(&catalog.map(), table, BYSTANDER);
    let whole = group_of(&catalog.map(), BYSTANDER);
    let cut = json!({"shard_id": shard, "parts": 3, "node_ids": [1, 2, 3 - whole.node.0]});
    tenantry_split_shard(&stage.environment, &cut, &quiet).await.unwrap();
    tenantry_undo_move(&stage.environment, &json!({ "move_id": last_move(stage).await }), &quiet).await.unwrap();
    let now = within(&catalog.map(), &whole);
    assert_eq!((now.len(), now[0].node, now[0].max), (1, whole.node, whole.max));
    every_row_is_in_its_piece(stage, Switched).await;
    assert_eq!(stage.remains().await, Vec::<String>::new());
}

async fn last_move(stage: &Stage) -> i64 {
    let sql = "SELECT max(moveid) FROM tenantry.shard_move";
    stage.coordinator.query_one(sql, &[]).await.unwrap().get(0)
}

/// The intervals that a shard group has become.
fn within(map: &ShardMap, whole: &crate::shard_map::ShardGroup) -> Vec<crate::shard_map::ShardGroup> {
    let intervals = map.colocation(ColocationId(1)).unwrap().intervals().iter();
    intervals.filter(|group| (whole.min..=whole.max).contains(&group.min)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_empties_its_own_shard_only_and_unlike_shards_stay_apart() {
    let stage = Arc::new(set().await);
    let catalog = &stage.environment.catalog;
    let quiet = |_: Notice| {};
    let cut = json!({"shard_id": 102008, "parts": 2});
    tenantry_split_shard(&stage.environment, &cut, &quiet).await.unwrap();
    let pieces: Vec<ShardGroupId> =
        catalog.map().colocation(ColocationId(1)).unwrap().intervals().iter().map(|group| group.id).collect();

    // Whoever reads a table keeps the cutover waiting, and others write meanwhile.
    let reader = stage.connect(SOURCE).await;
    let read = format!("BEGIN; SELECT count(*) FROM public_{}.orders", pieces[1]);
    reader.batch_execute(&read).await.unwrap();
    let uniting = {
        let (stage, pieces) = (stage.clone(), pieces.clone());
        tokio::spawn(async move { unite(&stage.environment, ColocationId(1), &pieces, SOURCE, &|_| {}).await })
    };
    let is_caught_up = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'caught_up'";
    while stage.coordinator.query_one(is_caught_up, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!uniting.is_finished(), "it waits for the reader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let of_piece = |at: usize| {
        let map = catalog.map();
        let tenants: Vec<i64> = TENANTS.into_iter().chain([BYSTANDER]).chain(CROWD).collect();
        tenants.into_iter().filter(|tenant| group_of(&map, *tenant).id == pieces[at]).collect::<Vec<_>>()
    };
    let (emptied, left) = (of_piece(0), of_piece(1));
    stage.workers[0]
        .batch_execute(&format!(
            "TRUNCATE public_{0}.notes; INSERT INTO public_{0}.notes VALUES ({1}, -1, 'after')",
            pieces[0], emptied[0]
        ))
        .await
        .unwrap();
    reader.batch_execute("COMMIT").await.unwrap();
    let whole = uniting.await.unwrap().unwrap();
    let sql = format!("SELECT count(*) FROM public_{whole}.notes");
    assert_eq!(stage.number(SOURCE, &sql).await, left.len() as i64 * ROWS + 1);
    let sql = format!("SELECT count(*) FROM public_{whole}.orders");
    assert_eq!(stage.number(SOURCE, &sql).await, (left.len() + emptied.len()) as i64 * ROWS);

    let ShardId(shard) = catalog.map().tables_of(ColocationId(1))[0].shards[0];
    let cut = json!({"shard_id": shard, "parts": 2});
    tenantry_split_shard(&stage.environment, &cut, &quiet).await.unwrap();
    let pieces: Vec<ShardGroupId> =
        catalog.map().colocation(ColocationId(1)).unwrap().intervals().iter().map(|group| group.id).collect();
    let odd = format!("CREATE INDEX odd ON public_{}.notes (order_id)", pieces[1]);
    stage.workers[0].batch_execute(&odd).await.unwrap();
    let refused = unite(&stage.environment, ColocationId(1), &pieces, SOURCE, &quiet).await.unwrap_err();
    assert_eq!(refused.message(), format!("shard groups {} and {} are not alike", pieces[0], pieces[1]));
    let apart = unite(&stage.environment, ColocationId(1), &[pieces[1], pieces[0]], SOURCE, &quiet).await.unwrap_err();
    assert_eq!(apart.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "no neighbours in this order");
    assert_eq!(stage.remains().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}
