//! A client's transaction and the servers that take part in it.
//!
//! `BEGIN` binds nothing: a server joins with the first statement that needs it, and gets BEGIN (and what was set and
//! saved meanwhile) in the same write: `servers.rs`. How it ends on several servers at once stands in `two_phase.rs`.

mod apart;
mod constraints;
mod servers;
mod snapshots;

pub use apart::Answered;
pub use constraints::ConstraintsOf;
pub use servers::PoolsAtHand;
pub use snapshots::moved;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;

use super::Executor;
use super::cancel::CancelHandle;
use super::combine::Rowsets;
use super::handed::Handed;
use super::hold::EnteredTables;
use super::journal::Entry;
use super::kept::Kept;
use super::participant::Participant;
use crate::backend::{Identity, PooledServer, Row, SessionSettings};
use crate::error::{PgError, Result, SqlState};
use crate::planner::ReadFrom;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};
use crate::wire::answer::Status;

/// Who decides where the transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each statement by itself: servers run it without BEGIN. Only one of them may write.
    Auto,
    /// The proxy began it so that one statement, or one message, is atomic on several servers.
    Implicit,
    /// The client said BEGIN.
    Explicit,
}

pub struct Transaction {
    pub executor: Rc<Executor>,
    pub kind: Kind,
    /// It was begun for one statement or message of the client, and ends with it.
    pub is_single: bool,
    /// An error happened; only ROLLBACK helps.
    pub failed: bool,
    identity: Rc<Identity>,
    /// What the client has SET, inside the transaction too.
    pub settings: SessionSettings,
    pub(super) settings_before: SessionSettings,
    cancel: Arc<CancelHandle>,
    begin: Cow<'static, str>,
    /// What servers that join later must run first: SET LOCAL, SAVEPOINT, ...
    pub(super) journal: Vec<Entry>,
    pub(super) journal_bytes: usize,
    pub(super) participants: Vec<Participant>,
    /// Shard groups whose cut-over waits for its end, besides those that its servers were used for.
    entered: HashSet<ShardGroupId>,
    /// The same of tables that its statements under way name.
    entered_tables: Vec<EnteredTables>,
    /// The map as this transaction sees it, once it has changed the catalog itself.
    pub(super) private_map: Option<Arc<ShardMap>>,
    notices: Vec<(&'static str, PgError)>,
    /// The coordinator connection that the session keeps for itself.
    pinned: Option<PooledServer>,
    pins: Option<Pin>,
    /// The connection that the session kept was lost, and with it what it kept it for.
    pub has_lost_pin: bool,
    /// Which of their servers workers join with from here on.
    pub read_from: ReadFrom,
    /// A statement that may write was placed in it.
    pub may_write: bool,
    /// Code that nobody here can read has run: its servers may keep anything of it.
    pub is_opaque: bool,
    /// Parameters that changed without the client being told.
    pub parameter_changes: Vec<(String, String)>,
    pub(super) rowsets: Rowsets,
    kept: Option<Rc<Kept>>,
    handed: Handed,
    /// Whose it is.
    client: u64,
    /// See `Leftovers::sequences_of`.
    memory: u64,
    /// What the coordinator reported when the client was last told of it.
    pub(super) told: Option<Vec<(String, String)>>,
    /// Names may mean something else now: the map is read again when it has ended.
    pub schema_changed: bool,
    /// The command tag of the client's own statement, where it ran among others.
    client_tag: String,
}

/// Why a session keeps its coordinator connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// For something that Postgres can show, and so tell when it is gone: a temporary table, a lock, LISTEN.
    Visible,
    /// For whatever code has done that nobody here can read.
    Unknown,
}

/// What a session hands to its transactions.
pub struct Origin<'a> {
    /// A number of its own, never 0.
    pub client: u64,
    /// One for what its sequences' values are remembered by: another one, and nothing drawn before is.
    pub memory: u64,
    pub executor: &'a Rc<Executor>,
    pub identity: &'a Rc<Identity>,
    pub settings: &'a SessionSettings,
    pub cancel: &'a Arc<CancelHandle>,
    /// With session pooling.
    pub kept: &'a Option<Rc<Kept>>,
    pub handed: &'a Handed,
}

