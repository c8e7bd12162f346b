//! Reference tables are copied to a server that is going to be a node, while clients write them.
//!
//! ```text
//!   coordinator:  public.countries ──slot, COPY, stream──> public.countries on the server, which nobody knows yet
//!                     └─ the client's transaction: LOCK TABLE ─ last marker there ─ row of the node, 'switched'; COMMIT
//! ```
//!
//! The client's transaction has the lanes of the colocation group for as long as it lives, and its commit is the flip: so the copies
//! are in use exactly when the server is a node. The work itself runs beside it, and waits for its end; whatever that was, a repair
//! (repair.rs) then takes away what is not needed, here or on another proxy.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::attempt::{beside_stream, stuck, too_late};
use super::cutover::Cutover;
use super::guard::Guard;
use super::marker::Marker;
use super::newcomer::Newcomer;
use super::online::{Followed, Making, Online};
use super::pieces::Routes;
use super::repair::{repair, settle};
use super::session::{self, Session, is_lock_failure};
use super::snapshot::SourceTable;
use super::state::{Move, MoveState};
use super::stream::{Apply, Arrivals};
use super::target::{self, Target};
use super::{
    MoveReport, MoverEnvironment, MoverSettings, Notice, StopPoint, cleanup, room, snapshot, state, unfinished,
};
use crate::backend::replication::{CreatedSlot, ReplicationConnection};
use crate::catalog::quote::qualified;
use crate::catalog::{Address, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::operations::node_objects::Reference;
use crate::operations::table_definition::TableDefinition;
use crate::shard_map::{ColocationId, NodeId, ShardGroupId, ShardMap, TableOid};

/// What is to be copied, and where to.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    /// What the server will be, in the catalog.
    pub node: NodeId,
    pub address: Address,
    /// The client's transaction has it for itself.
    pub colocation: ColocationId,
    /// The tables, quoted, with their schemas.
    pub names: Vec<String>,
    /// Server process of the client's transaction, on the coordinator.
    pub process: i32,
}

/// A copy under way, for the client's transaction. Dropping it ends the copy, unless it has switched.
pub struct Following {
    caught_up: Option<oneshot::Receiver<CaughtUp>>,
    ask: mpsc::Sender<Asked>,
    notices: Vec<Notice>,
}

/// What the client's transaction wants to be told.
enum Asked {
    /// When few changes are missing.
    Near(oneshot::Sender<Result<()>>),
    /// Whether all are there, while nobody writes.
    Finish(oneshot::Sender<Result<Finish>>),
}

/// How an attempt ended to have all changes in the copies.
#[derive(Debug, Clone)]
pub enum Finish {
    Complete,
    /// Not in time; they go on to arrive.
    TooLate(PgError),
}

/// All changes are there.
struct Finished {
    tell: oneshot::Sender<Result<Finish>>,
    cutover: Cutover,
}

/// None: nothing was copied, because others' transactions stay open.
struct CaughtUp {
    result: Result<Option<i64>>,
    notices: Vec<Notice>,
}

impl Following {
    /// Returns once the copies are there and follow the coordinator's closely: the move's id. None when the tables cannot be
    /// followed now; nothing is on the server then.
    ///
    /// Errors: those of the copy.
    pub async fn caught_up(&mut self) -> Result<Option<i64>> {
        let Some(caught_up) = self.caught_up.take() else { return Err(ended()) };
        let CaughtUp { result, notices } = caught_up.await.map_err(|_| ended())?;
        self.notices = notices;
        result
    }

    /// What the copy has to say.
    pub fn notices(&mut self) -> impl Iterator<Item = PgError> {
        let said = std::mem::take(&mut self.notices);
        said.into_iter().map(|said| PgError::notice(&said.message))
    }

    /// To be called while nobody can write the tables: returns when the last change is in the copies, or has taken too long.
    ///
    /// Errors: 55000 when a table was changed, those of the copy.
    pub async fn finish(&mut self) -> Result<Finish> {
        let (tell, told) = oneshot::channel();
        self.ask.send(Asked::Finish(tell)).await.map_err(|_| ended())?;
        told.await.map_err(|_| ended())?
    }

    /// After an attempt that took too long: returns when the copies follow closely again.
    ///
    /// Errors: those of the copy.
    pub async fn is_near(&mut self) -> Result<()> {
        let (tell, told) = oneshot::channel();
        self.ask.send(Asked::Near(tell)).await.map_err(|_| ended())?;
        told.await.map_err(|_| ended())?
    }
}

