//! Servers come into the cluster and leave it, by every function for that and under its old name too.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use support::serve::psql_says;
use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_command, psql_error, wait_until};
use tenantry::wire::frontend;

const PATIENCE: Duration = Duration::from_secs(60);

/// Goal: a server that is not fit is told all that is wrong at once; one that is joins with every argument, stays the same when
/// it is added again, and leaves.
/// Method: a server that is a node already, and one without room on its disk, which gets it between the attempts; moves are refused for the same reason. The servers'
/// `df` is ours.
#[test]
fn a_server_is_checked_joins_and_leaves() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut served = Served::start_under(1, 1, "", with_own_df(folder.path()));
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let [first, port] = [0, 1].map(|at| served.worker_port(at));
    assert_eq!(served.servers().add_worker().expect("it starts").port(), port);
    set_free(folder.path(), Some(1024));
    let refused = psql_error(&served.dsn(0), &format!("SELECT citus_add_node('localhost', {first})"));
    for complaint in [
        "55000",
        &format!("cannot add node localhost:{first}"),
        &format!("It is the same server as node 127.0.0.1:{first}."),
        "The disk of its data directory has 1 MB free; 256 MB are needed",
    ] {
        assert!(refused.contains(complaint), "{complaint} in {refused}");
    }
    let add = format!("SELECT citus_add_node('127.0.0.1', {port})");
    let refused = psql_error(&served.dsn(0), &add);
    assert!(refused.contains("1 MB free") && !refused.contains("same server"), "{refused}");
    set_free(folder.path(), None);

    let with = |more: &str| format!("SELECT citus_add_node('127.0.0.1', {port}, {more})");
    let group = served.psql(&format!("SELECT groupid FROM pg_dist_node WHERE nodeport = {first}"));
    for (arguments, code, why) in [
        ("noderole => 'unavailable'", "0A000", "nodes with role unavailable are not supported"),
        ("nodecluster => 'olap'", "22023", "primaries must be added to the default cluster"),
        (&format!("groupid => {group}"), "22023", &format!("group {group} already has a primary node")),
        ("groupid => -7", "22023", "group -7 is not valid"),
        ("groupid => NULL", "22004", "argument \"groupid\" must not be null"),
    ] {
        let refused = psql_error(&served.dsn(0), &with(arguments));
        assert!(refused.contains(code) && refused.contains(why), "{arguments}: {refused}");
    }
    let id = served.psql(&with("groupid => 42, noderole => 'primary', nodecluster => 'default'"));
    assert_eq!(served.psql(&add), id, "it is there already");
    let row = format!(
        "SELECT groupid, noderole, nodecluster, isactive, shouldhaveshards FROM pg_dist_node WHERE nodeid = {id}"
    );
    assert_eq!(served.psql(&row), "42|primary|default|t|t");
    assert_eq!(served.psql(&format!("SELECT role, active FROM citus_nodes WHERE nodeport = {port}")), "worker|t");
    let health = "SELECT count(*), bool_and(result) FROM citus_check_cluster_node_health()";
    assert_eq!(served.psql(health), "3|t");
    served.servers().stop_at(port).expect("it stops");
    assert_eq!(served.psql(health), "3|f");
    let sick = "SELECT to_nodeport FROM citus_check_cluster_node_health() WHERE NOT result";
    assert_eq!(served.psql(sick), port.to_string());
    served.servers().restart_at(port, None).expect("it starts");

    let refused = psql_error(&served.dsn(0), &format!("SELECT citus_remove_node('127.0.0.1', {first})"));
    assert!(refused.contains("because because it contains the only shard placement for shard"), "{refused}");
    let property = |name: &str| format!("SELECT citus_set_node_property('127.0.0.1', {port}, '{name}', false)");
    let refused = psql_error(&served.dsn(0), &property("isactive"));
    assert!(refused.contains("only the 'shouldhaveshards' property can be set using this function"), "{refused}");
    served.psql(&property("shouldhaveshards"));
    assert_eq!(served.psql(&row), "42|primary|default|t|f");
    // Two nodes are two servers, also when the node's own is away.
    served.servers().stop_at(port).expect("it stops");
    let refused = psql_error(&served.dsn(0), &format!("SELECT citus_update_node({id}, 'localhost', {first})"));
    assert!(
        refused.contains("55000") && refused.contains(&format!("same server as node 127.0.0.1:{first}")),
        "{refused}"
    );
    served.servers().restart_at(port, None).expect("it starts");
    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    assert_eq!(served.psql(&row), "");
    let refused = psql_error(&served.dsn(0), &format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    assert!(refused.contains(&format!("node at \"127.0.0.1:{port}\" does not exist")), "{refused}");

    // Scripts that are older than the names of today.
    let call = |name: &str, more: &str| served.psql(&format!("SELECT master_{name}('127.0.0.1', {port}{more})"));
    let id = call("add_inactive_node", "");
    let state = format!("SELECT isactive, shouldhaveshards FROM pg_dist_node WHERE nodeid = {id}");
    assert_eq!(served.psql(&state), "f|t");
    assert_eq!(call("activate_node", ""), id);
    assert_eq!(call("add_node", ""), id);
    call("set_node_property", ", 'shouldhaveshards', false");
    assert_eq!(served.psql(&state), "t|f");
    call("set_node_property", ", 'shouldhaveshards', true");
    set_free(folder.path(), Some(1024));
    a_move_is_refused_that_a_disk_has_no_room_for(&served, first, port);
    set_free(folder.path(), None);
    served.psql("SELECT rebalance_table_shards()");
    let placed = format!("SELECT count(*) > 0 FROM pg_dist_shard_placement WHERE nodeport = {port}");
    assert_eq!(served.psql(&placed), "t");
    call("drain_node", "");
    assert_eq!(served.psql(&placed), "f");
    call("disable_node", "");
    assert_eq!(served.psql(&state), "f|f");
    served.psql(&format!("SELECT master_update_node({id}, 'localhost', {port})"));
    assert_eq!(served.psql(&format!("SELECT nodename FROM pg_dist_node WHERE nodeid = {id}")), "localhost");
    served.psql(&format!("SELECT master_remove_node('localhost', {port})"));
    assert_eq!(served.psql("SELECT node_port FROM master_get_active_worker_nodes()"), first.to_string());
    assert_eq!(served.psql("SELECT citus_is_coordinator(), citus_is_primary_node()"), "t|t");
    for name in ["citus_update_table_statistics", "master_update_table_statistics"] {
        assert_eq!(served.psql(&format!("SELECT {name}('items')")), "");
    }
    let copy = format!("SELECT master_copy_shard_placement(102008, 'localhost', {first}, 'localhost', {port})");
    let refused = psql_error(&served.dsn(0), &copy);
    assert!(
        refused.contains("0A000") && refused.contains("a second placement of a shard is not supported"),
        "{refused}"
    );
}

