//! One connection to a server: buffers, transaction status, what it has prepared and which settings it carries.

use std::io::ErrorKind;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::cancel::CancelTarget;
use super::demands::{Demand, Demands, wanted_sequence, wanted_sequences};
use super::leftovers::Leftovers;
use super::link::Link;
use super::login::ServerAddress;
use super::pace::Pace;
use super::pool_tally::PoolTally;
use super::prepared::Prepared;
use super::reading;
use super::reported::{Change, Reported};
use super::settings::SessionSettings;
use crate::error::{PgError, Result, SqlState};
use crate::transport::{Dialer, Stream};
use crate::wire::answer::{self, Status};
use crate::wire::frame;
use crate::wire::reply_queue::{Due, Reply, ReplyQueue, To, Verdict};
use crate::wire::whole_answer::WholeAnswer;

mod incoming;
mod own;
mod peer;
mod requests;

use peer::Peer;

/// A row in text format.
pub type Row = Vec<Option<String>>;

/// One whole frame, taken out of the read buffer.
#[derive(Debug)]
pub struct Frame {
    pub tag: u8,
    /// The frame as it came, header included.
    pub bytes: Bytes,
}

impl Frame {
    pub fn payload(&self) -> &[u8] {
        &self.bytes[frame::HEADER_LEN..]
    }
}

/// A server connection after login.
pub struct Server {
    stream: Stream,
    read: BytesMut,
    pace: Pace,
    write: BytesMut,
    status: Status,
    /// Empty means that the protocol position is known and quiet.
    replies: ReplyQueue,
    /// Its position is not known, or it is gone: nothing is sent or read any more.
    broken: bool,
    /// It works, but the next user must not have it.
    retired: bool,
    /// Process id and secret for cancel requests.
    pub key: (u32, Bytes),
    reported: Reported,
    /// A parameter by which it would read texts otherwise than the proxy has come.
    pub(super) reads_otherwise: bool,
    /// Code is under way that may set one.
    pub(super) has_hidden_code: bool,
    pub prepared: Prepared,
    pub settings: SessionSettings,
    /// What clients leave behind that `settings` does not tell.
    pub leftovers: Leftovers,
    /// NotificationResponse frames that came while something else was read.
    notifications: Vec<Bytes>,
    /// The last command tag that `finish` read.
    last_tag: String,
    cancel_target: Option<Arc<CancelTarget>>,
    link: Arc<Link>,
    peer: Peer,
    /// Its pool's.
    pub(super) tally: Arc<PoolTally>,
    /// Where it is said what the node asks for, and the node.
    demands: Option<(Arc<Demands>, ServerAddress)>,
    /// When the first bytes left of what has not been answered to the end.
    asked: Option<Instant>,
    /// When the last answer was over; at first, when it logged in.
    answered: Instant,
    /// Oids of types that users made mean the same here as for the client: on the coordinator. Elsewhere the server
    /// infers the types of such parameters.
    pub knows_user_types: bool,
}

