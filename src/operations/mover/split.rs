//! `citus_split_shard_by_split_points` and `tenantry_split_shard`: a shard group is cut into several.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pieces::Piece;
use super::state::Move;
use super::{
    MoverEnvironment, Notify, TransferMode, begin, carry_out, further_places, group_of, schemas, unknown_shard,
};
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{ColocationId, NodeId, ShardGroup, ShardGroupId, ShardId, ShardMap};

/// `citus_split_shard_by_split_points`: each point is the last hash of a piece; one more node than points.
///
/// The shard's whole group is split, with all colocated tables. Errors: 22023 and 42601 for arguments that do not fit.
pub async fn citus_split_shard_by_split_points(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let points = points(arguments)?;
    let nodes = nodes(arguments)?.unwrap_or_default();
    if points.is_empty() {
        return Err(invalid("no split points are given".to_owned()));
    }
    if nodes.len() != points.len() + 1 {
        return Err(invalid(format!(
            "{} split points make {} shards, but {} nodes are given",
            points.len(),
            points.len() + 1,
            nodes.len()
        ))
        .hint("Give one node id more than split points."));
    }
    let mode = TransferMode::of(arguments)?;
    split(environment, shard(arguments)?, mode, notify, |shard, group| {
        check_points(shard, group, &points)?;
        Ok((points.clone(), nodes.clone()))
    })
    .await
}

/// `tenantry_split_shard`: into parts of the same number of hashes, dealt out to the nodes one after the other, or all
/// on the node where the shard is.
///
/// Errors: 22023 for arguments that do not fit.
pub async fn tenantry_split_shard(
    environment: &MoverEnvironment,
    arguments: &Value,
    notify: &Notify<'_>,
) -> Result<Value> {
    let parts = arguments.get("parts").and_then(Value::as_i64).ok_or_else(|| is_null("parts"))?;
    let nodes = nodes(arguments)?;
    if nodes.as_ref().is_some_and(Vec::is_empty) {
        return Err(invalid("no nodes are given".to_owned()));
    }
    let mode = TransferMode::of(arguments)?;
    split(environment, shard(arguments)?, mode, notify, |shard, group| {
        let hashes = i64::from(group.max) - i64::from(group.min) + 1;
        if !(2..=PARTS_MAX.min(hashes)).contains(&parts) {
            return Err(invalid(format!("cannot split shard {shard} into {parts} parts"))
                .detail(format!("It has {hashes} hash values, and one split makes at most {PARTS_MAX} parts.")));
        }
        let points = even_points(group.min, group.max, parts);
        let on = |part: usize| nodes.as_ref().map_or(group.node, |nodes| nodes[part % nodes.len()]);
        Ok((points, (0..parts as usize).map(on).collect()))
    })
    .await
}

/// A shard into pieces on the node where it is; each point is the last hash of a piece, and all are the shard's. Of too many
/// points the first are taken.
///
/// Errors: as above; 42704 when the shard has been split meanwhile.
pub(super) async fn cut_where_it_is(
    environment: &MoverEnvironment,
    shard: ShardId,
    mut points: Vec<i32>,
    notify: &Notify<'_>,
) -> Result<()> {
    points.truncate(PARTS_MAX as usize - 1);
    let on_its_node = |shard: ShardId, group: &ShardGroup| {
        check_points(shard, group, &points)?;
        Ok((points.clone(), vec![group.node; points.len() + 1]))
    };
    split(environment, shard, TransferMode::Online, notify, on_its_node).await.map(drop)
}

/// `cut` answers the last hashes of all pieces but the last, and the nodes of all.
async fn split(
    environment: &MoverEnvironment,
    shard: ShardId,
    mode: TransferMode,
    notify: &Notify<'_>,
    cut: impl Fn(ShardId, &ShardGroup) -> Result<(Vec<i32>, Vec<NodeId>)>,
) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let (colocation, group) = group_to_cut(&map, shard)?;
    let known = taking_part(&group, &cut(shard, &group)?.1);
    let catalog = begin(environment, colocation, &known).await?;
    // What was true before the lock may not be now.
    let map = environment.catalog.refresh().await?;
    let (colocation, group) = group_to_cut(&map, shard)?;
    let (points, nodes) = cut(shard, &group)?;
    if let Some(node) = nodes.iter().find(|id| !map.active_workers().any(|n| n.id == **id && n.should_have_shards)) {
        return Err(invalid(format!("node {node} cannot take shards"))
            .hint("See pg_dist_node for active nodes with shouldhaveshards."));
    }
    further_places(environment, &catalog, &known, &taking_part(&group, &nodes)).await?;
    let sql = "SELECT nextval('tenantry.shard_id') FROM generate_series(1, $1::int4)";
    let ids = catalog.query(sql, &[&(nodes.len() as i32)]).await.map_err(pg_error)?;
    let (mut pieces, mut min) = (Vec::new(), group.min);
    for ((id, node), max) in ids.iter().zip(&nodes).zip(points.into_iter().chain([group.max])) {
        pieces.push(Piece { group: ShardGroupId(id.get::<_, i64>(0) as u64), node: *node, min, max });
        min = max.saturating_add(1);
    }
    let ends = (group.node, nodes[0]);
    let mv = Move::new(colocation, group.id, ends, schemas(&map, colocation));
    let mv = Move::plan(&catalog, Move { pieces, ..mv }).await?;
    carry_out(environment, catalog, mv, mode, notify).await?;
    Ok(Value::Null)
}

