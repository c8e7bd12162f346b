//! `tenantry_return_tenant`: an isolated tenant goes back to the shard group of its interval.
//!
//! ```text
//!   tenant's node:    public_<own> ──fence──> tenantry_moved_<id>_<n> ──> dropped
//!                         └─ copy and stream ──> public_<staging> on the interval's node
//!   interval's node:  LOCK public_<rest> ── last marker ── INSERT ... SELECT from the staging, which is dropped,
//!                                                          public_<rest> becomes public_<merged>; COMMIT
//! ```
//!
//! The tenant's rows are nobody's until that one transaction commits: it is the point of no return. The interval's shard group
//! gets a new name, so that a proxy with an old map, which knows of two shard groups, cannot read the tenant's rows twice.
//! A dead proxy's transaction may still be on its way: it has an advisory lock, which whoever repairs waits for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::cutover::has_schema;
use super::isolate::{canonical, distributed, not_distributed, tenant_text};
use super::lock_watch::LockWatch;
use super::session::{self, Session};
use super::snapshot::{SourceTable, to_lock_in};
use super::state::Move;
use super::{MoverEnvironment, Notify, TransferMode, begin, carry_out, further_places, schemas};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, readable};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{NodeId, ShardGroup, ShardGroupId, ShardId, ShardMap, Table};

/// Where a tenant's own shard group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Join {
    /// The shard group of the tenant's interval.
    pub rest: ShardGroupId,
    /// What that is called with the tenant's rows in it.
    pub merged: ShardGroupId,
    /// What the tenant's rows are called on its node until then.
    pub staging: ShardGroupId,
}

/// With all colocated tables. Answers the table's shard id that has the tenant from now on.
///
/// Errors: 55000 for a tenant that is not isolated; those of a move. All is as before then.
pub async fn tenantry_return_tenant(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let probe = session::connect(environment, NodeId::COORDINATOR).await?;
    let (table, own, rest) = find(&probe, &map, arguments).await?;
    drop(probe);
    let known = BTreeSet::from([own.node, rest.node]);
    let catalog = begin(environment, table.colocation, &known).await?;
    // What was true before the lock may not be now.
    let map = environment.catalog.refresh().await?;
    let (table, own, rest) = find(&catalog, &map, arguments).await?;
    further_places(environment, &catalog, &known, &BTreeSet::from([own.node, rest.node])).await?;
    let ids = "SELECT nextval('tenantry.shard_id'), nextval('tenantry.shard_id')";
    let ids = catalog.query_one(ids, &[]).await.map_err(pg_error)?;
    let id = |at| ShardGroupId(ids.get::<_, i64>(at) as u64);
    let join = Join { rest: rest.id, merged: id(0), staging: id(1) };
    let mv = Move::new(table.colocation, own.id, (own.node, rest.node), schemas(&map, table.colocation));
    let mv = Move::plan(&catalog, Move { join: Some(join), ..mv }).await?;
    carry_out(environment, catalog, mv, TransferMode::Online, notify).await?;
    let map = environment.catalog.refresh().await?;
    let shard = map.table_by_oid(table.oid).and_then(|t| {
        t.shards
            .iter()
            .find(|shard| map.group_of_shard(**shard).is_some_and(|(_, group)| group == join.merged))
            .copied()
    });
    let ShardId(shard) = shard.ok_or_else(|| not_distributed(&table.name))?;
    Ok(json!(shard))
}

/// The table, the shard group of its tenant and that of the tenant's interval.
async fn find(catalog: &Session, map: &ShardMap, arguments: &Value) -> Result<(Table, ShardGroup, ShardGroup)> {
    let (table, hash) = distributed(catalog, map, arguments).await?;
    let text = canonical(catalog, &table, &tenant_text(arguments)?).await?;
    let colocation = map.colocation(table.colocation).ok_or_else(|| not_distributed(&table.name))?;
    let value = hash.read_text(&text);
    let own = value.as_ref().and_then(|value| colocation.own_group_of(value));
    let (Some(value), Some(own)) = (&value, own) else {
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {} has no isolated tenant \"{text}\"", readable(&table.name)),
        )
        .hint("See tenantry_tenants."));
    };
    let rest = colocation.interval_of(value.hash()).ok_or_else(|| not_distributed(&table.name))?;
    Ok((table, own.clone(), rest.clone()))
}

