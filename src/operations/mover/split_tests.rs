//! Shard groups are cut into pieces between real servers; a part of the story in isolate_tests.rs.

use std::sync::Arc;

use serde_json::json;

use super::isolate_tests::{BYSTANDER, CROWD, ROWS, group_of};
use super::split::{citus_split_shard_by_split_points, tenantry_split_shard};
use super::tests::Stage;
use super::*;
use crate::shard_map::ShardId;

/// `table` is the oid of the first table. Tenants have been isolated before; a writer inserts for the bystander.
pub async fn the_rest_is_split_under_a_writer(stage: &Stage, table: i64) {
    let catalog = &stage.environment.catalog;
    let quiet = |_: Notice| {};
    let shard_of = |tenant: i64| shard_of(&catalog.map(), table, tenant);
    let shard = shard_of(BYSTANDER);
    for (points, nodes, message) in [
        (json!(["5", "5"]), json!([1, 2, 1]), "split points must grow, but 5 follows 5"),
        (json!(["5"]), json!([1]), "1 split points make 2 shards, but 1 nodes are given"),
        (json!(["2147483647"]), json!([1, 2]), "split point 2147483647 leaves nothing"),
        (json!(["5"]), json!([1, 77]), "node 77 cannot take shards"),
        (json!(["five"]), json!([1, 2]), "invalid input syntax for type integer"),
    ] {
        let arguments = json!({"shard_id": shard, "split_points": points, "node_ids": nodes});
        let error = citus_split_shard_by_split_points(&stage.environment, &arguments, &quiet).await.unwrap_err();
        assert!(error.message().starts_with(message), "{error}");
    }
    let unknown = json!({"shard_id": 1, "parts": 2});
    let unknown = tenantry_split_shard(&stage.environment, &unknown, &quiet).await.unwrap_err();
    assert_eq!(unknown.message(), "could not find valid entry for shard 1");
    let isolated = json!({"shard_id": shard_of(1), "parts": 2});
    let isolated = tenantry_split_shard(&stage.environment, &isolated, &quiet).await.unwrap_err();
    assert_eq!(isolated.code(), SqlState::FEATURE_NOT_SUPPORTED, "{isolated}");

    use StopPoint::*;
    for point in [TargetCreated, SlotCreated, Copied, CaughtUp, Fenced, FenceApplied, Switched] {
        let whole = group_of(&catalog.map(), BYSTANDER);
        let before = intervals(&catalog.map());
        let mut crashing = MoverEnvironment::new(catalog.clone(), stage.environment.holds.clone(), Arc::default());
        crashing.stop_at = Some(point);
        let arguments = json!({"shard_id": shard_of(BYSTANDER), "parts": 2, "node_ids": [1, 2]});
        let stopped = tenantry_split_shard(&crashing, &arguments, &quiet).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        if point == Copied {
            assert_eq!(under_way(stage).await, [("split".to_owned(), 1), ("split".to_owned(), 2)]);
        }
        stage.repair().await;
        assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        let is_split = intervals(&catalog.map()) > before;
        match point {
            Fenced => {}
            _ => assert_eq!(is_split, matches!(point, FenceApplied | Switched), "{point:?}"),
        }
        if !is_split {
            tenantry_split_shard(&stage.environment, &arguments, &quiet).await.unwrap();
            assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        }
        let map = catalog.map();
        assert_eq!(intervals(&map), before + 1);
        assert!(map.colocation(ColocationId(1)).unwrap().group(whole.id).is_none(), "{point:?}");
        let nodes: Vec<NodeId> = map
            .colocation(ColocationId(1))
            .unwrap()
            .intervals()
            .iter()
            .filter(|g| (whole.min..=whole.max).contains(&g.min))
            .map(|g| g.node)
            .collect();
        assert_eq!(nodes, [NodeId(1), NodeId(2)], "{point:?}");
        every_row_is_in_its_piece(stage, point).await;
    }

    let group = group_of(&catalog.map(), *CROWD.start());
    let points = [group.min + 1, group.min + (group.max / 2 - group.min / 2)].map(|point| point.to_string());
    let arguments = json!({"shard_id": shard_of(*CROWD.start()), "split_points": points, "node_ids": [2, 1, 2]});
    citus_split_shard_by_split_points(&stage.environment, &arguments, &quiet).await.unwrap();
    let map = catalog.map();
    let pieces: Vec<_> = map
        .colocation(ColocationId(1))
        .unwrap()
        .intervals()
        .iter()
        .filter(|g| (group.min..=group.max).contains(&g.min))
        .map(|g| (g.max, g.node.0))
        .collect();
    assert_eq!(pieces, [(group.min + 1, 2), (points[1].parse().unwrap(), 1), (group.max, 2)]);
    every_row_is_in_its_piece(stage, Switched).await;
    assert!(map.group_of_shard(ShardId(shard_of(*CROWD.start()))).is_some());
}

/// The tenant's shard of a table.
pub fn shard_of(map: &ShardMap, table: i64, tenant: i64) -> u64 {
    let group = group_of(map, tenant).id;
    let table = map.table_by_oid(crate::shard_map::TableOid(table as u32)).unwrap();
    table.shards.iter().find(|shard| map.group_of_shard(**shard).unwrap().1 == group).unwrap().0
}

/// What `get_rebalance_progress` says of the first table: the kinds of operations, and the ports of their targets counted from 1.
pub async fn under_way(stage: &Stage) -> Vec<(String, u16)> {
    let rows = crate::operations::rebalance::progress::get_rebalance_progress(&stage.environment).await.unwrap();
    let rows = rows.as_array().unwrap().iter();
    let first =
        rows.clone().map(|row| row["table_name"].as_str().unwrap().parse::<u32>().unwrap()).min().unwrap().to_string();
    let target = |row: &serde_json::Value| row["targetport"].as_u64().unwrap() as u16 - stage.ports.first - 1;
    rows.filter(|row| row["table_name"] == *first)
        .map(|row| (row["operation_type"].as_str().unwrap().to_owned(), target(row)))
        .collect()
}

fn intervals(map: &ShardMap) -> usize {
    map.colocation(ColocationId(1)).unwrap().intervals().len()
}

pub async fn every_row_is_in_its_piece(stage: &Stage, point: StopPoint) {
    let map = stage.environment.catalog.map();
    let mut found = 0;
    for group in map.colocation(ColocationId(1)).unwrap().intervals() {
        let mine: Vec<i64> = CROWD.filter(|tenant| group_of(&map, *tenant).id == group.id).collect();
        for table in ["orders", "notes"] {
            let of_crowd = format!("tenant BETWEEN {} AND {}", CROWD.start(), CROWD.end());
            let sql = format!("SELECT count(*) FROM public_{}.{table} WHERE {of_crowd}", group.id);
            assert_eq!(stage.number(group.node, &sql).await, mine.len() as i64 * ROWS, "{point:?} {table}");
        }
        found += mine.len();
    }
    assert_eq!(found, CROWD.count());
}
