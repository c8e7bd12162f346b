//! What a server that joins a transaction late must run first: what was SET and saved meanwhile, in its order.

use super::participant::Step;
use super::transaction::{Kind, Transaction};
use crate::backend::{SessionSettings, sets_for_constants};
use crate::error::{PgError, Result, SqlState};
use crate::sql::transaction_statement::Modes;

pub(super) struct Entry {
    pub sql: String,
    kind: EntryKind,
}

enum EntryKind {
    Plain,
    Modes,
    /// With the settings at that moment.
    Savepoint(String, SessionSettings),
}

impl Entry {
    pub fn step(&self) -> Step {
        match self.kind {
            EntryKind::Plain => Step::Plain,
            EntryKind::Modes => Step::Modes,
            EntryKind::Savepoint(..) => Step::Savepoint,
        }
    }

    /// Settings are shared among the savepoints between which they did not change: the first of those counts them.
    fn bytes(&self, last: Option<&SessionSettings>) -> usize {
        let settings = match &self.kind {
            EntryKind::Savepoint(_, settings) if last != Some(settings) => settings.bytes(),
            _ => 0,
        };
        size_of::<Self>() + self.sql.len() + settings
    }

    fn settings(&self) -> Option<&SessionSettings> {
        match &self.kind {
            EntryKind::Savepoint(_, settings) => Some(settings),
            _ => None,
        }
    }

    fn is_savepoint(&self, wanted: &str) -> bool {
        matches!(&self.kind, EntryKind::Savepoint(name, _) if name == wanted)
    }
}

impl Transaction {
    /// What it keeps for servers that join later. Unit: bytes, about.
    pub fn kept_bytes(&self) -> usize {
        self.journal_bytes
    }

    fn note(&mut self, entry: Entry) {
        self.journal_bytes += entry.bytes(self.journal.iter().rev().find_map(Entry::settings));
        self.journal.push(entry);
    }

    /// Entries were taken away.
    pub(super) fn note_journal_cut(&mut self) {
        let mut last = None;
        self.journal_bytes = 0;
        for entry in &self.journal {
            self.journal_bytes += entry.bytes(last);
            last = entry.settings().or(last);
        }
    }

    /// The statements that have set what constants are read by, for its session or for itself; empty where none has.
    pub fn settings_of_constants(&self) -> String {
        let mut sql = self.settings.of_constants();
        for entry in self.journal.iter().filter(|entry| matches!(entry.kind, EntryKind::Plain)) {
            if sets_for_constants(&entry.sql) {
                sql.push(';');
                sql.push_str(&entry.sql);
            }
        }
        sql
    }

    async fn run_step(&mut self, sql: &str, step: Step) -> Result<()> {
        let work = self.participants.iter_mut().map(|p| (p.node, p.text_of(sql, step))).collect();
        self.query_each(work).await
    }

    /// Runs SET TRANSACTION or SET CONSTRAINTS on every server that takes part, and on those that join later.
    pub async fn set_modes(&mut self, sql: &str) -> Result<()> {
        self.run_step(sql, Step::Modes).await?;
        self.note(Entry { sql: sql.to_owned(), kind: EntryKind::Modes });
        Ok(())
    }

    /// Statements that have said what kind of transaction it is, behind BEGIN.
    pub fn modes(&self) -> Vec<String> {
        let modes = self.journal.iter().filter(|entry| matches!(entry.kind, EntryKind::Modes));
        modes.map(|entry| entry.sql.clone()).filter(|sql| !Modes::read(sql).is_empty()).collect()
    }

    /// Those, for a transaction that follows it; nothing else is kept.
    pub(super) fn take_modes(&mut self) -> Vec<Entry> {
        self.journal.drain(..).filter(|entry| matches!(entry.kind, EntryKind::Modes)).collect()
    }

    pub(super) fn keep_modes(&mut self, modes: Vec<Entry>) {
        self.journal = modes;
        self.note_journal_cut();
    }

    pub(super) fn has_savepoints(&self) -> bool {
        self.journal.iter().any(|entry| matches!(entry.kind, EntryKind::Savepoint(..)))
    }

