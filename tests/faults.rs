//! Faults around the proxy: what others plant for it, a catalog that does not answer, takes no writes or is an old one, disks
//! that are full, clocks that jump. One cluster; each part leaves it in order.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::disk::Disk;
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
    t47_a_catalog_that_has_lost_moves_is_not_believed(&mut served, &tenants);
    t46_a_log_that_is_full_stops_nobody(&mut served, &tenants);
    t46_a_disk_that_is_full_is_told_of(&served, &tenants);
    t46_a_move_to_a_full_disk_leaves_the_tenant_where_he_is(&served, &tenants[0]);
    t48_clocks_that_jump_change_nothing(&mut served, &tenants);
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

/// The coordinator's catalog becomes that of a backup which was made before a tenant moved.
fn t47_a_catalog_that_has_lost_moves_is_not_believed(served: &mut Served, tenants: &[String]) {
    let moving = move_away(served, &tenants[0]);
    served.psql(&moving);
    let dsn = served.coordinator_dsn();
    let group = "(SELECT shard_group_id FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1)";
    let node = psql(&dsn, &format!("SELECT nodeid FROM tenantry.shard_group WHERE id = {group}"));
    let other = psql(&dsn, &format!("SELECT nodeid FROM tenantry.node WHERE groupid > 0 AND nodeid <> {node}"));
    let group = psql(&dsn, &format!("SELECT {group}"));
    let is_older = |served: &Served| Served::metric(&served.metrics(0), "tenantry_catalog_is_older");
    assert!(wait_until(PATIENCE, || is_older(served) == Some(0.0)));
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let forget = format!(
        "CREATE TABLE public.newest AS SELECT * FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1; \
         DELETE FROM tenantry.shard_move WHERE moveid = (SELECT moveid FROM public.newest); \
         UPDATE tenantry.shard_group SET nodeid = {other} WHERE id = {group}"
    );
    psql(&dsn, &format!("BEGIN; {forget}; COMMIT"));
    assert!(wait_until(PATIENCE, || is_older(served) == Some(1.0)), "it is seen");
    assert!(served.logged(0).contains("the catalog is older than what this proxy has read before"));
    for tenant in tenants {
        assert_eq!(client.query(&read(tenant)), ONE_ROW, "tenants are where they are");
        assert_eq!(client.query(&format!("UPDATE items SET id = 1 WHERE tenant = {tenant}")), "C(UPDATE 1) Z(I)");
        assert_eq!(Client::connect(served.proxy_port(0), &[]).query(&read(tenant)), ONE_ROW);
    }
    assert_eq!(client.query(&moving), "E(55000) Z(I)", "nothing is moved by such a catalog");
    // The remedy: placements are put right, and the proxy is started again.
    psql(&dsn, &format!("UPDATE tenantry.shard_group SET nodeid = {node} WHERE id = {group}"));
    assert_eq!(client.query(&read(&tenants[0])), ONE_ROW);
    assert_eq!(is_older(served), Some(1.0), "the move is still missing");
    served.kill_proxy(0);
    served.start_proxy(0);
    assert!(wait_until(PATIENCE, || is_older(served) == Some(0.0)));
    psql(&dsn, "INSERT INTO tenantry.shard_move SELECT * FROM public.newest; DROP TABLE public.newest");
    let back = move_away(served, &tenants[0]);
    served.psql(&back);
    for tenant in tenants {
        assert_eq!(Client::connect(served.proxy_port(0), &[]).query(&read(tenant)), ONE_ROW);
    }
}

