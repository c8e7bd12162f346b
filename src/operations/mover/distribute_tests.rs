//! A local table becomes a distributed one, crashing at every point; a part of the story in isolate_tests.rs.

use std::sync::Arc;

use serde_json::json;

use super::distribute::create_distributed_table_concurrently;
use super::split_tests::under_way;
use super::tests::Stage;
use super::*;
use crate::shard_map::TableOid;

/// The cluster's colocation group has isolated tenants and pieces of several sizes by now.
pub async fn a_local_table_is_distributed_whatever_crashes(stage: &Stage) {
    let catalog = &stage.environment.catalog;
    let quiet = |_: Notice| {};
    use StopPoint::*;
    for (point, colocate_with) in [
        (TargetCreated, "public.orders"),
        (SlotCreated, "none"),
        (Copied, "public.orders"),
        (CaughtUp, "none"),
        (Fenced, "public.orders"),
        (FenceApplied, "none"),
        (Switched, "public.orders"),
    ] {
        let table =
            if colocate_with == "none" { PARTITIONED } else { "CREATE TABLE public.local (tenant bigint, note text)" };
        let rows = "INSERT INTO public.local (tenant, note) SELECT i % 40, 'n' || i FROM generate_series(1, 400) i";
        stage.coordinator.batch_execute(&format!("{table}; {rows}")).await.unwrap();
        let sql = "SELECT tenantry_arguments.create_distributed_table_concurrently('public.local', 'tenant',
            colocate_with => $1)::text";
        let arguments: String = stage.coordinator.query_one(sql, &[&colocate_with]).await.unwrap().get(0);
        let arguments: serde_json::Value = serde_json::from_str(&arguments).unwrap();
        let oid = TableOid(arguments["table_name"].as_u64().unwrap() as u32);
        let before = tables_of_workers(stage).await;
        let mut crashing = MoverEnvironment::new(catalog.clone(), stage.environment.holds.clone(), Arc::default());
        crashing.stop_at = Some(point);
        let stopped = create_distributed_table_concurrently(&crashing, &arguments, &quiet).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        if point == Copied {
            let distribute = |node: u16| ("distribute".to_owned(), node);
            assert_eq!(under_way(stage).await, [distribute(1), distribute(2)]);
        }
        stage.repair().await;
        expect_nothing_left(stage, point).await;
        if point != Switched {
            assert!(catalog.refresh().await.unwrap().table_by_oid(oid).is_none(), "{point:?}");
            assert_eq!(rows_of_shell(stage).await, 400, "{point:?}");
            assert_eq!(tables_of_workers(stage).await, before, "{point:?}");
            create_distributed_table_concurrently(&stage.environment, &arguments, &quiet).await.unwrap();
            expect_nothing_left(stage, point).await;
        }
        let map = catalog.refresh().await.unwrap();
        let table = map.table_by_oid(oid).unwrap();
        assert_eq!(table.colocation == ColocationId(1), colocate_with != "none", "{point:?}");
        let mut rows = 0;
        for group in &map.colocation(table.colocation).unwrap().shard_groups {
            rows += stage.number(group.node, &format!("SELECT count(*) FROM public_{}.local", group.id)).await;
        }
        assert_eq!((rows, rows_of_shell(stage).await), (400, 0), "{point:?}");
        let write = stage.coordinator.batch_execute("INSERT INTO public.local VALUES (1)").await.unwrap_err();
        assert!(write.to_string().contains("db error"), "{write}");
        let again = create_distributed_table_concurrently(&stage.environment, &arguments, &quiet).await.unwrap_err();
        assert_eq!(again.message(), "table \"local\" is already distributed");
        drop_local(stage, &map, oid).await;
    }

    // What cannot be: and nothing is begun.
    stage
        .coordinator
        .batch_execute(
            "CREATE TABLE public.local (tenant bigint PRIMARY KEY);
             CREATE TABLE public.child (tenant bigint REFERENCES public.local)",
        )
        .await
        .unwrap();
    let sql = "SELECT tenantry_arguments.create_distributed_table_concurrently('public.local', 'tenant')::text";
    let arguments: String = stage.coordinator.query_one(sql, &[]).await.unwrap().get(0);
    let arguments = serde_json::from_str(&arguments).unwrap();
    let error = create_distributed_table_concurrently(&stage.environment, &arguments, &quiet).await.unwrap_err();
    assert_eq!(error.message(), "relation local is referenced by a foreign key from child");
    assert!(
        error.hint_text().is_some_and(
            |hint| hint.starts_with("Drop the foreign key of public.child, or call create_distributed_table")
        ),
        "{error:?}"
    );
    let partner = json!({"table_name": arguments["table_name"], "distribution_column": "tenant",
        "distribution_type": "hash", "colocate_with": "child", "colocate_oid": 1});
    let error = create_distributed_table_concurrently(&stage.environment, &partner, &quiet).await.unwrap_err();
    assert_eq!(error.code(), SqlState::FEATURE_NOT_SUPPORTED);
}

/// The distribution column is elsewhere in one of the partitions, and one is partitioned itself.
const PARTITIONED: &str = "
    CREATE TABLE public.local (tenant bigint, note text) PARTITION BY LIST (right(note, 1));
    CREATE TABLE public.local_0 (note text, tenant bigint);
    ALTER TABLE public.local ATTACH PARTITION public.local_0 FOR VALUES IN ('0', '1');
    CREATE TABLE public.local_2 PARTITION OF public.local FOR VALUES IN ('2', '3') PARTITION BY HASH (tenant);
    CREATE TABLE public.local_2_0 PARTITION OF public.local_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE public.local_2_1 PARTITION OF public.local_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE public.local_rest PARTITION OF public.local DEFAULT";

async fn rows_of_shell(stage: &Stage) -> i64 {
    stage.coordinator.query_one("SELECT count(*) FROM public.local", &[]).await.unwrap().get(0)
}

async fn tables_of_workers(stage: &Stage) -> Vec<i64> {
    let sql =
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text LIKE 'public\\_%'";
    vec![stage.number(NodeId(1), sql).await, stage.number(NodeId(2), sql).await]
}

async fn expect_nothing_left(stage: &Stage, point: StopPoint) {
    assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
    let sql = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)
        + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%')
        + (SELECT count(*) FROM pg_class WHERE relname LIKE 'local%' AND relreplident = 'f')";
    assert_eq!(stage.coordinator.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0, "{point:?}");
}

/// As DROP TABLE through a proxy does.
async fn drop_local(stage: &Stage, map: &ShardMap, oid: TableOid) {
    let table = map.table_by_oid(oid).unwrap();
    for group in &map.colocation(table.colocation).unwrap().shard_groups {
        let sql = format!("DROP TABLE public_{}.local", group.id);
        stage.workers[group.node.0 as usize - 1].batch_execute(&sql).await.unwrap();
    }
    let sql = format!(
        "DELETE FROM tenantry.distributed_table
             WHERE logicalrelid = {oid} OR logicalrelid IN (SELECT relid FROM pg_partition_tree({oid}));
         DROP TABLE public.local"
    );
    stage.coordinator.batch_execute(&sql).await.unwrap();
    stage.environment.catalog.refresh().await.unwrap();
}
