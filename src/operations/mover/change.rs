//! A row change of the stream as one statement with parameters.
//!
//! Values travel in their types' text forms, whatever the types; the row is found by its key, or by all its columns.

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::row_index;
use crate::error::{PgError, Result, SqlState};
use crate::wire::pgoutput::{OldTuple, Tuple, Value};

/// A table of the stream and what applying to it needs.
pub struct Table {
    /// As the source calls it, quoted; for messages.
    pub name: String,
    pub is_marker: bool,
    pub has_full_identity: bool,
    pub columns: Vec<Column>,
    /// Index of the distribution column, where rows go to several places.
    pub key: Option<usize>,
}

pub struct Column {
    /// Quoted.
    pub name: String,
    /// As SQL spells it, schema included.
    pub type_name: String,
    /// Has a part in the hash by which rows without a key are found.
    pub is_hashed: bool,
    pub is_key: bool,
    /// GENERATED ALWAYS AS IDENTITY: can be inserted (overriding), never set by UPDATE.
    pub is_always_identity: bool,
}

impl Table {
    /// `into` is the table's name where the row goes, quoted.
    pub fn insert(&self, into: &str, new: Tuple) -> Result<(String, Vec<TextValue>)> {
        self.check(&new)?;
        let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        let numbers: Vec<String> = (1..=names.len()).map(|n| format!("${n}")).collect();
        // Values of identity columns were chosen on the source.
        let sql = if names.is_empty() {
            format!("INSERT INTO {into} DEFAULT VALUES")
        } else {
            format!("INSERT INTO {into} ({}) OVERRIDING SYSTEM VALUE VALUES ({})", names.join(", "), numbers.join(", "))
        };
        Ok((sql, new.into_iter().map(TextValue::new).collect::<Result<_>>()?))
    }

    /// None when no column that was sent can have changed.
    pub fn update(&self, into: &str, old: Option<OldTuple>, new: Tuple) -> Result<Option<(String, Vec<TextValue>)>> {
        self.check(&new)?;
        let identity = match &old {
            Some(old) => old.tuple(),
            None if self.has_full_identity => return Err(self.malformed()),
            None => &new,
        };
        self.check(identity)?;
        let (mut set, mut values) = (Vec::new(), Vec::new());
        for (i, (column, value)) in self.columns.iter().zip(&new).enumerate() {
            if *value == Value::Unchanged || (old.is_none() && column.is_key) {
                continue;
            }
            if column.is_always_identity {
                if old.is_some() && identity[i] != Value::Null && identity[i] != *value {
                    return Err(PgError::unsupported(format!(
                        "cannot replicate a change of column {} of {}, which is an identity column generated always",
                        column.name, self.name
                    )));
                }
                continue;
            }
            values.push(TextValue::new(value.clone())?);
            set.push(format!("{} = ${}", column.name, values.len()));
        }
        if set.is_empty() {
            return Ok(None);
        }
        let row = self.row(into, identity, &mut values)?;
        Ok(Some((format!("UPDATE {into} SET {} WHERE {row}", set.join(", ")), values)))
    }

    pub fn delete(&self, into: &str, old: &OldTuple) -> Result<(String, Vec<TextValue>)> {
        self.check(old.tuple())?;
        let mut values = Vec::new();
        let row = self.row(into, old.tuple(), &mut values)?;
        Ok((format!("DELETE FROM {into} WHERE {row}"), values))
    }

    /// The condition that finds the row, by its key or (with a full identity) by all its columns.
    fn row(&self, into: &str, identity: &Tuple, values: &mut Vec<TextValue>) -> Result<String> {
        if self.has_full_identity {
            let mut numbers = Vec::new();
            for (column, value) in self.columns.iter().zip(identity) {
                values.push(TextValue::new(value.clone())?);
                numbers.push(format!("${}::{}", values.len(), column.type_name));
            }
            let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
            let hashed = || self.columns.iter().zip(&numbers).filter(|(column, _)| column.is_hashed);
            let near = match hashed().count() {
                0 => String::new(),
                _ => format!(
                    "{} = {} AND ",
                    row_index::hash(&hashed().map(|(column, _)| column.name.clone()).collect::<Vec<_>>()),
                    row_index::hash(&hashed().map(|(_, number)| number.clone()).collect::<Vec<_>>())
                ),
            };
            // Compares bytes: works for types without equality, and finds the row itself, not one that is merely equal.
            // Of several identical rows any will do.
            return Ok(format!(
                "ctid = (SELECT ctid FROM ONLY {into} WHERE {near}ROW({})::record *= ROW({})::record LIMIT 1)",
                names.join(", "),
                numbers.join(", ")
            ));
        }
        let mut conditions = Vec::new();
        for (column, value) in self.columns.iter().zip(identity).filter(|(column, _)| column.is_key) {
            values.push(TextValue::new(value.clone())?);
            conditions.push(format!("{} = ${}", column.name, values.len()));
        }
        if conditions.is_empty() { Err(self.malformed()) } else { Ok(conditions.join(" AND ")) }
    }

    pub fn check(&self, tuple: &Tuple) -> Result<()> {
        if tuple.len() == self.columns.len() { Ok(()) } else { Err(self.malformed()) }
    }

    pub fn malformed(&self) -> PgError {
        PgError::new(SqlState::PROTOCOL_VIOLATION, format!("malformed change of {} in the change stream", self.name))
    }
}

/// A value in its type's text form, whatever the type.
#[derive(Debug)]
pub struct TextValue(Option<Bytes>);

impl TextValue {
    fn new(value: Value) -> Result<Self> {
        match value {
            Value::Null => Ok(Self(None)),
            Value::Text(text) => Ok(Self(Some(text))),
            Value::Unchanged | Value::Binary(_) => {
                Err(PgError::new(SqlState::PROTOCOL_VIOLATION, "a value is missing in the change stream"))
            }
        }
    }

    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, Bytes::len)
    }
}

impl ToSql for TextValue {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0 {
            Some(text) => {
                out.put_slice(text);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}