impl Transaction {
    /// `options` as after BEGIN; `pinned` is the session's own coordinator connection, if it keeps one.
    pub fn new(kind: Kind, origin: Origin<'_>, options: &str, pinned: Option<PooledServer>) -> Self {
        Self {
            executor: origin.executor.clone(),
            kind,
            is_single: kind == Kind::Auto,
            failed: false,
            identity: origin.identity.clone(),
            settings: origin.settings.clone(),
            settings_before: origin.settings.clone(),
            cancel: origin.cancel.clone(),
            begin: match options.trim_end() {
                "" => "BEGIN".into(),
                options => format!("BEGIN {options}").into(),
            },
            journal: Vec::new(),
            journal_bytes: 0,
            participants: Vec::new(),
            entered: HashSet::new(),
            entered_tables: Vec::new(),
            private_map: None,
            notices: Vec::new(),
            pins: pinned.as_ref().map(|_| Pin::Visible),
            has_lost_pin: false,
            read_from: ReadFrom::default(),
            may_write: false,
            is_opaque: false,
            parameter_changes: Vec::new(),
            rowsets: Rowsets::default(),
            kept: origin.kept.clone(),
            handed: origin.handed.clone(),
            client: origin.client,
            memory: origin.memory,
            told: None,
            schema_changed: false,
            client_tag: String::new(),
            pinned,
        }
    }

    /// The map that statements of this transaction are planned with.
    pub fn map(&self) -> Arc<ShardMap> {
        self.private_map.clone().unwrap_or_else(|| self.executor.catalog.map())
    }

    /// Reads that map, for a moment.
    pub fn with_map<T>(&self, read: impl FnOnce(&ShardMap) -> T) -> T {
        match &self.private_map {
            Some(map) => read(map),
            None => self.executor.map.with(read),
        }
    }

    /// Has this transaction changed the catalog?
    pub fn changed_catalog(&self) -> bool {
        self.private_map.is_some()
    }

    /// Reads the map as this transaction sees it, uncommitted catalog rows included.
    pub async fn reload_map(&mut self) -> Result<Arc<ShardMap>> {
        let version = self.executor.catalog.next_version();
        let rows = self.query(NodeId::COORDINATOR, crate::catalog::LOAD).await?;
        let json = rows.first().and_then(|r| r.first()).and_then(Option::as_deref).unwrap_or("");
        let map = Arc::new(crate::catalog::parse(version, json)?);
        self.private_map = Some(map.clone());
        Ok(map)
    }

    /// For who keeps nodes from being added, by a lock on a reference table: afterwards the map has all that were added
    /// before. Asked outside the transaction, whose snapshot may be older than its lock.
    ///
    /// Errors: 40001 when only a newer snapshot could see the node.
    pub async fn refresh_nodes(&mut self) -> Result<()> {
        let active = {
            let client = self.executor.catalog.client(NodeId::COORDINATOR).await?;
            crate::catalog::nodes::active_workers(&**client).await?
        };
        let lacks = |map: &ShardMap| active.iter().any(|id| map.active_workers().all(|n| n.id != *id));
        let differs = |map: &ShardMap| lacks(map) || map.active_workers().any(|n| !active.contains(&n.id));
        if !differs(&self.map()) {
            return Ok(());
        }
        let map = match self.private_map {
            Some(_) => self.reload_map().await?,
            None => self.executor.catalog.refresh().await?,
        };
        if lacks(&map) {
            return Err(PgError::new(
                SqlState::SERIALIZATION_FAILURE,
                "a node was added that this transaction's snapshot does not have",
            )
            .hint("Retry the transaction."));
        }
        Ok(())
    }

    pub fn notice(&mut self, notice: PgError) {
        self.notices.push(("NOTICE", notice));
    }

    pub fn warning(&mut self, warning: PgError) {
        self.notices.push(("WARNING", warning));
    }

    pub fn take_notices(&mut self) -> Vec<(&'static str, PgError)> {
        std::mem::take(&mut self.notices)
    }

    pub fn status(&self) -> Status {
        match (self.kind, self.failed) {
            (Kind::Explicit, true) => Status::Failed,
            (Kind::Explicit, false) => Status::InTransaction,
            _ => Status::Idle,
        }
    }

