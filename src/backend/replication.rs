//! Logical replication: a slot with its snapshot, and the stream of changes behind it.
//!
//! ```text
//!   ReplicationConnection ──create_slot──> snapshot for COPY, kept until ...
//!                         ──start──> ReplicationStream ──next──> Change | Keepalive ...
//!                                            ▲──confirm(lsn)── what is durable where the changes go
//! ```
//!
//! The server keeps all WAL behind the confirmed position, and sends again what lies behind it: so `confirm` must be
//! called with nothing that could still be lost. The connection never times out on the server's side
//! (`wal_sender_timeout = 0`): the receiver may pause for as long as an index takes.
//! Source: PostgreSQL manual, "Streaming Replication Protocol".

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use super::hosts::takes_no_writes;
use super::login::{Identity, OWN_DEFAULTS, ServerAccess, ServerAddress};
use super::server::Server;
use super::settings::{quote_ident, quote_literal};
use crate::error::{PgError, Result, SqlState};
use crate::wire::frontend;
use crate::wire::pgoutput::Lsn;

/// A connection that understands replication commands.
pub struct ReplicationConnection {
    server: Server,
}

/// What CREATE_REPLICATION_SLOT answers.
#[derive(Debug, Clone)]
pub struct CreatedSlot {
    /// The stream starts here: all that committed before is in the snapshot.
    pub consistent_point: Lsn,
    /// For SET TRANSACTION SNAPSHOT, valid until the next command on this connection.
    pub snapshot: String,
}

impl ReplicationConnection {
    /// Logs in. Values arrive in the forms that `PLAIN_FORMS` names.
    ///
    /// Errors: as `Server::connect`; 08006 for a standby.
    pub async fn connect(
        access: &ServerAccess,
        address: &ServerAddress,
        identity: &Identity,
        deadline: Duration,
    ) -> Result<Self> {
        let mut parameters = vec![("replication", "database"), ("wal_sender_timeout", "0")];
        parameters.extend(PLAIN_FORMS);
        parameters.extend(OWN_DEFAULTS);
        let server = Server::connect_with(access, address, identity, &parameters, deadline).await?;
        // A standby's slot would not tell of what a promoted one has written since.
        if server.is_standby() { Err(takes_no_writes(address)) } else { Ok(Self { server }) }
    }

    /// Creates a logical slot for `pgoutput` and exports the snapshot it starts from.
    ///
    /// Waits for every transaction that is open on the server. Errors: 55000 when `wal_level` is not logical.
    pub async fn create_slot(&mut self, name: &str) -> Result<CreatedSlot> {
        let rows = self
            .server
            .query(&format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput (SNAPSHOT 'export')", quote_ident(name)))
            .await
            .map_err(explain)?;
        match rows.first().map(Vec::as_slice) {
            Some([_, Some(point), Some(snapshot), ..]) => {
                Ok(CreatedSlot { consistent_point: point.parse()?, snapshot: snapshot.clone() })
            }
            _ => Err(broken("unexpected answer to CREATE_REPLICATION_SLOT")),
        }
    }

    /// Starts the stream of `slot`, limited to the tables of `publication`. The exported snapshot ends.
    pub async fn start(mut self, slot: &str, publication: &str, from: Lsn) -> Result<ReplicationStream> {
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {})",
            quote_ident(slot),
            quote_literal(&quote_ident(publication)),
        );
        // No reply is announced: what follows is a stream, judged here and ended by closing the connection.
        frontend::query(&command, self.server.queue());
        self.server.flush().await?;
        loop {
            let frame = self.server.next_frame().await?;
            match frame.tag {
                b'W' => return Ok(ReplicationStream { server: self.server, confirmed: from, asked: false }),
                b'E' => return Err(PgError::from_body(frame.payload())),
                b'S' | b'N' => {}
                tag => return Err(broken(&format!("unexpected answer '{}' to START_REPLICATION", tag as char))),
            }
        }
    }
}

/// Settings under which text forms are exact and mean the same on every server.
pub const PLAIN_FORMS: [(&str, &str); 5] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("timezone", "GMT"),
    ("bytea_output", "hex"),
];

/// What the server sends on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One message of the output plugin.
    Change(Bytes),
    /// All changes before this position have been sent.
    Keepalive(Lsn),
}

/// The stream after START_REPLICATION.
pub struct ReplicationStream {
    server: Server,
    confirmed: Lsn,
    /// The server wants a status update now.
    asked: bool,
}

impl ReplicationStream {
    /// The next message. Cancel safe.
    ///
    /// Errors: the server's own; 08006 when the connection or the stream has ended.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let frame = self.server.next_frame().await?;
            match frame.tag {
                b'd' => return self.read(frame.bytes.slice(HEADER_LEN..)),
                b'E' => return Err(PgError::from_body(frame.payload())),
                b'S' | b'N' => {}
                // Behind the last of what it had, as the streams' end or the command's.
                b'c' | b'C' => {
                    return Err(PgError::new(SqlState::CONNECTION_FAILURE, "the change stream ended")
                        .detail("The server is being shut down."));
                }
                tag => return Err(broken(&format!("unexpected message '{}' in a change stream", tag as char))),
            }
        }
    }

    /// Has the next message (or part of it) been received already?
    pub fn has_received(&self) -> bool {
        !self.server.received().is_empty()
    }

    /// Everything before `position` is durable at its destination; it will not be sent again.
    ///
    /// Not cancel safe.
    pub async fn confirm(&mut self, position: Lsn) -> Result<()> {
        self.confirmed = self.confirmed.max(position);
        self.send_status().await
    }

    /// Answers the server's question for a sign of life, if it asked. Not cancel safe.
    pub async fn answer(&mut self) -> Result<()> {
        if self.asked { self.send_status().await } else { Ok(()) }
    }

    async fn send_status(&mut self) -> Result<()> {
        self.asked = false;
        let out = self.server.queue();
        out.put_u8(b'd');
        out.put_u32(4 + STATUS_LEN);
        out.put_u8(b'r');
        for _written_flushed_applied in 0..3 {
            out.put_u64(self.confirmed.0);
        }
        out.put_u64(0); // our clock: only shown by the server, never used
        out.put_u8(0); // no answer wanted
        self.server.flush().await
    }

    fn read(&mut self, mut body: Bytes) -> Result<Event> {
        match body.first() {
            Some(b'w') if body.len() >= XLOG_DATA_HEADER_LEN => {
                body.advance(XLOG_DATA_HEADER_LEN);
                Ok(Event::Change(body))
            }
            Some(b'k') if body.len() >= KEEPALIVE_LEN => {
                body.advance(1);
                let end = Lsn(body.get_u64());
                body.advance(8);
                self.asked |= body.get_u8() != 0;
                Ok(Event::Keepalive(end))
            }
            _ => Err(broken("malformed replication message")),
        }
    }
}

const HEADER_LEN: usize = 5;
/// 'r', three positions, a clock, a flag.
const STATUS_LEN: u32 = 1 + 3 * 8 + 8 + 1;
/// 'w', start and end position, a clock.
const XLOG_DATA_HEADER_LEN: usize = 1 + 3 * 8;
/// 'k', end position, a clock, a flag.
const KEEPALIVE_LEN: usize = 1 + 2 * 8 + 1;

fn explain(error: PgError) -> PgError {
    if error.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE && error.message().contains("wal_level") {
        return error.hint("Set wal_level = logical on every worker and restart it.");
    }
    error
}

fn broken(what: &str) -> PgError {
    PgError::new(SqlState::PROTOCOL_VIOLATION, what)
}
