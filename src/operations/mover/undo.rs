//! The way back: for a while after a move the change stream runs backwards, so that the move can be undone.
//!
//! ```text
//!   move 7:   source ──public_<group>──> target        what stays on the source: tenantry_moved_7_<n>
//!   move 8 (back_of 7):
//!     before 7's cutover  publication and slot on the target; marker and progress on both              undoable
//!     7's switch          progress = the target's WAL position: 7's own changes lie before it
//!     while undo_left > 0 slot ──changes──> tenantry_moved_7_<n>, which nobody else knows              follow()
//!     asked for           verify, fence the target, last marker, rename tenantry_moved_7_<n> to public_<group>, flip
//!     time is over        slot, publication, tenantry_moved_7_<n> dropped                              done
//! ```
//!
//! Moves that rename shard groups have no stream back; what undoes a split or an isolation is another move (`undo_by_a_move`).
//!
//! Who follows has an advisory lock of the way back's own, and gives it up when somebody waits for it. All that is needed to
//! go on is in the row and on the two nodes: a proxy that dies leaves the way back to the next that looks.
//! What goes wrong with the way back ends it, never the move.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::copy::Copied;
use super::cutover::{self, Sides, has_schema};
use super::everywhere::Held;
use super::guard::Guard;
use super::marker::Marker;
use super::pieces::Routes;
use super::session::{self, Session};
use super::snapshot::SourceTable;
use super::state::{Move, MoveState};
use super::stream::Apply;
use super::target::{self, Target};
use super::throttle::Pace;
use super::unite::unite;
use super::window::Window;
use super::{
    MoveReport, MoverEnvironment, Notice, Notify, StopPoint, TransferMode, begin, carry_out, cleanup, definition,
    finish_switched, join, lock, snapshot, verify,
};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{NodeId, ShardGroupId};
use crate::tally::Recurring;

/// Prepares the way back of a move that is about to be cut over; none where there is to be none, or there cannot be one (a
/// warning says so). Changes are applied meanwhile.
///
/// Errors: those of `apply`.
pub async fn prepare(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &Move,
    apply: &mut Apply,
    notify: &Notify<'_>,
) -> Result<Option<Move>> {
    let window = environment.limits.load().undo_window;
    if window.is_zero() || !environment.settings.keeps_way_back || mv.renames() || mv.table.is_some() {
        return Ok(None);
    }
    let (made, applied) = apply.run_while(make(environment, catalog, mv)).await;
    applied?;
    let error = match made {
        Ok(back) => return Ok(Some(back)),
        Err(error) => error,
    };
    tracing::warn!(move_id = mv.id, %error, "a move cannot be undone");
    let warning = Notice::warning("this move cannot be undone afterwards").detail(error.message().to_owned());
    notify(warning);
    if let Some(mut back) = Move::way_back(catalog, mv.id).await? {
        cleanup::clean_up(environment, catalog, &mut back).await?;
    }
    Ok(None)
}

async fn make(environment: &MoverEnvironment, catalog: &Session, mv: &Move) -> Result<Move> {
    let source = session::connect(environment, mv.target).await?;
    snapshot::check_source(&source).await?;
    check_foreign_keys(&source, mv).await?;
    let planned = Move::new(mv.colocation, mv.group, (mv.target, mv.source), mv.schemas.clone());
    let mut back = Move::plan(catalog, Move { state: MoveState::Undoable, back_of: Some(mv.id), ..planned }).await?;
    let map = environment.catalog.map();
    let routes = Routes::new(&back, &map)?;
    let tables = snapshot::tables(&source, &back, &map, &routes).await?;
    for target in Target::connect(environment, &back).await? {
        target::create(&target, &back, Vec::new()).await?;
    }
    let said_before = |_: Notice| {};
    snapshot::prepare(environment, catalog, &source, &mut back, &tables, None, &said_before).await?;
    let definition = definition::read(&source, &back).await?;
    let sql = "UPDATE tenantry.shard_move SET definition = md5($2), phase = 'Undoable' WHERE moveid = $1";
    catalog.execute(sql, &[&back.id, &format!("{definition:?}")]).await.map_err(pg_error)?;
    snapshot::create_slot(environment, &back).await?;
    Ok(back)
}

