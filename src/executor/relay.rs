//! Relays one server's answer to the client without decoding rows.
//!
//! ```text
//!   client <── Client::out ◄── relay ◄── Server
//!                                └─ looks at: E error, Z ready, S setting, G copy in
//! ```
//!
//! Frames that nobody asked for (a hidden Parse, BEGIN, settings) are swallowed; ReadyForQuery always is: the session
//! says when the client's turn has come.

use bytes::BytesMut;

use super::Executor;
use super::client::{Client, Mark};
use super::moved;
use super::object_ids::Forms;
use crate::backend::Server;
use crate::error::{PgError, Result, Severity, SqlState};
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};
use crate::sql::Spliced;
use crate::wire::reply_queue::{Reply, To, Verdict};
use crate::wire::{answer, frame};

/// What is known of the statement whose answer is relayed.
#[derive(Clone, Copy, Default)]
pub struct Routed<'a> {
    /// The shard group it was spliced for.
    pub group: Option<ShardGroupId>,
    /// Those that the server has been used for: statements of a pipeline before this one may have failed.
    pub used: &'a [ShardGroupId],
    /// Its text, to give error positions in the user's terms.
    pub query: Option<&'a Spliced>,
    /// Where the answer of everything that can be repeated began; `None`: nothing may be repeated.
    pub repeat_from: Option<Mark>,
    /// The worker that answers, to tell of its tables and types by the coordinator's OIDs.
    pub worker: Option<(NodeId, &'a Executor)>,
    /// It may write, and outside of a block: nobody but its server knows whether it is committed.
    pub commits_itself: bool,
}

/// How it ended.
#[derive(Debug, Default)]
pub struct Relayed {
    /// An error went to the client.
    pub error: Option<SqlState>,
    /// Nothing went to the client; the statement may be run again.
    pub retry: Option<Retry>,
    /// What the error answered: a hidden Parse failed, for one.
    pub failed_reply: Option<Reply>,
    /// How many ParseComplete went to the client.
    pub parsed: usize,
    /// How many CloseComplete of the proxy's own did.
    pub closed: usize,
    /// The server waits for COPY data of the client; call again when it is on its way.
    pub copy_in: bool,
}

/// Why a statement may be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The shard group is not there (any more): the map is old.
    Fenced,
    /// "cached plan must not change result type": parse again.
    StalePlan,
}

/// Relays until nothing is due, or until the server wants COPY data.
///
/// Errors: only a lost connection, on either side; 40003 when the server may have committed what was asked of it. A
/// server's error is relayed, and named in `Relayed`.
pub async fn relay(server: &mut Server, client: &mut Client, routed: Routed<'_>) -> Result<Relayed> {
    let relayed = relay_answers(server, client, routed).await;
    match relayed {
        Err(lost) if routed.commits_itself && server.may_have_ended() => Err(completion_unknown(&lost)),
        relayed => relayed,
    }
}

fn completion_unknown(lost: &PgError) -> PgError {
    let message = "the connection to a node was lost before the statement was confirmed";
    let why = lost.detail_text().unwrap_or(lost.message());
    PgError::new(SqlState::STATEMENT_COMPLETION_UNKNOWN, message)
        .detail(why.to_owned())
        .hint("It may have been carried out: look before running it again.")
}

