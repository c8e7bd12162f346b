//! Ids as types, so that a shard cannot be passed where a node is meant.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A Postgres server: `pg_dist_node.nodeid`. The coordinator is `NodeId::COORDINATOR`, whatever its row says.
    NodeId(u32)
);
id!(
    /// A set of tables whose shards are cut alike and live together: `pg_dist_partition.colocationid`.
    ColocationId(u32)
);
id!(
    /// One interval of a colocation group, or one isolated tenant: the unit that moves. Its schemas are `<schema>_<id>`.
    ShardGroupId(u64)
);
id!(
    /// One table's part of a shard group: `pg_dist_shard.shardid`.
    ShardId(u64)
);
id!(
    /// The oid of a table's shell on the coordinator.
    TableOid(u32)
);

impl NodeId {
    /// The coordinator Postgres: catalog, local tables, shells, and a copy of every reference table.
    pub const COORDINATOR: NodeId = NodeId(0);

    pub fn is_coordinator(self) -> bool {
        self == Self::COORDINATOR
    }
}
