//! Temporary relations with the name of a managed table: the coordinator would find them, routing would not.
//!
//! ```text
//!   CREATE TEMP TABLE orders      SELECT ... INTO TEMP orders      ALTER TABLE x RENAME TO orders      ──> 0A000
//! ```

use crate::error::PgError;
use crate::sql::lexer::Token;
use crate::sql::{Cursor, QualifiedName};

use super::Context;

/// Where the name says so, or the search_path does.
pub(super) fn is_made_temporary(name: &QualifiedName, ctx: &Context<'_>) -> bool {
    match &name.schema {
        Some(schema) => is_temporary_schema(schema),
        None => ctx.search_path.first().is_some_and(|schema| is_temporary_schema(schema)),
    }
}

pub(super) fn is_temporary_schema(name: &str) -> bool {
    name == "pg_temp" || name.starts_with("pg_temp_")
}

/// Errors: 0A000 for a temporary relation that would hide a managed table.
pub(super) fn refuse_shadowing(is_temporary: bool, name: &QualifiedName, ctx: &Context<'_>) -> Result<(), PgError> {
    if is_temporary && ctx.map.has_table_named(&name.name) {
        return Err(PgError::unsupported(format!("cannot create a temporary relation called \"{}\"", name.name))
            .detail("A distributed or reference table has this name.")
            .hint("Choose another name."));
    }
    Ok(())
}

/// CREATE [TEMP] SEQUENCE; `c` stands at SEQUENCE.
pub(super) fn refuse_sequence(mut c: Cursor<'_>, is_temporary: bool, ctx: &Context<'_>) -> Result<(), PgError> {
    c.take("sequence");
    c.take_all(&["if", "not", "exists"]);
    let name = c.qualified_name()?;
    refuse_shadowing(is_temporary || is_made_temporary(&name, ctx), &name, ctx)
}

/// ALTER VIEW or SEQUENCE; `c` stands at the kind.
pub(super) fn refuse_rename(mut c: Cursor<'_>, ctx: &Context<'_>) -> Result<(), PgError> {
    c.take("materialized");
    c.take_any(&["sequence", "view"]);
    c.take_all(&["if", "exists"]);
    let name = c.qualified_name()?;
    match c.take_all(&["rename", "to"]) {
        true => refuse_new_name(&name, &c.identifier()?, ctx),
        false => Ok(()),
    }
}

/// Of a relation that is no managed table, and may be temporary for all that is known of it.
pub(super) fn refuse_new_name(name: &QualifiedName, new: &str, ctx: &Context<'_>) -> Result<(), PgError> {
    let may_be_temporary = name.schema.as_deref().is_none_or(is_temporary_schema);
    if may_be_temporary && ctx.map.has_table_named(new) {
        return Err(PgError::unsupported(format!("cannot rename \"{}\" to \"{new}\"", name.name))
            .detail("A distributed or reference table has this name, and a temporary relation would hide it.")
            .hint("Choose another name, or name the schema of what is not temporary."));
    }
    Ok(())
}

/// The table that a SELECT INTO makes.
pub(super) fn refuse_into(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Result<(), PgError> {
    let mut c = Cursor::new(text, tokens);
    if !c.seek("into") {
        return Ok(());
    }
    c.take("into");
    c.take_any(&["global", "local"]);
    let is_temporary = c.take_any(&["temp", "temporary"]).is_some();
    c.take("unlogged");
    c.take("table");
    let name = c.qualified_name()?;
    refuse_shadowing(is_temporary || is_made_temporary(&name, ctx), &name, ctx)
}
