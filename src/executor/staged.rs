//! Rows that were computed on the coordinator, into a temporary table there: they go to where they belong by COPY, or as the VALUES
//! of an INSERT, where ON CONFLICT or RETURNING has to be said with them.

use std::sync::Arc;

use super::reference::set_writing;
use super::scatter::null_tenant;
use super::{Transaction, copy_in, defaults};
use crate::backend::{quote_ident, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::planner::InsertRow;
use crate::shard_map::{Column, NodeId, Table};
use crate::sql::Operand;

/// Makes `pg_temp.tenantry_source` on the coordinator, for rows with these columns of a managed table. Columns that a
/// reference table's rows would get from defaults which differ from node to node are there too, and get them; so is a distribution
/// column that is left to its default.
///
/// Answers all columns, those given first.
pub async fn stage(txn: &mut Transaction, table: &Table, given: &[String]) -> Result<Vec<String>> {
    let mut names = given.to_vec();
    let mut sets = String::new();
    let left = left_to_defaults(table, given);
    if !left.is_empty() {
        let defaults = defaults::expressions(txn, table).await?;
        for column in left {
            let Some(expression) = defaults.get(&column.name) else { continue };
            let name = quote_ident(&column.name);
            sets.push_str(&format!(
                "; ALTER TABLE pg_temp.tenantry_source ALTER COLUMN {name} SET DEFAULT {expression}"
            ));
            names.push(column.name.clone());
        }
    }
    let sql = format!(
        "DROP TABLE IF EXISTS pg_temp.tenantry_source; CREATE TEMPORARY TABLE tenantry_source ON COMMIT DROP AS \
         SELECT {} FROM {} WITH NO DATA{sets}",
        list(&names),
        place(table)
    );
    txn.query(NodeId::COORDINATOR, &sql).await?;
    Ok(names)
}

/// Columns not given whose defaults have to be drawn on the coordinator.
pub fn left_to_defaults<'t>(table: &'t Table, given: &[String]) -> Vec<&'t Column> {
    let tenant = table.distribution_column().map(|column| &column.name);
    let is_drawn = |column: &&Column| column.has_volatile_default && tenant.is_none_or(|tenant| *tenant == column.name);
    table.columns.iter().filter(is_drawn).filter(|column| !given.contains(&column.name)).collect()
}

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

/// Sends the rows of `pg_temp.tenantry_source` to where they belong. `columns` are all of its columns.
///
/// Errors: what servers say of the rows, as of an INSERT.
pub async fn spread(txn: &mut Transaction, table: &Arc<Table>, columns: &[String]) -> Result<u64> {
    if table.is_reference() {
        let list = list(columns);
        let insert = format!(
            "INSERT INTO {} ({list}) OVERRIDING SYSTEM VALUE SELECT {list} FROM pg_temp.tenantry_source",
            place(table)
        );
        let own = format!("{}; {insert}; {}", set_writing(true), set_writing(false));
        txn.query(NodeId::COORDINATOR, &own).await?;
    }
    let copy = "COPY pg_temp.tenantry_source TO STDOUT (FORMAT binary)";
    let routed = Box::pin(copy_in::route_rows(txn, NodeId::COORDINATOR, copy, table, columns)).await;
    routed.map_err(PgError::outside_copy)
}

fn list(columns: &[String]) -> String {
    columns.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ")
}

fn place(table: &Table) -> String {
    format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name))
}

/// Of the temporary table.
pub const NAME: &str = "tenantry_source";
const BYTES_MAX: u64 = 16 << 20;

/// Source: PostgreSQL src/include/catalog/pg_type.dat.
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
