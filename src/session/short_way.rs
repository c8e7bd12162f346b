//! The short way: a statement for one tenant, all of whose messages have come.
//!
//! ```text
//!   [Parse ""]  Bind ""  [Describe ""]  Execute ""  Sync  ──┐   a server that is idle and carries what is needed,
//!   Query of a known shape                                ──┴─> or the only one of the client's transaction ─> client
//! ```
//!
//! Where the client's transaction has no server yet, BEGIN leaves with the statement; BEGIN and COMMIT themselves have a
//! short way of their own (short_command.rs).
//!
//! Most statements of most applications are such. No transaction and batch is made for them; on the wire they
//! look as they do on the long way (extended_query.rs, simple_query.rs), which whatever is different takes. So does what
//! has to be run again: outside a transaction its messages are kept until the answer is over, and inside one only what
//! cannot be run again goes here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::extended_query::Portal;
use super::run::Session;
use super::short_command::Command;
use super::simple_query::{Undo, only_statement};
use super::statement::Statement;
use super::unit::{Frames, Messages, Unit};
use super::waiting::Wanted;
use crate::backend::cancel::CancelTarget;
use crate::backend::{Plans, PooledServer, Server};
use crate::error::Result;
use crate::executor::cancel::CancelHandle;
use crate::executor::scatter::Request;
use crate::executor::{Kind, Participant, Relayed, Retry, Routed, Transaction, relay};
use crate::planner::Plan;
use crate::shard_map::{ColocationId, NodeId, ShardGroupId};
use crate::sql::{Access, Spliced};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::reply_queue::{Reply, To};

/// What goes it.
pub(super) enum ShortWay {
    Statement(UnderWay),
    Command(Command),
    /// Every connection is in use.
    Wait(Wanted),
}

/// A statement whose messages are queued for its server.
pub(super) struct UnderWay {
    seat: Seat,
    node: NodeId,
    group: ShardGroupId,
    query: Spliced,
    /// The client's messages.
    unit: Bytes,
    /// Of the map that it was routed with.
    version: u64,
    /// A Parse is among them.
    parses: bool,
    writes: bool,
}

/// Whose server it is.
enum Seat {
    /// The statement's own, for as long as it runs.
    Idle { server: PooledServer, reached: Reached },
    /// Of the client's transaction, which gets it back.
    InBlock(Participant),
}

impl Seat {
    fn server(&mut self) -> &mut Server {
        match self {
            Seat::Idle { server, .. } => server,
            Seat::InBlock(participant) => &mut participant.server,
        }
    }
}

/// Where a statement goes.
struct Way {
    colocation: ColocationId,
    group: ShardGroupId,
    node: NodeId,
    query: Spliced,
    /// `Plan::kind`.
    kind: usize,
    is_read: bool,
    version: u64,
}

/// A cancel request reaches the server until this is dropped.
struct Reached {
    handle: Arc<CancelHandle>,
    target: Arc<CancelTarget>,
    is_over: bool,
}

impl Reached {
    /// May the server be used again?
    fn end(mut self) -> bool {
        self.is_over = true;
        self.handle.remove(&self.target)
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if !self.is_over {
            self.handle.remove(&self.target);
        }
    }
}

impl Session {
    /// Takes the messages at hand when they go the short way; those for a server are queued for it.
    pub(super) fn take_short_way(&mut self) -> Option<ShortWay> {
        let is_free = self.transaction.as_ref().is_none_or(|txn| txn.kind == Kind::Explicit)
            && !self.concerns_replicas()
            && self.replay.is_empty()
            && !self.batch.is_open()
            && !self.skip_until_sync;
        if !is_free || self.client.received().is_empty() {
            return None;
        }
        let unit = Unit::read(self.client.received(), self.client.limits().message_bytes)?;
        let bytes = self.client.take(unit.len());
        self.way_of(&unit, bytes)
    }

    /// The same for messages that were taken. The client has them again when they do not go the short way.
    pub(super) fn short_way_of(&mut self, bytes: Bytes) -> Option<ShortWay> {
        match Unit::read(&bytes, self.client.limits().message_bytes) {
            Some(unit) => self.way_of(&unit, bytes),
            None => {
                self.client.put_back(bytes);
                None
            }
        }
    }