/// Whoever has the shard group, or is to have a piece of it.
fn taking_part(group: &ShardGroup, nodes: &[NodeId]) -> BTreeSet<NodeId> {
    nodes.iter().copied().chain([group.node]).collect()
}

/// Errors: 42704 for an unknown shard, 0A000 for one that has no interval to cut.
fn group_to_cut(map: &ShardMap, shard: ShardId) -> Result<(ColocationId, ShardGroup)> {
    let (colocation, group) = group_of(map, shard, "split")?;
    let group = map.colocation(colocation).and_then(|known| known.group(group)).ok_or_else(|| unknown_shard(shard))?;
    let group = group.clone();
    match &group.tenant {
        None => Ok((colocation, group)),
        Some(tenant) => Err(PgError::unsupported(format!("cannot split shard {shard}"))
            .detail(format!("It holds one isolated tenant, \"{}\".", tenant.text))),
    }
}

fn check_points(shard: ShardId, group: &ShardGroup, points: &[i32]) -> Result<()> {
    let (min, max) = (group.min, group.max);
    if let Some(point) = points.iter().find(|point| !(min..=max).contains(*point)) {
        return Err(PgError::new(
            SqlState::SYNTAX_ERROR,
            format!("Split point {point} is outside the min/max range({min}, {max}) for shard id {shard}."),
        ));
    }
    if points.contains(&max) {
        return Err(invalid(format!("split point {max} leaves nothing for the last piece of shard {shard}"))
            .detail("A split point is the last hash value of a piece."));
    }
    match points.windows(2).find(|pair| pair[0] >= pair[1]) {
        None => Ok(()),
        Some(pair) => Err(invalid(format!("split points must grow, but {} follows {}", pair[1], pair[0]))),
    }
}

/// The last hashes of all parts but the last. `parts` is at most the number of hashes.
fn even_points(min: i32, max: i32, parts: i64) -> Vec<i32> {
    let hashes = i64::from(max) - i64::from(min) + 1;
    (1..parts).map(|part| (i64::from(min) + hashes * part / parts - 1) as i32).collect()
}

fn shard(arguments: &Value) -> Result<ShardId> {
    arguments.get("shard_id").and_then(Value::as_u64).map(ShardId).ok_or_else(|| is_null("shard_id"))
}

fn points(arguments: &Value) -> Result<Vec<i32>> {
    let points = arguments.get("split_points").and_then(Value::as_array).ok_or_else(|| is_null("split_points"))?;
    let read = |point: &Value| {
        let text = point.as_str().ok_or_else(|| is_null("a split point"))?;
        text.trim().parse().map_err(|_| {
            PgError::new(
                SqlState::INVALID_TEXT_REPRESENTATION,
                format!("invalid input syntax for type integer: \"{text}\""),
            )
        })
    };
    points.iter().map(read).collect()
}

/// None where no nodes are given.
fn nodes(arguments: &Value) -> Result<Option<Vec<NodeId>>> {
    let Some(nodes) = arguments.get("node_ids").and_then(Value::as_array) else { return Ok(None) };
    let read = |node: &Value| node.as_u64().and_then(|id| u32::try_from(id).ok()).map(NodeId);
    nodes
        .iter()
        .map(|node| read(node).ok_or_else(|| invalid(format!("invalid node id {node}"))))
        .collect::<Result<_>>()
        .map(Some)
}

fn is_null(name: &str) -> PgError {
    PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, format!("{name} cannot be NULL"))
}

fn invalid(message: String) -> PgError {
    PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// Each part is copied by way of a buffer of its own.
const PARTS_MAX: i64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_parts_cover_the_interval_and_differ_by_one_at_most() {
        assert_eq!(even_points(0, 9, 2), [4]);
        assert_eq!(even_points(i32::MIN, i32::MAX, 4), [-1073741825, -1, 1073741823]);
        assert_eq!(even_points(5, 7, 3), [5, 6]);
        assert_eq!(even_points(-1, 5, 2), [1]);
    }
}
