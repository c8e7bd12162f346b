//! Moves a shard group to another node while clients read and write it.
//!
//! ```text
//!   planned ──> target_created ──> copied ──────────> caught_up ─────────> switched ──> done
//!      │ target.rs     │ snapshot.rs    │ stream.rs       │ cutover.rs        │ cleanup.rs
//!      │               │ slot, COPY     │ indexes, keys,  │ hold, fence,      │
//!      └───────────────┴── online.rs ───┴─ verify.rs ─────┘ flip              └ drop the source's remains
//!            any failure or crash: rename back, drop the target ──> failed
//! ```
//!
//! The row in `tenantry.shard_move` is written before anything is created and names everything that can be left over.
//! A failure is repaired by the same code as a crash: repair.rs looks at the row and at both nodes, and either undoes the
//! move or, when the fence and all before it are on the target, finishes it.

mod attempt;
mod attempts;
mod blocking;
pub mod cancel;
mod change;
mod cleanup;
mod copy;
mod cutover;
mod definition;
pub mod distribute;
mod environment;
mod everywhere;
pub mod explain;
mod guard;
pub mod isolate;
pub mod join;
pub mod leaving;
mod lock;
mod lock_watch;
mod marker;
mod newcomer;
mod online;
pub mod orphans;
mod part;
mod pieces;
pub mod reference_copy;
pub mod rehearse;
mod repair;
mod room;
mod row_index;
mod session;
pub mod shard_count;
mod sink;
mod snapshot;
pub mod split;
mod state;
mod stream;
mod target;
mod throttle;
pub mod undo;
mod unite;
mod verify;
mod window;
mod xid_snapshot;

#[cfg(test)]
mod blocking_tests;
#[cfg(test)]
mod definition_tests;
#[cfg(test)]
mod distribute_tests;
#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod isolate_tests;
#[cfg(test)]
mod keyless_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod login_tests;
#[cfg(test)]
mod open_transaction_tests;
#[cfg(test)]
mod parallel_tests;
#[cfg(test)]
mod places_tests;
#[cfg(test)]
mod reference_key_tests;
#[cfg(test)]
mod rehearse_tests;
#[cfg(test)]
mod return_tests;
#[cfg(test)]
mod split_tests;
#[cfg(test)]
mod stuck_tests;
#[cfg(test)]
mod table_kinds_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod undo_kill_tests;
#[cfg(test)]
mod undo_tests;
#[cfg(test)]
mod unite_tests;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::catalog::quote::readable;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{ColocationId, NodeId, ShardGroupId, ShardId, ShardMap};
use copy::Copied;
use cutover::{Cutover, Sides};
use environment::STOPPED;
use everywhere::Held;
use guard::Guard;
use online::{Followed, Online};
use pieces::Routes;
use repair::{repair, repair_failed};
use session::Session;
use state::{Move, REHEARSED};
use target::Target;

pub use blocking::TransferMode;
pub use environment::{MoverEnvironment, MoverSettings, StopPoint};
pub use lock::{MOVES_AT_ONCE, MOVES_PER_NODE, own_statement, share_statement, try_share_statement};
pub use repair::{Recovered, recover, recover_all};
pub use state::{MoveState, register_metrics};
pub use throttle::MoveLimits;

/// Something worth saying while an operation runs; never an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub is_warning: bool,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Notice {
    pub fn new(message: impl Into<String>) -> Self {
        Self { is_warning: false, message: message.into(), detail: None, hint: None }
    }

    pub fn warning(message: impl Into<String>) -> Self {
        Self { is_warning: true, ..Self::new(message) }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Where notices go.
pub type Notify<'a> = dyn Fn(Notice) + Send + Sync + 'a;

/// Which shard group goes where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveRequest {
    pub group: ShardGroupId,
    pub source: NodeId,
    pub target: NodeId,
    pub mode: TransferMode,
}

/// How a move went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveReport {
    pub move_id: i64,
    pub rows_copied: u64,
    pub bytes_copied: u64,
    /// Rows inserted, updated and deleted by clients meanwhile.
    pub rows_applied: u64,
    /// Time for which new statements on the shard group waited; of a rehearsal: what a change needed to get there.
    pub hold: Duration,
    /// Attempts at the cutover; all but the last failed to get their locks in time.
    pub attempts: u32,
}

