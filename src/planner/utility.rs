//! Plans every statement that is not a query, by its leading words. Fails closed: what is not understood and names
//! a managed table is refused; what names none is the coordinator's.

use crate::error::PgError;
use crate::sql::constraint::read_references;
use crate::sql::copy_statement::read_copy_statement;
use crate::sql::lexer::{Token, fold};
use crate::sql::set_statement::read_session_statement;
use crate::sql::table_statement::read_table_statement;
use crate::sql::transaction_statement::read_transaction_statement;
use crate::sql::{Access, Cursor, QualifiedName, Spliced};

use super::copy::plan_copy;
use super::ddl::{plan_create_partition, plan_table_statement, refuse_construct};
use super::inline::body_splices;
use super::names::{body_names_managed_table, coordinator, names_managed_table, resolve, table_in_schema};
use super::query_wrapper::{PlanQuery, plan_declare, plan_explain, plan_stored_query};
use super::session_command::plan_session;
use super::shadowing::{is_made_temporary, is_temporary_schema, refuse_rename, refuse_sequence, refuse_shadowing};
use super::transaction::plan_transaction;
use super::{Context, Coordinator, Plan, Sequences};

/// The plan of one statement (`tokens` are all of `text`'s, without semicolons); none when it is a query:
/// SELECT, INSERT, UPDATE, DELETE, MERGE, WITH, VALUES, TABLE or a parenthesis.
///
/// `plan_query` plans the statement inside EXPLAIN, DECLARE, COPY (...), CREATE TABLE AS, CREATE VIEW.
pub fn plan_utility(
    text: &str,
    tokens: &[Token],
    ctx: &Context<'_>,
    plan_query: &dyn Fn(&str) -> Result<Plan, PgError>,
) -> Option<Result<Plan, PgError>> {
    let Some(first) = tokens.first() else { return Some(Ok(Plan::Empty)) };
    let verb = fold(text, first);
    let is_query = ["select", "insert", "update", "delete", "merge", "with", "values", "table"].contains(&&*verb);
    if is_query || first.is_punct(b'(') {
        return None;
    }
    let cursor = Cursor::new(text, tokens);
    Some(plan(&verb, cursor, ctx, plan_query))
}

fn plan(verb: &str, cursor: Cursor<'_>, ctx: &Context<'_>, plan_query: PlanQuery<'_>) -> Result<Plan, PgError> {
    let text = cursor.text();
    if let Some(statement) = read_transaction_statement(cursor) {
        return plan_transaction(statement?);
    }
    if let Some(statement) = read_session_statement(cursor) {
        return plan_session(statement?, cursor.rest_text());
    }
    if let Some(statement) = read_copy_statement(cursor) {
        return plan_copy(text, statement?, ctx, plan_query);
    }
    if let Some(statement) = read_table_statement(cursor) {
        return plan_table_statement(cursor, statement?, ctx);
    }
    let mut c = cursor;
    c.advance();
    let read = |returns_rows| Coordinator { access: Access::Read, returns_rows, ..coordinator(text) };
    match verb {
        "explain" => plan_explain(c, ctx, plan_query),
        "declare" => plan_declare(c, plan_query),
        "fetch" => Ok(read(true).into()),
        "move" | "notify" | "checkpoint" => Ok(read(false).into()),
        "listen" => Ok(Coordinator { pins: true, ..read(false) }.into()),
        "load" => Ok(Coordinator { pins: true, pins_unknown: true, ..read(false) }.into()),
        "unlisten" | "close" => Ok(Coordinator { frees: true, ..read(false) }.into()),
        "create" | "alter" | "drop" => plan_definition(verb, c, cursor, ctx, plan_query),
        "grant" | "revoke" => plan_grant(c, text),
        "reassign" => Ok(Coordinator { on_all_nodes: true, ..coordinator(text) }.into()),
        "reindex" => Ok(Coordinator { outside_transaction: true, ..coordinator(text) }.into()),
        "comment" => Ok(coordinator(text).into()),
        "refresh" => Ok(coordinator(text).into()),
        _ => plan_opaque(cursor, ctx),
    }
}

/// DO, CALL and whatever else: nobody here can look inside.
fn plan_opaque(cursor: Cursor<'_>, ctx: &Context<'_>) -> Result<Plan, PgError> {
    let text = cursor.text();
    let mut words = cursor;
    let verb = words.identifier().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    let named = names_managed_table(text, cursor.all(), ctx).or_else(|| match verb.as_str() {
        "DO" => body_names_managed_table(text, cursor.all(), ctx),
        _ => None,
    });
    match named {
        Some(table) => Err(refuse_construct(&format!("a {verb} statement"), &table)),
        None => {
            let returns_rows = verb == "CALL";
            let query = match verb.as_str() {
                "DO" => Spliced::new(text, body_splices(text, cursor.all(), ctx)),
                _ => Spliced::verbatim(text),
            };
            Ok(Coordinator { query, pins: true, pins_unknown: true, returns_rows, ..coordinator(text) }.into())
        }
    }
}

