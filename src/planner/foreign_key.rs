//! Which foreign keys can be kept when rows live on several nodes.

use std::sync::Arc;

use crate::error::{PgError, SqlState};
use crate::shard_map::{Table, TableKind};
use crate::sql::Splice;
use crate::sql::constraint::ForeignKey;

use super::Context;
use super::names::{resolve, splice_table};

/// The splice for the referenced name in a statement about `table`, which is managed.
///
/// Errors: 42P16 for a local target, 0A000 for keys that would reach over nodes.
pub(super) fn plan_foreign_key(table: &Arc<Table>, key: &ForeignKey, ctx: &Context<'_>) -> Result<Splice, PgError> {
    let Some(target) = resolve(ctx, &key.table) else {
        let name = &key.table.name;
        return Err(PgError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("referenced table \"{name}\" must be a distributed table or a reference table"),
        )
        .detail("To enforce foreign keys, the referencing and referenced rows need to be stored on the same node.")
        .hint(format!(
            "You could use SELECT create_reference_table('{name}') to replicate the referenced table to all nodes or \
             consider dropping the foreign key"
        )));
    };
    let splice = splice_table(&key.table, target);
    match (&table.kind, &target.kind) {
        (_, TableKind::Reference) => {
            if let Some(column) = table.distribution_column() {
                refuse_changing_actions(key, &column.name)?;
            }
            Ok(splice)
        }
        (TableKind::Reference, _) => Err(refuse_key_to_distributed()),
        (TableKind::Distributed { .. }, TableKind::Distributed { .. }) if table.colocation != target.colocation => {
            Err(PgError::unsupported(
                "cannot create foreign key constraint since relations are not colocated or not referencing a reference table",
            )
            .detail(
                "A distributed table can only have foreign keys if it is referencing another colocated hash \
                 distributed table or a reference table",
            )
            .hint(format!(
                "Make \"{0}\" local by undistribute_table, then distribute it with colocate_with => '{1}', by a column of the type of \
                 that table's distribution column; or make \"{1}\" local and a reference table.",
                table.name, target.name
            )))
        }
        _ => {
            let own = table.distribution_column().map_or("", |c| &c.name);
            let other = target.distribution_column().map_or("", |c| &c.name);
            let position = key.columns.iter().position(|c| c == own);
            // Without a column list the primary key is meant; its order is not known here, the server checks types.
            let pairs_up = match (position, key.referenced.is_empty()) {
                (Some(i), false) => key.referenced.get(i).is_some_and(|c| c == other),
                (position, _) => position.is_some(),
            };
            if !pairs_up {
                return Err(PgError::unsupported("cannot create foreign key constraint")
                    .detail(
                        "Foreign keys are supported in two cases, either in between two colocated tables including \
                         partition column in the same ordinal in the both tables or from distributed to reference tables",
                    )
                    .hint(with_distribution_columns(own, other, &target.name)));
            }
            refuse_changing_actions(key, own)?;
            Ok(splice)
        }
    }
}

fn refuse_key_to_distributed() -> PgError {
    PgError::unsupported(
        "cannot create foreign key constraint since foreign keys from reference tables and local tables to \
         distributed tables are not supported",
    )
    .detail("Reference tables and local tables can only have foreign keys to reference tables and local tables")
    .hint("Distribute both tables by the same column first, then add the foreign key with that column in it.")
}

/// What a foreign key between distributed tables needs; `own` and `other` are their distribution columns.
pub fn with_distribution_columns(own: &str, other: &str, referenced: &str) -> String {
    format!(
        "Have the distribution columns at the same place on both sides: \
         FOREIGN KEY ({own}, ...) REFERENCES {referenced} ({other}, ...)."
    )
}

pub const NO_SET_ON_DELETE: &str = "Use ON DELETE CASCADE, RESTRICT or NO ACTION.";
pub const NO_CHANGE_ON_UPDATE: &str = "Use ON UPDATE RESTRICT or NO ACTION: a distribution column is not updated.";

/// An action that writes the distribution column would move rows to another shard.
fn refuse_changing_actions(key: &ForeignKey, distribution_column: &str) -> Result<(), PgError> {
    if !key.columns.iter().any(|c| c == distribution_column) {
        return Ok(());
    }
    let refusal = PgError::unsupported("cannot create foreign key constraint");
    if key.sets_on_delete {
        return Err(refusal
            .detail(
                "SET NULL or SET DEFAULT is not supported in ON DELETE operation when distribution key is included in \
             the foreign key constraint",
            )
            .hint(NO_SET_ON_DELETE));
    }
    if key.changes_on_update {
        return Err(refusal.detail(
            "SET NULL, SET DEFAULT or CASCADE is not supported in ON UPDATE operation when distribution key included \
             in the foreign constraint.",
        )
        .hint(NO_CHANGE_ON_UPDATE));
    }
    Ok(())
}
