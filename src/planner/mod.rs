//! Decides what a statement becomes. Pure: a statement, the shard map and the session's names in, a `Plan` out.

mod plan;

pub use plan::*;
