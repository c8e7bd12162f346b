//! Rows of `tenantry.shard_group` and `tenantry.shard`, as statements for a client's transaction.

use super::quote::{literal, shard_schema};
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

/// Answers, for the shards and reference copies that stand on `node`, bytes of everything, without indexes, and of the main
/// fork alone: `shardid, size, table_size, relation_size`. None when there are none. A shard that has just moved away is left
/// out. Any role may ask: tables are found in the system catalogs, which needs no privilege on their schemas.
pub fn sizes(map: &ShardMap, node: NodeId) -> Option<String> {
    let mut rows = Vec::new();
    let mut add = |shard: ShardId, schema: &str, name: &str| {
        rows.push(format!("({shard}, {}, {})", literal(schema), literal(name)));
    };
    for managed in map.tables() {
        if managed.is_reference() {
            managed.shards.first().into_iter().for_each(|shard| add(*shard, &managed.schema, &managed.name));
            continue;
        }
        let Some(colocation) = map.colocation(managed.colocation) else { continue };
        for (shard, group) in managed.shards.iter().zip(&colocation.shard_groups).filter(|(_, g)| g.node == node) {
            add(*shard, &shard_schema(&managed.schema, group.id), &managed.name);
        }
    }
    (!rows.is_empty()).then(|| {
        format!(
            "SELECT v.shardid, pg_catalog.pg_total_relation_size(c.oid), pg_catalog.pg_table_size(c.oid), \
             pg_catalog.pg_relation_size(c.oid) FROM (VALUES {}) v (shardid, nspname, relname) \
             JOIN pg_catalog.pg_namespace n ON n.nspname = v.nspname \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.relname",
            rows.join(", ")
        )
    })
}
