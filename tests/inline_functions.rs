//! Functions that are ordinary SQL on the coordinator, called through the proxy wherever an expression or a relation may
//! stand.

mod support;

use support::{Cluster, psql};

#[test]
fn inline_functions_are_found_wherever_they_are_called() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE orders (tenant_id bigint, id bigint, note text, PRIMARY KEY (tenant_id, id))");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant_id')");
    cluster.psql("CREATE TABLE countries (code text PRIMARY KEY)");
    cluster.psql("SELECT create_reference_table('countries')");

    assert!(cluster.psql("SELECT citus_version()").starts_with("Citus "));
    assert!(cluster.psql("SELECT pg_catalog.citus_version()").starts_with("Citus "));
    let workers = format!("127.0.0.1|{}\n127.0.0.1|{}", cluster.worker_port(0), cluster.worker_port(1));
    assert_eq!(cluster.psql("SELECT * FROM citus_get_active_worker_nodes()"), workers);
    assert_eq!(cluster.psql("SELECT (w).node_port FROM master_get_active_worker_nodes() AS w LIMIT 0"), "");
    let key = "SELECT column_to_column_name(logicalrelid, partkey) FROM pg_dist_partition WHERE partmethod = 'h'";
    assert_eq!(cluster.psql(key), "tenant_id");
    assert_eq!(
        cluster.psql("SELECT shard_name('orders', get_shard_id_for_distribution_column('orders', 1)) AS name"),
        cluster.psql(
            "SELECT shard_name(logicalrelid, shardid) FROM pg_dist_shard WHERE logicalrelid = 'orders'::regclass \
             AND shardid = get_shard_id_for_distribution_column('orders', 1)"
        )
    );
    // Inside the arguments of a function that the proxy carries out, and beside it.
    assert_eq!(
        cluster.psql(
            "SELECT citus_total_relation_size((SELECT logicalrelid FROM pg_dist_partition WHERE partmethod = 'h' \
             AND column_to_column_name(logicalrelid, partkey) = 'tenant_id')) > 0, citus_is_coordinator()"
        ),
        "t|t"
    );
    assert_eq!(
        cluster.psql_script("SELECT citus_version(), citus_coordinator_nodeid() \\gdesc"),
        "citus_version|text\ncitus_coordinator_nodeid|integer"
    );
    assert!(cluster.psql_script("PREPARE p AS SELECT citus_version();\nEXECUTE p;").starts_with("Citus "));
    assert!(cluster.psql("EXPLAIN SELECT * FROM citus_get_active_worker_nodes()").contains("cost="));

    for sql in [
        "UPDATE orders SET note = citus_version() WHERE tenant_id = 1",
        "INSERT INTO orders VALUES (1, 1, citus_version())",
        "INSERT INTO countries VALUES (citus_version())",
    ] {
        let complaint = cluster.psql_error(sql);
        assert!(complaint.contains("0A000"), "{sql}: {complaint}");
    }

    cluster.psql("CREATE ROLE reader LOGIN");
    let reader = cluster.dsn().replace("//postgres@", "//reader@");
    assert_eq!(psql(&reader, "SELECT * FROM citus_get_active_worker_nodes()"), workers);
    assert_ne!(psql(&reader, "SELECT get_shard_id_for_distribution_column('orders', 1)"), "");
}
