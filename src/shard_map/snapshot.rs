//! The immutable snapshot that every session reads.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::HashMap;

use super::defaults::{SessionDefault, defaults_of};
use super::hash::Value;
use super::{ColocationId, HashType, Node, NodeId, ShardGroupId, ShardId, Table, TableOid};

/// All that routing needs to know, at one moment.
#[derive(Debug, Clone, Default)]
pub struct ShardMap {
    version: u64,
    nodes: Vec<Node>,
    node_positions: HashMap<NodeId, usize>,
    tables: HashMap<String, Vec<Arc<Table>>>,
    by_oid: HashMap<TableOid, Arc<Table>>,
    colocations: HashMap<ColocationId, Arc<ColocationGroup>>,
    group_of_shard: HashMap<ShardId, (ColocationId, ShardGroupId)>,
    last_group: Option<ShardGroupId>,
    shadows: HashSet<(String, String)>,
    opaque: OpaqueCode,
    drawn_sequences: HashSet<String>,
    role_settings: Arc<str>,
    defaults: Vec<SessionDefault>,
    columns: u64,
}

/// Functions of the database's own that may change a session's state, as far as their bodies tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpaqueCode {
    /// By name, in whatever schema.
    pub functions: HashSet<String>,
    /// A trigger, a view, a policy or a default calls one: any statement may.
    pub is_everywhere: bool,
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
    pub opaque: OpaqueCode,
    /// Those that shards draw from, by name, in whatever schema.
    pub drawn_sequences: HashSet<String>,
    /// A fingerprint of what ALTER ROLE and ALTER DATABASE have SET: connections logged in before a change have it not.
    pub role_settings: Arc<str>,
    /// What of it sessions may SET themselves.
    pub defaults: Vec<SessionDefault>,
}

/// The shard groups of tables that are cut alike: intervals, and tenants that have a group of their own.
///
/// ```text
///   value ──hash──> is there a tenant of this hash that equals it? ──yes──> its own shard group
///                                                      └──no──> the interval that holds the hash
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColocationGroup {
    pub id: ColocationId,
    /// Intervals in their order, then isolated tenants by id. Empty for the colocation group of reference tables.
    pub shard_groups: Vec<ShardGroup>,
    /// Type of the distribution columns; none for reference tables.
    pub hash: Option<HashType>,
    /// How many of the shard groups are intervals.
    intervals: usize,
    position: HashMap<ShardGroupId, usize>,
    /// Positions of isolated tenants by hash; two tenants may share one.
    tenants: HashMap<i32, Vec<usize>>,
}

/// What moves as one: the rows of one interval `[min, max]` of hashes, both inclusive, or of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardGroup {
    pub id: ShardGroupId,
    /// Of an isolated tenant both are its hash.
    pub min: i32,
    pub max: i32,
    pub node: NodeId,
    /// An isolated tenant; its hash is also in some interval, which it comes before.
    pub tenant: Option<Tenant>,
}

/// A tenant with a shard group of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// `hash::Value::key` of the value.
    pub key: Vec<u8>,
    /// The value as Postgres prints it (ISO dates, UTC).
    pub text: String,
}

impl ColocationGroup {
    /// Brings the groups into order.
    pub fn new(id: ColocationId, hash: Option<HashType>, mut shard_groups: Vec<ShardGroup>) -> Self {
        shard_groups.sort_by_key(|g| (g.tenant.is_some(), if g.tenant.is_some() { 0 } else { g.min }, g.id));
        let intervals = shard_groups.partition_point(|g| g.tenant.is_none());
        let position = shard_groups.iter().enumerate().map(|(at, g)| (g.id, at)).collect();
        let mut tenants: HashMap<i32, Vec<usize>> = HashMap::default();
        for (at, group) in shard_groups.iter().enumerate().skip(intervals) {
            tenants.entry(group.min).or_default().push(at);
        }
        Self { id, shard_groups, hash, intervals, position, tenants }
    }

    /// The shard group that holds the rows with this distribution value.
    pub fn group_of(&self, value: &Value<'_>) -> Option<&ShardGroup> {
        let hash = value.hash();
        if !self.tenants.is_empty()
            && let Some(group) = self.tenant_group(hash, value)
        {
            return Some(group);
        }
        self.interval_of(hash)
    }

    /// The shard group of its own that a tenant has.
    pub fn own_group_of(&self, value: &Value<'_>) -> Option<&ShardGroup> {
        self.tenant_group(value.hash(), value)
    }

    fn tenant_group(&self, hash: i32, value: &Value<'_>) -> Option<&ShardGroup> {
        let positions = self.tenants.get(&hash)?;
        let key = value.key();
        let is_it = |group: &&ShardGroup| group.tenant.as_ref().is_some_and(|tenant| tenant.key == key);
        positions.iter().map(|at| &self.shard_groups[*at]).find(is_it)
    }

