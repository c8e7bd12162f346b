//! Postgres's own 32-bit hash of a value, per type: what decides which shard a tenant's rows are on.
//!
//! ```text
//!   text or binary form ──(what the type's input function would make of it)──> Value ──lookup3──> i32 ──intervals──> shard
//! ```
//!
//! Source: PostgreSQL 15, src/common/hashfn.c (Jenkins lookup3) and support function 1 of each default hash operator class.
//!
//! Limits: servers are little-endian and their encoding is UTF8, as is the client's; text columns have a deterministic
//! collation. Everywhere `None` means "not provable here": the caller then must not route by the value.

mod datetime;
mod float;
mod integer;
mod lookup3;
mod numeric;
mod print;
mod scalar;
#[cfg(test)]
mod tests;
mod value;

pub use value::Value;

/// A type whose values Tenantry can hash exactly as Postgres does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashType {
    Int2,
    Int4,
    Int8,
    Text,
    Varchar,
    /// `char(n)`: trailing blanks don't count.
    Bpchar,
    Name,
    Bytea,
    Uuid,
    Numeric,
    Bool,
    /// The one-byte type `"char"`.
    Char,
    Date,
    Timestamp,
    Timestamptz,
    Time,
    Float4,
    Float8,
    Oid,
}

/// Every hashable type with its oid in `pg_type` and its name as `format_type(oid, -1)` prints it: fit for a cast
/// (`character` would be `character(1)`).
const TYPES: &[(HashType, u32, &str)] = &[
    (HashType::Int2, 21, "smallint"),
    (HashType::Int4, 23, "integer"),
    (HashType::Int8, 20, "bigint"),
    (HashType::Text, 25, "text"),
    (HashType::Varchar, 1043, "character varying"),
    (HashType::Bpchar, 1042, "bpchar"),
    (HashType::Name, 19, "name"),
    (HashType::Bytea, 17, "bytea"),
    (HashType::Uuid, 2950, "uuid"),
    (HashType::Numeric, 1700, "numeric"),
    (HashType::Bool, 16, "boolean"),
    (HashType::Char, 18, "\"char\""),
    (HashType::Date, 1082, "date"),
    (HashType::Timestamp, 1114, "timestamp without time zone"),
    (HashType::Timestamptz, 1184, "timestamp with time zone"),
    (HashType::Time, 1083, "time without time zone"),
    (HashType::Float4, 700, "real"),
    (HashType::Float8, 701, "double precision"),
    (HashType::Oid, 26, "oid"),
];

/// The pseudo-type of a literal that nothing has given a type yet.
const UNKNOWN_OID: u32 = 705;

impl HashType {
    pub const ALL: [HashType; TYPES.len()] = {
        let mut all = [HashType::Int2; TYPES.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = TYPES[i].0;
            i += 1;
        }
        all
    };

    /// The type behind a `pg_type` oid; none for types that Tenantry cannot hash. Domains: pass the base type.
    pub fn from_oid(oid: u32) -> Option<Self> {
        TYPES.iter().find(|(_, o, _)| *o == oid).map(|(t, _, _)| *t)
    }

    pub fn oid(self) -> u32 {
        self.entry().1
    }

