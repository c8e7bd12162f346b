//! Statements that call functions which Tenantry provides.

use crate::error::PgError;
use crate::sql::lexer::{Token, fold};
use crate::sql::parse::parse;
use crate::sql::scope::{Builder, Meaning};
use crate::sql::tree::Name;
use crate::sql::{Splice, With};

use super::statement::{ends, inline_splices, meaning};
use super::{Call, Context, FunctionCall, Plan};

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
    let (mut splices, mut needs) = (inline_splices(text, tokens, ctx), Vec::new());
    // Arguments are evaluated by themselves, in a statement of their own.
    splices.retain(|s| calls.iter().all(|c| s.at < c.name_at.start || s.at >= c.arguments_at.end));
    if let Ok(tree) = parse(text, tokens) {
        let meaning = |name: &[Name]| meaning(ctx, name);
        let mut builder = Builder::new(&meaning);
        builder.query(&tree);
        for relation in &builder.relations {
            let (first, last) = ends(&relation.name);
            match &relation.meaning {
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
    Some(Ok(Plan::FunctionCall(FunctionCall { text: text.into(), calls, splices, needs })))
}

/// A call that begins at token `at`; also the token behind it. Calls inside its arguments are part of them.
fn call_at(text: &str, tokens: &[Token], ctx: &Context<'_>, at: usize) -> Option<(Call, usize)> {
    let mut name_at = at;
    if !tokens[at].is_identifier() || (at > 0 && tokens[at - 1].is_punct(b'.')) {
        return None;
    }
    if tokens.get(at + 1)?.is_punct(b'.') {
        if fold(text, &tokens[at]) != "pg_catalog" {
            return None;
        }
        name_at = at + 2;
    }
    let name = fold(text, tokens.get(name_at)?);
    if !tokens.get(name_at + 1)?.is_punct(b'(') || !ctx.provided.functions.contains(name.as_ref()) {
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
