//! Statements that call functions which Tenantry provides: those that the proxy carries out, and inline ones, which are
//! ordinary functions in schema `tenantry` of the coordinator.

use crate::error::PgError;
use crate::sql::clock::Clock;
use crate::sql::lexer::{Token, TokenKind, fold, is_keyword, lex};
use crate::sql::parse::{ParseFailure, parse};
use crate::sql::scope::{Builder, Meaning};
use crate::sql::tree::Name;
use crate::sql::{Splice, With};

use super::names::names_managed_table;
use super::statement::{ends, meaning};
use super::{Call, Context, Figures, FunctionCall, Plan, unsupported};

/// `tenantry.` goes in front of the names of inline functions, instead of a `pg_catalog.` that was written.
pub(super) fn inline_splices(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Vec<Splice> {
    let splice = |(at, name_at, _): (usize, usize, _)| Splice {
        at: tokens[at].start,
        len: tokens[name_at].start - tokens[at].start,
        with: With::Fixed("tenantry.".into()),
    };
    inline_calls(text, tokens, ctx).map(splice).collect()
}

/// The figures that the inline functions need.
pub(super) fn inline_needs(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Vec<Figures> {
    let mut needs = Vec::new();
    for figures in inline_calls(text, tokens, ctx).filter_map(|(_, _, figures)| figures) {
        if !needs.contains(&figures) {
            needs.push(figures);
        }
    }
    needs
}

/// Where each begins, its name stands, and what it needs.
fn inline_calls(
    text: &str,
    tokens: &[Token],
    ctx: &Context<'_>,
) -> impl Iterator<Item = (usize, usize, Option<Figures>)> {
    (0..tokens.len()).filter_map(move |at| {
        let name_at = name_of_call(text, tokens, at)?;
        let figures = *ctx.provided.inline.get(fold(text, &tokens[name_at]).as_ref())?;
        // `INSERT INTO shard_name (a)`: a relation with a column list.
        let is_relation = at > 0 && is_keyword(text, &tokens[at - 1], "into");
        (!is_relation).then_some((at, name_at, figures))
    })
}

/// As `inline_splices`, for views too, within string constants that hold code: what a function's body calls `pg_dist_node` is what a
/// statement calls so. Views that need figures of the moment are left out.
pub(super) fn body_splices(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Vec<Splice> {
    let mut splices = Vec::new();
    for constant in tokens {
        let (raw, quote) = (
            constant.text(text),
            match constant.kind {
                TokenKind::String => 1,
                TokenKind::DollarString => constant.text(text)[1..].find('$').map_or(0, |end| end + 2),
                _ => continue,
            },
        );
        let Some(body) = raw.get(quote..raw.len().saturating_sub(quote)) else { continue };
        let Ok(words) = lex(body, true) else { continue };
        let in_body = inline_splices(body, &words, ctx).into_iter().chain(view_splices(body, &words, ctx));
        splices.extend(in_body.map(|splice| Splice { at: splice.at + constant.start + quote as u32, ..splice }));
    }
    splices
}

/// `tenantry.` goes in front of views that are read from: what stands behind FROM, JOIN or a comma.
fn view_splices(text: &str, tokens: &[Token], ctx: &Context<'_>) -> Vec<Splice> {
    let is_view = |token: &Token| {
        token.is_identifier() && matches!(ctx.provided.views.get(fold(text, token).as_ref()), Some(None))
    };
    let begins = |token: &Token| {
        token.is_punct(b',') || ["from", "join", "only"].iter().any(|keyword| is_keyword(text, token, keyword))
    };
    let mut splices = Vec::new();
    for at in (1..tokens.len()).filter(|at| begins(&tokens[at - 1])) {
        let is_qualified =
            fold(text, &tokens[at]) == "pg_catalog" && tokens.get(at + 1).is_some_and(|t| t.is_punct(b'.'));
        let name_at = if is_qualified { at + 2 } else { at };
        let ends = |next: Option<&Token>| !next.is_some_and(|t| t.is_punct(b'.') || t.is_punct(b'('));
        if tokens.get(name_at).is_some_and(is_view) && ends(tokens.get(name_at + 1)) {
            splices.push(Splice {
                at: tokens[at].start,
                len: tokens[name_at].start - tokens[at].start,
                with: With::Fixed("tenantry.".into()),
            });
        }
    }
    splices
}

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

/// Where the name itself stands in `name(` or `pg_catalog.name(`, the whole beginning at token `at`.
fn name_of_call(text: &str, tokens: &[Token], at: usize) -> Option<usize> {
    if !tokens[at].is_identifier() || (at > 0 && tokens[at - 1].is_punct(b'.')) {
        return None;
    }
    let name_at = match tokens.get(at + 1)?.is_punct(b'.') {
        true if fold(text, &tokens[at]) == "pg_catalog" => at + 2,
        true => return None,
        false => at,
    };
    (tokens.get(name_at)?.is_identifier() && tokens.get(name_at + 1)?.is_punct(b'(')).then_some(name_at)
}
