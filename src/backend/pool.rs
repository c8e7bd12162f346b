//! Pools of server connections: one per (node, role, database) and data thread.
//!
//! Last in, first out keeps connections warm; waiters are served first come, first served, with a deadline.
//! A pool belongs to one thread, so nothing here is locked.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cancel::CancelTarget;
use super::login::{Identity, ServerAddress};
use super::server::Server;
use crate::error::{PgError, Result, SqlState};

/// Bounds of every pool.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Most connections of one pool on one data thread.
    pub size: usize,
    /// Longest wait for a connection before SQLSTATE 53300.
    pub checkout_timeout: Duration,
    /// Longest wait for a new connection to be logged in.
    pub connect_timeout: Duration,
    /// Idle connections are closed after this time.
    pub idle_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            size: 32,
            checkout_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// All pools of one data thread. Cheap to clone.
#[derive(Clone)]
pub struct Pools {
    inner: Rc<Inner>,
}

struct Inner {
    settings: PoolSettings,
    /// By hash of what they are for, so that looking one up allocates nothing.
    pools: RefCell<HashMap<u64, Vec<Rc<Pool>>>>,
    hasher: RandomState,
}

struct Pool {
    settings: PoolSettings,
    address: ServerAddress,
    user: String,
    database: String,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Boxed, because connections are handed from hand to hand with every statement.
    idle: Vec<(Box<Server>, Instant)>,
    /// Connections that exist or are being opened.
    open: usize,
    waiters: VecDeque<oneshot::Sender<Handed>>,
}

/// What a waiter is handed. Both go back to the pool when the waiter is gone before it could take them.
enum Handed {
    Server(PooledServer),
    /// Leave to open a connection.
    Place(Place),
}

impl Pools {
    pub fn new(settings: PoolSettings) -> Self {
        Self { inner: Rc::new(Inner { settings, pools: RefCell::default(), hasher: RandomState::new() }) }
    }

    /// A connection to `address` logged in as `identity`, from the pool or new.
    ///
    /// Errors: 53300 after `checkout_timeout`; what connecting says.
    pub async fn checkout(&self, address: &ServerAddress, identity: &Identity) -> Result<PooledServer> {
        self.pool(address, identity).checkout(identity).await
    }

    fn pool(&self, address: &ServerAddress, identity: &Identity) -> Rc<Pool> {
        let key = self.inner.hasher.hash_one((address, &identity.user, &identity.database));
        let mut pools = self.inner.pools.borrow_mut();
        let alike = pools.entry(key).or_default();
        let is_it = |p: &&Rc<Pool>| p.address == *address && p.user == identity.user && p.database == identity.database;
        if let Some(pool) = alike.iter().find(is_it) {
            return pool.clone();
        }
        let pool = Rc::new(Pool {
            settings: self.inner.settings.clone(),
            address: address.clone(),
            user: identity.user.clone(),
            database: identity.database.clone(),
            state: RefCell::default(),
        });
        alike.push(pool.clone());
        pool
    }

    /// Closes connections that have been idle for too long.
    pub fn close_idle(&self) {
        let now = Instant::now();
        for pool in self.inner.pools.borrow().values().flatten() {
            let mut state = pool.state.borrow_mut();
            let before = state.idle.len();
            state.idle.retain(|(_, since)| now.duration_since(*since) < self.inner.settings.idle_timeout);
            state.open -= before - state.idle.len();
        }
    }

    /// (open, idle, waiting) over all pools of this thread.
    pub fn figures(&self) -> (usize, usize, usize) {
        self.inner.pools.borrow().values().flatten().fold((0, 0, 0), |(open, idle, waiting), pool| {
            let state = pool.state.borrow();
            (open + state.open, idle + state.idle.len(), waiting + state.waiters.len())
        })
    }
}

