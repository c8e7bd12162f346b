//! INSERT into distributed tables, and INSERT into others from distributed ones.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{PgError, SqlState};
use crate::shard_map::Table;
use crate::sql::facts::Family;
use crate::sql::lexer::{Token, TokenKind, is_keyword};
use crate::sql::restriction::all_follow;
use crate::sql::scope::Meaning;
use crate::sql::tree::{self, Body, Expr, ValuesRow};
use crate::sql::{Access, Operand, Spliced};

use super::modify::refuse_tenant_change;
use super::names::{coordinator, quote_identifier};
use super::statement::{Pieces, Statement, ends, is_row_expression};
use super::{
    FilledInsert, Filling, Given, Insert, InsertRow, InsertSelect, Plan, Scatter, Words, computed, defaults, pull,
    query, unsupported,
};

pub(super) fn plan(statement: &Statement<'_>, insert: &tree::Insert) -> Result<Plan, PgError> {
    refuse_tenant_change(statement)?;
    let Some(target) = statement.relations.iter().find(|r| r.name == insert.table) else {
        return Err(unsupported::cannot_analyse("an INSERT without a target"));
    };
    match &target.meaning {
        Meaning::Reference(_) => Err(unsupported::reference_from_distributed()),
        Meaning::Local | Meaning::View(_) => match statement.locks_rows() {
            true => Err(unsupported::locks_many()),
            false if statement.relations.iter().filter(|r| r.is_target).count() > 1 => Err(unsupported::write_in_cte()),
            false => pull::plan(statement),
        },
        Meaning::Distributed(table) => {
            let Some(position) = tenant_position(table, insert)? else {
                return left_to_default(statement, insert, table);
            };
            match &insert.source {
                None => left_to_default(statement, insert, table),
                Some(source) => match &source.body {
                    Body::Values(rows) if is_simple_values(statement, source) => {
                        values(statement, insert, table, rows, position)
                    }
                    _ => select(statement, insert, table, position),
                },
            }
        }
    }
}

/// Where the tenant's value stands in a row, if it is given.
fn tenant_position(table: &Table, insert: &tree::Insert) -> Result<Option<usize>, PgError> {
    let column = table.distribution_column().map_or("", |c| &c.name);
    match &insert.columns {
        Some(names) if !names.is_empty() => Ok(names.iter().position(|n| n.value == column)),
        Some(_) => Ok(table.columns.iter().position(|c| c.name == column)),
        None => Err(unsupported::cannot_analyse("a target that is not a plain column")),
    }
}

/// Rows whose tenant is the column's default: of a new tenant, whose id a sequence draws.
///
/// Errors: 22004 where it has none that is computed.
fn left_to_default(statement: &Statement<'_>, insert: &tree::Insert, table: &Arc<Table>) -> Result<Plan, PgError> {
    let column = table.distribution_column().filter(|column| column.has_volatile_default);
    let column = column.ok_or_else(|| unsupported::tenant_missing(table))?;
    let rows: &[ValuesRow] = match &insert.source {
        None => &[],
        Some(source) => match &source.body {
            Body::Values(rows) if is_simple_values(statement, source) => rows,
            _ => return routed(statement, insert, table),
        },
    };
    if statement.relations.len() > 1 {
        return Err(unsupported::subqueries_in_values());
    }
    let filling = match &insert.source {
        None => defaults::fill_default_values(statement, &[column]),
        Some(_) => defaults::fill_values(statement, insert, table, rows, &[column]),
    };
    let Some(filling) = filling else {
        // Too many or too few: Postgres says it of the shell.
        let columns = defaults::listed(insert, table).len();
        return match rows.iter().any(|row| row.values.len() != columns) {
            true => Ok(coordinator(statement.text).into()),
            false => Err(unsupported::tenant_missing(table)),
        };
    };
    let position = tenant_position(table, insert)?;
    let family = Family::of_column(column);
    let is_known = |value: &Expr| matches!(value, Expr::Default) || is_known(family, value);
    let computed = computed::values_of(statement, table, rows, position, is_known)?;
    let mut planned = Vec::with_capacity(filling.rows);
    for row in rows {
        let given = position.and_then(|at| row.values.get(at)).filter(|value| !matches!(value, Expr::Default));
        let tenant = given.map_or(Ok(Operand::Null), |value| given_tenant(family, value))?;
        planned.push(InsertRow { text: statement.slice(&row.at).into(), tenant });
    }
    if planned.is_empty() {
        planned.push(InsertRow { text: "".into(), tenant: Operand::Null });
    }
    let rows_at = match rows {
        [] => vec![statement.end()],
        rows => rows.iter().map(|row| row.at.start).collect(),
    };
    let insert = with_rows(statement, insert, table, rows, planned);
    Ok(Plan::FilledInsert(FilledInsert { insert, filling, rows_at, computed }))
}

