//! `tenantry demo`: the story of scaling out, on a cluster of its own, each step with the SQL that a user would type.
//!
//! ```text
//!   child  tenantry dev --workers 2 ......................................... stopped at the end
//!   this   tables ─> COPY ─> questions ─> workload of 8 clients ─────────────> what they saw, the same questions
//!   child                                   tenantry cluster edit --workers 4
//! ```
//!
//! It fails when a client saw an error, or when a row that was written is not there at the end.

mod cluster;
mod data;
mod narrator;
mod placements;
mod workload;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;

use self::cluster::DemoCluster;
use self::narrator::{Narrator, thousands};
use self::placements::Placements;
use self::workload::{Outcome, Workload};
use super::connection::{Connection, ProxyAddress};
use super::internal;
use crate::catalog;
use crate::error::{PgError, Result, SqlState};

#[derive(Debug, clap::Args)]
pub struct Demo {
    /// The proxy's port P; servers take the ports above it. Default: the first free range from 7432 on.
    #[arg(long)]
    port: Option<u16>,
    /// How many events are loaded.
    #[arg(long, default_value_t = 200_000)]
    events: usize,
    /// How many users act; each is a tenant.
    #[arg(long, default_value_t = 2_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(100..))]
    users: usize,
}

impl Demo {
    pub fn run(self) -> Result<()> {
        let port = self.port.map_or_else(cluster::free_port, Ok)?;
        let mut narrator = Narrator::new();
        narrator.chapter("A cluster: one coordinator, two workers, one connection string");
        let cluster = DemoCluster::start(&mut narrator, port, WORKERS_BEFORE)?;
        // Clients need threads of their own, or they would wait for each other and not for the cluster.
        let runtime = tokio::runtime::Runtime::new().map_err(|error| internal("start a runtime", error))?;
        let told = runtime.block_on(self.tell(&mut narrator, &cluster));
        drop(runtime);
        narrator
            .remark("tenantry dev is stopped, as by Ctrl-C: the proxy and its servers end, the data is thrown away");
        drop(cluster);
        told
    }

    async fn tell(&self, narrator: &mut Narrator, cluster: &DemoCluster) -> Result<()> {
        let address = ProxyAddress::dev(cluster.port());
        let connection = address.connect().await?;

        narrator.chapter("Tables, spread by tenant: every user's rows live together on one worker");
        for statement in TABLES {
            narrator.ask(&connection, statement).await?;
        }
        load(narrator, &connection, "github_users", data::users(SEED, self.users)).await?;
        load(narrator, &connection, "github_events", data::events(SEED, self.users, self.events)).await?;

        narrator.chapter("Questions: to the cluster, to one tenant, to all tenants");
        let users: Vec<i64> = data::users(SEED, self.users).filter_map(|line| first_field(&line)).collect();
        narrator.ask(&connection, NODES).await?;
        let loaded = narrator.ask(&connection, COUNT).await?.number();
        expect_count("github_events", self.events, loaded)?;
        let tenant = users.first().copied().unwrap_or_default();
        narrator.ask(&connection, &ONE_TENANT.replace("$tenant", &tenant.to_string())).await?;
        narrator.ask(&connection, ALL_TENANTS).await?;

        narrator.chapter("Scale out from two workers to four, while eight clients read and write");
        let before = Placements::read(&connection).await?;
        let workload = Workload::start(&address, users).await?;
        narrator.remark(
            "eight clients have begun: inserts, updates, transactions and joins, each for one tenant at a time",
        );
        tokio::time::sleep(LULL).await;
        let edit = cluster.edit(narrator, WORKERS_AFTER).await;
        tokio::time::sleep(LULL).await;
        let outcome = workload.stop().await;

        narrator.chapter("What the clients saw");
        let after = Placements::read(&connection).await?;
        let moves = before.moved_to(&after);
        let rows_moved = after.rows_of(&moves).await?;
        report(narrator, &outcome, moves.len(), rows_moved);
        edit?;
        narrator.ask(&connection, NODES).await?;
        narrator.ask(&connection, SHARDS).await?;
        let counted = narrator.ask(&connection, COUNT).await?.number();
        let wanted = self.events + outcome.inserted;
        narrator.remark(&format!(
            "{} events were loaded and {} were inserted by the clients: {} in all",
            thousands(self.events),
            thousands(outcome.inserted),
            thousands(wanted)
        ));
        if let Some(first) = outcome.errors.first() {
            return Err(failed(format!("clients saw {} errors", outcome.errors.len())).detail(first.clone()));
        }
        if moves.is_empty() {
            return Err(failed("no shard was moved to the new workers"));
        }
        expect_count("github_events", wanted, counted)?;
        expect_updates(&connection, &outcome).await?;
        narrator.good("Every row that was written is there, every update too, and no client saw an error.");
        Ok(())
    }
}

