//! The SQL functions' handlers on real servers.

use std::sync::Mutex;

use serde_json::json;

use super::call::*;
use super::job::*;
use super::progress;
use crate::catalog::{job_tasks, jobs};
use crate::operations::mover::Notice;
use crate::operations::mover::tests::Stage;
use crate::shard_map::{NodeId, ShardId};

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

    let logical = json!({"shard_transfer_mode": "force_logical"});
    let id = citus_rebalance_start(environment, &logical, &notify).await.unwrap();
    assert_eq!(notices.lock().unwrap().pop().unwrap().message, format!("Scheduled 2 moves as job {id}"));
    let again = citus_rebalance_start(environment, &json!({}), &notify).await.unwrap_err();
    assert_eq!(again.message(), format!("A rebalance is already running as job {id}"));
    let status = citus_rebalance_status(environment, &json!({})).await.unwrap();
    assert_eq!(status[0]["details"]["task_state_counts"], json!({"runnable": 2}));
    let client = environment.catalog.client(NodeId::COORDINATOR).await.unwrap();
    // Its first move has begun when its owner dies; the mode is the one that was asked for.
    let task = job_tasks::runnable(&**client, id.as_i64().unwrap()).await.unwrap().swap_remove(0);
    job_tasks::begin(&**client, task.id).await.unwrap();
    let status = citus_job_status(environment, &json!({"job_id": id})).await.unwrap();
    let command = format!("SELECT pg_catalog.citus_move_shard_placement({},1,2,'force_logical')", task.group);
    assert_eq!(status[0]["details"]["tasks"][0]["command"], json!(command));
    let job = jobs::find(&**client, id.as_i64().unwrap()).await.unwrap().unwrap();
    run_rebalance_job(environment, &job, &notify).await.unwrap();
    citus_rebalance_wait(environment).await.unwrap();
    assert_eq!(per_node(), [2, 2]);
    let status = citus_rebalance_status(environment, &json!({})).await.unwrap();
    assert_eq!(status[0]["state"], json!("finished"));
    assert_eq!(status[0]["details"]["task_state_counts"], json!({"done": 2}));
    let nothing = citus_rebalance_stop(environment).await.unwrap_err();
    assert_eq!(nothing.message(), "no ongoing rebalance that can be stopped");
    rebalance_table_shards(environment, &json!({"rebalance_strategy": "by_shard_count"}), &notify).await.unwrap();
    assert_eq!(per_node(), [2, 2], "nothing left to do");

    let moved = json!({"shard_id": 102008, "source_node_name": "127.0.0.1", "source_node_port": first,
                       "target_node_name": "127.0.0.1", "target_node_port": 1});
    let error = citus_move_shard_placement(environment, &moved, &notify).await.unwrap_err();
    assert_eq!(error.hint_text(), Some("Add the target node via SELECT citus_add_node('127.0.0.1', 1);"));

    // A strategy of the operator's own: shard 102008 costs as much as the other three, and node 2 takes none of it.
    client
        .batch_execute(
            // What they name is found in their own schema, and in the catalog.
            "SET check_function_bodies TO off;
             CREATE TABLE public.weights (first bigint, last bigint, weight float4);
             INSERT INTO public.weights VALUES (0, 102008, 3), (102009, 200000, 1);
             CREATE FUNCTION public.weight(bigint) RETURNS float4 LANGUAGE sql AS 'SELECT w.weight FROM weights w WHERE $1 BETWEEN w.first AND w.last';
             CREATE FUNCTION public.place(bigint, int) RETURNS boolean LANGUAGE sql AS 'SELECT NOT ($1 = 102008 AND $2 = max(nodeid)) FROM pg_dist_node';
             SELECT tenantry.citus_add_rebalance_strategy('mine', 'public.weight', 'citus_node_capacity_1', 'public.place', 0.0)",
        )
        .await
        .unwrap();
    rebalance_table_shards(environment, &json!({"rebalance_strategy": "mine"}), &notify).await.unwrap();
    assert_eq!(per_node(), [1, 3]);
    let home = environment
        .catalog
        .map()
        .group_of_shard(ShardId(102008))
        .map(|(c, g)| environment.catalog.map().colocation(c).and_then(|c| c.group(g)).map(|g| g.node));
    assert_eq!(home, Some(Some(NodeId(1))));
    client.batch_execute("CREATE ROLE someone; ALTER FUNCTION public.weight OWNER TO someone").await.unwrap();
    let mine = json!({"rebalance_strategy": "mine"});
    let refused = rebalance_table_shards(environment, &mine, &notify).await.unwrap_err();
    assert_eq!(refused.message(), "function weight of the rebalance strategy is not owned by a superuser");
    let wrong = "SELECT tenantry.citus_add_rebalance_strategy('bad', 'public.place', 'citus_node_capacity_1', 'public.place', 0.0)";
    let wrong = client.batch_execute(wrong).await.unwrap_err();
    assert_eq!(wrong.as_db_error().unwrap().message(), "signature for shard_cost_function is incorrect");
    let unknown = json!({"rebalance_strategy": "by_magic"});
    let unknown = rebalance_table_shards(environment, &unknown, &notify).await.unwrap_err();
    assert_eq!(unknown.message(), "could not find rebalance strategy with name by_magic");
    rebalance_table_shards(environment, &json!({"threshold": 0.001}), &notify).await.unwrap();
    let warned = notices.lock().unwrap().iter().any(|n| n.detail.as_deref() == Some("Using threshold of 0.01"));
    assert!(warned && per_node() == [2, 2]);

    // What waits and what was cancelled is seen.
    rebalance_table_shards(environment, &json!({"rebalance_strategy": "by_shard_count"}), &notify).await.unwrap();
    client.batch_execute("UPDATE tenantry.node SET shouldhaveshards = false WHERE nodeid = 2").await.unwrap();
    let blocking = json!({"shard_transfer_mode": "block_writes"});
    let id = citus_rebalance_start(environment, &blocking, &notify).await.unwrap();
    let progress = progress::get_rebalance_progress(environment).await.unwrap();
    assert_eq!((progress.as_array().unwrap().len(), &progress[0]["status"]), (2, &json!("Not Started Yet")));
    assert!(progress[0]["source_shard_size"].as_u64().unwrap() > 8000 && progress[0]["progress"] == 0);
    citus_job_cancel(environment, &json!({"jobid": id})).await.unwrap();
    citus_job_wait(environment, &json!({"jobid": id})).await.unwrap();
    let late = json!({"jobid": id, "desired_status": "finished"});
    assert!(citus_job_wait(environment, &late).await.unwrap_err().message().contains("has ended as \"cancelled\""));
    let failed = "UPDATE tenantry.job_task SET state = 'error' WHERE id = (SELECT max(id) FROM tenantry.job_task)";
    client.batch_execute(failed).await.unwrap();
    // Shards need not have the numbers of their shard groups: those may be of a table that was dropped.
    client.batch_execute("UPDATE tenantry.shard SET shardid = shardid + 1000").await.unwrap();
    let status = citus_job_status(environment, &json!({"job_id": id})).await.unwrap();
    assert_eq!(status[0]["details"]["task_state_counts"], json!({"cancelled": 1, "error": 1}));
    let command = status[0]["details"]["tasks"][0]["command"].as_str().unwrap();
    assert!(command.ends_with(",'block_writes')") && command.contains("(103"), "{command}");
    let commands = "SELECT count(*), bool_and(command LIKE '%,''block_writes'')') FROM tenantry.pg_dist_background_task WHERE job_id = $1";
    let row = client.query_one(commands, &[&id.as_i64().unwrap()]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (2, true));
    let none = citus_job_cancel(environment, &json!({"jobid": 99})).await.unwrap_err();
    assert_eq!(none.message(), "no job found with jobid: 99");
    let tasks = "SELECT count(*) FROM tenantry.pg_dist_background_task WHERE command LIKE '%103%' AND status = 'done'";
    assert_eq!(client.query_one(tasks, &[]).await.unwrap().get::<_, i64>(0), 2);

    citus_drain_node(environment, &json!({"nodename": "127.0.0.1", "nodeport": second}), &notify).await.unwrap();
    assert_eq!(per_node(), [4, 0]);
    let last = citus_drain_node(environment, &json!({"nodename": "127.0.0.1", "nodeport": first}), &notify).await;
    assert!(last.is_err(), "the last node cannot be drained");
    assert!(stage.leftovers().await.is_empty());
    drop(client);
    stage.strike().await;
}
