//! Text to tree, through the parser crate, which is fed our lexer's tokens.
//!
//!   text ──lexer──> tokens ──rules──> parser tokens ──crate──> its tree ──convert──> ours
//!
//! The rules drop or replace token runs that the crate cannot read and that do not matter to relations and tenants
//! (ONLY, FOR NO KEY UPDATE, ON CONFLICT targets, ...). Spans are byte offsets + 1 in the column, so places in the
//! tree are places in the user's text. What may be analysed at all is bounded: see `Complexity`.

use std::time::Duration;

use sqlparser::ast::Statement;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token as ParserToken, TokenWithSpan, Word};

use super::clock::{Clock, Clocked};
use super::convert;
use super::lexer::{TOKENS_MAX, Token, TokenKind, fold, is_keyword, string_value};
use super::tree::Query;
use crate::error::{PgError, SqlState};

/// How complex a statement may be to be analysed, which bounds the time and the stack that it takes; beyond: 54001.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complexity {
    /// Levels of parentheses, subqueries and the like.
    pub nesting: usize,
    /// AND, OR and set operators included: a chain of them is a deep tree.
    pub operators: usize,
    /// Words, constants and signs.
    pub tokens: usize,
    /// CPU time.
    pub time: Duration,
}

impl Complexity {
    /// There is stack for no more; the time is as good as another.
    pub const MAX: Self = Self { nesting: 200, operators: 10_000, tokens: TOKENS_MAX, time: Duration::from_secs(2) };
}

impl Default for Complexity {
    fn default() -> Self {
        Self::MAX
    }
}

/// Why there is no tree.
#[derive(Debug)]
pub enum ParseFailure {
    /// The statement is beyond the limits.
    TooComplex(PgError),
    /// The crate, or the conversion, does not know the construct: its words.
    NotUnderstood(String),
}

/// Parses one SELECT, VALUES, TABLE, INSERT, UPDATE, DELETE or MERGE statement.
pub fn parse(text: &str, tokens: &[Token], most: &Complexity, clock: &Clock) -> Result<Query, ParseFailure> {
    check_size(text, tokens, most)?;
    tracing::trace!(bytes = text.len(), "parsing a statement");
    let dialect = Clocked(clock.clone());
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(most.nesting)
        .with_tokens_with_locations(Rules { text, tokens, out: Vec::with_capacity(tokens.len() + 8) }.apply());
    let statement: Statement = parser.parse_statement().map_err(|error| failure(error, most, clock))?;
    if clock.is_over() {
        return Err(ParseFailure::TooComplex(clock.error()));
    }
    match parser.peek_token().token {
        ParserToken::EOF => {}
        other => return Err(ParseFailure::NotUnderstood(format!("syntax near \"{other}\""))),
    }
    convert::statement(text, statement).map_err(ParseFailure::NotUnderstood)
}

fn failure(error: ParserError, most: &Complexity, clock: &Clock) -> ParseFailure {
    match error {
        _ if clock.is_over() => ParseFailure::TooComplex(clock.error()),
        ParserError::RecursionLimitExceeded => ParseFailure::TooComplex(
            PgError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex")
                .detail(format!("It is nested more than {} levels deep.", most.nesting)),
        ),
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => ParseFailure::NotUnderstood(m),
    }
}

fn check_size(text: &str, tokens: &[Token], most: &Complexity) -> Result<(), ParseFailure> {
    let operators = tokens
        .iter()
        .filter(|t| match t.kind {
            TokenKind::Operator | TokenKind::ColonColon => true,
            TokenKind::Word => ["and", "or", "not", "union", "except", "intersect", "join", "is"]
                .iter()
                .any(|k| is_keyword(text, t, k)),
            _ => false,
        })
        .count();
    let too_complex = |what: String| {
        ParseFailure::TooComplex(
            PgError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex")
                .detail(what)
                .hint("Use a VALUES list, an array parameter or a temporary table."),
        )
    };
    if tokens.len() > most.tokens {
        return Err(too_complex(format!("It has {} tokens; at most {} are analysed.", tokens.len(), most.tokens)));
    }
    if operators > most.operators {
        return Err(too_complex(format!("It has {operators} operators; at most {} are analysed.", most.operators)));
    }
    Ok(())
}

/// Stands for a constant whose value must not be used; the conversion knows it.
fn opaque_constant() -> ParserToken {
    ParserToken::NationalStringLiteral(String::new())
}

struct Rules<'a> {
    text: &'a str,
    tokens: &'a [Token],
    out: Vec<TokenWithSpan>,
}

