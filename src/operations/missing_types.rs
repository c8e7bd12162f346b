//! Types of a table's columns that workers do not have yet: made there before its shards are.
//!
//! Types of `CREATE TYPE` are everywhere. One that was made inside of a DO block or a function is the coordinator's only, and
//! many tools make theirs so, to go on where it exists:
//!
//! ```text
//!   DO $$ BEGIN CREATE TYPE mood AS ENUM (...); EXCEPTION WHEN duplicate_object THEN null; END $$
//! ```

use super::node_definitions::TYPES;
use super::reference_table::create_schema;
use crate::catalog::quote::{identifier, literal};
use crate::error::Result;
use crate::executor::Transaction;
use crate::shard_map::{NodeId, TableOid};

/// Makes them on every worker, in the client's transaction and as the client's role.
///
/// Errors: what a worker says, e.g. 42501.
pub async fn make(txn: &mut Transaction, table: TableOid) -> Result<()> {
    let used: Vec<(String, String)> = pairs(txn.query(NodeId::COORDINATOR, &types_of(table)).await?);
    if used.is_empty() {
        return Ok(());
    }
    let printed = |(schema, name): &(String, String)| format!("{}.{}", identifier(schema), identifier(name));
    let asked: Vec<_> = used.iter().map(|used| format!("({})", literal(&printed(used)))).collect();
    let asked = format!(
        "SELECT name FROM (VALUES {}) AS used (name) WHERE pg_catalog.to_regtype(name) IS NULL",
        asked.join(", ")
    );
    let workers: Vec<NodeId> = txn.map().active_workers().map(|node| node.id).collect();
    for node in workers {
        let missing: Vec<String> = txn.query(node, &asked).await?.into_iter().flatten().flatten().collect();
        if missing.is_empty() {
            continue;
        }
        let missing: Vec<_> = used.iter().filter(|used| missing.contains(&printed(used))).collect();
        let names: Vec<_> = missing.iter().map(|(schema, name)| literal(&format!("{schema}.{name}"))).collect();
        // In the order in which they were made: one may be made of another.
        let wanted = format!("SELECT name, statement FROM ({}) AS w (name, statement)", TYPES.wanted);
        let statements = format!("{wanted} WHERE name IN ({})", names.join(", "));
        let statements = pairs(txn.query(NodeId::COORDINATOR, &statements).await?);
        let schemas = missing.iter().map(|(schema, _)| create_schema(schema));
        let statements = statements.into_iter().map(|(_, statement)| format!("{statement};\n"));
        txn.query(node, &schemas.chain(statements).collect::<String>()).await?;
    }
    Ok(())
}

fn pairs(rows: Vec<Vec<Option<String>>>) -> Vec<(String, String)> {
    rows.into_iter().filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?))).collect()
}

/// Schemas and names of enums, domains, ranges and composites in the table's columns, and of what those are made of; no
/// extension's.
fn types_of(table: TableOid) -> String {
    format!(
        "WITH RECURSIVE used (oid) AS ( \
             SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                 WHERE a.attrelid = {table} AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384 \
             UNION SELECT inner_type.oid FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid CROSS JOIN LATERAL ( \
                 SELECT t.typelem UNION ALL SELECT t.typbasetype \
                 UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid \
                 UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                     WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS inner_type (oid) \
             WHERE inner_type.oid >= 16384) \
         SELECT n.nspname, t.typname FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
         WHERE (t.typtype IN ('e', 'd', 'r') \
                OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_type'::regclass \
                         AND d.objid = t.oid AND d.deptype = 'e')"
    )
}
