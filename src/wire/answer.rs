//! What the proxy answers itself, encoded by pgwire's message structs.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, PortalSuspended};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey};

use super::rows::Field;
use crate::error::PgError;

/// The status byte of ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Idle,
    InTransaction,
    Failed,
}

impl Status {
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Status::Idle),
            b'T' => Some(Status::InTransaction),
            b'E' => Some(Status::Failed),
            _ => None,
        }
    }
}

fn put(message: impl Message, out: &mut BytesMut) {
    // pgwire refuses only lengths that do not fit the frame, and all our answers are small.
    message.encode(out).expect("an answer of the proxy fits a frame");
}

pub fn error(error: &PgError, out: &mut BytesMut) {
    put(ErrorResponse::new(fields(error)), out);
}

/// A notice: the error's fields with severity NOTICE, WARNING, ...
pub fn notice(severity: &str, notice: &PgError, out: &mut BytesMut) {
    let mut fields = fields(notice);
    for (key, value) in &mut fields {
        if matches!(*key, b'S' | b'V') {
            severity.clone_into(value);
        }
    }
    put(NoticeResponse::new(fields), out);
}

fn fields(error: &PgError) -> Vec<(u8, String)> {
    // A NUL would end the field early and spill the rest into the next.
    error.fields().map(|(key, value)| (key, value.replace('\0', " "))).collect()
}

/// Takes back the CommandComplete that `out` ends with, if it does.
pub fn take_back_completion(out: &mut BytesMut) {
    let len = completion(out).map_or(0, <[u8]>::len);
    out.truncate(out.len() - len);
}

/// The CommandComplete that `out` ends with, if it does.
pub fn completion(out: &[u8]) -> Option<&[u8]> {
    let begins = |at: usize| {
        let length = out[at + 1..].first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        out[at] == b'C' && length == Some(out.len() - at - 1)
    };
    let earliest = out.len().saturating_sub(COMPLETION_MAX);
    (earliest..out.len()).rev().find(|at| begins(*at)).map(|at| &out[at..])
}

/// Longer than any.
const COMPLETION_MAX: usize = 64;

pub fn ready(status: Status, out: &mut BytesMut) {
    let status = match status {
        Status::Idle => TransactionStatus::Idle,
        Status::InTransaction => TransactionStatus::Transaction,
        Status::Failed => TransactionStatus::Error,
    };
    put(ReadyForQuery::new(status), out);
}

pub fn command_complete(tag: &str, out: &mut BytesMut) {
    put(CommandComplete::new(tag.to_owned()), out);
}

pub fn empty_query(out: &mut BytesMut) {
    put(EmptyQueryResponse::new(), out);
}

pub const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";

pub fn parse_complete(out: &mut BytesMut) {
    out.extend_from_slice(PARSE_COMPLETE);
}

pub fn bind_complete(out: &mut BytesMut) {
    put(BindComplete::new(), out);
}

pub fn close_complete(out: &mut BytesMut) {
    put(CloseComplete::new(), out);
}

pub fn portal_suspended(out: &mut BytesMut) {
    put(PortalSuspended::new(), out);
}

pub fn no_data(out: &mut BytesMut) {
    put(NoData::new(), out);
}

pub fn parameter_description(types: &[u32], out: &mut BytesMut) {
    put(ParameterDescription::new(types.to_vec()), out);
}

pub fn row_description(fields: &[Field], out: &mut BytesMut) {
    let fields = fields
        .iter()
        .map(|f| FieldDescription::new(f.name.clone(), 0, 0, f.type_oid, -1, f.type_modifier, 0))
        .collect();
    put(RowDescription::new(fields), out);
}

/// RowDescription from a payload whose formats are all text, with the formats that the client bound; or NoData.
/// `formats` is empty (all text), has one for all, or one per column.
pub fn fields_or_no_data(fields: Option<&Bytes>, formats: &[u16], out: &mut BytesMut) {
    let Some(fields) = fields else { return no_data(out) };
    let at = super::frame::begin_frame(out, b'T');
    let mut rest = &fields[..];
    let mut column = 0;
    out.put_slice(rest.get(..2).unwrap_or(&[0, 0]));
    rest = rest.get(2..).unwrap_or(&[]);
    while let Some(name_len) = memchr::memchr(0, rest) {
        // name, NUL, table oid, column, type oid, size, modifier: 16 bytes before the format
        let Some(described) = rest.get(..name_len + 1 + 16) else { break };
        out.put_slice(described);
        let format = if formats.len() == 1 { formats[0] } else { formats.get(column).copied().unwrap_or(0) };
        out.put_u16(format);
        rest = rest.get(name_len + 1 + 18..).unwrap_or(&[]);
        column += 1;
    }
    super::frame::end_frame(out, at);
}

