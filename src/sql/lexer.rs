//! Postgres's lexical rules: text in, tokens with byte offsets out. Never looks at meaning.
//!
//!   `SELECT "a" FROM t -- x`  ──>  Word(0..6) QuotedIdent(7..10) Word(11..15) Word(16..17)
//!
//! Source: PostgreSQL 15, src/backend/parser/scan.l; numbers of PostgreSQL 16 (`0x1f`, `1_000`) are read too, because
//! an older server refuses them by itself. Linear in the length of the text, whatever it holds.

mod ends;

use std::borrow::Cow;

use crate::error::{PgError, SqlState};

use super::literal::{undouble, unicode_unescape};
use ends::{COMMENT_NESTING_MAX, is_special_operator};

pub use super::literal::string_value;
pub(super) use ends::{
    CLASS, Class, DollarQuote, Endless, comment_end, continuation, continues_identifier, dollar_string_end, line_end,
    number_end, quoted_end, starts_identifier, string_end,
};

/// One token; `start..end` are bytes of the text and lie on character boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub start: u32,
    pub end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Unquoted identifier or keyword.
    Word,
    QuotedIdent,
    /// `U&"..."`; a following `UESCAPE 'x'` is two tokens of its own.
    UQuotedIdent,
    Integer,
    Float,
    /// `'...'`; a string continued on a later line is one token.
    String,
    /// `E'...'`, and `'...'` when standard_conforming_strings is off.
    EString,
    /// `U&'...'`
    UString,
    BitString,
    HexString,
    DollarString,
    /// `N'...'`
    NationalString,
    /// `$n`, counted from 0.
    Param(u16),
    Operator,
    /// One of `( ) [ ] , ; . :`
    Punct(u8),
    ColonColon,
    ColonEquals,
    EqualsGreater,
    DotDot,
}

/// More tokens than this in one text are refused.
pub const TOKENS_MAX: usize = 2_000_000;

/// Longest identifier in bytes: NAMEDATALEN - 1.
pub const IDENTIFIER_BYTES_MAX: usize = 63;

/// Splits a text into tokens; white space and comments are dropped.
///
/// Errors: 42601 as Postgres words it, with position; 54001 beyond `TOKENS_MAX`; 42P02 for `$0`.
pub fn lex(text: &str, standard_conforming_strings: bool) -> Result<Vec<Token>, PgError> {
    let mut tokens = Vec::with_capacity(text.len() / 5 + 4);
    lex_into(text, standard_conforming_strings, &mut tokens)?;
    Ok(tokens)
}

/// As `lex`, into a buffer that is cleared first.
pub fn lex_into(text: &str, standard_conforming_strings: bool, tokens: &mut Vec<Token>) -> Result<(), PgError> {
    tokens.clear();
    if text.len() > i32::MAX as usize {
        return Err(PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "statement is too long"));
    }
    let mut lexer = Lexer { text, bytes: text.as_bytes(), standard_conforming_strings, tokens };
    let mut at = 0;
    while at < lexer.bytes.len() {
        at = lexer.step(at)?;
        if lexer.tokens.len() > TOKENS_MAX {
            return Err(PgError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex")
                .detail(format!("It has more than {TOKENS_MAX} tokens.")));
        }
    }
    Ok(())
}

/// The highest parameter that a text names: `$7` gives 7. None in what is no SQL.
pub fn parameters_in(text: &str) -> u16 {
    let number = |token: &Token| if let TokenKind::Param(index) = token.kind { index.saturating_add(1) } else { 0 };
    lex(text, true).map_or(0, |tokens| tokens.iter().map(number).max().unwrap_or(0))
}

impl Token {
    pub fn text<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start as usize..self.end as usize]
    }

    /// Can it be a name? Keywords are not told apart.
    pub fn is_identifier(&self) -> bool {
        matches!(self.kind, TokenKind::Word | TokenKind::QuotedIdent | TokenKind::UQuotedIdent)
    }

    pub fn is_punct(&self, byte: u8) -> bool {
        self.kind == TokenKind::Punct(byte)
    }

    /// A string constant of any form that `string_value` reads.
    pub fn is_string(&self) -> bool {
        use TokenKind::*;
        matches!(self.kind, String | EString | UString | DollarString | NationalString)
    }
}

