//! The extended query protocol: what each message means.
//!
//! Messages are queued for a server as they come and leave together (pipeline.rs); answers of the proxy's own take their
//! place among the server's. A Sync is never made up: one goes to each server that got messages since the last.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::batch::Start;
use super::pipeline::LONG_PIPELINE_LEN;
use super::place::Place;
use super::prepared::changes_result_type;
use super::row_limit::{self, Rest};
use super::run::Session;
use super::statement::Statement;
use crate::backend::{Frame, Plans};
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::Request;
use crate::executor::{self, Kind, Use};
use crate::planner::Plan;
use crate::shard_map::NodeId;
use crate::sql::Access;
use crate::wire::answer;
use crate::wire::frontend::{self, Bind, Target};
use crate::wire::reader::Reader;
use crate::wire::reply_queue::To;

mod parse;

/// A bound portal.
pub enum Portal {
    /// It exists on a server, under the client's name.
    OnServer {
        node: NodeId,
        /// Its rows are binary and name types in their values: a description before them says where.
        nests: bool,
    },
    Virtual {
        plan: Rc<Plan>,
        statement: Rc<Statement>,
        bind: Rc<Bind>,
        done: bool,
        /// Once it was executed: rows past the limit, and its end. None where it gives no rows.
        rest: Option<Rest>,
    },
}

impl Portal {
    /// What it keeps here. Unit: bytes, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::OnServer { .. } => 0,
            Self::Virtual { bind, rest, .. } => bind.bytes() + rest.as_ref().map_or(0, Rest::bytes),
        }
    }
}

impl Session {
    /// One message of the extended protocol.
    pub async fn extended_message(&mut self, frame: Frame) -> Result<()> {
        if self.skip_until_sync && frame.tag != b'S' {
            return Ok(());
        }
        if self.batch.start.is_none() {
            self.batch.was_joined = self.has_joined();
            self.batch.start = Some(Start { mark: self.client.mark(), version: self.map_version() });
        }
        self.batch.keep(&frame);
        if frame.bytes.len() > LONG_PIPELINE_LEN {
            // A server that has answers to get rid of would not take it: they go to the client first.
            if let Err(error) = self.settle().await {
                return Box::pin(self.batch_error(error)).await;
            }
            if self.is_interrupted() {
                return Ok(());
            }
        }
        let result = match frame.tag {
            b'S' => {
                if let Err(error) = Reader::new(frame.payload()).end() {
                    Box::pin(self.batch_error(error)).await?;
                }
                return self.sync().await;
            }
            b'P' => self.parse(&frame).await,
            b'B' => self.bind(&frame).await,
            b'D' => self.describe_message(&frame).await,
            b'E' => self.execute(&frame).await,
            b'C' => self.close(&frame).await,
            b'H' => match Reader::new(frame.payload()).end() {
                Ok(()) => self.flush_message().await,
                Err(error) => Err(error),
            },
            tag => {
                return Err(PgError::fatal(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("invalid frontend message type {tag}"),
                ));
            }
        };
        let result = match result {
            Ok(()) => self.bound_pipeline().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => Box::pin(self.batch_error(error)).await,
        }
    }

    /// What was done so far stays done: only what follows can be run again.
    fn checkpoint(&mut self) {
        let mark = self.client.mark();
        if let Some(txn) = &mut self.transaction {
            txn.participants().iter_mut().filter(|p| p.is_unsynced).for_each(|p| p.statements += 1);
        }
        let was_joined = self.has_joined();
        let batch = &mut self.batch;
        batch.frames.clear();
        (batch.frame_bytes, batch.is_too_long) = (0, false);
        batch.parsed.clear();
        batch.closed.clear();
        batch.bound.clear();
        (batch.has_checkpoint, batch.was_joined) = (true, was_joined);
        if let Some(start) = &mut batch.start {
            start.mark = mark;
        }
    }

