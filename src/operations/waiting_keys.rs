//! Foreign keys of local tables to one that becomes distributed: they wait until their own table is distributed too.
//!
//! ```text
//!   create_distributed_table('companies', 'id')            campaigns: the key is set aside, a CHECK of its name refuses new rows
//!   create_distributed_table('campaigns', 'company_id')    taken down while its rows move, put back on shell and shards
//! ```
//!
//! So tables that refer to each other are distributed one by one, those that are referred to first. In between, a local
//! table's row cannot be checked against one that is on a worker, so none is written. `undistribute_table` of the referenced table puts
//! such keys back as well. A key that a local table gets when the other is distributed already waits likewise.

use super::create_distributed_table::{has_rows, number};
use super::table_checks::to_distributed;
use crate::catalog::quote::literal;
use crate::error::{PgError, Result};
use crate::executor::Transaction;
use crate::shard_map::NodeId;

/// Makes the keys of local tables to these wait, and tells so. Answers whether there are any.
///
/// Errors: 42501 for who does not own the table of such a key.
pub async fn set_aside(txn: &mut Transaction, referenced: &[u32]) -> Result<bool> {
    let sql = format!("SELECT name, relation FROM tenantry.set_foreign_keys_aside({})", array(referenced));
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    for row in &rows {
        let [Some(key), Some(table)] = row.as_slice() else { continue };
        txn.notice(
            PgError::notice(format!("foreign key \"{key}\" of table {table} waits until that is distributed too"))
                .detail("Until then the table can be read and its rows deleted, but none can be inserted or updated.")
                .hint("Drop the foreign key if the table is to stay local."),
        );
    }
    Ok(!rows.is_empty())
}

/// Keys of a table that is about to be distributed, taken down.
#[derive(Debug, Default)]
pub struct TakenDown(Vec<String>);

/// Takes down what stands in the place of keys of these tables.
pub async fn take_down(txn: &mut Transaction, referencing: &[u32]) -> Result<TakenDown> {
    take_down_those(txn, &format!("{}, '{{}}'", array(referencing))).await
}

/// Puts back the keys of local tables to these, which are local again with all their rows.
///
/// Errors: 23503 when there are rows without one that they refer to.
pub async fn put_back_to(txn: &mut Transaction, referenced: &[u32]) -> Result<()> {
    take_down_those(txn, &format!("'{{}}', {}", array(referenced))).await?.put_back(txn).await
}

async fn take_down_those(txn: &mut Transaction, which: &str) -> Result<TakenDown> {
    let sql = format!("SELECT take_down, put_back FROM tenantry.waiting_foreign_keys({which})");
    let mut keys = TakenDown::default();
    for row in txn.query(NodeId::COORDINATOR, &sql).await? {
        let [Some(take_down), Some(put_back)] = row.as_slice() else { continue };
        txn.query(NodeId::COORDINATOR, take_down).await?;
        keys.0.push(put_back.clone());
    }
    Ok(keys)
}

impl TakenDown {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// On the coordinator.
    pub async fn put_back(self, txn: &mut Transaction) -> Result<()> {
        for sql in self.0 {
            txn.query(NodeId::COORDINATOR, &sql).await?;
        }
        Ok(())
    }
}

/// For a key that is about to be added to a local table, `name` as the client has written it.
///
/// Errors: 0A000 when it has rows: Postgres would look for what they refer to in the empty shell.
pub async fn refuse_rows(txn: &mut Transaction, name: &str) -> Result<()> {
    let exists = format!("SELECT (pg_catalog.to_regclass({}) IS NOT NULL)::pg_catalog.int4", literal(name));
    if number(txn, &exists).await? != Some(1) {
        return Ok(());
    }
    txn.query(NodeId::COORDINATOR, &format!("LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")).await?;
    if !has_rows(txn, name).await? {
        return Ok(());
    }
    Err(to_distributed().hint("The table has rows: distribute it first, then add the foreign key."))
}

/// An array of them, as a literal.
fn array(oids: &[u32]) -> String {
    let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
    format!("'{{{}}}'", oids.join(","))
}
