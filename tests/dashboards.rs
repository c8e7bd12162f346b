//! The catalog's views as an operator's dashboards ask for them: whoever asks, and whatever server is away.

mod support;

use std::time::Duration;

use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_command, psql_error, wait_until};
use tenantry::wire::frontend::{self, Target};

/// Goal: sizes are seen by who has no privilege on the tables, as in Postgres, and a worker that is away costs its own only.
/// Method: a role that may log in and no more; then one worker dies, and its shards are listed without sizes, with a warning.
#[test]
fn sizes_are_for_everybody_and_told_as_far_as_they_are_known() {
    let mut served = Served::start_with(2, 2, "[pool]\noutage_timeout = \"1s\"\n");
    served.psql("CREATE SCHEMA app");
    served.psql("CREATE TABLE app.items (tenant int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('app.items', 'tenant', shard_count => 4)");
    served.psql("CREATE ROLE watcher LOGIN");
    let watcher = served.dsn(0).replace("//postgres@", "//watcher@");
    let by_node = "SELECT nodeport, count(*), count(shard_size) FROM citus_shards GROUP BY 1 ORDER BY 1";
    let [first, second] = [0, 1].map(|worker| served.worker_port(worker));
    assert_eq!(psql(&watcher, by_node), format!("{first}|2|2\n{second}|2|2"));
    assert_eq!(psql(&watcher, "SELECT table_name, table_size IS NULL FROM citus_tables"), "app.items|f");
    // Of many tables at once, in both protocols. Source of the statement: Citus, "Determining Table Size".
    let of_all = "SELECT logicalrelid AS name, pg_size_pretty(citus_table_size(logicalrelid)) AS size FROM pg_dist_partition \
                  ORDER BY citus_total_relation_size(logicalrelid) DESC";
    served.psql("INSERT INTO app.items SELECT generate_series(1, 4000)");
    served.psql("CREATE TABLE app.colors (id int)");
    served.psql("SELECT create_reference_table('app.colors')");
    let known = psql(&watcher, of_all);
    assert!(known.starts_with("app.items|") && known.ends_with("\napp.colors|0 bytes"), "{known}");
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let sizes = "SELECT citus_relation_size('app.items') > 0, citus_table_size($1::text::regclass) > 100000";
    for name in ["first", "second"] {
        let said = client.run_prepared(name, sizes, &[Some("app.items")]);
        assert!(said.ends_with("D(t,t) C(SELECT 1) Z(I)"), "{said}");
    }
    let refused = psql_error(&watcher, "SELECT citus_table_size('pg_class')");
    assert!(refused.contains("42P16") && refused.contains("relation pg_class is not distributed"), "{refused}");
    served.psql(
        "CREATE FUNCTION app.size(t regclass) RETURNS bigint LANGUAGE sql AS 'SELECT tenantry.citus_table_size(t)'",
    );
    let refused = psql_error(&served.dsn(0), "SELECT app.size('app.items')");
    assert!(refused.contains("0A000") && refused.contains("are not known here"), "{refused}");
    served.psql("DROP TABLE app.colors");

    // Plans as drawing tools ask for them, and with parameters.
    let json = served.psql("EXPLAIN (FORMAT JSON) SELECT count(*) FROM app.items");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).expect("JSON")[0]["Plan"]["Node Type"],
        "combine rowsets=1"
    );
    let refused = psql_error(&served.dsn(0), "EXPLAIN (FORMAT YAML) SELECT count(*) FROM app.items");
    assert!(refused.contains("0A000") && refused.contains("Use TEXT or JSON"), "{refused}");
    let explain = "EXPLAIN SELECT count(*) FROM app.items WHERE tenant < $1";
    frontend::parse(b"explain", explain, &[], &mut client.out);
    frontend::describe(Target::Statement(b"explain"), &mut client.out);
    client.bind_and_execute("explain", &[Some("3")]);
    frontend::sync(&mut client.out);
    assert_eq!(client.answer(), "1 t T 2 D(combine rowsets=1) C(EXPLAIN) Z(I)");

    served.servers().kill_worker(1).expect("it ends");
    let told = || {
        let output = psql_command(&watcher).args(["-c", by_node]).output().expect("psql can be run");
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned())
    };
    let is_told = wait_until(Duration::from_secs(30), || told()[0].trim() == format!("{first}|2|2\n{second}|2|0"));
    let [rows, warning] = told();
    assert!(is_told, "{rows} {warning}");
    let refused = psql_error(&served.dsn(0), "SELECT citus_table_size('app.items')");
    assert!(
        refused.contains("08006") && refused.contains(&format!("Node 127.0.0.1:{second} cannot be reached")),
        "{refused}"
    );
    assert_eq!(served.psql("SELECT citus_total_relation_size('app.items', fail_on_error => false) IS NULL"), "t");
    assert!(warning.contains(&format!("WARNING:  01000: sizes on node 127.0.0.1:{second} are not known")), "{warning}");
}

