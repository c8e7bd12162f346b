//! Is there room for a move on its targets' disks? A disk that a move fills up is that of other tenants too.

use super::MoverEnvironment;
use super::session::Session;
use super::snapshot::SourceTable;
use super::state::Move;
use super::target::Target;
use crate::catalog::{Address, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::operations::disk::{self, ROOM_TO_SPARE, megabytes};
use crate::shard_map::NodeId;

/// Bytes that a target needs to have free, and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub free: i64,
    pub needed: i64,
}

impl Room {
    /// For `bytes` of tables with their indexes. `None` where the server does not tell.
    pub async fn on(target: &Session, bytes: i64) -> Option<Self> {
        Some(Self { free: disk::free(target).await?, needed: bytes.saturating_add(ROOM_TO_SPARE) })
    }

    pub fn is_enough(self) -> bool {
        self.free >= self.needed
    }

    /// In words, as a sentence.
    pub fn told(self) -> String {
        format!("It has {} free; {} are needed.", megabytes(self.free), megabytes(self.needed))
    }
}

/// Asked before anything is created. How much of a shard is one tenant's, nobody knows before.
///
/// Errors: 53100 for a target whose disk has too little room.
pub async fn check(
    environment: &MoverEnvironment,
    source: &Session,
    mv: &Move,
    tables: &[SourceTable],
    targets: &[Target],
) -> Result<()> {
    if mv.part.is_some() {
        return Ok(());
    }
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let sql = "SELECT coalesce(sum(pg_total_relation_size(t::regclass)), 0)::int8 FROM unnest($1::text[]) t";
    let bytes: i64 = source.query_one(sql, &[&names]).await.map_err(pg_error)?.get(0);
    let groups: usize = targets.iter().map(|target| target.groups.len()).sum();
    for target in targets {
        let part = i128::from(bytes) * target.groups.len() as i128 / groups.max(1) as i128;
        if let Some(room) = Room::on(&target.session, part as i64).await.filter(|room| !room.is_enough()) {
            return Err(too_little(environment, target.node, room)?);
        }
    }
    Ok(())
}

/// Errors: 42704 when there is no such node.
fn too_little(environment: &MoverEnvironment, node: NodeId, room: Room) -> Result<PgError> {
    let Address { host, port } = environment.hosts(node)?.swap_remove(0);
    let text = format!("the disk of node {host}:{port} has too little room for the move");
    Ok(PgError::new(SqlState::DISK_FULL, text).detail(room.told()).hint("Make room there, or choose another node."))
}