/// Goal: a role that may too little there, what has the names of reference tables, and a collation that is not there are told with all
/// else that is wrong; what has the name of a distributed table is in nobody's way.
/// Method: a server that has all of that, until it is taken away.
#[test]
fn what_a_server_has_and_lacks_is_told_at_once() {
    let mut served = Served::start(1);
    served.psql("CREATE SCHEMA geo; CREATE TABLE geo.\"Regions\" (id int PRIMARY KEY); CREATE TABLE colors (id int PRIMARY KEY)");
    served.psql("CREATE TABLE countries (code text COLLATE \"fr-x-icu\" PRIMARY KEY); CREATE TABLE cities (id int)");
    for table in ["countries", "geo.\"Regions\"", "colors", "cities"] {
        served.psql(&format!("SELECT create_reference_table('{table}')"));
    }
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY); SELECT create_distributed_table('items', 'tenant')");
    let port = served.servers().add_worker().expect("it starts").port();
    let server = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    psql(
        &server,
        "CREATE ROLE other SUPERUSER LOGIN; DROP COLLATION pg_catalog.\"fr-x-icu\"; CREATE VIEW items AS SELECT 1",
    );
    psql(&server, "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER none FOREIGN DATA WRAPPER none; CREATE SCHEMA geo");
    psql(&server, "CREATE FOREIGN TABLE countries (code text) SERVER none; CREATE VIEW geo.\"Regions\" AS SELECT 1");
    psql(&server, "CREATE TYPE colors AS ENUM ('red'); CREATE TABLE cities (id int)");
    let as_other = server.replace("postgres@", "other@");
    let let_be_superuser = |value: bool| {
        let sql = format!("UPDATE pg_authid SET rolsuper = {value} WHERE rolname = 'postgres'");
        psql(&as_other, &format!("SET allow_system_table_mods TO on; {sql}"));
    };
    let_be_superuser(false);
    let add = format!("SELECT citus_add_node('127.0.0.1', {port})");
    let told = psql_error(&served.dsn(0), &add);
    let complaints = [
        "Its role \"postgres\", as which Tenantry logs in, is no superuser.",
        "Its view geo.\"Regions\" is in the way of the reference table of that name.",
        "Its table public.cities is in the way of the reference table of that name.",
        "Its type public.colors is in the way of the reference table of that name.",
        "Its foreign table public.countries is in the way of the reference table of that name.",
        "It lacks collations of tables' columns: \"fr-x-icu\".",
    ];
    assert!(told.contains("55000") && told.contains(&complaints.join(" ")), "{told}");
    assert!(!told.contains("items"), "{told}");

    let_be_superuser(true);
    psql(&server, "SELECT pg_import_system_collations('pg_catalog')");
    psql(&server, "DROP FOREIGN TABLE countries; DROP VIEW geo.\"Regions\"; DROP TYPE colors; DROP TABLE cities");
    served.psql(&add);
    served.psql("INSERT INTO countries VALUES ('fr')");
    assert_eq!(psql(&server, "SELECT code FROM countries"), "fr");
    // Its own copies are in nobody's way when it comes back; that it may sort otherwise, because of another libc, is a warning.
    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    for (server, version) in [(&served.coordinator_dsn(), "2.36"), (&server, "2.41")] {
        let of_database = "FUNCTION pg_catalog.pg_database_collation_actual_version(oid) RETURNS text";
        psql(server, &format!("CREATE OR REPLACE {of_database} LANGUAGE sql AS $$ SELECT '{version}' $$"));
    }
    let said = psql_says(&served.dsn(0), &add);
    for part in [
        &*format!("WARNING:  01000: node 127.0.0.1:{port} may sort text in another order than the coordinator"),
        "Its database's collation has version 2.41, the coordinator's 2.36.",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(served.psql("SELECT count(*) FROM pg_dist_node WHERE isactive"), "2");
}

