//! `citus_cleanup_orphaned_resources`: what moves left that nobody is going to clean up.
//!
//! Moves that crashed are repaired by themselves, from their rows. What has no row any more (the catalog was restored
//! from a backup, say) is found by its name.

use serde_json::Value;

use super::session::{self, Session};
use super::{MoverEnvironment, Notice, Notify, recover};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::Result;
use crate::operations::sequences;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};

/// Repairs abandoned moves, then drops slots, publications, the moves' own schemas and half copies of shards that belong to no
/// move at work, what workers were lent of sequences that no table draws from any more, and what sessions were lent that have
/// ended. Half a copy is left on a node that was removed while it was away, and added again.
///
/// Rows of users are never touched: fenced source schemas stay, and so does whatever has a shard's name where that shard is. Errors: those of the nodes; nodes before are clean then.
pub async fn citus_cleanup_orphaned_resources(environment: &MoverEnvironment, notify: &Notify<'_>) -> Result<Value> {
    let mut cleaned = recover(environment).await?;
    let map = environment.catalog.refresh().await?;
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    let workers = map.active_workers().map(|node| node.id);
    for node in [NodeId::COORDINATOR].into_iter().chain(workers) {
        let session = session::connect(environment, node).await?;
        let found = session.query(REMAINS, &[]).await.map_err(pg_error)?;
        // A move's row is there before anything of it is: whoever has none by now is an orphan.
        let sql = "SELECT moveid FROM tenantry.shard_move WHERE state NOT IN ('done', 'failed')";
        let at_work: Vec<i64> = catalog.query(sql, &[]).await.map_err(pg_error)?.iter().map(|row| row.get(0)).collect();
        let map = environment.catalog.refresh().await?;
        for row in found.iter().filter(|row| !at_work.contains(&row.get(2))) {
            let (kind, name): (&str, &str) = (row.get(0), row.get(1));
            if kind == "copy" && is_placed(&map, node, name) {
                continue;
            }
            remove(&session, kind, name).await?;
            cleaned += 1;
        }
    }
    cleaned += sequences::forget_unused(&environment.catalog).await?;
    if cleaned > 0 {
        notify(Notice::new(format!("cleaned up {cleaned} orphaned resources")));
    }
    Ok(Value::Null)
}

/// Does a shard group of this schema's name live on the node?
fn is_placed(map: &ShardMap, node: NodeId, schema: &str) -> bool {
    let group = schema.rsplit_once('_').and_then(|(_, number)| number.parse().ok()).map(ShardGroupId);
    map.colocations().flat_map(|c| &c.shard_groups).any(|g| Some(g.id) == group && g.node == node)
}

async fn remove(session: &Session, kind: &str, name: &str) -> Result<()> {
    let sql = match kind {
        "slot" => format!("SELECT pg_drop_replication_slot({})", literal(name)),
        "publication" => format!("DROP PUBLICATION {}", identifier(name)),
        "function" => format!("DROP FUNCTION IF EXISTS tenantry.{}()", identifier(name)),
        _ => format!("DROP SCHEMA IF EXISTS {} CASCADE", identifier(name)),
    };
    session.batch_execute(&sql).await.map_err(pg_error)
}

/// (kind, name, the move's id, 0: none). Slots that are in use have an owner; functions of `control_role.rs` have a session.
const REMAINS: &str = "
WITH found (kind, name) AS (
    SELECT 'slot', slot_name::text FROM pg_replication_slots WHERE NOT active AND database = current_database()
    UNION ALL SELECT 'publication', pubname::text FROM pg_publication
    UNION ALL SELECT 'schema', nspname::text FROM pg_namespace)
SELECT kind, name, (regexp_match(name, '^tenantry_(?:move|part)_([0-9]{1,18})$'))[1]::bigint
FROM found WHERE name ~ '^tenantry_(move|part)_[0-9]{1,18}$'
UNION ALL
SELECT 'copy', nspname::text, (regexp_match(obj_description(oid, 'pg_namespace'), '^tenantry move ([0-9]{1,18})$'))[1]::bigint
FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') ~ '^tenantry move [0-9]{1,18}$' AND nspname !~ '^tenantry_'
UNION ALL
SELECT 'function', proname::text, 0
FROM pg_proc WHERE pronamespace = to_regnamespace('tenantry') AND proname ~ '^as_control_[0-9]{1,9}_'
    AND NOT EXISTS (SELECT FROM pg_stat_get_activity((regexp_match(proname::text, '^as_control_([0-9]{1,9})_'))[1]::int))
ORDER BY 1 DESC";
