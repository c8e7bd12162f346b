//! Transactions that are open while their shard moves between real servers.

use std::sync::Arc;
use std::time::Instant;

use super::tests::*;
use super::*;
use crate::catalog::connect;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_delays_the_move_and_nobody_else() {
    let mut stage = Stage::set(1, TABLES).await;
    stage.environment.settings.lock_timeout = Duration::from_millis(50);
    let settings = stage.environment.catalog.settings().clone();
    let address = crate::catalog::Address { host: "127.0.0.1".into(), port: stage.ports.first + 2 };
    let idle = connect(&settings, &address).await.unwrap();
    let stage = Arc::new(stage);
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    // Opened once the slot exists, else the slot would wait for it.
    while stage.number(SOURCE, "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL").await
        == 0
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    idle.batch_execute("BEGIN; UPDATE public_102008.orders SET n = 77 WHERE tenant = 1 AND id = 2").await.unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        stage.environment.holds.wait(GROUP, Duration::from_secs(10)).await;
        stage.number(SOURCE, "SELECT count(*) FROM orders WHERE tenant = 2").await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    idle.batch_execute("COMMIT").await.unwrap();
    let report = moving.await.unwrap().unwrap().unwrap();
    assert!(report.attempts > 1, "{report:?}");
    assert_eq!(stage.number(TARGET, "SELECT n FROM orders WHERE tenant = 1 AND id = 2").await, 77);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}

/// C03: the last position is taken when nobody can commit any more. Here somebody does while the fence waits for its locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_while_the_fence_waits_arrives() {
    let mut stage = Stage::set(1, TABLES).await;
    stage.environment.settings.lock_timeout = Duration::from_secs(60);
    let stage = Arc::new(stage);
    let writer = stage.connect(SOURCE).await;
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    // Opened once the slot exists, else the slot would wait for it.
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
    while stage.number(SOURCE, slots).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let update = |n: i64| format!("UPDATE public_102008.orders SET n = {n} WHERE tenant = 1 AND id = 2");
    writer.batch_execute(&format!("BEGIN; {}", update(1))).await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    while stage.number(SOURCE, waits).await == 0 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.batch_execute(&format!("{}; SAVEPOINT s; {}; COMMIT", update(2), update(3))).await.unwrap();
    let report = moving.await.unwrap().unwrap().unwrap();
    assert_eq!(report.attempts, 1, "{report:?}");
    assert_eq!(stage.number(TARGET, "SELECT n FROM orders WHERE tenant = 1 AND id = 2").await, 3);
    let late = writer.batch_execute(&update(4)).await.unwrap_err();
    assert_eq!(late.code(), Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE), "nobody comes after it");
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    drop(writer);
    Arc::into_inner(stage).unwrap().strike().await;
}

/// C22: a part of a transaction over several nodes that is prepared and not decided yet. Its session may be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_are_waited_for_and_arrive() {
    let stage = Arc::new(Stage::set(1, TABLES).await);
    let moving = |source, target| {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(source, target).await })
    };
    let prepare = |node, n: i64| {
        let stage = stage.clone();
        async move {
            let sql = format!(
                "BEGIN; UPDATE public_102008.orders SET n = {n} WHERE tenant = 1 AND id = 2; PREPARE TRANSACTION 'part_{n}'"
            );
            stage.connect(node).await.batch_execute(&sql).await.unwrap();
        }
    };
    let state = |wanted: &'static str| {
        let stage = stage.clone();
        async move {
            let sql = "SELECT count(*) FROM tenantry.shard_move WHERE finished_at IS NULL AND state = $1";
            while stage.coordinator.query_one(sql, &[&wanted]).await.unwrap().get::<_, i64>(0) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    // Prepared while the move goes on, it keeps the fence waiting.
    let first = moving(SOURCE, TARGET);
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
    while stage.number(SOURCE, slots).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    prepare(SOURCE, 1).await;
    state("caught_up").await;
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    while stage.number(SOURCE, waits).await == 0 {
        assert!(!first.is_finished(), "{:?}", first.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.workers[0].batch_execute("COMMIT PREPARED 'part_1'").await.unwrap();
    first.await.unwrap().unwrap().unwrap();
    let n = "SELECT n FROM public_102008.orders WHERE tenant = 1 AND id = 2";
    assert_eq!(stage.number(TARGET, n).await, 1);
    // Prepared before, it keeps the slot waiting.
    for (number, end, left) in [(2, "ROLLBACK", 1), (3, "COMMIT", 3)] {
        let home = stage.node_of_group().await;
        let other = if home == SOURCE { TARGET } else { SOURCE };
        prepare(home, number).await;
        let second = moving(home, other);
        state("target_created").await;
        let ended = format!("{end} PREPARED 'part_{number}'");
        stage.workers[home.0 as usize - 1].batch_execute(&ended).await.unwrap();
        second.await.unwrap().unwrap().unwrap();
        assert_eq!(stage.number(other, n).await, left, "{end}");
    }
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}
