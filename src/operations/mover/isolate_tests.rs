//! Tenants get shard groups of their own between real servers, then the others' shard group is cut into pieces, with a
//! writer at work and crashes at every point; last a local table is distributed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::json;

use super::isolate::{isolate_tenant_to_new_shard, tenantry_isolate_tenant};
use super::tests::Stage;
use super::*;
use crate::shard_map::{HashType, ShardGroup, ShardId};

/// hashint8 folds the upper half into the lower one: the first two have one hash.
pub const TENANTS: [i64; 9] = [1, 4294967296, 2, 3, 4, 5, 6, 7, 8];
/// Nobody isolates it.
pub const BYSTANDER: i64 = 100;
/// Nobody isolates these either.
pub const CROWD: std::ops::RangeInclusive<i64> = 200..=215;
pub const ROWS: i64 = 20;

/// One shard group on the first worker, with a table that has a key and one that has none.
pub async fn set() -> Stage {
    let stage = Stage::set(0, "").await;
    stage.workers[1].batch_execute("SET search_path TO public").await.unwrap();
    let tenants =
        TENANTS.into_iter().chain([BYSTANDER]).chain(CROWD).map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
    stage.workers[0]
        .batch_execute(&format!(
            "CREATE SCHEMA public_102008; SET search_path TO public_102008;
             CREATE TABLE orders (tenant bigint, id bigint, PRIMARY KEY (tenant, id));
             CREATE TABLE notes (tenant bigint, order_id bigint, body text,
                 FOREIGN KEY (tenant, order_id) REFERENCES orders (tenant, id));
             CREATE INDEX notes_body ON notes (body);
             INSERT INTO orders SELECT t, -i FROM unnest(ARRAY[{tenants}]) t, generate_series(1, {ROWS}) i;
             INSERT INTO notes SELECT tenant, id, 'public_102008' FROM orders; SET search_path TO public"
        ))
        .await
        .unwrap();
    stage
        .coordinator
        .batch_execute(
            "CREATE TABLE public.notes (tenant bigint, order_id bigint, body text);
             INSERT INTO tenantry.distributed_table (logicalrelid, partmethod, partkey, colocationid)
                 VALUES ('public.notes'::regclass, 'h', 1, 1);
             INSERT INTO tenantry.shard_group VALUES (102008, 1, -2147483648, 2147483647, 1);
             INSERT INTO tenantry.shard VALUES (102008, 'public.orders'::regclass, 102008),
                 (102009, 'public.notes'::regclass, 102008);
             SELECT setval('tenantry.shard_id', 102010)",
        )
        .await
        .unwrap();
    stage.environment.catalog.refresh().await.unwrap();
    stage
}

pub fn group_of(map: &ShardMap, tenant: i64) -> ShardGroup {
    let text = tenant.to_string();
    map.colocation(ColocationId(1)).unwrap().group_of(&HashType::Int8.read_text(&text).unwrap()).unwrap().clone()
}

