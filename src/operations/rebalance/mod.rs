//! Which shard groups to move so that the nodes carry alike.
//!
//! ```text
//!   strategy: Weights ─┐
//!   ShardMap + Options ┴─plan──> [ShardMove, ...] ──run──> mover, several side by side
//!        ▲ call: arguments of the SQL functions      └──job──> tasks in the catalog, then as run does
//! ```

pub mod call;
pub mod job;
mod left;
mod plan;
mod positions;
pub mod preview;
pub mod progress;
mod run;
mod sizes;
mod strategy;

#[cfg(test)]
mod tests;

pub use plan::{Bytes, Options, ShardMove, Weights, plan};
