//! Replies that a server still owes, in order. Pure: frames in, verdicts out.
//!
//! ```text
//!   queued:   Query | Parse Bind Describe Execute ... Sync
//!   server:   T D D C Z | 1  2  T  D D C           Z        E drops what is due up to the next Sync
//! ```
//!
//! Invariant: between two ReadyForQuery every reply is consumed exactly once; a reply that nobody expects is an error,
//! and the connection must not be used again.

use std::collections::VecDeque;

use bytes::Bytes;

/// A reply that is due, and whether the client asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub reply: Reply,
    pub to: To,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Everything up to and including ReadyForQuery.
    Query,
    Parse,
    /// ParseComplete of a statement that the connection keeps for others too.
    Prepare,
    Bind,
    Close,
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// RowDescription or NoData.
    DescribePortal,
    /// Rows or COPY, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// ReadyForQuery.
    Sync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Client,
    Nobody,
}

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Part of a reply; the last one completes it.
    Part(Due),
    Last(Due),
    /// ErrorResponse for this reply.
    Error(Due),
    /// ReadyForQuery that ends a Query or a Sync.
    Ready(Due),
    /// Notice, parameter or notification: may come at any time.
    Async,
    /// A notice for the proxy, not for clients. Of `Server::judge`, which reads it.
    Demand,
    /// Not expected here.
    OutOfStep,
}

#[derive(Debug, Default)]
pub struct ReplyQueue {
    dues: VecDeque<Entry>,
    /// An error came and no Sync is on its way: the server ignores what is sent until one is.
    skips: bool,
    /// Something was sent that only a Sync ends.
    awaits_sync: bool,
}

#[derive(Debug)]
enum Entry {
    Due(Due),
    /// The proxy answers in the server's place, when everything before has been answered.
    Simulated(Bytes),
}

impl Entry {
    fn ends_segment(&self) -> bool {
        matches!(self, Entry::Due(due) if matches!(due.reply, Reply::Sync | Reply::Query))
    }
}

impl ReplyQueue {
    pub fn push(&mut self, reply: Reply, to: To) {
        self.skips &= reply != Reply::Sync;
        self.awaits_sync = !matches!(reply, Reply::Sync | Reply::Query);
        self.dues.push_back(Entry::Due(Due { reply, to }));
    }

    /// An answer of the proxy's own, in its place among the server's.
    pub fn push_simulated(&mut self, answer: Bytes) {
        self.dues.push_back(Entry::Simulated(answer));
    }

    /// The answer of the proxy's own whose turn has come.
    pub fn pop_simulated(&mut self) -> Option<Bytes> {
        match self.dues.front() {
            Some(Entry::Simulated(_)) => match self.dues.pop_front() {
                Some(Entry::Simulated(answer)) => Some(answer),
                _ => None,
            },
            _ => None,
        }
    }

    /// COPY FROM STDIN has swallowed the Sync behind its Execute: no ReadyForQuery comes for it.
    pub fn forget_sync(&mut self) -> bool {
        let sync = |e: &Entry| matches!(e, Entry::Due(Due { reply: Reply::Sync, .. }));
        let at = self.dues.iter().position(sync);
        let had_one = at.map(|at| self.dues.remove(at)).is_some();
        self.awaits_sync |= had_one;
        had_one
    }

    pub fn len(&self) -> usize {
        self.dues.len()
    }

    pub fn is_empty(&self) -> bool {
        self.dues.is_empty()
    }

    /// Does the server ignore everything but a Sync?
    pub fn skips(&self) -> bool {
        self.skips
    }

    /// Is what was sent last yet to be ended by a Sync? Until then it is in a transaction that no status tells of.
    pub fn awaits_sync(&self) -> bool {
        self.awaits_sync
    }

    /// Is the end of something due: what ran outside of a block is committed with it.
    pub fn owes_an_end(&self) -> bool {
        self.dues.iter().any(Entry::ends_segment)
    }

    /// All that is due, in order; `None` where the proxy answers.
    pub fn iter(&self) -> impl Iterator<Item = Option<Due>> {
        self.dues.iter().map(|entry| match entry {
            Entry::Due(due) => Some(*due),
            Entry::Simulated(_) => None,
        })
    }

    /// All of it has come.
    pub fn clear(&mut self) {
        self.dues.clear();
    }

    pub fn front(&self) -> Option<Due> {
        self.iter().flatten().next()
    }

