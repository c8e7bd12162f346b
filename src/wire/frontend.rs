//! Messages that clients send: opening those that routing must look into, and writing them to servers.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::{HEADER_LEN, begin_frame, end_frame};
use super::nested_oids::{Form, Look, replace_in_values};
use super::reader::Reader;
use crate::error::{PgError, Result, SqlState};

/// Parse: name, text, and the types the client gave (0 where it left them open).
#[derive(Debug)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub text: &'a str,
    pub types: Vec<u32>,
}

impl<'a> Parse<'a> {
    pub fn read(payload: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(payload);
        let (name, text) = (r.cstr()?, r.str()?);
        let count = r.u16()? as usize;
        let mut types = Vec::with_capacity(count.min(payload.len() / 4));
        for _ in 0..count {
            types.push(r.u32()?);
        }
        r.end()?;
        Ok(Self { name, text, types })
    }
}

/// Bind, with everything after the two names kept as it came: only the names change on the way to a server.
#[derive(Debug, Clone)]
pub struct Bind {
    pub portal: Bytes,
    pub statement: Bytes,
    /// Parameter formats, parameters, result formats: the payload after the two names.
    tail: Bytes,
    parameters: u16,
    formats: u16,
    /// Where in `tail` every `MARK_EVERY`th parameter begins, but for the first: so that one of 65,535 is found without a
    /// walk over all before it.
    marks: Vec<u32>,
}

/// Up to where the parameters begin.
fn text_tail(count: usize) -> BytesMut {
    let mut tail = BytesMut::with_capacity(64);
    tail.put_u16(0);
    tail.put_u16(count as u16);
    tail
}

fn put_text(tail: &mut BytesMut, value: Option<&str>) {
    match value {
        None => tail.put_i32(-1),
        Some(text) => {
            tail.put_i32(text.len() as i32);
            tail.put_slice(text.as_bytes());
        }
    }
}

/// No parameters, and all results in text.
impl Default for Bind {
    fn default() -> Self {
        let tail = Bytes::from_static(&[0; 6]);
        Self { portal: Bytes::new(), statement: Bytes::new(), tail, parameters: 0, formats: 0, marks: Vec::new() }
    }
}

