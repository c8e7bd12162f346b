//! Values of an INSERT that the coordinator computes before its rows are sent: what is stored in the distribution column says where a
//! row goes, and sequences live there.
//!
//! ```text
//!   INSERT INTO orders VALUES (current_setting('app.tenant')::int, nextval('orders_id_seq'), now())
//!   INSERT INTO orders VALUES ('7'::pg_catalog.int4,               '1'::pg_catalog.int8,     now())      what the shard runs
//! ```

use std::ops::Range;

use crate::error::PgError;
use crate::shard_map::Table;
use crate::sql::lexer::{Token, TokenKind, fold};
use crate::sql::tree::{Body, Expr, ValuesRow};

use super::defaults::elements;
use super::statement::Statement;
use super::{Computed, insert, unsupported};

/// What of these rows has to be computed. `tenant`: where the distribution column stands in each, `is_known` whether it is known what such
/// a value is.
///
/// Errors: 0A000 where it needs parameters.
pub(super) fn values_of(
    statement: &Statement<'_>,
    table: &Table,
    rows: &[ValuesRow],
    tenant: Option<usize>,
    is_known: impl Fn(&Expr) -> bool,
) -> Result<Vec<Computed>, PgError> {
    let may_draw = draws(statement, statement.tokens);
    let mut found = Vec::new();
    for (row, ValuesRow { at, values }) in rows.iter().enumerate() {
        let says_where = tenant.filter(|n| values.get(*n).is_some_and(|value| !is_known(value)));
        if says_where.is_none() && !may_draw {
            continue;
        }
        for (n, range) in elements(statement.tokens, at).into_iter().enumerate() {
            let tokens = within(statement.tokens, &range);
            let is_tenant = says_where == Some(n);
            if !is_tenant && !draws(statement, tokens) {
                continue;
            }
            if tokens.iter().any(|token| matches!(token.kind, TokenKind::Param(_))) {
                return Err(match is_tenant {
                    true => unsupported::tenant_computed(table),
                    false => unsupported::sequence_function(NEXTVAL),
                });
            }
            let text = statement.slice(&range).into();
            found.push(Computed { row, at: range.start, len: range.end - range.start, text, is_tenant });
        }
    }
    Ok(found)
}

/// Does it draw from sequences in VALUES alone, of one table?
pub(super) fn draws_in_values(statement: &Statement<'_>) -> bool {
    let Body::Insert(insert) = &statement.tree.body else { return false };
    let Some(source) = insert.source.as_ref().filter(|source| insert::is_simple_values(statement, source)) else {
        return false;
    };
    let Body::Values(rows) = &source.body else { return false };
    let (Some(first), Some(last), [_]) = (rows.first(), rows.last(), &statement.relations[..]) else { return false };
    let values = first.at.start..last.at.end;
    let mut calls = statement.tokens.windows(2).filter(|pair| draws(statement, pair));
    calls.all(|pair| values.contains(&pair[0].start))
}

fn draws(statement: &Statement<'_>, tokens: &[Token]) -> bool {
    let is_call =
        |pair: &[Token]| pair[0].is_identifier() && pair[1].is_punct(b'(') && fold(statement.text, &pair[0]) == NEXTVAL;
    tokens.windows(2).any(is_call)
}

fn within<'t>(tokens: &'t [Token], range: &Range<u32>) -> &'t [Token] {
    let first = tokens.partition_point(|token| token.start < range.start);
    let end = tokens.partition_point(|token| token.end <= range.end);
    &tokens[first..end.max(first)]
}

const NEXTVAL: &str = "nextval";
