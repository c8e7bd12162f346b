//! A thread that waits in its ring.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::FutureExt;
use rustix::event::{EventfdFlags, eventfd};
use tokio::task::LocalSet;

use super::queue::Ring;

thread_local! {
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

/// Does this thread wait in a ring?
pub fn is_here() -> bool {
    RING.with_borrow(Option::is_some)
}

/// Errors: those of `work`; `Other` where there is no ring.
pub fn with_ring<T>(work: impl FnOnce(&mut Ring) -> io::Result<T>) -> io::Result<T> {
    RING.with_borrow_mut(|ring| match ring {
        Some(ring) => work(ring),
        None => Err(io::Error::other("the connection belongs to another thread")),
    })
}

/// Runs `work`, and what it spawns on this thread, until it is done. What needs a runtime (new connections, timers) takes
/// the one that is entered.
///
/// Errors: what the kernel says when it refuses a ring; then `work` was not begun and comes back.
pub fn block_on<F: Future<Output = ()> + 'static>(work: F) -> Result<(), (io::Error, F)> {
    let made = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from).and_then(|bell| {
        let ring = Ring::new(bell.try_clone()?)?;
        Ok((ring, Arc::new(Bell { has_rung: AtomicBool::new(true), sleeps: AtomicBool::new(false), bell })))
    });
    let (ring, bell) = match made {
        Ok(made) => made,
        Err(error) => return Err((error, work)),
    };
    RING.set(Some(ring));
    turn_until_done(work, &bell);
    // Last words.
    let _ = with_ring(|ring| ring.hand_over(false));
    RING.take();
    Ok(())
}

fn turn_until_done(work: impl Future<Output = ()> + 'static, bell: &Arc<Bell>) {
    let local = LocalSet::new();
    let root = local.spawn_local(work);
    let waker = Waker::from(bell.clone());
    let mut context = Context::from_waker(&waker);
    let mut local = pin!(local);
    let mut idle = 0;
    loop {
        if bell.has_rung.swap(false, Ordering::AcqRel) {
            let _ = local.as_mut().poll(&mut context);
            if root.is_finished() {
                break;
            }
        }
        let waits = bell.falls_asleep();
        // While there is more to do the kernel is asked only now and then.
        idle = if waits { 0 } else { idle + 1 };
        if waits || idle % ASK_EVERY == 0 || with_ring(|ring| Ok(ring.has_work())).unwrap_or(false) {
            let turned = with_ring(|ring| ring.hand_over(waits));
            if let Err(error) = turned {
                tracing::error!(%error, "io_uring failed");
                bell.sleeps.store(false, Ordering::Relaxed);
                std::thread::sleep(FAILURE_PAUSE);
            }
        }
        bell.sleeps.store(false, Ordering::Relaxed);
        while let Ok(Some(waker)) = with_ring(|ring| Ok(ring.next_to_wake())) {
            waker.wake();
        }
    }
    if let Some(Err(error)) = root.now_or_never()
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Wakes the thread's tasks; and the thread, when it waits in its ring.
struct Bell {
    has_rung: AtomicBool,
    sleeps: AtomicBool,
    bell: OwnedFd,
}

impl Bell {
    /// From now on a ring reaches the thread in its sleep. False when it has rung already.
    fn falls_asleep(&self) -> bool {
        self.sleeps.store(true, Ordering::SeqCst);
        !self.has_rung.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_rung.swap(true, Ordering::SeqCst) && self.sleeps.load(Ordering::SeqCst) {
            // Full only after 2^64 rings.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

const ASK_EVERY: u32 = 16;
const FAILURE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
