//! Leaves nothing of a move behind. Every step can be repeated; what is gone already is fine.

use std::time::Duration;

use super::cutover::{self, has_schema};
use super::session::{self, Session, with_short_locks};
use super::state::{LocalTable, Move, MoveState};
use super::{MoverEnvironment, newcomer, row_index, undo};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal, qualified};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{NodeId, ShardMap};

/// Removes what only served the move, and its losing side: the source's after the switch, the target's before it.
///
/// Errors leave the row as it is, for the next repair.
pub async fn clean_up(environment: &MoverEnvironment, catalog: &Session, mv: &mut Move) -> Result<()> {
    clean_up_as(environment, catalog, mv, "Failed").await
}

/// As `clean_up`; `failed` is the last phase of a move that has not switched.
pub async fn clean_up_as(environment: &MoverEnvironment, catalog: &Session, mv: &mut Move, failed: &str) -> Result<()> {
    let mut back = Move::way_back(catalog, mv.id).await?.filter(|back| back.state == MoveState::Undoable);
    if let Some(back) = back.as_mut().filter(|_| mv.state != MoveState::Switched) {
        // The way back's own source may be down.
        free_source(environment, mv).await?;
        remove(environment, catalog, back, None, failed).await?;
    }
    remove(environment, catalog, mv, back.as_ref(), failed).await
}

/// `back`: the way back, which takes over what a switched move leaves.
///
/// The source comes first: its slot keeps WAL, and it serves clients again without waiting for a target that is down.
async fn remove(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &mut Move,
    back: Option<&Move>,
    failed: &str,
) -> Result<()> {
    let source = free_source(environment, mv).await?;
    let map = environment.catalog.map();
    let has_switched = mv.state == MoveState::Switched;
    let mut targets = Vec::new();
    for (node, groups) in mv.targets() {
        // What never became a node is not in the map either.
        if is_removed(&map, node) && (mv.newcomer.is_none() || has_switched) {
            continue;
        }
        match session::connect(environment, node).await {
            Err(error) if newcomer::is_given_up(catalog, mv, &map, &error).await? => {}
            connected => targets.push((connected?, node, groups)),
        }
    }
    let on_target = identifier(&mv.target_name());
    for (target, node, groups) in &targets {
        newcomer::drop_copies(environment, target, mv).await?;
        // The move's schema was created together with the tables.
        if let Some(table) = mv.table.as_ref().filter(|_| !has_switched)
            && has_schema(target, &mv.target_name()).await?
        {
            for schema in groups.iter().flat_map(|group| mv.schemas_of(*group)) {
                let sql = format!("DROP TABLE IF EXISTS {}", qualified(&schema, &table.name));
                with_short_locks(environment, (target, *node), &sql).await?;
            }
        }
        with_short_locks(environment, (target, *node), &format!("DROP SCHEMA IF EXISTS {on_target} CASCADE")).await?;
    }
    let schemas = |group| if has_switched { mv.schemas_of(group) } else { mv.placed_schemas(group) };
    let created: Vec<(&Session, NodeId, String)> = targets
        .iter()
        .flat_map(|(target, node, groups)| {
            groups.iter().flat_map(|group| schemas(*group)).map(move |schema| (target, *node, schema))
        })
        .collect();
    if has_switched {
        match (&source, back) {
            (Some(source), Some(back)) => undo::take_over_remains(environment, catalog, source, mv, back).await?,
            (Some(source), None) => {
                for (_, fenced) in mv.fences() {
                    let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", identifier(&fenced));
                    with_short_locks(environment, (source, mv.source), &sql).await?;
                }
            }
            (None, _) => {}
        }
        for (target, node, schema) in &created {
            row_index::drop_all(environment, (target, *node), mv, schema).await?;
            if is_marked(target, mv, schema).await? {
                let sql = format!("COMMENT ON SCHEMA {} IS NULL", identifier(schema));
                target.batch_execute(&sql).await.map_err(pg_error)?;
            }
        }
        if let Some(source) = source.as_ref().filter(|_| mv.table.is_some() || mv.newcomer.is_some()) {
            undo_full_identity(environment, source, mv).await?;
        }
        if let (Some(table), Some(source)) = (&mv.table, &source) {
            empty_shell(environment, source, table).await?;
        }
        return mv.advance(catalog, MoveState::Done, "Completed").await;
    }
    for (target, node, schema) in &created {
        if is_marked(target, mv, schema).await? {
            with_short_locks(environment, (target, *node), &format!("DROP SCHEMA {} CASCADE", identifier(schema)))
                .await?;
        }
    }
    match mv.state {
        MoveState::Undoable => mv.advance(catalog, MoveState::Done, "Kept").await,
        _ => mv.advance(catalog, MoveState::Failed, failed).await,
    }
}

