//! Throw-away Postgres servers: one coordinator and some workers on loopback, started in seconds, gone with us.
//!
//! ```text
//!   DevCluster ──> Server coordinator  127.0.0.1:P+1   FOLDER/coordinator   FOLDER/coordinator.log
//!       │     └──> Server worker 0     127.0.0.1:P+2   FOLDER/worker-1      FOLDER/worker-1.log
//!       │          Server worker 1     127.0.0.1:P+3   FOLDER/worker-2      ...       (one that was removed leaves a gap)
//!       ├─ Folder   temporary (removed at the end) or kept (`--data`), locked against a second cluster
//!       └─ Nursery  the thread that forks the servers, so that they die with the process
//! ```
//!
//! P itself is left to the proxy. User and database `postgres`, trust on loopback, no Unix sockets.
//! As root the servers run as an unprivileged operating system user, because Postgres refuses root.
//! Blocking calls throughout; async callers wrap them in `spawn_blocking`.
//!
//! Limits: Linux only (`/proc`, parent-death signal); at most as many workers as there are ports above P.

mod binaries;
mod folder;
mod nursery;
mod os_user;
/// Ports for tests, of this crate and of the programs in `tests/`.
#[cfg(test)]
#[path = "../../tests/support/ports.rs"]
pub mod ports;
mod server;
#[cfg(test)]
mod tests;

use crate::error::{PgError, Result, SqlState};
use binaries::Binaries;
use folder::Folder;
pub use nursery::{Nursery, Signal};
use os_user::OsUser;
use server::{Server, Tuning};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where data is kept. `None`: a temporary folder, fsync off, removed by `stop`.
    pub data: Option<PathBuf>,
    /// The proxy's port P; the coordinator takes P+1 and workers P+2, P+3, ... Default: 7432.
    pub base_port: u16,
    /// Workers of a new cluster. A kept folder comes back with the workers that it has. Default: 2.
    pub workers: usize,
    /// `max_connections` of each server. Default: 300.
    pub max_connections: u32,
    /// `shared_buffers` of each server. Unit: MiB. Default: 128.
    pub shared_buffers_mib: u32,
    /// More settings of each server as `name=value`; they win over ours, e.g. `wal_level=replica`. Default: none.
    pub server_settings: Vec<String>,
    /// Environment variables of each server; it runs in its data folder. Default: none.
    pub server_environment: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: None,
            base_port: 7432,
            workers: 2,
            max_connections: 300,
            shared_buffers_mib: 128,
            server_settings: Vec::new(),
            server_environment: Vec::new(),
        }
    }
}

/// Running servers; dropping it stops them.
///
/// Workers are counted from 0 in calls, in the order of their ports. The one in the folder `worker-N` listens on P+1+N.
pub struct DevCluster {
    // Dropped top-down: servers stop before their folder is removed and before the thread that forked them ends.
    coordinator: Server,
    workers: Vec<Server>,
    standbys: Vec<Server>,
    folder: Folder,
    nursery: Nursery,
    binaries: Binaries,
    os_user: OsUser,
    tuning: Tuning,
    base_port: u16,
}

impl DevCluster {
    /// Starts coordinator and workers and waits until all of them answer.
    ///
    /// Nothing is created when a port from P on is taken, Postgres is not installed, or the kept folder is in use;
    /// a failure later on stops what was started. The proxy binds P after this call, not before.
    /// Errors: 55006 port or folder in use, 22023 ports out of range, 55000 no Postgres or no user to run it,
    /// 58030 folder not usable or server did not come up (DETAIL: the end of its log).
    pub fn start(settings: Settings) -> Result<Self> {
        let kept = settings.data.as_deref().map(folder::inspect).transpose()?.flatten();
        if let Some(kept) = &kept {
            kept.refuse_other_port(settings.base_port)?;
        }
        let workers = match &kept {
            Some(kept) => kept.workers.clone(),
            None => (1..=u16::try_from(settings.workers).map_err(|_| ports_out_of_range())?).collect(),
        };
        let numbers = std::iter::once(0).chain(workers);
        let servers = numbers.map(|number| Ok((server_name(number), port_of(settings.base_port, number)?)));
        let servers: Vec<(String, u16)> = servers.collect::<Result<_>>()?;
        let mut ports = std::iter::once(settings.base_port).chain(servers.iter().map(|(_, port)| *port));
        ports.try_for_each(refuse_taken_port)?;
        let binaries = Binaries::find(kept.as_ref().map(|kept| kept.postgres_major.as_str()))?;
        let os_user = OsUser::for_servers()?;
        let folder = match &settings.data {
            Some(path) => Folder::keep(path, &os_user)?,
            None => Folder::temporary(settings.base_port, &os_user)?,
        };
        let tuning = Tuning {
            max_connections: settings.max_connections,
            shared_buffers_mib: settings.shared_buffers_mib,
            durable: settings.data.is_some(),
            more: settings.server_settings,
            environment: settings.server_environment,
        };
        let nursery = Nursery::new()?;
        let mut servers: Vec<Server> =
            servers.into_iter().map(|(name, port)| Server::new(folder.path(), &name, port, tuning.clone())).collect();
        // initdb has a process of its own for each server: side by side they cost hardly more than one,
        // and unlike copies of one template each server gets its own system identifier.
        in_parallel(&mut servers, |server| server.create(&binaries, &os_user))?;
        folder.complete(settings.base_port)?;
        in_parallel(&mut servers, |server| server.start(&binaries, &os_user, &nursery))?;
        let workers = servers.split_off(1);
        let coordinator = servers.pop().expect("the coordinator is the first server");
        let (standbys, base_port) = (Vec::new(), settings.base_port);
        Ok(Self { coordinator, workers, standbys, folder, nursery, binaries, os_user, tuning, base_port })
    }