/// A row of text values.
pub fn text_row(values: &[Option<&str>], out: &mut BytesMut) {
    let mut body = BytesMut::new();
    for value in values {
        match value {
            None => body.put_i32(-1),
            Some(text) => {
                body.put_i32(text.len() as i32);
                body.put_slice(text.as_bytes());
            }
        }
    }
    put(DataRow::new(body, values.len() as i16), out);
}

pub fn authentication_ok(out: &mut BytesMut) {
    put(Authentication::Ok, out);
}

pub fn authentication_md5(salt: [u8; 4], out: &mut BytesMut) {
    put(Authentication::MD5Password(salt.to_vec()), out);
}

pub fn authentication_sasl(mechanisms: &[&str], out: &mut BytesMut) {
    put(Authentication::SASL(mechanisms.iter().map(|m| m.to_string()).collect()), out);
}

pub fn authentication_sasl_continue(data: Vec<u8>, out: &mut BytesMut) {
    put(Authentication::SASLContinue(Bytes::from(data)), out);
}

pub fn authentication_sasl_final(data: Vec<u8>, out: &mut BytesMut) {
    put(Authentication::SASLFinal(Bytes::from(data)), out);
}

pub fn parameter_status(name: &str, value: &str, out: &mut BytesMut) {
    put(ParameterStatus::new(name.to_owned(), value.to_owned()), out);
}

/// Name and value out of the payload; `None`: it is broken.
pub fn read_parameter_status(payload: &[u8]) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let mut parts = payload.split(|&b| b == 0).map(String::from_utf8_lossy);
    Some((parts.next()?, parts.next()?))
}

/// `key` is 4 bytes for protocol 3.0 and up to 256 for 3.2.
pub fn backend_key_data(pid: u32, key: &[u8], out: &mut BytesMut) {
    put(BackendKeyData::new(pid as i32, SecretKey::Bytes(Bytes::copy_from_slice(key))), out);
}

/// CopyInResponse for `columns` columns, all text (0) or all binary (1).
pub fn copy_in_response(binary: bool, columns: usize, out: &mut BytesMut) {
    copy_response(b'G', binary, columns, out);
}

pub fn copy_out_response(binary: bool, columns: usize, out: &mut BytesMut) {
    copy_response(b'H', binary, columns, out);
}

fn copy_response(tag: u8, binary: bool, columns: usize, out: &mut BytesMut) {
    let at = super::frame::begin_frame(out, tag);
    out.put_u8(binary as u8);
    out.put_u16(columns as u16);
    (0..columns).for_each(|_| out.put_u16(binary as u16));
    super::frame::end_frame(out, at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SqlState;

    #[test]
    fn an_error_goes_out_with_all_its_fields() {
        let mut out = BytesMut::new();
        error(&PgError::new(SqlState::UNDEFINED_TABLE, "a\0b").detail("d").hint("h").field(b'P', "9"), &mut out);
        let again = PgError::from_body(&out[5..]);
        assert_eq!((again.message(), again.detail_text(), again.hint_text()), ("a b", Some("d"), Some("h")));
        assert!(again.fields().any(|f| f == (b'P', "9")));
    }

    #[test]
    fn a_completion_at_the_end_is_taken_back_and_nothing_else() {
        let mut out = BytesMut::new();
        text_row(&[Some("COPY 3")], &mut out);
        let row = out.clone();
        take_back_completion(&mut out);
        assert_eq!(out, row);
        command_complete("COPY 3", &mut out);
        command_complete("INSERT 0 2", &mut out);
        take_back_completion(&mut out);
        take_back_completion(&mut out);
        take_back_completion(&mut out);
        assert_eq!(out, row);
    }

    #[test]
    fn a_description_gets_the_formats_that_were_bound() {
        let mut text = BytesMut::new();
        let field = |name: &str| Field { name: name.to_owned(), type_oid: 23, type_modifier: -1 };
        row_description(&[field("a"), field("bc")], &mut text);
        let payload = text.freeze().slice(5..);
        let mut out = BytesMut::new();
        fields_or_no_data(Some(&payload), &[0, 1], &mut out);
        assert_eq!(out.len(), payload.len() + 5);
        assert_eq!(out[out.len() - 2..], [0, 1]);
        assert_eq!(super::super::rows::read_row_description(&out[5..]).unwrap()[1].name, "bc");
    }

    #[test]
    fn a_notice_is_no_error() {
        let mut out = BytesMut::new();
        notice("NOTICE", &PgError::new(SqlState::INTERNAL_ERROR, "x"), &mut out);
        assert_eq!(out[0], b'N');
        assert!(out.windows(8).any(|w| w == b"SNOTICE\0"));
    }
}
