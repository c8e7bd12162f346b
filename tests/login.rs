//! Logging in with a password: `tenantry serve` in front of servers that demand SCRAM.

mod support;

use support::Cluster;
use support::serve::{Serve, psql_says as psql};
use support::served::connect;

#[test]
fn roles_of_the_coordinator_log_in_with_their_passwords() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE ROLE app LOGIN PASSWORD 'correct horse'");
    cluster.psql("CREATE TABLE orders (tenant int PRIMARY KEY, note text)");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant')");
    cluster.psql("INSERT INTO orders SELECT t, 'note' FROM generate_series(1, 50) t");
    cluster.psql("GRANT ALL ON orders TO app");
    for dsn in [cluster.coordinator_dsn(), cluster.worker_dsn(0), cluster.worker_dsn(1)] {
        demand(&dsn, "app", "scram-sha-256");
    }
    let refused = psql(&dsn(&cluster, "app", "wrong", cluster.worker_port(0)), "SELECT 1");
    assert!(refused.contains("28P01") || refused.contains("password authentication failed"), "{refused}");

    let port = cluster.port() + 12;
    let proxy = Serve::start(&cluster, port, "auth = \"scram\"", "");
    let app = |password: &str, sql: &str| psql(&dsn(&cluster, "app", password, port), sql);
    assert_eq!(app("correct horse", "SELECT current_user"), "app");
    assert_eq!(
        app("correct horse", "SELECT count(*) FROM orders"),
        "50",
        "the proxy logs in to every worker as the client"
    );
    for tenant in 1..=8 {
        assert_eq!(app("correct horse", &format!("SELECT note FROM orders WHERE tenant = {tenant}")), "note");
    }
    assert_eq!(
        app(
            "correct horse",
            "BEGIN; UPDATE orders SET note = 'x' WHERE tenant = 1; UPDATE orders SET note = 'x' WHERE tenant = 2; UPDATE orders SET note = 'x' WHERE tenant = 3; COMMIT; SELECT count(*) FROM orders WHERE note = 'x'"
        ),
        "3"
    );
    for (user, password) in [("app", "wrong"), ("app", ""), ("nobody", "correct horse")] {
        let said = psql(&dsn(&cluster, user, password, port), "SELECT 1");
        let refused = format!("password authentication failed for user \"{user}\"");
        assert!(
            said.contains(&refused) || password.is_empty() && said.contains("no password supplied"),
            "{user}: {said}"
        );
    }
    privileges_on_a_schema_hold_for_its_shards(&cluster, |sql| app("correct horse", sql));
    drop(proxy);
}

fn privileges_on_a_schema_hold_for_its_shards(cluster: &Cluster, app: impl Fn(&str) -> String) {
    cluster.psql("CREATE SCHEMA \"Shop\"; CREATE SCHEMA plain; CREATE TABLE \"Shop\".t (a int PRIMARY KEY)");
    cluster.psql("SELECT create_distributed_table('\"Shop\".t', 'a')");
    cluster.psql("GRANT SELECT ON \"Shop\".t TO app");
    let (one, all) = ("SELECT count(*) FROM \"Shop\".t WHERE a = 1", "SELECT count(*) FROM \"Shop\".t");
    assert!(app(one).contains("permission denied for schema"), "{}", app(one));
    cluster.psql("GRANT USAGE ON SCHEMA plain, \"Shop\" TO app; -- the shards too");
    assert_eq!((app(one), app(all)), ("0".into(), "0".into()));
    cluster.psql("BEGIN; REVOKE USAGE ON SCHEMA \"Shop\" FROM app; ROLLBACK");
    assert_eq!(app(one), "0");
    cluster.psql("REVOKE USAGE ON SCHEMA \"Shop\" FROM app -- and back");
    assert!(app(one).contains("permission denied for schema"), "{}", app(one));
    assert!(app(all).contains("permission denied for schema"), "{}", app(all));
    cluster.psql("REVOKE ALL ON \"Shop\".t FROM app; REVOKE ALL ON SCHEMA plain FROM app");
}