impl Bind {
    /// What it takes. Unit: bytes, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.portal.len() + self.statement.len() + self.tail.len() + 4 * self.marks.len()
    }

    /// Checks the whole payload, so that later reads cannot fail.
    pub fn read(payload: &Bytes) -> Result<Self> {
        let mut r = Reader::new(payload);
        let (portal, statement) = (r.cstr()?, r.cstr()?);
        // Most portals have no name, and a slice is counted.
        let portal = if portal.is_empty() { Bytes::new() } else { payload.slice_ref(portal) };
        let statement = payload.slice_ref(statement);
        let tail = payload.slice_ref(r.rest());
        let formats = r.u16()?;
        r.bytes(2 * formats as usize)?;
        let parameters = r.u16()?;
        if formats > 1 && formats != parameters {
            return Err(PgError::new(
                SqlState::PROTOCOL_VIOLATION,
                format!("bind message has {formats} parameter formats but {parameters} parameters"),
            ));
        }
        let mut marks = Vec::new();
        for n in 0..parameters {
            if n > 0 && n % MARK_EVERY == 0 {
                marks.push((tail.len() - r.rest().len()) as u32);
            }
            r.value()?;
        }
        let results = r.u16()?;
        r.bytes(2 * results as usize)?;
        r.end()?;
        Ok(Self { portal, statement, tail, parameters, formats, marks })
    }

    /// A Bind with text parameters and text results, as EXECUTE and the proxy's own statements need it.
    pub fn text(parameters: &[Option<&str>]) -> Self {
        let mut tail = text_tail(parameters.len());
        parameters.iter().for_each(|parameter| put_text(&mut tail, *parameter));
        Self::of_text_tail(tail, parameters.len())
    }

    /// The same of values none of which is NULL; `None` where one is not to be had.
    pub fn of_texts<'t>(mut values: impl ExactSizeIterator<Item = Option<Cow<'t, str>>>) -> Option<Self> {
        let count = values.len();
        let mut tail = text_tail(count);
        values.try_for_each(|value| value.map(|text| put_text(&mut tail, Some(&text))))?;
        Some(Self::of_text_tail(tail, count))
    }

    fn of_text_tail(mut tail: BytesMut, count: usize) -> Self {
        tail.put_u16(0);
        Self {
            portal: Bytes::new(),
            statement: Bytes::new(),
            tail: tail.freeze(),
            parameters: count as u16,
            formats: 0,
            marks: Vec::new(),
        }
    }

    pub fn parameter_count(&self) -> u16 {
        self.parameters
    }

    /// The `n`th parameter (from 0) and whether it is in binary format. `Err` past the last.
    pub fn parameter(&self, n: u16) -> Result<(bool, Option<&[u8]>)> {
        let mut r = Reader::new(&self.tail);
        let formats = r.u16()?;
        let format_codes = r.bytes(2 * formats as usize)?;
        let count = r.u16()?;
        if n >= count {
            return Err(PgError::new(
                SqlState::PROTOCOL_VIOLATION,
                format!("bind message supplies {count} parameters, but the statement requires at least {}", n + 1),
            ));
        }
        let at = if formats <= 1 { 0 } else { 2 * n as usize };
        let binary = format_codes.get(at + 1).is_some_and(|&b| b == 1);
        let mut before = n;
        if let Some(mark) = usize::from(n / MARK_EVERY).checked_sub(1).and_then(|mark| self.marks.get(mark)) {
            r = Reader::new(&self.tail[*mark as usize..]);
            before = n % MARK_EVERY;
        }
        for _ in 0..before {
            r.value()?;
        }
        Ok((binary, r.value()?))
    }

    /// A Bind with this one parameter as `$1`, in its own format, and text results.
    pub fn only_parameter(&self, n: u16) -> Result<Self> {
        let (binary, value) = self.parameter(n)?;
        Ok(Self::one(binary, value))
    }

    /// A Bind with one parameter, and text results.
    pub fn one(binary: bool, value: Option<&[u8]>) -> Self {
        let mut tail = BytesMut::new();
        tail.put_u16(1);
        tail.put_u16(binary as u16);
        tail.put_u16(1);
        match value {
            None => tail.put_i32(-1),
            Some(bytes) => {
                tail.put_i32(bytes.len() as i32);
                tail.put_slice(bytes);
            }
        }
        tail.put_u16(0);
        let (portal, statement) = (Bytes::new(), Bytes::new());
        Self { portal, statement, tail: tail.freeze(), parameters: 1, formats: 1, marks: Vec::new() }
    }

    /// Are all parameters in text format?
    pub fn formats_are_text(&self) -> bool {
        let mut r = Reader::new(&self.tail);
        let codes = r.u16().and_then(|n| r.bytes(2 * n as usize)).unwrap_or(&[]);
        debug_assert_eq!(codes.len(), 2 * self.formats as usize);
        codes.chunks(2).all(|c| c == [0, 0])
    }

    /// The same with other OIDs in the values of binary parameters, whose types have these forms.
    pub fn with_nested_oids(&self, forms: &[Form], look: &mut Look<'_>) -> Self {
        let codes = 2 + 2 * usize::from(self.formats);
        let is_binary = |n: usize| {
            let at = if self.formats == 1 { 2 } else { 2 + 2 * n };
            self.tail[..codes].get(at + 1) == Some(&1)
        };
        let form = |n: usize| forms.get(n).copied().filter(|_| is_binary(n)).unwrap_or_default();
        let forms: Vec<_> = (0..usize::from(self.parameters)).map(form).collect();
        let mut tail = BytesMut::from(&self.tail[..]);
        replace_in_values(&mut tail[codes + 2..], &forms, look);
        Self { tail: tail.freeze(), ..self.clone() }
    }

    /// Writes the Bind with the server's names for portal and statement.
    pub fn write(&self, portal: &[u8], statement: &[u8], out: &mut BytesMut) {
        out.reserve(HEADER_LEN + portal.len() + statement.len() + 2 + self.tail.len());
        let at = begin_frame(out, b'B');
        put_cstr(out, portal);
        put_cstr(out, statement);
        out.put_slice(&self.tail);
        end_frame(out, at);
    }

    /// The same with NULL for the parameters that are not `used`.
    pub fn only(&self, used: &[bool]) -> Self {
        let mut r = Reader::new(&self.tail);
        let written: Result<BytesMut> = (|| {
            let mut tail = BytesMut::new();
            let formats = r.u16()?;
            tail.put_u16(formats);
            tail.put_slice(r.bytes(2 * formats as usize)?);
            tail.put_u16(r.u16()?);
            for n in 0..self.parameters as usize {
                match r.value()?.filter(|_| used.get(n) == Some(&true)) {
                    None => tail.put_i32(-1),
                    Some(value) => {
                        tail.put_i32(value.len() as i32);
                        tail.put_slice(value);
                    }
                }
            }
            tail.put_slice(r.rest());
            Ok(tail)
        })();
        let tail = written.expect("a Bind is checked when it is read").freeze();
        Self { tail, ..self.clone() }
    }

    /// The same parameters with all results in binary, or all in text.
    pub fn with_results(&self, binary: bool) -> Self {
        let mut tail = BytesMut::from(&self.tail[..self.results_at()]);
        tail.put_u16(1);
        tail.put_u16(binary as u16);
        Self { tail: tail.freeze(), ..self.clone() }
    }

    /// The same parameters with results as another Bind asks for them.
    pub fn with_results_of(&self, other: &Self) -> Self {
        let mut tail = BytesMut::from(&self.tail[..self.results_at()]);
        tail.put_slice(&other.tail[other.results_at()..]);
        Self { tail: tail.freeze(), ..self.clone() }
    }

    /// Result format codes as sent: none (all text), one for all, or one per column.
    pub fn result_formats(&self) -> Vec<u16> {
        self.tail[self.results_at() + 2..].chunks(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect()
    }

    /// Offset in `tail` of the number of result formats.
    fn results_at(&self) -> usize {
        let mut r = Reader::new(&self.tail);
        let walked: Result<usize> = (|| {
            let formats = r.u16()?;
            r.bytes(2 * formats as usize)?;
            for _ in 0..r.u16()? {
                r.value()?;
            }
            Ok(self.tail.len() - r.rest().len())
        })();
        walked.expect("a Bind is checked when it is read")
    }
}

