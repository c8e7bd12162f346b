//! Reads COPY: what, from or to where, with which options. Both option syntaxes of Postgres come out as one form.
//!
//! Source: PostgreSQL 15, gram.y `CopyStmt`, copy.c `ProcessCopyOptions`.

use std::ops::Range;

use crate::error::{PgError, SqlState};

use super::lexer::{TokenKind, string_value};
use super::{Cursor, QualifiedName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStatement {
    pub source: CopySource,
    pub is_from: bool,
    pub end: CopyEnd,
    pub options: Vec<CopyOption>,
    pub has_where: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    Table {
        name: QualifiedName,
        /// As written, folded; none when there is no list.
        columns: Option<Vec<String>>,
    },
    /// Byte range of the query inside the parentheses.
    Query(Range<u32>),
}

/// The other end of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyEnd {
    /// STDIN or STDOUT.
    Client,
    File,
    Program,
}

/// One option; the name is in lower case, as in `(name argument)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOption {
    pub name: String,
    pub argument: OptionArgument,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionArgument {
    None,
    /// A word or number (lower case) or a string (as it is).
    Value(String),
    /// `*`
    All,
    /// Column names.
    List(Vec<String>),
}

/// Options that decide how the stream is cut into rows and fields, checked as Postgres checks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyForm {
    pub format: Format,
    pub delimiter: u8,
    pub null: String,
    pub header: Header,
    pub quote: u8,
    pub escape: u8,
    pub freeze: bool,
    pub encoding: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Csv,
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    No,
    Yes,
    /// HEADER MATCH: names are compared.
    Match,
}

/// None when the statement is not COPY. Errors: 42601.
pub fn read_copy_statement(cursor: Cursor<'_>) -> Option<Result<CopyStatement, PgError>> {
    let mut c = cursor;
    c.take("copy").then(|| read(c))
}

fn read(mut c: Cursor<'_>) -> Result<CopyStatement, PgError> {
    let mut options = Vec::new();
    if c.is("binary") && !c.is_at(1, "from") && !c.is_at(1, "to") && c.peek_at(1).is_some_and(|t| t.is_identifier()) {
        c.take("binary");
        options.push(CopyOption { name: "format".into(), argument: OptionArgument::Value("binary".into()) });
    }
    let source = match c.parenthesized()? {
        Some(query) => {
            let range = query.rest_range();
            CopySource::Query(range.start as u32..range.end as u32)
        }
        None => {
            let name = c.qualified_name()?;
            let columns = c.parenthesized()?.map(|list| read_names(&list)).transpose()?;
            CopySource::Table { name, columns }
        }
    };
    let is_from = c.take("from");
    if !is_from {
        c.expect("to")?;
    }
    if is_from && matches!(source, CopySource::Query(_)) {
        return Err(c.syntax_error());
    }
    let end = if c.take_any(&["stdin", "stdout"]).is_some() {
        CopyEnd::Client
    } else if c.take("program") {
        c.string()?;
        CopyEnd::Program
    } else {
        c.string()?;
        CopyEnd::File
    };
    if c.take("using") && !c.is("delimiters") {
        return Err(c.syntax_error());
    }
    if c.take("delimiters") {
        options.push(option("delimiter", OptionArgument::Value(c.string()?)));
    }
    c.take("with");
    match c.parenthesized()? {
        Some(list) => {
            for mut item in list.split_commas()? {
                options.push(read_option(&mut item)?);
                item.expect_end()?;
            }
        }
        None => read_old_options(&mut c, &mut options)?,
    }
    let has_where = c.is("where");
    if !has_where {
        c.expect_end()?;
    }
    Ok(CopyStatement { source, is_from, end, options, has_where })
}

fn option(name: &str, argument: OptionArgument) -> CopyOption {
    CopyOption { name: name.to_owned(), argument }
}

fn read_names(list: &Cursor<'_>) -> Result<Vec<String>, PgError> {
    list.split_commas()?
        .into_iter()
        .map(|mut item| {
            let name = item.identifier()?;
            item.expect_end()?;
            Ok(name)
        })
        .collect()
}

fn read_option(c: &mut Cursor<'_>) -> Result<CopyOption, PgError> {
    let name = c.identifier()?.to_ascii_lowercase();
    let argument = if c.at_end() {
        OptionArgument::None
    } else if c.take_operator("*") {
        OptionArgument::All
    } else if let Some(list) = c.parenthesized()? {
        OptionArgument::List(read_names(&list)?)
    } else {
        OptionArgument::Value(read_scalar(c)?)
    };
    Ok(CopyOption { name, argument })
}

