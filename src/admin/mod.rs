//! What operators ask over HTTP: metrics, health, and the cluster as JSON.
//!
//! ```text
//!   GET /metrics      Prometheus text
//!       /healthz      200 while the process answers
//!       /readyz       200 when the coordinator answers too, else 503 and why
//!       /api/nodes    the shard map's nodes
//!       /api/shards   its shard groups with their tables
//!       /api/cluster  its size, which can be changed here too (cluster.rs)
//! ```
//!
//! Nothing of tenants is shown. Looking needs no login: keep it on a trusted address.

mod cluster;
mod http;
pub mod metrics;
mod pools;

pub use http::{State, serve};
