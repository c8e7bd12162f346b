//! Isolated tenants go back among the others, whatever crashes; a part of the story in isolate_tests.rs.

use serde_json::json;

use super::isolate_tests::{ROWS, TENANTS, group_of};
use super::join::tenantry_return_tenant;
use super::tests::Stage;
use super::*;

/// `table` is the oid of the first table. All tenants are isolated; a writer inserts for the bystander.
pub async fn tenants_go_home(stage: &Stage, table: i64) {
    let catalog = &stage.environment.catalog;
    let quiet = |_: Notice| {};
    let arguments = |tenant: i64| json!({"table_name": table, "tenant_id": tenant});
    use StopPoint::*;
    let points = [Planned, TargetCreated, Copied, CaughtUp, Fenced, FenceApplied, Merged, Switched];
    for (tenant, point) in TENANTS.into_iter().zip(points) {
        let before = catalog.map();
        let mut crashing = stage.environment.clone();
        crashing.stop_at = Some(point);
        let stopped = tenantry_return_tenant(&crashing, &arguments(tenant), &quiet).await.unwrap_err();
        assert_eq!(stopped.code(), STOPPED, "{point:?}: {stopped}");
        if point == Copied {
            assert_eq!(super::split_tests::under_way(stage).await[0].0, "return");
        }
        stage.repair().await;
        assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        let is_home = group_of(&catalog.map(), tenant).tenant.is_none();
        assert_eq!(is_home, matches!(point, Merged | Switched), "{point:?}");
        if !is_home {
            let shard = tenantry_return_tenant(&stage.environment, &arguments(tenant), &quiet).await.unwrap();
            let (_, group) = catalog.map().group_of_shard(crate::shard_map::ShardId(shard.as_u64().unwrap())).unwrap();
            assert_eq!(group, group_of(&catalog.map(), tenant).id);
            assert_eq!(stage.remains().await, Vec::<String>::new(), "{point:?}");
        }
        // What took the tenant in has a new name, and is where the interval was.
        let group = group_of(&catalog.map(), tenant);
        let colocation = before.colocation(ColocationId(1)).unwrap();
        assert!(colocation.group(group.id).is_none(), "{point:?}");
        assert_eq!(colocation.interval_of(group.min).unwrap().node, group.node, "{point:?}");
        let sql = format!("SELECT count(*) FROM public_{}.notes WHERE tenant = {tenant}", group.id);
        assert_eq!(stage.number(group.node, &sql).await, ROWS, "{point:?}");
        let again = tenantry_return_tenant(&stage.environment, &arguments(tenant), &quiet).await.unwrap_err();
        assert_eq!(again.message(), format!("table orders has no isolated tenant \"{tenant}\""));
    }
}
