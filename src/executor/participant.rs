//! A server that takes part in a client's transaction: how it is brought in, and what it runs at the edges.
//!
//! A transaction that only reads needs rowsets on the coordinator, which are temporary tables. So there it may write
//! underneath, and the client's statements run in a subtransaction that may not:
//!
//! ```text
//!   BEGIN ... READ WRITE      SAVEPOINT tenantry_reads; SET TRANSACTION READ ONLY      what the client says
//!                             RELEASE tenantry_reads   rowsets   SAVEPOINT ...; SET ...  what the client says
//! ```
//!
//! The end of a subtransaction restores what the one above it may do.
//! Source: PostgreSQL src/backend/access/transam/xact.c, CommitSubTransaction(), prevXactReadOnly.
//!
//! DEFERRABLE with SERIALIZABLE asks for a snapshot that only a transaction can have which never may write: it gets what it asks
//! for, and no rowsets. With other levels it means nothing.

use super::journal::Entry;
use crate::backend::{PooledServer, SessionSettings};
use crate::error::{PgError, Result};
use crate::shard_map::{NodeId, ShardGroupId};
use crate::sql::transaction_statement::Modes;
use crate::wire::reply_queue::To;

/// A server that takes part.
pub struct Participant {
    pub node: NodeId,
    pub server: PooledServer,
    /// A standby of the node, for reads.
    pub is_replica: bool,
    /// Shard groups it was used for: their statements pass a hold, so that the transaction can end.
    pub groups: Vec<ShardGroupId>,
    /// The map when it joined: its snapshot is no older.
    pub map_version: u64,
    /// Statements whose answers are complete. While there is none, joining can be undone.
    pub statements: u32,
    /// In a transaction block of ours or the client's.
    pub began: bool,
    /// Messages of the extended protocol were queued since the last Sync.
    pub is_unsynced: bool,
    pub(super) settings_before: SessionSettings,
    reads: Reads,
}

/// Where a transaction that only reads stands on the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// It may write, or its server sees to it.
    Freely,
    /// In the subtransaction that may not write.
    Only,
    /// Underneath it, for a rowset.
    Underneath,
    /// It never may: SERIALIZABLE, READ ONLY and DEFERRABLE.
    Deferrably,
}

/// What kind of statement a text for every server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Plain,
    Savepoint,
    /// RELEASE, ROLLBACK TO.
    EndOfSavepoint,
    /// SET TRANSACTION.
    Modes,
}

impl Participant {
    pub fn new(node: NodeId, server: PooledServer, map_version: u64) -> Self {
        let settings_before = server.settings.clone();
        Self {
            node,
            server,
            is_replica: false,
            groups: Vec::new(),
            map_version,
            statements: 0,
            began: false,
            is_unsynced: false,
            settings_before,
            reads: Reads::Freely,
        }
    }

    /// Queues the Sync that ends what was queued since the last one. Outside a block that commits it, so where it
    /// must not stay it is rolled back first.
    pub fn end_messages(&mut self, succeeded: bool) {
        if !std::mem::take(&mut self.is_unsynced) {
            return;
        }
        if !succeeded && !self.began && !self.server.skips() {
            // BEGIN makes a block of what has run, so that ROLLBACK has something to end and does not warn.
            self.server.queue_between("BEGIN");
            self.server.queue_between("ROLLBACK");
        }
        self.server.queue_sync();
    }

    /// Begins a block with `text`, BEGIN and its options, and runs what others have run before. `memory`: `Leftovers::sequences_of`.
    /// `is_single`: the block is for one statement of the client, who is not idle while other servers work at it and this one does not.
    pub(super) async fn begin(&mut self, text: &str, journal: &[Entry], memory: u64, is_single: bool) -> Result<()> {
        self.began = true;
        if self.node.is_coordinator() && self.server.leftovers.sequences_of != memory {
            self.server.queue_query("DISCARD SEQUENCES", To::Nobody);
            self.server.leftovers.sequences_of = memory;
        }
        let reads_by_default =
            self.node.is_coordinator() && self.server.parameter("default_transaction_read_only") == Some("on");
        let modes = Modes::read(text);
        let reads_only = modes.reads_only.unwrap_or(reads_by_default);
        let is_underneath = self.node.is_coordinator() && reads_only;
        if journal.is_empty() && !is_underneath && Modes::are_granted(text.strip_prefix("BEGIN").unwrap_or(text)) {
            // In one write with what follows.
            match is_single {
                true => self.server.queue_query(&format!("{text}; {NEVER_IDLE}"), To::Nobody),
                false => self.server.queue_query(text, To::Nobody),
            }
            return Ok(());
        }
        // BEGIN may fail, and then nothing may run behind it.
        if !is_underneath {
            self.server.query(text).await?;
        } else if modes.is_safely_deferred() {
            self.server.query(text).await?;
            self.reads = Reads::Deferrably;
        } else {
            let level = modes.isolation.map(|level| format!(" ISOLATION LEVEL {level},")).unwrap_or_default();
            let deferrable = if modes.is_deferrable { ", DEFERRABLE" } else { "" };
            self.server.query(&format!("BEGIN{level} READ WRITE{deferrable};{ENTER}")).await?;
            self.reads = Reads::Only;
        }
        if is_single {
            self.server.query(NEVER_IDLE).await?;
        }
        for entry in journal {
            let sql = self.text_of(&entry.sql, entry.step());
            self.server.query(&sql).await?;
        }
        Ok(())
    }

