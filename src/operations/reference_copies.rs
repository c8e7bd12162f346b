//! Reference tables on their way to a new node: those of some size are copied while clients write them, others within a lock.
//!
//! ```text
//!   the client's transaction:  moves and schema changes kept out ─── LOCK TABLE ─── row of the node, switch; COMMIT
//!   mover/reference_copy.rs:        slot, COPY, stream, sums compared ──┘  └─ last marker
//! ```
//!
//! Who waited for the lock finds the new node when it is his turn, and writes there too (executor/reference.rs).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::mover::reference_copy::{self, CopyRequest, Finish, Following};
use super::mover::{self, MoverEnvironment};
use super::node_objects;
use crate::catalog::quote::{literal, qualified};
use crate::catalog::{Address, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{ColocationId, NodeId, ShardMap};
use crate::transport::timer;

/// From here to the end of the transaction nobody changes or drops a reference table, and it alone copies them.
///
/// Errors: 25001 when it has itself written or changed one: nobody else sees that yet.
pub async fn keep_changes_out(txn: &mut Transaction, map: &ShardMap) -> Result<()> {
    let colocations: BTreeSet<ColocationId> =
        map.tables().filter(|table| table.is_reference()).map(|table| table.colocation).collect();
    if colocations.is_empty() {
        return Ok(());
    }
    // The map may name tables that have been dropped since: until the locks below nobody is kept from it.
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'relation' AND pid = pg_catalog.pg_backend_pid() \
             AND relation IN (SELECT pg_catalog.to_regclass(name) FROM pg_catalog.unnest({}) name) \
             AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'ExclusiveLock'))",
        array(&names(map))
    );
    if is_true(txn, &sql).await? {
        let what = "cannot copy reference tables to a node in a transaction that has written or changed them";
        return Err(PgError::new(SqlState::ACTIVE_SQL_TRANSACTION, what).hint("Commit it first."));
    }
    for colocation in colocations {
        txn.query(NodeId::COORDINATOR, &mover::own_statement(colocation)).await?;
    }
    txn.reload_map().await.map(|_| ())
}

/// Gives the server all reference tables with their rows; who writes one waits from the last moment of it to the end of the
/// transaction.
///
/// Errors: 55P03 when transactions that write them stay open for too long; those of the servers.
pub async fn copy_all(
    txn: &mut Transaction,
    mover: &MoverEnvironment,
    (coordinator, worker): (&Client, &mut Client),
    (node, address): (NodeId, &Address),
) -> Result<()> {
    let map = txn.map();
    let Some(colocation) = map.tables().find(|table| table.is_reference()).map(|table| table.colocation) else {
        return Ok(());
    };
    let names = names(&map);
    if let Some(process) = may_be_followed(txn, &names).await? {
        let request = CopyRequest { node, address: address.clone(), colocation, names: names.clone(), process };
        let mut following = timer::with_lender(async { reference_copy::begin(mover, request) }).await;
        match txn.unless_cancelled(following.caught_up()).await? {
            Some(id) => return take_over(txn, mover, &names, (id, following)).await,
            None => tell_of_waiting(txn, "Transactions on the coordinator were open for too long."),
        }
    }
    let references = node_objects::lock_reference_tables(txn, &map).await?;
    let target = worker.transaction().await.map_err(pg_error)?;
    for reference in &references {
        node_objects::copy_reference_table(coordinator, &target, reference).await?;
    }
    for reference in &references {
        target.batch_execute(&reference.foreign_keys).await.map_err(pg_error)?;
    }
    target.commit().await.map_err(pg_error)
}

/// Are the tables worth a change stream, and can they have one? Answers the transaction's server process on the coordinator.
async fn may_be_followed(txn: &mut Transaction, names: &[String]) -> Result<Option<i32>> {
    let sql = format!(
        "SELECT pg_catalog.pg_backend_pid(), pg_catalog.sum(pg_catalog.pg_table_size(c.oid)) >= {FOLLOWED_FROM}, CASE \
             WHEN pg_catalog.current_setting('wal_level') <> 'logical' THEN 'The coordinator''s wal_level is not logical.' \
             WHEN pg_catalog.bool_or(c.relpersistence = 'u') THEN 'Changes of unlogged tables are not replicated.' \
             WHEN pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL THEN 'This transaction has written already.' END \
         FROM pg_catalog.pg_class c WHERE c.oid = ANY ({}::pg_catalog.regclass[])",
        array(names)
    );
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    let cell = |at: usize| rows.first().and_then(|row| row.get(at)?.as_deref());
    let process = cell(0).and_then(|process| process.parse().ok());
    if cell(1) != Some("t") {
        return Ok(None);
    }
    match cell(2).map(str::to_owned) {
        None => Ok(process),
        Some(why) => {
            tell_of_waiting(txn, &why);
            Ok(None)
        }
    }
}

fn tell_of_waiting(txn: &mut Transaction, why: &str) {
    txn.notice(PgError::notice("writes of reference tables wait until these are copied").detail(why));
}

/// Locks the tables, lets the last changes come through, and binds the copies to the transaction's end. Writers go on between two attempts.
async fn take_over(
    txn: &mut Transaction,
    mover: &MoverEnvironment,
    names: &[String],
    (id, mut following): (i64, Following),
) -> Result<()> {
    for notice in following.notices() {
        txn.notice(notice);
    }
    let lock = format!(
        "SELECT tenantry.lock_reference_tables({}, {})",
        array(names),
        mover.settings.lock_timeout.as_millis().max(1)
    );
    let began = Instant::now();
    let mut pause = Duration::from_millis(20);
    txn.query(NodeId::COORDINATOR, "SAVEPOINT tenantry_unlocked").await?;
    loop {
        let why = match is_true(txn, &lock).await? {
            true => match txn.unless_cancelled(following.finish()).await? {
                Finish::Complete => break,
                Finish::TooLate(why) => why,
            },
            false => PgError::new(SqlState::LOCK_NOT_AVAILABLE, "could not lock the reference tables")
                .hint("Transactions that write them were open for too long; try again later."),
        };
        txn.query(NodeId::COORDINATOR, "ROLLBACK TO SAVEPOINT tenantry_unlocked").await?;
        if began.elapsed() > mover.settings.cutover_patience {
            return Err(why);
        }
        // Writers catch their breath, transactions come to their end.
        timer::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
        txn.unless_cancelled(following.is_near()).await?;
    }
    txn.query(NodeId::COORDINATOR, "RELEASE SAVEPOINT tenantry_unlocked").await?;
    match is_true(txn, &format!("SELECT tenantry.switch_reference_copy({id})")).await? {
        true => Ok(()),
        false => Err(reference_copy::taken_over(id)),
    }
}

/// Of all reference tables, quoted, with their schemas.
fn names(map: &ShardMap) -> Vec<String> {
    map.tables().filter(|table| table.is_reference()).map(|table| qualified(&table.schema, &table.name)).collect()
}

async fn is_true(txn: &mut Transaction, sql: &str) -> Result<bool> {
    let rows = txn.query(NodeId::COORDINATOR, sql).await?;
    Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("t"))
}

fn array(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    format!("ARRAY[{}]", names.join(", "))
}

/// Bytes of all tables together. Less is copied in about the time that the last changes of a stream need.
const FOLLOWED_FROM: i64 = 1 << 20;
