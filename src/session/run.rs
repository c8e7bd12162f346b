//! One client's session: its state, and the loop over its frames. It begins in arrival.rs.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::cancel_keys::CancelKey;
use super::defaults::Defaults;
use super::ending::End;
use super::greeting::Greetings;
use super::load::RequestLoad;
use super::log::Asked;
use super::metrics::Metrics;
use super::notices::Hears;
use super::plan_cache::PlanCache;
use super::portals::Portals;
use super::presence::Present;
use super::shadows::Shadows;
use super::shapes::Shapes;
use super::statements::Statements;
use super::tally::Tally;
use super::{Ending, Shared};
use crate::backend::{Frame, Identity, PooledServer, SessionSettings, SharedSettings};
use crate::error::{PgError, Result, Severity, SqlState};
use crate::executor::loads::Meter;
use crate::executor::{Client, Executor, FirstTimeouts, Kept, Kind, Limit, Origin, PoolsAtHand, Transaction};
use crate::operations::sequences;
use crate::planner::{ReadFrom, Sequences};
use crate::shard_map::ShardMap;
use crate::transport::timer;
use crate::wire::answer::{self, Status};

/// What the sessions of one data thread share.
pub struct Thread {
    pub shared: Arc<Shared>,
    pub executor: Rc<Executor>,
    pub plans: PlanCache,
    pub shapes: Shapes,
    pub metrics: Metrics,
    pub tally: Arc<Tally>,
    pub meter: Rc<Meter>,
    pub settings: SharedSettings,
    pub greetings: Greetings,
}

pub struct Session {
    pub thread: Rc<Thread>,
    pub client: Client,
    pub identity: Rc<Identity>,
    pub pools: PoolsAtHand,
    pub cancel: CancelKey,
    pub presence: Present,
    /// When the request under way came, and the transaction's first.
    pub requested: Option<Instant>,
    /// A cancel request reaches the statement already that is about to get its server.
    pub has_begun: bool,
    pub transaction_requested: Instant,
    /// When its answer was over, where that is known already.
    pub answered: Option<Instant>,
    pub load: RequestLoad,
    /// From this length on the request under way is logged, as what was asked.
    pub slow_after: Option<Duration>,
    pub asked: Asked,
    pub settings: SessionSettings,
    /// Those of the startup packet, which RESET goes back to.
    pub startup_settings: SessionSettings,
    pub(super) defaults: Defaults,
    /// Its timeouts for as long as it sets none.
    pub first: Rc<FirstTimeouts>,
    /// How long the statement that is run again waits for its shard.
    pub again_within: Option<Box<Limit>>,
    /// Schemas of search_path, `"$user"` replaced.
    pub search_path: Rc<[String]>,
    /// search_path was set inside the transaction: read it again when that has ended.
    pub search_path_is_local: bool,
    /// Whom it has asked to have its reads answered by.
    pub read_from: ReadFrom,
    pub hears: Hears,
    /// It has set settings of Tenantry's own, which others need not be asked for.
    pub sets_own: bool,
    /// A standby did not have what the request under way reads: it goes on without them.
    pub avoids_replicas: bool,
    pub statements: Statements,
    pub portals: Portals,
    pub transaction: Option<Transaction>,
    /// The coordinator connection that this session keeps, because it left something there.
    pub pinned: Option<PooledServer>,
    /// Of its temporary relations there.
    pub shadows: Shadows,
    /// With session pooling.
    pub kept: Option<Rc<Kept>>,
    /// Has it asked for that, or against it?
    pub wants_kept: Option<bool>,
    /// It has been greeted.
    pub is_open: bool,
    /// Something has run that may end what it is kept for.
    pub may_unpin: bool,
    /// Sequences that may have been set anew since the last transaction's end.
    pub renumbers: Option<Sequences>,
    /// Shards may have drawn values since `memory` began.
    pub wrote_on_shards: bool,
    /// By which the coordinator's connections know what this session has drawn from sequences: `Leftovers::sequences_of`.
    pub memory: u64,
    /// It was lost, and with it what it was kept for: the session ends.
    pub has_lost_pin: bool,
    /// What has become of parameters, in order, for the client to be told of.
    pub parameter_changes: Vec<(String, String)>,
    /// After an error in the extended protocol.
    pub skip_until_sync: bool,
    pub batch: super::batch::Batch,
    /// Frames to be run again before new ones are read.
    pub replay: VecDeque<Frame>,
}