    fn way_of(&mut self, unit: &Unit, bytes: Bytes) -> Option<ShortWay> {
        let way = match unit {
            Unit::Extended(messages) => self.extended_short_way(messages, &bytes),
            Unit::Simple { .. } => self.simple_short_way(&bytes),
        };
        match (way, self.pools.take_missing()) {
            (None, Some((node, group))) => Some(ShortWay::Wait(Wanted { node, group, unit: bytes })),
            (None, None) => {
                self.client.put_back(bytes);
                None
            }
            (way, _) => way,
        }
    }

    fn extended_short_way(&mut self, messages: &Messages, unit: &Bytes) -> Option<ShortWay> {
        let bind = Bind::read(&unit.slice(messages.bind.clone())).ok()?;
        let statement = match &messages.parse {
            None => self.statements.get(&bind.statement)?.clone(),
            Some(_) if !bind.statement.is_empty() => return None,
            Some(parse) => Rc::new(self.known_statement(&Parse::read(&unit[parse.clone()]).ok()?)?),
        };
        let router = match &*statement.plan {
            Plan::Router(router) if self.may_take_statement() => router,
            Plan::Transaction(_) if bind.parameter_count() == 0 => {
                return self.short_command(statement, messages, unit).map(ShortWay::Command);
            }
            _ => return None,
        };
        if statement.may_run_opaque_code(|text| self.may_run_opaque_code(text)) {
            return None;
        }
        if statement.parameters_nest(&bind) || !messages.describes && statement.rows_nest(&bind) {
            return None;
        }
        let request = Request { bind: &bind, types: &statement.types, describe: false };
        let (group, node, version) = self.find_at_once(router, request)?;
        if !statement.is_for(version, &self.search_path) {
            return None;
        }
        let way = Way {
            colocation: router.colocation,
            group,
            node,
            query: router.query.clone(),
            kind: statement.plan.kind(),
            is_read: router.access == Access::Read,
            version,
        };
        let mut under_way = self.set_out(way, unit, b'B')?;
        self.note_bound(&statement);
        let parses = messages.parse.is_some();
        self.queue_messages(&mut under_way, &statement, &bind, messages, unit);
        if self.transaction.is_some() {
            let nests = statement.rows_nest(&bind);
            self.portals.insert(Bytes::new(), Portal::OnServer { node, nests });
        }
        if parses {
            self.statements.insert(Bytes::new(), statement);
        }
        Some(ShortWay::Statement(UnderWay { parses, ..under_way }))
    }

    /// Is the client in no transaction, or in one that one server can go on with, or begin?
    fn may_take_statement(&self) -> bool {
        let is_ready = |txn: &Transaction| txn.is_settled() || txn.is_blank();
        self.pinned.is_none() && self.transaction.as_ref().is_none_or(is_ready)
    }

    fn queue_messages(
        &self,
        under_way: &mut UnderWay,
        statement: &Statement,
        bind: &Bind,
        messages: &Messages,
        unit: &[u8],
    ) {
        let UnderWay { seat, group, query, .. } = under_way;
        let (server, group) = (seat.server(), Some(*group));
        let to = if messages.parse.is_some() { To::Client } else { To::Nobody };
        let kept = match bind.statement.is_empty() {
            true => self.key_of_unnamed(statement, group),
            false => Some((self.key_of(statement, query, group), Plans::Any)),
        };
        match kept {
            Some((key, plans)) => {
                server.ensure_prepared(key, plans, &statement.types, to, || query.render(group));
                server.queue_bind_prepared(bind, key, To::Client);
            }
            None => {
                server.queue_parse("", &query.render(group), &statement.types, to);
                server.queue_bind(bind, b"", "", To::Client);
            }
        }
        // What follows goes as it came.
        server.queue().extend_from_slice(&unit[messages.bind.end..]);
        if messages.describes {
            server.owe(Reply::DescribePortal, To::Client);
        }
        server.owe(Reply::Execute, To::Client);
        server.owe(Reply::Sync, To::Nobody);
    }

    /// The statement of a Parse, when this thread has seen its like.
    fn known_statement(&self, parse: &Parse<'_>) -> Option<Statement> {
        let parsed = self.context_of(|context| self.thread.plans.parsed(parse.text, &parse.types, context))?;
        Some(Statement::new(parsed, self.map_version(), &self.search_path))
    }

