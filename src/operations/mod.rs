//! What changes the cluster.

pub mod cluster_size;
