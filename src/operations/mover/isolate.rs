//! `isolate_tenant_to_new_shard` and `tenantry_isolate_tenant`: a tenant gets a shard group of its own.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::part::Part;
use super::shard_count::has_colocated;
use super::state::Move;
use super::{
    MoveRequest, MoverEnvironment, Notice, Notify, TransferMode, begin, carry_out, further_places, move_shard_group,
    schemas, session,
};
use crate::catalog::pg_error;
use crate::catalog::quote::{literal, readable};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{NodeId, ShardGroup, ShardGroupId, ShardId, ShardMap, Table, TableKind, TableOid, Tenant};

/// `isolate_tenant_to_new_shard`: on the node where the tenant is. Answers the table's new shard id.
pub async fn isolate_tenant_to_new_shard(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let probe = session::connect(environment, NodeId::COORDINATOR).await?;
    let (table, _) = distributed(&probe, &map, arguments).await?;
    let cascades = arguments.get("cascade_option").and_then(Value::as_str).unwrap_or_default();
    if !cascades.eq_ignore_ascii_case("cascade") && has_colocated(&probe, &table).await? {
        let (name, tenant) = (readable(&table.name), tenant_text(arguments)?);
        return Err(PgError::unsupported(format!("cannot isolate tenant because \"{name}\" has colocated tables"))
            .hint(format!(
                "Use CASCADE option to isolate tenants for the colocated tables too. \
                 Example usage: isolate_tenant_to_new_shard('{name}', '{tenant}', 'CASCADE')"
            )));
    }
    drop(probe);
    isolate(environment, arguments, None, notify).await
}

/// `tenantry_isolate_tenant`: on a node of the caller's choice, with all colocated tables. One that is isolated moves there.
pub async fn tenantry_isolate_tenant(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let node = arguments.get("node_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let node = NodeId(node.ok_or_else(|| is_null("node_id"))?);
    isolate(environment, arguments, Some(node), notify).await
}

async fn isolate(
    environment: &MoverEnvironment,
    arguments: &Value,
    node: Option<NodeId>,
    notify: &Notify<'_>,
) -> Result<Value> {
    let mode = TransferMode::of(arguments)?;
    let map = environment.catalog.refresh().await?;
    let probe = session::connect(environment, NodeId::COORDINATOR).await?;
    let found = match find(&probe, &map, arguments, node).await? {
        Among::Others(found) => found,
        Among::None(alone) => return settle(environment, alone, mode, notify).await,
    };
    drop(probe);
    let known = found.nodes();
    let catalog = begin(environment, found.table.colocation, &known).await?;
    // What was true before the lock may not be now.
    let map = environment.catalog.refresh().await?;
    let found = match find(&catalog, &map, arguments, node).await? {
        Among::Others(found) => found,
        Among::None(alone) => {
            drop(catalog);
            return settle(environment, alone, mode, notify).await;
        }
    };
    further_places(environment, &catalog, &known, &found.nodes()).await?;
    let Found { table, tenant, hash, group, node } = found;
    let ids = "SELECT nextval('tenantry.shard_id'), nextval('tenantry.shard_id')";
    let ids = catalog.query_one(ids, &[]).await.map_err(pg_error)?;
    let id = |at| ShardGroupId(ids.get::<_, i64>(at) as u64);
    let part = Part { tenant, hash, rest: id(0), group: id(1) };
    let new = part.group;
    let mv = Move::new(table.colocation, group.id, (group.node, node), schemas(&map, table.colocation));
    let mv = Move::plan(&catalog, Move { part: Some(part), ..mv }).await?;
    carry_out(environment, catalog, mv, mode, notify).await?;
    shard_in(&*environment.catalog.refresh().await?, &table, new)
}

/// The table's shard in a shard group.
fn shard_in(map: &ShardMap, table: &Table, group: ShardGroupId) -> Result<Value> {
    let shard = map.table_by_oid(table.oid).and_then(|t| {
        t.shards.iter().find(|shard| map.group_of_shard(**shard).is_some_and(|(_, its)| its == group)).copied()
    });
    let ShardId(shard) = shard.ok_or_else(|| not_distributed(&table.name))?;
    Ok(json!(shard))
}

/// Takes a tenant that is isolated to the node where it is wanted, if it is not there. Answers as `isolate`.
async fn settle(
    environment: &MoverEnvironment,
    alone: Alone,
    mode: TransferMode,
    notify: &Notify<'_>,
) -> Result<Value> {
    let Alone { table, tenant, group, node: target } = alone;
    let (source, group) = (group.node, group.id);
    let known = format!("tenant {} of table {} is isolated already", literal(&tenant), readable(&table.name));
    if source == target {
        notify(Notice::new(format!("{known} on node {target}")));
    } else {
        notify(Notice::new(format!("{known}, moving it from node {source} to node {target}")));
        move_shard_group(environment, MoveRequest { group, source, target, mode }, notify).await?;
    }
    shard_in(&*environment.catalog.refresh().await?, &table, group)
}

/// With whom a tenant shares its shard group.
enum Among {
    Others(Found),
    None(Alone),
}

/// A tenant that is isolated.
struct Alone {
    table: Table,
    tenant: String,
    group: ShardGroup,
    /// Where it is to be.
    node: NodeId,
}

/// A tenant that may be isolated.
struct Found {
    table: Table,
    tenant: Tenant,
    hash: i32,
    /// That of its interval.
    group: ShardGroup,
    /// Where it is to go.
    node: NodeId,
}

impl Found {
    fn nodes(&self) -> BTreeSet<NodeId> {
        BTreeSet::from([self.group.node, self.node])
    }
}

/// `node`: where the tenant is to be; none: where it is, and it is not to be isolated yet.
///
/// Errors: 22023 for a node that cannot take it, 0A000 and 55000 for a tenant that cannot be isolated, or is.
async fn find(catalog: &session::Session, map: &ShardMap, arguments: &Value, node: Option<NodeId>) -> Result<Among> {
    let (table, hash) = distributed(catalog, map, arguments).await?;
    if let Some(node) = node
        && !map.active_workers().any(|n| n.id == node && n.should_have_shards)
    {
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("node {node} cannot take shards"))
            .hint("See pg_dist_node for active nodes with shouldhaveshards."));
    }
    let text = canonical(catalog, &table, &tenant_text(arguments)?).await?;
    let value = hash.read_text(&text).ok_or_else(|| {
        PgError::unsupported("tenants of this distribution column's type cannot be isolated yet")
            .detail("The proxy cannot compare its values by itself.")
    })?;
    let colocation = map.colocation(table.colocation).ok_or_else(|| not_distributed(&table.name))?;
    if let Some(group) = colocation.own_group_of(&value) {
        let message = format!("table {} has already been isolated for the given value", readable(&table.name));
        let node = node.ok_or_else(|| {
            PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .hint("Move it with tenantry_isolate_tenant(table_name, tenant_id, node_id).")
        })?;
        return Ok(Among::None(Alone { group: group.clone(), tenant: text, table, node }));
    }
    let group = colocation.interval_of(value.hash()).ok_or_else(|| not_distributed(&table.name))?.clone();
    let node = node.unwrap_or(group.node);
    let (key, hash) = (value.key(), value.hash());
    Ok(Among::Others(Found { tenant: Tenant { key, text: text.clone() }, hash, table, group, node }))
}

