//! May a table be what it is to be? Checked against its definition, before anything is created and after every ALTER.
//!
//! Texts and SQLSTATEs are those that Citus's users know.

use super::table_definition::{ForeignKey, TableDefinition};
use super::triggers;
use crate::catalog::quote::literal;
use crate::error::{PgError, Result, SqlState};
use crate::planner::{NO_CHANGE_ON_UPDATE, NO_SET_ON_DELETE, with_distribution_columns};
use crate::shard_map::{ColocationId, ShardMap, TableKind, TableOid};

/// What the table is or is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent<'a> {
    Distributed { column: &'a str, colocation: ColocationId },
    Reference,
}

/// Everything that a table could not have as a distributed or a reference table.
pub fn check_new(definition: &TableDefinition, map: &ShardMap, intent: Intent<'_>) -> Result<()> {
    check(definition, map, intent)?;
    triggers::check(definition, intent)
}

/// As `check_new`, of what may have changed in a table that is one already; but for its triggers.
pub fn check(definition: &TableDefinition, map: &ShardMap, intent: Intent<'_>) -> Result<()> {
    check_kind(definition)?;
    if intent == Intent::Reference {
        refuse_partitioned(definition, "a reference table")?;
    }
    check_numbers(definition, intent)?;
    if let Intent::Distributed { column, .. } = intent {
        check_keys(definition, column)?;
        check_views(definition)?;
    }
    refuse_waiting_key(definition, intent)?;
    for key in &definition.foreign_keys {
        check_foreign_key(definition, key, map, intent)?;
    }
    check_referencing(definition, map, intent)
}

/// An ordinary or partitioned table without the features that have no counterpart on shards yet.
pub fn check_kind(definition: &TableDefinition) -> Result<()> {
    let name = &definition.printed;
    let refuse = |detail: &str| {
        PgError::unsupported(format!("cannot distribute relation: {}", definition.name)).detail(detail.to_owned())
    };
    if definition.persistence == 't' {
        return Err(PgError::unsupported("cannot distribute a temporary table"));
    }
    match definition.kind {
        'r' | 'p' => {}
        'f' => return Err(refuse("Foreign tables cannot be distributed.")),
        _ => {
            return Err(PgError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("{} is not a regular, foreign or partitioned table", definition.name),
            ));
        }
    }
    if definition.inherits && !definition.is_partition && definition.kind != 'p' {
        return Err(
            refuse(&format!("{name} takes part in inheritance.")).hint("Detach it with ALTER TABLE ... NO INHERIT.")
        );
    }
    if definition.has_rules {
        return Err(refuse(&format!("{name} has rules.")).hint("Drop the rules."));
    }
    if definition.of_type {
        return Err(refuse(&format!("{name} is a table of a composite type.")).hint("ALTER TABLE ... NOT OF."));
    }
    Ok(())
}

/// `what`: what such a table cannot become.
pub fn refuse_partitioned(definition: &TableDefinition, what: &str) -> Result<()> {
    if definition.kind != 'p' && !definition.is_partition {
        return Ok(());
    }
    let kind = if definition.kind == 'p' { "partitioned" } else { "a partition" };
    Err(PgError::unsupported(format!("cannot make {what} of {}", definition.printed))
        .detail(format!("{} is {kind}.", definition.printed))
        .hint("Use create_distributed_table for a partitioned table."))
}

fn check_numbers(definition: &TableDefinition, intent: Intent<'_>) -> Result<()> {
    // Of a reference table the coordinator alone draws.
    if intent == Intent::Reference {
        return Ok(());
    }
    let mut drawing = definition.columns.iter().filter(|column| column.draws_numbers);
    let Some(column) = drawing.find(|column| column.sequence.is_none()) else { return Ok(()) };
    Err(PgError::unsupported(
        "a default that draws from several sequences, or from a computed one, is not supported on distributed tables",
    )
    .detail(format!("It is that of column \"{}\" of {}.", column.name, definition.printed))
    .hint("Name one sequence: DEFAULT nextval('sequence')."))
}

fn check_keys(definition: &TableDefinition, column: &str) -> Result<()> {
    if definition.keys.iter().any(|key| !key.equal_columns.iter().any(|c| c == column)) {
        return Err(PgError::unsupported(format!("cannot create constraint on \"{}\"", definition.name)).detail(
            "Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that do not include the \
             partition column (with an equality operator if EXCLUDE).",
        ));
    }
    if definition.indexes.iter().any(|index| index.is_unique && !index.columns.iter().any(|c| c == column)) {
        return Err(PgError::unsupported("creating unique indexes on non-partition columns is currently unsupported"));
    }
    Ok(())
}

/// A view runs on the coordinator, where the shell is empty: better none than one that finds no rows.
fn check_views(definition: &TableDefinition) -> Result<()> {
    if definition.views.is_empty() {
        return Ok(());
    }
    Err(PgError::unsupported("views over distributed tables are not supported yet")
        .detail(format!("Over {} there is: {}.", definition.printed, definition.views.join(", ")))
        .hint("Drop the views, or keep them for reference and local tables only."))
}

