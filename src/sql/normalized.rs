//! A statement without anything of its data: constants are `?`, comments are gone, white space is one space.
//!
//!   `SELECT * FROM t WHERE a = 'x' AND b IN (1, 2, 3) -- mine`  ──>  `SELECT * FROM t WHERE a = ? AND b IN (?, ...)`

use super::lexer::{self, Token, TokenKind, is_keyword};

/// The normalised text, cut after `NORMALIZED_MAX` bytes; `None` for a text that cannot be read.
pub fn normalized(text: &str) -> Option<String> {
    let tokens = lexer::lex(text, true).ok()?;
    // Each with whether a space stands before it.
    let mut pieces: Vec<(&str, bool)> = Vec::with_capacity(tokens.len());
    let mut len = 0;
    let (mut is_set, mut hides, mut end) = (None, false, 0);
    for token in &tokens {
        if token.is_punct(b';') {
            (is_set, hides) = (None, false);
        } else {
            is_set = is_set.or_else(|| Some(is_keyword(text, token, "set")));
        }
        let is_hidden = hides && !token.is_punct(b',');
        let piece = if is_hidden || is_constant(token) { CONSTANT } else { token.text(text) };
        let is_spaced = token.start > end || matches!(pieces.last(), Some((",", _)));
        end = token.end;
        match (piece, pieces.as_slice()) {
            // Lists of any length read alike.
            (CONSTANT, [.., (CONSTANT, _), (",", _)]) => pieces.push((MORE, true)),
            (CONSTANT, [.., (MORE, _), (",", _)]) => drop(pieces.pop()),
            (CONSTANT, [.., (CONSTANT | MORE, _)]) if is_hidden => {}
            _ => pieces.push((piece, is_spaced && !pieces.is_empty())),
        }
        // What SET gives a setting may be written as a word.
        hides |= is_set == Some(true) && (token.text(text) == "=" || is_keyword(text, token, "to"));
        len += piece.len();
        if len > NORMALIZED_MAX {
            break;
        }
    }
    let mut out = String::with_capacity(len + pieces.len());
    for (piece, is_spaced) in pieces {
        out.push_str(if is_spaced { " " } else { "" });
        out.push_str(piece);
    }
    let end = (0..=NORMALIZED_MAX.min(out.len())).rev().find(|end| out.is_char_boundary(*end)).unwrap_or(0);
    out.truncate(end);
    Some(out)
}

/// The same number for texts that are normalised alike, in every process. FNV-1a.
pub fn fingerprint(normalized: &str) -> u64 {
    normalized.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn is_constant(token: &Token) -> bool {
    matches!(token.kind, TokenKind::Integer | TokenKind::Float | TokenKind::BitString | TokenKind::HexString)
        || token.is_string()
}

const CONSTANT: &str = "?";
const MORE: &str = "...";
const NORMALIZED_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_data_is_left() {
        for (text, want) in [
            (
                "SELECT * FROM t  WHERE a='x' -- acme\n AND b IN (1,2, 3) /* 42 */ AND c = $1",
                "SELECT * FROM t WHERE a=? AND b IN (?, ...) AND c = $1",
            ),
            ("INSERT INTO t VALUES (1, E'a', $$b$$), (2, 'c', -3.5e1)", "INSERT INTO t VALUES (?, ...), (?, ..., -?)"),
            ("SET app.tenant = acme", "SET app.tenant = ?"),
            ("SET LOCAL app.tenant TO acme, 'x'; SELECT a, b", "SET LOCAL app.tenant TO ?, ...; SELECT a, b"),
            ("UPDATE t SET note = lower(name) WHERE id = 1_000", "UPDATE t SET note = lower(name) WHERE id = ?"),
            ("select B'101', x'1f', N'n', U&'d\\0061t', \"Quoted\".a", "select ?, ..., \"Quoted\".a"),
            ("SELECT f(1, a, 2)", "SELECT f(?, a, ?)"),
        ] {
            assert_eq!(normalized(text).as_deref(), Some(want), "{text}");
        }
        assert_eq!(normalized("SELECT 'open"), None);
        let long = normalized(&format!("SELECT {}", "é + ".repeat(5000))).unwrap();
        assert!(long.len() <= NORMALIZED_MAX);
    }

    #[test]
    fn texts_of_one_kind_have_one_fingerprint() {
        let of = |text: &str| fingerprint(&normalized(text).unwrap());
        assert_eq!(of("SELECT 1 WHERE a IN (1, 2)"), of("SELECT  7 WHERE a IN (3,4,5)"));
        assert_ne!(of("SELECT a"), of("SELECT b"));
        assert_eq!(fingerprint("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
