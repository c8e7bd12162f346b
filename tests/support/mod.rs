//! What integration tests stand on: a running `tenantry dev` cluster, psql, the Python drivers.
//!
//! ```text
//!   Cluster::start(2)        tenantry dev --workers 2 --port P      own ports, temporary data
//!     .dsn()                 P    the proxy
//!     .coordinator_dsn()     P+1  its Postgres
//!     .worker_dsn(i)         P+2+i
//!   drop                     SIGTERM, then waits until every server is gone
//! ```
//!
//! A failed expectation panics with what the program said; a test that fails prints the end of its cluster's log.

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

pub mod disk;
pub mod frozen;
pub mod ledger;
pub mod line;
pub mod meddler;
pub mod ports;
pub mod relay;
pub mod serve;
pub mod served;
pub mod wire_client;

use ports::PortRange;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A cluster of this test's own; dropping it ends all of it.
pub struct Cluster {
    process: Child,
    ports: PortRange,
    arguments: Vec<String>,
    log: PathBuf,
}

impl Cluster {
    /// Starts the built binary and waits until it serves. Panics with its log when it does not.
    pub fn start(workers: usize) -> Self {
        Self::start_with(workers, &[])
    }

    /// As `start`, with more arguments for `tenantry dev`, e.g. `["--data", folder]`.
    pub fn start_with(workers: usize, arguments: &[&str]) -> Self {
        let ports = PortRange::reserve();
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{}.log", ports.first));
        // An older one's, of the same ports.
        let _ = std::fs::remove_file(&log);
        let (workers, port) = (workers.to_string(), ports.first.to_string());
        let arguments = ["dev", "--workers", &workers, "--port", &port].into_iter().chain(arguments.iter().copied());
        let arguments: Vec<String> = arguments.map(|argument| argument.to_string()).collect();
        let (process, ready) = run_dev(&arguments, &log);
        // From here on dropping ends the process, also when the next line panics.
        let cluster = Self { process, ports, arguments, log };
        await_ready(&ready);
        cluster
    }

    /// Ends all of it in good order and starts it again on the same ports; its data is there again with `--data` only.
    pub fn restart(&mut self) {
        signal(self.process.id(), "TERM");
        let _ = self.process.wait();
        let (process, ready) = run_dev(&self.arguments, &self.log);
        self.process = process;
        await_ready(&ready);
    }

    /// The proxy's port, P.
    pub fn port(&self) -> u16 {
        self.ports.first
    }

    /// Where applications connect, as a URI that psql and every driver takes.
    pub fn dsn(&self) -> String {
        dsn(self.port())
    }

    /// The coordinator's Postgres itself, past the proxy.
    pub fn coordinator_dsn(&self) -> String {
        dsn(self.port() + 1)
    }

    /// A worker's Postgres itself, counted from 0.
    pub fn worker_dsn(&self, index: usize) -> String {
        dsn(self.worker_port(index))
    }

    pub fn worker_port(&self, index: usize) -> u16 {
        self.port() + 2 + u16::try_from(index).expect("workers are few")
    }

    /// What psql prints for this SQL through the proxy: rows by line, columns by `|`. Panics on an error.
    pub fn psql(&self, sql: &str) -> String {
        psql(&self.dsn(), sql)
    }

    /// What psql says on stderr for SQL that must fail, with SQLSTATE, DETAIL and HINT. Panics when it succeeds.
    pub fn psql_error(&self, sql: &str) -> String {
        psql_error(&self.dsn(), sql)
    }

    /// As `psql` for a script of many statements and psql's own commands (`\copy`, `\gset`, ...), read from its stdin.
    pub fn psql_script(&self, script: &str) -> String {
        let mut psql = psql_command(&self.dsn())
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect(PSQL_RUNS);
        let mut stdin = psql.stdin.take().expect("piped above");
        let script = script.to_string();
        // Beside the reading of its answers, so that neither pipe can fill up and stop both.
        let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
        let output = psql.wait_with_output().expect(PSQL_RUNS);
        // psql stops reading at the first error, which is told below.
        let _ = writer.join();
        succeeded("psql", output)
    }

    /// Sends a signal, e.g. `"KILL"` or `"STOP"`, to a worker's postmaster.
    pub fn signal_worker(&self, index: usize, name: &str) {
        let file = psql(&self.worker_dsn(index), "SELECT pg_read_file('postmaster.pid')");
        let pid = file.lines().next().and_then(|line| line.parse().ok()).expect("its first line is the process number");
        signal(pid, name);
    }

    /// Sends a signal to the proxy.
    pub fn signal_proxy(&self, name: &str) {
        signal(self.process.id(), name);
    }

    /// The proxy's process number, e.g. for `/proc/PID/stat`.
    pub fn proxy_process(&self) -> u32 {
        self.process.id()
    }

