//! Where a plan runs: on one server with the client's own messages, or as something of the proxy's own.

use std::collections::HashSet;
use std::rc::Rc;

use super::run::Session;
use super::shapes::{Asking, Bound, Keep, Route};
use super::statement::Statement;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::executor::scatter::Request;
use crate::executor::{Found, Kind, Pin, Target, Use, combine};
use crate::planner::{self, Combine, Context, Coordinator, Mode, Plan, Router, Sequences, SessionCommand};
use crate::shard_map::hash::Value;
use crate::shard_map::{ColocationId, NodeId, ShardGroupId};
use crate::sql::{Access, Operand, Spliced};

/// Where it runs.
pub enum Place {
    Server {
        node: NodeId,
        group: Option<ShardGroupId>,
        query: Spliced,
        /// The text is the same for every client: the server may keep it prepared.
        shared: bool,
    },
    /// Many servers, or none.
    Virtual(Rc<Plan>),
}

impl Session {
    pub fn context_of<T>(&self, with: impl FnOnce(&Context<'_>) -> T) -> T {
        self.with_map(|map| {
            with(&Context {
                map,
                search_path: &self.search_path,
                standard_conforming_strings: true,
                provided: &self.thread.shared.provided,
                complexity: self.client.limits().complexity,
            })
        })
    }

    pub fn plan(&self, text: &str) -> Result<Rc<Plan>> {
        self.context_of(|context| self.thread.plans.plan(text, context))
    }

    /// What is made of the way of a text whose shape is known; its tenants are counted.
    pub(super) fn by_shape<T>(
        &mut self,
        text: &str,
        keep: Keep,
        make: impl FnOnce(Route, Bound, &Context<'_>) -> Option<T>,
    ) -> Option<T> {
        let mut sighting = self.load.take_sighting();
        let mut asking = Asking { meter: self.load.meter(), sighting: &mut sighting, keep };
        let made = self.context_of(|context| {
            let (route, bound) = self.thread.shapes.route_for(text, context, &mut asking)?;
            make(route, bound, context)
        });
        self.load.put_back(sighting);
        made
    }

    /// Where a text goes that differs from an earlier one only in its constants; `None`: it must be planned.
    pub async fn place_by_shape(&mut self, text: &str) -> Result<Option<Place>> {
        loop {
            let Some(route) = self.by_shape(text, Keep::Nothing, |route, _, _| Some(route)) else { return Ok(None) };
            self.refuse_if_failed()?;
            if self.concerns_replicas() {
                self.choose(route.only_reads).await?;
            }
            // Asked for when it enters.
            self.txn().may_write |= !route.is_read;
            if let Some(place) = self.server_of(route.colocation, route.group, &route.query, true).await? {
                self.note_placed(route.kind);
                self.wrote_on_shards |= !route.is_read;
                self.load.place(route.colocation, route.group, route.is_read);
                return Ok(Some(place));
            }
        }
    }

    /// A statement of this `Plan::kind` goes to where it runs.
    pub(super) fn note_placed(&self, kind: usize) {
        self.thread.tally.statements[kind].add(1);
    }

    /// A statement whose tenants were seen goes to a server.
    fn note_load(&mut self, colocation: ColocationId, place: &Place, is_read: bool) {
        if let Place::Server { group: Some(group), .. } = place {
            self.load.place(colocation, *group, is_read);
        }
    }

    /// Where a statement runs whose values lie in several shard groups.
    async fn place_on_many_shards(
        &mut self,
        text: &str,
        request: Request<'_>,
        statement: Option<&Statement>,
    ) -> Result<Place> {
        let many = self.plan_for_many_shards(text)?;
        if matches!(&*many, Plan::Router(_)) || many.for_one_shard().is_some() {
            return Err(PgError::unsupported("cannot run this statement for several tenants at once")
                .hint("Run it once for each tenant."));
        }
        // The last step over the shards' rows may not name every parameter: all types must be given.
        let count = request.bind.parameter_count() as usize;
        let described = match statement {
            Some(statement) if request.types.len() < count || request.types.contains(&0) => {
                self.describe(statement).await?.parameters.clone()
            }
            _ => request.types.to_vec(),
        };
        let request = Request { types: &described, ..request };
        match Box::pin(self.place(&many, text, request, statement)).await? {
            // Servers know the statement by its text for one tenant.
            Place::Server { node, group, query, .. } => Ok(Place::Server { node, group, query, shared: false }),
            place => Ok(place),
        }
    }

    fn plan_for_many_shards(&self, text: &str) -> Result<Rc<Plan>> {
        self.context_of(|context| planner::plan(text, context, Mode::ManyShards)).map(Rc::new)
    }

    /// The place of a statement for one tenant whose values tell its shard group, while nothing is held; and of one that
    /// begins or ends a transaction.
    pub fn place_at_once(&mut self, plan: &Rc<Plan>, request: Request<'_>) -> Option<Place> {
        if self.concerns_replicas() {
            return None;
        }
        let router = match &**plan {
            Plan::Router(router) => router,
            Plan::Transaction(_) => {
                self.note_placed(plan.kind());
                return Some(Place::Virtual(plan.clone()));
            }
            _ => return None,
        };
        let (group, node, version) = self.find_at_once(router, request)?;
        // Asked for when it enters.
        self.txn().may_write |= plan.may_write();
        if self.txn().must_enter(group) && !(self.txn().try_enter(&[group]) && self.map_version() == version) {
            return None;
        }
        self.note_placed(plan.kind());
        self.wrote_on_shards |= plan.may_write();
        self.load.place(router.colocation, group, router.access == Access::Read);
        Some(Place::Server { node, group: Some(group), query: router.query.clone(), shared: true })
    }

    /// The same without counting it: shard group and node, with the version of the map that says so.
    pub fn find_at_once(&mut self, router: &Router, request: Request<'_>) -> Option<(ShardGroupId, NodeId, u64)> {
        // Looked at before the map is: a hold may end because the group is elsewhere then.
        if self.thread.shared.holds.held() > 0 {
            return None;
        }
        let mut sighting = self.load.take_sighting();
        let found = self.with_map(|map| {
            let colocation = map.colocation(router.colocation)?;
            let see = |hash, value: &Value<'_>| {
                self.load.meter().see(&mut sighting, router.colocation, hash, value);
            };
            match request.values().target_seen(colocation, &router.operands, Use::Compared, see) {
                Target::One(group) => Some((group, colocation.group(group)?.node, map.version())),
                _ => None,
            }
        });
        self.load.put_back(sighting);
        found
    }

    /// Decides with the statement's values. After this the shard groups are not held, and rowsets are gathered.
    pub async fn place(
        &mut self,
        plan: &Rc<Plan>,
        text: &str,
        request: Request<'_>,
        statement: Option<&Statement>,
    ) -> Result<Place> {
        if let Some((colocation, operands)) = plan.for_one_shard() {
            let target = self.with_map(|map| {
                map.colocation(colocation).map(|c| request.values().target(c, operands, Use::Compared))
            });
            // A value that nobody can read here may be anywhere.
            if matches!(target, Some(Target::Many | Target::Unknown(_))) {
                return Box::pin(self.place_on_many_shards(text, request, statement)).await;
            }
        }
        self.choose_servers(plan).await?;
        if plan.may_write() {
            self.txn().may_write = true;
            self.wrote_on_shards |= !matches!(&**plan, Plan::Coordinator(_) | Plan::ReferenceWrite(_));
        }
        // These are counted as what they turn out to be.
        if !matches!(&**plan, Plan::Router(_) | Plan::Session(SessionCommand::Execute { .. })) {
            self.note_placed(plan.kind());
        }
        match &**plan {
            Plan::Router(router) => {
                let (colocation, operands) = (router.colocation, &router.operands);
                match self.server(colocation, operands, &router.query, Use::Compared, request, statement).await? {
                    Some(place) => {
                        self.note_placed(plan.kind());
                        self.note_load(colocation, &place, router.access == Access::Read);
                        Ok(place)
                    }
                    None => Box::pin(self.place_on_many_shards(text, request, statement)).await,
                }
            }
            Plan::Insert(insert) => {
                let operands: Vec<_> = insert.rows.iter().map(|r| r.tenant.clone()).collect();
                if self.has_null(&operands, insert.table.colocation, request) {
                    return Err(crate::executor::scatter::null_tenant());
                }
                let used = Use::stored_in(&insert.table);
                let colocation = insert.table.colocation;
                let place = self.server(colocation, &operands, &insert.query, used, request, statement).await?;
                if let Some(place) = &place {
                    self.note_load(colocation, place, false);
                }
                Ok(place.unwrap_or_else(|| Place::Virtual(plan.clone())))
            }
            // Told of when it runs.
            Plan::Combine(Combine { needs_block: true, .. })
            | Plan::Coordinator(Coordinator { needs_block: true, .. })
                if !self.is_in_block() =>
            {
                Ok(Place::Virtual(plan.clone()))
            }
            Plan::Coordinator(c) if !c.on_all_nodes && !c.changes_schema && c.sets.is_empty() => {
                self.gather_figures(&c.needs).await?;
                self.note_session_effects(c).await?;
                Ok(Place::Server {
                    node: NodeId::COORDINATOR,
                    group: None,
                    query: c.query.clone(),
                    shared: c.needs.is_empty(),
                })
            }
            Plan::Combine(c) => {
                let combine = c.clone();
                let query = combine::gather(self.txn(), &combine, request).await?;
                if combine.pins {
                    self.txn().pin(Pin::Visible);
                }
                Ok(Place::Server { node: NodeId::COORDINATOR, group: None, query, shared: false })
            }
            _ => Ok(Place::Virtual(plan.clone())),
        }
    }

    /// Before a text is planned. A local table that is being cut over to shards: who names it waits, and finds it distributed then.
    /// A transaction that has its lock does not, because the cutover waits for it.
    ///
    /// Errors: 55P03 and 57014 when the client waits no longer.
    pub async fn await_table_holds(&mut self, text: &str) -> Result<()> {
        let is_repeatable = !is_copy(text) && self.transaction.as_ref().is_none_or(|t| t.is_fresh(NodeId::COORDINATOR));
        if is_repeatable && self.thread.shared.holds.held() == 0 {
            return Ok(());
        }
        Box::pin(self.await_release_of_tables(text, is_repeatable)).await
    }

    async fn await_release_of_tables(&mut self, text: &str, is_repeatable: bool) -> Result<()> {
        let holds = self.thread.shared.holds.clone();
        let mut limit = None;
        loop {
            // First, so that a hold that is not seen here has seen it.
            if !is_repeatable {
                self.txn().enter_tables(text);
            }
            let tables = holds.tables_of(text);
            if tables.is_empty() || self.has_lock_on(&tables).await? {
                return Ok(());
            }
            if let Some(txn) = &mut self.transaction {
                txn.leave_tables();
            }
            // One wait for the client, however often the cut-over is tried again.
            let limit = match limit {
                Some(limit) => limit,
                None => *limit.insert(self.limit_of_wait().await?),
            };
            let timeout = self.thread.executor.settings.load().hold_timeout;
            let wait = limit.during(holds.wait_for_tables(text, timeout));
            if !self.cancel.handle.unless_cancelled(wait).await? {
                return Ok(());
            }
        }
    }

    /// Has the transaction a lock on a table of the coordinator with one of these names?
    async fn has_lock_on(&mut self, tables: &[String]) -> Result<bool> {
        let coordinator = self.transaction.as_mut().and_then(|t| t.participant(NodeId::COORDINATOR));
        let Some(coordinator) = coordinator else { return Ok(false) };
        let process = coordinator.server.cancel_target().pid as i32;
        let client = self.thread.shared.catalog.client(NodeId::COORDINATOR).await?;
        let sql = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_class c ON c.oid = relation \
                   WHERE pid = $1 AND locktype = 'relation' AND relname = ANY ($2))";
        let row = client.query_one(sql, &[&process, &tables]).await.map_err(pg_error)?;
        row.try_get(0).map_err(pg_error)
    }

