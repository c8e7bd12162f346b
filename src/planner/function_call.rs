//! Statements that call functions which Tenantry provides and the proxy carries out.

use crate::error::PgError;
use crate::sql::clock::Clock;
use crate::sql::lexer::{Token, TokenKind, fold, is_keyword, lex};
use crate::sql::parse::{ParseFailure, parse};
use crate::sql::scope::{Builder, Meaning};
use crate::sql::tree::{Body, Expr, Item, Name};
use crate::sql::{Splice, With};

use super::inline::{inline_needs, inline_splices, name_of_call};
use super::names::names_managed_table;
use super::statement::{ends, meaning};
use super::{Call, Context, FunctionCall, Plan, unsupported};

/// `None`: no provided function is called.
pub(super) fn plan_function_call(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Option<Result<Plan, PgError>> {
    let mut calls: Vec<Call> = Vec::new();
    let mut at = 0;
    while at + 1 < tokens.len() {
        match call_at(text, tokens, ctx, at) {
            Some((call, next)) => {
                calls.push(call);
                at = next;
            }
            None => at += 1,
        }
    }
    if calls.is_empty() {
        return None;
    }
    if let Err(error) = refuse_columns(text, tokens, &calls, ctx) {
        return Some(Err(error));
    }
    let (mut splices, mut needs) = (inline_splices(text, tokens, ctx), inline_needs(text, tokens, ctx));
    let clock = Clock::start(ctx.complexity.time);
    let tree = match parse(text, tokens, &ctx.complexity, &clock) {
        Ok(tree) => Some(tree),
        Err(failure) => match (failure, names_managed_table(text, tokens, ctx)) {
            (_, None) => None,
            (ParseFailure::TooComplex(error), _) => return Some(Err(error)),
            (ParseFailure::NotUnderstood(construct), _) => return Some(Err(unsupported::cannot_analyse(&construct))),
        },
    };
    if let Some(tree) = tree {
        let meaning = |name: &[Name]| meaning(ctx, name);
        let mut builder = Builder::new(&meaning, clock.clone());
        builder.query(&tree);
        if clock.is_over() {
            return Some(Err(clock.error()));
        }
        for relation in &builder.relations {
            let (first, last) = ends(&relation.name);
            match &relation.meaning {
                Meaning::Reference(table) if relation.is_target => {
                    return Some(Err(PgError::unsupported(format!(
                        "function {} cannot be called in a statement that writes a reference table",
                        calls[0].name
                    ))
                    .detail(format!("The statement writes \"{}\".", table.name))
                    .hint("Call the function in a statement of its own.")));
                }
                Meaning::Distributed(table) => {
                    return Some(Err(PgError::unsupported(format!(
                        "function {} cannot be called in a statement on distributed tables",
                        calls[0].name
                    ))
                    .detail(format!("The statement reads or writes \"{}\".", table.name))
                    .hint("Call the function in a statement of its own.")));
                }
                Meaning::View(view) => {
                    let figures = ctx.provided.views.get(view.as_str()).copied().flatten();
                    needs.extend(figures.filter(|f| !needs.contains(f)));
                    splices.push(Splice {
                        at: first.at,
                        len: last.at - first.at,
                        with: With::Fixed("tenantry.".into()),
                    });
                }
                Meaning::Reference(_) | Meaning::Local => {}
            }
        }
    }
    let is_procedure = tokens.first().is_some_and(|token| is_keyword(text, token, "call"));
    Some(Ok(Plan::FunctionCall(FunctionCall { text: text.into(), calls, splices, needs, is_procedure })))
}

/// Arguments are evaluated once, before the statement runs: there is no row yet whose columns they could name.
///
/// Without a FROM clause there is none ever, which is Postgres's to say.
fn refuse_columns(text: &str, tokens: &[Token], calls: &[Call], ctx: &Context<'_>) -> Result<(), PgError> {
    let is_outside = |token: &&Token| !calls.iter().any(|call| call.arguments_at.contains(&token.start));
    if !tokens.iter().filter(is_outside).any(|token| is_keyword(text, token, "from")) {
        return Ok(());
    }
    for call in calls {
        if names_column(&alone(text, tokens, call), ctx) {
            return Err(PgError::unsupported(format!("arguments of function {} cannot be columns", call.name))
                .detail("They are evaluated once, before the statement reads any row.")
                .hint(format!(
                    "For one value, {0}((SELECT ...)). Else write a call for each row, as psql does with SELECT format('SELECT {0}(%L, ...)', ...) FROM ... \\gexec",
                    call.name
                )));
        }
    }
    Ok(())
}

/// The call's arguments by themselves. Names of arguments have the arrow before them, by which they are not taken for columns.
fn alone(text: &str, tokens: &[Token], call: &Call) -> String {
    let (start, end) = (call.arguments_at.start as usize, call.arguments_at.end as usize);
    let mut arguments = text[start..end].to_owned();
    for token in tokens.iter().filter(|t| call.arguments_at.contains(&t.start) && t.kind == TokenKind::ColonEquals) {
        arguments.replace_range(token.start as usize - start..token.end as usize - start, "=>");
    }
    format!("SELECT f({arguments})")
}

/// Columns of a subquery's own FROM clause do not count. What is not understood names none.
fn names_column(select: &str, ctx: &Context<'_>) -> bool {
    let Ok(tokens) = lex(select, ctx.standard_conforming_strings) else { return false };
    let clock = Clock::start(ctx.complexity.time);
    let Ok(tree) = parse(select, &tokens, &ctx.complexity, &clock) else { return false };
    let Body::Select(body) = &tree.body else { return false };
    let mut found = false;
    for item in &body.items {
        if let Item::Expr { expr, .. } = item {
            expr.walk(&mut |part| {
                found |= matches!(part, Expr::Column(_));
                true
            });
        }
    }
    found
}

/// A call that begins at token `at`; also the token behind it. Calls inside its arguments are part of them.
fn call_at(text: &str, tokens: &[Token], ctx: &Context<'_>, at: usize) -> Option<(Call, usize)> {
    let name_at = name_of_call(text, tokens, at)?;
    let name = fold(text, &tokens[name_at]);
    if !ctx.provided.functions.contains(name.as_ref()) {
        return None;
    }
    let open = name_at + 1;
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if token.is_punct(b'(') {
            depth += 1;
        } else if token.is_punct(b')') {
            depth -= 1;
        }
        if depth == 0 {
            let call = Call {
                name: name.into_owned(),
                name_at: tokens[at].start..tokens[name_at].end,
                arguments_at: tokens[open].end..token.start,
            };
            return Some((call, i + 1));
        }
    }
    None
}
