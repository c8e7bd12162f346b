//! What operators type beside SQL: `tenantry dev`, `cluster`, `node`, `endpoint`, `check-config`, and the admin pages.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use support::serve::{Serve, psql_says};
use support::served::Served;
use support::wire_client::Client;
use support::{Cluster, psql, wait_until};

#[test]
fn the_number_of_workers_follows_the_wish() {
    let cluster = Cluster::start(1);
    let said = tenantry(&cluster, "cluster edit --workers 2");
    assert!(said.contains("Pending 2/3"), "it is shown how many servers take part: {said}");
    assert!(said.lines().last().is_some_and(|line| line.starts_with("Successful")), "{said}");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node WHERE groupid <> 0"), "2");
    assert!(tenantry(&cluster, "node list").contains(&cluster.worker_port(1).to_string()));

    let listed: serde_json::Value = serde_json::from_str(&tenantry(&cluster, "cluster list --json")).expect("JSON");
    assert_eq!((&listed[0]["status"], &listed[0]["workers"]), (&"Successful".into(), &2.into()));

    // A request can be stopped and go on, or be given up. It is asked for in SQL here, which does not wait for it.
    let complaint = cluster.psql_error("SELECT tenantry_cluster_pause()");
    assert!(complaint.contains("55000") && complaint.contains("no change of the cluster's size is under way"));
    cluster.psql("BEGIN; SELECT tenantry_cluster_edit(1); SELECT tenantry_cluster_pause(); COMMIT");
    let newest = "SELECT state || ' ' || detail FROM tenantry.cluster_request ORDER BY id DESC LIMIT 1";
    let comes = |wanted: &str| {
        let is_so = wait_until(Duration::from_secs(60), || cluster.psql(newest) == wanted);
        assert!(is_so, "{wanted} is awaited, but it says {}", cluster.psql(newest));
    };
    comes("Pending paused");
    assert!(tenantry(&cluster, "cluster cancel").contains("is cancelled after the step at hand"));
    comes("Cancelled cancelled by an operator");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node WHERE groupid <> 0 AND shouldhaveshards"), "2");
    cluster.psql("BEGIN; SELECT tenantry_cluster_edit(1); SELECT tenantry_cluster_pause(); COMMIT");
    comes("Pending paused");
    tenantry(&cluster, "cluster resume");
    comes("Successful");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node WHERE groupid <> 0"), "1");
    // Two at once are carried out one after the other.
    cluster.psql("BEGIN; SELECT tenantry_cluster_edit(2); SELECT tenantry_cluster_edit(1); COMMIT");
    let states = "SELECT string_agg(workers || ' ' || state, ', ' ORDER BY id) FROM \
                  (SELECT * FROM tenantry.cluster_request ORDER BY id DESC LIMIT 2) newest";
    let are_done = || cluster.psql(states) == "2 Successful, 1 Successful";
    assert!(wait_until(Duration::from_secs(60), are_done), "{}", cluster.psql(states));
    let order = "SELECT array_agg(id ORDER BY finished_at) = array_agg(id ORDER BY id) FROM tenantry.cluster_request";
    assert_eq!(cluster.psql(order), "t");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node WHERE groupid <> 0"), "1");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.worker_port(1))).is_err(), "its server is stopped");
}