impl MoveReport {
    fn of(mv: &Move, copied: Copied, rows_applied: u64, Cutover { hold, attempts }: Cutover) -> Self {
        let Copied { rows: rows_copied, bytes: bytes_copied, .. } = copied;
        Self { move_id: mv.id, rows_copied, bytes_copied, rows_applied, hold, attempts }
    }
}

/// Moves the group; None when it is on the target already (a warning says so).
///
/// Returns once the source's remains are gone, or are left to `recover`. Must not be cancelled by a client going away:
/// run it in a task of its own. Errors: those of Citus's `citus_move_shard_placement`; whatever goes wrong on the way,
/// after everything is as it was before.
pub async fn move_shard_group(
    environment: &MoverEnvironment,
    request: MoveRequest,
    notify: &Notify<'_>,
) -> Result<Option<MoveReport>> {
    let map = environment.catalog.refresh().await?;
    let (colocation, _) = check(&map, request)?;
    let catalog = begin_beside(environment, colocation, request).await?;
    // What was true before the lock may not be now.
    let map = environment.catalog.refresh().await?;
    let (colocation, is_there) = check(&map, request)?;
    if is_there {
        notify(already_there(&map, request));
        return Ok(None);
    }
    let schemas = schemas(&map, colocation);
    let nodes = (request.source, request.target);
    let planned = Move::new(colocation, request.group, nodes, schemas);
    let mv = Move::plan(&catalog, Move { is_rehearsal: !environment.settings.flips, ..planned }).await?;
    carry_out(environment, catalog, mv, request.mode, notify).await.map(Some)
}

/// The session of a move that has the colocation group for itself, and a place on each node that it reads or writes;
/// unfinished moves of the group are repaired.
async fn begin(environment: &MoverEnvironment, colocation: ColocationId, nodes: &BTreeSet<NodeId>) -> Result<Session> {
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    let patience = environment.settings.group_patience;
    lock::acquire_places(&catalog, nodes, || environment.moves_per_node(), patience).await?;
    lock::acquire(environment, &catalog, colocation, environment.settings.group_patience).await?;
    for abandoned in unfinished(&catalog, colocation).await? {
        repair(environment, &catalog, abandoned).await?;
    }
    Ok(catalog)
}

/// The session of a move of a whole shard group, beside which others of the colocation group may move, as many as the nodes
/// may take part in. Unfinished moves that it must not meet are repaired.
async fn begin_beside(
    environment: &MoverEnvironment,
    colocation: ColocationId,
    MoveRequest { group, source, target, .. }: MoveRequest,
) -> Result<Session> {
    let patience = environment.settings.group_patience;
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    lock::acquire_places(&catalog, &BTreeSet::from([source, target]), || environment.moves_per_node(), patience)
        .await?;
    lock::acquire_lane(environment, &catalog, colocation, environment.limits.load().at_once, patience).await?;
    // Living ones would have all lanes; who repairs one is soon done. No two groups' locks at a time: no deadlock.
    for abandoned in unfinished(&catalog, colocation).await?.into_iter().filter(Move::concerns_other_groups) {
        let of = abandoned.group;
        lock::acquire_group(environment, &catalog, of, patience).await?;
        repair(environment, &catalog, abandoned).await?;
        lock::release_group(&catalog, of).await?;
    }
    lock::acquire_group(environment, &catalog, group, patience).await?;
    for abandoned in unfinished(&catalog, colocation).await?.into_iter().filter(|mv| mv.group == group) {
        repair(environment, &catalog, abandoned).await?;
    }
    Ok(catalog)
}

/// Places on those nodes of `needed` that were not among `known` when the move began: shard groups may have moved since.
/// They are not waited for, because whoever has them may wait for the colocation group.
///
/// Errors: 55P03 when there are none.
async fn further_places(
    environment: &MoverEnvironment,
    catalog: &Session,
    known: &BTreeSet<NodeId>,
    needed: &BTreeSet<NodeId>,
) -> Result<()> {
    let further = needed.difference(known).copied().collect();
    lock::acquire_places(catalog, &further, || environment.moves_per_node(), Duration::ZERO).await
}

async fn unfinished(catalog: &Session, colocation: ColocationId) -> Result<Vec<Move>> {
    let moves = Move::unfinished(catalog).await?;
    Ok(moves.into_iter().filter(|mv| mv.colocation == colocation).collect())
}