/// T08: who asks for the password itself, be it a server with that rule or somebody on the way, is told that nobody gets it.
#[test]
fn the_control_channel_gives_its_password_to_nobody() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE ROLE steward SUPERUSER REPLICATION LOGIN PASSWORD 'keys'");
    cluster.psql("CREATE TABLE orders (tenant int PRIMARY KEY, note text)");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant')");
    let servers = [cluster.coordinator_dsn(), cluster.worker_dsn(0), cluster.worker_dsn(1)];
    servers.iter().for_each(|server| demand(server, "steward", "password"));
    let port = cluster.port() + 12;
    let settings = "user = \"steward\"\npassword = \"keys\"";
    assert_eq!(psql(&dsn(&cluster, "steward", "keys", cluster.port() + 1), "SELECT 1"), "1", "psql sends it");
    let refused = Serve::refuses_to_start(&cluster, port, "auth = \"trust-loopback\"", settings);
    assert!(refused.contains("a node asks for the password in clear text, which nobody gets"), "{refused}");
    assert!(refused.contains("Use scram-sha-256 in the node's pg_hba.conf."), "{refused}");

    for method in ["md5", "scram-sha-256"] {
        demand(&servers[0], "steward", method);
        // A role with a SCRAM verifier is asked for SCRAM by both rules.
        drop(Serve::start(&cluster, port, "auth = \"trust-loopback\"", settings));
    }
    // Workers that do so: an operation of the control channel fails, and says why.
    let proxy = Serve::start(&cluster, port, "auth = \"trust-loopback\"", settings);
    let app = |sql: &str| psql(&dsn(&cluster, "postgres", "", port), sql);
    let (first, second) = (cluster.worker_port(0), cluster.worker_port(1));
    let shard = app(&format!(
        "SELECT shardid FROM pg_dist_placement JOIN pg_dist_node USING (groupid) WHERE nodeport = {first} LIMIT 1"
    ));
    let moved = format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {first}, '127.0.0.1', {second})");
    let said = app(&moved);
    assert!(said.contains("the password in clear text, which nobody gets"), "{said}");
    servers[1..].iter().for_each(|server| demand(server, "steward", "scram-sha-256"));
    assert_eq!(app(&moved), "");
    drop(proxy);
}

/// A rule before all others: how the role proves itself.
fn demand(dsn: &str, role: &str, method: &str) {
    let file = support::psql(dsn, "SHOW hba_file");
    let rules = format!(
        "SELECT * FROM (SELECT 'host all {role} all {method}' AS line UNION ALL SELECT regexp_split_to_table(pg_read_file('{file}'), E'\\n')) l"
    );
    support::psql(
        dsn,
        &format!(
            "COPY ({rules}) TO '{file}.new'; COPY (SELECT regexp_split_to_table(pg_read_file('{file}.new'), E'\\n')) TO '{file}'; SELECT pg_reload_conf()"
        ),
    );
    assert_eq!(support::psql(dsn, "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL"), "0");
}

fn dsn(_: &Cluster, user: &str, password: &str, port: u16) -> String {
    format!("host=127.0.0.1 port={port} user={user} dbname=postgres password='{password}'")
}

/// T49: many logins by SCRAM at once. Goal: they cost the coordinator a few questions, not one each, and nobody who is inside waits for
/// them. Method: the coordinator's table of roles is locked, so that all are on their way together, while another client works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logins_is_a_few_questions() {
    let cluster = Cluster::start(1);
    cluster.psql("CREATE ROLE app LOGIN PASSWORD 'correct horse'");
    cluster.psql("CREATE TABLE orders (tenant int PRIMARY KEY, note text)");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant')");
    cluster.psql("INSERT INTO orders VALUES (1, 'note')");
    cluster.psql("GRANT ALL ON orders TO app");
    demand(&cluster.worker_dsn(0), "app", "scram-sha-256");
    let proxy = Serve::start(&cluster, cluster.port() + 12, "auth = \"scram\"\nthreads = 1", "");
    let app = dsn(&cluster, "app", "correct horse", proxy.port);
    let note = "SELECT note FROM orders WHERE tenant = 1";
    let inside = connect(&app).await;
    inside.simple_query(note).await.expect("it is inside");

    let coordinator = connect(&cluster.coordinator_dsn()).await;
    let scans = async || -> i64 {
        let count = "SELECT pg_stat_get_numscans('pg_authid'::regclass)";
        coordinator.query_one(count, &[]).await.expect("it answers").get(0)
    };
    let before = scans().await;
    let locker = connect(&cluster.coordinator_dsn()).await;
    locker.batch_execute("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE").await.expect("nobody has it");
    let logins: Vec<_> = (0..LOGINS)
        .map(|_| {
            tokio::spawn({
                let app = app.clone();
                async move { connect(&app).await }
            })
        })
        .collect();
    let asks = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'pg_authid'::regclass AND NOT granted)";
    let mut under_way = false;
    // Many statements, each answered while the others are not let in.
    for _ in 0..200 {
        inside.simple_query(note).await.expect("whoever is inside is served");
        under_way |= coordinator.query_one(asks, &[]).await.expect("it answers").get::<_, bool>(0);
    }
    assert!(under_way, "one asks for all");
    assert!(logins.iter().all(|login| !login.is_finished()), "nobody is in yet");
    locker.batch_execute("COMMIT").await.expect("it ends");
    let mut clients = Vec::new();
    for login in logins {
        clients.push(login.await.expect("it is let in"));
    }
    for client in &clients {
        client.simple_query(note).await.expect("everybody is served");
    }
    // What a server has counted it tells a little later.
    let mut asked = 0;
    for _ in 0..200 {
        asked = scans().await - before;
        if asked > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(asked > 0 && asked < LOGINS / 5, "{asked} questions for {LOGINS} logins");
}

const LOGINS: i64 = 100;
