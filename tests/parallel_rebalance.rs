//! Rebalances on real servers: moves side by side while clients write, what is told of them, and who may be where.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use support::ledger::Load;
use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_command, psql_error, wait_until};

/// Goal: a rebalance spreads one colocation group from two workers to four with several moves at once, never more on one node
/// than it may, and clients notice nothing. Method: copies are slowed down so that moves overlap; when each began and ended is
/// in the catalog; a ledger of what was acknowledged.
#[test]
fn a_rebalance_moves_shards_of_one_group_side_by_side_within_the_limit() {
    let served = Served::start_with(4, 2, "[moves]\ncopy_rate = \"16kB\"\nper_node = 2\n");
    let holds_shards = |worker: u16, may: bool| {
        let port = served.worker_port(worker);
        served.psql(&format!("SELECT citus_set_node_property('127.0.0.1', {port}, 'shouldhaveshards', {may})"));
    };
    [2, 3].into_iter().for_each(|worker| holds_shards(worker, false));
    served.psql("CREATE TABLE items (tenant int, id bigint, ballast text)");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 8)");
    served.psql(
        "INSERT INTO items SELECT t, i, string_agg(md5(random()::text), '') \
         FROM generate_series(1, 40) t, generate_series(1, 20) i, generate_series(1, 40) p GROUP BY t, i",
    );
    assert_eq!(served.psql(PLACEMENTS), "4|4");
    [2, 3].into_iter().for_each(|worker| holds_shards(worker, true));
    let tenants: Vec<_> = (1..=4).map(|tenant: u32| tenant.to_string()).collect();
    let load = Load::start(served.proxy_port(0), &tenants, 1, FIRST_ID);

    let start = "SELECT citus_rebalance_start(parallel_transfer_colocated_shards => true)";
    let job = served.psql(start);
    how_far_it_is_is_told(&served);
    // It had time to be looked at; from now on moves need only overlap.
    let file = served.config_file(0);
    let text = std::fs::read_to_string(&file).expect("it was written").replace("\"16kB\"", "\"256kB\"");
    std::fs::write(&file, text).expect("it can be written");
    served.signal_proxy(0, "HUP");
    served.psql("SELECT citus_rebalance_wait()");
    assert_eq!(served.psql(PLACEMENTS), "2|2|2|2");
    let finished = served.psql(&format!("SELECT state FROM citus_job_status({job})"));
    assert_eq!(finished, "finished");
    let (in_all, on_one) = most_at_once(&served, 0);
    println!("{in_all} moves at once, {on_one} on one node");
    assert!((3..=4).contains(&in_all), "{in_all} moves at once");
    assert_eq!(on_one, 2, "as many as moves.per_node");
    load.await_progress();

    // A session may ask for another number, and the job that it starts keeps it.
    let seen = number(&served, "SELECT max(moveid) FROM tenantry.shard_move");
    [2, 3].into_iter().for_each(|worker| holds_shards(worker, false));
    let setting = "citus.max_background_task_executors_per_node";
    let session = |most: u8| format!("{}?options=-c%20{setting}%3D{most}", served.dsn(0));
    psql(&session(1), "SELECT citus_rebalance_start(drain_only => true, parallel_transfer_colocated_shards => true)");
    served.psql("SELECT citus_rebalance_wait()");
    assert_eq!(served.psql(PLACEMENTS), "4|4");
    let (in_all, on_one) = most_at_once(&served, seen);
    assert!(in_all <= 2 && on_one == 1, "{in_all} moves at once, {on_one} on one node");
    let refused = psql_error(&session(0), "SELECT rebalance_table_shards()");
    assert!(
        refused.contains(&format!("0 is outside the valid range for parameter \"{setting}\" (1 .. 128)")),
        "{refused}"
    );

    // In the foreground: one after the other, because they are of one colocation group.
    let seen = number(&served, "SELECT max(moveid) FROM tenantry.shard_move");
    [2, 3].into_iter().for_each(|worker| holds_shards(worker, true));
    served.psql("SELECT rebalance_table_shards()");
    assert_eq!(served.psql(PLACEMENTS), "2|2|2|2");
    assert_eq!(most_at_once(&served, seen), (1, 1));

    // In all no more than may be, though nodes and colocation groups would allow it.
    served.psql("CREATE TABLE others (tenant int, ballast text)");
    served.psql("SELECT create_distributed_table('others', 'tenant', shard_count => 8, colocate_with => 'none')");
    served.psql("INSERT INTO others SELECT t, repeat(md5(t::text), 100) FROM generate_series(1, 400) t");
    let file = served.config_file(0);
    let text = std::fs::read_to_string(&file).expect("it was written");
    std::fs::write(&file, text.replace("per_node = 2", "per_node = 2\nat_once = 1"))
        .expect("the folder can be written");
    served.signal_proxy(0, "HUP");
    let is_read = || served.logged(0).contains("moves.at_once");
    assert!(wait_until(Duration::from_secs(20), is_read), "{}", served.logged(0));
    for (may, rebalance) in [
        (false, "SELECT citus_rebalance_start(drain_only => true, parallel_transfer_colocated_shards => true)"),
        (true, "SELECT rebalance_table_shards()"),
    ] {
        let seen = number(&served, "SELECT max(moveid) FROM tenantry.shard_move");
        holds_shards(3, may);
        served.psql(rebalance);
        served.psql("SELECT citus_rebalance_wait()");
        let concerned = format!("SELECT count(DISTINCT colocationid) FROM tenantry.shard_move WHERE moveid > {seen}");
        assert_eq!(number(&served, &concerned), 2, "{rebalance}");
        assert_eq!(most_at_once(&served, seen), (1, 1), "{rebalance}");
    }

    let ledger = load.end();
    let errors: Vec<_> = ledger.errors().take(3).collect();
    assert!(errors.is_empty(), "clients saw {errors:?}\n{}", served.logged(0));
    ledger.check(&served.psql(&format!("SELECT id FROM items WHERE id >= {FIRST_ID}")), FIRST_ID);
    let loaded =
        served.psql(&format!("SELECT count(*), count(DISTINCT (tenant, id)) FROM items WHERE id < {FIRST_ID}"));
    assert_eq!(loaded, "800|800");
}

