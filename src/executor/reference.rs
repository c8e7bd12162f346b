//! Writes to reference tables: every node, all or nothing, and the same rows everywhere.
//!
//! What a default would give anew on each node (numbers of sequences, clocks, random values) is computed once, on the
//! coordinator: into the text of an INSERT ... VALUES, or into the rows of a temporary table that then go everywhere.

use std::collections::HashMap;
use std::sync::Arc;

use super::relay::local_meanwhile;
use super::scatter::Request;
use super::{Client, Relayed, Routed, Transaction, combine, copy_in, relay};
use crate::backend::{quote_ident, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::planner::{Filling, ReferenceWrite};
use crate::shard_map::{NodeId, Table};
use crate::sql::Spliced;
use crate::wire::frontend::Target;
use crate::wire::reply_queue::To;

/// Runs the statement on the coordinator, whose answer goes to the client, then on every worker.
/// The coordinator's row locks come first, so concurrent writers queue there and cannot cross each other.
///
/// Errors: 0A000 for a statement that would not do the same everywhere.
pub async fn write(
    txn: &mut Transaction,
    client: &mut Client,
    plan: &ReferenceWrite,
    request: Request<'_>,
) -> Result<Relayed> {
    txn.require_atomic().await?;
    refuse_if_nodes_would_differ(txn, plan).await?;
    let query = match &plan.filling {
        None => plan.query.clone(),
        Some(filling) => fill(txn, plan, filling).await?,
    };
    let sql = query.render(None);
    txn.query(NodeId::COORDINATOR, &set_writing(true)).await?;
    let mark = client.mark();
    let participant = txn.join(NodeId::COORDINATOR).await?;
    let server = &mut participant.server;
    server.queue_parse("", &sql, request.types, To::Nobody);
    server.queue_bind(request.bind, b"", "", To::Nobody);
    if request.describe && plan.returns_rows {
        server.queue_describe(Target::Portal(b""), To::Client);
    }
    server.queue_execute(b"", 0, To::Client);
    server.queue_sync();
    let relayed = relay(server, client, Routed { query: Some(&query), ..Routed::default() }).await?;
    participant.statements += 1;
    if relayed.error.is_some() {
        txn.failed = true;
        return Ok(relayed);
    }
    txn.query(NodeId::COORDINATOR, &set_writing(false)).await?;
    // The write holds a lock that citus_add_node waits for: from here on no node comes.
    txn.refresh_nodes().await?;
    let workers: Vec<NodeId> = txn.map().active_workers().map(|n| n.id).collect();
    for node in workers {
        let written = write_copy(txn, node, &sql, request).await;
        if let Err(error) = written {
            txn.failed = true;
            // The coordinator's word that it is done, unless it has left already behind many rows.
            client.rewind(mark);
            return Err(unless_local(txn, &plan.table, error).await);
        }
    }
    Ok(relayed)
}

/// For who has waited for a lock on the table.
///
/// Errors: 40001 when it has become a local one meanwhile.
pub async fn refuse_local(txn: &mut Transaction, table: &Table) -> Result<()> {
    let sql = format!("SELECT FROM tenantry.distributed_table WHERE logicalrelid = {} AND partmethod = 'n'", table.oid);
    match txn.query(NodeId::COORDINATOR, &sql).await?.is_empty() {
        true => Err(local_meanwhile(&table.name)),
        false => Ok(()),
    }
}

/// The error of a worker; another one when it has no copy because the table is no reference table any more.
pub async fn unless_local(txn: &Transaction, table: &Table, error: PgError) -> PgError {
    if !matches!(error.code(), SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME) {
        return error;
    }
    match txn.executor.catalog.refresh().await {
        Ok(map) if map.table_by_oid(table.oid).is_none_or(|now| !now.is_reference()) => local_meanwhile(&table.name),
        _ => error,
    }
}

async fn write_copy(txn: &mut Transaction, node: NodeId, sql: &str, request: Request<'_>) -> Result<()> {
    let executor = txn.executor.clone();
    let bind = executor.object_ids.bind_for(&executor.catalog, node, request.bind, request.types).await;
    if txn.has_left(node) {
        return Ok(());
    }
    let participant = txn.join(node).await?;
    combine::run_bound(participant, sql, &bind.with_results(false), request.types).await
}

async fn refuse_if_nodes_would_differ(txn: &mut Transaction, plan: &ReferenceWrite) -> Result<()> {
    if !plan.functions.is_empty() {
        let names: Vec<_> = plan.functions.iter().map(|f| quote_literal(f)).collect();
        let sql = format!(
            "SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE proname IN ({}) AND prokind = 'f' \
             AND (provolatile = 'v' OR provolatile = 's' AND proname NOT IN ({SAME_EVERYWHERE}))",
            names.join(", ")
        );
        if let Some(row) = txn.query(NodeId::COORDINATOR, &sql).await?.first() {
            return Err(differs(
                plan,
                format!("Function \"{}\" is not immutable.", row.first().and_then(Option::as_deref).unwrap_or("")),
            ));
        }
    }
    Ok(())
}

/// The statement with a value of its own for every place that a default would have filled.
async fn fill(txn: &mut Transaction, plan: &ReferenceWrite, filling: &Filling) -> Result<Spliced> {
    let defaults = defaults(txn, &plan.table).await?;
    let expression = |name: &String| match defaults.get(name) {
        Some(expression) => format!("({expression})::pg_catalog.text"),
        None => "NULL".to_owned(),
    };
    let expressions: Vec<_> = filling.columns.iter().map(expression).collect();
    let sql = format!("SELECT {} FROM pg_catalog.generate_series(1, {})", expressions.join(", "), filling.rows);
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    let literal = |cell: &Option<String>| cell.as_deref().map_or("NULL".to_owned(), quote_literal);
    let literals: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(literal).collect()).collect();
    if literals.len() != filling.rows {
        return Err(PgError::new(SqlState::INTERNAL_ERROR, "a default gave no value for each row"));
    }
    Ok(filling.fill(&plan.query, |row, column| &literals[row][column]))
}