    fn simple_short_way(&mut self, unit: &Bytes) -> Option<ShortWay> {
        let text = only_statement(frontend::read_query(&unit[HEADER_LEN..]).ok()?)?;
        if let Some(command) = self.short_command_of(text, unit) {
            return Some(ShortWay::Command(command));
        }
        if !self.may_take_statement() || self.thread.shared.holds.held() > 0 || self.may_run_opaque_code(text) {
            return None;
        }
        let (route, bound, node, version) = self.by_shape(text, self.keep_simple(), |route, bound, context| {
            let node = context.map.colocation(route.colocation)?.group(route.group)?.node;
            Some((route, bound, node, context.map.version()))
        })?;
        let way = Way {
            colocation: route.colocation,
            group: route.group,
            node,
            query: route.query,
            kind: route.kind,
            is_read: route.is_read,
            version,
        };
        let mut under_way = self.set_out(way, unit, b'Q')?;
        self.forget_unnamed();
        let (server, query, group) = (under_way.seat.server(), &under_way.query, Some(under_way.group));
        match bound {
            None => server.queue_query(&query.render(group), To::Client),
            Some((kept, bind)) => {
                let key = self.key_of_kept(&kept.unnamed, group);
                server.ensure_prepared(key, Plans::Any, &kept.types, To::Nobody, || query.render(group));
                server.queue_bind_prepared(&bind, key, To::Nobody);
                if kept.returns_rows {
                    server.queue_describe(Target::Portal(b""), To::Client);
                }
                server.queue_execute(b"", 0, To::Client);
                server.queue_sync();
            }
        }
        Some(ShortWay::Statement(under_way))
    }

    /// From here on the statement has begun; `None` where it cannot at once: then nothing has changed.
    fn set_out(&mut self, way: Way, unit: &Bytes, tag: u8) -> Option<UnderWay> {
        if way.node.is_coordinator() {
            return None;
        }
        let requested = self.requested.unwrap_or_else(Instant::now);
        let mut seat = match &mut self.transaction {
            None => self.idle_seat(way.node, way.group, requested)?,
            Some(_) if !self.has_begun && !self.cancel.handle.begin_at_once() => return None,
            Some(txn) => {
                let participant = match txn.is_blank() {
                    true => txn.join_at_once(way.node, way.group, &self.pools, requested)?,
                    false => txn.take_settled(way.node, way.group)?,
                };
                txn.may_write |= !way.is_read;
                Seat::InBlock(participant)
            }
        };
        seat.server().note_asked(requested);
        self.note_request_at(requested, tag, unit);
        self.note_placed(way.kind);
        self.load.place(way.colocation, way.group, way.is_read);
        self.wrote_on_shards |= !way.is_read;
        let Way { node, group, query, version, is_read, .. } = way;
        let unit = unit.clone();
        Some(UnderWay { seat, node, group, query, unit, version, parses: false, writes: !is_read })
    }

    fn idle_seat(&self, node: NodeId, group: ShardGroupId, now: Instant) -> Option<Seat> {
        let mut server = match &self.kept {
            Some(kept) => kept.take(node)?,
            None => self.thread.executor.take_idle(node, group, &self.identity, &self.pools, now)?,
        };
        let begins = || self.has_begun || self.cancel.handle.begin_at_once();
        if !server.carries(&self.settings) || !begins() {
            match &self.kept {
                Some(kept) => kept.put(node, server),
                None => self.pools.handed.put(node, server),
            }
            return None;
        }
        let target = server.cancel_target();
        let is_cancelled = self.cancel.handle.add(target.clone()).is_err();
        let reached = Reached { handle: self.cancel.handle.clone(), target, is_over: false };
        if is_cancelled {
            // A cancel may be on its way to it.
            server.poison();
            return None;
        }
        Some(Seat::Idle { server, reached })
    }

    pub(super) async fn go_short_way(&mut self, way: ShortWay) -> Result<()> {
        let way = match way {
            ShortWay::Wait(wanted) => Box::pin(self.wait_for_server(wanted)).await?,
            way => Some(way),
        };
        match way {
            Some(ShortWay::Statement(under_way)) => self.go_with_statement(under_way).await,
            Some(ShortWay::Command(command)) => self.go_with_command(command).await,
            // Left to the long way, or failed.
            Some(ShortWay::Wait(_)) | None => Ok(()),
        }
    }

