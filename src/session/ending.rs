//! The proxy's end, which every session waits for beside its client.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// One of the ways to be told. It queues up once: anew with every wait would cost more than the wait's own system calls do.
pub(super) struct End<'e> {
    token: &'e CancellationToken,
    /// It wakes the session's task, whatever that waits for.
    waiting: Option<Pin<Box<WaitForCancellationFuture<'e>>>>,
}

impl<'e> End<'e> {
    pub(super) fn new(token: &'e CancellationToken) -> Self {
        Self { token, waiting: None }
    }

    /// Ready when there is no time left.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_some() && !self.token.is_cancelled() {
            return Poll::Pending;
        }
        let token = self.token;
        self.waiting.get_or_insert_with(|| Box::pin(token.cancelled())).as_mut().poll(context)
    }
}
