//! Rowsets on the client's coordinator connection, and a statement over them: Postgres's own answer for everything
//! that shards cannot answer by themselves.
//!
//! ```text
//!   shards ──binary rows──> COPY into pg_temp.tenantry_rows_0 ──> final statement on the coordinator ──> client
//! ```

use std::collections::HashSet;

use super::relay::of_gone_copy;
use super::scatter::{Request, Sink, Task, run_tasks, tasks_of};
use super::{Participant, Transaction};
use crate::backend::quote_ident;
use crate::error::Result;
use crate::planner::{Combine, Rowset, Shards};
use crate::shard_map::NodeId;
use crate::sql::Spliced;
use crate::wire::frontend::{self, Bind};
use crate::wire::reply_queue::To;
use crate::wire::rows::{Field, read_row_description};

/// Gathers the plan's rowsets. Gives the query that is to run on the coordinator afterwards, in this transaction: `plan.query`.
pub async fn gather(txn: &mut Transaction, plan: &Combine, request: Request<'_>) -> Result<Spliced> {
    txn.require_atomic().await?;
    txn.join(NodeId::COORDINATOR).await?.begin_rowsets()?;
    make_room(txn, plan).await?;
    let mut query = plan.query.clone();
    for rowset in &plan.rowsets {
        let head = plan.query.text().strip_suffix(&*rowset.all());
        let namesakes = match head {
            Some(head) => namesakes(txn, rowset, request).await?.map(|fields| (head, fields)),
            None => None,
        };
        let mut columns = String::new();
        if let Some((head, fields)) = namesakes {
            // A table has no two columns of one name: the query gives them their names back.
            let numbers = 1..=fields.len();
            columns = format!("({})", numbers.clone().map(|n| format!("c{n}")).collect::<Vec<_>>().join(", "));
            let named = numbers.zip(&fields).map(|(n, field)| format!("c{n} AS {}", quote_ident(&field.name)));
            let all = rowset.all().replacen('*', &named.collect::<Vec<_>>().join(", "), 1);
            query = Spliced::verbatim(format!("{head}{all}"));
        }
        gather_rowset(txn, rowset, &columns, request).await?;
    }
    txn.join(NodeId::COORDINATOR).await?.end_rowsets();
    Ok(query)
}

/// The columns of a rowset that the client gets as it is, where two of them have the same name.
async fn namesakes(txn: &mut Transaction, rowset: &Rowset, request: Request<'_>) -> Result<Option<Vec<Field>>> {
    let coordinator = txn.join(NodeId::COORDINATOR).await?;
    let described = coordinator.server.describe(&rowset.shell_query.render(None), request.types).await;
    txn.failed |= described.is_err();
    let fields = described?.fields.map_or(Ok(Vec::new()), |fields| read_row_description(&fields))?;
    let names: HashSet<&str> = fields.iter().map(|field| &*field.name).collect();
    Ok((names.len() < fields.len()).then_some(fields))
}

/// Tables of rowsets that a transaction has on the coordinator. They end with it.
#[derive(Debug, Default)]
pub struct Rowsets {
    names: Vec<String>,
    kept: u32,
    /// A rollback to a savepoint may have brought some back.
    pub are_uncertain: bool,
}

/// Earlier queries' tables of the same names are dropped, or get other names while a cursor may be reading them.
async fn make_room(txn: &mut Transaction, plan: &Combine) -> Result<()> {
    let names: Vec<_> = plan.rowsets.iter().map(|rowset| rowset.name.clone()).collect();
    if txn.rowsets.are_uncertain || names.iter().any(|name| txn.rowsets.names.contains(name)) {
        let rows = txn.query(NodeId::COORDINATOR, "SELECT EXISTS (SELECT FROM pg_catalog.pg_cursors)").await?;
        let is_read = rows.first().and_then(|row| row.first()).and_then(Option::as_deref) != Some("f");
        let mut earlier = std::mem::take(&mut txn.rowsets.names);
        earlier.extend(names.iter().filter(|name| !earlier.contains(name)).cloned().collect::<Vec<_>>());
        let mut sql = String::new();
        for name in earlier {
            if !is_read {
                sql.push_str(&format!("DROP TABLE IF EXISTS pg_temp.{name};"));
            } else if names.contains(&name) {
                txn.rowsets.kept += 1;
                let kept = format!("tenantry_kept_{}", txn.rowsets.kept);
                sql.push_str(&format!("ALTER TABLE IF EXISTS pg_temp.{name} RENAME TO {kept};"));
                txn.rowsets.names.push(kept);
            } else {
                txn.rowsets.names.push(name);
            }
        }
        txn.query(NodeId::COORDINATOR, &sql).await?;
    }
    txn.rowsets.names.extend(names);
    Ok(())
}