    /// Where the coordinator listens.
    pub fn coordinator(&self) -> SocketAddr {
        self.coordinator.address()
    }

    /// Where the workers listen, stopped ones too, in order of their index.
    pub fn workers(&self) -> Vec<SocketAddr> {
        self.workers.iter().map(Server::address).collect()
    }

    /// The folder with the servers' data folders and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of a worker's data, where e.g. its `pg_hba.conf` is.
    pub fn worker_data(&mut self, index: usize) -> Result<&Path> {
        Ok(self.worker(index)?.data())
    }

    /// Creates and starts one more worker on the first port that none has; it is part of the cluster once this returns.
    ///
    /// Errors: as `start`; nothing is left of a worker that did not come up.
    pub fn add_worker(&mut self) -> Result<SocketAddr> {
        let taken: Vec<u16> = self.workers().iter().map(SocketAddr::port).collect();
        let mut numbers = (1..=u16::MAX).map(|number| (number, port_of(self.base_port, number)));
        let free = numbers.find(|(_, port)| !matches!(port, Ok(port) if taken.contains(port)));
        let (number, port) = free.ok_or_else(ports_out_of_range)?;
        let port = port?;
        refuse_taken_port(port)?;
        let mut worker = Server::new(self.folder.path(), &server_name(number), port, self.tuning.clone());
        let up = worker
            .create(&self.binaries, &self.os_user)
            .and_then(|()| worker.start(&self.binaries, &self.os_user, &self.nursery));
        if let Err(error) = up {
            worker.remove();
            return Err(error);
        }
        let address = worker.address();
        let place = taken.partition_point(|other| *other < port);
        self.workers.insert(place, worker);
        Ok(address)
    }

    /// Starts a streaming standby of a worker on `port`, and waits until it answers. It lives as long as the cluster.
    ///
    /// Errors: as `start`.
    pub fn add_standby(&mut self, worker: usize, port: u16) -> Result<SocketAddr> {
        let primary = self.worker(worker)?.address().port();
        self.add_standby_of(primary, port)
    }

    /// The same, of the server that listens on `primary`, whichever of the cluster's that is.
    pub fn add_standby_of(&mut self, primary: u16, port: u16) -> Result<SocketAddr> {
        refuse_taken_port(port)?;
        let name = format!("standby-{}", self.standbys.len() + 1);
        let mut standby = Server::new(self.folder.path(), &name, port, self.tuning.clone());
        self.at(primary)?;
        standby.copy(primary, &self.binaries, &self.os_user)?;
        standby.start(&self.binaries, &self.os_user, &self.nursery)?;
        let address = standby.address();
        self.standbys.push(standby);
        Ok(address)
    }

    /// Stops the server on `port` in good order: what it has written reaches the standbys that stream from it.
    pub fn stop_at(&mut self, port: u16) -> Result<()> {
        self.at(port)?.stop();
        Ok(())
    }

    /// Ends it as `kill_worker` does.
    pub fn kill_at(&mut self, port: u16) -> Result<()> {
        self.at(port)?.kill();
        Ok(())
    }

    /// Starts it again, as `restart_worker` does; as a standby of `primary` if one is given.
    ///
    /// It must have nothing that `primary` does not have. Errors: as `start`.
    pub fn restart_at(&mut self, port: u16, primary: Option<u16>) -> Result<()> {
        // By place, because the cluster's other fields are needed beside it.
        let mut all = self.workers.iter_mut().chain(&mut self.standbys).chain([&mut self.coordinator]);
        let server = all.find(|server| server.address().port() == port).ok_or_else(|| no_server(port))?;
        server.stop();
        if let Some(primary) = primary {
            server.follow(primary, &self.os_user)?;
        }
        refuse_taken_port(port)?;
        server.start(&self.binaries, &self.os_user, &self.nursery)
    }

