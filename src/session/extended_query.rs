//! The extended query protocol.
//!
//! Messages are queued for a server as they come and leave together, at Sync, Flush or when another server's turn
//! comes; answers of the proxy's own take their place among the server's. A Sync is never made up: one goes to each
//! server that got messages since the last.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::place::Place;
use super::prepared::Statement;
use super::run::Session;
use crate::backend::{Frame, StatementKey};
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::Request;
use crate::executor::{Kind, Mark, Relayed, Retry, Routed};
use crate::planner::Plan;
use crate::shard_map::{NodeId, ShardGroupId};
use crate::sql::Spliced;
use crate::wire::answer;
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::reply_queue::{Reply, To};

/// A bound portal.
pub enum Portal {
    /// It exists on a server, under the client's name.
    OnServer {
        node: NodeId,
    },
    Virtual {
        plan: Rc<Plan>,
        statement: Rc<Statement>,
        bind: Rc<Bind>,
        done: bool,
    },
}

/// What happened since the last Sync.
#[derive(Default)]
pub struct Batch {
    /// The frames, to be run again.
    frames: Vec<Frame>,
    /// The server whose answers are under way.
    current: Option<NodeId>,
    /// Of the last statement bound there.
    routed: Option<(Option<ShardGroupId>, Spliced)>,
    start: Option<Start>,
    /// Statements parsed in it by name.
    parsed: Vec<Bytes>,
    /// ParseComplete is still owed for this statement: it goes with its first Bind, or a Sync.
    unanswered_parse: Option<Bytes>,
    /// A COPY has swallowed the Sync that followed its Execute.
    pub sync_is_swallowed: bool,
    attempts: u32,
}

#[derive(Clone, Copy)]
struct Start {
    mark: Mark,
    version: u64,
    deadline: tokio::time::Instant,
}

impl Batch {
    pub fn is_open(&self) -> bool {
        self.start.is_some()
    }
}

impl Session {
    /// One message of the extended protocol.
    pub async fn extended_message(&mut self, frame: Frame) -> Result<()> {
        if self.skip_until_sync && frame.tag != b'S' {
            return Ok(());
        }
        if self.batch.start.is_none() {
            self.batch.start = Some(Start {
                mark: self.client.mark(),
                version: self.map().version(),
                deadline: tokio::time::Instant::now() + self.thread.executor.settings.hold_timeout,
            });
        }
        if self.batch.frames.len() < MAX_REPEATABLE_FRAMES {
            self.batch.frames.push(Frame { tag: frame.tag, bytes: frame.bytes.clone() });
        }
        let result = match frame.tag {
            b'S' => return self.sync().await,
            b'P' => self.parse(&frame).await,
            b'B' => self.bind(&frame).await,
            b'D' => self.describe_message(&frame).await,
            b'E' => self.execute(&frame).await,
            b'C' => self.close(&frame).await,
            b'H' => self.flush_message().await,
            tag => {
                return Err(PgError::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("invalid frontend message type {tag}"),
                ));
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.batch_error(error).await,
        }
    }

    /// An error of the proxy's own, or one that came as a value: after the answers before it.
    async fn batch_error(&mut self, error: PgError) -> Result<()> {
        let fenced = self.is_fenced(&error);
        self.settle().await?;
        if self.skip_until_sync {
            return Ok(());
        }
        if fenced && self.can_rewind() {
            return self.repeat(Retry::Fenced).await;
        }
        self.answer_unanswered_parse();
        self.put_notices();
        self.fail(error)?;
        self.skip_until_sync = true;
        Ok(())
    }

    fn can_rewind(&mut self) -> bool {
        self.batch.frames.len() < MAX_REPEATABLE_FRAMES
            && self.batch.start.is_some_and(|start| self.client.rewind(start.mark))
    }