    /// Before a statement of the coordinator: does the session keep the connection, or may it let go of it?
    ///
    /// Errors: 0A000 for values of sequences that would be another client's.
    pub async fn note_session_effects(&mut self, plan: &planner::Coordinator) -> Result<()> {
        if plan.pins {
            let pin = if plan.pins_unknown { Pin::Unknown } else { Pin::Visible };
            self.txn().pin(pin);
        }
        if let Some(sequences) = &plan.recalls {
            self.refuse_drawn_elsewhere(sequences)?;
            self.txn().check_sequences().await?;
        }
        self.may_unpin |= plan.frees || plan.changes_schema;
        self.note_renumbered(plan.renumbers.clone());
        Ok(())
    }

    /// What shards have drawn, their servers remember; the coordinator would tell an older value.
    fn refuse_drawn_elsewhere(&self, recalled: &Sequences) -> Result<()> {
        let may_concern = |drawn: &HashSet<String>| match recalled {
            Sequences::Named(names) => names.iter().any(|name| drawn.contains(name)),
            Sequences::Any => !drawn.is_empty(),
        };
        if !self.wrote_on_shards || !self.with_map(|map| may_concern(map.drawn_sequences())) {
            return Ok(());
        }
        Err(PgError::unsupported("currval and lastval are not supported where shards may have drawn the value")
            .detail("The session has written to distributed tables, and workers draw the values of their sequences.")
            .hint("Use INSERT ... RETURNING, or currval with the name of another sequence."))
    }

