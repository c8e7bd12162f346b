//! What of sessions goes to the log: connections, disconnections, slow statements.
//!
//! Every line has the session's id, role, database and application. Nothing of tenants is written unless
//! `statement_texts` says so: of a statement only what is left without its constants and comments.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::presence::Presence;
use super::run::Session;
use super::statement::Statement;
use crate::error::{PgError, Result};
use crate::sql::normalized::{fingerprint, normalized};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend;
use crate::wire::startup::SessionStartup;

/// What is written.
#[derive(Debug, Clone, Default)]
pub struct SessionLog {
    pub connections: bool,
    pub disconnections: bool,
    /// Requests that take at least so long; none: never.
    pub slow_statement: Option<Duration>,
    /// Slow statements as their clients wrote them, with all data.
    pub statement_texts: bool,
}

/// What a client has asked for last; kept only while slow statements are logged.
#[derive(Default)]
pub enum Asked {
    #[default]
    Nothing,
    /// A Query frame.
    Query(Bytes),
    Statement(Rc<Statement>),
}

/// Writes an event with the fields of its session.
macro_rules! event {
    ($presence:expr, $($rest:tt)+) => {
        tracing::info!(
            session = $presence.id,
            role = &*$presence.user,
            database = &*$presence.database,
            application = $presence.application(),
            $($rest)+
        )
    };
}

impl SessionLog {
    pub fn connected(&self, presence: &Presence) {
        if self.connections {
            event!(presence, peer = %presence.peer, tls = presence.is_encrypted, "client connected");
        }
    }

    /// There is no session yet.
    pub fn refused(&self, startup: &SessionStartup, peer: SocketAddr, error: &PgError) {
        if self.connections {
            tracing::info!(
                role = startup.user,
                database = startup.database,
                application = startup.parameter("application_name").unwrap_or_default(),
                %peer,
                sqlstate = %error.code(),
                error = error.message(),
                "client refused"
            );
        }
    }

    pub fn disconnected(&self, presence: &Presence, ended: &Result<()>) {
        if self.disconnections {
            let seconds = presence.since.elapsed().unwrap_or_default().as_secs();
            let sqlstate = ended.as_ref().err().map(|error| error.code().to_string());
            event!(presence, seconds, sqlstate, "client disconnected");
        }
    }

    fn slow(&self, presence: &Presence, took: Duration, text: &str) {
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bare = normalized(text);
        let fingerprint = bare.as_deref().map(|bare| format!("{:016x}", fingerprint(bare))).unwrap_or_default();
        let statement = if self.statement_texts { text } else { bare.as_deref().unwrap_or_default() };
        event!(presence, milliseconds, fingerprint, statement, "slow statement");
    }
}

impl Session {
    /// A request begins: what it asks for is kept when it may have to be told.
    pub(super) fn note_asked(&mut self, tag: u8, bytes: &Bytes) {
        self.slow_after = self.thread.shared.log.load().slow_statement;
        if self.slow_after.is_some() && tag == b'Q' {
            self.asked = Asked::Query(bytes.clone());
        }
    }

    /// The same for a prepared statement. Of a pipeline, the last one is told.
    pub(super) fn note_bound(&mut self, statement: &Rc<Statement>) {
        if self.slow_after.is_some() {
            self.asked = Asked::Statement(statement.clone());
        }
    }

    /// The request has been answered.
    pub(super) fn log_if_slow(&mut self, took: Duration) {
        let asked = std::mem::take(&mut self.asked);
        if self.slow_after.is_none_or(|limit| took < limit) {
            return;
        }
        let log = self.thread.shared.log.load();
        match asked {
            Asked::Nothing => {}
            Asked::Query(frame) => {
                if let Ok(text) = frontend::read_query(&frame[HEADER_LEN..]) {
                    log.slow(&self.presence, took, text);
                }
            }
            Asked::Statement(statement) => log.slow(&self.presence, took, &statement.text),
        }
    }
}
