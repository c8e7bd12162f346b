//! A move's row in `tenantry.shard_move`: its state, and the names of everything it makes.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::MoveReport;
use super::copy::Copied;
use super::join::Join;
use super::newcomer::Newcomer;
use super::part::Part;
use super::pieces::Piece;
use super::session::Session;
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, shard_schema};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{ColocationId, NodeId, ShardGroupId, TableOid, Tenant};

/// What is finished. Each is a point that a crash can be repaired from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MoveState {
    Planned,
    TargetCreated,
    Copied,
    CaughtUp,
    /// The placement has moved; the source's remains are still there.
    Switched,
    Done,
    Failed,
    /// A way back that nobody has asked for yet.
    Undoable,
}

impl MoveState {
    pub fn as_str(self) -> &'static str {
        match self {
            MoveState::Planned => "planned",
            MoveState::TargetCreated => "target_created",
            MoveState::Copied => "copied",
            MoveState::CaughtUp => "caught_up",
            MoveState::Switched => "switched",
            MoveState::Done => "done",
            MoveState::Failed => "failed",
            MoveState::Undoable => "undoable",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        use MoveState::*;
        [Planned, TargetCreated, Copied, CaughtUp, Switched, Done, Failed, Undoable]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| PgError::new(SqlState::DATA_CORRUPTED, format!("unknown state \"{text}\" of a shard move")))
    }
}

/// One move of one shard group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub id: i64,
    pub colocation: ColocationId,
    pub group: ShardGroupId,
    pub source: NodeId,
    pub target: NodeId,
    pub state: MoveState,
    /// Schemas of the moved tables, without the group's suffix, sorted.
    pub schemas: Vec<String>,
    /// Source tables, quoted with their shard schema, that got REPLICA IDENTITY FULL for the move.
    pub full_identity: Vec<String>,
    /// Only this leaves; all if none.
    pub part: Option<Part>,
    /// What the shard group is cut into, or what several become; empty where it stays one.
    pub pieces: Vec<Piece>,
    /// Neighbours on the source that become one piece, in the order of their hashes, `group` the first; empty where it leaves
    /// alone.
    pub united: Vec<ShardGroupId>,
    /// The source is a local table of the coordinator, not a shard group.
    pub table: Option<LocalTable>,
    /// The move that this one would undo: its target is what that one left on its source.
    pub back_of: Option<i64>,
    /// The source is an isolated tenant's, and goes into the shard group of its interval.
    pub join: Option<Join>,
    /// It is to be taken back before its cutover.
    pub is_rehearsal: bool,
    /// Reference tables go to a server that takes no part yet, not a shard group to a node.
    pub newcomer: Option<Newcomer>,
}

/// A local table that becomes a distributed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTable {
    pub oid: TableOid,
    pub name: String,
    /// Of the distribution column.
    pub attnum: i16,
    pub type_oid: u32,
    pub collation_oid: u32,
    /// As asked for, should its colocation group be new.
    pub shard_count: u32,
}

impl Move {
    /// All of a shard group, still without a row.
    pub fn new(
        colocation: ColocationId,
        group: ShardGroupId,
        (source, target): (NodeId, NodeId),
        schemas: Vec<String>,
    ) -> Self {
        let (state, full_identity) = (MoveState::Planned, Vec::new());
        let (pieces, united) = (Vec::new(), Vec::new());
        let (part, table, back_of, join) = (None, None, None, None);
        Self {
            id: 0,
            colocation,
            group,
            source,
            target,
            state,
            schemas,
            full_identity,
            part,
            pieces,
            united,
            table,
            back_of,
            join,
            is_rehearsal: false,
            newcomer: None,
        }
    }