/// Goal: a change of size that meets a rebalance waits for it: it was started by a user here, or before a crash.
/// Method: a rebalance that an open transaction keeps from ending, started before the request.
#[test]
fn a_change_of_size_waits_for_a_rebalance_under_way() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE items (tenant int, id bigint)");
    cluster.psql("SELECT create_distributed_table('items', 'tenant')");
    let leaving = cluster.worker_port(1);
    let tenant = cluster.psql(&format!(
        "SELECT t FROM generate_series(1, 100) t JOIN pg_dist_shard_placement p \
         ON p.shardid = get_shard_id_for_distribution_column('items', t) WHERE p.nodeport = {leaving} LIMIT 1"
    ));
    let mut client = Client::connect(cluster.port(), &[]);
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.query(&format!("INSERT INTO items VALUES ({tenant}, 1)")), "C(INSERT 0 1) Z(T)");
    cluster.psql(&format!("SELECT citus_set_node_property('127.0.0.1', {leaving}, 'shouldhaveshards', false)"));
    let job = cluster.psql("SELECT citus_rebalance_start(drain_only := true)");
    assert_ne!(job, "0");
    cluster.psql("SELECT tenantry_cluster_edit(3)");
    let newest =
        || cluster.psql("SELECT state || ' ' || detail FROM tenantry.cluster_request ORDER BY id DESC LIMIT 1");
    let waiting = format!("Progressing waiting for rebalance {job} ");
    assert!(wait_until(Duration::from_secs(60), || newest().starts_with(&waiting)), "{}", newest());
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    assert!(wait_until(Duration::from_secs(60), || newest() == "Successful"), "{}", newest());
    assert_eq!(cluster.psql(&format!("SELECT state FROM tenantry.job WHERE id = {job}")), "finished");
    let placed = "SELECT count(DISTINCT nodeport) FROM pg_dist_shard_placement";
    assert_eq!(cluster.psql(placed), "2", "the one that takes no shards, and the new one");
}

/// Goal: a kept cluster comes back with the workers that it had, whichever of them has been removed before, and goes on growing.
/// Method: of three, one in the middle is the newest and so the one that a smaller size ends; another is removed by SQL alone.
#[test]
fn workers_that_were_removed_stay_away_after_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // tempfile makes it 0700; the servers' user must be able to pass.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our folder");
    let data = folder.path().join("data");
    let mut cluster = Cluster::start_with(3, &["--data", data.to_str().expect("in UTF-8")]);
    let [first, middle, last] = [0, 1, 2].map(|index| cluster.worker_port(index));
    let nodes = |cluster: &Cluster| cluster.psql("SELECT array_agg(nodeport ORDER BY nodeport) FROM pg_dist_node");
    cluster.psql(&format!("SELECT citus_remove_node('127.0.0.1', {middle})"));
    cluster.psql(&format!("SELECT citus_add_node('localhost', {middle})"));
    cluster.psql("CREATE TABLE items (tenant int, id bigint)");
    cluster.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 6)");
    cluster.psql("INSERT INTO items SELECT i, i FROM generate_series(1, 100) i");
    assert!(tenantry(&cluster, "cluster edit --workers 2").contains("Successful"));
    assert_eq!(nodes(&cluster), format!("{{{first},{last}}}"));
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, middle)).is_err(), "its server is stopped");
    cluster.restart();
    assert_eq!(nodes(&cluster), format!("{{{first},{last}}}"));
    assert_eq!(cluster.psql("SELECT count(*) FROM items"), "100");

    assert!(tenantry(&cluster, "cluster edit --workers 3").contains("Successful"));
    assert_eq!(nodes(&cluster), format!("{{{first},{middle},{last}}}"));
    cluster.psql(&format!("SELECT citus_drain_node('127.0.0.1', {first})"));
    cluster.psql(&format!("SELECT citus_remove_node('127.0.0.1', {first})"));
    cluster.restart();
    assert_eq!(nodes(&cluster), format!("{{{middle},{last}}}"));
    assert_eq!(cluster.psql("SELECT count(*) FROM items"), "100");
    cluster.psql(&format!("SELECT citus_add_node('127.0.0.1', {first})"));
    assert_eq!(nodes(&cluster), format!("{{{first},{middle},{last}}}"));
}

