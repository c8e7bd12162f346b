//! Who talks to us: clients.
//!
//! ```text
//!   accepted socket ──> startup ──> login ──> Session: one frame after the other
//!                                               ├─ simple_query      Query
//!                                               ├─ extended_query    Parse Bind Describe Execute Close Flush Sync
//!                                               └─ place, virtual_plan: where a plan runs
//! ```
//!
//! A session lives on one data thread and owns its client's socket, settings, prepared statements and transaction.

mod batch;
mod cancel_keys;
mod extended_query;
mod limits;
mod login;
mod metrics;
mod place;
mod plan_cache;
mod prepared;
mod run;
mod settings;
mod shapes;
mod simple_query;
mod startup;
mod statement_plans;
mod transaction_commands;

pub use cancel_keys::CancelKeys;
pub use limits::Limits;
pub use login::LoginSettings;
pub use shapes::{Route, Shapes};

use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{PoolSettings, Pools, ServerAddress};
use crate::catalog::Catalog;
use crate::executor::{self, Executor, Holds, TransactionIds};
use crate::planner::Provided;

/// What all sessions of the process share.
pub struct Shared {
    pub catalog: Arc<Catalog>,
    pub holds: Arc<Holds>,
    pub transaction_ids: Arc<TransactionIds>,
    pub coordinator: ServerAddress,
    pub cancel_keys: Arc<CancelKeys>,
    pub pool: PoolSettings,
    pub executor: executor::Settings,
    pub login: LoginSettings,
    pub limits: Limits,
    pub provided: Provided,
    /// Where long operations run, off the data threads.
    pub control: tokio::runtime::Handle,
}

/// Serves the sockets that arrive, on the calling thread (inside a `LocalSet`), until `stop`; then lets the sessions
/// that are in a transaction end it.
pub async fn run_data_thread(
    shared: Arc<Shared>,
    mut incoming: mpsc::Receiver<std::net::TcpStream>,
    stop: CancellationToken,
) {
    let executor = Rc::new(Executor {
        pools: Pools::new(shared.pool.clone()),
        catalog: shared.catalog.clone(),
        holds: shared.holds.clone(),
        coordinator: shared.coordinator.clone(),
        transaction_ids: shared.transaction_ids.clone(),
        settings: shared.executor.clone(),
    });
    let thread = Rc::new(run::Thread {
        shared,
        executor,
        plans: plan_cache::PlanCache::default(),
        shapes: shapes::Shapes::default(),
        metrics: metrics::Metrics::new(),
    });
    let sessions = TaskTracker::new();
    let mut close_idle = tokio::time::interval(CLOSE_IDLE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = close_idle.tick() => thread.executor.pools.close_idle(),
            socket = incoming.recv() => match socket {
                None => break,
                Some(socket) => {
                    let session = serve(thread.clone(), socket, stop.clone());
                    tokio::task::spawn_local(sessions.track_future(session));
                }
            },
        }
    }
    sessions.close();
    sessions.wait().await;
}

async fn serve(thread: Rc<run::Thread>, socket: std::net::TcpStream, stop: CancellationToken) {
    let prepared = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
    let served = match prepared {
        Ok(socket) => run::serve(thread, socket, stop).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "session ended");
    }
}

const CLOSE_IDLE_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
