//! BEGIN, COMMIT, ROLLBACK, savepoints: the client's transaction over however many servers take part.

use super::run::Session;
use crate::error::{PgError, Result, SqlState};
use crate::executor::{ConstraintsOf, Kind, Transaction};
use crate::planner::TransactionCommand;
use crate::shard_map::NodeId;
use crate::wire::answer;

impl Session {
    pub async fn transaction_command(&mut self, command: &TransactionCommand) -> Result<()> {
        let explicit = self.transaction.as_ref().is_some_and(|t| t.kind == Kind::Explicit);
        match command {
            TransactionCommand::Begin { tag, options } => self.begin_command(tag, options).await,
            TransactionCommand::Commit { chain } => self.end_command("COMMIT", *chain).await,
            TransactionCommand::Rollback { chain } => self.end_command("ROLLBACK", *chain).await,
            TransactionCommand::SetForTransaction { text, is_setting } => {
                self.refuse_if_failed()?;
                let in_block = self.is_in_block();
                let tag = if text.to_ascii_uppercase().contains("CONSTRAINTS") { "SET CONSTRAINTS" } else { "SET" };
                if !in_block && !is_setting {
                    let what = if tag == "SET" { "SET TRANSACTION" } else { tag };
                    self.warn(&format!("{what} can only be used in transaction blocks"));
                }
                let txn = self.txn();
                txn.join(NodeId::COORDINATOR).await?;
                match txn.kind {
                    Kind::Auto => drop(txn.query(NodeId::COORDINATOR, text).await?),
                    _ => txn.set_modes(text).await?,
                }
                answer::command_complete(tag, self.client.out());
                Ok(())
            }
            TransactionCommand::SetConstraints { names, text } => {
                self.refuse_if_failed()?;
                let txn = self.txn();
                let of = txn.tables_of_constraints(names).await?;
                if explicit || txn.kind == Kind::Implicit {
                    match of {
                        ConstraintsOf::Local => drop(txn.query(NodeId::COORDINATOR, text).await?),
                        ConstraintsOf::Reference => txn.set_modes(text).await?,
                    }
                } else {
                    self.warn("SET CONSTRAINTS can only be used in transaction blocks");
                }
                answer::command_complete("SET CONSTRAINTS", self.client.out());
                Ok(())
            }
            _ if !explicit => {
                let what = match command {
                    TransactionCommand::Savepoint { .. } => "SAVEPOINT",
                    TransactionCommand::Release { .. } => "RELEASE SAVEPOINT",
                    _ => "ROLLBACK TO SAVEPOINT",
                };
                Err(PgError::new(
                    SqlState::NO_ACTIVE_SQL_TRANSACTION,
                    format!("{what} can only be used in transaction blocks"),
                ))
            }
            TransactionCommand::Savepoint { name } => {
                self.refuse_if_failed()?;
                self.txn().savepoint(name, &format!("SAVEPOINT {}", quoted(name))).await?;
                answer::command_complete("SAVEPOINT", self.client.out());
                Ok(())
            }
            TransactionCommand::Release { name } => {
                self.refuse_if_failed()?;
                self.txn().release_savepoint(name, &format!("RELEASE SAVEPOINT {}", quoted(name))).await?;
                answer::command_complete("RELEASE", self.client.out());
                Ok(())
            }
            TransactionCommand::RollbackTo { name } => {
                self.txn().rollback_to(name, &format!("ROLLBACK TO SAVEPOINT {}", quoted(name))).await?;
                if self.search_path_is_local {
                    Box::pin(self.read_search_path()).await?;
                }
                answer::command_complete("ROLLBACK", self.client.out());
                Ok(())
            }
        }
    }

    /// The client's own, or that of several statements in one Query. What is done in a pipeline ends together too, but in none.
    pub(super) fn is_in_block(&self) -> bool {
        self.transaction.as_ref().is_some_and(|txn| txn.kind != Kind::Auto && !txn.is_single)
    }

    async fn begin_command(&mut self, tag: &str, options: &str) -> Result<()> {
        match &mut self.transaction {
            Some(txn) if txn.kind == Kind::Explicit => {
                self.refuse_if_failed()?;
                self.warn_with(SqlState::ACTIVE_SQL_TRANSACTION, "there is already a transaction in progress");
                if !options.is_empty() {
                    self.txn().set_modes(&format!("SET TRANSACTION {options}")).await?;
                }
            }
            // Inside a multi-statement text, or a pipeline, BEGIN makes the block that is under way the client's own.
            Some(txn) if txn.kind == Kind::Implicit => {
                if !options.is_empty() {
                    txn.set_modes(&format!("SET TRANSACTION {options}")).await?;
                }
                txn.kind = Kind::Explicit;
                txn.is_single = false;
            }
            // In a pipeline what ran since the last Sync becomes part of the block, as in Postgres.
            Some(txn) if txn.is_unsynced() => {
                txn.require_atomic().await?;
                if !options.is_empty() {
                    txn.set_modes(&format!("SET TRANSACTION {options}")).await?;
                }
                txn.kind = Kind::Explicit;
                txn.is_single = false;
            }
            Some(_) => {
                self.end_unit(true).await?;
                self.begin(Kind::Explicit, options);
            }
            None => self.begin(Kind::Explicit, options),
        }
        answer::command_complete(tag, self.client.out());
        Ok(())
    }

    async fn end_command(&mut self, tag: &str, chain: bool) -> Result<()> {
        let is_explicit = self.transaction.as_ref().is_some_and(|t| t.kind == Kind::Explicit);
        if !is_explicit {
            if chain {
                return Err(PgError::new(
                    SqlState::NO_ACTIVE_SQL_TRANSACTION,
                    format!("{tag} AND CHAIN can only be used in transaction blocks"),
                ));
            }
            self.warn_with(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
        }
        let Some(txn) = &mut self.transaction else {
            self.portals.clear();
            answer::command_complete(tag, self.client.out());
            return Ok(());
        };
        let (options, modes) = (txn.options().to_owned(), txn.modes());
        let commits = tag == "COMMIT" && !txn.failed;
        let result = match end_servers(txn, commits).await {
            Ok(()) if commits => txn.commit().await,
            Ok(()) => txn.rollback().await,
            Err(error) => txn.rollback().await.and(Err(error)),
        };
        self.close_transaction();
        self.after_transaction().await?;
        result?;
        if chain {
            self.begin(Kind::Explicit, &options);
            for sql in modes {
                self.txn().set_modes(&sql).await?;
            }
        }
        answer::command_complete(if commits { "COMMIT" } else { "ROLLBACK" }, self.client.out());
        Ok(())
    }
}

/// Brings every server that got messages of the extended protocol to the end of them. Where there is no block that
/// commits, and may fail at it.
async fn end_servers(txn: &mut Transaction, succeeded: bool) -> Result<()> {
    for participant in txn.participants().iter_mut().filter(|p| p.is_unsynced) {
        participant.end_messages(succeeded);
        participant.server.finish().await?;
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    crate::backend::quote_ident(name)
}