/// Goal: a request that cannot be carried out is Failed, says why, changes nothing, and keeps no other from being carried out.
/// Method: the coordinator claims an extension that no new server can have; then it does no more.
#[test]
fn a_request_that_fails_says_why_and_leaves_nothing() {
    let cluster = Cluster::start(1);
    let claim = "SET allow_system_table_mods = on; INSERT INTO pg_extension \
                 SELECT 99999, 'nowhere', extowner, extnamespace, false, '1' FROM pg_extension WHERE extname = 'plpgsql'";
    psql(&cluster.coordinator_dsn(), claim);
    let edit = run(&["cluster", "edit", "--workers", "2", "--port", &cluster.port().to_string()]);
    let said = [edit.stdout, edit.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert_eq!(edit.status.code(), Some(1), "{said}");
    for part in
        ["Failed", "could not bring the cluster to 2 workers", "It lacks extensions that the coordinator has: nowhere."]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    let listed: serde_json::Value = serde_json::from_str(&tenantry(&cluster, "cluster list --json")).expect("JSON");
    assert_eq!((&listed[0]["status"], &listed[0]["workers"]), (&"Failed".into(), &1.into()), "{listed}");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node WHERE groupid <> 0"), "1");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.worker_port(1))).is_err(), "its server is stopped");
    psql(&cluster.coordinator_dsn(), "SET allow_system_table_mods = on; DELETE FROM pg_extension WHERE oid = 99999");
    assert!(tenantry(&cluster, "cluster edit --workers 2").contains("Successful"));
}

/// Goal: a change of size that fails leaves the servers that were to go as they were: they take shards again.
/// Method: a shard that cannot be moved stands on the server that is to go.
#[test]
fn servers_that_could_not_go_take_shards_again() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE UNLOGGED TABLE notes (tenant int)");
    cluster.psql("SELECT create_distributed_table('notes', 'tenant', shard_count => 4)");
    let edit = run(&["cluster", "edit", "--workers", "1", "--port", &cluster.port().to_string()]);
    let said = [edit.stdout, edit.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert_eq!(edit.status.code(), Some(1), "{said}");
    assert!(said.contains("could not bring the cluster to 1 workers") && said.contains("unlogged"), "{said}");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node WHERE shouldhaveshards"), "2");
    cluster.psql("DROP TABLE notes");
    assert!(tenantry(&cluster, "cluster edit --workers 1").contains("Successful"));
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node"), "1");
}

/// Goal: a change of size that meets what may pass, a server that is restarted for example, is tried again.
/// Method: the coordinator answers four of its statements as a server that is shut down does.
#[test]
fn a_change_of_size_goes_on_after_what_passes() {
    let cluster = Cluster::start(2);
    psql(
        &cluster.coordinator_dsn(),
        "CREATE SEQUENCE calls; CREATE FUNCTION shut_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('public.calls') <= 4 AND NEW.state = 'Progressing' THEN \
         RAISE EXCEPTION SQLSTATE '57P01' USING MESSAGE = 'terminating connection due to administrator command'; \
         END IF; RETURN NEW; END $$; \
         CREATE TRIGGER shut_down BEFORE UPDATE ON tenantry.cluster_request FOR EACH ROW WHEN (NEW.state = 'Progressing') \
         EXECUTE FUNCTION shut_down()",
    );
    let said = tenantry(&cluster, "cluster edit --workers 1");
    assert!(said.contains("Successful"), "{said}");
    assert!(cluster.psql("SELECT last_value FROM calls").parse::<i64>().is_ok_and(|calls| calls > 4), "it failed");
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node"), "1");
}

/// Goal: a command that waits for a change of size outlives a restart of its proxy, as the change does.
/// Method: another proxy than the cluster's own is asked; a client keeps the change from ending until that one is back.
#[test]
fn a_command_outlives_its_proxy() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE TABLE items (tenant int, id bigint)");
    cluster.psql("SELECT create_distributed_table('items', 'tenant', shard_count => 4)");
    let tenant = cluster.psql(&format!(
        "SELECT t FROM generate_series(1, 100) t JOIN pg_dist_shard_placement p \
         ON p.shardid = get_shard_id_for_distribution_column('items', t) WHERE p.nodeport = {} LIMIT 1",
        cluster.worker_port(1)
    ));
    let mut client = Client::connect(cluster.port(), &[]);
    assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.query(&format!("INSERT INTO items VALUES ({tenant}, 1)")), "C(INSERT 0 1) Z(T)");
    let port = cluster.port() + 12;
    let proxy = Serve::start(&cluster, port, "auth = \"trust-loopback\"", "");
    let arguments = ["cluster", "edit", "--workers", "1", "--port", &port.to_string()].map(str::to_owned);
    let command = std::thread::spawn(move || run(&arguments.each_ref().map(String::as_str)));
    let state = || cluster.psql("SELECT coalesce(max(state), '') FROM tenantry.cluster_request");
    assert!(wait_until(Duration::from_secs(60), || state() == "Progressing"), "{}", state());
    drop(proxy);
    let _proxy = Serve::start(&cluster, port, "auth = \"trust-loopback\"", "");
    assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    let output = command.join().expect("it ends");
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    assert!(output.status.success() && said.contains("Successful"), "{said}");
}

