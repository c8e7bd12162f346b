//! Transactions over two workers while proxies are killed at every step of their commit: all or nothing, and what was
//! acknowledged is there.

mod support;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::served::{Served, Stop, connect};
use support::{psql, wait_until};
use tokio_postgres::Client;

const PREPARED: &str = "SELECT gid FROM pg_prepared_xacts WHERE gid ~ '^tenantry_'";
const RECOVERED_WITHIN: Duration = Duration::from_secs(30);

/// Two tenants, one on each worker.
struct Stage {
    served: Served,
    tenants: [i64; 2],
    shards: [String; 2],
}

impl Stage {
    fn set() -> Self {
        let served = Served::start(2);
        served.psql("CREATE TABLE ledger (tenant bigint, id bigint, PRIMARY KEY (tenant, id))");
        served.psql("SELECT create_distributed_table('ledger', 'tenant')");
        served.psql("CREATE TABLE notes (id bigint)");
        let of_worker = |worker: u16| {
            let sql = format!(
                "SELECT t, shardid FROM generate_series(1, 100) t JOIN citus_shards \
                 ON shardid = get_shard_id_for_distribution_column('ledger', t) AND nodeport = {} LIMIT 1",
                served.worker_port(worker)
            );
            let row = served.psql(&sql);
            let (tenant, shard) = row.split_once('|').expect("a tenant lives there");
            (tenant.parse::<i64>().expect("a number"), format!("public_{shard}.ledger"))
        };
        let (first, second) = (of_worker(0), of_worker(1));
        // PREPARE of the second tenant's part waits as long as somebody has this lock.
        psql(
            &served.worker_dsn(1),
            &format!(
                "CREATE FUNCTION public.pause() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN \
                     PERFORM pg_advisory_lock_shared(42); PERFORM pg_advisory_unlock_shared(42); RETURN NULL; END'; \
                 CREATE CONSTRAINT TRIGGER pause AFTER INSERT ON {} DEFERRABLE INITIALLY DEFERRED \
                     FOR EACH ROW EXECUTE FUNCTION public.pause()",
                second.1
            ),
        );
        Self { served, tenants: [first.0, second.0], shards: [first.1, second.1] }
    }

    /// The statements of transaction `id`, without its end.
    fn begin(&self, id: i64, with_local: bool) -> String {
        let local = if with_local { format!("INSERT INTO notes VALUES ({id});") } else { String::new() };
        let [a, b] = self.tenants;
        format!("BEGIN; INSERT INTO ledger VALUES ({a}, {id}); INSERT INTO ledger VALUES ({b}, {id}); {local}")
    }

    fn prepared(&self, worker: u16) -> usize {
        psql(&self.served.worker_dsn(worker), PREPARED).lines().count()
    }

    fn wait_for_prepared(&self, counts: [usize; 2], why: &str) {
        let so = wait_until(RECOVERED_WITHIN, || [self.prepared(0), self.prepared(1)] == counts);
        assert!(so, "{why}: {} and {} prepared, wanted {counts:?}", self.prepared(0), self.prepared(1));
    }

    /// Which parts of transaction `id` there are: first worker, second worker, coordinator.
    fn parts(&self, id: i64) -> [bool; 3] {
        let is_there =
            |dsn: &str, table: &str| psql(dsn, &format!("SELECT count(*) FROM {table} WHERE id = {id}")) == "1";
        [
            is_there(&self.served.worker_dsn(0), &self.shards[0]),
            is_there(&self.served.worker_dsn(1), &self.shards[1]),
            is_there(&self.served.coordinator_dsn(), "notes"),
        ]
    }
}

/// Runs `sql` in the background; what came of it.
fn spawn(client: Client, sql: String) -> tokio::task::JoinHandle<bool> {
    tokio::spawn(async move { client.batch_execute(&sql).await.is_ok() })
}

