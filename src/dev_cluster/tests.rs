//! The room against real servers. Each test has ports and folders of its own.

use super::ports::PortRange;
use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

fn settings(ports: &PortRange, workers: usize) -> Settings {
    Settings { base_port: ports.first, workers, shared_buffers_mib: 16, ..Settings::default() }
}

fn psql(address: SocketAddr, sql: &str) -> std::result::Result<String, String> {
    let output = Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres"])
        .args(["-v", "ON_ERROR_STOP=1", "-p", &address.port().to_string(), "-c", sql])
        .output()
        .expect("psql runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_string();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

#[test]
fn a_cluster_starts_answers_and_leaves_nothing_behind() {
    let ports = PortRange::reserve();
    let cluster = DevCluster::start(settings(&ports, 2)).expect("it starts");
    let addresses: Vec<_> = [cluster.coordinator()].into_iter().chain(cluster.workers()).collect();
    assert_eq!(addresses.iter().map(SocketAddr::port).collect::<Vec<_>>(), [1, 2, 3].map(|n| ports.first + n));
    for address in &addresses {
        let shown = psql(*address, "SELECT current_setting('wal_level'), current_setting('max_prepared_transactions')");
        assert_eq!(shown.as_deref(), Ok("logical|200"));
    }
    let identifiers: std::collections::HashSet<_> = addresses
        .iter()
        .map(|address| psql(*address, "SELECT system_identifier FROM pg_control_system()").expect("it answers"))
        .collect();
    assert_eq!(identifiers.len(), 3, "each server is its own, none a copy");
    let folder = cluster.folder().to_path_buf();
    cluster.stop();
    assert!(!folder.exists());
    assert!(addresses.iter().all(|address| !is_open(*address)));
}

#[test]
fn a_taken_port_is_refused_before_anything_is_created() {
    let ports = PortRange::reserve();
    let settings = Settings { data: Some(std::env::temp_dir().join("tenantry-never-made")), ..settings(&ports, 2) };
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.base_port + 3)).expect("a free port");
    let error = DevCluster::start(settings.clone()).err().expect("refused");
    assert_eq!(error.message(), format!("port {} is in use", ports.first + 3));
    assert_eq!(error.code(), SqlState::OBJECT_IN_USE);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--port")));
    assert!(!settings.data.expect("set above").exists());
}

#[test]
fn a_server_setting_of_the_caller_wins_over_ours() {
    let ports = PortRange::reserve();
    let server_settings = vec!["wal_level=replica".to_string(), "max_connections=20".to_string()];
    let cluster = DevCluster::start(Settings { server_settings, ..settings(&ports, 0) }).expect("it starts");
    let shown = psql(cluster.coordinator(), "SELECT current_setting('wal_level'), current_setting('max_connections')");
    assert_eq!(shown.as_deref(), Ok("replica|20"));
}

#[test]
fn ports_past_the_last_one_are_refused() {
    for (base_port, workers) in [(65_534, 2), (0, 2), (7432, 100_000)] {
        let error = DevCluster::start(Settings { base_port, workers, ..Settings::default() }).err().expect("refused");
        assert_eq!(error.code(), SqlState::INVALID_PARAMETER_VALUE);
    }
}

#[test]
fn kept_data_comes_back_with_the_workers_it_had() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // tempfile makes it 0700; the servers' user must be able to pass.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our folder");
    let (ports, elsewhere) = (PortRange::reserve(), PortRange::reserve());
    let kept = Settings { data: Some(folder.path().join("data")), ..settings(&ports, 1) };
    let mut cluster = DevCluster::start(kept.clone()).expect("it starts");
    let added = cluster.add_worker().expect("one more");
    psql(added, "CREATE TABLE memory AS SELECT 42 AS answer").expect("a table");
    let again = DevCluster::start(Settings { base_port: elsewhere.first, ..kept.clone() }).err().expect("refused");
    assert_eq!(again.code(), SqlState::OBJECT_IN_USE, "somebody runs it");
    drop(cluster);

    let other_port = DevCluster::start(Settings { base_port: elsewhere.first, ..kept.clone() }).err().expect("refused");
    assert_eq!(other_port.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(other_port.hint_text().is_some_and(|hint| hint.contains(&format!("--port {}", ports.first))));

    // What a killed server leaves: a postmaster.pid whose number is another process's by now.
    let stale = format!("{}\n", std::process::id());
    std::fs::write(folder.path().join("data/worker-2/postmaster.pid"), stale).expect("a file");
    let cluster = DevCluster::start(Settings { workers: 7, ..kept }).expect("it starts again");
    assert_eq!(cluster.workers().len(), 2);
    assert_eq!(psql(added, "SELECT answer FROM memory").as_deref(), Ok("42"));
    assert_eq!(psql(added, "SHOW fsync").as_deref(), Ok("on"));
}