/// What stays on the old node must not stand in the way of changes to what others use.
///
/// Errors: 0A000 for a foreign key to a table outside the shard.
async fn check_foreign_keys(session: &Session, mv: &Move) -> Result<()> {
    let sql = "SELECT k.conname::text FROM pg_constraint k
               JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace m ON m.oid = f.relnamespace
               WHERE k.contype = 'f' AND n.nspname = ANY ($1) AND m.nspname <> ALL ($1) LIMIT 1";
    match session.query_opt(sql, &[&mv.shard_schemas()]).await.map_err(pg_error)? {
        None => Ok(()),
        Some(row) => Err(PgError::unsupported(format!(
            "foreign key \"{}\" refers to a reference table, which an old copy would stand in the way of",
            row.get::<_, &str>(0)
        ))),
    }
}

/// The last step before the flip: what the target's stream has had until now came from the source itself.
pub async fn mark_start(source: &Session, targets: &[Target], back: &Move) -> Result<()> {
    let Some(target) = targets.first() else { return Ok(()) };
    let row = target.session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.map_err(pg_error)?;
    let sql = format!("UPDATE {}.progress SET lsn = {}", identifier(&back.target_name()), literal(row.get(0)));
    source.batch_execute(&sql).await.map_err(pg_error)
}

/// After the switch: the remains of `mv` on its source become the way back's, and its time begins.
pub async fn take_over_remains(
    environment: &MoverEnvironment,
    catalog: &Session,
    source: &Session,
    mv: &Move,
    back: &Move,
) -> Result<()> {
    for (schema, fenced) in mv.fences() {
        if has_schema(source, &fenced).await? {
            let mut statements = vec![target::mark(back, &fenced)];
            // Remembered under the name that the schema had.
            for name in mv.full_identity.iter().filter_map(|name| name.strip_prefix(&identifier(&schema))) {
                statements.push(format!("ALTER TABLE {}{name} REPLICA IDENTITY DEFAULT", identifier(&fenced)));
            }
            source.batch_execute(&statements.join("; ")).await.map_err(pg_error)?;
        }
    }
    Window::begin(catalog, back.id, environment.limits.load().undo_window).await
}

/// For those who have just moved something.
pub fn tell(environment: &MoverEnvironment, mv: &Move, notify: &Notify<'_>) {
    let seconds = environment.limits.load().undo_window.as_secs_f64();
    notify(
        Notice::new(format!("shard move {} can be undone for {seconds} seconds", mv.id))
            .hint(format!("Run SELECT tenantry_undo_move({});", mv.id)),
    );
}

/// Ways back whose time has begun.
pub async fn open_ways_back(environment: &MoverEnvironment) -> Result<Vec<i64>> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    let sql = "SELECT moveid FROM tenantry.shard_move WHERE state = 'undoable' AND undo_left IS NOT NULL";
    Ok(client.query(sql, &[]).await.map_err(pg_error)?.iter().map(|row| row.get(0)).collect())
}

/// Looks after one way back until it is asked for, its time is over, or it fails; at once when another proxy does.
///
/// Errors: those of the catalog, and of what could not be dropped. It is to be called again then, with the same `window`,
/// which is `None` at first.
pub async fn look_after(environment: &MoverEnvironment, id: i64, window: &mut Option<Window>) -> Result<()> {
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    if !lock::try_acquire_way_back(&catalog, id).await? {
        return Ok(());
    }
    let Some(mut back) = Move::find(&catalog, id).await? else { return Ok(()) };
    environment.catalog.refresh().await?;
    let window = window.insert(Window::take_over(&catalog, id, *window).await?);
    let mut trouble = Recurring::default();
    loop {
        if back.state != MoveState::Undoable {
            return Ok(());
        }
        match follow(environment, &catalog, &back, window, &mut trouble).await {
            Ok(Ask::Wanted) => return Ok(()),
            Ok(Ask::GoOn | Ask::Over) => break,
            Err(error) if may_pass(&error) => {
                trouble.failed(&format!("shard move {id}: {error}"), INTERRUPTED);
                tokio::time::sleep(RETRY_PAUSE).await;
                match ask(&catalog, &back, window).await? {
                    Ask::Wanted => return Ok(()),
                    Ask::Over => break,
                    Ask::GoOn => back = back.reload(&catalog).await?,
                }
            }
            Err(error) => {
                tracing::warn!(move_id = id, %error, "a shard move cannot be undone any more");
                back.note_error(&catalog, &error).await?;
                break;
            }
        }
    }
    cleanup::clean_up(environment, &catalog, &mut back).await
}

enum Ask {
    GoOn,
    /// Somebody waits for the lock.
    Wanted,
    /// Its time is, or there is nothing left to go back.
    Over,
}

