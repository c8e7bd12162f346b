//! What is known of tenants' loads, on a running cluster: who asks for how much, over all protocols and proxies.

mod support;

use std::time::Duration;

use support::serve::Serve;
use support::{Cluster, psql, psql_error, wait_until};

const TRUST: &str = "auth = \"trust-loopback\"";

/// Reads and all statements of a tenant, in both periods together.
fn counts(dsn: &str, tenant: &str) -> String {
    psql(
        dsn,
        &format!(
            "SELECT sum(read_count_in_this_period + read_count_in_last_period), \
                 sum(query_count_in_this_period + query_count_in_last_period) \
             FROM citus_stat_tenants WHERE tenant_attribute = '{tenant}'"
        ),
    )
}

#[test]
fn the_load_of_each_tenant_is_seen() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE orders (tenant bigint, id bigint, note text, PRIMARY KEY (tenant, id))");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant')");
    cluster.psql("INSERT INTO orders SELECT t, 0 FROM generate_series(1, 50) t");
    cluster.psql("SELECT citus_stat_tenants_reset()");
    assert_eq!(cluster.psql("SELECT count(*) FROM citus_stat_tenants"), "0");

    every_protocol_counts(&cluster);
    time_and_bytes_are_charged(&cluster);
    names_of_tenants_are_not_for_everybody(&cluster);
    all_proxies_are_seen(&cluster);
    a_rebalance_by_load_is_looked_at_first(&cluster);
    what_the_loads_suggest_is_told(&cluster);
    a_move_is_looked_at_and_rehearsed_in_sql(&cluster);
}

fn every_protocol_counts(cluster: &Cluster) {
    for id in 1..=3 {
        cluster.psql(&format!("INSERT INTO orders VALUES (7, {id}, 'simple')"));
    }
    cluster.psql("SELECT note FROM orders WHERE tenant = 7 AND id = 1");
    cluster
        .psql("BEGIN; SELECT 1 FROM orders WHERE tenant = 7; UPDATE orders SET note = 'x' WHERE tenant = '7'; COMMIT");
    cluster
        .psql_script("PREPARE p (bigint) AS SELECT id FROM orders WHERE tenant = $1;\nEXECUTE p (7);\nEXECUTE p (7);");
    let runtime = tokio::runtime::Runtime::new().expect("threads can be made");
    runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&cluster.dsn(), tokio_postgres::NoTls).await.expect("it can be reached");
        tokio::spawn(connection);
        let named = client.prepare("SELECT id FROM orders WHERE tenant = $1").await.expect("it is prepared");
        for _ in 0..4 {
            client.query(&named, &[&7i64]).await.expect("it runs");
        }
        let sql = "DELETE FROM orders WHERE tenant = $1 AND id = $2";
        let types = tokio_postgres::types::Type::INT8;
        client.query_typed(sql, &[(&7i64, types.clone()), (&3i64, types)]).await.expect("it runs");
        // A pipeline: its statements leave together.
        let three = [7i64, 7, 8].map(|tenant| {
            let (client, named) = (&client, &named);
            async move { client.query(named, &[&tenant]).await.expect("it runs") }
        });
        futures_util::future::join_all(three).await;
    });
    // Of several tenants, or of all: nobody's.
    cluster.psql("SELECT count(*) FROM orders");
    cluster.psql("SELECT count(*) FROM orders WHERE tenant IN (7, 9)");
    assert_eq!(counts(&cluster.dsn(), "7"), "10|15");
    assert_eq!(counts(&cluster.dsn(), "8"), "1|1");
    let home = "SELECT count(DISTINCT s.nodeid) FROM citus_stat_tenants s JOIN pg_dist_node n USING (nodeid)
        JOIN pg_dist_shard_placement p ON p.nodeport = n.nodeport
        WHERE p.shardid = get_shard_id_for_distribution_column('orders', 7) AND s.tenant_attribute = '7'";
    assert_eq!(cluster.psql(home), "1", "it is said where the tenant lives");
    assert_eq!(cluster.psql("SELECT tenant_attribute FROM citus_stat_tenants LIMIT 1"), "7", "the hottest comes first");
    // Statements of a shard group are those of its tenants, and of several of its tenants.
    let groups = "SELECT bool_and(w.query_count_in_this_period >= t.query_count_in_this_period)
        FROM tenantry_loads w JOIN tenantry_loads t USING (shard_group_id) WHERE w.tenant IS NULL AND t.tenant IS NOT NULL";
    assert_eq!(cluster.psql(groups), "t");
}

fn time_and_bytes_are_charged(cluster: &Cluster) {
    cluster.psql("SELECT pg_sleep(0.3) FROM orders WHERE tenant = 9");
    cluster.psql("SELECT repeat('x', 100000) FROM orders WHERE tenant = 10");
    let seconds = cluster.psql(
        "SELECT cpu_usage_in_this_period + cpu_usage_in_last_period BETWEEN 0.3 AND 60 FROM citus_stat_tenants
         WHERE tenant_attribute = '9'",
    );
    assert_eq!(seconds, "t");
    let bytes = cluster.psql(
        "SELECT bytes_in_this_period + bytes_in_last_period BETWEEN 100000 AND 101000 FROM tenantry_loads
         WHERE tenant = '10'",
    );
    assert_eq!(bytes, "t");
}