/// Is this the given keyword (written in lower case), unquoted and in any case?
pub fn is_keyword(text: &str, token: &Token, keyword: &str) -> bool {
    token.kind == TokenKind::Word && token.text(text).eq_ignore_ascii_case(keyword)
}

/// The name that an identifier token means: ASCII lower case when unquoted, unescaped when quoted, cut at 63 bytes.
///
/// `U&"..."` is read with the default escape character; other tokens give their text.
pub fn fold<'t>(text: &'t str, token: &Token) -> Cow<'t, str> {
    let raw = token.text(text);
    let name = match token.kind {
        TokenKind::Word if raw.bytes().any(|b| b.is_ascii_uppercase()) => Cow::Owned(raw.to_ascii_lowercase()),
        TokenKind::QuotedIdent => undouble(&raw[1..raw.len() - 1], '"'),
        TokenKind::UQuotedIdent => {
            let inner = undouble(&raw[3..raw.len() - 1], '"');
            unicode_unescape(&inner).map_or(inner, Cow::Owned)
        }
        _ => Cow::Borrowed(raw),
    };
    if name.len() <= IDENTIFIER_BYTES_MAX {
        return name;
    }
    let mut end = IDENTIFIER_BYTES_MAX;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(&name[..end]),
        Cow::Owned(mut name) => {
            name.truncate(end);
            Cow::Owned(name)
        }
    }
}

struct Lexer<'t, 'b> {
    text: &'t str,
    bytes: &'t [u8],
    standard_conforming_strings: bool,
    tokens: &'b mut Vec<Token>,
}

impl Lexer<'_, '_> {
    /// Reads one token or one stretch of white space at `at`; returns where the next begins.
    fn step(&mut self, at: usize) -> Result<usize, PgError> {
        let bytes = self.bytes;
        let next = bytes.get(at + 1).copied().unwrap_or(0);
        match CLASS[bytes[at] as usize] {
            Class::Space => Ok(at + 1),
            Class::Identifier => {
                let quote_at = match (bytes[at] | 0x20, next) {
                    (b'e' | b'b' | b'x' | b'n', b'\'') => at + 1,
                    (b'u', b'&') if matches!(bytes.get(at + 2), Some(b'\'' | b'"')) => at + 2,
                    _ => {
                        let end =
                            at + bytes[at..].iter().position(|&b| !continues_identifier(b)).unwrap_or(bytes.len() - at);
                        return Ok(self.push(TokenKind::Word, at, end));
                    }
                };
                match (bytes[at] | 0x20, bytes[quote_at]) {
                    (_, b'"') => self.quoted_identifier(at, quote_at, TokenKind::UQuotedIdent),
                    (b'e', _) => self.string(at, quote_at, TokenKind::EString),
                    (b'b', _) => self.string(at, quote_at, TokenKind::BitString),
                    (b'x', _) => self.string(at, quote_at, TokenKind::HexString),
                    (b'n', _) => self.string(at, quote_at, TokenKind::NationalString),
                    _ if !self.standard_conforming_strings => Err(PgError::unsupported(
                        "unsafe use of string constant with Unicode escapes",
                    )
                    .detail(
                        "String constants with Unicode escapes cannot be used when standard_conforming_strings is off.",
                    )),
                    _ => self.string(at, quote_at, TokenKind::UString),
                }
            }
            Class::Quote if self.standard_conforming_strings => self.string(at, at, TokenKind::String),
            Class::Quote => self.string(at, at, TokenKind::EString),
            Class::DoubleQuote => self.quoted_identifier(at, at, TokenKind::QuotedIdent),
            Class::Digit => self.number(at),
            Class::Dot if next.is_ascii_digit() => self.number(at),
            Class::Dot if next == b'.' => Ok(self.push(TokenKind::DotDot, at, at + 2)),
            Class::Colon if next == b':' => Ok(self.push(TokenKind::ColonColon, at, at + 2)),
            Class::Colon if next == b'=' => Ok(self.push(TokenKind::ColonEquals, at, at + 2)),
            Class::Dot | Class::Colon | Class::Punct => Ok(self.push(TokenKind::Punct(bytes[at]), at, at + 1)),
            Class::Dollar => self.dollar(at),
            Class::Operator => match (bytes[at], next) {
                (b'-', b'-') => Ok(line_end(bytes, at)),
                (b'/', b'*') => comment_end(bytes, at).map_err(|endless| match endless {
                    Endless::Open => self.error_at(at, bytes.len(), "unterminated /* comment"),
                    Endless::TooDeep => PgError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex")
                        .detail(format!("Its comments are nested more than {COMMENT_NESTING_MAX} levels deep.")),
                }),
                _ => self.operator(at),
            },
            Class::Other => {
                let end = at + self.text[at..].chars().next().map_or(1, char::len_utf8);
                Err(self.error_at(at, end, "syntax error"))
            }
        }
    }

