//! What changes the cluster. Most operations run inside the client's own transaction, on coordinator and workers alike,
//! and commit with everything else that the transaction did; moves and rebalances commit as they go.

pub mod cluster_size;
mod collation_versions;
mod control_role;
pub mod create_distributed_table;
pub mod ddl;
mod disk;
mod missing_types;
pub mod mover;
mod named_objects;
mod node_check;
mod node_definitions;
mod node_fence;
mod node_objects;
pub mod node_pause;
pub mod node_state;
pub mod nodes;
pub mod partitions;
pub mod rebalance;
mod reference_copies;
pub mod reference_table;
pub mod run_command;
pub mod schema_privileges;
pub mod sequences;
mod shard_schemas;
pub mod standbys;
pub mod table_checks;
pub mod table_definition;
pub mod time_partitions;
pub mod triggers;
pub mod undistribute_table;
mod waiting_keys;

pub use node_fence::take_out_of_use;
