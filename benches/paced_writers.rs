//! Paced clients that keep a ledger: what benches/move.sh runs while shards move.
//!
//! ```text
//!   paced_writers URL CLIENTS STATEMENTS_PER_SECOND      writes until the standard input ends, then checks and prints
//!
//!   each client, one tenant at a time, over a connection of its own:
//!     INSERT INTO ledger (tenant_id, client, number, ...)     prepared
//!     UPDATE balance SET entries = entries + 1                prepared
//!     BEGIN; INSERT; UPDATE; COMMIT                           every tenth time
//! ```
//!
//! Statements begin at fixed times, so a wait is not hidden by fewer statements (coordinated omission): it is counted from
//! the time at which the statement was due. The ledger is what servers have confirmed; in the end every confirmed row must
//! be there once, no other row may be, and each tenant's balance must be the number of its rows.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, clients, rate] = &arguments[..] else {
        // `cargo bench` and `cargo test` start every program that they find.
        eprintln!("usage: paced_writers URL CLIENTS STATEMENTS_PER_SECOND");
        return Ok(());
    };
    let (clients, rate): (i32, f64) = (clients.parse()?, rate.parse()?);
    let pause = Duration::from_secs_f64(f64::from(clients) / rate);
    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for number in 0..clients {
        let writer = Writer::connect(url, number).await?;
        // Spread over the pause, so that they do not all come at once.
        let first = Instant::now() + pause.mul_f64(f64::from(number) / f64::from(clients));
        writers.spawn(writer.write(first, pause, stop.clone()));
    }
    let mut input = Vec::new();
    tokio::io::stdin().read_to_end(&mut input).await?;
    stop.cancel();
    let mut ledger = Ledger::default();
    while let Some(written) = writers.join_next().await {
        ledger.add(written?);
    }
    ledger.waits.sort_unstable();
    let found = Found::read(&connect(url).await?, &ledger).await?;
    println!(
        "statements {} errors {} missing {} doubled {} unknown {} balances_wrong {} median_ms {:.2} p99_ms {:.2} p999_ms {:.2} longest_ms {:.2}",
        ledger.waits.len(),
        ledger.errors.len(),
        found.missing,
        found.doubled,
        found.unknown,
        found.balances_wrong,
        ledger.wait_at(0.5),
        ledger.wait_at(0.99),
        ledger.wait_at(0.999),
        ledger.wait_at(1.0),
    );
    ledger.errors.iter().take(5).for_each(|error| eprintln!("paced_writers: {error}"));
    Ok(())
}

async fn connect(url: &str) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What was confirmed.
#[derive(Default)]
struct Ledger {
    /// By client and number: the tenant.
    rows: HashMap<(i32, i64), i32>,
    errors: Vec<String>,
    waits: Vec<Duration>,
}

impl Ledger {
    fn add(&mut self, other: Ledger) {
        self.rows.extend(other.rows);
        self.errors.extend(other.errors);
        self.waits.extend(other.waits);
    }

    /// In milliseconds; the waits are sorted.
    fn wait_at(&self, share: f64) -> f64 {
        let last = self.waits.len().saturating_sub(1);
        let wait = self.waits.get((last as f64 * share).round() as usize).copied().unwrap_or_default();
        wait.as_secs_f64() * 1e3
    }
}

struct Writer {
    client: Client,
    number: i32,
    insert: tokio_postgres::Statement,
    update: tokio_postgres::Statement,
    ledger: Ledger,
}

impl Writer {
    async fn connect(url: &str, number: i32) -> Result<Self, Failure> {
        let client = connect(url).await?;
        let insert = client.prepare(INSERT).await?;
        let update = client.prepare(UPDATE).await?;
        Ok(Self { client, number, insert, update, ledger: Ledger::default() })
    }

    async fn write(mut self, mut due: Instant, pause: Duration, stop: CancellationToken) -> Ledger {
        let mut number = 0;
        while !stop.is_cancelled() {
            tokio::time::sleep_until(due).await;
            number += 1;
            // A multiplier without a common factor with the number of tenants visits all of them.
            let tenant = ((number * 7_919 + i64::from(self.number) * 101) % TENANTS) as i32 + 1;
            let written = self.entry(tenant, number).await;
            self.ledger.waits.push(due.elapsed());
            match written {
                Ok(()) => drop(self.ledger.rows.insert((self.number, number), tenant)),
                Err(error) => {
                    let detail = error.as_db_error().map_or_else(|| error.to_string(), |error| error.to_string());
                    self.ledger.errors.push(detail);
                }
            }
            due += pause;
        }
        self.ledger
    }

    async fn entry(&mut self, tenant: i32, number: i64) -> Result<(), tokio_postgres::Error> {
        if number % 10 == 0 {
            let block = self.client.transaction().await?;
            block.execute(&self.insert, &[&tenant, &self.number, &number]).await?;
            block.execute(&self.update, &[&tenant]).await?;
            return block.commit().await;
        }
        self.client.execute(&self.insert, &[&tenant, &self.number, &number]).await.map(|_| ())
    }
}

/// What the tables say.
#[derive(Default)]
struct Found {
    missing: usize,
    doubled: usize,
    /// Rows that no server has confirmed: only an error can leave such a one.
    unknown: usize,
    balances_wrong: usize,
}

impl Found {
    async fn read(client: &Client, ledger: &Ledger) -> Result<Self, Failure> {
        let mut seen: HashMap<(i32, i64), usize> = HashMap::new();
        let mut blocks: HashMap<i32, i64> = HashMap::new();
        for row in client.query("SELECT client, number, tenant_id FROM ledger", &[]).await? {
            let (writer, number, tenant): (i32, i64, i32) = (row.get(0), row.get(1), row.get(2));
            *seen.entry((writer, number)).or_default() += 1;
            if number % 10 == 0 {
                *blocks.entry(tenant).or_default() += 1;
            }
        }
        let mut found = Self {
            missing: ledger.rows.keys().filter(|key| !seen.contains_key(key)).count(),
            doubled: seen.values().filter(|count| **count > 1).count(),
            unknown: seen.keys().filter(|key| !ledger.rows.contains_key(key)).count(),
            balances_wrong: 0,
        };
        for row in client.query("SELECT tenant_id, entries FROM balance", &[]).await? {
            let (tenant, entries): (i32, i64) = (row.get(0), row.get(1));
            found.balances_wrong += usize::from(entries != blocks.get(&tenant).copied().unwrap_or(0));
        }
        Ok(found)
    }
}

const INSERT: &str =
    "INSERT INTO ledger (tenant_id, client, number, note) VALUES ($1, $2, $3, 'an entry of the ledger')";
const UPDATE: &str = "UPDATE balance SET entries = entries + 1 WHERE tenant_id = $1";
/// As many as benches/move.sh makes.
const TENANTS: i64 = 1000;
