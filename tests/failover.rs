//! Servers that go and come back: what it costs the clients whose rows they hold.

mod support;

use std::time::{Duration, Instant};

use support::ledger::{Ledger, Load};
use support::served::Served;
use support::{psql, signal};

/// Goal: a server that is restarted costs its tenants a pause; only what was under way when it went down fails.
/// Method: one cluster, clients that write down everything; each story does something to the second worker.
#[test]
fn a_server_that_goes_and_comes_back_costs_a_pause() {
    let mut served = Served::start(2);
    served.psql("CREATE TABLE items (tenant int, id bigint)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    let tenants: Vec<_> = [0, 1].iter().map(|worker| served.tenant_of("items", *worker)).collect();
    for (number, way) in [Way::Fast, Way::Immediate, Way::Kill].into_iter().enumerate() {
        a_restart_is_waited_for(&mut served, &tenants, way, (number as u64 + 1) * 100_000_000);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As `pg_ctl restart` does.
    Fast,
    /// `pg_ctl restart -m immediate`
    Immediate,
    /// All its processes, as when the machine goes.
    Kill,
}

fn a_restart_is_waited_for(served: &mut Served, tenants: &[String], way: Way, first_id: u64) {
    let load = Load::start(served.proxy_port(0), tenants, 3, first_id);
    match way {
        Way::Fast => served.servers().stop_worker(1),
        Way::Immediate => {
            let file = psql(&served.worker_dsn(1), "SELECT pg_read_file('postmaster.pid')");
            signal(file.lines().next().and_then(|line| line.parse().ok()).expect("a process id"), "QUIT");
            // It is gone when this has waited for it.
            served.servers().stop_worker(1)
        }
        Way::Kill => served.servers().kill_worker(1),
    }
    .expect("it ends");
    let down = Instant::now();
    // Long enough for every client to have come to it, and for attempts to reach it that fail.
    std::thread::sleep(Duration::from_millis(700));
    let up = Instant::now();
    served.servers().restart_worker(1).expect("it starts");
    load.await_progress();
    let ledger = load.end();
    only_what_was_under_way_failed(&ledger, tenants, down);
    let waited =
        |tenant: &String| ledger.done.iter().filter(|d| d.tenant == *tenant && d.began < up && d.ended > up).count();
    assert!(waited(&tenants[1]) >= 3, "{way:?}: everybody waits: {}", waited(&tenants[1]));
    ledger.check(&served.psql("SELECT id FROM items"), first_id);
}

/// `down`: from here on the second worker was gone.
fn only_what_was_under_way_failed(ledger: &Ledger, tenants: &[String], down: Instant) {
    for failed in ledger.errors() {
        let code = failed.said.split_once("E(").expect("an error").1;
        assert!(["57P01", "57P02", "08006", "08007", "57P03"].iter().any(|c| code.starts_with(c)), "{failed:?}");
        assert_eq!(failed.tenant, tenants[1], "tenants of other servers notice nothing: {failed:?}");
        assert!(failed.began < down, "it began when nothing was under way any more: {failed:?}");
    }
}
