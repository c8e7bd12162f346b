//! Wires the rooms to a running proxy, and stops it.
//!
//! ```text
//!   control runtime (2 threads)                       data threads, one per core
//!     acceptor ──── TcpStream, dealt in turn ────────>  runtime + LocalSet: session::run_data_thread
//!     catalog.watch, jobs, admin HTTP                    (executor, pools, servers: nothing shared is locked)
//! ```
//!
//! With few connections SO_REUSEPORT would leave threads idle, because the kernel chooses by hash; dealing does not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::backend::ServerAddress;
use crate::catalog::Catalog;
use crate::config::Settings;
use crate::error::{PgError, Result, SqlState};
use crate::executor::{Holds, TransactionIds};
use crate::functions;
use crate::jobs;
use crate::session;
use crate::session::{CancelKeys, Shared};

/// Serves clients until `stop`; then lets sessions finish within `stop_timeout`.
///
/// Blocks its thread. Errors: 55006 the port is taken, 08006 the coordinator cannot be reached, XX000 a thread died.
pub fn run(settings: Settings, stop: CancellationToken) -> Result<()> {
    // First of all, so that a second proxy on this port changes nothing.
    let listener = listen(settings.listen)?;
    let control = runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| internal("start the control runtime", error))?;
    let result = control.block_on(serve(settings, listener, &stop));
    stop.cancel();
    control.shutdown_timeout(CONTROL_STOP_TIMEOUT);
    result
}

async fn serve(settings: Settings, listener: std::net::TcpListener, stop: &CancellationToken) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| internal("listen", error))?;
    let metrics = admin::metrics::install()?;
    let catalog = tokio::select! {
        opened = Catalog::open(settings.catalog.clone()) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    let control = TaskTracker::new();
    control.spawn(catalog.clone().watch(stop.clone()));
    control.spawn(admin::metrics::upkeep(metrics.clone(), stop.clone()));

    let shared = Arc::new(Shared {
        holds: Arc::new(Holds::default()),
        transaction_ids: Arc::new(TransactionIds::new(format!("{:016x}", rand::random::<u64>()))),
        coordinator: ServerAddress { host: settings.catalog.host.clone(), port: settings.catalog.port },
        cancel_keys: Arc::new(CancelKeys::default()),
        pool: settings.pool.clone(),
        executor: settings.executor.clone(),
        login: settings.login.clone(),
        limits: settings.limits.clone(),
        provided: functions::provided(),
        control: runtime::Handle::current(),
        catalog: catalog.clone(),
    });

    control.spawn(jobs::run(catalog.clone(), shared.holds.clone(), settings.jobs.clone(), stop.clone()));

    if let Some(address) = settings.admin {
        let http = tokio::net::TcpListener::from_std(listen(address)?).map_err(|error| internal("listen", error))?;
        control.spawn(admin::serve(http, admin::State { catalog, metrics }, stop.clone()));
    }
    let (queues, mut threads) = DataThreads::start(settings.data_threads, &shared, stop)?;
    tracing::info!(address = %settings.listen, threads = settings.data_threads, "serving clients");
    tokio::select! {
        // In this order: once stopped, threads may end.
        biased;
        () = stop.cancelled() => {}
        () = deal(listener, queues) => {}
        name = threads.first_to_end() => {
            return Err(PgError::new(SqlState::INTERNAL_ERROR, format!("thread {name} ended although nobody stopped it")));
        }
    }
    tracing::info!("stopping");
    control.close();
    let finished = async {
        threads.all_to_end().await;
        control.wait().await;
    };
    if tokio::time::timeout(settings.stop_timeout, finished).await.is_err() {
        tracing::warn!(timeout = ?settings.stop_timeout, "sessions did not finish in time and are cut off");
    }
    Ok(())
}

/// Accepts clients for ever and gives them to the data threads in turn. Cancel safe.
async fn deal(listener: tokio::net::TcpListener, queues: Vec<Queue>) {
    for queue in queues.iter().cycle() {
        let stream = accept(&listener).await;
        // Refused only by a thread that has ended, which the caller notices by itself.
        let _ = queue.send(stream).await;
    }
}

async fn accept(listener: &tokio::net::TcpListener) -> std::net::TcpStream {
    loop {
        match listener.accept().await.and_then(|(stream, _)| ready(&stream).and_then(|()| stream.into_std())) {
            Ok(stream) => return stream,
            Err(error) => {
                tracing::warn!(%error, "could not accept a client");
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
    fn start(count: usize, shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(Vec<Queue>, Self)> {
        let (mut queues, mut threads) = (Vec::new(), Self { ended: Vec::new() });
        for number in 0..count {
            let (queue, incoming) = mpsc::channel(QUEUE);
            let (alive, ended) = oneshot::channel();
            let (shared, stop) = (shared.clone(), stop.clone());
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| internal("start a data thread", error))?;
            let name = format!("data-{number}");
            std::thread::Builder::new()
                .name(name.clone())
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    let _alive: oneshot::Sender<()> = alive;
                    LocalSet::new().block_on(&runtime, session::run_data_thread(shared, incoming, stop));
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

    async fn all_to_end(&mut self) {
        for (_, ended) in self.ended.drain(..) {
            let _ = ended.await;
        }
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
const CONTROL_STOP_TIMEOUT: Duration = Duration::from_secs(2);
