//! Keeps the newest snapshot, and control connections to every node.
//!
//! Map versions grow within one process: a load takes its version before it reads, so a map never carries a version
//! that is newer than what it saw. Loads run one at a time; a caller who waited for its turn takes the result of a load
//! that began after it asked.
//!
//! A catalog that has lost moves was restored from a backup, and says of tenants that they are where they were: the map
//! that is known is the better one, and is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool_postgres::{Object, Pool};
use futures_util::StreamExt;
use metrics::gauge;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;

use super::connection::{PROMPT, checkout};
use super::settings::{Address, Settings};
use super::way::Way;
use super::{LOAD, connect_to_coordinator, migrate, parse, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{Node, NodeId, ShardMap};
use crate::tally::Recurring;
use crate::transport::timer;

/// The catalog as one process sees it.
pub struct Catalog {
    settings: Settings,
    pool: Pool,
    node_pools: Mutex<HashMap<NodeId, (Vec<Address>, Pool)>>,
    map: ArcSwap<ShardMap>,
    /// The map's version.
    newest: AtomicU64,
    version: AtomicU64,
    schema_changes: AtomicU64,
    published: tokio::sync::watch::Sender<u64>,
    /// Cancel requests that other proxies have got, and holds that they ask for or have ended.
    cancels: Rung,
    holds: Rung,
    /// How often a proxy has answered that it holds.
    held: tokio::sync::watch::Sender<u64>,
    loading: tokio::sync::Mutex<Loaded>,
    /// The coordinator is to be listened to no longer for now.
    leaves: Notify,
}

/// The last load: when it began, and what it read (so that an unchanged catalog keeps its map and every plan made for it).
#[derive(Default)]
struct Loaded {
    version: u64,
    json: String,
    /// The number of the newest move.
    moves: i64,
}

/// Ids that have rung and were not taken yet.
#[derive(Default)]
struct Rung {
    ids: Mutex<Vec<i64>>,
    news: Notify,
}

impl Rung {
    fn note(&self, payload: &str) {
        let Ok(id) = payload.parse() else { return };
        let mut ids = self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Nobody takes them: what is so old is waited for no more.
        if ids.len() < RUNG_MAX {
            ids.push(id);
        }
        self.news.notify_one();
    }

    /// Waits for some. For one waiter.
    async fn take(&self) -> Vec<i64> {
        loop {
            let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            if !ids.is_empty() {
                return ids;
            }
            self.news.notified().await;
        }
    }
}

impl Catalog {
    /// Migrates the catalog and reads it once. `watch` then keeps it fresh.
    pub async fn open(settings: Settings) -> Result<Arc<Self>> {
        let mut client = connect_to_coordinator(&settings).await?;
        migrate(&mut client).await?;
        let catalog = Arc::new(Self {
            pool: settings.pool(&settings.coordinator_hosts())?,
            settings,
            node_pools: Mutex::default(),
            map: ArcSwap::default(),
            newest: AtomicU64::new(0),
            version: AtomicU64::new(0),
            schema_changes: AtomicU64::new(0),
            published: tokio::sync::watch::Sender::new(0),
            cancels: Rung::default(),
            holds: Rung::default(),
            held: tokio::sync::watch::Sender::new(0),
            loading: tokio::sync::Mutex::default(),
            leaves: Notify::new(),
        });
        catalog.refresh().await?;
        Ok(catalog)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The newest snapshot.
    pub fn map(&self) -> Arc<ShardMap> {
        self.map.load_full()
    }

    /// Has no newer map been published?
    pub fn is_newest(&self, map: &ShardMap) -> bool {
        map.version() == self.newest.load(Ordering::Acquire)
    }

    /// A number that no map of this process has had.
    pub fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Another number after each change of the schema that a proxy has carried out, local tables included: what servers know of
    /// a statement from before may be another one's by now.
    pub fn schema_changes(&self) -> u64 {
        self.schema_changes.load(Ordering::Acquire)
    }

    /// For who has carried out one, at once and when it is over, and for who hears of another proxy's.
    pub fn note_schema_change(&self) {
        self.schema_changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Receives the version of each published map.
    pub fn versions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Waits until other proxies have got cancel requests that may be for sessions of this one; their ids. For one waiter.
    pub async fn cancels_asked(&self) -> Vec<i64> {
        self.cancels.take().await
    }

    /// Waits until proxies ask for holds, or end them; their ids. For one waiter.
    pub async fn holds_asked(&self) -> Vec<i64> {
        self.holds.take().await
    }

    /// Changes when a proxy has answered that it holds.
    pub fn answers_to_holds(&self) -> tokio::sync::watch::Receiver<u64> {
        self.held.subscribe()
    }

    /// A snapshot that has everything committed before the call. Cancel safe.
    ///
    /// Errors: 55000 when the catalog is older than what was read before; the map stays.
    pub async fn refresh(&self) -> Result<Arc<ShardMap>> {
        let asked_at = self.version.load(Ordering::Relaxed);
        let mut loaded = self.loading.lock().await;
        if loaded.version > asked_at {
            return Ok(self.map());
        }
        let version = self.next_version();
        let client = checkout(&self.pool).await?;
        // Prepared, because it takes as long to plan as to run.
        let load = client.prepare_cached(LOAD).await.map_err(pg_error)?;
        let row = client.query_one(&load, &[]).await.map_err(pg_error)?;
        let (json, moves): (String, i64) = (row.try_get(0).map_err(pg_error)?, row.try_get(1).map_err(pg_error)?);
        let is_older = moves < loaded.moves;
        gauge!("tenantry_catalog_is_older").set(f64::from(u8::from(is_older)));
        if is_older {
            let error = older(moves, loaded.moves);
            tracing::error!(%error, "the catalog was not read, the map that is known stays in force");
            return Err(error);
        }
        loaded.moves = moves;
        if json != loaded.json {
            self.map.store(Arc::new(parse(version, &json)?));
            self.newest.store(version, Ordering::Release);
            self.published.send_replace(version);
            loaded.json = json;
        }
        loaded.version = version;
        Ok(self.map())
    }

    /// Waits for a map newer than `version`; at the deadline gives the newest there is.
    pub async fn changed_since(&self, version: u64, deadline: Instant) -> Arc<ShardMap> {
        let mut versions = self.versions();
        let _ = timer::timeout_at(deadline, versions.wait_for(|v| *v > version)).await;
        self.map()
    }

    /// Control connections to the coordinator.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Control connections to a node of the newest map. Errors: 42704 when there is no such node.
    pub async fn node_pool(&self, node: NodeId) -> Result<Pool> {
        if node.is_coordinator() {
            return Ok(self.pool.clone());
        }
        let mut map = self.map();
        if map.node(node).is_none() {
            map = self.refresh().await?;
        }
        let row = map.node(node).ok_or_else(|| no_such_node(node))?;
        let hosts = hosts_of(row);
        let mut pools = self.node_pools.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pools.retain(|id, _| map.node(*id).is_some());
        if let Some((_, pool)) = pools.get(&node).filter(|(known, _)| *known == hosts) {
            return Ok(pool.clone());
        }
        let pool = self.settings.pool(&hosts)?;
        pools.insert(node, (hosts, pool.clone()));
        Ok(pool)
    }

    /// One that is opened now, and is the caller's alone. Errors: what its server says to who comes, 08006 when it says nothing.
    pub async fn connect(&self, node: NodeId) -> Result<Client> {
        let (client, connection) =
            Way::new(&self.settings, &self.hosts(node)?, PROMPT).connect().await.map_err(pg_error)?;
        Way::run(connection);
        Ok(client)
    }

    /// Closes the control connections to a node that nobody uses, to the coordinator also the one that listens.
    pub fn let_go(&self, node: NodeId) {
        if node.is_coordinator() {
            self.pool.retain(|_, _| false);
            self.leaves.notify_waiters();
        }
        let pools = self.node_pools.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, pool)) = pools.get(&node) {
            pool.retain(|_, _| false);
        }
    }

    /// Where a node's server may be, its primary first. Errors: 42704 when the newest map has no such node.
    pub fn hosts(&self, node: NodeId) -> Result<Vec<Address>> {
        if node.is_coordinator() {
            return Ok(self.settings.coordinator_hosts());
        }
        self.map().node(node).map(hosts_of).ok_or_else(|| no_such_node(node))
    }

    /// A control connection to a node.
    pub async fn client(&self, node: NodeId) -> Result<Object> {
        checkout(&self.node_pool(node).await?).await
    }

    /// Reads the catalog again whenever it changes, until `stop`. Reconnects for as long as it takes, and reads after
    /// every reconnect, because what rang meanwhile was not heard.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = BACK_OFF_MIN;
        let mut trouble = Recurring::default();
        while !stop.is_cancelled() {
            let started = Instant::now();
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.listen(&mut trouble) => if let Err(error) = result {
                    trouble.failed(&error, UNHEARD);
                },
            }
            pause = if started.elapsed() > BACK_OFF_MAX { BACK_OFF_MIN } else { (pause * 2).min(BACK_OFF_MAX) };
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(pause) => {} }
        }
    }

    /// Listens until the connection is lost.
    async fn listen(&self, trouble: &mut Recurring) -> Result<()> {
        let way = Way::new(&self.settings, &self.settings.coordinator_hosts(), PROMPT);
        let (client, mut connection) = way.connect().await.map_err(pg_error)?;
        let (ring, mut rung) = tokio::sync::mpsc::channel::<()>(1);
        let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        let receive = async {
            while let Some(message) = messages.next().await {
                let AsyncMessage::Notification(rung) = message.map_err(pg_error)? else { continue };
                match rung.channel() {
                    CANCEL_CHANNEL => self.cancels.note(rung.payload()),
                    HOLD_CHANNEL => self.holds.note(rung.payload()),
                    HELD_CHANNEL => self.held.send_modify(|answers| *answers += 1),
                    _ => {
                        if rung.payload() == SCHEMA_CHANGED {
                            self.note_schema_change();
                        }
                        // Full: a reload is already due, and it will see this change too.
                        let _ = ring.try_send(());
                    }
                }
            }
            Ok(())
        };
        let reload = async {
            client.batch_execute(LISTEN).await.map_err(pg_error)?;
            self.note_schema_change();
            loop {
                self.refresh().await?;
                trouble.works(UNHEARD);
                // Read again now and then even if nothing rings: a notification lost somewhere costs that long at most.
                if let Ok(None) = tokio::time::timeout(REREAD_AFTER, rung.recv()).await {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            result = receive => result,
            result = reload => result,
            () = self.leaves.notified() => Err(PgError::new(SqlState::CANNOT_CONNECT_NOW, "the coordinator is shutting down")),
        }
    }
}

fn older(moves: i64, seen: i64) -> PgError {
    PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        "the catalog is older than what this proxy has read before",
    )
    .detail(format!("Its newest move is number {moves}, this proxy has seen number {seen}."))
    .hint("Was the coordinator restored from a backup? Correct its placements, then restart the proxy.")
}

fn no_such_node(node: NodeId) -> PgError {
    PgError::new(SqlState::UNDEFINED_OBJECT, format!("could not find the node with node id {node}"))
}

fn hosts_of(node: &Node) -> Vec<Address> {
    let primary = Address { host: node.host.clone(), port: node.port };
    std::iter::once(primary)
        .chain(node.standbys.iter().map(|s| Address { host: s.host.clone(), port: s.port }))
        .collect()
}

const UNHEARD: &str = "could not listen for changes of the catalog";
/// What `tenantry_catalog` says beside ringing, when not only rows of the catalog have changed.
pub const SCHEMA_CHANGED: &str = "schema";
const CANCEL_CHANNEL: &str = "tenantry_cancel";
const HOLD_CHANNEL: &str = "tenantry_hold";
const HELD_CHANNEL: &str = "tenantry_held";
const LISTEN: &str = "LISTEN tenantry_catalog; LISTEN tenantry_cancel; LISTEN tenantry_hold; LISTEN tenantry_held";
const RUNG_MAX: usize = 10_000;
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const REREAD_AFTER: Duration = Duration::from_secs(15);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