/// Goal: who drains a server in vain is told that it gets no more shards, and how that is undone.
/// Method: a table that cannot be moved.
#[test]
fn a_drain_that_fails_says_what_it_leaves() {
    let served = Served::start(2);
    served.psql("CREATE UNLOGGED TABLE logs (tenant int)");
    served.psql("SELECT create_distributed_table('logs', 'tenant')");
    let port = served.worker_port(0);
    let takes_shards = format!("SELECT shouldhaveshards FROM pg_dist_node WHERE nodeport = {port}");
    let back = format!("SELECT citus_set_node_property('127.0.0.1', {port}, 'shouldhaveshards', true);");
    let refused = psql_error(&served.dsn(0), &format!("SELECT citus_drain_node('127.0.0.1', {port})"));
    let hint = format!("The node gets no more shards: drain it again, or let it have some by {back}");
    assert!(refused.contains("0A000") && refused.contains(&hint), "{refused}");
    assert_eq!(served.psql(&takes_shards), "f");
    served.psql(&back);
    assert_eq!(served.psql(&takes_shards), "t");
}

/// Goal: who writes a reference table waits for its copy only, not for all that a new server is given before.
/// Method: a role that the server is to get is being made there by somebody else, whose transaction stays open.
#[test]
fn reference_tables_are_written_while_a_server_is_prepared() {
    let mut served = Served::start(1);
    served.psql("CREATE TABLE countries (code text PRIMARY KEY)");
    served.psql("SELECT create_reference_table('countries')");
    served.psql("CREATE ROLE late");
    let port = served.servers().add_worker().expect("it starts").port();
    let mut other = Client::connect(port, &[]);
    other.query("BEGIN");
    assert_eq!(other.query("CREATE ROLE late"), "C(CREATE ROLE) Z(T)");

    let add = format!("SELECT citus_add_node('127.0.0.1', {port})");
    let dsn = served.dsn(0);
    let adding = std::thread::spawn(move || psql(&dsn, &add));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let server = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    assert!(wait_until(Duration::from_secs(30), || psql(&server, waits) == "1"), "the server is prepared");
    psql(&served.dsn(0), "SET lock_timeout TO '5s'; INSERT INTO countries VALUES ('de')");
    assert_eq!(other.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    adding.join().expect("it is added");
    served.psql("INSERT INTO countries VALUES ('fr')");
    assert_eq!(psql(&server, "SELECT string_agg(code, ' ' ORDER BY code) FROM countries"), "de fr");
}

/// Goal: a server joins although a reference table is dropped that was there when its check began.
/// Method: the check waits for a lock that somebody has on the server.
#[test]
fn a_reference_table_may_be_dropped_while_a_server_is_checked() {
    let mut served = Served::start(1);
    served.psql("CREATE TABLE kept (id int); CREATE TABLE dropped (id int)");
    served.psql("SELECT create_reference_table('kept'), create_reference_table('dropped')");
    served.psql("INSERT INTO kept VALUES (7)");
    let port = served.servers().add_worker().expect("it starts").port();
    let mut other = Client::connect(port, &[]);
    other.query("BEGIN");
    assert_eq!(other.query("LOCK TABLE pg_catalog.pg_extension"), "C(LOCK TABLE) Z(T)");

    let (dsn, add) = (served.dsn(0), format!("SELECT citus_add_node('127.0.0.1', {port})"));
    let adding = std::thread::spawn(move || psql(&dsn, &add));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let server = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    assert!(wait_until(PATIENCE, || psql(&server, waits) == "1"), "it is checked");
    served.psql("DROP TABLE dropped");
    assert_eq!(other.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    adding.join().expect("it is added");
    assert_eq!(psql(&server, "SELECT id, to_regclass('dropped') FROM kept"), "7|");
}

/// Goal: what is made for all servers while one is added is on that one too, whoever of both was first.
/// Method: two transactions at a time, of which one waits for the other: a server that is added before the commit, by a role that
/// owns nothing of the catalog, roles and functions before theirs, and a table that begins to draw from a sequence.
#[test]
fn what_is_made_while_a_server_is_added_is_there_too() {
    let mut served = Served::start(1);
    served.psql("CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app");
    let port = served.servers().add_worker().expect("it starts").port();
    let server = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
    let add = format!("SELECT citus_add_node('127.0.0.1', {port})");
    let waits = || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), waits) == "1"), "it waits");
    };
    let mut client = Client::connect(served.proxy_port(0), &[]);

    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert!(client.query(&add).ends_with("C(SELECT 1) Z(T)"));
    let as_app = served.dsn(0).replace("postgres@", "app@");
    let making = std::thread::spawn(move || psql(&as_app, "CREATE TYPE mood AS ENUM ('fair', 'foul')"));
    waits();
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    making.join().expect("it is made");
    assert_eq!(psql(&server, "SELECT typowner::regrole FROM pg_type WHERE typname = 'mood'"), "app");

    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.query("CREATE ROLE late"), "C(CREATE ROLE) Z(T)");
    let made = client.query("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    assert_eq!(made, "C(CREATE FUNCTION) Z(T)");
    let refused = client.query(&add);
    assert!(refused.contains("E(25001)"), "{refused}");
    assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.query("CREATE ROLE late"), "C(CREATE ROLE) Z(T)");
    assert_eq!(client.query("GRANT USAGE ON SCHEMA public TO late"), "C(GRANT) Z(T)");
    let (dsn, sql) = (served.dsn(0), add.clone());
    let adding = std::thread::spawn(move || psql(&dsn, &sql));
    waits();
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    adding.join().expect("it is added");
    assert_eq!(psql(&server, "SELECT has_schema_privilege('late', 'public', 'USAGE')"), "t");

    served.psql("CREATE SEQUENCE numbers; CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 2)");
    served.psql(&format!("SELECT citus_drain_node('127.0.0.1', {port})"));
    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    let draws = "ALTER TABLE items ALTER COLUMN id SET DEFAULT nextval('numbers')";
    assert_eq!(client.query(draws), "C(ALTER TABLE) Z(T)");
    let (dsn, sql) = (served.dsn(0), add.clone());
    let adding = std::thread::spawn(move || psql(&dsn, &sql));
    waits();
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    adding.join().expect("it is added");
    served.psql("SELECT rebalance_table_shards()");
    served.psql("INSERT INTO items SELECT generate_series(1, 100)");
    let there = format!("SELECT count(*) > 0 FROM pg_dist_shard_placement WHERE nodeport = {port}");
    assert_eq!(served.psql(&there), "t");
    assert_eq!(served.psql("SELECT count(DISTINCT id) FROM items"), "100");
}

