//! Locks on the coordinator, for who moves and who changes tables.
//!
//! ```text
//!   a colocation group has lanes:          moves of a whole shard group   one of the first moves.at_once, and the shard group's
//!                                          all other kinds of moves       all of them
//!                                          schema changes                 all of them, shared
//!   a node has moves.per_node places:      all kinds of moves             one of each node that they read or write
//! ```
//!
//! So a few moves go on side by side, and each keeps the others out. A session keeps its locks from start to end. Who has
//! one lane and a shard group's lock knows that no move of that shard group is alive. Lanes are waited for in their order,
//! and by those that have one for its own sake not at all: there is no deadlock. Places come first, and who does not get both
//! keeps none: a move that waits for its turn keeps no schema change waiting.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::MoverEnvironment;
use super::lock_watch::LockWatch;
use super::session::Session;
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{ColocationId, NodeId, ShardGroupId};

/// First keys of a colocation group's locks, from "tncy" in ASCII on. The second is the group's id.
const CLASS: i32 = i32::from_be_bytes(*b"tncy");
/// How many moves of one colocation group, and of one rebalance, may be allowed at the same time.
pub const MOVES_AT_ONCE: RangeInclusive<usize> = 1..=LANES;
const LANES: usize = 32;

fn lanes(function: &str, colocation: ColocationId) -> impl Iterator<Item = String> {
    (0..LANES as i32).map(move |lane| format!("pg_catalog.{function}({}, {})", CLASS + lane, colocation.0 as i32))
}

/// For a transaction that changes tables of the group (DDL, truncate, new tables): waits for moves, and they for it.
pub fn share_statement(colocation: ColocationId) -> String {
    format!("SELECT {}", lanes("pg_advisory_xact_lock_shared", colocation).collect::<Vec<_>>().join(", "))
}

/// For a transaction that moves the group itself: no other move of it is alive until it ends, and no schema change.
pub fn own_statement(colocation: ColocationId) -> String {
    format!("SELECT {}", lanes("pg_advisory_xact_lock", colocation).collect::<Vec<_>>().join(", "))
}

/// As `share_statement`, without waiting; answers 1 or 0.
pub fn try_share_statement(colocation: ColocationId) -> String {
    let lanes = lanes("pg_try_advisory_xact_lock_shared", colocation).collect::<Vec<_>>().join(" AND ");
    format!("SELECT ({lanes})::pg_catalog.int4")
}

/// Takes all lanes for as long as `session` lives: no other move of the group is alive then.
///
/// Errors: 55P03 when moves or schema changes keep one for longer than `patience`.
pub async fn acquire(
    environment: &MoverEnvironment,
    session: &Session,
    colocation: ColocationId,
    patience: Duration,
) -> Result<()> {
    let calls: Vec<_> = lanes("pg_advisory_lock", colocation).collect();
    wait(environment, session, &calls.join(", "), patience).await.map_err(|error| busy(error, colocation))
}

/// Takes one of the first `at_once` lanes for as long as `session` lives.
///
/// Errors: as `acquire`.
pub async fn acquire_lane(
    environment: &MoverEnvironment,
    session: &Session,
    colocation: ColocationId,
    at_once: usize,
    patience: Duration,
) -> Result<()> {
    if try_lanes(session, colocation, at_once).await?.is_some() {
        return Ok(());
    }
    // Whichever is free first would be better, but nobody can wait for that.
    let call = lanes("pg_advisory_lock", colocation).next().unwrap_or_default();
    wait(environment, session, &call, patience).await.map_err(|error| busy(error, colocation))
}

/// Takes one lane of all if one is free; answers how to give it back. For repairs, which are no further moves.
pub async fn try_acquire_lane(session: &Session, colocation: ColocationId) -> Result<Option<String>> {
    try_lanes(session, colocation, LANES).await
}

async fn try_lanes(session: &Session, colocation: ColocationId, at_once: usize) -> Result<Option<String>> {
    let tries: Vec<_> = lanes("pg_try_advisory_lock", colocation)
        .take(at_once.clamp(*MOVES_AT_ONCE.start(), *MOVES_AT_ONCE.end()))
        .enumerate()
        .map(|(lane, call)| format!("WHEN {call} THEN {lane}"))
        .collect();
    let row = session.query_one(&format!("SELECT CASE {} END", tries.join(" ")), &[]).await.map_err(pg_error)?;
    let lane: Option<i32> = row.try_get(0).map_err(pg_error)?;
    Ok(lane
        .and_then(|lane| lanes("pg_advisory_unlock", colocation).nth(lane as usize))
        .map(|call| format!("SELECT {call}")))
}

/// First key of the advisory locks on shard groups that are moved: "tncg" in ASCII. The second is the group's id; two of one
/// second key do no harm, one waits.
const GROUP: i32 = i32::from_be_bytes(*b"tncg");

/// Takes a shard group's lock for as long as `session` lives. A lane is to be had before.
///
/// Errors: 55P03 when another move of it goes on for longer than `patience`.
pub async fn acquire_group(
    environment: &MoverEnvironment,
    session: &Session,
    group: ShardGroupId,
    patience: Duration,
) -> Result<()> {
    let call = format!("pg_catalog.pg_advisory_lock({GROUP}, {})", group.0 as i32);
    wait(environment, session, &call, patience).await.map_err(|error| match error.code() {
        SqlState::LOCK_NOT_AVAILABLE => PgError::new(error.code(), format!("shard group {group} is being moved"))
            .hint("Try again when the other move has ended."),
        _ => error,
    })
}