    /// What the cluster has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn servers_answer(&self) -> bool {
        let servers = self.port() + 1..self.port() + 15;
        servers.into_iter().any(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            // A frozen process would not notice.
            signal(self.process.id(), "CONT");
            signal(self.process.id(), "TERM");
        }
        let ended = wait_until(STOP_DEADLINE, || matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)));
        if !ended {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        let gone = wait_until(STOP_DEADLINE, || !self.servers_answer());
        if std::thread::panicking() {
            let log = std::fs::read(&self.log).unwrap_or_default();
            let tail = &log[log.len().saturating_sub(8_000)..];
            eprintln!("the end of {}:\n{}", self.log.display(), String::from_utf8_lossy(tail));
        } else {
            assert!(ended, "tenantry dev did not end within {} s of SIGTERM", STOP_DEADLINE.as_secs());
            assert!(gone, "servers of tenantry dev outlived it");
            let _ = std::fs::remove_file(&self.log);
        }
    }
}

/// Starts `tenantry dev`, and tells when it has said that it is ready.
fn run_dev(arguments: &[String], log: &Path) -> (Child, mpsc::Receiver<()>) {
    let log_file = File::options().create(true).append(true).open(log);
    let log_file = log_file.expect("the build's folder for temporary files can be written");
    let mut process = Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .expect("the built binary can be run");
    let stdout = process.stdout.take().expect("piped above");
    let (said_ready, ready) = mpsc::channel();
    std::thread::spawn(move || {
        // Read to the end, past the line that is waited for: a full pipe would stop the cluster.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.starts_with("ready:") {
                let _ = said_ready.send(());
            }
        }
    });
    (process, ready)
}

fn await_ready(ready: &mpsc::Receiver<()>) {
    // Fails at once when the process ends, because the thread above then ends too.
    if let Err(why) = ready.recv_timeout(START_DEADLINE) {
        panic!("tenantry dev did not say \"ready:\" ({why})");
    }
}

/// What psql prints for this SQL on any server. Panics on an error.
pub fn psql(dsn: &str, sql: &str) -> String {
    succeeded("psql", run_psql(dsn, sql))
}

/// What psql says on stderr for SQL that must fail on any server. Panics when it succeeds.
pub fn psql_error(dsn: &str, sql: &str) -> String {
    let output = run_psql(dsn, sql);
    assert!(!output.status.success(), "this must fail, but psql printed {:?}:\n{sql}", text(&output.stdout));
    text(&output.stderr)
}

/// What a Python program of `tests/drivers` prints. Panics when it fails or when the drivers are not installed.
pub fn python(program: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.exists(), "the Python drivers are not installed: run scripts/setup.sh");
    let output = ended_in_time(&python)
        .arg(root.join("tests/drivers").join(program))
        .args(arguments)
        .output()
        .expect("the Python of .venv runs; if it was moved or updated, remove .venv and run scripts/setup.sh");
    succeeded(program, output)
}

/// A program that is ended if it never ends by itself, so that the test fails and the others run. Python tells where it
/// was.
pub fn ended_in_time(program: impl AsRef<OsStr>) -> Command {
    let program = program.as_ref();
    let is_python = Path::new(program).ends_with("bin/python");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", if is_python { "--signal=ABRT" } else { "--signal=TERM" }, PROGRAM_DEADLINE]);
    command.arg(program).env("PYTHONFAULTHANDLER", "1");
    command
}

/// Unit: seconds.
const PROGRAM_DEADLINE: &str = "300";

/// A file of the data that lies beside the project; without it a line says that the test is skipped.
pub fn shared(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if file.exists() {
        return Some(file);
    }
    eprintln!("skipped: ../shared/{path} is not there");
    None
}

/// Asks every 20 ms until it is so; false when the deadline passes first.
pub fn wait_until(deadline: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if start.elapsed() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn dsn(port: u16) -> String {
    format!("postgresql://postgres@127.0.0.1:{port}/postgres")
}

fn run_psql(dsn: &str, sql: &str) -> Output {
    psql_command(dsn).args(["-c", sql]).output().expect(PSQL_RUNS)
}

pub fn psql_command(dsn: &str) -> Command {
    let mut psql = ended_in_time("psql");
    psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-d", dsn]);
    psql.env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
    psql
}

fn succeeded(program: &str, output: Output) -> String {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{program} failed ({}):\n{complained}\n{said}", output.status);
    said
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_string()
}

pub fn signal(pid: u32, name: &str) {
    // A process that has just ended is no failure of a test.
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
}

const PSQL_RUNS: &str = "psql can be run: scripts/setup.sh installs it";
const START_DEADLINE: Duration = Duration::from_secs(90);
/// Most of it goes to removing the data: a file for each shard, its indexes and their maps.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