/// Goal: who does what and who waits for whom is seen of all servers at once, by Citus's names.
/// Method: one client holds a tenant's row on each worker and a local table on the coordinator, others wait for them; then the views
/// tell of each pair, agree with the servers, and go on with a warning while a worker is away.
#[test]
fn activity_and_waits_are_told_of_all_servers() {
    let mut served = Served::start_with(2, 2, "[pool]\noutage_timeout = \"1s\"\n");
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY, n int); CREATE TABLE here (id int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 4)");
    served.psql("INSERT INTO items SELECT generate_series(1, 40), 0; INSERT INTO here VALUES (1)");
    let nodes = served.psql("SELECT nodeid FROM pg_dist_node ORDER BY nodeport");
    let nodes: Vec<_> = nodes.lines().collect();
    let names = [0, 1].map(|worker| served.tenant_of("items", worker));
    let [first, second] = names.map(|tenant| format!("UPDATE items SET n = n + 1 WHERE tenant = {tenant}"));
    let here = "SELECT id FROM here FOR UPDATE";
    let texts = [first.as_str(), second.as_str(), here];
    let client = |name: &str| Client::connect(served.proxy_port(0), &[("application_name", name)]);
    let mut holder = client("holder");
    holder.query("BEGIN");
    texts.iter().for_each(|sql| drop(holder.query(sql)));
    let mut waiting = texts.map(|sql| {
        let mut waiter = client("waiter");
        waiter.send(sql);
        waiter.flush();
        waiter
    });
    let waits = "SELECT waiting_nodeid, blocking_nodeid, citus_nodeid_for_gpid(waiting_gpid), waiting_gpid <> blocking_gpid, \
                 blocked_statement LIKE '%items SET n%' OR blocked_statement LIKE '%here FOR%' FROM citus_lock_waits ORDER BY 1";
    let pairs = ["0", nodes[0], nodes[1]].map(|node| format!("{node}|{node}|{node}|t|t")).join("\n");
    assert!(wait_until(Duration::from_secs(30), || served.psql(waits) == pairs), "{}", served.psql(waits));
    // What Citus's manual counts, and what its views are joined by.
    let by_type = "SELECT wait_event_type, count(*) FROM citus_stat_activity WHERE state = 'active' AND application_name = 'waiter' \
                   GROUP BY 1";
    assert_eq!(served.psql(by_type), "Lock|3");
    let clients = "SELECT nodeid, count(*) FROM citus_dist_stat_activity WHERE application_name IN ('holder', 'waiter') \
                   AND backend_type = 'client backend' GROUP BY 1 ORDER BY 1";
    assert_eq!(served.psql(clients), format!("0|2\n{}|2\n{}|2", nodes[0], nodes[1]));
    let own =
        "SELECT count(*) FROM citus_stat_activity WHERE application_name = 'tenantry control' AND NOT is_worker_query";
    assert_eq!(served.psql(own), "0");
    let locks = "SELECT l.nodeid, l.relation_name FROM citus_locks l JOIN citus_stat_activity a USING (global_pid) \
                 WHERE a.application_name = 'holder' AND l.locktype = 'relation' AND l.mode IN ('RowExclusiveLock', 'RowShareLock') \
                 AND l.relation_name NOT LIKE '%pkey' ORDER BY 1";
    let held = served.psql(locks);
    assert!(held.starts_with("0|here\n") && held.matches("|public_1").count() == 2, "{held}");
    let pids = "SELECT citus_pid_for_gpid(global_pid) = pid, global_pid = citus_calculate_gpid(nodeid, pid), count(*) > 6 \
                FROM citus_stat_activity GROUP BY 1, 2";
    assert_eq!(served.psql(pids), "t|t|t");

    // In both protocols; for each role what Postgres lets it see; not where nobody has asked the workers.
    let mut prepared = client("reader");
    let said =
        prepared.run_prepared("waits", "SELECT count(*) FROM citus_lock_waits WHERE waiting_nodeid > $1", &[Some("0")]);
    assert!(said.ends_with("D(2) C(SELECT 1) Z(I)"), "{said}");
    served.psql("CREATE ROLE watcher LOGIN");
    let watcher = served.dsn(0).replace("//postgres@", "//watcher@");
    let shown = "SELECT DISTINCT current_statement_in_blocking_process FROM citus_lock_waits";
    assert_eq!(psql(&watcher, shown), "<insufficient privilege>");
    served.psql("CREATE VIEW mine AS SELECT count(*) FROM citus_locks");
    let refused = psql_error(&watcher.replace("watcher", "postgres"), "SELECT * FROM mine");
    assert!(refused.contains("0A000") && refused.contains("not known here"), "{refused}");
    let refused = psql_error(&served.dsn(0), "SELECT count(*) FROM items, citus_locks");
    assert!(
        refused.contains("0A000") && refused.contains("cannot be read together with distributed tables"),
        "{refused}"
    );

    holder.query("ROLLBACK");
    for waiter in &mut waiting {
        waiter.answer();
    }
    assert_eq!(served.psql("SELECT count(*) FROM citus_lock_waits"), "0");
    served.servers().kill_worker(1).expect("it ends");
    let told =
        || psql_command(&served.dsn(0)).args(["-c", "SELECT DISTINCT nodeid FROM citus_locks"]).output().expect("psql");
    let is_told = wait_until(Duration::from_secs(30), || told().status.success());
    let [rows, warning] = [told().stdout, told().stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(is_told && !rows.lines().any(|node| node == nodes[1]), "{rows} {warning}");
    assert!(warning.contains("locks on node 127.0.0.1:") && warning.contains("are not known"), "{warning}");
}

