//! Wires the rooms to a running proxy, and stops it.
//!
//! ```text
//!   control runtime (2 threads)                       data threads, one per core
//!     acceptor ──── TcpStream, dealt in turn ────────>  session::run_data_thread, in a LocalRuntime or a ring
//!     catalog.watch, jobs, admin HTTP                    (executor, pools, servers: nothing shared is locked)
//! ```
//!
//! With few connections SO_REUSEPORT would leave threads idle, because the kernel chooses by hash; dealing does not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::backend::{self, Nodes, ServerAddress};
use crate::catalog::proxies::Endpoints;
use crate::catalog::{self, Catalog};
use crate::cli::{LogFilter, Signals};
use crate::config::{Io, Reloaded, Reloader, Settings};
use crate::console::{Averages, Console, Shutdown};
use crate::error::{PgError, Result, SqlState};
use crate::executor::loads::Loads;
use crate::executor::{Holds, TransactionIds};
use crate::functions;
use crate::jobs;
use crate::operations::mover::{self, MoverEnvironment};
use crate::session;
use crate::session::{CancelKeys, Credentials, Door, Ending, Presences, Shared, Tallies};
use crate::tally::Recurring;
use crate::transport::takeover::{self, Taken};
use crate::transport::{ring, timer};

/// Serves clients until it is told to stop; then lets sessions finish within `stop_timeout`. Or until another process has
/// taken over the port; then until the last session has ended.
///
/// Blocks its thread. Errors: 55006 the port is taken, 08006 the coordinator cannot be reached, XX000 a thread died.
pub fn run(settings: Settings, signals: Signals, log_filter: LogFilter) -> Result<()> {
    // First of all, so that a second proxy on this port changes nothing.
    let listeners = Listeners::open(&settings)?;
    let control = runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| internal("start the control runtime", error))?;
    let result = control.block_on(serve(settings, listeners, &signals, log_filter));
    signals.stop.cancel();
    control.shutdown_timeout(CONTROL_STOP_TIMEOUT);
    result
}

