//! The HTTP server and its pages.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Exposition, cluster, dashboard};
use crate::catalog::Catalog;
use crate::shard_map::{Node, NodeId, ShardMap};

/// What the pages are made from.
#[derive(Clone)]
pub struct State {
    pub catalog: Arc<Catalog>,
    pub metrics: PrometheusHandle,
    /// Who shows it may change the cluster; nobody when none.
    pub token: Option<String>,
    /// Metrics that are read when they are asked for.
    pub figures: Tell,
}

/// Tells metrics.
pub type Tell = Arc<dyn Fn(&mut Exposition) + Send + Sync>;

/// Answers until `stop`.
pub async fn serve(listener: TcpListener, state: State, stop: CancellationToken) {
    let pages = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/nodes", get(async |state: extract::State<State>| Json(nodes(&state.catalog.map()))))
        .route("/api/shards", get(async |state: extract::State<State>| Json(shards(&state.catalog.map()))))
        .merge(cluster::pages())
        .merge(dashboard::pages())
        .with_state(state);
    if let Err(error) = axum::serve(listener, pages).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the admin HTTP server ended");
    }
}

async fn metrics(extract::State(state): extract::State<State>) -> impl IntoResponse {
    let mut page = Exposition::default();
    (state.figures)(&mut page);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], state.metrics.render() + &page.into_text())
}

async fn readyz(extract::State(state): extract::State<State>) -> (StatusCode, String) {
    let asked = async {
        let client = state.catalog.client(NodeId(0)).await?;
        client.simple_query("SELECT 1").await.map_err(crate::catalog::pg_error)
    };
    let why = match tokio::time::timeout(READY_TIMEOUT, asked).await {
        Ok(Ok(_)) => return (StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(error)) => error.message().to_owned(),
        Err(_) => format!("the coordinator did not answer within {} s", READY_TIMEOUT.as_secs()),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

fn nodes(map: &ShardMap) -> Value {
    let standbys = |node: &Node| -> Vec<_> {
        node.standbys.iter().map(|standby| json!({ "host": standby.host, "port": standby.port })).collect()
    };
    let groups_on = |id: NodeId| map.colocations().flat_map(|c| &c.shard_groups).filter(|g| g.node == id).count();
    let nodes: Vec<_> = map
        .nodes()
        .iter()
        .map(|node| {
            json!({
                "node_id": node.id.0, "group_id": node.group_id, "host": node.host, "port": node.port,
                "is_active": node.is_active, "should_have_shards": node.should_have_shards,
                "shard_groups": groups_on(node.id), "standbys": standbys(node),
            })
        })
        .collect();
    json!({ "map_version": map.version(), "nodes": nodes })
}

fn shards(map: &ShardMap) -> Value {
    let mut colocations: Vec<_> = map.colocations().filter(|c| !c.shard_groups.is_empty()).collect();
    colocations.sort_by_key(|colocation| colocation.id);
    let colocations: Vec<_> = colocations
        .into_iter()
        .map(|colocation| {
            let tables: Vec<_> = map
                .tables_of(colocation.id)
                .iter()
                .map(|table| json!({ "schema": table.schema, "name": table.name }))
                .collect();
            let groups: Vec<_> = colocation
                .shard_groups
                .iter()
                .map(|group| {
                    let tenant = group.tenant.as_ref().map(|tenant| &tenant.text);
                    json!({
                        "id": group.id.0, "min": group.min, "max": group.max, "node_id": group.node.0, "tenant": tenant,
                    })
                })
                .collect();
            json!({ "colocation_id": colocation.id.0, "tables": tables, "shard_groups": groups })
        })
        .collect();
    json!({ "map_version": map.version(), "colocations": colocations })
}

const READY_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_map::{ColocationGroup, ColocationId, ShardGroup, ShardGroupId, ShardMapParts};

    #[test]
    fn the_cluster_is_told_as_json() {
        let node = |id, group_id| Node {
            id: NodeId(id),
            group_id,
            host: "10.0.0.1".into(),
            port: 5432,
            is_active: true,
            should_have_shards: group_id != 0,
            timeline: None,
            standbys: Vec::new(),
        };
        let group =
            ShardGroup { id: ShardGroupId(102_008), min: i32::MIN, max: i32::MAX, node: NodeId(2), tenant: None };
        let colocation = ColocationGroup::new(ColocationId(1), None, vec![group]);
        let parts = ShardMapParts {
            nodes: vec![node(1, 0), node(2, 1)],
            colocations: vec![colocation],
            ..ShardMapParts::default()
        };
        let map = ShardMap::new(7, parts);
        assert_eq!(nodes(&map)["nodes"][1]["shard_groups"], 1);
        assert_eq!(nodes(&map)["nodes"][0]["should_have_shards"], false);
        assert_eq!(shards(&map)["colocations"][0]["shard_groups"][0]["id"], 102_008);
        assert_eq!(shards(&map)["map_version"], 7);
    }
}