    pub fn participants(&mut self) -> &mut [Participant] {
        &mut self.participants
    }

    /// Do its servers commit what they run without being told to?
    pub fn commits_itself(&self) -> bool {
        self.kind == Kind::Auto && self.may_write
    }

    /// Is there a connection to the coordinator that the session keeps, or will?
    pub fn is_pinned(&self) -> bool {
        self.pins.is_some() || self.pinned.is_some()
    }

    /// Has no server anything to do with it?
    pub fn is_untouched(&self) -> bool {
        self.participants.is_empty()
    }

    /// Has a server messages of the client since the last Sync?
    pub fn is_unsynced(&self) -> bool {
        self.participants.iter().any(|p| p.is_unsynced)
    }

    pub fn participant(&mut self, node: NodeId) -> Option<&mut Participant> {
        self.participants.iter_mut().find(|p| p.node == node)
    }

    /// Has this transaction used the shard group? Then its statements must not be held.
    pub fn uses(&self, group: ShardGroupId) -> bool {
        self.entered.contains(&group) || self.participants.iter().any(|p| p.groups.contains(&group))
    }

    /// Must a statement for the shard group enter it? Where servers have done something for this transaction it could not be run
    /// again, if the shard group left meanwhile.
    pub fn must_enter(&self, group: ShardGroupId) -> bool {
        !self.participants.is_empty() && !self.uses(group)
    }

    /// May `currval` and `lastval` be asked? Only where the coordinator's connection remembers nobody else's values,
    /// and is the same from statement to statement.
    ///
    /// Errors: 0A000.
    pub async fn check_sequences(&mut self) -> Result<()> {
        let (is_lasting, memory) = (self.kind != Kind::Auto || self.keeps_coordinator(), self.memory);
        let coordinator = self.join(NodeId::COORDINATOR).await?;
        if is_lasting && coordinator.server.leftovers.sequences_of == memory {
            return Ok(());
        }
        Err(PgError::unsupported("currval and lastval are not supported outside a transaction block")
            .detail("The next statement may run on another server connection, which has seen other values.")
            .hint("Use INSERT ... RETURNING, ask in the transaction that made the value, or SET tenantry.pool_mode = 'session' first."))
    }

    /// Does the session use the same coordinator connection from statement to statement?
    pub(super) fn keeps_coordinator(&self) -> bool {
        self.pins.is_some() || self.kept.is_some()
    }

    /// What begins for one statement of the client begins as READ COMMITTED, whatever is his default. Before `require_atomic`.
    pub fn begin_read_committed(&mut self) {
        if self.kind == Kind::Auto {
            self.begin = "BEGIN ISOLATION LEVEL READ COMMITTED".into();
        }
    }

    /// From here on everything is one transaction on all servers. Only before anything but reads has been sent.
    pub async fn require_atomic(&mut self) -> Result<()> {
        if self.kind != Kind::Auto {
            return Ok(());
        }
        self.kind = Kind::Implicit;
        let begin = self.begin.clone();
        for participant in &mut self.participants {
            // What ran since the last Sync becomes the first part of the block.
            if participant.began {
                continue;
            }
            if participant.is_unsynced {
                participant.began = true;
                participant.server.queue_between("BEGIN");
            } else {
                // It has only answered a question of ours.
                participant.begin(&begin, &[], self.memory).await?;
            }
        }
        Ok(())
    }

    /// Can the current statement be repeated on other servers? Only while `node` has done nothing for it yet.
    pub fn is_fresh(&self, node: NodeId) -> bool {
        self.participants.iter().find(|p| p.node == node).is_none_or(|p| p.statements == 0)
    }

    /// From here on a cut-over of these shard groups waits for the end of this transaction. Those that are being cut over are waited
    /// for, and none is kept from it meanwhile.
    ///
    /// Errors: 40001 after the hold timeout.
    pub async fn enter(&mut self, groups: &[ShardGroupId]) -> Result<()> {
        while !self.try_enter(groups) {
            self.await_holds_of_writes(groups).await?;
            self.await_holds(groups).await?;
        }
        Ok(())
    }

