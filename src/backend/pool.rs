//! Pools of server connections: one per (node, role, database) and data thread.
//!
//! Last in, first out keeps connections warm. A pool belongs to one thread, so handing an idle connection out and
//! taking it back locks nothing. What is scarce is shared by the whole process, and lives in `node.rs`: who finds no
//! idle connection joins the node's queue, and gets a place for a new one or a connection of this pool that came back.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use foldhash::fast::RandomState;
use tokio::sync::{Notify, oneshot};

use super::cancel::CancelTarget;
use super::homes::{Homes, House, Subject};
use super::hosts::{Purpose, connect_to_primary, connect_to_standby};
use super::login::{Identity, ServerAddress};
use super::node::{Next, Node};
use super::nodes::Nodes;
use super::place::{Place, Ticket};
use super::pool_settings::PoolMode;
use super::pool_tally::PoolTally;
use super::prepared::Prepared;
use super::queue::{Granted, Wish};
use super::server::Server;
use crate::error::{PgError, Result, SqlState};
use crate::transport::timer;

/// All pools of one data thread. Cheap to clone.
#[derive(Clone)]
pub struct Pools {
    inner: Rc<Inner>,
}

struct Inner {
    nodes: Arc<Nodes>,
    /// By hash of what they are for, so that looking one up allocates nothing.
    pools: RefCell<HashMap<u64, Vec<Rc<Pool>>>>,
    hasher: RandomState,
    /// Rings when a connection that is idle here is needed elsewhere.
    bell: Arc<Notify>,
}

struct Pool {
    nodes: Arc<Nodes>,
    node: Arc<Node>,
    number: u64,
    tally: Arc<PoolTally>,
    user: String,
    database: String,
    state: RefCell<State>,
    homes: Rc<RefCell<Homes>>,
}

#[derive(Default)]
struct State {
    /// Boxed, because connections are handed from hand to hand with every statement.
    idle: Vec<(Box<Connection>, Instant)>,
    /// Connections that have come back for who waited, by ticket, until he takes them.
    handed: HashMap<u64, PooledServer>,
}

/// A server with its right to be there; the connection is closed before the right is given back.
struct Connection {
    server: Server,
    /// Which of the node's.
    host: ServerAddress,
    house: House,
    _place: Place,
    retires: Instant,
}

impl Pools {
    /// The pools of the calling thread; `maintain` must run there.
    pub fn new(nodes: Arc<Nodes>) -> Self {
        let bell = nodes.bell();
        let inner = Inner { nodes, pools: RefCell::default(), hasher: RandomState::default(), bell };
        Self { inner: Rc::new(inner) }
    }

    /// Does a session keep its connections until it ends?
    pub fn are_for_sessions(&self) -> bool {
        self.inner.nodes.settings().load().mode == PoolMode::Session
    }

    /// What holds connections to `address` that are logged in as `identity`.
    pub fn find(&self, address: &ServerAddress, identity: &Identity) -> FoundPool {
        FoundPool(self.pool(address, identity, Purpose::Writes))
    }

    /// A connection to `address` logged in as `identity`, from the pool or new.
    ///
    /// While the node is down it is waited for. Errors: 53300 after `checkout_timeout`; 08006 when the node has been down
    /// for `outage_timeout`; what logging in says.
    pub async fn checkout(&self, address: &ServerAddress, identity: &Identity) -> Result<PooledServer> {
        self.checkout_from(&self.find(address, identity), identity, None).await
    }

    /// The same of a pool that was found; of connections that come back, rather the one where the subject is at home.
    pub async fn checkout_from(
        &self,
        pool: &FoundPool,
        identity: &Identity,
        subject: Option<Subject>,
    ) -> Result<PooledServer> {
        let (FoundPool(pool), began) = (pool, Instant::now());
        loop {
            match pool.checkout(identity, subject).await {
                Err(error) if is_outage(&error) && !pool.node.is_lost() && !self.is_late(began) => {}
                checked_out => return checked_out,
            }
        }
    }

    /// A connection to the standby at `address`, for reads; none when it is too far behind or does not let us in, whatever
    /// the reason.
    ///
    /// Errors: 53300 after `checkout_timeout`.
    pub async fn checkout_reader(&self, address: &ServerAddress, identity: &Identity) -> Result<Option<PooledServer>> {
        let pool = self.pool(address, identity, Purpose::Reads);
        if !pool.node.is_near() {
            return Ok(None);
        }
        match pool.checkout(identity, None).await {
            Ok(server) => Ok(Some(server)),
            Err(error) if error.code() == SqlState::TOO_MANY_CONNECTIONS => Err(error),
            Err(error) => {
                tracing::debug!(%address, %error, "a standby cannot be read from, the primary is");
                Ok(None)
            }
        }
    }