/// Expressions that give the next value of columns that have a default, by name.
async fn defaults(txn: &mut Transaction, table: &Table) -> Result<HashMap<String, String>> {
    let sql = format!("SELECT column_name, expression FROM tenantry.default_expressions({})", table.oid);
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?))).collect())
}

/// Makes `pg_temp.tenantry_source` on the coordinator, for rows with these columns of a managed table. Columns that a
/// reference table's rows would get from defaults which differ from node to node are there too, and get them.
///
/// Answers all columns, those given first.
pub async fn stage(txn: &mut Transaction, table: &Table, given: &[String]) -> Result<Vec<String>> {
    let mut names = given.to_vec();
    let mut sets = String::new();
    let left = |column: &&crate::shard_map::Column| column.has_volatile_default && !given.contains(&column.name);
    if table.is_reference() && table.columns.iter().any(|column| left(&column)) {
        let defaults = defaults(txn, table).await?;
        for column in table.columns.iter().filter(left) {
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

fn differs(plan: &ReferenceWrite, detail: String) -> PgError {
    PgError::new(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("cannot write the same rows to every copy of reference table \"{}\"", plan.table.name),
    )
    .detail(detail)
    .hint("Give the value as a constant or a parameter.")
}

/// Stable functions that look at settings only, which every node has from the client: not at the clock, not at tables.
const SAME_EVERYWHERE: &str = "'generate_series', 'concat', 'concat_ws', 'format', 'to_char', 'to_date', 'to_timestamp', \
    'to_number', 'date_trunc', 'date_part', 'timezone', 'to_json', 'to_jsonb', 'json_build_object', 'json_build_array', \
    'jsonb_build_object', 'jsonb_build_array', 'quote_literal', 'quote_nullable', 'array_to_string'";

/// The setting by which the trigger on the coordinator's copy knows a write that reaches every copy.
pub const REFERENCE_WRITE: &str = "tenantry.reference_write";

/// Around such a write, in its transaction.
pub fn set_writing(writing: bool) -> String {
    format!("SET LOCAL {REFERENCE_WRITE} TO {}", if writing { "on" } else { "off" })
}