fn names_of_tenants_are_not_for_everybody(cluster: &Cluster) {
    cluster.psql("CREATE ROLE visitor LOGIN; CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor");
    let of = |role: &str| cluster.dsn().replace("postgres@", &format!("{role}@"));
    for sql in ["TABLE citus_stat_tenants", "TABLE tenantry_loads", "SELECT citus_stat_tenants_reset()"] {
        let complaint = psql_error(&of("visitor"), sql);
        assert!(complaint.contains("42501"), "{sql}: {complaint}");
    }
    assert_eq!(psql(&of("monitor"), "SELECT count(*) > 0 FROM citus_stat_tenants"), "t");
    let log = cluster.log();
    assert!(!log.contains("citus_stat_tenants") && !log.contains("tenant=7"), "nothing of tenants is logged");
}

fn all_proxies_are_seen(cluster: &Cluster) {
    let port = cluster.port() + 12;
    let second = Serve::start(cluster, port, TRUST, "[load]\ntenants = 2");
    let dsn = cluster.dsn().replace(&format!(":{}/", cluster.port()), &format!(":{port}/"));
    psql(&dsn, "SELECT 1 FROM orders WHERE tenant = 7");
    // Looking at it there writes it down there.
    assert_eq!(counts(&dsn, "7"), "11|16");
    assert_eq!(counts(&cluster.dsn(), "7"), "11|16");
    // Begun anew at one proxy, for all.
    psql(&dsn, "SELECT citus_stat_tenants_reset()");
    assert_eq!(cluster.psql("SELECT count(*) FROM citus_stat_tenants"), "0");
    cluster.psql("SELECT 1 FROM orders WHERE tenant = 7");
    assert_eq!(counts(&dsn, "7"), "|", "the other one has yet to say so");
    assert_eq!(counts(&cluster.dsn(), "7"), "1|1");
    assert_eq!(counts(&dsn, "7"), "1|1");
    // No more tenants than are to be told apart, and those that ask for most.
    for (tenant, times) in [(21, 1), (22, 100), (23, 100)] {
        psql(&dsn, &format!("SELECT 1 FROM orders WHERE tenant = {tenant}; ").repeat(times));
    }
    let shown = "SELECT string_agg(tenant_attribute, ' ' ORDER BY tenant_attribute) FROM citus_stat_tenants WHERE tenant_attribute > '20'";
    assert_eq!(psql(&dsn, shown), "22 23 7");
    drop(second);
    let silent = Serve::start(cluster, port + 1, TRUST, "[load]\nenabled = false");
    let dsn = cluster.dsn().replace(&format!(":{}/", cluster.port()), &format!(":{}/", port + 1));
    psql(&dsn, "SELECT 1 FROM orders WHERE tenant = 30");
    assert_eq!(counts(&dsn, "30"), "|");
    drop(silent);
    // What one proxy writes every few seconds, the others see without asking it.
    cluster.psql("SELECT 1 FROM orders WHERE tenant = 31");
    let written = "SELECT count(*) FROM tenantry.load WHERE tenant = '31'";
    assert!(wait_until(Duration::from_secs(30), || psql(&cluster.coordinator_dsn(), written) == "1"));
}

/// Two tenants of different shard groups on one server.
fn neighbours(cluster: &Cluster) -> (i64, i64) {
    let pair = cluster.psql(
        "SELECT a.t, b.t FROM
            (SELECT t, get_shard_id_for_distribution_column('orders', t) AS shardid FROM generate_series(1, 50) t) a
            JOIN pg_dist_shard_placement p ON p.shardid = a.shardid,
            (SELECT t, get_shard_id_for_distribution_column('orders', t) AS shardid FROM generate_series(1, 50) t) b
            JOIN pg_dist_shard_placement q ON q.shardid = b.shardid
         WHERE a.t < b.t AND a.shardid <> b.shardid AND p.nodeport = q.nodeport LIMIT 1",
    );
    let (first, second) = pair.split_once('|').expect("32 shards on two servers");
    (first.parse().expect("a number"), second.parse().expect("a number"))
}