/// Begins to copy, in a task of its own.
pub fn begin(environment: &MoverEnvironment, request: CopyRequest) -> Following {
    let (tell, caught_up) = oneshot::channel();
    let (ask, asked) = mpsc::channel(1);
    let mut environment = environment.clone();
    // Who waits for the node would rather wait for a lock than for a stranger's transaction.
    environment.settings.slot_patience = environment.settings.lock_patience;
    let run = async move {
        let mut teller = Teller { tell: Some(tell), notices: Mutex::default() };
        if let Err(error) = run(&environment, request, &mut teller, asked).await {
            tracing::warn!(%error, "reference tables could not be copied to a new node");
            teller.tell(Err(error));
        }
    };
    tokio::spawn(run);
    Following { caught_up: Some(caught_up), ask, notices: Vec::new() }
}

/// Tells the client's transaction, once.
struct Teller {
    tell: Option<oneshot::Sender<CaughtUp>>,
    notices: Mutex<Vec<Notice>>,
}

impl Teller {
    fn note(&self, notice: Notice) {
        self.notices.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(notice);
    }

    fn tell(&mut self, result: Result<Option<i64>>) {
        let notices = std::mem::take(self.notices.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()));
        if let Some(tell) = self.tell.take() {
            // Nobody listens where the client has gone.
            let _ = tell.send(CaughtUp { result, notices });
        }
    }
}

/// From the move's row to its end.
///
/// Errors: of what comes before the row; others are told, and noted in it.
async fn run(
    environment: &MoverEnvironment,
    request: CopyRequest,
    teller: &mut Teller,
    asked: mpsc::Receiver<Asked>,
) -> Result<()> {
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    // The transaction's locks say that nobody works on them.
    for abandoned in unfinished(&catalog, request.colocation).await? {
        let id = abandoned.id;
        if let Err(error) = repair(environment, &catalog, abandoned).await {
            tracing::warn!(move_id = id, %error, "could not repair an abandoned copy of reference tables, will retry");
        }
    }
    let map = environment.catalog.refresh().await?;
    let of_map = || map.tables().filter(|table| table.is_reference());
    let mut schemas: Vec<String> = of_map().map(|table| table.schema.clone()).collect();
    schemas.sort();
    schemas.dedup();
    let mut oids: Vec<TableOid> = of_map().map(|table| table.oid).collect();
    oids.sort();
    let names: BTreeSet<String> = of_map().map(|table| qualified(&table.schema, &table.name)).collect();
    if names != request.names.iter().cloned().collect() {
        let what = "this transaction's snapshot does not have all reference tables";
        return Err(PgError::new(SqlState::SERIALIZATION_FAILURE, what).hint("Retry the transaction."));
    }
    let sql = "SELECT nextval('tenantry.shard_id')";
    let group = ShardGroupId(catalog.query_one(sql, &[]).await.map_err(pg_error)?.get::<_, i64>(0) as u64);
    let newcomer = Newcomer { address: request.address, tables: request.names };
    let mv = Move::new(request.colocation, group, (NodeId::COORDINATOR, request.node), schemas);
    let mut mv = Move::plan(&catalog, Move { newcomer: Some(newcomer), ..mv }).await?;
    let environment = &environment.of(&mv);
    let work = Work { environment, catalog: &catalog, map: &map, oids, process: request.process };
    let ended = work.carry_out(&mut mv, teller, asked).await;
    if let Err(error) = &ended {
        tracing::warn!(move_id = mv.id, %error, "copying reference tables to a new node has failed");
        if environment.stop_at.is_some() && error.code() == super::environment::STOPPED {
            teller.tell(Err(error.clone()));
            return Ok(());
        }
    }
    teller.tell(ended.clone().map(|()| None));
    drop(catalog);
    // Until the client's transaction ends.
    if let Err(error) = settle(environment, &mv, ended.as_ref().err()).await {
        tracing::warn!(move_id = mv.id, %error, "could not clean up after a copy of reference tables, will retry");
    }
    Ok(())
}

struct Work<'a> {
    environment: &'a MoverEnvironment,
    catalog: &'a Session,
    map: &'a ShardMap,
    oids: Vec<TableOid>,
    process: i32,
}

