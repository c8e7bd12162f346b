//! What a write leaves to the defaults of its columns, and columns that take nothing else.
//!
//! ```text
//!   INSERT INTO kinds (name)               VALUES ('a'),        ('b')
//!   INSERT INTO kinds (name, "id", "made") VALUES ('a', 7, ..), ('b', 8, ..)      what every node runs
//! ```
//!
//! Every node has its copy of a reference table, and would draw numbers and read clocks by itself.

use std::ops::Range;

use crate::error::{PgError, SqlState};
use crate::shard_map::{Column, Table};
use crate::sql::lexer::{Token, is_keyword};
use crate::sql::scope::Meaning;
use crate::sql::tree::{Body, Expr, Insert, Query, ValuesRow};

use super::names::quote_identifier;
use super::statement::Statement;
use super::{Filled, FilledPart, Filling};

/// Refuses values for columns `GENERATED ALWAYS AS IDENTITY`, as Postgres does where the table is no shard.
///
/// Errors: 428C9.
pub(super) fn check_identities(statement: &Statement<'_>) -> Result<(), PgError> {
    let targets = statement.relations.iter().filter(|r| r.is_target).filter_map(|r| match &r.meaning {
        Meaning::Distributed(table) | Meaning::Reference(table) => Some(table),
        _ => None,
    });
    let tables: Vec<_> = targets.filter(|table| table.columns.iter().any(|column| column.is_always_identity)).collect();
    // Whose columns are meant is certain where there is one.
    let [table] = tables[..] else { return Ok(()) };
    // It stands for the whole statement; Postgres knows no other use of the word.
    if statement.tokens.iter().any(|t| is_keyword(statement.text, t, "overriding")) {
        return Ok(());
    }
    let is_always = |name: &str| table.columns.iter().any(|c| c.is_always_identity && c.name == name);
    match &statement.tree.body {
        Body::Insert(insert) => {
            let given = given_somewhere(insert, table);
            given.iter().find(|name| is_always(name)).map_or(Ok(()), |name| Err(is_given(name)))?;
        }
        Body::Merge(merge) => {
            let plain = merge.inserts.iter().flat_map(|(columns, values)| columns.iter().zip(values));
            let mut given = plain.filter(|(name, value)| is_always(&name.value) && !matches!(value, Expr::Default));
            given.next().map_or(Ok(()), |(name, _)| Err(is_given(&name.value)))?;
        }
        _ => {}
    }
    for assignment in super::modify::assignments(statement.tree) {
        for (n, column) in assignment.columns.iter().enumerate() {
            let value = match &assignment.value {
                Expr::Row(values) if assignment.columns.len() > 1 => values.get(n),
                value => Some(value),
            };
            if is_always(&column.value) && !matches!(value, Some(Expr::Default)) {
                let message = format!("column \"{}\" can only be updated to DEFAULT", column.value);
                return Err(PgError::new(SqlState::GENERATED_ALWAYS, message).detail(always(&column.value)));
            }
        }
    }
    Ok(())
}

fn is_given(column: &str) -> PgError {
    let message = format!("cannot insert a non-DEFAULT value into column \"{column}\"");
    PgError::new(SqlState::GENERATED_ALWAYS, message)
        .detail(always(column))
        .hint("Use OVERRIDING SYSTEM VALUE to override.")
}

fn always(column: &str) -> String {
    format!("Column \"{column}\" is an identity column defined as GENERATED ALWAYS.")
}

/// Columns that at least one row gives a value for; DEFAULT is none.
fn given_somewhere(insert: &Insert, table: &Table) -> Vec<String> {
    let listed = listed(insert, table);
    match insert.source.as_ref().map(|q| &q.body) {
        None => Vec::new(),
        Some(Body::Values(rows)) => {
            let given = |n: &usize| rows.iter().any(|r| r.values.get(*n).is_some_and(|v| !matches!(v, Expr::Default)));
            (0..listed.len()).filter(given).map(|n| listed[n].clone()).collect()
        }
        // How many columns the query has nobody knows here.
        Some(_) if insert.columns.as_ref().is_none_or(Vec::is_empty) => Vec::new(),
        Some(_) => listed,
    }
}

