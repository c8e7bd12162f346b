//! Tables are distributed beside moves and beside each other: who waits for a move keeps nobody else waiting.

mod support;

use std::thread::JoinHandle;
use std::time::Duration;

use support::served::Served;
use support::wire_client::Client;
use support::{psql, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// Somebody waits for a move.
const WAITS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

fn begin(served: &Served, sql: &str) -> JoinHandle<String> {
    let (dsn, sql) = (served.dsn(0), sql.to_owned());
    std::thread::spawn(move || psql(&dsn, &sql))
}

fn is_in(served: &Served, state: &str) -> bool {
    let last = "SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";
    wait_until(PATIENCE, || psql(&served.coordinator_dsn(), last) == state)
}

fn waits(served: &Served) -> bool {
    wait_until(PATIENCE, || psql(&served.coordinator_dsn(), WAITS) == "1")
}

/// Goal: a table that is to join shards that are moving is read and written until they have moved, and other tables are
/// distributed meanwhile. Method: the move's slot waits for a transaction that is open on its source.
#[test]
fn a_table_that_joins_moving_shards_is_used_until_they_have_moved() {
    let served = Served::start(2);
    let tenants = served.tenants();
    served.psql("CREATE TABLE notes (tenant int, note text); CREATE TABLE apart (tenant int)");
    let mut open = Client::connect(served.worker_port(0), &[]);
    open.query("BEGIN; SELECT pg_current_xact_id()");
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[0]));
    let moving = begin(&served, &format!("SELECT citus_move_shard_placement({shard}, 1, 2)"));
    assert!(is_in(&served, "target_created"), "it waits for the open transaction");
    let calling = begin(&served, "SELECT create_distributed_table('notes', 'tenant', colocate_with => 'items')");
    assert!(waits(&served), "the call waits for the move");

    let impatient = "SET statement_timeout = '20s'; SET lock_timeout = '10s';";
    served.psql(&format!("{impatient} INSERT INTO notes VALUES ({}, 'meanwhile')", tenants[0]));
    assert_eq!(served.psql(&format!("{impatient} SELECT note FROM notes")), "meanwhile");
    served.psql(&format!("{impatient} SELECT create_distributed_table('apart', 'tenant', colocate_with => 'none')"));
    assert!(!calling.is_finished() && !moving.is_finished());
    open.query("COMMIT");
    moving.join().expect("it moves");
    calling.join().expect("then it is distributed");
    expect_distributed_with_items(&served, "notes");
    assert_eq!(served.psql(&format!("SELECT note FROM notes WHERE tenant = {}", tenants[0])), "meanwhile");
}

/// Goal: a table that joins shards which another is being made to join under clients lets that one come to its end.
#[test]
fn a_call_and_one_that_is_concurrent_do_not_wait_for_each_other() {
    let served = Served::start(2);
    served.tenants();
    served.psql(
        "CREATE TABLE notes (tenant int); CREATE TABLE papers (tenant int PRIMARY KEY); INSERT INTO papers VALUES (1)",
    );
    let mut open = Client::connect(served.proxy_port(0), &[]);
    open.query("BEGIN; INSERT INTO papers VALUES (2)");
    let concurrent = "SELECT create_distributed_table_concurrently('papers', 'tenant', colocate_with => 'items')";
    let concurrent = begin(&served, concurrent);
    assert!(is_in(&served, "target_created"), "it waits for the open transaction");
    let calling = begin(&served, "SELECT create_distributed_table('notes', 'tenant', colocate_with => 'items')");
    assert!(waits(&served), "the call waits for the other");
    open.query("COMMIT");
    let both = || concurrent.is_finished() && calling.is_finished();
    assert!(wait_until(PATIENCE, both), "both end");
    expect_distributed_with_items(&served, "notes");
    expect_distributed_with_items(&served, "papers");
    assert_eq!(served.psql("SELECT count(*) FROM papers"), "2");
}

/// What is refused is told of by the name that it was asked for.
#[test]
fn what_cannot_be_moved_is_called_by_its_name() {
    let served = Served::start(2);
    served.tenants();
    served.psql(
        "CREATE TABLE \"Plain\" (tenant int); CREATE UNLOGGED TABLE \"Fast\" (tenant int);
         CREATE TABLE words (word text PRIMARY KEY); SELECT create_reference_table('words')",
    );
    let shard = served.psql("SELECT shardid FROM pg_dist_shard WHERE logicalrelid = 'words'::regclass");
    let of_words = "0A000: cannot move a shard of a reference table\nDETAIL:  Every node has a copy of words.";
    for (sql, said) in [
        ("isolate_tenant_to_new_shard('\"Plain\"', 1)", "42P01: relation public.\"Plain\" is not distributed"),
        ("tenantry_isolate_tenant('\"Plain\"', 1, 1)", "42P01: relation public.\"Plain\" is not distributed"),
        ("tenantry_return_tenant('\"Plain\"', 1)", "42P01: relation public.\"Plain\" is not distributed"),
        ("get_rebalance_table_shards_plan('\"Plain\"')", "55000: relation public.\"Plain\" is not distributed"),
        ("citus_move_shard_placement(SHARD, 1, 2)", of_words),
        ("tenantry_explain_move(SHARD, 2)", of_words),
        ("tenantry_split_shard(SHARD, 2)", "0A000: cannot split a shard of a reference table"),
        (
            "create_distributed_table_concurrently('\"Fast\"', 'tenant')",
            "HINT:  Run ALTER TABLE \"Fast\" SET LOGGED first.\nCONTEXT:  distributing table \"Fast\"",
        ),
    ] {
        let error = served.psql_error(&format!("SELECT {}", sql.replace("SHARD", &shard)));
        assert!(error.contains(said), "{sql}: {error}");
    }
}

/// On the same servers, shard for shard.
fn expect_distributed_with_items(served: &Served, table: &str) {
    let places = |table: &str| {
        served.psql(&format!(
            "SELECT string_agg(shardminvalue || ' ' || nodeport, ',' ORDER BY shardminvalue::int) FROM pg_dist_shard
             JOIN pg_dist_shard_placement USING (shardid) WHERE logicalrelid = '{table}'::regclass"
        ))
    };
    assert_eq!(places(table), places("items"));
}
