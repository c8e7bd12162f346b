//! Where a tuple of binary COPY data ends.
//!
//! ```text
//!   PGCOPY\n\xff\r\n\0 | flags (4) | length (4) | extension      header, once
//!   count (2) | [ length (4) or -1 | bytes ]*                    a tuple
//!   -1 (2)                                                       trailer
//! ```
//!
//! Source: PostgreSQL manual, COPY, "Binary Format"; messages of copyfromparse.c.

use super::FieldValue;

#[derive(Debug, Default)]
pub struct BinaryScanner {
    header: Vec<u8>,
    tuple: u64,
    in_tuple: bool,
    is_trailer_seen: bool,
    /// The field at which the scan stands, for the error's context.
    column: Option<usize>,
}

impl BinaryScanner {
    /// As it came; empty until it is complete.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes of the stream that are no tuples and were taken in.
    pub fn consumed(&self) -> usize {
        self.header.len() + if self.is_trailer_seen { 2 } else { 0 }
    }

    /// Number of the tuple that is being read, or was read last.
    pub fn tuple(&self) -> u64 {
        self.tuple
    }

    pub fn column(&self) -> Option<usize> {
        self.column
    }

    /// Length of the tuple that `data` starts with, behind the header on the first call; none when it is not complete
    /// or the data ends.
    pub fn next(
        &mut self,
        data: &[u8],
        is_end: bool,
        columns: usize,
        limit_bytes: usize,
    ) -> std::result::Result<Option<usize>, String> {
        let mut data = data;
        if self.header.is_empty() {
            let Some(length) = header_length(data, is_end, limit_bytes)? else { return Ok(None) };
            self.header = data[..length].to_vec();
            data = &data[length..];
        }
        if self.is_trailer_seen {
            return if data.is_empty() { Ok(None) } else { Err("received copy data after EOF marker".into()) };
        }
        if !self.in_tuple {
            self.in_tuple = true;
            self.tuple += 1;
        }
        self.column = None;
        let Some(count) = data.first_chunk().map(|b| i16::from_be_bytes(*b)) else { return Ok(None) };
        if count == -1 {
            self.is_trailer_seen = true;
            return if data.len() == 2 { Ok(None) } else { Err("received copy data after EOF marker".into()) };
        }
        if usize::try_from(count) != Ok(columns) {
            return Err(format!("row field count is {count}, expected {columns}"));
        }
        let mut at = 2;
        for column in 0..columns {
            self.column = Some(column);
            let length = data.get(at..).and_then(<[u8]>::first_chunk).map(|b| i32::from_be_bytes(*b));
            at += 4;
            match length {
                Some(-1) => continue,
                Some(length) => at += usize::try_from(length).map_err(|_| "invalid field size")?,
                None => {}
            }
            if length.is_none() || at > data.len() {
                return if is_end { Err("unexpected EOF in COPY data".into()) } else { Ok(None) };
            }
        }
        self.column = None;
        self.in_tuple = false;
        Ok(Some(at))
    }
}

fn header_length(data: &[u8], is_end: bool, limit_bytes: usize) -> std::result::Result<Option<usize>, String> {
    let seen = data.len().min(SIGNATURE.len());
    if data[..seen] != SIGNATURE[..seen] || (is_end && seen < SIGNATURE.len()) {
        return Err("COPY file signature not recognized".into());
    }
    let number = |at: usize| data.get(at..).and_then(<[u8]>::first_chunk).map(|b| i32::from_be_bytes(*b));
    let missing = |what: &str| {
        if is_end { Err(format!("invalid COPY file header (missing {what})")) } else { Ok(None) }
    };
    let Some(flags) = number(SIGNATURE.len()) else { return missing("flags") };
    if flags & 1 << 16 != 0 {
        return Err("invalid COPY file header (WITH OIDS)".into());
    }
    if flags as u32 >> 16 != 0 {
        return Err("unrecognized critical flags in COPY file header".into());
    }
    let Some(extension) = number(SIGNATURE.len() + 4) else { return missing("length") };
    let length = usize::try_from(extension).map_err(|_| "invalid COPY file header (missing length)")?;
    if length > limit_bytes {
        return Err("invalid COPY file header (wrong length)".into());
    }
    let total = SIGNATURE.len() + 8 + length;
    match (data.len() >= total, is_end) {
        (true, _) => Ok(Some(total)),
        (false, true) => Err("invalid COPY file header (wrong length)".into()),
        (false, false) => Ok(None),
    }
}

/// One field of a complete tuple.
pub fn field(tuple: &[u8], index: usize) -> FieldValue<'_> {
    let mut rest = tuple.get(2..).unwrap_or_default();
    for column in 0.. {
        let Some((length, tail)) = rest.split_first_chunk() else { break };
        let value = usize::try_from(i32::from_be_bytes(*length)).ok().and_then(|n| tail.split_at_checked(n));
        if column == index {
            return value.map_or(FieldValue::Null, |(bytes, _)| FieldValue::Binary(bytes));
        }
        rest = value.map_or(tail, |(_, after)| after);
    }
    FieldValue::Null
}

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
