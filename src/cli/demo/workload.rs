//! Clients that go on working while the cluster changes: each reads and writes one tenant at a time, by a real driver.
//!
//! ```text
//!   client k owns the users k, k + 8, k + 16, ...   so the last value written to each is known at the end
//!     INSERT an event                                prepared
//!     SELECT a join of both tables                   prepared
//!     BEGIN, INSERT an event, UPDATE the user, COMMIT
//!     SELECT the user by a statement with constants  simple protocol
//! ```

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};
use tokio_util::sync::CancellationToken;

use crate::catalog;
use crate::cli::connection::ProxyAddress;
use crate::error::Result;

/// Clients at work.
pub struct Workload {
    clients: JoinSet<Outcome>,
    stop: CancellationToken,
}

/// What clients did and saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Events whose insert was confirmed.
    pub inserted: usize,
    /// By user: the value that the last confirmed update wrote.
    pub updated: HashMap<i64, String>,
    pub errors: Vec<String>,
    /// How long each statement took, sorted once the workload has stopped.
    pub waits: Vec<Duration>,
}

impl Workload {
    /// Connects all clients, then lets them begin. Errors: a client that cannot connect or prepare.
    pub async fn start(address: &ProxyAddress, users: Vec<i64>) -> Result<Self> {
        let stop = CancellationToken::new();
        let mut ready = Vec::new();
        for number in 0..CLIENTS {
            let own = users.iter().copied().skip(number).step_by(CLIENTS).collect();
            ready.push(Worker::connect(address, number, own).await?);
        }
        let mut clients = JoinSet::new();
        for worker in ready {
            clients.spawn(worker.work(stop.clone()));
        }
        Ok(Self { clients, stop })
    }

    /// Lets every client finish its statement, and adds up.
    pub async fn stop(mut self) -> Outcome {
        self.stop.cancel();
        let mut sum = Outcome::default();
        while let Some(ended) = self.clients.join_next().await {
            match ended {
                Ok(outcome) => sum.add(outcome),
                Err(error) => sum.errors.push(error.to_string()),
            }
        }
        sum.waits.sort_unstable();
        sum
    }
}

impl Outcome {
    /// The wait that this share of all statements did not exceed: 0.5 is the median, 1.0 the longest.
    pub fn wait_at(&self, share: f64) -> Duration {
        let last = self.waits.len().saturating_sub(1);
        self.waits.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Outcome) {
        self.inserted += other.inserted;
        self.updated.extend(other.updated);
        self.errors.extend(other.errors);
        self.waits.extend(other.waits);
    }
}

struct Worker {
    client: Client,
    insert: Statement,
    join: Statement,
    update: Statement,
    users: Vec<i64>,
    next_event: i64,
    random: StdRng,
    outcome: Outcome,
}

impl Worker {
    async fn connect(address: &ProxyAddress, number: usize, users: Vec<i64>) -> Result<Self> {
        let (client, connection) = address.login().connect(NoTls).await.map_err(catalog::pg_error)?;
        tokio::spawn(connection);
        let prepare = async |sql| client.prepare(sql).await.map_err(catalog::pg_error);
        let (insert, join, update) = (prepare(INSERT).await?, prepare(JOIN).await?, prepare(UPDATE).await?);
        Ok(Self {
            insert,
            join,
            update,
            client,
            users,
            next_event: FIRST_EVENT + i64::try_from(number).unwrap_or(0) * EVENTS_PER_CLIENT,
            random: StdRng::seed_from_u64(number as u64),
            outcome: Outcome::default(),
        })
    }

