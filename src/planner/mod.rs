//! Decides what a statement becomes. Pure: a statement, the shard map and the session's names in, a `Plan` out.

mod combine;
mod copy;
mod ddl;
mod display;
mod foreign_key;
mod function_call;
mod functions;
mod insert;
mod modify;
mod names;
mod plan;
mod pull;
mod query;
mod query_wrapper;
mod session_command;
mod statement;
mod transaction;
mod unsupported;
mod utility;
#[cfg(test)]
mod utility_tests;

pub use plan::*;
pub use utility::plan_utility;

use crate::error::PgError;
use crate::sql::lexer::lex;

/// Statements with a longer text are analysed on a thread with room for deep trees.
const SMALL_BYTES_MAX: usize = 8 * 1024;

/// Stack of that thread; pages are taken as they are used.
const LARGE_STACK_BYTES: usize = 512 * 1024 * 1024;

/// Plans one statement.
///
/// Errors: 42601 from the lexer, 0A000 for what is not supported, 54001 beyond the limits of `sql::parse`, 22004 for
/// a row without tenant.
pub fn plan(text: &str, ctx: &Context<'_>, mode: Mode) -> Result<Plan, PgError> {
    if text.len() <= SMALL_BYTES_MAX {
        return plan_here(text, ctx, mode);
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(LARGE_STACK_BYTES);
        let too_complex =
            || PgError::new(crate::error::SqlState::STATEMENT_TOO_COMPLEX, "statement could not be analysed");
        match thread.spawn_scoped(scope, || plan_here(text, ctx, mode)) {
            Ok(handle) => handle.join().unwrap_or_else(|_| Err(too_complex())),
            Err(_) => Err(too_complex()),
        }
    })
}

fn plan_here(text: &str, ctx: &Context<'_>, mode: Mode) -> Result<Plan, PgError> {
    let tokens = lex(text, ctx.standard_conforming_strings)?;
    if let Some(plan) = plan_utility(text, &tokens, ctx, &|inner| plan_here(inner, ctx, mode)) {
        return plan;
    }
    if let Some(plan) = function_call::plan_function_call(text, &tokens, ctx) {
        return plan;
    }
    query::plan_statement(text, &tokens, ctx, mode)
}