/// The target columns, in order; all where the statement has no list.
pub(super) fn listed(insert: &Insert, table: &Table) -> Vec<String> {
    match &insert.columns {
        Some(names) if !names.is_empty() => names.iter().map(|n| n.value.clone()).collect(),
        _ => table.columns.iter().map(|c| c.name.clone()).collect(),
    }
}

/// What an INSERT into a reference table has to be given besides.
pub(super) enum Left {
    Nothing,
    /// Its text has a place for it.
    Filling(Filling),
    /// The rows are to be made first.
    ToRows,
}

/// `given`: the columns that it has values for in every row.
///
/// Errors: 0A000 for values that an identity is to ignore.
pub(super) fn left_to_defaults(
    statement: &Statement<'_>,
    insert: &Insert,
    table: &Table,
    given: &[String],
) -> Result<Left, PgError> {
    let left: Vec<&Column> =
        table.columns.iter().filter(|c| c.has_volatile_default && !given.contains(&c.name)).collect();
    let ignores = |pair: &[Token]| {
        is_keyword(statement.text, &pair[0], "overriding") && is_keyword(statement.text, &pair[1], "user")
    };
    if statement.tokens.windows(2).any(ignores) {
        return Err(PgError::unsupported("OVERRIDING USER VALUE is not supported with reference tables")
            .hint("Leave the column out."));
    }
    match &insert.source {
        None if left.is_empty() => Ok(Left::Nothing),
        None => Ok(fill_default_values(statement, &left).map_or(Left::ToRows, Left::Filling)),
        Some(Query { body: Body::Values(rows), .. }) => {
            if left.is_empty() {
                return Ok(Left::Nothing);
            }
            Ok(fill_values(statement, insert, table, rows, &left).map_or(Left::ToRows, Left::Filling))
        }
        // Without a list, the query may have fewer columns than the table.
        Some(_) if insert.columns.as_ref().is_none_or(Vec::is_empty) => {
            let is_drawn = table.columns.iter().any(|c| c.has_volatile_default);
            Ok(if is_drawn { Left::ToRows } else { Left::Nothing })
        }
        Some(_) if left.is_empty() => Ok(Left::Nothing),
        Some(_) => Ok(Left::ToRows),
    }
}

const OVERRIDING: &str = " OVERRIDING SYSTEM VALUE ";

/// None where the words are not found.
pub(super) fn fill_default_values(statement: &Statement<'_>, left: &[&Column]) -> Option<Filling> {
    let is = |t: &Token, word: &str| is_keyword(statement.text, t, word);
    let pair = statement.tokens.windows(2).find(|pair| is(&pair[0], "default") && is(&pair[1], "values"))?;
    let names: Vec<_> = left.iter().map(|column| quote_identifier(&column.name)).collect();
    let overriding = if left.iter().any(|column| column.is_always_identity) { OVERRIDING } else { " " };
    let mut parts = vec![FilledPart::Text(format!("({}){overriding}VALUES (", names.join(", ")))];
    for column in 0..left.len() {
        if column > 0 {
            parts.push(FilledPart::Text(", ".to_owned()));
        }
        parts.push(FilledPart::Value { row: 0, column });
    }
    parts.push(FilledPart::Text(")".to_owned()));
    let (at, len) = (pair[0].start, pair[1].end - pair[0].start);
    let columns = left.iter().map(|column| column.name.clone()).collect();
    Some(Filling { columns, rows: 1, places: vec![Filled { at, len, parts }] })
}

