//! Cuts a stream of COPY data into rows and reads one column of each: the distribution column.
//!
//! ```text
//!   push(chunk) ──> buffer ──next_row──> Row { bytes, value, line }      bytes go on unchanged
//!                      └── the unfinished row waits here; nothing else is kept
//! ```
//!
//! Line ends, quoting and escapes are found exactly as PostgreSQL 15's CopyReadLine does (src/backend/commands/copyfromparse.c).
//! Only the fields up to the wanted column are looked at: what else may be wrong with a row is for the shard to say.
//!
//! Limits: client encodings in which a byte of a character may look like ASCII (SJIS, BIG5, GBK, UHC, GB18030) cannot be
//! cut this way; the caller refuses them.

mod binary;
mod fields;
mod lines;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::error::{PgError, Result, SqlState};

use binary::BinaryScanner;
use lines::{Found, LineScanner, Mistake};

/// The options of COPY that decide where rows and fields end. Postgres has checked that they go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFormat {
    Text { delimiter: u8, null: Vec<u8>, header: Header },
    Csv(CsvOptions),
    Binary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    pub delimiter: u8,
    pub quote: u8,
    pub escape: u8,
    pub null: Vec<u8>,
    pub header: Header,
    /// FORCE_NOT_NULL names the wanted column: an unquoted null string is a value.
    pub force_not_null: bool,
    /// FORCE_NULL names the wanted column: a quoted null string is NULL.
    pub force_null: bool,
}

/// What the first line is. A header is taken off: rows go out without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    Absent,
    Skip,
    /// HEADER MATCH: its fields must be the column names.
    Match,
}

impl CopyFormat {
    /// Text with Postgres's defaults: tab, `\N`.
    pub fn text() -> Self {
        CopyFormat::Text { delimiter: b'\t', null: b"\\N".to_vec(), header: Header::Absent }
    }

    /// CSV with Postgres's defaults: comma, double quote, empty string.
    pub fn csv() -> Self {
        CopyFormat::Csv(CsvOptions {
            delimiter: b',',
            quote: b'"',
            escape: b'"',
            null: Vec::new(),
            header: Header::Absent,
            force_not_null: false,
            force_null: false,
        })
    }

    fn header(&self) -> Header {
        match self {
            CopyFormat::Text { header, .. } => *header,
            CopyFormat::Csv(csv) => csv.header,
            CopyFormat::Binary => Header::Absent,
        }
    }
}

/// Where the rows go: names for error messages, and the column to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTarget {
    /// The table's name without its schema, as Postgres puts it into CONTEXT.
    pub table: String,
    /// The columns that the data has, in its order.
    pub columns: Vec<String>,
    /// Index into `columns` of the wanted one.
    pub column: usize,
}

/// One complete row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// What to send on: the line with its newline (added where the last line has none), or the binary tuple.
    /// Nothing may follow a row that has no newline: it is the last of all.
    pub bytes: &'a [u8],
    pub value: FieldValue<'a>,
    /// As Postgres counts: lines with a header first, tuples in binary, from 1; the last line of a row of several.
    pub line: u64,
}

