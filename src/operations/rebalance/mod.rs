//! Which shard groups to move so that the nodes carry alike.
//!
//! ```text
//!   ShardMap + Costs + Options ──plan──> [ShardMove, ...] ──run──> mover, one after the other
//!        ▲ call: arguments of the SQL functions
//! ```

pub mod call;
mod plan;
mod run;

#[cfg(test)]
mod tests;

pub use plan::{Costs, Options, RebalanceStrategy, ShardMove, plan};
pub use run::{costs, rebalance};
