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

/// Goal: a foreign key that cannot be says what to do, and that helps.
/// Method: keys to a table that is not colocated, without the distribution column, and with actions that would write it.
#[test]
fn a_foreign_key_that_cannot_be_says_what_to_do() {
    let served = Served::start(2);
    served.psql("CREATE TABLE owners (id int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('owners', 'id')");
    served.psql("CREATE TABLE pets (owner bigint, id int)");
    served.psql("SELECT create_distributed_table('pets', 'owner')");
    served.psql("CREATE TABLE toys (owner int, id int, part_of int, PRIMARY KEY (owner, id))");
    served.psql("CREATE TABLE names (owner text); CREATE TABLE bare (id int)");
    let says = |sql: &str, hint: &str| {
        let refused = served.psql_error(sql);
        assert!(refused.contains("HINT") && refused.contains(hint), "{sql}: {refused}");
    };
    let key = "ALTER TABLE pets ADD FOREIGN KEY (owner) REFERENCES owners";
    says(key, "Make \"pets\" local by undistribute_table, then distribute it with colocate_with => 'owners'");
    let distribute = |arguments: &str| format!("SELECT create_distributed_table({arguments})");
    says(&distribute("'names', 'owner', colocate_with => 'owners'"), "a column with the same type");
    says(&distribute("'names', 'owner', colocate_with => 'bare'"), "Distribute that one first");

    let by_owner = distribute("'toys', 'owner', colocate_with => 'owners'");
    let to_itself = |columns: &str, action: &str| {
        served.psql(&format!("ALTER TABLE toys ADD CONSTRAINT whole FOREIGN KEY {columns} REFERENCES toys {action}"));
    };
    let forget = || served.psql("ALTER TABLE toys DROP CONSTRAINT whole");
    to_itself("(part_of, id)", "");
    says(&by_owner, "FOREIGN KEY (owner, ...) REFERENCES public.toys (owner, ...)");
    forget();
    let actions = [
        ("ON DELETE SET NULL", "Use ON DELETE CASCADE, RESTRICT or NO ACTION."),
        ("ON UPDATE CASCADE", "Use ON UPDATE RESTRICT or NO ACTION"),
    ];
    for (action, instead) in actions {
        to_itself("(owner, part_of)", action);
        says(&by_owner, instead);
        forget();
    }
    served.psql(&by_owner);
    let add = "ALTER TABLE toys ADD FOREIGN KEY";
    says(&format!("{add} (id) REFERENCES owners"), "FOREIGN KEY (owner, ...) REFERENCES owners (id, ...)");
    for (action, instead) in actions {
        says(&format!("{add} (owner) REFERENCES owners {action}"), instead);
    }
    served.psql(&format!("{add} (owner) REFERENCES owners ON DELETE CASCADE"));
    served.psql("SELECT undistribute_table('pets'); ALTER TABLE pets ALTER owner TYPE int");
    served.psql(&distribute("'pets', 'owner', colocate_with => 'owners'"));
    served.psql(key);
}