/// The wanted column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue<'a> {
    Null,
    /// Escapes and quotes undone; in the client's encoding, not checked.
    Text(Cow<'a, [u8]>),
    /// In the type's binary send format.
    Binary(&'a [u8]),
}

/// Push chunks as they come, then take rows until there is none; at the end `finish`, and take the rest.
///
/// After an error the splitter is of no more use. Memory: one chunk and one unfinished row of at most `limit_bytes`.
#[derive(Debug)]
pub struct RowSplitter {
    format: CopyFormat,
    target: CopyTarget,
    limit_bytes: usize,
    buffer: Vec<u8>,
    /// Where in `buffer` the first row starts that was not given out.
    start: usize,
    is_finished: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Header(LineScanner),
    Lines(LineScanner),
    Binary(BinaryScanner),
    /// After the end marker: what comes now is thrown away.
    Ended,
}

/// A row found in the buffer, from `start` on.
struct Span {
    /// Without the newline; for binary, all of the tuple.
    content: usize,
    total: usize,
    line: u64,
}

impl RowSplitter {
    pub fn new(format: CopyFormat, target: CopyTarget, limit_bytes: usize) -> Self {
        let state = match &format {
            CopyFormat::Binary => State::Binary(BinaryScanner::default()),
            _ if format.header() == Header::Absent => State::Lines(LineScanner::new(&format)),
            _ => State::Header(LineScanner::new(&format)),
        };
        Self { format, target, limit_bytes, buffer: Vec::new(), start: 0, is_finished: false, state }
    }

    /// Takes the payload of one CopyData message. Messages need not end where rows end.
    pub fn push(&mut self, data: &[u8]) {
        if self.is_finished || matches!(self.state, State::Ended) {
            return;
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() {
            // One huge row must not keep its memory for the rest of a long COPY.
            self.buffer.shrink_to(KEPT_BYTES);
        }
        self.buffer.extend_from_slice(data);
    }

    /// What was pushed and not given out. Unit: bytes.
    pub fn kept_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// CopyDone came: what is left in the buffer is the last row.
    pub fn finish(&mut self) {
        self.is_finished = true;
    }

    /// The next complete row; none when more data is needed, or at the end.
    ///
    /// Errors: 22P04 with Postgres's messages and CONTEXT; 54000 when a row is larger than the limit.
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>> {
        let Some(span) = self.next_span()? else { return Ok(None) };
        let start = self.start;
        self.start += span.total;
        let bytes = &self.buffer[start..start + span.total];
        let value = self.value(&bytes[..span.content], span.line)?;
        Ok(Some(Row { bytes, value, line: span.line }))
    }

    /// The header of binary data as it came: 19 bytes and its extension; empty before it is complete.
    ///
    /// Send it to a shard before its first tuple, and `BINARY_TRAILER` after the last.
    pub fn binary_header(&self) -> &[u8] {
        match &self.state {
            State::Binary(scanner) => scanner.header(),
            _ => &[],
        }
    }

    fn next_span(&mut self) -> Result<Option<Span>> {
        match &mut self.state {
            State::Ended => Ok(None),
            State::Binary(_) => self.next_tuple(),
            State::Lines(_) => self.next_line(),
            State::Header(_) => {
                let header = self.next_line()?;
                if let Some(span) = &header {
                    self.check_header(&self.buffer[self.start..self.start + span.content], span.line)?;
                    self.start += span.total;
                }
                match std::mem::replace(&mut self.state, State::Ended) {
                    State::Header(scanner) if header.is_some() => {
                        self.state = State::Lines(scanner);
                        self.next_line()
                    }
                    state => {
                        self.state = state;
                        Ok(None)
                    }
                }
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Span>> {
        let (State::Header(scanner) | State::Lines(scanner)) = &mut self.state else { return Ok(None) };
        let found = scanner.next(&self.buffer[self.start..], self.is_finished);
        let (line, newline) = (scanner.line(), scanner.newline());
        match found {
            Err(Mistake { message, hint }) => {
                let error = self.error(message, line, Place::Line);
                Err(if hint.is_empty() { error } else { error.hint(hint) })
            }
            Ok(Found::NeedMore) => {
                self.check_size(self.buffer.len() - self.start, line)?;
                Ok(None)
            }
            Ok(Found::Line { content, total }) => {
                self.check_size(total, line)?;
                Ok(Some(Span { content, total, line }))
            }
            Ok(Found::Last { content, is_row }) => {
                self.check_size(content, line)?;
                if !is_row && matches!(self.state, State::Header(_)) {
                    // No data at all is an empty header to Postgres.
                    self.check_header(&[], line)?;
                }
                self.state = State::Ended;
                // Behind it stands the end marker, or a backslash that escapes nothing, or no byte at all.
                self.buffer.truncate(self.start + content);
                // In CSV these two bytes are a value as long as no newline makes them an end marker.
                let newline = if self.buffer.ends_with(b"\\.") && content == 2 { b"" } else { newline };
                self.buffer.extend_from_slice(newline);
                Ok(is_row.then_some(Span { content, total: content + newline.len(), line }))
            }
        }
    }

    fn next_tuple(&mut self) -> Result<Option<Span>> {
        let State::Binary(scanner) = &mut self.state else { return Ok(None) };
        let consumed = scanner.consumed();
        let columns = self.target.columns.len();
        let found = scanner.next(&self.buffer[self.start..], self.is_finished, columns, self.limit_bytes);
        let (line, column) = (scanner.tuple(), scanner.column());
        // Header and trailer are no tuples.
        self.start += scanner.consumed() - consumed;
        let length = found.map_err(|message| self.error(message, line, Place::Column(column)))?;
        self.check_size(length.unwrap_or(self.buffer.len() - self.start), line)?;
        Ok(length.map(|length| Span { content: length, total: length, line }))
    }

    fn check_size(&self, bytes: usize, line: u64) -> Result<()> {
        if bytes <= self.limit_bytes {
            return Ok(());
        }
        let message = format!("a row of COPY data is larger than {} bytes", self.limit_bytes);
        let context = self.context(line, Place::Line);
        Err(PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message).field(b'W', context))
    }

    fn value<'a>(&'a self, content: &'a [u8], line: u64) -> Result<FieldValue<'a>> {
        let column = self.target.column;
        let field = match &self.format {
            CopyFormat::Binary => return Ok(binary::field(content, column)),
            CopyFormat::Text { delimiter, null, .. } => fields::text_field(content, *delimiter, null, column),
            CopyFormat::Csv(csv) => fields::csv_field(content, csv, column),
        };
        field.map_err(|fields| {
            let missing = self.target.columns.get(fields).map_or("?", String::as_str);
            self.error(format!("missing data for column \"{missing}\""), line, Place::Content(content))
        })
    }

    fn check_header(&self, content: &[u8], line: u64) -> Result<()> {
        if self.format.header() != Header::Match {
            return Ok(());
        }
        let (names, null) = match &self.format {
            CopyFormat::Text { delimiter, null, .. } => (fields::text_fields(content, *delimiter, null), null),
            CopyFormat::Csv(csv) => (fields::csv_fields(content, csv), &csv.null),
            CopyFormat::Binary => return Ok(()),
        };
        let expected = &self.target.columns;
        let wrong = |message: String| Err(self.error(message, line, Place::Content(content)));
        if names.len() != expected.len() {
            let (got, want) = (names.len(), expected.len());
            return wrong(format!("wrong number of fields in header line: got {got}, expected {want}"));
        }
        for (i, (name, want)) in names.iter().zip(expected).enumerate() {
            let got = match name {
                FieldValue::Text(name) if **name == *want.as_bytes() => continue,
                FieldValue::Text(name) => format!("\"{}\"", String::from_utf8_lossy(name)),
                _ => format!("null value (\"{}\")", String::from_utf8_lossy(null)),
            };
            return wrong(format!(
                "column name mismatch in header line field {}: got {got}, expected \"{want}\"",
                i + 1
            ));
        }
        Ok(())
    }

    fn error(&self, message: impl Into<String>, line: u64, place: Place<'_>) -> PgError {
        PgError::new(SqlState::BAD_COPY_FILE_FORMAT, message).field(b'W', self.context(line, place))
    }

    /// `COPY orders, line 3: "1,2"`, as Postgres's CopyFromErrorCallback says it.
    fn context(&self, line: u64, place: Place<'_>) -> String {
        let context = format!("COPY {}, line {line}", self.target.table);
        match place {
            Place::Line | Place::Column(None) => context,
            Place::Column(Some(column)) => {
                format!("{context}, column {}", self.target.columns.get(column).map_or("?", String::as_str))
            }
            Place::Content(content) if content.len() <= SHOWN_BYTES => {
                format!("{context}: \"{}\"", String::from_utf8_lossy(content))
            }
            Place::Content(content) => {
                // Cut between characters.
                let mut end = SHOWN_BYTES;
                while end > 0 && content[end] & 0xc0 == 0x80 {
                    end -= 1;
                }
                format!("{context}: \"{}...\"", String::from_utf8_lossy(&content[..end]))
            }
        }
    }
}

/// What an error's context can say besides the line.
enum Place<'a> {
    Line,
    Content(&'a [u8]),
    Column(Option<usize>),
}

/// Ends binary data: a field count of -1.
pub const BINARY_TRAILER: [u8; 2] = [0xff, 0xff];

/// Postgres's MAX_COPY_DATA_DISPLAY.
const SHOWN_BYTES: usize = 100;

const KEPT_BYTES: usize = 1 << 20;
