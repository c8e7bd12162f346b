//! Servers, the coordinator too, are killed while a shard of partitioned tables moves: it ends or is cleaned up, nothing is
//! lost, and nobody waits for a server that is not needed.

use super::tests::{GROUP, SOURCE, Stage, TARGET};
use super::undo_kill_tests::{expect, settle, write, write_at};
use super::*;
use crate::backend::replication::{Event, ReplicationConnection};

/// `orders` has 400 rows, as the other stage's.
const TABLES: &str = "
    CREATE TABLE orders (tenant bigint, id bigint, n bigint NOT NULL DEFAULT 0, at date, PRIMARY KEY (tenant, id, at))
        PARTITION BY RANGE (at);
    CREATE TABLE orders_2025 PARTITION OF orders FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE orders_rest PARTITION OF orders DEFAULT PARTITION BY HASH (id);
    CREATE TABLE orders_rest_0 PARTITION OF orders_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE orders_rest_1 PARTITION OF orders_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE items (tenant bigint, order_id bigint, at date, line int,
        FOREIGN KEY (tenant, order_id, at) REFERENCES orders) PARTITION BY LIST (line);
    CREATE TABLE items_1 PARTITION OF items FOR VALUES IN (1);
    CREATE TABLE items_rest PARTITION OF items DEFAULT;
    INSERT INTO orders SELECT t, i, 0, date '2025-12-01' + i::int FROM generate_series(1, 8) t, generate_series(1, 50) i;
    INSERT INTO items SELECT tenant, id, at, id % 3 FROM orders";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Source,
    Target,
    Coordinator,
}

impl Killed {
    fn node(self, source: NodeId, target: NodeId) -> NodeId {
        match self {
            Self::Source => source,
            Self::Target => target,
            Self::Coordinator => NodeId::COORDINATOR,
        }
    }
}

/// Whoever moves it dies together with a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_killed_while_a_shard_moves() {
    use StopPoint::*;
    let mut stage = Stage::set(1, TABLES).await;
    let mut written = 0;
    for killed in [Killed::Target, Killed::Source, Killed::Coordinator] {
        for point in [SlotCreated, Copied, IndexesBuilt, CaughtUp, Fenced, FenceApplied, Switched] {
            let when = format!("{point:?}, killed {killed:?}");
            let source = stage.node_of_group().await;
            let target = if source == SOURCE { TARGET } else { SOURCE };
            write(&stage, &mut written).await;
            stage.environment.stop_at = Some(point);
            let stopped = stage.move_to(source, target).await.unwrap_err();
            assert_eq!(stopped.code(), STOPPED, "{when}: {stopped}");
            stage.environment.stop_at = None;
            stage.kill(killed.node(source, target));
            let mut helpless = recover(&stage.environment).await;
            // The catalog has yet to notice that the mover's connections are closed.
            while matches!(helpless, Ok(0)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                helpless = recover(&stage.environment).await;
            }
            println!("{when}: repair without the server: {helpless:?}");
            match killed {
                // The source needs nobody to serve again, and keeps no WAL for who is not there.
                Killed::Target if point != Switched => {
                    write_at(&stage, source, &mut written).await;
                    let slots = "SELECT count(*) FROM pg_replication_slots";
                    assert_eq!(stage.number(source, slots).await, 0, "{when}");
                }
                Killed::Source if point == Switched => write_at(&stage, target, &mut written).await,
                _ => {}
            }
            stage.restart(killed.node(source, target)).await;
            settle(&stage, &when).await;
            let home = match (point, killed) {
                (Switched, _) => Some(target),
                (_, Killed::Target) => Some(source),
                (Fenced, _) => None,
                (FenceApplied, _) => Some(target),
                _ => Some(source),
            };
            expect(&stage, home, written, &when).await;
            let home = stage.node_of_group().await;
            let items = format!(
                "SELECT count(*) FROM public_{GROUP}.items JOIN public_{GROUP}.orders o ON (o.tenant, o.id, o.at) = \
                 (items.tenant, order_id, items.at)"
            );
            assert_eq!(stage.number(home, &items).await, 400, "{when}");
        }
    }
    stage.strike().await;
}

/// Goal: a move whose source is shut down says so, as one whose source crashes, and nothing of a protocol.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_stream_of_a_server_that_is_shut_down_is_a_lost_connection() {
    let mut stage = Stage::set(1, "").await;
    stage.workers[0].batch_execute("CREATE PUBLICATION everything FOR ALL TABLES").await.unwrap();
    let (address, identity) = session::replication_login(&stage.environment, SOURCE).unwrap();
    let settings = stage.environment.catalog.settings();
    let connection = ReplicationConnection::connect(&settings.access, &address, &identity, settings.connect_timeout);
    let mut connection = connection.await.unwrap();
    let slot = connection.create_slot("followed").await.unwrap();
    let mut stream = connection.start("followed", "everything", slot.consistent_point).await.unwrap();
    let following = tokio::spawn(async move {
        loop {
            match stream.next().await {
                Ok(Event::Keepalive(position)) => stream.confirm(position).await.unwrap(),
                Ok(Event::Change(_)) => {}
                Err(error) => return error,
            }
        }
    });
    // Before that a server ends it by an error of its own (57P01).
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    while stage.number(SOURCE, streams).await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    stage.stop(SOURCE);
    let error = following.await.unwrap();
    assert_eq!(error.code(), SqlState::CONNECTION_FAILURE, "{error}");
    stage.strike().await;
}