impl Rules<'_> {
    fn apply(mut self) -> Vec<TokenWithSpan> {
        let mut at = 0;
        let mut in_set = false;
        let mut depth = 0i32;
        while at < self.tokens.len() {
            let token = self.tokens[at];
            match token.kind {
                TokenKind::Punct(b'(') => depth += 1,
                TokenKind::Punct(b')') => depth -= 1,
                _ => {}
            }
            if token.kind == TokenKind::Word && !self.is_label(at) {
                if depth == 0 {
                    if self.is(at, "set") {
                        in_set = true;
                    } else if ["where", "from", "returning"].iter().any(|k| self.is(at, k)) {
                        in_set = false;
                    }
                }
                if let Some(next) = self.word_rule(at) {
                    at = next;
                    continue;
                }
            }
            // SET a[1].x = ...: only the column's name matters.
            let starts_target = in_set && depth == 0 && at > 0 && (self.is(at - 1, "set") || self.punct(at - 1, b','));
            if starts_target && token.is_identifier() && (self.punct(at + 1, b'[') || self.punct(at + 1, b'.')) {
                self.keep(at);
                at = self.skip_until(at + 1, |t, text| t.kind == TokenKind::Operator && t.text(text) == "=");
                continue;
            }
            if token.is_punct(b';') && at + 1 == self.tokens.len() {
                break;
            }
            at = self.keep_constant_or_token(at);
        }
        self.out
    }

    /// Handles the word at `at` when a rule concerns it; returns where to go on.
    fn word_rule(&mut self, at: usize) -> Option<usize> {
        let word = self.tokens[at].text(self.text).to_ascii_lowercase();
        let previous_is = |rules: &Self, words: &[&str]| at > 0 && words.iter().any(|w| rules.is(at - 1, w));
        match word.as_str() {
            "only" if self.punct(at + 1, b'(') => {
                // ONLY (t): the name alone.
                let end = self.skip_group(at + 1);
                (at + 2..end.saturating_sub(1)).for_each(|i| self.keep(i));
                Some(end)
            }
            "only" if !previous_is(self, &["row", "rows"]) => Some(at + 1),
            "for" if self.is(at + 1, "no") && self.is(at + 2, "key") && self.is(at + 3, "update") => {
                self.keep(at);
                self.keep(at + 3);
                Some(self.skip_of_list(at + 4))
            }
            "for" if self.is(at + 1, "key") && self.is(at + 2, "share") => {
                self.keep(at);
                self.keep(at + 2);
                Some(self.skip_of_list(at + 3))
            }
            "for" if self.is(at + 1, "update") || self.is(at + 1, "share") => {
                self.keep(at);
                self.keep(at + 1);
                Some(self.skip_of_list(at + 2))
            }
            "conflict" if previous_is(self, &["on"]) && self.punct(at + 1, b'(') => {
                self.keep(at);
                Some(self.skip_until(at + 1, |t, text| is_keyword(text, t, "do")))
            }
            // USER VALUE means nothing where the column is no identity, as on shards: it stays, and is not understood.
            "overriding" if self.is(at + 1, "system") && self.is(at + 2, "value") => Some(at + 3),
            // Between equal bounds there is one value with either.
            "symmetric" | "asymmetric" if previous_is(self, &["between"]) => Some(at + 1),
            "collation" if self.is(at + 1, "for") && self.punct(at + 2, b'(') => {
                self.put("pg_collation_for", at);
                Some(at + 2)
            }
            "document" if previous_is(self, &["is", "not"]) => {
                self.put("normalized", at);
                Some(at + 1)
            }
            // Behind a cast or a subscript: another operator that binds nearly as tightly, and whose value is not understood either.
            "collate" if self.ends_cast_or_subscript(at) => {
                ["at", "time", "zone"].iter().for_each(|word| self.put(word, at));
                self.out.push(TokenWithSpan::new(opaque_constant(), span(&self.tokens[at])));
                let name = (at + 1..).step_by(2).find(|end| !self.punct(end + 1, b'.'));
                name.map(|name| name + 1)
            }
            "variadic" if at > 0 && (self.punct(at - 1, b'(') || self.punct(at - 1, b',')) => Some(at + 1),
            "exclude" if ["current", "group", "ties", "no"].iter().any(|w| self.is(at + 1, w)) => {
                let two = self.is(at + 1, "current") || self.is(at + 1, "no");
                Some(at + if two { 3 } else { 2 })
            }
            "table" if !previous_is(self, &["into", "temp", "temporary", "unlogged", "local"]) => {
                let span = span(&self.tokens[at]);
                for replacement in [word_token("select"), ParserToken::Mul, word_token("from")] {
                    self.out.push(TokenWithSpan::new(replacement, span));
                }
                Some(at + 1)
            }
            "isnull" | "notnull" if at > 0 && self.ends_operand(at - 1) && !self.punct(at + 1, b'(') => {
                let words: &[&str] = if word == "isnull" { &["is", "null"] } else { &["is", "not", "null"] };
                words.iter().for_each(|word| self.put(word, at));
                Some(at + 1)
            }
            // f(...) AS (a int, b text): a column definition list without a name.
            "as" if at > 0 && self.punct(at - 1, b')') && self.punct(at + 1, b'(') && !self.starts_query(at + 2) => {
                Some(self.skip_group(at + 1))
            }
            _ if self.tokens.get(at + 1).is_some_and(Token::is_string) && is_unknown_word(&word) => {
                // `hstore 'a=>1'`: a typed constant of a type the crate does not know.
                self.out.push(TokenWithSpan::new(opaque_constant(), span(&self.tokens[at])));
                Some(at + 2)
            }
            _ => None,
        }
    }

    fn keep_constant_or_token(&mut self, at: usize) -> usize {
        let token = self.tokens[at];
        if token.kind == TokenKind::UString && self.is(at + 1, "uescape") {
            self.out.push(TokenWithSpan::new(opaque_constant(), span(&token)));
            return at + 3;
        }
        self.keep(at);
        at + 1
    }

    fn keep(&mut self, at: usize) {
        if let Some(token) = self.tokens.get(at) {
            self.out.push(TokenWithSpan::new(parser_token(self.text, token), span(token)));
        }
    }

    /// A word in the place of token `at`.
    fn put(&mut self, word: &str, at: usize) {
        self.out.push(TokenWithSpan::new(word_token(word), span(&self.tokens[at])));
    }

    fn is(&self, at: usize, keyword: &str) -> bool {
        self.tokens.get(at).is_some_and(|t| is_keyword(self.text, t, keyword))
    }

    fn punct(&self, at: usize, byte: u8) -> bool {
        self.tokens.get(at).is_some_and(|t| t.is_punct(byte))
    }

    /// A word that can only be a name here: after a dot or AS.
    fn is_label(&self, at: usize) -> bool {
        at > 0 && (self.punct(at - 1, b'.') || (self.is(at - 1, "as") && !self.is(at, "table")))
    }

    fn ends_operand(&self, at: usize) -> bool {
        let t = &self.tokens[at];
        t.is_identifier()
            || t.is_string()
            || t.is_punct(b')')
            || t.is_punct(b']')
            || matches!(t.kind, TokenKind::Integer | TokenKind::Param(_))
    }

    /// Does `a[1]` or `::type` end before token `at`?
    fn ends_cast_or_subscript(&self, at: usize) -> bool {
        let is_of_type = |t: &&Token| {
            t.is_identifier()
                || matches!(t.kind, TokenKind::Integer | TokenKind::Punct(b'.' | b'(' | b')' | b'[' | b']'))
        };
        let before = &self.tokens[..at];
        let words = before.iter().rev().take(TYPE_TOKENS_MAX).take_while(is_of_type).count();
        before.last().is_some_and(|t| t.is_punct(b']'))
            || before[..at - words].last().is_some_and(|t| t.kind == TokenKind::ColonColon)
    }

    fn starts_query(&self, at: usize) -> bool {
        self.punct(at, b'(')
            || ["select", "values", "with", "insert", "update", "delete", "table", "merge"]
                .iter()
                .any(|k| self.is(at, k))
    }

    /// Skips `OF a, b.c` of a locking clause.
    fn skip_of_list(&self, at: usize) -> usize {
        if !self.is(at, "of") {
            return at;
        }
        let mut at = at + 1;
        loop {
            at += 1;
            while self.punct(at, b'.') {
                at += 2;
            }
            if !self.punct(at, b',') {
                return at;
            }
            at += 1;
        }
    }

    /// Where the first token at this nesting level is that `stop` takes; the end if there is none.
    fn skip_until(&self, from: usize, stop: impl Fn(&Token, &str) -> bool) -> usize {
        let mut depth = 0;
        for (i, token) in self.tokens.iter().enumerate().skip(from) {
            match token.kind {
                TokenKind::Punct(b'(' | b'[') => depth += 1,
                TokenKind::Punct(b')' | b']') => depth -= 1,
                _ if depth == 0 && stop(token, self.text) => return i,
                _ => {}
            }
        }
        self.tokens.len()
    }

    /// Behind the parenthesis that closes the one at `at`.
    fn skip_group(&self, at: usize) -> usize {
        let mut depth = 0;
        for (i, token) in self.tokens.iter().enumerate().skip(at) {
            match token.kind {
                TokenKind::Punct(b'(') => depth += 1,
                TokenKind::Punct(b')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return i + 1;
            }
        }
        self.tokens.len()
    }
}

