//! `create_distributed_table_concurrently`: a local table becomes a distributed one while clients read and write it.
//!
//! ```text
//!   coordinator:  public.orders ──slot, COPY, stream──> public_<group>.orders on the workers, each row by its hash
//!                     └─ hold, LOCK TABLE, last marker ─ marker on every worker ─ catalog rows, seal; COMMIT ─ release
//! ```
//!
//! The lock keeps everybody out from before the last marker until the catalog says that the table is distributed: both
//! are on the coordinator, so the flip is one transaction with the table's own lock, and a crash before it leaves all as
//! it was. Who waited for the lock then finds the table sealed, and its proxy plans the statement again. Of a partitioned
//! table the partitions' rows are copied and followed, partition by partition, and all become distributed at once.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout_at;

use super::attempt::{beside_stream, too_late};
use super::attempts::Attempts;
use super::cutover::Cutover;
use super::everywhere::Held;
use super::guard::Guard;
use super::lock_watch::LockWatch;
use super::marker::Marker;
use super::online::{Followed, Making, Online};
use super::pieces::{Piece, Routes};
use super::session::{Session, is_lock_failure, not_answering};
use super::state::{LocalTable, Move, MoveState, taken_over};
use super::stream::Apply;
use super::target::{self, Target};
use super::{
    MoveReport, MoverEnvironment, Notify, StopPoint, TransferMode, begin, carry_out, finish_switched, further_places,
    room, session, snapshot,
};
use crate::catalog::quote::{qualified, shard_schema};
use crate::catalog::{nodes, pg_error, tables};
use crate::error::{PgError, Result, SqlState};
use crate::operations::create_distributed_table::{
    Request, SHARD_COUNT_DEFAULT, check_request, check_same_key, check_schema_name, colocation_partner, deal_out,
    distribution_column, refuse_distributed, refuse_without_workers, rows_of, wanted_shard_count,
};
use crate::operations::partitions::{Family, refuse_partition_alone};
use crate::operations::table_checks::{self, Intent};
use crate::operations::table_definition::{ColumnDefinition, TableDefinition};
use crate::operations::{missing_types, sequences, triggers};
use crate::shard_map::{ColocationGroup, ColocationId, HashType, NodeId, ShardGroup, ShardGroupId, ShardMap, TableOid};

#[derive(Deserialize)]
struct Arguments {
    table_name: Option<u32>,
    distribution_column: Option<String>,
    distribution_type: Option<String>,
    colocate_with: Option<String>,
    /// What `colocate_with` names.
    colocate_oid: Option<i64>,
    shard_count: Option<i32>,
    /// `citus.shard_count` of the caller's session.
    shard_count_default: Option<i64>,
}

