//! A client's arrival: from the first byte of its connection to its session, which runs until it ends.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::defaults::Defaults;
use super::greeting::{Beginning, Greeting};
use super::load::RequestLoad;
use super::log::Asked;
use super::notices::Hears;
use super::passed_cancels;
use super::portals::Portals;
use super::presence::Newcomer;
use super::run::{Session, Thread};
use super::shadows::Shadows;
use super::startup::{Opening, Wish};
use super::statements::Statements;
use super::{ADMIN_DATABASE, Ending, Visitor, admin_database, login};
use crate::backend::{SessionSettings, set_statement};
use crate::error::{PgError, Result, Severity, SqlState};
use crate::executor::{Client, FirstTimeouts, PoolsAtHand, Timeouts};
use crate::planner::{ReadFrom, check_setting};
use crate::shard_map::NodeId;
use crate::sql::{Encoding, read_encoding};
use crate::transport::{Socket, Stream, timer, watch_peer};
use crate::wire::answer::{self, Status};
use crate::wire::startup::{SessionStartup, negotiate_protocol_version};

/// Serves one connection from its first byte to its last.
pub async fn serve(thread: Rc<Thread>, socket: TcpStream, ending: Ending) -> Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    // A machine that is gone sends no farewell.
    watch_peer(&socket, thread.shared.executor.load().client.dead_after)?;
    let (peer, local) = (socket.peer_addr()?, socket.local_addr()?);
    let mut opening = Opening::new(Socket::adopt(socket)?);
    let (timeout, strangers) = {
        let login = thread.shared.login.load();
        (login.timeout, login.strangers)
    };
    let deadline = tokio::time::Instant::now() + timeout;
    let stranger = match thread.shared.door.knock(peer.ip(), strangers) {
        Ok(stranger) => stranger,
        Err(error) => return refuse(opening.stream, error).await,
    };
    let read = timer::timeout_at(deadline, Box::pin(opening.read(&thread.shared.acceptor)));
    let wish = match ending.stop.run_until_cancelled(read).await {
        Some(Ok(Ok(Some(wish)))) => wish,
        Some(Ok(Err(error))) => return refuse(opening.stream, error).await,
        Some(Ok(Ok(None)) | Err(_)) => return Ok(()),
        None => return refuse(opening.stream, shutting_down()).await,
    };
    let startup = match wish {
        Wish::Cancel { pid, key } => {
            let others = passed_cancels::ask_others(&thread.shared, pid, &key);
            thread.shared.cancel_keys.cancel(pid, &key, peer.ip(), others).await;
            // Its end is all the answer there is: over TLS one that is not announced is an error to libpq.
            if let Some(mut stream) = opening.stream.filter(Stream::is_encrypted) {
                let _ = timer::timeout_at(deadline, stream.shutdown()).await;
            }
            return Ok(());
        }
        Wish::Session(startup) => startup,
    };
    let Some(stream) = opening.stream else { return Ok(()) };
    let ending = ending.of_part();
    let limits = thread.shared.executor.load().client.clone();
    let traffic = thread.tally.traffic.clone();
    let mut client = Client::new(stream, opening.rest, limits, ending.hurry.clone(), traffic);
    if startup.negotiate {
        negotiate_protocol_version(2, &startup.unknown_extensions, client.out());
    }
    let identity = login::authenticate(&thread.shared, &mut client, &startup, peer.ip(), opening.handshake.as_ref());
    let identity = Box::pin(identity);
    let identity = ending.stop.run_until_cancelled(timer::timeout_at(deadline, identity)).await;
    let (identity, _counted) = match identity.unwrap_or_else(|| Ok(Err(shutting_down()))) {
        Ok(Ok(Some((identity, counted)))) => (Rc::new(identity), counted),
        Ok(Ok(None)) | Err(_) => return Ok(()),
        Ok(Err(error)) => {
            thread.shared.log.load().refused(&startup, peer, &error);
            answer::error(&as_fatal(error), client.out());
            return client.flush().await;
        }
    };
    drop(stranger);
    let cancel = thread.shared.cancel_keys.register(startup.minor, client.descriptor());
    let presence = thread.shared.presences.enter(&Newcomer {
        id: cancel.pid,
        user: &identity.user,
        database: &identity.database,
        application: startup.parameter("application_name").unwrap_or_default(),
        peer,
        local,
        is_encrypted: client.is_encrypted(),
        ending: &ending,
    });
    if startup.database == ADMIN_DATABASE {
        let may_change = match admin_database::may_change(&thread.shared.login.load(), &startup.user) {
            Ok(may_change) => may_change,
            Err(error) => {
                thread.shared.log.load().refused(&startup, peer, &error);
                answer::error(&error, client.out());
                return client.flush().await;
            }
        };
        thread.shared.log.load().connected(&presence);
        let seen = presence.seen();
        let visitor = Visitor { client, may_change, key: cancel, presence, stop: ending.stop };
        let ended = thread.shared.admin_database.serve(visitor).await;
        thread.shared.log.load().disconnected(&seen, &ended);
        return ended;
    }
    let (load, memory) = (RequestLoad::new(thread.meter.clone()), cancel.pid.into());
    let mut session = Session {
        thread,
        load,
        client,
        identity,
        pools: PoolsAtHand::default(),
        cancel,
        presence,
        requested: None,
        has_begun: false,
        transaction_requested: Instant::now(),
        answered: None,
        slow_after: None,
        asked: Asked::default(),
        settings: SessionSettings::default(),
        startup_settings: SessionSettings::default(),
        defaults: Defaults::default(),
        first: Rc::default(),
        again_within: None,
        search_path: Rc::default(),
        search_path_is_local: false,
        read_from: ReadFrom::default(),
        hears: Hears::default(),
        sets_own: false,
        avoids_replicas: false,
        statements: Statements::default(),
        portals: Portals::default(),
        transaction: None,
        pinned: None,
        shadows: Shadows::default(),
        kept: None,
        wants_kept: None,
        is_open: false,
        may_unpin: false,
        wrote_on_shards: false,
        memory,
        renumbers: None,
        has_lost_pin: false,
        parameter_changes: Vec::new(),
        skip_until_sync: false,
        batch: Default::default(),
        replay: VecDeque::new(),
    };
    if let Err(error) = Box::pin(session.open(&startup)).await {
        session.thread.shared.log.load().refused(&startup, peer, &error);
        answer::error(&as_fatal(error), session.client.out());
        return session.client.flush().await;
    }
    // Ten thousand clients would keep what they have said of themselves.
    drop(startup);
    // Not before: what the login has asked of the coordinator is no reason to keep a connection there.
    session.keep_servers();
    session.thread.metrics.logins.increment(1);
    session.thread.shared.log.load().connected(&session.presence);
    let ended = session.run(&ending).await;
    session.thread.shared.log.load().disconnected(&session.presence, &ended);
    if let Err(error) = &ended {
        // Best effort: the client may be what was lost.
        answer::error(&as_fatal(error.clone()), session.client.out());
        let _ = timer::timeout(LAST_WORDS, session.client.flush_last()).await;
    }
    ended
}

