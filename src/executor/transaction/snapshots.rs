//! A snapshot that is older than a shard group's rows on a node does not see them.
//!
//! ```text
//!   client, REPEATABLE READ    BEGIN; reads tenant 1 on node b ──────────────────── reads tenant 7 on node b: no rows!
//!   a move                              copies tenant 7 from a to b ── flip ── done
//! ```
//!
//! Names are looked up as they are now, rows by the transaction's snapshot, so Postgres finds the shard's table and takes it
//! for empty. Every move makes or renames the schemas of the shard group, and marks them as its own until it is over: a
//! snapshot that sees the schemas without a mark sees the rows.

use super::Transaction;
use crate::catalog::quote::{literal, shard_schema};
use crate::error::Result;
use crate::shard_map::{NodeId, ShardGroupId};

impl Transaction {
    /// May it have a snapshot on the node from before the shard group came there? Only if the map has changed since the
    /// node joined.
    pub fn may_be_older(&self, node: NodeId, group: ShardGroupId) -> bool {
        let Some(participant) = self.participants.iter().find(|p| p.node == node) else { return false };
        participant.began
            && participant.statements > 0
            && !participant.groups.contains(&group)
            && participant.map_version != self.with_map(|map| map.version())
    }

    /// Asked where `may_be_older`, while the server has nothing to answer.
    ///
    /// Errors: 40001 when its snapshot does not see the shard group.
    pub async fn check_sees(&mut self, node: NodeId, group: ShardGroupId) -> Result<()> {
        let schemas = self.with_map(|map| {
            let colocation = map.colocations().find(|colocation| colocation.group(group).is_some())?.id;
            let mut schemas: Vec<_> = map.tables_of(colocation).iter().map(|t| t.schema.clone()).collect();
            schemas.sort();
            schemas.dedup();
            Some(schemas)
        });
        let schemas = schemas.unwrap_or_default();
        let names: Vec<_> = schemas.iter().map(|schema| literal(&shard_schema(schema, group))).collect();
        let sql = format!(
            "SELECT 1 WHERE pg_catalog.current_setting('transaction_isolation') LIKE 'read %' OR {} = ( \
             SELECT count(*) FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY (ARRAY[{}]::pg_catalog.text[]) \
             AND coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '') NOT LIKE 'tenantry move %')",
            names.len(),
            names.join(", ")
        );
        if self.query(node, &sql).await?.is_empty() {
            return Err(crate::executor::moved());
        }
        Ok(())
    }
}