    /// How far a standby that is read from may be behind; zero: as far as it likes.
    pub fn replica_lag(&self) -> Duration {
        self.inner.nodes.settings().load().replica_lag
    }

    /// For so long statements wait for a server that is down.
    pub fn outage_timeout(&self) -> Duration {
        self.inner.nodes.settings().load().outage_timeout
    }

    fn is_late(&self, began: Instant) -> bool {
        began.elapsed() >= self.outage_timeout()
    }

    fn pool(&self, address: &ServerAddress, identity: &Identity, purpose: Purpose) -> Rc<Pool> {
        let key = self.inner.hasher.hash_one((address, purpose, &identity.user, &identity.database));
        let mut pools = self.inner.pools.borrow_mut();
        let alike = pools.entry(key).or_default();
        let is_it = |p: &&Rc<Pool>| {
            p.node.address == *address
                && p.node.purpose == purpose
                && p.user == identity.user
                && p.database == identity.database
        };
        if let Some(pool) = alike.iter().find(is_it) {
            return pool.clone();
        }
        let node = self.inner.nodes.node(address, purpose);
        let tally = Arc::new(PoolTally::default());
        let pool = Rc::new(Pool {
            nodes: self.inner.nodes.clone(),
            number: node.register(&identity.user, &identity.database, tally.clone()),
            tally,
            node,
            user: identity.user.clone(),
            database: identity.database.clone(),
            state: RefCell::default(),
            homes: Rc::default(),
        });
        alike.push(pool.clone());
        pool
    }

    /// Closes what was idle for too long, and what others need. Never ends. Cancel safe.
    pub async fn maintain(&self) {
        let mut looked = Instant::now();
        loop {
            // Rung by the clock too: a timer of this thread would make each of its waits look for the next one due.
            self.inner.bell.notified().await;
            self.relieve();
            if looked.elapsed() >= CLOSE_IDLE_EVERY {
                self.close_idle();
                looked = Instant::now();
            }
        }
    }

    fn close_idle(&self) {
        let timeout = self.inner.nodes.settings().load().idle_timeout;
        let is_over = |(connection, since): &(Box<Connection>, Instant)| {
            since.elapsed() >= timeout || connection.is_spent() || !connection.server.link().may_be_reused()
        };
        for pool in self.all() {
            let (closed, kept) = std::mem::take(&mut pool.state.borrow_mut().idle).into_iter().partition(is_over);
            pool.state.borrow_mut().idle = kept;
            // Their places may go to somebody who is woken by it: outside the borrow.
            drop::<Vec<_>>(closed);
            pool.node.review();
        }
    }

    /// Gives up idle connections, the longest idle first, where a node is pressed.
    fn relieve(&self) {
        for pool in self.all() {
            while pool.node.is_pressed() && pool.node.wants_back(pool.number) {
                let mut state = pool.state.borrow_mut();
                if state.idle.is_empty() {
                    break;
                }
                let given_up = state.idle.remove(0);
                drop(state);
                drop(given_up);
            }
        }
    }

    fn all(&self) -> Vec<Rc<Pool>> {
        self.inner.pools.borrow().values().flatten().cloned().collect()
    }
}

/// One of the pools: to find it takes longer than to take a connection out.
#[derive(Clone)]
pub struct FoundPool(Rc<Pool>);

impl FoundPool {
    /// A connection that is idle and was used a moment before `now`.
    pub fn take_idle(&self, now: Instant) -> Option<PooledServer> {
        let Self(pool) = self;
        let (connection, since) = pool.take_idle(now)?;
        if now.saturating_duration_since(since) > pool.nodes.settings().load().check_after {
            // It must be asked first; `checkout` does.
            pool.state.borrow_mut().idle.push((connection, since));
            return None;
        }
        Some(pool.guard(connection))
    }

    pub fn address(&self) -> &ServerAddress {
        &self.0.node.address
    }

    /// Is there a connection that nobody uses?
    pub fn has_idle(&self) -> bool {
        !self.0.state.borrow().idle.is_empty()
    }
}

