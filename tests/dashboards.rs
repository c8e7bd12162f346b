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
