//! Which statements mean the same with parameters in the place of their literals, so that servers can keep them prepared.
//!
//! ```text
//!   UPDATE t SET note = 'x' WHERE tenant = 42 AND id = 7   ──>   UPDATE t SET note = $1 WHERE tenant = $2 AND id = $3
//! ```
//!
//! Postgres reads a literal by what stands around it: `ORDER BY 1`, `date '2024-01-01'`, `numeric(10, 2)` are no values, and
//! `GROUP BY a + 1` has to repeat what is selected. So this is a list of what is certain, by the tokens beside each literal;
//! and it is asked only of statements for which one plan is as good as any.

use crate::shard_map::{Column, HashType, Table};
use crate::sql::lexer::{Token, TokenKind, fold, is_keyword};
use crate::sql::skeleton::is_literal;

use super::Plan;

/// For each literal the type of the parameter that may take its place: int4 for integers, if the value fits; 0 for strings, which are read as what they are compared with or stored as. `None`: not proved, or there is none.
pub fn parameter_types(text: &str, tokens: &[Token], plan: &Plan) -> Option<Vec<u32>> {
    let statement = Statement::read(text, tokens, plan)?;
    let literals = (0..tokens.len()).filter(|at| is_literal(tokens[*at].kind));
    let types: Vec<u32> = literals.map(|at| statement.parameter_type(at)).collect::<Option<_>>()?;
    (!types.is_empty()).then_some(types)
}

struct Statement<'a> {
    text: &'a str,
    tokens: &'a [Token],
    table: &'a Table,
    /// Of an INSERT: where each value of its row begins, and for which column.
    values: Vec<(usize, &'a Column)>,
}

impl<'a> Statement<'a> {
    fn read(text: &'a str, tokens: &'a [Token], plan: &'a Plan) -> Option<Self> {
        let has = |keyword: &str| tokens.iter().any(|token| is_keyword(text, token, keyword));
        if tokens.iter().any(|token| matches!(token.kind, TokenKind::Param(_))) || has("group") || has("distinct") {
            return None;
        }
        // Which index ON CONFLICT means may depend on constants.
        let names_index = |token: &&Token| !is_keyword(text, token, "do");
        let mut target = tokens.iter().skip_while(|token| !is_keyword(text, token, "conflict")).take_while(names_index);
        if target.any(|token| is_literal(token.kind)) {
            return None;
        }
        let (table, values) = match plan {
            Plan::Router(router) => (router.one_row_of.as_deref()?, Vec::new()),
            Plan::Insert(insert) if insert.reads_nothing && insert.rows.len() == 1 => {
                (&*insert.table, values_of_row(text, tokens, &insert.table)?)
            }
            _ => return None,
        };
        Some(Self { text, tokens, table, values })
    }

    fn parameter_type(&self, at: usize) -> Option<u32> {
        let is_integer = self.tokens[at].kind == TokenKind::Integer;
        let follows_well = match self.tokens.get(at + 1).map(|token| token.kind) {
            None => true,
            Some(TokenKind::Punct(byte)) => matches!(byte, b')' | b',' | b';'),
            // What a string is read as would depend on it.
            Some(TokenKind::Operator) => is_integer && self.is_operator(at + 1),
            Some(TokenKind::Word) => {
                self.is_word(at + 1, &["and", "or", "where", "returning", "limit", "offset", "order", "for"])
            }
            Some(_) => false,
        };
        if !follows_well {
            return None;
        }
        let stored_in = self.values.iter().find(|(begins, _)| *begins == at).map(|(_, column)| *column);
        match self.tokens[at].kind {
            TokenKind::Integer => {
                let stands_well = stored_in.is_some()
                    || at > 0 && (self.is_operator(at - 1) || self.is_word(at - 1, &["limit", "offset"]));
                stands_well.then_some(HashType::Int4.oid())
            }
            TokenKind::String | TokenKind::EString | TokenKind::DollarString => {
                let column = stored_in.or_else(|| self.compared_with(at))?;
                // What any string is a value of.
                let texts = [HashType::Text, HashType::Bpchar, HashType::Varchar];
                texts.iter().any(|hash| hash.oid() == column.type_oid).then_some(0)
            }
            _ => None,
        }
    }

    /// The column of `column = literal`, which is a condition of its own or an assignment behind SET.
    fn compared_with(&self, at: usize) -> Option<&'a Column> {
        let mut begins = at.checked_sub(2)?;
        let name = &self.tokens[begins];
        if self.tokens[at - 1].text(self.text) != "=" || !name.is_identifier() {
            return None;
        }
        while begins > 1 && self.tokens[begins - 1].is_punct(b'.') && self.tokens[begins - 2].is_identifier() {
            begins -= 2;
        }
        let before = begins.checked_sub(1)?;
        // `SET composite.field = ...` is another column's.
        let may_be_set = begins + 2 == at;
        let stands_alone = self.is_word(before, &["where", "and", "or", "not"])
            || self.tokens[before].is_punct(b'(')
            || may_be_set && (self.is_word(before, &["set"]) || self.tokens[before].is_punct(b','));
        let name = fold(self.text, name);
        self.table.columns.iter().find(|column| column.name == name).filter(|_| stands_alone)
    }

    fn is_operator(&self, at: usize) -> bool {
        let token = &self.tokens[at];
        token.kind == TokenKind::Operator && OPERATORS.contains(&token.text(self.text))
    }

    fn is_word(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| is_keyword(self.text, &self.tokens[at], word))
    }
}

/// Where each value of `INSERT INTO t [(a, b)] VALUES (1, f(2))` begins, and for which column.
fn values_of_row<'t>(text: &str, tokens: &[Token], table: &'t Table) -> Option<Vec<(usize, &'t Column)>> {
    let values = tokens.iter().position(|token| is_keyword(text, token, "values"))?;
    if !tokens.get(values + 1)?.is_punct(b'(') {
        return None;
    }
    let columns: Vec<&Column> = match tokens[..values].last()?.is_punct(b')') {
        false => table.columns.iter().collect(),
        true => {
            let opens = tokens[..values].iter().rposition(|token| token.is_punct(b'('))?;
            let names = tokens[opens + 1..values - 1].iter().filter(|token| !token.is_punct(b','));
            let named = |token: &Token| {
                let name = fold(text, token);
                table.columns.iter().find(|column| column.name == name)
            };
            names.map(named).collect::<Option<_>>()?
        }
    };
    let mut begins = vec![values + 2];
    let mut depth = 1;
    for (at, token) in tokens.iter().enumerate().skip(values + 2) {
        match token.kind {
            TokenKind::Punct(b'(' | b'[') => depth += 1,
            TokenKind::Punct(b')' | b']') => depth -= 1,
            TokenKind::Punct(b',') if depth == 1 => begins.push(at + 1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    Some(begins.into_iter().zip(columns).collect())
}

/// That compare and count.
const OPERATORS: &[&str] = &["=", "<", ">", "<=", ">=", "<>", "!=", "+", "-", "*"];
