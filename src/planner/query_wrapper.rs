//! Plans statements around a query: EXPLAIN, DECLARE CURSOR, CREATE TABLE AS, CREATE VIEW.
//!
//! The query inside is planned by itself; when the coordinator alone can run it, it runs the whole statement.

use crate::error::PgError;
use crate::shard_map::ColocationId;
use crate::sql::{Access, Cursor, Splice, Spliced};

use super::names::{coordinator, names_managed_table};
use super::session_effects::refuse_hidden_settings;
use super::statement::is_stored_as_written;
use super::{Combine, Context, Coordinator, Explain, Figures, Plan, Router, Rowset, Scatter, Shards};

pub(super) type PlanQuery<'q> = &'q dyn Fn(&str) -> Result<Plan, PgError>;

/// Behind EXPLAIN.
pub(super) fn plan_explain(mut c: Cursor<'_>, ctx: &Context<'_>, plan_query: PlanQuery<'_>) -> Result<Plan, PgError> {
    let text = c.text();
    let (mut analyze, mut format) = (false, "text".to_owned());
    match c.parenthesized()? {
        // `EXPLAIN (SELECT 1)` has a query in parentheses, not options.
        Some(options)
            if !["select", "with", "values", "table"].iter().any(|w| options.is(w)) && !options.is_punct(b'(') =>
        {
            for mut option in options.split_commas()? {
                if option.take("analyze") || option.take("analyse") {
                    analyze = !["off", "false", "0"].contains(&option.rest_text().to_ascii_lowercase().as_str());
                } else if option.take("format") {
                    format = option.rest_text().trim_matches('\'').to_ascii_lowercase();
                }
            }
        }
        Some(_) => {
            c = Cursor::new(text, c.all());
            c.take("explain");
        }
        None => {
            analyze = c.take("analyze") || c.take("analyse");
            c.take("verbose");
        }
    }
    if c.at_end() {
        return Err(c.syntax_error());
    }
    let returns = |query| Coordinator { access: Access::Read, returns_rows: true, query, ..coordinator("") };
    if c.is("execute") {
        return Err(
            PgError::unsupported("EXPLAIN EXECUTE is not supported").hint("Use EXPLAIN with the statement itself.")
        );
    }
    if c.is("create") || c.is("declare") || c.is("refresh") {
        return match names_managed_table(text, c.rest(), ctx) {
            Some(table) => Err(refuse_over_managed("EXPLAIN of this statement", &table)),
            None => Ok(returns(Spliced::verbatim(text)).into()),
        };
    }
    let offset = c.rest_range().start;
    let inner = plan_query(c.rest_text())?;
    if analyze {
        refuse_hidden_settings(&inner)?;
    }
    Ok(match inner {
        Plan::Coordinator(inner) => Coordinator {
            access: if analyze { inner.access } else { Access::Read },
            pins: inner.pins,
            recalls: inner.recalls,
            renumbers: inner.renumbers,
            needs: inner.needs,
            ..returns(rebase(text, offset, &inner.query))
        }
        .into(),
        Plan::Router(inner) => Plan::Router(Router {
            query: rebase(text, offset, &inner.query),
            access: if analyze { inner.access } else { Access::Read },
            returns_rows: true,
            ..inner
        }),
        Plan::Insert(inner)
            if inner.rows.len() == 1 && inner.rows.iter().all(|r| is_stored_as_written(&inner.table, &r.tenant)) =>
        {
            Plan::Router(Router {
                colocation: inner.table.colocation,
                operands: inner.rows.iter().map(|row| row.tenant.clone()).collect(),
                query: rebase(text, offset, &inner.query),
                access: if analyze { Access::Write } else { Access::Read },
                locks_rows: false,
                returns_rows: true,
                one_row_of: None,
            })
        }
        _ if analyze => {
            return Err(PgError::unsupported("EXPLAIN ANALYZE of a statement over several shards is not supported")
                .hint(
                    "Use EXPLAIN without ANALYZE, or restrict the statement to one value of the distribution column.",
                ));
        }
        _ if !["text", "json"].contains(&format.as_str()) => {
            return Err(PgError::unsupported(format!(
                "EXPLAIN (FORMAT {format}) of a statement over several shards is not supported"
            ))
            .hint("Use TEXT or JSON."));
        }
        inner => Plan::Explain(Explain { inner: Box::new(inner), is_json: format == "json" }),
    })
}