/// It is seen before, and nothing is left of it.
fn a_move_is_refused_that_a_disk_has_no_room_for(served: &Served, from: u16, to: u16) {
    let shard = served.psql(&format!("SELECT min(shardid) FROM pg_dist_shard_placement WHERE nodeport = {from}"));
    let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {to}"));
    let obstacle = "SELECT value FROM tenantry_explain_move";
    let told = served.psql(&format!("{obstacle}({shard}, {node}) WHERE stands_in_the_way"));
    assert_eq!(told, "its disk has 1 MB free, 256 MB are needed");
    for mode in ["auto", "block_writes"] {
        let move_it =
            format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to}, '{mode}')");
        let refused = psql_error(&served.dsn(0), &move_it);
        for part in ["53100", "has too little room for the move", "It has 1 MB free; 256 MB are needed."] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }
    let unfinished = "SELECT count(*) FROM tenantry.shard_move WHERE finished_at IS NULL";
    assert_eq!(served.psql(unfinished), "0");
}

/// Goal: a server that died as a move's target, was removed, and comes back later, is of use again.
/// Method: a client's transaction keeps the move from copying; the target dies meanwhile, and is removed.
#[test]
fn a_server_that_was_removed_with_half_a_copy_comes_back() {
    let mut served = Served::start(1);
    served.psql("CREATE TABLE items (tenant int, id int, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 2)");
    served.psql("INSERT INTO items SELECT 1, generate_series(1, 100)");
    let [first, port] = [0, 1].map(|at| served.worker_port(at));
    assert_eq!(served.servers().add_worker().expect("it starts").port(), port);
    let add = format!("SELECT citus_add_node('127.0.0.1', {port})");
    served.psql(&add);
    let shard = served.psql("SELECT get_shard_id_for_distribution_column('items', 1)");
    let moved = format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {first}, '127.0.0.1', {port})");

    let mut client = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.query("INSERT INTO items VALUES (1, 101)"), "C(INSERT 0 1) Z(T)");
    let (dsn, sql) = (served.dsn(0), moved.clone());
    let call = std::thread::spawn(move || psql_error(&dsn, &sql));
    let state = || served.psql("SELECT coalesce(max(state), '') FROM tenantry.shard_move");
    assert!(wait_until(PATIENCE, || state() == "target_created"), "{}", state());
    served.servers().kill_at(port).expect("it ends");
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    call.join().expect("it fails");
    let remove = format!("SELECT citus_remove_node('127.0.0.1', {port})");
    let is_removed = || {
        let _ = psql_command(&served.dsn(0)).args(["-c", &remove]).output();
        served.psql("SELECT count(*) FROM pg_dist_node") == "1"
    };
    assert!(wait_until(PATIENCE, is_removed));
    let state = || served.psql("SELECT max(state) FROM tenantry.shard_move");
    assert!(wait_until(PATIENCE, || state() == "failed"), "{}", state());

    served.servers().restart_at(port, None).expect("it starts");
    served.psql(&add);
    let refused = psql_error(&served.dsn(0), &moved);
    assert!(refused.contains("42P06") && refused.contains("citus_cleanup_orphaned_resources()"), "{refused}");
    // What stands where it belongs is no remnant, whatever it is said to be.
    let schema = psql(&served.worker_dsn(0), "SELECT min(nspname) FROM pg_namespace WHERE nspname LIKE 'public\\_%'");
    psql(&served.worker_dsn(0), &format!("COMMENT ON SCHEMA {schema} IS 'tenantry move 999'"));
    served.psql("CALL citus_cleanup_orphaned_resources()");
    served.psql(&moved);
    assert_eq!(served.psql("SELECT count(*) FROM items"), "101");
}