/// Errors: those of `create_distributed_table`; 0A000 for foreign keys from tables that stay local; 55006 while another
/// such call is at work; 55000 when the table was changed meanwhile.
pub async fn create_distributed_table_concurrently(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let arguments: Arguments = serde_json::from_value(arguments.clone())
        .map_err(|e| PgError::new(SqlState::INTERNAL_ERROR, format!("arguments do not fit the signature: {e}")))?;
    let required =
        |name: &str| PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, format!("argument \"{name}\" must not be null"));
    let request = Request {
        table: TableOid(arguments.table_name.ok_or_else(|| required("table_name"))?),
        column: arguments.distribution_column,
        method: arguments.distribution_type.ok_or_else(|| required("distribution_type"))?,
        colocate_with: arguments.colocate_with.ok_or_else(|| required("colocate_with"))?,
        shard_count: arguments.shard_count,
        // A negative one is as wrong as none.
        shard_count_default: match arguments.shard_count_default {
            Some(count) => u32::try_from(count).unwrap_or_default(),
            None => SHARD_COUNT_DEFAULT,
        },
    };
    check_request(&request)?;
    let probe = session::connect(environment, NodeId::COORDINATOR).await?;
    let map = environment.catalog.refresh().await?;
    let family = read(&probe, request.table).await?.0;
    let column = check(&probe, &family, &map, &request).await?.clone();
    let colocation = colocation(&probe, &map, family.root(), &column, &request, arguments.colocate_oid).await?;

    let count = wanted_shard_count(&request) as usize;
    let homes = |map: &ShardMap, groups: &[ShardGroup]| -> BTreeSet<NodeId> {
        let known = map.colocation(colocation).map(|known| known.shard_groups.as_slice());
        known.unwrap_or(groups).iter().map(|group| group.node).chain([NodeId::COORDINATOR]).collect()
    };
    let known = homes(&map, &deal_out(&map, &vec![0; count]));
    let catalog = begin(environment, colocation, &known).await?;
    // What was true before the lock may not be now.
    let map = environment.catalog.refresh().await?;
    let family = read(&catalog, request.table).await?.0;
    let column = check(&catalog, &family, &map, &request).await?.clone();
    for member in family.definitions() {
        table_checks::check_new(member, &map, Intent::Distributed { column: &column.name, colocation })?;
    }
    let definition = family.root();
    let groups = match map.colocation(colocation) {
        Some(colocation) => colocation.shard_groups.clone(),
        None => {
            refuse_without_workers(&map)?;
            let sql = "SELECT nextval('tenantry.shard_id') FROM generate_series(1, $1::int4)";
            let ids = catalog.query(sql, &[&(wanted_shard_count(&request) as i32)]).await.map_err(pg_error)?;
            deal_out(&map, &ids.iter().map(|row| row.get::<_, i64>(0) as u64).collect::<Vec<_>>())
        }
    };
    further_places(environment, &catalog, &known, &homes(&map, &groups)).await?;
    check_schema_name(&definition.schema, &groups)?;
    let pieces: Vec<Piece> =
        groups.iter().map(|g| Piece { group: g.id, node: g.node, min: g.min, max: g.max }).collect();
    let Some(first) = pieces.first() else {
        return Err(PgError::new(SqlState::INTERNAL_ERROR, format!("colocation group {colocation} has no shards")));
    };
    for node in pieces.iter().map(|piece| piece.node).collect::<BTreeSet<_>>() {
        let session = session::connect(environment, node).await?;
        missing_types::make_on(&catalog, &session, request.table).await?;
        for member in family.definitions() {
            triggers::check_functions_on(&session, member, node).await?;
        }
    }
    let ends = (NodeId::COORDINATOR, first.node);
    let table = LocalTable {
        oid: request.table,
        name: definition.name.clone(),
        attnum: column.attnum,
        type_oid: column.type_oid,
        collation_oid: column.collation_oid,
        shard_count: wanted_shard_count(&request),
    };
    let mv = Move::new(colocation, NO_GROUP, ends, vec![definition.schema.clone()]);
    let mv = Move::plan(&catalog, Move { pieces, table: Some(table), ..mv }).await.map_err(|error| {
        if error.code() != SqlState::OBJECT_IN_USE {
            return error;
        }
        PgError::new(error.code(), "another create_distributed_table_concurrently operation is in progress")
            .hint("Make sure that the concurrent operation has finished and re-run the command")
    })?;
    carry_out(environment, catalog, mv, TransferMode::Online, notify).await?;
    Ok(Value::Null)
}

