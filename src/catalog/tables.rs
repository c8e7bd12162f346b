//! Rows of `tenantry.colocation` and `tenantry.distributed_table`, as statements for a client's transaction.

use crate::shard_map::{ColocationId, TableOid};

/// Answers one row: the new `colocationid`. Reference tables: type and collation 0, count 1.
pub fn insert_colocation(shard_count: u32, type_oid: u32, collation_oid: u32) -> String {
    let replication_factor = if type_oid == 0 { -1 } else { 1 };
    format!(
        "INSERT INTO tenantry.colocation (shardcount, replicationfactor, distributioncolumntype, \
         distributioncolumncollation) VALUES ({shard_count}, {replication_factor}, {type_oid}, {collation_oid}) \
         RETURNING colocationid"
    )
}

/// Answers `colocationid` of the group that tables of this key belong to by default: the oldest that matches.
pub fn find_colocation(shard_count: u32, type_oid: u32, collation_oid: u32) -> String {
    format!(
        "SELECT colocationid FROM tenantry.colocation WHERE shardcount = {shard_count} \
         AND distributioncolumntype = {type_oid} AND distributioncolumncollation = {collation_oid} \
         ORDER BY colocationid LIMIT 1"
    )
}

/// Answers `shardcount, distributioncolumntype, distributioncolumncollation`.
pub fn colocation(id: ColocationId) -> String {
    format!(
        "SELECT shardcount, distributioncolumntype::pg_catalog.int8, distributioncolumncollation::pg_catalog.int8 \
         FROM tenantry.colocation WHERE colocationid = {id}"
    )
}

/// Who makes or drops tables waits for others who do, so that two cannot make the same colocation group twice.
pub fn lock() -> &'static str {
    "LOCK TABLE tenantry.colocation IN SHARE ROW EXCLUSIVE MODE"
}

pub fn insert_distributed(table: TableOid, attnum: i16, colocation: ColocationId) -> String {
    format!(
        "INSERT INTO tenantry.distributed_table (logicalrelid, partmethod, partkey, colocationid) \
         VALUES ({table}, 'h', {attnum}, {colocation})"
    )
}

pub fn insert_reference(table: TableOid, colocation: ColocationId) -> String {
    format!(
        "INSERT INTO tenantry.distributed_table (logicalrelid, partmethod, colocationid) \
         VALUES ({table}, 'n', {colocation})"
    )
}

/// Its shards' rows go with it.
pub fn delete(table: TableOid) -> String {
    format!("DELETE FROM tenantry.distributed_table WHERE logicalrelid = {table}")
}

/// Removes a colocation group that no table is in any more.
pub fn delete_empty_colocation(id: ColocationId) -> String {
    let empty = format!(
        "NOT EXISTS (SELECT FROM tenantry.distributed_table t JOIN pg_catalog.pg_class c ON c.oid = t.logicalrelid \
         WHERE t.colocationid = {id})"
    );
    format!(
        "DELETE FROM tenantry.shard_group WHERE colocationid = {id} AND {empty}; \
         DELETE FROM tenantry.colocation WHERE colocationid = {id} AND {empty}"
    )
}

/// Answers the oids of distributed tables with triggers of their users.
pub fn with_triggers() -> &'static str {
    "SELECT DISTINCT t.logicalrelid::pg_catalog.int8 FROM tenantry.distributed_table t \
     JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.logicalrelid \
     WHERE t.partmethod = 'h' AND NOT g.tgisinternal AND g.tgname <> 'tenantry_shell' ORDER BY 1"
}
