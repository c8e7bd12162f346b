//! OIDs of types inside of binary values: an array names its elements' type, a composite the type of each field.
//!
//! ```text
//!   array        dimensions  flags  TYPE  (length  bound)*  (length value)*
//!   composite    fields  (TYPE  length value)*
//! ```
//!
//! Types that users have made have another OID on each server, so a value that goes from one to the other gets the other's:
//! in its place, because all OIDs have the same length. Whatever does not look as it should is left as it is from there on,
//! for the server to complain about.
//!
//! Source: PostgreSQL src/backend/utils/adt/arrayfuncs.c, array_send(), and rowtypes.c, record_send().

use super::frame::{self, HEADER_LEN};
use super::rows::FIRST_USER_OID;

/// What the binary form of a type's values names types in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// It names none.
    #[default]
    Plain,
    Array,
    Composite,
}

impl Form {
    /// Of a type that has the same OID everywhere. Arrays of such types name nothing but such types.
    pub fn of_builtin(oid: u32) -> Self {
        match oid {
            RECORD => Form::Composite,
            ARRAY_OF_RECORD => Form::Array,
            _ => Form::Plain,
        }
    }
}

/// May values of this type name types that users have made?
pub fn may_nest(oid: u32) -> bool {
    oid >= FIRST_USER_OID || Form::of_builtin(oid) != Form::Plain
}

/// What an OID that was found is to be replaced with, and what values of that type are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    pub oid: u32,
    pub form: Form,
}

/// Says what the OID of a type that users have made means.
pub type Look<'l> = dyn FnMut(u32) -> Meaning + 'l;

/// Replaces what a binary value names.
pub fn replace_in_value(value: &mut [u8], form: Form, look: &mut Look<'_>) {
    walk(value, form, 0, look);
}

/// The same for values one behind the other, each with its length: a row after its count of columns. Where they end.
pub fn replace_in_values(values: &mut [u8], forms: &[Form], look: &mut Look<'_>) -> Option<usize> {
    forms.iter().try_fold(0, |at, form| next(values, at, *form, 0, look))
}

/// The same for DataRow frames.
pub fn replace_in_rows(rows: &mut [u8], forms: &[Form], look: &mut Look<'_>) {
    let mut at = 0;
    while let Ok(Some(header)) = frame::header(&rows[at..]) {
        let end = rows.len().min(at + header.len);
        if header.tag == b'D'
            && let Some(values) = rows.get_mut(at + HEADER_LEN + COUNT_LEN..end)
        {
            replace_in_values(values, forms, look);
        }
        at = end;
    }
}

/// The same for the tuples of binary COPY data, without its header; it may end with the trailer.
pub fn replace_in_tuples(tuples: &mut [u8], forms: &[Form], look: &mut Look<'_>) {
    let mut at = 0;
    while let Some(count) = tuples.get(at..).and_then(|rest| rest.first_chunk()) {
        if usize::from(u16::from_be_bytes(*count)) != forms.len() {
            break;
        }
        at += COUNT_LEN;
        let Some(len) = replace_in_values(&mut tuples[at..], forms, look) else { break };
        at += len;
    }
}

/// `None` where the value is not what it should be.
fn walk(value: &mut [u8], form: Form, depth: usize, look: &mut Look<'_>) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    match form {
        Form::Plain => {}
        Form::Array => {
            let dimensions = word(value, 0)? as usize;
            let elements = replace_at(value, 8, look)?;
            if elements == Form::Plain {
                return Some(());
            }
            let mut at = 12 + 8 * (dimensions <= DIMENSIONS_MAX).then_some(dimensions)?;
            while at < value.len() {
                at = next(value, at, elements, depth, look)?;
            }
        }
        Form::Composite => {
            let mut at = 4;
            while at < value.len() {
                let field = replace_at(value, at, look)?;
                at = next(value, at + 4, field, depth, look)?;
            }
        }
    }
    Some(())
}

