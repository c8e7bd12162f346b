//! The first packets of a connection: encryption requests, cancel requests, the session's startup.
//!
//! ```text
//!   SSLRequest ──'S'──> TLS handshake ──> startup packet, encrypted
//!              ──'N'──> startup packet, in the clear
//!   TLS handshake at once, with ALPN "postgresql" ──> startup packet, encrypted
//! ```

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{PgError, Result, SqlState};
use crate::transport::{Acceptor, Handshake, Socket, Stream};
use crate::wire::startup::{self, SessionStartup, Startup};

/// What the client wants.
pub enum Wish {
    Session(SessionStartup),
    Cancel { pid: u32, key: bytes::Bytes },
}

/// A client, from its first byte to its startup packet.
pub struct Opening {
    /// None once a handshake has failed.
    pub stream: Option<Stream>,
    /// What came behind the startup packet.
    pub rest: BytesMut,
    /// There once the connection is encrypted.
    pub handshake: Option<Handshake>,
    asked_ssl: bool,
    asked_gss: bool,
}

impl Opening {
    pub fn new(socket: Socket) -> Self {
        Self {
            stream: Some(Stream::from(socket)),
            rest: BytesMut::with_capacity(1024),
            handshake: None,
            asked_ssl: false,
            asked_gss: false,
        }
    }

    /// Answers encryption requests, at most one of each, and reads the startup packet. `None`: the client has gone.
    ///
    /// Errors: 08P01 for packets that cannot be, before their bytes are waited for, and for bytes in the clear behind a
    /// request for encryption, which somebody in between may have put there.
    pub async fn read(&mut self, acceptor: &Acceptor) -> Result<Option<Wish>> {
        if self.begins_with_tls().await? {
            self.encrypt(acceptor).await?;
            if self.handshake.as_ref().is_none_or(|handshake| !handshake.is_postgresql) {
                return Err(violation(
                    "received direct SSL connection request without ALPN protocol negotiation extension",
                ));
            }
        }
        loop {
            let Some(len) = startup::packet_len(&self.rest)?.filter(|len| self.rest.len() >= *len) else {
                self.rest.reserve(1024);
                if self.fill().await? == 0 {
                    return Ok(None);
                }
                continue;
            };
            let packet = self.rest.split_to(len);
            match Startup::read(&packet)? {
                Startup::Ssl => self.answer_ssl(acceptor).await?,
                Startup::GssEnc => {
                    if std::mem::replace(&mut self.asked_gss, true) || self.handshake.is_some() {
                        return Err(violation("encryption was requested twice"));
                    }
                    self.say(b"N").await?;
                }
                Startup::Cancel { pid, key } => return Ok(Some(Wish::Cancel { pid, key })),
                Startup::Session(session) => return Ok(Some(Wish::Session(session))),
            }
        }
    }

    /// Does the client begin with a TLS handshake? Nothing is consumed.
    async fn begins_with_tls(&mut self) -> Result<bool> {
        Ok(self.stream()?.socket().peek_byte().await? == Some(TLS_HANDSHAKE))
    }

    async fn answer_ssl(&mut self, acceptor: &Acceptor) -> Result<()> {
        if std::mem::replace(&mut self.asked_ssl, true) || self.handshake.is_some() {
            return Err(violation("encryption was requested twice"));
        }
        if !acceptor.is_on() {
            return self.say(b"N").await;
        }
        if !self.rest.is_empty() {
            return Err(violation("received unencrypted data after SSL request").detail(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
            ));
        }
        self.say(b"S").await?;
        self.encrypt(acceptor).await
    }

    async fn encrypt(&mut self, acceptor: &Acceptor) -> Result<()> {
        let Some(Stream::Plain(socket)) = self.stream.take() else { return Err(violation("already encrypted")) };
        let (stream, handshake) = acceptor.accept(socket).await?;
        (self.stream, self.handshake) = (Some(stream), Some(handshake));
        Ok(())
    }

    async fn say(&mut self, answer: &[u8]) -> Result<()> {
        let stream = self.stream()?;
        stream.write_all(answer).await?;
        Ok(stream.flush().await?)
    }

    async fn fill(&mut self) -> Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        Ok(stream.read_buf(&mut self.rest).await?)
    }

    fn stream(&mut self) -> Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| violation("the connection is gone"))
    }
}

fn violation(message: &str) -> PgError {
    PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)
}

/// The first byte of a TLS handshake record. Source: RFC 8446, section 5.1.
const TLS_HANDSHAKE: u8 = 0x16;
