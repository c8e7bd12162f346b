//! Reading what servers answer: column descriptions, rows, command tags.

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

/// Reads a ParameterDescription's payload: type oids.
pub fn read_parameter_description(payload: &[u8]) -> Result<Vec<u32>> {
    let mut r = Reader::new(payload);
    let count = r.u16()?;
    let types = (0..count).map(|_| r.u32()).collect::<Result<_>>()?;
    r.end()?;
    Ok(types)
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
    fn the_row_count_is_the_last_word_of_the_tag() {
        assert_eq!(tag_rows(b"INSERT 0 12\0"), 12);
        assert_eq!(tag_rows(b"CREATE TABLE\0"), 0);
        assert_eq!(tag_rows(b""), 0);
    }
}