/// Inserts as a proxy would: waits at holds, asks again after the fence.
async fn write(stage: Arc<Stage>, tenant: i64, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicI64>) {
    let catalog = &stage.environment.catalog;
    while !stop.load(Ordering::SeqCst) {
        let id = acknowledged.load(Ordering::SeqCst) + 1;
        loop {
            stage.environment.holds.wait(group_of(&catalog.map(), tenant).id, Duration::from_secs(10)).await;
            let group = group_of(&catalog.map(), tenant);
            let orders = format!("public_{}.orders", group.id);
            let sql = format!(
                "BEGIN; INSERT INTO {orders} VALUES ({tenant}, {id});
                 INSERT INTO public_{}.notes VALUES ({tenant}, {id}, 'new');
                 UPDATE public_{}.notes SET body = 'changed' WHERE tenant = {tenant} AND order_id = {id}; COMMIT",
                group.id, group.id
            );
            let worker = &stage.workers[group.node.0 as usize - 1];
            match worker.batch_execute(&sql).await {
                Ok(()) => break,
                Err(error) => {
                    worker.batch_execute("ROLLBACK").await.unwrap();
                    let error = crate::catalog::pg_error(error);
                    let is_fence = matches!(error.code(), SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME);
                    assert!(is_fence, "tenant {tenant}: {error}");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        acknowledged.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// It moves there with its shard group, and back; nothing is done where it is.
async fn an_isolated_tenant_goes_where_it_is_wanted(stage: &Stage, table: i64) {
    let [tenant, ..] = TENANTS;
    let group = group_of(&stage.environment.catalog.map(), tenant);
    let (home, away) = (group.node, NodeId(3 - group.node.0));
    let moves = "SELECT count(*) FROM tenantry.shard_move";
    for (node, words, more) in [
        (home, format!("tenant '1' of table orders is isolated already on node {home}"), 0),
        (away, format!("tenant '1' of table orders is isolated already, moving it from node {home} to node {away}"), 1),
        (home, format!("tenant '1' of table orders is isolated already, moving it from node {away} to node {home}"), 1),
    ] {
        let before: i64 = stage.coordinator.query_one(moves, &[]).await.unwrap().get(0);
        let said = std::sync::Mutex::new(Vec::new());
        let notify = |notice: Notice| said.lock().unwrap().push(notice.message);
        let request = json!({"table_name": table, "tenant_id": tenant, "node_id": node.0});
        let shard = tenantry_isolate_tenant(&stage.environment, &request, &notify).await.unwrap();
        let map = stage.environment.catalog.map();
        assert_eq!(map.group_of_shard(ShardId(shard.as_u64().unwrap())).unwrap().1, group.id);
        assert_eq!(group_of(&map, tenant).node, node);
        assert_eq!(said.into_inner().unwrap().first(), Some(&words));
        assert_eq!(stage.coordinator.query_one(moves, &[]).await.unwrap().get::<_, i64>(0), before + more, "{words}");
        assert_eq!(stage.remains().await, Vec::<String>::new(), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_isolated_and_shards_split_under_a_writer_whatever_crashes() {
    let stage = Arc::new(set().await);
    let (catalog, holds) = (stage.environment.catalog.clone(), stage.environment.holds.clone());
    let table: i64 =
        stage.coordinator.query_one("SELECT 'public.orders'::regclass::oid::int8", &[]).await.unwrap().get(0);
    let arguments = |tenant: i64, node: i32| json!({"table_name": table, "tenant_id": tenant, "node_id": node});
    let quiet = |_: Notice| {};

    for tenant in ["'5'", "5"] {
        let sql = format!(
            "SELECT tenantry_arguments.isolate_tenant_to_new_shard('public.orders', {tenant}) ->> 'tenant_id' = '5'
                AND tenantry_arguments.tenantry_isolate_tenant('public.orders', {tenant}, 2) ->> 'node_id' = '2'"
        );
        assert!(stage.coordinator.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0), "{tenant}");
    }
    let alone = isolate_tenant_to_new_shard(&stage.environment, &arguments(1, 0), &quiet).await.unwrap_err();
    assert_eq!(alone.message(), "cannot isolate tenant because \"orders\" has colocated tables");
    assert_eq!(alone.code(), SqlState::FEATURE_NOT_SUPPORTED);

    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicI64::new(0));
    use StopPoint::*;
    let points = [Planned, TargetCreated, SlotCreated, Copied, IndexesBuilt, CaughtUp, Fenced, FenceApplied, Switched];
    let writer = {
        let (stage, stop, count) = (stage.clone(), stop.clone(), written.clone());
        tokio::spawn(write(stage, BYSTANDER, stop, count))
    };
    for (at, (tenant, point)) in TENANTS.into_iter().zip(points).enumerate() {
        let mut crashing = MoverEnvironment::new(catalog.clone(), holds.clone(), Arc::default());
        crashing.stop_at = Some(point);
        let node = 1 + (at as i32 % 2);
        let stopped = tenantry_isolate_tenant(&crashing, &arguments(tenant, node), &quiet).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        if point == Copied {
            assert_eq!(super::split_tests::under_way(&stage).await, [("isolate".to_owned(), node as u16)]);
        }
        stage.repair().await;
        assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        let is_isolated = group_of(&catalog.map(), tenant).tenant.is_some();
        match point {
            Fenced => {}
            _ => assert_eq!(is_isolated, matches!(point, FenceApplied | Switched), "{point:?}"),
        }
        if !is_isolated {
            let arguments =
                json!({"table_name": table, "tenant_id": tenant, "node_id": node, "cascade_option": "CASCADE"});
            let shard = if node == 1 {
                isolate_tenant_to_new_shard(&stage.environment, &arguments, &quiet).await.unwrap()
            } else {
                tenantry_isolate_tenant(&stage.environment, &arguments, &quiet).await.unwrap()
            };
            let (_, group) = catalog.map().group_of_shard(ShardId(shard.as_u64().unwrap())).unwrap();
            assert_eq!(group, group_of(&catalog.map(), tenant).id);
            assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        }
        let group = group_of(&catalog.map(), tenant);
        assert_eq!((group.node, group.tenant.is_some()), (NodeId(node as u32), true), "{point:?}");
        let request = json!({"table_name": table, "tenant_id": tenant, "cascade_option": "CASCADE"});
        let again = isolate_tenant_to_new_shard(&stage.environment, &request, &quiet).await.unwrap_err();
        assert_eq!(again.message(), "table orders has already been isolated for the given value");
    }
    an_isolated_tenant_goes_where_it_is_wanted(&stage, table).await;
    super::split_tests::the_rest_is_split_under_a_writer(&stage, table).await;
    super::unite_tests::splits_are_undone_under_a_writer(&stage, table).await;
    super::return_tests::tenants_go_home(&stage, table).await;
    super::blocking_tests::splits_and_isolations_block_writes(&stage, table, &written).await;
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();

    // Each tenant's rows are in its own schema, all of them, and nowhere else.
    let map = catalog.map();
    let acknowledged = written.load(Ordering::SeqCst);
    assert!(acknowledged > 0);
    for tenant in TENANTS.into_iter().chain([BYSTANDER]) {
        let group = group_of(&map, tenant);
        let want = ROWS + if tenant == BYSTANDER { acknowledged } else { 0 };
        for table in ["orders", "notes"] {
            let sql = format!("SELECT count(*) FROM public_{}.{table}", group.id);
            if group.tenant.is_some() {
                assert_eq!(stage.number(group.node, &sql).await, want, "{tenant} {table}");
            }
            let sql = format!("SELECT count(*) FROM public_{}.{table} WHERE tenant = {tenant}", group.id);
            assert_eq!(stage.number(group.node, &sql).await, want, "{tenant} {table}");
        }
        let sql = format!(
            "SELECT count(*) FROM public_{}.notes WHERE tenant = {tenant} AND body IN ('public_102008', 'changed')",
            group.id
        );
        assert_eq!(stage.number(group.node, &sql).await, want, "{tenant}");
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\_%'";
    let both = stage.number(NodeId(1), schemas).await + stage.number(NodeId(2), schemas).await;
    assert_eq!(both, map.colocation(ColocationId(1)).unwrap().shard_groups.len() as i64);
    super::distribute_tests::a_local_table_is_distributed_whatever_crashes(&stage).await;
    Arc::into_inner(stage).unwrap().strike().await;
}