/// One tenant's shard lies on a disk of 2 MB, and so does what a trigger of it fills at PREPARE.
fn t46_a_disk_that_is_full_is_told_of(served: &Served, tenants: &[String]) {
    let port = psql_of(served, &tenants[1], "nodeport");
    let worker = (0..2).find(|worker| served.worker_port(*worker).to_string() == port).expect("one of both");
    let dsn = served.worker_dsn(worker);
    let Some(disk) = Disk::mount(Path::new(&psql(&dsn, "SHOW data_directory")), "small-disk", 2) else {
        eprintln!("skipped: nobody lets us mount a disk, so T46 of a server's disk is not shown here");
        return;
    };
    served.psql("CREATE TABLE notes (tenant int, note text)");
    served.psql("SELECT create_distributed_table('notes', 'tenant', colocate_with => 'items')");
    served.psql(&format!(
        "ALTER TABLE notes ALTER note SET STORAGE EXTERNAL; INSERT INTO notes VALUES ({}, '')",
        tenants[1]
    ));
    let shard = format!("public_{}.notes", psql_of(served, &tenants[1], "shardid"));
    psql(&dsn, &format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
    psql(&dsn, &format!("ALTER TABLE {shard} SET TABLESPACE small"));
    psql(
        &dsn,
        "CREATE TABLE public.filler (note text) TABLESPACE small; ALTER TABLE public.filler ALTER note SET STORAGE EXTERNAL",
    );
    let long = "repeat('x', 4000000)";
    let insert = format!("INSERT INTO notes VALUES ({}, {long})", tenants[1]);
    let count = format!("SELECT count(*) FROM notes WHERE tenant = {}", tenants[1]);
    let other = format!("INSERT INTO notes VALUES ({}, 'short')", tenants[0]);
    let mut client = Client::connect(served.proxy_port(0), &[]);
    for round in 0..2 {
        assert_eq!(client.query(&insert), "E(53100) Z(I)", "round {round}");
        assert!(client.run_prepared("", &insert, &[]).ends_with("E(53100) Z(I)"));
        assert_eq!(client.query(&count), ONE_ROW, "the session goes on");
        assert_eq!(client.query(&other), "C(INSERT 0 1) Z(I)", "and so does the other server");
    }
    // The second server has no room in the middle of a transaction over both, then when it prepares it.
    let others = format!("SELECT count(*) FROM notes WHERE tenant = {}", tenants[0]);
    let two = "T D(2) C(SELECT 1) Z(I)";
    assert_eq!(client.query(&others), two);
    assert_eq!(client.query(&format!("BEGIN; {other}; {insert}")), "C(BEGIN) C(INSERT 0 1) E(53100) Z(E)");
    assert_eq!(client.query("COMMIT"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.query(&format!("{other}, ({}, {long})", tenants[1])), "E(53100) Z(I)");
    assert_eq!(client.query(&others), two, "nothing of it stays");
    psql(
        &dsn,
        &format!(
            "CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO public.filler VALUES ({long}); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER fill AFTER INSERT ON {shard} DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION public.fill()"
        ),
    );
    let short = format!("INSERT INTO notes VALUES ({}, '')", tenants[1]);
    assert_eq!(
        client.query(&format!("BEGIN; {other}; {short}; COMMIT")),
        "C(BEGIN) C(INSERT 0 1) C(INSERT 0 1) E(53100) Z(I)"
    );
    assert_eq!(client.query(&others), two, "nor of this");
    assert_eq!(client.query(&count), ONE_ROW);
    assert!(served.everywhere("SELECT gid FROM pg_prepared_xacts").iter().all(String::is_empty));
    // There is room again.
    psql(&dsn, &format!("DROP TRIGGER fill ON {shard}; DROP TABLE public.filler; DROP FUNCTION public.fill()"));
    assert!(client.query(&format!("BEGIN; {other}; {short}; COMMIT")).ends_with("C(COMMIT) Z(I)"));
    assert_eq!(client.query("DROP TABLE notes"), "C(DROP TABLE) Z(I)");
    let is_dropped = || {
        psql(
            &dsn,
            "SELECT count(*) FROM pg_class WHERE reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'small')",
        ) == "0"
    };
    assert!(wait_until(PATIENCE, is_dropped));
    psql(&dsn, "DROP TABLESPACE small");
}

/// The disk of the server that a shard moves to is full before all of it is copied, or when the rest is written: the move is told 53100,
/// nothing of it stays, and its next attempt succeeds when there is room.
fn t46_a_move_to_a_full_disk_leaves_the_tenant_where_he_is(served: &Served, tenant: &str) {
    const LEFT: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%'";
    let home = psql_of(served, tenant, "nodeport");
    let target = (0..2).find(|worker| served.worker_port(*worker).to_string() != home).expect("one of both");
    let dsn = served.worker_dsn(target);
    let Some(disk) = Disk::mount(Path::new(&psql(&dsn, "SHOW data_directory")), "disk-of-the-target", 4) else {
        eprintln!("skipped: nobody lets us mount a disk, so T46 of a move's target is not shown here");
        return;
    };
    served.psql("CREATE TABLE papers (tenant int, id int, paper text, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('papers', 'tenant', colocate_with => 'items')");
    served.psql("ALTER TABLE papers ALTER paper SET STORAGE EXTERNAL");
    let insert = |first: u32, count: u32| {
        let rows = format!("{tenant}, i, repeat('x', 100000) FROM generate_series({first}, {})", first + count - 1);
        served.psql(&format!("INSERT INTO papers SELECT {rows} i"));
    };
    insert(1, 80);
    psql(&dsn, &format!("CREATE TABLESPACE tight LOCATION '{}'", disk.path().display()));
    psql(&dsn, "ALTER DATABASE postgres SET default_tablespace = tight");
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let moving = move_away(served, tenant);
    let count = format!("SELECT count(*) FROM papers WHERE tenant = {tenant}");
    let is_as_before = |client: &mut Client, rows: u32| {
        assert_eq!(psql_of(served, tenant, "nodeport"), home);
        assert_eq!(client.query(&count), format!("T D({rows}) C(SELECT 1) Z(I)"));
        assert_eq!(
            client.query(&format!("UPDATE papers SET id = id WHERE tenant = {tenant} AND id = 1")),
            "C(UPDATE 1) Z(I)"
        );
        let gone = wait_until(PATIENCE, || served.everywhere(LEFT).is_empty());
        assert!(gone, "{:?}", served.everywhere(LEFT));
        let empty = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname ~ '^public_' AND reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'tight')";
        assert!(wait_until(PATIENCE, || psql(&dsn, empty) == "0"), "nothing of the copy");
    };
    for _ in 0..2 {
        let told = client.query(&moving);
        assert!(told.ends_with("E(53100) Z(I)"), "{told}");
        is_as_before(&mut client, 80);
    }
    // Changes that come when the copy is there have no room.
    served.psql(&format!("DELETE FROM papers WHERE tenant = {tenant} AND id > 20"));
    let mut reader = Client::connect(served.proxy_port(0), &[]);
    reader.query(&format!("BEGIN; {count}"));
    client.send(&moving);
    let state = "SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";
    let state = || psql(&served.coordinator_dsn(), state);
    assert!(wait_until(PATIENCE, || state() == "caught_up"), "{}", state());
    disk.fill();
    insert(100, 40);
    let told = client.answer();
    assert!(told.ends_with("E(53100) Z(I)"), "{told}");
    assert_eq!(reader.query("COMMIT"), "C(COMMIT) Z(I)");
    is_as_before(&mut client, 60);

    disk.empty();
    psql(&dsn, "ALTER DATABASE postgres RESET default_tablespace");
    assert!(client.query(&moving).ends_with("C(SELECT 1) Z(I)"));
    assert_eq!(client.query(&count), "T D(60) C(SELECT 1) Z(I)");
    served.psql(&move_away(served, tenant));
    assert_eq!(client.query("DROP TABLE papers"), "C(DROP TABLE) Z(I)");
    psql(&dsn, "DROP TABLESPACE tight");
}

/// `shardid` or `nodeport` of a tenant's shard.
fn psql_of(served: &Served, tenant: &str, column: &str) -> String {
    served.psql(&format!(
        "SELECT {column} FROM pg_dist_shard_placement \
         WHERE shardid = get_shard_id_for_distribution_column('items', {tenant})"
    ))
}

/// Two proxies whose clocks are an hour fast and an hour slow, and then jump to the other side while clients work.
fn t48_clocks_that_jump_change_nothing(served: &mut Served, tenants: &[String]) {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    assert!(Path::new(&library).exists(), "libfaketime is not installed: run scripts/setup.sh");
    let folder = tempfile::tempdir().expect("a folder");
    let clocks = [folder.path().join("0"), folder.path().join("1")];
    let set = |proxy: usize, offset: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, offset).and_then(|()| std::fs::rename(&new, &clocks[proxy])).expect("it can be written");
    };
    served.kill_proxy(0);
    for (proxy, offset) in [(0, "+1h"), (1, "-1h")] {
        set(proxy, offset);
        served.environment = vec![
            ("LD_PRELOAD", library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", clocks[proxy].display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        served.start_proxy(proxy);
        let file = served.config_file(proxy);
        let text = std::fs::read_to_string(&file).expect("it was written");
        let shown = text.replace("[admin]", "[admin]\nstats_users = [\"postgres\"]");
        std::fs::write(&file, shown).expect("it can be written");
        served.signal_proxy(proxy, "HUP");
        assert!(wait_until(PATIENCE, || served.logged(proxy).contains("admin.stats_users")), "it is read");
    }
    served.environment.clear();
    // Its own clock: when a connection was made, and how old it is.
    let ahead = |served: &Served, proxy: usize| {
        let shown =
            psql(&format!("postgresql://postgres@127.0.0.1:{}/tenantry", served.proxy_port(proxy)), "SHOW SERVERS");
        let server: Vec<_> = shown.lines().next().expect("it has connections").split('|').collect();
        let now = format!("'{}'::timestamptz + {} * interval '1 s'", server[6], server[8]);
        psql(&served.coordinator_dsn(), &format!("SELECT round(extract(epoch FROM {now} - now()) / 3600)"))
    };
    let parts = |served: &Served| -> Vec<_> {
        let of = |proxy| {
            psql(&served.dsn(proxy), "SELECT count(*), count(DISTINCT instance), min(divisor) FROM tenantry.proxy")
        };
        (0..2).map(of).collect()
    };
    assert!(wait_until(PATIENCE, || parts(served) == ["2|2|2", "2|2|2"]), "they share: {:?}", parts(served));
    let known = psql(&served.coordinator_dsn(), "SELECT string_agg(instance, ' ' ORDER BY id) FROM tenantry.proxy");
    let mut clients: Vec<_> = (0..2).map(|proxy| Client::connect(served.proxy_port(proxy), &[])).collect();
    let both = tenants.iter().map(|t| format!("UPDATE items SET id = 1 WHERE tenant = {t};")).collect::<String>();
    for offsets in [["+1h", "-1h"], ["-1h", "+1h"], ["+1h", "-1h"]] {
        (0..2).for_each(|proxy| set(proxy, offsets[proxy]));
        for client in &mut clients {
            for tenant in tenants {
                assert_eq!(client.query(&read(tenant)), ONE_ROW);
            }
            assert!(client.query(&format!("BEGIN; {both} COMMIT")).ends_with("C(COMMIT) Z(I)"));
            let moving = move_away(served, &tenants[0]);
            assert!(client.query(&moving).ends_with("C(SELECT 1) Z(I)"));
        }
        for (client, tenant) in clients.iter_mut().zip(tenants) {
            assert_eq!(client.query(&read(tenant)), ONE_ROW);
        }
        let hours = offsets.map(|offset| offset.trim_matches(['+', 'h']).to_owned());
        assert_eq!([ahead(served, 0), ahead(served, 1)], hours, "their clocks are where they were put");
    }
    let now = psql(&served.coordinator_dsn(), "SELECT string_agg(instance, ' ' ORDER BY id) FROM tenantry.proxy");
    assert_eq!(now, known, "nobody was given up");
    assert_eq!(parts(served), ["2|2|2", "2|2|2"]);
    assert!(served.everywhere("SELECT gid FROM pg_prepared_xacts").iter().all(String::is_empty));
    for proxy in 0..2 {
        served.kill_proxy(proxy);
    }
    served.start_proxy(0);
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
