//! Writes to reference tables: every node, all or nothing, and the same rows everywhere.
//!
//! What a default would give anew on each node (numbers of sequences, clocks, random values) is computed once, on the
//! coordinator: into the text of an INSERT ... VALUES, or into the rows of a temporary table that then go everywhere.

use super::relay::local_meanwhile;
use super::scatter::Request;
use super::{Client, Relayed, Routed, Transaction, combine, defaults, relay};
use crate::backend::quote_literal;
use crate::error::{PgError, Result, SqlState};
use crate::planner::ReferenceWrite;
use crate::shard_map::{NodeId, Table};
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
        Some(filling) => {
            let drawn = defaults::draw(txn, &plan.table, filling).await?;
            filling.fill(&plan.query, |row, column| &drawn.literals[row][column])
        }
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
