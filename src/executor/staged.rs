//! Rows that were computed on the coordinator, as the VALUES of an INSERT: where ON CONFLICT or RETURNING has to be said with
//! them, COPY can't store them.

use super::Transaction;
use super::scatter::null_tenant;
use crate::backend::{quote_ident, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::planner::InsertRow;
use crate::shard_map::{NodeId, Table};
use crate::sql::Operand;

/// The rows of `pg_temp.tenantry_source`, which has the given columns of `table`: constants without a type, which mean on every
/// server what they mean here.
///
/// Errors: 22004 for a row without a tenant, 54000 for more rows than statements can hold.
pub async fn rows(txn: &mut Transaction, table: &Table, columns: &[String]) -> Result<Vec<InsertRow>> {
    let size = "SELECT pg_catalog.pg_table_size('pg_temp.tenantry_source')";
    let size = txn.query(NodeId::COORDINATOR, size).await?;
    let bytes = size.first().and_then(|row| row.first()?.as_deref()?.parse().ok()).unwrap_or(0);
    if bytes > BYTES_MAX {
        let text = format!("the rows of this INSERT take more than {} MB", BYTES_MAX >> 20);
        return Err(PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, text)
            .detail(
                "They go to other nodes than they come from, and ON CONFLICT or RETURNING has to be said with them.",
            )
            .hint("Insert fewer rows at once, or leave ON CONFLICT and RETURNING out."));
    }
    let tenant = table.distribution_column().map(|column| column.name.as_str());
    let tenant = columns.iter().position(|column| Some(column.as_str()) == tenant);
    let list: Vec<_> = columns.iter().map(|column| exactly(table, column)).collect();
    // A savepoint's end is the setting's. Source: PostgreSQL manual, extra_float_digits.
    let sql = format!(
        "SAVEPOINT tenantry_staged; SET LOCAL extra_float_digits TO 1; SELECT {} FROM pg_temp.tenantry_source; \
         ROLLBACK TO SAVEPOINT tenantry_staged; RELEASE SAVEPOINT tenantry_staged",
        list.join(", ")
    );
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    rows.into_iter()
        .map(|row| {
            let values: Vec<_> =
                row.iter().map(|value| value.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal)).collect();
            let tenant = tenant.and_then(|at| row.get(at)?.as_deref()).ok_or_else(null_tenant)?;
            Ok(InsertRow { text: format!("({})", values.join(", ")).into(), tenant: Operand::Literal(tenant.into()) })
        })
        .collect()
}

/// A column's text in which DateStyle has no say: time zones have several names there, and names several zones.
fn exactly(table: &Table, column: &str) -> String {
    let name = quote_ident(column);
    match table.columns.iter().find(|c| c.name == column).map(|c| c.type_oid) {
        Some(DATE | TIMESTAMP | TIMESTAMPTZ) => format!("pg_catalog.to_json({name}) OPERATOR(pg_catalog.#>>) '{{}}'"),
        _ => name,
    }
}

const BYTES_MAX: u64 = 16 << 20;

/// Source: PostgreSQL src/include/catalog/pg_type.dat.
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
