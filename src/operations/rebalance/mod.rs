//! Which shard groups to move so that the nodes carry alike.
//!
//!   ShardMap + Costs + Options ──plan──> [ShardMove, ...] ──mover──> done one by one

mod plan;

pub use plan::{Costs, Options, RebalanceStrategy, ShardMove, plan};