    async fn parse(&mut self, frame: &Frame) -> Result<()> {
        let parse = Parse::read(frame.payload())?;
        let name = frame.bytes.slice_ref(parse.name);
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(PgError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name)),
            ));
        }
        self.confirm_unanswered_parse().await?;
        let statement = Rc::new(self.new_statement(parse.text, parse.types)?);
        if !matches!(&*statement.plan, Plan::Transaction(_)) {
            self.refuse_if_failed()?;
        }
        self.statements.insert(name.clone(), statement);
        self.batch.parsed.push(name.clone());
        self.batch.unanswered_parse = Some(name);
        Ok(())
    }

    /// A Parse whose statement was not bound at once: the coordinator must say whether it is right.
    async fn confirm_unanswered_parse(&mut self) -> Result<()> {
        let Some(name) = self.batch.unanswered_parse.take() else { return Ok(()) };
        let Some(statement) = self.statements.get(&name).cloned() else { return Ok(()) };
        match self.describe(&statement).await {
            Ok(_) => {
                self.answer(answer::parse_complete);
                Ok(())
            }
            Err(error) => {
                self.statements.remove(&name);
                Err(error)
            }
        }
    }

    fn answer_unanswered_parse(&mut self) {
        if self.batch.unanswered_parse.take().is_some() {
            self.answer(answer::parse_complete);
        }
    }

    /// Puts an answer of the proxy's own behind what the current server still owes.
    pub fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let node = self.batch.current;
        let server = self.transaction.as_mut().and_then(|t| t.participant(node?)).map(|p| &mut p.server);
        match server {
            Some(server) if server.owes() => {
                let mut bytes = BytesMut::new();
                write(&mut bytes);
                server.simulate(bytes.freeze());
            }
            _ => write(self.client.out()),
        }
    }

    async fn bind(&mut self, frame: &Frame) -> Result<()> {
        let bind = Bind::read(&frame.bytes.slice(crate::wire::frame::HEADER_LEN..))?;
        let name = bind.statement.clone();
        if self.batch.unanswered_parse.as_ref().is_some_and(|n| *n != name) {
            self.confirm_unanswered_parse().await?;
        }
        let statement = self.statement(&name)?;
        let statement = self.current(statement)?;
        if !matches!(&*statement.plan, Plan::Transaction(_)) {
            self.refuse_if_failed()?;
        }
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            return Err(PgError::new(
                SqlState::from_bytes(b"42P03").expect("a valid SQLSTATE"),
                format!("cursor \"{}\" already exists", String::from_utf8_lossy(&bind.portal)),
            ));
        }
        let types = self.types_for(&statement, bind.parameter_count()).await?;
        let request = Request { bind: &bind, types: &types, describe: false };
        match self.place(&statement.plan, &statement.text, request, Some(&statement)).await? {
            Place::Server { node, group, query, shared } => {
                self.turn_to(node).await?;
                self.answer_unanswered_parse();
                let key = StatementKey { statement: statement.id, group: group.map_or(0, |g| g.0) };
                let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                participant.is_unsynced = true;
                participant.groups.extend(group.filter(|g| !participant.groups.contains(g)));
                let server = &mut participant.server;
                if name.is_empty() || !shared {
                    server.queue_parse("", &query.render(group), &statement.types, To::Nobody);
                    server.queue_bind(&bind, &bind.portal, "", To::Client);
                } else {
                    server.ensure_prepared(key, &statement.types, || query.render(group));
                    server.queue_bind(&bind, &bind.portal, &key.name(), To::Client);
                }
                self.batch.routed = Some((group, query));
                self.portals.insert(bind.portal.clone(), Portal::OnServer { node });
            }
            Place::Virtual(plan) => {
                self.answer_unanswered_parse();
                self.answer(answer::bind_complete);
                let portal = bind.portal.clone();
                self.portals.insert(portal, Portal::Virtual { plan, statement, bind: Rc::new(bind), done: false });
            }
        }
        Ok(())
    }

    /// Types that plans over many servers need: complete, asked for once where the client left them open.
    async fn types_for(&mut self, statement: &Rc<Statement>, parameters: u16) -> Result<Vec<u32>> {
        let known = statement.types.len() >= parameters as usize && statement.types.iter().all(|t| *t != 0);
        if parameters == 0 || known || matches!(&*statement.plan, Plan::Router(_) | Plan::Coordinator(_)) {
            return Ok(statement.types.clone());
        }
        Ok(self.describe(statement).await?.parameters.clone())
    }

    async fn describe_message(&mut self, frame: &Frame) -> Result<()> {
        match Target::read(frame.payload())? {
            Target::Statement(name) => {
                let name = frame.bytes.slice_ref(name);
                self.confirm_unanswered_parse().await?;
                let statement = self.statement(&name)?;
                let description = self.describe(&statement).await?;
                self.answer(|out| {
                    answer::parameter_description(&description.parameters, out);
                    answer::fields_or_no_data(description.fields.as_ref(), &[], out);
                });
            }
            Target::Portal(name) => match self.portals.get(name) {
                None => return Err(no_portal(name)),
                Some(Portal::OnServer { node }) => {
                    let node = *node;
                    self.turn_to(node).await?;
                    let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                    participant.server.queue_describe(Target::Portal(name), To::Client);
                }
                Some(Portal::Virtual { statement, bind, .. }) => {
                    let (statement, formats) = (statement.clone(), bind.result_formats());
                    let description = self.describe(&statement).await?;
                    self.answer(|out| answer::fields_or_no_data(description.fields.as_ref(), &formats, out));
                }
            },
        }
        Ok(())
    }

    async fn execute(&mut self, frame: &Frame) -> Result<()> {
        let (name, limit) = frontend::read_execute(frame.payload())?;
        self.thread.metrics.statements.increment(1);
        match self.portals.get_mut(name) {
            None => Err(no_portal(name)),
            Some(Portal::OnServer { node }) => {
                let node = *node;
                self.turn_to(node).await?;
                let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                participant.is_unsynced = true;
                participant.server.queue_execute(name, limit, To::Client);
                Ok(())
            }
            Some(Portal::Virtual { done: true, .. }) => {
                self.answer(|out| answer::command_complete("SELECT 0", out));
                Ok(())
            }
            Some(Portal::Virtual { plan, statement, bind, done }) => {
                *done = true;
                let (plan, statement, bind) = (plan.clone(), statement.clone(), bind.clone());
                if limit > 0 && statement.returns_rows() {
                    return Err(PgError::unsupported("cannot fetch this statement's rows in parts")
                        .hint("Execute it without a row limit, or restrict it to one tenant."));
                }
                self.settle().await?;
                if self.skip_until_sync {
                    return Ok(());
                }
                let types = self.types_for(&statement, bind.parameter_count()).await?;
                let request = Request { bind: &bind, types: &types, describe: false };
                if !matches!(&*plan, Plan::Transaction(_)) {
                    self.refuse_if_failed()?;
                }
                self.run_virtual(&plan, &statement.text, request).await?;
                self.put_notices();
                Ok(())
            }
        }
    }

    async fn close(&mut self, frame: &Frame) -> Result<()> {
        match Target::read(frame.payload())? {
            Target::Statement(name) => {
                if self.batch.unanswered_parse.is_some() {
                    self.confirm_unanswered_parse().await?;
                }
                // The servers keep it: other clients may use the same text.
                self.statements.remove(name);
                self.answer(answer::close_complete);
            }
            Target::Portal(name) => match self.portals.remove(name) {
                Some(Portal::OnServer { node }) => {
                    self.turn_to(node).await?;
                    let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                    participant.is_unsynced = true;
                    participant.server.queue_close(Target::Portal(name), To::Client);
                }
                _ => self.answer(answer::close_complete),
            },
        }
        Ok(())
    }

    async fn flush_message(&mut self) -> Result<()> {
        self.confirm_unanswered_parse().await?;
        self.settle().await?;
        self.client.flush().await
    }

    /// From here on messages go to `node`; another server's answers come first.
    async fn turn_to(&mut self, node: NodeId) -> Result<()> {
        if self.batch.current.is_some_and(|current| current != node) {
            self.settle().await?;
            if self.skip_until_sync {
                return Err(PgError::new(
                    SqlState::IN_FAILED_SQL_TRANSACTION,
                    "an earlier statement of the pipeline failed",
                ));
            }
        }
        self.join_for(node).await?;
        self.batch.current = Some(node);
        Ok(())
    }

    /// Everything that the current server owes goes to the client.
    pub async fn settle(&mut self) -> Result<()> {
        let Some(node) = self.batch.current else { return Ok(()) };
        let Some(participant) = self.transaction.as_mut().and_then(|t| t.participant(node)) else { return Ok(()) };
        if !participant.server.owes() {
            return Ok(());
        }
        participant.server.queue_flush();
        let relayed = self.relay_current(node).await?;
        self.after_relay(node, relayed).await
    }

    /// Settles when the current server is `node`, so that something of our own can run there.
    pub async fn settle_for(&mut self, node: NodeId) -> Result<()> {
        if self.batch.current == Some(node) { self.settle().await } else { Ok(()) }
    }

    async fn relay_current(&mut self, node: NodeId) -> Result<Relayed> {
        let routed = self.batch.routed.take();
        let repeatable = self.batch.frames.len() < MAX_REPEATABLE_FRAMES
            && self.transaction.as_ref().is_some_and(|t| t.is_single || t.is_fresh(node));
        let routed = Routed {
            group: routed.as_ref().and_then(|(group, _)| *group),
            query: routed.as_ref().map(|(_, query)| query),
            repeat_from: self.batch.start.filter(|_| repeatable).map(|s| s.mark),
        };
        self.relay_with_copy(node, routed).await
    }

    async fn after_relay(&mut self, node: NodeId, relayed: Relayed) -> Result<()> {
        if let Some(retry) = relayed.retry {
            // The server skips until a Sync; then it can be used, or left, again.
            let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("it takes part");
            if participant.is_unsynced && !participant.server.owes() {
                participant.server.queue_sync();
            }
            let finished = participant.server.finish().await;
            participant.is_unsynced = false;
            finished?;
            return self.repeat(retry).await;
        }
        if let Some(code) = relayed.error {
            self.thread.metrics.error(code);
            self.skip_until_sync = true;
            if relayed.failed_reply == Some(Reply::Prepare) {
                for name in std::mem::take(&mut self.batch.parsed) {
                    self.statements.remove(&name);
                }
            }
        }
        if let Some(txn) = &mut self.transaction {
            txn.failed |= relayed.error.is_some();
        }
        Ok(())
    }

    /// Runs the frames since the last Sync again. The client sees a delay.
    async fn repeat(&mut self, retry: Retry) -> Result<()> {
        let start = self.batch.start.expect("frames were taken");
        for name in std::mem::take(&mut self.batch.parsed) {
            self.statements.remove(&name);
        }
        if retry == Retry::StalePlan {
            self.forget_prepared().await?;
        }
        let frames = std::mem::take(&mut self.batch.frames);
        self.portals.clear();
        let attempts = self.batch.attempts + 1;
        if attempts > MAX_ATTEMPTS || !self.prepare_retry(retry, start.version, start.deadline).await? {
            self.fail(super::place::moved())?;
            self.skip_until_sync = true;
            return Ok(());
        }
        let sync_is_swallowed = self.batch.sync_is_swallowed;
        self.batch = Batch { attempts, sync_is_swallowed, ..Batch::default() };
        self.skip_until_sync = false;
        for frame in frames.into_iter().rev() {
            self.replay.push_front(frame);
        }
        Ok(())
    }

    /// "cached plan must not change result type": this session's server parses everything anew.
    async fn forget_prepared(&mut self) -> Result<()> {
        let Some(txn) = &mut self.transaction else { return Ok(()) };
        for participant in txn.participants() {
            participant.server.query("DEALLOCATE ALL").await?;
            participant.server.prepared.clear();
        }
        Ok(())
    }

    /// Sync: everything is answered, what was begun for the messages since the last one ends, the client's turn comes.
    pub async fn sync(&mut self) -> Result<()> {
        if !self.skip_until_sync
            && let Err(error) = self.confirm_unanswered_parse().await
        {
            self.batch_error(error).await?;
        }
        let current = self.batch.current;
        if let Some(txn) = &mut self.transaction {
            for participant in txn.participants().iter_mut().filter(|p| p.is_unsynced) {
                participant.server.queue_sync();
                participant.is_unsynced = false;
            }
        }
        if let Some(node) = current.filter(|_| self.transaction.is_some()) {
            let owes = self.transaction.as_mut().and_then(|t| t.participant(node)).is_some_and(|p| p.server.owes());
            if owes {
                let relayed = self.relay_current(node).await?;
                if relayed.retry.is_none()
                    && let Some(p) = self.transaction.as_mut().and_then(|t| t.participant(node))
                {
                    p.statements += 1;
                }
                self.after_relay(node, relayed).await?;
                if !self.replay.is_empty() {
                    return Ok(());
                }
            }
        }
        if let Some(txn) = &mut self.transaction {
            for participant in txn.participants().iter_mut().filter(|p| p.server.owes()) {
                // Their answers went to the client before; only ReadyForQuery is due.
                participant.server.finish().await?;
                participant.statements += 1;
            }
        }
        let failed = std::mem::take(&mut self.skip_until_sync);
        if let Some(txn) = &self.transaction
            && txn.kind != Kind::Explicit
        {
            let succeeded = !failed && !txn.failed;
            if let Err(error) = self.end_unit(succeeded).await {
                self.fail(error)?;
            }
        }
        let swallowed = self.batch.sync_is_swallowed;
        self.batch = Batch::default();
        if swallowed { Ok(()) } else { self.ready().await }
    }
}

fn no_portal(name: &[u8]) -> PgError {
    PgError::new(SqlState::INVALID_CURSOR_NAME, format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}

/// Past this many messages before a Sync nothing is repeated: what they hold must not grow without bound.
const MAX_REPEATABLE_FRAMES: usize = 1000;
const MAX_ATTEMPTS: u32 = 1000;
