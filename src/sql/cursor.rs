//! A place in a token list: what the readers of utility statements walk with.

use std::ops::Range;

use crate::error::{PgError, SqlState};

use super::lexer::{Token, TokenKind, fold, is_keyword, string_value};

/// A possibly qualified name, folded as Postgres does, and where it stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualifiedName {
    pub schema: Option<String>,
    pub name: String,
    /// Where the whole name begins, schema included.
    pub at: u32,
    pub len: u32,
    /// Where the last part begins; equals `at` when there is no schema.
    pub name_at: u32,
}

#[derive(Debug, Clone, Copy)]
pub struct Cursor<'t> {
    text: &'t str,
    tokens: &'t [Token],
    at: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(text: &'t str, tokens: &'t [Token]) -> Self {
        Self { text, tokens, at: 0 }
    }

    pub fn text(&self) -> &'t str {
        self.text
    }

    pub fn peek(&self) -> Option<&'t Token> {
        self.tokens.get(self.at)
    }

    pub fn peek_at(&self, ahead: usize) -> Option<&'t Token> {
        self.tokens.get(self.at + ahead)
    }

    pub fn advance(&mut self) -> Option<&'t Token> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    pub fn at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Every token, read or not.
    pub fn all(&self) -> &'t [Token] {
        self.tokens
    }

    /// The tokens not read yet.
    pub fn rest(&self) -> &'t [Token] {
        &self.tokens[self.at.min(self.tokens.len())..]
    }

    /// The text not read yet, without trailing comments.
    pub fn rest_text(&self) -> &'t str {
        &self.text[self.rest_range()]
    }

    pub fn rest_range(&self) -> Range<usize> {
        match (self.rest().first(), self.tokens.last()) {
            (Some(first), Some(last)) => first.start as usize..last.end as usize,
            _ => self.text.len()..self.text.len(),
        }
    }

    pub fn is(&self, keyword: &str) -> bool {
        self.is_at(0, keyword)
    }

    pub fn is_at(&self, ahead: usize, keyword: &str) -> bool {
        self.peek_at(ahead).is_some_and(|t| is_keyword(self.text, t, keyword))
    }

    pub fn is_punct(&self, byte: u8) -> bool {
        self.peek().is_some_and(|t| t.is_punct(byte))
    }

    /// Is the next token this operator?
    pub fn is_operator(&self, operator: &str) -> bool {
        self.peek().is_some_and(|t| t.kind == TokenKind::Operator && t.text(self.text) == operator)
    }

    pub fn take(&mut self, keyword: &str) -> bool {
        self.take_all(&[keyword])
    }

    /// All of these words in a row, or none.
    pub fn take_all(&mut self, keywords: &[&str]) -> bool {
        let found = keywords.iter().enumerate().all(|(i, k)| self.is_at(i, k));
        if found {
            self.at += keywords.len();
        }
        found
    }

    /// The first of these words that stands here.
    pub fn take_any<'k>(&mut self, keywords: &[&'k str]) -> Option<&'k str> {
        keywords.iter().copied().find(|k| self.take(k))
    }

    pub fn take_punct(&mut self, byte: u8) -> bool {
        let found = self.is_punct(byte);
        self.at += found as usize;
        found
    }

    pub fn take_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        self.at += found as usize;
        found
    }

    pub fn expect(&mut self, keyword: &str) -> Result<(), PgError> {
        if self.take(keyword) { Ok(()) } else { Err(self.syntax_error()) }
    }

    pub fn expect_punct(&mut self, byte: u8) -> Result<(), PgError> {
        if self.take_punct(byte) { Ok(()) } else { Err(self.syntax_error()) }
    }

    pub fn expect_end(&self) -> Result<(), PgError> {
        if self.at_end() { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// One identifier, folded.
    pub fn identifier(&mut self) -> Result<String, PgError> {
        match self.peek() {
            Some(token) if token.is_identifier() => {
                self.at += 1;
                Ok(fold(self.text, token).into_owned())
            }
            _ => Err(self.syntax_error()),
        }
    }

    /// One string constant's value.
    pub fn string(&mut self) -> Result<String, PgError> {
        match self.peek().and_then(|t| string_value(self.text, t)) {
            Some(value) => {
                self.at += 1;
                Ok(value)
            }
            None => Err(self.syntax_error()),
        }
    }

    /// `name`, `schema.name` or `database.schema.name`.
    pub fn qualified_name(&mut self) -> Result<QualifiedName, PgError> {
        let mut parts = self.dotted_name()?;
        let at = parts.first().map_or(0, |p| p.1.start);
        let (name, token) = parts.pop().ok_or_else(|| self.syntax_error())?;
        let schema = parts.pop().map(|p| p.0);
        Ok(QualifiedName { schema, name, at, len: token.end - at, name_at: token.start })
    }

    /// Every part of a dotted name with its token, at least one.
    pub fn dotted_name(&mut self) -> Result<Vec<(String, Token)>, PgError> {
        let mut parts = Vec::new();
        loop {
            let token = self.peek().copied();
            let name = self.identifier()?;
            parts.extend(token.map(|t| (name, t)));
            if parts.len() > 4 || !self.is_punct(b'.') || !self.peek_at(1).is_some_and(Token::is_identifier) {
                return Ok(parts);
            }
            self.at += 1;
        }
    }

    /// `(...)` with what is inside, brackets balanced. None when no parenthesis stands here.
    pub fn parenthesized(&mut self) -> Result<Option<Cursor<'t>>, PgError> {
        if !self.is_punct(b'(') {
            return Ok(None);
        }
        let start = self.at;
        self.skip_group()?;
        Ok(Some(Cursor { text: self.text, tokens: &self.tokens[..self.at - 1], at: start + 1 }))
    }

    /// Steps over one token, or over a whole bracketed group.
    pub fn skip_group(&mut self) -> Result<(), PgError> {
        let mut depth = 0usize;
        while let Some(token) = self.advance() {
            match token.kind {
                TokenKind::Punct(b'(' | b'[') => depth += 1,
                TokenKind::Punct(b')' | b']') => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(self.syntax_error())
    }

    /// What is left, cut at commas outside brackets; empty pieces are kept.
    pub fn split_commas(&self) -> Result<Vec<Cursor<'t>>, PgError> {
        let mut pieces = Vec::new();
        let mut walk = *self;
        let mut start = walk.at;
        loop {
            let end = walk.at;
            let is_comma = walk.is_punct(b',');
            if is_comma || walk.at_end() {
                pieces.push(Cursor { text: self.text, tokens: &self.tokens[..end], at: start });
                if walk.at_end() {
                    return Ok(pieces);
                }
                walk.at += 1;
                start = walk.at;
            } else {
                walk.skip_group()?;
            }
        }
    }

    /// Moves to the next `keyword` outside brackets, and says whether there is one.
    pub fn seek(&mut self, keyword: &str) -> bool {
        let mut walk = *self;
        while !walk.at_end() {
            if walk.is(keyword) {
                *self = walk;
                return true;
            }
            if walk.skip_group().is_err() {
                return false;
            }
        }
        false
    }

    /// This cursor's place up to `end`'s place.
    pub fn until(&self, end: &Cursor<'t>) -> Cursor<'t> {
        Cursor { text: self.text, tokens: &self.tokens[..end.at.max(self.at)], at: self.at }
    }

    /// 42601 as Postgres words it, at the next token.
    pub fn syntax_error(&self) -> PgError {
        let message = match self.peek() {
            Some(token) => format!("syntax error at or near \"{}\"", shorten(token.text(self.text))),
            None => "syntax error at end of input".to_owned(),
        };
        self.error_here(PgError::new(SqlState::SYNTAX_ERROR, message))
    }

    /// The error with its position: the next token, or the end.
    pub fn error_here(&self, error: PgError) -> PgError {
        let before = self.peek().map_or(self.text, |token| &self.text[..token.start as usize]);
        error.field(b'P', (before.chars().count() + 1).to_string())
    }
}

fn shorten(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(cut, _)| &text[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::lex;

    #[test]
    fn a_qualified_name_knows_where_it_stands() {
        let text = "db . \"S\" /* x */ . Orders rest";
        let tokens = lex(text, true).unwrap();
        let mut cursor = Cursor::new(text, &tokens);
        let name = cursor.qualified_name().unwrap();
        assert_eq!((name.schema.as_deref(), name.name.as_str()), (Some("S"), "orders"));
        assert_eq!(&text[name.at as usize..(name.at + name.len) as usize], "db . \"S\" /* x */ . Orders");
        assert!(text[name.name_at as usize..].starts_with("Orders"));
        assert_eq!(cursor.rest_text(), "rest");
    }

    #[test]
    fn commas_inside_brackets_do_not_split() {
        let text = "a(1,2), b[3,4], c";
        let tokens = lex(text, true).unwrap();
        let pieces = Cursor::new(text, &tokens).split_commas().unwrap();
        assert_eq!(pieces.iter().map(|p| p.rest_text()).collect::<Vec<_>>(), ["a(1,2)", "b[3,4]", "c"]);
    }
}
