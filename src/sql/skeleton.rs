//! The skeleton of a text: literals and comments taken out, so that texts of one shape share a plan.
//!
//!   text  `SELECT * FROM t WHERE id = 42 /* trace */`
//!   key   `SELECT * FROM t WHERE id = ▮ ␠`            ▮: one byte for the class of literal
//!
//! Invariant: two texts with the same key have the same tokens but for the values of their literals. Whatever could
//! break that (numbers and strings whose meaning depends on version or settings) has no skeleton.
//! Only right while standard_conforming_strings is on.

use std::borrow::Cow;
use std::sync::Arc;

use super::lexer::{
    CLASS, Class, DollarQuote, Token, TokenKind, comment_end, continuation, continues_identifier, dollar_string_end,
    line_end, number_end, starts_identifier, string_end, string_value,
};
use super::{Splice, Spliced};

/// Texts with more literals than this have no skeleton: they would fill a cache with shapes met once.
pub const LITERALS_MAX: usize = 64;

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// A scanned text. Made once and used again for the next text, it allocates nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skeleton {
    key: Vec<u8>,
    literals: Vec<LiteralSpan>,
    /// Places behind a literal or comment: from there on key and text run in step.
    steps: Vec<Step>,
}

/// One literal, in the order of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiteralSpan {
    pub kind: TokenKind,
    pub start: u32,
    pub end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    key_at: u32,
    text_at: u32,
}

/// The skeleton of `text`; none when two texts of its shape might mean different things, or when it is too large.
pub fn scan(text: &str) -> Option<Skeleton> {
    let mut skeleton = Skeleton::default();
    skeleton.scan(text).then_some(skeleton)
}

impl Skeleton {
    /// What texts of one shape have in common. Holds bytes that no UTF-8 text has.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub fn literals(&self) -> &[LiteralSpan] {
        &self.literals
    }

    pub fn has_comments(&self) -> bool {
        self.steps.len() > self.literals.len()
    }

    /// As the function `scan`, into this value's buffers. False: no skeleton, and the contents mean nothing.
    pub fn scan(&mut self, text: &str) -> bool {
        self.key.clear();
        self.literals.clear();
        self.steps.clear();
        text.len() <= u32::MAX as usize && self.fill(text).is_some()
    }

    fn fill(&mut self, text: &str) -> Option<()> {
        let bytes = text.as_bytes();
        let mut at = 0;
        let mut copied = 0;
        while at < bytes.len() {
            let next = bytes.get(at + 1).copied().unwrap_or(0);
            let (kind, end) = match CLASS[bytes[at] as usize] {
                Class::Identifier => match (bytes[at] | 0x20, next) {
                    (b'e', b'\'') => (TokenKind::EString, whole_string(bytes, at + 2, TokenKind::EString)?),
                    (b'n', b'\'') => (TokenKind::NationalString, whole_string(bytes, at + 2, TokenKind::String)?),
                    (b'b', b'\'') => (TokenKind::BitString, whole_string(bytes, at + 2, TokenKind::BitString)?),
                    (b'x', b'\'') => (TokenKind::HexString, whole_string(bytes, at + 2, TokenKind::HexString)?),
                    (b'u', b'&') if matches!(bytes.get(at + 2), Some(b'\'' | b'"')) => return None,
                    _ => {
                        at += bytes[at..].iter().position(|&b| !continues_identifier(b)).unwrap_or(bytes.len() - at);
                        continue;
                    }
                },
                Class::Quote => (TokenKind::String, whole_string(bytes, at + 1, TokenKind::String)?),
                Class::Digit => number(bytes, at)?,
                Class::Dot if next.is_ascii_digit() => number(bytes, at)?,
                Class::Dot if next == b'.' => {
                    at += 2;
                    continue;
                }
                Class::Dollar if next.is_ascii_digit() => {
                    at += 1 + bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
                    if bytes.get(at).is_some_and(|&b| starts_identifier(b)) {
                        return None;
                    }
                    continue;
                }
                Class::Dollar => match dollar_string_end(bytes, at) {
                    DollarQuote::Ends(end) => (TokenKind::DollarString, end),
                    _ => return None,
                },
                Class::DoubleQuote => {
                    // A doubled quote looks like two identifiers side by side; copied as they are, that does no harm.
                    at += 2 + memchr::memchr(b'"', &bytes[at + 1..])?;
                    continue;
                }
                Class::Operator if bytes[at] == b'-' && next == b'-' => {
                    let end = line_end(bytes, at);
                    self.replace(bytes, &mut copied, at, end, b' ')?;
                    at = end;
                    continue;
                }
                Class::Operator if bytes[at] == b'/' && next == b'*' => {
                    let end = comment_end(bytes, at).ok()?;
                    self.replace(bytes, &mut copied, at, end, b' ')?;
                    at = end;
                    continue;
                }
                Class::Space | Class::Colon | Class::Dot | Class::Punct | Class::Operator => {
                    at += 1;
                    continue;
                }
                Class::Other => return None,
            };
            if self.literals.len() == LITERALS_MAX {
                return None;
            }
            self.literals.push(LiteralSpan { kind, start: at as u32, end: end as u32 });
            self.replace(bytes, &mut copied, at, end, marker(kind)?)?;
            at = end;
        }
        self.key.extend_from_slice(&bytes[copied..]);
        (self.key.len() <= KEY_BYTES_MAX).then_some(())
    }

    /// Copies the text up to `start`, and one byte for `start..end`.
    fn replace(&mut self, bytes: &[u8], copied: &mut usize, start: usize, end: usize, by: u8) -> Option<()> {
        self.key.extend_from_slice(&bytes[*copied..start]);
        self.key.push(by);
        self.steps.push(Step { key_at: self.key.len() as u32, text_at: end as u32 });
        *copied = end;
        (self.key.len() <= KEY_BYTES_MAX).then_some(())
    }

    fn key_offset(&self, text_at: u32) -> u32 {
        let after = self.steps.partition_point(|s| s.text_at <= text_at);
        self.steps[..after].last().map_or(text_at, |s| s.key_at + (text_at - s.text_at))
    }

    fn text_offset(&self, key_at: u32) -> u32 {
        let after = self.steps.partition_point(|s| s.key_at <= key_at);
        self.steps[..after].last().map_or(key_at, |s| s.text_at + (key_at - s.key_at))
    }
}