/// As a view; asked only when the table becomes distributed, because functions made later are looked at themselves.
pub fn check_functions(definition: &TableDefinition) -> Result<()> {
    if definition.functions.is_empty() {
        return Ok(());
    }
    Err(PgError::unsupported("functions that use distributed tables are not supported yet")
        .detail(format!("The name of {} stands in: {}.", definition.printed, definition.functions.join(", ")))
        .hint("Drop the functions, and put their statements into the application."))
}

fn check_foreign_key(definition: &TableDefinition, key: &ForeignKey, map: &ShardMap, intent: Intent<'_>) -> Result<()> {
    let target = map.table_by_oid(TableOid(key.target));
    let itself = key.target == definition.oid;
    let Intent::Distributed { column, colocation } = intent else {
        return match target {
            _ if itself => Ok(()),
            Some(target) if target.is_reference() => Ok(()),
            Some(_) => Err(to_distributed().hint(format!(
                "Distribute {} too, by the same column as {}, or drop its foreign key \"{}\".",
                definition.printed, key.target_printed, key.name
            ))),
            None => Err(to_local(key)),
        };
    };
    let target_column = match target {
        _ if itself => column,
        None => return Err(to_local(key)),
        Some(target) if target.is_reference() => "",
        Some(target) if target.colocation != colocation => {
            return Err(PgError::unsupported(
                "cannot create foreign key constraint since relations are not colocated or not referencing a reference table",
            )
            .detail(
                "A distributed table can only have foreign keys if it is referencing another colocated hash \
                 distributed table or a reference table",
            )
            .hint(format!(
                "Distribute {} with colocate_with => {}, by a column of the type of its distribution column, or drop the foreign \
                 key \"{}\".",
                definition.printed,
                literal(&key.target_printed),
                key.name
            )));
        }
        Some(target) => target.distribution_column().map_or("", |c| &c.name),
    };
    let with_key = key.columns.iter().any(|c| c == column);
    let to_reference = !itself && target.is_some_and(|t| t.is_reference());
    if !to_reference
        && !key.columns.iter().zip(&key.target_columns).any(|(own, its)| own == column && its == target_column)
    {
        return Err(PgError::unsupported("cannot create foreign key constraint")
            .detail(
                "Foreign keys are supported in two cases, either in between two colocated tables including partition \
                 column in the same ordinal in the both tables or from distributed to reference tables",
            )
            .hint(with_distribution_columns(column, target_column, &key.target_printed)));
    }
    if with_key && matches!(key.on_delete, 'n' | 'd') {
        return Err(PgError::unsupported("cannot create foreign key constraint")
            .detail(
                "SET NULL or SET DEFAULT is not supported in ON DELETE operation when distribution key is included in the \
                 foreign key constraint",
            )
            .hint(NO_SET_ON_DELETE));
    }
    if with_key && matches!(key.on_update, 'n' | 'd' | 'c') {
        return Err(PgError::unsupported("cannot create foreign key constraint")
            .detail(
                "SET NULL, SET DEFAULT or CASCADE is not supported in ON UPDATE operation when distribution key included \
                 in the foreign constraint.",
            )
            .hint(NO_CHANGE_ON_UPDATE));
    }
    Ok(())
}

/// Its rows cannot be checked yet. `create_distributed_table` has taken such keys down.
fn refuse_waiting_key(definition: &TableDefinition, intent: Intent<'_>) -> Result<()> {
    if !definition.has_waiting_key() {
        return Ok(());
    }
    let hint = match intent {
        Intent::Reference => {
            "Distribute it by the same column as the tables that it refers to, or drop its foreign keys to them."
        }
        Intent::Distributed { .. } => "Call create_distributed_table, which moves its rows while nobody writes them.",
    };
    Err(to_distributed().hint(hint))
}

/// Local and reference tables cannot refer to a distributed one: its rows are not where theirs are.
fn check_referencing(definition: &TableDefinition, map: &ShardMap, intent: Intent<'_>) -> Result<()> {
    let Intent::Distributed { colocation, .. } = intent else { return Ok(()) };
    let colocated = |oid: &u32| {
        map.table_by_oid(TableOid(*oid))
            .is_some_and(|t| matches!(t.kind, TableKind::Distributed { .. }) && t.colocation == colocation)
    };
    if definition.referenced_by.iter().all(colocated) {
        return Ok(());
    }
    // In psql's words for what it shows of a table.
    let name = &definition.printed;
    Err(to_distributed().hint(format!(
        "Drop the foreign keys that \\d {name} shows under \"Referenced by\", distribute their tables too, by the same column, and add the \
         keys again, with that column in them. A table that is not to be distributed cannot have one to {name}."
    )))
}

fn to_local(key: &ForeignKey) -> PgError {
    PgError::new(
        SqlState::INVALID_TABLE_DEFINITION,
        format!("referenced table \"{}\" must be a distributed table or a reference table", key.target_name),
    )
    .detail("To enforce foreign keys, the referencing and referenced rows need to be stored on the same node.")
    .hint(format!(
        "You could use SELECT create_reference_table('{}') to replicate the referenced table to all nodes or consider \
         dropping the foreign key",
        key.target_name
    ))
}

pub fn to_distributed() -> PgError {
    PgError::unsupported(
        "cannot create foreign key constraint since foreign keys from reference tables and local tables to distributed \
         tables are not supported",
    )
    .detail("Reference tables and local tables can only have foreign keys to reference tables and local tables")
}
