//! The cluster's size over HTTP: what `tenantry cluster` does, for scripts.
//!
//! ```text
//!   GET  /api/cluster                         workers, and the newest requests with their states
//!   POST /api/cluster  {"workers": 4}         202 and {"id": 7}: `GET` shows how it goes
//!        /api/cluster/{pause,resume,cancel}   the request that is carried out, or the next one; with {"request": 7} that one
//! ```
//!
//! Changes need the bearer token of `admin.token`; without that setting nobody may change anything.

use axum::Router;
use axum::extract::{Path, State as Extract};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Json;
use axum::routing::{get, post};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::http::State;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::operations::cluster_size::{DETAIL, request_workers};
use crate::shard_map::NodeId;

type Answer = (StatusCode, Json<Value>);

pub fn pages() -> Router<State> {
    Router::new().route("/api/cluster", get(show).post(edit)).route("/api/cluster/{wish}", post(wish))
}

async fn show(Extract(state): Extract<State>) -> Answer {
    answer(StatusCode::OK, ask(&state, &show_all()).await)
}

async fn edit(Extract(state): Extract<State>, headers: HeaderMap, body: String) -> Answer {
    if let Err(refusal) = authorize(&state, &headers) {
        return refusal;
    }
    let workers = serde_json::from_str::<Value>(&body).ok().and_then(|body| body["workers"].as_u64());
    let Some(workers) = workers.and_then(|workers| u16::try_from(workers).ok()).filter(|workers| *workers > 0) else {
        let text = r#"the body must be {"workers": N}, and a cluster has at least one worker"#;
        return answer(StatusCode::OK, Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, text)));
    };
    let asked =
        format!("WITH asked AS ({}) SELECT json_build_object('id', id)::text FROM asked", request_workers(workers));
    answer(StatusCode::ACCEPTED, ask(&state, &asked).await)
}

async fn wish(Extract(state): Extract<State>, Path(wish): Path<String>, headers: HeaderMap, body: String) -> Answer {
    if let Err(refusal) = authorize(&state, &headers) {
        return refusal;
    }
    let wish = match wish.as_str() {
        "pause" | "cancel" => wish.as_str(),
        "resume" => "run",
        _ => return (StatusCode::NOT_FOUND, Json(json!({ "error": "pause, resume and cancel are known" }))),
    };
    let number = serde_json::from_str::<Value>(&body).ok().and_then(|body| body["request"].as_i64());
    if number.is_none() && !body.trim().is_empty() {
        let text = r#"the body must be empty or {"request": N}"#;
        return answer(StatusCode::OK, Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, text)));
    }
    let number = number.map_or("NULL".to_owned(), |number| number.to_string());
    let sql = format!("SELECT json_build_object('id', tenantry.wish_of_cluster_request('{wish}', {number}))::text");
    answer(StatusCode::ACCEPTED, ask(&state, &sql).await)
}

fn authorize(state: &State, headers: &HeaderMap) -> std::result::Result<(), Answer> {
    let refuse = |status, why: &str| Err((status, Json(json!({ "error": why }))));
    let Some(token) = &state.token else {
        return refuse(StatusCode::FORBIDDEN, "nothing can be changed over HTTP: admin.token is not set");
    };
    let shown = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).and_then(|v| v.strip_prefix(b"Bearer "));
    match shown {
        Some(shown) if bool::from(shown.ct_eq(token.as_bytes())) => Ok(()),
        _ => refuse(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong"),
    }
}

/// The JSON document that `sql` selects on the coordinator.
async fn ask(state: &State, sql: &str) -> Result<Value> {
    let client = state.catalog.client(NodeId::COORDINATOR).await?;
    let row = client.query_one(sql, &[]).await.map_err(pg_error)?;
    serde_json::from_str(row.get(0)).map_err(|error| PgError::new(SqlState::INTERNAL_ERROR, error.to_string()))
}

fn answer(status: StatusCode, asked: Result<Value>) -> Answer {
    match asked {
        Ok(document) => (status, Json(document)),
        Err(error) => {
            let status = match error.code() {
                SqlState::INVALID_PARAMETER_VALUE => StatusCode::BAD_REQUEST,
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => StatusCode::CONFLICT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, Json(json!({ "error": error.message(), "sqlstate": error.code().to_string() })))
        }
    }
}

fn show_all() -> String {
    format!(
        "SELECT json_build_object(
            'workers', (SELECT count(*) FROM tenantry.node WHERE groupid <> 0 AND noderole = 'primary'),
            'requests', (SELECT coalesce(json_agg(q ORDER BY id DESC), '[]') FROM (
                SELECT id, workers, state, {DETAIL} AS detail, ready, wanted, created_at, started_at, finished_at
                FROM tenantry.cluster_request r ORDER BY id DESC LIMIT 20) q))::text"
    )
}