/// The splices of a text for another text of the same key. `from` is the skeleton of `spliced`'s whole text, `to`
/// that of `text`. Splices must not lie inside literals or comments.
pub fn shift(spliced: &Spliced, from: &Skeleton, to: &Skeleton, text: impl Into<Arc<str>>) -> Spliced {
    debug_assert_eq!(from.key, to.key);
    let moved = |at| to.text_offset(from.key_offset(at));
    let splices = spliced
        .splices()
        .iter()
        .map(|s| {
            let at = moved(s.at);
            let len = if s.len == 0 { 0 } else { moved(s.at + s.len) - at };
            Splice { at, len, with: s.with.clone() }
        })
        .collect();
    Spliced::new(text, splices)
}

/// A literal's value in text form: strings unescaped, numbers as written. None for bit and hexadecimal strings and
/// for escapes that Postgres refuses.
pub fn literal_value<'t>(text: &'t str, literal: &LiteralSpan) -> Option<Cow<'t, str>> {
    let raw = &text[literal.start as usize..literal.end as usize];
    match literal.kind {
        TokenKind::Integer | TokenKind::Float => Some(Cow::Borrowed(raw)),
        TokenKind::String if !raw[1..raw.len() - 1].contains('\'') => Some(Cow::Borrowed(&raw[1..raw.len() - 1])),
        kind => string_value(text, &Token { kind, start: literal.start, end: literal.end }).map(Cow::Owned),
    }
}

/// End of a string with all its continuations; its contents begin at `at`.
fn whole_string(bytes: &[u8], mut at: usize, kind: TokenKind) -> Option<usize> {
    loop {
        let end = string_end(bytes, at, kind)?;
        match continuation(bytes, end) {
            Some(next) => at = next,
            None => return Some(end),
        }
    }
}

/// Decimal numbers only: what `0x1f` and `1_000` are depends on the server's version.
fn number(bytes: &[u8], at: usize) -> Option<(TokenKind, usize)> {
    let (end, kind) = number_end(bytes, at);
    let plain = bytes[at..end].iter().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let junk = bytes.get(end).is_some_and(|&b| starts_identifier(b));
    (plain && !junk).then_some((kind, end))
}

/// Is the token one that a skeleton takes out?
pub fn is_literal(kind: TokenKind) -> bool {
    marker(kind).is_some()
}

