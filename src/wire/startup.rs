//! The first packet of a connection, which has no tag.
//!
//! Source: PostgreSQL manual, "Message Formats": SSLRequest, GSSENCRequest, CancelRequest, StartupMessage,
//! NegotiateProtocolVersion.

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::{begin_frame, end_frame};
use super::reader::Reader;
use crate::error::{PgError, Result, SqlState};

/// A startup packet, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    Ssl,
    GssEnc,
    Cancel { pid: u32, key: Bytes },
    Session(SessionStartup),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStartup {
    /// Minor version that both sides speak: 0 or 2.
    pub minor: u16,
    /// The client asked for a newer minor version or for protocol extensions we do not know.
    pub negotiate: bool,
    /// Names of unknown `_pq_.` extensions.
    pub unknown_extensions: Vec<String>,
    pub user: String,
    pub database: String,
    /// All other parameters: settings, `options`, `replication`.
    pub parameters: Vec<(String, String)>,
}

/// The largest startup packet. Source: PostgreSQL MAX_STARTUP_PACKET_LENGTH.
pub const MAX_STARTUP_LEN: usize = 10_000;

/// Length of the packet at the start of the buffer, its length field included.
///
/// Errors: 08P01 at once for lengths that cannot be, so that nobody waits for the bytes.
pub fn packet_len(buffer: &[u8]) -> Result<Option<usize>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*head) as usize;
    if !(8..=MAX_STARTUP_LEN).contains(&len) {
        return Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, "invalid length of startup packet"));
    }
    Ok(Some(len))
}

impl Startup {
    /// Reads a whole packet, length field included.
    pub fn read(packet: &[u8]) -> Result<Self> {
        let mut r = Reader::new(packet);
        r.u32()?;
        match (r.u16()?, r.u16()?) {
            (1234, 5679) => r.end().map(|()| Startup::Ssl),
            (1234, 5680) => r.end().map(|()| Startup::GssEnc),
            (1234, 5678) => {
                let pid = r.u32()?;
                let key = r.rest();
                if !(4..=256).contains(&key.len()) {
                    return Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, "invalid cancel request"));
                }
                Ok(Startup::Cancel { pid, key: Bytes::copy_from_slice(key) })
            }
            (3, minor) => Self::read_session(minor, r).map(Startup::Session),
            (major, minor) => Err(PgError::fatal(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"),
            )),
        }
    }

    fn read_session(minor: u16, mut r: Reader<'_>) -> Result<SessionStartup> {
        let (mut user, mut database) = (None, None);
        let (mut parameters, mut unknown_extensions) = (Vec::new(), Vec::new());
        loop {
            let name = r.str()?;
            if name.is_empty() {
                break;
            }
            let value = r.str()?.to_owned();
            match name {
                "user" => user = Some(value),
                "database" => database = Some(value),
                extension if extension.starts_with("_pq_.") => unknown_extensions.push(extension.to_owned()),
                _ => parameters.push((name.to_owned(), value)),
            }
        }
        r.end().map_err(|_| {
            PgError::fatal(
                SqlState::PROTOCOL_VIOLATION,
                "invalid startup packet layout: expected terminator as last byte",
            )
        })?;
        let user = user.filter(|u| !u.is_empty()).ok_or_else(|| {
            PgError::fatal(
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                "no PostgreSQL user name specified in startup packet",
            )
        })?;
        let database = database.filter(|d| !d.is_empty()).unwrap_or_else(|| user.clone());
        // 3.1 was never used; a client that asks for it is answered as 3.0.
        let spoken = if minor >= 2 { 2 } else { 0 };
        let negotiate = minor > 2 || minor == 1 || !unknown_extensions.is_empty();
        Ok(SessionStartup { minor: spoken, negotiate, unknown_extensions, user, database, parameters })
    }
}

impl SessionStartup {
    /// A startup parameter, by its name as it was sent.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// NegotiateProtocolVersion: the newest minor version we speak and the extensions we do not know.
pub fn negotiate_protocol_version(minor: u16, unknown: &[String], out: &mut BytesMut) {
    let at = begin_frame(out, b'v');
    out.put_u32(3 << 16 | u32::from(minor));
    out.put_u32(unknown.len() as u32);
    for name in unknown {
        out.put_slice(name.as_bytes());
        out.put_u8(0);
    }
    end_frame(out, at);
}

/// The packet that opens a session on a server.
pub fn write_session(parameters: &[(&str, &str)], out: &mut BytesMut) {
    let at = out.len();
    out.put_u32(0);
    out.put_u32(3 << 16);
    for (name, value) in parameters {
        out.put_slice(name.as_bytes());
        out.put_u8(0);
        out.put_slice(value.as_bytes());
        out.put_u8(0);
    }
    out.put_u8(0);
    end_frame(out, at);
}

/// The packet that cancels what a server connection runs.
pub fn write_cancel(pid: u32, key: &[u8], out: &mut BytesMut) {
    let at = out.len();
    out.put_u32(0);
    out.put_u32(1234 << 16 | 5678);
    out.put_u32(pid);
    out.put_slice(key);
    end_frame(out, at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(minor: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut out = BytesMut::new();
        write_session(parameters, &mut out);
        out[4..8].copy_from_slice(&(3 << 16 | minor).to_be_bytes());
        out.to_vec()
    }

    #[test]
    fn a_newer_minor_version_is_negotiated_down_and_unknown_extensions_are_named() {
        let packet = session(9999, &[("user", "u"), ("_pq_.x", "1")]);
        let Startup::Session(s) = Startup::read(&packet).unwrap() else { panic!() };
        assert_eq!((s.minor, s.negotiate, s.database.as_str()), (2, true, "u"));
        assert_eq!(s.unknown_extensions, ["_pq_.x"]);
        let Startup::Session(s) = Startup::read(&session(0, &[("user", "u"), ("database", "d")])).unwrap() else {
            panic!()
        };
        assert_eq!((s.minor, s.negotiate, s.database.as_str()), (0, false, "d"));
    }

    #[test]
    fn lying_lengths_are_refused_at_once() {
        for len in [0u32, 3, 7, 10_001, 0x7fff_ffff, 0x8000_0000, u32::from_be_bytes(*b"GET ")] {
            assert!(packet_len(&len.to_be_bytes()).is_err());
        }
    }

    #[test]
    fn every_cut_of_a_startup_packet_is_an_error_and_not_a_panic() {
        let packet = session(0, &[("user", "u"), ("options", "-c x=1")]);
        for cut in 8..packet.len() {
            assert!(Startup::read(&packet[..cut]).is_err());
        }
        assert!(Startup::read(&session(0, &[("database", "d")])).is_err());
    }
}
