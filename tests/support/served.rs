//! A cluster whose proxies are processes of their own, so that a test can kill or freeze them and its servers live on.
//!
//! ```text
//!   Served::start(2)   servers of this test's process: coordinator P+1, workers P+2, P+3
//!     .proxy(0)        tenantry serve on P         kill(), freeze(), thaw(), started again by start_proxy(0)
//!     .proxy(1)        tenantry serve on P+10
//! ```

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tenantry::dev_cluster::{DevCluster, Settings};
use tokio_postgres::{Client, NoTls};

use super::ports::PortRange;
use super::{psql, psql_error, signal, wait_until};

pub struct Served {
    ports: PortRange,
    folder: tempfile::TempDir,
    proxies: Vec<Option<Child>>,
    servers: Option<DevCluster>,
    workers: u16,
    /// Of each proxy.
    threads: u16,
    /// More of the configuration file: settings of `[execution]`, then sections.
    config: &'static str,
    /// Environment variables of the proxies that are started from now on.
    pub environment: Vec<(&'static str, String)>,
    /// Where proxies that are started from now on find the coordinator.
    pub coordinator_port: u16,
    /// And its standby, if it has one.
    pub coordinator_standby: Option<u16>,
}

impl Served {
    /// Servers and one proxy, workers added.
    pub fn start(workers: u16) -> Self {
        Self::start_with(workers, 2, "")
    }

    /// As `start`, with more of the configuration file: settings of `[execution]`, then sections.
    pub fn start_with(workers: u16, threads: u16, config: &'static str) -> Self {
        Self::start_under(workers, threads, config, Vec::new())
    }

    /// As `start_with`, with environment variables of the servers.
    pub fn start_under(
        workers: u16,
        threads: u16,
        config: &'static str,
        server_environment: Vec<(String, String)>,
    ) -> Self {
        let ports = PortRange::reserve();
        let settings = Settings {
            base_port: ports.first,
            workers: workers.into(),
            max_connections: 60,
            shared_buffers_mib: 16,
            server_environment,
            ..Settings::default()
        };
        let servers = DevCluster::start(settings).expect("servers start");
        let folder = tempfile::tempdir().expect("a folder");
        let coordinator_port = ports.first + 1;
        let mut served = Self {
            ports,
            folder,
            proxies: vec![None, None],
            servers: Some(servers),
            workers,
            threads,
            config,
            environment: Vec::new(),
            coordinator_port,
            coordinator_standby: None,
        };
        served.start_proxy(0);
        for worker in 0..workers {
            psql(&served.dsn(0), &format!("SELECT citus_add_node('127.0.0.1', {})", served.worker_port(worker)));
        }
        served
    }

    /// Starts proxy 0 or 1 and waits until it serves.
    pub fn start_proxy(&mut self, number: usize) {
        let coordinator = match (self.coordinator_port, self.coordinator_standby) {
            (port, None) => format!("port = {port}"),
            (port, Some(standby)) => format!("host = \"127.0.0.1,127.0.0.1\"\nport = \"{port},{standby}\""),
        };
        let text = format!(
            "[listen]\nport = {}\nauth = \"trust-loopback\"\nthreads = {}\ntakeover_socket = \"{}\"\n\
             [coordinator]\n{}\n[admin]\nport = {}\n[execution]\nrecovery_patience = \"1s\"\n{}",
            self.proxy_port(number),
            self.threads,
            self.folder.path().join(format!("{number}.socket")).display(),
            coordinator,
            self.admin_port(number),
            self.config
        );
        std::fs::write(self.config_file(number), text).expect("the folder can be written");
        self.proxies[number] = Some(self.spawn(number, &[]));
        let port = self.proxy_port(number);
        let serves = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        assert!(wait_until(Duration::from_secs(20), serves), "proxy {number} did not start");
    }