impl Work<'_> {
    /// All states up to the last change.
    async fn carry_out(&self, mv: &mut Move, teller: &mut Teller, mut asked: mpsc::Receiver<Asked>) -> Result<()> {
        let Work { environment, catalog, map, .. } = *self;
        let settings = &environment.settings;
        environment.stop_at(StopPoint::Planned)?;
        let source = session::connect(environment, mv.source).await?;
        let targets = Target::connect(environment, mv).await?;
        let [target] = &targets[..] else { return Err(ended()) };
        snapshot::check_source(&source).await?;
        let routes = Routes::new(mv, map)?;
        let tables = snapshot::tables(&source, mv, map, &routes).await?;
        room::check(environment, &source, mv, &tables, &targets).await?;
        let watch = Guard::begin(environment, mv);
        let slot = match self.begin_stream(&source, mv, &tables, &watch, teller).await {
            Err(error) if is_lock_failure(&error) => {
                tracing::info!(move_id = mv.id, %error, "reference tables are copied within a lock");
                teller.tell(Ok(None));
                return Err(error);
            }
            begun => begun?,
        };
        environment.stop_at(StopPoint::SlotCreated)?;
        let definitions = self.definitions(&source).await?;
        let references = references(&definitions, mv, map)?;
        let statements = references.iter().flat_map(|table| [table.replace.clone(), table.create.clone()]).collect();
        target::create(target, mv, statements).await?;
        mv.advance(catalog, MoveState::TargetCreated, "Setting Up").await?;
        environment.stop_at(StopPoint::TargetCreated)?;

        let online =
            Online { environment, catalog, source: &source, targets: &targets, tables: &tables, watch: &watch };
        let Followed { copied, mut marker, mut apply } =
            online.copy_and_follow(mv, routes, slot, &Copies(references)).await?;
        mv.note_phase(catalog, "Final Catchup", 0).await?;
        watch.during(marker.catch_up(&mut apply, settings.near, settings.catch_up_patience)).await?;
        mv.advance(catalog, MoveState::CaughtUp, "Final Catchup").await?;
        environment.stop_at(StopPoint::CaughtUp)?;

        teller.tell(Ok(Some(mv.id)));
        // What is left is what writers do meanwhile.
        apply.pace.is_on = false;
        let mut arrivals = apply.arrivals();
        let answers = watch.during(self.answer(&source, &definitions, &mut marker, &mut arrivals, &mut asked));
        let Finished { tell, cutover } = beside_stream(&mut apply, &watch, settings.cutover_patience, answers).await?;
        let rows_applied = apply.rows();
        // A slot that nobody reads any more need not wait for the client's transaction.
        drop(apply);
        let is_told = tell.send(Ok(Finish::Complete)).is_ok();
        cleanup::drop_slot(&source, mv).await?;
        let report = MoveReport::of(mv, copied, rows_applied, cutover);
        mv.note_report(catalog, &report).await?;
        if is_told { Ok(()) } else { Err(ended()) }
    }

    /// Publication and slot. Nothing is on the target yet.
    ///
    /// Errors: 55P03 when transactions of others, which may wait for the client's, stay open.
    async fn begin_stream(
        &self,
        source: &Session,
        mv: &mut Move,
        tables: &[SourceTable],
        watch: &Guard,
        teller: &Teller,
    ) -> Result<(ReplicationConnection, CreatedSlot)> {
        let Work { environment, catalog, .. } = *self;
        let notify = |notice| teller.note(notice);
        snapshot::prepare(environment, catalog, source, mv, tables, Some(watch), &notify).await?;
        tokio::select! {
            biased;
            created = watch.during(snapshot::create_slot(environment, mv)) => created,
            error = self.is_waited_for(source) => Err(error),
        }
    }

    /// Returns when somebody waits for the client's transaction whose end the slot waits for: that would never be.
    async fn is_waited_for(&self, source: &Session) -> PgError {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                   WHERE backend_xid IS NOT NULL AND $1::int4 = ANY (pg_blocking_pids(pid)))";
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match source.query_one(sql, &[&self.process]).await.map_err(pg_error) {
                Err(error) => return error,
                Ok(row) if row.get(0) => {
                    return PgError::new(
                        SqlState::LOCK_NOT_AVAILABLE,
                        "a transaction that has written waits for this one",
                    );
                }
                Ok(_) => {}
            }
        }
    }

    /// All tables as they are now, each with the text that it was read from.
    async fn definitions(&self, source: &Session) -> Result<Vec<(TableDefinition, String)>> {
        let mut definitions = Vec::new();
        for oid in &self.oids {
            let row = source.query_one(&TableDefinition::statement(*oid), &[]).await.map_err(pg_error)?;
            let text: Option<String> = row.get(0);
            let text = text.ok_or_else(changed)?;
            definitions.push((TableDefinition::parse(&text)?, text));
        }
        Ok(definitions)
    }

    /// Answers what the client's transaction asks until all changes are there, while the stream runs beside it.
    ///
    /// Errors: 55000 when a table was changed, or the stream does not get on.
    async fn answer(
        &self,
        source: &Session,
        definitions: &[(TableDefinition, String)],
        marker: &mut Marker,
        arrivals: &mut Arrivals,
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<Finished> {
        let MoverSettings { fence_patience, catch_up_patience, .. } = self.environment.settings;
        let mut attempts = 0;
        loop {
            // Nobody listens where the client has gone; that is noticed when nothing more is asked.
            match asked.recv().await.ok_or_else(ended)? {
                Asked::Near(tell) => {
                    let arrived = timeout(catch_up_patience, arrived(marker, arrivals, "ping")).await;
                    let _ = tell.send(Ok(arrived.unwrap_or_else(|_| Err(stuck()))?));
                }
                Asked::Finish(tell) => {
                    attempts += 1;
                    let began = Instant::now();
                    let last = self.last_changes(source, definitions, marker, arrivals);
                    match timeout(fence_patience, last).await {
                        Ok(Ok(())) => {
                            return Ok(Finished { tell, cutover: Cutover { hold: began.elapsed(), attempts } });
                        }
                        Ok(Err(error)) => {
                            let _ = tell.send(Err(error.clone()));
                            return Err(error);
                        }
                        Err(_) => drop(tell.send(Ok(Finish::TooLate(too_late())))),
                    }
                }
            }
        }
    }

    /// While nobody writes.
    async fn last_changes(
        &self,
        source: &Session,
        definitions: &[(TableDefinition, String)],
        marker: &mut Marker,
        arrivals: &mut Arrivals,
    ) -> Result<()> {
        let now = self.definitions(source).await?;
        // Schema changes wait for the lanes; one that came past them would be lost.
        if !now.iter().map(|(_, text)| text).eq(definitions.iter().map(|(_, text)| text)) {
            return Err(changed());
        }
        arrived(marker, arrivals, "fence").await
    }
}