/// Goal: a command reaches every server or shard as Citus's functions do it: by itself, each with its own result.
/// Method: what succeeds, fails, ends with a rollback, cannot run in a transaction, and meets a server that is away; and roles.
#[test]
fn commands_run_on_all_servers_and_shards() {
    let mut served = Served::start_with(2, 2, "[pool]\noutage_timeout = \"1s\"\n");
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY, n int); CREATE TABLE more (tenant int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 4)");
    served.psql("SELECT create_distributed_table('more', 'tenant', shard_count => 4)");
    served.psql("CREATE TABLE colors (id int)");
    served.psql("SELECT create_reference_table('colors')");
    served.psql("INSERT INTO items SELECT generate_series(1, 100), 0; INSERT INTO colors VALUES (1), (2)");
    let [first, second] = [0, 1].map(|worker| served.worker_port(worker));
    let settings = "SELECT * FROM run_command_on_workers($$ SHOW port $$) ORDER BY nodeport";
    assert_eq!(served.psql(settings), format!("127.0.0.1|{first}|t|{first}\n127.0.0.1|{second}|t|{second}"));
    let everywhere = "SELECT count(DISTINCT nodeid), bool_and(success), min(result) FROM run_command_on_all_nodes($$ VACUUM colors $$, parallel := false)";
    assert_eq!(served.psql(everywhere), "3|t|VACUUM");
    assert_eq!(served.psql("SELECT * FROM run_command_on_coordinator('SELECT count(*) FROM colors')"), "0|t|2");
    let counts = "SELECT count(*), sum(result::int), bool_and(success) FROM run_command_on_shards('items', 'SELECT count(*) FROM %s')";
    assert_eq!(served.psql(counts), "4|100|t");
    let copies = "SELECT nodeport, result FROM run_command_on_placements('colors', 'SELECT count(*) FROM %s', parallel => false) ORDER BY 1";
    assert_eq!(served.psql(copies), format!("{first}|2\n{second}|2"));
    let pairs = "SELECT count(*), count(DISTINCT shardid2), sum(result::int) FROM run_command_on_colocated_placements(
                 'items', 'more', 'SELECT count(*) FROM %s LEFT JOIN %s USING (tenant)')";
    assert_eq!(served.psql(pairs), "4|4|100");

    // By itself, each: what fails on one runs on the others, and a rollback takes nothing back.
    let some =
        "SELECT count(*) FILTER (WHERE success), min(result) FILTER (WHERE NOT success) FROM run_command_on_workers(
                $$ SELECT 1 / (current_setting('port')::int - %) $$)"
            .replace('%', &first.to_string());
    assert_eq!(served.psql(&some), "1|ERROR:  division by zero");
    served.psql("BEGIN; SELECT run_command_on_shards('items', 'UPDATE %s SET n = 1'); ROLLBACK");
    assert_eq!(served.psql("SELECT sum(n) FROM items"), "100");
    let many = "SELECT DISTINCT result FROM run_command_on_workers('SELECT 1, 2')";
    assert_eq!(served.psql(many), "ERROR:  expected a single column in query result");
    assert_eq!(
        served.psql("SELECT DISTINCT result FROM run_command_on_workers('TABLE items')"),
        "ERROR:  relation \"items\" does not exist"
    );
    served.psql("SELECT run_command_on_workers('SET statement_timeout TO 1')");
    assert_eq!(
        served.psql("SELECT sum(n) FROM items WHERE tenant IN (1, 2, 3, 4) AND pg_sleep(0.01) IS NOT NULL"),
        "4"
    );
    let refused = psql_error(&served.dsn(0), "SELECT run_command_on_all_nodes('SELECT count(*) FROM items')");
    assert!(refused.contains("0A000") && refused.contains("names distributed table \"items\""), "{refused}");
    let refused = psql_error(&served.dsn(0), "SELECT run_command_on_shards('pg_class', 'SELECT 1')");
    assert!(refused.contains("42P16") && refused.contains("is not distributed"), "{refused}");

    served.psql("CREATE ROLE app LOGIN; CREATE ROLE keeper LOGIN IN ROLE tenantry_admin");
    let as_role = |role: &str| served.dsn(0).replace("//postgres@", &format!("//{role}@"));
    let whoami = "SELECT DISTINCT result FROM run_command_on_workers('SELECT current_user')";
    assert!(psql_error(&as_role("app"), whoami).contains("42501"));
    assert_eq!(psql(&as_role("keeper"), whoami), "keeper");
    served.servers().kill_worker(1).expect("it ends");
    let asked = "SELECT nodeport, success, result LIKE 'ERROR:  %' FROM run_command_on_workers('SELECT 1') ORDER BY 1";
    assert_eq!(served.psql(asked), format!("{first}|t|f\n{second}|f|t"));
}