    /// Another process in the place of a proxy that runs, with the same configuration.
    pub fn spawn(&self, number: usize, arguments: &[&str]) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.log(number)).expect("a log");
        Command::new(env!("CARGO_BIN_EXE_tenantry"))
            .args(["serve", "--config"])
            .arg(self.config_file(number))
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the built binary can be run")
    }

    /// A proxy's process, to be ended by the caller; `new` stands in its place from now on.
    pub fn replace_proxy(&mut self, number: usize, new: Option<Child>) -> Child {
        std::mem::replace(&mut self.proxies[number], new).expect("it runs")
    }

    /// As `kill -9`.
    pub fn kill_proxy(&mut self, number: usize) {
        if let Some(mut child) = self.proxies[number].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn proxy_pid(&self, number: usize) -> u32 {
        self.proxies[number].as_ref().expect("it runs").id()
    }

    pub fn signal_proxy(&self, number: usize, name: &str) {
        signal(self.proxies[number].as_ref().expect("it runs").id(), name);
    }

    /// The proxy's process number, e.g. for `/proc/PID/status`.
    pub fn proxy_process(&self, number: usize) -> u32 {
        self.proxies[number].as_ref().expect("it runs").id()
    }

    /// A proxy's configuration, which is written again whenever the proxy is started.
    pub fn config_file(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("{number}.toml"))
    }

    /// What a proxy has logged so far.
    pub fn logged(&self, number: usize) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log(number)).unwrap_or_default()).into_owned()
    }

    fn log(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("{number}.log"))
    }

    pub fn proxy_port(&self, number: usize) -> u16 {
        self.ports.first + 10 * u16::try_from(number).expect("0 or 1")
    }

    /// Where a proxy tells its metrics.
    pub fn admin_port(&self, number: usize) -> u16 {
        self.ports.first + 9 + 5 * u16::try_from(number).expect("0 or 1")
    }

    /// What a proxy tells on /metrics.
    pub fn metrics(&self, number: usize) -> String {
        let address = (Ipv4Addr::LOCALHOST, self.admin_port(number));
        let mut http = TcpStream::connect(address).expect("it serves");
        http.write_all(b"GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        http.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// A sample of that page, by its name and labels.
    pub fn metric(page: &str, sample: &str) -> Option<f64> {
        page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
    }

    pub fn worker_port(&self, worker: u16) -> u16 {
        self.ports.first + 2 + worker
    }

    pub fn dsn(&self, proxy: usize) -> String {
        super::dsn(self.proxy_port(proxy))
    }

    pub fn coordinator_dsn(&self) -> String {
        super::dsn(self.ports.first + 1)
    }

    pub fn worker_dsn(&self, worker: u16) -> String {
        super::dsn(self.worker_port(worker))
    }

    /// The least number from 1 on whose rows of a table are on this worker.
    pub fn tenant_of(&self, table: &str, worker: u16) -> String {
        let port = self.worker_port(worker);
        self.psql(&format!(
            "SELECT min(t) FROM (SELECT t, get_shard_id_for_distribution_column('{table}', t) AS shard \
             FROM generate_series(1, 100) t) tenants JOIN pg_dist_shard_placement p ON p.shardid = shard \
             WHERE p.nodeport = {port}"
        ))
    }

    /// Has a worker reached by another port, behind which somebody stands between; its number among the nodes.
    pub fn move_worker(&self, worker: u16, port: u16) -> String {
        let known = self.worker_port(worker);
        let node = self.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {known}"));
        self.psql(&format!("SELECT citus_update_node({node}, '127.0.0.1', {port})"));
        node
    }

    /// The servers themselves, to be stopped and started.
    pub fn servers(&mut self) -> &mut DevCluster {
        self.servers.as_mut().expect("they are there until the end")
    }

    pub fn psql(&self, sql: &str) -> String {
        psql(&self.dsn(0), sql)
    }

    pub fn psql_error(&self, sql: &str) -> String {
        psql_error(&self.dsn(0), sql)
    }

    /// Rows of one column from every server itself, coordinator first.
    pub fn everywhere(&self, sql: &str) -> Vec<String> {
        let workers = (0..self.workers).map(|w| self.worker_dsn(w));
        std::iter::once(self.coordinator_dsn())
            .chain(workers)
            .flat_map(|dsn| psql(&dsn, sql).lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Table `items`, and a tenant of it on each worker, with one row.
    pub fn tenants(&self) -> Vec<String> {
        self.psql("CREATE TABLE items (tenant int, id int)");
        self.psql("SELECT create_distributed_table('items', 'tenant')");
        let tenants: Vec<_> = (0..self.workers).map(|worker| self.tenant_of("items", worker)).collect();
        for tenant in &tenants {
            self.psql(&format!("INSERT INTO items VALUES ({tenant}, 1)"));
        }
        tenants
    }

    /// How many statements with these words run, on all servers.
    pub fn running(&self, words: &str) -> usize {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{words}%' AND pid <> pg_backend_pid()"
        );
        self.everywhere(&sql).iter().filter(|line| !line.is_empty()).count()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        for number in 0..self.proxies.len() {
            if self.proxies[number].is_some() {
                self.signal_proxy(number, "CONT");
                self.kill_proxy(number);
            }
            if std::thread::panicking() {
                let log = std::fs::read(self.log(number)).unwrap_or_default();
                let tail = &log[log.len().saturating_sub(4_000)..];
                eprintln!("the end of proxy {number}'s log:\n{}", String::from_utf8_lossy(tail));
            }
        }
        drop(self.servers.take());
    }
}

pub async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("it can be reached");
    tokio::spawn(connection);
    client
}

/// Set when the test's load is to end.
#[derive(Default)]
pub struct Stop(AtomicBool);

impl Stop {
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