    /// Puts an answer of the proxy's own behind what the current server still owes. True when nothing is before it.
    pub fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) -> bool {
        let node = self.batch.current;
        let server = self.transaction.as_mut().and_then(|t| t.participant(node?)).map(|p| &mut p.server);
        match server {
            Some(server) if server.owes() => {
                let mut bytes = BytesMut::new();
                write(&mut bytes);
                server.simulate(bytes.freeze());
                false
            }
            _ => {
                write(self.client.out());
                true
            }
        }
    }

    async fn bind(&mut self, frame: &Frame) -> Result<()> {
        let bind = Bind::read(&frame.bytes.slice(crate::wire::frame::HEADER_LEN..))?;
        let name = bind.statement.clone();
        if self.batch.unanswered_parse.as_ref().is_some_and(|n| *n != name) {
            self.confirm_unanswered_parse().await?;
        }
        let statement = self.statement(&name)?;
        self.await_table_holds(&statement.text).await?;
        self.refuse_shadowed(&statement.text).await?;
        let statement = self.current(statement).await?;
        self.note_bound(&statement);
        if statement.may_run_opaque_code(|text| self.may_run_opaque_code(text)) {
            self.txn().is_opaque = true;
        }
        let may_follow_failure = statement.plan.may_follow_failure() && !matches!(&*statement.plan, Plan::Empty);
        if !may_follow_failure && self.has_failed() {
            check_parameter_count(&statement, &bind)?;
            self.refuse_if_failed()?;
        }
        if !bind.portal.is_empty() && self.portals.contains(&bind.portal) {
            check_parameter_count(&statement, &bind)?;
            return Err(PgError::new(
                SqlState::from_bytes(b"42P03").expect("a valid SQLSTATE"),
                format!("cursor \"{}\" already exists", String::from_utf8_lossy(&bind.portal)),
            ));
        }
        if self.batch.is_stale && Box::pin(self.describes_otherwise(&statement)).await? {
            return Err(changes_result_type());
        }
        let types = self.types_for(&statement, bind.parameter_count()).await?;
        let request = Request { bind: &bind, types: &types, describe: false };
        let place = match self.place_at_once(&statement.plan, request) {
            Some(place) => place,
            None => {
                check_parameter_count(&statement, &bind)?;
                if !self.places_without_asking(&statement.plan, request) {
                    self.pause().await?;
                }
                Box::pin(self.place(&statement.plan, &statement.text, request, Some(&statement))).await?
            }
        };
        match place {
            Place::Server { node, group, query, shared } => {
                let types = match shared {
                    true => types,
                    false if types.len() >= bind.parameter_count() as usize && !types.contains(&0) => types,
                    false => Box::pin(self.describe(&statement)).await?.parameters.as_slice().into(),
                };
                let bind = self.bind_for(node, &statement, bind).await;
                let nests = !node.is_coordinator() && statement.rows_nest(&bind);
                self.turn_to(node).await?;
                if let Some(group) = group.filter(|group| self.txn().may_be_older(node, *group)) {
                    self.pause().await?;
                    Box::pin(self.txn().check_sees(node, group)).await?;
                }
                let parsed = self.batch.unanswered_parse.take();
                let kept = match (shared, name.is_empty()) {
                    (false, _) => None,
                    (true, false) => Some((self.key_of(&statement, &query, group), Plans::Any)),
                    (true, true) => self.key_of_unnamed(&statement, group).filter(|_| !node.is_coordinator()),
                };
                // Where the server is to parse it now, its own ParseComplete is the answer.
                let to = if parsed.is_some() { To::Client } else { To::Nobody };
                let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                participant.is_unsynced = true;
                participant.groups.extend(group.filter(|g| !participant.groups.contains(g)));
                let server = &mut participant.server;
                server.queue_reading();
                if let Some((key, plans)) = kept {
                    server.ensure_prepared(key, plans, &statement.types, to, || query.render(group));
                    server.queue_bind_prepared(&bind, key, To::Client);
                } else {
                    server.queue_parse("", &query.render(group), &types, to);
                    server.queue_bind(&bind, &bind.portal, "", To::Client);
                }
                self.batch.unconfirmed.extend(parsed);
                self.batch.routed = Some((group, query));
                self.batch.bound.push(bind.portal.clone());
                self.portals.insert(bind.portal.clone(), Portal::OnServer { node, nests });
            }
            Place::Virtual(plan) => {
                check_parameter_count(&statement, &bind)?;
                self.answer_unanswered_parse();
                self.answer(answer::bind_complete);
                let portal = bind.portal.clone();
                self.batch.bound.push(portal.clone());
                let (bind, done, rest) = (Rc::new(bind), false, None);
                self.portals.insert(portal, Portal::Virtual { plan, statement, bind, done, rest });
            }
        }
        Ok(())
    }

    /// Is no server asked for the place of this plan?
    fn places_without_asking(&self, plan: &Plan, request: Request<'_>) -> bool {
        match plan {
            Plan::Router(router) => self.with_map(|map| {
                let target = |c| request.values().target(c, &router.operands, Use::Compared);
                map.colocation(router.colocation).is_some_and(|c| !matches!(target(c), executor::Target::Unknown(_)))
            }),
            Plan::Coordinator(c) => c.needs.is_empty() && c.recalls.is_none(),
            Plan::Transaction(_) | Plan::Empty | Plan::Session(_) => true,
            _ => false,
        }
    }

    /// Types that plans over many servers need: complete, asked for once where the client left them open. Where one server
    /// runs the statement as it is, it finds them out itself.
    async fn types_for(&mut self, statement: &Rc<Statement>, parameters: u16) -> Result<Rc<[u32]>> {
        let known = statement.types.len() >= parameters as usize && statement.types.iter().all(|t| *t != 0);
        let has_one_server = match &*statement.plan {
            Plan::Router(_) | Plan::Coordinator(_) => true,
            Plan::Insert(insert) => insert.rows.len() == 1,
            _ => false,
        };
        if parameters == 0 || known || has_one_server {
            return Ok(statement.types.clone());
        }
        Ok(Box::pin(self.describe(statement)).await?.parameters.as_slice().into())
    }

    /// Where a portal lives. A name that is not the protocol's own may be a cursor's, and these are the coordinator's.
    fn server_of_portal(&mut self, name: &[u8]) -> Option<NodeId> {
        match self.portals.get(name) {
            Some(Portal::OnServer { node, .. }) => Some(*node),
            Some(Portal::Virtual { .. }) => None,
            None if name.is_empty() => None,
            None => match &mut self.transaction {
                // A cursor WITH HOLD outlives the transaction that declared it, on the connection that is kept for it.
                Some(txn) if txn.is_pinned() => Some(NodeId::COORDINATOR),
                Some(txn) if txn.kind == Kind::Explicit => txn.participant(NodeId::COORDINATOR).map(|p| p.node),
                Some(_) => None,
                None => self.pinned.as_ref().map(|_| NodeId::COORDINATOR),
            },
        }
    }

    async fn describe_message(&mut self, frame: &Frame) -> Result<()> {
        match Target::read(frame.payload())? {
            Target::Statement(name) => {
                let name = frame.bytes.slice_ref(name);
                self.confirm_unanswered_parse().await?;
                let statement = self.statement(&name)?;
                let description = Box::pin(self.describe(&statement)).await?;
                if description.fields.is_some() {
                    self.refuse_if_failed()?;
                }
                self.answer(|out| {
                    answer::parameter_description(&description.parameters, out);
                    answer::fields_or_no_data(description.fields.as_ref(), &[], out);
                });
            }
            Target::Portal(name) => {
                self.confirm_unanswered_parse().await?;
                if let Some(node) = self.server_of_portal(name) {
                    self.refuse_if_failed()?;
                    self.turn_to(node).await?;
                    let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                    participant.is_unsynced = true;
                    participant.server.queue_describe(Target::Portal(name), To::Client);
                    return Ok(());
                }
                let Some(Portal::Virtual { statement, bind, .. }) = self.portals.get(name) else {
                    return Err(no_portal(name));
                };
                let (statement, formats) = (statement.clone(), bind.result_formats());
                let description = Box::pin(self.describe(&statement)).await?;
                if description.fields.is_some() {
                    self.refuse_if_failed()?;
                }
                self.answer(|out| answer::fields_or_no_data(description.fields.as_ref(), &formats, out));
            }
        }
        Ok(())
    }

    async fn execute(&mut self, frame: &Frame) -> Result<()> {
        let (name, limit) = frontend::read_execute(frame.payload())?;
        // One that nothing was bound to is answered before.
        self.confirm_unanswered_parse().await?;
        if let Some(node) = self.server_of_portal(name) {
            // The error may be one that the server knows nothing of.
            self.refuse_if_failed()?;
            self.turn_to(node).await?;
            let hides = self.txn().has_hidden_code();
            let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
            participant.is_unsynced = true;
            if matches!(self.portals.get(name), Some(Portal::OnServer { nests: true, .. })) {
                participant.server.queue_describe(Target::Portal(name), To::Nobody);
            }
            participant.server.queue_execute(name, limit, To::Client);
            if hides {
                participant.server.note_hidden_code();
            }
            return Ok(());
        }
        match self.portals.get_mut(name) {
            None | Some(Portal::OnServer { .. }) => Err(no_portal(name)),
            Some(Portal::Virtual { done: true, .. }) => {
                self.refuse_if_failed()?;
                let mut rows = BytesMut::new();
                if !self.portals.give_rest(name, limit, &mut rows) {
                    let name = String::from_utf8_lossy(name);
                    let refused = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
                    return Err(PgError::new(refused, format!("portal \"{name}\" cannot be run")));
                }
                self.answer(|out| out.extend_from_slice(&rows));
                Ok(())
            }
            Some(Portal::Virtual { plan, statement, bind, done, .. }) => {
                *done = true;
                let (plan, statement, bind) = (plan.clone(), statement.clone(), bind.clone());
                // JDBC gives a limit to statements without rows as well.
                let has_limit = limit > 0 && statement.returns_rows();
                if has_limit && matches!(&*plan, Plan::Scatter(scatter) if scatter.access == Access::Read) {
                    return Box::pin(self.open_gathered(name, limit, &plan, &statement, &bind)).await;
                }
                match &*plan {
                    // They look at what has run since the last Sync themselves.
                    Plan::Transaction(_) => {
                        self.settle().await?;
                        if self.is_interrupted() {
                            return Ok(());
                        }
                    }
                    _ => self.pause().await?,
                }
                if plan.sets_for_transaction()
                    && self.transaction.as_ref().is_none_or(|t| t.kind == Kind::Auto)
                    && !self.is_last()
                {
                    // What follows is in its transaction: a setting that is local holds for it, and goes with it when it fails.
                    self.txn().require_atomic().await?;
                }
                let types = self.types_for(&statement, bind.parameter_count()).await?;
                let request = Request { bind: &bind, types: &types, describe: false };
                if !plan.may_follow_failure() {
                    self.refuse_if_failed()?;
                }
                let had_failed = self.has_failed();
                let rest = match has_limit {
                    true => Box::pin(self.run_limited(&plan, &statement.text, request, limit)).await?,
                    false => {
                        self.run_virtual(&plan, &statement.text, request).await?;
                        let end = answer::completion(self.client.out()).filter(|_| statement.returns_rows());
                        end.map(|end| Rest::over(Bytes::copy_from_slice(end)))
                    }
                };
                if rest.is_some() {
                    let portal = Portal::Virtual { plan: plan.clone(), statement, bind, done: true, rest };
                    self.portals.insert(Bytes::copy_from_slice(name), portal);
                }
                // The error itself went to the client as the server sent it.
                self.skip_until_sync |= !had_failed && self.has_failed();
                self.put_notices();
                let is_undoable = self.is_undoable() && self.transaction.as_ref().is_none_or(|t| t.is_single);
                if !is_undoable || matches!(&*plan, Plan::Transaction(_) | Plan::FunctionCall(_)) {
                    self.checkpoint();
                }
                Ok(())
            }
        }
    }

    /// As `run_virtual`, and answers with so many rows. The others.
    async fn run_limited(&mut self, plan: &Plan, text: &str, request: Request<'_>, limit: u32) -> Result<Option<Rest>> {
        let mark = self.client.mark();
        self.client.hold();
        let ran = self.run_virtual(plan, text, request).await;
        let answer = self.client.release(mark);
        let rest = row_limit::cut(&answer, limit, self.client.out());
        ran.map(|()| rest)
    }

    /// A portal over the rows of many shards that is fetched in parts: the coordinator keeps the rows meanwhile.
    async fn open_gathered(
        &mut self,
        name: &[u8],
        limit: u32,
        plan: &Plan,
        statement: &Rc<Statement>,
        bind: &Bind,
    ) -> Result<()> {
        self.pause().await?;
        self.refuse_if_failed()?;
        let types = self.types_for(statement, bind.parameter_count()).await?;
        let request = Request { bind, types: &types, describe: false };
        let query = self.gathered(plan, &statement.text, request).await?;
        self.turn_to(NodeId::COORDINATOR).await?;
        let participant = self.transaction.as_mut().and_then(|t| t.participant(NodeId::COORDINATOR)).expect("joined");
        participant.is_unsynced = true;
        participant.server.queue_parse("", &query.render(None), &types, To::Nobody);
        participant.server.queue_bind(bind, name, "", To::Nobody);
        participant.server.queue_execute(name, limit, To::Client);
        self.portals.insert(Bytes::copy_from_slice(name), Portal::OnServer { node: NodeId::COORDINATOR, nests: false });
        Ok(())
    }

    async fn close(&mut self, frame: &Frame) -> Result<()> {
        self.confirm_unanswered_parse().await?;
        match Target::read(frame.payload())? {
            Target::Statement(name) => {
                // The servers keep it: other clients may use the same text.
                let closed = self.statements.remove(name);
                self.batch.closed.extend(closed.clone());
                if !self.answer(answer::close_complete) {
                    self.batch.unconfirmed_closes.push_back(closed);
                }
            }
            Target::Portal(name) => match self.server_of_portal(name) {
                Some(node) => {
                    self.portals.remove(name);
                    self.turn_to(node).await?;
                    let participant = self.transaction.as_mut().and_then(|t| t.participant(node)).expect("joined");
                    participant.is_unsynced = true;
                    participant.server.queue_close(Target::Portal(name), To::Client);
                }
                None => {
                    self.portals.remove(name);
                    if !self.answer(answer::close_complete) {
                        self.batch.unconfirmed_closes.push_back(None);
                    }
                }
            },
        }
        Ok(())
    }
}

