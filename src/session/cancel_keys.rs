//! Cancel keys of the sessions of this process.
//!
//! A key is the client's own: random, checked in constant time, and no server's key is ever shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use subtle::ConstantTimeEq;

use crate::executor::cancel::CancelHandle;

#[derive(Default)]
pub struct CancelKeys {
    sessions: DashMap<u32, (Bytes, Arc<CancelHandle>)>,
    next: AtomicU32,
}

/// A session's entry; gone when dropped.
pub struct CancelKey {
    keys: Arc<CancelKeys>,
    pub pid: u32,
    pub key: Bytes,
    pub handle: Arc<CancelHandle>,
}

impl CancelKeys {
    /// Registers a session. Protocol 3.0 has keys of 4 bytes, 3.2 of 32.
    pub fn register(self: &Arc<Self>, minor: u16) -> CancelKey {
        let key: Bytes = if minor >= 2 {
            Bytes::copy_from_slice(&rand::random::<[u8; 32]>())
        } else {
            Bytes::copy_from_slice(&rand::random::<[u8; 4]>())
        };
        let handle = Arc::new(CancelHandle::default());
        loop {
            // Never 0, and positive as an int32: drivers take it for a process id.
            let pid = (self.next.fetch_add(1, Ordering::Relaxed) % 0x7fff_fffe) + 1;
            if let dashmap::Entry::Vacant(free) = self.sessions.entry(pid) {
                free.insert((key.clone(), handle.clone()));
                return CancelKey { keys: self.clone(), pid, key, handle };
            }
        }
    }

    /// The session that a cancel request means, if its key is right.
    pub fn find(&self, pid: u32, key: &[u8]) -> Option<Arc<CancelHandle>> {
        let session = self.sessions.get(&pid)?;
        bool::from(session.0.ct_eq(key)).then(|| session.1.clone())
    }

    /// Cancels what every session runs.
    pub async fn cancel_all(&self) {
        let handles: Vec<_> = self.sessions.iter().map(|session| session.1.clone()).collect();
        futures_util::future::join_all(handles.iter().map(|handle| handle.cancel())).await;
    }

    /// Sessions that are logged in.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        self.keys.sessions.remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_request_needs_the_whole_key() {
        let keys = Arc::new(CancelKeys::default());
        let session = keys.register(2);
        assert_eq!(session.key.len(), 32);
        assert!(keys.find(session.pid, &session.key).is_some());
        assert!(keys.find(session.pid, &session.key[..4]).is_none());
        assert!(keys.find(session.pid + 1, &session.key).is_none());
        let (pid, key) = (session.pid, session.key.clone());
        drop(session);
        assert!(keys.find(pid, &key).is_none());
    }
}