    /// The same at once, for all of them or for none: false when one is held.
    pub fn try_enter(&mut self, groups: &[ShardGroupId]) -> bool {
        let mut entered = HashSet::new();
        for group in groups {
            if self.entered.contains(group) || entered.contains(group) {
                continue;
            }
            if self.executor.holds.try_enter(*group, self.may_write) {
                entered.insert(*group);
            } else if !self.uses(*group) {
                self.executor.holds.leave(&entered);
                return false;
            }
        }
        self.entered.extend(entered);
        true
    }

    /// A transaction that has written waits before it reads, too: the move could not wait for one that has read and writes then.
    async fn await_holds_of_writes(&self, groups: &[ShardGroupId]) -> Result<()> {
        for group in groups.iter().filter(|group| self.may_write && !self.uses(**group)) {
            let wait = async {
                self.executor.holds.wait_to_write(*group).await;
                Ok(())
            };
            self.cancel.unless_cancelled(wait).await?;
        }
        Ok(())
    }

    /// Waits until none of these shard groups is being cut over. Groups that this transaction has used don't wait:
    /// the cut-over waits for it.
    ///
    /// Errors: 40001 after the hold timeout.
    pub async fn await_holds(&mut self, groups: &[ShardGroupId]) -> Result<()> {
        for group in groups {
            if !self.executor.holds.is_held(*group) || self.uses(*group) {
                continue;
            }
            let timeout = self.executor.settings.load().hold_timeout;
            let wait = async { Ok(self.executor.holds.wait(*group, timeout).await) };
            if !self.cancel.unless_cancelled(wait).await? {
                return Err(PgError::new(
                    SqlState::SERIALIZATION_FAILURE,
                    "a shard is being moved and was not free in time",
                )
                .hint("Retry the query."));
            }
        }
        Ok(())
    }

