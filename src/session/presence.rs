//! What others may see of each session: who it is, where from, what it is doing. Nothing of its statements.
//!
//! The session's own thread writes a few atomics that nobody else writes; `SHOW CLIENTS` and the metrics read them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;

use super::Ending;

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Idle,
    /// A request of its client is being answered.
    Active,
    /// Its client's turn, inside a transaction.
    InTransaction,
}

impl State {
    pub const ALL: [State; 3] = [State::Idle, State::Active, State::InTransaction];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Active => "active",
            State::InTransaction => "idle in transaction",
        }
    }
}

impl State {
    /// As metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            State::InTransaction => "idle_in_transaction",
            other => other.as_str(),
        }
    }
}

/// One session, seen from outside.
#[derive(Debug)]
pub struct Presence {
    /// The process id that the client knows itself by.
    pub id: u32,
    pub user: Box<str>,
    pub database: Box<str>,
    pub peer: SocketAddr,
    /// The proxy's end of the connection.
    pub local: SocketAddr,
    pub is_encrypted: bool,
    ending: Ending,
    pub since: SystemTime,
    connected: Instant,
    application: Mutex<Box<str>>,
    state: AtomicU8,
    /// When the last request came. Unit: microseconds after `connected`.
    request_micros: AtomicU64,
}

/// What is known when a session begins.
pub struct Newcomer<'s> {
    pub id: u32,
    pub user: &'s str,
    pub database: &'s str,
    pub application: &'s str,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub is_encrypted: bool,
    pub ending: &'s Ending,
}

impl Presence {
    fn new(newcomer: &Newcomer<'_>) -> Self {
        Self {
            id: newcomer.id,
            user: newcomer.user.into(),
            database: newcomer.database.into(),
            peer: newcomer.peer,
            local: newcomer.local,
            is_encrypted: newcomer.is_encrypted,
            ending: newcomer.ending.clone(),
            since: SystemTime::now(),
            connected: Instant::now(),
            application: Mutex::new(newcomer.application.into()),
            state: AtomicU8::new(State::Idle as u8),
            request_micros: AtomicU64::new(0),
        }
    }

    pub fn state(&self) -> State {
        let state = self.state.load(Ordering::Relaxed);
        State::ALL.into_iter().find(|known| *known as u8 == state).unwrap_or(State::Active)
    }

    /// A request has come.
    pub fn note_request(&self, now: Instant) {
        let micros = now.saturating_duration_since(self.connected).as_micros();
        self.request_micros.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.state.store(State::Active as u8, Ordering::Relaxed);
    }

    /// It is the client's turn.
    pub fn note_answered(&self, is_in_transaction: bool) {
        let state = if is_in_transaction { State::InTransaction } else { State::Idle };
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// When the last request came; at first, when the session began.
    pub fn requested(&self) -> SystemTime {
        self.since + Duration::from_micros(self.request_micros.load(Ordering::Relaxed))
    }

    /// The session ends as soon as no statement runs: 57P01.
    pub fn end(&self) {
        self.ending.end();
    }

    pub fn application(&self) -> String {
        self.application.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).to_string()
    }

    pub fn set_application(&self, name: &str) {
        *self.application.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = name.into();
    }
}

/// All sessions that are logged in.
#[derive(Debug, Default)]
pub struct Presences {
    all: DashMap<u32, Arc<Presence>>,
}

/// A session is seen until this is dropped.
pub struct Present {
    presences: Arc<Presences>,
    presence: Arc<Presence>,
}

impl Presences {
    /// From now on the session is seen.
    pub fn enter(self: &Arc<Self>, newcomer: &Newcomer<'_>) -> Present {
        let presence = Arc::new(Presence::new(newcomer));
        self.all.insert(newcomer.id, presence.clone());
        Present { presences: self.clone(), presence }
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<Arc<Presence>> {
        let mut all: Vec<_> = self.all.iter().map(|presence| presence.clone()).collect();
        all.sort_by_key(|presence| presence.id);
        all
    }

    /// How many are in each state.
    pub fn by_state(&self) -> impl Iterator<Item = (State, usize)> {
        let mut counts = [0; State::ALL.len()];
        self.all.iter().for_each(|presence| counts[presence.state() as usize] += 1);
        State::ALL.into_iter().zip(counts)
    }
}

impl Present {
    /// What is seen, also after the end.
    pub fn seen(&self) -> Arc<Presence> {
        self.presence.clone()
    }
}

impl Deref for Present {
    type Target = Presence;

    fn deref(&self) -> &Presence {
        &self.presence
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.presences.all.remove(&self.presence.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_seen_with_what_it_does_until_it_ends() {
        let presences = Arc::new(Presences::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let ending = Ending::default();
        let newcomer = |id| Newcomer {
            id,
            user: "app",
            database: "shop",
            application: "web",
            peer: address,
            local: address,
            is_encrypted: false,
            ending: &ending,
        };
        let (first, second) = (presences.enter(&newcomer(2)), presences.enter(&newcomer(1)));
        first.note_request(Instant::now());
        second.note_answered(true);
        second.set_application("batch");
        let seen: Vec<_> = presences.all().iter().map(|p| (p.id, p.state(), p.application())).collect();
        assert_eq!(seen, [(1, State::InTransaction, "batch".to_owned()), (2, State::Active, "web".to_owned())]);
        assert!(first.requested() >= first.since);
        drop(first);
        let counts: Vec<_> = presences.by_state().collect();
        assert_eq!(counts, [(State::Idle, 0), (State::Active, 0), (State::InTransaction, 1)]);
        // What an idle client costs here, its name and map entry aside.
        assert!(size_of::<Presence>() <= 256, "{}", size_of::<Presence>());
    }
}
