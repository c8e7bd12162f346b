//! Partitioned tables: the parent and everything below it stand in each shard schema as they stand on the coordinator.
//!
//! ```text
//!   public:         events ── events_2024, events_2025        shells, all in the catalog, all of one colocation group
//!   public_102008:  events ── events_2024, events_2025        the server routes and prunes
//! ```
//!
//! Each is a managed table of its own, so that a statement may name any of them.

use serde::Deserialize;

use super::create_distributed_table::{Request, create_distributed_table, next_ids, number, seal_shell};
use super::sequences;
use super::table_checks::{self, Intent};
use super::table_definition::{Stages, TableDefinition};
use crate::catalog::quote::{identifier, literal, qualified};
use crate::catalog::{shards, tables};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::planner::QualifiedName;
use crate::shard_map::{ColocationId, NodeId, ShardGroupId, ShardId, ShardMap, Table, TableOid};

/// A table and all its partitions, parents first; of an ordinary table, itself.
#[derive(Debug, Clone)]
pub struct Family {
    members: Vec<Member>,
}

#[derive(Debug, Clone, Deserialize)]
struct Member {
    definition: TableDefinition,
    /// None for the first.
    parent: Option<u32>,
    /// How it is cut itself.
    partition_key: Option<String>,
    /// `FOR VALUES ...` or `DEFAULT`.
    bound: Option<String>,
}

impl Family {
    /// As the transaction sees it. Errors: 42P01 when there is no such table.
    pub async fn read(txn: &mut Transaction, oid: TableOid) -> Result<Self> {
        let rows = txn.query(NodeId::COORDINATOR, &Self::statement(oid)).await?;
        Self::parse(oid, rows.first().and_then(|row| row.first()?.as_deref()))
    }

    /// Answers one row with one text for `parse`. Works on any connection to the coordinator.
    pub fn statement(oid: TableOid) -> String {
        format!("SELECT tenantry.table_family({oid})::pg_catalog.text")
    }

    /// Errors: 42P01 when there was no such table.
    pub fn parse(oid: TableOid, json: Option<&str>) -> Result<Self> {
        let Some(json) = json else {
            return Err(PgError::new(SqlState::UNDEFINED_TABLE, format!("relation with OID {oid} does not exist")));
        };
        let mut members: Vec<Member> = serde_json::from_str(json)
            .map_err(|e| PgError::new(SqlState::INTERNAL_ERROR, format!("could not read a table's definition: {e}")))?;
        let oids: Vec<u32> = members.iter().map(|member| member.definition.oid).collect();
        for member in &mut members {
            if let Some(key) = &member.partition_key {
                member.definition.partition_by(key);
            }
            // A foreign key to the table itself is one between its partitions too.
            member.definition.referenced_by.retain(|oid| !oids.contains(oid));
        }
        Ok(Self { members })
    }

    /// The table that the others are partitions of.
    pub fn root(&self) -> &TableDefinition {
        &self.members[0].definition
    }

    /// Parents first.
    pub fn definitions(&self) -> impl DoubleEndedIterator<Item = &TableDefinition> {
        self.members.iter().map(|member| &member.definition)
    }

    pub fn oids(&self) -> Vec<u32> {
        self.definitions().map(|definition| definition.oid).collect()
    }

    /// As if the whole rows of these, quoted with their schemas, were not logged.
    pub fn forget_full_identity(&mut self, of: &[String]) {
        for member in &mut self.members {
            if of.contains(&qualified(&member.definition.schema, &member.definition.name)) {
                member.definition.forget_full_identity();
            }
        }
    }

    /// Can each of them stand in the shards? Checks that need no colocation group.
    pub fn check_kinds(&self) -> Result<()> {
        for definition in self.definitions() {
            table_checks::check_kind(definition)?;
            table_checks::check_functions(definition)?;
            check_schema(definition, &self.root().schema)?;
        }
        Ok(())
    }

    /// As `TableDefinition::for_shard`, of all together: the partitions are attached before rows come, and have their own
    /// keys and indexes before their parents get theirs, which then find them and take them for parts.
    pub fn for_shard(&self, map: &ShardMap, group: ShardGroupId) -> Result<Stages> {
        let each = self.definitions().map(|definition| definition.for_shard(map, group));
        let each: Vec<Stages> = each.collect::<Result<_>>()?;
        let text = |part: fn(&Stages) -> &str| each.iter().map(part).collect::<String>();
        let mut table = text(|stages| &stages.table);
        for member in &self.members {
            let parent = member.parent.and_then(|oid| self.definitions().find(|parent| parent.oid == oid));
            if let (Some(parent), Some(bound)) = (parent, &member.bound) {
                table.push_str(&member.definition.attach(parent, bound, group));
            }
        }
        Ok(Stages {
            table,
            keys_and_indexes: each.iter().rev().map(|stages| stages.keys_and_indexes.as_str()).collect(),
            foreign_keys: text(|stages| &stages.foreign_keys),
            rest: text(|stages| &stages.rest),
        })
    }
}