/// What makes the table fit for it, whatever its colocation group.
async fn check<'a>(
    session: &Session,
    family: &'a Family,
    map: &ShardMap,
    request: &Request,
) -> Result<&'a ColumnDefinition> {
    let definition = family.root();
    refuse_distributed(map, definition)?;
    refuse_partition_alone(definition)?;
    let (column, _) = distribution_column(definition, request.column.as_deref().unwrap_or_default())?;
    family.check_kinds()?;
    if let Some(other) = family.definitions().find_map(|member| member.referenced_by.first()) {
        let kind = match map.table_by_oid(TableOid(*other)) {
            Some(table) if table.is_reference() => "reference",
            Some(_) => "distributed",
            None => "regular",
        };
        let sql = "SELECT relname::text, oid::regclass::text FROM pg_class WHERE oid = $1";
        let row = session.query_one(sql, &[other]).await.map_err(pg_error)?;
        let (name, printed): (&str, &str) = (row.get(0), row.get(1));
        let message = format!("relation {} is referenced by a foreign key from {name}", definition.name);
        return Err(PgError::unsupported(message)
            .detail(format!("foreign keys from a {kind} table to a distributed table are not supported."))
            .hint(format!(
                "Drop the foreign key of {printed}, or call create_distributed_table, which lets it wait."
            )));
    }
    Ok(column)
}

/// The table with its partitions, and the text that they were read from.
async fn read(session: &Session, table: TableOid) -> Result<(Family, String)> {
    let row = session.query_one(&Family::statement(table), &[]).await.map_err(pg_error)?;
    let text: Option<String> = row.get(0);
    Ok((Family::parse(table, text.as_deref())?, text.unwrap_or_default()))
}

/// The colocation group to join, or the id of one that is still to be made.
async fn colocation(
    session: &Session,
    map: &ShardMap,
    definition: &TableDefinition,
    column: &ColumnDefinition,
    request: &Request,
    partner: Option<i64>,
) -> Result<ColocationId> {
    let id = async |sql: &str| {
        let row = session.query_opt(sql, &[]).await.map_err(pg_error)?;
        Ok::<_, PgError>(row.map(|row| ColocationId(row.get::<_, i32>(0) as u32)))
    };
    let other = &request.colocate_with;
    match other.to_ascii_lowercase().as_str() {
        "default" => {
            let count = wanted_shard_count(request);
            if let Some(known) = id(&tables::find_colocation(count, column.type_oid, column.collation_oid)).await? {
                return Ok(known);
            }
        }
        "none" => {}
        _ => {
            let partner = colocation_partner(map, definition, other, partner)?;
            let row = session.query_one(&tables::colocation(partner), &[]).await.map_err(pg_error)?;
            let key = (row.get::<_, i64>(1).to_string(), row.get::<_, i64>(2).to_string());
            check_same_key(definition, column, other, (&key.0, &key.1))?;
            return Ok(partner);
        }
    }
    refuse_without_workers(map)?;
    let fresh = id("SELECT nextval('tenantry.colocation_id')::int4").await?;
    fresh.ok_or_else(|| PgError::new(SqlState::INTERNAL_ERROR, "no id for a colocation group"))
}

/// All states, one after the other; see `run` in mod.rs.
pub async fn run(
    environment: &MoverEnvironment,
    catalog: &Session,
    mv: &mut Move,
    notify: &Notify<'_>,
) -> Result<MoveReport> {
    let Some(table) = mv.table.clone() else { return Err(taken_over(mv.id)) };
    let source = session::connect(environment, mv.source).await?;
    let targets = Target::connect(environment, mv).await?;
    let family = read(&source, table.oid).await?.0;
    let column = &column_of(&family, &table)?.name;
    sequences::prepare_committed(&environment.catalog, family.definitions(), column).await?;
    snapshot::check_source(&source).await?;
    let map = environment.catalog.map();
    let routes = routes(&family, &table, mv, &map)?;
    let tables = snapshot::tables(&source, mv, &map, &routes).await?;
    room::check(environment, &source, mv, &tables, &targets).await?;
    let watch = Guard::begin(environment, mv);
    snapshot::prepare(environment, catalog, &source, mv, &tables, Some(&watch), notify).await?;
    let (mut family, text) = read(&source, table.oid).await?;
    family.forget_full_identity(&mv.full_identity);
    let schema = &family.root().schema;
    let has_schemas = map.tables_of(mv.colocation).iter().any(|table| table.schema == *schema);
    for target in &targets {
        let mut statements = Vec::new();
        for group in &target.groups {
            if !has_schemas {
                statements.push(family.root().shard_schema(*group));
                statements.push(target::mark(mv, &shard_schema(schema, *group)));
            }
            statements.push(family.for_shard(&map, *group)?.table);
        }
        target::create(target, mv, statements).await?;
    }
    mv.advance(catalog, MoveState::TargetCreated, "Setting Up").await?;
    environment.stop_at(StopPoint::TargetCreated)?;

    let slot = watch.during(snapshot::create_slot(environment, mv)).await?;
    environment.stop_at(StopPoint::SlotCreated)?;
    let online = Online { environment, catalog, source: &source, targets: &targets, tables: &tables, watch: &watch };
    let making = Shards { family: &family, map: &map };
    let Followed { copied, mut marker, mut apply } = online.copy_and_follow(mv, routes, slot, &making).await?;
    mv.advance(catalog, MoveState::CaughtUp, "Final Catchup").await?;
    environment.stop_at(StopPoint::CaughtUp)?;

    let cutover = cut_over(environment, mv, (&family, &text), &mut marker, &mut apply, &watch).await?;
    let report = MoveReport::of(mv, copied, apply.rows(), cutover);
    environment.stop_at(StopPoint::Switched)?;
    drop(apply);
    finish_switched(environment, catalog, mv, &report).await;
    Ok(report)
}

