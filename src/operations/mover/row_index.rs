//! How rows of tables without a key are found on a target: by an index on a hash of the row, for as long as the move lasts.
//!
//! A change of such a table comes with the whole old row. Without an index each would read the whole table, and a target that reads
//! a million rows for each update never catches up. The hash leads to the few rows that may be meant; which it is, is still
//! decided by comparing bytes. Columns whose types have no hash function (json, xml, geometry) are left out of it.

use super::MoverEnvironment;
use super::session::{Session, with_short_locks};
use super::snapshot::SourceTable;
use super::state::Move;
use super::target::Target;
use crate::catalog::pg_error;
use crate::catalog::quote::identifier;
use crate::error::Result;
use crate::shard_map::NodeId;

/// True of a row `a` of `pg_attribute` that has a part in the hash. Equal bytes must have equal hashes, so a collation that looks at
/// more than bytes is no good: the stream's values do not have it.
pub const IS_HASHED: &str = "(a.attgenerated = ''
    AND EXISTS (SELECT FROM pg_type t LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)
        WHERE t.oid = a.atttypid AND (coalesce(b.typtype, t.typtype) = 'e' OR EXISTS (
            SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname = 'hash' WHERE o.opcdefault
            AND o.opcintype = CASE coalesce(b.oid, t.oid) WHEN 'varchar'::regtype THEN 'text'::regtype::oid ELSE coalesce(b.oid, t.oid) END)))
    AND NOT EXISTS (SELECT FROM pg_collation k WHERE k.oid = a.attcollation AND NOT k.collisdeterministic))";

/// The hash of a row of these values, or columns.
pub fn hash(values: &[String]) -> String {
    format!("hash_record(ROW({}))", values.join(", "))
}

/// Builds them where they are needed. To be called while nothing is applied.
pub async fn build(targets: &[Target], mv: &Move, tables: &[SourceTable]) -> Result<()> {
    for (number, table) in tables.iter().enumerate().filter(|(_, table)| table.has_full_identity) {
        let index = identifier(&format!("{}{number}", prefix(mv)));
        for target in targets {
            for group in &target.groups {
                let name = table.name_in(mv, *group);
                let sql = format!(
                    "SELECT format('%I', a.attname) FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0
                     AND NOT a.attisdropped AND {IS_HASHED} ORDER BY a.attnum"
                );
                let rows = target.session.query(&sql, &[&name]).await.map_err(pg_error)?;
                let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                if !columns.is_empty() {
                    let sql = format!("CREATE INDEX {index} ON {name} ({})", hash(&columns));
                    target.session.batch_execute(&sql).await.map_err(pg_error)?;
                }
            }
        }
    }
    Ok(())
}

/// Drops what is left of them in a schema that clients use. Repeatable.
pub async fn drop_all(
    environment: &MoverEnvironment,
    (target, node): (&Session, NodeId),
    mv: &Move,
    schema: &str,
) -> Result<()> {
    let sql =
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relkind = 'i' AND starts_with(c.relname, $2)";
    for row in target.query(sql, &[&schema, &prefix(mv)]).await.map_err(pg_error)? {
        let sql = format!("DROP INDEX IF EXISTS {}", row.get::<_, &str>(0));
        with_short_locks(environment, (target, node), &sql).await?;
    }
    Ok(())
}

/// What their names begin with, unquoted.
fn prefix(mv: &Move) -> String {
    format!("{PREFIX}{}_", mv.id)
}

/// Indexes of this name are no part of a table's definition (definition.rs).
const PREFIX: &str = "tenantry_rows_";
