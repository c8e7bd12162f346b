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

    /// The next `limit` rows (0: all), and that there may be more, or that it is over; true then.
    pub fn give(&mut self, limit: u32, out: &mut BytesMut) -> bool {
        let (mut len, mut count) = (0, 0);
        while limit == 0 || count < limit {
            let Ok(Some(row)) = frame::header(&self.rows[len..]) else { break };
            (len, count) = (len + row.len, count + 1);
        }
        out.extend_from_slice(&self.rows.split_to(len));
        let is_over = limit == 0 || count < limit;
        if !is_over {
            answer::portal_suspended(out);
        } else if self.end.get(HEADER_LEN..).is_some_and(|tag| tag.starts_with(b"SELECT ")) {
            answer::command_complete(&format!("SELECT {count}"), out);
        } else {
            out.extend_from_slice(&self.end);
        }
        is_over
    }
}

/// Passes a whole answer on, with so many rows of it. `None`: it is over with them, or has failed.
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
    (!rest.give(limit, out)).then_some(rest)
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
            assert_eq!(rest.is_some(), want[0].ends_with('s'));
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
