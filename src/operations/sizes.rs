//! How big is a table, all its shards together?

use crate::catalog::shards::{Measure, sizes};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::TableOid;

/// Bytes on all workers. Errors: 42P16 when the table is not managed.
pub async fn table_size(txn: &mut Transaction, table: TableOid, measure: Measure) -> Result<i64> {
    let map = txn.map();
    if map.table_by_oid(table).is_none() {
        return Err(PgError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("cannot calculate the size because relation with OID {table} is not distributed"),
        ));
    }
    let mut total = 0;
    for node in map.active_workers() {
        let Some(sql) = sizes(&map, node.id, Some(table), measure) else { continue };
        for row in txn.query(node.id, &sql).await? {
            total += row.get(1).and_then(|cell| cell.as_ref()?.parse::<i64>().ok()).unwrap_or(0);
        }
    }
    Ok(total)
}
