//! The SQL functions' handlers on real servers.

use std::sync::Mutex;

use serde_json::json;

use super::call::*;
use crate::catalog::jobs;
use crate::operations::mover::Notice;
use crate::operations::mover::tests::Stage;
use crate::shard_map::NodeId;

const TABLES: &str = "CREATE TABLE orders (tenant bigint, id bigint, PRIMARY KEY (tenant, id));
    INSERT INTO orders SELECT t, i FROM generate_series(1, 3) t, generate_series(1, 100) i";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_evens_the_nodes_and_a_drain_empties_one() {
    let stage = Stage::set(4, TABLES).await;
    let (first, second) = (stage.ports.first + 2, stage.ports.first + 3);
    let environment = &stage.environment;
    let notices: Mutex<Vec<Notice>> = Mutex::default();
    let notify = |notice: Notice| notices.lock().unwrap().push(notice);
    let per_node = || {
        let map = environment.catalog.map();
        let groups = map.colocations().flat_map(|c| c.shard_groups.clone()).collect::<Vec<_>>();
        [1, 2].map(|n| groups.iter().filter(|g| g.node == NodeId(n)).count())
    };

    let plan = get_rebalance_table_shards_plan(environment, &json!({}), &notify).await.unwrap();
    assert_eq!(plan.as_array().unwrap().len(), 2);
    assert!(plan[0]["shard_size"].as_u64().unwrap() > 8000);
    assert_eq!(plan[0]["targetport"], json!(second));

    let id = citus_rebalance_start(environment, &json!({}), &notify).await.unwrap();
    assert_eq!(notices.lock().unwrap().pop().unwrap().message, format!("Scheduled 2 moves as job {id}"));
    let again = citus_rebalance_start(environment, &json!({}), &notify).await.unwrap_err();
    assert_eq!(again.message(), format!("A rebalance is already running as job {id}"));
    let status = citus_rebalance_status(environment, &json!({}), &notify).await.unwrap();
    assert_eq!(status[0]["details"]["task_state_counts"], json!({"runnable": 2}));
    let client = environment.catalog.client(NodeId::COORDINATOR).await.unwrap();
    let job = jobs::find(&**client, id.as_i64().unwrap()).await.unwrap().unwrap();
    run_rebalance_job(environment, &job, &notify).await.unwrap();
    citus_rebalance_wait(environment, &json!({}), &notify).await.unwrap();
    assert_eq!(per_node(), [2, 2]);
    let status = citus_rebalance_status(environment, &json!({}), &notify).await.unwrap();
    assert_eq!(status[0]["state"], json!("finished"));
    assert_eq!(status[0]["details"]["task_state_counts"], json!({"done": 2}));
    let nothing = citus_rebalance_stop(environment, &json!({}), &notify).await.unwrap_err();
    assert_eq!(nothing.message(), "no ongoing rebalance that can be stopped");
    rebalance_table_shards(environment, &json!({"rebalance_strategy": "by_shard_count"}), &notify).await.unwrap();
    assert_eq!(per_node(), [2, 2], "nothing left to do");

    let moved = json!({"shard_id": 102008, "source_node_name": "127.0.0.1", "source_node_port": first,
                       "target_node_name": "127.0.0.1", "target_node_port": 1});
    let error = citus_move_shard_placement(environment, &moved, &notify).await.unwrap_err();
    assert_eq!(error.hint_text(), Some("Add the target node via SELECT citus_add_node('127.0.0.1', 1);"));

    citus_drain_node(environment, &json!({"nodename": "127.0.0.1", "nodeport": second}), &notify).await.unwrap();
    assert_eq!(per_node(), [4, 0]);
    let last = citus_drain_node(environment, &json!({"nodename": "127.0.0.1", "nodeport": first}), &notify).await;
    assert!(last.is_err(), "the last node cannot be drained");
    assert!(stage.leftovers().await.is_empty());
    drop(client);
    stage.strike().await;
}
