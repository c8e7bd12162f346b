//! How long a client's statement may wait: what one Postgres ends by `lock_timeout` and `statement_timeout`, the proxy ends where the
//! statement waits here.

use std::time::{Duration, Instant};

use super::Transaction;
use crate::backend::SessionSettings;
use crate::error::{PgError, Result, SqlState};
use crate::executor::journal::Entry;
use crate::shard_map::NodeId;
use crate::transport::timer;

/// What a client's settings say; `None`: for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    lock: Option<Duration>,
    statement: Option<Duration>,
}

impl Timeouts {
    pub const NAMES: [&str; 2] = ["lock_timeout", "statement_timeout"];

    /// Of `NAMES`, as SHOW tells them.
    pub fn read(shown: &[String]) -> Self {
        let timeout = |at: usize| shown.get(at).and_then(|text| read_timeout(text)).flatten();
        Self { lock: timeout(0), statement: timeout(1) }
    }
}

/// The timeouts that a session began with, and the settings that it asked for then.
#[derive(Debug, Default)]
pub struct FirstTimeouts {
    pub settings: SessionSettings,
    pub timeouts: Timeouts,
}

/// Of one statement.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    timeouts: Timeouts,
    since: Instant,
}

impl Patience {
    /// From here on it waits for one lock, or what takes its place.
    pub fn begin(&self) -> Limit {
        let end = |from: Instant, timeout: Option<Duration>| from.checked_add(timeout?);
        let lock = end(Instant::now(), self.timeouts.lock).map(|at| (at, lock_timeout as fn() -> PgError));
        let statement = end(self.since, self.timeouts.statement).map(|at| (at, statement_timeout as _));
        // Where both end at once it is the lock's. Source: PostgreSQL src/backend/tcop/postgres.c, ProcessInterrupts().
        Limit(lock.into_iter().chain(statement).min_by_key(|(at, _)| *at))
    }
}

/// When a wait ends, and what the client is told then.
#[derive(Debug, Clone, Copy)]
pub struct Limit(Option<(Instant, fn() -> PgError)>);

impl Limit {
    /// Errors: 55P03, 57014.
    pub async fn during<T>(&self, wait: impl Future<Output = T>) -> Result<T> {
        match self.0 {
            None => Ok(wait.await),
            Some((at, error)) => timer::timeout_at(at.into(), wait).await.map_err(|_| error()),
        }
    }
}

impl Transaction {
    /// How long its statement waits, which begins to wait now.
    ///
    /// Errors: those of a server that has to be asked.
    pub async fn patience(&mut self) -> Result<Patience> {
        let since = Instant::now();
        let timeouts = match self.known_timeouts() {
            Some(timeouts) => timeouts,
            None => self.ask_for_timeouts().await?,
        };
        Ok(Patience { timeouts, since })
    }

    /// The same without asking anybody; `None` where somebody would have to be.
    pub fn patience_at_hand(&self) -> Option<Patience> {
        Some(Patience { timeouts: self.known_timeouts()?, since: Instant::now() })
    }

    /// By what has been set last, or what they were at first. `None` where that cannot be read here: DEFAULT, what code may have set.
    fn known_timeouts(&self) -> Option<Timeouts> {
        let resets = |entry: &Entry| entry.sql.to_ascii_lowercase().contains("reset");
        if self.has_hidden_code() || self.journal.iter().any(resets) {
            return None;
        }
        let timeout = |name: &str, first: Option<Duration>| {
            let here = self.journal.iter().rev().find(|entry| entry.sql.to_ascii_lowercase().contains(name));
            let (set, set_first) = (self.settings.statement_of(name), self.first.settings.statement_of(name));
            match here {
                Some(entry) => read_statement(&entry.sql, name),
                None if set == set_first => Some(first),
                None => read_statement(set?, name),
            }
        };
        let [lock, statement] = Timeouts::NAMES;
        let first = self.first.timeouts;
        Some(Timeouts { lock: timeout(lock, first.lock)?, statement: timeout(statement, first.statement)? })
    }