/// Goal: where nobody starts servers a request is told to be waiting, and can be taken back.
#[test]
fn a_request_that_nobody_carries_out_is_told_and_cancelled() {
    let served = Served::start(1);
    let port = served.proxy_port(0).to_string();
    let command = |command: &str| run(&command.split(' ').chain(["--port", &port]).collect::<Vec<_>>());
    let list =
        || -> serde_json::Value { serde_json::from_slice(&command("cluster list --json").stdout).expect("JSON") };
    served.psql("SELECT tenantry_cluster_edit(3)");
    served.psql("SELECT tenantry_cluster_edit(1)");
    let listed = list();
    let of_first = ("Pending 2/4".into(), 1.into(), 2);
    let shown = |listed: &serde_json::Value| {
        (
            listed[0]["status"].clone(),
            listed[0]["waiting"].clone(),
            listed[0]["requests"].as_array().map_or(0, Vec::len),
        )
    };
    assert_eq!(shown(&listed), of_first, "the one that comes first");
    let told = || String::from_utf8_lossy(&command("cluster list").stdout).into_owned();
    assert!(wait_until(Duration::from_secs(60), || told().contains("nobody has taken it")), "{}", told());
    assert!(told().contains("1 more wait"), "{}", told());
    for _ in 0..2 {
        assert!(command("cluster cancel").status.success());
    }
    assert_eq!(shown(&list()), ("Cancelled".into(), 0.into(), 2));
    let refused = command("cluster cancel");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && why.contains("no change of the cluster's size is under way"), "{why}");
}

/// Goal: who asks for another size while one is being changed is told what the request waits for, in all three ways, and can take
/// back that one alone.
/// Method: nobody carries requests out, so the first one, which says that it is under way, stays so; it is paused.
#[test]
fn a_request_that_waits_says_for_which_and_is_cancelled_by_its_number() {
    let served = Served::start(1);
    served.psql("SELECT tenantry_cluster_edit(2)");
    psql(&served.coordinator_dsn(), "UPDATE tenantry.cluster_request SET started_at = now()");
    let told = psql_says(&served.dsn(0), "SELECT tenantry_cluster_edit(4)");
    assert!(told.contains("request 2 waits for request 1\n"), "{told}");
    assert!(told.contains("HINT:  To take it back, run: SELECT tenantry_cluster_cancel(2);"), "{told}");
    served.psql("SELECT tenantry_cluster_pause()");
    let port = served.proxy_port(0).to_string();
    let arguments = ["cluster", "edit", "--workers", "3", "--port", &port].map(str::to_owned);
    let waiting = std::thread::spawn(move || run(&arguments.each_ref().map(String::as_str)));
    let requests = || served.psql("SELECT count(*) FROM tenantry.cluster_request");
    assert!(wait_until(Duration::from_secs(60), || requests() == "3"), "{}", requests());

    let command = |command: &str| run(&command.split(' ').chain(["--port", &port]).collect::<Vec<_>>());
    let list: serde_json::Value = serde_json::from_slice(&command("cluster list --json").stdout).expect("JSON");
    let detail = |at: usize| list[0]["requests"][at]["detail"].as_str().unwrap_or_default().to_owned();
    assert_eq!(detail(0), "waits for request 1, which is paused");
    let cancelled = command("cluster cancel --request 3");
    assert!(cancelled.status.success(), "{}", String::from_utf8_lossy(&cancelled.stderr));
    let waited = waiting.join().expect("it ends");
    let said = String::from_utf8_lossy(&waited.stdout);
    assert!(said.contains("Pending 2/4  waits for request 1, which is paused"), "{said}");
    assert_eq!(waited.status.code(), Some(1));
    let refused = String::from_utf8_lossy(&command("cluster cancel --request 3").stderr).into_owned();
    assert!(refused.contains("request 3 is not under way, and does not wait"), "{refused}");
    assert_eq!(served.psql("SELECT tenantry_cluster_resume(1), tenantry_cluster_cancel(2)"), "1|2");
    let states = "SELECT string_agg(state || ' ' || wish, ', ' ORDER BY id) FROM tenantry.cluster_request";
    assert_eq!(served.psql(states), "Pending run, Cancelled cancel, Cancelled cancel");
}

