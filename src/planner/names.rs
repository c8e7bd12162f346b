//! From names in a text to managed tables, and back to splices.

use std::sync::Arc;

use crate::shard_map::Table;
use crate::sql::lexer::{Token, fold, lex, string_value};
use crate::sql::{Access, QualifiedName, Splice, Spliced, With};

use super::{Context, Coordinator, Plan};

/// The managed table that Postgres would find under this name; none: a local relation or nothing.
pub(super) fn resolve<'m>(ctx: &Context<'m>, name: &QualifiedName) -> Option<&'m Arc<Table>> {
    match &name.schema {
        Some(schema) => ctx.map.table(schema, &name.name),
        None => ctx.map.resolve(ctx.search_path, &name.name),
    }
}

/// Puts the shard's schema (distributed) or the table's own (reference) in front of the name, instead of a schema
/// that was written.
pub(super) fn splice_table(name: &QualifiedName, table: &Table) -> Splice {
    let with = if table.is_reference() {
        With::Fixed(format!("{}.", quote_identifier(&table.schema)).into())
    } else {
        With::ShardSchema(table.schema.as_str().into())
    };
    splice_schema(name, with)
}

pub(super) fn splice_schema(name: &QualifiedName, with: With) -> Splice {
    Splice { at: name.at, len: name.name_at - name.at, with }
}

/// The first identifier that may mean a managed table, in whatever schema.
pub(super) fn names_managed_table(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Option<String> {
    tokens
        .iter()
        .filter(|t| t.is_identifier())
        .map(|t| fold(text, t))
        .find(|name| ctx.map.has_table_named(name))
        .map(|name| name.into_owned())
}

/// As `names_managed_table`, looking into string constants that hold code (DO, function bodies).
pub(super) fn body_names_managed_table(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Option<String> {
    tokens.iter().filter_map(|t| string_value(text, t)).find_map(|body| {
        let tokens = lex(&body, ctx.standard_conforming_strings).ok()?;
        names_managed_table(&body, &tokens, ctx)
    })
}

/// Any managed table in this schema.
pub(super) fn table_in_schema<'m>(ctx: &Context<'m>, schema: &str) -> Option<&'m Arc<Table>> {
    ctx.map.tables().filter(|t| t.schema == schema).min_by_key(|t| t.oid)
}

pub(super) fn quote_identifier(name: &str) -> String {
    let plain =
        name.bytes().enumerate().all(|(i, b)| b.is_ascii_lowercase() || b == b'_' || (i > 0 && b.is_ascii_digit()));
    if plain && !name.is_empty() && !RESERVED.contains(&name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// The text runs on the coordinator as it is, and leaves nothing behind.
pub(super) fn coordinator(text: &str) -> Coordinator {
    Coordinator {
        query: Spliced::verbatim(text),
        access: Access::Write,
        returns_rows: false,
        pins: false,
        needs_block: false,
        pins_unknown: false,
        frees: false,
        recalls: None,
        renumbers: None,
        sets: Vec::new(),
        changes_schema: false,
        on_all_nodes: false,
        outside_transaction: false,
        needs: Vec::new(),
    }
}

impl From<Coordinator> for Plan {
    fn from(coordinator: Coordinator) -> Self {
        Plan::Coordinator(coordinator)
    }
}

/// Schema names that Postgres does not read unquoted. A subset is enough: quoting is never wrong.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];
