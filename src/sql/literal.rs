//! Values of string constants: quotes and escapes undone.
//!
//! Source: PostgreSQL 15, scan.l and parser.c. Compared with a server on ten thousands of constants.

use std::borrow::Cow;

use memchr::memchr;

use super::lexer::{Token, TokenKind, continuation, quoted_end};

/// The value of a string constant, quotes and escapes undone; none for other tokens and for escapes that Postgres
/// refuses or reads differently from version to version (`E'\v'`). `U&'...'` is read with the default escape character.
pub fn string_value(text: &str, token: &Token) -> Option<String> {
    let raw = token.text(text);
    match token.kind {
        TokenKind::String => quoted_segments(raw).map(|s| s.concat()),
        TokenKind::NationalString => quoted_segments(&raw[1..]).map(|s| s.concat()),
        TokenKind::UString => unicode_unescape(&quoted_segments(&raw[2..])?.concat()),
        TokenKind::EString => escaped_value(raw.strip_prefix(['e', 'E']).unwrap_or(raw)),
        TokenKind::DollarString => {
            let tag = raw[1..].find('$')? + 2;
            Some(raw[tag..raw.len() - tag].to_owned())
        }
        _ => None,
    }
}

/// Contents of each segment of a `'...'` string, doubled quotes undone.
fn quoted_segments(raw: &str) -> Option<Vec<Cow<'_, str>>> {
    let bytes = raw.as_bytes();
    let mut segments = Vec::new();
    let mut at = Some(1);
    while let Some(start) = at {
        let end = quoted_end(bytes, start, b'\'')?;
        segments.push(undouble(&raw[start..end - 1], '\''));
        at = continuation(bytes, end);
    }
    Some(segments)
}

pub(super) fn undouble(inner: &str, quote: char) -> Cow<'_, str> {
    if !inner.contains(quote) {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(c);
        if c == quote {
            chars.next();
        }
    }
    Cow::Owned(out)
}

/// Value of `'...'` with backslash escapes; none when the bytes are not UTF-8 or an escape is malformed.
fn escaped_value(raw: &str) -> Option<String> {
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 1;
    let mut high_surrogate = None;
    loop {
        let byte = *bytes.get(at)?;
        if high_surrogate.is_some() && !(byte == b'\\' && matches!(bytes.get(at + 1), Some(b'u' | b'U'))) {
            return None;
        }
        match byte {
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => {
                out.push(b'\'');
                at += 2;
            }
            b'\'' => match continuation(bytes, at + 1) {
                Some(next) => at = next,
                None => return String::from_utf8(out).ok(),
            },
            b'\\' => {
                let escape = *bytes.get(at + 1)?;
                at += 2;
                match escape {
                    b'b' => out.push(8),
                    b'f' => out.push(12),
                    b'n' => out.push(b'\n'),
                    b'r' => out.push(b'\r'),
                    b't' => out.push(b'\t'),
                    // The letter v up to PostgreSQL 15, a vertical tab since: not for us to know.
                    b'v' => return None,
                    b'0'..=b'7' => {
                        let length = bytes[at - 1..].iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
                        let value = u32::from_str_radix(&raw[at - 1..at - 1 + length], 8).ok()?;
                        out.push((value & 0xff) as u8);
                        at += length - 1;
                    }
                    b'x' => {
                        let length = bytes[at..].iter().take(2).take_while(|b| b.is_ascii_hexdigit()).count();
                        match length {
                            0 => out.push(b'x'),
                            _ => out.push(u8::from_str_radix(&raw[at..at + length], 16).ok()?),
                        }
                        at += length;
                    }
                    b'u' | b'U' => {
                        let length = if escape == b'u' { 4 } else { 8 };
                        let unit = hex(bytes.get(at..at + length)?)?;
                        at += length;
                        if let Some(c) = join_surrogates(&mut high_surrogate, unit)? {
                            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                    }
                    other => out.push(other),
                }
            }
            other => {
                out.push(other);
                at += 1;
            }
        }
        if out.last() == Some(&0) {
            return None;
        }
    }
}

/// Undoes `\XXXX` and `\+XXXXXX` of U& strings and identifiers.
pub(super) fn unicode_unescape(inner: &str) -> Option<String> {
    let bytes = inner.as_bytes();
    let mut out = String::with_capacity(inner.len());
    let mut high_surrogate = None;
    let mut at = 0;
    while at < bytes.len() {
        let run = memchr(b'\\', &bytes[at..]).unwrap_or(bytes.len() - at);
        out.push_str(&inner[at..at + run]);
        if run > 0 && high_surrogate.is_some() {
            return None;
        }
        at += run;
        if at == bytes.len() {
            break;
        }
        let (digits_at, length) = match bytes.get(at + 1)? {
            b'\\' if high_surrogate.is_none() => {
                out.push('\\');
                at += 2;
                continue;
            }
            b'+' => (at + 2, 6),
            _ => (at + 1, 4),
        };
        let unit = hex(bytes.get(digits_at..digits_at + length)?)?;
        at = digits_at + length;
        if let Some(c) = join_surrogates(&mut high_surrogate, unit)? {
            out.push(c);
        }
    }
    high_surrogate.is_none().then_some(out)
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &b| Some((value << 4) | (b as char).to_digit(16)?))
}

/// Takes one code unit; `Some(None)` after the first half of a pair.
fn join_surrogates(high: &mut Option<u32>, unit: u32) -> Option<Option<char>> {
    match (high.take(), unit) {
        (None, 0) => None,
        (None, 0xd800..=0xdbff) => {
            *high = Some(unit);
            Some(None)
        }
        (Some(first), 0xdc00..=0xdfff) => {
            char::from_u32(0x10000 + ((first - 0xd800) << 10) + (unit - 0xdc00)).map(Some)
        }
        (Some(_), _) => None,
        (None, _) => char::from_u32(unit).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::lex;

    fn value(text: &str) -> Option<String> {
        let tokens = lex(text, true).unwrap();
        assert_eq!(tokens.len(), 1, "{text}");
        string_value(text, &tokens[0])
    }

    fn texts(text: &str) -> Vec<&str> {
        lex(text, true).unwrap().iter().map(|t| t.text(text)).collect()
    }

    #[test]
    fn every_form_of_string_has_its_value() {
        assert_eq!(value(r"'a\'").as_deref(), Some(r"a\"));
        assert_eq!(value(r"E'\101\x41\u0041\U0001F600\\\q'").as_deref(), Some("AAA😀\\q"));
        assert_eq!(value(r"E'\uD83D\uDE00'").as_deref(), Some("😀"));
        assert_eq!(value(r"E'\uD83D'"), None);
        assert_eq!(value(r"E'\v'"), None);
        assert_eq!(value(r"E'\xff'"), None);
        assert_eq!(value(r"U&'d\0061t\+000061'").as_deref(), Some("data"));
        assert_eq!(value("$x$a$$b$x$").as_deref(), Some("a$$b"));
        assert_eq!(value("$$é$$").as_deref(), Some("é"));
        assert_eq!(value("N'é'").as_deref(), Some("é"));
        assert_eq!(value("x'1F'"), None);
        assert_eq!(texts("b'1''0'"), ["b'1'", "'0'"]);
    }
}