    /// The name as `format_type(oid, -1)` prints it, e.g. `bigint`; a cast to it changes no value.
    pub fn sql_name(self) -> &'static str {
        self.entry().2
    }

    /// The type with a modifier (`pg_attribute.atttypmod`), as `format_type` prints it, e.g. `numeric(10,2)`: a cast to
    /// it changes a value as storing it does.
    pub fn sql_type(self, typmod: i32) -> String {
        match self {
            HashType::Varchar | HashType::Bpchar if typmod >= 4 => format!("{}({})", self.sql_name(), typmod - 4),
            HashType::Numeric if typmod >= 4 => {
                format!("numeric({},{})", ((typmod - 4) >> 16) & 0xffff, numeric::scale(typmod))
            }
            HashType::Timestamp if typmod >= 0 => format!("timestamp({typmod}) without time zone"),
            HashType::Timestamptz if typmod >= 0 => format!("timestamp({typmod}) with time zone"),
            HashType::Time if typmod >= 0 => format!("time({typmod}) without time zone"),
            _ => self.sql_name().to_owned(),
        }
    }

    fn entry(self) -> &'static (HashType, u32, &'static str) {
        TYPES.iter().find(|(t, _, _)| *t == self).expect("a test checks that every type is listed")
    }

    /// The value that this type's input function makes of `text`: an untyped literal or a text-format parameter.
    ///
    /// None for bad syntax, out of range, and what depends on a setting (DateStyle, TimeZone) or differs between versions.
    pub fn read_text(self, text: &str) -> Option<Value<'_>> {
        if text.contains('\0') {
            return None;
        }
        Some(match self {
            HashType::Int2 => Value::Integer(integer::parse(text, i16::MIN.into(), i16::MAX.into())?),
            HashType::Int4 => Value::Integer(integer::parse(text, i32::MIN.into(), i32::MAX.into())?),
            HashType::Int8 => Value::Integer(integer::parse(text, i64::MIN, i64::MAX)?),
            HashType::Oid => Value::Word(integer::oid(integer::parse(text, 0, u32::MAX.into())?)?),
            HashType::Text | HashType::Varchar => Value::bytes(text.as_bytes()),
            HashType::Bpchar => Value::bytes(text.trim_end_matches(' ').as_bytes()),
            HashType::Name => Value::bytes(scalar::clip_name(text).as_bytes()),
            HashType::Bytea => Value::Bytes(scalar::parse_bytea(text)?.into()),
            HashType::Uuid => Value::Bytes(scalar::parse_uuid(text)?.to_vec().into()),
            HashType::Bool => Value::Word(scalar::parse_bool(text)?.into()),
            HashType::Char => Value::Word(scalar::char_word(scalar::parse_char(text)?)?),
            HashType::Numeric => Value::Numeric(numeric::Numeric::parse(text)?),
            HashType::Float4 => Value::float(float::parse_f32(text)?.into()),
            HashType::Float8 => Value::float(float::parse_f64(text)?),
            HashType::Date => Value::Word(datetime::parse_date(text)? as u32),
            HashType::Timestamp => Value::Integer(datetime::parse_timestamp(text)?),
            HashType::Timestamptz => Value::Integer(datetime::parse_timestamptz(text)?),
            HashType::Time => Value::Integer(datetime::parse_time(text)?),
        })
    }

    /// The value that is *stored* when `text` is assigned to a column with `typmod` (`pg_attribute.atttypmod`).
    ///
    /// None also where the assignment may change the value: `numeric(10,2)` rounds, `varchar(3)` cuts blanks off.
    /// Use it for INSERT and COPY; `read_text` for comparisons, where the type modifier plays no part.
    pub fn read_stored_text(self, text: &str, typmod: i32) -> Option<Value<'_>> {
        let is_kept = typmod < 0
            || match self {
                HashType::Varchar => fits_varchar(text, typmod),
                HashType::Numeric => numeric::Numeric::parse(text)?.decimals() <= numeric::scale(typmod),
                HashType::Timestamp | HashType::Timestamptz | HashType::Time => {
                    datetime::fraction_digits(text) as i32 <= typmod
                }
                // Values of char(n) lose only what equality ignores; other types have no modifier.
                _ => true,
            };
        if is_kept { self.read_text(text) } else { None }
    }

    /// As `read_stored_text`, for a binary-format parameter or a field of a binary COPY (see `read_binary`).
    pub fn read_stored_binary(self, value_type: u32, bytes: &[u8], typmod: i32) -> Option<Value<'_>> {
        let is_kept = typmod < 0
            || match (self, HashType::from_oid(value_type)) {
                (HashType::Varchar, _) => fits_varchar(std::str::from_utf8(bytes).ok()?, typmod),
                (HashType::Numeric, Some(HashType::Numeric)) => {
                    numeric::Numeric::read(bytes)?.decimals() <= numeric::scale(typmod)
                }
                (HashType::Numeric, Some(t)) => {
                    numeric::Numeric::from_integer(integer::read(t, bytes)?).decimals() <= numeric::scale(typmod)
                }
                (HashType::Timestamp | HashType::Timestamptz | HashType::Time, Some(t)) if t == self => {
                    datetime::is_kept(i64::from_be_bytes(bytes.try_into().ok()?), typmod)
                }
                _ => true,
            };
        if is_kept { self.read_binary(value_type, bytes) } else { None }
    }

    /// A binary-format parameter of type `value_type`, compared with or assigned to a column of this type.
    ///
    /// Covers the same type, and pairs whose equality holds across types: integers (in the column's range), the text
    /// family, integers with numeric and oid, real with double precision, date with timestamp. None for other pairs, for
    /// malformed bytes, and for an inferred type (oid 0), which the caller must resolve first.
    pub fn read_binary(self, value_type: u32, bytes: &[u8]) -> Option<Value<'_>> {
        if self.is_text_like() {
            return self.read_text_like(value_type, bytes);
        }
        let value_type = HashType::from_oid(value_type)?;
        Some(match (self, value_type) {
            (HashType::Int2, t) => Value::Integer(integer::read(t, bytes).filter(|v| i16::try_from(*v).is_ok())?),
            (HashType::Int4, t) => Value::Integer(integer::read(t, bytes).filter(|v| i32::try_from(*v).is_ok())?),
            (HashType::Int8, t) => Value::Integer(integer::read(t, bytes)?),
            (HashType::Oid, HashType::Oid) => Value::Word(u32::from_be_bytes(bytes.try_into().ok()?)),
            (HashType::Oid, t) => Value::Word(integer::oid(integer::read(t, bytes)?)?),
            (HashType::Numeric, HashType::Numeric) => Value::Numeric(numeric::Numeric::read(bytes)?),
            (HashType::Numeric, t) => Value::Numeric(numeric::Numeric::from_integer(integer::read(t, bytes)?)),
            (HashType::Float8, HashType::Float8) => Value::float(f64::from_be_bytes(bytes.try_into().ok()?)),
            (HashType::Float4 | HashType::Float8, HashType::Float4) => {
                Value::float(f32::from_be_bytes(bytes.try_into().ok()?).into())
            }
            (HashType::Timestamp, HashType::Date) => Value::Integer(datetime::timestamp_of_date(bytes)?),
            (HashType::Date, HashType::Date) => Value::Word(u32::from_be_bytes(bytes.try_into().ok()?)),
            (HashType::Timestamp, HashType::Timestamp)
            | (HashType::Timestamptz, HashType::Timestamptz)
            | (HashType::Time, HashType::Time) => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
            (HashType::Bytea, HashType::Bytea) => Value::bytes(bytes),
            (HashType::Uuid, HashType::Uuid) => Value::bytes(<&[u8; 16]>::try_from(bytes).ok()?),
            (HashType::Bool, HashType::Bool) => Value::Word((<[u8; 1]>::try_from(bytes).ok()? != [0]).into()),
            (HashType::Char, HashType::Char) => Value::Word(scalar::char_word(<[u8; 1]>::try_from(bytes).ok()?[0])?),
            _ => return None,
        })
    }

    /// As `read_binary`, for a text-format parameter whose type is known: `read_text` alone would read the text as a
    /// value of the column's type, which e.g. forgets the zone of a timestamptz.
    pub fn read_typed_text(self, value_type: u32, text: &str) -> Option<Value<'_>> {
        if value_type == UNKNOWN_OID || value_type == self.oid() {
            return self.read_text(text);
        }
        let from = HashType::from_oid(value_type)?;
        match (self, from) {
            _ if self.is_text_like() => self.read_text_like(value_type, text.as_bytes()),
            (
                HashType::Int2 | HashType::Int4 | HashType::Int8 | HashType::Oid | HashType::Numeric,
                HashType::Int2 | HashType::Int4 | HashType::Int8,
            ) => from.read_text(text).and_then(|_| self.read_text(text)),
            (HashType::Float8, HashType::Float4) => from.read_text(text),
            (HashType::Timestamp, HashType::Date) => {
                self.read_binary(value_type, &datetime::parse_date(text)?.to_be_bytes()).map(Value::into_owned)
            }
            _ => None,
        }
    }

    /// The value whose binary form `bytes` Postgres sent, which has the hash `hash`.
    pub fn value_of_postgres(self, hash: i32, bytes: &[u8]) -> Value<'static> {
        match self.read_binary(self.oid(), bytes).filter(|value| value.hash() == hash) {
            Some(value) => value.into_owned(),
            None => Value::Other { hash, binary: bytes.to_vec() },
        }
    }

    fn is_text_like(self) -> bool {
        matches!(self, HashType::Text | HashType::Varchar | HashType::Bpchar | HashType::Name)
    }

    fn read_text_like(self, value_type: u32, bytes: &[u8]) -> Option<Value<'_>> {
        let from = if value_type == UNKNOWN_OID { self } else { HashType::from_oid(value_type)? };
        let text = std::str::from_utf8(bytes).ok().filter(|_| from.is_text_like())?;
        // namerecv refuses what namein would cut; a longer text equals no name.
        if (self == HashType::Name || from == HashType::Name) && bytes.len() > scalar::NAME_BYTES_MAX {
            return None;
        }
        // The cast from char(n) to the other text types drops trailing blanks.
        self.read_text(if from == HashType::Bpchar { text.trim_end_matches(' ') } else { text })
    }
}

/// varchar(n) cuts blanks that are too many, and refuses what else is too long.
fn fits_varchar(text: &str, typmod: i32) -> bool {
    text.chars().count() as i64 <= i64::from(typmod) - 4
}

/// Citus's cut of the hash space: `count` intervals `[min, max]`, both inclusive, equal but for the last one's remainder.
///
/// Source: Citus documentation, `pg_dist_shard`, hash distributed tables.
pub fn intervals(count: u32) -> Vec<(i32, i32)> {
    let width = (1i64 << 32) / i64::from(count.max(1));
    (0..i64::from(count))
        .map(|i| {
            let min = i64::from(i32::MIN) + i * width;
            let max = if i + 1 == i64::from(count) { i64::from(i32::MAX) } else { min + width - 1 };
            (min as i32, max as i32)
        })
        .collect()
}
