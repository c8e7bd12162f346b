//! One Postgres server as a child process: created by initdb, started, watched until it answers, stopped or killed.
//!
//! ```text
//!   create: initdb NAME.new ──rename──> NAME      (a cut-off initdb never passes for a data folder)
//!   copy:   pg_basebackup, the same way           (a standby)
//!   start:  postgres -D NAME -c ... ── until it is ready, its process ends, or START_DEADLINE
//!   stop:   fast shutdown ── STOP_DEADLINE ──> kill
//! ```

use super::binaries::Binaries;
use super::io_error;
use super::nursery::{Nursery, Signal};
use super::os_user::OsUser;
use crate::error::{PgError, Result, SqlState};
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The settings in which clusters differ.
#[derive(Debug, Clone)]
pub struct Tuning {
    pub max_connections: u32,
    pub shared_buffers_mib: u32,
    /// Whether data must survive a power failure. Off for throw-away data: initdb and commits are faster.
    pub durable: bool,
    /// `name=value`, given last and so the ones that count.
    pub more: Vec<String>,
    /// Environment variables of the server.
    pub environment: Vec<(String, String)>,
}

/// A server that runs, or could; dropping it stops it.
pub struct Server {
    data: PathBuf,
    log: PathBuf,
    port: u16,
    tuning: Tuning,
    child: Option<Child>,
}