async fn ask(catalog: &Session, back: &Move, window: &mut Window) -> Result<Ask> {
    let sql = format!(
        "SELECT {}, EXISTS (SELECT FROM tenantry.shard_group WHERE id = $1)",
        lock::is_way_back_wanted(back.id)
    );
    let row = catalog.query_one(&sql, &[&(back.group.0 as i64)]).await.map_err(pg_error)?;
    let (is_wanted, has_group): (bool, bool) = (row.get(0), row.get(1));
    // The last of its tables may have been dropped, or have become local.
    let goes_on = window.goes_on(catalog).await? && has_group;
    Ok(match (is_wanted, goes_on) {
        (true, _) => Ask::Wanted,
        (false, false) => Ask::Over,
        (false, true) => Ask::GoOn,
    })
}

/// Applies clients' changes to the old copy.
async fn follow(
    environment: &MoverEnvironment,
    catalog: &Session,
    back: &Move,
    window: &mut Window,
    trouble: &mut Recurring,
) -> Result<Ask> {
    // First, so that the slot is watched while the old node is down.
    let watch = Guard::begin(environment, back);
    let targets = watch.during(reach(environment, back, window)).await?;
    let mut apply = watch.during(resume(environment, back, &targets)).await?;
    trouble.works(INTERRUPTED);
    loop {
        let (_, applied) = apply.run_while(tokio::time::sleep(ASK_EVERY)).await;
        applied?;
        watch.check()?;
        match ask(catalog, back, window).await? {
            Ask::GoOn => {}
            answer => return Ok(answer),
        }
    }
}

