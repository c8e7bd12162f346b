//! A move that takes one tenant of a shard group, to a shard group of its own.
//!
//! ```text
//!   source:  public_<group> ──fence──> tenantry_moved_<id>_<n> ──tenant's rows deleted──> public_<rest>
//!                └─ the tenant's rows (publication, copy and sums are filtered) ──> public_<tenant group> on the target
//! ```
//!
//! Only what leaves is copied. The group that stays gets a new name too: a proxy with an old map meets the fence
//! whichever of its tenants it asks for.

use super::cutover::has_schema;
use super::session::Session;
use super::state::Move;
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal, qualified, shard_schema};
use crate::error::{PgError, Result};
use crate::shard_map::{ShardGroupId, ShardMap, Tenant};

/// What leaves, and what both halves are called afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub tenant: Tenant,
    pub hash: i32,
    /// The tenant's own shard group.
    pub group: ShardGroupId,
    /// The shard group of all others.
    pub rest: ShardGroupId,
}

/// The condition that only the tenant's rows of table `schema.name` (of the shell) fulfil; simple enough for a publication.
///
/// Errors: 0A000 for a table that the map does not know: nobody can say whose its rows are.
pub fn filter(map: &ShardMap, part: &Part, schema: &str, name: &str) -> Result<String> {
    let column = map.table(schema, name).and_then(|table| table.distribution_column()).ok_or_else(|| {
        PgError::unsupported(format!("cannot isolate a tenant while \"{name}\" has no distribution column"))
            .detail("Every table of the shard must say which rows are the tenant's.")
    })?;
    Ok(format!("{} = {}", identifier(&column.name), literal(&part.tenant.text)))
}

/// What stands in a shard besides tables and would be bound to its name, or shared by what it becomes.
///
/// Errors: 0A000.
pub async fn check(source: &Session, mv: &Move) -> Result<()> {
    let sql = "SELECT format('sequence %I', c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = ANY ($1) AND c.relkind = 'S'
               UNION ALL SELECT format('function %I', p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
               WHERE n.nspname = ANY ($1) LIMIT 1";
    match source.query_opt(sql, &[&mv.shard_schemas()]).await.map_err(pg_error)? {
        None => Ok(()),
        Some(row) => {
            Err(PgError::unsupported("cannot take a shard apart, or put it together, that has sequences or functions")
                .detail(format!("The shard has {}.", row.get::<_, &str>(0))))
        }
    }
}

/// After the fence, with all changes on the target: the tenant's rows are deleted here, and the others are given their new
/// name. One transaction; nothing happens where that is done.
///
/// Clients wait meanwhile. Errors: the server's; nothing is changed then.
pub async fn leave_rest(source: &Session, mv: &Move, map: &ShardMap) -> Result<()> {
    let Some(part) = &mv.part else { return Ok(()) };
    let mut statements = vec![
        "BEGIN".to_owned(),
        "SET LOCAL session_replication_role TO replica".to_owned(),
        // Its filter would refuse clients' UPDATEs once the full identities are gone.
        format!("DROP PUBLICATION IF EXISTS {}", identifier(&mv.name())),
    ];
    let mut renames = Vec::new();
    for (base, (schema, fenced)) in mv.schemas.iter().zip(mv.fences()) {
        if !has_schema(source, &fenced).await? {
            continue;
        }
        for table in map.tables_of(mv.colocation).iter().filter(|table| table.schema == *base) {
            let condition = filter(map, part, base, &table.name)?;
            statements.push(format!("DELETE FROM {} WHERE {condition}", qualified(&fenced, &table.name)));
        }
        // Remembered under the name that the schema had.
        for name in mv.full_identity.iter().filter_map(|name| name.strip_prefix(&identifier(&schema))) {
            renames.push(format!("ALTER TABLE {}{name} REPLICA IDENTITY DEFAULT", identifier(&fenced)));
        }
        let rest = shard_schema(base, part.rest);
        renames.push(format!("ALTER SCHEMA {} RENAME TO {}", identifier(&fenced), identifier(&rest)));
    }
    statements.extend(renames);
    statements.push("COMMIT".to_owned());
    let done = source.batch_execute(&statements.join("; ")).await.map_err(pg_error);
    if done.is_err() {
        // The connection may be gone; then so is the transaction.
        let _ = source.batch_execute("ROLLBACK").await;
    }
    done
}

/// Errors: 0A000 when the names of schemas would be too long for what the shard becomes.
pub fn check_names(mv: &Move) -> Result<()> {
    let groups = mv.targets().into_iter().flat_map(|(_, groups)| groups);
    let merged = mv.join.iter().flat_map(|join| mv.schemas_of(join.merged));
    let names = groups.flat_map(|group| mv.schemas_of(group)).chain(mv.rest_schemas()).chain(merged);
    match names.into_iter().find(|name| name.len() > NAME_MAX) {
        None => Ok(()),
        Some(name) => Err(PgError::unsupported(format!("schema name \"{name}\" is too long for a shard"))),
    }
}

/// `text` with the word `from` replaced by `to` wherever it stands as a whole: names in statements that Postgres printed.
pub fn replace_word(text: &str, from: &str, to: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
    let mut replaced = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(from) {
        let after = at + from.len();
        let stands_alone =
            !text[..at].chars().next_back().is_some_and(is_word) && !text[after..].chars().next().is_some_and(is_word);
        if stands_alone {
            replaced.push_str(&text[done..at]);
            replaced.push_str(to);
            done = after;
        }
    }
    replaced.push_str(&text[done..]);
    replaced
}

/// Bytes of a name, `NAMEDATALEN` less its end.
const NAME_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_replaced() {
        let text = r#"ALTER TABLE public_7.a ADD REFERENCES "public_7".public_70 (my_public_7, "public_7")"#;
        let want = r#"ALTER TABLE public_9.a ADD REFERENCES "public_9".public_70 (my_public_7, "public_9")"#;
        assert_eq!(replace_word(text, "public_7", "public_9"), want);
    }
}
