//! Where a line of COPY text or CSV ends.
//!
//! Source: PostgreSQL 15, copyfromparse.c, CopyReadLineText. The first line's end decides the newline style of all.

use super::CopyFormat;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Newline {
    Unknown,
    Lf,
    Cr,
    CrLf,
}

#[derive(Debug)]
enum Syntax {
    Text,
    /// `escape` is none when it is the quote itself: two quotes then close and open again, which comes to the same.
    Csv {
        quote: u8,
        escape: Option<u8>,
    },
}

/// Looks at every byte once, however the data is cut into chunks.
#[derive(Debug)]
pub struct LineScanner {
    syntax: Syntax,
    newline: Newline,
    /// How much of the current row was looked at.
    scanned: usize,
    in_quote: bool,
    line: u64,
    in_row: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    NeedMore,
    /// A line of `content` bytes, `total` with its newline.
    Line {
        content: usize,
        total: usize,
    },
    /// The data ends here, by its end or by the marker `\.`; before that stands one more row, or none.
    Last {
        content: usize,
        is_row: bool,
    },
}

/// A 22P04.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    pub message: &'static str,
    /// Empty: none.
    pub hint: &'static str,
}

enum Marker {
    NeedMore,
    Yes,
    No,
}

impl LineScanner {
    pub fn new(format: &CopyFormat) -> Self {
        let syntax = match format {
            CopyFormat::Csv(csv) => {
                Syntax::Csv { quote: csv.quote, escape: (csv.escape != csv.quote).then_some(csv.escape) }
            }
            _ => Syntax::Text,
        };
        Self { syntax, newline: Newline::Unknown, scanned: 0, in_quote: false, line: 0, in_row: false }
    }

