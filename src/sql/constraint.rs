//! Reads columns and constraints as ALTER TABLE and CREATE TABLE write them.

use crate::error::PgError;

use super::lexer::{TokenKind, fold};
use super::{Cursor, QualifiedName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDefinition {
    pub name: String,
    pub draws_from_sequence: bool,
    pub default: DefaultExpression,
    pub constraints: Vec<Constraint>,
}

/// What a DEFAULT calls; enough to know whether every server would compute the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DefaultExpression {
    /// Names in front of a parenthesis and words like CURRENT_TIMESTAMP.
    pub calls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// PRIMARY KEY, UNIQUE, EXCLUDE: plain columns among its keys (for EXCLUDE those compared by `=`).
    Key {
        columns: Vec<String>,
    },
    ForeignKey(ForeignKey),
    /// CHECK, NOT NULL, a key over an index that exists already.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    pub columns: Vec<String>,
    pub table: QualifiedName,
    /// Empty: the other table's primary key.
    pub referenced: Vec<String>,
    /// ON DELETE SET NULL or SET DEFAULT.
    pub sets_on_delete: bool,
    /// ON UPDATE SET NULL, SET DEFAULT or CASCADE.
    pub changes_on_update: bool,
}

/// `[CONSTRAINT name] PRIMARY KEY | UNIQUE | EXCLUDE | FOREIGN KEY | CHECK ...`; none when a column follows.
pub(super) fn read_table_constraint(c: &mut Cursor<'_>) -> Result<Option<Constraint>, PgError> {
    if c.take("constraint") {
        c.identifier()?;
    }
    Ok(Some(if c.take_all(&["primary", "key"]) || c.take("unique") {
        c.take_all(&["nulls", "not", "distinct"]);
        c.take_all(&["nulls", "distinct"]);
        match c.parenthesized()? {
            Some(columns) => Constraint::Key { columns: read_plain_columns(&columns)? },
            None => Constraint::Other,
        }
    } else if c.take("exclude") {
        if c.take("using") {
            c.identifier()?;
        }
        match c.parenthesized()? {
            Some(elements) => Constraint::Key { columns: read_columns_excluded_by_equality(&elements)? },
            None => return Err(c.syntax_error()),
        }
    } else if c.take_all(&["foreign", "key"]) {
        let Some(columns) = c.parenthesized()? else { return Err(c.syntax_error()) };
        let columns = read_plain_columns(&columns)?;
        c.expect("references")?;
        Constraint::ForeignKey(read_foreign_key(c, columns)?)
    } else if c.is("check") {
        Constraint::Other
    } else {
        return Ok(None);
    }))
}

/// Behind REFERENCES.
fn read_foreign_key(c: &mut Cursor<'_>, columns: Vec<String>) -> Result<ForeignKey, PgError> {
    let table = c.qualified_name()?;
    let referenced = match c.parenthesized()? {
        Some(list) => read_plain_columns(&list)?,
        None => Vec::new(),
    };
    let mut key = ForeignKey { columns, table, referenced, sets_on_delete: false, changes_on_update: false };
    loop {
        if c.take("match") {
            c.identifier()?;
        } else if c.take_all(&["on", "delete"]) {
            key.sets_on_delete = c.is("set");
            skip_referential_action(c)?;
        } else if c.take_all(&["on", "update"]) {
            key.changes_on_update = c.is("set") || c.is("cascade");
            skip_referential_action(c)?;
        } else {
            return Ok(key);
        }
    }
}

fn skip_referential_action(c: &mut Cursor<'_>) -> Result<(), PgError> {
    let two_words = c.take("no") || c.take("set");
    c.identifier()?;
    if two_words {
        c.parenthesized()?;
    }
    Ok(())
}

pub(super) fn read_column_definition(mut c: Cursor<'_>) -> Result<ColumnDefinition, PgError> {
    let name = c.identifier()?;
    let kind = c.peek().map(|t| fold(c.text(), t).into_owned()).unwrap_or_default();
    let is_serial = matches!(kind.as_str(), "serial" | "bigserial" | "smallserial" | "serial2" | "serial4" | "serial8");
    let mut column = ColumnDefinition {
        name: name.clone(),
        draws_from_sequence: is_serial,
        default: DefaultExpression::default(),
        constraints: Vec::new(),
    };
    while !c.at_end() {
        if c.take_all(&["primary", "key"]) || c.take("unique") {
            column.constraints.push(Constraint::Key { columns: vec![name.clone()] });
        } else if c.take("references") {
            column.constraints.push(Constraint::ForeignKey(read_foreign_key(&mut c, vec![name.clone()])?));
        } else if c.take("default") {
            let start = c;
            let ends =
                ["constraint", "not", "null", "check", "unique", "primary", "references", "generated", "collate"];
            while !c.at_end() && !ends.iter().any(|word| c.is(word)) {
                c.skip_group()?;
            }
            if c.is("null") && start.rest().len() == c.rest().len() {
                c.take("null");
            }
            column.default = read_calls(&start.until(&c));
            column.draws_from_sequence |= column.default.draws_from_sequence();
        } else if c.take("generated") {
            column.draws_from_sequence |= c.take_all(&["by", "default"]) || c.is_at(2, "identity");
        } else {
            c.skip_group()?;
        }
    }
    Ok(column)
}

impl DefaultExpression {
    pub fn draws_from_sequence(&self) -> bool {
        self.calls.iter().any(|name| name == "nextval")
    }
}

pub(super) fn read_calls(c: &Cursor<'_>) -> DefaultExpression {
    let text = c.text();
    let mut calls = Vec::new();
    for pair in c.rest().windows(2) {
        if pair[0].is_identifier() && pair[1].is_punct(b'(') {
            calls.push(fold(text, &pair[0]).into_owned());
        }
    }
    for token in c.rest().iter().filter(|t| t.kind == TokenKind::Word) {
        let name = fold(text, token);
        if name.starts_with("current_") || name.starts_with("localtime") {
            calls.push(name.into_owned());
        }
    }
    DefaultExpression { calls }
}

/// Elements that are a bare column, perhaps with an operator class, collation or order behind it.
pub(super) fn read_plain_columns(list: &Cursor<'_>) -> Result<Vec<String>, PgError> {
    let mut columns = Vec::new();
    for element in list.split_commas()? {
        match element.rest() {
            [name, rest @ ..] if name.is_identifier() && rest.first().is_none_or(|t| t.is_identifier()) => {
                columns.push(fold(list.text(), name).into_owned());
            }
            [] => return Err(element.syntax_error()),
            _ => {}
        }
    }
    Ok(columns)
}

fn read_columns_excluded_by_equality(list: &Cursor<'_>) -> Result<Vec<String>, PgError> {
    let mut columns = Vec::new();
    for mut element in list.split_commas()? {
        let name = element.identifier().ok();
        if element.seek("with") {
            element.take("with");
            if element.is_operator("=") {
                columns.extend(name);
            }
        }
    }
    Ok(columns)
}

/// Every table that stands behind REFERENCES, at any depth.
pub fn read_references(cursor: Cursor<'_>) -> Result<Vec<QualifiedName>, PgError> {
    let mut c = cursor;
    let mut names = Vec::new();
    while !c.at_end() {
        if c.take("references") {
            names.push(c.qualified_name()?);
        } else {
            c.advance();
        }
    }
    Ok(names)
}