/// Goal: a request that waits for another is not taken back when its turn comes, however long it has waited.
/// Method: the test is who carries requests out. The first one ends after the time that nobody may need to take one, and the second
/// is taken a moment later.
#[test]
fn a_request_that_has_waited_for_its_turn_is_left_a_moment_to_be_taken() {
    let served = Served::start(1);
    served.psql("SELECT tenantry_cluster_edit(2)");
    let set = |what: &str| psql(&served.coordinator_dsn(), &format!("UPDATE tenantry.cluster_request SET {what}"));
    set("started_at = now()");
    let port = served.proxy_port(0).to_string();
    let command = std::thread::spawn(move || run(&["cluster", "edit", "--workers", "3", "--port", &port]));
    let comes = |condition: &str| {
        let sql = format!("SELECT count(*) FROM tenantry.cluster_request WHERE {condition}");
        assert!(wait_until(Duration::from_secs(60), || served.psql(&sql) == "1"), "{condition}");
    };
    comes("id = 2 AND created_at < now() - interval '11 s'");
    set("state = 'Successful', finished_at = now() WHERE id = 1");
    comes("id = 1 AND finished_at < now() - interval '1 s'");
    set("started_at = now() WHERE id = 2");
    set("state = 'Successful', finished_at = now() WHERE id = 2");
    let output = command.join().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `tenantry dev` carries out what is asked for at another proxy of the cluster, over HTTP.
#[test]
fn the_number_of_workers_is_asked_for_over_http() {
    let cluster = Cluster::start(1);
    let (port, pages) = (cluster.port() + 12, cluster.port() + 13);
    let trust = "auth = \"trust-loopback\"";
    let _proxy = Serve::start(&cluster, port, trust, &format!("[admin]\nport = {pages}\ntoken = \"open sesame\""));
    let ask = |method: &str, path: &str, token: &str, body: &str| {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n");
        http(pages, &format!("{head}Authorization: Bearer {token}\r\n\r\n{body}"))
    };
    // Every proxy says where it is reached.
    let endpoints =
        || -> serde_json::Value { serde_json::from_str(&tenantry(&cluster, "endpoint list --json")).expect("JSON") };
    let all = |endpoints: &serde_json::Value| endpoints.as_array().is_some_and(|rows| rows.len() == 2);
    assert!(wait_until(Duration::from_secs(20), || all(&endpoints())), "{}", endpoints());
    let listed = endpoints();
    let of = |port: u16| {
        let string = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        listed.as_array().and_then(|rows| rows.iter().find(|row| row["connection"] == string.as_str())).cloned()
    };
    let (first, second) = (of(cluster.port()).expect("a row"), of(port).expect("a row"));
    assert_eq!((&first["metrics"], &first["dashboard"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!(second["metrics"], format!("http://127.0.0.1:{pages}/metrics").as_str());
    assert_eq!(second["dashboard"], format!("http://127.0.0.1:{pages}/").as_str());
    assert!(tenantry(&cluster, "endpoint list").contains(&format!("http://127.0.0.1:{pages}/metrics")));

    let two = r#"{"workers": 2}"#;
    for (path, token, body, status) in [
        ("/api/cluster", "wrong", two, "401"),
        ("/api/cluster", "open sesame", r#"{"workers": 0}"#, "400"),
        ("/api/cluster", "open sesame", "two", "400"),
        ("/api/cluster/pause", "open sesame", "", "409"),
        ("/api/cluster/pause", "", "", "401"),
        ("/api/cluster/cancel", "open sesame", r#"{"request": 1}"#, "409"),
        ("/api/cluster/cancel", "open sesame", r#"{"request": "one"}"#, "400"),
        ("/api/cluster/explode", "open sesame", "", "404"),
    ] {
        let answer = ask("POST", path, token, body);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {token} {body}: {answer}");
    }
    assert!(ask("GET", "/api/cluster", "", "").contains(r#"{"requests":[],"workers":1}"#));
    let asked = ask("POST", "/api/cluster", "open sesame", two);
    assert!(asked.starts_with("HTTP/1.1 202") && asked.ends_with(r#"{"id":1}"#), "{asked}");
    let is_done = || ask("GET", "/api/cluster", "", "").contains(r#""state":"Successful""#);
    assert!(wait_until(Duration::from_secs(60), is_done), "{}", ask("GET", "/api/cluster", "", ""));
    assert!(ask("GET", "/api/cluster", "", "").contains(r#""workers":2"#));
    assert_eq!(cluster.psql("SELECT count(*) FROM pg_dist_node WHERE groupid <> 0"), "2");
}

#[test]
fn a_taken_port_is_refused_by_name() {
    let cluster = Cluster::start(1);
    let output = run(&["dev", "--port", &cluster.port().to_string()]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint.contains(&format!("port {} is in use", cluster.port())), "{complaint}");
    // And the first one does not mind.
    assert_eq!(cluster.psql("SELECT 1"), "1");
}

#[test]
fn metrics_and_health_are_pages() {
    let ports = support::ports::PortRange::reserve();
    let port = ports.first.to_string();
    let cluster = Cluster::start_with(1, &["--admin-port", &port, "--admin-token", "open sesame"]);
    let two = "POST /api/cluster HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 14\r\n";
    let asked = http(ports.first, &format!("{two}Authorization: Bearer open sesame\r\n\r\n{{\"workers\": 2}}"));
    assert!(asked.starts_with("HTTP/1.1 202"), "{asked}");
    assert!(page(ports.first, "/healthz").ends_with("ok\n"));
    assert!(page(ports.first, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(page(ports.first, "/metrics").starts_with("HTTP/1.1 200"));
    let nodes = page(ports.first, "/api/nodes");
    assert!(nodes.contains(&format!("\"port\":{}", cluster.worker_port(0))), "{nodes}");
    let dashboard = page(ports.first, "/");
    assert!(dashboard.starts_with("HTTP/1.1 200") && dashboard.contains("<title>Tenantry</title>"), "{dashboard}");
    let script = page(ports.first, "/dashboard.js");
    assert!(script.contains("content-security-policy: default-src 'none'"), "{script}");
    // Whatever it names is there.
    for text in [&dashboard, &script] {
        let names = text.split('"').filter(|name| {
            name.starts_with("api/") || ["readyz", "metrics", "dashboard.js", "dashboard.css"].contains(name)
        });
        for name in names {
            assert!(page(ports.first, &format!("/{name}")).starts_with("HTTP/1.1 200"), "{name}");
        }
    }
}

#[test]
fn the_example_configuration_is_valid() {
    let output = run(&["check-config", "--config", "config/tenantry.toml"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn wrong_arguments_and_failures_have_different_exit_codes() {
    assert_eq!(run(&["cluster", "shrink"]).status.code(), Some(64));
    assert_eq!(run(&["check-config", "--config", "/nonexistent"]).status.code(), Some(1));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

/// What a command prints for this cluster; panics when it fails.
fn tenantry(cluster: &Cluster, command: &str) -> String {
    let port = cluster.port().to_string();
    let output = run(&command.split(' ').chain(["--port", &port]).collect::<Vec<_>>());
    assert!(output.status.success(), "tenantry {command} failed: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().expect("the built binary can be run")
}

fn page(port: u16, path: &str) -> String {
    http(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the admin server listens");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