fn column_of<'f>(family: &'f Family, table: &LocalTable) -> Result<&'f ColumnDefinition> {
    let column = family.root().columns.iter().find(|column| column.attnum == table.attnum);
    column.ok_or_else(|| changed(&table.name))
}

/// To the shard groups that there are, or to those that are to be.
fn routes(family: &Family, table: &LocalTable, mv: &Move, map: &ShardMap) -> Result<Routes> {
    let column = column_of(family, table)?;
    let hash = HashType::from_oid(column.base_oid).ok_or_else(|| changed(&table.name))?;
    let groups = match map.colocation(mv.colocation) {
        Some(colocation) => ColocationGroup::clone(colocation),
        None => {
            let group = |p: &Piece| ShardGroup { id: p.group, min: p.min, max: p.max, node: p.node, tenant: None };
            ColocationGroup::new(mv.colocation, Some(hash), mv.pieces.iter().map(group).collect())
        }
    };
    let tables = family.definitions().map(|member| (member.schema.clone(), member.name.clone()));
    Ok(Routes::of_tables(tables, &column.name, groups, hash))
}

/// What the table's shards are to be.
struct Shards<'a> {
    family: &'a Family,
    map: &'a ShardMap,
}

impl Making for Shards<'_> {
    async fn build_keys_and_indexes(&self, online: &Online<'_>, _: &Move) -> Result<()> {
        try_join_all(online.targets.iter().map(|target| self.build_on(target))).await.map(drop)
    }

    async fn finish(&self, online: &Online<'_>, _: &Move, apply: &mut Apply) -> Result<()> {
        for (target, group) in target::each_group(online.targets) {
            let stages = self.family.for_shard(self.map, group)?;
            let (added, applied) = apply.run_while(target::validate(&target.session, &stages.foreign_keys)).await;
            applied?;
            added?;
            let (done, applied) = apply.run_while(target.session.batch_execute(&stages.rest)).await;
            applied?;
            done.map_err(pg_error)?;
            // That of a partitioned table looks at its partitions too.
            let definition = self.family.root();
            let name = qualified(&shard_schema(&definition.schema, group), &definition.name);
            target::analyze(target, &name, &mut Some(&mut *apply)).await?;
        }
        Ok(())
    }
}

impl Shards<'_> {
    async fn build_on(&self, target: &Target) -> Result<()> {
        for group in &target.groups {
            let statements = self.family.for_shard(self.map, *group)?.keys_and_indexes;
            target.session.batch_execute(&statements).await.map_err(pg_error)?;
        }
        Ok(())
    }
}

