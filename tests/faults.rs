//! Faults around the proxy: what others plant for it, a catalog that does not answer or does not take writes, a log that
//! nobody can write. One cluster; each part leaves it in order.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::served::Served;
use support::wire_client::Client;
use support::{psql, signal, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
const ONE_ROW: &str = "T D(1) C(SELECT 1) Z(I)";

#[test]
fn faults_around_the_proxy_harm_nobody() {
    let mut served = Served::start_with(2, 1, "[pool]\nsilence_max = \"60s\"\n");
    let tenants = served.tenants();
    t10_planted_operators_are_never_run(&mut served, &tenants);
    t47_a_catalog_that_stands_still_stops_no_settled_tenant(&served, &tenants);
    t47_a_catalog_that_takes_no_writes_lets_tenants_write(&served, &tenants);
    t46_a_log_that_is_full_stops_nobody(&mut served, &tenants);
    assert!(!served.logged(0).contains("panicked"), "{}", served.logged(0));
}

fn read(tenant: &str) -> String {
    format!("SELECT id FROM items WHERE tenant = {tenant}")
}

/// The statement that moves a tenant's shard to the other worker. Asked for without operators that may be planted.
fn move_away(served: &Served, tenant: &str) -> String {
    let sql = format!(
        "SELECT shardid, nodeport FROM pg_dist_shard_placement \
         WHERE shardid OPERATOR(pg_catalog.=) get_shard_id_for_distribution_column('items', {tenant})"
    );
    let (shard, port) = served.psql(&sql).split_once('|').map(|(s, p)| (s.to_owned(), p.to_owned())).expect("two");
    let ports = [served.worker_port(0).to_string(), served.worker_port(1).to_string()];
    let other = ports.iter().find(|other| **other != port).expect("another");
    format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {port}, '127.0.0.1', {other})")
}

/// The database's own search_path puts a schema first, on every server, whose operators and functions tell on who runs
/// them. Nothing of the proxy's does: logins, statements of tenants, commits over servers, moves.
fn t10_planted_operators_are_never_run(served: &mut Served, tenants: &[String]) {
    let mut plant = "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; CREATE TABLE evil.calls (what text);
         GRANT INSERT ON evil.calls TO PUBLIC;"
        .to_owned();
    for (n, of) in ["text", "name", "int4", "int8", "oid", "\"char\""].iter().enumerate() {
        for (m, operator) in ["=", "<>", "<", ">"].iter().enumerate() {
            plant.push_str(&format!(
                "CREATE FUNCTION evil.f{n}_{m}({of}, {of}) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog AS
                 $$ BEGIN INSERT INTO evil.calls VALUES ('{of} {operator} ' || pg_catalog.current_query());
                 RETURN $1 {operator} $2; END $$;
                 CREATE OPERATOR evil.{operator} (LEFTARG = {of}, RIGHTARG = {of}, FUNCTION = evil.f{n}_{m});"
            ));
        }
    }
    for (name, returns) in [("now()", "timestamptz"), ("pg_backend_pid()", "int"), ("current_schemas(bool)", "name[]")]
    {
        let argument = if name.contains("bool") { "$1" } else { "" };
        let call = format!("pg_catalog.{}({argument})", name.split('(').next().expect("a name"));
        plant.push_str(&format!(
            "CREATE FUNCTION evil.{name} RETURNS {returns} LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO evil.calls VALUES ('{name}'); RETURN {call}; END $$;"
        ));
    }
    let set = "ALTER DATABASE postgres SET search_path = evil, pg_catalog, public";
    let dsns = [served.coordinator_dsn(), served.worker_dsn(0), served.worker_dsn(1)];
    dsns.iter().for_each(|dsn| drop(psql(dsn, &format!("{plant} {set};"))));
    // They work: what asks for them without care runs them.
    psql(&dsns[0], "SELECT 1 WHERE 'a'::text = 'a'::text");
    assert_eq!(psql(&dsns[0], "SELECT pg_catalog.count(*) FROM evil.calls"), "1");
    psql(&dsns[0], "TRUNCATE evil.calls");

    served.kill_proxy(0);
    served.start_proxy(0);
    let mut client = Client::connect(served.proxy_port(0), &[("search_path", "public")]);
    assert_eq!(client.query(&read(&tenants[0])), ONE_ROW);
    let both = tenants.iter().map(|t| format!("UPDATE items SET id = 1 WHERE tenant = {t};")).collect::<String>();
    assert!(client.query(&format!("BEGIN; {both} COMMIT")).ends_with("C(COMMIT) Z(I)"));
    let moving = move_away(served, &tenants[0]);
    served.psql(&moving);
    assert_eq!(client.query(&read(&tenants[0])), ONE_ROW);
    let back = move_away(served, &tenants[0]);
    served.psql(&back);
    let calls = "SELECT DISTINCT pg_catalog.left(what, 200) FROM evil.calls";
    let seen: Vec<_> = dsns.iter().map(|dsn| psql(dsn, calls)).collect();
    assert!(seen.iter().all(String::is_empty), "{seen:?}");
    for dsn in &dsns {
        psql(dsn, "ALTER DATABASE postgres RESET search_path; DROP SCHEMA evil CASCADE");
    }
    served.kill_proxy(0);
    served.start_proxy(0);
}

