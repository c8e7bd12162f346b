//! What a session's cancel request reaches: the statement that runs when it arrives, and no other.
//!
//! ```text
//!   session    number 7 ── statement ──> 8 idle ── begin(): is a cancel under way? wait ──> 9 ── statement
//!   canceller  under_way + 1, number still 7? ── CancelRequest to each server, until it has closed ── under_way - 1
//! ```
//!
//! A server takes a cancel for whatever it runs when the signal arrives. So the next statement does not begin while a
//! cancel is under way, and a server that is given back meanwhile is closed instead.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::cancel::{self, CancelTarget};
use crate::error::{PgError, Result, SqlState};
use crate::transport::timer;

/// One per client session.
#[derive(Debug, Default)]
pub struct CancelHandle {
    /// Of the statement; odd while it runs.
    number: AtomicU64,
    /// Of the last statement that was cancelled.
    cancelled: AtomicU64,
    under_way: AtomicUsize,
    /// Rings for every change of the two above.
    bell: Notify,
    /// Requests that have come, and how many of them had come when the last one was sent on.
    requests: AtomicU64,
    sent: tokio::sync::Mutex<u64>,
    /// The last statement whose cancel is repeated.
    repeated: AtomicU64,
    servers: Mutex<Vec<Arc<CancelTarget>>>,
}

impl CancelHandle {
    /// The session's next statement begins. Waits until no cancel of an earlier one is under way. Cancel safe.
    pub async fn begin(&self) {
        if !self.begin_at_once() {
            self.landed().await;
        }
    }

    /// As `begin`; false when a cancel of an earlier one is under way.
    pub fn begin_at_once(&self) -> bool {
        let number = self.number.load(Ordering::Relaxed);
        // Before `under_way` is read: a canceller that counts itself later sees this number.
        self.number.store((number + 1) | 1, Ordering::SeqCst);
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// The session waits for its client.
    pub fn end(&self) {
        let number = self.number.load(Ordering::Relaxed);
        self.number.store(number + (number & 1), Ordering::SeqCst);
    }

    /// The number of the statement that runs, if one does.
    pub fn running(&self) -> Option<u64> {
        Some(self.number.load(Ordering::SeqCst)).filter(|number| number & 1 == 1)
    }

    /// Waits until no cancel is under way. Cancel safe.
    pub async fn landed(&self) {
        while self.under_way.load(Ordering::SeqCst) != 0 {
            // Before the second look, so that no ring is missed.
            let bell = self.bell.notified();
            if self.under_way.load(Ordering::SeqCst) == 0 {
                return;
            }
            bell.await;
        }
    }

    /// The statement that runs now works on this server too.
    ///
    /// Errors: 57014 when it has been cancelled already; a cancel may be on its way to the server all the same.
    pub fn add(&self, target: Arc<CancelTarget>) -> Result<()> {
        self.lock().push(target);
        // After the server was added: a cancel that did not see it has left its mark before.
        self.check()
    }

    /// Errors: 57014 when the statement that runs has been cancelled.
    pub fn check(&self) -> Result<()> {
        let number = self.number.load(Ordering::SeqCst);
        if number & 1 == 1 && self.cancelled.load(Ordering::SeqCst) == number {
            return Err(PgError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request"));
        }
        Ok(())
    }

    /// Runs `work`, which does not need a server to be interrupted: a wait in a queue.
    ///
    /// Errors: those of `work`, and 57014 as soon as the statement is cancelled.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let cancelled = async {
            loop {
                let bell = self.bell.notified();
                if let Err(cancelled) = self.check() {
                    return cancelled;
                }
                bell.await;
            }
        };
        tokio::select! { biased; done = work => done, error = cancelled => Err(error) }
    }

    /// From here on a cancel does not reach these servers: what they run now must come to its end.
    pub async fn spare(&self, targets: &[Arc<CancelTarget>]) {
        self.lock().retain(|server| !targets.iter().any(|target| Arc::ptr_eq(server, target)));
        self.landed().await;
    }