/// The transaction on the interval's node that takes the tenant's rows in.
pub struct Merge<'a> {
    session: Session,
    locks: LockWatch<'a>,
    lock_timeout: Duration,
    lock: String,
    merge: String,
}

impl<'a> Merge<'a> {
    /// None for moves of other kinds.
    pub async fn of(environment: &'a MoverEnvironment, mv: &Move, tables: &[SourceTable]) -> Result<Option<Self>> {
        let Some(join) = mv.join else { return Ok(None) };
        let lock_timeout = environment.settings.lock_timeout;
        let mut lock = vec!["BEGIN".to_owned(), advisory(mv, "pg_advisory_xact_lock")];
        lock.push(format!("SET LOCAL lock_timeout TO {}", lock_timeout.as_millis().max(1)));
        if !tables.is_empty() {
            lock.push(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", to_lock_in(tables, mv, join.rest)));
        }
        let mut merge = vec![
            "SET LOCAL synchronous_commit TO on".to_owned(),
            "SET LOCAL session_replication_role TO replica".to_owned(),
        ];
        for table in tables {
            let (rest, staging) = (table.name_in(mv, join.rest), table.name_in(mv, join.staging));
            let columns = table.stored.join(", ");
            merge.push(format!(
                "INSERT INTO {rest} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {staging}"
            ));
        }
        for (rest, (staging, merged)) in
            mv.schemas_of(join.rest).iter().zip(mv.schemas_of(join.staging).iter().zip(mv.schemas_of(join.merged)))
        {
            merge.push(format!("DROP SCHEMA {} CASCADE", identifier(staging)));
            merge.push(format!("ALTER SCHEMA {} RENAME TO {}", identifier(rest), identifier(&merged)));
        }
        merge.push("COMMIT".to_owned());
        let session = session::connect(environment, mv.target).await?;
        let locks = LockWatch::of(environment, &session, mv.target).await?;
        Ok(Some(Self { session, locks, lock_timeout, lock: lock.join("; "), merge: merge.join("; ") }))
    }

    /// Keeps everybody off the interval's tables. Errors: 55P03 when that takes too long.
    pub async fn lock(&self) -> Result<()> {
        let lock = async { self.session.batch_execute(&self.lock).await.map_err(pg_error) };
        self.locks.during(self.lock_timeout, lock).await
    }

    pub async fn unlock(&self) -> Result<()> {
        self.session.batch_execute("ROLLBACK").await.map_err(pg_error)
    }

    /// After the last change has arrived in the staging. Errors: the server's; nothing is changed then.
    pub async fn commit(&self) -> Result<()> {
        let done = self.session.batch_execute(&self.merge).await.map_err(pg_error);
        if done.is_err() {
            // The connection may be gone; then so is the transaction.
            let _ = self.session.batch_execute("ROLLBACK").await;
        }
        done
    }
}

/// For a repair: has the tenant's shard group been taken in? Waits for a transaction that is still at it.
pub async fn is_merged(environment: &MoverEnvironment, mv: &Move, join: Join) -> Result<bool> {
    let session = session::connect(environment, mv.target).await?;
    let wait = tokio::time::timeout(MERGE_PATIENCE, async {
        session.batch_execute(&advisory(mv, "pg_advisory_lock")).await.map_err(pg_error)
    });
    wait.await.map_err(|_| {
        PgError::new(SqlState::LOCK_NOT_AVAILABLE, "the transaction of an earlier proxy is still taking a tenant in")
    })??;
    match mv.schemas_of(join.merged).first() {
        Some(schema) => has_schema(&session, schema).await,
        None => Ok(false),
    }
}

fn advisory(mv: &Move, function: &str) -> String {
    format!("SELECT {function}({MERGE}, {})", mv.id as i32)
}

/// First key of the advisory lock of a merge, on its node: "tncm" in ASCII. The second is the move's id.
const MERGE: i32 = i32::from_be_bytes(*b"tncm");
const MERGE_PATIENCE: Duration = Duration::from_secs(60);
