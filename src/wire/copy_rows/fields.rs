//! The fields of one line of COPY text or CSV.
//!
//! Source: PostgreSQL 15, copyfromparse.c, CopyReadAttributesText and CopyReadAttributesCSV.

use std::borrow::Cow;

use super::{CsvOptions, FieldValue};

/// The field at `index`; the error is the number of fields that the line has instead.
pub fn text_field<'a>(
    line: &'a [u8],
    delimiter: u8,
    null: &[u8],
    index: usize,
) -> std::result::Result<FieldValue<'a>, usize> {
    let mut field = 0;
    let mut start = 0;
    loop {
        let end = text_field_end(line, start, delimiter);
        if field == index {
            return Ok(text_value(&line[start..end], null));
        }
        field += 1;
        if end == line.len() {
            return Err(field);
        }
        start = end + 1;
    }
}

pub fn text_fields<'a>(line: &'a [u8], delimiter: u8, null: &[u8]) -> Vec<FieldValue<'a>> {
    (0..).map_while(|i| text_field(line, delimiter, null, i).ok()).collect()
}

fn text_field_end(line: &[u8], start: usize, delimiter: u8) -> usize {
    let mut at = start;
    while let Some(i) = memchr::memchr2(delimiter, b'\\', line.get(at..).unwrap_or_default()) {
        if line[at + i] == delimiter {
            return at + i;
        }
        at += i + 2;
    }
    line.len()
}

/// The null string is compared before escapes are undone.
fn text_value<'a>(raw: &'a [u8], null: &[u8]) -> FieldValue<'a> {
    if raw == null {
        return FieldValue::Null;
    }
    let Some(first) = memchr::memchr(b'\\', raw) else { return FieldValue::Text(Cow::Borrowed(raw)) };
    let mut out = raw[..first].to_vec();
    let mut rest = &raw[first..];
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match (byte, tail) {
            (b'\\', [escaped, tail @ ..]) => unescape(*escaped, tail),
            (b'\\', []) => break,
            _ => (byte, tail),
        };
        out.push(byte);
        rest = tail;
    }
    FieldValue::Text(Cow::Owned(out))
}

/// What `\` and `escaped` stand for; digits of a number are taken off `tail`.
fn unescape(escaped: u8, tail: &[u8]) -> (u8, &[u8]) {
    match escaped {
        b'b' => (0x08, tail),
        b'f' => (0x0c, tail),
        b'n' => (b'\n', tail),
        b'r' => (b'\r', tail),
        b't' => (b'\t', tail),
        b'v' => (0x0b, tail),
        b'0'..=b'7' => {
            // One digit is read already; up to three in all, and what exceeds a byte is cut off.
            let (value, tail) = digits(u32::from(escaped - b'0'), tail, 8, 2);
            (value as u8, tail)
        }
        b'x' if tail.first().is_some_and(u8::is_ascii_hexdigit) => {
            let (value, tail) = digits(0, tail, 16, 2);
            (value as u8, tail)
        }
        other => (other, tail),
    }
}

fn digits(mut value: u32, mut tail: &[u8], radix: u32, count_max: usize) -> (u32, &[u8]) {
    for _ in 0..count_max {
        let Some((digit, rest)) = tail.split_first().and_then(|(d, r)| Some((char::from(*d).to_digit(radix)?, r)))
        else {
            break;
        };
        value = value * radix + digit;
        tail = rest;
    }
    (value, tail)
}

/// The field at `index`; the error is the number of fields that the line has instead.
pub fn csv_field<'a>(
    line: &'a [u8],
    options: &'a CsvOptions,
    index: usize,
) -> std::result::Result<FieldValue<'a>, usize> {
    let mut field = 0;
    let mut start = 0;
    loop {
        let mut pieces = Pieces::default();
        let (end, is_quoted) = csv_field_end(line, start, options, |piece| {
            if field == index {
                pieces.add(piece)
            }
        });
        if field == index {
            return Ok(csv_value(&line[start..end], pieces.0, is_quoted, options));
        }
        field += 1;
        if end == line.len() {
            return Err(field);
        }
        start = end + 1;
    }
}

/// For the header line: the wanted column's FORCE options don't apply.
pub fn csv_fields<'a>(line: &'a [u8], options: &CsvOptions) -> Vec<FieldValue<'a>> {
    let mut fields = Vec::new();
    let mut start = 0;
    loop {
        let mut pieces = Pieces::default();
        let (end, is_quoted) = csv_field_end(line, start, options, |piece| pieces.add(piece));
        let is_null = !is_quoted && line[start..end] == *options.null;
        fields.push(if is_null { FieldValue::Null } else { FieldValue::Text(pieces.0) });
        if end == line.len() {
            return fields;
        }
        start = end + 1;
    }
}

fn csv_value<'a>(raw: &[u8], text: Cow<'a, [u8]>, is_quoted: bool, options: &CsvOptions) -> FieldValue<'a> {
    let is_null = !is_quoted && raw == options.null;
    if is_null && !options.force_not_null || !is_null && options.force_null && *text == *options.null {
        FieldValue::Null
    } else {
        FieldValue::Text(text)
    }
}

/// Finds the delimiter that ends the field, or the line's end; gives out the value's pieces; says whether a quote was seen.
///
/// The line scanner has seen to it that every quote is closed.
fn csv_field_end<'a>(
    line: &'a [u8],
    start: usize,
    options: &CsvOptions,
    mut piece: impl FnMut(&'a [u8]),
) -> (usize, bool) {
    let mut is_quoted = false;
    let mut at = start;
    loop {
        let Some(i) = memchr::memchr2(options.delimiter, options.quote, &line[at..]) else {
            piece(&line[at..]);
            return (line.len(), is_quoted);
        };
        piece(&line[at..at + i]);
        at += i;
        if line[at] == options.delimiter {
            return (at, is_quoted);
        }
        is_quoted = true;
        at += 1;
        loop {
            let Some(i) = memchr::memchr2(options.quote, options.escape, &line[at..]) else {
                piece(&line[at..]);
                return (line.len(), is_quoted);
            };
            piece(&line[at..at + i]);
            at += i;
            let next = line.get(at + 1).copied();
            if line[at] == options.escape && (next == Some(options.quote) || next == Some(options.escape)) {
                piece(&line[at + 1..at + 2]);
                at += 2;
            } else if line[at] == options.quote {
                at += 1;
                break;
            } else {
                piece(&line[at..at + 1]);
                at += 1;
            }
        }
    }
}

/// A value put together from pieces; borrowed as long as there is only one.
#[derive(Default)]
struct Pieces<'a>(Cow<'a, [u8]>);

impl<'a> Pieces<'a> {
    fn add(&mut self, piece: &'a [u8]) {
        if self.0.is_empty() {
            self.0 = Cow::Borrowed(piece);
        } else if !piece.is_empty() {
            self.0.to_mut().extend_from_slice(piece);
        }
    }
}