/// What Describe and Close name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    pub fn read(payload: &'a [u8]) -> Result<Self> {
        let mut r = Reader::new(payload);
        let kind = r.u8()?;
        let name = r.cstr()?;
        r.end()?;
        match kind {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            _ => Err(PgError::new(SqlState::PROTOCOL_VIOLATION, "invalid message subtype")),
        }
    }
}

/// Execute: portal and row limit (0: no limit).
pub fn read_execute(payload: &[u8]) -> Result<(&[u8], u32)> {
    let mut r = Reader::new(payload);
    let (portal, limit) = (r.cstr()?, r.i32()?);
    r.end()?;
    // Postgres takes any limit that is not positive for no limit.
    Ok((portal, limit.max(0) as u32))
}

/// The text of a simple query.
pub fn read_query(payload: &[u8]) -> Result<&str> {
    let mut r = Reader::new(payload);
    let text = r.str()?;
    r.end()?;
    Ok(text)
}

pub fn query(sql: &str, out: &mut BytesMut) {
    out.reserve(HEADER_LEN + sql.len() + 1);
    let at = begin_frame(out, b'Q');
    put_cstr(out, sql.as_bytes());
    end_frame(out, at);
}

pub fn parse(name: &[u8], sql: &str, types: &[u32], out: &mut BytesMut) {
    let at = begin_frame(out, b'P');
    put_cstr(out, name);
    put_cstr(out, sql.as_bytes());
    out.put_u16(types.len() as u16);
    for oid in types {
        out.put_u32(*oid);
    }
    end_frame(out, at);
}

pub fn describe(target: Target<'_>, out: &mut BytesMut) {
    named(b'D', target, out);
}

pub fn close(target: Target<'_>, out: &mut BytesMut) {
    named(b'C', target, out);
}

fn named(tag: u8, target: Target<'_>, out: &mut BytesMut) {
    let at = begin_frame(out, tag);
    let (kind, name) = match target {
        Target::Statement(name) => (b'S', name),
        Target::Portal(name) => (b'P', name),
    };
    out.put_u8(kind);
    put_cstr(out, name);
    end_frame(out, at);
}

pub fn execute(portal: &[u8], limit: u32, out: &mut BytesMut) {
    let at = begin_frame(out, b'E');
    put_cstr(out, portal);
    out.put_u32(limit);
    end_frame(out, at);
}

pub fn sync(out: &mut BytesMut) {
    out.put_slice(b"S\0\0\0\x04");
}

pub fn flush(out: &mut BytesMut) {
    out.put_slice(b"H\0\0\0\x04");
}

pub fn copy_data(data: &[u8], out: &mut BytesMut) {
    out.reserve(HEADER_LEN + data.len());
    let at = begin_frame(out, b'd');
    out.put_slice(data);
    end_frame(out, at);
}

pub fn copy_done(out: &mut BytesMut) {
    out.put_slice(b"c\0\0\0\x04");
}

pub fn copy_fail(reason: &str, out: &mut BytesMut) {
    let at = begin_frame(out, b'f');
    put_cstr(out, reason.as_bytes());
    end_frame(out, at);
}

fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    debug_assert!(!text.contains(&0), "a NUL would cut the message short");
    out.put_slice(text);
    out.put_u8(0);
}

const MARK_EVERY: u16 = 64;

#[cfg(test)]
mod tests {
    use super::super::nested_oids::Meaning;
    use super::*;

