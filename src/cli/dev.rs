//! `tenantry dev`: throw-away servers, a proxy in front of them in this process, and the provisioner of its size.
//!
//! ```text
//!   main thread      DevCluster::start ── nodes are registered by SQL ── waits for Ctrl-C ── stops proxy, then servers
//!   proxy's threads  what `tenantry serve` runs, trusting loopback
//!   provisioner      carries out `tenantry cluster edit`
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, ProxyAddress};
use super::signals::{Hangup, Signals};
use super::{LogFilter, Serve, internal, logging, wait_for};
use crate::catalog::Address;
use crate::config::{Auth, ConfigFile, Ports, Settings, Time};
use crate::dev_cluster;
use crate::dev_cluster::DevCluster;
use crate::error::{PgError, Result, SqlState};
use crate::operations::cluster_size;
use crate::operations::cluster_size::Provisioner;

#[derive(Debug, Args)]
pub struct Dev {
    /// Workers of a new cluster; a kept one comes back with those that it has.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,
    /// The proxy's port P; the coordinator takes P+1 and the workers P+2 on.
    #[arg(long, default_value_t = 7432)]
    port: u16,
    /// Keep data in this folder and start from it again. Without it data is thrown away at the end.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Serve metrics and health over HTTP on this port.
    #[arg(long)]
    admin_port: Option<u16>,
    /// Who shows it there as a bearer token may change the number of workers; without it nobody may.
    #[arg(long, requires = "admin_port")]
    admin_token: Option<String>,
    /// What is logged to the standard error stream: a level, or levels by module.
    ///
    /// The default leaves out the connection pool, which complains of servers that were removed on purpose.
    #[arg(long, default_value = "warn,deadpool=error")]
    log: String,
}

impl Dev {
    pub fn run(self, serve: Serve) -> Result<()> {
        let settings = self.proxy_settings()?;
        let filter = logging::start(&settings.log)?;
        let signals = Signals::listen(Hangup::Stops)?;
        let stop = signals.stop.clone();
        println!("starting servers ...");
        let cluster = DevCluster::start(dev_cluster::Settings {
            data: self.data.clone(),
            base_port: self.port,
            workers: usize::from(self.workers),
            ..dev_cluster::Settings::default()
        })?;
        if stop.is_cancelled() {
            return Ok(());
        }
        let cluster = Arc::new(Mutex::new(cluster));
        let proxy = Proxy::start(serve, settings, signals, filter)?;
        let ran = wait_for(self.attend(&proxy, &cluster, &stop));
        stop.cancel();
        let served = proxy.end();
        // The servers stop when the last owner lets go of them.
        drop(cluster);
        ran.and(served)
    }

    fn proxy_settings(&self) -> Result<Settings> {
        let mut file = ConfigFile::default();
        file.listen.port = self.port;
        file.listen.auth = Auth::TrustLoopback;
        let port = self.port.checked_add(1).ok_or_else(|| {
            PgError::new(SqlState::INVALID_PARAMETER_VALUE, "there is no port above 65535 for the coordinator")
                .hint("Choose a lower port with --port.")
        })?;
        file.coordinator.port = Ports(vec![port]);
        file.admin.port = self.admin_port;
        file.admin.token = self.admin_token.clone();
        file.admin.users = vec!["postgres".to_owned()];
        file.log.filter = self.log.clone();
        file.listen.stop_timeout = Time(STOP_TIMEOUT);
        Settings::from_file(file)
    }

    /// Registers the nodes, says that the cluster is ready, and carries out changes of its size until `stop`.
    async fn attend(&self, proxy: &Proxy, cluster: &Arc<Mutex<DevCluster>>, stop: &CancellationToken) -> Result<()> {
        let address = ProxyAddress::dev(self.port);
        let (servers, folder) = {
            let cluster = lock(cluster);
            (cluster.workers(), cluster.folder().to_path_buf())
        };
        let Some(taken) = stop.run_until_cancelled(register(&address, &servers, proxy)).await else { return Ok(()) };
        let (workers, removed) = taken?;
        let listed = |servers: &[SocketAddr]| servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        println!();
        println!("  connect       psql {}", address.connection_string());
        println!("  coordinator   127.0.0.1:{}", self.port + 1);
        println!("  workers       {}", listed(&workers));
        if !removed.is_empty() {
            println!("  removed       {} (citus_add_node takes them back)", listed(&removed));
        }
        println!(
            "  data          {}{}",
            folder.display(),
            if self.data.is_some() { "" } else { " (thrown away at the end)" }
        );
        if let Some(port) = self.admin_port {
            println!("  metrics       http://127.0.0.1:{port}/metrics");
            println!("  dashboard     http://127.0.0.1:{port}/");
        }
        println!("  change size   tenantry cluster edit --workers {} --port {}", workers.len() + 2, self.port);
        println!();
        println!("ready: {}", address.connection_string());
        let mut provisioner = DevProvisioner { cluster: cluster.clone() };
        let login = address.login();
        tokio::select! {
            () = cluster_size::run(&mut provisioner, &login, stop) => Ok(()),
            // Its error is told by whoever joins it.
            () = proxy.ended() => Ok(()),
        }
    }
}