    /// Number of the line that is being read, or was read last.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The newline that the data uses.
    pub fn newline(&self) -> &'static [u8] {
        match self.newline {
            Newline::Unknown | Newline::Lf => b"\n",
            Newline::Cr => b"\r",
            Newline::CrLf => b"\r\n",
        }
    }

    /// `data` starts where the row starts; `is_end`: nothing follows it.
    pub fn next(&mut self, data: &[u8], is_end: bool) -> Result<Found, Mistake> {
        if !self.in_row {
            self.in_row = true;
            self.line += 1;
        }
        let found = match self.syntax {
            Syntax::Text => self.next_text(data, is_end),
            Syntax::Csv { quote, escape } => self.next_csv(data, is_end, quote, escape),
        }?;
        if found != Found::NeedMore {
            self.scanned = 0;
            self.in_row = false;
        }
        Ok(found)
    }

    fn next_text(&mut self, data: &[u8], is_end: bool) -> Result<Found, Mistake> {
        while let Some(i) = memchr::memchr3(b'\n', b'\r', b'\\', &data[self.scanned..]) {
            let at = self.scanned + i;
            self.scanned = at;
            if data[at] != b'\\' {
                return self.line_end(data, at, is_end);
            }
            match data.get(at + 1) {
                // Means nothing, but makes a row.
                None if is_end => return Ok(Found::Last { content: at, is_row: true }),
                None => return Ok(Found::NeedMore),
                Some(b'.') => match self.marker(data, at, is_end)? {
                    Marker::Yes => return Ok(Found::Last { content: at, is_row: at > 0 }),
                    Marker::NeedMore => return Ok(Found::NeedMore),
                    Marker::No => return Err(MARKER_CORRUPT),
                },
                // Whatever follows a backslash is data, a newline too.
                Some(_) => self.scanned = at + 2,
            }
        }
        self.scanned = data.len();
        Ok(if is_end { Found::Last { content: data.len(), is_row: !data.is_empty() } } else { Found::NeedMore })
    }

    fn next_csv(&mut self, data: &[u8], is_end: bool, quote: u8, escape: Option<u8>) -> Result<Found, Mistake> {
        // In CSV the end marker counts at the start of a row only.
        if self.scanned == 0 && data.first() == Some(&b'\\') {
            match self.marker(data, 0, is_end)? {
                Marker::Yes => return Ok(Found::Last { content: 0, is_row: false }),
                Marker::NeedMore => return Ok(Found::NeedMore),
                Marker::No => {}
            }
        }
        loop {
            let rest = &data[self.scanned..];
            let found = match (self.in_quote, escape) {
                (false, _) => memchr::memchr3(b'\n', b'\r', quote, rest),
                (true, None) => memchr::memchr(quote, rest),
                (true, Some(escape)) => memchr::memchr2(quote, escape, rest),
            };
            if self.in_quote {
                // Postgres counts quoted newlines of the style it knows of.
                let newline = if self.newline == Newline::Lf { b'\n' } else { b'\r' };
                self.line += memchr::memchr_iter(newline, &rest[..found.unwrap_or(rest.len())]).count() as u64;
            }
            let Some(i) = found else { break };
            let at = self.scanned + i;
            self.scanned = at;
            if data[at] == quote {
                self.in_quote = !self.in_quote;
                self.scanned = at + 1;
            } else if !self.in_quote {
                return self.line_end(data, at, is_end);
            } else {
                match data.get(at + 1) {
                    Some(&next) if next == quote || Some(next) == escape => self.scanned = at + 2,
                    None if !is_end => return Ok(Found::NeedMore),
                    _ => self.scanned = at + 1,
                }
            }
        }
        self.scanned = data.len();
        match (is_end, self.in_quote) {
            (false, _) => Ok(Found::NeedMore),
            (true, false) => Ok(Found::Last { content: data.len(), is_row: !data.is_empty() }),
            (true, true) => Err(Mistake { message: "unterminated CSV quoted field", hint: "" }),
        }
    }

    /// A newline character that is not data, at `at`.
    fn line_end(&mut self, data: &[u8], at: usize, is_end: bool) -> Result<Found, Mistake> {
        let is_csv = matches!(self.syntax, Syntax::Csv { .. });
        let length = match (data[at], self.newline) {
            (b'\n', Newline::Unknown | Newline::Lf) => {
                self.newline = Newline::Lf;
                1
            }
            (b'\n', _) => return Err(if is_csv { UNQUOTED_LF } else { LITERAL_LF }),
            (_, Newline::Lf) => return Err(if is_csv { UNQUOTED_CR } else { LITERAL_CR }),
            (_, Newline::Cr) => 1,
            (_, style) => match data.get(at + 1) {
                None if !is_end => return Ok(Found::NeedMore),
                Some(b'\n') => {
                    self.newline = Newline::CrLf;
                    2
                }
                _ if style == Newline::CrLf => return Err(if is_csv { UNQUOTED_CR } else { LITERAL_CR }),
                _ => {
                    self.newline = Newline::Cr;
                    1
                }
            },
        };
        Ok(Found::Line { content: at, total: at + length })
    }

    /// Is the backslash at `at` the start of an end marker: `\.` and a newline in the style of the data?
    fn marker(&self, data: &[u8], at: usize, is_end: bool) -> Result<Marker, Mistake> {
        let is_csv = matches!(self.syntax, Syntax::Csv { .. });
        // At the end of the data Postgres reads a zero byte.
        let byte = |i: usize| data.get(i).copied().or(is_end.then_some(0));
        match byte(at + 1) {
            None => return Ok(Marker::NeedMore),
            Some(b'.') => {}
            Some(_) => return Ok(Marker::No),
        }
        let mut next = at + 2;
        if self.newline == Newline::CrLf {
            match byte(next) {
                None => return Ok(Marker::NeedMore),
                Some(b'\r') => next += 1,
                Some(_) if is_csv => return Ok(Marker::No),
                Some(b'\n') => return Err(MARKER_NEWLINE),
                Some(_) => return Err(MARKER_CORRUPT),
            }
        }
        match (byte(next), self.newline) {
            (None, _) => Ok(Marker::NeedMore),
            (Some(b'\n'), Newline::Cr) | (Some(b'\r'), Newline::Lf | Newline::CrLf) => Err(MARKER_NEWLINE),
            (Some(b'\n' | b'\r'), _) => Ok(Marker::Yes),
            (Some(_), _) => Ok(Marker::No),
        }
    }
}

const MARKER_CORRUPT: Mistake = Mistake { message: "end-of-copy marker corrupt", hint: "" };
const MARKER_NEWLINE: Mistake =
    Mistake { message: "end-of-copy marker does not match previous newline style", hint: "" };
const LITERAL_CR: Mistake =
    Mistake { message: "literal carriage return found in data", hint: "Use \"\\r\" to represent carriage return." };
const LITERAL_LF: Mistake =
    Mistake { message: "literal newline found in data", hint: "Use \"\\n\" to represent newline." };
const UNQUOTED_CR: Mistake = Mistake {
    message: "unquoted carriage return found in data",
    hint: "Use quoted CSV field to represent carriage return.",
};
const UNQUOTED_LF: Mistake =
    Mistake { message: "unquoted newline found in data", hint: "Use quoted CSV field to represent newline." };