async fn relay_answers(server: &mut Server, client: &mut Client, routed: Routed<'_>) -> Result<Relayed> {
    server.flush().await?;
    let mut relayed = Relayed::default();
    let mut was_clients = false;
    // Of the rows behind the last RowDescription, where their values name types.
    let mut forms: Option<Forms> = None;
    loop {
        while server.owes() {
            if let Some(answer) = server.pop_simulated() {
                if relayed.retry.is_none() {
                    relayed.parsed += usize::from(answer.first() == Some(&b'1'));
                    relayed.closed += usize::from(answer.first() == Some(&b'3'));
                    client.out().extend_from_slice(&answer);
                }
                continue;
            }
            // Most of what servers say is rows: they go by many at once.
            if let Some((to, rows)) = server.received_rows() {
                was_clients = to == To::Client;
                if was_clients && relayed.retry.is_none() {
                    client.out().extend_from_slice(&server.received()[..rows]);
                    translate_rows(client, rows, &forms, routed).await;
                }
                server.consume(rows);
                client.flush_if_full().await?;
                continue;
            }
            let Some(header) = server.received_header()? else { break };
            let whole = server.received().len() >= header.len;
            let streams = matches!(header.tag, b'D' | b'd') && header.len > STREAM_LEN && forms.is_none();
            if !whole && !streams {
                break;
            }
            let take = header.len.min(server.received().len());
            let verdict = server.judge_received(header.tag, take)?;
            let forward = match verdict {
                Verdict::Part(due) | Verdict::Last(due) => {
                    if header.tag == b'G' && due.to == To::Client {
                        relayed.copy_in = true;
                    }
                    was_clients = due.to == To::Client;
                    was_clients
                }
                Verdict::Ready(_) => false,
                // They have their place before the client's turn, and are not taken back with an answer.
                Verdict::Async if header.tag == b'A' => {
                    server.keep_notification(take);
                    continue;
                }
                // The client's settings, that is: they are reported behind the answer, before its Sync's.
                Verdict::Async => {
                    header.tag != b'S' || server.front_is_clients() || was_clients && server.front_is_sync()
                }
                Verdict::Error(due) => {
                    relayed.failed_reply.get_or_insert(due.reply);
                    let error = PgError::from_body(&server.received()[frame::HEADER_LEN..take]);
                    server.consume(take);
                    note_error(error, client, routed, &mut relayed);
                    if server.is_poisoned() {
                        // FATAL: the server closes now, and there is no ReadyForQuery to wait for.
                        return Ok(relayed);
                    }
                    continue;
                }
                Verdict::Demand => false,
                Verdict::OutOfStep => unreachable!("judge turns it into an error"),
            };
            let forward = forward && relayed.retry.is_none();
            if forward {
                relayed.parsed += usize::from(header.tag == b'1');
                client.out().extend_from_slice(&server.received()[..take]);
                if header.tag == b'S' {
                    client.note_parameter(&server.received()[frame::HEADER_LEN..take]);
                }
                if let (b'T', Some((node, executor))) = (header.tag, routed.worker) {
                    let start = client.out().len() - take;
                    forms = executor.object_ids.translate(&executor.catalog, node, client.out(), start).await;
                }
            } else if let (b'T', Some((node, executor))) = (header.tag, routed.worker) {
                // Asked for to know what the rows are.
                let mut described = BytesMut::from(&server.received()[..take]);
                forms = executor.object_ids.translate(&executor.catalog, node, &mut described, 0).await;
            }
            if matches!(header.tag, b'C' | b's' | b'I') {
                forms = None;
            }
            server.consume(take);
            stream_rest(server, client, header.len - take, forward).await?;
            client.flush_if_full().await?;
            if relayed.copy_in {
                client.flush().await?;
                return Ok(relayed);
            }
        }
        if !server.owes() {
            return Ok(relayed);
        }
        client.flush_if_long().await?;
        server.receive().await?;
        if relayed.retry.is_none()
            && let Some(whole) = server.whole_answer()
        {
            let start = client.out().len();
            client.out().extend_from_slice(&server.received()[whole.for_client.clone()]);
            server.consume(server.received().len());
            if let (Some(description), Some((node, executor))) = (whole.description, routed.worker) {
                let start = start + description - whole.for_client.start;
                forms = executor.object_ids.translate(&executor.catalog, node, client.out(), start).await;
                let len = client.out().len() - start;
                translate_rows(client, len, &forms, routed).await;
            }
            relayed.parsed += whole.parsed;
            return Ok(relayed);
        }
    }
}