impl Session {
    pub(super) async fn run(&mut self, ending: &Ending) -> Result<()> {
        let (mut stop, mut hurry) = (End::new(&ending.stop), End::new(&ending.hurry));
        loop {
            if let Some(way) = self.take_short_way() {
                self.go_short_way(way).await?;
                self.check_pin()?;
                continue;
            }
            let is_repeated = !self.replay.is_empty();
            let frame = match self.replay.pop_front() {
                Some(frame) => frame,
                None => match self.client.buffered_frame_beside(self.kept()) {
                    Err(error) => return Err(Box::pin(self.answered_before(error)).await),
                    Ok(Some(frame)) => frame,
                    Ok(None) => {
                        self.cancel.handle.end();
                        self.client.flush().await?;
                        let idle = self.transaction.is_none() && !self.batch.is_open();
                        let received = if let Some(pinned) = self.pinned.as_mut().filter(|_| idle) {
                            tokio::select! {
                                biased;
                                () = poll_fn(|context| stop.poll(context)) => return Err(PgError::shut_down()),
                                received = self.client.receive() => received,
                                heard = pinned.receive() => {
                                    heard?;
                                    self.forward_unasked()?;
                                    continue;
                                }
                            }
                        } else {
                            let end = if idle { &mut stop } else { &mut hurry };
                            let mut received = std::pin::pin!(self.client.receive());
                            let received = poll_fn(|context| match end.poll(context) {
                                Poll::Ready(()) => Poll::Ready(None),
                                Poll::Pending => received.as_mut().poll(context).map(Some),
                            });
                            received.await.ok_or_else(PgError::shut_down)?
                        };
                        match received {
                            Err(error) => return Err(Box::pin(self.answered_before(error)).await),
                            Ok(true) => continue,
                            Ok(false) => return Ok(()),
                        }
                    }
                },
            };
            self.note_request(frame.tag, &frame.bytes);
            let begins = frame.tag == b'Q' || !self.batch.is_open() || self.cancel.handle.running().is_none();
            if begins && !is_repeated {
                self.cancel.handle.begin().await;
            }
            // Boxed: an idle session would keep room for all that the longest of them needs.
            match frame.tag {
                b'X' => return self.client.flush().await,
                b'Q' if !self.skip_until_sync => Box::pin(self.simple_query(frame)).await?,
                b'd' | b'c' | b'f' if self.batch.is_open() && !self.skip_until_sync => {
                    Box::pin(self.copy_message(frame)).await?;
                }
                // Left over from a COPY that failed; or skipped. Source: PostgreSQL src/backend/tcop/postgres.c.
                b'd' | b'c' | b'f' | b'Q' => {}
                b'F' if self.skip_until_sync => {}
                b'F' => Box::pin(self.refuse_function_call()).await?,
                _ => Box::pin(self.extended_message(frame)).await?,
            }
            self.check_pin()?;
        }
    }

    /// Errors: 08006 when the session's own connection is gone, and what was kept there.
    fn check_pin(&self) -> Result<()> {
        if !self.has_lost_pin {
            return Ok(());
        }
        Err(PgError::fatal(SqlState::CONNECTION_FAILURE, "the server connection that this session kept was lost")
            .detail("Its temporary tables, locks and notifications are gone."))
    }

    /// What this session keeps from message to message. Unit: bytes, about.
    fn kept(&self) -> usize {
        let of_transaction = self.transaction.as_ref().map_or(0, Transaction::kept_bytes);
        let of_batch = if self.batch.is_too_long { 0 } else { self.batch.frame_bytes };
        self.statements.bytes() + self.portals.bytes() + self.settings.bytes() + of_transaction + of_batch
    }

