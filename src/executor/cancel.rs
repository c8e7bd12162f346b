//! Which server connections a session's cancel request must reach, right now.

use std::sync::{Arc, Mutex};

use crate::backend::cancel::{self, CancelTarget};

/// One per client session. A cancel reaches the servers that the session uses at that moment and no later user of them:
/// a server that a cancel is on its way to is not reused.
#[derive(Debug, Default)]
pub struct CancelHandle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    servers: Vec<Arc<CancelTarget>>,
    under_way: u32,
}

impl CancelHandle {
    pub fn add(&self, target: Arc<CancelTarget>) {
        self.lock().servers.push(target);
    }

    /// The session is done with a server. True when the server may be reused.
    pub fn remove(&self, pid: u32) -> bool {
        let mut state = self.lock();
        state.servers.retain(|s| s.pid != pid);
        state.under_way == 0
    }

    /// Cancels what every server of the session runs.
    pub async fn cancel(&self) {
        let servers = {
            let mut state = self.lock();
            state.under_way += 1;
            state.servers.clone()
        };
        let sent = servers.iter().map(|s| cancel::cancel(s));
        for error in futures_util::future::join_all(sent).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "could not deliver a cancel request");
        }
        self.lock().under_way -= 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so it cannot be poisoned.
        self.state.lock().expect("no panic under this lock")
    }
}