/// The old node, for as long as it takes it to come back within its time.
async fn reach(environment: &MoverEnvironment, back: &Move, window: &mut Window) -> Result<Vec<Target>> {
    loop {
        match Target::connect(environment, back).await {
            Err(error) if may_pass(&error) => {
                let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
                if !matches!(ask(&catalog, back, window).await?, Ask::GoOn) {
                    return Err(error);
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// The stream, from where it stopped.
async fn resume(environment: &MoverEnvironment, back: &Move, targets: &[Target]) -> Result<Apply> {
    let lost = || {
        PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "the position of a way back is not known")
            .detail("The move was switched without it.")
    };
    let target = targets.first().ok_or_else(lost)?;
    let sql = format!("SELECT lsn::text FROM {}.progress", identifier(&back.target_name()));
    let position: Option<String> = target.session.query_one(&sql, &[]).await.map_err(pg_error)?.get(0);
    let position = position.ok_or_else(lost)?.parse()?;
    let stream = snapshot::resume_slot(environment, back, position).await?;
    let routes = Routes::new(back, &environment.catalog.map())?;
    let pace = Pace::new(environment, |limits| limits.change_rate_bytes);
    Ok(Apply::new(stream, targets, back, routes, position, pace))
}

/// `tenantry_undo_move`: the shard group goes back to where it was, with everything that was written since.
///
/// Errors: 42704 for an unknown move, 55000 when it cannot be undone (any more), 0A000 for what never can; the move stands then.
pub async fn tenantry_undo_move(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    if undo_by_a_move(environment, arguments, notify).await? {
        return Ok(Value::Null);
    }
    let (catalog, mut back) = claim(environment, arguments, Use::Undo).await?;
    back.advance(&catalog, MoveState::Copied, "Catching Up").await?;
    carry_out(environment, catalog, back, TransferMode::Online, notify).await?;
    Ok(Value::Null)
}

/// `tenantry_keep_move`: there will be no way back; what is kept for it is dropped now.
///
/// Errors: as `tenantry_undo_move`.
pub async fn tenantry_keep_move(environment: &MoverEnvironment, arguments: &Value) -> Result<Value> {
    let (catalog, mut back) = claim(environment, arguments, Use::Keep).await?;
    cleanup::clean_up(environment, &catalog, &mut back).await?;
    Ok(Value::Null)
}

/// The pieces of a split are put together where the shard was, an isolated tenant goes back to the others: at any time, as long as
/// they are what the move made of them. False for other moves.
///
/// Errors: 55000 when they are not; those of a move.
async fn undo_by_a_move(environment: &MoverEnvironment, arguments: &Value, notify: &Notify<'_>) -> Result<bool> {
    let id = move_id(arguments)?;
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    let Some(done) = Move::find(&catalog, id).await?.filter(|mv| mv.state == MoveState::Done) else { return Ok(false) };
    drop(catalog);
    let map = environment.catalog.refresh().await?;
    let is_there =
        |group: ShardGroupId| map.colocation(done.colocation).is_some_and(|known| known.group(group).is_some());
    let changed = |what: &str| {
        let message = format!("shard move {id} can no longer be undone");
        PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).detail(what.to_owned())
    };
    if let Some(part) = &done.part {
        let table = map.tables_of(done.colocation).first().map(|table| table.oid.0);
        let table =
            table.filter(|_| is_there(part.group)).ok_or_else(|| changed("The tenant is not isolated any more."))?;
        let tenant = json!({ "table_name": table, "tenant_id": part.tenant.text });
        join::tenantry_return_tenant(environment, &tenant, notify).await?;
        return Ok(true);
    }
    if done.table.is_some() || done.pieces.is_empty() || !done.united.is_empty() {
        return Ok(false);
    }
    let pieces: Vec<ShardGroupId> = done.pieces.iter().map(|piece| piece.group).collect();
    if !pieces.iter().all(|piece| is_there(*piece)) {
        return Err(changed("A piece has been split, put together or taken apart since."));
    }
    unite(environment, done.colocation, &pieces, done.source, notify).await?;
    Ok(true)
}

/// What a way back is claimed for.
enum Use {
    /// Counts as a move of both nodes.
    Undo,
    /// Copies nothing.
    Keep,
}

/// The way back of the move that is meant, with the group's lock and its own.
async fn claim(environment: &MoverEnvironment, arguments: &Value, to: Use) -> Result<(Session, Move)> {
    let id = move_id(arguments)?;
    let cannot = |why: &str| {
        PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("shard move {id} {why}"))
            .hint("Move the shard back with citus_move_shard_placement. moves.undo_window says for how long moves can be undone.")
    };
    environment.catalog.refresh().await?;
    let probe = session::connect(environment, NodeId::COORDINATOR).await?;
    let done = Move::find(&probe, id).await?.ok_or_else(|| {
        PgError::new(SqlState::UNDEFINED_OBJECT, format!("shard move {id} does not exist"))
            .hint("See tenantry.shard_move.")
    })?;
    let back = Move::way_back(&probe, id).await?;
    let back = back.ok_or_else(|| {
        refuse_other_kinds(&done).unwrap_or_else(|| match done.state {
            MoveState::Failed if done.is_rehearsal => moved_nothing(id, "was a rehearsal"),
            MoveState::Failed => moved_nothing(id, "has failed"),
            MoveState::Done => cannot("cannot be undone"),
            _ => cannot("has not ended yet").hint(format!("SELECT tenantry_cancel_move({id}) gives it up.")),
        })
    })?;
    let nodes = match to {
        Use::Undo => BTreeSet::from([back.source, back.target]),
        Use::Keep => BTreeSet::new(),
    };
    let catalog = begin(environment, back.colocation, &nodes).await?;
    lock::acquire_way_back(environment, &catalog, back.id, environment.settings.group_patience).await?;
    let back = back.reload(&catalog).await?;
    if back.state != MoveState::Undoable || !Window::is_open(&catalog, back.id).await? {
        return Err(cannot("can no longer be undone"));
    }
    environment.catalog.refresh().await?;
    Ok((catalog, back))
}

fn moved_nothing(id: i64, why: &str) -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("shard move {id} {why}, there is nothing to undo"))
        .detail("Everything is as it was before it.")
}

fn move_id(arguments: &Value) -> Result<i64> {
    let id = arguments.get("move_id").and_then(Value::as_i64);
    id.ok_or_else(|| PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "move_id cannot be NULL"))
}

/// Only whole shards that went from one node to another have ways back. None for such a move.
fn refuse_other_kinds(mv: &Move) -> Option<PgError> {
    let (what, hint) = if mv.table.is_some() {
        (
            "create_distributed_table_concurrently",
            "Make it a local table again with undistribute_table(table_name).".to_owned(),
        )
    } else if let Some(part) = &mv.part {
        let tenant = literal(&part.tenant.text);
        (
            "an isolation that is not done",
            format!("Put the tenant back with tenantry_return_tenant(table_name, {tenant})."),
        )
    } else if !mv.united.is_empty() {
        ("putting shards together", "Split the shard with citus_split_shard_by_split_points.".to_owned())
    } else if !mv.pieces.is_empty() {
        ("a split that is not done", "See tenantry.shard_move.".to_owned())
    } else if mv.join.is_some() {
        ("returning a tenant", "Isolate the tenant again with tenantry_isolate_tenant.".to_owned())
    } else if mv.back_of.is_some() {
        ("an undo", "Move the shard again with citus_move_shard_placement.".to_owned())
    } else {
        return None;
    };
    Some(PgError::unsupported(format!("{what} cannot be undone")).hint(hint))
}

