//! Clocks of the servers jump by an hour, forward and back, while something is under way: nothing is cut short, and nothing goes
//! on for an hour longer. (T48. Proxies' own clocks: `tests/faults.rs`.)

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use support::served::Served;
use support::wire_client::Client;
use support::{psql, wait_until};
use tenantry::wire::startup::write_cancel;

const PATIENCE: Duration = Duration::from_secs(60);
const ONE_ROW: &str = "T D(1) C(SELECT 1) Z(I)";

/// The clocks of coordinator and workers, which the servers read from a file each time they look at them.
struct Clocks(Vec<PathBuf>);

impl Clocks {
    /// What servers whose clock can be set need in their environment.
    fn environment() -> Vec<(String, String)> {
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
        assert!(Path::new(&library).exists(), "libfaketime is not installed: run scripts/setup.sh");
        let names = ["FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC"];
        // The file is in the folder that a server runs in: that of its data.
        let all = [("LD_PRELOAD", library.as_str()), (names[0], "clock"), (names[1], "1"), (names[2], "1")];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    fn of(served: &mut Served, workers: usize) -> Self {
        let mut folders = vec![served.servers().folder().join("coordinator")];
        for worker in 0..workers {
            folders.push(served.servers().worker_data(worker).expect("it is there").to_owned());
        }
        Self(folders)
    }

    /// `offset` as `+1h`. Coordinator: 0, workers from 1 on.
    fn set(&self, server: usize, offset: &str) {
        use std::os::unix::fs::PermissionsExt;
        let (new, file) = (self.0[server].join("clock.new"), self.0[server].join("clock"));
        let readable = std::fs::Permissions::from_mode(0o644);
        let written = std::fs::write(&new, offset).and_then(|()| std::fs::set_permissions(&new, readable));
        written.and_then(|()| std::fs::rename(&new, &file)).expect("it can be written");
    }
}

#[test]
fn clocks_of_servers_that_jump_change_nothing() {
    let config = "[pool]\nsilence_max = \"60s\"\n[moves]\nundo_window = \"20s\"\n";
    let mut served = Served::start_under(2, 1, config, Clocks::environment());
    let clocks = Clocks::of(&mut served, 2);
    (0..3).for_each(|server| clocks.set(server, "+0h"));
    let tenants = served.tenants();
    let hours = |served: &Served| {
        served.everywhere("SELECT round(extract(epoch FROM clock_timestamp()) / 3600)::bigint").join(" ")
    };
    let before = hours(&served);
    (0..3).for_each(|server| clocks.set(server, "+2h"));
    assert_ne!(hours(&served), before, "clocks can be set");
    (0..3).for_each(|server| clocks.set(server, "+0h"));

    a_hold_ends_although_the_sources_clock_was_put_back(&mut served, &clocks, &tenants);
    a_window_for_undoing_is_as_long_as_it_was_said_to_be(&mut served, &clocks, &tenants);
    a_commit_over_servers_is_not_given_up_too_soon(&mut served, &clocks, &tenants);
    cancels_come_through_and_all_goes_on_while_clocks_jump(&mut served, &clocks, &tenants);
    assert!(!served.logged(0).contains("panicked"), "{}", served.logged(0));
}

/// The statement that moves a tenant's shard to the other worker, and the source's number.
fn move_away(served: &Served, tenant: &str) -> (String, u16) {
    let sql = format!(
        "SELECT shardid, nodeport FROM pg_dist_shard_placement \
         WHERE shardid = get_shard_id_for_distribution_column('items', {tenant})"
    );
    let (shard, port) = served.psql(&sql).split_once('|').map(|(s, p)| (s.to_owned(), p.to_owned())).expect("two");
    let source = (0..2).find(|worker| served.worker_port(*worker).to_string() == port).expect("one of both");
    let target = served.worker_port(1 - source);
    (format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {port}, '127.0.0.1', {target})"), source)
}

/// An open transaction keeps a move from its locks, and the server that is to end the wait for them finds its clock put back:
/// libfaketime shows the true time to signal handlers, so one that was put forward before looks so whenever a time-out is due.
fn a_hold_ends_although_the_sources_clock_was_put_back(served: &mut Served, clocks: &Clocks, tenants: &[String]) {
    let (moving, source) = move_away(served, &tenants[0]);
    clocks.set(usize::from(source) + 1, "+1h");
    let mut idle = Client::connect(served.proxy_port(0), &[]);
    assert!(idle.query(&format!("BEGIN; UPDATE items SET id = 1 WHERE tenant = {}", tenants[0])).ends_with("Z(T)"));
    let mut mover = Client::connect(served.proxy_port(0), &[]);
    mover.send(&moving);
    let waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    let dsn = served.worker_dsn(source);
    assert!(wait_until(PATIENCE, || psql(&dsn, waits) == "t"), "it comes to its locks");
    // Neither ends while the transaction is open: the statement is answered because the wait for the lock ends.
    let mut other = Client::connect(served.proxy_port(0), &[]);
    let read = format!("SELECT id FROM items WHERE tenant = {}", tenants[0]);
    assert_eq!(other.query(&read), ONE_ROW);
    assert_eq!(idle.query("COMMIT"), "C(COMMIT) Z(I)");
    assert!(mover.answer().ends_with("C(SELECT 1) Z(I)"));
    clocks.set(usize::from(source) + 1, "+0h");
}

fn newest_way_back(served: &Served) -> (String, String) {
    let sql = "SELECT back_of, state FROM tenantry.shard_move WHERE back_of IS NOT NULL ORDER BY moveid DESC LIMIT 1";
    psql(&served.coordinator_dsn(), sql)
        .split_once('|')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("there is one")
}

fn a_window_for_undoing_is_as_long_as_it_was_said_to_be(served: &mut Served, clocks: &Clocks, tenants: &[String]) {
    let dsn = served.coordinator_dsn();
    let place = format!("SELECT get_shard_id_for_distribution_column('items', {0})", tenants[1]);
    let (moving, source) = move_away(served, &tenants[1]);
    served.psql(&moving);
    let left = || -> f64 {
        let sql = "SELECT coalesce(undo_left, 0) FROM tenantry.shard_move WHERE back_of IS NOT NULL ORDER BY moveid DESC LIMIT 1";
        psql(&dsn, sql).parse().expect("a number")
    };
    clocks.set(0, "+1h");
    let first = left();
    // Somebody has looked at the time meanwhile.
    assert!(wait_until(PATIENCE, || left() < first), "what is left is written down");
    let (id, state) = newest_way_back(served);
    assert_eq!(state, "undoable", "a clock that jumps forward does not end it");
    served.psql(&format!("SELECT tenantry_undo_move({id})"));
    let shard = served.psql(&place);
    let port = served.psql(&format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}"));
    assert_eq!(port, served.worker_port(source).to_string(), "it is back");

    served.psql(&moving);
    clocks.set(0, "-1h");
    // Another proxy takes it over, and has only what was written down.
    served.kill_proxy(0);
    served.start_proxy(0);
    let (id, _) = newest_way_back(served);
    assert!(wait_until(PATIENCE, || newest_way_back(served) == (id.clone(), "done".into())), "it ends in time");
    clocks.set(0, "+0h");
}

/// One server has prepared its part, the other takes its time with it; the first one's clock jumps.
fn a_commit_over_servers_is_not_given_up_too_soon(served: &mut Served, clocks: &Clocks, tenants: &[String]) {
    let file = served.config_file(0);
    let text = std::fs::read_to_string(&file).expect("it was written");
    std::fs::write(&file, text.replace("recovery_patience = \"1s\"", "recovery_patience = \"60s\""))
        .expect("it can be");
    served.signal_proxy(0, "HUP");
    assert!(wait_until(PATIENCE, || served.logged(0).contains("execution.recovery_patience")), "it is read");
    let (_, slow) = move_away(served, &tenants[1]);
    let (_, quick) = move_away(served, &tenants[0]);
    assert_ne!(slow, quick, "they are on two servers");
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[1]));
    // Longer than from one look for prepared transactions to the next.
    psql(
        &served.worker_dsn(slow),
        &format!(
            "CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN PERFORM pg_sleep(7); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER dawdle AFTER UPDATE ON public_{shard}.items DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION public.dawdle()"
        ),
    );
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let both = tenants.iter().map(|t| format!("UPDATE items SET id = 7 WHERE tenant = {t};")).collect::<String>();
    client.send(&format!("BEGIN; {both} COMMIT"));
    let is_prepared = || psql(&served.worker_dsn(quick), "SELECT count(*) FROM pg_prepared_xacts") == "1";
    assert!(wait_until(PATIENCE, is_prepared));
    clocks.set(usize::from(quick) + 1, "+1h");
    assert!(client.answer().ends_with("C(COMMIT) Z(I)"));
    for tenant in tenants {
        assert_eq!(served.psql(&format!("SELECT id FROM items WHERE tenant = {tenant}")), "7");
    }
    psql(
        &served.worker_dsn(slow),
        &format!("DROP TRIGGER dawdle ON public_{shard}.items; DROP FUNCTION public.dawdle()"),
    );
    clocks.set(usize::from(quick) + 1, "+0h");
}

