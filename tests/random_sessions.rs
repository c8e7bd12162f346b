//! Goal: no session can tell the proxy from a single Postgres, whatever it says in whatever order.
//! Method: random scripts of messages, said to both; command tags, rows, SQLSTATEs and ReadyForQuery must agree, and at
//! the end the settings, the prepared statements and the tables' rows. A script that is answered differently is made as short as it
//! can be, and printed as a conversation for `tests/protocol/conversations.txt`.
//!
//! `TENANTRY_SESSIONS=20000 TENANTRY_SESSIONS_SEED=7 cargo test --test random_sessions` tries more, and others.

#[path = "random_sessions/script.rs"]
mod script;
mod support;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use script::Script;
use support::Cluster;
use wire::Wire;

#[test]
fn random_sessions_are_answered_as_by_one_postgres() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let (count, first) = (number("TENANTRY_SESSIONS").unwrap_or(400), number("TENANTRY_SESSIONS_SEED").unwrap_or(0));
    let cluster = Cluster::start(2);
    prepare(&cluster);
    let both = Both { proxy: Side::new(cluster.port(), "postgres"), server: Side::new(cluster.port() + 1, "plain") };
    let mut different = Vec::new();
    for seed in first..first + count {
        let script = Script::random(seed);
        if let Some(at_first) = both.differ(&script) {
            let script = both.shortest(script);
            let answers = both.differ(&script).unwrap_or_else(|| format!("not every time:\n{at_first}"));
            different.push(format!("== seed {seed}\n{}\n{answers}", script.text()));
            if different.len() == DIFFERENT_MAX {
                break;
            }
        }
    }
    assert!(different.is_empty(), "answered differently:\n{}", different.join("\n"));
    assert!(!cluster.log().contains("panicked"), "{}", cluster.log());
}

/// More of them tell nothing new.
const DIFFERENT_MAX: usize = 10;

fn prepare(cluster: &Cluster) {
    let tables = "CREATE TABLE items (tenant int, id int, name text CHECK (name <> ''), PRIMARY KEY (tenant, id));
                  CREATE TABLE refs (LIKE items INCLUDING ALL);
                  CREATE TABLE notes (LIKE items INCLUDING ALL);";
    let server = support::dsn(cluster.port() + 1);
    support::psql(&server, "CREATE DATABASE plain");
    support::psql(&format!("{server}?dbname=plain"), tables);
    cluster.psql(tables);
    cluster.psql("SELECT create_distributed_table('items', 'tenant')");
    cluster.psql("SELECT create_reference_table('refs')");
}

/// One of the two that are asked.
struct Side {
    port: u16,
    database: &'static str,
}

impl Side {
    fn new(port: u16, database: &'static str) -> Self {
        Self { port, database }
    }

    fn login(&self) -> Wire {
        Wire::login_with(self.port, "postgres", &[("database", self.database), ("application_name", "script")])
    }

    /// What the script is answered, and how everything is afterwards.
    fn answers(&self, script: &Script) -> Vec<String> {
        let mut control = self.login();
        let answer = control.query(ROWS);
        assert!(!answer.iter().any(|a| a.starts_with("E ")), "{answer:?}");
        let mut wire = self.login();
        let mut answers = Vec::new();
        for chunk in &script.chunks {
            wire.send(&chunk.iter().flat_map(|line| wire::frame(line)).collect::<Vec<_>>());
            if script.is_stepwise {
                answers.extend(wire.answers_until("Z"));
            }
        }
        for line in EPILOGUE {
            wire.send(&wire::frame(line));
        }
        answers.extend(wire.answers_until("D the end"));
        answers.extend(wire.told.iter().map(|(name, value)| format!("{name} = {value}")));
        drop(wire);
        let left = control.query("DROP TABLE made");
        answers.push(format!("made: {}", left[0]));
        answers
    }
}

struct Both {
    proxy: Side,
    server: Side,
}

impl Both {
    /// The answers side by side, where they differ.
    fn differ(&self, script: &Script) -> Option<String> {
        let (proxy, mut server) = std::thread::scope(|scope| {
            let server = scope.spawn(|| self.server.answers(script));
            (self.proxy.answers(script), server.join().expect("a thread of the test"))
        });
        for (server, proxy) in server.iter_mut().zip(&proxy) {
            // In a block that has failed the proxy looks no further.
            let is_one_of = |alike: &[&str]| alike.contains(&proxy.as_str()) && alike.contains(&server.as_str());
            if proxy == "E 25P02" && server == "E 42601" || is_one_of(&["E 25P02", "E 34000"]) {
                server.clone_from(proxy);
            }
        }
        if proxy == server {
            return None;
        }
        let at = |side: &[String], i: usize| side.get(i).map_or("-", String::as_str).to_owned();
        let line = |i: usize| {
            let (p, s) = (at(&proxy, i), at(&server, i));
            format!("  {} proxy {p:<40.60} server {s:.60}\n", if p == s { ' ' } else { '!' })
        };
        let first = (0..proxy.len().max(server.len())).find(|i| at(&proxy, *i) != at(&server, *i))?;
        Some((0..first + 4).map(line).collect())
    }

    /// Leaves out what does not matter for the difference.
    fn shortest(&self, mut script: Script) -> Script {
        let mut at = 0;
        while at < script.chunks.len() {
            let chunk = script.chunks.remove(at);
            if self.differ(&script).is_none() {
                script.chunks.insert(at, chunk);
                at += 1;
            }
        }
        for at in 0..script.chunks.len() {
            let mut line = 0;
            // The last one says that the chunk is over.
            while line + 1 < script.chunks[at].len() {
                let left_out = script.chunks[at].remove(line);
                if self.differ(&script).is_none() {
                    script.chunks[at].insert(line, left_out);
                    line += 1;
                }
            }
        }
        script
    }
}

const ROWS: &str = "DELETE FROM items; DELETE FROM refs; DELETE FROM notes; \
    INSERT INTO items VALUES (1, 1, 'one'), (1, 2, 'two'), (1, 3, 'three'), (2, 1, 'one'), (2, 2, 'two'), (2, 3, 'three'), \
    (3, 1, 'one'), (3, 2, 'two'), (3, 3, 'three'), (4, 1, 'one'), (4, 2, 'two'), (4, 3, 'three'); \
    INSERT INTO refs VALUES (1, 1, 'one'), (1, 2, 'two'), (2, 1, 'one'), (2, 2, 'two'), (3, 1, 'one'), (4, 1, 'one'); \
    INSERT INTO notes VALUES (1, 1, 'one'), (1, 2, 'two'), (2, 1, 'one'), (2, 2, 'two'), (3, 1, 'one'), (4, 1, 'one')";

/// Brings any state to an end, and asks for what is left.
const EPILOGUE: &[&str] = &[
    "S",
    "Q ROLLBACK",
    "Q SELECT nullif(current_setting('app.tenant', true), ''), current_setting('search_path'), current_setting('work_mem')",
    "Q SELECT nullif(current_setting('app.tenant', true), ''), current_setting('work_mem') FROM items WHERE id = 1 AND tenant = 1",
    "Q SELECT nullif(current_setting('app.tenant', true), ''), current_setting('work_mem') FROM items WHERE id = 1 AND tenant = 2",
    "Q SELECT name, from_sql FROM pg_prepared_statements ORDER BY name",
    "Q SET search_path = public",
    "Q SELECT tenant, id, name FROM items ORDER BY tenant, id",
    "Q SELECT tenant, id, name FROM refs ORDER BY tenant, id",
    "Q SELECT tenant, id, name FROM notes ORDER BY tenant, id",
    "Q SELECT 'the end'",
];
