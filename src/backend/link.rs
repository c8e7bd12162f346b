//! What other threads may know of, and do to, a server connection: whether it waits, how far it got, that it is lost.
//!
//! The connection's own thread writes a few atomics that nobody else writes; the guard (`guard.rs`) and the figures
//! (`figures.rs`) read them. Control connections, which others open, have one too (`control.rs`).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;

/// One server connection, seen from outside.
#[derive(Debug)]
pub struct Link {
    /// The server's process number; 0 until logged in.
    pid: AtomicU32,
    pub opened: Instant,
    /// Counts how often it was given out and taken back: odd while it is out.
    uses: AtomicU32,
    /// Its session waits for bytes of the server.
    waits: AtomicBool,
    /// Counts receptions: two looks at it tell whether anything came.
    progress: AtomicU32,
    answers: AtomicU32,
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            pid: AtomicU32::new(0),
            opened: Instant::now(),
            uses: AtomicU32::new(1),
            waits: AtomicBool::new(false),
            progress: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            state: AtomicU8::new(GOOD),
            waker: AtomicWaker::new(),
        }
    }
}

impl Link {
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub fn is_used(&self) -> bool {
        self.uses().is_some()
    }

    /// Somebody has it: another number for each who gets it.
    pub fn uses(&self) -> Option<u32> {
        let uses = self.uses.load(Ordering::Relaxed);
        (uses % 2 == 1).then_some(uses)
    }

    pub fn set_used(&self, is_used: bool) {
        let uses = self.uses.load(Ordering::Relaxed);
        let step = if is_used == (uses % 2 == 1) { 2 * u32::from(is_used) } else { 1 };
        self.uses.store(uses.wrapping_add(step), Ordering::Relaxed);
    }

    /// Since when nothing came is for the observer to find out: the number of receptions, while it waits for one.
    pub fn waits_at(&self) -> Option<u32> {
        self.waits.load(Ordering::Relaxed).then(|| self.progress.load(Ordering::Relaxed))
    }

    /// An answer is over.
    pub fn note_answered(&self) {
        self.answers.store(self.answers.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// How many answers have come to their end.
    pub fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Something came, or nobody waits any more.
    pub fn note_progress(&self) {
        self.progress.store(self.progress.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.waits.store(false, Ordering::Relaxed);
    }

    /// Nothing has come yet: the task is woken when the connection is given up from outside, and is ready then.
    pub fn poll_lost(&self, context: &mut Context<'_>) -> Poll<()> {
        self.note_asked();
        self.poll_given_up(context)
    }

    /// The same for who listens to a server that may owe him nothing.
    pub fn poll_given_up(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.is_lost() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// An answer is due.
    pub fn note_asked(&self) {
        self.waits.store(true, Ordering::Relaxed);
    }

    pub fn is_lost(&self) -> bool {
        self.state.load(Ordering::Acquire) == LOST
    }

    /// May somebody else have the connection next?
    pub fn may_be_reused(&self) -> bool {
        self.state.load(Ordering::Acquire) == GOOD
    }

    /// From any thread: whoever waits for this connection waits no longer.
    pub fn give_up(&self) {
        self.state.store(LOST, Ordering::Release);
        self.waker.wake();
    }

    /// From any thread: whoever has this connection now is the last.
    pub fn retire(&self) {
        self.state.fetch_max(RETIRED, Ordering::AcqRel);
    }
}

const GOOD: u8 = 0;
const RETIRED: u8 = 1;
const LOST: u8 = 2;