/// Goal: a server that leaves keeps nothing of moves that could have been undone, and nobody keeps anything for its sake.
/// Method: the old place of a move goes, is disabled, and the new one goes just when its table has become local, which who looks
/// after the way back has not noticed yet.
#[test]
fn nothing_of_ways_back_is_left_when_a_server_leaves() {
    let served = Served::start_with(2, 1, "[moves]\nundo_window = \"1h\"\n");
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY)");
    let place = "SELECT nodeport FROM pg_dist_shard_placement";
    let address = |port: &str| format!("'127.0.0.1', {port}");
    let remains = "SELECT slot_name FROM pg_replication_slots UNION ALL SELECT pubname FROM pg_publication \
        UNION ALL SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%' OR nspname LIKE 'public\\_%'";
    let ports = [0, 1].map(|worker| served.worker_port(worker).to_string());
    let distribute_and_move = || {
        served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 1)");
        let from = served.psql(place);
        let to = ports.iter().find(|port| **port != from).expect("there are two").clone();
        let shard = served.psql("SELECT shardid FROM pg_dist_shard");
        served.psql(&format!("SELECT citus_move_shard_placement({shard}, {}, {})", address(&from), address(&to)));
        assert_eq!(served.psql("SELECT count(*) FROM tenantry.shard_move WHERE state = 'undoable'"), "1");
        (from, to)
    };
    for function in ["citus_remove_node", "citus_disable_node"] {
        let (from, _) = distribute_and_move();
        served.psql(&format!("SELECT {function}({})", address(&from)));
        let left = served.everywhere(remains);
        assert!(left.len() == 1 && left[0].starts_with("public_"), "{function}: {left:?} is left beside the shard");
        served.psql("SELECT undistribute_table('items')");
        served.psql(&format!("SELECT citus_add_node({})", address(&from)));
        served.psql(&format!("SELECT citus_activate_node({})", address(&from)));
    }
    let (_, to) = distribute_and_move();
    psql_command(&served.dsn(0))
        .args(["-c", "SELECT undistribute_table('items')"])
        .args(["-c", &format!("SELECT citus_remove_node({})", address(&to))])
        .status()
        .expect("psql runs");
    assert_eq!(served.psql("SELECT count(*) FROM pg_dist_node"), "1");
    assert_eq!(served.everywhere(remains), Vec::<String>::new());
}