/// `columns`: names of its columns in parentheses, where they are not those of its query.
///
/// Errors: 40001 when the shard that the query is right for was split meanwhile.
async fn gather_rowset(txn: &mut Transaction, rowset: &Rowset, columns: &str, request: Request<'_>) -> Result<()> {
    let groups = txn.free_groups(rowset.colocation, |c| request.values().groups(c, &rowset.shards)).await?;
    if groups.len() > 1 && matches!(rowset.shards, Shards::One(_)) {
        return Err(super::stale_plan());
    }
    let tasks = tasks_of(txn, &rowset.query, &groups, rowset.colocation)?;
    let mut coordinator = txn.take(&[NodeId::COORDINATOR]).await?.pop().expect("one was asked for");
    let gathered = match create(&mut coordinator, rowset, columns, request).await {
        Ok(()) => fill_rowset(txn, &mut coordinator, rowset, tasks, request).await,
        Err(error) => Err(error),
    };
    let gathered = gathered.map_err(|error| of_gone_copy(&error, &rowset.query).unwrap_or(error));
    txn.put_back(coordinator);
    txn.failed |= gathered.is_err();
    gathered
}

async fn fill_rowset(
    txn: &mut Transaction,
    coordinator: &mut Participant,
    rowset: &Rowset,
    tasks: Vec<Task>,
    request: Request<'_>,
) -> Result<()> {
    let server = &mut coordinator.server;
    server.queue_query(&format!("COPY pg_temp.{} FROM STDIN (FORMAT binary)", rowset.name), To::Nobody);
    frontend::copy_data(COPY_HEADER, server.queue());
    let binary = request.bind.with_results(true);
    let request = Request { bind: &binary, describe: false, ..request };
    let sink = Sink::Copy { server, bytes_left: txn.executor.settings.load().rowset_bytes };
    let gathered = run_tasks(txn, tasks, request, sink).await;
    let server = &mut coordinator.server;
    match &gathered {
        Ok(_) => {
            frontend::copy_data(COPY_TRAILER, server.queue());
            frontend::copy_done(server.queue());
        }
        Err(error) => frontend::copy_fail(error.message(), server.queue()),
    }
    let stored = server.finish_copy().await;
    gathered?;
    stored
}

/// The rowset's table, with the columns that the same query has over the shells.
async fn create(coordinator: &mut Participant, rowset: &Rowset, columns: &str, request: Request<'_>) -> Result<()> {
    let sql = format!(
        "CREATE TEMPORARY TABLE {} {columns} ON COMMIT DROP AS {} WITH NO DATA",
        rowset.name,
        rowset.shell_query.render(None)
    );
    let bind = request.bind.with_results(false);
    run_bound(coordinator, &sql, &bind, request.types).await
}

/// Runs a statement with parameters whose rows nobody wants.
pub async fn run_bound(participant: &mut Participant, sql: &str, bind: &Bind, types: &[u32]) -> Result<()> {
    let server = &mut participant.server;
    server.queue_parse("", sql, types, To::Nobody);
    server.queue_bind(bind, b"", "", To::Nobody);
    server.queue_execute(b"", 0, To::Nobody);
    server.queue_sync();
    let result = server.finish().await.map(|_| ());
    participant.statements += 1;
    result
}

/// Signature, flags and extension length of binary COPY data. Source: PostgreSQL manual, COPY, "Binary Format".
pub const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const COPY_TRAILER: &[u8] = &[0xff, 0xff];