    fn bind_payload(formats: &[u16], values: &[Option<&[u8]>]) -> Bytes {
        let mut b = BytesMut::new();
        b.put_slice(b"portal\0stmt\0");
        b.put_u16(formats.len() as u16);
        formats.iter().for_each(|f| b.put_u16(*f));
        b.put_u16(values.len() as u16);
        for v in values {
            match v {
                None => b.put_i32(-1),
                Some(v) => {
                    b.put_i32(v.len() as i32);
                    b.put_slice(v);
                }
            }
        }
        b.put_u16(1);
        b.put_u16(1);
        b.freeze()
    }

    #[test]
    fn one_format_code_counts_for_every_parameter() {
        let bind = Bind::read(&bind_payload(&[1], &[Some(b"ab"), None, Some(b"c")])).unwrap();
        assert_eq!(bind.parameter(0).unwrap(), (true, Some(&b"ab"[..])));
        assert_eq!(bind.parameter(1).unwrap(), (true, None));
        assert_eq!(bind.parameter(2).unwrap(), (true, Some(&b"c"[..])));
        assert_eq!(bind.parameter(3).unwrap_err().code(), SqlState::PROTOCOL_VIOLATION);
        assert!(!bind.formats_are_text());
    }

    #[test]
    fn every_parameter_of_many_is_found() {
        let texts: Vec<String> = (0..1000).map(|n: u32| "x".repeat(n as usize % 7)).collect();
        let values: Vec<_> = texts.iter().map(|text| Some(text.as_bytes())).collect();
        let bind = Bind::read(&bind_payload(&[0], &values)).unwrap();
        assert_eq!(bind.marks.len(), 15);
        for (n, value) in values.iter().enumerate() {
            assert_eq!(bind.parameter(n as u16).unwrap(), (false, *value));
        }
    }

    #[test]
    fn a_bind_that_lies_about_its_lengths_is_refused() {
        let whole = bind_payload(&[0, 1], &[Some(b"ab"), None]);
        for cut in 0..whole.len() {
            assert!(Bind::read(&whole.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(Bind::read(&longer.into()).is_err());
        assert!(Bind::read(&bind_payload(&[0, 1, 0], &[None])).is_err());
    }

    #[test]
    fn a_bind_is_written_with_other_names_and_the_same_rest() {
        let bind = Bind::read(&bind_payload(&[0], &[Some(b"7")])).unwrap();
        let mut out = BytesMut::new();
        bind.write(b"", b"t1", &mut out);
        let again = Bind::read(&out.freeze().slice(HEADER_LEN..)).unwrap();
        assert_eq!((&again.portal[..], &again.statement[..]), (&b""[..], &b"t1"[..]));
        assert_eq!(again.tail, bind.tail);
    }

    #[test]
    fn types_are_replaced_in_binary_parameters_only() {
        let array = |of: u32| [1, 0, of, 0, 1].iter().flat_map(|word: &u32| word.to_be_bytes()).collect::<Vec<_>>();
        let (here, there) = (array(20_000), array(30_000));
        let forms = [Form::Array, Form::Plain, Form::Array];
        for (formats, changed) in
            [(&[][..], [false; 3]), (&[1], [true, false, true]), (&[0, 1, 1], [false, false, true])]
        {
            let bind = Bind::read(&bind_payload(formats, &[Some(&here), Some(&here), Some(&here)])).unwrap();
            let other = bind.with_nested_oids(&forms, &mut |oid| Meaning { oid: oid + 10_000, form: Form::Plain });
            for (n, changed) in changed.into_iter().enumerate() {
                assert_eq!(other.parameter(n as u16).unwrap().1, Some(if changed { &there[..] } else { &here }));
            }
            assert_eq!(other.result_formats(), bind.result_formats());
        }
    }

    #[test]
    fn parameters_that_a_text_does_not_name_become_null() {
        let bind = Bind::read(&bind_payload(&[0, 1, 0], &[Some(b"7"), Some(b"\0\0"), Some(b"x")])).unwrap();
        let only = bind.only(&[false, true, false]);
        let values: Vec<_> = (0..3).map(|n| only.parameter(n).unwrap()).collect();
        assert_eq!(values, [(false, None), (true, Some(&b"\0\0"[..])), (false, None)]);
        assert_eq!(only.result_formats(), bind.result_formats());
        assert_eq!(Bind::text(&[Some("1")]).with_results_of(&bind).result_formats(), [1]);
    }

    #[test]
    fn text_behind_a_nul_does_not_run() {
        assert!(read_query(b"select 1\0drop table x\0").is_err());
        assert!(read_query(b"select 1").is_err());
        assert_eq!(read_query(b"select 1\0").unwrap(), "select 1");
    }
}
