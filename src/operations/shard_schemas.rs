//! Schemas of shards go with the last of their tables.
//!
//! Whoever has distributed the first table made them and owns them. Who owns all that is left in one may drop it too, by a function
//! that a server gets when it is needed.

use std::collections::BTreeMap;

use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::Result;
use crate::executor::Transaction;
use crate::shard_map::NodeId;

/// For each node the statements that drop these schemas with all that is in them.
///
/// Errors: those of the nodes.
pub async fn drops(txn: &mut Transaction, schemas: &BTreeMap<NodeId, Vec<String>>) -> Result<BTreeMap<NodeId, String>> {
    let mut drops = BTreeMap::new();
    for (node, schemas) in schemas {
        let others = of_others(txn, *node, schemas).await?;
        if !others.is_empty() {
            make_function(txn, *node).await?;
        }
        let drop = |schema: &String| match others.contains(schema) {
            true => format!("SELECT tenantry.drop_shard_schema({});\n", literal(schema)),
            false => format!("DROP SCHEMA {} CASCADE;\n", identifier(schema)),
        };
        drops.insert(*node, schemas.iter().map(drop).collect());
    }
    Ok(drops)
}

/// Those whose owner the client may not act for.
async fn of_others(txn: &mut Transaction, node: NodeId, schemas: &[String]) -> Result<Vec<String>> {
    let names: Vec<String> = schemas.iter().map(|schema| literal(schema)).collect();
    let sql = format!(
        "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname IN ({}) AND NOT pg_catalog.pg_has_role(nspowner, 'USAGE')",
        names.join(", ")
    );
    Ok(txn.query(node, &sql).await?.into_iter().flatten().flatten().collect())
}

/// By itself, as a superuser's.
async fn make_function(txn: &Transaction, node: NodeId) -> Result<()> {
    let make = format!(
        "DO $tenantry$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock({LOCK}); \
         IF pg_catalog.to_regproc('tenantry.drop_shard_schema') IS NULL THEN EXECUTE {}; END IF; END $tenantry$",
        literal(FUNCTION)
    );
    txn.executor.catalog.client(node).await?.batch_execute(&make).await.map_err(pg_error)
}

const FUNCTION: &str = include_str!("drop_shard_schema.sql");
/// Two may want to make it at the same time. "tncydrop" in ASCII.
const LOCK: i64 = i64::from_be_bytes(*b"tncydrop");
