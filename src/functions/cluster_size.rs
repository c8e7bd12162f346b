//! The wished number of workers, in SQL: what `tenantry cluster edit` and `tenantry cluster list` do.

use serde_json::{Value, json};

use super::arguments::{ClusterEdit, read, required};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::operations::cluster_size::{DETAIL, request_workers};
use crate::shard_map::NodeId;

/// `tenantry_cluster_edit(workers)`: writes a request and answers its number. It is carried out after the commit, by
/// whoever can start and stop servers. A NOTICE says which one it waits for.
///
/// Errors: 22023 for fewer than one worker.
pub async fn request(name: &str, arguments: Value, txn: &mut Transaction) -> Result<Value> {
    let ClusterEdit { workers } = read(name, arguments)?;
    let workers = required(workers, "workers")?;
    if workers < 1 {
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, "a cluster has at least one worker"));
    }
    let rows = txn.query(NodeId::COORDINATOR, &request_workers(workers)).await?;
    let id: i64 = rows.first().and_then(|r| r.first()?.as_deref()).and_then(|id| id.parse().ok()).unwrap_or(0);
    let sql = format!("SELECT {DETAIL} FROM tenantry.cluster_request r WHERE r.id = {id}");
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    if let Some(waits) = rows.first().and_then(|r| r.first()?.as_deref()).filter(|waits| !waits.is_empty()) {
        txn.notice(
            PgError::notice(format!("request {id} {waits}"))
                .hint(format!("To take it back, run: SELECT tenantry_cluster_cancel({id});")),
        );
    }
    Ok(json!(id))
}

/// `tenantry_cluster_status()`: a row per server, with the shard groups that it holds.
pub async fn status(txn: &mut Transaction) -> Result<Value> {
    let map = txn.map();
    let coordinator = &txn.executor.coordinator;
    let mut rows = vec![json!({
        "node": coordinator.to_string(), "role": "coordinator", "status": "active", "shards": 0, "detail": "",
    })];
    for node in map.nodes().iter().filter(|n| n.group_id != 0) {
        let groups = map.colocations().flat_map(|c| &c.shard_groups).filter(|g| g.node == node.id).count();
        rows.push(json!({
            "node": format!("{}:{}", node.host, node.port),
            "role": "worker",
            "status": if node.is_active { "active" } else { "inactive" },
            "shards": groups,
            "detail": if node.should_have_shards { "" } else { "takes no new shards" },
        }));
    }
    Ok(Value::Array(rows))
}