/// Removes what a move keeps on its source beside the shard group, which is as it was then unless the move has switched. None
/// when the node was removed.
async fn free_source(environment: &MoverEnvironment, mv: &Move) -> Result<Option<Session>> {
    if is_removed(&*environment.catalog.refresh().await?, mv.source) {
        return Ok(None);
    }
    let source = session::connect(environment, mv.source).await?;
    let name = identifier(&mv.name());
    drop_slot(&source, mv).await?;
    with_short_locks(environment, (&source, mv.source), &format!("DROP PUBLICATION IF EXISTS {name}")).await?;
    with_short_locks(environment, (&source, mv.source), &format!("DROP SCHEMA IF EXISTS {name} CASCADE")).await?;
    if mv.state != MoveState::Switched {
        // A fence that a dead proxy had sent may have come through at the last moment; without the marker none can now.
        cutover::unfence(&source, mv).await?;
        undo_full_identity(environment, &source, mv).await?;
    }
    Ok(Some(source))
}

/// With all that was there.
fn is_removed(map: &ShardMap, node: NodeId) -> bool {
    !node.is_coordinator() && map.node(node).is_none()
}

async fn undo_full_identity(environment: &MoverEnvironment, source: &Session, mv: &Move) -> Result<()> {
    for table in &mv.full_identity {
        // One that the move has not got to needs no lock for that, which others may keep for long.
        let sql = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relreplident = 'f')";
        if source.query_one(sql, &[table]).await.map_err(pg_error)?.get(0) {
            with_short_locks(
                environment,
                (source, mv.source),
                &format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT"),
            )
            .await?;
        }
    }
    Ok(())
}

/// A local table's rows stay for a while after they have gone to shards: a statement that was on its way while the table
/// was cut over still reads them, as they were at that moment, rather than none.
async fn empty_shell(environment: &MoverEnvironment, source: &Session, table: &LocalTable) -> Result<()> {
    tokio::time::sleep(SHELL_GRACE).await;
    let sql = "SELECT n.nspname::text, c.relname::text, c.relkind = 'p'
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let Some(row) = source.query_opt(sql, &[&table.oid.0]).await.map_err(pg_error)? else { return Ok(()) };
    let name = qualified(row.get(0), row.get(1));
    // The rows of a partitioned table are its partitions'.
    let only = if row.get(2) { "" } else { "ONLY " };
    with_short_locks(environment, (source, NodeId::COORDINATOR), &format!("TRUNCATE {only}{name}")).await
}

/// Only schemas that this move created.
async fn is_marked(session: &Session, mv: &Move, schema: &str) -> Result<bool> {
    if !has_schema(session, schema).await? {
        return Ok(false);
    }
    let sql =
        "SELECT obj_description(oid, 'pg_namespace') IS NOT DISTINCT FROM $2 FROM pg_namespace WHERE nspname = $1";
    Ok(session.query_one(sql, &[&schema, &mv.mark()]).await.map_err(pg_error)?.get(0))
}

/// A slot that a dead proxy left may still have its sender.
pub(super) async fn drop_slot(source: &Session, mv: &Move) -> Result<()> {
    let name = literal(&mv.name());
    let end_sender = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
         WHERE slot_name = {name} AND active_pid IS NOT NULL"
    );
    let drop = format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {name}");
    for _ in 0..SLOT_ATTEMPTS {
        // A sender whose connection was just closed goes by itself; only a stuck one has to be told.
        match source.batch_execute(&drop).await.map_err(pg_error) {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == SqlState::UNDEFINED_OBJECT => return Ok(()),
            Err(error) if error.code() == SqlState::OBJECT_IN_USE => {}
            Err(error) => return Err(error),
        }
        source.batch_execute(&end_sender).await.map_err(pg_error)?;
        tokio::time::sleep(SLOT_PAUSE).await;
    }
    Err(PgError::new(SqlState::OBJECT_IN_USE, format!("could not drop replication slot {name}: it stays in use")))
}

/// Longer than a proxy needs to hear of a change of the catalog.
const SHELL_GRACE: Duration = Duration::from_secs(1);
const SLOT_ATTEMPTS: usize = 100;
const SLOT_PAUSE: Duration = Duration::from_millis(20);
