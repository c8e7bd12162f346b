//! Types of a table's columns that workers do not have yet: made there before its shards are.
//!
//! Types of `CREATE TYPE` are everywhere. One that was made inside of a DO block or a function is the coordinator's only, and
//! many tools make theirs so, to go on where it exists:
//!
//! ```text
//!   DO $$ BEGIN CREATE TYPE mood AS ENUM (...); EXCEPTION WHEN duplicate_object THEN null; END $$
//! ```

use tokio_postgres::Client;

use super::node_definitions::TYPES;
use super::reference_table::create_schema;
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::Result;
use crate::executor::Transaction;
use crate::shard_map::{NodeId, TableOid};

/// Makes them on every worker, in the client's transaction and as the client's role.
///
/// Errors: what a worker says, e.g. 42501.
pub async fn make(txn: &mut Transaction, table: TableOid) -> Result<()> {
    let used: Vec<(String, String)> = pairs(txn.query(NodeId::COORDINATOR, &types_of(table)).await?);
    let Some(question) = which_are_missing(&used) else { return Ok(()) };
    let workers: Vec<NodeId> = txn.map().active_workers().map(|node| node.id).collect();
    for node in workers {
        let missing: Vec<String> = txn.query(node, &question).await?.into_iter().flatten().flatten().collect();
        let missing = named(&used, &missing);
        if !missing.is_empty() {
            let statements = pairs(txn.query(NodeId::COORDINATOR, &statements_for(&missing)).await?);
            txn.query(node, &all(&missing, statements)).await?;
        }
    }
    Ok(())
}

/// As `make`, on one worker and over control connections: what is made gets the coordinator's owner.
pub async fn make_on(coordinator: &Client, worker: &Client, table: TableOid) -> Result<()> {
    let rows = coordinator.query(&types_of(table), &[]).await.map_err(pg_error)?;
    let used: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let Some(question) = which_are_missing(&used) else { return Ok(()) };
    let rows = worker.query(&question, &[]).await.map_err(pg_error)?;
    let missing: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let missing = named(&used, &missing);
    if missing.is_empty() {
        return Ok(());
    }
    let rows = coordinator.query(&statements_for(&missing), &[]).await.map_err(pg_error)?;
    let mut statements: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let rows = coordinator.query(&owners_of(&missing), &[]).await.map_err(pg_error)?;
    statements.extend(rows.iter().map(|row| (String::new(), row.get(0))));
    let statements = format!("BEGIN; {}COMMIT", all(&missing, statements));
    let made = worker.batch_execute(&statements).await.map_err(pg_error);
    if made.is_err() {
        // The connection may be gone; then so is the transaction.
        let _ = worker.batch_execute("ROLLBACK").await;
    }
    made
}

fn printed((schema, name): &(String, String)) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// For a worker; none where no type of a user's is used. Answers names as `printed`.
fn which_are_missing(used: &[(String, String)]) -> Option<String> {
    let asked: Vec<_> = used.iter().map(|used| format!("({})", literal(&printed(used)))).collect();
    (!asked.is_empty()).then(|| {
        format!(
            "SELECT name FROM (VALUES {}) AS used (name) WHERE pg_catalog.to_regtype(name) IS NULL",
            asked.join(", ")
        )
    })
}

fn named<'a>(used: &'a [(String, String)], missing: &[String]) -> Vec<&'a (String, String)> {
    used.iter().filter(|used| missing.contains(&printed(used))).collect()
}

/// For the coordinator: (name, statement), in the order in which they were made, because one may be made of another.
fn statements_for(missing: &[&(String, String)]) -> String {
    let names: Vec<_> = missing.iter().map(|(schema, name)| literal(&format!("{schema}.{name}"))).collect();
    format!(
        "SELECT name, statement FROM ({}) AS w (name, statement) WHERE name IN ({})",
        TYPES.wanted,
        names.join(", ")
    )
}

/// For the coordinator: statements that give the types and their schemas their owners.
fn owners_of(missing: &[&(String, String)]) -> String {
    let names: Vec<_> = missing.iter().map(|missing| format!("{}::regtype", literal(&printed(missing)))).collect();
    format!(
        "WITH made AS (SELECT * FROM pg_type WHERE oid IN ({})) \
         SELECT format('ALTER TYPE %s OWNER TO %I', oid::regtype, pg_get_userbyid(typowner)) FROM made \
         UNION SELECT format('ALTER SCHEMA %I OWNER TO %I', nspname, pg_get_userbyid(nspowner)) \
             FROM pg_namespace WHERE oid IN (SELECT typnamespace FROM made)",
        names.join(", ")
    )
}

/// What a worker is to run.
fn all(missing: &[&(String, String)], statements: Vec<(String, String)>) -> String {
    let schemas = missing.iter().map(|(schema, _)| create_schema(schema));
    schemas.chain(statements.into_iter().map(|(_, statement)| format!("{statement};\n"))).collect()
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
         SELECT n.nspname::pg_catalog.text, t.typname::pg_catalog.text FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
         WHERE (t.typtype IN ('e', 'd', 'r') \
                OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_type'::regclass \
                         AND d.objid = t.oid AND d.deptype = 'e')"
    )
}