    fn push(&mut self, kind: TokenKind, start: usize, end: usize) -> usize {
        self.tokens.push(Token { kind, start: start as u32, end: end as u32 });
        end
    }

    fn string(&mut self, start: usize, quote_at: usize, kind: TokenKind) -> Result<usize, PgError> {
        let mut at = quote_at + 1;
        loop {
            let Some(end) = string_end(self.bytes, at, kind) else {
                let what = match kind {
                    TokenKind::BitString => "unterminated bit string literal",
                    TokenKind::HexString => "unterminated hexadecimal string literal",
                    _ => "unterminated quoted string",
                };
                return Err(self.error_at(start, self.bytes.len(), what));
            };
            match continuation(self.bytes, end) {
                Some(next) => at = next,
                None => return Ok(self.push(kind, start, end)),
            }
        }
    }

    fn quoted_identifier(&mut self, start: usize, quote_at: usize, kind: TokenKind) -> Result<usize, PgError> {
        let Some(end) = quoted_end(self.bytes, quote_at + 1, b'"') else {
            return Err(self.error_at(start, self.bytes.len(), "unterminated quoted identifier"));
        };
        if end == quote_at + 2 {
            return Err(self.error_at(start, end, "zero-length delimited identifier"));
        }
        Ok(self.push(kind, start, end))
    }

    fn number(&mut self, start: usize) -> Result<usize, PgError> {
        let (end, kind) = number_end(self.bytes, start);
        if self.bytes.get(end).is_some_and(|&b| starts_identifier(b)) {
            let junk_end = end + self.text[end..].chars().next().map_or(0, char::len_utf8);
            return Err(self.error_at(start, junk_end, "trailing junk after numeric literal"));
        }
        Ok(self.push(kind, start, end))
    }