    /// Awaits `work`, which is dropped when the client cancels its statement.
    ///
    /// Errors: 57014 then; those of `work`.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.cancel.unless_cancelled(work).await
    }

    /// From here on a cut-over of tables that `text` names waits until another statement or the transaction's end: by then it
    /// meets their locks.
    pub fn enter_tables(&mut self, text: &str) {
        let is_under_way = self.participant(NodeId::COORDINATOR).is_some_and(|p| p.server.owes());
        if !is_under_way {
            self.entered_tables.clear();
        }
        self.entered_tables.push(self.executor.holds.enter_tables(text));
    }

    pub fn leave_tables(&mut self) {
        self.entered_tables.clear();
    }

    /// Runs SQL on one node inside this transaction, in the simple protocol. Rows of the last result, as text.
    pub async fn query(&mut self, node: NodeId, sql: &str) -> Result<Vec<Row>> {
        let participant = self.join(node).await?;
        let result = participant.server.query(sql).await;
        participant.statements += 1;
        if result.is_err() {
            self.failed = true;
        }
        result
    }

    /// Settings as they are on the coordinator. SHOW, unlike SELECT, leaves a block without a snapshot: its isolation
    /// level can still be set. Names as they may stand in SQL, and known to Postgres.
    pub async fn show(&mut self, names: &[&str]) -> Result<Vec<String>> {
        let shows: Vec<_> = names.iter().map(|name| format!("SHOW {name}")).collect();
        let participant = self.join(NodeId::COORDINATOR).await?;
        let result = participant.server.query_all(&shows.join(";")).await;
        self.failed |= result.is_err();
        Ok(result?.into_iter().flatten().map(Option::unwrap_or_default).collect())
    }

    /// Runs the client's own statement on the coordinator, keeping its command tag for the client.
    pub async fn query_for_client(&mut self, sql: &str) -> Result<Vec<Row>> {
        let result = self.query(NodeId::COORDINATOR, sql).await;
        if let Some(participant) = self.participant(NodeId::COORDINATOR) {
            self.client_tag = participant.server.last_tag().to_owned();
        }
        result
    }

    pub fn client_tag(&self) -> &str {
        &self.client_tag
    }

    /// Runs texts on nodes: nodes side by side, texts of one node in order. The first error counts, after all answers
    /// are in.
    pub async fn query_each(&mut self, work: Vec<(NodeId, String)>) -> Result<()> {
        let mut texts: HashMap<NodeId, Vec<String>> = HashMap::new();
        for (node, sql) in work {
            texts.entry(node).or_default().push(sql);
        }
        let mut nodes: Vec<_> = texts.keys().copied().collect();
        nodes.sort();
        for node in &nodes {
            self.join(*node).await?;
        }
        let runs = self.participants.iter_mut().filter_map(|p| Some((texts.remove(&p.node)?, p))).map(
            |(texts, participant)| async move {
                for sql in texts {
                    participant.server.query(&sql).await?;
                    participant.statements += 1;
                }
                Ok(())
            },
        );
        let results: Vec<Result<()>> = join_all(runs).await;
        let result = results.into_iter().collect::<Result<()>>();
        self.failed |= result.is_err();
        result
    }

    /// The options that BEGIN had.
    pub fn options(&self) -> &str {
        self.begin.strip_prefix("BEGIN").unwrap_or("").trim_start()
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
        self.note_parameter_changes(told);
        for participant in std::mem::take(&mut self.participants) {
            self.release(participant);
        }
        self.settings = self.settings_before.clone();
        self.private_map = None;
        self.journal.clear();
        self.note_journal_cut();
        Ok(())
    }

    /// A failed block without a savepoint can only be rolled back, so its servers are before the client says so: like one Postgres it
    /// keeps no locks, and no cut-over waiting.
    pub async fn roll_back_early(&mut self) -> Result<()> {
        let is_done = self.participants.is_empty() && self.entered.is_empty() && self.entered_tables.is_empty();
        if is_done || self.status() != Status::Failed || self.has_savepoints() {
            return Ok(());
        }
        let modes = self.take_modes();
        self.rollback().await?;
        self.keep_modes(modes);
        self.executor.holds.leave(&std::mem::take(&mut self.entered));
        self.leave_tables();
        Ok(())
    }

    /// Names, code or roles' settings have changed: when that is committed, every proxy reads them again.
    pub async fn announce_change(&mut self) -> Result<()> {
        self.schema_changed = true;
        self.query(NodeId::COORDINATOR, "NOTIFY tenantry_catalog").await.map(|_| ())
    }

    /// Ends with success, on all servers or on none. The settings made inside stay.
    pub async fn commit(&mut self) -> Result<()> {
        let changed_catalog = self.changed_catalog() || self.schema_changed;
        let told = self.parameters_told();
        if self.participants.len() > 1 {
            // Once decided it must reach every server: from here on a cancel reaches none.
            Box::pin(self.spare()).await;
        }
        let (participants, result) =
            super::two_phase::commit(&self.executor, self.participants.drain(..).collect()).await;
        self.participants = participants;
        self.note_parameter_changes(told);
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

    /// From here on the session keeps its coordinator connection, because it leaves something there. However the session
    /// ends, nobody else gets it as it is.
    pub fn pin(&mut self, pin: Pin) {
        self.pins = self.pins.max(Some(pin));
        if let Some(participant) = self.participant(NodeId::COORDINATOR) {
            servers::keep(&mut participant.server, pin);
        }
    }

    /// Gives the servers back after statements that ran by themselves.
    pub fn finish_auto(&mut self) {
        for participant in std::mem::take(&mut self.participants) {
            self.release(participant);
        }
    }

    /// The session's own coordinator connection, when the transaction has ended.
    pub fn into_pinned(mut self) -> Option<PooledServer> {
        self.pinned.take()
    }

    /// From here on a cancel reaches none of the servers.
    async fn spare(&mut self) {
        let targets: Vec<_> = self.participants.iter_mut().map(|p| p.server.cancel_target()).collect();
        self.cancel.spare(&targets).await;
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.executor.holds.leave(&self.entered);
        // A client that vanished: its servers are in a transaction or owe replies, so the pool closes them.
        for mut participant in self.participants.drain(..) {
            let is_quiet = self.cancel.remove(&participant.server.cancel_target());
            // Without its Sync what has run is not over, although every answer is there: the next client would commit it.
            if !is_quiet || participant.is_unsynced {
                participant.server.poison();
            }
        }
    }
}
