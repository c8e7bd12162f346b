//! What changes the cluster.

pub mod mover;
pub mod rebalance;
