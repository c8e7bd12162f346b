//! Time-outs for threads whose runtime has no timers of its own.
//!
//! A runtime with timers looks at them, and at the clock, each time it waits for sockets: twice for each statement, while nearly
//! none needs one. So data threads have none, and lend those of the control runtime, which wakes them.

use std::cell::RefCell;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, Timeout};
use tokio_util::context::TokioContext;

thread_local! {
    static LENDER: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// From now on timers of this thread are those of `lender`, which has to outlive its work.
pub fn lend_timers(lender: Handle) {
    LENDER.set(Some(lender));
}

/// `tokio::time::sleep` with the timers that this thread uses; so are the others.
pub fn sleep(duration: Duration) -> Sleep {
    make(|| tokio::time::sleep(duration))
}

pub fn sleep_until(deadline: Instant) -> Sleep {
    make(|| tokio::time::sleep_until(deadline))
}

pub fn timeout<F: IntoFuture>(duration: Duration, work: F) -> Timeout<F::IntoFuture> {
    make(|| tokio::time::timeout(duration, work))
}

pub fn timeout_at<F: IntoFuture>(deadline: Instant, work: F) -> Timeout<F::IntoFuture> {
    make(|| tokio::time::timeout_at(deadline, work))
}

/// Does `work` as a part of the runtime that timers are lent by: for crates that make timers themselves, as those for control connections do. What it
/// opens and spawns lives there.
pub fn with_lender<F: Future>(work: F) -> TokioContext<F> {
    TokioContext::new(work, LENDER.with_borrow(Clone::clone).unwrap_or_else(Handle::current))
}

/// A timer belongs to the runtime that it is made in, wherever it is awaited.
fn make<T>(timer: impl FnOnce() -> T) -> T {
    LENDER.with_borrow(|lender| {
        let _entered = lender.as_ref().map(Handle::enter);
        timer()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_timers_lends_some() {
        let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let lender = control.handle().clone();
        let without = std::thread::spawn(move || {
            lend_timers(lender);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            runtime.block_on(async {
                sleep(Duration::from_millis(1)).await;
                sleep_until(Instant::now() + Duration::from_millis(1)).await;
                assert!(timeout(Duration::from_millis(1), std::future::pending::<()>()).await.is_err());
                assert!(timeout_at(Instant::now() + Duration::from_secs(60), async {}).await.is_ok());
                with_lender(async { tokio::time::sleep(Duration::from_millis(1)).await }).await;
            });
        });
        without.join().unwrap();
    }
}