fn a_rebalance_by_load_is_looked_at_first(cluster: &Cluster) {
    let (first, second) = neighbours(cluster);
    cluster.psql("SELECT citus_stat_tenants_reset()");
    for tenant in [first, second] {
        cluster.psql(&format!("SELECT pg_sleep(1.5) FROM orders WHERE tenant = {tenant} AND id = 0"));
    }
    cluster.psql("TABLE citus_stat_tenants");
    let hot = format!(
        "SELECT shardid IN (get_shard_id_for_distribution_column('orders', {first}), \
             get_shard_id_for_distribution_column('orders', {second})) \
         FROM get_rebalance_table_shards_plan(rebalance_strategy => 'by_load', max_shard_moves => 1)"
    );
    assert_eq!(cluster.psql(&hot), "t", "a hot shard goes first");
    let preview = "SELECT count(*), sum(shard_groups_before) = sum(shard_groups_after),
            sum(cost_before)::numeric(10, 3) = sum(cost_after)::numeric(10, 3), max(cost_after) < max(cost_before),
            sum(moves_in) = sum(moves_out) AND sum(moves_in) > 0, sum(bytes_in) = sum(bytes_out) AND sum(bytes_in) > 0
        FROM tenantry_rebalance_preview(rebalance_strategy => 'by_load')";
    assert_eq!(cluster.psql(preview), "2|t|t|t|t|t");
    let idle = "SELECT sum(moves_in), bool_and(cost_before = 16 AND cost_after = 16)
        FROM tenantry_rebalance_preview(rebalance_strategy => 'by_shard_count')";
    assert_eq!(cluster.psql(idle), "0|t", "by number it is even");
    // As part of a strategy of the operator's own.
    cluster.psql(
        "SELECT citus_add_rebalance_strategy('by_statements', 'tenantry_shard_cost_by_statements',
             'citus_node_capacity_1', 'citus_shard_allowed_on_node_true', 0.1)",
    );
    let own = "SELECT sum(cost_before) > 32 FROM tenantry_rebalance_preview(rebalance_strategy => 'by_statements')";
    assert_eq!(cluster.psql(own), "t");
}

fn what_the_loads_suggest_is_told(cluster: &Cluster) {
    let told = |sql: &str| cluster.psql(&format!("SELECT {sql}"));
    let (hot, _) = neighbours(cluster);
    // To servers that can carry so many times what there is.
    let recommended = |times: f64| {
        format!("FROM tenantry_recommend((SELECT {times} * sum(statements_at_once) FROM tenantry.node_load))")
    };
    let isolate =
        format!("{} WHERE recommendation = 'isolate_tenant' AND subject LIKE 'tenant {hot} of %'", recommended(4.0));
    let reason = told(&format!("reason {isolate}"));
    assert!(reason.starts_with("it makes 100 % of the load of shard group "), "{reason}");
    let command = told(&format!("command {isolate}"));
    assert_eq!(command, format!("SELECT isolate_tenant_to_new_shard('public.orders', '{hot}', 'CASCADE')"));
    let count = |times, what| told(&format!("count(*) {} WHERE recommendation = '{what}'", recommended(times)));
    assert_eq!(count(4.0, "rebalance"), "1");
    assert_eq!([count(4.0, "add_node"), count(0.1, "add_node")], ["0", "1"]);
    // Little load for two servers: the one with less of it could go.
    let drain = told(&format!("command {} WHERE recommendation = 'drain_node'", recommended(4.0)));
    assert!(drain.starts_with("SELECT citus_drain_node('127.0.0.1', "), "{drain}");
    assert_eq!(told(&format!("count(*) {}", recommended(50.0))), "0", "hardly any load says nothing");
    assert!(cluster.psql_error("SELECT tenantry_recommend(0)").contains("22023"));
    // What it says can be run, and is not said again.
    cluster.psql(&command);
    cluster.psql(&format!("SELECT pg_sleep(0.1) FROM orders WHERE tenant = {hot} AND id = 0"));
    cluster.psql("TABLE citus_stat_tenants");
    assert_eq!(told(&format!("count(*) {isolate}")), "0");
}

fn a_move_is_looked_at_and_rehearsed_in_sql(cluster: &Cluster) {
    let other = cluster.psql(
        "SELECT nodeid FROM pg_dist_node WHERE nodeport <> (SELECT nodeport FROM pg_dist_shard_placement
         WHERE shardid = get_shard_id_for_distribution_column('orders', 7)) AND groupid <> 0",
    );
    let explained = format!(
        "SELECT string_agg(aspect, ' '), bool_or(stands_in_the_way) FROM tenantry_explain_move('orders', 7, {other})"
    );
    let said = cluster.psql(&explained);
    assert!(said.ends_with("|f") && said.contains("expected hold expected time"), "{said}");
    let by_shard = format!("tenantry_rehearse_move(get_shard_id_for_distribution_column('orders', 7), {other})");
    let home = "SELECT nodeid FROM tenantry.shard_group g JOIN tenantry.shard s ON s.shard_group_id = g.id
        WHERE s.shardid = get_shard_id_for_distribution_column('orders', 7)";
    let before = cluster.psql(home);
    assert_eq!(cluster.psql(&format!("SELECT rows_copied > 0, change_milliseconds >= 0 FROM {by_shard}")), "t|t");
    assert_eq!(cluster.psql(home), before);
    assert!(cluster.psql_error(&format!("BEGIN; SELECT * FROM {by_shard}")).contains("25001"));
    let visitor = cluster.dsn().replace("postgres@", "visitor@");
    assert!(psql_error(&visitor, &explained).contains("42501"));
}