impl Pool {
    /// One attempt: with a connection that is there, or a new one when there is a place for it.
    async fn checkout(self: &Rc<Self>, identity: &Identity, subject: Option<Subject>) -> Result<PooledServer> {
        let settings = self.nodes.settings().load_full();
        let mut deadline = tokio::time::Instant::now() + settings.checkout_timeout;
        let mut turn = None;
        loop {
            while let Some((mut connection, since)) = self.take_idle(Instant::now()) {
                // What is rare is boxed, here and below: who waits for his turn would have room for it.
                if since.elapsed() <= settings.check_after
                    || Box::pin(connection.server.is_well(settings.check_timeout)).await
                {
                    return Ok(self.guard(connection));
                }
            }
            let wish = subject.and_then(|subject| self.wish(subject));
            let (ticket, granted) = self.node.wait(self.number, turn, wish)?;
            turn = Some(ticket.number);
            let place = match self.await_turn(ticket, granted, &mut deadline).await? {
                Turn::Connection(server) => return Ok(server),
                Turn::Place(place) => place,
            };
            match Box::pin(self.open(place, identity, settings.connect_timeout)).await {
                // A connection that comes back will do as well as a new one.
                Err(error) if is_full(&error) && tokio::time::Instant::now() < deadline => {}
                opened => return opened,
            }
        }
    }

    fn wish(&self, subject: Subject) -> Option<Wish> {
        let home = self.homes.borrow_mut().of(subject)?;
        Some(Wish { subject, home })
    }

    /// Errors: 53300 at the deadline, which is put off as long as the node is away; 08006 when it has been for too long.
    async fn await_turn(
        self: &Rc<Self>,
        mut ticket: Ticket,
        mut granted: oneshot::Receiver<Result<Granted>>,
        deadline: &mut tokio::time::Instant,
    ) -> Result<Turn> {
        let waiting = Waiting { pool: self, ticket: ticket.number };
        loop {
            tokio::select! {
                biased;
                Ok(granted) = &mut granted => return Ok(match granted? {
                    Granted::Place(place) => Turn::Place(place),
                    Granted::Connection => Turn::Connection(waiting.take().expect("it lies there until it is taken")),
                }),
                // It is not short of connections: that wait begins when it is back.
                () = timer::sleep_until(*deadline) => match self.node.is_out() || self.node.is_paused() {
                    true => *deadline = tokio::time::Instant::now() + self.nodes.settings().load().checkout_timeout,
                    false => {
                        ticket.is_timeout = true;
                        return Err(self.none_free());
                    }
                },
            }
        }
    }

    async fn open(
        self: &Rc<Self>,
        mut place: Place,
        identity: &Identity,
        connect_timeout: Duration,
    ) -> Result<PooledServer> {
        let access = self.nodes.settings().load().access.clone();
        let connected = match self.node.purpose {
            Purpose::Writes => connect_to_primary(&access, &self.node, identity, connect_timeout).await,
            Purpose::Reads => {
                let host = self.node.address.clone();
                connect_to_standby(&access, &host, identity, connect_timeout).await.map(|server| (server, host))
            }
        };
        match connected {
            Ok((mut server, host)) => {
                let settings = self.nodes.settings().load();
                server.tally = self.tally.clone();
                server.report_demands(self.nodes.demands().clone(), self.node.address.clone());
                server.watch_peer(settings.dead_peer_after);
                server.prepared = Prepared::new(settings.prepared_statements);
                place.logged_in(server.link().clone());
                // While it logged in another server may have been found, when nobody knew of this connection.
                if self.node.has_left(&host) {
                    server.link().give_up();
                }
                let (house, retires) = (House::new(place.number, self.homes.clone()), self.retires());
                Ok(self.guard(Box::new(Connection { server, host, house, _place: place, retires })))
            }
            Err(error) => {
                if is_full(&error) {
                    place.refused()
                } else {
                    place.failed(&error)
                }
                Err(error)
            }
        }
    }

    /// When a connection opened now is not given out any more: not all at the same moment.
    fn retires(&self) -> Instant {
        Instant::now() + self.nodes.settings().load().age_max.mul_f64(rand::random_range(0.9..1.1))
    }