    /// Later servers run this too when they join.
    pub fn remember(&mut self, sql: &str) {
        self.note(Entry { sql: sql.to_owned(), kind: EntryKind::Plain });
    }

    pub async fn savepoint(&mut self, name: &str, sql: &str) -> Result<()> {
        self.run_step(sql, Step::Savepoint).await?;
        let kind = EntryKind::Savepoint(name.to_owned(), self.settings.clone());
        self.note(Entry { sql: sql.to_owned(), kind });
        Ok(())
    }

    pub async fn release_savepoint(&mut self, name: &str, sql: &str) -> Result<()> {
        let at = self.savepoint_at(name)?;
        self.run_step(sql, Step::EndOfSavepoint).await?;
        // Its settings stay; it and the savepoints inside it are gone.
        let kept = self.journal.split_off(at).into_iter().filter(|e| !matches!(e.kind, EntryKind::Savepoint(..)));
        self.journal.extend(kept.collect::<Vec<_>>());
        self.note_journal_cut();
        Ok(())
    }

    pub async fn rollback_to(&mut self, name: &str, sql: &str) -> Result<()> {
        let at = self.savepoint_at(name)?;
        self.failed = false;
        let told = self.parameters_told();
        self.run_step(sql, Step::EndOfSavepoint).await?;
        self.note_parameter_changes(told);
        self.journal.truncate(at + 1);
        self.note_journal_cut();
        if let EntryKind::Savepoint(_, settings) = &self.journal[at].kind {
            self.settings = settings.clone();
        }
        for participant in &mut self.participants {
            participant.server.settings = self.settings.clone();
        }
        self.rowsets.are_uncertain = true;
        if self.private_map.is_some() {
            self.reload_map().await?;
        }
        Ok(())
    }

    fn savepoint_at(&self, name: &str) -> Result<usize> {
        self.journal.iter().rposition(|e| e.is_savepoint(name)).ok_or_else(|| {
            PgError::new(
                SqlState::from_bytes(b"3B001").expect("a valid SQLSTATE"),
                format!("savepoint \"{name}\" does not exist"),
            )
        })
    }

    /// The coordinator's parameters as the client knows them, where the transaction may have changed some.
    pub(super) fn parameters_told(&self) -> Option<Vec<(String, String)>> {
        if self.told.is_some() {
            return self.told.clone();
        }
        let coordinator = self.participants.iter().find(|p| p.node.is_coordinator())?;
        (!self.journal.is_empty()).then(|| coordinator.server.parameters().to_vec())
    }

    /// The client has heard of what the coordinator reports now. An error may take it back before the transaction ends.
    pub fn note_told(&mut self) {
        let coordinator = self.participants.iter().find(|p| p.node.is_coordinator());
        self.told = coordinator.map(|p| p.server.parameters().to_vec());
    }

    /// What the coordinator reports now and the client has not been told.
    pub(super) fn note_parameter_changes(&mut self, told: Option<Vec<(String, String)>>) {
        let coordinator = self.participants.iter().find(|p| p.node.is_coordinator());
        if let (Some(told), Some(coordinator)) = (told, coordinator) {
            self.parameter_changes.extend(changed_parameters(&told, coordinator.server.parameters()));
        }
    }

    /// Every server that takes part has run `sql`, a SET or RESET for the session of this setting, or of several.
    pub fn note_settings(&mut self, name: Option<&str>, sql: &str, change: impl FnOnce(&mut SessionSettings)) {
        change(&mut self.settings);
        match self.kind {
            Kind::Auto => self.settings_before = self.settings.clone(),
            _ => self.remember(sql),
        }
        for participant in &mut self.participants {
            participant.server.settings = self.settings.clone();
        }
        self.note_own_setting(name, false);
    }
}

/// What differs in `now` from what was told.
pub fn changed_parameters(told: &[(String, String)], now: &[(String, String)]) -> Vec<(String, String)> {
    now.iter().filter(|new| !told.contains(new)).cloned().collect()
}