/// NULL for what is computed: nobody knows yet. Errors: 22004 for NULL itself.
fn given_tenant(family: Family, value: &Expr) -> Result<Operand, PgError> {
    match tenant(family, value) {
        _ if matches!(value, Expr::Null) => Err(unsupported::tenant_null()),
        Some(Operand::Null) => Err(unsupported::tenant_null()),
        operand => Ok(operand.unwrap_or(Operand::Null)),
    }
}

fn is_known(family: Family, value: &Expr) -> bool {
    matches!(value, Expr::Null) || tenant(family, value).is_some()
}

pub(super) fn is_simple_values(statement: &Statement<'_>, source: &tree::Query) -> bool {
    statement.tree.with.is_empty() && source.with.is_empty() && !source.is_limited && source.order_by.is_empty()
}

fn values(
    statement: &Statement<'_>,
    insert: &tree::Insert,
    table: &Arc<Table>,
    rows: &[ValuesRow],
    position: usize,
) -> Result<Plan, PgError> {
    // Subqueries in values would read one shard only.
    if statement.relations.len() > 1 {
        return match statement.plan_router() {
            Some(router) => Ok(router),
            None => Err(unsupported::subqueries_in_values()),
        };
    }
    let family = table.distribution_column().map_or(Family::Unsafe, Family::of_column);
    // Where they go to several shards, no server sees them together.
    if rows.windows(2).any(|pair| pair[0].values.len() != pair[1].values.len()) {
        return Err(PgError::new(SqlState::SYNTAX_ERROR, "VALUES lists must all be the same length"));
    }
    if rows.iter().any(|row| matches!(row.values.get(position), Some(Expr::Default))) {
        return left_to_default(statement, insert, table);
    }
    let computed = computed::values_of(statement, table, rows, Some(position), |value| is_known(family, value))?;
    let mut planned = Vec::with_capacity(rows.len());
    for row in rows {
        let tenant = match row.values.get(position) {
            // Too few values: Postgres says so, whichever shard is asked.
            None if insert.columns.as_ref().is_some_and(|c| !c.is_empty()) => Operand::Null,
            None => return left_to_default(statement, insert, table),
            Some(value) => given_tenant(family, value)?,
        };
        planned.push(InsertRow { text: statement.slice(&row.at).into(), tenant });
    }
    if planned.is_empty() {
        return Err(unsupported::cannot_analyse("VALUES without rows"));
    }
    let insert = with_rows(statement, insert, table, rows, planned);
    if computed.is_empty() {
        return Ok(Plan::Insert(insert));
    }
    let filling = Filling { columns: Vec::new(), rows: rows.len(), places: Vec::new() };
    let rows_at = rows.iter().map(|row| row.at.start).collect();
    Ok(Plan::FilledInsert(FilledInsert { insert, filling, rows_at, computed }))
}

/// The whole statement and its parts around the rows, which were planned as these.
fn with_rows(
    statement: &Statement<'_>,
    insert: &tree::Insert,
    table: &Arc<Table>,
    rows: &[ValuesRow],
    planned: Vec<InsertRow>,
) -> Insert {
    let end = statement.end();
    let values = rows.first().map_or(end, |row| row.at.start)..rows.last().map_or(end, |row| row.at.end);
    let part = |range: Range<u32>| {
        let mut pieces = Pieces::new(statement.text, statement.shard_splices());
        pieces.copy(&range);
        pieces.finish()
    };
    Insert {
        table: table.clone(),
        rows: planned,
        query: statement.sharded(),
        head: part(0..values.start),
        tail: if end > values.end { part(values.end..end) } else { Spliced::verbatim("") },
        returns_rows: insert.returning.is_some(),
        reads_nothing: statement.relations.len() == 1,
    }
}

/// The tenant's value; unlike in a condition, text that is no integer is an error which the executor finds.
fn tenant(family: Family, value: &Expr) -> Option<Operand> {
    match value {
        Expr::String(s) => Some(Operand::Literal(s.as_str().into())),
        // An assignment rounds: 5.5 becomes 6, so only whole numbers are certain.
        Expr::Number(n) if family == Family::Text => Some(Operand::Literal(n.as_str().into())).filter(|_| canonical(n)),
        value => match family.constant(value)? {
            Operand::Null if !matches!(value, Expr::Null) && !matches!(value, Expr::Cast(..)) => None,
            operand => Some(operand),
        },
    }
}

/// Printed as it is written.
fn canonical(number: &str) -> bool {
    number.bytes().all(|b| b.is_ascii_digit()) && (number == "0" || !number.starts_with('0')) && number.len() < 10
}

