//! A node that lets nobody in, or no more: when it is tried again, and who waits for it meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Full, Node, Outage, State};
use crate::backend::hosts::Purpose;
use crate::backend::place::Place;
use crate::error::{PgError, SqlState};
use crate::transport::timer;

impl Node {
    /// Is it down?
    pub(in crate::backend) fn is_out(&self) -> bool {
        self.lock().outage.is_some()
    }

    /// Has it been down for so long that nobody is to wait for it?
    pub(in crate::backend) fn is_lost(&self) -> bool {
        self.lock().outage.as_ref().is_some_and(|outage| self.is_given_up(outage))
    }

    pub(super) fn is_given_up(&self, outage: &Outage) -> bool {
        // The primary can do what a standby was to do, and another server what one did that the catalog does not have.
        let has_other = self.purpose == Purpose::Reads || self.is_gone.load(Ordering::Acquire);
        has_other || outage.since.elapsed() >= self.settings.load().outage_timeout
    }

    /// The node does not let us in: for a while nobody tries. Who waits for a place goes on waiting, unless it has been
    /// down for too long.
    pub(in crate::backend) fn begin_outage(self: &Arc<Self>, why: &str, is_trial: bool) {
        self.note_news();
        let mut state = self.lock();
        let (since, failures) = match &state.outage {
            // Attempts that were under way together count once.
            Some(_) if !is_trial => return,
            // Nobody has wanted it for long: it may have been up in between.
            Some(outage) if outage.next_try.elapsed() > FORGOTTEN_AFTER => (Instant::now(), 0),
            Some(outage) => (outage.since, outage.failures.saturating_add(1)),
            None => (Instant::now(), 0),
        };
        if state.outage.is_none() && !self.is_gone.load(Ordering::Acquire) {
            tracing::warn!(node = %self.address, why, "{} cannot be reached, it is tried again all the time", self.kind());
        }
        let longest = self.settings.load().reconnect_max;
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(failures.min(10))).min(longest);
        // Never all proxies at the same moment.
        let pause = pause.mul_f64(rand::random_range(0.5..1.0));
        let next_try = Instant::now() + pause;
        let outage = Outage { since, failures, next_try, is_trying: false, why: why.to_owned() };
        let waiters: Vec<_> = if self.is_given_up(&outage) { state.queues.drain().collect() } else { Vec::new() };
        state.outage = Some(outage);
        self.settle(state);
        if waiters.is_empty() {
            self.review_at(next_try);
        }
        for waiter in waiters {
            let _ = waiter.sender.send(Err(self.unreachable(why)));
        }
    }

    /// The server has no connection left for this place: it goes, and for a moment no more are opened than there are.
    pub(in crate::backend) fn begin_fullness(self: &Arc<Self>, place: &Place) {
        self.note_news();
        let mut state = self.lock();
        self.end_outage(&mut state);
        state.close(place);
        let until = Instant::now() + FULL_PAUSE.mul_f64(rand::random_range(0.5..1.5));
        state.full = Some(Full { open: state.open, until });
        self.settle(state);
        self.review_at(until);
    }

    fn review_at(self: &Arc<Self>, time: Instant) {
        let node = self.clone();
        tokio::spawn(async move {
            timer::sleep_until(time.into()).await;
            node.review();
        });
    }

    /// Somebody who is not of the pools was let in.
    pub fn note_up(self: &Arc<Self>) {
        let mut state = self.lock();
        self.end_outage(&mut state);
        self.settle(state);
    }

    pub(in crate::backend) fn end_outage(&self, state: &mut State) {
        if let Some(outage) = state.outage.take() {
            self.note_news();
            let seconds = outage.since.elapsed().as_secs();
            tracing::info!(node = %self.address, seconds, "{} can be reached again", self.kind());
        }
    }

    fn kind(&self) -> &'static str {
        match self.purpose {
            Purpose::Writes => "a node",
            Purpose::Reads => "a standby",
        }
    }

    pub(super) fn unreachable(&self, why: &str) -> PgError {
        let address = &self.address;
        PgError::new(SqlState::CONNECTION_FAILURE, format!("node {address} cannot be reached"))
            .detail(why.to_owned())
            .hint("It is tried again all the time. Statements wait for it for pool.outage_timeout, not longer.")
    }
}

const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts to log in to a server that has no connection left.
const FULL_PAUSE: Duration = Duration::from_millis(100);
