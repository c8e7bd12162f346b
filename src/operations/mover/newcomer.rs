//! A server that takes no part yet: reference tables are copied to it before it becomes a node.
//!
//! Where it is stands in the move's row, because the catalog may never have it.

use tokio_postgres::Row;

use super::MoverEnvironment;
use super::cutover::has_schema;
use super::session::{Session, with_short_locks};
use super::state::{Move, MoveState};
use crate::catalog::quote::{identifier, qualified};
use crate::catalog::{Address, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::ShardMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    pub address: Address,
    /// The reference tables, quoted, with their schemas.
    pub tables: Vec<String>,
}

impl Newcomer {
    /// From three columns of a move's row.
    ///
    /// Errors: XX001 when they do not go together.
    pub fn read(row: &Row, first: usize) -> Result<Option<Self>> {
        let (tables, host, port): (Option<Vec<String>>, Option<String>, Option<i32>) =
            (row.get(first), row.get(first + 1), row.get(first + 2));
        let Some(tables) = tables else { return Ok(None) };
        let address = host.zip(port.and_then(|port| u16::try_from(port).ok()));
        let (host, port) = address.ok_or_else(|| {
            PgError::new(SqlState::DATA_CORRUPTED, "a copy of reference tables has no server that it goes to")
        })?;
        Ok(Some(Self { address: Address { host, port }, tables }))
    }
}

/// Drops the copies of a move that has not switched. Repeatable.
///
/// The move's schema was made together with them: where it is not, they are not, or they are another's.
pub async fn drop_copies(environment: &MoverEnvironment, target: &Session, mv: &Move) -> Result<()> {
    let Some(newcomer) = &mv.newcomer else { return Ok(()) };
    if mv.state == MoveState::Switched || !has_schema(target, &mv.target_name()).await? {
        return Ok(());
    }
    let sql = format!(
        "DROP TABLE IF EXISTS {} CASCADE; DROP SCHEMA {} CASCADE; DELETE FROM {} c \
         WHERE to_regclass(format('%I.%I', c.schema, c.name)) IS NULL",
        newcomer.tables.join(", "),
        identifier(&mv.target_name()),
        qualified("tenantry", "reference_copy"),
    );
    with_short_locks(environment, (target, mv.target), &sql).await
}

/// Is a server that cannot be reached to be waited for no longer? One that never became a node, and that nobody can remove: after five
/// minutes, in which a machine starts again, or once an operator has cancelled the copy. What is left there harms nobody, and is replaced
/// should the server be added after all.
pub async fn is_given_up(catalog: &Session, mv: &Move, map: &ShardMap, error: &PgError) -> Result<bool> {
    if mv.newcomer.is_none() || map.node(mv.target).is_some() || error.code() != SqlState::CONNECTION_FAILURE {
        return Ok(false);
    }
    let sql = "SELECT cancelled OR started_at < clock_timestamp() - interval '5 minutes' FROM tenantry.shard_move \
               WHERE moveid = $1";
    Ok(catalog.query_one(sql, &[&mv.id]).await.map_err(pg_error)?.get(0))
}
