//! Who talks to us: clients.
//!
//! ```text
//!   arrival ──> startup ──> login ──> run: one frame after the other
//!                                      ├─ simple_query      Query
//!                                      ├─ extended_query    Parse Bind Describe Execute Close Flush Sync
//!                                      └─ place, virtual_plan: where a plan runs
//! ```
//!
//! A session lives on one data thread and owns its client's socket, settings, prepared statements and transaction.

mod admin_database;
mod arrival;
mod batch;
mod cancel_keys;
mod credentials;
mod defaults;
mod door;
mod ending;
mod extended_query;
mod greeting;
mod load;
mod log;
mod login;
mod metrics;
mod no_sql;
mod notices;
mod own_settings;
mod passed_cancels;
mod pipeline;
mod place;
mod plan_cache;
mod portals;
mod prepared;
mod presence;
mod replica_reads;
mod requests;
mod row_limit;
mod run;
mod settings;
mod shadows;
mod shapes;
mod short_command;
mod short_way;
mod simple_query;
mod startup;
mod statement;
mod statement_plans;
mod statements;
mod statements_view;
mod tally;
mod transaction_commands;
mod unit;
mod waiting;

pub use admin_database::{ADMIN_DATABASE, AdminDatabase, Visitor};
pub use cancel_keys::{CancelKeys, watch_clients};
pub use credentials::{Credentials, SessionBounds};
pub use door::Door;
pub use log::SessionLog;
pub use login::LoginSettings;
pub use passed_cancels::serve_others;
pub use presence::{Presence, Presences, State};
pub use shapes::{Route, Shapes};
pub use tally::{Tallies, Totals};

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Nodes, Pools, ServerAddress, SharedSettings};
use crate::catalog::{Catalog, MapAtHand};
use crate::executor::loads::Loads;
use crate::executor::{self, Executor, Holds, ObjectIds, TransactionIds};
use crate::operations::mover::MoverEnvironment;
use crate::planner::Provided;
use crate::transport::Acceptor;

/// What all sessions of the process share.
pub struct Shared {
    pub catalog: Arc<Catalog>,
    pub holds: Arc<Holds>,
    /// What tenants ask of the servers.
    pub loads: Arc<Loads>,
    /// What functions that move rows are given.
    pub mover: MoverEnvironment,
    pub transaction_ids: Arc<TransactionIds>,
    pub coordinator: ServerAddress,
    pub cancel_keys: Arc<CancelKeys>,
    /// What others may see of the sessions, and what these have counted.
    pub presences: Arc<Presences>,
    pub tallies: Arc<Tallies>,
    pub admin_database: Arc<dyn AdminDatabase>,
    /// What the whole process holds to each node.
    pub nodes: Arc<Nodes>,
    /// These may change at any time.
    pub executor: Arc<ArcSwap<executor::Settings>>,
    pub login: Arc<ArcSwap<LoginSettings>>,
    pub log: Arc<ArcSwap<SessionLog>>,
    /// Takes clients' TLS handshakes.
    pub acceptor: Arc<Acceptor>,
    pub credentials: Credentials,
    pub door: Arc<Door>,
    pub provided: Provided,
    /// Where long operations run, off the data threads.
    pub control: tokio::runtime::Handle,
}

/// How data threads and sessions are told to end.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// Sessions end as soon as they are in no transaction.
    pub stop: CancellationToken,
    /// Sessions end as soon as no statement runs.
    pub hurry: CancellationToken,
}

impl Ending {
    /// A part's: told what the whole is told, and by itself.
    fn of_part(&self) -> Self {
        Self { stop: self.stop.child_token(), hurry: self.hurry.child_token() }
    }

    /// As soon as no statement runs.
    fn end(&self) {
        self.stop.cancel();
        self.hurry.cancel();
    }
}

/// Serves the sockets that arrive, on the calling thread (inside a `LocalRuntime`), until told to stop or `incoming` ends;
/// then lets the sessions come to their end.
pub async fn run_data_thread(shared: Arc<Shared>, mut incoming: mpsc::Receiver<std::net::TcpStream>, ending: Ending) {
    // Of this thread alone, so that looking at them costs no other thread anything.
    let ending = ending.of_part();
    let executor = Rc::new(Executor {
        pools: Pools::new(shared.nodes.clone()),
        catalog: shared.catalog.clone(),
        map: MapAtHand::new(shared.catalog.clone()),
        holds: shared.holds.clone(),
        loads: shared.loads.clone(),
        coordinator: shared.coordinator.clone(),
        object_ids: ObjectIds::default(),
        transaction_ids: shared.transaction_ids.clone(),
        settings: shared.executor.clone(),
    });
    let tally = shared.tallies.add();
    let meter = shared.loads.meter();
    let thread = Rc::new(run::Thread {
        shared,
        meter,
        executor: executor.clone(),
        plans: plan_cache::PlanCache::counted(tally.plans.clone()),
        shapes: shapes::Shapes::counted(tally.shapes.clone()),
        metrics: metrics::Metrics::new(),
        tally,
        settings: SharedSettings::default(),
        greetings: Default::default(),
    });
    let sessions = TaskTracker::new();
    let pools = executor.pools.clone();
    let mut maintain = std::pin::pin!(pools.maintain());
    loop {
        tokio::select! {
            () = ending.stop.cancelled() => break,
            () = &mut maintain => {}
            socket = incoming.recv() => match socket {
                None => break,
                Some(socket) => {
                    let session = serve(thread.clone(), socket, ending.clone());
                    tokio::task::spawn_local(sessions.track_future(session));
                }
            },
        }
    }
    // Accepted before the end: they are told.
    while let Ok(socket) = incoming.try_recv() {
        tokio::task::spawn_local(sessions.track_future(serve(thread.clone(), socket, ending.clone())));
    }
    sessions.close();
    tokio::select! { () = &mut maintain => {} () = sessions.wait() => {} }
}

async fn serve(thread: Rc<run::Thread>, socket: std::net::TcpStream, ending: Ending) {
    if let Err(error) = arrival::serve(thread, socket, ending).await {
        tracing::debug!(%error, "session ended");
    }
}