/// Adds the servers to a new cluster as a user would, all or none. Of a kept one it answers who takes part, and who has been
/// removed by a user: those stay outside.
///
/// The coordinator is not registered: it is known already, and `pg_dist_node` shows the workers.
async fn register(
    address: &ProxyAddress,
    servers: &[SocketAddr],
    proxy: &Proxy,
) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let connection = first_connection(address, proxy).await?;
    let known = connection.ask("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid <> 0").await?;
    if known.rows.is_empty() {
        let add = |server: &SocketAddr| format!("SELECT citus_add_node('{}', {});", server.ip(), server.port());
        connection.ask(&format!("BEGIN; {} COMMIT", servers.iter().map(add).collect::<String>())).await?;
        return Ok((servers.to_vec(), Vec::new()));
    }
    let known: Vec<Address> = (0..known.rows.len())
        .filter_map(|row| Some(Address { host: known.at(row, 0)?.to_owned(), port: known.at(row, 1)?.parse().ok()? }))
        .collect();
    Ok(servers.iter().partition(|server| known.iter().any(|node| listens_at(server, node))))
}

/// Whether a node of the catalog is this server of ours.
fn listens_at(server: &SocketAddr, node: &Address) -> bool {
    server.port() == node.port && (node.host == "localhost" || node.host == server.ip().to_string())
}

async fn first_connection(address: &ProxyAddress, proxy: &Proxy) -> Result<Connection> {
    let start = Instant::now();
    loop {
        match address.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if start.elapsed() > START_DEADLINE || proxy.thread.is_finished() => return Err(error),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The proxy on a thread of its own.
struct Proxy {
    thread: JoinHandle<Result<()>>,
}

impl Proxy {
    fn start(serve: Serve, settings: Settings, signals: Signals, filter: LogFilter) -> Result<Self> {
        let thread =
            std::thread::Builder::new().name("proxy".to_owned()).spawn(move || serve(settings, signals, filter));
        Ok(Self { thread: thread.map_err(|error| internal("start a thread", error))? })
    }

    async fn ended(&self) {
        while !self.thread.is_finished() {
            tokio::time::sleep(POLL).await;
        }
    }

    fn end(self) -> Result<()> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err(PgError::new(SqlState::INTERNAL_ERROR, "the proxy's thread panicked")))
    }
}

/// Servers of this process's own cluster.
struct DevProvisioner {
    cluster: Arc<Mutex<DevCluster>>,
}

impl Provisioner for DevProvisioner {
    async fn add_worker(&mut self) -> Result<Address> {
        let address = self.blocking(DevCluster::add_worker).await?;
        Ok(Address { host: address.ip().to_string(), port: address.port() })
    }

    async fn remove_worker(&mut self, address: &Address) -> Result<()> {
        let address = address.clone();
        self.blocking(move |cluster| {
            // Somebody else's server is not ours to end.
            if let Some(server) = cluster.workers().iter().find(|server| listens_at(server, &address)) {
                cluster.remove_worker_at(server.port());
            }
            Ok(())
        })
        .await
    }
}

impl DevProvisioner {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut DevCluster) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let cluster = self.cluster.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut lock(&cluster))).await;
        done.map_err(|error| internal("run a blocking task", error))?
    }
}

fn lock(cluster: &Mutex<DevCluster>) -> std::sync::MutexGuard<'_, DevCluster> {
    // A panic in one call leaves the list of servers as it was, which is all that matters here.
    cluster.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const POLL: Duration = Duration::from_millis(20);
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
