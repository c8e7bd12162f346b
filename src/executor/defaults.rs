//! What defaults give that differs from one evaluation to the next (numbers of sequences, clocks, random values): drawn once, on the
//! coordinator, where every server is to have the same, or the proxy has to know.

use std::collections::HashMap;

use super::Transaction;
use crate::backend::{Row, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::planner::Filling;
use crate::shard_map::{NodeId, Table};

/// For each row a value for each of the filling's columns.
pub struct Drawn {
    pub values: Vec<Row>,
    /// The same as SQL.
    pub literals: Vec<Vec<String>>,
}

/// Draws what the filling asks for.
pub async fn draw(txn: &mut Transaction, table: &Table, filling: &Filling) -> Result<Drawn> {
    let defaults = expressions(txn, table).await?;
    let expression = |name: &String| match defaults.get(name) {
        Some(expression) => format!("({expression})::pg_catalog.text"),
        None => "NULL".to_owned(),
    };
    let expressions: Vec<_> = filling.columns.iter().map(expression).collect();
    let sql = format!("SELECT {} FROM pg_catalog.generate_series(1, {})", expressions.join(", "), filling.rows);
    let values = txn.query(NodeId::COORDINATOR, &sql).await?;
    let literal = |cell: &Option<String>| cell.as_deref().map_or("NULL".to_owned(), quote_literal);
    let literals: Vec<Vec<String>> = values.iter().map(|row| row.iter().map(literal).collect()).collect();
    if literals.len() != filling.rows {
        return Err(PgError::new(SqlState::INTERNAL_ERROR, "a default gave no value for each row"));
    }
    Ok(Drawn { values, literals })
}

/// Expressions that give the next value of columns that have a default, by name.
pub async fn expressions(txn: &mut Transaction, table: &Table) -> Result<HashMap<String, String>> {
    let sql = format!("SELECT column_name, expression FROM tenantry.default_expressions({})", table.oid);
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?))).collect())
}
