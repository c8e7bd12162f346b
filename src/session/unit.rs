//! The messages of one statement, found whole in what the client has sent.

use std::ops::Range;

use bytes::Bytes;

use crate::backend::Frame;
use crate::wire::frame::{self, HEADER_LEN};

/// The messages of one statement, whole.
pub(super) enum Unit {
    Extended(Messages),
    Simple { len: usize },
}

/// Where they are: payloads, without headers.
pub(super) struct Messages {
    pub parse: Option<Range<usize>>,
    pub bind: Range<usize>,
    pub describes: bool,
    len: usize,
}

impl Unit {
    /// What `received` begins with; `None` for everything that is no such unit, not all there, or with a message longer
    /// than the client's may be.
    pub fn read(received: &[u8], message_bytes_max: usize) -> Option<Self> {
        let header = |at: usize| {
            let header = frame::header(&received[at..]).ok().flatten()?;
            let is_whole = at + header.len <= received.len().min(UNIT_LEN_MAX);
            (is_whole && header.len <= message_bytes_max).then_some(header)
        };
        let first = header(0)?;
        let (parse, at) = match first.tag {
            b'Q' => return Some(Unit::Simple { len: first.len }),
            b'P' if received.get(HEADER_LEN) == Some(&0) => (Some(HEADER_LEN..first.len), first.len),
            b'B' => (None, 0),
            _ => return None,
        };
        let second = header(at)?;
        let bind = at + HEADER_LEN..at + second.len;
        // The portal without a name.
        if second.tag != b'B' || received.get(bind.start) != Some(&0) {
            return None;
        }
        let rest = &received[bind.end..];
        let (describes, after) = match rest.strip_prefix(DESCRIBE) {
            Some(after) => (true, after),
            None => (false, rest),
        };
        after.starts_with(EXECUTE_SYNC).then(|| {
            let len = received.len() - after.len() + EXECUTE_SYNC.len();
            Unit::Extended(Messages { parse, bind, describes, len })
        })
    }

    pub fn len(&self) -> usize {
        match self {
            Unit::Extended(messages) => messages.len,
            Unit::Simple { len } => *len,
        }
    }
}

/// The frames of a unit, one by one.
pub(super) struct Frames(pub Bytes);

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let header = frame::header(&self.0).ok().flatten()?;
        Some(Frame { tag: header.tag, bytes: self.0.split_to(header.len) })
    }
}

/// Longer ones are worth the long way.
const UNIT_LEN_MAX: usize = 8 * 1024;
/// Describe of the portal without a name.
const DESCRIBE: &[u8] = b"D\0\0\0\x06P\0";
/// Execute of the portal without a name, all rows; and Sync.
const EXECUTE_SYNC: &[u8] = b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::frontend::{self, Bind};

    fn messages(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut out);
        out
    }

    fn bind(portal: &[u8]) -> BytesMut {
        messages(|out| Bind::text(&[Some("7")]).write(portal, b"s", out))
    }

    fn end() -> BytesMut {
        messages(|out| {
            frontend::execute(b"", 0, out);
            frontend::sync(out);
        })
    }

    fn joined(parts: &[BytesMut]) -> BytesMut {
        let mut all = BytesMut::new();
        parts.iter().for_each(|part| all.extend_from_slice(part));
        all
    }

    #[test]
    fn the_messages_of_one_statement_are_a_unit_however_much_follows() {
        let parse = messages(|out| frontend::parse(b"", "SELECT 1", &[], out));
        let describe = messages(|out| frontend::describe(frontend::Target::Portal(b""), out));
        let query = messages(|out| frontend::query("SELECT 1", out));
        for parts in [vec![bind(b""), end()], vec![parse, bind(b""), describe, end()], vec![query]] {
            let unit = joined(&parts);
            let followed = joined(&[unit.clone(), bind(b"")]);
            assert!(Unit::read(&followed, 5).is_none());
            assert_eq!(Unit::read(&followed, UNIT_LEN_MAX).map(|found| found.len()), Some(unit.len()));
            for cut in 0..unit.len() {
                assert!(Unit::read(&unit[..cut], UNIT_LEN_MAX).is_none(), "cut at {cut}");
            }
            let tags: Vec<_> = Frames(unit.freeze()).map(|frame| frame.tag).collect();
            assert_eq!(tags.len(), parts.len() + usize::from(tags.contains(&b'S')));
        }
    }

    #[test]
    fn what_leaves_a_portal_or_is_too_long_is_none() {
        let limited = messages(|out| {
            frontend::execute(b"", 5, out);
            frontend::sync(out);
        });
        let named = messages(|out| frontend::parse(b"s", "SELECT 1", &[], out));
        let long = messages(|out| frontend::query(&"x".repeat(UNIT_LEN_MAX), out));
        let flushed = joined(&[bind(b""), messages(frontend::flush), end()]);
        for parts in [
            vec![bind(b"p"), end()],
            vec![bind(b""), limited],
            vec![named, bind(b""), end()],
            vec![long],
            vec![flushed],
        ] {
            assert!(Unit::read(&joined(&parts), UNIT_LEN_MAX).is_none());
        }
    }
}
