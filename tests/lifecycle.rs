//! A proxy's life as its operator sees it: settings read again, and its end.

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use support::served::{Served, Stop, connect};
use support::wait_until;

const PATIENCE: Duration = Duration::from_secs(20);

/// Goal: operators change settings of a running proxy, and are told what happened. Method: the file is edited, SIGHUP is
/// sent, and the log and the proxy's behaviour are looked at.
#[test]
fn settings_are_read_again_on_sighup() {
    let served = Served::start_with(1, 1, "[pool]\nsize = 7\n[log]\nfilter = \"info\"\n");
    let file = served.config_file(0);
    let first = std::fs::read_to_string(&file).expect("it was written");
    let hang_up = |text: &str, said: &str| {
        std::fs::write(&file, text).expect("the folder can be written");
        served.signal_proxy(0, "HUP");
        assert!(wait_until(PATIENCE, || served.logged(0).contains(said)), "{said} in\n{}", served.logged(0));
    };

    // Something of everything that is counted.
    served.psql("SELECT 1");
    support::psql_error(&served.dsn(0), "SELECT 1 / 0");
    assert_eq!(told_metrics(served.admin_port(0)), documented_metrics(), "docs/operations.md lists every metric");

    let changed = first.replace("size = 7", "size = 3").replace("threads = 1", "threads = 2");
    hang_up(&changed, "changed=pool.size need_restart=listen.threads");
    assert_eq!(served.psql("SELECT 1"), "1", "sessions go on");

    served.psql("CREATE ROLE operator LOGIN; CREATE ROLE watcher LOGIN");
    let admin = |role: &str| format!("postgresql://{role}@127.0.0.1:{}/tenantry", served.proxy_port(0));
    let refused = support::psql_error(&admin("operator"), "SHOW POOLS");
    assert!(
        refused.contains("permission denied for database") && refused.contains("admin.users"),
        "nobody is listed: {refused}"
    );
    let listed = "[admin]\nusers = [\"operator\"]\nstats_users = [\"watcher\"]";
    let changed = changed.replace("[admin]", listed);
    hang_up(&changed, "changed=admin.stats_users, admin.users");
    for role in ["operator", "watcher"] {
        let config = support::psql(&admin(role), "SHOW CONFIG");
        assert!(config.contains("pool.size|3|32|yes") && config.contains("listen.threads|1|0|no"), "{config}");
    }
    let refused = support::psql_error(&admin("watcher"), "RELOAD");
    assert!(refused.contains("42501") && refused.contains("admin.users"), "{refused}");
    let changed = changed.replace("size = 3", "size = 4");
    std::fs::write(&file, &changed).expect("the folder can be written");
    support::psql(&admin("operator"), "RELOAD");
    assert!(support::psql(&admin("watcher"), "SHOW CONFIG").contains("pool.size|4|32|yes"));
    let pools = support::psql(&admin("watcher"), "SHOW POOLS");
    assert!(pools.lines().any(|pool| pool.starts_with("postgres|postgres|0|0|0|")), "{pools}");
    std::fs::write(&file, "[pool]\nsise = 1\n").expect("the folder can be written");
    let refused = support::psql_error(&admin("operator"), "RELOAD");
    assert!(refused.contains("F0000") && refused.contains("unknown field `sise`"), "{refused}");

    hang_up(&changed.replace("size = 4", "size = 0"), "setting \"pool.size\" must be at least 1");
    hang_up("[pool\n", "the old settings stay in force");
    // What can be tried from outside: the login by trust is in force until the file says otherwise.
    assert_eq!(served.psql("SELECT 1"), "1", "a broken file changes nothing");
    hang_up(&changed.replace("trust-loopback", "scram"), "changed=listen.auth");
    let refused = support::psql_error(&served.dsn(0), "SELECT 1");
    assert!(refused.contains("password"), "{refused}");
    // The servers trust everybody, so only the proxy's own rule is in the way.
    hang_up(&changed.replace("[log]", "[log] # again"), "changed=listen.auth need_restart=listen.threads");
    assert_eq!(served.psql("SELECT 1"), "1");
}