    /// The shard group whose interval holds `hash`: that of all values of this hash but isolated tenants.
    pub fn interval_of(&self, hash: i32) -> Option<&ShardGroup> {
        let intervals = self.intervals();
        let after = intervals.partition_point(|g| g.min <= hash);
        intervals[..after].last().filter(|g| hash <= g.max)
    }

    /// Where rows of shard group `id` are once the colocation group has become `now`: itself, or what took its place.
    /// The answers for all groups together have each new group once.
    pub fn successors(&self, id: ShardGroupId, now: &ColocationGroup) -> Vec<ShardGroupId> {
        if now.group(id).is_some() {
            return vec![id];
        }
        let Some(gone) = self.group(id) else { return Vec::new() };
        let had =
            |tenant: &Tenant| self.isolated().iter().any(|g| g.tenant.as_ref().is_some_and(|t| t.key == tenant.key));
        let takes_over = |group: &&ShardGroup| match (&gone.tenant, &group.tenant) {
            _ if self.group(group.id).is_some() => false,
            (None, None) => (gone.min..=gone.max).contains(&group.min),
            (None, Some(tenant)) => (gone.min..=gone.max).contains(&group.min) && !had(tenant),
            (Some(tenant), Some(other)) => tenant.key == other.key,
            // Its rows went back to the interval, which is new too.
            (Some(_), None) => false,
        };
        now.shard_groups.iter().filter(takes_over).map(|g| g.id).collect()
    }

    /// Shard groups that are intervals.
    pub fn intervals(&self) -> &[ShardGroup] {
        &self.shard_groups[..self.intervals]
    }

    /// Shard groups of isolated tenants.
    pub fn isolated(&self) -> &[ShardGroup] {
        &self.shard_groups[self.intervals..]
    }

    pub fn group(&self, id: ShardGroupId) -> Option<&ShardGroup> {
        self.position.get(&id).map(|at| &self.shard_groups[*at])
    }
}

