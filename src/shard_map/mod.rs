//! Who lives where: an immutable snapshot of nodes, tables and shard groups, and the hash that finds a tenant.
//!
//!   value ──hash──> i32 ──own group, or interval──> ShardGroup ──placement──> Node
//!
//! Pure: no clock, no socket. `catalog` builds a `ShardMap`; every session reads the newest one.

mod defaults;
mod ids;
mod node;
mod snapshot;
mod table;

pub mod hash;

pub use defaults::SessionDefault;
pub use hash::HashType;
pub use ids::{ColocationId, NodeId, ShardGroupId, ShardId, TableOid};
pub use node::{Node, Standby};
pub use snapshot::{ColocationGroup, OpaqueCode, ShardGroup, ShardMap, ShardMapParts, Tenant};
pub use table::{Column, Table, TableKind};
