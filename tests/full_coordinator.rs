//! T46: the coordinator has no room, for the catalog's rows, then for its log. One cluster; each part leaves it in order.

mod support;

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use support::disk::Disk;
use support::serve::psql_says;
use support::served::Served;
use support::wire_client::Client;
use support::{psql, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// What moves, commits and new tables make on servers.
const MADE: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^tenantry_move|^public_'
    UNION ALL SELECT 'table ' || oid::regclass FROM pg_class WHERE relname ~ '^more' ORDER BY 1";

#[test]
fn a_coordinator_without_room_stops_no_tenant() {
    let mut served = Served::start_with(2, 1, "[pool]\noutage_timeout = \"5s\"\n");
    // With a key: a move needs no lock before its cutover.
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY, id int)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let tenants: Vec<_> = (0..2).map(|worker| served.tenant_of("items", worker)).collect();
    tenants.iter().for_each(|tenant| drop(served.psql(&format!("INSERT INTO items VALUES ({tenant}, 1)"))));
    let data = served.servers().folder().join("coordinator");
    let (Some(rows), Some(log)) = (Disk::mount(&data, "disk-of-rows", 8), Disk::mount(&data, "disk-of-the-log", 200))
    else {
        eprintln!("skipped: nobody lets us mount a disk, so T46 of the coordinator's disk is not shown here");
        return;
    };
    t46_a_catalog_that_cannot_grow(&served, &tenants, &rows);
    t46_a_move_whose_progress_cannot_be_written(&served, &tenants);
    t46_a_coordinator_whose_log_cannot_grow(&mut served, &tenants, data, &log);
    assert!(!served.logged(0).contains("panicked"), "{}", served.logged(0));
}

fn both(tenants: &[String], id: usize) -> String {
    let updates: String = tenants.iter().map(|t| format!("UPDATE items SET id = {id} WHERE tenant = {t};")).collect();
    format!("BEGIN; {updates} COMMIT")
}

/// The statement that moves a tenant's shard to the other worker.
fn move_away(served: &Served, tenant: &str) -> String {
    let (shard, port) = place(served, tenant);
    let other = (0..2).map(|worker| served.worker_port(worker).to_string()).find(|other| *other != port);
    let other = other.expect("another");
    format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {port}, '127.0.0.1', {other})")
}

fn place(served: &Served, tenant: &str) -> (String, String) {
    let sql = format!(
        "SELECT p.shardid, n.nodeport FROM pg_dist_placement p JOIN pg_dist_node n USING (groupid) \
         WHERE p.shardid = (SELECT get_shard_id_for_distribution_column('items', {tenant}))"
    );
    served.psql(&sql).split_once('|').map(|(shard, port)| (shard.to_owned(), port.to_owned())).expect("two")
}

/// Each tenant is read and written, by sessions that are there.
fn are_served(clients: &mut [Client], tenants: &[String]) {
    for (client, tenant) in clients.iter_mut().zip(tenants) {
        assert_eq!(client.query(&format!("UPDATE items SET id = id WHERE tenant = {tenant}")), "C(UPDATE 1) Z(I)");
        let read = client.query(&format!("SELECT count(*) FROM items WHERE tenant = {tenant}"));
        assert_eq!(read, "T D(1) C(SELECT 1) Z(I)");
    }
}

/// What is asked for until there is no room for it, which must be soon, is told so and does nothing.
fn runs_out_of_room(client: &mut Client, mut ask: impl FnMut(usize) -> String) -> usize {
    let told = (1..300).map(|n| (n, client.query(&ask(n)))).find(|(_, told)| told.contains("E("));
    let (n, told) = told.expect("there is no end of room");
    assert!(told.ends_with("E(53100) Z(I)"), "{told}");
    n
}

fn sessions(served: &Served, tenants: &[String]) -> Vec<Client> {
    tenants.iter().map(|_| Client::connect(served.proxy_port(0), &[])).collect()
}