impl ShardMap {
    /// Builds the look-up tables. `version` grows with every snapshot a process makes.
    pub fn new(version: u64, parts: ShardMapParts) -> Self {
        let mut map = ShardMap {
            version,
            nodes: parts.nodes,
            opaque: parts.opaque,
            drawn_sequences: parts.drawn_sequences,
            ..ShardMap::default()
        };
        map.node_positions = map.nodes.iter().enumerate().map(|(at, node)| (node.id, at)).collect();
        map.role_settings = parts.role_settings;
        map.defaults = parts.defaults;
        map.shadows.extend(parts.shadows);
        for colocation in parts.colocations {
            map.last_group = map.last_group.max(colocation.shard_groups.iter().map(|g| g.id).max());
            map.colocations.insert(colocation.id, Arc::new(colocation));
        }
        map.columns = fingerprint_of_columns(&parts.tables);
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

    /// See `ShardMapParts`.
    pub fn role_settings(&self) -> &Arc<str> {
        &self.role_settings
    }

    /// What sessions of this user in this database begin with, by name.
    pub fn defaults_of(&self, user: &str, database: &str) -> BTreeMap<&str, &SessionDefault> {
        defaults_of(&self.defaults, user, database)
    }

    /// A fingerprint of the managed tables' names, columns and types: while it stays, a statement's parameters have the
    /// types that they had, as far as these tables decide them.
    pub fn columns(&self) -> u64 {
        self.columns
    }

    /// Names of the sequences that shards draw from.
    pub fn drawn_sequences(&self) -> &HashSet<String> {
        &self.drawn_sequences
    }

    pub fn opaque_code(&self) -> &OpaqueCode {
        &self.opaque
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
        self.node_positions.get(&id).map(|at| &self.nodes[*at])
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

    /// Is there such a shard group, or may there have been one? Ids are never given out twice.
    pub fn may_have_had_group(&self, id: ShardGroupId) -> bool {
        let is_given_out = id.0 >= FIRST_GROUP && self.last_group.is_some_and(|last| id <= last);
        is_given_out || self.colocations.values().any(|c| c.group(id).is_some())
    }

    /// The shard group that a table's shard belongs to.
    pub fn group_of_shard(&self, shard: ShardId) -> Option<(ColocationId, ShardGroupId)> {
        self.group_of_shard.get(&shard).copied()
    }
}

/// Where the catalog's sequence of shard group ids starts.
const FIRST_GROUP: u64 = 102_008;

/// See `ShardMap::columns`.
fn fingerprint_of_columns(tables: &[Table]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for table in tables {
        (table.oid.0, &table.schema, &table.name).hash(&mut hasher);
        table.columns.iter().for_each(|column| (&column.name, column.type_oid).hash(&mut hasher));
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_map::TableKind;

    fn group(id: u64, min: i32, max: i32) -> ShardGroup {
        ShardGroup { id: ShardGroupId(id), min, max, node: NodeId(1), tenant: None }
    }

    #[test]
    fn both_ends_of_an_interval_belong_to_it() {
        let groups = vec![group(2, 0, i32::MAX), group(1, i32::MIN, -1)];
        let colocation = ColocationGroup::new(ColocationId(1), Some(HashType::Int4), groups);
        for (hash, want) in [(i32::MIN, 1), (-1, 1), (0, 2), (i32::MAX, 2)] {
            assert_eq!(colocation.interval_of(hash).unwrap().id, ShardGroupId(want));
        }
    }

    #[test]
    fn an_isolated_tenant_comes_before_its_interval_and_takes_no_other_value_of_its_hash_along() {
        let isolated = |id, value: &Value<'_>, text: &str| ShardGroup {
            tenant: Some(Tenant { key: value.key(), text: text.into() }),
            ..group(id, value.hash(), value.hash())
        };
        let read = |text| HashType::Int8.read_text(text).unwrap();
        // hashint8 folds the upper half into the lower one: these have one hash.
        let (one, other) = (read("1"), read("4294967296"));
        assert_eq!(one.hash(), other.hash());
        let mut groups = vec![isolated(7, &one, "1"), group(2, 0, i32::MAX), group(1, i32::MIN, -1)];
        let alone = ColocationGroup::new(ColocationId(1), Some(HashType::Int8), groups.clone());
        assert_eq!(alone.group_of(&one).unwrap().id, ShardGroupId(7));
        assert_eq!(alone.group_of(&other).unwrap().id, alone.interval_of(other.hash()).unwrap().id);
        assert_eq!((alone.intervals().len(), alone.isolated().len()), (2, 1));
        groups.push(isolated(6, &other, "4294967296"));
        let both = ColocationGroup::new(ColocationId(1), Some(HashType::Int8), groups);
        assert_eq!(both.group_of(&one).unwrap().id, ShardGroupId(7));
        assert_eq!(both.group_of(&other).unwrap().id, ShardGroupId(6));
        assert_eq!(both.group(ShardGroupId(6)).unwrap().min, other.hash());
    }

    #[test]
    fn rows_of_groups_that_are_gone_are_in_the_groups_that_came() {
        let tenant = |id, hash: i32| ShardGroup {
            tenant: Some(Tenant { key: vec![hash as u8], text: hash.to_string() }),
            ..group(id, hash, hash)
        };
        let colocation = |groups| ColocationGroup::new(ColocationId(1), Some(HashType::Int4), groups);
        let ids = |ids: &[u64]| ids.iter().map(|id| ShardGroupId(*id)).collect::<Vec<_>>();
        let whole = colocation(vec![group(1, 0, 9), group(2, 10, 19), tenant(3, 15)]);
        let split = colocation(vec![group(4, 0, 4), group(5, 5, 9), tenant(6, 7), group(2, 10, 19), tenant(3, 15)]);
        assert_eq!(whole.successors(ShardGroupId(1), &split), ids(&[4, 5, 6]));
        assert_eq!(whole.successors(ShardGroupId(2), &split), ids(&[2]));
        let back = colocation(vec![group(1, 0, 9), group(7, 10, 19)]);
        assert_eq!(whole.successors(ShardGroupId(2), &back), ids(&[7]));
        assert_eq!(whole.successors(ShardGroupId(3), &back), ids(&[]));
        let fewer = colocation(vec![group(8, 0, 19), tenant(9, 15)]);
        let all: Vec<_> = [1, 2, 3].into_iter().flat_map(|id| whole.successors(ShardGroupId(id), &fewer)).collect();
        assert_eq!(all, ids(&[8, 9]));
    }

    #[test]
    fn values_that_postgres_calls_equal_are_one_tenant() {
        for (hash, equal, different) in [
            (HashType::Numeric, ["1", "1.00"], "-1"),
            (HashType::Numeric, ["0", "-0.0"], "0.1"),
            (HashType::Bpchar, ["a", "a  "], "b"),
            (HashType::Text, ["a", "a"], "a "),
            (HashType::Float8, ["0", "-0"], "1"),
            (HashType::Float8, ["NaN", "nan"], "inf"),
            (HashType::Timestamptz, ["2024-01-01 00:00:00+00", "2024-01-01 02:00:00+02"], "2024-01-01 00:00:00+01"),
            (
                HashType::Uuid,
                ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"],
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12",
            ),
        ] {
            let key = |text: &str| hash.read_text(text).map(|value| value.key()).unwrap();
            assert_eq!(key(equal[0]), key(equal[1]), "{equal:?}");
            assert_ne!(key(equal[0]), key(different), "{different}");
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
            unique_keys: Vec::new(),
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
