//! Logging in with a password: `tenantry serve` in front of servers that demand SCRAM.

mod support;

use support::Cluster;
use support::serve::{Serve, psql_says as psql};

#[test]
fn roles_of_the_coordinator_log_in_with_their_passwords() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE ROLE app LOGIN PASSWORD 'correct horse'");
    cluster.psql("CREATE TABLE orders (tenant int PRIMARY KEY, note text)");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant')");
    cluster.psql("INSERT INTO orders SELECT t, 'note' FROM generate_series(1, 50) t");
    cluster.psql("GRANT ALL ON orders TO app");
    for dsn in [cluster.coordinator_dsn(), cluster.worker_dsn(0), cluster.worker_dsn(1)] {
        demand_scram(&dsn);
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

/// Rules before all others: role app proves itself.
fn demand_scram(dsn: &str) {
    let file = support::psql(dsn, "SHOW hba_file");
    let rules = format!(
        "SELECT * FROM (SELECT 'host all app all scram-sha-256' AS line UNION ALL SELECT regexp_split_to_table(pg_read_file('{file}'), E'\\n')) l"
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
