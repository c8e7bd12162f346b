//! Looking before a move, and rehearsing it, with real data and writers at work.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::cancel::tenantry_cancel_move;
use super::explain::tenantry_explain_move;
use super::rehearse::tenantry_rehearse_move;
use super::tests::Stage;
use super::undo::tenantry_undo_move;
use super::*;
use crate::error::SqlState;
use crate::operations::rebalance::progress::get_rebalance_progress;

const TABLES: &str = "CREATE TABLE orders (tenant bigint, id bigint, note text, PRIMARY KEY (tenant, id));
    CREATE TABLE notes (tenant bigint, body text);
    INSERT INTO orders SELECT t, i, md5(i::text) FROM generate_series(1, 20) t, generate_series(1, 500) i;
    INSERT INTO notes SELECT 1, 'x' FROM generate_series(1, 100)";

fn find<'a>(rows: &'a Value, aspect: &str) -> Option<&'a Value> {
    rows.as_array().and_then(|rows| rows.iter().find(|row| row["aspect"] == aspect))
}

fn obstacles(rows: &Value) -> Vec<&str> {
    let rows = rows.as_array().expect("rows");
    rows.iter().filter(|row| row["stands_in_the_way"] == true).filter_map(|row| row["aspect"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_explained_and_rehearsed_and_nothing_is_left_of_it() {
    let stage = Stage::set(1, TABLES).await;
    let environment = &stage.environment;
    let notices: Mutex<Vec<Notice>> = Mutex::default();
    let notify = |notice: Notice| notices.lock().unwrap().push(notice);
    let arguments = json!({"shard_id": 102008, "node_id": 2});

    let told = tenantry_explain_move(environment, &arguments).await.unwrap();
    assert!(find(&told, "rows").unwrap()["value"].as_str().unwrap().ends_with("10100"));
    assert_eq!(find(&told, "tables").unwrap()["value"], "2");
    let bare = find(&told, "no replica identity").unwrap();
    assert!(bare["value"].as_str().unwrap().contains("\"notes\""));
    assert!(find(&told, "expected hold").unwrap()["value"].as_str().unwrap().contains("not known"));
    assert!(obstacles(&told).is_empty(), "{told}");

    let measured = tenantry_rehearse_move(environment, &arguments, &notify).await.unwrap();
    assert_eq!((&measured[0]["rows_copied"], measured.as_array().unwrap().len()), (&json!(10_100), 1));
    assert!(measured[0]["seconds"].as_f64().unwrap() > 0.0 && measured[0]["bytes_copied"].as_u64().unwrap() > 10_000);
    assert!(stage.leftovers().await.is_empty(), "{:?}", stage.leftovers().await);
    let home = "SELECT nodeid FROM tenantry.shard_group WHERE id = 102008";
    let at_home = async || stage.coordinator.query_one(home, &[]).await.unwrap().get::<_, i32>(0);
    assert_eq!(at_home().await, 1, "it has not moved");
    let row = stage.coordinator.query_one("SELECT state, phase, error FROM tenantry.shard_move", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("failed", "Rehearsed"));
    assert_eq!(row.get::<_, Option<&str>>(2), None);

    for (refused, why) in [
        (
            tenantry_undo_move(environment, &json!({"move_id": 1}), &notify).await,
            "was a rehearsal, there is nothing to undo",
        ),
        (
            tenantry_cancel_move(environment, &json!({"move_id": 1}), &notify).await,
            "was a rehearsal, and has ended already",
        ),
    ] {
        assert_eq!(refused.unwrap_err().message(), format!("shard move 1 {why}"));
    }

    // Under way it is told for what it is; given up, it has failed.
    let settings = environment.catalog.settings();
    let address = crate::catalog::Address { host: "127.0.0.1".to_owned(), port: stage.ports.first + 2 };
    let client = crate::catalog::connect(settings, &address).await.unwrap();
    client.batch_execute("BEGIN; DELETE FROM public_102008.notes").await.unwrap();
    let rehearsal = tokio::spawn({
        let (environment, arguments) = (environment.clone(), arguments.clone());
        async move { tenantry_rehearse_move(&environment, &arguments, &|_| {}).await }
    });
    let waits = "SELECT max(moveid) FROM tenantry.shard_move WHERE state = 'target_created'";
    let id: i64 = loop {
        match stage.coordinator.query_one(waits, &[]).await.unwrap().get(0) {
            Some(id) => break id,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let progress = get_rebalance_progress(environment).await.unwrap();
    assert_eq!(progress[0]["operation_type"], "rehearse", "{progress}");
    let told = tenantry_explain_move(environment, &arguments).await.unwrap();
    let other = find(&told, "other moves").unwrap();
    assert!(other["value"].as_str().unwrap().starts_with(&format!("rehearsal {id} of shard group 102008")), "{other}");
    assert_eq!(other["hint"], "The move would wait for its end.");
    tenantry_cancel_move(environment, &json!({"move_id": id}), &notify).await.unwrap();
    assert_eq!(rehearsal.await.unwrap().unwrap_err().code(), SqlState::OPERATOR_INTERVENTION);
    let row = "SELECT phase, error IS NULL FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";
    let row = stage.coordinator.query_one(row, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("Failed", false));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(stage.leftovers().await.is_empty(), "{:?}", stage.leftovers().await);

    // What stands in the way is said before, by both.
    stage.workers[0].batch_execute("SET search_path TO public_102008; ALTER TABLE notes SET UNLOGGED").await.unwrap();
    let told = tenantry_explain_move(environment, &arguments).await.unwrap();
    assert_eq!(obstacles(&told), ["unlogged table"]);
    assert!(find(&told, "unlogged table").unwrap()["hint"].as_str().unwrap().contains("SET LOGGED"));
    let refused = tenantry_rehearse_move(environment, &arguments, &notify).await.unwrap_err();
    assert_eq!(refused.code(), SqlState::FEATURE_NOT_SUPPORTED);
    assert!(stage.leftovers().await.is_empty());
    stage.workers[0].batch_execute("ALTER TABLE notes SET LOGGED").await.unwrap();
    stage.workers[1].batch_execute("CREATE SCHEMA public_102008").await.unwrap();
    let told = tenantry_explain_move(environment, &arguments).await.unwrap();
    assert_eq!(obstacles(&told), ["target"]);
    stage.workers[1].batch_execute("DROP SCHEMA public_102008").await.unwrap();
    for (node, aspect) in [(1, "placement"), (9, "placement")] {
        let told = tenantry_explain_move(environment, &json!({"shard_id": 102008, "node_id": node})).await.unwrap();
        assert_eq!(obstacles(&told), [aspect], "node {node}");
    }
    let unknown = tenantry_explain_move(environment, &json!({"shard_id": 1, "node_id": 2})).await.unwrap_err();
    assert_eq!(unknown.code(), SqlState::UNDEFINED_OBJECT);

    // An open transaction is seen; the move goes well, and the next one can be told by it.
    client.batch_execute("BEGIN; DELETE FROM public_102008.notes WHERE false").await.unwrap();
    let told = tenantry_explain_move(environment, &arguments).await.unwrap();
    let longest = find(&told, "longest transaction").unwrap()["value"].as_str().unwrap();
    assert!(longest.contains("of 1 open ones 0 have written and 1 use the shard's tables"), "{longest}");
    client.batch_execute("ROLLBACK").await.unwrap();
    let request =
        MoveRequest { group: ShardGroupId(102008), source: NodeId(1), target: NodeId(2), mode: TransferMode::Online };
    move_shard_group(environment, request, &notify).await.unwrap().unwrap();
    assert_eq!(at_home().await, 2);
    // Others say nothing of it: a distribution, an isolation, pieces, a return, an undone move, copies, one that blocks writes.
    for (columns, values) in [
        ("relation, relation_name, partkey, key_type, key_collation, shard_count", "1, 'x', 1, 1, 0, 4"),
        ("tenant, tenant_key, tenant_hash, tenant_group, rest_group", "'x', '', 1, 1, 2"),
        ("piece_groups, piece_nodes, piece_maxima", "'{1,2}', '{1,2}', '{1,2}'"),
        ("join_rest, join_merged, join_staging", "1, 2, 3"),
        ("back_of", "1"),
        ("relations", "'{x}'"),
        ("blocks_writes", "true"),
    ] {
        let group = if columns.starts_with("relation,") { 0 } else { 102_008 };
        let held = format!(
            "INSERT INTO tenantry.shard_move
                (colocationid, shard_group_id, source_node, target_node, state, schemas, hold_microseconds, finished_at, {columns})
             VALUES (1, {group}, 1, 2, 'done', '{{public}}', 3600000000, now() + interval '1 day', {values})"
        );
        stage.coordinator.batch_execute(&held).await.unwrap();
    }
    let back = json!({"shard_id": 102008, "node_id": 1});
    let told = tenantry_explain_move(environment, &back).await.unwrap();
    let hold = find(&told, "expected hold").unwrap()["value"].as_str().unwrap();
    assert!(hold.contains("as in the last 1 moves"), "{hold}");
    drop(client);
    stage.strike().await;
}
