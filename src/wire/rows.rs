//! Reading what servers answer: column descriptions, rows, command tags.

use super::nested_oids::may_nest;
use super::reader::Reader;
use crate::error::Result;

/// One column of a RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// Reads a RowDescription's payload.
pub fn read_row_description(payload: &[u8]) -> Result<Vec<Field>> {
    let mut r = Reader::new(payload);
    let count = r.u16()?;
    let mut fields = Vec::with_capacity(count.min(1700) as usize);
    for _ in 0..count {
        let name = String::from_utf8_lossy(r.cstr()?).into_owned();
        r.bytes(6)?;
        let type_oid = r.u32()?;
        r.bytes(2)?;
        let type_modifier = r.i32()?;
        r.bytes(2)?;
        fields.push(Field { name, type_oid, type_modifier });
    }
    r.end()?;
    Ok(fields)
}

/// What an OID in a RowDescription names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Named {
    /// Where the column comes from.
    Table,
    Type,
}

/// Shows every OID of an object that users have made in a RowDescription's payload, with its place, and puts there what
/// `replace` says. Ends quietly where the payload does. True when `nesting_columns` has any.
pub fn replace_user_oids(payload: &mut [u8], mut replace: impl FnMut(Named, u32, usize) -> u32) -> bool {
    let (mut column, mut may_any_nest) = (2, false);
    while let Some(name_len) = payload.get(column..).and_then(|rest| memchr::memchr(0, rest)) {
        let described = column + name_len + 1;
        for (named, at) in [(Named::Table, described), (Named::Type, described + 6)] {
            let Some(bytes) = payload.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else { break };
            let oid = u32::from_be_bytes(*bytes);
            if oid >= FIRST_USER_OID {
                *bytes = replace(named, oid, at).to_be_bytes();
            }
            if named == Named::Type && may_nest(oid) {
                may_any_nest |= payload.get(described + 16..described + 18) == Some(&BINARY);
            }
        }
        column = described + 18;
    }
    may_any_nest
}

/// The type of each column of a RowDescription's payload whose values come in binary and may name types that users have
/// made (`nested_oids`); of the others 0.
pub fn nesting_columns(payload: &[u8]) -> Vec<u32> {
    let (mut column, mut types) = (2, Vec::new());
    while let Some(name_len) = payload.get(column..).and_then(|rest| memchr::memchr(0, rest)) {
        let described = column + name_len + 1;
        let oid = payload.get(described + 6..).and_then(|rest| rest.first_chunk()).map(|oid| u32::from_be_bytes(*oid));
        let is_binary = payload.get(described + 16..described + 18) == Some(&BINARY);
        types.push(oid.filter(|oid| is_binary && may_nest(*oid)).unwrap_or(0));
        column = described + 18;
    }
    types
}

/// The types of all columns of a RowDescription's payload.
pub fn column_types(payload: &[u8]) -> Vec<u32> {
    read_row_description(payload).map_or(Vec::new(), |fields| fields.iter().map(|field| field.type_oid).collect())
}

/// As a format code.
const BINARY: [u8; 2] = [0, 1];

/// Objects that users make have OIDs from here on; those below are the same on every server.
/// Source: PostgreSQL src/include/access/transam.h, FirstNormalObjectId.
pub const FIRST_USER_OID: u32 = 16384;

/// Reads a ParameterDescription's payload: type oids.
pub fn read_parameter_description(payload: &[u8]) -> Result<Vec<u32>> {
    let mut r = Reader::new(payload);
    let count = r.u16()?;
    let types = (0..count).map(|_| r.u32()).collect::<Result<_>>()?;
    r.end()?;
    Ok(types)
}

/// How many columns a RowDescription's or DataRow's payload says that it has.
#[inline]
pub fn column_count(payload: &[u8]) -> Option<u16> {
    payload.first_chunk().map(|count| u16::from_be_bytes(*count))
}

/// The values of a DataRow's payload.
pub fn read_data_row(payload: &[u8]) -> Result<Vec<Option<&[u8]>>> {
    let mut r = Reader::new(payload);
    let count = r.u16()?;
    let values = (0..count).map(|_| r.value()).collect::<Result<_>>()?;
    r.end()?;
    Ok(values)
}

/// Rows in a command tag: the last word of `INSERT 0 5`, `UPDATE 3`, `COPY 10`; 0 where there is none.
pub fn tag_rows(payload: &[u8]) -> u64 {
    let text = payload.strip_suffix(&[0]).unwrap_or(payload);
    let last = text.rsplit(|&b| b == b' ').next().unwrap_or(&[]);
    std::str::from_utf8(last).ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The first word of a command tag: `INSERT`, `SELECT`, ...
pub fn tag_command(payload: &[u8]) -> String {
    let text = payload.strip_suffix(&[0]).unwrap_or(payload);
    String::from_utf8_lossy(text.split(|&b| b == b' ').next().unwrap_or(&[])).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oids_of_users_objects_are_replaced_in_place() {
        let mut payload = vec![0, 2];
        for (table, type_oid) in [(16500u32, 23u32), (0, 16600)] {
            payload.extend(b"name\0");
            payload.extend(table.to_be_bytes());
            payload.extend([0, 1]);
            payload.extend(type_oid.to_be_bytes());
            payload.extend([0, 4, 255, 255, 255, 255, 0, 0]);
        }
        let mut seen = Vec::new();
        replace_user_oids(&mut payload, |named, oid, _| {
            seen.push((named, oid));
            oid + 1
        });
        assert_eq!(seen, [(Named::Table, 16500), (Named::Type, 16600)]);
        assert_eq!(read_row_description(&payload).unwrap()[1].type_oid, 16601);
        // Whatever is cut off, nothing panics.
        for len in 0..payload.len() {
            replace_user_oids(&mut payload[..len], |_, oid, _| oid);
            nesting_columns(&payload[..len]);
        }
        assert!(!replace_user_oids(&mut payload, |_, oid, _| oid), "in text nothing is named");
        assert_eq!(nesting_columns(&payload), [0, 0]);
        let end = payload.len();
        payload[end - 1] = 1;
        assert!(replace_user_oids(&mut payload, |_, oid, _| oid));
        assert_eq!(nesting_columns(&payload), [0, 16601]);
        assert_eq!(column_types(&payload), [23, 16601]);
    }

    #[test]
    fn the_row_count_is_the_last_word_of_the_tag() {
        assert_eq!(tag_rows(b"INSERT 0 12\0"), 12);
        assert_eq!(tag_rows(b"CREATE TABLE\0"), 0);
        assert_eq!(tag_rows(b""), 0);
    }
}
