//! Writes whose rows the plan looks into: INSERTs, and every write of a reference table.

use std::sync::Arc;

use super::Plan;
use crate::shard_map::Table;
use crate::sql::{Operand, Splice, Spliced, With};

/// INSERT ... VALUES: the whole text when all rows belong to one group, else split by rows.
#[derive(Debug, Clone)]
pub struct Insert {
    pub table: Arc<Table>,
    pub rows: Vec<InsertRow>,
    /// The whole statement.
    pub query: Spliced,
    /// Everything up to and including VALUES; then rows joined by commas; then `tail`.
    pub head: Spliced,
    /// ON CONFLICT and RETURNING, perhaps empty.
    pub tail: Spliced,
    pub returns_rows: bool,
    /// It reads no table to find the values.
    pub reads_nothing: bool,
}

#[derive(Debug, Clone)]
pub struct InsertRow {
    /// `(1, $2, now())`
    pub text: Box<str>,
    pub tenant: Operand,
}

/// INSERT ... VALUES that leaves distribution columns to their default: which shard a row belongs to is known once that is drawn.
#[derive(Debug, Clone)]
pub struct FilledInsert {
    /// Without the values that are to be drawn.
    pub insert: Insert,
    /// Of the distribution column alone.
    pub filling: Filling,
    /// Where each row begins in the statement.
    pub rows_at: Vec<u32>,
}

impl FilledInsert {
    /// With what was drawn for each row; `literals` are the same as SQL.
    pub fn filled(&self, drawn: &[String], literals: &[String]) -> Insert {
        let value = |row: usize, _: usize| literals[row].as_str();
        let mut places: Vec<Splice> = self.filling.splices(value).collect();
        places.sort_by_key(|place| place.at);
        // A part of the statement, which begins at `at` there.
        let part = |text: &Spliced, at: u32| {
            let end = at + text.text().len() as u32;
            let first = places.partition_point(|place| place.at < at);
            let inside = places[first..].iter().take_while(|place| place.at + place.len <= end);
            let moved = inside.map(|place| Splice { at: place.at - at, ..place.clone() });
            Spliced::new(text.text().clone(), text.splices().iter().cloned().chain(moved).collect())
        };
        let is_drawn = self.filling.concerned();
        let rows = self.insert.rows.iter().zip(&self.rows_at).enumerate().map(|(n, (row, at))| InsertRow {
            text: part(&Spliced::verbatim(&*row.text), *at).render(None).into(),
            tenant: if is_drawn[n] { Operand::Literal(drawn[n].as_str().into()) } else { row.tenant.clone() },
        });
        Insert {
            rows: rows.collect(),
            query: part(&self.insert.query, 0),
            head: part(&self.insert.head, 0),
            ..self.insert.clone()
        }
    }
}

#[derive(Debug, Clone)]
pub struct InsertSelect {
    pub table: Arc<Table>,
    /// Target columns by name, in order.
    pub columns: Vec<String>,
    /// The statement lists them; otherwise they are the table's, and the last ones may get nothing but their defaults.
    pub are_listed: bool,
    /// The SELECT, planned by itself.
    pub source: Box<Plan>,
    /// Its text.
    pub source_text: Box<str>,
    /// What it gives; empty where nothing of it is a constant without a type.
    pub given: Vec<Given>,
    /// What the statement says around it, where COPY could not store the rows: ON CONFLICT, RETURNING.
    pub words: Option<Words>,
}

/// A column of the SELECT of an INSERT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    Computed,
    /// NULL or a string, whose type is the target's.
    Untyped(Option<Box<str>>),
}

/// An INSERT without its source.
#[derive(Debug, Clone)]
pub struct Words {
    /// Everything in front of the source.
    pub head: Spliced,
    /// ON CONFLICT and RETURNING.
    pub tail: Spliced,
    pub returns_rows: bool,
}

impl Words {
    /// The INSERT of these rows: `(1, 'a')` and the tenant in it.
    pub fn around(&self, table: &Arc<Table>, rows: Vec<InsertRow>) -> Insert {
        let texts: Vec<&str> = rows.iter().map(|row| &*row.text).collect();
        let query = self.head.followed_by(&format!(" VALUES {} ", texts.join(", ")), &self.tail);
        Insert {
            table: table.clone(),
            query,
            head: self.head.followed_by(" VALUES", &Spliced::verbatim("")),
            tail: self.tail.clone(),
            returns_rows: self.returns_rows,
            reads_nothing: false,
            rows,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ReferenceWrite {
    pub table: Arc<Table>,
    pub query: Spliced,
    /// What is put into it when it runs.
    pub filling: Option<Filling>,
    pub command: WriteCommand,
    /// Names of functions called anywhere in the text, folded, unqualified: the executor asks the coordinator whether
    /// each is immutable.
    pub functions: Vec<String>,
    pub has_on_conflict: bool,
    pub returns_rows: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteCommand {
    Insert,
    Update,
    Delete,
}

/// What an INSERT leaves to defaults that would differ from node to node: values that are drawn once, and put into its
/// text.
#[derive(Debug, Clone)]
pub struct Filling {
    /// Whose defaults, by name.
    pub columns: Vec<String>,
    /// For how many rows.
    pub rows: usize,
    pub places: Vec<Filled>,
}

/// Replaces `len` bytes at byte `at`.
#[derive(Debug, Clone)]
pub struct Filled {
    pub at: u32,
    pub len: u32,
    pub parts: Vec<FilledPart>,
}

#[derive(Debug, Clone)]
pub enum FilledPart {
    Text(String),
    /// The value for a row and one of the filling's columns, both from 0.
    Value {
        row: usize,
        column: usize,
    },
}

impl Filling {
    /// The statement with what `value` says for each row and column.
    pub fn fill<'v>(&self, query: &Spliced, value: impl Fn(usize, usize) -> &'v str) -> Spliced {
        let filled = self.splices(value);
        Spliced::new(query.text().clone(), query.splices().iter().cloned().chain(filled).collect())
    }

    fn splices<'v>(&self, value: impl Fn(usize, usize) -> &'v str) -> impl Iterator<Item = Splice> {
        self.places.iter().map(move |place| {
            let parts = place.parts.iter().map(|part| match part {
                FilledPart::Text(text) => text,
                FilledPart::Value { row, column } => value(*row, *column),
            });
            Splice { at: place.at, len: place.len, with: With::Fixed(parts.collect::<String>().into()) }
        })
    }

    /// Which rows get a value.
    fn concerned(&self) -> Vec<bool> {
        let mut concerned = vec![false; self.rows];
        for part in self.places.iter().flat_map(|place| &place.parts) {
            if let FilledPart::Value { row, .. } = part {
                concerned[*row] = true;
            }
        }
        concerned
    }
}
