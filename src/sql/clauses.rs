//! Where the clauses of a SELECT stand in the text, found by its tokens.
//!
//!   SELECT [DISTINCT] items FROM ... WHERE ... GROUP BY ... HAVING ... ORDER BY ... LIMIT ...
//!                     ^^^^^ ^^^^^^^^^^^^^^^^^^          ^^^        ^^^          ^^^ ^^^^^^^^^
//!                     items body               group_by    having     order_by   tail

use std::ops::Range;

use super::lexer::{Token, TokenKind, is_keyword};

/// Byte ranges; keywords that open a clause are left out, but for `body` (with FROM) and `tail` (with LIMIT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clauses {
    pub items: Vec<Range<u32>>,
    pub body: Range<u32>,
    pub group_by: Vec<Range<u32>>,
    pub having: Option<Range<u32>>,
    pub order_by: Vec<Range<u32>>,
    pub tail: Option<Range<u32>>,
}

/// Clauses of the SELECT at byte `select_at`; `None` when it has no FROM, or is part of something larger.
pub fn find(text: &str, tokens: &[Token], select_at: u32) -> Option<Clauses> {
    let start = tokens.iter().position(|t| t.start == select_at)?;
    let is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| is_keyword(text, t, word));
    if !is(start, "select") {
        return None;
    }
    let mut marks: Vec<(&str, usize)> = Vec::new();
    let (mut depth, mut end) = (0, tokens.len());
    for i in start + 1..tokens.len() {
        let token = &tokens[i];
        match token.kind {
            TokenKind::Punct(b'(' | b'[') => depth += 1,
            TokenKind::Punct(b')' | b']') => depth -= 1,
            _ => {}
        }
        if depth < 0 || token.is_punct(b';') {
            end = i;
            break;
        }
        if depth > 0 || token.kind != TokenKind::Word || tokens[i - 1].is_punct(b'.') || is(i - 1, "as") {
            continue;
        }
        let by = is(i + 1, "by");
        let mark = match token.text(text).to_ascii_lowercase().as_str() {
            "from" if !(is(i - 1, "distinct") && i >= 2 && (is(i - 2, "is") || is(i - 2, "not"))) => "from",
            "where" => "where",
            "group" if by => "group",
            "having" => "having",
            "window" => return None,
            "order" if by => "order",
            "limit" | "offset" | "fetch" => "tail",
            "for" => return None,
            "union" | "except" | "intersect" | "into" => return None,
            _ => continue,
        };
        if marks.iter().any(|(m, _)| *m == mark) && mark != "tail" {
            return None;
        }
        marks.push((mark, i));
    }
    let at = |mark: &str| marks.iter().find(|(m, _)| *m == mark).map(|m| m.1);
    let next_after = |i: usize| marks.iter().map(|m| m.1).filter(|&m| m > i).min().unwrap_or(end);
    let from = at("from")?;
    let body_end = marks.iter().filter(|(m, _)| !["from", "where"].contains(m)).map(|m| m.1).min().unwrap_or(end);
    let mut first = start + 1;
    if is(first, "all") {
        first += 1;
    } else if is(first, "distinct") {
        first += 1;
        if is(first, "on") {
            first = group_end(tokens, first + 1)?;
        }
    }
    let list = |mark| at(mark).map_or(Some(Vec::new()), |i| split(tokens, i + 2..next_after(i)));
    Some(Clauses {
        items: split(tokens, first..from)?,
        body: bytes(tokens, from..body_end)?,
        group_by: list("group")?,
        having: at("having").map(|i| bytes(tokens, i + 1..next_after(i))).map_or(Some(None), |r| r.map(Some))?,
        order_by: list("order")?,
        tail: at("tail").map(|i| bytes(tokens, i..end)).map_or(Some(None), |r| r.map(Some))?,
    })
}

/// The byte range of `f(...)` with a FILTER clause behind, `name_at` where the function's name begins.
pub fn call_range(text: &str, tokens: &[Token], name_at: u32) -> Option<Range<u32>> {
    let mut i = tokens.partition_point(|t| t.start < name_at);
    while !tokens.get(i)?.is_punct(b'(') {
        i += 1;
    }
    let mut end = group_end(tokens, i)?;
    let is = |i: usize, word: &str| tokens.get(i).is_some_and(|t| is_keyword(text, t, word));
    if is(end, "filter") {
        end = group_end(tokens, end + 1)?;
    }
    Some(name_at..tokens[end - 1].end)
}

/// The range without what stands behind an expression: an alias, or ASC, DESC, NULLS FIRST in ORDER BY. Gives the
/// expression and the rest.
pub fn without_order(text: &str, tokens: &[Token], range: &Range<u32>) -> Option<(Range<u32>, Range<u32>)> {
    let inside = within(tokens, range);
    let mut n = inside.len();
    let is = |n: usize, words: &[&str]| n > 1 && words.iter().any(|w| is_keyword(text, &inside[n - 1], w));
    if inside.iter().any(|t| is_keyword(text, t, "using")) {
        return None;
    }
    if is(n, &["first", "last"]) && is(n - 1, &["nulls"]) {
        n -= 2;
    }
    if is(n, &["asc", "desc"]) {
        n -= 1;
    }
    let end = inside.get(n.checked_sub(1)?)?.end;
    Some((range.start..end, end..range.end))
}

/// The range up to an alias that begins at `alias_at`, AS left out.
pub fn without_alias(text: &str, tokens: &[Token], range: &Range<u32>, alias_at: u32) -> Option<Range<u32>> {
    let inside = within(tokens, &(range.start..alias_at));
    let (last, before) = inside.split_last()?;
    let end = if is_keyword(text, last, "as") { before.last()?.end } else { last.end };
    Some(range.start..end)
}

/// Same tokens, spelling of words aside.
pub fn same_tokens(text: &str, tokens: &[Token], a: &Range<u32>, b: &Range<u32>) -> bool {
    let (a, b) = (within(tokens, a), within(tokens, b));
    let same = |(a, b): (&Token, &Token)| match (a.kind, b.kind) {
        (TokenKind::Word, TokenKind::Word) => a.text(text).eq_ignore_ascii_case(b.text(text)),
        (TokenKind::Word, _) | (_, TokenKind::Word) => false,
        _ => a.text(text) == b.text(text),
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// The tokens in a range of bytes.
fn within<'t>(tokens: &'t [Token], range: &Range<u32>) -> &'t [Token] {
    let first = tokens.partition_point(|t| t.start < range.start);
    let len = tokens[first..].partition_point(|t| t.end <= range.end);
    &tokens[first..first + len]
}

fn bytes(tokens: &[Token], range: Range<usize>) -> Option<Range<u32>> {
    (range.start < range.end).then(|| tokens[range.start].start..tokens[range.end - 1].end)
}

fn split(tokens: &[Token], range: Range<usize>) -> Option<Vec<Range<u32>>> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, range.start);
    for i in range.clone() {
        match tokens[i].kind {
            TokenKind::Punct(b'(' | b'[') => depth += 1,
            TokenKind::Punct(b')' | b']') => depth -= 1,
            TokenKind::Punct(b',') if depth == 0 => {
                parts.push(bytes(tokens, start..i)?);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(bytes(tokens, start..range.end)?);
    Some(parts)
}

/// Index behind the parenthesis that closes the one at `open`.
fn group_end(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            TokenKind::Punct(b'(') => depth += 1,
            TokenKind::Punct(b')') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (i > open || token.is_punct(b'(')).then_some(i + 1);
        }
    }
    None
}
