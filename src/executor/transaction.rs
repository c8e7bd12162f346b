//! A client's transaction and the servers that take part in it.
//!
//! `BEGIN` binds nothing: a server joins with the first statement that needs it, and gets BEGIN (and what was set and
//! saved meanwhile) in the same write: `servers.rs`. How it ends stands in `ending.rs`, on several servers at once in
//! `two_phase.rs`; what of moves waits for that end, in `entered.rs`.

mod apart;
mod constraints;
mod ending;
mod entered;
mod hidden_settings;
mod patience;
mod servers;
mod snapshots;

pub use apart::Answered;
pub use constraints::ConstraintsOf;
pub use patience::{FirstTimeouts, Limit, Timeouts};
pub use servers::PoolsAtHand;

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;

use super::Executor;
use super::cancel::CancelHandle;
use super::combine::Rowsets;
use super::handed::Handed;
use super::journal::Entry;
use super::kept::Kept;
use super::participant::Participant;
use crate::backend::{Identity, PooledServer, Row, SessionSettings, StatementKey};
use crate::catalog::LOAD;
use crate::error::{PgError, Result, SqlState};
use crate::planner::ReadFrom;
use crate::shard_map::{NodeId, ShardMap};
use crate::wire::answer::Status;
use entered::Entered;

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
    /// Whose cut-over waits for its end.
    entered: Entered,
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
    /// What has become of parameters, in order.
    pub parameter_changes: Vec<(String, String)>,
    pub(super) rowsets: Rowsets,
    kept: Option<Rc<Kept>>,
    handed: Handed,
    first: Rc<FirstTimeouts>,
    /// Whose it is.
    client: u64,
    /// See `Leftovers::sequences_of`.
    memory: u64,
    /// What the coordinator reported when the client was last told of it.
    pub(super) told: Option<Vec<(String, String)>>,
    /// What hidden code has set on one server and all have been given since: hidden_settings.rs.
    spread: Vec<(String, String)>,
    /// Names may mean something else now: the map is read again when it has ended.
    pub schema_changed: bool,
    /// It has changed what is on all nodes beside tables, which a node that is added now would not get.
    pub changed_all_nodes: bool,
    /// Has it told all proxies so?
    change_announced: bool,
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
    pub first: &'a Rc<FirstTimeouts>,
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
            entered: Entered::default(),
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
            first: origin.first.clone(),
            client: origin.client,
            memory: origin.memory,
            told: None,
            spread: Vec::new(),
            schema_changed: false,
            changed_all_nodes: false,
            change_announced: false,
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
        let participant = self.join(NodeId::COORDINATOR).await?;
        let loaded = participant.server.query_prepared(LOAD_STATEMENT, LOAD).await;
        participant.statements += 1;
        self.failed |= loaded.is_err();
        let rows = loaded?;
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

    /// From here to the end of the transaction no node comes that would not get what it changes on all of them; those that came while
    /// it waited are in its map afterwards.
    ///
    /// Errors: 40001 when only a newer snapshot could see one of them.
    pub async fn keep_nodes(&mut self) -> Result<()> {
        self.query(NodeId::COORDINATOR, crate::catalog::nodes::keep()).await?;
        self.changed_all_nodes = true;
        self.refresh_nodes().await
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

    /// Has code run in it that nobody here can read?
    pub fn has_hidden_code(&self) -> bool {
        self.is_opaque || self.pins == Some(Pin::Unknown)
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
                participant.begin(&begin, &[], self.memory, true).await?;
            }
        }
        Ok(())
    }

    /// Can the current statement be repeated on other servers? Only while `node` has done nothing for it yet.
    pub fn is_fresh(&self, node: NodeId) -> bool {
        self.participants.iter().find(|p| p.node == node).is_none_or(|p| p.statements == 0)
    }

    /// Awaits `work`, which is dropped when the client cancels its statement.
    ///
    /// Errors: 57014 then; those of `work`.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.cancel.unless_cancelled(work).await
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

    /// Names, code or roles' settings have changed: when that is committed, every proxy reads them again.
    pub async fn announce_change(&mut self) -> Result<()> {
        self.schema_changed = true;
        self.change_announced = true;
        // Its own statements see it already.
        self.executor.catalog.note_schema_change();
        let notify = format!("NOTIFY tenantry_catalog, '{}'", crate::catalog::SCHEMA_CHANGED);
        self.query(NodeId::COORDINATOR, &notify).await.map(|_| ())
    }

    /// From here on the session keeps its coordinator connection, because it leaves something there. However the session
    /// ends, nobody else gets it as it is.
    pub fn pin(&mut self, pin: Pin) {
        self.pins = self.pins.max(Some(pin));
        if let Some(participant) = self.participant(NodeId::COORDINATOR) {
            servers::keep(&mut participant.server, pin);
        }
    }

    /// The session's own coordinator connection, when the transaction has ended.
    pub fn into_pinned(mut self) -> Option<PooledServer> {
        self.pinned.take()
    }
}

/// What servers know `LOAD` by; clients' statements count from 1.
const LOAD_STATEMENT: StatementKey = StatementKey { statement: u64::MAX, group: 0 };