/// The table that a call is about.
///
/// Errors: 42P01 for a local table, 0A000 for a reference table.
pub async fn distributed(
    catalog: &session::Session,
    map: &ShardMap,
    arguments: &Value,
) -> Result<(Table, crate::shard_map::HashType)> {
    let oid = arguments.get("table_name").and_then(Value::as_u64).ok_or_else(|| is_null("table_name"))?;
    let Some(table) = map.table_by_oid(TableOid(oid as u32)) else {
        let sql = "SELECT $1::oid::regclass::text";
        let row = catalog.query_one(sql, &[&(oid as u32)]).await.map_err(pg_error)?;
        return Err(not_distributed(row.get(0)));
    };
    match table.kind {
        TableKind::Distributed { hash, .. } => Ok((Table::clone(table), hash)),
        TableKind::Reference => Err(PgError::unsupported(
            "cannot isolate tenant because tenant isolation is only support for hash distributed tables",
        )),
    }
}

/// The tenant as the distribution column's type prints it.
///
/// Errors: the server's for text that is no value of the type.
pub async fn canonical(catalog: &session::Session, table: &Table, tenant: &str) -> Result<String> {
    let column = table.distribution_column().map(|c| c.name.clone()).unwrap_or_default();
    let sql = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1 AND attname = $2";
    let row = catalog.query_one(sql, &[&table.oid.0, &column]).await.map_err(pg_error)?;
    let sql = format!("SELECT {}::{}::text", literal(tenant), row.get::<_, &str>(0));
    Ok(catalog.query_one(&sql, &[]).await.map_err(pg_error)?.get(0))
}

pub fn tenant_text(arguments: &Value) -> Result<String> {
    match arguments.get("tenant_id") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Bool(value)) => Ok(value.to_string()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(is_null("tenant_id")),
    }
}

fn is_null(name: &str) -> PgError {
    PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, format!("{name} cannot be NULL"))
}

pub fn not_distributed(name: &str) -> PgError {
    PgError::new(SqlState::UNDEFINED_TABLE, format!("relation {name} is not distributed"))
}