/// Goal: who cancels a rebalance does not wait for the moves that are under way.
/// Method: a client's transaction keeps a move from beginning its copy; it ends after the rebalance only.
#[test]
fn a_rebalance_that_is_cancelled_gives_up_the_moves_under_way() {
    let served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int, id bigint, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 2)");
    let leaving = served.worker_port(1);
    let placed = "SELECT string_agg(groupid::text, ' ' ORDER BY shardid) FROM pg_dist_placement";
    let before = served.psql(placed);
    for (round, stop) in ["citus_job_cancel(JOB)", "citus_rebalance_stop()"].into_iter().enumerate() {
        let mut client = Client::connect(served.proxy_port(0), &[]);
        client.query("BEGIN");
        client.query(&format!("INSERT INTO items VALUES ({}, {round})", served.tenant_of("items", 1)));
        served.psql(&format!("SELECT citus_set_node_property('127.0.0.1', {leaving}, 'shouldhaveshards', false)"));
        let job = served.psql("SELECT citus_rebalance_start(drain_only => true)");
        let under_way = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'target_created'";
        assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), under_way) == "1"), "a move waits");
        served.psql(&format!("SELECT {}", stop.replace("JOB", &job)));
        served.psql(&format!("SELECT citus_job_wait({job}, 'cancelled')"));
        let tasks = "SELECT string_agg(DISTINCT status::text, ' ') FROM pg_dist_background_task WHERE job_id =";
        assert_eq!(served.psql(&format!("{tasks} {job}")), "cancelled", "{stop}");
        assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
        let left =
            psql(&served.coordinator_dsn(), "SELECT count(*) FROM tenantry.shard_move WHERE finished_at IS NULL");
        assert_eq!((left, served.psql(placed)), ("0".to_owned(), before.clone()), "{stop}");
    }
}

