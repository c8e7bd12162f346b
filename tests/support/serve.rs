//! `tenantry serve` with a configuration of the test's own, in front of a cluster's servers.

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::{Cluster, wait_until};

pub struct Serve {
    process: Child,
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Serve {
    /// `listen` are lines of that section, `sections` are others of their own.
    pub fn start(cluster: &Cluster, port: u16, listen: &str, sections: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = Self::configuration(folder.path(), cluster, port, listen, sections);
        let process = Command::new(env!("CARGO_BIN_EXE_tenantry"))
            .args(["serve", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).expect("it can be written"))
            .spawn()
            .expect("the built binary runs");
        let serve = Self { process, port, folder };
        let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        assert!(wait_until(Duration::from_secs(20), listens), "tenantry serve does not listen");
        serve
    }

    /// The file that `start` starts it with; `sections` may begin with lines of the coordinator's.
    pub fn configuration(folder: &Path, cluster: &Cluster, port: u16, listen: &str, sections: &str) -> PathBuf {
        let file = folder.join("tenantry.toml");
        let coordinator = cluster.port() + 1;
        let text = format!("[listen]\nport = {port}\n{listen}\n[coordinator]\nport = {coordinator}\n{sections}\n");
        std::fs::write(&file, text).expect("it can be written");
        file
    }

    /// What a proxy says that cannot start.
    pub fn refuses_to_start(cluster: &Cluster, port: u16, listen: &str, sections: &str) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = Self::configuration(folder.path(), cluster, port, listen, sections);
        let mut process = Command::new(env!("CARGO_BIN_EXE_tenantry"))
            .args(["serve", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built binary runs");
        let has_ended = wait_until(Duration::from_secs(20), || process.try_wait().expect("it is ours").is_some());
        // Whoever serves is ended as well.
        let _ = process.kill();
        let output = process.wait_with_output().expect("it ends");
        assert!(has_ended, "it serves");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// Sends a signal, e.g. `"HUP"`.
    pub fn signal(&self, name: &str) {
        super::signal(self.process.id(), name);
    }

    /// Resident memory. Unit: kB.
    pub fn resident_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Does a thread of it wait in an io_uring?
    pub fn has_rings(&self) -> bool {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("it runs");
        open.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.ends_with("anon_inode:[io_uring]")))
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the log of the proxy on port {}:\n{}", self.port, self.logged());
        }
    }
}

/// What psql prints, on success or in complaint, without asking for a password.
pub fn psql_says(dsn: &str, sql: &str) -> String {
    let output = Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-w", "-v", "VERBOSITY=verbose", "-d", dsn, "-c", sql])
        .env("PGCONNECT_TIMEOUT", "10")
        .env("LC_ALL", "C")
        .output()
        .expect("psql runs");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}

/// A certificate authority of the test's own: `ca.crt`, and certificates by name that it has signed.
pub struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a folder") };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
        ]);
        authority
    }

    /// `<name>.crt` and `<name>.key` with this common name, for 127.0.0.1 and localhost.
    pub fn sign(&self, name: &str) {
        self.sign_for(name, "DNS:localhost, IP:127.0.0.1");
    }

    /// The same with a subject of its own, as openssl's `-subj` has it.
    pub fn sign_as(&self, name: &str, subject: &str) {
        self.sign_whole(name, subject, "DNS:localhost, IP:127.0.0.1");
    }

    /// The same, for these hosts, as openssl's `subjectAltName` has them.
    pub fn sign_for(&self, name: &str, hosts: &str) {
        self.sign_whole(name, &format!("/CN={name}"), hosts);
    }

    fn sign_whole(&self, name: &str, subject: &str, hosts: &str) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        let extensions = format!("subjectAltName = {hosts}\n");
        std::fs::write(self.folder.path().join("extensions"), extensions).expect("it can be written");
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ]);
        self.openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", &key, "-out", "pkcs8"]);
        std::fs::rename(self.folder.path().join("pkcs8"), self.folder.path().join(&key)).expect("it can be renamed");
        use std::os::unix::fs::PermissionsExt;
        let only_ours = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.folder.path().join(&key), only_ours).expect("they can be set");
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = openssl(self.folder.path(), arguments);
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> Output {
    let openssl = Command::new("openssl").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    openssl.expect("openssl runs: scripts/setup.sh installs it")
}