/// Bytes that UTF-8 never uses.
fn marker(kind: TokenKind) -> Option<u8> {
    Some(match kind {
        TokenKind::Integer => 0xf8,
        TokenKind::Float => 0xf9,
        TokenKind::String => 0xfa,
        TokenKind::EString => 0xfb,
        TokenKind::DollarString => 0xfc,
        TokenKind::NationalString => 0xfd,
        TokenKind::BitString => 0xfe,
        TokenKind::HexString => 0xff,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shard_map::ShardGroupId;
    use crate::sql::With;
    use crate::sql::lexer::{is_keyword, lex};

    fn same_shape(a: &str, b: &str) -> bool {
        scan(a).unwrap().key() == scan(b).unwrap().key()
    }

    #[test]
    fn texts_that_differ_in_literals_and_comments_share_a_key() {
        assert!(same_shape("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 4211"));
        assert!(same_shape("SELECT 'it''s'--x\n", "SELECT ''/* y /* z */ */\n"));
        assert!(same_shape("a/**/b", "a b"));
        assert!(!same_shape("b = 1", "b = '1'") && !same_shape("b = 1", "b = 1.0") && !same_shape("b = 1", "b = -1"));
        assert!(!same_shape("E'a'", "'a'") && !same_shape("$1", "$2") && !same_shape("\"a\"", "\"b\""));
        assert!(same_shape("'a'\n'b'", "'c'") && !same_shape("'a' 'b'", "'c'"));
        assert!(!same_shape("a<>/**/-1", "a<>-1"));
    }

    #[test]
    fn what_depends_on_version_or_settings_has_no_skeleton() {
        for text in ["0x1f", "1_000", "1a", "U&'x'", "u&\"x\"", "'open", "$a$ x", "/* x", "\\", "a $1b"] {
            assert!(scan(text).is_none(), "{text}");
        }
        assert!(scan(&"1,".repeat(LITERALS_MAX + 1)).is_none());
    }

    #[test]
    fn literals_have_their_values() {
        let text = "f(12, 1.5e3, 'it''s', '', E'\\n', $$a$$, 'a'\n'b', x'1f')";
        let skeleton = scan(text).unwrap();
        let values: Vec<_> = skeleton.literals().iter().map(|l| literal_value(text, l)).collect();
        let want = [Some("12"), Some("1.5e3"), Some("it's"), Some(""), Some("\n"), Some("a"), Some("ab"), None];
        assert_eq!(values.iter().map(|v| v.as_deref()).collect::<Vec<_>>(), want);
    }

    /// Splices as a planner makes them: in front of every `orders`, and over `s .`.
    fn plan(text: &str) -> Spliced {
        let tokens = lex(text, true).unwrap();
        let mut splices = Vec::new();
        for (i, token) in tokens.iter().enumerate().filter(|(_, t)| is_keyword(text, t, "orders")) {
            let qualified = i >= 2 && tokens[i - 1].is_punct(b'.') && is_keyword(text, &tokens[i - 2], "s");
            let at = if qualified { tokens[i - 2].start } else { token.start };
            splices.push(Splice { at, len: token.start - at, with: With::ShardSchema("s".into()) });
        }
        Spliced::new(text, splices)
    }

    fn fill(shape: &[&str], literals: &[String], comments: &[String]) -> String {
        let (mut literal, mut comment) = (literals.iter().cycle(), comments.iter().cycle());
        shape
            .iter()
            .map(|piece| match *piece {
                "L" => literal.next().map_or("1", |l| l),
                "C" => comment.next().map_or(" ", |c| c),
                piece => piece,
            })
            .collect()
    }

    const PIECES: &[&str] =
        &["orders", "s", ".", "L", "C", " ", " ", "\n", "=", "-", "+", "(", ",", "é", "\"orders\"", "x", "$1", "@"];

    proptest! {
        #[test]
        fn shifted_splices_are_those_of_planning_anew(
            shape in prop::collection::vec(prop::sample::select(PIECES), 0..25),
            strings in any::<bool>(),
            a in prop::collection::vec("[a-z0-9' é;/*-]{0,9}", 8),
            b in prop::collection::vec("[a-z0-9' é;/*-]{0,9}", 8),
            numbers in prop::collection::vec(0u32..99999, 16),
            comments in prop::collection::vec("/\\*[a-z' ]{0,5}\\*/|--[a-z']{0,4}\n| ", 16),
        ) {
            let literals = |texts: &[String], numbers: &[u32]| -> Vec<String> {
                let quote = |t: &String| format!("'{}'", t.replace('\'', "''"));
                if strings { texts.iter().map(quote).collect() } else { numbers.iter().map(u32::to_string).collect() }
            };
            let one = fill(&shape, &literals(&a, &numbers[..8]), &comments[..8]);
            let two = fill(&shape, &literals(&b, &numbers[8..]), &comments[8..]);
            let (Some(from), Some(to)) = (scan(&one), scan(&two)) else { return Ok(()) };
            if from.key() != to.key() {
                return Ok(());
            }
            let (tokens_one, tokens_two) = (lex(&one, true).unwrap(), lex(&two, true).unwrap());
            prop_assert_eq!(tokens_one.len(), tokens_two.len());
            for (x, y) in tokens_one.iter().zip(&tokens_two) {
                prop_assert_eq!(x.kind, y.kind);
                let lifted = from.literals().iter().any(|l| l.start == x.start);
                prop_assert!(lifted || x.text(&one) == y.text(&two));
            }
            let group = Some(ShardGroupId(7));
            let shifted = shift(&plan(&one), &from, &to, two.as_str());
            prop_assert_eq!(shifted.render(group), plan(&two).render(group));
        }

        #[test]
        fn a_text_with_a_skeleton_is_a_text_that_can_be_lexed_with_the_same_literals(text in "[a-z'\"$é/*+\\-&eE0-9. \n,()]{0,30}") {
            if let Some(skeleton) = scan(&text)
                && let Ok(tokens) = lex(&text, true)
            {
                let spans: Vec<_> = tokens
                    .iter()
                    .filter(|t| marker(t.kind).is_some())
                    .map(|t| LiteralSpan { kind: t.kind, start: t.start, end: t.end })
                    .collect();
                prop_assert_eq!(skeleton.literals(), &spans[..]);
            }
        }
    }
}
