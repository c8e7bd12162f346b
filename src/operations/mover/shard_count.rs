//! `alter_distributed_table(..., shard_count => n)`: a colocation group gets more shards, or fewer.
//!
//! ```text
//!   3 shards:  |-----------|-----------|-----------|
//!   6 wanted:  |-----|-----|-----|-----|-----|-----|      each shard is cut where the new ones meet, on its own node
//!   2 wanted:  |-----------------|-----------------|      the second is cut, then neighbours are put together
//!              |-----------|-----|-----|-----------|
//! ```
//!
//! Each step is a move of its own, under clients, and stands when a later one fails: the same call goes on from there.
//! Isolated tenants keep the shards that they have.

use std::ops::Range;

use serde_json::Value;

use super::session::{self, Session};
use super::split;
use super::unite::unite;
use super::{MoverEnvironment, Notice, Notify};
use crate::catalog::pg_error;
use crate::catalog::quote::readable;
use crate::error::{PgError, Result, SqlState};
use crate::operations::create_distributed_table::SHARD_COUNT_MAX;
use crate::shard_map::hash::intervals;
use crate::shard_map::{ColocationId, NodeId, ShardGroup, ShardGroupId, ShardId, ShardMap, Table, TableKind, TableOid};

/// `alter_distributed_table`, as far as it is about the number of shards.
///
/// Errors: 0A000 for what it does otherwise; 22023 for arguments that do not fit; those of a move, after which the shards that
/// were cut or put together before stay so.
pub async fn alter_distributed_table(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let count = wanted(arguments)?;
    let map = environment.catalog.refresh().await?;
    let table = distributed(&map, arguments)?;
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    check_colocated(&catalog, &table, arguments.get("cascade_to_colocated").and_then(Value::as_bool)).await?;
    let mut has_changed = false;
    loop {
        let map = environment.catalog.refresh().await?;
        let Some(step) = next_step(&map, &table, count)? else { break };
        has_changed = true;
        match step {
            Step::Cut { shard, points } => {
                notify(Notice::new(format!("Splitting shard {shard} into {} ...", points.len() + 1)));
                split::cut_where_it_is(environment, shard, points, notify).await?;
            }
            Step::Unite { shards, groups, node } => {
                let shards: Vec<String> = shards.iter().map(ShardId::to_string).collect();
                notify(Notice::new(format!("Putting shards {} together ...", shards.join(", "))));
                unite(environment, table.colocation, &groups, node, notify).await?;
            }
        }
    }
    if !has_changed {
        notify(Notice::new(format!("table {} has {count} shards already", readable(&table.name))));
    }
    // New tables of this number of shards are colocated with these from now on.
    let sql = "UPDATE tenantry.colocation SET shardcount = $2 WHERE colocationid = $1 AND shardcount <> $2";
    catalog.execute(sql, &[&(table.colocation.0 as i32), &(count as i32)]).await.map_err(pg_error)?;
    Ok(Value::Null)
}

fn wanted(arguments: &Value) -> Result<u32> {
    let is_given = |name: &str| arguments.get(name).is_some_and(|value| !value.is_null());
    if is_given("distribution_column") {
        return Err(PgError::unsupported("changing the distribution column of a table is not supported")
            .hint("Distribute a new table by that column, then INSERT INTO new SELECT ... FROM old."));
    }
    if is_given("colocate_with") {
        return Err(PgError::unsupported("changing the colocation of a table is not supported")
            .hint("Distribute a new table with colocate_with, then INSERT INTO new SELECT ... FROM old."));
    }
    let count = arguments.get("shard_count").and_then(Value::as_i64).ok_or_else(|| {
        invalid(
            "you have to specify at least one of the distribution_column, shard_count or colocate_with parameters"
                .to_owned(),
        )
    })?;
    if !(1..=i64::from(SHARD_COUNT_MAX)).contains(&count) {
        let range = format!("(1 .. {SHARD_COUNT_MAX})");
        return Err(invalid(format!("{count} is outside the valid range for parameter \"shard_count\" {range}")));
    }
    Ok(count as u32)
}