#[test]
fn a_killed_worker_takes_its_sessions_along_and_restarts_with_its_data() {
    let ports = PortRange::reserve();
    let mut cluster = DevCluster::start(settings(&ports, 1)).expect("it starts");
    let worker = cluster.workers()[0];
    psql(worker, "CREATE TABLE memory AS SELECT 42 AS answer").expect("a table");
    let session = std::thread::spawn(move || psql(worker, "SELECT pg_sleep(60)"));
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
    while psql(worker, busy).as_deref() != Ok("1") {}
    let start = Instant::now();
    cluster.kill_worker(0).expect("there is a worker 0");
    assert!(session.join().expect("psql ran").is_err());
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!is_open(worker));
    cluster.restart_worker(0).expect("it recovers");
    assert_eq!(psql(worker, "SELECT answer FROM memory").as_deref(), Ok("42"));
    cluster.stop_worker(0).expect("there is a worker 0");
    cluster.stop_worker(0).expect("stopping twice is no error");
    assert!(!is_open(worker));
    cluster.restart_worker(0).expect("it starts");
    assert_eq!(psql(worker, "SELECT answer FROM memory").as_deref(), Ok("42"));
    assert_eq!(cluster.kill_worker(1).expect_err("only one").message(), "there is no worker 1");
}

#[test]
fn a_server_that_does_not_come_up_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our folder");
    let ports = PortRange::reserve();
    let kept = Settings { data: Some(folder.path().to_path_buf()), ..settings(&ports, 0) };
    DevCluster::start(kept.clone()).expect("it starts").stop();
    std::fs::write(folder.path().join("coordinator/postgresql.auto.conf"), "no_such_setting = 1\n").expect("a file");
    let error = DevCluster::start(kept).err().expect("it cannot start");
    assert!(error.detail_text().is_some_and(|detail| detail.contains("no_such_setting")), "{error}");
}

/// Goal: a SIGKILLed process leaves no server running. Method: this test program starts itself as that process.
#[test]
fn servers_die_with_a_killed_process() {
    let ports = PortRange::reserve();
    let mut process = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "dev_cluster::tests::starts_a_cluster_for_another_test", "--nocapture"])
        .env(HELD_PORT, ports.first.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = Vec::new();
    let mut stdout = process.stdout.take().expect("piped");
    while !said.ends_with(b"up\n") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("it comes up");
        said.push(byte[0]);
    }
    let coordinator = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.first + 1));
    assert!(is_open(coordinator));
    // The thread that started the cluster has ended by now, which must change nothing.
    assert_eq!(psql(coordinator, "SELECT 1").as_deref(), Ok("1"));
    process.kill().expect("it ran");
    process.wait().expect("it ran");
    let start = Instant::now();
    while is_open(coordinator) {
        assert!(start.elapsed() < Duration::from_secs(10), "the server outlived its process");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn starts_a_cluster_for_another_test() {
    // Only a role in the test above.
    let Ok(port) = std::env::var(HELD_PORT) else { return };
    let settings = Settings { base_port: port.parse().expect("a port"), workers: 0, ..Settings::default() };
    let starter = std::thread::spawn(|| DevCluster::start(settings).expect("it starts"));
    let _cluster = starter.join().expect("no panic");
    std::io::stdout().write_all(b"up\n").expect("piped");
    let _ = std::io::stdin().read(&mut [0]);
}

const HELD_PORT: &str = "TENANTRY_TEST_HELD_PORT";
