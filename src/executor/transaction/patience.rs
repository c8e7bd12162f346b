//! How long a client's statement may wait: what one Postgres ends by `lock_timeout` and `statement_timeout`, the proxy ends where the
//! statement waits here.

use std::time::{Duration, Instant};

use super::Transaction;
use crate::error::{PgError, Result, SqlState};
use crate::transport::timer;

/// Of one statement; `None`: for ever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    lock: Option<Duration>,
    statement: Option<Duration>,
    since: Instant,
}

impl Patience {
    /// Awaits what takes the place of a lock.
    ///
    /// Errors: 55P03, 57014.
    pub async fn during(&self, wait: impl Future<Output = ()>) -> Result<()> {
        let left = self.statement.map(|timeout| timeout.saturating_sub(self.since.elapsed()));
        // Where both end at once it is the lock's. Source: PostgreSQL src/backend/tcop/postgres.c, ProcessInterrupts().
        let (first, error) = match (self.lock, left) {
            (Some(lock), left) if left.is_none_or(|left| lock <= left) => (lock, lock_timeout as fn() -> PgError),
            (_, Some(left)) => (left, statement_timeout as fn() -> PgError),
            (_, None) => {
                wait.await;
                return Ok(());
            }
        };
        timer::timeout(first, wait).await.map_err(|_| error())
    }
}

impl Transaction {
    /// As a server of the transaction has it for this client, the coordinator where none can be asked now.
    pub(super) async fn patience(&mut self) -> Result<Patience> {
        let since = Instant::now();
        let shown = match self.participants.iter_mut().find(|p| !p.is_unsynced && !p.server.owes()) {
            Some(asked) => {
                let shown = asked.server.query_all("SHOW lock_timeout; SHOW statement_timeout").await;
                self.failed |= shown.is_err();
                shown?.into_iter().flatten().map(Option::unwrap_or_default).collect()
            }
            None => self.show(&["lock_timeout", "statement_timeout"]).await?,
        };
        let timeout = |at: usize| shown.get(at).and_then(|text| read_timeout(text));
        Ok(Patience { lock: timeout(0), statement: timeout(1), since })
    }
}

/// As SHOW tells it: a number with the largest unit that it has no rest in. `None`: none is set.
fn read_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let milliseconds = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let timeout = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(milliseconds)?);
    (!timeout.is_zero()).then_some(timeout)
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
            assert_eq!(read_timeout(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(read_timeout("0"), None);
        assert_eq!(read_timeout("soon"), None);
    }

    #[tokio::test]
    async fn what_ends_first_is_told() {
        let ends = async |lock, statement| {
            let timeout = |milliseconds| (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
            let patience = Patience { lock: timeout(lock), statement: timeout(statement), since: Instant::now() };
            let ended = patience.during(std::future::pending()).await;
            ended.expect_err("nothing else ends it").message().to_owned()
        };
        let (of_lock, of_statement) =
            ("canceling statement due to lock timeout", "canceling statement due to statement timeout");
        for (lock, statement, said) in
            [(1, 0, of_lock), (0, 1, of_statement), (1, 3_600_000, of_lock), (3_600_000, 1, of_statement)]
        {
            assert_eq!(ends(lock, statement).await, said);
        }
        let patience = Patience { lock: None, statement: None, since: Instant::now() };
        assert!(patience.during(std::future::ready(())).await.is_ok());
    }
}