    /// The session is done with a server. True when it may be reused: no cancel is on its way to it.
    pub fn remove(&self, target: &Arc<CancelTarget>) -> bool {
        let mut servers = self.lock();
        let count = servers.len();
        servers.retain(|server| !Arc::ptr_eq(server, target));
        // One that is not there was spared before.
        servers.len() == count || self.under_way.load(Ordering::SeqCst) == 0
    }

    /// Cancels statement `number` on every server that runs it, if it still does; returns when they have taken it.
    /// What begins only afterwards, where a statement is many, is cancelled by further attempts.
    pub async fn cancel(self: &Arc<Self>, number: u64) {
        self.cancelled.fetch_max(number, Ordering::SeqCst);
        self.bell.notify_waiters();
        self.send(number).await;
        if self.running() == Some(number) && self.repeated.fetch_max(number, Ordering::SeqCst) < number {
            tokio::spawn(self.clone().repeat(number));
        }
    }

    /// A server that had not begun when the cancel arrived has taken it for nothing.
    async fn repeat(self: Arc<Self>, number: u64) {
        let mut pause = FIRST_PAUSE;
        while pause <= LAST_PAUSE {
            timer::sleep(pause).await;
            if self.running() != Some(number) {
                return;
            }
            self.send(number).await;
            pause *= 2;
        }
    }

    /// One request to each server at a time, however many come: who finds one under way waits for it, and the next
    /// one does for all who wait.
    async fn send(&self, number: u64) {
        let own = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let mut sent = self.sent.lock().await;
        if *sent >= own {
            return;
        }
        let up_to = self.requests.load(Ordering::SeqCst);
        let _under_way = UnderWay::new(self);
        if self.number.load(Ordering::SeqCst) != number {
            return;
        }
        let servers = self.lock().clone();
        let requests = servers.iter().map(|server| cancel::cancel(server));
        for error in futures_util::future::join_all(requests).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "could not deliver a cancel request");
        }
        *sent = up_to;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<CancelTarget>>> {
        // Nothing panics while the lock is held, so it cannot be poisoned.
        self.servers.lock().expect("no panic under this lock")
    }
}

struct UnderWay<'a>(&'a CancelHandle);

impl<'a> UnderWay<'a> {
    fn new(handle: &'a CancelHandle) -> Self {
        handle.under_way.fetch_add(1, Ordering::SeqCst);
        Self(handle)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        self.0.bell.notify_waiters();
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cancel_reaches_the_statement_that_runs_and_no_other() {
        let handle = Arc::new(CancelHandle::default());
        assert_eq!(handle.running(), None);
        handle.begin().await;
        let first = handle.running().unwrap();
        handle.cancel(first).await;
        assert_eq!(handle.check().unwrap_err().code(), SqlState::QUERY_CANCELED);
        handle.begin().await;
        assert!(handle.check().is_ok() && handle.running() != Some(first));
        handle.cancel(first).await;
        assert!(handle.check().is_ok(), "an earlier statement was meant");
        handle.end();
        assert_eq!(handle.running(), None);
    }

    #[tokio::test]
    async fn the_next_statement_waits_for_a_cancel_that_is_under_way() {
        let handle = Arc::new(CancelHandle::default());
        handle.begin().await;
        let under_way = UnderWay::new(&handle);
        let next = handle.begin();
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(under_way);
        next.await;
    }

    #[tokio::test]
    async fn a_wait_ends_when_its_statement_is_cancelled() {
        let handle = Arc::new(CancelHandle::default());
        handle.begin().await;
        let number = handle.running().unwrap();
        let waiting = handle.clone();
        let wait = tokio::spawn(async move { waiting.unless_cancelled(std::future::pending::<Result<()>>()).await });
        tokio::task::yield_now().await;
        handle.cancel(number).await;
        assert_eq!(wait.await.unwrap().unwrap_err().code(), SqlState::QUERY_CANCELED);
    }
}