    /// Notes that the servers of the transaction may keep what this text has done, if nobody can read what it runs.
    pub fn note_opaque_code(&mut self, text: &str) {
        if self.may_run_opaque_code(text) {
            self.txn().is_opaque = true;
        }
    }

    /// See `planner::may_run_opaque_code`.
    pub fn may_run_opaque_code(&self, text: &str) -> bool {
        self.with_map(|map| planner::may_run_opaque_code(text, map))
    }

    fn has_null(&self, operands: &[Operand], colocation: ColocationId, request: Request<'_>) -> bool {
        let hash = self.with_map(|map| map.colocation(colocation).and_then(|c| c.hash));
        hash.is_some_and(|hash| operands.iter().any(|o| request.values().find(o, hash, Use::Compared) == Found::Null))
    }

    /// The server of the one shard group that the operands lie in; `None` when they lie in several.
    async fn server(
        &mut self,
        colocation: ColocationId,
        operands: &[Operand],
        query: &Spliced,
        used: Use,
        request: Request<'_>,
        statement: Option<&Statement>,
    ) -> Result<Option<Place>> {
        loop {
            let Some(group) = self.target(colocation, operands, used, request, statement).await? else {
                return Ok(None);
            };
            if let Some(place) = self.server_of(colocation, group, query, true).await? {
                return Ok(Some(place));
            }
        }
    }