/// New rows of the catalog need new pages, and there are none.
fn t46_a_catalog_that_cannot_grow(served: &Served, tenants: &[String], disk: &Disk) {
    let dsn = served.coordinator_dsn();
    psql(&dsn, &format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
    // A row more than a page's tenth, and the next page is asked for.
    for table in ["shard_move", "two_phase", "shard_group", "shard", "node", "job"] {
        psql(&dsn, &format!("ALTER TABLE tenantry.{table} SET (fillfactor = 10)"));
        psql(&dsn, &format!("ALTER TABLE tenantry.{table} SET TABLESPACE small"));
        psql(&dsn, &format!("VACUUM FULL tenantry.{table}"));
    }
    let mut clients = sessions(served, tenants);
    let mut client = Client::connect(served.proxy_port(0), &[]);
    are_served(&mut clients, tenants);
    assert_eq!(client.query("CREATE TABLE more (tenant int PRIMARY KEY)"), "C(CREATE TABLE) Z(I)");
    assert_eq!(client.query("INSERT INTO more VALUES (1)"), "C(INSERT 0 1) Z(I)");
    let made = served.everywhere(MADE);
    disk.fill();

    let wide = "'more', 'tenant', shard_count => 200, colocate_with => 'none'";
    assert_eq!(client.query(&format!("SELECT create_distributed_table({wide})")), "E(53100) Z(I)");
    assert_eq!(client.query(&format!("SELECT create_distributed_table_concurrently({wide})")), "E(53100) Z(I)");
    assert_eq!(client.query("SELECT count(*) FROM more"), "T D(1) C(SELECT 1) Z(I)", "it is a local table still");
    are_served(&mut clients, tenants);
    let last = runs_out_of_room(&mut client, |n| both(tenants, 100 + n));
    let ids = format!("T D({0}) D({0}) C(SELECT 2) Z(I)", 99 + last);
    assert_eq!(client.query("SELECT id FROM items"), if last == 1 { "T D(1) D(1) C(SELECT 2) Z(I)" } else { &ids });
    are_served(&mut clients, tenants);
    let home = place(served, &tenants[0]);
    let moves = runs_out_of_room(&mut client, |_| move_away(served, &tenants[0]));
    if moves % 2 == 0 {
        // It is away, and nothing can bring it back now.
        assert_ne!(place(served, &tenants[0]), home);
    } else {
        assert_eq!(place(served, &tenants[0]), home);
    }
    are_served(&mut clients, tenants);
    are_served(&mut sessions(served, tenants), tenants);

    disk.empty();
    if moves % 2 == 0 {
        assert!(client.query(&move_away(served, &tenants[0])).ends_with("C(SELECT 1) Z(I)"));
    }
    is_left(served, &made);
    assert!(client.query(&both(tenants, 1)).ends_with("C(COMMIT) Z(I)"));
    assert!(client.query(&format!("SELECT create_distributed_table({wide})")).ends_with("C(SELECT 1) Z(I)"));
    assert_eq!(client.query("SELECT count(*) FROM more"), "T D(1) C(SELECT 1) Z(I)");
    assert_eq!(client.query("DROP TABLE more"), "C(DROP TABLE) Z(I)");
    let tables = "SELECT format('ALTER TABLE %s SET TABLESPACE pg_default', oid::regclass) FROM pg_class \
                  WHERE reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'small') AND relkind = 'r'";
    psql(&dsn, tables).lines().for_each(|back| drop(psql(&dsn, back)));
    psql(&dsn, "DROP TABLESPACE small");
}

/// On every server there is what was there before, soon: jobs clean up.
fn is_left(served: &Served, made: &[String]) {
    let is_so = wait_until(PATIENCE, || served.everywhere(MADE) == made);
    assert!(is_so, "{:?} instead of {made:?}", served.everywhere(MADE));
}

/// The disk is full in the middle of a move: its row cannot say how far it has come, or not even that it has failed.
fn t46_a_move_whose_progress_cannot_be_written(served: &Served, tenants: &[String]) {
    let dsn = served.coordinator_dsn();
    let mut clients = sessions(served, tenants);
    let mut client = Client::connect(served.proxy_port(0), &[]);
    psql(
        &dsn,
        "CREATE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
    );
    let made = served.everywhere(MADE);
    let home = place(served, &tenants[0]);
    let states = ["target_created", "copied", "caught_up", "switched"].map(|state| format!("NEW.state = '{state}'"));
    for when in states.iter().map(String::as_str).chain(["OLD.state = 'caught_up'", "true"]) {
        let trigger = "no_room BEFORE UPDATE ON tenantry.shard_move FOR EACH ROW";
        psql(&dsn, &format!("CREATE TRIGGER {trigger} WHEN ({when}) EXECUTE FUNCTION public.no_room()"));
        assert_eq!(client.query(&move_away(served, &tenants[0])), "E(53100) Z(I)", "{when}");
        are_served(&mut clients, tenants);
        assert_eq!(place(served, &tenants[0]), home, "{when}");
        psql(&dsn, "DROP TRIGGER no_room ON tenantry.shard_move");
        is_left(served, &made);
        let state = "SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";
        assert!(wait_until(PATIENCE, || psql(&dsn, state) == "failed"), "{when}: {}", psql(&dsn, state));
    }
    psql(&dsn, "DROP FUNCTION public.no_room()");
    for _ in 0..2 {
        assert!(client.query(&move_away(served, &tenants[0])).ends_with("C(SELECT 1) Z(I)"));
    }
    is_left(served, &made);
}

/// Somebody keeps the log of the coordinator until its disk is full: it panics, and cannot start again.
fn t46_a_coordinator_whose_log_cannot_grow(served: &mut Served, tenants: &[String], data: PathBuf, disk: &Disk) {
    let dsn = served.coordinator_dsn();
    let port = served.proxy_port(0) + 1;
    psql(&dsn, "SELECT pg_create_physical_replication_slot('keeper', true)");
    served.servers().stop_at(port).expect("it stops");
    let (log, there) = (data.join("pg_wal"), disk.path().join("pg_wal"));
    let moved = Command::new("cp").arg("-a").arg(&log).arg(&there).status();
    assert!(moved.expect("cp runs").success());
    std::fs::remove_dir_all(&log).and_then(|()| symlink(&there, &log)).expect("it is ours");
    served.servers().restart_coordinator().expect("it starts");
    assert!(wait_until(PATIENCE, || psql_says(&served.dsn(0), "SELECT count(*) FROM items") == "2"));

    let made = served.everywhere(MADE);
    let mut clients = sessions(served, tenants);
    are_served(&mut clients, tenants);
    let mut client = Client::connect(served.proxy_port(0), &[]);
    assert_eq!(client.query("CREATE TABLE more (tenant int)"), "C(CREATE TABLE) Z(I)");
    // A move waits for this reader.
    let mut reader = Client::connect(served.proxy_port(0), &[]);
    let read = format!("SELECT id FROM items WHERE tenant = {}", tenants[0]);
    assert!(reader.query(&format!("BEGIN; {read}")).ends_with("Z(T)"));
    let home = place(served, &tenants[0]);
    let mut mover = Client::connect(served.proxy_port(0), &[]);
    mover.send(&move_away(served, &tenants[0]));
    let state = "SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";
    assert!(wait_until(PATIENCE, || psql(&dsn, state) == "caught_up"), "{}", psql(&dsn, state));
    disk.fill();
    // Small records, so that there is no room for another one.
    let write = "DO $$ BEGIN LOOP PERFORM pg_logical_emit_message(false, '', repeat('x', 300)); END LOOP; END $$";
    let said = psql_says(&dsn, write);
    assert!(said.contains("server closed the connection unexpectedly"), "{said}");
    let is_down = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err();
    assert!(wait_until(PATIENCE, is_down));
    let logged = std::fs::read_to_string(data.with_extension("log")).expect("its log");
    assert!(logged.contains("No space left on device"), "{logged}");

    for round in 0..5 {
        are_served(&mut clients, tenants);
        let told = client.query(&both(tenants, 200 + round));
        assert_eq!(told, "C(BEGIN) C(UPDATE 1) C(UPDATE 1) E(08006) Z(I)", "round {round}: nothing has happened");
    }
    for asked in [
        "SELECT create_distributed_table('more', 'tenant')",
        "SELECT citus_add_node('127.0.0.1', 1)",
        "SELECT rebalance_table_shards()",
        "CREATE TABLE other (tenant int)",
    ] {
        assert_eq!(client.query(asked), "E(08006) Z(I)", "{asked}");
        are_served(&mut clients, tenants);
    }
    let moved = mover.answer();
    // It asked when the coordinator was gone, or just before, in recovery.
    assert!(["E(08006) Z(I)", "E(57P03) Z(I)"].contains(&moved.as_str()), "{moved}");
    assert!(reader.query("COMMIT").ends_with("C(COMMIT) Z(I)"));
    let refused = psql_says(&served.dsn(0), "SELECT 1");
    assert!(refused.contains("cannot read the coordinator's roles"), "{refused}");

    disk.empty();
    served.servers().restart_coordinator().expect("it starts");
    psql(&dsn, "SELECT pg_drop_replication_slot('keeper')");
    assert!(
        wait_until(PATIENCE, || psql_says(&served.dsn(0), "SELECT sum(id) FROM items") == "2"),
        "nothing of it stays"
    );
    assert_eq!(place(served, &tenants[0]), home);
    let made: Vec<_> = made.into_iter().filter(|made| made != "slot keeper").collect();
    assert_eq!(psql_says(&served.dsn(0), "DROP TABLE more"), "");
    is_left(served, &made);
    are_served(&mut sessions(served, tenants), tenants);
    for _ in 0..2 {
        served.psql(&move_away(served, &tenants[0]));
    }
    is_left(served, &made);
}