fn check_schema(partition: &TableDefinition, schema: &str) -> Result<()> {
    if partition.schema == schema {
        return Ok(());
    }
    Err(PgError::unsupported("partitions of a distributed table must be in its schema")
        .detail(format!("{} is not in schema \"{schema}\".", partition.printed))
        .hint("ALTER TABLE ... SET SCHEMA before the table is distributed or the partition attached."))
}

/// Refuses to distribute a partition without its parent.
pub fn refuse_partition_alone(definition: &TableDefinition) -> Result<()> {
    if !definition.is_partition {
        return Ok(());
    }
    Err(PgError::unsupported(format!("cannot distribute relation: {}", definition.name))
        .detail(format!("Relation \"{}\" is a partition.", definition.name))
        .hint("Distribute the partitioned table that it belongs to, or detach it first."))
}

/// Makes distributed tables of the partitions of `table` that are not yet: those that a statement has just made on the
/// coordinator. They are in no shard yet. Answers how many there are.
pub async fn adopt(txn: &mut Transaction, table: &Table) -> Result<usize> {
    txn.query(NodeId::COORDINATOR, tables::lock()).await?;
    let map = txn.reload_map().await?;
    let Some((column, colocation)) = table.distribution_column().zip(map.colocation(table.colocation)) else {
        return Ok(0);
    };
    let family = Family::read(txn, table.oid).await?;
    let new: Vec<_> = family.definitions().filter(|d| map.table_by_oid(d.oid()).is_none()).collect();
    sequences::prepare(txn, new.iter().copied(), &column.name).await?;
    for definition in &new {
        check_schema(definition, &table.schema)?;
        let intent = Intent::Distributed { column: &column.name, colocation: table.colocation };
        table_checks::check(definition, &map, intent)?;
        let ids = next_ids(txn, colocation.shard_groups.len()).await?;
        let groups: Vec<ShardGroupId> = colocation.shard_groups.iter().map(|group| group.id).collect();
        register(txn, definition, &column.name, table.colocation, &ids, &groups).await?;
        seal_shell(txn, definition).await?;
    }
    Ok(new.len())
}

/// Before a table is attached: a local one becomes distributed as its parent-to-be is, with its rows.
///
/// Errors: those of `create_distributed_table`.
pub async fn distribute_partition(txn: &mut Transaction, parent: &Table, name: &QualifiedName) -> Result<()> {
    let written = match &name.schema {
        Some(schema) => qualified(schema, &name.name),
        None => identifier(&name.name),
    };
    let sql = format!("SELECT pg_catalog.to_regclass({})::pg_catalog.oid::pg_catalog.int8", literal(&written));
    let Some(oid) = number(txn, &sql).await?.map(|oid| TableOid(oid as u32)) else { return Ok(()) };
    if txn.map().table_by_oid(oid).is_some() {
        return Ok(());
    }
    check_schema(&TableDefinition::read(txn, oid).await?, &parent.schema)?;
    let request = Request {
        table: oid,
        column: parent.distribution_column().map(|column| identifier(&column.name)),
        method: "hash".to_owned(),
        colocate_with: qualified(&parent.schema, &parent.name),
        shard_count: None,
        shard_count_default: 1,
    };
    Box::pin(create_distributed_table(txn, request)).await
}

/// Writes the rows of one distributed table into the catalog. `ids`: one for each shard group.
pub async fn register(
    txn: &mut Transaction,
    definition: &TableDefinition,
    column: &str,
    colocation: ColocationId,
    ids: &[u64],
    groups: &[ShardGroupId],
) -> Result<()> {
    let attnum = definition.column(column).map(|column| column.attnum).ok_or_else(|| {
        PgError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{column}\" of relation \"{}\" does not exist", definition.name),
        )
    })?;
    let rows: Vec<_> = ids.iter().map(|id| ShardId(*id)).zip(groups.iter().copied().map(Some)).collect();
    txn.query(NodeId::COORDINATOR, &tables::insert_distributed(definition.oid(), attnum, colocation)).await?;
    txn.query(NodeId::COORDINATOR, &shards::insert_shards(definition.oid(), &rows)).await.map(|_| ())
}