/// COPY with this program in the place of psql.
async fn load(
    narrator: &mut Narrator,
    connection: &Connection,
    table: &str,
    mut lines: impl Iterator<Item = String>,
) -> Result<()> {
    let copy = format!("COPY {table} FROM STDIN (FORMAT csv)");
    narrator.prompt(&copy);
    let start = Instant::now();
    let sink = connection.client().copy_in::<_, Bytes>(&copy).await.map_err(catalog::pg_error)?;
    let mut sink = std::pin::pin!(sink);
    loop {
        let mut chunk = BytesMut::with_capacity(2 * COPY_CHUNK);
        while chunk.len() < COPY_CHUNK
            && let Some(line) = lines.next()
        {
            chunk.extend_from_slice(line.as_bytes());
        }
        if chunk.is_empty() {
            break;
        }
        sink.send(chunk.freeze()).await.map_err(catalog::pg_error)?;
    }
    let rows = sink.finish().await.map_err(catalog::pg_error)?;
    narrator.answer(&format!("COPY {rows}"));
    narrator.time(start.elapsed());
    Ok(())
}

fn report(narrator: &mut Narrator, outcome: &Outcome, moves: usize, rows_moved: u64) {
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    narrator.facts(&[
        ("shard groups moved", thousands(moves)),
        ("rows moved", thousands(rows_moved)),
        ("statements run meanwhile", thousands(outcome.waits.len())),
        ("errors seen by clients", thousands(outcome.errors.len())),
        ("median wait", milliseconds(outcome.wait_at(0.5))),
        ("99 of 100 waited less than", milliseconds(outcome.wait_at(0.99))),
        ("longest wait", milliseconds(outcome.wait_at(1.0))),
    ]);
}

/// Every client noted the last value that it wrote for each of its users.
async fn expect_updates(connection: &Connection, outcome: &Outcome) -> Result<()> {
    let found = connection.ask("SELECT user_id, gravatar_id FROM github_users").await?;
    let found: std::collections::HashMap<i64, &str> =
        (0..found.rows.len()).filter_map(|row| Some((found.at(row, 0)?.parse().ok()?, found.at(row, 1)?))).collect();
    let lost = outcome.updated.iter().find(|(user, value)| found.get(user).copied() != Some(value.as_str()));
    match lost {
        None => Ok(()),
        Some((user, value)) => {
            let detail = format!("User {user} has {:?}, but {value:?} was written last.", found.get(user));
            Err(failed("an update was lost").detail(detail))
        }
    }
}

fn expect_count(table: &str, wanted: usize, counted: Option<i64>) -> Result<()> {
    if counted.and_then(|count| usize::try_from(count).ok()) == Some(wanted) {
        return Ok(());
    }
    let counted = counted.map_or("no number".to_owned(), |count| count.to_string());
    Err(failed(format!("table \"{table}\" should have {wanted} rows, but count(*) says {counted}")))
}

fn failed(what: impl Into<String>) -> PgError {
    PgError::new(SqlState::DATA_CORRUPTED, what)
}

fn first_field(line: &str) -> Option<i64> {
    line.split(',').next()?.parse().ok()
}

const SEED: u64 = 2016;
const WORKERS_BEFORE: u16 = 2;
const WORKERS_AFTER: u16 = 4;
/// How long the workload runs before and after the change of size.
const LULL: Duration = Duration::from_secs(2);
const COPY_CHUNK: usize = 64 << 10;

const TABLES: &[&str] = &[
    "CREATE TABLE github_events (
    event_id bigint,
    event_type text,
    event_public boolean,
    repo_id bigint,
    payload jsonb,
    repo jsonb,
    user_id bigint,
    org jsonb,
    created_at timestamp,
    PRIMARY KEY (user_id, event_id)
)",
    "CREATE TABLE github_users (
    user_id bigint PRIMARY KEY,
    url text,
    login text,
    avatar_url text,
    gravatar_id text,
    display_login text
)",
    "CREATE INDEX event_type_index ON github_events (event_type)",
    "CREATE INDEX payload_index ON github_events USING GIN (payload jsonb_path_ops)",
    "SELECT create_distributed_table('github_events', 'user_id')",
    "SELECT create_distributed_table('github_users', 'user_id')",
];
const NODES: &str = "SELECT * FROM pg_dist_node ORDER BY nodeid";
const COUNT: &str = "SELECT count(*) FROM github_events";
const ONE_TENANT: &str = "SELECT u.login, e.event_type, count(*)
FROM github_users u JOIN github_events e ON e.user_id = u.user_id
WHERE u.user_id = $tenant
GROUP BY u.login, e.event_type ORDER BY count(*) DESC LIMIT 3";
const ALL_TENANTS: &str = "SELECT event_type, count(*), min(created_at), max(created_at)
FROM github_events GROUP BY event_type ORDER BY count(*) DESC";
const SHARDS: &str = "SELECT nodename, nodeport, count(*) AS shards
FROM citus_shards GROUP BY nodename, nodeport ORDER BY nodeport";
