//! A pipeline's way: when what it has queued leaves, how the answers come, and what an error among them means for the rest.
//!
//! Messages wait for a server until Sync, Flush or another server's turn; a long pipeline does not wait so long. Its first
//! error has all that follows skipped; or all of it is run again, where nothing has been told and the map was old.

use super::run::Session;
use super::simple_query::Undo;
use crate::backend::Frame;
use crate::error::{PgError, Result, SqlState};
use crate::executor::{Relayed, Retry, Routed};
use crate::shard_map::NodeId;

impl Session {
    /// A long pipeline does not wait for its Sync: neither it nor its answers are kept whole.
    pub(super) async fn bound_pipeline(&mut self) -> Result<()> {
        let node = self.batch.current;
        let server = self.transaction.as_mut().and_then(|t| t.participant(node?)).map(|p| &p.server);
        if server.is_some_and(|s| s.queued_bytes() > LONG_PIPELINE_LEN || s.due() > LONG_PIPELINE_REPLIES) {
            self.settle().await?;
        }
        self.client.flush_if_long().await
    }

    /// An error of the proxy's own, or one that came as a value: after the answers before it.
    pub(super) async fn batch_error(&mut self, error: PgError) -> Result<()> {
        let fenced = self.is_fenced(&error);
        self.settle().await?;
        if self.is_interrupted() {
            return Ok(());
        }
        if fenced && self.can_rewind() {
            return Box::pin(self.repeat(Retry::Fenced, Undo::Everything)).await;
        }
        // A Parse before it may have an error of its own.
        let error = match self.has_failed() {
            true => error,
            false => self.confirm_unanswered_parse().await.err().unwrap_or(error),
        };
        self.answer_unanswered_parse();
        self.put_notices();
        let error = self.as_told(error);
        self.fail(error)?;
        self.skip_until_sync = true;
        Ok(())
    }

    /// The batch has failed, or starts again from its first frame: the current frame has no further effect.
    pub(super) fn is_interrupted(&self) -> bool {
        self.skip_until_sync || !self.batch.is_open()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| t.failed)
    }

    pub(super) fn has_joined(&mut self) -> bool {
        self.transaction.as_mut().is_some_and(|t| !t.participants().is_empty())
    }

    /// May everything since the batch's start, or its checkpoint, be undone on all servers?
    pub(super) fn is_undoable(&self) -> bool {
        let is_single = self.transaction.as_ref().is_none_or(|t| t.is_single);
        is_single && !self.batch.has_checkpoint || !self.batch.was_joined
    }

    fn can_rewind(&mut self) -> bool {
        !self.batch.is_too_long
            && self.is_undoable()
            && self.batch.start.is_some_and(|start| self.client.rewind(start.mark))
    }

    /// Before something of the proxy's own runs on servers that have the client's messages: their answers go to the
    /// client, and what they did becomes part of a block, so that no Sync or Query of ours commits it.
    ///
    /// Errors: an internal one when the batch was interrupted by them; nobody sees it.
    pub async fn pause(&mut self) -> Result<()> {
        if !self.batch.is_open() {
            return Ok(());
        }
        self.settle().await?;
        if self.is_interrupted() {
            return Err(interrupted());
        }
        if let Some(txn) = self.transaction.as_mut().filter(|txn| txn.is_unsynced()) {
            txn.require_atomic().await?;
        }
        self.keep_servers_alike().await;
        Ok(())
    }

    pub(super) async fn flush_message(&mut self) -> Result<()> {
        self.confirm_unanswered_parse().await?;
        self.settle().await?;
        self.client.flush().await
    }

    /// COPY data without a Flush or Sync before it: the Execute that asks for it leaves now, and takes it.
    pub(super) async fn copy_message(&mut self, frame: Frame) -> Result<()> {
        self.replay.push_front(frame);
        if let Err(error) = self.settle().await {
            Box::pin(self.batch_error(error)).await?;
        }
        // No COPY wanted it. Source: PostgreSQL src/backend/tcop/postgres.c, PostgresMain().
        if self.replay.front().is_some_and(|next| matches!(next.tag, b'd' | b'c' | b'f')) {
            self.replay.pop_front();
        }
        Ok(())
    }

    /// From here on messages go to `node`; another server's answers come first.
    pub(super) async fn turn_to(&mut self, node: NodeId) -> Result<()> {
        if self.batch.current.is_some_and(|current| current != node) {
            self.settle().await?;
            if self.is_interrupted() {
                return Err(interrupted());
            }
        }
        self.join_for(node).await?;
        self.batch.current = Some(node);
        Ok(())
    }

    /// Everything that the current server owes goes to the client.
    pub async fn settle(&mut self) -> Result<()> {
        let Some(node) = self.batch.current else { return Ok(()) };
        let Some(participant) = self.transaction.as_mut().and_then(|t| t.participant(node)) else { return Ok(()) };
        if !participant.server.owes() {
            return Ok(());
        }
        participant.server.queue_flush();
        let relayed = self.relay_current(node).await?;
        self.after_relay(node, relayed).await
    }

    pub(super) async fn relay_current(&mut self, node: NodeId) -> Result<Relayed> {
        let routed = self.batch.routed.take();
        let is_fresh = self.transaction.as_mut().is_some_and(|t| {
            // Every server that got messages of the batch has done nothing but these.
            t.participants().iter().all(|p| !p.is_unsynced && p.node != node || p.statements == 0)
        });
        let repeatable = !self.batch.is_too_long && (self.is_undoable() || is_fresh);
        let routed = Routed {
            group: routed.as_ref().and_then(|(group, _)| *group),
            query: routed.as_ref().map(|(_, query)| query),
            repeat_from: self.batch.start.filter(|_| repeatable).map(|s| s.mark),
            ..Routed::default()
        };
        self.relay_with_copy(node, routed).await
    }

    pub(super) async fn after_relay(&mut self, node: NodeId, relayed: Relayed) -> Result<()> {
        if let Some(retry) = relayed.retry {
            // The server skips until a Sync; then it can be used, or left, again.
            let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("it takes part");
            if participant.is_unsynced && !participant.server.owes() {
                participant.server.queue_sync();
            }
            let finished = participant.server.finish().await;
            participant.is_unsynced = false;
            finished?;
            let undo = if self.is_undoable() { Undo::Everything } else { Undo::Fresh };
            return Box::pin(self.repeat(retry, undo)).await;
        }
        self.batch.unconfirmed.drain(..relayed.parsed.min(self.batch.unconfirmed.len()));
        self.batch.unconfirmed_closes.drain(..relayed.closed.min(self.batch.unconfirmed_closes.len()));
        if let Some(code) = relayed.error {
            self.thread.metrics.error(code);
            self.skip_until_sync = true;
            // The server did not get to see these.
            let unseen = self.batch.unconfirmed.drain(..).chain(self.batch.unanswered_parse.take());
            for name in unseen {
                self.statements.remove(&name);
            }
            for (name, statement) in self.batch.unconfirmed_closes.drain(..).flatten() {
                self.statements.insert(name, statement);
            }
        }
        if let Some(txn) = &mut self.transaction {
            txn.failed |= relayed.error.is_some();
        }
        Ok(())
    }
}

/// Stands for an answer that the client has got already.
pub(super) fn interrupted() -> PgError {
    PgError::new(SqlState::IN_FAILED_SQL_TRANSACTION, "an earlier statement of the pipeline failed")
}

/// Bytes that wait for a server, and answers that it owes.
pub(super) const LONG_PIPELINE_LEN: usize = 64 * 1024;
const LONG_PIPELINE_REPLIES: usize = 4096;