/// Goal: what somebody else moves while a drain has it in its plan is left out, not an error.
/// Method: a client's transaction keeps the drain's first move waiting, while its last is made by hand, to another node; not by a
/// change stream, which waits for the transaction too.
#[test]
fn a_drain_leaves_out_what_has_been_moved_meanwhile() {
    let served = Served::start_with(3, 2, "[moves]\nper_node = 2\n");
    served.psql("CREATE TABLE items (tenant int, id bigint, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 6)");
    let [one, other, leaving] = [0, 1, 2].map(|worker| served.worker_port(worker));
    served.psql(&format!("SELECT citus_set_node_property('127.0.0.1', {leaving}, 'shouldhaveshards', false)"));
    let plan = served.psql("SELECT shardid, targetport FROM get_rebalance_table_shards_plan(drain_only => true)");
    let plan: Vec<_> = plan.lines().filter_map(|row| row.split_once('|')).collect();
    let [(first, _), (last, planned)] = plan[..] else { panic!("{plan:?}") };
    let tenants = format!(
        "SELECT min(t) FROM generate_series(1, 100) t WHERE get_shard_id_for_distribution_column('items', t) = {first}"
    );
    let mut client = Client::connect(served.proxy_port(0), &[]);
    client.query("BEGIN");
    let tenant = served.psql(&tenants);
    assert_eq!(client.query(&format!("INSERT INTO items VALUES ({tenant}, 1)")), "C(INSERT 0 1) Z(T)");

    let drain = format!("SELECT citus_drain_node('127.0.0.1', {leaving})");
    let drain = psql_command(&served.dsn(0)).args(["-c", &drain]).stderr(Stdio::piped()).spawn().expect("psql runs");
    let under_way = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'target_created'";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), under_way) == "1"), "the move waits");
    let elsewhere = if planned == one.to_string() { other } else { one };
    served.psql(&format!(
        "SELECT citus_move_shard_placement({last}, '127.0.0.1', {leaving}, '127.0.0.1', {elsewhere}, 'block_writes')"
    ));
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    let drained = drain.wait_with_output().expect("it ends");
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    let place = |of: &str| served.psql(&format!("SELECT nodeport FROM pg_dist_shard_placement WHERE {of}"));
    assert_eq!(place(&format!("shardid = {last}")), elsewhere.to_string());
    assert_eq!(place(&format!("nodeport = {leaving}")), "");
}

/// Goal: who waits for moves is told what is being moved while it is, and keeps that when it fails.
/// Method: a client's transaction keeps a drain's first move from its copy; the move is given up only when it has been told of.
#[test]
fn what_is_being_moved_is_told_while_it_is() {
    let served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int, id bigint, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 2)");
    let mut client = Client::connect(served.proxy_port(0), &[]);
    client.query("BEGIN");
    client.query(&format!("INSERT INTO items VALUES ({}, 1)", served.tenant_of("items", 1)));

    let mut drain = psql_command(&served.dsn(0))
        .args(["-c", &format!("SELECT citus_drain_node('127.0.0.1', {})", served.worker_port(1))])
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql runs");
    let mut said = BufReader::new(drain.stderr.take().expect("piped above"));
    let mut first = String::new();
    said.read_line(&mut first).expect("it is text");
    assert!(first.contains("Moving shard "), "{first}");
    let under_way = "SELECT max(moveid) FROM tenantry.shard_move WHERE state = 'target_created'";
    assert!(wait_until(PATIENCE, || !psql(&served.coordinator_dsn(), under_way).is_empty()), "the move waits");
    let id = number(&served, under_way);
    served.psql(&format!("SELECT tenantry_cancel_move({id})"));
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("it is text");
    assert!(rest.contains(&format!("shard move {id} was cancelled")), "{rest}");
    assert!(!drain.wait().expect("it has ended").success());
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");

    // A table without a key is told of once, though all its shards are cut.
    served.psql("CREATE TABLE notes (tenant int)");
    served.psql("SELECT create_distributed_table('notes', 'tenant', colocate_with => 'items')");
    let more = "SELECT alter_distributed_table('items', shard_count => 4, cascade_to_colocated => true)";
    let said = psql_command(&served.dsn(0)).args(["-c", more]).output().expect("psql runs");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.matches("table notes has no replica identity").count(), 1, "{said}");
}

