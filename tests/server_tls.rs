//! Encryption between the proxy and its servers: `tenantry serve` in front of servers that let nobody in without, and
//! verified as libpq's `sslmode` says. Passwords from a file for roles that show none.

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::serve::{Authority, Serve, psql_says};
use support::{Cluster, wait_until};

#[test]
fn servers_are_reached_by_tls_and_verified() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE ROLE app LOGIN PASSWORD 'correct horse'; CREATE ROLE robot LOGIN PASSWORD 'tin:man'");
    cluster.psql("CREATE ROLE steward SUPERUSER REPLICATION LOGIN PASSWORD 'keys'");
    cluster.psql("CREATE TABLE orders (tenant int PRIMARY KEY, note text)");
    cluster.psql("SELECT create_distributed_table('orders', 'tenant')");
    cluster.psql("INSERT INTO orders SELECT t, 'note' FROM generate_series(1, 50) t");
    cluster.psql("GRANT ALL ON orders TO app, robot");
    let authority = Authority::new();
    authority.sign("server");
    let servers = [cluster.coordinator_dsn(), cluster.worker_dsn(0), cluster.worker_dsn(1)];
    for server in &servers {
        install(server, &authority, "server");
        demand_tls(server);
    }

    let passwords = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(passwords.path(), "*:*:postgres:robot:tin\\:man\n127.0.0.1:*:*:steward:keys\n").expect("written");
    std::fs::set_permissions(passwords.path(), std::fs::Permissions::from_mode(0o600)).expect("they can be set");
    // `Serve` begins the coordinator's section.
    let settings = |mode: &str| {
        let (file, ca) = (passwords.path().display(), authority.file("ca.crt"));
        format!("user = \"steward\"\npassword_file = \"{file}\"\n[server_tls]\nmode = \"{mode}\"\nca = \"{ca}\"")
    };
    let listen = "hba = [\"host all robot all trust\", \"host all all all scram-sha-256\"]";
    let port = cluster.port() + 12;
    let dsn = |user: &str, password: &str| {
        format!("host=127.0.0.1 port={port} user={user} dbname=postgres password='{password}'")
    };

    let proxy = Serve::start(&cluster, port, listen, &settings("verify-full"));
    let app = dsn("app", "correct horse");
    assert_eq!(psql_says(&app, "SELECT count(*) FROM orders"), "50");
    assert_eq!(
        psql_says(&app, "UPDATE orders SET note = 'x' WHERE tenant IN (1, 2, 3, 4) RETURNING note"),
        "x\nx\nx\nx"
    );
    are_encrypted("app", &servers[1..]);
    assert_eq!(psql_says(&dsn("robot", ""), "SELECT current_user, count(*) FROM orders"), "robot|50");
    are_encrypted("robot", &servers[1..]);
    are_encrypted("steward", &servers[1..]);
    a_move_goes_through(&dsn("steward", "keys"), &cluster);
    a_cancel_goes_through(&app, &servers[1..]);
    drop(proxy);

    // A certificate that is another host's, then one of another authority's.
    authority.sign_for("elsewhere", "DNS:elsewhere.example");
    let strangers = Authority::new();
    strangers.sign("stranger");
    for server in &servers {
        install(server, &authority, "elsewhere");
    }
    let refused = Serve::refuses_to_start(&cluster, port, listen, &settings("verify-full"));
    assert!(refused.contains("certificate not valid for name"), "{refused}");
    let proxy = Serve::start(&cluster, port, listen, &settings("verify-ca"));
    assert_eq!(psql_says(&app, "SELECT note FROM orders WHERE tenant = 1"), "x");
    drop(proxy);
    for server in &servers {
        install(server, &strangers, "stranger");
    }
    let refused = Serve::refuses_to_start(&cluster, port, listen, &settings("verify-ca"));
    assert!(refused.contains("invalid peer certificate"), "{refused}");

    // Servers that can't encrypt.
    for server in &servers {
        support::psql(server, "ALTER SYSTEM SET ssl TO off");
        support::psql(server, "SELECT pg_reload_conf()");
        let is_off = || support::psql(server, "SHOW ssl") == "off";
        assert!(wait_until(Duration::from_secs(10), is_off));
    }
    let refused = Serve::refuses_to_start(&cluster, port, listen, &settings("require"));
    assert!(refused.contains("server does not support SSL, but SSL was required"), "{refused}");
}

