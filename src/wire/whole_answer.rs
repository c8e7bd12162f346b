//! An answer that has come whole: told in one pass over its headers, where the queue would be asked for every frame.
//!
//! ```text
//!   BEGIN, the proxy's own      the client's statement
//!   C Z                         [1] [2] [T | n] D* C        Z
//!                               └──── for_client ───┘
//! ```
//!
//! Whatever else comes, or is due, goes the way of single frames: errors, notices, COPY, several statements.

use std::ops::Range;

use super::answer::Status;
use super::frame;
use super::reply_queue::{Due, Reply, To};

/// Where the parts of the answer are, in what was received.
#[derive(Debug, PartialEq, Eq)]
pub struct WholeAnswer {
    pub for_client: Range<usize>,
    /// The RowDescription in it.
    pub description: Option<usize>,
    /// How many ParseComplete are in it.
    pub parsed: usize,
    /// What the last ReadyForQuery says.
    pub status: Status,
}

impl WholeAnswer {
    /// `None` unless `received` is the answer to all that is `due`, and nothing else. A due of `None` is the proxy's to answer.
    pub fn read(due: impl Iterator<Item = Option<Due>>, received: &[u8]) -> Option<Self> {
        let (_, [b'Z', 0, 0, 0, 5, status]) = received.split_last_chunk()? else { return None };
        let mut whole =
            WholeAnswer { for_client: 0..0, description: None, parsed: 0, status: Status::from_byte(*status)? };
        let mut frames = Frames { received, at: 0 };
        for due in due {
            let Due { reply, to } = due?;
            if !whole.for_client.is_empty() {
                return None;
            }
            match (reply, to) {
                (Reply::Query, To::Nobody) if frames.at == whole.for_client.start => {
                    frames.take(b'C')?;
                    frames.take(b'Z')?;
                    whole.for_client = frames.at..frames.at;
                }
                (Reply::Parse, To::Client) => {
                    frames.take(b'1')?;
                    whole.parsed += 1;
                }
                (Reply::Bind, To::Client) => frames.take(b'2')?,
                (Reply::DescribePortal, To::Client) => {
                    whole.description = frames.take_description();
                    if whole.description.is_none() {
                        frames.take(b'n')?;
                    }
                }
                (Reply::Execute, To::Client) => frames.take_rows()?,
                (Reply::Query, To::Client) => {
                    whole.description = frames.take_description();
                    frames.take_rows()?;
                    whole.for_client.end = frames.at;
                    frames.take(b'Z')?;
                }
                (Reply::Sync, _) => {
                    whole.for_client.end = frames.at;
                    frames.take(b'Z')?;
                }
                _ => return None,
            }
        }
        (!whole.for_client.is_empty() && frames.at == received.len()).then_some(whole)
    }
}

struct Frames<'r> {
    received: &'r [u8],
    at: usize,
}

impl Frames<'_> {
    #[inline]
    fn take(&mut self, tag: u8) -> Option<()> {
        let header = frame::header(&self.received[self.at..]).ok().flatten()?;
        let end = self.at + header.len;
        (header.tag == tag && end <= self.received.len()).then(|| self.at = end)
    }

    /// Rows, and the CommandComplete behind them.
    #[inline]
    fn take_rows(&mut self) -> Option<()> {
        while self.received.get(self.at) == Some(&b'D') {
            self.take(b'D')?;
        }
        self.take(b'C')
    }

    #[inline]
    fn take_description(&mut self) -> Option<usize> {
        let at = self.at;
        self.take(b'T').map(|()| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(due: &[(Reply, To)], received: &[u8]) -> Option<WholeAnswer> {
        WholeAnswer::read(due.iter().map(|(reply, to)| Some(Due { reply: *reply, to: *to })), received)
    }

    fn frames(tags: &[u8]) -> Vec<u8> {
        let frame = |tag: &u8| match tag {
            b'Z' => b"Z\0\0\0\x05I".to_vec(),
            tag => [*tag, 0, 0, 0, 6, b'x', b'x'].to_vec(),
        };
        tags.iter().flat_map(frame).collect()
    }

    const PORTAL: [(Reply, To); 4] = [
        (Reply::Bind, To::Client),
        (Reply::DescribePortal, To::Client),
        (Reply::Execute, To::Client),
        (Reply::Sync, To::Nobody),
    ];

    #[test]
    fn a_whole_answer_is_what_the_client_gets_and_a_ready() {
        let whole = read(&PORTAL, &frames(b"2TDDCZ")).unwrap();
        assert_eq!((whole.for_client, whole.description, whole.status), (0..35, Some(7), Status::Idle));
        assert_eq!(read(&PORTAL, &frames(b"2nCZ")).unwrap().description, None);
        let parsed = [&[(Reply::Parse, To::Client)], &PORTAL[..]].concat();
        assert_eq!(read(&parsed, &frames(b"12TCZ")).unwrap().parsed, 1);
    }

    #[test]
    fn what_the_proxy_asked_before_is_left_out() {
        let due = [(Reply::Query, To::Nobody), (Reply::Query, To::Client)];
        assert_eq!(read(&due, &frames(b"CZTDCZ")).unwrap().for_client, 13..34);
        let due = [&[(Reply::Query, To::Nobody)], &PORTAL[..]].concat();
        assert_eq!(read(&due, &frames(b"CZ2TDCZ")).unwrap().for_client, 13..41);
    }

    #[test]
    fn everything_else_goes_frame_by_frame() {
        for received in
            [&b"2TDDC"[..], b"2TDDCZZ", b"2TDNDCZ", b"2EZ", b"2TDZ", b"2TGCZ", b"TDCZ", b"Z", b"", b"2TDCZA"]
        {
            assert_eq!(read(&PORTAL, &frames(received)), None, "{}", String::from_utf8_lossy(received));
        }
        let twice = [&PORTAL[..], &PORTAL[..]].concat();
        assert_eq!(read(&twice, &frames(b"2TDCZ2TDCZ")), None);
        assert_eq!(read(&[(Reply::Query, To::Nobody)], &frames(b"CZ")), None);
        assert_eq!(read(&[(Reply::Prepare, To::Nobody), PORTAL[0]], &frames(b"12Z")), None);
        let whole = frames(b"2TDDCZ");
        for cut in 0..whole.len() {
            assert_eq!(read(&PORTAL, &whole[..cut]), None);
            assert_eq!(read(&PORTAL, &whole[cut + 1..]), None);
        }
        // A length that cannot be.
        assert_eq!(read(&PORTAL, b"2\0\0\0\x01Z\0\0\0\x05I"), None);
    }
}
