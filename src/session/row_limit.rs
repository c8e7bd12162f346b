//! Rows of what the proxy runs itself, fetched in parts: all are made at the first Execute, as Postgres makes those of
//! RETURNING, and what is over the limit is kept for the next.
//!
//! ```text
//!   Execute, 2 rows   answer: D D D D C    client: D D s    kept: D D, C
//!   Execute, 5 rows                        client: D D C
//! ```
//!
//! Source: PostgreSQL src/backend/tcop/pquery.c, PortalRun() and PortalRunSelect().

use bytes::{Bytes, BytesMut};

use crate::wire::answer;
use crate::wire::frame::{self, HEADER_LEN, Header};

/// What a portal has yet to give.
#[derive(Debug, PartialEq, Eq)]
pub struct Rest {
    /// DataRow frames.
    rows: Bytes,
    /// CommandComplete.
    end: Bytes,
}

impl Rest {
    /// What it keeps. Unit: bytes.
    pub fn bytes(&self) -> usize {
        self.rows.len() + self.end.len()
    }

    /// Of a portal that is over; `end` is its CommandComplete.
    pub fn over(end: Bytes) -> Self {
        Self { rows: Bytes::new(), end }
    }

    /// The tag up to its number, which is of the rows that came last.
    fn counted(&self) -> Option<&str> {
        let tag = std::str::from_utf8(self.end.get(HEADER_LEN..)?).ok()?.strip_suffix('\0')?;
        let verb = tag.trim_end_matches(|c: char| c.is_ascii_digit());
        (verb.len() < tag.len()).then_some(verb)
    }

    /// The next `limit` rows (0: all), and that there may be more, or that it is over: then again whenever it is asked.
    pub fn give(&mut self, limit: u32, out: &mut BytesMut) {
        let (mut len, mut count) = (0, 0);
        while limit == 0 || count < limit {
            let Ok(Some(row)) = frame::header(&self.rows[len..]) else { break };
            (len, count) = (len + row.len, count + 1);
        }
        out.extend_from_slice(&self.rows.split_to(len));
        let is_over = limit == 0 || count < limit;
        if !is_over {
            answer::portal_suspended(out);
        } else if let Some(verb) = self.counted() {
            answer::command_complete(&format!("{verb}{count}"), out);
        } else {
            out.extend_from_slice(&self.end);
        }
    }
}

/// Passes a whole answer on, with so many rows of it. `None`: it has failed.
pub fn cut(answer: &Bytes, limit: u32, out: &mut BytesMut) -> Option<Rest> {
    let (mut rows, mut end, mut at) = (BytesMut::new(), None, 0);
    while let Ok(Some(Header { tag, len })) = frame::header(&answer[at..]) {
        let frame = answer.slice(at..(at + len).min(answer.len()));
        at += frame.len();
        match tag {
            b'D' => rows.extend_from_slice(&frame),
            b'C' => end = Some(frame),
            // Notices, parameters; an error, behind which there is no end.
            _ => out.extend_from_slice(&frame),
        }
    }
    let mut rest = Rest { rows: rows.freeze(), end: end? };
    rest.give(limit, out);
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_of(rows: usize, tag: &str) -> Bytes {
        let mut answer = BytesMut::new();
        (0..rows).for_each(|row| answer::text_row(&[Some(&row.to_string())], &mut answer));
        answer::command_complete(tag, &mut answer);
        answer.freeze()
    }

    fn tags(out: &[u8]) -> String {
        let (mut at, mut tags) = (0, String::new());
        while let Ok(Some(header)) = frame::header(&out[at..]) {
            tags.push(header.tag.into());
            at += header.len;
        }
        tags
    }

    #[test]
    fn rows_come_in_parts_and_end_as_in_postgres() {
        for (rows, limits, want) in [
            (0, &[1u32][..], &["C"][..]),
            (1, &[2], &["DC"]),
            (2, &[2, 2], &["DDs", "C"]),
            (5, &[2, 2, 2], &["DDs", "DDs", "DC"]),
            (5, &[1, 0], &["Ds", "DDDDC"]),
        ] {
            let mut out = BytesMut::new();
            let mut rest = cut(&answer_of(rows, "UPDATE 5"), limits[0], &mut out);
            assert_eq!(tags(&out), want[0], "{rows} rows");
            for (limit, want) in limits[1..].iter().zip(&want[1..]) {
                let mut out = BytesMut::new();
                rest.as_mut().expect("there may be more").give(*limit, &mut out);
                assert_eq!(tags(&out), *want, "{rows} rows");
            }
            let (mut rest, mut out) = (rest.expect("it has not failed"), BytesMut::new());
            rest.give(0, &mut out);
            assert_eq!(tags(&out), "C", "{rows} rows");
        }
    }

    #[test]
    fn a_select_tells_how_many_rows_came_last() {
        let mut out = BytesMut::new();
        let mut rest = cut(&answer_of(3, "SELECT 3"), 1, &mut out).expect("there are more");
        out.clear();
        rest.give(7, &mut out);
        assert!(out.ends_with(b"SELECT 2\0"));
    }

    #[test]
    fn what_has_failed_keeps_nothing() {
        let mut failed = BytesMut::from(&b"N\0\0\0\x05\0"[..]);
        answer::text_row(&[Some("1")], &mut failed);
        failed.extend_from_slice(b"E\0\0\0\x05\0");
        let mut out = BytesMut::new();
        assert_eq!(cut(&failed.freeze(), 1, &mut out), None);
        assert_eq!(tags(&out), "NE");
    }
}
