//! Rebalance strategies: rows of `tenantry.rebalance_strategy`, and what their functions say of this cluster.
//!
//! Cost, capacity and placement functions are SQL functions on the coordinator. They run as the control user, so only
//! those that a superuser owns are called.

use std::collections::HashMap;

use tokio_postgres::GenericClient;

use super::plan::{Bytes, Weights};
use super::sizes::group_bytes;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::operations::mover::MoverEnvironment;
use crate::shard_map::{NodeId, ShardGroupId, ShardId, ShardMap};

/// One row of `pg_dist_rebalance_strategy`.
#[derive(Debug, Clone)]
pub struct Strategy {
    pub default_threshold: f64,
    pub minimum_threshold: f64,
    pub improvement_threshold: f64,
    cost: String,
    capacity: String,
    allowed: String,
    /// Where what its functions name is looked for.
    search_path: String,
}

impl Strategy {
    /// The strategy of this name, or the default one.
    ///
    /// Errors: 42704 when there is none, 42883 when one of its functions was dropped, 42501 when one is not a superuser's.
    pub async fn find(client: &impl GenericClient, name: Option<&str>) -> Result<Self> {
        let row = client.query_opt(FIND, &[&name]).await.map_err(pg_error)?.ok_or_else(|| {
            let message = match name {
                Some(name) => format!("could not find rebalance strategy with name {name}"),
                None => "no rebalance strategy is the default".to_owned(),
            };
            PgError::new(SqlState::UNDEFINED_OBJECT, message)
                .hint("SELECT name FROM pg_dist_rebalance_strategy lists them.")
        })?;
        if let Some(function) = row.try_get::<_, Option<String>>(6).map_err(pg_error)? {
            return Err(PgError::new(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("function {function} of the rebalance strategy is not owned by a superuser"),
            )
            .hint("ALTER FUNCTION ... OWNER TO a superuser: it runs with a superuser's rights."));
        }
        let number = |at: usize| row.try_get::<_, f32>(at).map_err(pg_error);
        let text = |at: usize| match row.try_get::<_, Option<String>>(at).map_err(pg_error)? {
            Some(text) => Ok(text),
            None => Err(lost_its_function(row.try_get(8).map_err(pg_error)?)),
        };
        Ok(Self {
            default_threshold: decimal(number(3)?),
            minimum_threshold: decimal(number(4)?),
            improvement_threshold: decimal(number(5)?),
            cost: text(0)?,
            capacity: text(1)?,
            allowed: text(2)?,
            search_path: text(7)?,
        })
    }

    /// What the strategy's functions say of every shard group and node.
    ///
    /// Errors: what a function reports; 22023 for a cost or capacity that is negative or not a number.
    pub async fn weigh(&self, environment: &MoverEnvironment, map: &ShardMap) -> Result<Weights> {
        let mut weights = Weights::default();
        if self.cost == COST_BY_DISK_SIZE {
            weights.bytes = group_bytes(environment, map).await?;
            weights.costs = Some(by_disk_size(map, &weights.bytes));
        }
        let mut pooled = environment.catalog.client(NodeId::COORDINATOR).await?;
        let client: &mut tokio_postgres::Client = &mut pooled;
        let client = &client.transaction().await.map_err(pg_error)?;
        let path = format!("SET LOCAL search_path TO {}", self.search_path);
        client.batch_execute(&path).await.map_err(pg_error)?;
        if ![COST_1, COST_BY_DISK_SIZE].contains(&self.cost.as_str()) {
            weights.costs = Some(costs(client, &self.cost, &representatives(map)).await?);
            weights.are_thousandths = true;
        }
        if self.capacity != CAPACITY_1 {
            weights.capacities = capacities(client, &self.capacity, map).await?;
        }
        if self.allowed != ALLOWED_TRUE {
            let (shards, groups): (Vec<_>, Vec<_>) = representatives(map).into_iter().unzip();
            let nodes: Vec<i32> = map.active_workers().map(|n| n.id.0 as i32).collect();
            let sql = format!(
                "SELECT s.at, n.id FROM pg_catalog.unnest($1::pg_catalog.int8[]) WITH ORDINALITY s (id, at), \
                 pg_catalog.unnest($2::pg_catalog.int4[]) n (id) WHERE {}(s.id, n.id) IS NOT TRUE",
                self.allowed
            );
            for row in client.query(&sql, &[&shards, &nodes]).await.map_err(pg_error)? {
                let (at, node): (i64, i32) = (row.try_get(0).map_err(pg_error)?, row.try_get(1).map_err(pg_error)?);
                weights.forbidden.insert((groups[at as usize - 1], NodeId(node as u32)));
            }
        }
        Ok(weights)
    }
}

fn lost_its_function(strategy: &str) -> PgError {
    PgError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("a function of rebalance strategy {strategy} does not exist any more"),
    )
    .hint("Name another in pg_dist_rebalance_strategy, or use another strategy, as by SELECT citus_set_default_rebalance_strategy('by_disk_size');")
}

/// Bytes, and 100 MB for each shard group so that empty ones spread too.
fn by_disk_size(map: &ShardMap, bytes: &Bytes) -> HashMap<ShardGroupId, u64> {
    map.colocations()
        .flat_map(|c| &c.shard_groups)
        .map(|g| (g.id, bytes.get(&g.id).copied().unwrap_or(0).saturating_add(BASE_COST_BYTES)))
        .collect()
}

