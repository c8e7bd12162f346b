//! Everything that copies takes a place on each node that it reads or writes, as moves of whole shard groups do.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::distribute::create_distributed_table_concurrently;
use super::isolate::tenantry_isolate_tenant;
use super::isolate_tests::{group_of, set};
use super::join::tenantry_return_tenant;
use super::split::tenantry_split_shard;
use super::tests::{SOURCE, Stage, TARGET};
use super::undo::{tenantry_keep_move, tenantry_undo_move};
use super::*;

/// A place on the node, for as long as the answer lives: all there are.
async fn occupy(stage: &Stage, node: NodeId) -> Session {
    let session = session::connect(&stage.environment, NodeId::COORDINATOR).await.unwrap();
    let patience = Duration::from_secs(30);
    lock::acquire_places(&session, &BTreeSet::from([node]), || 1, patience).await.unwrap();
    session
}

fn expect_busy<T: std::fmt::Debug>(done: Result<T>, node: NodeId) {
    let refused = done.unwrap_err();
    assert_eq!(refused.code(), SqlState::LOCK_NOT_AVAILABLE, "{refused}");
    assert_eq!(refused.message(), format!("node {node} takes part in as many moves as it may at the same time"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_copies_counts_for_its_nodes() {
    let stage = set().await;
    let quiet = |_: Notice| {};
    let mut hasty = stage.environment.clone();
    hasty.settings.group_patience = Duration::from_millis(100);
    let sql = "SELECT 'public.orders'::regclass::oid::int8";
    let table: i64 = stage.coordinator.query_one(sql, &[]).await.unwrap().get(0);
    let tenant = |tenant: i64| json!({"table_name": table, "tenant_id": tenant});
    let onto = |of: i64, node: NodeId| json!({"table_name": table, "tenant_id": of, "node_id": node.0});

    let busy = occupy(&stage, TARGET).await;
    expect_busy(tenantry_isolate_tenant(&hasty, &onto(1, TARGET), &quiet).await, TARGET);
    let split = json!({"shard_id": 102008, "parts": 2, "node_ids": [SOURCE.0, TARGET.0]});
    expect_busy(tenantry_split_shard(&hasty, &split, &quiet).await, TARGET);
    // What has nothing to do with the node goes on.
    tenantry_isolate_tenant(&hasty, &onto(2, SOURCE), &quiet).await.unwrap();
    drop(busy);
    tenantry_isolate_tenant(&stage.environment, &onto(1, TARGET), &quiet).await.unwrap();
    for node in [SOURCE, TARGET] {
        let busy = occupy(&stage, node).await;
        expect_busy(tenantry_return_tenant(&hasty, &tenant(1), &quiet).await, node);
        drop(busy);
    }

    stage.coordinator.batch_execute("CREATE TABLE public.local (tenant bigint, note text)").await.unwrap();
    let sql = "SELECT tenantry_arguments.create_distributed_table_concurrently('public.local', 'tenant',
        colocate_with => 'none')::text";
    let arguments: String = stage.coordinator.query_one(sql, &[]).await.unwrap().get(0);
    let arguments: Value = serde_json::from_str(&arguments).unwrap();
    for node in [NodeId::COORDINATOR, TARGET] {
        let busy = occupy(&stage, node).await;
        expect_busy(create_distributed_table_concurrently(&hasty, &arguments, &quiet).await, node);
        drop(busy);
    }

    let open = MoveLimits { undo_window: Duration::from_secs(3600), ..MoveLimits::default() };
    stage.environment.limits.store(Arc::new(open));
    let group = group_of(&stage.environment.catalog.refresh().await.unwrap(), 1).id;
    let request = MoveRequest { group, source: TARGET, target: SOURCE, mode: TransferMode::Online };
    let report = move_shard_group(&stage.environment, request, &quiet).await.unwrap().unwrap();
    let moved = json!({"move_id": report.move_id});
    for node in [SOURCE, TARGET] {
        let busy = occupy(&stage, node).await;
        expect_busy(tenantry_undo_move(&hasty, &moved, &quiet).await, node);
        drop(busy);
    }
    // To give the way back up copies nothing.
    let busy = occupy(&stage, TARGET).await;
    tenantry_keep_move(&hasty, &moved).await.unwrap();
    drop(busy);
    stage.strike().await;
}