    /// The one shard group that the operands lie in; `None` when they lie in several.
    async fn target(
        &mut self,
        colocation: ColocationId,
        operands: &[Operand],
        used: Use,
        request: Request<'_>,
        statement: Option<&Statement>,
    ) -> Result<Option<ShardGroupId>> {
        let id = colocation;
        let mut sighting = self.load.take_sighting();
        let known = self.with_map(|map| {
            let colocation = map.colocation(id)?;
            let see = |hash, value: &Value<'_>| self.load.meter().see(&mut sighting, id, hash, value);
            Some(request.values().target_seen(colocation, operands, used, see))
        });
        self.load.put_back(sighting);
        if let Some(Target::One(group)) = known {
            return Ok(Some(group));
        }
        let map = self.map();
        let colocation = map.colocation(colocation).ok_or_else(gone)?;
        let hash = colocation.hash.ok_or_else(gone)?;
        let mut target = None;
        for operand in operands {
            let mut found = request.values().find(operand, hash, used);
            let described;
            if found == Found::Unknown
                && let (Operand::Param(_), Some(statement)) = (operand, statement)
            {
                // A binary value whose type the client left open: ask what the statement takes.
                described = self.describe(statement).await?;
                found = Request { types: &described.parameters, ..request }.values().find(operand, hash, used);
            }
            let value = match found {
                Found::Value(value) => value,
                Found::Null => continue,
                Found::Unknown => match self.txn().ask_value(operand, hash, used, request.values()).await? {
                    Some(value) => value,
                    None => continue,
                },
            };
            self.load.see(id, hash, &value);
            let group = colocation.group_of(&value).ok_or_else(gone)?.id;
            if target.replace(group).is_some_and(|other| other != group) {
                return Ok(None);
            }
        }
        // Only NULLs: no row can match, any group says so.
        Ok(target.or_else(|| colocation.shard_groups.first().map(|g| g.id)))
    }

    /// The server of a shard group, once it is not held; `None` when other groups have taken its place meanwhile.
    async fn server_of(
        &mut self,
        colocation: ColocationId,
        group: ShardGroupId,
        query: &Spliced,
        shared: bool,
    ) -> Result<Option<Place>> {
        if self.transaction.as_ref().is_some_and(|txn| txn.must_enter(group)) {
            self.txn().enter(&[group]).await?;
        } else if self.thread.shared.holds.is_held(group) {
            self.txn().await_holds(&[group]).await?;
        }
        // The map is read after the hold: it may have ended because the group is elsewhere now.
        let colocation = self.with_map(|map| map.colocation(colocation).map(|c| c.group(group).map(|g| g.node)));
        let node = colocation.ok_or_else(gone)?;
        Ok(node.map(|node| Place::Server { node, group: Some(group), query: query.clone(), shared }))
    }

    /// A second server in what is not yet a transaction: from here on both are one.
    pub async fn join_for(&mut self, node: NodeId) -> Result<()> {
        let txn = self.txn();
        if txn.kind == Kind::Auto && txn.participant(node).is_none() && !txn.participants().is_empty() {
            txn.require_atomic().await?;
        }
        txn.join(node).await.map(|_| ())
    }

    /// The same to run a statement for a shard group there.
    ///
    /// Errors: 40001 where the transaction's snapshot there is older than the shard group's rows.
    pub async fn join_for_group(&mut self, node: NodeId, group: Option<ShardGroupId>) -> Result<()> {
        self.join_for(node).await?;
        let Some(group) = group.filter(|group| self.txn().may_be_older(node, *group)) else { return Ok(()) };
        Box::pin(self.txn().check_sees(node, group)).await
    }
}

/// Rows that a client has sent are not sent again.
fn is_copy(text: &str) -> bool {
    text.trim_start().as_bytes().get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"copy"))
}

fn gone() -> PgError {
    PgError::new(SqlState::SERIALIZATION_FAILURE, "the placement of a table changed while the statement was planned")
        .hint("Retry the query.")
}