    /// Writes and commits the row, before anything is created anywhere. From then on its nodes cannot be removed.
    ///
    /// Errors: 55006 when the group is being moved already, 55000 when one of the nodes has just been removed or disabled.
    pub async fn plan(catalog: &Session, mut planned: Move) -> Result<Self> {
        let sql = "INSERT INTO tenantry.shard_move (colocationid, shard_group_id, source_node, target_node, schemas,
                       tenant, tenant_key, tenant_hash, tenant_group, rest_group, piece_groups, piece_nodes, piece_maxima,
                       relation, relation_name, partkey, key_type, key_collation, shard_count,
                       state, back_of, join_rest, join_merged, join_staging, united_groups, is_rehearsal,
                       relations, target_host, target_port)
                   SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $27,
                       $28, $29, $30
                   WHERE (SELECT count(*) FROM (SELECT FROM tenantry.node
                              WHERE nodeid = ANY ($26) AND (isactive OR nodeid = $3) FOR SHARE) locked) = cardinality($26)
                   RETURNING moveid";
        // What is no node yet is kept by whoever makes it one.
        let targets = planned.targets().into_iter().filter(|_| planned.newcomer.is_none());
        let nodes: BTreeSet<NodeId> = targets.map(|(node, _)| node).chain([planned.source]).collect();
        let nodes: Vec<i32> = nodes.iter().filter(|node| !node.is_coordinator()).map(|node| node.0 as i32).collect();
        let id = |group: ShardGroupId| group.0 as i64;
        let Move {
            colocation,
            group,
            source,
            target,
            schemas,
            part,
            pieces,
            united,
            table,
            state,
            back_of,
            join,
            is_rehearsal,
            newcomer,
            ..
        } = &planned;
        let row = catalog
            .query_opt(
                sql,
                &[
                    &(colocation.0 as i32),
                    &id(*group),
                    &(source.0 as i32),
                    &(target.0 as i32),
                    &schemas,
                    &part.as_ref().map(|part| &part.tenant.text),
                    &part.as_ref().map(|part| &part.tenant.key),
                    &part.as_ref().map(|part| part.hash),
                    &part.as_ref().map(|part| id(part.group)),
                    &part.as_ref().map(|part| id(part.rest)),
                    &pieces.iter().map(|piece| id(piece.group)).collect::<Vec<_>>(),
                    &pieces.iter().map(|piece| piece.node.0 as i32).collect::<Vec<_>>(),
                    &pieces.iter().map(|piece| piece.max).collect::<Vec<_>>(),
                    &table.as_ref().map(|table| table.oid.0),
                    &table.as_ref().map(|table| &table.name),
                    &table.as_ref().map(|table| table.attnum),
                    &table.as_ref().map(|table| table.type_oid),
                    &table.as_ref().map(|table| table.collation_oid),
                    &table.as_ref().map(|table| table.shard_count as i32),
                    &state.as_str(),
                    back_of,
                    &join.map(|join| id(join.rest)),
                    &join.map(|join| id(join.merged)),
                    &join.map(|join| id(join.staging)),
                    &united.iter().copied().map(id).collect::<Vec<_>>(),
                    &nodes,
                    is_rehearsal,
                    &newcomer.as_ref().map(|newcomer| &newcomer.tables),
                    &newcomer.as_ref().map(|newcomer| &newcomer.address.host),
                    &newcomer.as_ref().map(|newcomer| i32::from(newcomer.address.port)),
                ],
            )
            .await
            .map_err(|error| match pg_error(error) {
                error if error.code() == SqlState::UNIQUE_VIOLATION => {
                    PgError::new(SqlState::OBJECT_IN_USE, format!("shard group {group} is being moved already"))
                        .hint("Wait for the running move, or see tenantry.shard_move.")
                }
                error => error,
            })?
            .ok_or_else(|| {
                let what = "a node of the move has been removed or disabled meanwhile";
                PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, what)
            })?;
        planned.id = row.get(0);
        Ok(planned)
    }

    /// Every move that is neither done nor failed, ways back that nobody has asked for left out.
    pub async fn unfinished(catalog: &Session) -> Result<Vec<Self>> {
        let sql = format!("{SELECT} WHERE state NOT IN ('done', 'failed', 'undoable') ORDER BY moveid");
        catalog.query(&sql, &[]).await.map_err(pg_error)?.iter().map(Self::read).collect()
    }

    /// Ways back that nobody has asked for.
    pub async fn undoable(catalog: &Session) -> Result<Vec<Self>> {
        let sql = format!("{SELECT} WHERE state = 'undoable' ORDER BY moveid");
        catalog.query(&sql, &[]).await.map_err(pg_error)?.iter().map(Self::read).collect()
    }

    /// The way back of a move, whatever has become of it.
    pub async fn way_back(catalog: &Session, of: i64) -> Result<Option<Self>> {
        let sql = format!("{SELECT} WHERE back_of = $1");
        catalog.query_opt(&sql, &[&of]).await.map_err(pg_error)?.as_ref().map(Self::read).transpose()
    }

    pub async fn find(catalog: &Session, id: i64) -> Result<Option<Self>> {
        let sql = format!("{SELECT} WHERE moveid = $1");
        catalog.query_opt(&sql, &[&id]).await.map_err(pg_error)?.as_ref().map(Self::read).transpose()
    }

    /// The row as it is now.
    pub async fn reload(&self, catalog: &Session) -> Result<Self> {
        let row = catalog.query_one(&format!("{SELECT} WHERE moveid = $1"), &[&self.id]).await.map_err(pg_error)?;
        Self::read(&row)
    }

    /// Stores the next state; the move's own steps go forward only.
    pub async fn advance(&mut self, catalog: &Session, next: MoveState, phase: &str) -> Result<()> {
        let sql = "UPDATE tenantry.shard_move SET state = $2, phase = $3,
                   finished_at = CASE WHEN $2 IN ('done', 'failed') THEN now() END WHERE moveid = $1 AND state = $4";
        let changed =
            catalog.execute(sql, &[&self.id, &next.as_str(), &phase, &self.state.as_str()]).await.map_err(pg_error)?;
        if changed != 1 {
            return Err(taken_over(self.id));
        }
        let was = std::mem::replace(&mut self.state, next);
        let has_ended = matches!(next, MoveState::Done | MoveState::Failed);
        if has_ended && was != MoveState::Undoable && !self.is_rehearsal {
            outcome(next).increment(1);
        }
        Ok(())
    }

    /// Remembers tables whose replica identity is about to change, so that it can be changed back.
    pub async fn remember_full_identity(&mut self, catalog: &Session, tables: Vec<String>) -> Result<()> {
        let sql = "UPDATE tenantry.shard_move SET full_identity = $2 WHERE moveid = $1";
        catalog.execute(sql, &[&self.id, &tables]).await.map_err(pg_error)?;
        self.full_identity = tables;
        Ok(())
    }

    /// For those who watch: what is going on. `bytes_total` 0 leaves it as it is.
    pub async fn note_phase(&self, catalog: &Session, phase: &str, bytes_total: i64) -> Result<()> {
        let sql =
            "UPDATE tenantry.shard_move SET phase = $2, bytes_total = coalesce(nullif($3::bigint, 0), bytes_total)
                   WHERE moveid = $1";
        catalog.execute(sql, &[&self.id, &phase, &bytes_total]).await.map_err(pg_error)?;
        Ok(())
    }

    pub async fn note_copied(&self, catalog: &Session, copied: Copied) -> Result<()> {
        let sql = "UPDATE tenantry.shard_move SET rows_copied = $2, bytes_copied = $3, copy_microseconds = $4
                   WHERE moveid = $1";
        let (rows, bytes, micros) = (copied.rows as i64, copied.bytes as i64, copied.took.as_micros() as i64);
        catalog.execute(sql, &[&self.id, &rows, &bytes, &micros]).await.map_err(pg_error)?;
        Ok(())
    }

    pub async fn note_report(&self, catalog: &Session, report: &MoveReport) -> Result<()> {
        let sql = "UPDATE tenantry.shard_move SET rows_applied = $2, hold_microseconds = $3, attempts = $4
                   WHERE moveid = $1";
        let (rows, hold) = (report.rows_applied as i64, report.hold.as_micros() as i64);
        catalog.execute(sql, &[&self.id, &rows, &hold, &(report.attempts as i32)]).await.map_err(pg_error)?;
        Ok(())
    }

    pub async fn note_blocks_writes(&self, catalog: &Session) -> Result<()> {
        let sql = "UPDATE tenantry.shard_move SET blocks_writes = true WHERE moveid = $1";
        catalog.execute(sql, &[&self.id]).await.map(|_| ()).map_err(pg_error)
    }

    pub async fn note_error(&self, catalog: &Session, error: &PgError) -> Result<()> {
        let sql = "UPDATE tenantry.shard_move SET error = $2 WHERE moveid = $1";
        catalog.execute(sql, &[&self.id, &error.to_string()]).await.map_err(pg_error)?;
        Ok(())
    }

    /// The slot, the publication and the schema with marker and progress are all called this.
    pub fn name(&self) -> String {
        format!("tenantry_move_{}", self.id)
    }

    /// As `name`, on the target: another one where both may be one server.
    pub fn target_name(&self) -> String {
        if self.renames() { format!("tenantry_part_{}", self.id) } else { self.name() }
    }

    /// The source's schemas, unquoted: the shard groups', one after the other, or the local or reference tables'.
    pub fn shard_schemas(&self) -> Vec<String> {
        if self.table.is_some() || self.newcomer.is_some() {
            return self.schemas.clone();
        }
        self.sources().iter().flat_map(|group| self.schemas_of(*group)).collect()
    }

    /// The shard groups that leave, in the order of their hashes.
    pub fn sources(&self) -> Vec<ShardGroupId> {
        if self.united.is_empty() { vec![self.group] } else { self.united.clone() }
    }

    /// Those whose statements wait for the cutover.
    pub fn held_groups(&self) -> Vec<ShardGroupId> {
        self.sources().into_iter().chain(self.join.map(|join| join.rest)).collect()
    }

    /// May it change more of the catalog than where its own shard group is?
    pub fn concerns_other_groups(&self) -> bool {
        self.renames() || self.table.is_some()
    }

    /// Is the source's rename all that has to be taken back until the flip?
    pub fn can_go_back(&self) -> bool {
        self.join.is_none() && self.back_of.is_none()
    }

    /// Do the rows get to shard groups of other names?
    pub fn renames(&self) -> bool {
        self.part.is_some() || !self.pieces.is_empty() || self.join.is_some()
    }

    /// The nodes that rows go to, each with the shard groups that are to stand there.
    pub fn targets(&self) -> Vec<(NodeId, Vec<ShardGroupId>)> {
        if let Some(join) = self.join {
            return vec![(self.target, vec![join.staging])];
        }
        if self.pieces.is_empty() {
            return vec![(self.target, vec![self.part.as_ref().map_or(self.group, |part| part.group)])];
        }
        let mut targets: Vec<(NodeId, Vec<ShardGroupId>)> = Vec::new();
        for piece in &self.pieces {
            match targets.iter_mut().find(|(node, _)| *node == piece.node) {
                Some((_, groups)) => groups.push(piece.group),
                None => targets.push((piece.node, vec![piece.group])),
            }
        }
        targets
    }

    /// What those are called that stay on the source; none when all leave.
    pub fn rest_schemas(&self) -> Vec<String> {
        self.part.as_ref().map_or_else(Vec::new, |part| self.schemas_of(part.rest))
    }

    /// The schemas of one shard group, unquoted, in the order of `schemas`.
    pub fn schemas_of(&self, group: ShardGroupId) -> Vec<String> {
        if self.newcomer.is_some() {
            return self.schemas.clone();
        }
        self.schemas.iter().map(|schema| shard_schema(schema, group)).collect()
    }

    /// As `schemas_of`, by the names that they have on the target until the switch.
    pub fn placed_schemas(&self, group: ShardGroupId) -> Vec<String> {
        match self.back_of {
            Some(of) => (0..self.schemas.len()).map(|i| fenced(of, i)).collect(),
            None => self.schemas_of(group),
        }
    }

    /// (shard schema, what it is called on the source once fenced), unquoted.
    ///
    /// The second has no part of the first: with a long schema name it would not fit into 63 bytes.
    pub fn fences(&self) -> Vec<(String, String)> {
        self.shard_schemas().into_iter().enumerate().map(|(i, schema)| (schema, fenced(self.id, i))).collect()
    }

    /// The comment by which a target schema is known to be this move's.
    pub fn mark(&self) -> String {
        format!("tenantry move {}", self.id)
    }

    /// The marker table on the source, quoted.
    pub fn marker(&self) -> String {
        format!("{}.marker", identifier(&self.name()))
    }

    /// The marker table on the target, quoted.
    pub fn target_marker(&self) -> String {
        format!("{}.marker", identifier(&self.target_name()))
    }

    fn read(row: &Row) -> Result<Self> {
        let (groups, nodes, maxima): (Vec<i64>, Vec<i32>, Vec<i32>) = (row.get(13), row.get(14), row.get(15));
        let mut pieces = Vec::new();
        let mut min: Option<i32> = row.get(16);
        for ((group, node), max) in groups.into_iter().zip(nodes).zip(maxima) {
            let (group, node) = (ShardGroupId(group as u64), NodeId(node as u32));
            pieces.push(Piece { group, node, min: min.unwrap_or(i32::MIN), max });
            min = max.checked_add(1);
        }
        Ok(Self {
            id: row.get(0),
            colocation: ColocationId(row.get::<_, i32>(1) as u32),
            group: ShardGroupId(row.get::<_, i64>(2) as u64),
            source: NodeId(row.get::<_, i32>(3) as u32),
            target: NodeId(row.get::<_, i32>(4) as u32),
            state: MoveState::parse(row.get(5))?,
            schemas: row.get(6),
            full_identity: row.get(7),
            part: row.get::<_, Option<String>>(8).map(|text| Part {
                tenant: Tenant { key: row.get(9), text },
                hash: row.get(10),
                group: ShardGroupId(row.get::<_, i64>(11) as u64),
                rest: ShardGroupId(row.get::<_, i64>(12) as u64),
            }),
            pieces,
            table: row.get::<_, Option<u32>>(17).map(|oid| LocalTable {
                oid: TableOid(oid),
                name: row.get(18),
                attnum: row.get(19),
                type_oid: row.get(20),
                collation_oid: row.get(21),
                shard_count: row.get::<_, i32>(22) as u32,
            }),
            back_of: row.get(23),
            join: row.get::<_, Option<i64>>(24).map(|rest| Join {
                rest: ShardGroupId(rest as u64),
                merged: ShardGroupId(row.get::<_, i64>(25) as u64),
                staging: ShardGroupId(row.get::<_, i64>(26) as u64),
            }),
            united: row.get::<_, Vec<i64>>(27).into_iter().map(|id| ShardGroupId(id as u64)).collect(),
            is_rehearsal: row.get(28),
            newcomer: Newcomer::read(row, 29)?,
        })
    }
}

