//! COPY table TO STDOUT: shard after shard, as one stream. Long rows pass in pieces, so that they take no memory.

use std::collections::VecDeque;

use bytes::BufMut;

use super::combine::COPY_TRAILER;
use super::object_ids::{Forms, Way};
use super::relay::{Routed, STREAM_LEN, in_the_users_terms, stream_rest};
use super::{Client, Executor, Transaction};
use crate::backend::{Server, quote_ident};
use crate::error::{PgError, Result};
use crate::planner::{CopyFormat, CopyOptions};
use crate::shard_map::{NodeId, ShardGroupId, Table};
use crate::wire::nested_oids::replace_in_tuples;
use crate::wire::reply_queue::{To, Verdict};
use crate::wire::{answer, frame, frontend, rows};

/// Streams a distributed table to the client. Returns the number of rows.
pub async fn copy_table(
    txn: &mut Transaction,
    client: &mut Client,
    table: &Table,
    columns: &[String],
    options: &CopyOptions,
) -> Result<u64> {
    let map = txn.map();
    let mut colocation = map.colocation(table.colocation).ok_or_else(super::stale_plan)?.clone();
    let binary = options.format == CopyFormat::Binary;
    let executor = txn.executor.clone();
    let forms = match binary {
        true => Box::pin(executor.object_ids.forms_of_columns(&executor.catalog, table, columns)).await,
        false => None,
    };
    let quoted: Vec<_> = columns.iter().map(|c| quote_ident(c)).collect();
    let mut count = 0;
    let mut waiting: VecDeque<ShardGroupId> = colocation.shard_groups.iter().map(|g| g.id).collect();
    let mut at = 0;
    while let Some(id) = waiting.front().copied() {
        txn.enter(&[id]).await?;
        // As the map is now: a hold may have ended because the group is elsewhere.
        let map = txn.map();
        let now = map.colocation(table.colocation).ok_or_else(super::stale_plan)?;
        let Some(group) = now.group(id) else {
            waiting = waiting.into_iter().flat_map(|id| colocation.successors(id, now)).collect();
            colocation = now.clone();
            continue;
        };
        waiting.pop_front();
        let mut schema = String::new();
        crate::sql::push_shard_schema(&mut schema, &table.schema, group.id);
        let header = options.header && at == 0;
        let sql = format!(
            "COPY {schema}{} ({}) TO STDOUT {}",
            quote_ident(&table.name),
            quoted.join(", "),
            if header { options.whole_text() } else { options.text.clone() }
        );
        if txn.may_be_older(group.node, group.id) {
            txn.check_sees(group.node, group.id).await?;
        }
        let participant = txn.join(group.node).await?;
        participant.groups.push(group.id);
        let server = &mut participant.server;
        server.queue_query(&sql, To::Nobody);
        server.flush().await?;
        let forms = forms.as_ref().map(|forms| (&*executor, group.node, forms));
        let stream = Stream { first: at == 0, binary, columns: columns.len(), forms };
        let copied = one_shard(server, client, stream, group.id).await?;
        participant.statements += 1;
        match copied {
            Ok(rows) => {
                count += rows;
                at += 1;
            }
            Err(error) => {
                txn.failed = true;
                return Err(error);
            }
        }
    }
    if binary {
        frontend::copy_data(COPY_TRAILER, client.out());
    }
    frontend::copy_done(client.out());
    Ok(count)
}

#[derive(Clone, Copy)]
struct Stream<'s> {
    first: bool,
    binary: bool,
    columns: usize,
    /// Where binary values name types: the node's, which become the coordinator's.
    forms: Option<(&'s Executor, NodeId, &'s Forms)>,
}

impl Stream<'_> {
    /// How much of a shard's message is a header that the client has already.
    fn header_len(self, is_first_message: bool) -> usize {
        if self.binary && !self.first && is_first_message { BINARY_HEADER_LEN } else { 0 }
    }

    /// A message's data, `begin` bytes of which are a header.
    async fn translate(self, data: &[u8], begin: usize) -> Option<Vec<u8>> {
        let (executor, node, forms) = self.forms?;
        let mut own = data.to_vec();
        let replace = executor.object_ids.replace(&executor.catalog, Way::From(node), |look| {
            replace_in_tuples(own.get_mut(begin..).unwrap_or_default(), forms, look);
        });
        Box::pin(replace).await;
        Some(own)
    }
}

/// The outer error is a connection's, the inner one the statement's.
async fn one_shard(
    server: &mut Server,
    client: &mut Client,
    stream: Stream<'_>,
    group: ShardGroupId,
) -> Result<Result<u64>> {
    let (mut count, mut failure, mut first_message) = (0, None, true);
    while server.owes() {
        let header = server.next_header().await?;
        if header.tag == b'd' && header.len > STREAM_LEN && stream.forms.is_none() {
            pass_long_row(server, client, header, stream.header_len(first_message)).await?;
            first_message = false;
            continue;
        }
        let (frame, verdict) = server.next_reply().await?;
        match (verdict, frame.tag) {
            (Verdict::Error(_), _) => {
                let error = PgError::from_body(frame.payload());
                failure.get_or_insert(in_the_users_terms(error, Routed { group: Some(group), ..Routed::default() }));
            }
            (_, b'H') if stream.first => answer::copy_out_response(stream.binary, stream.columns, client.out()),
            (_, b'd') => {
                let data = frame.payload();
                let data = data.get(stream.header_len(first_message)..).unwrap_or(&[]);
                let begin = if first_message && stream.first { BINARY_HEADER_LEN } else { 0 };
                let own = stream.translate(data, begin).await;
                let data = own.as_deref().unwrap_or(data);
                first_message = false;
                let data = if stream.binary {
                    data.strip_suffix(COPY_TRAILER).filter(|_| is_trailer(data)).unwrap_or(data)
                } else {
                    data
                };
                if !data.is_empty() {
                    frontend::copy_data(data, client.out());
                    client.flush_if_long().await?;
                }
            }
            (_, b'C') => count += rows::tag_rows(frame.payload()),
            _ => {}
        }
    }
    Ok(failure.map_or(Ok(count), Err))
}

/// The message at the start of what was received is passed on in pieces, without the first `cut` bytes of its data.
async fn pass_long_row(server: &mut Server, client: &mut Client, header: frame::Header, cut: usize) -> Result<()> {
    server.judge(header.tag, &[])?;
    let begin = frame::HEADER_LEN + cut;
    while server.received().len() < begin {
        server.receive().await?;
    }
    server.consume(begin);
    client.out().put_u8(header.tag);
    // The length counts itself, and not the tag.
    client.out().put_u32((header.len - 1 - cut) as u32);
    stream_rest(server, client, header.len - begin, true).await?;
    client.flush_if_long().await
}

/// Postgres sends the trailer in a message of its own, behind the header when there are no rows.
fn is_trailer(data: &[u8]) -> bool {
    data.len() == COPY_TRAILER.len()
        || data.len() == BINARY_HEADER_LEN + COPY_TRAILER.len() && data.starts_with(b"PGCOPY")
}

const BINARY_HEADER_LEN: usize = 19;
