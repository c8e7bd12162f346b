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

/// INSERT ... VALUES that leaves distribution columns to their default, or has them computed: which shard a row belongs to is known once
/// that is done.
#[derive(Debug, Clone)]
pub struct FilledInsert {
    /// Without the values that are to be drawn.
    pub insert: Insert,
    /// Of the distribution column alone; perhaps of no row.
    pub filling: Filling,
    pub computed: Vec<Computed>,
    /// Where each row begins in the statement.
    pub rows_at: Vec<u32>,
}

/// A value that is computed on the coordinator first.
#[derive(Debug, Clone)]
pub struct Computed {
    /// From 0.
    pub row: usize,
    /// Where it stands in the statement, in bytes.
    pub at: u32,
    pub len: u32,
    pub text: Box<str>,
    /// It is the distribution column's.
    pub is_tenant: bool,
}

impl FilledInsert {
    /// With what was drawn for each row, and the literals of what was computed. `tenants`: of each row what the distribution column gets;
    /// `drawn`: the same as SQL, of rows that leave it to its default.
    pub fn filled(&self, tenants: Vec<Option<String>>, drawn: &[String], computed: &[String]) -> Insert {
        let value = |row: usize, _: usize| drawn[row].as_str();
        let literals = self.computed.iter().zip(computed).map(|(Computed { at, len, .. }, literal)| Splice {
            at: *at,
            len: *len,
            with: With::Fixed(literal.as_str().into()),
        });
        let mut places: Vec<Splice> = self.filling.splices(value).chain(literals).collect();
        places.sort_by_key(|place| place.at);
        // A part of the statement, which begins at `at` there.
        let part = |text: &Spliced, at: u32| {
            let end = at + text.text().len() as u32;
            let first = places.partition_point(|place| place.at < at);
            let inside = places[first..].iter().take_while(|place| place.at + place.len <= end);
            let moved = inside.map(|place| Splice { at: place.at - at, ..place.clone() });
            Spliced::new(text.text().clone(), text.splices().iter().cloned().chain(moved).collect())
        };
        let rows = self.insert.rows.iter().zip(&self.rows_at).zip(tenants).map(|((row, at), tenant)| InsertRow {
            text: part(&Spliced::verbatim(&*row.text), *at).render(None).into(),
            tenant: tenant.map_or_else(|| row.tenant.clone(), |tenant| Operand::Literal(tenant.into())),
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
    pub fn concerned(&self) -> Vec<bool> {
        let mut concerned = vec![false; self.rows];
        for part in self.places.iter().flat_map(|place| &place.parts) {
            if let FilledPart::Value { row, .. } = part {
                concerned[*row] = true;
            }
        }
        concerned
    }
}