fn fenced(id: i64, schema: usize) -> String {
    format!("tenantry_moved_{id}_{schema}")
}

/// The row is not as this move left it: another proxy took it for dead and repaired it.
pub fn taken_over(id: i64) -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("shard move {id} was taken over by a repair"))
        .hint("Run the move again.")
}

const SELECT: &str = "SELECT moveid, colocationid, shard_group_id, source_node, target_node, state, schemas, \
                      full_identity, tenant, tenant_key, tenant_hash, tenant_group, rest_group, \
                      piece_groups, piece_nodes, piece_maxima, \
                      (SELECT minvalue FROM tenantry.shard_group g WHERE g.id = shard_group_id), \
                      relation, relation_name, partkey, key_type, key_collation, shard_count, back_of, join_rest, join_merged, join_staging, \
                      united_groups, is_rehearsal, relations, target_host, target_port FROM tenantry.shard_move";

/// The phase of a move that was meant to be taken back.
pub const REHEARSED: &str = "Rehearsed";

/// Makes the counts of ended moves known before the first ends.
pub fn register_metrics() {
    [MoveState::Done, MoveState::Failed].into_iter().for_each(|state| drop(outcome(state)));
}

/// Moves that this process has brought to an end.
fn outcome(state: MoveState) -> metrics::Counter {
    metrics::counter!("tenantry_moves_total", "outcome" => state.as_str())
}