    fn none_free(&self) -> PgError {
        let settings = self.nodes.settings().load();
        let state = self.node.lock();
        let limit = self.node.limit(&state);
        let why = if state.is_full() {
            format!("{} has no room for more connections.", self.node.address)
        } else if state.open >= limit {
            format!("This proxy may hold {limit} connections to {}, and all are in use.", self.node.address)
        } else {
            format!("All {} connections of the pool to {} are in use.", settings.size, self.node.address)
        };
        PgError::new(SqlState::TOO_MANY_CONNECTIONS, "no server connection became free in time")
            .detail(why)
            .hint("Shorten transactions, or raise pool.size, pool.node_connections or the server's max_connections.")
    }

    fn take_idle(&self, now: Instant) -> Option<(Box<Connection>, Instant)> {
        loop {
            let (mut connection, since) = self.state.borrow_mut().idle.pop()?;
            if now < connection.retires && connection.server.link().may_be_reused() && connection.server.looks_alive() {
                return Some((connection, since));
            }
        }
    }

    fn guard(self: &Rc<Self>, connection: Box<Connection>) -> PooledServer {
        connection.server.link().set_used(true);
        PooledServer { connection: Some(connection), pool: self.clone() }
    }

    fn give_back(self: &Rc<Self>, connection: Box<Connection>) {
        // To ask the clock once more costs more than a connection's age is worth.
        let since = connection.server.answered();
        if !connection.server.is_reusable() || since >= connection.retires {
            return;
        }
        if self.node.is_waited_for() || self.node.is_pressed() {
            let number = connection.house.number;
            match self.node.next_of(self.number, number, since) {
                Next::Close => return,
                Next::Hand(waiter) => {
                    if let Some(wish) = waiter.wish.filter(|wish| wish.home != number) {
                        self.homes.borrow_mut().was_served_by(number, wish.subject);
                    }
                    self.state.borrow_mut().handed.insert(waiter.ticket, self.guard(connection));
                    if waiter.sender.send(Ok(Granted::Connection)).is_err() {
                        // He is gone meanwhile: it comes back here.
                        drop(Waiting { pool: self, ticket: waiter.ticket });
                    }
                    return;
                }
                Next::Keep => {}
            }
        }
        connection.server.link().set_used(false);
        self.state.borrow_mut().idle.push((connection, since));
    }
}

impl Connection {
    fn is_spent(&self) -> bool {
        Instant::now() >= self.retires
    }
}

/// What a wait ends with.
enum Turn {
    /// It came back from somebody else.
    Connection(PooledServer),
    /// For a new one.
    Place(Place),
}

/// Somebody of this thread's pool who waits.
struct Waiting<'a> {
    pool: &'a Pool,
    ticket: u64,
}

impl Waiting<'_> {
    /// The connection that was handed over to him.
    fn take(&self) -> Option<PooledServer> {
        self.pool.state.borrow_mut().handed.remove(&self.ticket)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // It goes back outside the borrow.
        let untaken = self.take();
        drop(untaken);
    }
}

/// Does the node let nobody in, for now?
pub(super) fn is_outage(error: &PgError) -> bool {
    matches!(error.code(), SqlState::CONNECTION_FAILURE | SqlState::CANNOT_CONNECT_NOW)
}

/// Does the server itself have no connection left? Limits of one role or database are another thing.
fn is_full(error: &PgError) -> bool {
    let routine = error.fields().find(|(key, _)| *key == b'R').map(|(_, value)| value);
    // Source: PostgreSQL src/backend/utils/init/postinit.c and miscinit.c, where CONNECTION LIMIT is checked.
    error.code() == SqlState::TOO_MANY_CONNECTIONS
        && !matches!(routine, Some("CheckMyDatabase" | "InitializeSessionUserId"))
}

/// A checked-out connection: goes back on drop when it may be reused, is closed otherwise.
pub struct PooledServer {
    connection: Option<Box<Connection>>,
    pool: Rc<Pool>,
}

impl PooledServer {
    pub fn address(&self) -> &ServerAddress {
        &self.pool.node.address
    }

    pub fn cancel_target(&mut self) -> Arc<CancelTarget> {
        let (pool, connection) = (&self.pool, self.connection.as_mut().expect(HELD));
        let dialer = || pool.nodes.settings().load().access.dialer.clone();
        connection.server.cancel_target(&connection.host, dialer)
    }
}

impl Deref for PooledServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.connection.as_ref().expect(HELD).server
    }
}

impl DerefMut for PooledServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.connection.as_mut().expect(HELD).server
    }
}

impl Drop for PooledServer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
    }
}

const HELD: &str = "a guard holds its server until it is dropped";
const CLOSE_IDLE_EVERY: Duration = Duration::from_secs(5);