impl Server {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            pace: Pace::default(),
            write: BytesMut::new(),
            status: Status::Idle,
            replies: ReplyQueue::default(),
            broken: false,
            retired: false,
            key: (0, Bytes::new()),
            reported: Reported::default(),
            reads_otherwise: false,
            has_hidden_code: false,
            prepared: Prepared::new(usize::MAX),
            settings: SessionSettings::default(),
            leftovers: Leftovers::default(),
            notifications: Vec::new(),
            last_tag: String::new(),
            cancel_target: None,
            link: Arc::new(Link::default()),
            peer: Peer::default(),
            tally: Arc::default(),
            demands: None,
            asked: None,
            answered: Instant::now(),
            knows_user_types: false,
        }
    }

    /// From here on what the node asks for is noted there.
    pub(super) fn report_demands(&mut self, demands: Arc<Demands>, node: ServerAddress) {
        self.demands = Some((demands, node));
    }

    /// Was it in recovery when we logged in? Then it takes no writes.
    pub fn is_standby(&self) -> bool {
        self.parameter("in_hot_standby") == Some("on")
    }

    /// What reaches this connection, at `address`, with a cancel request. Made once.
    pub(super) fn cancel_target(
        &mut self,
        address: &ServerAddress,
        dialer: impl FnOnce() -> Dialer,
    ) -> Arc<CancelTarget> {
        let new = || Arc::new(CancelTarget::new(dialer(), address.clone(), self.key.0, self.key.1.clone()));
        self.cancel_target.get_or_insert_with(new).clone()
    }

    /// What others see of it.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Transaction status as of the last ReadyForQuery.
    pub fn status(&self) -> Status {
        self.status
    }

    /// May the next user have this connection?
    pub fn is_reusable(&self) -> bool {
        !self.broken
            && !self.retired
            && self.link.may_be_reused()
            && self.cancel_target.as_ref().is_none_or(|target| !target.is_doubtful())
            && self.replies.is_empty()
            && !self.replies.awaits_sync()
            && self.status == Status::Idle
            && self.read.is_empty()
            && self.write.is_empty()
    }

    /// Never to be used again; closed on drop without another byte.
    pub fn poison(&mut self) {
        self.broken = true;
    }

    /// Never to be given to another user: it keeps something of this one. Until then it works.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// What it kept is gone: it may be given to others, who make sure of that.
    pub fn unretire(&mut self) {
        self.retired = false;
        self.leftovers.is_unsure = true;
    }

    pub fn is_poisoned(&self) -> bool {
        self.broken
    }

    pub fn last_tag(&self) -> &str {
        &self.last_tag
    }

    pub fn parameters(&self) -> &[(String, String)] {
        self.reported.values()
    }

    /// The value that the server reported last.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters().iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Those that have changed since it was brought to its user's settings, as they were then.
    pub fn changed_parameters(&self) -> &[Change] {
        self.reported.changed()
    }

    /// Those of them that were meant to change.
    pub fn expect_parameters(&mut self, is_meant: impl Fn(&str) -> bool) {
        self.reported.expect(is_meant);
    }

    /// The same, once.
    pub fn take_changed_parameters(&mut self) -> Vec<Change> {
        self.reported.take_changed()
    }

    /// Notes a ParameterStatus payload.
    pub fn note_parameter(&mut self, payload: &[u8]) {
        if let Some((name, value)) = answer::read_parameter_status(payload) {
            self.reads_otherwise |= reading::is_otherwise(&name, &value);
            self.reported.note(&name, &value);
        }
    }

    /// Are replies still due?
    pub fn owes(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Is something queued that has not left yet?
    pub fn has_unsent(&self) -> bool {
        !self.write.is_empty()
    }

    /// How many answers are due, the proxy's own among them counted.
    pub fn due(&self) -> usize {
        self.replies.len()
    }

    pub fn pop_simulated(&mut self) -> Option<Bytes> {
        self.replies.pop_simulated()
    }

    /// See `ReplyQueue::forget_sync`.
    pub fn forget_sync(&mut self) -> bool {
        self.replies.forget_sync()
    }

    /// Does it ignore everything but a Sync, after an error?
    pub fn skips(&self) -> bool {
        self.replies.skips()
    }

    /// Whatever it has prepared is parsed anew when it is needed.
    pub async fn forget_prepared(&mut self) {
        if self.status == Status::Idle && self.query("DEALLOCATE ALL").await.is_ok() {
            self.prepared.clear();
        } else {
            // A failed transaction takes no statement; the next one gets another connection.
            self.retire();
        }
    }

    /// Judges a frame and keeps status, parameters and bookkeeping current.
    pub fn judge(&mut self, tag: u8, payload: &[u8]) -> Result<Verdict> {
        let verdict = self.replies.judge(tag);
        match verdict {
            Verdict::OutOfStep => return Err(self.lost("server answered out of step")),
            Verdict::Ready(_) => match payload.first().copied().and_then(Status::from_byte) {
                Some(status) => self.note_ready(status),
                None => return Err(self.lost("server sent a broken ReadyForQuery")),
            },
            Verdict::Last(due) if due.reply == Reply::Prepare => self.prepared.confirm(),
            Verdict::Last(due) if due == EVICTION => self.prepared.confirm(),
            Verdict::Async if tag == b'S' => self.note_parameter(payload),
            Verdict::Async if tag == b'N' => {
                if let (Some(sequence), Some(demands)) = (wanted_sequence(payload), &self.demands) {
                    note_demand(demands, sequence);
                    return Ok(Verdict::Demand);
                }
            }
            Verdict::Error(due) => {
                if due.reply != Reply::Query {
                    self.prepared.forget_unconfirmed();
                }
                if PgError::from_body(payload).severity() == crate::error::Severity::Fatal {
                    self.broken = true;
                }
            }
            _ => {}
        }
        Ok(verdict)
    }

    fn note_ready(&mut self, status: Status) {
        self.status = status;
        // That of a BEGIN before it tells nothing of it.
        self.has_hidden_code &= self.owes();
        self.end_patience();
        if self.replies.is_empty()
            && let Some(asked) = self.asked.take()
        {
            self.end_wait_for_room();
            self.answered = Instant::now();
            self.tally.answers.record(self.answered.saturating_duration_since(asked));
            self.link.note_answered();
        }
    }

    /// What is queued leaves now, when it is `now`.
    pub fn note_asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// When the last answer was over.
    pub fn answered(&self) -> Instant {
        self.answered
    }

    /// The answer to all that is due, when that and nothing else was received: it is judged then, and not yet consumed.
    pub fn whole_answer(&mut self) -> Option<WholeAnswer> {
        let whole = WholeAnswer::read(self.replies.iter(), &self.read)?;
        self.replies.clear();
        self.note_ready(whole.status);
        Some(whole)
    }

    /// Sends what is queued. Reads meanwhile: a server that cannot get rid of its answers takes no more messages.
    ///
    /// Not cancel safe: a cancelled write leaves the position unknown, so the connection counts as broken meanwhile.
    pub async fn flush(&mut self) -> Result<()> {
        if self.write.is_empty() {
            return Ok(());
        }
        if std::mem::replace(&mut self.broken, true) {
            return Err(self.lost("it was lost before"));
        }
        // Nothing more is to reach a server that was given up, a COMMIT least of all: it may live on, replaced by another.
        if self.link.is_lost() {
            return Err(self.lost(SILENT));
        }
        self.asked.get_or_insert_with(Instant::now);
        let (queued, had) = (self.write.len(), self.read.len());
        self.wait_for_room(queued);
        let mut looked = 0;
        let sending = std::future::poll_fn(|context| {
            let sent = self.stream.poll_send_all(&mut self.write, &mut self.read, context);
            // It may take no more before it has what it asks for in there.
            if let (Poll::Pending, Some(demands)) = (&sent, &self.demands) {
                wanted_sequences(&self.read, &mut looked).into_iter().for_each(|wanted| note_demand(demands, wanted));
            }
            sent
        });
        let sent = unless_lost(&self.link, sending).await;
        match sent {
            Some(Ok(())) => {
                self.broken = false;
                if queued > KEEP_LEN {
                    // A long message must not keep its memory for as long as the connection lives.
                    self.write = BytesMut::new();
                }
                self.tally.traffic.sent.add(queued as u64);
                self.tally.traffic.received.add((self.read.len() - had) as u64);
                Ok(())
            }
            Some(Err(e)) if e.kind() == ErrorKind::UnexpectedEof => Err(self.lost(CLOSED)),
            Some(Err(e)) => Err(self.lost(&e.to_string())),
            None => Err(self.lost(SILENT)),
        }
    }

    /// Does the socket look as it should while idle: open, and with nothing to read?
    pub fn looks_alive(&mut self) -> bool {
        self.stream.is_quiet()
    }

    /// Was it lost when all that ends what it ran had left? Then it may have committed what runs outside of a block.
    pub fn may_have_ended(&self) -> bool {
        self.broken && !self.has_unsent() && self.replies.owes_an_end()
    }

    /// It is given up. 08006, with the reason.
    pub fn lost(&mut self, why: &str) -> PgError {
        self.broken = true;
        PgError::new(SqlState::CONNECTION_FAILURE, "connection to a node was lost").detail(why.to_owned())
    }
}

fn note_demand((demands, node): &(Arc<Demands>, ServerAddress), sequence: u32) {
    demands.note(Demand { node: node.clone(), sequence });
}

/// CloseComplete that no client asked for: a statement made room for another.
const EVICTION: Due = Due { reply: Reply::Close, to: To::Nobody };

/// `None` when the connection is given up from outside before that.
async fn unless_lost<T>(link: &Link, wanted: impl Future<Output = T>) -> Option<T> {
    let mut wanted = std::pin::pin!(wanted);
    let outcome = std::future::poll_fn(|context| match wanted.as_mut().poll(context) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => link.poll_lost(context).map(|()| None),
    })
    .await;
    link.note_progress();
    outcome
}

/// What is kept of the buffer of what was sent.
const KEEP_LEN: usize = 256 * 1024;
const SILENT: &str = "the node does not answer";
/// It cannot be read, or has another number of values than there are columns.
pub const BROKEN_ROW: &str = "server sent a row that does not fit its description";

/// Source: libpq, fe-misc.c.
const CLOSED: &str = "server closed the connection unexpectedly";
