//! Where frames begin and end.

use crate::error::{PgError, Result, SqlState};

/// Tag and total length of the frame at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes of the whole frame, tag and length field included.
    pub len: usize,
}

/// Bytes before the payload.
pub const HEADER_LEN: usize = 5;

/// Reads the header at the start of `buffer`; `None` while fewer than five bytes are there.
///
/// Errors: 08P01 for a length field that cannot be.
#[inline]
pub fn header(buffer: &[u8]) -> Result<Option<Header>> {
    let Some(head) = buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if !(4..=MAX_LENGTH).contains(&length) {
        return Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length"));
    }
    Ok(Some(Header { tag: head[0], len: length as usize + 1 }))
}

/// How many bytes at the start of `buffer` are whole rows: DataRow, or CopyData.
pub fn rows_len(buffer: &[u8]) -> usize {
    let mut len = 0;
    while let Ok(Some(Header { tag: b'D' | b'd', len: row })) = header(&buffer[len..])
        && len + row <= buffer.len()
    {
        len += row;
    }
    len
}

/// The largest frame that a client may send after its login, by tag; `None` for what no client sends. Postgres allows small messages 10,000 bytes and the rest 1 GB.
///
/// Source: PostgreSQL src/backend/tcop/postgres.c, SocketBackend().
pub fn client_frame_limit(tag: u8) -> Option<usize> {
    match tag {
        b'Q' | b'P' | b'B' | b'd' | b'F' => Some(MAX_LENGTH as usize + 1),
        b'D' | b'E' | b'C' | b'H' | b'S' | b'X' | b'c' | b'f' => Some(10_001),
        _ => None,
    }
}

const MAX_LENGTH: u32 = 0x3fff_fffe;

/// Starts a frame in `out`; `end_frame` fills in the length.
#[inline]
pub fn begin_frame(out: &mut bytes::BytesMut, tag: u8) -> usize {
    use bytes::BufMut;
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    at
}

/// Completes the frame begun at `at`.
#[inline]
pub fn end_frame(out: &mut bytes::BytesMut, at: usize) {
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes_and_a_length_of_four_or_more() {
        assert_eq!(header(b"Q\0\0\0").unwrap(), None);
        assert_eq!(header(b"S\0\0\0\x04").unwrap(), Some(Header { tag: b'S', len: 5 }));
        let rows = b"D\0\0\0\x05xd\0\0\0\x04D\0\0\0\x06ab";
        for (cut, whole) in [(0, 0), (5, 0), (6, 6), (10, 6), (11, 11), (17, 11), (18, 18)] {
            assert_eq!(rows_len(&rows[..cut]), whole, "cut at {cut}");
        }
        assert_eq!(rows_len(b"C\0\0\0\x04"), 0);
        assert_eq!(rows_len(b"D\0\0\0\x04D\0\0\0\0"), 5, "what cannot be is left to be refused");
        for length in [0u32, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(header(&bytes).unwrap_err().code(), SqlState::PROTOCOL_VIOLATION);
        }
    }
}