/// Gives the last `len` bytes of what goes to the client, which are whole frames, the coordinator's OIDs.
async fn translate_rows(client: &mut Client, len: usize, forms: &Option<Forms>, routed: Routed<'_>) {
    if let (Some(forms), Some((node, executor))) = (forms, routed.worker) {
        let start = client.out().len() - len;
        executor.object_ids.translate_rows(&executor.catalog, node, forms, &mut client.out()[start..]).await;
    }
}

/// The rest of a frame too long to be held in memory.
pub(super) async fn stream_rest(
    server: &mut Server,
    client: &mut Client,
    mut rest: usize,
    forward: bool,
) -> Result<()> {
    while rest > 0 {
        if server.received().is_empty()
            && let Err(lost) = server.receive().await
        {
            if forward {
                client.tear();
            }
            return Err(lost);
        }
        let take = rest.min(server.received().len());
        if forward {
            client.out().extend_from_slice(&server.received()[..take]);
            client.flush_if_long().await?;
        }
        server.consume(take);
        rest -= take;
    }
    Ok(())
}

fn note_error(error: PgError, client: &mut Client, routed: Routed<'_>, relayed: &mut Relayed) {
    if relayed.retry.is_some() {
        return;
    }
    if let (Some(retry), Some(mark)) = (retry_for(&error, routed), routed.repeat_from)
        && relayed.error.is_none()
        && client.rewind(mark)
    {
        relayed.retry = Some(retry);
        return;
    }
    if is_of_missing_shard(&error, routed) {
        // What the transaction has done on this server cannot be done elsewhere.
        relayed.error.get_or_insert(SqlState::SERIALIZATION_FAILURE);
        answer::error(&moved(), client.out());
        client.has_met_old_map = true;
        return;
    }
    if let Some(gone) = error_of_gone_copy(&error, routed) {
        relayed.error.get_or_insert(gone.code());
        answer::error(&gone, client.out());
        client.has_met_old_map = true;
        return;
    }
    relayed.error.get_or_insert(error.code());
    // A node's FATAL ends its connection, not the client's session.
    let error = in_the_users_terms(error, routed).with_severity(Severity::Error);
    answer::error(&error, client.out());
}

/// Does this error say that the statement did nothing and may do it elsewhere, or again?
fn retry_for(error: &PgError, routed: Routed<'_>) -> Option<Retry> {
    match error.code() {
        SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME if named_group(error, routed).is_some() => {
            Some(Retry::Fenced)
        }
        SqlState::SERIALIZATION_FAILURE if is_of_another_kind(error) => Some(Retry::Fenced),
        SqlState::FEATURE_NOT_SUPPORTED if error.message() == "cached plan must not change result type" => {
            Some(Retry::StalePlan)
        }
        _ if error_of_gone_copy(error, routed).is_some() => Some(Retry::Fenced),
        _ => None,
    }
}

/// Did the server not find the shard that the statement was routed to? An error of code that the statement runs has a
/// context.
fn is_of_missing_shard(error: &PgError, routed: Routed<'_>) -> bool {
    let is_missing = matches!(error.code(), SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME);
    is_missing && error.context().is_none() && named_group(error, routed).is_some()
}

fn error_of_gone_copy(error: &PgError, routed: Routed<'_>) -> Option<PgError> {
    routed.worker.and_then(|_| of_gone_copy(error, routed.query?))
}

/// What is told instead of a worker's error that it has no copy of a reference table, which the statement names: the table has become
/// a local one, or is gone. Code that the statement runs may name what is nowhere: its errors have a context.
pub fn of_gone_copy(error: &PgError, query: &Spliced) -> Option<PgError> {
    if error.code() != SqlState::UNDEFINED_TABLE || error.context().is_some() {
        return None;
    }
    let relation = error.message().strip_prefix("relation \"")?.strip_suffix("\" does not exist")?;
    let (_, name) = relation.rsplit_once('.')?;
    query.puts_schema_before(relation).then(|| local_meanwhile(name))
}

