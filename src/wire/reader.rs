//! Bounds-checked reading of one message's payload.

use crate::error::{PgError, Result, SqlState};

/// A cursor over a payload. Every read past the end is 08P01, never a panic.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| bad("message is too short"))?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16> {
        let b = self.bytes(2)?;
        Ok(u16::from_be_bytes([b[0], b[1]]))
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32> {
        let b = self.bytes(4)?;
        Ok(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    #[inline]
    pub fn i32(&mut self) -> Result<i32> {
        Ok(self.u32()? as i32)
    }

    /// Bytes up to the next NUL, which is consumed.
    #[inline]
    pub fn cstr(&mut self) -> Result<&'a [u8]> {
        let end = memchr::memchr(0, self.rest).ok_or_else(|| bad("string is not terminated"))?;
        let (head, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(head)
    }

    /// A NUL-terminated string; 22021 when it is not UTF-8.
    pub fn str(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.cstr()?).map_err(|_| {
            PgError::new(SqlState::CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\"")
        })
    }

    /// A length-prefixed value; `None` for NULL (-1).
    #[inline]
    pub fn value(&mut self) -> Result<Option<&'a [u8]>> {
        match self.i32()? {
            -1 => Ok(None),
            n if n < 0 => Err(bad("negative value length")),
            n => self.bytes(n as usize).map(Some),
        }
    }

    #[inline]
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// 08P01 unless everything was read.
    #[inline]
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(bad("message has trailing bytes")) }
    }
}

#[cold]
fn bad(what: &str) -> PgError {
    PgError::new(SqlState::PROTOCOL_VIOLATION, format!("invalid message format: {what}"))
}