/// A type's name has no more, so that a long text is not gone through for each of its words: `"a"."b"(1, 2)[3][4]`.
const TYPE_TOKENS_MAX: usize = 20;

fn is_unknown_word(word: &str) -> bool {
    matches!(
        ParserToken::make_word(word, None),
        ParserToken::Word(Word { keyword: sqlparser::keywords::Keyword::NoKeyword, .. })
    )
}

fn word_token(word: &str) -> ParserToken {
    ParserToken::make_word(word, None)
}

fn span(token: &Token) -> Span {
    Span::new(Location::new(1, token.start as u64 + 1), Location::new(1, token.end as u64 + 1))
}

fn parser_token(text: &str, token: &Token) -> ParserToken {
    let raw = token.text(text);
    match token.kind {
        TokenKind::Word => ParserToken::make_word(&fold(text, token), None),
        TokenKind::QuotedIdent | TokenKind::UQuotedIdent => ParserToken::make_word(&fold(text, token), Some('"')),
        TokenKind::Integer | TokenKind::Float => ParserToken::Number(raw.to_owned(), false),
        TokenKind::String | TokenKind::EString | TokenKind::UString | TokenKind::DollarString => {
            string_value(text, token).map_or_else(opaque_constant, ParserToken::SingleQuotedString)
        }
        TokenKind::NationalString => opaque_constant(),
        TokenKind::BitString => ParserToken::SingleQuotedByteStringLiteral(raw.to_owned()),
        TokenKind::HexString => ParserToken::HexStringLiteral(raw.to_owned()),
        TokenKind::Param(n) => ParserToken::Placeholder(format!("${}", n as u32 + 1)),
        TokenKind::ColonColon => ParserToken::DoubleColon,
        TokenKind::ColonEquals => ParserToken::Assignment,
        TokenKind::EqualsGreater => ParserToken::RArrow,
        TokenKind::DotDot => ParserToken::CustomBinaryOperator("..".to_owned()),
        TokenKind::Punct(b) => match b {
            b'(' => ParserToken::LParen,
            b')' => ParserToken::RParen,
            b'[' => ParserToken::LBracket,
            b']' => ParserToken::RBracket,
            b',' => ParserToken::Comma,
            b';' => ParserToken::SemiColon,
            b'.' => ParserToken::Period,
            _ => ParserToken::Colon,
        },
        TokenKind::Operator => operator(raw),
    }
}

