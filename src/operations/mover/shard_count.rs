//! `alter_distributed_table(..., shard_count => n)`: a colocation group gets more shards, by cutting those that it has.
//!
//! ```text
//!   3 shards:  |-----------|-----------|-----------|
//!   6 wanted:  |-----|-----|-----|-----|-----|-----|      each shard is cut where the new ones meet, on its own node
//!   4 wanted:  |--------|--------|--------|--------|      refused: shards would have to be put together
//! ```
//!
//! Each cut is a move of its own, under clients, and stands when a later one fails: the same call goes on from there.
//! Isolated tenants keep the shards that they have.

use serde_json::Value;

use super::session::{self, Session};
use super::split;
use super::{MoverEnvironment, Notice, Notify};
use crate::catalog::pg_error;
use crate::catalog::quote::readable;
use crate::error::{PgError, Result, SqlState};
use crate::operations::create_distributed_table::SHARD_COUNT_MAX;
use crate::shard_map::hash::intervals;
use crate::shard_map::{ColocationId, NodeId, ShardId, ShardMap, Table, TableKind, TableOid};

/// `alter_distributed_table`, as far as it is about the number of shards.
///
/// Errors: 0A000 for what it does otherwise, and for numbers to which the shards can't be cut; 22023 for arguments that do not
/// fit; those of a split, after which the shards that were cut before stay so.
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
    let mut has_cut = false;
    loop {
        let map = environment.catalog.refresh().await?;
        let Some((shard, points)) = next_cut(&map, &table, count)? else { break };
        has_cut = true;
        notify(Notice::new(format!("Splitting shard {shard} into {} ...", points.len() + 1)));
        split::cut_where_it_is(environment, shard, points, notify).await?;
    }
    if !has_cut {
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
    let ColocationId(colocation) = table.colocation;
    let sql = "SELECT count(*) FROM tenantry.distributed_table d JOIN pg_class c ON c.oid = d.logicalrelid
               WHERE d.colocationid = $1 AND NOT c.relispartition";
    let tables: i64 = catalog.query_one(sql, &[&(colocation as i32)]).await.map_err(pg_error)?.get(0);
    match cascades {
        Some(true) => Ok(()),
        _ if tables <= 1 => Ok(()),
        None => Err(invalid("cascade_to_colocated parameter is necessary".to_owned())
            .detail(format!("Table {} is colocated with other tables.", readable(&table.name)))
            .hint("With cascade_to_colocated => true the number of their shards is changed too.")),
        Some(false) => Err(PgError::unsupported("colocated tables cannot get different numbers of shards")
            .hint("With cascade_to_colocated => true all of them are changed.")),
    }
}

/// The first shard that has to be cut, and the last hashes of its pieces but the last; none when all is done.
fn next_cut(map: &ShardMap, table: &Table, count: u32) -> Result<Option<(ShardId, Vec<i32>)>> {
    let groups = map.colocation(table.colocation).map(|c| c.intervals()).unwrap_or_default();
    let there: Vec<(i32, i32)> = groups.iter().map(|group| (group.min, group.max)).collect();
    let cuts = cuts(&there, count).ok_or_else(|| {
        let name = readable(&table.name);
        let more = there.len() as u64 * 2;
        PgError::unsupported(format!("cannot change the number of shards of {name} from {} to {count}", there.len()))
            .detail("Shards can be cut, but not put together.")
            .hint(format!("Choose a multiple of the number of shards, {more} for example."))
    })?;
    let Some((at, points)) = cuts.into_iter().enumerate().find(|(_, points)| !points.is_empty()) else {
        return Ok(None);
    };
    let in_group = |shard: &&ShardId| map.group_of_shard(**shard).is_some_and(|(_, group)| group == groups[at].id);
    let shard = map.table_by_oid(table.oid).and_then(|table| table.shards.iter().find(in_group).copied());
    let gone = || PgError::new(SqlState::UNDEFINED_TABLE, "cannot alter table because the table is not distributed");
    Ok(Some((shard.ok_or_else(gone)?, points)))
}

/// For each interval the last hashes of what it is to be cut into, but for its own last one; none where intervals would have to
/// be put together. `there` covers all hashes.
///
/// An end of an interval counts as where a new one should be when it is near: thirds that are cut in two are not quite sixths,
/// because of the remainders.
fn cuts(there: &[(i32, i32)], count: u32) -> Option<Vec<Vec<i32>>> {
    let near = (1i64 << 32) / i64::from(count) / 16;
    let is_at = |point: i32, end: i32| (i64::from(point) - i64::from(end)).abs() <= near;
    let mut wanted: Vec<i32> =
        intervals(count).into_iter().map(|(_, max)| max).filter(|max| *max != i32::MAX).collect();
    for (_, end) in there.iter().filter(|(_, max)| *max != i32::MAX) {
        let at = wanted.iter().position(|point| is_at(*point, *end))?;
        wanted.remove(at);
    }
    Some(there.iter().map(|(min, max)| wanted.iter().copied().filter(|p| (min..max).contains(&p)).collect()).collect())
}

fn invalid(message: String) -> PgError {
    PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of intervals that are cut.
    fn cut(there: &[(i32, i32)], count: u32) -> Option<Vec<(i32, i32)>> {
        let mut pieces = Vec::new();
        for ((min, max), points) in there.iter().zip(cuts(there, count)?) {
            let mut from = *min;
            for to in points.into_iter().chain([*max]) {
                pieces.push((from, to));
                from = to.wrapping_add(1);
            }
        }
        Some(pieces)
    }

    #[test]
    fn shards_become_those_of_a_new_table_or_nearly() {
        for (from, to) in [(1, 1), (1, 7), (2, 4), (4, 32), (32, 64), (32, 96)] {
            let pieces = cut(&intervals(from), to).unwrap();
            assert_eq!(pieces.len(), to as usize, "{from} to {to}");
            let width = (1i64 << 32) / i64::from(to);
            let off = pieces.iter().map(|(min, max)| (i64::from(*max) - i64::from(*min) + 1 - width).abs()).max();
            assert!(off.unwrap() <= i64::from(to), "{from} to {to}: {off:?}");
            assert_eq!(cut(&pieces, to).unwrap(), pieces, "and once is enough");
        }
        assert_eq!(cut(&intervals(2), 4).unwrap(), intervals(4));
        let thirds = cut(&intervals(3), 6).unwrap();
        assert!(cut(&thirds, 12).is_some_and(|pieces| pieces.len() == 12));
    }

    #[test]
    fn what_was_cut_before_is_not_cut_again() {
        let mut some = intervals(4);
        some.splice(1..2, [intervals(8)[2], intervals(8)[3]]);
        assert_eq!(cut(&some, 8).unwrap(), intervals(8));
        assert_eq!(cuts(&some, 8).unwrap().iter().filter(|points| points.is_empty()).count(), 2);
    }

    #[test]
    fn shards_are_not_put_together() {
        for (from, to) in [(2, 1), (4, 6), (32, 48), (8, 4)] {
            assert_eq!(cuts(&intervals(from), to), None, "{from} to {to}");
        }
        assert_eq!(cuts(&[(i32::MIN, 5), (6, 1000), (1001, i32::MAX)], 4), None, "two ends near one");
    }
}