/// A planned move, to its end or back to where it began.
async fn carry_out(
    environment: &MoverEnvironment,
    catalog: Session,
    mut mv: Move,
    mode: TransferMode,
    notify: &Notify<'_>,
) -> Result<MoveReport> {
    let mut held = Held::default();
    let ran = match mode {
        _ if mv.back_of.is_some() => undo::run(environment, &catalog, &mut mv, &mut held).await,
        TransferMode::Online => run(environment, &catalog, &mut mv, &mut held, notify).await,
        TransferMode::BlockWrites => blocking::run(environment, &catalog, &mut mv, &mut held, notify).await,
    };
    match ran {
        Ok(report) => Ok(report),
        Err(error) if environment.stop_at.is_some() && error.code() == STOPPED => Err(error),
        Err(error) => {
            let error = error_with_move(error, &mv);
            tracing::warn!(shard_group = %mv.group, move_id = mv.id, %error, "shard move failed");
            // The lock's session may be the one that broke; its end is waited for, so the row's state is final then.
            drop(catalog);
            if let Err(repair_error) = repair_failed(environment, &mv, &error).await {
                tracing::warn!(move_id = mv.id, error = %repair_error, "could not clean up after a shard move, will retry");
            }
            drop(held);
            Err(error)
        }
    }
}

/// All states, one after the other.
async fn run(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &mut Move,
    held: &mut Held,
    notify: &Notify<'_>,
) -> Result<MoveReport> {
    environment.stop_at(StopPoint::Planned)?;
    undo::close(environment, catalog, mv).await?;
    if mv.table.is_some() {
        return distribute::run(environment, catalog, mv, notify).await;
    }
    let source = session::connect(environment, mv.source).await?;
    let targets = Target::connect(environment, mv).await?;
    snapshot::check_source(&source).await?;
    if mv.renames() {
        part::check_names(mv)?;
        part::check(&source, mv).await?;
    }
    let map = environment.catalog.map();
    let routes = Routes::new(mv, &map)?;
    let tables = snapshot::tables(&source, mv, &map, &routes).await?;
    room::check(environment, &source, mv, &tables, &targets).await?;
    let definition = definition::read(&source, mv).await?;
    definition::tell_of_indexes_left_behind(&source, mv, notify).await?;
    for target in &targets {
        target::create_shards(target, mv, &definition).await?;
    }
    mv.advance(catalog, MoveState::TargetCreated, "Setting Up").await?;
    environment.stop_at(StopPoint::TargetCreated)?;

    let watch = Guard::begin(environment, mv);
    snapshot::prepare(environment, catalog, &source, mv, &tables, Some(&watch), notify).await?;
    let slot = watch.during(snapshot::create_slot(environment, mv)).await?;
    environment.stop_at(StopPoint::SlotCreated)?;
    let online = Online { environment, catalog, source: &source, targets: &targets, tables: &tables, watch: &watch };
    let Followed { copied, mut marker, mut apply } = online.copy_and_follow(mv, routes, slot, &definition).await?;
    // Schema changes wait for the group's lock; one that came past it would be lost with the source's tables.
    if definition::read(&source, mv).await? != definition {
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("tables of shard group {} were changed while it was being moved", mv.group),
        )
        .hint("Run the move again."));
    }
    if mv.is_rehearsal {
        let began = Instant::now();
        marker.catch_up(&mut apply, environment.settings.near, environment.settings.catch_up_patience).await?;
        let report = MoveReport::of(mv, copied, apply.rows(), Cutover { hold: began.elapsed(), attempts: 0 });
        drop(apply);
        cleanup::clean_up_as(environment, catalog, mv, REHEARSED).await?;
        return Ok(report);
    }
    let back = undo::prepare(environment, catalog, mv, &mut apply, notify).await?;
    mv.advance(catalog, MoveState::CaughtUp, "Final Catchup").await?;
    environment.stop_at(StopPoint::CaughtUp)?;

    let sides = Sides { catalog, source: &source, targets: &targets, watch: &watch, back: back.as_ref() };
    let cutover = cutover::cut_over(environment, sides, mv, &tables, &mut marker, &mut apply, held).await?;
    let report = MoveReport::of(mv, copied, apply.rows(), cutover);
    environment.stop_at(StopPoint::Switched)?;
    drop(apply);
    finish_switched(environment, catalog, mv, &report).await;
    if back.is_some() {
        undo::tell(environment, mv, notify);
    }
    Ok(report)
}

