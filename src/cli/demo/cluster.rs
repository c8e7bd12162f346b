//! The demo's cluster: this very program, run as children, just as a user would run it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::io::AsyncBufReadExt;

use super::narrator::Narrator;
use crate::cli::internal;
use crate::dev_cluster::{Nursery, Signal};
use crate::error::{PgError, Result, SqlState};

/// A running `tenantry dev`; dropping it stops it. It stops by itself when this process is killed.
pub struct DemoCluster {
    program: PathBuf,
    port: u16,
    child: Child,
    /// Lives as long as the child shall.
    _nursery: Nursery,
}

impl DemoCluster {
    /// Errors: what the child said on its standard error stream is seen by the user already.
    pub fn start(narrator: &mut Narrator, port: u16, workers: u16) -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| internal("find this program", error))?;
        let nursery = Nursery::new()?;
        let mut command = Command::new(&program);
        command.args(["dev", "--workers", &workers.to_string(), "--port", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        narrator.shell(&format!("tenantry dev --workers {workers} --port {port}"));
        let child = nursery.spawn(command, Signal::Fast).map_err(|error| internal("run tenantry dev", error))?;
        let mut cluster = Self { program, port, child, _nursery: nursery };
        let stdout = cluster.child.stdout.take().ok_or_else(|| internal("run tenantry dev", "it has no output"))?;
        let (lines, said) = mpsc::channel();
        // Reads on for as long as there is something, because a full pipe would stop the cluster.
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(std::io::Result::ok).try_for_each(|l| lines.send(l))
        });
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let line =
                said.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|_| not_ready())?;
            narrator.answer(&line);
            if line.starts_with("ready:") {
                return Ok(cluster);
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs `tenantry cluster edit`, telling each of its lines as it comes.
    pub async fn edit(&self, narrator: &Narrator, workers: u16) -> Result<()> {
        narrator.shell(&format!("tenantry cluster edit --workers {workers} --port {}", self.port));
        let mut child = tokio::process::Command::new(&self.program)
            .args(["cluster", "edit", "--workers", &workers.to_string(), "--port", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| internal("run tenantry cluster edit", error))?;
        if let Some(stdout) = child.stdout.take() {
            let mut lines = tokio::io::BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                narrator.answer(&line);
            }
        }
        let ended = child.wait().await.map_err(|error| internal("wait for tenantry cluster edit", error))?;
        if ended.success() {
            return Ok(());
        }
        Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "tenantry cluster edit failed"))
    }
}

impl Drop for DemoCluster {
    fn drop(&mut self) {
        let _ = Signal::Fast.send(self.child.id());
        let deadline = Instant::now() + STOP_DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Nothing happens to a child that has ended; one that has not takes its servers with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first port from 7432 on that has enough free ones above it for the whole story.
pub fn free_port() -> Result<u16> {
    let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (FIRST_PORT..LAST_PORT).step_by(PORT_STEP).find(|port| (*port..port + PORTS).all(is_free)).ok_or_else(|| {
        PgError::new(SqlState::OBJECT_IN_USE, "no free range of ports was found").hint("Choose one with --port.")
    })
}

fn not_ready() -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "tenantry dev did not become ready")
}

/// Proxy, coordinator and four workers.
const PORTS: u16 = 6;
const FIRST_PORT: u16 = 7432;
const LAST_PORT: u16 = 9432;
const PORT_STEP: usize = 100;
const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