/// GRANT and REVOKE of roles, and on what is not a table.
fn plan_grant(mut c: Cursor<'_>, text: &str) -> Result<Plan, PgError> {
    let is_role = !c.seek("on");
    c.take("on");
    let on_all_nodes = is_role
        || ["function", "procedure", "routine", "type", "domain", "language", "database"].iter().any(|kind| c.is(kind));
    Ok(Coordinator { on_all_nodes, ..coordinator(text) }.into())
}

/// `c` begins behind ALTER.
fn altered_sequence(mut c: Cursor<'_>) -> Sequences {
    c.take("sequence");
    c.take_all(&["if", "exists"]);
    c.qualified_name().map_or(Sequences::Any, |name| Sequences::Named(vec![name.name]))
}

/// Behind CREATE, ALTER, DROP.
fn plan_definition(
    verb: &str,
    mut c: Cursor<'_>,
    whole: Cursor<'_>,
    ctx: &Context<'_>,
    plan_query: PlanQuery<'_>,
) -> Result<Plan, PgError> {
    let text = whole.text();
    let local = || Coordinator { changes_schema: true, ..coordinator(text) };
    c.take_all(&["or", "replace"]);
    let scope = c;
    c.take_any(&["global", "local"]);
    let is_temporary = c.take_any(&["temp", "temporary"]).is_some();
    c.take("unlogged");
    if verb == "create" && c.take("table") {
        return plan_create_table(c, whole, is_temporary, ctx, plan_query);
    }
    c.take("recursive");
    if verb == "create" && (c.take("view") || c.take_all(&["materialized", "view"])) {
        c.take_all(&["if", "not", "exists"]);
        let name = c.qualified_name()?;
        let is_temporary = is_temporary || is_made_temporary(&name, ctx);
        refuse_shadowing(is_temporary, &name, ctx)?;
        if !c.seek("as") {
            return Err(c.syntax_error());
        }
        c.take("as");
        return plan_stored_query(whole, c, "a view", is_temporary, plan_query);
    }
    c = scope;
    let kind = c.peek().map(|t| fold(text, t).into_owned()).unwrap_or_default();
    match kind.as_str() {
        "schema" => plan_schema(verb, c, text, ctx),
        "role" | "user" if !c.is_at(1, "mapping") => {
            refuse_lexical_settings(whole)?;
            Ok(on_all_nodes(text))
        }
        "group" | "extension" | "collation" => Ok(on_all_nodes(text)),
        "owned" => match ctx.map.tables().next() {
            Some(table) => Err(PgError::unsupported("DROP OWNED is not supported while there are managed tables")
                .detail(format!("Table \"{}\" is distributed or a reference table.", table.name))
                .hint("Drop the role's objects one by one.")),
            None => Ok(on_all_nodes(text)),
        },
        "type" | "domain" | "function" | "procedure" | "aggregate" | "routine" | "operator" | "cast"
            if whole.all().iter().any(|t| is_temporary_schema(&fold(text, t))) =>
        {
            Err(PgError::unsupported(format!("cannot create a temporary {kind}"))
                .detail("It would stay on server connections that others use.")
                .hint("Create it in another schema."))
        }
        "type" | "domain" | "function" | "procedure" | "aggregate" | "routine" | "operator" | "cast" => {
            // A body would find the table's empty shell wherever it runs.
            let named = names_managed_table(text, whole.all(), ctx)
                .or_else(|| body_names_managed_table(text, whole.all(), ctx));
            match named {
                Some(table) => Err(refuse_definition(verb, &kind, &table)),
                None => {
                    let query = Spliced::new(text, body_splices(text, whole.all(), ctx));
                    Ok(Coordinator { query, changes_schema: true, on_all_nodes: true, ..coordinator(text) }.into())
                }
            }
        }
        "conversion" | "language" | "trusted" | "text" => Ok(on_all_nodes(text)),
        "database" if scope.is_at(2, "reset") || scope.is_at(2, "set") && !scope.is_at(3, "tablespace") => {
            refuse_lexical_settings(whole)?;
            Ok(on_all_nodes(text))
        }
        "database" | "tablespace" | "system" | "subscription" => {
            refuse_lexical_settings(whole)?;
            Ok(Coordinator { outside_transaction: true, ..local() }.into())
        }
        // They live on the coordinator; names of tables in them (OWNED BY, a view's new column names) mean shells.
        "sequence" | "view" | "materialized" | "default" => {
            let pins = verb == "create" && whole.all().iter().any(|t| is_temporary_schema(&fold(text, t)));
            match (verb, &*kind) {
                ("create", "sequence") => refuse_sequence(c, is_temporary, ctx)?,
                ("alter", _) => refuse_rename(c, ctx)?,
                _ => {}
            }
            let renumbers = (verb == "alter" && kind == "sequence").then(|| altered_sequence(scope));
            Ok(Coordinator { pins, renumbers, ..local() }.into())
        }
        "temp" | "temporary" if scope.is_at(1, "sequence") => {
            c.take_any(&["temp", "temporary"]);
            refuse_sequence(c, is_temporary, ctx)?;
            Ok(Coordinator { pins: true, ..local() }.into())
        }
        _ => match names_managed_table(text, whole.all(), ctx) {
            Some(table) => Err(refuse_definition(verb, &kind, &table)),
            None => Ok(Coordinator { pins: is_temporary, ..local() }.into()),
        },
    }
}