/// The role has connections to these servers, and none in the clear.
fn are_encrypted(role: &str, servers: &[String]) {
    for server in servers {
        let encrypted = "SELECT string_agg(DISTINCT ssl::text, ',') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)";
        assert_eq!(support::psql(server, &format!("{encrypted} WHERE usename = '{role}'")), "true", "{role}");
    }
}

/// Rows and changes leave by a replication connection, which is encrypted too.
fn a_move_goes_through(steward: &str, cluster: &Cluster) {
    let (first, second) = (cluster.worker_port(0), cluster.worker_port(1));
    let shard = format!(
        "SELECT shardid FROM pg_dist_placement JOIN pg_dist_node USING (groupid) WHERE nodeport = {first} LIMIT 1"
    );
    let shard = psql_says(steward, &shard);
    let moved = format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {first}, '127.0.0.1', {second})");
    assert_eq!(psql_says(steward, &moved), "");
    let place =
        format!("SELECT nodeport FROM pg_dist_placement JOIN pg_dist_node USING (groupid) WHERE shardid = {shard}");
    assert_eq!(psql_says(steward, &place), second.to_string());
    assert_eq!(psql_says(steward, "SELECT count(*) FROM orders"), "50");
}

fn a_cancel_goes_through(app: &str, workers: &[String]) {
    let mut psql = Command::new("psql")
        .args(["-X", "-q", "-v", "VERBOSITY=verbose", "-d", app, "-c"])
        .arg("SELECT pg_sleep(60) FROM orders WHERE tenant = 7")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql runs");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND query LIKE '%pg_sleep(60)%'";
    let sleeps = || workers.iter().any(|worker| support::psql(worker, sleeping) != "0");
    assert!(wait_until(Duration::from_secs(10), sleeps));
    support::signal(psql.id(), "INT");
    let mut said = String::new();
    psql.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
    psql.wait().expect("it ends");
    assert!(said.contains("57014"), "{said}");
}

/// The server's certificate is the authority's `name`, from here on.
fn install(server: &str, authority: &Authority, name: &str) {
    let data = support::psql(server, "SHOW data_directory");
    for (file, of) in [("server.crt", format!("{name}.crt")), ("server.key", format!("{name}.key"))] {
        let text = std::fs::read_to_string(authority.file(&of)).expect("it was signed");
        support::psql(
            server,
            &format!(
                "COPY (SELECT regexp_split_to_table('{text}', E'\\n')) TO PROGRAM 'umask 077; cat > {data}/{file}'"
            ),
        );
    }
    support::psql(server, "ALTER SYSTEM SET ssl TO on");
    support::psql(server, "SELECT pg_reload_conf()");
    assert!(wait_until(Duration::from_secs(10), || support::psql(server, "SHOW ssl") == "on"));
}

/// Rules before all others: these roles prove themselves, and encrypt.
fn demand_tls(server: &str) {
    let file = support::psql(server, "SHOW hba_file");
    let rules = "hostssl all app,robot,steward all scram-sha-256\nhost all app,robot,steward all reject\n";
    let rules = format!("SELECT regexp_split_to_table('{rules}' || pg_read_file('{file}'), E'\\n')");
    support::psql(server, &format!("COPY ({rules}) TO '{file}.new'"));
    support::psql(server, &format!("COPY (SELECT 1) TO PROGRAM 'mv {file}.new {file} && cat > /dev/null'"));
    support::psql(server, "SELECT pg_reload_conf()");
    assert_eq!(support::psql(server, "SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL"), "0");
}
