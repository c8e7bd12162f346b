//! What tenants and shard groups ask of the servers: statements, time, bytes.
//!
//! ```text
//!   data thread: Meter ── counts as statements are placed and answered; nobody else touches it
//!                  ▲ asked for what it has counted, every few seconds or when somebody looks
//!   Loads ─────────┘──> Collected: this period and the last ──> tenantry.load, where all proxies' figures are
//! ```
//!
//! Figures are of statements that concern one shard group; they are known of every shard group, and of those tenants that
//! ask for most. Time is elapsed time of the client's request, from its first message to the end of its answer: the
//! worker's, with waits for locks and the network's. Of a pipeline each statement gets an equal part.

mod collected;
mod meter;

pub use collected::Row;
pub use meter::{Charge, Meter, Sighting};

use std::ops::AddAssign;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::catalog::Catalog;
use crate::catalog::loads;
use crate::error::Result;
use crate::shard_map::NodeId;
use collected::Collected;
use meter::Taken;

/// What is kept of loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSettings {
    pub enabled: bool,
    /// Tenants that are told apart. Default: 100.
    pub tenants: usize,
    /// For which figures are summed up. Default: 1min.
    pub period: Duration,
}

impl Default for LoadSettings {
    fn default() -> Self {
        Self { enabled: true, tenants: 100, period: Duration::from_secs(60) }
    }
}

/// Of one tenant or one shard group, for some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Statements that only read.
    pub reads: u64,
    /// All statements.
    pub statements: u64,
    /// Elapsed time.
    pub micros: u64,
    /// Of messages from and to clients.
    pub bytes: u64,
}

impl Figures {
    /// What it is to be hot: a statement weighs one, and one more for each millisecond.
    pub fn weight(&self) -> u64 {
        self.statements + self.micros / MICROS_PER_WEIGHT
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.reads += other.reads;
        self.statements += other.statements;
        self.micros += other.micros;
        self.bytes += other.bytes;
    }
}

/// The loads of this process.
pub struct Loads {
    settings: Arc<ArcSwap<LoadSettings>>,
    /// This proxy's name in the catalog.
    instance: String,
    threads: Mutex<Vec<mpsc::UnboundedSender<Ask>>>,
    collected: tokio::sync::Mutex<Collected>,
}

/// To a data thread: is it to count on? It answers with what it has counted.
struct Ask {
    settings: Arc<LoadSettings>,
    answer: oneshot::Sender<Taken>,
}

impl Loads {
    pub fn new(settings: Arc<ArcSwap<LoadSettings>>, instance: String) -> Self {
        let collected = Collected::new(settings.load().period, Instant::now());
        Self { settings, instance, threads: Mutex::default(), collected: tokio::sync::Mutex::new(collected) }
    }

    /// The calling thread's meter. It answers for as long as the thread's `LocalSet` lives.
    pub fn meter(&self) -> Rc<Meter> {
        let meter = Rc::new(Meter::new(&self.settings.load()));
        let (asks, mut asked) = mpsc::unbounded_channel::<Ask>();
        self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(asks);
        let counted = meter.clone();
        tokio::task::spawn_local(async move {
            while let Some(Ask { settings, answer }) = asked.recv().await {
                // Whoever asked may have gone.
                let _ = answer.send(counted.take(&settings));
            }
        });
        meter
    }

    /// Brings the catalog up to date with what this process has counted.
    ///
    /// Errors: those of the catalog; the figures are kept for the next time.
    pub async fn publish(&self, catalog: &Catalog) -> Result<()> {
        let mut collected = self.collected.lock().await;
        let settings = self.settings.load_full();
        let client = catalog.client(NodeId::COORDINATOR).await?;
        let reset = loads::last_reset(&**client).await?;
        let taken = self.take(&settings).await;
        if collected.reset.as_ref().is_none_or(|known| *known == reset) {
            collected.add(taken, &settings, Instant::now());
        } else {
            // At another proxy; what was counted here since is lost with what was before.
            collected.forget(Instant::now());
        }
        collected.reset = Some(reset);
        if !collected.has_changed {
            return Ok(());
        }
        let (period, rows) = collected.rows(&settings, Instant::now());
        loads::replace(&**client, &self.instance, period, &rows).await?;
        collected.has_changed = false;
        Ok(())
    }

    /// All figures, those of other proxies too, begin anew.
    pub async fn reset(&self, catalog: &Catalog) -> Result<()> {
        let mut collected = self.collected.lock().await;
        let client = catalog.client(NodeId::COORDINATOR).await?;
        let reset = loads::reset(&**client).await?;
        self.take(&self.settings.load_full()).await;
        collected.forget(Instant::now());
        collected.reset = Some(reset);
        Ok(())
    }

    /// How long to wait until the next `publish`, so that others see figures that are not old.
    pub fn pause(&self) -> Duration {
        (self.settings.load().period / 4).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    async fn take(&self, settings: &Arc<LoadSettings>) -> Vec<Taken> {
        let asks: Vec<_> = self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let asked = asks.iter().filter_map(|asks| {
            let (answer, answered) = oneshot::channel();
            asks.send(Ask { settings: settings.clone(), answer }).ok().map(|()| answered)
        });
        let answers = futures_util::future::join_all(asked.collect::<Vec<_>>()).await;
        // A thread that has ended has nothing more to say.
        answers.into_iter().flatten().collect()
    }
}

const MICROS_PER_WEIGHT: u64 = 1000;
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