impl Server {
    pub fn new(folder: &Path, name: &str, port: u16, tuning: Tuning) -> Self {
        Self { data: folder.join(name), log: folder.join(format!("{name}.log")), port, tuning, child: None }
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Makes the data folder, unless there is one.
    ///
    /// Errors: 58030; DETAIL is what initdb said.
    pub fn create(&self, binaries: &Binaries, os_user: &OsUser) -> Result<()> {
        let mut initdb = command(binaries.initdb(), &self.unfinished(), os_user);
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]);
        initdb.arg(format!("--locale={}", locale()));
        if !self.tuning.durable {
            initdb.arg("--no-sync");
        }
        self.fill(os_user, initdb)
    }

    /// Makes the data folder as that of a standby of the server on port `primary`, unless there is one.
    ///
    /// Errors: 58030; DETAIL is what pg_basebackup said.
    pub fn copy(&self, primary: u16, binaries: &Binaries, os_user: &OsUser) -> Result<()> {
        let mut copy = command(binaries.pg_basebackup(), &self.unfinished(), os_user);
        copy.args(["--host=127.0.0.1", "--username=postgres", "--write-recovery-conf", "--checkpoint=fast"]);
        copy.arg(format!("--port={primary}"));
        if !self.tuning.durable {
            copy.arg("--no-sync");
        }
        self.fill(os_user, copy)
    }

    fn unfinished(&self) -> PathBuf {
        PathBuf::from(format!("{}{UNFINISHED}", self.data.display()))
    }

    fn fill(&self, os_user: &OsUser, mut program: Command) -> Result<()> {
        if self.data.is_dir() {
            return Ok(());
        }
        let new = self.unfinished();
        let step = |tried: &str, result: io::Result<()>| {
            result.map_err(|error| io_error(format_args!("{tried} folder \"{}\"", new.display()), error))
        };
        if new.exists() {
            step("remove", fs::remove_dir_all(&new))?;
        }
        step("create", fs::DirBuilder::new().mode(0o700).create(&new))?;
        step("give away", os_user.give(&new))?;
        let name = program.get_program().to_string_lossy().into_owned();
        let run = |error| io_error(format_args!("run {name}"), error);
        let output = program.arg("-D").arg(&new).output().map_err(run)?;
        if !output.status.success() {
            let _ = fs::remove_dir_all(&new);
            return Err(PgError::new(SqlState::IO_ERROR, format!("could not create \"{}\"", self.data.display()))
                .detail(format!("{name} said: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        step("rename", fs::rename(&new, &self.data))
    }

    /// Starts the server and waits until it lets a client in.
    ///
    /// Errors: 55006 a server runs on this data already; 58030 it did not come up, DETAIL is the end of its log.
    pub fn start(&mut self, binaries: &Binaries, os_user: &OsUser, nursery: &Nursery) -> Result<()> {
        refuse_running(&self.data)?;
        // Left by a killed server. Its number may be another process's by now, and then Postgres would not start.
        match fs::remove_file(self.data.join(POSTMASTER_PID)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove a stale postmaster.pid", error));
            }
            _ => {}
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| io_error(format_args!("open file \"{}\"", self.log.display()), error))?;
        let mut postgres = command(binaries.postgres(), &self.data, os_user);
        postgres.arg("-D").arg(&self.data).stderr(log);
        postgres.envs(self.tuning.environment.iter().map(|(name, value)| (name, value)));
        for setting in self.settings() {
            postgres.arg("-c").arg(setting);
        }
        let child = nursery.spawn(postgres, self.end()).map_err(|error| io_error("start postgres", error))?;
        self.child = Some(child);
        self.await_ready()
    }

    /// From its next start on it has this `max_connections`.
    pub fn resize(&mut self, max_connections: u32) {
        self.tuning.max_connections = max_connections;
    }

    /// From its next start on it is a standby of the server on `primary`. It must not run.
    ///
    /// Errors: 58030.
    pub fn follow(&self, primary: u16, os_user: &OsUser) -> Result<()> {
        let written = |error| io_error(format_args!("make a standby of \"{}\"", self.data.display()), error);
        let settings = fs::File::options().append(true).open(self.data.join("postgresql.auto.conf"));
        let line = format!("primary_conninfo = 'host=127.0.0.1 port={primary} user=postgres'\n");
        settings.and_then(|mut file| file.write_all(line.as_bytes())).map_err(written)?;
        let signal = self.data.join("standby.signal");
        fs::write(&signal, "").and_then(|()| os_user.give(&signal)).map_err(written)
    }

    /// Sends the signal that ends the server for good, without waiting for it.
    pub fn ask_to_stop(&mut self) {
        self.signal(self.end());
    }

    /// Stops in good order: sessions end, open transactions are rolled back, data is flushed. Killed after STOP_DEADLINE.
    pub fn stop(&mut self) {
        self.signal(Signal::Fast);
        self.await_end();
    }

    /// Ends the postmaster and all its children at once.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Frozen first, so that it starts no child between the look and the kill.
        let _ = Signal::Freeze.send(child.id());
        let children = children_of(child.id());
        for pid in children.iter().copied().chain([child.id()]) {
            let _ = Signal::Kill.send(pid);
        }
        let _ = child.wait();
        // Postgres refuses to start while any of them is attached to the old shared memory.
        let _ = poll_until(STOP_DEADLINE, || children.iter().all(|pid| parent_of(*pid).is_none()).then_some(()));
    }

    /// Stops the server if it runs, and removes its data and log.
    pub fn remove(mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.data);
        let _ = fs::remove_file(&self.log);
    }

    /// How this server ends when nobody needs its answer any more: throw-away data needs no flush.
    fn end(&self) -> Signal {
        if self.tuning.durable { Signal::Fast } else { Signal::Immediate }
    }

    fn settings(&self) -> Vec<String> {
        let Tuning { max_connections, shared_buffers_mib, durable, more, .. } = &self.tuning;
        let safety = if *durable { "on" } else { "off" };
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_string(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_string(),
            format!("max_connections={max_connections}"),
            format!("shared_buffers={shared_buffers_mib}MB"),
            // Moves read the change stream; writes on several nodes are two-phase commits.
            "wal_level=logical".to_string(),
            "max_prepared_transactions=200".to_string(),
            "max_replication_slots=64".to_string(),
            "max_wal_senders=64".to_string(),
            // One DDL statement locks the same table in every shard group of the node.
            "max_locks_per_transaction=256".to_string(),
            // Compiling costs more than it saves on the short statements here.
            "jit=off".to_string(),
            format!("fsync={safety}"),
            format!("full_page_writes={safety}"),
            "logging_collector=off".to_string(),
            "log_destination=stderr".to_string(),
            "log_line_prefix=%m [%p] %q%u@%d ".to_string(),
        ];
        settings.extend_from_slice(more);
        settings
    }

    fn await_ready(&mut self) -> Result<()> {
        let data = &self.data;
        let child = self.child.as_mut().expect("start has just put it there");
        let outcome = poll_until(START_DEADLINE, || match child.try_wait() {
            Ok(None) => is_ready(data, child.id()).then_some(Ok(())),
            Ok(Some(status)) => Some(Err(status.to_string())),
            Err(error) => Some(Err(error.to_string())),
        });
        let why = match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(status)) => format!("its process ended ({status})"),
            None => format!("it was not ready within {} s", START_DEADLINE.as_secs()),
        };
        self.kill();
        Err(PgError::new(SqlState::IO_ERROR, format!("could not start the server on port {}: {why}", self.port))
            .detail(format!("The end of its log \"{}\":\n{}", self.log.display(), last_lines(&self.log))))
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(child) = &mut self.child
            // Once waited for, the number may belong to somebody else.
            && matches!(child.try_wait(), Ok(None))
        {
            let _ = signal.send(child.id());
        }
    }

    fn await_end(&mut self) {
        if let Some(child) = &mut self.child {
            let ended = poll_until(STOP_DEADLINE, || child.try_wait().transpose());
            if ended.is_none() {
                self.kill();
            }
            self.child = None;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask_to_stop();
        self.await_end();
    }
}

