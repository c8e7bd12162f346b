//! A simple query may hold several statements: cuts the text at its top-level semicolons.

use std::ops::Range;

use super::lexer::{Token, TokenKind, is_keyword};

/// One statement of a text, semicolon excluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementRange {
    /// Bytes of the text; comments and white space around the statement belong to it.
    pub text: Range<usize>,
    /// Indexes into the tokens, at least one.
    pub tokens: Range<usize>,
}

/// The statements of `text` from left to right; empty ones are dropped.
///
/// A semicolon inside parentheses (CREATE RULE) or inside BEGIN ATOMIC ... END (CREATE FUNCTION) does not end one.
pub fn split(text: &str, tokens: &[Token]) -> Vec<StatementRange> {
    let mut statements = Vec::new();
    let mut first = 0;
    let mut text_start = 0;
    let mut brackets = 0usize;
    let mut blocks = 0usize;
    let mut is_routine = false;
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Punct(b'(') => brackets += 1,
            TokenKind::Punct(b')') => brackets = brackets.saturating_sub(1),
            TokenKind::Punct(b';') if brackets == 0 && blocks == 0 => {
                if first < i {
                    statements.push(StatementRange { text: text_start..token.start as usize, tokens: first..i });
                }
                first = i + 1;
                text_start = token.end as usize;
                is_routine = false;
            }
            TokenKind::Word if i == first => is_routine = creates_routine(text, &tokens[i..]),
            TokenKind::Word if is_routine => {
                let is = |keyword| is_keyword(text, token, keyword);
                let begins_body = || tokens.get(i + 1).is_some_and(|t| is_keyword(text, t, "atomic"));
                if is("begin") && (blocks > 0 || begins_body()) || blocks > 0 && is("case") {
                    blocks += 1;
                } else if blocks > 0 && is("end") {
                    blocks -= 1;
                }
            }
            _ => {}
        }
    }
    if first < tokens.len() {
        statements.push(StatementRange { text: text_start..text.len(), tokens: first..tokens.len() });
    }
    statements
}

/// The tokens of one statement with offsets into that statement's own text.
pub fn rebase(tokens: &[Token], statement: &StatementRange) -> Vec<Token> {
    let by = statement.text.start as u32;
    tokens[statement.tokens.clone()].iter().map(|t| Token { start: t.start - by, end: t.end - by, ..*t }).collect()
}

fn creates_routine(text: &str, tokens: &[Token]) -> bool {
    let is = |at: usize, keyword| tokens.get(at).is_some_and(|t| is_keyword(text, t, keyword));
    let kind = if is(1, "or") && is(2, "replace") { 3 } else { 1 };
    is(0, "create") && (is(kind, "function") || is(kind, "procedure"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::lex;

    fn pieces(text: &str) -> Vec<&str> {
        let tokens = lex(text, true).unwrap();
        let statements = split(text, &tokens);
        for s in &statements {
            assert_eq!(rebase(&tokens, s), lex(&text[s.text.clone()], true).unwrap());
        }
        statements.into_iter().map(|s| &text[s.text]).collect()
    }

    #[test]
    fn semicolons_in_strings_comments_and_parentheses_do_not_end_a_statement() {
        assert_eq!(pieces("SELECT ';' /* ; */; ; ;INSERT 1;"), ["SELECT ';' /* ; */", "INSERT 1"]);
        assert_eq!(pieces("CREATE RULE r AS ON x DO (a; b); c"), ["CREATE RULE r AS ON x DO (a; b)", " c"]);
        assert_eq!(pieces(" -- nothing\n ; "), Vec::<&str>::new());
    }

    #[test]
    fn an_atomic_function_body_is_one_statement() {
        let body =
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END";
        assert_eq!(pieces(&format!("{body}; BEGIN; END")), [body, " BEGIN", " END"]);
    }
}
