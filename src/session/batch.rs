//! What came since the last Sync: kept to be run again when the map was old, ended at the next Sync.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::run::Session;
use super::simple_query::Undo;
use super::statement::Statement;
use crate::backend::Frame;
use crate::error::Result;
use crate::executor::{Kind, Mark, Retry, moved};
use crate::shard_map::{NodeId, ShardGroupId};
use crate::sql::Spliced;

/// What happened since the last Sync.
#[derive(Default)]
pub struct Batch {
    /// The frames, to be run again; not all of them when they are too many or too long.
    pub(super) frames: Vec<Frame>,
    pub(super) frame_bytes: usize,
    pub(super) is_too_long: bool,
    /// The server whose answers are under way.
    pub(super) current: Option<NodeId>,
    /// Of the last statement bound there.
    pub(super) routed: Option<(Option<ShardGroupId>, Spliced)>,
    pub(super) start: Option<Start>,
    /// Statements parsed in it, by name.
    pub(super) parsed: Vec<Bytes>,
    /// Those whose ParseComplete has yet to go to the client, in order: an error before it and they do not exist.
    pub(super) unconfirmed: VecDeque<Bytes>,
    /// Statements (or portals) whose CloseComplete of ours has yet to go to the client: an error before it and they are there still.
    pub(super) unconfirmed_closes: VecDeque<Option<(Bytes, Rc<Statement>)>>,
    /// Statements closed in it.
    pub(super) closed: Vec<(Bytes, Rc<Statement>)>,
    /// Portals bound in it.
    pub(super) bound: Vec<Bytes>,
    /// Something was done that cannot be taken back: only what came after it can be run again.
    pub has_checkpoint: bool,
    /// A server's plan was made before a table changed, and has been forgotten.
    pub(super) is_stale: bool,
    /// Servers took part before the batch, or its checkpoint.
    pub(super) was_joined: bool,
    /// ParseComplete is still owed for this statement: it goes with its first Bind, or a Sync.
    pub(super) unanswered_parse: Option<Bytes>,
    /// A COPY has swallowed the Sync that followed its Execute.
    pub sync_is_swallowed: bool,
    pub(super) attempts: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) mark: Mark,
    pub(super) version: u64,
}

impl Batch {
    pub(super) fn keep(&mut self, frame: &Frame) {
        self.frame_bytes += frame.bytes.len();
        self.is_too_long |= self.frames.len() >= MAX_REPEATABLE_FRAMES || self.frame_bytes > MAX_REPEATABLE_LEN;
        if self.is_too_long {
            // Nothing is repeated, so nothing has to be taken back for it.
            self.frames.clear();
            self.parsed.clear();
            self.closed.clear();
            self.bound.clear();
        } else {
            self.frames.push(Frame { tag: frame.tag, bytes: frame.bytes.clone() });
        }
    }

    pub fn is_open(&self) -> bool {
        self.start.is_some()
    }

    /// Ready for what comes behind a Sync. Small buffers are kept for it.
    pub(super) fn end(&mut self) {
        let (mut frames, mut parsed) = (std::mem::take(&mut self.frames), std::mem::take(&mut self.parsed));
        frames.clear();
        parsed.clear();
        frames.shrink_to(KEEP_FRAMES);
        parsed.shrink_to(KEEP_FRAMES);
        *self = Batch { frames, parsed, ..Batch::default() };
    }
}

impl Session {
    /// Runs the frames since the last Sync again. The client sees a delay.
    pub(super) async fn repeat(&mut self, retry: Retry, undo: Undo) -> Result<()> {
        let start = self.batch.start.expect("frames were taken");
        for name in std::mem::take(&mut self.batch.parsed) {
            self.statements.remove(&name);
        }
        for (name, statement) in std::mem::take(&mut self.batch.closed) {
            self.statements.insert(name, statement);
        }
        if retry == Retry::StalePlan {
            self.forget_prepared().await;
        }
        let frames = std::mem::take(&mut self.batch.frames);
        for portal in std::mem::take(&mut self.batch.bound) {
            self.portals.remove(&portal);
        }
        let attempts = self.batch.attempts + 1;
        let refused = match attempts > MAX_ATTEMPTS {
            true => Some(moved()),
            false => Box::pin(self.cannot_repeat(retry, undo, start.version)).await,
        };
        if let Some(error) = refused {
            self.fail(error)?;
            self.skip_until_sync = true;
            return Ok(());
        }
        let has_checkpoint = self.batch.has_checkpoint;
        let is_stale = retry == Retry::StalePlan;
        self.batch = Batch { attempts, has_checkpoint, is_stale, ..Batch::default() };
        self.skip_until_sync = false;
        for frame in frames.into_iter().rev() {
            self.replay.push_front(frame);
        }
        Ok(())
    }