fn select(
    statement: &Statement<'_>,
    insert: &tree::Insert,
    table: &Arc<Table>,
    position: usize,
) -> Result<Plan, PgError> {
    if statement.locks_rows() {
        return Err(unsupported::locks_many());
    }
    if statement.relations.iter().filter(|r| r.is_target).count() > 1 && statement.router_operands().is_none() {
        return Err(unsupported::write_in_cte());
    }
    if let Some(router) = statement.plan_router() {
        return Ok(router);
    }
    if let Some(scatter) = pushdown(statement, insert, table, position) {
        return Ok(scatter);
    }
    routed(statement, insert, table)
}

/// The rows are computed on the coordinator and sent to where they belong.
pub(super) fn routed(statement: &Statement<'_>, insert: &tree::Insert, table: &Arc<Table>) -> Result<Plan, PgError> {
    if !statement.tree.with.is_empty() {
        return Err(unsupported::insert_select("WITH in front of INSERT"));
    }
    let source = source_range(statement, insert)?;
    let words = words(statement, insert, table, &source)?;
    let text = statement.slice(&source);
    let tokens = crate::sql::lexer::lex(text, statement.ctx.standard_conforming_strings)?;
    let inner = query::plan_statement(text, &tokens, statement.ctx, statement.mode)?;
    let columns = match &insert.columns {
        Some(names) if !names.is_empty() => names.iter().map(|n| n.value.clone()).collect(),
        _ => table.columns.iter().filter(|c| !c.is_generated).map(|c| c.name.clone()).collect(),
    };
    Ok(Plan::InsertSelect(InsertSelect {
        table: table.clone(),
        columns,
        are_listed: insert.columns.as_ref().is_some_and(|names| !names.is_empty()),
        source: Box::new(inner),
        source_text: text.into(),
        given: insert.source.as_ref().and_then(|source| given(statement, source)).unwrap_or_default(),
        words,
    }))
}

/// What the source gives, where constants without a type are among it whose type the target's columns decide; `None`
/// also where positions are not known.
///
/// Source: PostgreSQL src/backend/parser/analyze.c, transformInsertStmt(), and parse_clause.c, addTargetToSortList(): what
/// is sorted, grouped or made distinct by is text, as is what a subquery or the legs of a UNION give.
fn given(statement: &Statement<'_>, source: &tree::Query) -> Option<Vec<Given>> {
    let [node] = &statement.root.nested[..] else { return None };
    let outputs = &node.outputs;
    let (mut query, mut sorted_by) = (source, Vec::new());
    let select = loop {
        sorted_by.extend(&query.order_by);
        match &query.body {
            Body::Select(select) => break select,
            Body::Query(inner) => query = inner,
            _ => return None,
        }
    };
    match &select.distinct {
        tree::Distinct::No => {}
        tree::Distinct::On(list) => sorted_by.extend(list),
        tree::Distinct::Rows => return None,
    }
    if !outputs.complete || outputs.items.len() != select.items.len() || select.has_grouping_sets {
        return None;
    }
    sorted_by.extend(&select.group_by);
    let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
    for expr in sorted_by {
        match expr {
            Expr::Number(number) => numbers.extend(number.parse::<usize>()),
            Expr::Column(parts) if parts.len() == 1 => drop(names.insert(&*parts[0].value)),
            _ => {}
        }
    }
    let mut given = vec![Given::Computed; outputs.columns.len()];
    for (item, &at) in select.items.iter().zip(&outputs.items) {
        let tree::Item::Expr { expr, alias } = item else { continue };
        let is_sorted_by = numbers.contains(&(at + 1)) || alias.as_ref().is_some_and(|a| names.contains(&*a.value));
        given[at] = match expr {
            Expr::Null if !is_sorted_by => Given::Untyped(None),
            Expr::String(value) if !is_sorted_by => Given::Untyped(Some(value.as_str().into())),
            _ => continue,
        };
    }
    given.iter().any(|column| *column != Given::Computed).then_some(given)
}