fn kill(pid: &str, signal: &str) {
    assert!(Command::new("kill").args(["-s", signal, pid]).status().expect("kill runs").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_killed_at_any_step_of_a_commit_leaves_all_or_nothing() {
    let mut stage = Stage::set();
    let foreign = "BEGIN; CREATE TABLE foreign_part (); PREPARE TRANSACTION 'an_application_1'";
    psql(&stage.served.worker_dsn(0), foreign);
    psql(&stage.served.worker_dsn(0), "BEGIN; CREATE TABLE other_part (); PREPARE TRANSACTION 'tenantry'");
    let mut id = 0;
    for with_local in [false, true] {
        // 1: nothing prepared.
        id += 1;
        let client = connect(&stage.served.dsn(0)).await;
        client.batch_execute(&stage.begin(id, with_local)).await.unwrap();
        stage.served.kill_proxy(0);
        stage.served.start_proxy(0);
        let none = || stage.parts(id) == [false; 3];
        assert!(wait_until(RECOVERED_WITHIN, none));
        stage.wait_for_prepared([0, 0], "before PREPARE");

        // 2: prepared on one worker only; the other one gets to its PREPARE when nobody waits for it any more.
        id += 1;
        let gate = connect(&stage.served.worker_dsn(1)).await;
        gate.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
        let sql = format!("{} COMMIT", stage.begin(id, with_local));
        let committing = spawn(connect(&stage.served.dsn(0)).await, sql);
        stage.wait_for_prepared([1, 0], "the first worker prepares");
        stage.served.kill_proxy(0);
        assert!(!committing.await.unwrap(), "nothing was acknowledged");
        stage.served.start_proxy(0);
        stage.served.start_proxy(1);
        stage.wait_for_prepared([0, 0], "one part is rolled back");
        gate.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.wait_for_prepared([0, 0], "the late part too");
        assert_eq!(stage.parts(id), [false; 3]);
        stage.served.kill_proxy(1);

        // 3: all prepared, nothing decided.
        for is_answer_lost in [false, true] {
            id += 1;
            let gate = connect(&stage.served.coordinator_dsn()).await;
            gate.batch_execute("BEGIN; LOCK TABLE tenantry.two_phase IN EXCLUSIVE MODE").await.unwrap();
            let sql = format!("{} COMMIT", stage.begin(id, with_local));
            let committing = spawn(connect(&stage.served.dsn(0)).await, sql);
            stage.wait_for_prepared([1, 1], "both prepare");
            let decides = "FROM pg_stat_activity WHERE query LIKE '%two_phase%' AND wait_event_type = 'Lock'";
            let waits = format!("SELECT count(*) > 0 {decides}");
            assert!(wait_until(RECOVERED_WITHIN, || psql(&stage.served.coordinator_dsn(), &waits) == "t"
                || psql(&stage.served.coordinator_dsn(), &waits.replace("two_phase", "decide_commit")) == "t"));
            stage.served.kill_proxy(0);
            assert!(!committing.await.unwrap());
            if !is_answer_lost {
                // Else its backend writes the decision although nobody hears of it.
                for query in ["two_phase", "decide_commit"] {
                    let sql = format!("SELECT pg_terminate_backend(pid) {}", decides.replace("two_phase", query));
                    psql(&stage.served.coordinator_dsn(), &sql);
                }
            }
            gate.batch_execute("COMMIT").await.unwrap();
            stage.served.start_proxy(0);
            stage.wait_for_prepared([0, 0], "undecided parts are ended");
            let parts = stage.parts(id);
            assert!(parts[0] == parts[1] && (!with_local || parts[2] == parts[0]), "{parts:?}");
            assert!(is_answer_lost || !parts[0], "nothing was decided");
        }

        // 4 to 6: decided; one worker has committed, the other has not heard of it.
        id += 1;
        let gate = connect(&stage.served.coordinator_dsn()).await;
        gate.batch_execute("BEGIN; LOCK TABLE tenantry.two_phase IN EXCLUSIVE MODE").await.unwrap();
        let sql = format!("{} COMMIT", stage.begin(id, with_local));
        let committing = spawn(connect(&stage.served.dsn(0)).await, sql);
        stage.wait_for_prepared([1, 1], "both prepare");
        let backend =
            "SELECT pid FROM pg_stat_activity WHERE query LIKE 'PREPARE TRANSACTION%' AND pid <> pg_backend_pid()";
        let pid = psql(&stage.served.worker_dsn(1), &format!("{backend} ORDER BY state_change DESC LIMIT 1"));
        kill(&pid, "STOP");
        gate.batch_execute("COMMIT").await.unwrap();
        stage.wait_for_prepared([0, 1], "the first worker commits");
        stage.served.kill_proxy(0);
        assert!(!committing.await.unwrap(), "not all parts are committed, so nothing is acknowledged");
        stage.served.start_proxy(0);
        stage.wait_for_prepared([0, 0], "the second part is committed");
        kill(&pid, "TERM");
        kill(&pid, "CONT");
        assert_eq!(stage.parts(id), [true, true, with_local]);
    }
    let foreign = "SELECT count(*) FROM pg_prepared_xacts WHERE gid IN ('an_application_1', 'tenantry')";
    assert_eq!(psql(&stage.served.worker_dsn(0), foreign), "2", "others' transactions are untouched");
    for gid in ["an_application_1", "tenantry"] {
        psql(&stage.served.worker_dsn(0), &format!("ROLLBACK PREPARED '{gid}'"));
    }
    assert_eq!(
        stage.served.psql("SELECT count(*) FROM notes n WHERE NOT EXISTS (SELECT FROM notes m WHERE m.id = n.id)"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_under_proxies_that_are_killed_again_and_again_are_all_or_nothing() {
    let mut stage = Stage::set();
    stage.served.start_proxy(1);
    let stop = Arc::new(Stop::default());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let [a, b] = stage.tenants;
    let mut clients = Vec::new();
    for number in 0..4i64 {
        let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
        let dsns = [stage.served.dsn(0), stage.served.dsn(1)];
        clients.push(tokio::spawn(async move {
            let mut id = number * 1_000_000;
            while !stop.is_set() {
                let dsn = &dsns[usize::try_from(id % 2).expect("0 or 1")];
                id += 1;
                let Ok((client, connection)) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                tokio::spawn(connection);
                for _ in 0..50 {
                    id += 1;
                    let sql = format!(
                        "BEGIN; INSERT INTO ledger VALUES ({a}, {id}); INSERT INTO ledger VALUES ({b}, {id}); COMMIT"
                    );
                    match client.batch_execute(&sql).await {
                        Ok(()) => acknowledged.lock().expect("no panics").push(id),
                        Err(_) => break,
                    }
                }
            }
        }));
    }
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(400 + 37 * round)).await;
        let number = usize::try_from(round % 2).expect("0 or 1");
        stage.served.kill_proxy(number);
        stage.served.start_proxy(number);
    }
    stop.set();
    for client in clients {
        client.await.unwrap();
    }
    stage.wait_for_prepared([0, 0], "after the last kill");
    let ids = |worker: u16| {
        let sql = format!("SELECT id FROM {} ORDER BY id", stage.shards[usize::from(worker)]);
        psql(&stage.served.worker_dsn(worker), &sql)
    };
    let (first, second) = (ids(0), ids(1));
    assert!(first == second, "the parts differ");
    let there: std::collections::HashSet<i64> = first.lines().map(|l| l.parse().expect("a number")).collect();
    let acknowledged = acknowledged.lock().expect("no panics");
    let lost: Vec<_> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    println!("{} acknowledged, {} there", acknowledged.len(), there.len());
    assert!(acknowledged.len() > 100);
}