    /// "cached plan must not change result type": this session's server parses everything anew.
    pub(super) async fn forget_prepared(&mut self) {
        let Some(txn) = &mut self.transaction else { return };
        for participant in txn.participants() {
            participant.server.forget_prepared().await;
        }
    }

    /// Sync: everything is answered, what was begun for the messages since the last one ends, the client's turn comes.
    pub(super) async fn sync(&mut self) -> Result<()> {
        self.end_batch().await?;
        if self.batch.is_open() || !self.replay.is_empty() {
            // A COPY has swallowed it, or everything starts again.
            return Ok(());
        }
        self.ready().await
    }

    /// Ends what was begun for the messages since the last Sync, unless that was the client's own BEGIN.
    pub async fn end_batch(&mut self) -> Result<()> {
        if let Err(error) = self.end_messages().await {
            // A lost server ends the statement, not the client's session; a lost client is noticed at the next write.
            self.fail(error)?;
            self.skip_until_sync = true;
        }
        if self.is_started_again() || std::mem::take(&mut self.batch.sync_is_swallowed) {
            return Ok(());
        }
        let failed = std::mem::take(&mut self.skip_until_sync);
        if let Some(txn) = &self.transaction
            && txn.kind != Kind::Explicit
        {
            let succeeded = !failed && !txn.failed;
            if let Err(error) = self.end_unit(succeeded).await {
                self.fail(error)?;
            }
        }
        if self.transaction.is_none() {
            self.portals.clear();
        }
        self.batch.end();
        Ok(())
    }

    /// A Query without a Sync before it. False when the messages before it failed: then it is skipped like the others.
    pub async fn end_batch_before_query(&mut self) -> Result<bool> {
        let answered = match self.confirm_unanswered_parse().await {
            Ok(()) => self.settle().await,
            error => error,
        };
        if let Err(error) = answered {
            Box::pin(self.batch_error(error)).await?;
        }
        if self.skip_until_sync {
            return Ok(false);
        }
        if self.batch.is_open() {
            self.end_batch().await?;
        }
        Ok(true)
    }

    pub(super) fn is_started_again(&self) -> bool {
        !self.batch.is_open()
    }

    /// A Sync to each server that got messages, and all answers to the client.
    pub(super) async fn end_messages(&mut self) -> Result<()> {
        if !self.skip_until_sync
            && let Err(error) = self.confirm_unanswered_parse().await
        {
            Box::pin(self.batch_error(error)).await?;
            if self.is_started_again() {
                return Ok(());
            }
        }
        let current = self.batch.current;
        // The servers' answers are not all known yet; where one fails, its own transaction fails with it.
        let succeeded = !self.skip_until_sync && self.transaction.as_ref().is_none_or(|t| !t.failed);
        let Some(txn) = &mut self.transaction else { return Ok(()) };
        txn.participants().iter_mut().for_each(|p| p.end_messages(succeeded));
        if let Some(node) = current
            && txn.participant(node).is_some_and(|p| p.server.owes())
        {
            let relayed = self.relay_current(node).await?;
            let is_over = relayed.retry.is_none() && !self.batch.sync_is_swallowed;
            if let Some(p) = self.transaction.as_mut().and_then(|t| t.participant(node)) {
                p.statements += u32::from(is_over);
                p.is_unsynced |= self.batch.sync_is_swallowed;
            }
            self.after_relay(node, relayed).await?;
            if self.is_started_again() || self.batch.sync_is_swallowed {
                return Ok(());
            }
        }
        let Some(txn) = &mut self.transaction else { return Ok(()) };
        for participant in txn.participants().iter_mut().filter(|p| p.server.owes()) {
            // Their answers went to the client before; only ReadyForQuery is due.
            participant.server.finish().await?;
            participant.statements += 1;
        }
        Ok(())
    }
}

/// Past this many messages, or bytes, before a Sync nothing is repeated: what is held must not grow without bound.
const MAX_REPEATABLE_FRAMES: usize = 1000;
const MAX_REPEATABLE_LEN: usize = 16 << 20;
const MAX_ATTEMPTS: u32 = 1000;
const KEEP_FRAMES: usize = 16;