    /// Who asked for the rows that may come next; judged, each would be a part of what is due.
    pub fn rows_go_to(&self) -> Option<To> {
        match self.dues.front() {
            Some(Entry::Due(Due { reply: Reply::Query | Reply::Execute, to })) => Some(*to),
            _ => None,
        }
    }

    /// Judges the next frame by its tag.
    pub fn judge(&mut self, tag: u8) -> Verdict {
        if matches!(tag, b'N' | b'S' | b'A') {
            return Verdict::Async;
        }
        let Some(Entry::Due(due)) = self.dues.front() else { return Verdict::OutOfStep };
        let due = *due;
        use Reply::*;
        match (due.reply, tag) {
            (Query | Sync, b'Z') => {
                self.dues.pop_front();
                Verdict::Ready(due)
            }
            (Query, b'T' | b'D' | b'C' | b'I' | b'G' | b'H' | b'W' | b'd' | b'c') => Verdict::Part(due),
            (Query, b'E') => Verdict::Error(due),
            (Sync, b'E') => Verdict::Error(due),
            (_, b'E') => {
                while self.dues.front().is_some_and(|entry| !entry.ends_segment()) {
                    self.dues.pop_front();
                }
                self.skips = self.dues.is_empty();
                Verdict::Error(due)
            }
            (Parse | Prepare, b'1') | (Bind, b'2') | (Close, b'3') | (Execute, b'C' | b'I' | b's') => {
                self.complete(due)
            }
            (DescribeStatement | DescribePortal, b'T' | b'n') => self.complete(due),
            (DescribeStatement, b't') => Verdict::Part(due),
            (Execute, b'D' | b'G' | b'H' | b'W' | b'd' | b'c') => Verdict::Part(due),
            _ => Verdict::OutOfStep,
        }
    }

    fn complete(&mut self, due: Due) -> Verdict {
        self.dues.pop_front();
        Verdict::Last(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(replies: &[Reply]) -> ReplyQueue {
        let mut q = ReplyQueue::default();
        replies.iter().for_each(|r| q.push(*r, To::Client));
        q
    }

    #[test]
    fn a_pipeline_is_consumed_reply_by_reply() {
        use Reply::*;
        let mut q = queue(&[Parse, Bind, DescribePortal, Execute, Sync]);
        for tag in *b"12TDDC" {
            assert!(matches!(q.judge(tag), Verdict::Part(_) | Verdict::Last(_)), "{}", tag as char);
        }
        assert!(matches!(q.judge(b'Z'), Verdict::Ready(_)));
        assert!(q.is_empty());
    }

    #[test]
    fn an_error_drops_everything_up_to_the_next_sync() {
        use Reply::*;
        let mut q = queue(&[Bind, Execute, Bind, Execute, Sync, Bind, Execute, Sync]);
        assert!(matches!(q.judge(b'2'), Verdict::Last(_)));
        assert!(matches!(q.judge(b'E'), Verdict::Error(_)));
        assert!(matches!(q.judge(b'Z'), Verdict::Ready(_)));
        assert!(matches!(q.judge(b'2'), Verdict::Last(_)));
    }

    #[test]
    fn after_an_error_the_server_skips_until_a_sync_is_sent() {
        use Reply::*;
        let mut q = queue(&[Bind, Execute]);
        assert!(matches!(q.judge(b'E'), Verdict::Error(_)));
        assert!(q.skips() && q.is_empty());
        q.push(Sync, To::Nobody);
        assert!(!q.skips());
        assert!(matches!(q.judge(b'Z'), Verdict::Ready(_)));
    }

    #[test]
    fn what_was_answered_is_not_over_before_its_sync() {
        use Reply::*;
        let mut q = queue(&[Bind, Execute]);
        assert!(q.awaits_sync());
        assert!(matches!((q.judge(b'2'), q.judge(b'C')), (Verdict::Last(_), Verdict::Last(_))));
        assert!(q.is_empty() && q.awaits_sync());
        q.push(Sync, To::Nobody);
        assert!(!q.awaits_sync());
        assert!(q.forget_sync() && q.awaits_sync());
        assert!(!queue(&[Bind, Execute, Query]).awaits_sync() && !ReplyQueue::default().awaits_sync());
    }

    #[test]
    fn a_reply_that_nobody_asked_for_is_out_of_step() {
        assert_eq!(queue(&[]).judge(b'C'), Verdict::OutOfStep);
        assert_eq!(queue(&[Reply::Bind]).judge(b'C'), Verdict::OutOfStep);
        assert_eq!(queue(&[Reply::Sync]).judge(b'D'), Verdict::OutOfStep);
    }
}