/// Takes it if nobody has it.
pub async fn try_acquire_group(session: &Session, group: ShardGroupId) -> Result<bool> {
    let sql = "SELECT pg_try_advisory_lock($1, $2)";
    Ok(session.query_one(sql, &[&GROUP, &(group.0 as i32)]).await.map_err(pg_error)?.get(0))
}

pub async fn release_group(session: &Session, group: ShardGroupId) -> Result<()> {
    let sql = "SELECT pg_advisory_unlock($1, $2)";
    session.query_one(sql, &[&GROUP, &(group.0 as i32)]).await.map_err(pg_error)?;
    Ok(())
}

/// Errors: 55P03 when one of the locks is not to be had within `patience`.
async fn wait(environment: &MoverEnvironment, session: &Session, calls: &str, patience: Duration) -> Result<()> {
    let sql = format!("SET lock_timeout TO {}; SELECT {calls}; SET lock_timeout TO 0", patience.as_millis().max(1));
    let watch = LockWatch::of(environment, session, NodeId::COORDINATOR).await?;
    watch.during(patience, async { session.batch_execute(&sql).await.map_err(pg_error) }).await
}

fn busy(error: PgError, colocation: ColocationId) -> PgError {
    match error.code() {
        SqlState::LOCK_NOT_AVAILABLE => {
            PgError::new(error.code(), format!("colocation group {colocation} is being moved or changed"))
                .hint("Try again when the other operation has ended.")
        }
        _ => error,
    }
}

/// How many moves a node may be allowed to take part in at the same time.
pub const MOVES_PER_NODE: RangeInclusive<usize> = 1..=128;
/// First keys of a node's places, from "tnn" and a zero byte on; one for each of `MOVES_PER_NODE`. The second is the node's id.
const PLACE: i32 = i32::from_be_bytes(*b"tnn\0");
/// Nobody can wait for whichever place is free first.
const LOOK_FOR_PLACES_EVERY: Duration = Duration::from_millis(50);

/// Takes a place on each of the nodes for as long as `session` lives, or on none. `per_node` is asked each time: it may
/// change meanwhile. The session has no place on any of them yet: its own would be given to it once more.
///
/// Errors: 55P03 when other moves have them for longer than `patience`.
pub async fn acquire_places(
    session: &Session,
    nodes: &BTreeSet<NodeId>,
    per_node: impl Fn() -> usize,
    patience: Duration,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let (mut taken, mut busy) = (Vec::new(), None);
        for node in nodes {
            match try_acquire_place(session, *node, per_node()).await? {
                Some(place) => taken.push((place, *node)),
                None => {
                    busy = Some(*node);
                    break;
                }
            }
        }
        let Some(busy) = busy else { return Ok(()) };
        for (place, node) in taken {
            let sql = "SELECT pg_advisory_unlock($1, $2)";
            session.query_one(sql, &[&(PLACE + place), &(node.0 as i32)]).await.map_err(pg_error)?;
        }
        if start.elapsed() >= patience {
            let text = format!("node {busy} takes part in as many moves as it may at the same time");
            return Err(PgError::new(SqlState::LOCK_NOT_AVAILABLE, text)
                .hint("Try again when one of them has ended, or raise moves.per_node."));
        }
        tokio::time::sleep(LOOK_FOR_PLACES_EVERY).await;
    }
}

/// The number of the place, if one was free.
async fn try_acquire_place(session: &Session, node: NodeId, per_node: usize) -> Result<Option<i32>> {
    let places = per_node.clamp(*MOVES_PER_NODE.start(), *MOVES_PER_NODE.end()) as i32;
    let tries: Vec<_> = (0..places)
        .map(|place| format!("WHEN pg_catalog.pg_try_advisory_lock({}, {}) THEN {place}", PLACE + place, node.0 as i32))
        .collect();
    let row = session.query_one(&format!("SELECT CASE {} END", tries.join(" ")), &[]).await.map_err(pg_error)?;
    row.try_get(0).map_err(pg_error)
}

/// First key of the advisory locks on ways back: "tncu" in ASCII. The second is the move's id.
const WAY_BACK: i32 = i32::from_be_bytes(*b"tncu");

/// Takes the lock of a way back for as long as `session` lives. Who has it sees that, and gives it up.
///
/// Errors: 55P03 when he does not within `patience`.
pub async fn acquire_way_back(
    environment: &MoverEnvironment,
    session: &Session,
    id: i64,
    patience: Duration,
) -> Result<()> {
    wait(environment, session, &format!("pg_catalog.pg_advisory_lock({WAY_BACK}, {})", id as i32), patience).await
}

/// Takes it if nobody has it.
pub async fn try_acquire_way_back(session: &Session, id: i64) -> Result<bool> {
    let sql = "SELECT pg_try_advisory_lock($1, $2)";
    Ok(session.query_one(sql, &[&WAY_BACK, &(id as i32)]).await.map_err(pg_error)?.get(0))
}

pub async fn release_way_back(session: &Session, id: i64) -> Result<()> {
    let sql = "SELECT pg_advisory_unlock($1, $2)";
    session.query_one(sql, &[&WAY_BACK, &(id as i32)]).await.map_err(pg_error)?;
    Ok(())
}

/// The condition that somebody waits for the lock of a way back.
pub fn is_way_back_wanted(id: i64) -> String {
    format!(
        "EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND NOT l.granted AND l.classid = {WAY_BACK} \
         AND l.objid = {} AND l.objsubid = 2 \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        id as u32
    )
}