/// Hold, lock, last changes, flip, release. `definition`: the text that `family` was read from, and the targets made.
///
/// Errors: 55P03 when the lock could not be had before `cutover_patience` was over, 55000 when the table was changed.
async fn cut_over(
    environment: &MoverEnvironment,
    mv: &mut Move,
    (family, definition): (&Family, &str),
    marker: &mut Marker,
    apply: &mut Apply,
    watch: &Guard,
) -> Result<Cutover> {
    let settings = &environment.settings;
    let table = family.root();
    // In the order in which create_distributed_table locks.
    let lock = format!(
        "BEGIN; SET LOCAL lock_timeout TO {}; SET LOCAL synchronous_commit TO on; {}; {}; \
         LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
        settings.lock_timeout.as_millis().max(1),
        nodes::lock_against_changes(),
        tables::lock(),
        rows_of(table),
    );
    let mut attempts = Attempts::new(environment, watch);
    loop {
        let present = attempts.next(marker, apply).await?;
        // Its end undoes all that is not committed.
        let locker = session::connect(environment, NodeId::COORDINATOR).await?;
        let locks = LockWatch::of(environment, &locker, NodeId::COORDINATOR).await?;
        let held_at = Instant::now();
        let names = family.definitions().map(|member| member.name.clone()).collect();
        let mut hold = Held::tables(environment, names);
        let spares_transactions = attempts.spares_transactions();
        let until = (held_at + settings.fence_patience).into();
        let mut arrivals = apply.arrivals();
        let attempt = async {
            let drained_until = tokio::time::Instant::now() + settings.lock_timeout;
            if let Err(error) = hold.drain(environment, &present, drained_until).await
                && spares_transactions
            {
                return Ok((Err(error.hint(OPEN_TRANSACTIONS)), Held::default()));
            }
            let locked = async { locker.batch_execute(&lock).await.map_err(pg_error) };
            match timeout_at(until, locks.during(settings.lock_timeout, locked))
                .await
                .unwrap_or_else(|_| Err(not_answering("coordinator")))
            {
                Err(error) if is_lock_failure(&error) => {
                    return Ok((Err(error.hint(OPEN_TRANSACTIONS)), Held::default()));
                }
                locked => locked?,
            }
            environment.stop_at(StopPoint::Fenced)?;
            if read(&locker, table.oid()).await?.1 != definition {
                return Err(changed(&table.name));
            }
            let id = marker.insert("fence").await?;
            if timeout_at(until, arrivals.wait(id)).await == Ok(true) {
                return Ok((Ok(()), hold));
            }
            locker.batch_execute("ROLLBACK").await.map_err(pg_error)?;
            Ok((Err(too_late()), Held::default()))
        };
        let (attempted, hold) = beside_stream(apply, watch, attempts.patience(), attempt).await?;
        if let Err(why) = attempted {
            drop((hold, locks, locker));
            attempts.pause(why, apply).await?;
            continue;
        }
        environment.stop_at(StopPoint::FenceApplied)?;
        let row = locker.query_one("SELECT tenantry.switch_table($1)", &[&mv.id]).await.map_err(pg_error)?;
        if !row.get::<_, bool>(0) {
            return Err(taken_over(mv.id));
        }
        locker.batch_execute("COMMIT").await.map_err(pg_error)?;
        mv.state = MoveState::Switched;
        if let Err(error) = environment.catalog.refresh().await {
            // It has happened. Writes on the old map meet the seal and ask again.
            tracing::warn!(move_id = mv.id, %error, "could not reload the shard map after distributing a table");
        }
        drop(hold);
        return Ok(Cutover { hold: held_at.elapsed(), attempts: attempts.number });
    }
}

fn changed(table: &str) -> PgError {
    let message = format!("table \"{table}\" was changed while it was being distributed");
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint("Run it again.")
}

const OPEN_TRANSACTIONS: &str = "Transactions on this table were open for too long; try again later.";

/// No shard group is the source.
const NO_GROUP: ShardGroupId = ShardGroupId(0);
