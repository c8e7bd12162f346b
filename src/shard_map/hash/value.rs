//! A value as its type's equality sees it: two values are equal in Postgres exactly when they are equal here.

use std::borrow::Cow;

use super::numeric::Numeric;
use super::{float, lookup3};

/// A value of a distribution column, whatever form it came in. Values of one column are compared with each other only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// smallint, integer, bigint; microseconds of timestamps and times of day.
    Integer(i64),
    /// oid, date, boolean, `"char"`.
    Word(u32),
    /// Text (of char(n) without trailing blanks), bytea, uuid.
    Bytes(Cow<'a, [u8]>),
    /// real and double precision: bits, one for both zeros and one for every NaN.
    Float(u64),
    Numeric(Numeric),
    /// What only Postgres can hash: its hash, and its binary form.
    Other {
        hash: i32,
        binary: Vec<u8>,
    },
}

impl<'a> Value<'a> {
    pub(super) fn bytes(bytes: &'a [u8]) -> Self {
        Value::Bytes(Cow::Borrowed(bytes))
    }

    pub(super) fn float(value: f64) -> Self {
        Value::Float(float::canonical(value).to_bits())
    }

    /// Postgres's own 32-bit hash of it.
    pub fn hash(&self) -> i32 {
        match self {
            Value::Integer(value) => lookup3::hash_i64(*value) as i32,
            Value::Word(value) => lookup3::hash_u32(*value) as i32,
            Value::Bytes(bytes) => lookup3::hash_bytes(bytes) as i32,
            Value::Float(bits) => float::hash(f64::from_bits(*bits)) as i32,
            Value::Numeric(value) => value.hash() as i32,
            Value::Other { hash, .. } => *hash,
        }
    }

    /// Bytes that are the same for equal values and for no others of the type.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Value::Integer(value) => value.to_be_bytes().to_vec(),
            Value::Word(value) => value.to_be_bytes().to_vec(),
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::Float(bits) => bits.to_be_bytes().to_vec(),
            Value::Numeric(value) => value.key(),
            Value::Other { binary, .. } => binary.clone(),
        }
    }

    /// The same value, not borrowed.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Integer(value) => Value::Integer(value),
            Value::Word(value) => Value::Word(value),
            Value::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
            Value::Float(bits) => Value::Float(bits),
            Value::Numeric(value) => Value::Numeric(value),
            Value::Other { hash, binary } => Value::Other { hash, binary },
        }
    }
}