/// Errors: 42P01 for a local table, 0A000 for a reference table.
fn distributed(map: &ShardMap, arguments: &Value) -> Result<Table> {
    let oid = arguments
        .get("table_name")
        .and_then(Value::as_u64)
        .ok_or_else(|| PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "table_name cannot be NULL"))?;
    let Some(table) = map.table_by_oid(TableOid(oid as u32)) else {
        let message = "cannot alter table because the table is not distributed";
        return Err(PgError::new(SqlState::UNDEFINED_TABLE, message));
    };
    match table.kind {
        TableKind::Distributed { .. } => Ok(Table::clone(table)),
        TableKind::Reference => Err(PgError::unsupported("cannot change the number of shards of a reference table")),
    }
}

/// Colocated tables are cut alike, which the caller must have said that he wants. Partitions go with their table.
async fn check_colocated(catalog: &Session, table: &Table, cascades: Option<bool>) -> Result<()> {
    match cascades {
        Some(true) => Ok(()),
        _ if !has_colocated(catalog, table).await? => Ok(()),
        None => Err(invalid("cascade_to_colocated parameter is necessary".to_owned())
            .detail(format!("Table {} is colocated with other tables.", readable(&table.name)))
            .hint("With cascade_to_colocated => true the number of their shards is changed too.")),
        Some(false) => Err(PgError::unsupported("colocated tables cannot get different numbers of shards")
            .hint("With cascade_to_colocated => true all of them are changed.")),
    }
}

/// Is another table cut alike? Partitions are part of their table.
pub(super) async fn has_colocated(catalog: &Session, table: &Table) -> Result<bool> {
    let sql = "SELECT count(*) > 1 FROM tenantry.distributed_table d JOIN pg_class c ON c.oid = d.logicalrelid
               WHERE d.colocationid = $1 AND NOT c.relispartition";
    let ColocationId(colocation) = table.colocation;
    Ok(catalog.query_one(sql, &[&(colocation as i32)]).await.map_err(pg_error)?.get(0))
}

/// One move on the way.
enum Step {
    /// The last hashes of the pieces but the last.
    Cut { shard: ShardId, points: Vec<i32> },
    /// The table's shards with their groups, neighbours, which become one on the node.
    Unite { shards: Vec<ShardId>, groups: Vec<ShardGroupId>, node: NodeId },
}

/// The next move; none when all is done.
fn next_step(map: &ShardMap, table: &Table, count: u32) -> Result<Option<Step>> {
    let gone = || PgError::new(SqlState::UNDEFINED_TABLE, "cannot alter table because the table is not distributed");
    let table = map.table_by_oid(table.oid).ok_or_else(gone)?;
    let groups = map.colocation(table.colocation).map(|c| c.intervals()).unwrap_or_default();
    let there: Vec<(i32, i32)> = groups.iter().map(|group| (group.min, group.max)).collect();
    let shard_of = |group: &ShardGroup| {
        let in_group = |shard: &&ShardId| map.group_of_shard(**shard).is_some_and(|(_, id)| id == group.id);
        table.shards.iter().find(in_group).copied().ok_or_else(gone)
    };
    let Changes { cuts, runs } = changes(&there, count);
    if let Some((at, points)) = cuts.into_iter().enumerate().find(|(_, points)| !points.is_empty()) {
        return Ok(Some(Step::Cut { shard: shard_of(&groups[at])?, points }));
    }
    let Some(run) = runs.into_iter().find(|run| run.len() > 1) else { return Ok(None) };
    let run = &groups[run];
    let node = home(map, table.colocation, run)?;
    let shards = run.iter().map(shard_of).collect::<Result<_>>()?;
    Ok(Some(Step::Unite { shards, groups: run.iter().map(|group| group.id).collect(), node }))
}

/// Where the shard groups come together: of the nodes that have one of them that with the fewest shards, so that all get alike.
///
/// Errors: 55000 when no node may take shards.
fn home(map: &ShardMap, colocation: ColocationId, run: &[ShardGroup]) -> Result<NodeId> {
    let all = map.colocation(colocation).map(|known| known.intervals()).unwrap_or_default();
    let has = |node: NodeId, groups: &[ShardGroup]| groups.iter().filter(|group| group.node == node).count();
    let nodes = map.active_workers().filter(|node| node.should_have_shards).map(|node| node.id);
    nodes.min_by_key(|node| (has(*node, run) == 0, has(*node, all), node.0)).ok_or_else(|| {
        PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "no node can take shards")
            .hint("See pg_dist_node for active nodes with shouldhaveshards.")
    })
}

