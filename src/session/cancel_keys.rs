//! Cancel keys of the sessions of this process.
//!
//! A key is the client's own: random, checked in constant time, and no server's key is ever shown. Who guesses is not
//! listened to for a while, and never learns anything: a cancel request has no answer.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::executor::cancel::CancelHandle;
use crate::transport::{self, timer};

pub struct CancelKeys {
    sessions: DashMap<u32, Entry>,
    next: AtomicU32,
    /// Wrong keys by where they came from: since when, how many.
    wrong: DashMap<IpAddr, (Instant, u32)>,
    /// Of requests that wait for a server to take them.
    places: Semaphore,
}

struct Entry {
    key: Bytes,
    handle: Arc<CancelHandle>,
    /// The client's socket.
    socket: RawFd,
    /// What ran at the last look for clients that have left.
    seen: Option<u64>,
}

/// A session's entry; gone when dropped.
pub struct CancelKey {
    keys: Arc<CancelKeys>,
    pub pid: u32,
    pub key: Bytes,
    pub handle: Arc<CancelHandle>,
}

impl Default for CancelKeys {
    fn default() -> Self {
        Self {
            sessions: DashMap::new(),
            next: AtomicU32::new(0),
            wrong: DashMap::new(),
            places: Semaphore::new(AT_ONCE),
        }
    }
}

impl CancelKeys {
    /// Registers a session. Protocol 3.0 has keys of 4 bytes, 3.2 of 32.
    pub fn register(self: &Arc<Self>, minor: u16, socket: RawFd) -> CancelKey {
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
                free.insert(Entry { key: key.clone(), handle: handle.clone(), socket, seen: None });
                return CancelKey { keys: self.clone(), pid, key, handle };
            }
        }
    }

    /// Carries out a cancel request from `peer`; returns when the servers have taken it. One with a key that no session
    /// of this process has goes to `others`, who tell whether it was theirs; one past what is done at once does nothing.
    pub async fn cancel(&self, pid: u32, key: &[u8], peer: IpAddr, others: impl Future<Output = bool>) {
        if self.is_guessing(peer) {
            return;
        }
        let Ok(_place) = self.places.try_acquire() else { return };
        let Some(handle) = self.find(pid, key) else {
            // Before others are asked: guesses that come at once count too.
            self.note_wrong(peer);
            if others.await {
                self.forgive(peer);
            }
            return;
        };
        if let Some(number) = handle.running() {
            handle.cancel(number).await;
        }
    }

    fn is_guessing(&self, peer: IpAddr) -> bool {
        self.wrong.get(&peer).is_some_and(|wrong| wrong.1 >= WRONG_KEYS && wrong.0.elapsed() < WRONG_KEYS_IN)
    }

    fn note_wrong(&self, peer: IpAddr) {
        if self.wrong.len() >= MANY_PEERS {
            self.wrong.retain(|_, wrong| wrong.0.elapsed() < WRONG_KEYS_IN);
        }
        let mut wrong = self.wrong.entry(peer).or_insert((Instant::now(), 0));
        if wrong.0.elapsed() >= WRONG_KEYS_IN {
            *wrong = (Instant::now(), 0);
        }
        wrong.1 += 1;
    }

    fn forgive(&self, peer: IpAddr) {
        if let Some(mut wrong) = self.wrong.get_mut(&peer) {
            wrong.1 = wrong.1.saturating_sub(1);
        }
    }

    /// The session that a cancel request means, if its key is right.
    pub fn find(&self, pid: u32, key: &[u8]) -> Option<Arc<CancelHandle>> {
        let session = self.sessions.get(&pid)?;
        bool::from(session.key.ct_eq(key)).then(|| session.handle.clone())
    }

    /// Cancels what every session runs.
    pub async fn cancel_all(&self) {
        self.cancel_those(|_| true).await;
    }

    /// Cancels what these sessions run.
    pub async fn cancel_those(&self, is_meant: impl Fn(u32) -> bool) {
        let meant = self.sessions.iter().filter(|session| is_meant(*session.key()));
        let handles: Vec<_> = meant.map(|session| session.handle.clone()).collect();
        let running = handles.iter().filter_map(|handle| Some(handle.cancel(handle.running()?)));
        futures_util::future::join_all(running).await;
    }

    /// Statements that have run since the last look, and whose clients have left.
    fn abandoned(&self) -> Vec<(Arc<CancelHandle>, u64)> {
        let mut abandoned = Vec::new();
        for mut session in self.sessions.iter_mut() {
            let running = session.handle.running();
            let was_seen = std::mem::replace(&mut session.seen, running) == running;
            if let Some(number) = running.filter(|_| was_seen)
                && transport::has_left(session.socket)
            {
                abandoned.push((session.handle.clone(), number));
            }
        }
        abandoned
    }

    /// Sessions that are logged in.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

/// Cancels long statements that nobody waits for any more, until `stop`: a session notices its client's end only when it
/// reads from it or writes to it.
pub async fn watch_clients(keys: Arc<CancelKeys>, stop: CancellationToken) {
    while stop.run_until_cancelled(timer::sleep(LOOK_EVERY)).await.is_some() {
        for (handle, number) in keys.abandoned() {
            // Not waited for: one node that takes no cancels must not keep the others' from being sent.
            tokio::spawn(async move { handle.cancel(number).await });
        }
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        self.keys.sessions.remove(&self.pid);
    }
}

/// A client that cancels what has just ended, or ended its session, is no guesser.
const WRONG_KEYS: u32 = 100;
const WRONG_KEYS_IN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const MANY_PEERS: usize = 10_000;
/// Requests under way, of all sessions. Each holds a socket of its client and one to each server.
const AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_guesses_keys_is_not_listened_to() {
        let keys = Arc::new(CancelKeys::default());
        let session = keys.register(0, -1);
        session.handle.begin().await;
        let (guesser, friend): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        for guess in 0..WRONG_KEYS {
            let wrong = !u32::from_be_bytes(session.key[..].try_into().unwrap()) ^ guess;
            keys.cancel(session.pid, &wrong.to_be_bytes(), guesser, async { false }).await;
        }
        keys.cancel(session.pid, &session.key, guesser, async { false }).await;
        assert!(session.handle.check().is_ok(), "even a right key comes too late");
        keys.cancel(session.pid, &session.key, friend, async { false }).await;
        assert!(session.handle.check().is_err());
    }

    #[test]
    fn a_cancel_request_needs_the_whole_key() {
        let keys = Arc::new(CancelKeys::default());
        let session = keys.register(2, -1);
        assert_eq!(session.key.len(), 32);
        assert!(keys.find(session.pid, &session.key).is_some());
        assert!(keys.find(session.pid, &session.key[..4]).is_none());
        assert!(keys.find(session.pid + 1, &session.key).is_none());
        let (pid, key) = (session.pid, session.key.clone());
        drop(session);
        assert!(keys.find(pid, &key).is_none());
    }
}