/// None where the text is not simple enough to find the places in it.
pub(super) fn fill_values(
    statement: &Statement<'_>,
    insert: &Insert,
    table: &Table,
    rows: &[ValuesRow],
    left: &[&Column],
) -> Option<Filling> {
    let source = insert.source.as_ref()?;
    if !source.with.is_empty() || source.is_limited || !source.order_by.is_empty() {
        return None;
    }
    let mut names = listed(insert, table);
    let has_list = insert.columns.as_ref().is_some_and(|columns| !columns.is_empty());
    if !has_list {
        names.truncate(rows.first()?.values.len());
    }
    if rows.iter().any(|row| row.values.len() != names.len()) {
        return None; // Postgres says what is wrong with them.
    }
    let mut places = Vec::new();
    let added: Vec<usize> = (0..left.len()).filter(|n| !names.contains(&left[*n].name)).collect();
    if !added.is_empty() {
        let quoted: Vec<_> = added.iter().map(|n| quote_identifier(&left[*n].name)).collect();
        let (at, text) = if has_list {
            (insert.columns.as_ref()?.last()?.end(), format!(", {}", quoted.join(", ")))
        } else {
            let all: Vec<_> = names
                .iter()
                .map(|name| quote_identifier(name).to_string())
                .chain(quoted.iter().map(|q| q.to_string()))
                .collect();
            let behind = insert.alias.as_ref().or(insert.table.last())?;
            (behind.end(), format!(" ({})", all.join(", ")))
        };
        places.push(Filled { at, len: 0, parts: vec![FilledPart::Text(text)] });
    }
    let is_overriding = statement.tokens.iter().any(|t| is_keyword(statement.text, t, "overriding"));
    if left.iter().any(|column| column.is_always_identity) && !is_overriding {
        let values = statement.tokens.iter().rfind(|t| t.end <= rows[0].at.start)?;
        if !is_keyword(statement.text, values, "values") {
            return None;
        }
        places.push(Filled { at: values.start, len: 0, parts: vec![FilledPart::Text(OVERRIDING.to_owned())] });
    }
    for (row, ValuesRow { at, values }) in rows.iter().enumerate() {
        let elements = elements(statement.tokens, at);
        for (column, name) in left.iter().enumerate().map(|(n, column)| (n, &column.name)) {
            let Some(place) = names.iter().position(|listed| listed == name) else { continue };
            if matches!(values[place], Expr::Default) {
                let range = elements.get(place)?;
                let parts = vec![FilledPart::Value { row, column }];
                places.push(Filled { at: range.start, len: range.end - range.start, parts });
            }
        }
        if !added.is_empty() {
            let value =
                |column: &usize| [FilledPart::Text(", ".to_owned()), FilledPart::Value { row, column: *column }];
            places.push(Filled { at: at.end - 1, len: 0, parts: added.iter().flat_map(value).collect() });
        }
    }
    Some(Filling { columns: left.iter().map(|column| column.name.clone()).collect(), rows: rows.len(), places })
}

/// Where the elements of a parenthesized list stand.
pub(super) fn elements(tokens: &[Token], list: &Range<u32>) -> Vec<Range<u32>> {
    let mut elements = Vec::new();
    let (mut depth, mut first): (i32, Option<u32>) = (0, None);
    let mut last = list.start;
    let begin = tokens.partition_point(|t| t.start < list.start);
    for token in tokens[begin..].iter().take_while(|t| t.end <= list.end) {
        let opens = token.is_punct(b'(') || token.is_punct(b'[');
        let closes = token.is_punct(b')') || token.is_punct(b']');
        depth += i32::from(opens) - i32::from(closes);
        if (depth == 1 && token.is_punct(b',')) || depth == 0 {
            elements.extend(first.take().map(|start| start..last));
            continue;
        }
        if !(opens && depth == 1) {
            first.get_or_insert(token.start);
        }
        last = token.end;
    }
    elements
}

/// An UPDATE of a reference table sets no column to a default that each node would compute for itself.
///
/// Errors: 0A000.
pub(super) fn refuse_set_default(statement: &Statement<'_>, table: &Table) -> Result<(), PgError> {
    for assignment in super::modify::assignments(statement.tree) {
        for (n, name) in assignment.columns.iter().enumerate() {
            let value = match &assignment.value {
                Expr::Row(values) if assignment.columns.len() > 1 => values.get(n),
                value => Some(value),
            };
            let is_drawn = table.columns.iter().any(|c| c.has_volatile_default && c.name == name.value);
            if is_drawn && matches!(value, Some(Expr::Default)) {
                return Err(PgError::unsupported(format!(
                    "cannot write the same rows to every copy of reference table \"{}\"",
                    table.name
                ))
                .detail(format!("The default of column \"{}\" may differ from node to node.", name.value))
                .hint("Give the value as a constant or a parameter."));
            }
        }
    }
    Ok(())
}