/// What makes the intervals that are there those that are wanted.
struct Changes {
    /// For each interval the last hashes of what it is to be cut into, but for its own last one.
    cuts: Vec<Vec<i32>>,
    /// Once nothing is left to cut: the intervals, in runs that are to become one each.
    runs: Vec<Range<usize>>,
}

/// `there` covers all hashes.
///
/// An end of an interval counts as where a new one should be when it is near: thirds that are cut in two are not quite sixths,
/// because of the remainders.
fn changes(there: &[(i32, i32)], count: u32) -> Changes {
    let near = (1i64 << 32) / i64::from(count) / 16;
    let distance = |point: i32, end: i32| (i64::from(point) - i64::from(end)).abs();
    let last = there.len().saturating_sub(1);
    let (mut stays, mut missing) = (vec![false; there.len()], Vec::new());
    for point in intervals(count).into_iter().map(|(_, max)| max).filter(|max| *max != i32::MAX) {
        let ends = there[..last].iter().map(|(_, max)| distance(point, *max)).enumerate();
        match ends.min_by_key(|(_, distance)| *distance).filter(|(_, distance)| *distance <= near) {
            Some((at, _)) => stays[at] = true,
            None => missing.push(point),
        }
    }
    let in_interval = |(min, max): &(i32, i32)| missing.iter().copied().filter(|p| (*min..*max).contains(p)).collect();
    let cuts = there.iter().map(in_interval).collect();
    let (mut runs, mut from) = (Vec::new(), 0);
    for (at, stays) in stays.into_iter().enumerate() {
        if stays || at == last {
            runs.push(from..at + 1);
            from = at + 1;
        }
    }
    Changes { cuts, runs }
}

fn invalid(message: String) -> PgError {
    PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of intervals when all is done, and that nothing is left to do then.
    fn changed(there: &[(i32, i32)], count: u32) -> Vec<(i32, i32)> {
        let mut pieces = Vec::new();
        for ((min, max), points) in there.iter().zip(changes(there, count).cuts) {
            let mut from = *min;
            for to in points.into_iter().chain([*max]) {
                pieces.push((from, to));
                from = to.wrapping_add(1);
            }
        }
        let Changes { cuts, runs } = changes(&pieces, count);
        assert!(cuts.iter().all(Vec::is_empty), "once is enough");
        let united: Vec<_> = runs.into_iter().map(|run| (pieces[run.start].0, pieces[run.end - 1].1)).collect();
        let Changes { cuts, runs } = changes(&united, count);
        assert!(cuts.iter().all(Vec::is_empty) && runs.iter().all(|run| run.len() == 1));
        united
    }

    #[test]
    fn shards_become_those_of_a_new_table_or_nearly() {
        for (from, to) in
            [(1, 1), (1, 7), (2, 4), (4, 32), (32, 64), (32, 96), (2, 1), (4, 6), (32, 48), (8, 4), (3, 2), (32, 5)]
        {
            let pieces = changed(&intervals(from), to);
            assert_eq!(pieces.len(), to as usize, "{from} to {to}");
            let width = (1i64 << 32) / i64::from(to);
            let off = pieces.iter().map(|(min, max)| (i64::from(*max) - i64::from(*min) + 1 - width).abs()).max();
            assert!(off.unwrap() <= width / 8, "{from} to {to}: {off:?}");
        }
        assert_eq!(changed(&intervals(2), 4), intervals(4));
        assert_eq!(changed(&intervals(4), 2), intervals(2));
        let thirds = changed(&intervals(3), 6);
        assert_eq!(changed(&thirds, 12).len(), 12);
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        let mut some = intervals(4);
        some.splice(1..2, [intervals(8)[2], intervals(8)[3]]);
        assert_eq!(changed(&some, 8), intervals(8));
        assert_eq!(changes(&some, 8).cuts.iter().filter(|points| points.is_empty()).count(), 2);
        assert_eq!(changed(&some, 4), intervals(4));
        let sizes: Vec<usize> = changes(&some, 4).runs.iter().map(Range::len).collect();
        assert_eq!(sizes, [1, 2, 1, 1]);
    }

    #[test]
    fn of_two_ends_near_one_the_nearer_stays() {
        let there = [(i32::MIN, 5), (6, 1000), (1001, i32::MAX)];
        assert_eq!(changes(&there, 2).runs, [0..1, 1..3]);
        assert_eq!(changed(&there, 4).len(), 4);
    }
}
