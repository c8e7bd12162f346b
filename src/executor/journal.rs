//! What a server that joins a transaction late must run first: what was SET and saved meanwhile, in its order.

use super::transaction::{Kind, Transaction};
use crate::backend::SessionSettings;
use crate::error::{PgError, Result, SqlState};

pub(super) struct Entry {
    pub sql: String,
    /// Savepoint that it sets, and the settings at that moment.
    savepoint: Option<(String, SessionSettings)>,
}

impl Transaction {
    /// Runs a text on every server that takes part, and on those that join later.
    pub async fn run_everywhere(&mut self, sql: &str) -> Result<()> {
        self.query_each(self.participants.iter().map(|p| (p.node, sql.to_owned())).collect()).await?;
        self.journal.push(Entry { sql: sql.to_owned(), savepoint: None });
        Ok(())
    }

    /// Later servers run this too when they join.
    pub fn remember(&mut self, sql: &str) {
        self.journal.push(Entry { sql: sql.to_owned(), savepoint: None });
    }

    pub async fn savepoint(&mut self, name: &str, sql: &str) -> Result<()> {
        self.run_everywhere(sql).await?;
        let entry = self.journal.last_mut().expect("just pushed");
        entry.savepoint = Some((name.to_owned(), self.settings.clone()));
        Ok(())
    }

    pub async fn release_savepoint(&mut self, name: &str, sql: &str) -> Result<()> {
        let at = self.savepoint_at(name)?;
        self.run_everywhere(sql).await?;
        self.journal.pop();
        // Its settings stay; it and the savepoints inside it are gone.
        let kept = self.journal.split_off(at).into_iter().filter(|e| e.savepoint.is_none());
        self.journal.extend(kept.collect::<Vec<_>>());
        Ok(())
    }

    pub async fn rollback_to(&mut self, name: &str, sql: &str) -> Result<()> {
        let at = self.savepoint_at(name)?;
        self.failed = false;
        self.run_everywhere(sql).await?;
        self.journal.truncate(at + 1);
        let (_, settings) = self.journal[at].savepoint.as_ref().expect("found by its savepoint");
        self.settings = settings.clone();
        for participant in &mut self.participants {
            participant.server.settings = self.settings.clone();
        }
        if self.private_map.is_some() {
            self.reload_map().await?;
        }
        Ok(())
    }

    fn savepoint_at(&self, name: &str) -> Result<usize> {
        self.journal.iter().rposition(|e| e.savepoint.as_ref().is_some_and(|(n, _)| n == name)).ok_or_else(|| {
            PgError::new(
                SqlState::from_bytes(b"3B001").expect("a valid SQLSTATE"),
                format!("savepoint \"{name}\" does not exist"),
            )
        })
    }

    /// A SET that every server has run: later ones get it when they join.
    pub async fn set(&mut self, name: &str, sql: &str) -> Result<()> {
        self.query_each(self.participants.iter().map(|p| (p.node, sql.to_owned())).collect()).await?;
        self.note_settings(sql, |settings| settings.set(name, sql.to_owned()));
        Ok(())
    }

    /// Every server that takes part has run `sql`, a SET or RESET for the session.
    pub fn note_settings(&mut self, sql: &str, change: impl FnOnce(&mut SessionSettings)) {
        change(&mut self.settings);
        match self.kind {
            Kind::Auto => self.settings_before = self.settings.clone(),
            _ => self.remember(sql),
        }
        for participant in &mut self.participants {
            participant.server.settings = self.settings.clone();
        }
    }
}