fn read_scalar(c: &mut Cursor<'_>) -> Result<String, PgError> {
    let sign = if c.take_operator("-") { "-" } else { "" };
    let Some(token) = c.peek().copied() else { return Err(c.syntax_error()) };
    let value = match token.kind {
        TokenKind::Word => token.text(c.text()).to_ascii_lowercase(),
        TokenKind::Integer | TokenKind::Float => format!("{sign}{}", token.text(c.text())),
        TokenKind::QuotedIdent => return c.identifier(),
        _ => string_value(c.text(), &token).ok_or_else(|| c.syntax_error())?,
    };
    c.advance();
    Ok(value)
}

fn read_old_options(c: &mut Cursor<'_>, options: &mut Vec<CopyOption>) -> Result<(), PgError> {
    let value = |text: &str| OptionArgument::Value(text.to_owned());
    while !c.at_end() && !c.is("where") {
        let word = c.take_any(&[
            "binary",
            "freeze",
            "delimiter",
            "null",
            "csv",
            "header",
            "quote",
            "escape",
            "encoding",
            "force",
        ]);
        match word {
            Some(format @ ("binary" | "csv")) => options.push(option("format", value(format))),
            Some(flag @ ("freeze" | "header")) => options.push(option(flag, value("true"))),
            Some("force") => {
                let name = if c.take_all(&["not", "null"]) {
                    "force_not_null"
                } else if c.take("null") {
                    "force_null"
                } else {
                    c.expect("quote")?;
                    "force_quote"
                };
                if c.take_operator("*") {
                    options.push(option(name, OptionArgument::All));
                    continue;
                }
                let mut columns = vec![c.identifier()?];
                while c.take_punct(b',') {
                    columns.push(c.identifier()?);
                }
                options.push(option(name, OptionArgument::List(columns)));
            }
            Some(name) => {
                c.take("as");
                options.push(option(name, OptionArgument::Value(c.string()?)));
            }
            None => return Err(c.syntax_error()),
        }
    }
    Ok(())
}

/// What the options mean. Errors: as Postgres (42601, 0A000, 22023).
pub fn read_form(options: &[CopyOption]) -> Result<CopyForm, PgError> {
    for (i, option) in options.iter().enumerate() {
        if options[..i].iter().any(|earlier| earlier.name == option.name) {
            return Err(PgError::new(SqlState::SYNTAX_ERROR, "conflicting or redundant options"));
        }
    }
    let text = |name: &str| -> Result<Option<String>, PgError> {
        match options.iter().find(|o| o.name == name).map(|o| &o.argument) {
            None => Ok(None),
            Some(OptionArgument::Value(value)) => Ok(Some(value.clone())),
            Some(_) => Err(PgError::new(SqlState::SYNTAX_ERROR, format!("{name} requires a parameter"))),
        }
    };
    let flag = |name: &str| match options.iter().find(|o| o.name == name).map(|o| &o.argument) {
        None => Ok(false),
        Some(OptionArgument::None) => Ok(true),
        Some(OptionArgument::Value(value)) => match value.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" => Ok(true),
            "false" | "off" | "0" => Ok(false),
            _ => Err(PgError::new(SqlState::SYNTAX_ERROR, format!("{name} requires a Boolean value"))),
        },
        Some(_) => Err(PgError::new(SqlState::SYNTAX_ERROR, format!("{name} requires a Boolean value"))),
    };
    let format = match text("format")?.as_deref() {
        None | Some("text") => Format::Text,
        Some("csv") => Format::Csv,
        Some("binary") => Format::Binary,
        Some(other) => {
            return Err(PgError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("COPY format \"{other}\" not recognized"),
            ));
        }
    };
    let header = match text("header") {
        Ok(Some(value)) if value.eq_ignore_ascii_case("match") => Header::Match,
        _ if flag("header")? => Header::Yes,
        _ => Header::No,
    };
    let byte = |name: &str, default: u8| -> Result<u8, PgError> {
        match text(name)?.as_deref().map(str::as_bytes) {
            None => Ok(default),
            Some(&[byte]) => Ok(byte),
            Some(_) => Err(PgError::unsupported(format!("COPY {name} must be a single one-byte character"))),
        }
    };
    let csv = format == Format::Csv;
    for (names, allowed, what) in [
        (&["delimiter", "null"][..], format != Format::Binary, "BINARY mode"),
        (&["quote", "escape", "force_quote", "force_not_null", "force_null"], csv, ""),
    ] {
        if let Some(option) = options.iter().find(|o| !allowed && names.contains(&o.name.as_str())) {
            let name = option.name.replace('_', " ");
            return Err(match what {
                "" => PgError::unsupported(format!("COPY {name} available only in CSV mode")),
                _ => PgError::new(SqlState::SYNTAX_ERROR, format!("cannot specify {} in {what}", name.to_uppercase())),
            });
        }
    }
    if header != Header::No && format == Format::Binary {
        return Err(PgError::unsupported("cannot specify HEADER in BINARY mode"));
    }
    let quote = byte("quote", b'"')?;
    let delimiter = byte("delimiter", if csv { b',' } else { b'\t' })?;
    let null = text("null")?.unwrap_or_else(|| if csv { String::new() } else { "\\N".to_owned() });
    let invalid = |message: &str| Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, message));
    if matches!(delimiter, b'\n' | b'\r') {
        return invalid("COPY delimiter cannot be newline or carriage return");
    }
    if null.contains(['\n', '\r']) {
        return invalid("COPY null representation cannot use newline or carriage return");
    }
    if !csv && b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&delimiter) {
        return invalid(&format!("COPY delimiter cannot be \"{}\"", delimiter as char));
    }
    if csv && delimiter == quote {
        return invalid("COPY delimiter and quote must be different");
    }
    if format != Format::Binary && null.as_bytes().contains(&delimiter) {
        return invalid("COPY delimiter character must not appear in the NULL specification");
    }
    if csv && null.as_bytes().contains(&quote) {
        return invalid("CSV quote character must not appear in the NULL specification");
    }
    Ok(CopyForm {
        format,
        delimiter,
        null,
        header,
        quote,
        escape: byte("escape", quote)?,
        freeze: flag("freeze")?,
        encoding: text("encoding")?,
    })
}