    /// Brings the answer to the client, whose turn it is then; or puts the messages where they are run again.
    pub(super) async fn go_with_statement(&mut self, under_way: UnderWay) -> Result<()> {
        let UnderWay { seat, node, group, query, unit, version, parses, writes } = under_way;
        let routed = Routed {
            group: Some(group),
            used: &[group],
            query: Some(&query),
            worker: Some((node, &self.thread.executor)),
            ..Routed::default()
        };
        let (mut server, reached) = match seat {
            Seat::Idle { server, reached } => (server, reached),
            Seat::InBlock(mut participant) => {
                // The first statement of a block can be run again, elsewhere.
                let repeat_from = (participant.statements == 0).then(|| self.client.mark());
                let routed = Routed { repeat_from, ..routed };
                let relayed = relay(&mut participant.server, &mut self.client, routed).await;
                return self.go_on_in_block(participant, relayed, Repeat { unit, parses, version }).await;
            }
        };
        let routed = Routed { repeat_from: Some(self.client.mark()), commits_itself: writes, ..routed };
        let relayed = relay(&mut server, &mut self.client, routed).await;
        if !reached.end() {
            server.poison();
        }
        match relayed {
            // A lost server ends the statement, not the client's session; a lost client is noticed at the next write.
            Err(error) => {
                self.leave(node, server);
                self.fail(error)?;
            }
            Ok(Relayed { retry: Some(retry), .. }) => {
                if retry == Retry::StalePlan {
                    Box::pin(server.forget_prepared()).await;
                }
                self.leave(node, server);
                if Box::pin(self.repeat_short_way(retry, Repeat { unit, parses, version })).await? {
                    return Ok(());
                }
            }
            Ok(relayed) => {
                self.answered = Some(server.answered());
                self.leave(node, server);
                self.note_failed(&relayed, parses);
            }
        }
        self.ready().await
    }

    /// The answer of the transaction's server is over.
    async fn go_on_in_block(
        &mut self,
        mut participant: Participant,
        relayed: Result<Relayed>,
        repeat: Repeat,
    ) -> Result<()> {
        self.answered = relayed.is_ok().then(|| participant.server.answered());
        let retry = relayed.as_ref().ok().and_then(|relayed| relayed.retry);
        match retry {
            Some(Retry::StalePlan) => Box::pin(participant.server.forget_prepared()).await,
            Some(Retry::Fenced) => {}
            None => participant.statements += 1,
        }
        let txn = self.transaction.as_mut().expect("the server was taken from it");
        txn.put_back(participant);
        match (relayed, retry) {
            (Err(error), _) => self.fail(error)?,
            (Ok(_), Some(retry)) => {
                if Box::pin(self.repeat_short_way(retry, repeat)).await? {
                    return Ok(());
                }
            }
            (Ok(relayed), None) => {
                txn.failed |= relayed.error.is_some();
                self.note_failed(&relayed, repeat.parses);
            }
        }
        self.ready().await
    }

    /// Puts the messages where they are run again, all but what was said for them undone. False when they cannot be: the client has been
    /// told then.
    async fn repeat_short_way(&mut self, retry: Retry, repeat: Repeat) -> Result<bool> {
        self.portals.remove(b"");
        if repeat.parses {
            self.statements.remove(b"");
        }
        if let Some(error) = Box::pin(self.cannot_repeat(retry, Undo::Everything, repeat.version)).await {
            self.fail(error)?;
            return Ok(false);
        }
        self.batch.is_stale = retry == Retry::StalePlan && repeat.unit.first() != Some(&b'Q');
        self.replay.extend(Frames(repeat.unit));
        Ok(true)
    }

    fn note_failed(&mut self, relayed: &Relayed, parses: bool) {
        let Some(code) = relayed.error else { return };
        self.thread.metrics.error(code);
        if parses && relayed.parsed == 0 {
            self.statements.remove(b"");
        }
    }
}

impl Session {
    fn leave(&self, node: NodeId, server: PooledServer) {
        if let Some(kept) = &self.kept {
            kept.put(node, server);
        }
    }
}

/// What running a statement again takes.
struct Repeat {
    unit: Bytes,
    parses: bool,
    /// Of the map that it was routed with.
    version: u64,
}
