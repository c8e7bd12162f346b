//! The simple query protocol: one text, one or several statements.

use std::time::{Duration, Instant};

use super::place::Place;
use super::run::Session;
use crate::backend::Frame;
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::Request;
use crate::executor::{Kind, Limit, Relayed, Retry, Routed, moved, relay};
use crate::planner::{Plan, SessionCommand};
use crate::sql::{lexer, statements};
use crate::transport::timer;
use crate::wire::answer;
use crate::wire::frontend::{self, Bind};
use crate::wire::reply_queue::To;

impl Session {
    pub async fn simple_query(&mut self, frame: Frame) -> Result<()> {
        if self.batch.is_open() {
            // A Query without a Sync before it ends the extended protocol's implicit transaction.
            if !self.end_batch_before_query().await? {
                return Ok(());
            }
            if !self.replay.is_empty() {
                self.replay.push_back(frame);
                return Ok(());
            }
        }
        self.forget_unnamed();
        match self.simple_query_text(&frame).await {
            Ok(()) => {}
            Err(error) => {
                let error = match frontend::read_query(frame.payload()) {
                    Ok(text) => Box::pin(self.refusal(text, error)).await,
                    Err(_) => error,
                };
                self.fail_unit(error).await?;
            }
        }
        self.ready().await
    }

    /// A Query has a statement and a portal without a name of its own.
    /// Source: PostgreSQL src/backend/tcop/postgres.c, exec_simple_query().
    pub(super) fn forget_unnamed(&mut self) {
        self.statements.remove(b"");
        self.portals.remove(b"");
    }

    /// An error that ends the unit: what the proxy began by itself is rolled back.
    pub async fn fail_unit(&mut self, error: PgError) -> Result<()> {
        self.put_notices();
        self.fail(error)?;
        self.end_unit(false).await
    }

    async fn simple_query_text(&mut self, frame: &Frame) -> Result<()> {
        let text = frontend::read_query(frame.payload())?;
        if let Some(statement) = only_statement(text) {
            return self.simple_statement_with_retry(statement).await;
        }
        let tokens = lexer::lex(text, true)?;
        let mut parts = statements::split(text, &tokens);
        if parts.is_empty() {
            answer::empty_query(self.client.out());
            return Ok(());
        }
        if parts.len() == 1 {
            let range = parts.remove(0);
            return self.simple_statement_with_retry(&text[range.text]).await;
        }
        // Several statements are one transaction, unless they say otherwise.
        for range in parts {
            if self.transaction.is_none() {
                self.begin(Kind::Implicit, "");
            }
            self.keep_servers_alike().await;
            let statement = &text[range.text];
            if !self.simple_statement_with_retry(statement).await.map(|()| self.is_alive())? {
                break;
            }
        }
        let succeeded = self.is_alive();
        self.commit_unit(succeeded).await
    }

    /// Ends the unit. Nothing is complete that cannot be committed: as in Postgres, the error comes instead of the last statement's
    /// tag.
    async fn commit_unit(&mut self, succeeded: bool) -> Result<()> {
        let ended = self.end_unit(succeeded).await;
        if ended.is_err() && succeeded {
            answer::take_back_completion(self.client.out());
        }
        ended
    }

    fn is_alive(&self) -> bool {
        self.transaction.as_ref().is_none_or(|t| !t.failed)
    }

    /// Runs a statement again when the map was old: the client sees a delay.
    async fn simple_statement_with_retry(&mut self, text: &str) -> Result<()> {
        self.again_within = None;
        loop {
            let mark = self.client.mark();
            let version = self.map_version();
            let was_joined = self.transaction.as_mut().is_some_and(|t| !t.is_single && !t.participants().is_empty());
            let outcome = self.simple_statement(text).await;
            let again = match &outcome {
                Ok(Some(retry)) => Some(*retry),
                Ok(None) => return self.end_single().await,
                // Several servers may have done parts of it: it can be undone only where it was the first to use any.
                Err(error) if !was_joined && self.is_fenced(error) && self.client.rewind(mark) => Some(Retry::Fenced),
                Err(_) => None,
            };
            let undo = if outcome.is_err() { Undo::Everything } else { Undo::Fresh };
            let Some(retry) = again else {
                return outcome.map(|_| ()).map_err(|error| self.as_told(error));
            };
            if retry == Retry::StalePlan {
                Box::pin(self.forget_prepared()).await;
            }
            if !Box::pin(self.prepare_retry(retry, undo, version)).await? {
                return match outcome {
                    Err(error) => Err(error),
                    Ok(_) => Err(moved()),
                };
            }
        }
    }