/// All clocks jump all the time, each for itself.
fn cancels_come_through_and_all_goes_on_while_clocks_jump(served: &mut Served, clocks: &Clocks, tenants: &[String]) {
    served.start_proxy(1);
    let known = "SELECT string_agg(instance, ' ' ORDER BY id) FROM tenantry.tenantry_proxies";
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), known).split(' ').count() == 2));
    let proxies = psql(&served.coordinator_dsn(), known);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let jumping = threads.spawn(|| {
            for round in 0usize.. {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                for server in 0..3 {
                    clocks.set(server, ["+0h", "+1h", "-1h"][(round + server) % 3]);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut client = Client::connect(served.proxy_port(1), &[]);
            for _ in 0..20 {
                client.send(&format!("SELECT 48, pg_sleep(3600) FROM items WHERE tenant = {}", tenants[0]));
                assert!(wait_until(PATIENCE, || served.running("SELECT 48,") == 1));
                cancel(served.proxy_port(0), &client);
                assert_eq!(client.answer(), "T E(57014) Z(I)");
            }
            let both =
                tenants.iter().map(|t| format!("UPDATE items SET id = 1 WHERE tenant = {t};")).collect::<String>();
            for _ in 0..3 {
                let (moving, _) = move_away(served, &tenants[0]);
                assert!(client.query(&moving).ends_with("C(SELECT 1) Z(I)"));
                for _ in 0..20 {
                    assert!(client.query(&format!("BEGIN; {both} COMMIT")).ends_with("C(COMMIT) Z(I)"));
                    for tenant in tenants {
                        assert_eq!(client.query(&format!("SELECT id FROM items WHERE tenant = {tenant}")), ONE_ROW);
                    }
                }
            }
        }));
        is_over.store(true, Ordering::SeqCst);
        jumping.join().expect("it ends");
        if let Err(panic) = work {
            std::panic::resume_unwind(panic);
        }
    });
    (0..3).for_each(|server| clocks.set(server, "+0h"));
    assert_eq!(psql(&served.coordinator_dsn(), known), proxies, "nobody was given up");
    assert!(served.everywhere("SELECT gid FROM pg_prepared_xacts").iter().all(String::is_empty));
}

/// Sends a cancel request and waits until the proxy has closed its connection.
fn cancel(port: u16, client: &Client) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the proxy listens");
    let mut out = BytesMut::new();
    write_cancel(client.pid, &client.key, &mut out);
    stream.write_all(&out).expect("the proxy reads");
    assert_eq!(stream.read(&mut [0]).expect("it is closed in time"), 0, "a cancel request has no answer");
}
