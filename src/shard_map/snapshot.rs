//! The immutable snapshot that every session reads.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{ColocationId, HashType, Node, NodeId, ShardGroupId, ShardId, Table, TableOid};

/// All that routing needs to know, at one moment.
#[derive(Debug, Clone, Default)]
pub struct ShardMap {
    version: u64,
    nodes: Vec<Node>,
    tables: HashMap<String, Vec<Arc<Table>>>,
    by_oid: HashMap<TableOid, Arc<Table>>,
    colocations: HashMap<ColocationId, Arc<ColocationGroup>>,
    group_of_shard: HashMap<ShardId, (ColocationId, ShardGroupId)>,
    shadows: HashSet<(String, String)>,
}

/// What a `ShardMap` is built from, as `catalog` read it.
#[derive(Debug, Clone, Default)]
pub struct ShardMapParts {
    pub nodes: Vec<Node>,
    pub tables: Vec<Table>,
    pub colocations: Vec<ColocationGroup>,
    /// (schema, name) of unmanaged relations that share their name with a managed table:
    /// an unqualified name may mean them, depending on search_path.
    pub shadows: Vec<(String, String)>,
}

/// Shard groups in interval order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColocationGroup {
    pub id: ColocationId,
    /// Empty for the colocation group of reference tables.
    pub shard_groups: Vec<ShardGroup>,
    /// Type of the distribution columns; none for reference tables.
    pub hash: Option<HashType>,
}

/// One interval `[min, max]`, both inclusive, and the worker that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardGroup {
    pub id: ShardGroupId,
    pub min: i32,
    pub max: i32,
    pub node: NodeId,
}

impl ColocationGroup {
    /// The shard group whose interval holds `hash`.
    pub fn group_of_hash(&self, hash: i32) -> Option<&ShardGroup> {
        let after = self.shard_groups.partition_point(|g| g.min <= hash);
        self.shard_groups[..after].last().filter(|g| hash <= g.max)
    }

    pub fn group(&self, id: ShardGroupId) -> Option<&ShardGroup> {
        self.shard_groups.iter().find(|g| g.id == id)
    }
}

impl ShardMap {
    /// Builds the look-up tables. `version` grows with every snapshot a process makes.
    pub fn new(version: u64, parts: ShardMapParts) -> Self {
        let mut map = ShardMap { version, nodes: parts.nodes, ..ShardMap::default() };
        map.shadows.extend(parts.shadows);
        for mut colocation in parts.colocations {
            colocation.shard_groups.sort_by_key(|g| g.min);
            map.colocations.insert(colocation.id, Arc::new(colocation));
        }
        for table in parts.tables {
            let table = Arc::new(table);
            if let Some(colocation) = map.colocations.get(&table.colocation) {
                for (shard, group) in table.shards.iter().zip(&colocation.shard_groups) {
                    map.group_of_shard.insert(*shard, (colocation.id, group.id));
                }
            }
            map.by_oid.insert(table.oid, table.clone());
            map.tables.entry(table.name.clone()).or_default().push(table);
        }
        map
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every node, the coordinator included where it has a row.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Workers that take part: active, not the coordinator.
    pub fn active_workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.is_active && n.group_id != 0)
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == id)
    }

    /// The node at an address, as `pg_dist_node` spells it.
    pub fn node_at(&self, host: &str, port: u16) -> Option<&Node> {
        self.nodes.iter().find(|n| n.host == host && n.port == port)
    }

    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.by_oid.values()
    }

    pub fn table_by_oid(&self, oid: TableOid) -> Option<&Arc<Table>> {
        self.by_oid.get(&oid)
    }

    /// Is any managed table called `name` (folded, truncated), in whatever schema?
    pub fn has_table_named(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }

    /// The managed table `schema.name`.
    pub fn table(&self, schema: &str, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)?.iter().find(|t| t.schema == schema)
    }

    /// Resolves an unqualified name as Postgres does: the first schema of `search_path` that has the relation wins,
    /// even when what it has is a local table.
    pub fn resolve(&self, search_path: &[String], name: &str) -> Option<&Arc<Table>> {
        let named = self.tables.get(name)?;
        for schema in search_path {
            if let Some(table) = named.iter().find(|t| t.schema == *schema) {
                return Some(table);
            }
            if self.shadows.contains(&(schema.clone(), name.to_owned())) {
                return None;
            }
        }
        None
    }

    pub fn colocation(&self, id: ColocationId) -> Option<&Arc<ColocationGroup>> {
        self.colocations.get(&id)
    }

    pub fn colocations(&self) -> impl Iterator<Item = &Arc<ColocationGroup>> {
        self.colocations.values()
    }

    /// Tables of a colocation group, by oid, so that every proxy sees one order.
    pub fn tables_of(&self, id: ColocationId) -> Vec<Arc<Table>> {
        let mut tables: Vec<_> = self.by_oid.values().filter(|t| t.colocation == id).cloned().collect();
        tables.sort_by_key(|t| t.oid);
        tables
    }

    /// The shard group that a table's shard belongs to.
    pub fn group_of_shard(&self, shard: ShardId) -> Option<(ColocationId, ShardGroupId)> {
        self.group_of_shard.get(&shard).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_map::TableKind;

    fn group(id: u64, min: i32, max: i32) -> ShardGroup {
        ShardGroup { id: ShardGroupId(id), min, max, node: NodeId(1) }
    }

    #[test]
    fn both_ends_of_an_interval_belong_to_it() {
        let colocation = ColocationGroup {
            id: ColocationId(1),
            hash: Some(HashType::Int4),
            shard_groups: vec![group(1, i32::MIN, -1), group(2, 0, i32::MAX)],
        };
        for (hash, want) in [(i32::MIN, 1), (-1, 1), (0, 2), (i32::MAX, 2)] {
            assert_eq!(colocation.group_of_hash(hash).unwrap().id, ShardGroupId(want));
        }
    }

    #[test]
    fn a_local_table_earlier_in_the_search_path_hides_a_distributed_one() {
        let table = Table {
            oid: TableOid(1),
            schema: "public".into(),
            name: "orders".into(),
            kind: TableKind::Reference,
            colocation: ColocationId(1),
            columns: vec![],
            shards: vec![],
        };
        let map = ShardMap::new(
            1,
            ShardMapParts {
                tables: vec![table],
                shadows: vec![("mine".into(), "orders".into())],
                ..ShardMapParts::default()
            },
        );
        let path = |p: &[&str]| p.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert!(map.resolve(&path(&["mine", "public"]), "orders").is_none());
        assert!(map.resolve(&path(&["other", "public"]), "orders").is_some());
    }
}
