//! Servers, the coordinator too, are killed while a move can be undone, and while it is undone: it ends or is cleaned up, and nothing is lost.

use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinHandle;

use super::tests::{GROUP, SOURCE, Stage, TABLES, TARGET};
use super::undo::{look_after, open_ways_back};
use super::undo_tests::{moved, undo};
use super::*;

/// What the job of a proxy does: what goes wrong is tried again.
fn keeper(environment: &MoverEnvironment) -> JoinHandle<()> {
    let environment = environment.clone();
    tokio::spawn(async move {
        loop {
            for id in open_ways_back(&environment).await.unwrap_or_default() {
                if let Err(error) = look_after(&environment, id, &mut None).await {
                    println!("way back {id}: {error}");
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// One more acknowledged increment, where the shard group is.
pub async fn write(stage: &Stage, written: &mut i64) {
    write_at(stage, stage.node_of_group().await, written).await;
}

pub async fn write_at(stage: &Stage, home: NodeId, written: &mut i64) {
    let sql = format!("UPDATE public_{GROUP}.orders SET n = n + 1 WHERE tenant = 1 AND id = 1");
    stage.workers[home.0 as usize - 1].batch_execute(&sql).await.unwrap();
    *written += 1;
}

/// Until no move is unfinished.
pub async fn settle(stage: &Stage, when: &str) {
    let began = Instant::now();
    let sql = "SELECT count(*) FROM tenantry.shard_move WHERE state NOT IN ('done', 'failed', 'undoable')";
    while stage.coordinator.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        if let Err(error) = recover(&stage.environment).await {
            println!("{when}: {error}");
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{when}: still unfinished");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.environment.catalog.refresh().await.unwrap();
}

pub async fn expect(stage: &Stage, home: Option<NodeId>, written: i64, when: &str) {
    let at = stage.node_of_group().await;
    assert!(home.is_none_or(|home| home == at), "{when}: on node {at}");
    assert_eq!(stage.leftovers().await, Vec::<String>::new(), "{when}");
    let n = format!("SELECT n FROM public_{GROUP}.orders WHERE tenant = 1 AND id = 1");
    assert_eq!(stage.number(at, &n).await, written, "{when}: every acknowledged increment is there, once");
    let all = format!("SELECT count(*) FROM public_{GROUP}.orders");
    assert_eq!(stage.number(at, &all).await, 400, "{when}");
}

/// Which server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// Where the shard group is.
    Home,
    /// Where it was.
    Old,
    Coordinator,
}

impl Killed {
    fn node(self, source: NodeId, target: NodeId) -> NodeId {
        match self {
            Self::Home => target,
            Self::Old => source,
            Self::Coordinator => NodeId::COORDINATOR,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_killed_while_a_move_can_be_undone_and_is() {
    let mut stage = Stage::set(1, TABLES).await;
    let open = MoveLimits { undo_window: Duration::from_secs(3600), ..MoveLimits::default() };
    stage.environment.limits.store(Arc::new(open));
    let keeping = keeper(&stage.environment);
    let mut written = 0;
    for killed in [Killed::Home, Killed::Old, Killed::Coordinator] {
        // The way back is open: it is gone on with.
        let (id, source, target) = moved(&stage).await;
        let victim = killed.node(source, target);
        let when = format!("way back open, killed {killed:?}");
        write(&stage, &mut written).await;
        stage.kill(victim);
        if killed != Killed::Home {
            write_at(&stage, target, &mut written).await;
        }
        stage.restart(victim).await;
        write(&stage, &mut written).await;
        undo(&stage.environment, id).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        expect(&stage, Some(source), written, &when).await;

        // It is being undone, and an open transaction keeps it from its end: all stays as it is.
        let (id, source, target) = moved(&stage).await;
        let victim = killed.node(source, target);
        let when = format!("being undone, killed {killed:?}");
        write(&stage, &mut written).await;
        let reader = stage.connect(target).await;
        reader.batch_execute(&format!("BEGIN; SELECT count(*) FROM public_{GROUP}.orders")).await.unwrap();
        let environment = stage.environment.clone();
        let undoing = tokio::spawn(async move { undo(&environment, id).await });
        let caught_up = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'caught_up'";
        while stage.coordinator.query_one(caught_up, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(!undoing.is_finished(), "{when}: {:?}", undoing.await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stage.kill(victim);
        let noticed = tokio::time::timeout(Duration::from_secs(30), undoing).await;
        println!("{when}: {}", noticed.expect("it is noticed by then").unwrap().unwrap_err());
        stage.restart(victim).await;
        drop(reader);
        settle(&stage, &when).await;
        expect(&stage, Some(target), written, &when).await;

        // Who undoes it dies together with a server: it is finished, or cleaned up.
        use StopPoint::*;
        for point in [Copied, CaughtUp, Fenced, FenceApplied, Switched] {
            let (id, source, target) = moved(&stage).await;
            let victim = killed.node(source, target);
            let when = format!("{point:?}, killed {killed:?}");
            write(&stage, &mut written).await;
            let mut crashing = stage.environment.clone();
            crashing.stop_at = Some(point);
            let stopped = undo(&crashing, id).await.unwrap_err();
            assert_eq!(stopped.code(), STOPPED, "{when}: {stopped}");
            stage.kill(victim);
            let helpless = recover(&stage.environment).await;
            println!("{when}: repair without the server: {helpless:?}");
            if killed == Killed::Old && point != Switched {
                // Clients do not wait for the server that it was to go back to.
                write_at(&stage, target, &mut written).await;
            }
            stage.restart(victim).await;
            settle(&stage, &when).await;
            let home = match point {
                Fenced | FenceApplied if killed == Killed::Old => Some(target),
                // The last changes may have arrived.
                Fenced => None,
                FenceApplied | Switched => Some(source),
                _ => Some(target),
            };
            expect(&stage, home, written, &when).await;
            write(&stage, &mut written).await;
        }
    }

    // A move without a stream has no way back.
    let source = stage.node_of_group().await;
    let target = if source == SOURCE { TARGET } else { SOURCE };
    let request = MoveRequest { group: GROUP, source, target, mode: TransferMode::BlockWrites };
    let report = move_shard_group(&stage.environment, request, &|_| {}).await.unwrap().unwrap();
    let none = undo(&stage.environment, report.move_id).await.unwrap_err();
    assert_eq!(none.message(), format!("shard move {} cannot be undone", report.move_id));
    let kept = super::undo::tenantry_keep_move(&stage.environment, &json!({ "move_id": report.move_id })).await;
    assert_eq!(kept.unwrap_err().code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    expect(&stage, Some(target), written, "without a stream").await;
    keeping.abort();
    let _ = keeping.await;
    stage.strike().await;
}