fn operator(raw: &str) -> ParserToken {
    use ParserToken::*;
    match raw {
        "=" => Eq,
        "<>" | "!=" => Neq,
        "<" => Lt,
        ">" => Gt,
        "<=" => LtEq,
        ">=" => GtEq,
        "+" => Plus,
        "-" => Minus,
        "*" => Mul,
        "/" => Div,
        "%" => Mod,
        "||" => StringConcat,
        "&" => Ampersand,
        "|" => Pipe,
        "^" => Caret,
        "#" => Sharp,
        "~" => Tilde,
        "~*" => TildeAsterisk,
        "!~" => ExclamationMarkTilde,
        "!~*" => ExclamationMarkTildeAsterisk,
        "~~" => DoubleTilde,
        "~~*" => DoubleTildeAsterisk,
        "!~~" => ExclamationMarkDoubleTilde,
        "!~~*" => ExclamationMarkDoubleTildeAsterisk,
        "<<" => ShiftLeft,
        ">>" => ShiftRight,
        "&&" => Overlap,
        "@" => AtSign,
        "^@" => CaretAt,
        "|/" => PGSquareRoot,
        "||/" => PGCubeRoot,
        "->" => Arrow,
        "->>" => LongArrow,
        "#>" => HashArrow,
        "#>>" => HashLongArrow,
        "@>" => AtArrow,
        "<@" => ArrowAt,
        "#-" => HashMinus,
        "@?" => AtQuestion,
        "@@" => AtAt,
        "?" => Question,
        "?&" => QuestionAnd,
        "?|" => QuestionPipe,
        "<->" => TwoWayArrow,
        other => CustomBinaryOperator(other.to_owned()),
    }
}