    /// The answers of the messages before a frame that cannot be read; its error ends the session after them. For a
    /// client that is gone nothing more runs.
    async fn answered_before(&mut self, error: PgError) -> PgError {
        let is_there = error.code() == SqlState::PROTOCOL_VIOLATION;
        if is_there && self.batch.is_open() && !self.skip_until_sync {
            let answered = match self.confirm_unanswered_parse().await {
                Ok(()) => self.settle().await,
                Err(error) => self.batch_error(error).await,
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "answers were lost with the session");
            }
        }
        error
    }

    /// What the kept connection has sent while nobody asked it anything.
    ///
    /// Errors: what ends that connection, and so the session.
    fn forward_unasked(&mut self) -> Result<()> {
        let Some(server) = &mut self.pinned else { return Ok(()) };
        let pid = server.key.0;
        while let Some(frame) = server.take_unasked()? {
            match frame.tag {
                b'A' => self.client.put_notification(&frame.bytes, pid, self.cancel.pid),
                _ => self.client.out().extend_from_slice(&frame.bytes),
            }
        }
        Ok(())
    }

    async fn refuse_function_call(&mut self) -> Result<()> {
        let error =
            PgError::unsupported("fastpath function calls are not supported").hint("Call the function with SELECT.");
        if self.batch.is_open() && !self.end_batch_before_query().await? {
            return Ok(());
        }
        self.fail(error)?;
        self.ready().await
    }

    /// The current transaction; one for single statements when there is none.
    pub fn txn(&mut self) -> &mut Transaction {
        if self.transaction.is_none() {
            self.begin(Kind::Auto, "");
        }
        self.transaction.as_mut().expect("begun just now")
    }

    pub fn begin(&mut self, kind: Kind, options: &str) {
        self.keep_defaults();
        if self.wrote_on_shards && self.pinned.is_none() && self.kept.is_none() {
            self.forget_drawn();
        }
        let origin = Origin {
            client: self.cancel.pid.into(),
            memory: self.memory,
            executor: &self.thread.executor,
            identity: &self.identity,
            settings: &self.settings,
            cancel: &self.cancel.handle,
            kept: &self.kept,
            handed: &self.pools.handed,
            first: &self.first,
        };
        self.transaction = Some(Transaction::new(kind, origin, options, self.pinned.take()));
    }

    /// Nothing that was drawn from sequences before is remembered.
    pub fn forget_drawn(&mut self) {
        self.wrote_on_shards = false;
        self.memory = self.memory.wrapping_add(1 << u32::BITS);
    }

    /// Drops a transaction object that has ended, keeping what outlives it.
    pub fn close_transaction(&mut self) {
        if let Some(txn) = self.transaction.take() {
            self.settings = txn.settings.clone();
            self.has_lost_pin |= txn.has_lost_pin;
            self.parameter_changes.extend(txn.parameter_changes.iter().cloned());
            self.pinned = txn.into_pinned();
        }
    }

    /// Ends what ran without a transaction block, without looking at errors.
    pub fn end_auto(&mut self) {
        if self.transaction.as_ref().is_some_and(|t| t.kind == Kind::Auto) {
            self.txn().finish_auto();
            self.close_transaction();
        }
    }

    /// Ends the statement or message that has just run, unless the client's own transaction goes on.
    pub async fn end_unit(&mut self, succeeded: bool) -> Result<()> {
        let Some(txn) = &mut self.transaction else { return Ok(()) };
        let result = match txn.kind {
            Kind::Explicit => return Ok(()),
            Kind::Auto => {
                let schema_changed = txn.schema_changed;
                txn.finish_auto();
                if schema_changed { Box::pin(txn.executor.catalog.refresh()).await.map(|_| ()) } else { Ok(()) }
            }
            Kind::Implicit if succeeded && !txn.failed => txn.commit().await,
            Kind::Implicit => txn.rollback().await,
        };
        self.close_transaction();
        self.after_transaction().await?;
        result
    }

    /// Session state that a SET LOCAL or a rolled back SET may have changed.
    pub async fn after_transaction(&mut self) -> Result<()> {
        self.portals.clear();
        if std::mem::take(&mut self.search_path_is_local) {
            Box::pin(self.read_search_path()).await?;
            self.end_auto();
        }
        if let Some(which) = self.renumbers.take() {
            Box::pin(self.discard_lent(&which)).await;
        }
        Ok(())
    }

    pub fn note_renumbered(&mut self, which: Option<Sequences>) {
        if let Some(which) = which {
            self.renumbers = Some(which.and(self.renumbers.take()));
        }
    }

    /// What servers have been lent of sequences. The statement that set one anew stands, whatever becomes of this.
    async fn discard_lent(&mut self, which: &Sequences) {
        if let Err(error) = sequences::discard(&self.thread.shared.catalog, which).await {
            tracing::error!(%error, "values that were lent before a sequence was set anew may still be used");
            self.warn_with(error.code(), "values that servers were lent before may still be used");
        }
    }

    /// Does it keep its coordinator connection, for what it has left there?
    pub fn is_pinned(&self) -> bool {
        self.pinned.is_some() || self.transaction.as_ref().is_some_and(Transaction::is_pinned)
    }

    pub fn status(&self) -> Status {
        self.transaction.as_ref().map_or(Status::Idle, Transaction::status)
    }

    pub fn map(&self) -> Arc<ShardMap> {
        match &self.transaction {
            Some(txn) => txn.map(),
            None => self.thread.shared.catalog.map(),
        }
    }

    /// Reads that map, for a moment.
    pub fn with_map<T>(&self, read: impl FnOnce(&ShardMap) -> T) -> T {
        match &self.transaction {
            Some(txn) => txn.with_map(read),
            None => self.thread.executor.map.with(read),
        }
    }

    pub fn map_version(&self) -> u64 {
        self.with_map(ShardMap::version)
    }

    /// Tells the client about an error; the transaction has failed. FATAL ends the session.
    pub fn fail(&mut self, error: PgError) -> Result<()> {
        if error.severity() == Severity::Fatal && error.code() == SqlState::PROTOCOL_VIOLATION {
            return Err(error);
        }
        if let Some(txn) = &mut self.transaction {
            txn.failed = true;
        }
        self.thread.metrics.error(error.code());
        // A node's FATAL ends its connection and our statement, not the client's session.
        answer::error(&error.with_severity(Severity::Error), self.client.out());
        Ok(())
    }

    /// The client's turn.
    pub async fn ready(&mut self) -> Result<()> {
        self.again_within = None;
        if self.status() == Status::Failed {
            Box::pin(self.txn().roll_back_early()).await?;
        }
        self.put_notices();
        if self.pinned.is_some() {
            Box::pin(self.unpin_if_free()).await?;
            self.forward_notifications();
        }
        self.keep_servers_alike().await;
        self.put_parameter_changes();
        if std::mem::take(&mut self.client.has_met_old_map) {
            Box::pin(self.read_newer_map()).await;
        }
        answer::ready(self.status(), self.client.out());
        self.pools.handed.give_back();
        self.avoids_replicas = false;
        self.note_answered();
        Ok(())
    }

    /// Hidden code may have changed how servers read texts, and what they report. A failed transaction takes no statement; its end puts
    /// everything back.
    pub(super) async fn keep_servers_alike(&mut self) {
        let in_block = self.transaction.as_mut().filter(|txn| !txn.failed).into_iter();
        let in_block = in_block.flat_map(|txn| txn.participants()).map(|participant| &mut participant.server);
        for server in in_block.chain(&mut self.pinned).filter(|server| server.may_read_otherwise()) {
            self.parameter_changes.extend(Box::pin(server.read_as_the_proxy()).await);
        }
        if let Some(txn) = self.transaction.as_mut().filter(|txn| !txn.failed && txn.has_hidden_code()) {
            Box::pin(txn.spread_hidden_settings()).await;
        }
        let Some(kept) = &self.kept else { return };
        for (node, mut server) in kept.take_those(|server| server.may_read_otherwise()) {
            self.parameter_changes.extend(Box::pin(server.read_as_the_proxy()).await);
            kept.put(node, server);
        }
    }

    /// Whoever was told to retry and does so at once is not to meet the old map again.
    async fn read_newer_map(&mut self) {
        let catalog = &self.thread.shared.catalog;
        if let Ok(Err(error)) = timer::timeout(NEWER_MAP_PATIENCE, catalog.refresh()).await {
            tracing::warn!(%error, "could not read the catalog after a shard was not where it was looked for");
        }
    }

    fn put_parameter_changes(&mut self) {
        if let Some(txn) = &mut self.transaction {
            self.parameter_changes.append(&mut txn.parameter_changes);
        }
        let mut changes = std::mem::take(&mut self.parameter_changes).into_iter();
        while let Some((name, value)) = changes.next() {
            // What came of it last is all that counts.
            if changes.as_slice().iter().any(|(later, _)| *later == name) {
                continue;
            }
            self.tell_parameter(&name, &value);
        }
    }

    /// The client hears of it, and operators of what they see.
    pub(super) fn tell_parameter(&mut self, name: &str, value: &str) {
        self.client.tell_parameter(name, value);
        if name == "application_name" {
            self.presence.set_application(value);
        }
    }

    /// 25P02 while the transaction has failed.
    pub fn refuse_if_failed(&self) -> Result<()> {
        if self.status() == Status::Failed {
            return Err(PgError::new(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }
}

/// A coordinator that does not answer is not waited for.
const NEWER_MAP_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// It is moved to the heap with every message: what is rare and large is boxed where it is called.
    #[test]
    fn a_message_takes_little_room() {
        const fn size<'a, F: Future>(_: fn(&'a mut Session, Frame) -> F) -> usize {
            size_of::<F>()
        }
        for size in [size(Session::extended_message), size(Session::simple_query)] {
            assert!(size <= 2560, "{size} bytes");
        }
    }
}
