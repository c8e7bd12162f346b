//! Rows of `tenantry.shard_group` and `tenantry.shard`, as statements for a client's transaction.

use super::quote::{literal, qualified, shard_schema};
use crate::shard_map::{ColocationId, NodeId, ShardGroup, ShardGroupId, ShardId, ShardMap, TableOid};

/// Answers `count` rows: fresh ids.
pub fn next_ids(count: usize) -> String {
    format!("SELECT pg_catalog.nextval('tenantry.shard_id') FROM pg_catalog.generate_series(1, {count})")
}

/// `groups` must not be empty.
pub fn insert_groups(colocation: ColocationId, groups: &[ShardGroup]) -> String {
    let rows = groups.iter().map(|g| format!("({}, {colocation}, {}, {}, {})", g.id, g.min, g.max, g.node));
    format!(
        "INSERT INTO tenantry.shard_group (id, colocationid, minvalue, maxvalue, nodeid) VALUES {}",
        rows.collect::<Vec<_>>().join(", ")
    )
}

/// A table's shards with the groups they belong to; none for a reference table's only one. Must not be empty.
pub fn insert_shards(table: TableOid, shards: &[(ShardId, Option<ShardGroupId>)]) -> String {
    let rows = shards.iter().map(|(shard, group)| {
        format!("({shard}, {table}, {})", group.map_or("NULL".to_owned(), |group| group.to_string()))
    });
    format!(
        "INSERT INTO tenantry.shard (shardid, logicalrelid, shard_group_id) VALUES {}",
        rows.collect::<Vec<_>>().join(", ")
    )
}

/// The one statement that makes a moved shard group's new home true.
pub fn place_group(group: ShardGroupId, node: NodeId) -> String {
    format!("UPDATE tenantry.shard_group SET nodeid = {node} WHERE id = {group}")
}

/// What a size counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Main fork only: `pg_relation_size`.
    Relation,
    /// With TOAST and maps, without indexes: `pg_table_size`.
    Table,
    /// Everything: `pg_total_relation_size`.
    Total,
}

/// Answers `shardid, size` for the shards and reference copies that stand on `node`; only those of `table` if given, and
/// then with its partitions, which are tables of their own otherwise. None when there are none. A shard that has just
/// moved away is left out.
pub fn sizes(map: &ShardMap, node: NodeId, table: Option<TableOid>, measure: Measure) -> Option<String> {
    let function = match measure {
        Measure::Relation => "pg_relation_size",
        Measure::Table => "pg_table_size",
        Measure::Total => "pg_total_relation_size",
    };
    let mut rows = Vec::new();
    for managed in map.tables().filter(|t| table.is_none_or(|oid| oid == t.oid)) {
        if managed.is_reference() {
            let name = qualified(&managed.schema, &managed.name);
            rows.extend(managed.shards.first().map(|shard| format!("({shard}, {})", literal(&name))));
            continue;
        }
        let Some(colocation) = map.colocation(managed.colocation) else { continue };
        for (shard, group) in managed.shards.iter().zip(&colocation.shard_groups).filter(|(_, g)| g.node == node) {
            let name = qualified(&shard_schema(&managed.schema, group.id), &managed.name);
            rows.push(format!("({shard}, {})", literal(&name)));
        }
    }
    let partitions = match table {
        Some(_) => format!(
            " + coalesce((SELECT sum(pg_catalog.{function}(p.relid)) \
             FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(v.name)) p WHERE p.level > 0), 0)::pg_catalog.int8"
        ),
        None => String::new(),
    };
    (!rows.is_empty()).then(|| {
        format!(
            "SELECT v.shardid, pg_catalog.{function}(pg_catalog.to_regclass(v.name)){partitions} \
             FROM (VALUES {}) v (shardid, name) WHERE pg_catalog.to_regclass(v.name) IS NOT NULL",
            rows.join(", ")
        )
    })
}