/// Goal: a tenant has a server to itself, whatever is rebalanced, by a strategy of the operator's own.
#[test]
fn a_strategy_keeps_a_server_for_one_tenant() {
    let served = Served::start(3);
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY); CREATE TABLE notes (tenant int, note text)");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 6)");
    served.psql("SELECT create_distributed_table('notes', 'tenant', colocate_with => 'items')");
    served.psql("INSERT INTO items SELECT generate_series(1, 100); INSERT INTO notes SELECT t, 'n' FROM generate_series(1, 100) t");
    let node = served.psql(&format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {}", served.worker_port(2)));
    served.psql(&format!("SELECT tenantry_isolate_tenant('notes', 7, {node})"));
    served.psql(&format!(
        "CREATE FUNCTION apart(shard bigint, node int) RETURNS boolean LANGUAGE sql AS $$ SELECT (node = {node}) = EXISTS
             (SELECT FROM tenantry_tenants t WHERE t.shardid = shard AND t.tenant = '7') $$"
    ));
    served.psql(
        "SELECT citus_add_rebalance_strategy('apart', 'citus_shard_cost_by_disk_size', 'citus_node_capacity_1', 'apart', 0.1),
             citus_set_default_rebalance_strategy('apart')",
    );
    let expected = "SELECT shard_groups_after FROM tenantry_rebalance_preview() ORDER BY nodeport";
    assert_eq!(served.psql(expected), "3\n3\n1");
    served.psql("SELECT citus_rebalance_start()");
    served.psql("SELECT citus_rebalance_wait()");
    let of_tables = "SELECT string_agg(DISTINCT table_name::text, ' '), count(*) FROM citus_shards WHERE nodeport =";
    assert_eq!(served.psql(&format!("{of_tables} {}", served.worker_port(2))), "items notes|2");
    let rows = "SELECT count(*) FILTER (WHERE tenant = 7), count(*) FROM";
    let group = "SELECT shard_group_id FROM tenantry.shard JOIN tenantry_tenants USING (shardid) WHERE table_name = 'items'::regclass";
    let there = served.psql(group);
    assert_eq!(psql(&served.worker_dsn(2), &format!("{rows} public_{there}.items")), "1|1");
    assert_eq!(served.psql("SELECT count(*) FROM get_rebalance_table_shards_plan()"), "0", "it stays so");
    assert_eq!(served.psql(&format!("{rows} items JOIN notes USING (tenant)")), "1|100");
}

/// In Citus's words and places.
fn how_far_it_is_is_told(served: &Served) {
    let of_tasks = |arguments: &str, all: &str| {
        format!(
            "SELECT bool_or({all}) FROM citus_rebalance_status({arguments}) s, jsonb_array_elements(s.details -> 'tasks') t \
             WHERE (t ->> 'bytes_copied')::bigint > 0"
        )
    };
    for asked in [
        of_tasks(
            "",
            "t -> 'LSN' ->> 'source' ~ '^[0-9A-F]+/[0-9A-F]+$' AND t -> 'LSN' ->> 'target' ~ '^[0-9A-F]+/[0-9A-F]+$' \
             AND t -> 'LSN' ->> 'lag' ~ ' (bytes|kB|MB)$' AND t -> 'size' ->> 'source' ~ ' (bytes|kB)$'",
        ),
        of_tasks(
            "raw => true",
            "(t -> 'LSN' -> 'lag')::bigint >= 0 AND (t -> 'size' -> 'source')::bigint > 0 AND (t -> 'size' -> 'target')::bigint > 0 \
             AND (t ->> 'bytes_per_second')::float8 > 0 AND (t ->> 'estimated_seconds_left')::float8 >= 0 AND t ? 'move_id'",
        ),
        "SELECT (details -> 'bytes_left')::bigint > 0 AND (details -> 'estimated_seconds_left')::float8 > 0 \
         FROM citus_rebalance_status()"
            .to_owned(),
        "SELECT bool_or(target_lsn <= source_lsn) FROM get_rebalance_progress() WHERE progress = 1".to_owned(),
    ] {
        assert!(wait_until(Duration::from_secs(20), || served.psql(&asked) == "t"), "{asked}");
    }
}

/// Of the moves behind this one: the most that went on at the same moment, in all and with one node taking part.
fn most_at_once(served: &Served, behind: i64) -> (i64, i64) {
    let sql = format!(
        "WITH moves AS (SELECT * FROM tenantry.shard_move WHERE moveid > {behind} AND state = 'done'),
              pairs AS (SELECT a.moveid, a.source_node, a.target_node, b.source_node AS source, b.target_node AS target
                        FROM moves a JOIN moves b ON b.started_at <= a.started_at AND b.finished_at > a.started_at)
         SELECT max(n), max(greatest(s, t)) FROM (
             SELECT count(*) AS n, count(*) FILTER (WHERE source_node IN (source, target)) AS s,
                 count(*) FILTER (WHERE target_node IN (source, target)) AS t FROM pairs GROUP BY moveid) m"
    );
    let counts = psql(&served.coordinator_dsn(), &sql);
    let (in_all, on_one) = counts.split_once('|').expect("two numbers");
    (in_all.parse().expect("a number"), on_one.parse().expect("a number"))
}

fn number(served: &Served, sql: &str) -> i64 {
    psql(&served.coordinator_dsn(), sql).parse().expect("a number")
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Of the clients' rows; those that were loaded are below.
const FIRST_ID: u64 = 1_000;
/// Shard groups of each worker that has some.
const PLACEMENTS: &str = "SELECT string_agg(n::text, '|') FROM (SELECT count(*) n FROM pg_dist_placement GROUP BY groupid ORDER BY groupid) p";