    /// The statement as this server must run it.
    pub(super) fn text_of(&mut self, sql: &str, step: Step) -> String {
        let is_underneath = self.reads == Reads::Underneath;
        match (step, self.reads) {
            (Step::Plain, _) | (Step::Savepoint | Step::EndOfSavepoint, Reads::Freely | Reads::Deferrably) => {
                sql.to_owned()
            }
            (Step::Savepoint, _) => {
                self.reads = Reads::Only;
                if is_underneath { format!("{sql};{ENTER}") } else { format!("{LEAVE};{sql};{ENTER}") }
            }
            (Step::EndOfSavepoint, _) => {
                self.reads = Reads::Only;
                format!("{sql};{ENTER}")
            }
            (Step::Modes, _) => self.set_modes(sql),
        }
    }

    fn set_modes(&mut self, sql: &str) -> String {
        let modes = Modes::read(sql);
        let defers = self.reads == Reads::Freely && modes.reads_only == Some(true) && modes.is_safely_deferred();
        if self.node.is_coordinator() && (defers || self.reads == Reads::Deferrably) {
            self.reads = Reads::Deferrably;
            return sql.to_owned();
        }
        let was_reading = self.reads != Reads::Freely;
        let concerns = was_reading || modes.reads_only == Some(true);
        if !self.node.is_coordinator() || modes.is_empty() || !concerns {
            return sql.to_owned();
        }
        // Modes can be set underneath only, and some only before the first statement.
        let leaves = was_reading && self.statements == 0;
        let enters = modes.reads_only.unwrap_or(true);
        let mut texts = Vec::new();
        if leaves {
            texts.push(LEAVE.to_owned());
        }
        match (modes.reads_only, modes.isolation) {
            (Some(true), Some(level)) => texts.push(format!("SET TRANSACTION ISOLATION LEVEL {level}")),
            (Some(true), None) => {}
            _ => texts.push(sql.to_owned()),
        }
        if enters && (leaves || !was_reading) {
            texts.push(ENTER.to_owned());
        }
        self.reads = if enters { Reads::Only } else { Reads::Freely };
        texts.join(";")
    }

    /// From here on rowsets can be made, also in a transaction that only reads; until `end_rowsets`.
    ///
    /// Errors: 0A000 where it never may write.
    pub(super) fn begin_rowsets(&mut self) -> Result<()> {
        match self.reads {
            Reads::Only => {
                self.server.queue_query(LEAVE, To::Nobody);
                self.reads = Reads::Underneath;
            }
            Reads::Deferrably => {
                return Err(PgError::unsupported(
                    "rows of several shards cannot be combined in a SERIALIZABLE READ ONLY DEFERRABLE transaction",
                )
                .detail("Its snapshot is one server's, and it may not even make temporary tables.")
                .hint("Begin the transaction without DEFERRABLE."));
            }
            Reads::Freely | Reads::Underneath => {}
        }
        Ok(())
    }

    pub(super) fn end_rowsets(&mut self) {
        if self.reads == Reads::Underneath {
            self.server.queue_query(ENTER, To::Nobody);
            self.reads = Reads::Only;
        }
    }
}

const ENTER: &str = "SAVEPOINT tenantry_reads;SET TRANSACTION READ ONLY";
const LEAVE: &str = "RELEASE SAVEPOINT tenantry_reads";

/// A server ends a transaction that is idle for long, as its client asks for; who waits for one statement is not idle.
const NEVER_IDLE: &str = "SET LOCAL idle_in_transaction_session_timeout TO 0";