/// One shard of every group: cost functions take shards.
fn representatives(map: &ShardMap) -> Vec<(i64, ShardGroupId)> {
    let mut found = Vec::new();
    for colocation in map.colocations() {
        if let Some(table) = map.tables_of(colocation.id).first() {
            let group = |shard: &ShardId| Some((shard.0 as i64, map.group_of_shard(*shard)?.1));
            found.extend(table.shards.iter().filter_map(group));
        }
    }
    found
}

async fn costs(
    client: &impl GenericClient,
    function: &str,
    shards: &[(i64, ShardGroupId)],
) -> Result<HashMap<ShardGroupId, u64>> {
    let (ids, groups): (Vec<i64>, Vec<_>) = shards.iter().copied().unzip();
    let sql = format!(
        "SELECT {function}(s.id)::pg_catalog.float8 FROM pg_catalog.unnest($1::pg_catalog.int8[]) WITH ORDINALITY s (id, at) \
         ORDER BY s.at"
    );
    let rows = client.query(&sql, &[&ids]).await.map_err(pg_error)?;
    let cost = |row: &tokio_postgres::Row| -> Result<u64> {
        let cost: Option<f64> = row.try_get(0).map_err(pg_error)?;
        // Thousandths as whole numbers: their sums are exact.
        Ok((weight(cost, function)? * 1000.0).round() as u64)
    };
    groups.into_iter().zip(&rows).map(|(group, row)| Ok((group, cost(row)?))).collect()
}

async fn capacities(client: &impl GenericClient, function: &str, map: &ShardMap) -> Result<HashMap<NodeId, f64>> {
    let nodes: Vec<i32> = map.active_workers().map(|n| n.id.0 as i32).collect();
    let sql = format!(
        "SELECT n.id, {function}(n.id)::pg_catalog.float8 FROM pg_catalog.unnest($1::pg_catalog.int4[]) n (id)"
    );
    let rows = client.query(&sql, &[&nodes]).await.map_err(pg_error)?;
    let read = |row: &tokio_postgres::Row| -> Result<(NodeId, f64)> {
        let (node, capacity): (i32, Option<f64>) =
            (row.try_get(0).map_err(pg_error)?, row.try_get(1).map_err(pg_error)?);
        Ok((NodeId(node as u32), weight(capacity, function)?))
    };
    rows.iter().map(read).collect()
}

fn weight(value: Option<f64>, function: &str) -> Result<f64> {
    value.filter(|v| v.is_finite() && *v >= 0.0).ok_or_else(|| {
        PgError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("function {function} of the rebalance strategy returned no number of at least 0"),
        )
    })
}

/// 0.1 as it was written, not as the nearest float4 looks in a float8.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// What an empty shard group weighs by disk size. Source: the default of `citus.rebalancer_by_disk_size_base_cost`.
pub const BASE_COST_BYTES: u64 = 100 * 1024 * 1024;

const COST_1: &str = "tenantry.citus_shard_cost_1";
const COST_BY_DISK_SIZE: &str = "tenantry.citus_shard_cost_by_disk_size";
const CAPACITY_1: &str = "tenantry.citus_node_capacity_1";
const ALLOWED_TRUE: &str = "tenantry.citus_shard_allowed_on_node_true";

/// Functions by their quoted names with schema, NULL for one that was dropped; then one that is not a superuser's, if there is any. Last the functions' search_path:
/// Postgres's own and Tenantry's catalog first; of their schemas and `public` those where not everybody can put something for them to
/// find; and the strategy's name.
const FIND: &str = "
SELECT pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(c.proname),
    pg_catalog.quote_ident(nn.nspname) || '.' || pg_catalog.quote_ident(n.proname),
    pg_catalog.quote_ident(an.nspname) || '.' || pg_catalog.quote_ident(a.proname),
    s.default_threshold, s.minimum_threshold, s.improvement_threshold,
    (SELECT p.proname::pg_catalog.text FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
     WHERE p.oid IN (c.oid, n.oid, a.oid) AND NOT r.rolsuper LIMIT 1),
    (SELECT pg_catalog.concat_ws(', ', 'pg_catalog, tenantry', pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(s.nspname), ', '), 'pg_temp')
     FROM pg_catalog.pg_namespace s WHERE (s.oid IN (cn.oid, nn.oid, an.oid) OR s.nspname = 'public') AND s.nspname NOT IN ('pg_catalog', 'tenantry')
     AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(s.nspacl) p WHERE p.grantee = 0 AND p.privilege_type = 'CREATE')),
    s.name::pg_catalog.text
FROM tenantry.rebalance_strategy s
LEFT JOIN pg_catalog.pg_proc c ON c.oid = s.shard_cost_function LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = c.pronamespace
LEFT JOIN pg_catalog.pg_proc n ON n.oid = s.node_capacity_function LEFT JOIN pg_catalog.pg_namespace nn ON nn.oid = n.pronamespace
LEFT JOIN pg_catalog.pg_proc a ON a.oid = s.shard_allowed_on_node_function
LEFT JOIN pg_catalog.pg_namespace an ON an.oid = a.pronamespace
WHERE CASE WHEN $1::pg_catalog.text IS NULL THEN s.default_strategy ELSE s.name = $1::pg_catalog.text END";