/// Ends the ways back of shard groups that are about to be moved, split, taken apart or put together. `catalog` has the colocation group's lock.
pub async fn close(environment: &MoverEnvironment, catalog: &Session, mv: &Move) -> Result<()> {
    let concerned = mv.held_groups();
    for back in Move::undoable(catalog).await?.into_iter().filter(|back| concerned.contains(&back.group)) {
        lock::acquire_way_back(environment, catalog, back.id, environment.settings.group_patience).await?;
        let mut back = back.reload(catalog).await?;
        if back.state == MoveState::Undoable {
            cleanup::clean_up(environment, catalog, &mut back).await?;
        }
        lock::release_way_back(catalog, back.id).await?;
    }
    Ok(())
}

/// The way back, to its end; see `run` in mod.rs.
pub async fn run(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &mut Move,
    held: &mut Held,
) -> Result<MoveReport> {
    environment.stop_at(StopPoint::Copied)?;
    let source = session::connect(environment, mv.source).await?;
    let targets = Target::connect(environment, mv).await?;
    check_definition(catalog, &source, mv).await?;
    let map = environment.catalog.map();
    let tables: Vec<SourceTable> = snapshot::tables(&source, mv, &map, &Routes::new(mv, &map)?).await?;
    let watch = Guard::begin(environment, mv);
    let mut apply = watch.during(resume(environment, mv, &targets)).await?;
    let mut marker = Marker::new(source.clone(), mv, environment);
    let settings = &environment.settings;
    let following = async {
        marker.catch_up(&mut apply, settings.near * 10, settings.catch_up_patience).await?;
        if settings.verify {
            verify::verify(environment, mv, &tables, &mut marker, &mut apply).await?;
        }
        Ok(())
    };
    watch.during(following).await?;
    check_definition(catalog, &source, mv).await?;
    mv.advance(catalog, MoveState::CaughtUp, "Final Catchup").await?;
    environment.stop_at(StopPoint::CaughtUp)?;

    let sides = Sides { catalog, source: &source, targets: &targets, watch: &watch, back: None };
    let cutover = cutover::cut_over(environment, sides, mv, &tables, &mut marker, &mut apply, held).await?;
    let report = MoveReport::of(mv, Copied::default(), apply.rows(), cutover);
    environment.stop_at(StopPoint::Switched)?;
    drop(apply);
    finish_switched(environment, catalog, mv, &report).await;
    Ok(report)
}

/// Errors: 55000 when the tables are not what they were when they moved.
async fn check_definition(catalog: &Session, source: &Session, mv: &Move) -> Result<()> {
    let definition = definition::read(source, mv).await?;
    let sql = "SELECT definition IS NOT DISTINCT FROM md5($2) FROM tenantry.shard_move WHERE moveid = $1";
    let row = catalog.query_one(sql, &[&mv.id, &format!("{definition:?}")]).await.map_err(pg_error)?;
    if row.get(0) {
        return Ok(());
    }
    Err(PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("tables of shard group {} were changed since it was moved", mv.group),
    )
    .detail("What was left on the old node does not have these changes.")
    .hint("Move the shard back with citus_move_shard_placement."))
}

/// The old copy gets the name that it had, once it has everything. Repeatable; nothing for other moves.
pub async fn adopt(targets: &[Target], mv: &Move) -> Result<()> {
    if mv.back_of.is_none() {
        return Ok(());
    }
    for target in targets {
        for (kept, schema) in mv.placed_schemas(mv.group).into_iter().zip(mv.schemas_of(mv.group)) {
            if has_schema(&target.session, &kept).await? {
                let sql = format!("ALTER SCHEMA {} RENAME TO {}", identifier(&kept), identifier(&schema));
                target.session.batch_execute(&sql).await.map_err(pg_error)?;
            }
        }
    }
    Ok(())
}

/// A node that could not be reached, or is being restarted: it may come back.
fn may_pass(error: &PgError) -> bool {
    matches!(error.code().class(), "08" | "57") || error.code() == SqlState::OBJECT_IN_USE
}

const INTERRUPTED: &str = "could not follow the way back of a shard move";
const ASK_EVERY: Duration = Duration::from_millis(300);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