fn refuse_definition(verb: &str, kind: &str, table: &str) -> PgError {
    refuse_construct(&format!("{} {}", verb.to_uppercase(), kind.to_uppercase()), table)
}

/// ALTER ROLE, DATABASE, SYSTEM ... SET: later sessions must not read texts by other rules than the proxy does.
fn refuse_lexical_settings(whole: Cursor<'_>) -> Result<(), PgError> {
    let names = ["standard_conforming_strings", "client_encoding"];
    match whole.all().iter().map(|t| fold(whole.text(), t)).find(|name| names.contains(&&**name)) {
        Some(name) => Err(PgError::unsupported(format!("cannot change the default of {name}"))
            .detail("Sessions are read with standard_conforming_strings on, in UTF8 or a single-byte encoding.")),
        None => Ok(()),
    }
}

fn on_all_nodes(text: &str) -> Plan {
    Coordinator { changes_schema: true, on_all_nodes: true, ..coordinator(text) }.into()
}

/// `c` stands at SCHEMA.
fn plan_schema(verb: &str, mut c: Cursor<'_>, text: &str, ctx: &Context<'_>) -> Result<Plan, PgError> {
    c.take("schema");
    if verb == "create" {
        // CREATE SCHEMA with elements makes local tables, which belong to the coordinator alone.
        let has_elements = c.rest().iter().any(|t| fold(text, t) == "create");
        let local = coordinator(text);
        return Ok(Coordinator { changes_schema: true, on_all_nodes: !has_elements, ..local }.into());
    }
    c.take_all(&["if", "exists"]);
    let mut schemas = vec![c.identifier()?];
    while c.take_punct(b',') {
        schemas.push(c.identifier()?);
    }
    let renames = verb == "alter" && c.is("rename");
    match schemas.iter().find_map(|schema| table_in_schema(ctx, schema)) {
        Some(table) if verb == "drop" || renames => {
            let command = if renames { "rename" } else { "drop" };
            Err(PgError::unsupported(format!("cannot {command} a schema that holds distributed or reference tables"))
                .detail(format!("Schema \"{}\" holds table \"{}\".", table.schema, table.name))
                .hint(if renames {
                    "Create a schema of that name with such tables, and INSERT ... SELECT into them."
                } else {
                    "Drop its distributed and reference tables first."
                }))
        }
        _ => Ok(on_all_nodes(text)),
    }
}

/// Behind CREATE TABLE.
fn plan_create_table(
    mut c: Cursor<'_>,
    whole: Cursor<'_>,
    is_temporary: bool,
    ctx: &Context<'_>,
    plan_query: PlanQuery<'_>,
) -> Result<Plan, PgError> {
    c.take_all(&["if", "not", "exists"]);
    let name = c.qualified_name()?;
    let is_temporary = is_temporary || is_made_temporary(&name, ctx);
    refuse_shadowing(is_temporary, &name, ctx)?;
    if c.take_all(&["partition", "of"]) {
        let parent_name = c.qualified_name()?;
        if let Some(parent) = resolve(ctx, &parent_name) {
            let has_foreign_keys = !read_references(c)?.is_empty();
            return plan_create_partition(whole.text(), &name, (&parent_name, parent), has_foreign_keys);
        }
    }
    if let Some(elements) = c.parenthesized()? {
        for mut element in elements.split_commas()? {
            if element.take("like") {
                refuse_managed(&element.qualified_name()?, "CREATE TABLE with LIKE", ctx)?;
            }
        }
    }
    let mut inherits = c;
    if inherits.take("inherits")
        && let Some(parents) = inherits.parenthesized()?
    {
        for mut parent in parents.split_commas()? {
            refuse_managed(&parent.qualified_name()?, "CREATE TABLE with INHERITS", ctx)?;
        }
    }
    if c.seek("as") {
        c.take("as");
        if c.is("execute") {
            return Err(PgError::unsupported("CREATE TABLE AS EXECUTE is not supported")
                .hint("Write the query itself behind AS."));
        }
        return plan_stored_query(whole, c, "CREATE TABLE AS", is_temporary, plan_query);
    }
    Ok(Coordinator { changes_schema: true, pins: is_temporary, ..coordinator(whole.text()) }.into())
}

fn refuse_managed(name: &QualifiedName, construct: &str, ctx: &Context<'_>) -> Result<(), PgError> {
    match resolve(ctx, name) {
        Some(table) => Err(refuse_construct(construct, &table.name)),
        None => Ok(()),
    }
}
