//! Decides what a statement becomes. Pure: a statement, the shard map and the session's names in, a `Plan` out.

mod combine;
mod computed;
mod context;
mod copy;
mod ddl;
mod defaults;
mod foreign_key;
mod function_call;
mod functions;
mod inline;
mod insert;
mod modify;
mod names;
mod parameters;
mod plan;
mod pull;
mod query;
mod query_wrapper;
mod session_command;
mod session_effects;
mod shadowing;
mod shape;
mod statement;
mod transaction;
mod unsupported;
mod utility;
#[cfg(test)]
mod utility_tests;

pub use context::{Context, Mode, Provided};
pub use foreign_key::{NO_CHANGE_ON_UPDATE, NO_SET_ON_DELETE, with_distribution_columns};
pub use plan::*;
pub use session_command::{
    MOVES_PER_NODE_SETTING, OWN_SETTINGS, POOL_MODE_SETTING, READ_FROM_SETTING, ReadFrom, SHARD_COUNT_SETTING,
    check_setting, keeps_servers,
};
pub use session_effects::may_run_opaque_code;
pub use shape::{ShapePlan, plan_shape};
pub use unsupported::may_be_no_sql;
pub use utility::plan_utility;

use crate::error::PgError;
use crate::sql::lexer::{Token, TokenKind, is_keyword, lex};

/// Statements with more operators, or nested deeper, are analysed on a thread with room for deep trees.
const SMALL_OPERATORS_MAX: usize = 150;
const SMALL_NESTING_MAX: i32 = 25;

/// Stack of that thread; pages are taken as they are used.
const LARGE_STACK_BYTES: usize = 512 * 1024 * 1024;

/// Plans one statement.
///
/// Errors: 42601 from the lexer, 0A000 for what is not supported, 54001 beyond the limits of `sql::parse`, 22004 for
/// a row without tenant.
pub fn plan(text: &str, ctx: &Context<'_>, mode: Mode) -> Result<Plan, PgError> {
    let tokens = lex(text, ctx.standard_conforming_strings)?;
    if is_small(text, &tokens) {
        return plan_tokens(text, &tokens, ctx, mode);
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(LARGE_STACK_BYTES);
        let too_complex =
            || PgError::new(crate::error::SqlState::STATEMENT_TOO_COMPLEX, "statement could not be analysed");
        match thread.spawn_scoped(scope, || plan_tokens(text, &tokens, ctx, mode)) {
            Ok(handle) => handle.join().unwrap_or_else(|_| Err(too_complex())),
            Err(_) => Err(too_complex()),
        }
    })
}

fn plan_tokens(text: &str, tokens: &[Token], ctx: &Context<'_>, mode: Mode) -> Result<Plan, PgError> {
    let plan_inner = |inner: &str| {
        let tokens = lex(inner, ctx.standard_conforming_strings)?;
        plan_tokens(inner, &tokens, ctx, mode)
    };
    // A procedure that is provided, before CALL is taken for something that nobody can look into.
    let is_call = tokens.first().is_some_and(|token| is_keyword(text, token, "call"));
    if is_call && let Some(plan) = function_call::plan_function_call(text, tokens, ctx) {
        return plan;
    }
    if let Some(plan) = plan_utility(text, tokens, ctx, &plan_inner) {
        return plan;
    }
    if let Some(plan) = function_call::plan_function_call(text, tokens, ctx) {
        return plan;
    }
    query::plan_statement(text, tokens, ctx, mode)
}

/// Does its tree fit on any thread's stack? Trees are walked and dropped by recursion.
fn is_small(text: &str, tokens: &[Token]) -> bool {
    let (mut operators, mut depth, mut deepest) = (0, 0, 0);
    for token in tokens {
        match token.kind {
            TokenKind::Punct(b'(' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            TokenKind::Punct(b')' | b']') => depth -= 1,
            TokenKind::Operator | TokenKind::ColonColon => operators += 1,
            TokenKind::Word if DEEPENING.iter().any(|k| is_keyword(text, token, k)) => operators += 1,
            _ => {}
        }
    }
    operators <= SMALL_OPERATORS_MAX && deepest <= SMALL_NESTING_MAX
}

/// Each makes the tree one level deeper.
const DEEPENING: &[&str] =
    &["and", "or", "not", "union", "except", "intersect", "join", "is", "isnull", "case", "explain", "collate", "at"];
