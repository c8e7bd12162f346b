//! What a system view tells of the moment, brought to the coordinator before the statement that reads it.
//!
//! ```text
//!   workers ──rows──> pg_temp.tenantry_shard_sizes                                  ──> citus_shards, citus_tables
//!   workers ──JSON──> set_config('tenantry.activity' | 'locks' | 'lock_waits', ..)  ──> citus_stat_activity, ...
//!   session ──JSON──> set_config('tenantry.prepared_statements', ..)                ──> pg_prepared_statements
//!   session ──JSON──> set_config('citus.shard_count', ..), ...                      ──> current_setting('citus.shard_count')
//! ```
//!
//! Servers are asked in the client's transaction and as its role, so they tell what it may know. One that cannot be reached is left
//! out, with a warning: such views are wanted most when a server is away.

use super::Transaction;
use crate::backend::config_statement;
use crate::catalog::quote::literal;
use crate::catalog::shards;
use crate::error::{PgError, Result, SqlState};
use crate::planner::Figures;
use crate::shard_map::{Node, NodeId};

/// `told`: what only the session knows, as JSON: what it has prepared; defaults of settings.
pub async fn gather(txn: &mut Transaction, figures: Figures, told: &str) -> Result<()> {
    match figures {
        // Of other proxies there is what they have written last.
        Figures::Loads => txn.executor.loads.publish(&txn.executor.catalog).await,
        Figures::PreparedStatements => lend(txn, "tenantry.prepared_statements", told).await,
        Figures::Settings => lend_defaults(txn, told).await,
        Figures::ShardSizes => gather_sizes(txn).await,
        Figures::Activity => ask_and_lend(txn, "tenantry.activity", ACTIVITY, "activity").await,
        Figures::Locks => ask_and_lend(txn, "tenantry.locks", LOCKS, "locks").await,
        Figures::LockWaits => ask_and_lend(txn, "tenantry.lock_waits", LOCK_WAITS, "waits for locks").await,
    }
}

/// Until the end of the transaction, which the statement is then a part of.
async fn lend(txn: &mut Transaction, setting: &str, value: &str) -> Result<()> {
    txn.require_atomic().await?;
    txn.query(NodeId::COORDINATOR, &config_statement(setting, value, true)).await.map(|_| ())
}

/// As `lend`, to each setting that has no value: one that was set and reset is empty.
async fn lend_defaults(txn: &mut Transaction, defaults: &str) -> Result<()> {
    txn.require_atomic().await?;
    let sql = format!(
        "SELECT pg_catalog.set_config(d.key, d.value, true) FROM pg_catalog.json_each_text({}) d \
         WHERE coalesce(pg_catalog.current_setting(d.key, true), '') = ''",
        literal(defaults)
    );
    txn.query(NodeId::COORDINATOR, &sql).await.map(|_| ())
}

/// What each worker says to `question`: `[{"nodeid": 1, "told": ...}, ...]`.
async fn ask_and_lend(txn: &mut Transaction, setting: &str, question: &str, what: &str) -> Result<()> {
    txn.require_atomic().await?;
    let mut told = Vec::new();
    for node in txn.map().active_workers() {
        if !joins(txn, node, what).await? {
            continue;
        }
        for row in txn.query(node.id, question).await? {
            let rows = row.first().and_then(Option::as_deref).unwrap_or("[]");
            told.push(format!(r#"{{"nodeid": {}, "told": {rows}}}"#, node.id));
        }
    }
    lend(txn, setting, &format!("[{}]", told.join(","))).await
}

async fn gather_sizes(txn: &mut Transaction) -> Result<()> {
    txn.require_atomic().await?;
    let map = txn.map();
    let mut values = Vec::new();
    for node in map.active_workers() {
        let Some(sql) = shards::sizes(&map, node.id) else { continue };
        if !joins(txn, node, "sizes").await? {
            values.push(format!("(NULL, {}, NULL, NULL, NULL)", node.id));
            continue;
        }
        for row in txn.query(node.id, &sql).await? {
            if let [Some(shard), Some(total), Some(table), Some(relation)] = row.as_slice() {
                values.push(format!("({shard}, {}, {total}, {table}, {relation})", node.id));
            }
        }
    }
    let mut sql = "DROP TABLE IF EXISTS pg_temp.tenantry_shard_sizes; CREATE TEMPORARY TABLE tenantry_shard_sizes \
                   (shardid bigint, nodeid int, size bigint, table_size bigint, relation_size bigint) ON COMMIT DROP;"
        .to_owned();
    if !values.is_empty() {
        sql.push_str(&format!("INSERT INTO pg_temp.tenantry_shard_sizes VALUES {}", values.join(",")));
    }
    txn.join(NodeId::COORDINATOR).await?.begin_rowsets()?;
    txn.query(NodeId::COORDINATOR, &sql).await?;
    txn.join(NodeId::COORDINATOR).await?.end_rowsets();
    Ok(())
}

/// Does the node take part from here on? If it cannot be reached the client is warned that what is asked for is not known there.
async fn joins(txn: &mut Transaction, node: &Node, what: &str) -> Result<bool> {
    match txn.join(node.id).await.map(drop) {
        Err(error) if error.code() == SqlState::CONNECTION_FAILURE => {
            let message = format!("{what} on node {}:{} are not known", node.host, node.port);
            let why = error.detail_text().unwrap_or(error.message()).to_owned();
            txn.warning(PgError::new(SqlState::WARNING, message).detail(why));
            Ok(false)
        }
        joined => joined.map(|()| true),
    }
}

/// `asks`: it is the one that answers this.
const ACTIVITY: &str = "SELECT pg_catalog.json_agg(a) FROM (SELECT a.*, a.pid = pg_catalog.pg_backend_pid() AS asks \
                        FROM pg_catalog.pg_stat_activity a) a";
/// `relation_name`: NULL in other databases, whose tables have no name here.
const LOCKS: &str = "SELECT pg_catalog.json_agg(l) FROM (SELECT l.*, tenantry_name.of AS relation_name \
    FROM pg_catalog.pg_locks l LEFT JOIN LATERAL (SELECT l.relation::pg_catalog.regclass::pg_catalog.text AS of \
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database() AND l.database IN (0, d.oid)) tenantry_name ON true) l";
/// A prepared transaction has no process: it blocks as number 0, without a statement.
const LOCK_WAITS: &str = "SELECT pg_catalog.json_agg(w) FROM (SELECT w.pid AS waiting, b.pid AS blocking, \
    w.query AS waiting_query, a.query AS blocking_query FROM pg_catalog.pg_stat_activity w \
    CROSS JOIN LATERAL (SELECT DISTINCT p.pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) p (pid)) b \
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid) w";
