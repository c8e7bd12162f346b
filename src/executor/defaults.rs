//! What defaults give that differs from one evaluation to the next (numbers of sequences, clocks, random values): drawn once, on the
//! coordinator, where every server is to have the same, or the proxy has to know. And what an INSERT has computed there.

use std::collections::HashMap;

use super::{Transaction, Use, stale_plan};
use crate::backend::{Row, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::planner::{Computed, Filling};
use crate::shard_map::{NodeId, Table};

/// For each row a value for each of the filling's columns; nothing for rows that leave none to its default.
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
    let concerned = filling.concerned();
    let count = concerned.iter().filter(|is_concerned| **is_concerned).count();
    let sql = format!("SELECT {} FROM pg_catalog.generate_series(1, {count})", expressions.join(", "));
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    if rows.len() != count {
        return Err(PgError::new(SqlState::INTERNAL_ERROR, "a default gave no value for each row"));
    }
    let mut rows = rows.into_iter();
    let of_row = |is_concerned: bool| if is_concerned { rows.next().unwrap_or_default() } else { Row::default() };
    let values: Vec<Row> = concerned.into_iter().map(of_row).collect();
    let literal = |cell: &Option<String>| cell.as_deref().map_or("NULL".to_owned(), quote_literal);
    let literals = values.iter().map(|row| row.iter().map(literal).collect()).collect();
    Ok(Drawn { values, literals })
}

/// What was computed.
pub struct Value {
    /// As SQL, of the type that it has.
    pub literal: String,
    /// What the distribution column stores of it, where it is for that.
    pub stored: Option<String>,
}

/// Each once, in the order of the statement; its names mean what they mean to the client.
pub async fn compute(txn: &mut Transaction, table: &Table, computed: &[Computed]) -> Result<Vec<Value>> {
    if computed.is_empty() {
        return Ok(Vec::new());
    }
    let hash = txn.map().colocation(table.colocation).and_then(|c| c.hash).ok_or_else(stale_plan)?;
    let cast = hash.sql_type(Use::stored_in(table).type_modifier());
    let one = |Computed { text, is_tenant, .. }: &Computed| {
        let stored = if *is_tenant { format!("value::{cast}::pg_catalog.text") } else { "NULL".to_owned() };
        format!(
            "((SELECT pg_catalog.json_build_array(pg_catalog.format('%L::%s', value, (SELECT pg_catalog.format('%I.%I', n.nspname, t.typname) \
             FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
             WHERE t.oid = pg_catalog.pg_typeof(value))), {stored}) FROM (SELECT ({text}) AS value OFFSET 0) AS x))"
        )
    };
    let all: Vec<String> = computed.iter().map(one).collect();
    let rows = txn.query(NodeId::COORDINATOR, &format!("VALUES {}", all.join(", "))).await?;
    let read = |row: &Row| {
        let (literal, stored) = serde_json::from_str(row.first()?.as_deref()?).ok()?;
        Some(Value { literal, stored })
    };
    let values: Option<Vec<_>> = rows.iter().map(read).collect();
    values
        .filter(|values| values.len() == computed.len())
        .ok_or_else(|| PgError::new(SqlState::INTERNAL_ERROR, "the values of an INSERT could not be read"))
}

/// Expressions that give the next value of columns that have a default, by name.
pub async fn expressions(txn: &mut Transaction, table: &Table) -> Result<HashMap<String, String>> {
    let sql = format!("SELECT column_name, expression FROM tenantry.default_expressions({})", table.oid);
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?))).collect())
}