/// Best effort: after a failed handshake there is nobody to tell.
async fn refuse(stream: Option<Stream>, error: PgError) -> Result<()> {
    let Some(mut stream) = stream else { return Err(error) };
    let mut out = BytesMut::new();
    answer::error(&error, &mut out);
    stream.write_all(&out).await?;
    Ok(stream.flush().await?)
}

fn shutting_down() -> PgError {
    PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "the proxy is shutting down")
}

fn as_fatal(error: PgError) -> PgError {
    error.with_severity(Severity::Fatal)
}

impl Session {
    /// Settings of the startup packet, and the greeting with the parameters that a server reports under them.
    async fn open(&mut self, startup: &SessionStartup) -> Result<()> {
        if startup.database != self.thread.shared.catalog.settings().dbname {
            // Its tables may have the names of distributed ones and are others.
            let name = &startup.database;
            return Err(PgError::fatal(
                SqlState::from_bytes(b"3D000").expect("a valid SQLSTATE"),
                format!("database \"{name}\" does not exist"),
            )
            .detail("One database is served: the coordinator's.")
            .hint("Connect to another database of a node directly."));
        }
        if self.thread.shared.door.is_closed() {
            // Source of the words: PostgreSQL src/backend/utils/init/postinit.c, CheckMyDatabase().
            let why = format!("database \"{}\" is not currently accepting connections", startup.database);
            return Err(PgError::fatal(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, why)
                .detail("An operator has disabled it at this proxy."));
        }
        let mut wanted = Vec::new();
        for (name, value) in &startup.parameters {
            match name.as_str() {
                "options" => wanted.extend(login::read_options(value)?),
                "replication" if matches!(value.as_str(), "false" | "off" | "no" | "0") => {}
                "replication" => {
                    return Err(PgError::unsupported("replication connections are not supported")
                        .hint("Connect to a node directly."));
                }
                _ => wanted.push((name.clone(), value.clone())),
            }
        }
        for (name, value) in wanted {
            let name = name.to_ascii_lowercase();
            // Who has logged in is who he is: Postgres takes this from SET only.
            if name == "session_authorization" {
                continue;
            }
            check_setting(&name, Some(&value))?;
            // Connections speak it from the start.
            if name == "client_encoding" && read_encoding(&value) == Some(Encoding::Utf8) {
                continue;
            }
            self.settings.set(&name, set_statement(&name, &value));
        }
        self.settings = self.thread.settings.share(std::mem::take(&mut self.settings));
        self.startup_settings = self.settings.clone();
        self.note_defaults();
        let greeting = self.greeting().await?;
        self.search_path = greeting.search_path.clone();
        (self.read_from, self.wants_kept, self.hears) = (greeting.read_from, greeting.wants_kept, greeting.hears);
        self.first = greeting.first.clone();
        for (name, value) in &greeting.parameters {
            answer::parameter_status(name, value, self.client.out());
        }
        answer::backend_key_data(self.cancel.pid, &self.cancel.key, self.client.out());
        answer::ready(Status::Idle, self.client.out());
        self.client.flush().await
    }

