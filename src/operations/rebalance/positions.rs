//! How far the change streams of moves under way have got, by their slots: Citus's `LSN` in what is told of a rebalance.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::catalog::pg_error;
use crate::error::Result;
use crate::operations::mover::MoverEnvironment;
use crate::shard_map::NodeId;

/// Of one move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The end of the source's log.
    pub source: String,
    /// Everything before it is on the target.
    pub target: String,
    /// Bytes of log between them.
    pub lag: i64,
}

/// By the moves' ids. Moves without a slot (yet), and those whose source does not answer soon, are not there.
///
/// Errors: those of the catalog.
pub async fn positions(environment: &MoverEnvironment) -> Result<HashMap<i64, Position>> {
    let client = environment.catalog.client(NodeId::COORDINATOR).await?;
    let sql = "SELECT DISTINCT source_node FROM tenantry.shard_move WHERE state NOT IN ('done', 'failed', 'undoable')";
    let rows = client.query(sql, &[]).await.map_err(pg_error)?;
    drop(client);
    let of = |node: NodeId| async move {
        match timeout(PATIENCE, of_node(environment, node)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%node, %error, "a node of a move does not tell how far it has got");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    };
    let mut sources = Vec::new();
    for row in &rows {
        sources.push(of(NodeId(row.try_get::<_, i32>(0).map_err(pg_error)? as u32)));
    }
    Ok(join_all(sources).await.into_iter().flatten().collect())
}

async fn of_node(environment: &MoverEnvironment, node: NodeId) -> Result<Vec<(i64, Position)>> {
    let client = environment.catalog.client(node).await?;
    let rows = client.query(SLOTS, &[]).await.map_err(pg_error)?;
    let read = |row: &tokio_postgres::Row| -> Result<(i64, Position)> {
        let text = |at: usize| row.try_get(at).map_err(pg_error);
        let position = Position { source: text(1)?, target: text(2)?, lag: row.try_get(3).map_err(pg_error)? };
        Ok((row.try_get(0).map_err(pg_error)?, position))
    };
    rows.iter().map(read).collect()
}

const SLOTS: &str = "
SELECT substr(slot_name, 15)::int8, pg_current_wal_lsn()::text, confirmed_flush_lsn::text,
    greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::int8
FROM pg_replication_slots
WHERE slot_name ~ '^tenantry_move_[0-9]{1,18}$' AND database = current_database() AND confirmed_flush_lsn IS NOT NULL";

/// Who asks how a rebalance gets on need not know this at any price.
const PATIENCE: Duration = Duration::from_secs(1);