/// What the name of a data folder ends with while initdb works on it.
pub const UNFINISHED: &str = ".new";
const POSTMASTER_PID: &str = "postmaster.pid";
/// Generous: a kept cluster may have a crash to recover from.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// The postmaster that works in a data folder right now.
///
/// Its number stands in `postmaster.pid`, but outlives it and may be reused, so its working folder is asked too.
pub fn postmaster_of(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(data.join(POSTMASTER_PID)).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (works_in == data.canonicalize().ok()?).then_some(pid)
}

/// Errors with 55006 if a server works in this data folder and does not end soon by itself.
pub fn refuse_running(data: &Path) -> Result<()> {
    match poll_until(STOP_DEADLINE, || postmaster_of(data).is_none().then_some(())) {
        Some(()) => Ok(()),
        None => Err(PgError::new(
            SqlState::OBJECT_IN_USE,
            format!("a PostgreSQL server is running in folder \"{}\"", data.display()),
        )
        .hint("Stop it first, or choose another folder with --data.")),
    }
}

/// A server program, run by the servers' user in a folder that it can see, with nothing of our environment steering it.
fn command(program: PathBuf, folder: &Path, os_user: &OsUser) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PG") || text.starts_with("LC_") || text == "LANG" {
            command.env_remove(&name);
        }
    }
    os_user.lend(&mut command);
    command
}

/// `C.UTF-8` where the system has it, otherwise `C`: the same order of texts on every machine.
fn locale() -> &'static str {
    let output = Command::new("locale").arg("-a").output().map(|output| output.stdout).unwrap_or_default();
    let known = String::from_utf8_lossy(&output).lines().any(|name| matches!(name, "C.UTF-8" | "C.utf8"));
    if known { "C.UTF-8" } else { "C" }
}

/// Whether this postmaster has its port and lets clients in.
///
/// Asked of `postmaster.pid`, as pg_ctl does: a login would also succeed at a stranger who was quicker on the port.
fn is_ready(data: &Path, postmaster: u32) -> bool {
    let text = fs::read_to_string(data.join(POSTMASTER_PID)).unwrap_or_default();
    let mut lines = text.lines().map(str::trim);
    // Source: PostgreSQL, miscadmin.h, LOCK_FILE_LINE_PID 1 and LOCK_FILE_LINE_PM_STATUS 8.
    lines.next() == Some(&postmaster.to_string()) && matches!(lines.nth(6), Some("ready" | "standby"))
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// The parent of a process that still runs; none of one that is gone or only waits to be buried.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "PID (name) state parent ...": the name may contain anything, brackets too.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.next()?.parse().ok() }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(2000)..];
    let tail = String::from_utf8_lossy(tail);
    let lines: Vec<_> = tail.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// Asks again and again until there is an answer; `None` when the deadline passes first.
fn poll_until<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        match ask() {
            Some(answer) => return Some(answer),
            None if start.elapsed() > deadline => return None,
            None => std::thread::sleep(POLL),
        }
    }
}