    async fn end_single(&mut self) -> Result<()> {
        self.put_notices();
        match &self.transaction {
            Some(txn) if txn.is_single => self.commit_unit(true).await,
            _ => Ok(()),
        }
    }

    async fn simple_statement(&mut self, text: &str) -> Result<Option<Retry>> {
        self.note_opaque_code(text);
        self.await_table_holds(text).await?;
        self.refuse_shadowed(text).await?;
        let bind = Bind::default();
        let request = Request { bind: &bind, types: &[], describe: true };
        let place = match self.place_by_shape(text).await? {
            Some(place) => place,
            None => {
                let plan = self.plan(text)?;
                if !plan.may_follow_failure() {
                    self.refuse_if_failed()?;
                }
                match self.place_at_once(&plan, request) {
                    Some(place) => place,
                    None => Box::pin(self.place(&plan, text, request, None)).await?,
                }
            }
        };
        match place {
            Place::Server { node, group, query, .. } => {
                self.join_for_group(node, group).await?;
                let sql = query.render(group);
                let repeat_from = self.repeat_from(node);
                let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                participant.groups.extend(group.filter(|g| !participant.groups.contains(g)));
                participant.server.queue_query(&sql, To::Client);
                let routed = Routed { group, query: Some(&query), repeat_from, ..Routed::default() };
                let relayed = self.relay_with_copy(node, routed).await?;
                self.note_relayed(node, &relayed);
                Ok(relayed.retry)
            }
            Place::Virtual(plan) => match &*plan {
                Plan::Session(SessionCommand::Execute { name, arguments }) => {
                    Box::pin(self.execute_prepared(name, arguments, request)).await
                }
                plan => self.run_virtual(plan, text, request).await.map(|()| None),
            },
        }
    }

    /// Relays what one server answers, feeding it the client's COPY data where it asks for some.
    pub async fn relay_with_copy(&mut self, node: crate::shard_map::NodeId, routed: Routed<'_>) -> Result<Relayed> {
        loop {
            let txn = self.transaction.as_mut().expect("a server takes part");
            let commits_itself = txn.commits_itself();
            let participant = txn.participant(node).expect("it takes part");
            let worker = (!node.is_coordinator()).then_some((node, &*self.thread.executor));
            let routed = Routed { used: &participant.groups, worker, commits_itself, ..routed };
            let relayed = relay(&mut participant.server, &mut self.client, routed).await?;
            if !relayed.copy_in {
                return Ok(relayed);
            }
            let ends_sync = participant.server.forget_sync();
            self.batch.sync_is_swallowed |= ends_sync;
            let is_extended = self.batch.is_open();
            loop {
                let next = match self.replay.pop_front() {
                    Some(frame) => Ok(Some(frame)),
                    None => self.client.next_copy_frame().await,
                };
                let Some(frame) = next.inspect_err(|_| participant.server.poison())? else {
                    participant.server.poison();
                    return Err(PgError::fatal(
                        SqlState::CONNECTION_FAILURE,
                        "unexpected EOF on client connection with an open transaction",
                    ));
                };
                if !matches!(frame.tag, b'd' | b'c' | b'f' | b'H' | b'S') {
                    participant.server.poison();
                    return Err(PgError::fatal(
                        SqlState::PROTOCOL_VIOLATION,
                        format!("unexpected message type 0x{:02X} during COPY from stdin", frame.tag),
                    ));
                }
                // Flush and Sync mean nothing here. They are not passed on: a server that has left the COPY by an error
                // would answer the Sync.
                if matches!(frame.tag, b'H' | b'S') {
                    continue;
                }
                participant.server.queue().extend_from_slice(&frame.bytes);
                if matches!(frame.tag, b'c' | b'f') {
                    if is_extended {
                        // With its Sync swallowed the server would keep the answer until the next one.
                        participant.server.queue_flush();
                    }
                    break;
                }
                if participant.server.queue().len() > COPY_WRITE_LEN {
                    participant.server.flush().await?;
                }
            }
        }
    }

    /// Where the answer may be taken back to, when the statement can be repeated on another server.
    pub fn repeat_from(&self, node: crate::shard_map::NodeId) -> Option<crate::executor::Mark> {
        let txn = self.transaction.as_ref()?;
        (txn.is_single || txn.is_fresh(node)).then(|| self.client.mark())
    }

    pub fn note_relayed(&mut self, node: crate::shard_map::NodeId, relayed: &Relayed) {
        if let Some(code) = relayed.error {
            self.thread.metrics.error(code);
        }
        let Some(txn) = &mut self.transaction else { return };
        if relayed.error.is_some() {
            txn.failed = true;
        }
        if relayed.retry.is_none()
            && let Some(participant) = txn.participant(node)
        {
            participant.statements += 1;
        }
    }