    /// Ends the worker on `port` and removes its data. The others keep their ports. No such worker: nothing happens.
    pub fn remove_worker_at(&mut self, port: u16) {
        if let Some(index) = self.workers.iter().position(|worker| worker.address().port() == port) {
            self.workers.remove(index).remove();
        }
    }

    /// Stops a worker in good order (open transactions are rolled back, data is kept). Already stopped: nothing happens.
    pub fn stop_worker(&mut self, index: usize) -> Result<()> {
        self.worker(index)?.stop();
        Ok(())
    }

    /// Ends a worker as a power failure would: all its processes at once, nothing flushed.
    pub fn kill_worker(&mut self, index: usize) -> Result<()> {
        self.worker(index)?.kill();
        Ok(())
    }

    /// Starts a worker again on its port and data, after stopping it if it still ran; waits until it answers.
    pub fn restart_worker(&mut self, index: usize) -> Result<()> {
        self.worker(index)?.stop();
        let worker = &mut self.workers[index];
        refuse_taken_port(worker.address().port())?;
        worker.start(&self.binaries, &self.os_user, &self.nursery)
    }

    /// As `restart_worker`, with room for another number of connections.
    pub fn resize_worker(&mut self, index: usize, max_connections: u32) -> Result<()> {
        self.worker(index)?.resize(max_connections);
        self.restart_worker(index)
    }

    /// Ends the coordinator as `kill_worker` does a worker.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        self.coordinator.kill();
        Ok(())
    }

    /// Starts the coordinator again, as `restart_worker` does a worker.
    pub fn restart_coordinator(&mut self) -> Result<()> {
        self.coordinator.stop();
        refuse_taken_port(self.coordinator.address().port())?;
        self.coordinator.start(&self.binaries, &self.os_user, &self.nursery)
    }

    /// Stops every server and removes a temporary folder.
    pub fn stop(self) {
        // All the work is in the fields' own endings.
    }

    fn at(&mut self, port: u16) -> Result<&mut Server> {
        let mut all = self.workers.iter_mut().chain(&mut self.standbys).chain([&mut self.coordinator]);
        all.find(|server| server.address().port() == port).ok_or_else(|| no_server(port))
    }

    fn worker(&mut self, index: usize) -> Result<&mut Server> {
        let count = self.workers.len();
        self.workers.get_mut(index).ok_or_else(|| {
            PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("there is no worker {index}"))
                .detail(format!("The cluster has {count} workers, counted from 0."))
        })
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        // Ask all before waiting for one, so that stopping costs the slowest server, not the sum.
        for server in self.workers.iter_mut().chain(&mut self.standbys).chain([&mut self.coordinator]) {
            server.ask_to_stop();
        }
    }
}

const COORDINATOR: &str = "coordinator";

fn no_server(port: u16) -> PgError {
    PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("no server of the cluster listens on port {port}"))
}

/// A server's folder, by its number: workers have 1 and up.
fn server_name(number: u16) -> String {
    if number == 0 { COORDINATOR.to_string() } else { format!("worker-{number}") }
}

/// Where the server of this number listens. Errors: 22023 past the last port, and for a P of 0.
fn port_of(base_port: u16, number: u16) -> Result<u16> {
    let port = base_port.checked_add(1).and_then(|first| first.checked_add(number));
    port.filter(|_| base_port > 0).ok_or_else(ports_out_of_range)
}

fn refuse_taken_port(port: u16) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(PgError::new(SqlState::OBJECT_IN_USE, format!("port {port} is in use"))
                .hint("Stop what listens there, or choose another range with --port."))
        }
        Err(error) => {
            Err(PgError::new(SqlState::OBJECT_IN_USE, format!("could not listen on 127.0.0.1 port {port}: {error}"))
                .hint("Choose another port with --port."))
        }
    }
}

fn ports_out_of_range() -> PgError {
    PgError::new(SqlState::INVALID_PARAMETER_VALUE, "the servers' ports are out of range")
        .detail("The proxy takes port P, the coordinator P+1 and workers P+2 on; ports go from 1 to 65535.")
        .hint("Choose a lower port with --port, or fewer workers.")
}

/// Runs `act` on every server at the same time; the first error wins, after all have ended.
fn in_parallel(servers: &mut [Server], act: impl Fn(&mut Server) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = servers.iter_mut().map(|server| scope.spawn(move || act(server))).collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}

/// An error of the operating system about a file or program, with what was tried.
fn io_error(tried: impl std::fmt::Display, error: std::io::Error) -> PgError {
    PgError::new(SqlState::IO_ERROR, format!("could not {tried}: {error}"))
}