    /// What sessions that begin like this one are greeted with.
    ///
    /// Errors: what the coordinator says to the settings.
    async fn greeting(&mut self) -> Result<Rc<Greeting>> {
        let defaults = self.with_map(|map| map.role_settings().clone());
        let beginning = Beginning::new(&self.identity, &self.settings, &defaults);
        let asked = Instant::now();
        if let Some(known) = self.thread.greetings.find(&beginning, asked) {
            return Ok(known);
        }
        let parameters = {
            let txn = self.txn();
            let coordinator = txn.join(NodeId::COORDINATOR).await?;
            coordinator.server.parameters().to_vec()
        };
        self.read_search_path().await?;
        let timeouts = Timeouts::read(&self.txn().show(&Timeouts::NAMES).await?);
        self.end_auto();
        let first = Rc::new(FirstTimeouts { settings: self.settings.clone(), timeouts });
        let (search_path, read_from, wants_kept) = (self.search_path.clone(), self.read_from, self.wants_kept);
        let greeting = Greeting { parameters, search_path, read_from, wants_kept, hears: self.hears, first };
        Ok(self.thread.greetings.keep(beginning, asked, greeting))
    }
}

const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_at_rest_takes_little_room() {
        const fn size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        // Ten thousand idle clients are to take at most 15 KB each, of which 4 KB are for what they say next.
        assert!(size(serve) <= 5 * 1024 - 128, "{} bytes", size(serve));
    }
}