/// The options in the form `(FORMAT csv, NULL 'x')`, HEADER left out; empty when none is left.
pub fn write_options(options: &[CopyOption]) -> String {
    let identifier = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let written: Vec<String> = options
        .iter()
        .filter(|o| o.name != "header")
        .map(|o| {
            let name = if o.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                o.name.to_uppercase()
            } else {
                identifier(&o.name)
            };
            match &o.argument {
                OptionArgument::None => name,
                OptionArgument::Value(value) if o.name == "format" => format!("{name} {value}"),
                OptionArgument::Value(value) => format!("{name} {}", string_literal(value)),
                OptionArgument::All => format!("{name} *"),
                OptionArgument::List(columns) => {
                    format!("{name} ({})", columns.iter().map(identifier).collect::<Vec<_>>().join(", "))
                }
            }
        })
        .collect();
    if written.is_empty() { String::new() } else { format!("({})", written.join(", ")) }
}

/// A string constant that means `value` whatever standard_conforming_strings says.
fn string_literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::lex;

    fn read(text: &str) -> Result<CopyStatement, PgError> {
        let tokens = lex(text, true)?;
        read_copy_statement(Cursor::new(text, &tokens)).unwrap()
    }

    #[test]
    fn both_option_syntaxes_mean_the_same() {
        let old = read("COPY t FROM STDIN WITH DELIMITER AS '|' CSV HEADER NULL 'x' FORCE NOT NULL a, \"B\"").unwrap();
        let new =
            read("copy t from stdin (delimiter '|', format csv, header true, null 'x', force_not_null (a, \"B\"))");
        assert_eq!(old, new.unwrap());
        assert_eq!(write_options(&old.options), "(DELIMITER '|', FORMAT csv, NULL 'x', FORCE_NOT_NULL (\"a\", \"B\"))");
        let form = read_form(&old.options).unwrap();
        assert_eq!((form.format, form.delimiter, form.header), (Format::Csv, b'|', Header::Yes));
    }

    #[test]
    fn every_end_and_source_is_read() {
        assert_eq!(read("COPY t TO '/tmp/x'").unwrap().end, CopyEnd::File);
        assert_eq!(read("COPY t FROM PROGRAM 'curl x'").unwrap().end, CopyEnd::Program);
        assert_eq!(read("COPY (SELECT (1)) TO STDOUT").unwrap().source, CopySource::Query(6..16));
        assert!(read("COPY (SELECT 1) FROM STDIN").is_err());
        assert!(read("COPY t FROM STDIN WHERE a > 1").unwrap().has_where);
        assert_eq!(read_form(&read("COPY BINARY t FROM STDIN").unwrap().options).unwrap().format, Format::Binary);
        assert_eq!(
            write_options(&read("COPY t FROM STDIN USING DELIMITERS '\\'").unwrap().options),
            "(DELIMITER E'\\\\')"
        );
    }

    #[test]
    fn bad_options_are_refused_as_postgres_refuses_them() {
        for (text, message) in [
            ("COPY t FROM STDIN (FORMAT csv, FORMAT csv)", "conflicting or redundant options"),
            ("COPY t FROM STDIN (FORMAT xml)", "COPY format \"xml\" not recognized"),
            ("COPY t FROM STDIN (DELIMITER 'ab')", "COPY delimiter must be a single one-byte character"),
            ("COPY t FROM STDIN (DELIMITER 'a')", "COPY delimiter cannot be \"a\""),
            ("COPY t FROM STDIN (QUOTE 'a')", "COPY quote available only in CSV mode"),
            ("COPY t FROM STDIN (FORMAT binary, NULL 'x')", "cannot specify NULL in BINARY mode"),
        ] {
            assert_eq!(read_form(&read(text).unwrap().options).unwrap_err().message(), message);
        }
    }
}
