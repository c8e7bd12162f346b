//! A page for people: what the JSON pages tell, in tables. It has no login and can change nothing.
//!
//! It takes nothing from elsewhere and lets nothing of its own be framed or scripted from elsewhere.

use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::IntoResponse;
use axum::routing::get;

use super::http::State;

pub fn pages() -> Router<State> {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", include_str!("dashboard/page.html"))))
        .route("/dashboard.css", get(async || file("text/css; charset=utf-8", include_str!("dashboard/page.css"))))
        .route("/dashboard.js", get(async || file("text/javascript; charset=utf-8", include_str!("dashboard/page.js"))))
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, POLICY), (X_CONTENT_TYPE_OPTIONS, "nosniff")], text)
}

const POLICY: &str =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'";