/// Goes over the value whose length stands at `at`; answers where the next begins.
fn next(values: &mut [u8], at: usize, form: Form, depth: usize, look: &mut Look<'_>) -> Option<usize> {
    let begin = at + 4;
    // A negative length is a NULL's.
    let Ok(len) = usize::try_from(word(values, at)? as i32) else { return Some(begin) };
    let value = values.get_mut(begin..begin + len)?;
    if form != Form::Plain {
        walk(value, form, depth + 1, look);
    }
    Some(begin + len)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

fn replace_at(value: &mut [u8], at: usize, look: &mut Look<'_>) -> Option<Form> {
    let bytes = value.get_mut(at..)?.first_chunk_mut()?;
    let oid = u32::from_be_bytes(*bytes);
    if oid < FIRST_USER_OID {
        return Some(Form::of_builtin(oid));
    }
    let meaning = look(oid);
    *bytes = meaning.oid.to_be_bytes();
    Some(meaning.form)
}

/// Before the values of a row.
const COUNT_LEN: usize = 2;
/// Deeper ones are left as they are: a client can nest anonymous records as deep as its message is long.
const DEPTH_MAX: usize = 64;
/// Source: PostgreSQL src/include/utils/array.h, MAXDIM.
const DIMENSIONS_MAX: usize = 6;
/// Source: PostgreSQL src/include/catalog/pg_type.dat.
const RECORD: u32 = 2249;
const ARRAY_OF_RECORD: u32 = 2287;

#[cfg(test)]
mod tests {
    use super::*;

    const MOOD: u32 = 20_000;
    const POINT: u32 = 20_001;
    const INT4: u32 = 23;

    fn counted(value: &[u8]) -> Vec<u8> {
        [&(value.len() as u32).to_be_bytes(), value].concat()
    }

    fn array(of: u32, elements: &[&[u8]]) -> Vec<u8> {
        let words = [1, 0, of, elements.len() as u32, 1];
        let mut value: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        elements.iter().for_each(|element| value.extend(counted(element)));
        value
    }

    fn composite(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut value = (fields.len() as u32).to_be_bytes().to_vec();
        for (of, field) in fields {
            value.extend(of.to_be_bytes());
            value.extend(counted(field));
        }
        value
    }

    fn there(oid: u32) -> Meaning {
        Meaning { oid: oid + 500, form: if oid == POINT { Form::Composite } else { Form::Plain } }
    }

    #[test]
    fn what_arrays_and_composites_name_is_replaced_however_deep() {
        let null_field =
            [&2u32.to_be_bytes()[..], &INT4.to_be_bytes(), &[255; 4], &MOOD.to_be_bytes(), &[255; 4]].concat();
        let null_there =
            [&2u32.to_be_bytes()[..], &INT4.to_be_bytes(), &[255; 4], &(MOOD + 500).to_be_bytes(), &[255; 4]].concat();
        let moods = |more| array(MOOD + more, &[b"bad", b"good"]);
        let point = |more| composite(&[(INT4, &[0, 0, 0, 7]), (MOOD + more, b"bad"), (25, &20_000u32.to_be_bytes())]);
        for (form, mut here, there_too) in [
            (Form::Array, moods(0), moods(500)),
            (Form::Composite, point(0), point(500)),
            (Form::Composite, null_field, null_there),
            (Form::Array, array(POINT, &[&point(0), &point(0)]), array(POINT + 500, &[&point(500), &point(500)])),
            (Form::Composite, composite(&[(RECORD, &point(0))]), composite(&[(RECORD, &point(500))])),
            (Form::Array, array(INT4, &[&MOOD.to_be_bytes()]), array(INT4, &[&MOOD.to_be_bytes()])),
            (Form::Plain, moods(0), moods(0)),
        ] {
            replace_in_value(&mut here, form, &mut there);
            assert_eq!(here, there_too, "{form:?}");
        }
    }

    #[test]
    fn rows_and_tuples_are_gone_through_to_their_end() {
        let forms = [Form::Plain, Form::Array];
        let values = |more| [counted(&MOOD.to_be_bytes()), counted(&array(MOOD + more, &[b"bad"]))].concat();
        let tuple = |more| [&[0, 2], &values(more)[..]].concat();
        let row = |more| [&b"D"[..], &(tuple(more).len() as u32 + 4).to_be_bytes(), &tuple(more)].concat();
        let mut rows = [row(0), row(0), b"C\0\0\0\x05\0".to_vec()].concat();
        replace_in_rows(&mut rows, &forms, &mut there);
        assert_eq!(rows, [row(500), row(500), b"C\0\0\0\x05\0".to_vec()].concat());
        let mut tuples = [tuple(0), tuple(0), vec![255, 255]].concat();
        replace_in_tuples(&mut tuples, &forms, &mut there);
        assert_eq!(tuples, [tuple(500), tuple(500), vec![255, 255]].concat());
    }

    #[test]
    fn what_cannot_be_hurts_nobody() {
        let point = composite(&[(RECORD, &composite(&[(MOOD, b"bad")])), (POINT, &array(MOOD, &[b"x"]))]);
        for form in [Form::Array, Form::Composite] {
            for cut in 0..point.len() {
                replace_in_value(&mut point[..cut].to_vec(), form, &mut there);
                let mut odd = point.clone();
                odd[cut] ^= 0xff;
                replace_in_value(&mut odd, form, &mut there);
            }
        }
        // As deep as a message is long.
        let mut deep = Vec::new();
        for level in 0..100_000u32 {
            deep.extend([1u32, RECORD, (100_000 - level) * 12].iter().flat_map(|word| word.to_be_bytes()));
        }
        replace_in_value(&mut deep, Form::Composite, &mut there);
    }
}
