//! Values of the admin database's tables: text and whole numbers.

use bytes::{BufMut, BytesMut};

use crate::wire::rows::Field;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
}

/// A column: its name and what it holds.
pub type Column = (&'static str, Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Text(String),
    Number(i64),
}

impl Value {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// What is larger than a number can be is shown as the largest.
    pub fn number(number: impl TryInto<i64>) -> Self {
        Self::Number(number.try_into().unwrap_or(i64::MAX))
    }

    /// Writes the value with its length. Source: PostgreSQL manual, "Message Formats", DataRow.
    pub fn put(&self, is_binary: bool, out: &mut BytesMut) {
        match self {
            Self::Null => out.put_i32(-1),
            Self::Text(text) => put_counted(text.as_bytes(), out),
            Self::Number(number) if is_binary => put_counted(&number.to_be_bytes(), out),
            Self::Number(number) => put_counted(number.to_string().as_bytes(), out),
        }
    }
}

pub fn field((name, kind): &Column) -> Field {
    let type_oid = match kind {
        Kind::Text => TEXT,
        Kind::Number => INT8,
    };
    Field { name: (*name).to_owned(), type_oid, type_modifier: -1 }
}

fn put_counted(bytes: &[u8], out: &mut BytesMut) {
    // Far below i32::MAX: names, addresses, settings.
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

/// Source: PostgreSQL src/include/catalog/pg_type.dat.
const TEXT: u32 = 25;
const INT8: u32 = 20;