impl Pool {
    async fn checkout(self: &Rc<Self>, identity: &Identity) -> Result<PooledServer> {
        match self.take() {
            Taken::Idle(server) => Ok(server),
            Taken::Open(place) => place.open(identity).await,
            Taken::Wait(receiver) => match tokio::time::timeout(self.settings.checkout_timeout, receiver).await {
                Ok(Ok(Handed::Server(server))) => Ok(server),
                Ok(Ok(Handed::Place(place))) => place.open(identity).await,
                Ok(Err(_)) | Err(_) => {
                    Err(PgError::new(SqlState::TOO_MANY_CONNECTIONS, "no server connection became free in time")
                        .detail(format!("All {} connections to {} are in use.", self.settings.size, self.address))
                        .hint("Raise pool.size, or shorten transactions."))
                }
            },
        }
    }

    fn take(self: &Rc<Self>) -> Taken {
        let mut state = self.state.borrow_mut();
        while let Some((mut server, _)) = state.idle.pop() {
            if server.looks_alive() {
                return Taken::Idle(self.guard(server));
            }
            state.open -= 1;
        }
        if state.open < self.settings.size {
            state.open += 1;
            return Taken::Open(Place { pool: self.clone(), kept: false });
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.push_back(sender);
        Taken::Wait(receiver)
    }

    fn guard(self: &Rc<Self>, server: Box<Server>) -> PooledServer {
        PooledServer { server: Some(server), pool: self.clone() }
    }

    fn next_waiter(&self) -> Option<oneshot::Sender<Handed>> {
        self.state.borrow_mut().waiters.pop_front()
    }

    fn give_back(self: &Rc<Self>, mut server: Box<Server>) {
        if !server.is_reusable() {
            drop(server);
            return self.free_place();
        }
        while let Some(waiter) = self.next_waiter() {
            match waiter.send(Handed::Server(self.guard(server))) {
                Ok(()) => return,
                Err(Handed::Server(mut unsent)) => server = unsent.server.take().expect("it was just put in"),
                Err(Handed::Place(_)) => unreachable!("a server was sent"),
            }
        }
        self.state.borrow_mut().idle.push((server, Instant::now()));
    }

    fn free_place(self: &Rc<Self>) {
        while let Some(waiter) = self.next_waiter() {
            match waiter.send(Handed::Place(Place { pool: self.clone(), kept: false })) {
                Ok(()) => return,
                Err(Handed::Place(mut unsent)) => unsent.kept = true,
                Err(Handed::Server(_)) => unreachable!("a place was sent"),
            }
        }
        self.state.borrow_mut().open -= 1;
    }
}

enum Taken {
    Idle(PooledServer),
    Open(Place),
    Wait(oneshot::Receiver<Handed>),
}

/// The right to open one connection. Given back when connecting fails or its caller goes away meanwhile.
struct Place {
    pool: Rc<Pool>,
    kept: bool,
}

impl Place {
    async fn open(mut self, identity: &Identity) -> Result<PooledServer> {
        let server = Server::connect(&self.pool.address, identity, self.pool.settings.connect_timeout).await?;
        self.kept = true;
        Ok(self.pool.guard(Box::new(server)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            self.pool.free_place();
        }
    }
}

/// A checked-out connection: goes back on drop when it may be reused, is closed otherwise.
pub struct PooledServer {
    server: Option<Box<Server>>,
    pool: Rc<Pool>,
}

impl PooledServer {
    pub fn address(&self) -> &ServerAddress {
        &self.pool.address
    }

    pub fn cancel_target(&mut self) -> Arc<CancelTarget> {
        let (pool, server) = (&self.pool, self.server.as_mut().expect("a guard holds its server until it is dropped"));
        server.cancel_target(&pool.address)
    }
}

impl Deref for PooledServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server.as_ref().expect("a guard holds its server until it is dropped")
    }
}

impl DerefMut for PooledServer {
    fn deref_mut(&mut self) -> &mut Server {
        self.server.as_mut().expect("a guard holds its server until it is dropped")
    }
}

impl Drop for PooledServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.pool.give_back(server);
        }
    }
}