    async fn work(mut self, stop: CancellationToken) -> Outcome {
        while !stop.is_cancelled() && !self.users.is_empty() {
            tokio::time::sleep(PAUSE).await;
            let user = self.users[self.random.random_range(0..self.users.len())];
            let done = match self.random.random_range(0..4) {
                0 => self.insert(user).await,
                1 => self.read(user).await,
                2 => self.transaction(user).await,
                _ => self.look_up(user).await,
            };
            if let Err(error) = done {
                let error = catalog::pg_error(error);
                self.outcome.errors.push(error.to_string());
                if self.client.is_closed() || self.outcome.errors.len() >= ERRORS_MAX {
                    break;
                }
                // Out of a transaction that failed; refused with a warning outside of one.
                let _ = self.client.batch_execute("ROLLBACK").await;
            }
        }
        self.outcome
    }

    async fn insert(&mut self, user: i64) -> Answer {
        self.insert_event(user).await?;
        self.outcome.inserted += 1;
        Ok(())
    }

    async fn read(&mut self, user: i64) -> Answer {
        let Self { client, join, outcome, .. } = self;
        timed(outcome, client.query(&*join, &[&user])).await.map(|_| ())
    }

    async fn look_up(&mut self, user: i64) -> Answer {
        let sql = format!("SELECT login, display_login FROM github_users WHERE user_id = {user}");
        let Self { client, outcome, .. } = self;
        timed(outcome, client.simple_query(&sql)).await.map(|_| ())
    }

    async fn transaction(&mut self, user: i64) -> Answer {
        timed(&mut self.outcome, self.client.batch_execute("BEGIN")).await?;
        let event = self.insert_event(user).await?;
        let value = event.to_string();
        let parameters: [&(dyn ToSql + Sync); 2] = [&user, &value];
        timed(&mut self.outcome, self.client.execute(&self.update, &parameters)).await?;
        timed(&mut self.outcome, self.client.batch_execute("COMMIT")).await?;
        self.outcome.inserted += 1;
        self.outcome.updated.insert(user, value);
        Ok(())
    }

    /// The new event's id. Not counted as inserted yet: its transaction may still fail.
    async fn insert_event(&mut self, user: i64) -> std::result::Result<i64, tokio_postgres::Error> {
        let event = self.next_event;
        self.next_event += 1;
        let repo = event % 100_000;
        let parameters: [&(dyn ToSql + Sync); 3] = [&user, &event, &repo];
        timed(&mut self.outcome, self.client.execute(&self.insert, &parameters)).await?;
        Ok(event)
    }
}

type Answer = std::result::Result<(), tokio_postgres::Error>;

async fn timed<T>(outcome: &mut Outcome, statement: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let answer = statement.await;
    outcome.waits.push(start.elapsed());
    answer
}

const CLIENTS: usize = 8;
/// Between a client's turns: applications think too, and a machine at its limit would measure itself.
const PAUSE: Duration = Duration::from_millis(5);
/// A client that fails this often has told enough.
const ERRORS_MAX: usize = 20;
/// Above every id of the loaded data.
const FIRST_EVENT: i64 = 1_000_000_000_000;
const EVENTS_PER_CLIENT: i64 = 1_000_000_000;

const INSERT: &str = r#"INSERT INTO github_events (user_id, event_id, event_type, event_public, repo_id, payload, created_at)
    VALUES ($1, $2, 'WatchEvent', true, $3, '{"action": "started"}', now())"#;
const JOIN: &str = "SELECT u.login, e.event_type, count(*)
    FROM github_users u JOIN github_events e ON e.user_id = u.user_id
    WHERE u.user_id = $1 GROUP BY u.login, e.event_type";
const UPDATE: &str = "UPDATE github_users SET gravatar_id = $2 WHERE user_id = $1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_by_their_share() {
        let waits = (1..=101).map(Duration::from_millis).collect();
        let outcome = Outcome { waits, ..Outcome::default() };
        assert_eq!(outcome.wait_at(0.5), Duration::from_millis(51));
        assert_eq!(outcome.wait_at(1.0), Duration::from_millis(101));
        assert_eq!(Outcome::default().wait_at(1.0), Duration::ZERO);
    }
}