    /// Gets ready to run the unit again. False when it cannot be, or when the request is older than a hold may be.
    ///
    /// Errors: 55P03 and 57014 when the client waits no longer; the catalog's.
    pub async fn prepare_retry(&mut self, retry: Retry, undo: Undo, version: u64) -> Result<bool> {
        self.thread.metrics.repeats.increment(1);
        // A standby may not have heard of the shard yet.
        self.avoids_replicas |=
            retry == Retry::Fenced && self.transaction.as_ref().is_some_and(|t| t.read_from.is_replicas());
        match &mut self.transaction {
            None => {}
            Some(txn) if txn.is_single && !self.batch.has_checkpoint => {
                txn.rollback().await?;
                self.close_transaction();
            }
            Some(txn) => {
                // The servers that did nothing yet leave; the others keep what they have done.
                let leaves = |p: &&crate::executor::Participant| undo == Undo::Everything || p.statements == 0;
                let fresh: Vec<_> = txn.participants().iter().filter(leaves).map(|p| p.node).collect();
                // A statement that waited for a held table has begun nowhere: there is nothing to undo.
                if fresh.is_empty() && !txn.participants().is_empty() {
                    self.client.has_met_old_map = true;
                    return Ok(false);
                }
                for node in fresh {
                    txn.leave(node).await?;
                }
                txn.failed = false;
            }
        }
        if retry == Retry::StalePlan {
            return Ok(true);
        }
        let deadline = self.requested.unwrap_or_else(Instant::now) + self.thread.executor.settings.load().hold_timeout;
        if Instant::now() >= deadline {
            return Ok(false);
        }
        let limit = self.limit_of_repeats();
        let catalog = &self.thread.shared.catalog;
        let newer = async {
            // A coordinator that does not answer must not keep the client for longer than a move may.
            let Ok(map) = timer::timeout_at(deadline.into(), catalog.refresh()).await else { return Ok(false) };
            if map?.version() == version {
                // Fenced, but not switched yet: the mover is between the two.
                let soon = Instant::now() + RETRY_PAUSE;
                catalog.changed_since(version, soon.min(deadline).into()).await;
            }
            Ok(true)
        };
        match limit {
            Some(limit) => limit.during(newer).await?,
            None => newer.await,
        }
    }

    /// As for a lock, from the first attempt on. Nobody is asked, who might be away as the shard is.
    fn limit_of_repeats(&mut self) -> Option<Limit> {
        if self.again_within.is_none() {
            let is_alone = self.transaction.is_none();
            self.again_within = self.txn().patience_at_hand().map(|patience| Box::new(patience.begin()));
            if is_alone {
                self.end_auto();
            }
        }
        self.again_within.as_deref().copied()
    }

    /// As `prepare_retry`; what the client is to be told when the unit cannot be run again.
    pub(super) async fn cannot_repeat(&mut self, retry: Retry, undo: Undo, version: u64) -> Option<PgError> {
        match self.prepare_retry(retry, undo, version).await {
            Ok(true) => None,
            Ok(false) => Some(moved()),
            Err(error) => Some(error),
        }
    }

    /// When the client's statement, which begins to wait now, waits no longer.
    pub(super) async fn limit_of_wait(&mut self) -> Result<Limit> {
        let is_alone = self.transaction.is_none();
        let patience = Box::pin(self.txn().patience()).await;
        if is_alone {
            self.end_auto();
        }
        Ok(patience?.begin())
    }

    /// Is this a node's word that a shard is not there (any more)?
    pub fn is_fenced(&self, error: &PgError) -> bool {
        crate::executor::names_moved_shard(error, &self.map())
    }

    /// An error that ends the statement, as the client is told of it: that a shard is not where it was is no missing table.
    pub fn as_told(&mut self, error: PgError) -> PgError {
        let is_missing = error.code() != SqlState::SERIALIZATION_FAILURE && self.is_fenced(&error);
        self.client.has_met_old_map |= is_missing;
        if is_missing { moved() } else { error }
    }
}

/// What is taken back before a statement is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// What all servers of the transaction have done.
    Everything,
    /// Only servers that have done nothing yet leave.
    Fresh,
}

/// The statement of a text that has no semicolon but perhaps one at its end: told without a lexer.
pub(super) fn only_statement(text: &str) -> Option<&str> {
    match memchr::memchr(b';', text.as_bytes()) {
        None => Some(text),
        Some(at) => text[at + 1..].trim_ascii().is_empty().then_some(&text[..at]),
    }
}

const COPY_WRITE_LEN: usize = 64 * 1024;
const RETRY_PAUSE: Duration = Duration::from_millis(20);