impl Session {
    /// Is Sync what the client has sent next?
    fn is_last(&self) -> bool {
        self.replay.front().map_or(self.client.received().first(), |frame| Some(&frame.tag)) == Some(&b'S')
    }
}

/// Statements in which Postgres knows no parameters.
fn takes_no_parameters(plan: &Plan) -> bool {
    matches!(
        plan,
        Plan::CopyIn(_) | Plan::CopyOut(_) | Plan::Ddl(_) | Plan::Transaction(_) | Plan::Session(_) | Plan::Empty
    )
}

/// Errors: 08P01 when the client gives more values than the statement takes, or fewer.
fn check_parameter_count(statement: &Statement, bind: &Bind) -> Result<()> {
    let required = if takes_no_parameters(&statement.plan) { 0 } else { statement.parameter_count() };
    let supplied = bind.parameter_count();
    if supplied == required {
        return Ok(());
    }
    let name = String::from_utf8_lossy(&bind.statement);
    let why =
        format!("bind message supplies {supplied} parameters, but prepared statement \"{name}\" requires {required}");
    Err(PgError::new(SqlState::PROTOCOL_VIOLATION, why))
}

fn no_portal(name: &[u8]) -> PgError {
    PgError::new(SqlState::INVALID_CURSOR_NAME, format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}