/// Every process of the coordinator.
fn coordinator(served: &Served) -> Vec<u32> {
    let pids = psql(
        &served.coordinator_dsn(),
        "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
         UNION ALL SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int",
    );
    pids.lines().map(|pid| pid.parse().expect("a process id")).collect()
}

fn t47_a_catalog_that_stands_still_stops_no_settled_tenant(served: &Served, tenants: &[String]) {
    let mut clients: Vec<_> = tenants.iter().map(|_| Client::connect(served.proxy_port(0), &[])).collect();
    for (client, tenant) in clients.iter_mut().zip(tenants) {
        assert_eq!(client.query(&read(tenant)), ONE_ROW);
    }
    let moving = move_away(served, &tenants[0]);
    let mut mover = Client::connect(served.proxy_port(0), &[]);
    mover.query("SELECT 1");
    let frozen = coordinator(served);
    frozen.iter().for_each(|pid| signal(*pid, "STOP"));
    // In it somebody who needs the catalog; he waits.
    mover.send(&moving);
    for round in 0..20 {
        for (client, tenant) in clients.iter_mut().zip(tenants) {
            assert_eq!(client.query(&read(tenant)), ONE_ROW);
            let written = client.query(&format!("UPDATE items SET id = 1 WHERE tenant = {tenant}"));
            assert_eq!(written, "C(UPDATE 1) Z(I)", "round {round}");
            let inside = client.query(&format!("BEGIN; DELETE FROM items WHERE tenant = {tenant}; ROLLBACK"));
            assert_eq!(inside, "C(BEGIN) C(DELETE 1) C(ROLLBACK) Z(I)");
        }
    }
    frozen.iter().for_each(|pid| signal(*pid, "CONT"));
    // It moves, or says why not; either way the tenant is whole afterwards.
    let told = mover.answer();
    assert!(told.contains("Z(I)") || told.contains("closed"), "{told}");
    let is_served = || tenants.iter().all(|t| Client::connect(served.proxy_port(0), &[]).query(&read(t)) == ONE_ROW);
    assert!(wait_until(PATIENCE, is_served));
    if told.contains("C(SELECT 1)") {
        served.psql(&move_away(served, &tenants[0]));
    }
}

fn t47_a_catalog_that_takes_no_writes_lets_tenants_write(served: &Served, tenants: &[String]) {
    let dsn = served.coordinator_dsn();
    let read_only = |value: &str| {
        psql(&dsn, &format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        psql(&dsn, "SELECT pg_reload_conf()");
    };
    let mut client = Client::connect(served.proxy_port(0), &[]);
    read_only("on");
    assert!(wait_until(PATIENCE, || psql(&dsn, "SHOW default_transaction_read_only") == "on"));
    for tenant in tenants {
        let written = client.query(&format!("UPDATE items SET id = 1 WHERE tenant = {tenant}"));
        assert_eq!(written, "C(UPDATE 1) Z(I)");
    }
    // The decision cannot be written: all or nothing is nothing.
    let both = tenants.iter().map(|t| format!("UPDATE items SET id = 2 WHERE tenant = {t};")).collect::<String>();
    let told = client.query(&format!("BEGIN; {both} COMMIT"));
    assert!(told.contains("E(") && told.ends_with("Z(I)"), "{told}");
    read_only("off");
    assert!(wait_until(PATIENCE, || psql(&dsn, "SHOW default_transaction_read_only") == "off"));
    let is_ended = || served.everywhere("SELECT gid FROM pg_prepared_xacts").iter().all(String::is_empty);
    assert!(wait_until(PATIENCE, is_ended), "{:?}", served.everywhere("SELECT gid FROM pg_prepared_xacts"));
    for tenant in tenants {
        assert_eq!(client.query(&read(tenant)), ONE_ROW, "nothing of it stays");
    }
}

fn t46_a_log_that_is_full_stops_nobody(served: &mut Served, tenants: &[String]) {
    served.start_proxy(1);
    served.kill_proxy(1);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("it is there");
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .args(["serve", "--config"])
        .arg(served.config_file(1))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(full)
        .spawn()
        .expect("the built binary can be run");
    let port = served.proxy_port(1);
    let serves = || std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_ok();
    assert!(wait_until(PATIENCE, serves), "it starts: {:?}", proxy.try_wait());
    let mut client = Client::connect(port, &[]);
    for tenant in tenants {
        assert_eq!(client.query(&read(tenant)), ONE_ROW);
        assert!(client.query("SELECT 1 FROM nothing").contains("E(42P01)"));
    }
    assert!(proxy.try_wait().expect("it can be asked").is_none(), "it lives");
    proxy.kill().expect("it runs");
    proxy.wait().expect("it ends");
}