async fn serve(settings: Settings, listeners: Listeners, signals: &Signals, log_filter: LogFilter) -> Result<()> {
    let stop = &signals.stop;
    let reloader = Arc::new(Reloader::new(&settings)?);
    let reload = Reload { reloader: reloader.clone(), log_filter: Arc::new(log_filter) };
    let live = reloader.live().clone();
    // Of a successor: the same sockets.
    let copies = listeners.copies()?;
    let clients = tokio::net::TcpListener::from_std(listeners.clients).map_err(|error| internal("listen", error))?;
    let metrics = admin::metrics::install()?;
    mover::register_metrics();
    let control = TaskTracker::new();
    let nodes = Nodes::new(live.pool.clone());
    control.spawn(backend::guard(nodes.clone(), stop.clone()));

    let coordinator = ServerAddress { host: settings.catalog.host.clone(), port: settings.catalog.port };
    // Control connections are looked after from the first one on.
    nodes.set_hosts(&[jobs::hosts_of_coordinator(&settings.catalog)]);
    let reach = catalog::Settings { nodes: Some(nodes.clone()), ..settings.catalog.clone() };
    let catalog = tokio::select! {
        opened = async {
            jobs::look_for_coordinator(&reach, &nodes).await;
            Catalog::open(reach).await
        } => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    let credentials = Credentials::open(&catalog).await?;
    control.spawn(catalog.clone().watch(stop.clone()));
    control.spawn(admin::metrics::upkeep(metrics.clone(), stop.clone()));

    let (holds, transaction_ids) =
        (Arc::new(Holds::default()), Arc::new(TransactionIds::new(format!("{:016x}", rand::random::<u64>()))));
    let loads = Arc::new(Loads::new(live.loads.clone(), transaction_ids.instance().to_owned()));
    let (presences, tallies) = (Arc::new(Presences::default()), Arc::new(Tallies::default()));
    let (cancel_keys, door) = (Arc::new(CancelKeys::default()), Arc::new(Door::default()));
    // No more clients, and no haste with those that are there.
    let leave = CancellationToken::new();
    let console = Arc::new(Console {
        nodes: nodes.clone(),
        catalog: catalog.clone(),
        coordinator: coordinator.clone(),
        presences: presences.clone(),
        tallies: tallies.clone(),
        holds: holds.clone(),
        transaction_ids: transaction_ids.clone(),
        settings: reloader,
        reload: Box::new({
            let reload = reload.clone();
            move || reload.now()
        }),
        averages: Averages::default(),
        door: door.clone(),
        cancel_keys: cancel_keys.clone(),
        shutdown: Box::new({
            let (signals, leave) = (signals.clone(), leave.clone());
            move |shutdown| match shutdown {
                Shutdown::AtOnce => signals.end_at_once(),
                Shutdown::ForServers => signals.stop.cancel(),
                Shutdown::ForClients => leave.cancel(),
            }
        }),
    });
    let instance = transaction_ids.instance().to_owned();
    let mover = MoverEnvironment::new(catalog.clone(), holds.clone(), live.moves.clone()).driven_by(&instance);
    let answering = jobs::hold_for_others(catalog.clone(), holds.clone(), instance);
    let shared = Arc::new(Shared {
        holds,
        loads: loads.clone(),
        mover: mover.clone(),
        transaction_ids,
        coordinator,
        cancel_keys,
        presences,
        tallies,
        admin_database: console.clone(),
        nodes: nodes.clone(),
        executor: live.executor.clone(),
        login: live.login.clone(),
        log: live.session_log.clone(),
        acceptor: live.acceptor.clone(),
        credentials,
        door,
        provided: functions::provided(),
        control: runtime::Handle::current(),
        catalog: catalog.clone(),
    });

    // Not among what is waited for: the sessions that end last still hold connections.
    let instance = shared.transaction_ids.instance().to_owned();
    let endpoints = Endpoints { clients: settings.listen, admin: settings.admin };
    let shares =
        jobs::share_connections(catalog.clone(), nodes.clone(), shared.coordinator.clone(), (instance, endpoints));
    tokio::spawn(shares);
    tokio::spawn({
        let console = console.clone();
        async move { console.note_averages().await }
    });
    tokio::spawn(answering);
    tokio::spawn(jobs::lend_values(catalog.clone(), nodes.clone()));
    tokio::spawn(jobs::follow_primaries(catalog.clone(), nodes.clone(), shared.coordinator.clone()));
    control.spawn(jobs::watch_replicas(catalog.clone(), nodes.clone(), stop.clone()));
    control.spawn(jobs::publish_loads(catalog.clone(), loads, stop.clone()));
    control.spawn(session::watch_clients(shared.cancel_keys.clone(), stop.clone()));
    control.spawn(session::serve_others(shared.cancel_keys.clone(), catalog.clone(), stop.clone()));
    control.spawn(jobs::run(mover, live.jobs.clone(), stop.clone()));

    let accepting = stop.child_token();
    if let Some(http) = listeners.admin {
        let http = tokio::net::TcpListener::from_std(http).map_err(|error| internal("listen", error))?;
        control.spawn(admin::serve(
            http,
            admin::State {
                catalog,
                metrics,
                token: settings.admin_token.clone(),
                figures: Arc::new(move |page| console.tell(page)),
            },
            accepting.clone(),
        ));
    }
    let ending = Ending { stop: stop.clone(), hurry: signals.hurry.clone() };
    let (queues, mut threads) = DataThreads::start(settings.data_threads, settings.io, &shared, &ending)?;
    tracing::info!(address = %settings.listen, threads = settings.data_threads, "serving clients");
    let has_taken_over = listeners.taken.is_some();
    if let Some(taken) = listeners.taken {
        match taken.complete() {
            Ok(()) => tracing::info!("took over from the proxy that ran before"),
            Err(error) => tracing::warn!(%error, "nobody is left to be told of the take-over"),
        }
    }
    let successor =
        settings.takeover_socket.as_deref().map(|path| takeover::listen(path, has_taken_over)).transpose()?;
    let mut waits_for_sessions = false;
    tokio::select! {
        // In this order: once stopped, threads may end.
        biased;
        () = stop.cancelled() => {}
        () = hand_over(successor, copies) => {
            tracing::info!(
                sessions = shared.cancel_keys.len(),
                "another process has taken over the port, open sessions go on"
            );
            waits_for_sessions = true;
        }
        () = leave.cancelled() => {
            tracing::info!(sessions = shared.cancel_keys.len(), "no more clients are taken, open sessions go on");
            waits_for_sessions = true;
        }
        () = deal(clients, queues) => {}
        () = reload.whenever_asked(signals) => {}
        name = threads.first_to_end() => {
            return Err(PgError::new(SqlState::INTERNAL_ERROR, format!("thread {name} ended although nobody stopped it")));
        }
    }
    accepting.cancel();
    if waits_for_sessions {
        tokio::select! {
            () = stop.cancelled() => {}
            () = threads.all_to_end() => stop.cancel(),
        }
    }
    tracing::info!("stopping");
    control.close();
    let finished = async {
        threads.all_to_end().await;
        control.wait().await;
    };
    finish(finished, **live.stop_timeout.load(), &signals.hurry, &shared.cancel_keys).await;
    Ok(())
}

/// Waits until all has `finished`. After `timeout`, or when told to hurry, running statements are cancelled and open
/// transactions rolled back.
async fn finish(finished: impl Future<Output = ()>, timeout: Duration, hurry: &CancellationToken, keys: &CancelKeys) {
    let mut finished = std::pin::pin!(finished);
    tokio::select! {
        () = &mut finished => return,
        () = hurry.cancelled() => tracing::warn!(sessions = keys.len(), "told to hurry, open transactions are rolled back"),
        () = tokio::time::sleep(timeout) => {
            tracing::warn!(sessions = keys.len(), ?timeout, "transactions did not end in time and are rolled back");
            hurry.cancel();
        }
    }
    let cut_off = async {
        keys.cancel_all().await;
        finished.await;
    };
    if tokio::time::timeout(HURRY_TIMEOUT, cut_off).await.is_err() {
        tracing::warn!(sessions = keys.len(), "sessions did not end and are cut off");
    }
}

/// Returns when another process accepts in our place. Cancel safe.
async fn hand_over(successor: Option<tokio::net::UnixListener>, sockets: Vec<std::net::TcpListener>) {
    match successor {
        Some(successor) => takeover::hand_over(successor, &sockets).await,
        None => std::future::pending().await,
    }
}

/// Puts new settings in force.
#[derive(Clone)]
struct Reload {
    reloader: Arc<Reloader>,
    log_filter: Arc<LogFilter>,
}

impl Reload {
    /// Errors: as `Reloader::reload`.
    fn now(&self) -> Result<Reloaded> {
        let reloaded = self.reloader.reload()?;
        (self.log_filter)(&self.reloader.live().log_filter.load())?;
        Ok(reloaded)
    }

    /// Whenever a signal asks for it, for ever. Cancel safe.
    async fn whenever_asked(&self, signals: &Signals) {
        loop {
            signals.reload.notified().await;
            if let Err(error) = self.now() {
                let detail = error.detail_text().unwrap_or_default();
                tracing::error!(%error, detail, "configuration was not read again, the old settings stay in force");
            }
        }
    }
}

/// Accepts clients for ever and gives them to the data threads in turn. Cancel safe.
async fn deal(listener: tokio::net::TcpListener, queues: Vec<Queue>) {
    let mut trouble = Recurring::default();
    for queue in queues.iter().cycle() {
        let stream = accept(&listener, &mut trouble).await;
        // Refused only by a thread that has ended, which the caller notices by itself.
        let _ = queue.send(stream).await;
    }
}

async fn accept(listener: &tokio::net::TcpListener, trouble: &mut Recurring) -> std::net::TcpStream {
    loop {
        match listener.accept().await.and_then(|(stream, _)| ready(&stream).and_then(|()| stream.into_std())) {
            Ok(stream) => return stream,
            Err(error) => {
                trouble.failed(&error, "could not accept a client");
                // Out of file descriptors, mostly: asking again at once would only spin.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers leave at once; a client whose machine has vanished is noticed.
fn ready(stream: &tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The listening sockets.
struct Listeners {
    clients: std::net::TcpListener,
    admin: Option<std::net::TcpListener>,
    /// They come from there, or some do.
    taken: Option<Taken>,
}

impl Listeners {
    /// Those of the proxy that runs where the settings say so, otherwise new ones.
    fn open(settings: &Settings) -> Result<Self> {
        let path = settings.takeover_socket.as_deref();
        let mut taken = match (settings.take_over, path) {
            (false, _) => None,
            (true, Some(path)) => takeover::take(path)?,
            (true, None) => {
                return Err(PgError::new(SqlState::CONFIG_FILE_ERROR, "setting \"listen.takeover_socket\" is not set")
                    .hint("A proxy is taken over through that socket."));
            }
        };
        let mut open = |address| match taken.as_mut().and_then(|taken| taken.socket(address)) {
            Some(socket) => Ok(socket),
            None => listen(address),
        };
        Ok(Self { clients: open(settings.listen)?, admin: settings.admin.map(open).transpose()?, taken })
    }

    fn copies(&self) -> Result<Vec<std::net::TcpListener>> {
        let all = std::iter::once(&self.clients).chain(&self.admin);
        all.map(|socket| socket.try_clone().map_err(|error| internal("copy a socket", error))).collect()
    }
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let bound = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of a proxy that has just ended must not keep the next one from starting.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    bound().map(Into::into).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            PgError::new(SqlState::OBJECT_IN_USE, format!("port {} is in use", address.port()))
                .hint("Stop what listens there, or choose another port.")
        }
        _ => PgError::new(SqlState::OBJECT_IN_USE, format!("could not listen on {address}: {error}")),
    })
}

type Queue = mpsc::Sender<std::net::TcpStream>;

/// The threads that serve clients.
struct DataThreads {
    /// Each closes when its thread ends, by a panic too.
    ended: Vec<(String, oneshot::Receiver<()>)>,
}

impl DataThreads {
    /// Starts `count` threads; each takes clients from its queue.
    fn start(count: usize, io: Io, shared: &Arc<Shared>, ending: &Ending) -> Result<(Vec<Queue>, Self)> {
        let (mut queues, mut threads) = (Vec::new(), Self { ended: Vec::new() });
        for number in 0..count {
            let (queue, incoming) = mpsc::channel(QUEUE);
            let (alive, ended) = oneshot::channel();
            let (shared, ending, control) = (shared.clone(), ending.clone(), runtime::Handle::current());
            let name = format!("data-{number}");
            std::thread::Builder::new()
                .name(name.clone())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    let _alive: oneshot::Sender<()> = alive;
                    timer::lend_timers(control.clone());
                    run_data_thread(io, &control, session::run_data_thread(shared, incoming, ending));
                })
                .map_err(|error| internal("start a data thread", error))?;
            queues.push(queue);
            threads.ended.push((name, ended));
        }
        Ok((queues, threads))
    }

    /// The name of the first thread that ends. Cancel safe.
    async fn first_to_end(&mut self) -> String {
        let threads = self.ended.iter_mut().map(|(name, ended)| {
            Box::pin(async move {
                let _ = ended.await;
                name.clone()
            })
        });
        futures_util::future::select_all(threads).await.0
    }

    /// Cancel safe.
    async fn all_to_end(&mut self) {
        while let Some((_, ended)) = self.ended.last_mut() {
            let _ = ended.await;
            self.ended.pop();
        }
    }
}

/// Runs `work` on this thread, which waits for its sockets as `io` says, if it may.
fn run_data_thread(io: Io, control: &runtime::Handle, mut work: impl Future<Output = ()> + 'static) {
    if io != Io::Epoll {
        // New connections to servers and timers are of the control runtime.
        let _entered = control.enter();
        match ring::block_on(work) {
            Ok(()) => return,
            Err((error, unbegun)) => {
                match io {
                    Io::IoUring => tracing::warn!(%error, "io_uring is not to be had, epoll is taken"),
                    Io::Auto | Io::Epoll => tracing::debug!(%error, "io_uring is not to be had, epoll is taken"),
                }
                work = unbegun;
            }
        }
    }
    // Made here, because it cannot change threads. It has no timers.
    match runtime::Builder::new_current_thread().enable_io().build_local(Default::default()) {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => tracing::error!(%error, "could not make a data thread's runtime"),
    }
}

fn internal(tried: &str, error: std::io::Error) -> PgError {
    PgError::new(SqlState::INTERNAL_ERROR, format!("could not {tried}: {error}"))
}

const CONTROL_THREADS: usize = 2;
/// Deep expressions are planned by recursion. Only touched pages cost memory.
const STACK_BYTES: usize = 16 << 20;
/// Clients that wait to be accepted, and those dealt to one thread and not taken yet.
const BACKLOG: i32 = 1024;
const QUEUE: usize = 128;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// For the goodbyes of sessions that were cut off.
const HURRY_TIMEOUT: Duration = Duration::from_secs(3);
const CONTROL_STOP_TIMEOUT: Duration = Duration::from_secs(2);