/// Goal: who writes a reference table while a node is removed does not notice.
/// Method: a COPY that has begun sends its rows when the node is gone.
#[test]
fn a_node_may_go_while_a_reference_table_is_written() {
    let mut served = Served::start(1);
    served.psql("CREATE TABLE colors (id int)");
    served.psql("SELECT create_reference_table('colors')");
    let port = served.worker_port(1);
    assert_eq!(served.servers().add_worker().expect("it starts").port(), port);
    served.psql(&format!("SELECT citus_add_node('127.0.0.1', {port})"));
    let mut client = Client::connect(served.proxy_port(0), &[]);
    frontend::query("COPY colors FROM STDIN", &mut client.out);
    frontend::copy_data(b"1\n", &mut client.out);
    client.flush();
    let locks = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'colors'::regclass AND mode = 'RowExclusiveLock'";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), locks) == "t"), "it has begun");
    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    frontend::copy_done(&mut client.out);
    assert_eq!(client.answer(), "G C(COPY 1) Z(I)");
    assert_eq!(served.psql("SELECT count(*) FROM colors"), "1");
    assert_eq!(psql(&served.worker_dsn(0), "SELECT count(*) FROM colors"), "1");
}

/// Environment of servers that ask this folder's `df`.
fn with_own_df(folder: &Path) -> Vec<(String, String)> {
    // The servers may belong to another user.
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let df = folder.join("df");
    let script = "#!/bin/sh\nif [ -r \"${0%/*}/free\" ]; then cat \"${0%/*}/free\"; else PATH=/usr/bin:/bin exec df \"$@\"; fi\n";
    std::fs::write(&df, script).expect("it can be written");
    std::fs::set_permissions(&df, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let path = std::env::var("PATH").unwrap_or_default();
    vec![("PATH".to_owned(), format!("{}:{path}", folder.display()))]
}

/// So many kilobytes are free from now on; none: as many as there are.
fn set_free(folder: &Path, kilobytes: Option<u64>) {
    let file = folder.join("free");
    match kilobytes {
        Some(free) => {
            let text = format!("Filesystem 1024-blocks Used Available Capacity Mounted on\ntmpfs 9999 9 {free} 1% /\n");
            std::fs::write(file, text).expect("it can be written");
        }
        None => std::fs::remove_file(file).expect("it was written"),
    }
}
