//! Where a token or a comment ends, by its bytes alone: what the lexer and the skeletons of texts have in common.

use memchr::{memchr, memchr2, memmem};

use super::TokenKind;

/// End of a `--` comment: the line's end is not part of it.
pub(in crate::sql) fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr2(b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |n| at + n)
}

/// Why a comment has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sql) enum Endless {
    Open,
    TooDeep,
}

/// Postgres's scanner takes time in the square of the depth.
pub(super) const COMMENT_NESTING_MAX: u32 = 1000;

/// End of the `/*` comment that begins at `at`, nested ones included.
pub(in crate::sql) fn comment_end(bytes: &[u8], at: usize) -> Result<usize, Endless> {
    let mut depth = 1;
    let mut at = at + 2;
    loop {
        at += memchr2(b'*', b'/', &bytes[at..]).ok_or(Endless::Open)?;
        match (bytes[at], bytes.get(at + 1)) {
            (b'*', Some(b'/')) => {
                at += 2;
                depth -= 1;
                if depth == 0 {
                    return Ok(at);
                }
            }
            (b'/', Some(b'*')) => {
                at += 2;
                depth += 1;
                if depth > COMMENT_NESTING_MAX {
                    return Err(Endless::TooDeep);
                }
            }
            _ => at += 1,
        }
    }
}

/// End (behind the closing quote) of a string whose contents begin at `at`.
pub(in crate::sql) fn string_end(bytes: &[u8], mut at: usize, kind: TokenKind) -> Option<usize> {
    match kind {
        TokenKind::BitString | TokenKind::HexString => Some(at + memchr(b'\'', &bytes[at..])? + 1),
        TokenKind::EString => loop {
            at += memchr2(b'\'', b'\\', bytes.get(at..)?)?;
            if bytes[at] == b'\\' || bytes.get(at + 1) == Some(&b'\'') {
                at += 2;
            } else {
                return Some(at + 1);
            }
        },
        _ => quoted_end(bytes, at, b'\''),
    }
}

pub(in crate::sql) fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> Option<usize> {
    loop {
        at += memchr(quote, &bytes[at..])? + 1;
        if bytes.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// Behind a closing quote: white space with a line break and another quote continue the string.
/// Returns where the contents go on.
pub(in crate::sql) fn continuation(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut seen_newline = false;
    loop {
        match bytes.get(at)? {
            b' ' | b'\t' | b'\x0c' => at += 1,
            b'\x0b' if seen_newline => at += 1,
            b'\n' | b'\r' => {
                seen_newline = true;
                at += 1;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => at = line_end(bytes, at),
            b'\'' if seen_newline => return Some(at + 1),
            _ => return None,
        }
    }
}

/// End of the number that begins at `start` (a digit, or a dot before a digit), and whether it is an integer.
pub(in crate::sql) fn number_end(bytes: &[u8], start: usize) -> (usize, TokenKind) {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    if byte(start) == b'0' {
        let is_digit: Option<fn(u8) -> bool> = match byte(start + 1) | 0x20 {
            b'x' => Some(|b| b.is_ascii_hexdigit()),
            b'o' => Some(|b| matches!(b, b'0'..=b'7')),
            b'b' => Some(|b| matches!(b, b'0' | b'1')),
            _ => None,
        };
        if let Some(is_digit) = is_digit {
            let end = digits_end(bytes, start + 2, is_digit);
            if end > start + 2 {
                return (end, TokenKind::Integer);
            }
        }
    }
    let decimal = |b: u8| b.is_ascii_digit();
    let mut end = digits_end(bytes, start, decimal);
    let mut kind = TokenKind::Integer;
    // `1..10` is an integer and `..` (PL/pgSQL loops).
    if byte(end) == b'.' && byte(end + 1) != b'.' {
        kind = TokenKind::Float;
        end = if byte(end + 1).is_ascii_digit() { digits_end(bytes, end + 1, decimal) } else { end + 1 };
    }
    if byte(end) | 0x20 == b'e' {
        let digits_at = if matches!(byte(end + 1), b'+' | b'-') { end + 2 } else { end + 1 };
        if byte(digits_at).is_ascii_digit() {
            return (digits_end(bytes, digits_at, decimal), TokenKind::Float);
        }
    }
    (end, kind)
}

/// Digits with single underscores between them.
fn digits_end(bytes: &[u8], mut at: usize, is_digit: impl Fn(u8) -> bool) -> usize {
    loop {
        match bytes.get(at) {
            Some(&b) if is_digit(b) => at += 1,
            Some(b'_') if bytes.get(at + 1).is_some_and(|&b| is_digit(b)) => at += 2,
            _ => return at,
        }
    }
}

pub(in crate::sql) enum DollarQuote {
    Ends(usize),
    Unterminated,
    None,
}

pub(in crate::sql) fn dollar_string_end(bytes: &[u8], start: usize) -> DollarQuote {
    let tag = match bytes.get(start + 1) {
        Some(b'$') => 0,
        Some(&b) if starts_identifier(b) => {
            bytes[start + 1..].iter().take_while(|&&b| b != b'$' && continues_identifier(b)).count()
        }
        _ => return DollarQuote::None,
    };
    let inner = start + tag + 2;
    if bytes.get(inner - 1) != Some(&b'$') {
        return DollarQuote::None;
    }
    match memmem::find(&bytes[inner..], &bytes[start..inner]) {
        Some(n) => DollarQuote::Ends(inner + n + tag + 2),
        None => DollarQuote::Unterminated,
    }
}

pub(in crate::sql) fn starts_identifier(byte: u8) -> bool {
    CLASS[byte as usize] == Class::Identifier
}

pub(in crate::sql) fn continues_identifier(byte: u8) -> bool {
    matches!(CLASS[byte as usize], Class::Identifier | Class::Digit | Class::Dollar)
}

/// Characters that let an operator end in a sign.
pub(super) fn is_special_operator(byte: u8) -> bool {
    matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%')
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sql) enum Class {
    Space,
    Identifier,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Dot,
    Colon,
    Punct,
    Operator,
    Other,
}

pub(in crate::sql) const CLASS: [Class; 256] = {
    let mut table = [Class::Other; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' | b'\x0b' => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Identifier,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'.' => Class::Dot,
            b':' => Class::Colon,
            b'(' | b')' | b'[' | b']' | b',' | b';' => Class::Punct,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<'
            | b'>' | b'=' => Class::Operator,
            _ => Class::Other,
        };
        b += 1;
    }
    table
};