    /// `$1`, `$$...$$`, `$tag$...$tag$`.
    fn dollar(&mut self, start: usize) -> Result<usize, PgError> {
        let bytes = self.bytes;
        let digits = bytes[start + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits > 0 {
            let end = start + 1 + digits;
            if bytes.get(end).is_some_and(|&b| starts_identifier(b)) {
                let junk_end = end + self.text[end..].chars().next().map_or(0, char::len_utf8);
                return Err(self.error_at(start, junk_end, "trailing junk after parameter"));
            }
            let number = self.text[start + 1..end].parse::<u32>().unwrap_or(u32::MAX);
            return match number.checked_sub(1).and_then(|n| u16::try_from(n).ok()) {
                Some(index) => Ok(self.push(TokenKind::Param(index), start, end)),
                None => Err(PgError::new(
                    SqlState::from_bytes(b"42P02").unwrap_or(SqlState::SYNTAX_ERROR),
                    format!("there is no parameter {}", &self.text[start..end]),
                )),
            };
        }
        match dollar_string_end(bytes, start) {
            DollarQuote::Ends(end) => Ok(self.push(TokenKind::DollarString, start, end)),
            DollarQuote::Unterminated => Err(self.error_at(start, bytes.len(), "unterminated dollar-quoted string")),
            DollarQuote::None => Err(self.error_at(start, start + 1, "syntax error")),
        }
    }

    fn operator(&mut self, start: usize) -> Result<usize, PgError> {
        let bytes = self.bytes;
        let mut run_end = start + 1;
        let mut has_special = is_special_operator(bytes[start]);
        while run_end < bytes.len() && CLASS[bytes[run_end] as usize] == Class::Operator {
            // A comment ends an operator; its first character has been taken already for `+--`, not for `---`.
            if matches!((bytes[run_end], bytes.get(run_end + 1)), (b'-', Some(b'-')) | (b'/', Some(b'*'))) {
                break;
            }
            has_special |= is_special_operator(bytes[run_end]);
            run_end += 1;
        }
        let mut end = run_end;
        if !has_special || !bytes[start..end - 1].iter().any(|&b| is_special_operator(b)) {
            while end - start > 1 && matches!(bytes[end - 1], b'+' | b'-') {
                end -= 1;
            }
        }
        if end - start > IDENTIFIER_BYTES_MAX {
            return Err(PgError::new(SqlState::SYNTAX_ERROR, "operator too long"));
        }
        let kind = if &bytes[start..end] == b"=>" { TokenKind::EqualsGreater } else { TokenKind::Operator };
        self.push(kind, start, end);
        // What was cut off is nothing but signs, each an operator by itself; taken here so that the run is read once.
        for sign in (end..run_end).take(TOKENS_MAX) {
            self.push(TokenKind::Operator, sign, sign + 1);
        }
        Ok(run_end)
    }

    fn error_at(&self, start: usize, end: usize, what: &str) -> PgError {
        let near = match self.text[start..end].char_indices().nth(200) {
            Some((cut, _)) => &self.text[start..start + cut],
            None => &self.text[start..end],
        };
        PgError::new(SqlState::SYNTAX_ERROR, format!("{what} at or near \"{near}\""))
            .field(b'P', (self.text[..start].chars().count() + 1).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(TokenKind, &str)> {
        lex(text, true).unwrap().iter().map(|t| (t.kind, t.text(text))).collect()
    }

    fn texts(text: &str) -> Vec<&str> {
        lex(text, true).unwrap().iter().map(|t| t.text(text)).collect()
    }

    fn value(text: &str) -> Option<String> {
        let tokens = lex(text, true).unwrap();
        assert_eq!(tokens.len(), 1, "{text}");
        string_value(text, &tokens[0])
    }

    #[test]
    fn operators_split_where_postgres_splits_them() {
        assert_eq!(texts("a>=-1"), ["a", ">=", "-", "1"]);
        assert_eq!(texts("a<>-1"), ["a", "<>", "-", "1"]);
        assert_eq!(texts("a@-1"), ["a", "@-", "1"]);
        assert_eq!(texts("1*-+-2"), ["1", "*", "-", "+", "-", "2"]);
        assert_eq!(texts("false<>/**/1"), ["false", "<>", "1"]);
        assert_eq!(texts("1+--x\n2"), ["1", "+", "2"]);
        assert_eq!(texts("a+@"), ["a", "+@"]);
        assert_eq!(texts("a=>1"), ["a", "=>", "1"]);
        assert_eq!(kinds("=>")[0].0, TokenKind::EqualsGreater);
        assert_eq!(kinds("=>=")[0].0, TokenKind::Operator);
        assert_eq!(texts("x::int4[1:2]"), ["x", "::", "int4", "[", "1", ":", "2", "]"]);
        assert_eq!(texts("a := 1..2"), ["a", ":=", "1", "..", "2"]);
    }

    /// Threat T27 of docs/threats.md.
    #[test]
    fn comments_nest_and_end_at_either_line_end() {
        assert_eq!(texts("a/* /* ' */ */b--c\rd"), ["a", "b", "d"]);
        assert_eq!(lex("/* /* */", true).unwrap_err().message(), "unterminated /* comment at or near \"/* /* */\"");
    }

    #[test]
    fn a_continued_string_is_one_token() {
        assert_eq!(value("'a' -- it's\n  'b''c'").as_deref(), Some("ab'c"));
        assert_eq!(texts("'a' 'b'"), ["'a'", "'b'"]);
        assert_eq!(texts("'a' /* */\n'b'"), ["'a'", "'b'"]);
        assert_eq!(value("E'a\\''\n'\\n'").as_deref(), Some("a'\n"));
    }

    #[test]
    fn backslashes_escape_in_plain_strings_when_the_setting_is_off() {
        let tokens = lex(r"'x\' or 1=1 --'", false).unwrap();
        assert_eq!(tokens.len(), 1);
        assert_eq!(tokens[0].kind, TokenKind::EString);
        assert!(lex("U&'x'", false).is_err());
    }

    #[test]
    fn names_are_folded_unquoted_and_cut_at_63_bytes() {
        let name = |text: &str| fold(text, &lex(text, true).unwrap()[0]).into_owned();
        assert_eq!(name("OrdERs"), "orders");
        assert_eq!(name("ÉA"), "Éa");
        assert_eq!(name("\"Or\"\"d\""), "Or\"d");
        assert_eq!(name("U&\"d\\0061ta\""), "data");
        assert_eq!(name(&"X".repeat(70)), "x".repeat(63));
        assert_eq!(name(&format!("{}é", "x".repeat(62))), "x".repeat(62));
        assert_eq!(texts("a$1b$ $2"), ["a$1b$", "$2"]);
    }

    #[test]
    fn numbers_end_where_postgres_ends_them() {
        use TokenKind::{Float, Integer};
        assert_eq!(
            kinds("1 1.5 .5 1. 1e5 1E-5 0x1F 1_000"),
            [
                (Integer, "1"),
                (Float, "1.5"),
                (Float, ".5"),
                (Float, "1."),
                (Float, "1e5"),
                (Float, "1E-5"),
                (Integer, "0x1F"),
                (Integer, "1_000")
            ]
        );
        assert_eq!(lex("1a", true).unwrap_err().message(), "trailing junk after numeric literal at or near \"1a\"");
        assert!(lex("1e", true).is_err() && lex("1_", true).is_err() && lex("$1a", true).is_err());
        assert_eq!(kinds("$1")[0].0, TokenKind::Param(0));
        assert_eq!(kinds("$65536")[0].0, TokenKind::Param(65535));
        assert!(lex("$0", true).is_err() && lex("$65537", true).is_err() && lex("$99999999999", true).is_err());
    }

    #[test]
    fn what_is_not_closed_is_a_syntax_error_with_its_position() {
        for (text, message) in [
            ("é 'abc", "unterminated quoted string at or near \"'abc\""),
            ("é \"abc", "unterminated quoted identifier at or near \"\"abc\""),
            ("é $a$ $b$", "unterminated dollar-quoted string at or near \"$a$ $b$\""),
            ("é \"\"", "zero-length delimited identifier at or near \"\"\"\""),
            ("é {", "syntax error at or near \"{\""),
            ("é E'\\", "unterminated quoted string at or near \"E'\\\""),
        ] {
            let error = lex(text, true).unwrap_err();
            assert_eq!((error.message(), error.code()), (message, SqlState::SYNTAX_ERROR));
            assert!(error.fields().any(|f| f == (b'P', "3")));
        }
    }

    #[test]
    fn floods_take_linear_time() {
        let start = std::time::Instant::now();
        for flood in ["/*", "+", "-+", "$a", "'", "\"", "$$", "E'\\", "'a'\n", "*/", "(", "<"] {
            let _ = lex(&flood.repeat(1 << 19), true);
        }
        assert!(start.elapsed().as_secs() < 20);
    }

    #[test]
    fn any_text_is_cut_on_character_boundaries() {
        proptest::proptest!(|(text in "[a-z'\"$é/*+\\-U&eE\\\\0-9. \n😀]{0,40}", on: bool)| {
            if let Ok(tokens) = lex(&text, on) {
                for token in &tokens {
                    let _ = token.text(&text);
                    let _ = fold(&text, token);
                    let _ = string_value(&text, token);
                }
                proptest::prop_assert!(tokens.windows(2).all(|w| w[0].end <= w[1].start));
            }
        });
    }
}