/// The move has happened; what is left may also be done later.
async fn finish_switched(environment: &MoverEnvironment, catalog: &Session, mv: &mut Move, report: &MoveReport) {
    let cleaned = async {
        mv.note_report(catalog, report).await?;
        cleanup::clean_up(environment, catalog, mv).await
    };
    if let Err(error) = cleaned.await {
        tracing::warn!(move_id = mv.id, %error, "could not drop what a shard move left, will retry");
    }
}

/// What the shard belongs to. `what` is to be done with it.
///
/// Errors: 42704 for an unknown shard, 0A000 for a reference table's.
pub fn group_of(map: &ShardMap, shard: ShardId, what: &str) -> Result<(ColocationId, ShardGroupId)> {
    map.group_of_shard(shard).ok_or_else(|| {
        match map.tables().find(|table| table.is_reference() && table.shards.contains(&shard)) {
            Some(table) => PgError::unsupported(format!("cannot {what} a shard of a reference table"))
                .detail(format!("Every node has a copy of {}.", readable(&table.name))),
            None => unknown_shard(shard),
        }
    })
}

fn unknown_shard(shard: ShardId) -> PgError {
    PgError::new(SqlState::UNDEFINED_OBJECT, format!("could not find valid entry for shard {shard}"))
}

/// The group's colocation group, and whether it is on the target already.
fn check(map: &ShardMap, request: MoveRequest) -> Result<(ColocationId, bool)> {
    let MoveRequest { group, source, target, .. } = request;
    let found = map.colocations().find_map(|c| c.group(group).map(|g| (c.id, g.node)));
    let Some((colocation, node)) = found else {
        return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("could not find valid entry for shard {group}")));
    };
    if source == target {
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, "cannot move shard to the same node"));
    }
    let Some(target_node) = map.active_workers().find(|n| n.id == target) else {
        if let Some(node) = map.node(target).filter(|node| !node.id.is_coordinator()) {
            return Err(PgError::unsupported("Moving shards to an inactive node is not supported").hint(format!(
                "Activate the target node via SELECT citus_activate_node('{}', {});",
                node.host, node.port
            )));
        }
        return Err(PgError::unsupported("Moving shards to a non-existing node is not supported")
            .hint("Add the target node via SELECT citus_add_node(...);"));
    };
    if !target_node.should_have_shards {
        return Err(PgError::unsupported("Moving shards to a node that shouldn't have a shard is not supported").hint(
            format!(
                "Allow shards on the target node via SELECT * FROM citus_set_node_property('{}', {}, \
                 'shouldhaveshards', true);",
                target_node.host, target_node.port
            ),
        ));
    }
    if node == target {
        return Ok((colocation, true));
    }
    if node != source {
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("could not find placement matching \"{}\"", address_of(map, source)),
        )
        .detail(format!("Shard group {group} is on node {}.", address_of(map, node)))
        .hint("Confirm the placement still exists and try again."));
    }
    Ok((colocation, false))
}

fn already_there(map: &ShardMap, request: MoveRequest) -> Notice {
    Notice::warning(format!("shard is already present on node {}", address_of(map, request.target)))
        .detail("Move may have already completed.")
}

/// `host:port`; of a node that is not there its number.
fn address_of(map: &ShardMap, node: NodeId) -> String {
    map.node(node).map_or_else(|| format!("node {node}"), |n| format!("{}:{}", n.host, n.port))
}

/// Schemas of the colocation group's tables.
fn schemas(map: &ShardMap, colocation: ColocationId) -> Vec<String> {
    let mut schemas: Vec<String> = map.tables_of(colocation).iter().map(|t| t.schema.clone()).collect();
    schemas.sort();
    schemas.dedup();
    schemas
}

fn error_with_move(error: PgError, mv: &Move) -> PgError {
    let what = match &mv.table {
        Some(table) => format!("distributing table {}", readable(&table.name)),
        None => format!("moving shard group {} from node {} to node {}", mv.group, mv.source, mv.target),
    };
    error.field(b'W', what)
}