/// Names of the metrics that a proxy tells. Only samples count, not headings.
fn told_metrics(port: u16) -> BTreeSet<String> {
    let mut http = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it serves");
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    http.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let samples = answer.lines().filter(|line| line.starts_with("tenantry_"));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

fn documented_metrics() -> BTreeSet<String> {
    let manual = include_str!("../docs/operations.md");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `tenantry_"));
    rows.filter_map(|row| row.split(['{', '`']).next()).map(|name| format!("tenantry_{name}")).collect()
}

/// Goal: a new process replaces a running one and no client notices (T50); a stop lets transactions end. Method: clients
/// connect, commit and go, all the time, while the port changes hands; what they were told is compared with the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_taken_over_and_stopped_without_a_loss() {
    let mut served = Served::start_with(1, 2, "[log]\nfilter = \"info\"\n[pool]\nsize = 8\n");
    served.psql("CREATE TABLE visits (tenant int, number int)");
    served.psql("SELECT create_distributed_table('visits', 'tenant')");

    let mut mistaken = served.spawn(0, &[]);
    assert!(!ended(&mut mistaken).success(), "a second start is refused");
    assert!(served.logged(0).contains("is in use"), "{}", served.logged(0));

    let stop = Arc::new(Stop::default());
    let load: Vec<_> = (0..4).map(|tenant| tokio::spawn(come_and_go(served.dsn(0), tenant, stop.clone()))).collect();
    let mut committed = 0;
    for round in 1..=3 {
        let open = connect(&served.dsn(0)).await;
        open.batch_execute(&format!("BEGIN; INSERT INTO visits VALUES (9, {round})")).await.expect("it is open");
        let successor = served.spawn(0, &["--take-over"]);
        let mut old = served.replace_proxy(0, Some(successor));
        let taken = || served.logged(0).matches("another process has taken over the port").count() == round;
        assert!(wait_until(PATIENCE, taken), "{}", served.logged(0));
        assert!(old.try_wait().expect("it is our child").is_none(), "its open transaction goes on");
        open.batch_execute("COMMIT").await.expect("nothing of an open transaction is lost");
        committed += 1;
        drop(open);
        assert!(ended(&mut old).success(), "it ends with its last session");
    }
    stop.set();
    for client in load {
        committed += client.await.expect("no client met an error");
    }
    assert!(committed > 20, "there was load: {committed}");
    assert_eq!(served.psql("SELECT count(*) FROM visits"), committed.to_string());

    // The stop: an idle session ends at once, a transaction and a COPY come to their end.
    let (idle, idle_told) = watched(&served.dsn(0)).await;
    let (busy, copying) = (connect(&served.dsn(0)).await, connect(&served.dsn(0)).await);
    idle.batch_execute("SELECT 1").await.expect("it answers");
    busy.batch_execute("BEGIN; INSERT INTO visits VALUES (1, -1), (2, -1)").await.expect("it is open");
    let copy = copying.copy_in("COPY visits FROM STDIN").await.expect("it begins");
    let mut copy = std::pin::pin!(copy);
    copy.send(bytes::Bytes::from_static(b"3\t-1\n")).await.expect("it is taken");
    served.signal_proxy(0, "TERM");
    assert_eq!(told(idle_told).await, "57P01");
    drop(idle);
    assert!(tokio_postgres::connect(&served.dsn(0), tokio_postgres::NoTls).await.is_err(), "nobody is accepted");
    copy.send(bytes::Bytes::from_static(b"4\t-1\n")).await.expect("it is taken");
    assert_eq!(copy.finish().await.expect("a COPY comes to its end"), 2);
    busy.batch_execute("COMMIT").await.expect("a transaction comes to its end");
    let mut old = served.replace_proxy(0, None);
    assert!(ended(&mut old).success());

    served.start_proxy(0);
    assert_eq!(served.psql("SELECT count(*) FROM visits WHERE number = -1"), "4");
    // The second signal waits for nobody.
    let (busy, busy_told) = watched(&served.dsn(0)).await;
    busy.batch_execute("BEGIN; DELETE FROM visits WHERE tenant = 1").await.expect("it is open");
    let running = connect(&served.dsn(0)).await;
    let slow = tokio::spawn(async move { running.batch_execute("SELECT pg_sleep(600)").await });
    assert!(wait_until(PATIENCE, || served
        .everywhere("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        .contains(&"1".to_owned())));
    served.signal_proxy(0, "TERM");
    assert!(wait_until(PATIENCE, || served.logged(0).matches(" stopping").count() == 5), "{}", served.logged(0));
    served.signal_proxy(0, "TERM");
    let mut old = served.replace_proxy(0, None);
    assert!(ended(&mut old).success());
    assert_eq!(told(busy_told).await, "57P01");
    drop(busy);
    assert!(slow.await.expect("it does not panic").is_err());
    assert!(served.logged(0).contains("told to hurry"));
    served.start_proxy(0);
    assert_ne!(served.psql("SELECT count(*) FROM visits WHERE tenant = 1"), "0", "it was rolled back");
}

/// Connects, commits one row, goes, until `stop`. The number of rows; panics at any error.
async fn come_and_go(dsn: String, tenant: i32, stop: Arc<Stop>) -> usize {
    let mut committed = 0;
    while !stop.is_set() {
        let client = connect(&dsn).await;
        client
            .execute("INSERT INTO visits VALUES ($1, $2)", &[&tenant, &(committed as i32)])
            .await
            .expect("it commits");
        committed += 1;
    }
    committed
}

type Watched = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

/// A session, and what its connection ends with.
async fn watched(dsn: &str) -> (tokio_postgres::Client, Watched) {
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.expect("it can be reached");
    (client, tokio::spawn(connection))
}

/// The SQLSTATE that a session was ended with.
async fn told(connection: Watched) -> String {
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("it ends").expect("it does not panic");
    ended.expect_err("it is told why").code().expect("by the proxy").code().to_owned()
}

fn ended(process: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    let end = wait_until(PATIENCE, || {
        status = process.try_wait().expect("it is our child");
        status.is_some()
    });
    if !end {
        let _ = process.kill();
        let _ = process.wait();
    }
    status.expect("it ends by itself")
}