    /// As a server of the transaction has it for this client, the coordinator where none can be asked now.
    async fn ask_for_timeouts(&mut self) -> Result<Timeouts> {
        let asked = self.participants.iter_mut().find(|p| !p.is_unsynced && !p.server.owes());
        let Some(asked) = asked else {
            let takes_part = self.participant(NodeId::COORDINATOR).is_some();
            let shown = self.show(&Timeouts::NAMES).await?;
            if !takes_part {
                // Others need its connection while this one waits.
                self.leave(NodeId::COORDINATOR).await?;
            }
            return Ok(Timeouts::read(&shown));
        };
        let shown = asked.server.query_all(&Timeouts::NAMES.map(|name| format!("SHOW {name}")).join("; ")).await;
        self.failed |= shown.is_err();
        let shown: Vec<String> = shown?.into_iter().flatten().map(Option::unwrap_or_default).collect();
        Ok(Timeouts::read(&shown))
    }
}

/// As SHOW tells it: a number with the largest unit that it has no rest in. 0: none is set.
fn read_timeout(text: &str) -> Option<Option<Duration>> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let milliseconds = match unit.trim_start() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let timeout = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(milliseconds)?);
    Some((!timeout.is_zero()).then_some(timeout))
}

/// The value that SET or `set_config` gives to `name`, where it is as plain as nearly all of them are.
fn read_statement(sql: &str, name: &str) -> Option<Option<Duration>> {
    let sql = sql.to_ascii_lowercase();
    let rest = sql.get(sql.find(name)? + name.len()..)?;
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\'' | ',' | '='));
    let rest =
        rest.strip_prefix("to").unwrap_or(rest).trim_start_matches(|c: char| c == '\'' || c.is_ascii_whitespace());
    let end = rest.find(['\'', ';', ',']).unwrap_or(rest.len());
    read_timeout(rest[..end].trim_end())
}

fn lock_timeout() -> PgError {
    PgError::new(SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout")
}

fn statement_timeout() -> PgError {
    PgError::new(SqlState::QUERY_CANCELED, "canceling statement due to statement timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_servers_show_them() {
        for (text, milliseconds) in
            [("300ms", 300), ("5s", 5_000), ("2min", 120_000), ("1h", 3_600_000), ("24d", 2_073_600_000)]
        {
            assert_eq!(read_timeout(text), Some(Some(Duration::from_millis(milliseconds))), "{text}");
        }
        assert_eq!(read_timeout("0"), Some(None));
        assert_eq!(read_timeout("soon"), None);
    }

    #[test]
    fn timeouts_are_read_as_clients_set_them() {
        for sql in [
            "SET lock_timeout = '2s'",
            "SET LOCAL lock_timeout TO 2000",
            "set session Lock_Timeout to '2 s';",
            "SET \"lock_timeout\" = '2000ms'",
            "SET lock_timeout=2000",
            "SELECT pg_catalog.set_config('lock_timeout', '2s', true)",
        ] {
            assert_eq!(read_statement(sql, "lock_timeout"), Some(Some(Duration::from_secs(2))), "{sql}");
        }
        assert_eq!(read_statement("SET lock_timeout = 0", "lock_timeout"), Some(None));
        for asked in [
            "SET lock_timeout TO DEFAULT",
            "RESET lock_timeout",
            "SET lock_timeout = '1.5s'",
            "SET lock_timeout = 5 /* or 6 */",
            "SET lock_timeout = E'2s'",
            "SELECT set_config('lock_timeout', $1, false)",
        ] {
            assert_eq!(read_statement(asked, "lock_timeout"), None, "{asked}");
        }
    }

    #[tokio::test]
    async fn what_ends_first_is_told() {
        let ends = async |lock, statement| {
            let timeout = |milliseconds| (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
            let timeouts = Timeouts { lock: timeout(lock), statement: timeout(statement) };
            let limit = Patience { timeouts, since: Instant::now() }.begin();
            let ended = limit.during(std::future::pending::<()>()).await;
            ended.expect_err("nothing else ends it").message().to_owned()
        };
        let (of_lock, of_statement) =
            ("canceling statement due to lock timeout", "canceling statement due to statement timeout");
        for (lock, statement, said) in
            [(1, 0, of_lock), (0, 1, of_statement), (1, 3_600_000, of_lock), (3_600_000, 1, of_statement)]
        {
            assert_eq!(ends(lock, statement).await, said);
        }
        let patience = Patience { timeouts: Timeouts::default(), since: Instant::now() };
        assert!(patience.begin().during(std::future::ready(())).await.is_ok());
    }
}
