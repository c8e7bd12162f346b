//! Inline functions and system views, which live in schema `tenantry` of the coordinator: the schema goes in front of their names.

use crate::sql::lexer::{Token, TokenKind, fold, is_keyword, lex, string_value};
use crate::sql::{Splice, With};

use super::session_command::is_own_setting;
use super::{Context, Figures};

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
    if asks_for_own_setting(text, tokens) {
        needs.push(Figures::Settings);
    }
    for figures in inline_calls(text, tokens, ctx).filter_map(|(_, _, figures)| figures) {
        if !needs.contains(&figures) {
            needs.push(figures);
        }
    }
    needs
}

/// `current_setting('citus.shard_count')`.
fn asks_for_own_setting(text: &str, tokens: &[Token]) -> bool {
    (0..tokens.len()).any(|at| {
        let Some(name_at) = name_of_call(text, tokens, at).filter(|at| fold(text, &tokens[*at]) == "current_setting")
        else {
            return false;
        };
        let setting = tokens.get(name_at + 2).and_then(|token| string_value(text, token));
        setting.is_some_and(|name| is_own_setting(&name.to_ascii_lowercase()))
    })
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

/// Where the name itself stands in `name(` or `pg_catalog.name(`, the whole beginning at token `at`.
pub(super) fn name_of_call(text: &str, tokens: &[Token], at: usize) -> Option<usize> {
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
