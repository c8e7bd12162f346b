//! Clients that work all the time and write down what they were told and when: what a fault has cost them.
//!
//! ```text
//!   Load::start(port, tenants) ── one thread for each client ──> Done { began, ended, said } for each piece of work
//!        .await_progress()         every client has done more since
//!        .end() -> Ledger          .check(...): nothing acknowledged is missing, nothing is there twice
//! ```

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tenantry::wire::frontend;

use super::wait_until;
use super::wire_client::Client;

/// Clients at work on a table `items (tenant int, id bigint)`.
pub struct Load {
    clients: Vec<JoinHandle<Vec<Done>>>,
    progress: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
}

/// One piece of work: a statement, or a transaction.
#[derive(Debug)]
pub struct Done {
    pub tenant: String,
    pub began: Instant,
    pub ended: Instant,
    /// The answers, as `Client` tells them.
    pub said: String,
    /// The row that it was to write.
    pub id: Option<u64>,
}

/// All that was done.
pub struct Ledger {
    pub done: Vec<Done>,
}

impl Load {
    /// `each` clients for each tenant. Their rows' ids begin behind `first_id`.
    pub fn start(port: u16, tenants: &[String], each: u64, first_id: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut clients, mut all) = (Vec::new(), Vec::new());
        for (number, tenant) in (0..each).flat_map(|_| tenants).enumerate() {
            let progress = Arc::new(AtomicU64::new(0));
            all.push(progress.clone());
            let (stop, tenant) = (stop.clone(), tenant.clone());
            let ids = first_id + number as u64 * 1_000_000;
            clients.push(std::thread::spawn(move || work(port, &tenant, ids, &progress, &stop)));
        }
        let load = Self { clients, progress: all, stop };
        load.await_progress();
        load
    }

    /// Until every client has done a few things more.
    pub fn await_progress(&self) {
        let before: Vec<_> = self.progress.iter().map(|done| done.load(Ordering::SeqCst)).collect();
        let has_more = |(done, before): (&Arc<AtomicU64>, &u64)| done.load(Ordering::SeqCst) >= before + 8;
        let goes_on = || self.progress.iter().zip(&before).all(has_more);
        assert!(wait_until(PATIENCE, goes_on), "a client stands still");
    }

    pub fn end(self) -> Ledger {
        self.stop.store(true, Ordering::SeqCst);
        let done = self.clients.into_iter().flat_map(|client| client.join().expect("a client's session goes on"));
        Ledger { done: done.collect() }
    }
}

impl Ledger {
    /// What failed.
    pub fn errors(&self) -> impl Iterator<Item = &Done> {
        self.done.iter().filter(|done| done.said.contains("E("))
    }

    /// `present`: the ids in the table, one a line. Every acknowledged one is there, none twice, and none of those of which
    /// 08006 has told that they are not.
    pub fn check(&self, present: &str, first_id: u64) {
        let all: Vec<u64> = present.lines().map(|line| line.parse().expect("a number")).collect();
        let all: Vec<u64> = all.into_iter().filter(|id| *id >= first_id).collect();
        let there: HashSet<u64> = all.iter().copied().collect();
        assert_eq!(there.len(), all.len(), "a write was done twice");
        let lost: Vec<_> = self.done.iter().filter(|done| is_acknowledged(done)).filter_map(|done| done.id).collect();
        let lost: Vec<_> = lost.into_iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let denied = self.done.iter().filter(|done| done.said.contains("E(08006)"));
        let denied: Vec<_> = denied.filter(|done| done.id.is_some_and(|id| there.contains(&id))).collect();
        assert!(denied.is_empty(), "done, and said not to be: {denied:?}");
    }
}

fn is_acknowledged(done: &Done) -> bool {
    !done.said.contains("E(")
}

fn work(port: u16, tenant: &str, first_id: u64, progress: &AtomicU64, stop: &AtomicBool) -> Vec<Done> {
    let mut client = Client::connect(port, &[]);
    let mut done = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (id, began) = (first_id + round, Instant::now());
        let insert = format!("INSERT INTO items VALUES ({tenant}, {id})");
        let (said, id) = match round % 4 {
            0 => (client.query(&insert), Some(id)),
            1 => {
                let sql = format!("INSERT INTO items VALUES ({tenant}, $1)");
                frontend::parse(b"", &sql, &[], &mut client.out);
                client.bind_and_execute("", &[Some(&id.to_string())]);
                frontend::sync(&mut client.out);
                (client.answer(), Some(id))
            }
            2 => (client.query(&format!("SELECT 1 FROM items WHERE tenant = {tenant} LIMIT 1")), None),
            _ => {
                let mut said = String::new();
                for step in ["BEGIN", &insert, "COMMIT"] {
                    said += &client.query(step);
                    if said.contains("E(") {
                        said += &client.query("ROLLBACK");
                        break;
                    }
                }
                (said, Some(id))
            }
        };
        assert!(said.ends_with("Z(I)"), "the session goes on: {said}");
        done.push(Done { tenant: tenant.to_owned(), began, ended: Instant::now(), said, id });
        progress.fetch_add(1, Ordering::SeqCst);
        // What they wait for needs the processors too.
        std::thread::sleep(PAUSE);
    }
    done
}

const PAUSE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);
