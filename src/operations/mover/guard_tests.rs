//! What a move may take of its servers: WAL, bytes a second, the patience of standbys.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use super::cancel::tenantry_cancel_move;
use super::tests::{GROUP, SOURCE, Stage, TABLES, TARGET, write};
use super::*;

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
/// A megabyte of WAL that has nothing to do with the move.
const NOISE: &str = "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1048576))";

fn slow(slot_wal_bytes: u64) -> MoveLimits {
    MoveLimits { copy_rate_bytes: 50 << 10, slot_wal_bytes, ..MoveLimits::default() }
}

fn begin_move(stage: &Arc<Stage>) -> JoinHandle<Result<Option<MoveReport>>> {
    let stage = stage.clone();
    tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
}

/// Until the newest move says that it is copying, and for a while then.
async fn while_copying(stage: &Stage, moving: &JoinHandle<Result<Option<MoveReport>>>) {
    let sql = "SELECT count(*) FROM tenantry.shard_move WHERE phase = 'Copying Data' AND finished_at IS NULL";
    while stage.coordinator.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!moving.is_finished(), "it is kept back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_takes_no_more_of_its_servers_than_it_may() {
    let stage = Arc::new(Stage::set(1, TABLES).await);
    let limits = stage.environment.limits.clone();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let writer = {
        let (stage, stop, acknowledged) = (stage.clone(), stop.clone(), acknowledged.clone());
        // Fails at any error that a client would see.
        tokio::spawn(async move { write(&stage, 1, &stop, &acknowledged, &AtomicI64::new(0)).await })
    };

    // Others write more than the slot of a slow move may keep: the move gives way, and leaves nothing.
    limits.store(Arc::new(slow(8 << 20)));
    let moving = begin_move(&stage);
    while stage.number(SOURCE, SLOTS).await == 0 {
        assert!(!moving.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut megabytes = 0;
    while !moving.is_finished() {
        megabytes += 1;
        assert!(megabytes < 1000, "nobody stops the move");
        stage.workers[0].batch_execute(NOISE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = moving.await.unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::CONFIGURATION_LIMIT_EXCEEDED, "{error}");
    assert!(error.message().contains("keeps too much WAL on node 1"), "{error}");
    assert!(error.to_string().contains("moves.slot_wal allows 8388608"), "{error}");
    assert!(megabytes > 8, "{megabytes}");
    assert_eq!(stage.node_of_group().await, SOURCE);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    assert_eq!(stage.number(SOURCE, SLOTS).await, 0);
    let told = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'failed' AND error LIKE '%too much WAL%'";
    assert_eq!(stage.coordinator.query_one(told, &[]).await.unwrap().get::<_, i64>(0), 1);

    // A move that is slow tells how far it is in the middle of its first table, and is let go by a reload.
    limits.store(Arc::new(slow(0)));
    let moving = begin_move(&stage);
    while_copying(&stage, &moving).await;
    let told = "SELECT count(*) FROM tenantry.shard_move WHERE finished_at IS NULL AND phase = 'Copying Data'
                AND bytes_copied BETWEEN 1 AND bytes_total AND copy_microseconds > 900000 AND rows_copied = 0";
    while stage.coordinator.query_one(told, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished(), "nobody is told how far it is");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    limits.store(Arc::new(MoveLimits { change_rate_bytes: 8 << 20, ..MoveLimits::default() }));
    moving.await.unwrap().unwrap().unwrap();
    assert_eq!(stage.node_of_group().await, TARGET);

    // One that somebody cancels is given up, whoever drives it, and nothing is left.
    limits.store(Arc::new(slow(0)));
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(TARGET, SOURCE).await })
    };
    while_copying(&stage, &moving).await;
    let newest = "SELECT max(moveid) FROM tenantry.shard_move";
    let id: i64 = stage.coordinator.query_one(newest, &[]).await.unwrap().get(0);
    let cancel = async |id: i64| tenantry_cancel_move(&stage.environment, &json!({ "move_id": id }), &|_| {}).await;
    cancel(id).await.unwrap();
    assert_eq!((stage.node_of_group().await, stage.leftovers().await), (TARGET, Vec::new()));
    let error = moving.await.unwrap().unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (SqlState::OPERATOR_INTERVENTION, &*format!("shard move {id} was cancelled"))
    );
    for (id, message) in [(id, "has failed already"), (id - 1, "is done already"), (4711, "does not exist")] {
        let error = cancel(id).await.unwrap_err();
        assert_eq!(error.message(), format!("shard move {id} {message}"));
    }

    // A standby that does not follow makes copying wait.
    limits.store(Arc::new(MoveLimits { standby_lag_bytes: 1 << 20, ..MoveLimits::default() }));
    let folder = tempfile::tempdir().unwrap();
    let standby = Standby::of(stage.ports.first + 3, folder.path());
    let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL";
    while stage.number(TARGET, streaming).await == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    standby.signal("STOP");
    for _ in 0..4 {
        stage.workers[1].batch_execute(NOISE).await.unwrap();
    }
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(TARGET, SOURCE).await })
    };
    while_copying(&stage, &moving).await;
    assert_eq!(stage.number(SOURCE, &format!("SELECT count(*) FROM public_{GROUP}.orders")).await, 0);
    standby.signal("CONT");
    moving.await.unwrap().unwrap().unwrap();
    drop(standby);

    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    let count = acknowledged.load(Ordering::SeqCst);
    let sql = format!("SELECT n FROM public_{GROUP}.orders WHERE tenant = 1 AND id = 1");
    assert_eq!(stage.number(SOURCE, &sql).await, count, "every acknowledged increment is there, once");
    Arc::into_inner(stage).unwrap().strike().await;
}

/// Takes a server's WAL as a standby does.
struct Standby(Child);

impl Standby {
    fn of(port: u16, folder: &std::path::Path) -> Self {
        let child = Command::new("pg_receivewal")
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-s",
                "1",
                "--no-loop",
                "--synchronous",
                "-p",
                &port.to_string(),
                "-D",
            ])
            .arg(folder)
            .stdin(Stdio::null())
            .spawn()
            .expect("PostgreSQL's client programs are installed");
        Self(child)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