/// Behind DECLARE.
pub(super) fn plan_declare(mut c: Cursor<'_>, plan_query: PlanQuery<'_>) -> Result<Plan, PgError> {
    let text = c.text();
    c.identifier()?;
    if !c.seek("cursor") {
        return Err(c.syntax_error());
    }
    c.take("cursor");
    let with_hold = c.take_all(&["with", "hold"]);
    c.take_all(&["without", "hold"]);
    c.expect("for")?;
    let mut verb = c;
    if verb.take_any(&["select", "values", "table", "with"]).is_none() && !verb.is_punct(b'(') {
        return Err(c.syntax_error());
    }
    let inner = plan_query(c.rest_text())?;
    refuse_hidden_settings(&inner)?;
    match inner {
        Plan::Coordinator(inner) => Ok(Coordinator {
            recalls: inner.recalls,
            renumbers: inner.renumbers,
            query: rebase(text, c.rest_range().start, &inner.query),
            access: inner.access,
            pins: inner.pins || with_hold,
            needs_block: !with_hold,
            needs: inner.needs,
            ..coordinator("")
        }
        .into()),
        // The coordinator keeps the rows while the cursor is open; one WITH HOLD takes them over when the transaction ends,
        // before their table goes.
        Plan::Combine(inner) => {
            let query = rebased_under(text, c.rest_range().start, &inner.query);
            Ok(Plan::Combine(Combine { query, pins: with_hold, needs_block: !with_hold, ..inner }))
        }
        Plan::Scatter(Scatter { access: Access::Read, colocation, shards, query, .. }) => {
            Ok(cursor_over(&c, with_hold, colocation, shards, query))
        }
        Plan::Router(Router { access: Access::Read, colocation, operands, query, .. }) => {
            Ok(cursor_over(&c, with_hold, colocation, Shards::One(operands), query))
        }
        _ => Err(PgError::unsupported("cursors for statements that write are not supported")
            .hint("Declare it for a SELECT.")),
    }
}

/// The query of a cursor behind the words before it, however it was made.
fn rebased_under(text: &str, offset: usize, inner: &Spliced) -> Spliced {
    Spliced::verbatim(format!("{}{}", &text[..offset], inner.render(None)))
}

/// A cursor whose rows are gathered first, into a table of its own: several may be open.
fn cursor_over(c: &Cursor<'_>, pins: bool, colocation: ColocationId, shards: Shards, query: Spliced) -> Plan {
    let (text, rest) = (c.text(), c.rest_range());
    let name = format!("tenantry_cursor_{:x}", rows_name(&text[..rest.start]));
    let head = &text[..rest.start];
    let rowset = Rowset { name, colocation, shards, query, shell_query: Spliced::verbatim(&text[rest.clone()]) };
    Plan::Combine(Combine { pins, needs_block: !pins, ..Combine::all_of(head, rowset) })
}

/// A number for the words of a DECLARE, its name among them.
fn rows_name(declaration: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    declaration.hash(&mut hasher);
    hasher.finish()
}

/// CREATE TABLE AS, CREATE VIEW, CREATE MATERIALIZED VIEW: `query` stands behind AS, `what` names the statement.
pub(super) fn plan_stored_query(
    whole: Cursor<'_>,
    query: Cursor<'_>,
    what: &str,
    is_temporary: bool,
    plan_query: PlanQuery<'_>,
) -> Result<Plan, PgError> {
    let text = whole.text();
    let range = without_tail(query).rest_range();
    let inner = plan_query(&text[range.clone()])?;
    refuse_hidden_settings(&inner)?;
    match inner {
        Plan::Coordinator(inner) if inner.needs.contains(&Figures::PreparedStatements) => {
            Err(PgError::unsupported(format!("{what} over pg_prepared_statements is not supported"))
                .detail("It shows what the session has prepared that reads it."))
        }
        Plan::Coordinator(inner) => Ok(Coordinator {
            recalls: inner.recalls,
            renumbers: inner.renumbers,
            query: rebase(text, range.start, &inner.query),
            pins: inner.pins || is_temporary,
            changes_schema: true,
            needs: inner.needs,
            ..coordinator("")
        }
        .into()),
        _ => Err(PgError::unsupported(format!("{what} over distributed tables is not supported"))
            .hint("Create the table, distribute it, and fill it with INSERT ... SELECT; or put the query into the application.")),
    }
}

pub(super) fn refuse_over_managed(what: &str, table: &str) -> PgError {
    PgError::unsupported(format!("{what} is not supported with distributed or reference tables"))
        .detail(format!("The statement names \"{table}\"."))
}

/// Splices of a part of `text` that begins at `offset`, as splices of the whole.
pub(super) fn rebase(text: &str, offset: usize, inner: &Spliced) -> Spliced {
    let splices = inner.splices().iter().map(|s| Splice { at: s.at + offset as u32, len: s.len, with: s.with.clone() });
    Spliced::new(text, splices.collect())
}

/// Cuts off WITH [NO] DATA and WITH [CASCADED | LOCAL] CHECK OPTION.
fn without_tail(query: Cursor<'_>) -> Cursor<'_> {
    let mut with = query;
    while with.seek("with") {
        let mut tail = with;
        tail.take("with");
        tail.take_any(&["no", "cascaded", "local"]);
        if (tail.take("data") || tail.take_all(&["check", "option"])) && tail.at_end() {
            return query.until(&with);
        }
        with.take("with");
    }
    query
}
