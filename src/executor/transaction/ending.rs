//! How a transaction ends: with its servers given back, and its settings as they are then.

use futures_util::future::join_all;

use super::Transaction;
use crate::error::Result;
use crate::executor::two_phase;
use crate::wire::answer::Status;

impl Transaction {
    /// Ends with success, on all servers or on none. The settings made inside stay.
    pub async fn commit(&mut self) -> Result<()> {
        let changed_catalog = self.changed_catalog() || self.schema_changed;
        let told = self.parameters_told();
        if self.participants.len() > 1 {
            // Once decided it must reach every server: from here on a cancel reaches none.
            Box::pin(self.spare()).await;
        }
        let (participants, result) = two_phase::commit(&self.executor, self.participants.drain(..).collect()).await;
        self.participants = participants;
        self.note_end_of_changes();
        self.note_parameter_changes(told);
        self.end_hidden_settings(result.is_ok());
        for mut participant in std::mem::take(&mut self.participants) {
            if result.is_err() {
                participant.server.settings = participant.settings_before.clone();
            }
            self.release(participant);
        }
        self.journal.clear();
        self.note_journal_cut();
        self.private_map = None;
        match result {
            Ok(()) => self.settings_before = self.settings.clone(),
            Err(_) => self.settings = self.settings_before.clone(),
        }
        if changed_catalog {
            // Whoever is told that it is done must find it done. What was committed stays so in any case.
            if let Err(error) = Box::pin(self.executor.catalog.refresh()).await {
                tracing::warn!(%error, "could not read the catalog after a change");
            }
        }
        result
    }

    /// Ends without success.
    pub async fn rollback(&mut self) -> Result<()> {
        let told = self.parameters_told();
        // What the client's messages still do can be cancelled, what ends them must not be.
        let told_off = self.participants.iter_mut().map(|p| async move {
            p.end_messages(false);
            if p.server.owes() {
                let _ = p.server.finish().await;
            }
        });
        join_all(told_off).await;
        self.spare().await;
        let ended = self.participants.drain(..).collect::<Vec<_>>();
        let rollbacks = ended.into_iter().map(|mut p| async move {
            let result = if p.began || p.server.status() != Status::Idle {
                p.server.query("ROLLBACK").await.map(|_| ())
            } else {
                p.server.finish().await.map(|_| ())
            };
            p.server.settings = p.settings_before.clone();
            if result.is_err() {
                p.server.poison();
            }
            p
        });
        self.participants = join_all(rollbacks).await;
        self.note_end_of_changes();
        self.note_parameter_changes(told);
        self.end_hidden_settings(false);
        for participant in std::mem::take(&mut self.participants) {
            self.release(participant);
        }
        self.settings = self.settings_before.clone();
        self.private_map = None;
        self.journal.clear();
        self.note_journal_cut();
        Ok(())
    }

    /// From here on everybody sees the schema changed, or nobody does.
    fn note_end_of_changes(&self) {
        if self.change_announced {
            self.executor.catalog.note_schema_change();
        }
    }

    /// A failed block without a savepoint can only be rolled back, so its servers are before the client says so: like one Postgres it
    /// keeps no locks, and no cut-over waiting.
    pub async fn roll_back_early(&mut self) -> Result<()> {
        let is_done = self.participants.is_empty() && self.entered.is_empty();
        if is_done || self.status() != Status::Failed || self.has_savepoints() {
            return Ok(());
        }
        let modes = self.take_modes();
        self.rollback().await?;
        self.keep_modes(modes);
        self.leave_all();
        Ok(())
    }

    /// Gives the servers back after statements that ran by themselves.
    pub fn finish_auto(&mut self) {
        self.end_hidden_settings(true);
        for participant in std::mem::take(&mut self.participants) {
            self.release(participant);
        }
    }

    /// From here on a cancel reaches none of the servers.
    async fn spare(&mut self) {
        let targets: Vec<_> = self.participants.iter_mut().map(|p| p.server.cancel_target()).collect();
        self.cancel.spare(&targets).await;
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // A client that vanished: its servers are in a transaction or owe replies, so the pool closes them.
        for mut participant in self.participants.drain(..) {
            let is_quiet = self.cancel.remove(&participant.server.cancel_target());
            // Without its Sync what has run is not over, although every answer is there: the next client would commit it.
            if !is_quiet || participant.is_unsynced {
                participant.server.poison();
            }
        }
        self.leave_all();
    }
}
