//! When a client's request came and was answered: what is counted, timed and charged for it.

use std::time::Instant;

use bytes::Bytes;

use super::run::Session;
use crate::wire::answer::Status;

impl Session {
    /// A message of the client has come: the first of a request, or one more.
    pub(super) fn note_request(&mut self, tag: u8, bytes: &Bytes) {
        self.note_request_at(self.requested.unwrap_or_else(Instant::now), tag, bytes);
    }

    /// The same where it is known when the request came.
    pub(super) fn note_request_at(&mut self, requested: Instant, tag: u8, bytes: &Bytes) {
        self.load.asked_bytes += bytes.len() as u64;
        if self.requested.is_some() {
            return;
        }
        if self.status() == Status::Idle {
            self.transaction_requested = requested;
        }
        self.requested = Some(requested);
        self.load.sent_before = self.client.sent_bytes();
        self.presence.note_request(requested);
        self.note_asked(tag, bytes);
    }

    /// The client's turn: what it asked for has been answered.
    pub(super) fn note_answered(&mut self) {
        let answered = self.answered.take();
        let Some(requested) = self.requested.take() else { return };
        let tally = &self.thread.tally;
        let now = answered.unwrap_or_else(Instant::now);
        let took = now - requested;
        tally.requests.record(took);
        self.load.charge(took, self.client.sent_bytes());
        let is_idle = self.status() == Status::Idle;
        if is_idle {
            tally.transactions.add(1);
            let is_alone = requested == self.transaction_requested;
            let took = if is_alone { took } else { now - self.transaction_requested };
            tally.transaction_micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        self.presence.note_answered(!is_idle);
        self.log_if_slow(took);
    }
}
