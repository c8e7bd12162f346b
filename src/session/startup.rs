//! The first packets of a connection: encryption requests, cancel requests, the session's startup.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{PgError, Result, SqlState};
use crate::transport::Stream;
use crate::wire::startup::{self, SessionStartup, Startup};

/// What the client wants.
pub enum Wish {
    Session(SessionStartup),
    Cancel {
        pid: u32,
        key: bytes::Bytes,
    },
    /// It closed the connection.
    Nothing,
}

/// Answers encryption requests with "no" (at most one of each) and reads the startup packet.
/// What the client sent behind it stays in the returned buffer.
///
/// Errors: 08P01 for packets that cannot be, before their bytes are waited for.
pub async fn read(stream: &mut Stream) -> Result<(Wish, BytesMut)> {
    let mut buffer = BytesMut::with_capacity(1024);
    let (mut asked_ssl, mut asked_gss) = (false, false);
    loop {
        let Some(len) = startup::packet_len(&buffer)?.filter(|len| buffer.len() >= *len) else {
            buffer.reserve(1024);
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok((Wish::Nothing, buffer));
            }
            continue;
        };
        let packet = buffer.split_to(len);
        let asked = match Startup::read(&packet)? {
            Startup::Ssl => &mut asked_ssl,
            Startup::GssEnc => &mut asked_gss,
            Startup::Cancel { pid, key } => return Ok((Wish::Cancel { pid, key }, buffer)),
            Startup::Session(session) => return Ok((Wish::Session(session), buffer)),
        };
        if std::mem::replace(asked, true) {
            return Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, "encryption was requested twice"));
        }
        stream.write_all(b"N").await?;
        stream.flush().await?;
    }
}
