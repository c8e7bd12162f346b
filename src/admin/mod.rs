//! What operators ask over HTTP: metrics, health, and the cluster as JSON and as a page.
//!
//! ```text
//!   GET /             a page for people (dashboard.rs)
//!       /metrics      Prometheus text
//!       /healthz      200 while the process answers
//!       /readyz       200 when the coordinator answers too, else 503 and why
//!       /api/nodes    the shard map's nodes
//!       /api/shards   its shard groups with their tables
//!       /api/cluster  its size, which can be changed here too (cluster.rs)
//! ```
//!
//! Nothing of tenants is shown. Looking needs no login: keep it on a trusted address.

mod cluster;
mod dashboard;
mod exposition;
mod http;
pub mod metrics;

pub use exposition::{Exposition, Labels};
pub use http::{State, Tell, serve};