/// The shard group whose schema the error names.
fn named_group(error: &PgError, routed: Routed<'_>) -> Option<ShardGroupId> {
    let mut groups = routed.group.iter().chain(routed.used);
    groups.find(|group| error.message().contains(&format!("_{group}"))).copied()
}

/// The shard group in whose schema the table stands that the error tells of; not always that of the last statement, nor is
/// one known for a portal that was bound before a Flush.
fn group_of_table(error: &PgError, routed: Routed<'_>) -> Option<ShardGroupId> {
    let schema = error.fields().find_map(|(key, value)| (key == b's').then_some(value))?;
    let mut groups = routed.group.iter().chain(routed.used);
    groups.find(|group| schema.ends_with(&format!("_{group}"))).copied()
}

/// What a table's shell says (`tenantry.refuse_shell_write`) to a proxy that takes it for a local table.
pub fn distributed_meanwhile() -> PgError {
    PgError::new(SqlState::SERIALIZATION_FAILURE, format!("a table that the statement names {DISTRIBUTED_MEANWHILE}"))
        .hint("Retry the statement.")
}

/// As `distributed_meanwhile`, when a reference table's copies are gone.
pub fn local_meanwhile(table: &str) -> PgError {
    PgError::new(SqlState::SERIALIZATION_FAILURE, format!("table \"{table}\" {LOCAL_MEANWHILE}"))
        .hint("Retry the statement.")
}

fn is_of_another_kind(error: &PgError) -> bool {
    let ends = [DISTRIBUTED_MEANWHILE, LOCAL_MEANWHILE];
    error.code() == SqlState::SERIALIZATION_FAILURE && ends.iter().any(|end| error.message().ends_with(end))
}

/// Does the error say that a shard of `map` is not where it was looked for, or that a table is not of its kind any more?
pub fn names_moved_shard(error: &PgError, map: &ShardMap) -> bool {
    if is_of_another_kind(error) {
        return true;
    }
    matches!(error.code(), SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)
        && error.message().split('_').skip(1).any(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().is_ok_and(|id| map.may_have_had_group(ShardGroupId(id)))
        })
}

/// The error without the shard's schema in its text, and with the position in the text that the user wrote.
pub fn in_the_users_terms(error: PgError, routed: Routed<'_>) -> PgError {
    let named = named_group(&error, routed).or_else(|| group_of_table(&error, routed));
    let Some(group) = named.or(routed.group) else { return error };
    let suffix = format!("_{group}");
    error.map_fields(|key, value| match key {
        b'M' | b'D' | b'H' | b'W' | b's' => value.replace(&suffix, ""),
        b'P' => match (routed.query, value.parse::<usize>()) {
            (Some(query), Ok(position)) if named.is_none() || named == routed.group => {
                query.original_position(routed.group, position).to_string()
            }
            _ => value,
        },
        _ => value,
    })
}

const DISTRIBUTED_MEANWHILE: &str = "has been distributed meanwhile";
const LOCAL_MEANWHILE: &str = "has become a local table meanwhile";
/// Rows longer than this are passed on in pieces.
pub(super) const STREAM_LEN: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constraints_table_stands_in_the_users_schema() {
        let used = [ShardGroupId(102_009), ShardGroupId(102_010)];
        let [last, other] = used;
        let duplicate =
            |group| PgError::new(SqlState::UNIQUE_VIOLATION, "duplicate").field(b's', format!("shop_{group}"));
        let told = |routed| {
            let error = in_the_users_terms(duplicate(other), routed);
            error.fields().find_map(|(key, schema)| (key == b's').then(|| schema.to_owned()))
        };
        // The portal was bound before a Flush, or another statement has been bound since.
        for group in [None, Some(last), Some(other)] {
            let routed = Routed { group, used: &used, ..Routed::default() };
            assert_eq!(told(routed).as_deref(), Some("shop"), "{group:?}");
        }
    }
}
