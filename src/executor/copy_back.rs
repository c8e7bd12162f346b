//! Rows of a shard that come back to the coordinator: what one COPY says, another is told.
//!
//! ```text
//!   worker   COPY (SELECT ...) TO STDOUT ──messages──> coordinator   COPY shell FROM STDIN
//! ```
//!
//! Both are binary. Types that values name are told by the coordinator's OIDs. Memory is bounded by the longest row: while
//! the coordinator takes nothing, nothing is read.

use super::object_ids::{Forms, Way};
use super::relay::{Routed, in_the_users_terms};
use super::{Executor, Transaction};
use crate::backend::Server;
use crate::error::{PgError, Result};
use crate::shard_map::{NodeId, ShardGroupId, Table};
use crate::wire::frontend;
use crate::wire::nested_oids::replace_in_tuples;
use crate::wire::reply_queue::{To, Verdict};

/// Sends what `copy_out` gives on the shard group's node into `copy_in` on the coordinator, in this transaction. `columns`: those
/// of both, of `table`.
///
/// Errors: the first that one of the two says.
pub async fn copy_back(
    txn: &mut Transaction,
    (node, group): (NodeId, ShardGroupId),
    (copy_out, copy_in): (&str, &str),
    (table, columns): (&Table, &[String]),
) -> Result<()> {
    let executor = txn.executor.clone();
    let forms = Box::pin(executor.object_ids.forms_of_columns(&executor.catalog, table, columns)).await;
    let mut taken = txn.take(&[node, NodeId::COORDINATOR]).await?;
    let (mut coordinator, mut source) =
        (taken.pop().expect("two were asked for"), taken.pop().expect("two were asked for"));
    source.server.queue_query(copy_out, To::Nobody);
    coordinator.server.queue_query(copy_in, To::Nobody);
    let names = forms.as_ref().map(|forms| (&*executor, node, forms));
    let passed = pass(&mut source.server, &mut coordinator.server, names).await;
    match &passed {
        Ok(()) => frontend::copy_done(coordinator.server.queue()),
        Err(error) => frontend::copy_fail(error.message(), coordinator.server.queue()),
    }
    let stored = coordinator.server.finish_copy().await;
    source.groups.push(group);
    for mut participant in [source, coordinator] {
        participant.statements += 1;
        txn.put_back(participant);
    }
    let routed = Routed { group: Some(group), ..Routed::default() };
    let result = passed.map_err(|error| in_the_users_terms(error, routed)).and(stored);
    txn.failed |= result.is_err();
    result
}

async fn pass(source: &mut Server, target: &mut Server, names: Option<(&Executor, NodeId, &Forms)>) -> Result<()> {
    source.flush().await?;
    let (mut failure, mut is_first) = (None, true);
    while source.owes() {
        let (frame, verdict) = source.next_reply().await?;
        match (verdict, frame.tag) {
            (Verdict::Error(_), _) => {
                failure.get_or_insert(PgError::from_body(frame.payload()));
            }
            (_, b'd') if failure.is_none() => {
                let begin = if std::mem::take(&mut is_first) { HEADER_LEN } else { 0 };
                let own = match names {
                    None => None,
                    Some((executor, node, forms)) => {
                        let mut own = frame.payload().to_vec();
                        let replace = executor.object_ids.replace(&executor.catalog, Way::From(node), |look| {
                            replace_in_tuples(own.get_mut(begin..).unwrap_or_default(), forms, look);
                        });
                        Box::pin(replace).await;
                        Some(own)
                    }
                };
                for piece in own.as_deref().unwrap_or(frame.payload()).chunks(WRITE_LEN) {
                    frontend::copy_data(piece, target.queue());
                    if target.queue().len() >= WRITE_LEN {
                        target.flush().await?;
                    }
                }
            }
            _ => {}
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Of binary COPY data; it comes in one message with the first row.
const HEADER_LEN: usize = super::combine::COPY_HEADER.len();
const WRITE_LEN: usize = 64 * 1024;
