//! What changes the cluster. Each operation runs inside the client's own transaction, on coordinator and workers alike,
//! and commits with everything else that the transaction did.

pub mod create_distributed_table;
pub mod ddl;
pub mod nodes;
pub mod reference_table;
pub mod sizes;
pub mod table_checks;
pub mod table_definition;

mod node_objects;