/// Returns when all that is committed now has arrived.
async fn arrived(marker: &mut Marker, arrivals: &mut Arrivals, purpose: &str) -> Result<()> {
    let id = marker.insert(purpose).await?;
    // The stream has an error to tell itself.
    if arrivals.wait(id).await { Ok(()) } else { Err(ended()) }
}

/// What the copies are to be. A table that got a full identity for the move is made without.
fn references(definitions: &[(TableDefinition, String)], mv: &Move, map: &ShardMap) -> Result<Vec<Reference>> {
    let reference = |(definition, _): &(TableDefinition, String)| {
        let mut definition = definition.clone();
        if mv.full_identity.contains(&definition.quoted()) {
            definition.forget_full_identity();
        }
        Reference::of(&definition, map)
    };
    definitions.iter().map(reference).collect()
}

/// On the one target.
struct Copies(Vec<Reference>);

impl Making for Copies {
    async fn build_keys_and_indexes(&self, online: &Online<'_>, _: &Move) -> Result<()> {
        for (target, reference) in self.each(online) {
            target.session.batch_execute(&reference.keys_and_indexes).await.map_err(pg_error)?;
        }
        Ok(())
    }

    async fn finish(&self, online: &Online<'_>, _: &Move, apply: &mut Apply) -> Result<()> {
        for (target, reference) in self.each(online) {
            for statements in [&reference.foreign_keys, &reference.rest] {
                let (done, applied) = apply.run_while(target.session.batch_execute(statements)).await;
                applied?;
                done.map_err(pg_error)?;
            }
            target::analyze(target, &reference.name, &mut Some(&mut *apply)).await?;
        }
        Ok(())
    }
}

impl Copies {
    fn each<'a>(&'a self, online: &Online<'a>) -> impl Iterator<Item = (&'a Target, &'a Reference)> {
        online.targets.iter().flat_map(|target| self.0.iter().map(move |reference| (target, reference)))
    }
}

/// The row is not as the copy left it.
pub fn taken_over(id: i64) -> PgError {
    state::taken_over(id).hint("Add the node again.")
}

fn changed() -> PgError {
    let what = "a reference table was changed while it was being copied";
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, what).hint("Add the node again.")
}

/// Nobody wants the copies, or nobody makes them, any more.
fn ended() -> PgError {
    PgError::new(SqlState::QUERY_CANCELED, "copying reference tables to a new node has ended")
}

const LOOK_EVERY: Duration = Duration::from_millis(100);