/// Each shard inserts what it selects: the tenant's column of the source is the target's.
fn pushdown(statement: &Statement<'_>, insert: &tree::Insert, table: &Arc<Table>, position: usize) -> Option<Plan> {
    let colocation = statement.colocation()?;
    let type_modifier = |t: &Table| t.distribution_column().map_or(-1, |c| c.type_modifier);
    // Storing must not change the value that the row was found by.
    if type_modifier(table) >= 0 && statement.distributed().any(|(_, t)| type_modifier(t) != type_modifier(table)) {
        return None;
    }
    if statement.has_local() || statement.calls().iter().any(|n| super::functions::is_volatile(n)) {
        return None;
    }
    // What a shard selects must be all that belongs there: no aggregate over other tenants, no LIMIT.
    let Some(Body::Select(select)) = insert.source.as_ref().map(|q| &q.body) else { return None };
    let source = insert.source.as_ref()?;
    let [node] = &statement.root.nested[..] else { return None };
    let [scope] = &node.scopes[..] else { return None };
    let output = node.outputs.columns.get(position).filter(|o| o.is_anchor && node.outputs.complete)?;
    let inner = *output.inner.as_ref()?.first()?;
    let grouped = !select.group_by.is_empty() || select.having.is_some();
    let rows_only = select.items.iter().all(|i| match i {
        tree::Item::Expr { expr, .. } => grouped || is_row_expression(expr),
        _ => true,
    });
    let target = statement.relations.iter().position(|r| r.is_target)?;
    let builder = statement.builder.borrow();
    let follows = all_follow(&builder, &statement.root, scope, inner, Some(target));
    if source.is_limited || select.into || select.has_grouping_sets || !rows_only || !follows {
        return None;
    }
    drop(builder);
    Some(Plan::Scatter(Scatter {
        colocation: if table.colocation == colocation { colocation } else { return None },
        shards: statement.shards(scope, inner),
        query: statement.sharded(),
        access: Access::Write,
        returns_rows: insert.returning.is_some(),
    }))
}

/// What has to be said again with the rows; None: COPY stores them.
fn words(
    statement: &Statement<'_>,
    insert: &tree::Insert,
    table: &Table,
    source: &Range<u32>,
) -> Result<Option<Words>, PgError> {
    if insert.on_conflict.is_none() && insert.returning.is_none() {
        return Ok(None);
    }
    if table.is_reference() {
        return Err(unsupported::insert_select("ON CONFLICT or RETURNING"));
    }
    // It would read one shard only.
    if statement.relations.iter().any(|r| ends(&r.name).0.at >= source.end) {
        return Err(unsupported::insert_select("a table in ON CONFLICT or RETURNING"));
    }
    let pieces = || Pieces::new(statement.text, statement.shard_splices());
    let (mut head, mut tail) = (pieces(), pieces());
    let list_end = insert.columns.iter().flatten().map(|name| name.end()).max();
    match (tenant_position(table, insert)?, list_end, table.distribution_column()) {
        // Its default is among the rows.
        (None, Some(list_end), Some(column)) => head
            .copy(&(0..list_end))
            .push(&format!(", {}", quote_identifier(&column.name)))
            .copy(&(list_end..source.start)),
        _ => head.copy(&(0..source.start)),
    };
    tail.copy(&(source.end..statement.end()));
    Ok(Some(Words { head: head.finish(), tail: tail.finish(), returns_rows: insert.returning.is_some() }))
}

/// Where the source query stands: from its first token to ON CONFLICT, RETURNING or the end.
fn source_range(statement: &Statement<'_>, insert: &tree::Insert) -> Result<Range<u32>, PgError> {
    let after = insert
        .columns
        .iter()
        .flatten()
        .chain(&insert.alias)
        .chain(&insert.table)
        .map(|n| n.end())
        .max()
        .unwrap_or(insert.at);
    let mut tokens = statement.tokens.iter().filter(|t| t.start >= after);
    // Behind the column list stands its parenthesis; OVERRIDING ... VALUE may follow.
    let has_list = insert.columns.as_ref().is_some_and(|c| !c.is_empty());
    if has_list {
        tokens.next();
    }
    let is = |token: &Token, keyword| is_keyword(statement.text, token, keyword);
    let mut start = tokens.next();
    if start.is_some_and(|t| is(t, "overriding")) {
        tokens.next();
        tokens.next();
        start = tokens.next();
    }
    let Some(start) = start.map(|t| t.start) else {
        return Err(unsupported::cannot_analyse("INSERT without a source"));
    };
    let mut end = statement.end();
    // `JOIN t ON conflict` names a column, so the last one counts; RETURNING is a name only behind AS or a dot.
    let (mut depth, mut on_conflict, mut returning) = (0usize, None, None);
    for at in statement.tokens.iter().position(|t| t.start == start).unwrap_or(0)..statement.tokens.len() {
        let token = &statement.tokens[at];
        match token.kind {
            TokenKind::Punct(b'(' | b'[') => depth += 1,
            TokenKind::Punct(b')' | b']') => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            _ if is(token, "on") && statement.tokens.get(at + 1).is_some_and(|next| is(next, "conflict")) => {
                on_conflict = Some(token.start);
            }
            _ if is(token, "returning")
                && !is(&statement.tokens[at - 1], "as")
                && !statement.tokens[at - 1].is_punct(b'.') =>
            {
                returning.get_or_insert(token.start);
            }
            _ => {}
        }
    }
    if insert.returning.is_some() {
        end = returning.unwrap_or(end);
    }
    if insert.on_conflict.is_some() {
        end = on_conflict.unwrap_or(end);
    }
    Ok(start..end)
}
