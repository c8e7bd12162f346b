//! smallint, integer, bigint and oid: one value has one hash in all of them (hashint8 agrees where the value fits).

use super::HashType;

/// What int2in, int4in and int8in accept in PostgreSQL 15: blanks around, a sign, decimal digits. 16's `0x1f` and `1_000`
/// are not read, because 15 refuses them.
pub fn parse(text: &str, min: i64, max: i64) -> Option<i64> {
    // As drivers write most of them.
    if (1..=SHORT_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) {
        let value = text.bytes().fold(0, |value, digit| 10 * value + i64::from(digit - b'0'));
        return Some(value).filter(|v| (min..=max).contains(v));
    }
    let text = trim(text);
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|v| (min..=max).contains(v))
}

/// So many digits cannot overflow.
const SHORT_LEN: usize = 18;

/// A binary smallint, integer or bigint; none for other types.
pub fn read(value_type: HashType, bytes: &[u8]) -> Option<i64> {
    Some(match value_type {
        HashType::Int2 => i16::from_be_bytes(bytes.try_into().ok()?).into(),
        HashType::Int4 => i32::from_be_bytes(bytes.try_into().ok()?).into(),
        HashType::Int8 => i64::from_be_bytes(bytes.try_into().ok()?),
        _ => return None,
    })
}

/// Negative oid texts wrap in some versions and are refused in others, so they are out of range here.
pub fn oid(value: i64) -> Option<u32> {
    u32::try_from(value).ok()
}

/// Cuts the blanks off that C's isspace knows.
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r'])
}
