//! What a statement on the coordinator does to its session: locks, settings by `set_config`, sequence values.
//!
//! Read from the tokens, so that no place in a statement is missed, whether or not the parser could read it.

use crate::error::PgError;
use crate::shard_map::ShardMap;
use crate::sql::lexer::{Token, TokenKind, fold, is_keyword, lex, string_value};
use crate::sql::{Cursor, Operand};

use super::{Coordinator, Figures, Plan, Sequences, SetConfig, functions, unsupported};

/// The plan with the session's part in it. `reads`: it is a SELECT, VALUES or TABLE that writes nothing.
///
/// Errors: 0A000 for a setting that could not follow the client.
pub(super) fn with_session_effects(
    text: &str,
    tokens: &[Token],
    reads: bool,
    plan: Coordinator,
) -> Result<Coordinator, PgError> {
    let mut plan = plan;
    for (at, pair) in tokens.windows(2).enumerate() {
        if pair[0].kind == TokenKind::UQuotedIdent && is_keyword(text, &pair[1], "uescape") {
            return Err(PgError::unsupported("identifiers with UESCAPE are not supported")
                .hint("Use the backslash as escape character."));
        }
        if !pair[0].is_identifier() || !pair[1].is_punct(b'(') {
            continue;
        }
        let name = fold(text, &pair[0]);
        plan.frees |= functions::frees_session(&name);
        if functions::recalls_sequence(&name) {
            plan.recalls = Some(named_sequence(text, &tokens[at + 1..]).and(plan.recalls.take()));
        }
        if name == "setval" {
            plan.renumbers = Some(named_sequence(text, &tokens[at + 1..]).and(plan.renumbers.take()));
        }
        if name == "set_config" {
            let call = read_set_config(text, &tokens[at + 1..])?;
            refuse_contradiction(&plan.sets, &call)?;
            plan.sets.push(call);
        } else {
            plan.pins |= functions::binds_session(&name);
            plan.pins_unknown |= functions::hides_state(&name);
        }
    }
    if !plan.sets.is_empty() && !reads {
        return Err(refuse_hidden_set_config());
    }
    refuse_foreign_statements(text, tokens, plan.needs.contains(&Figures::PreparedStatements))?;
    Ok(plan)
}

/// Errors: 0A000 when a statement around the planned one would hide its settings.
pub(super) fn refuse_hidden_settings(plan: &Plan) -> Result<(), PgError> {
    match plan {
        Plan::Coordinator(inner) if !inner.sets.is_empty() => Err(refuse_hidden_set_config()),
        _ => Ok(()),
    }
}

fn refuse_hidden_set_config() -> PgError {
    PgError::unsupported("set_config cannot be called inside this statement")
        .detail("The setting could not follow the client to other connections.")
        .hint("Call set_config in a SELECT of its own, or use SET.")
}

/// The sequence that a call of setval or currval names. `tokens` begin at the parenthesis.
fn named_sequence(text: &str, tokens: &[Token]) -> Sequences {
    let name = || {
        let inside = Cursor::new(text, tokens).parenthesized().ok()??;
        let arguments = inside.split_commas().ok()?;
        let Some(Operand::Literal(written)) = constant(text, arguments.first()?.rest()) else { return None };
        let tokens = lex(&written, true).ok()?;
        let last = tokens.last().filter(|token| token.is_identifier())?;
        Some(fold(&written, last).into_owned())
    };
    name().map_or(Sequences::Any, |name| Sequences::Named(vec![name]))
}

/// `tokens` begin at the parenthesis.
fn read_set_config(text: &str, tokens: &[Token]) -> Result<SetConfig, PgError> {
    let refuse = |what: &str| {
        Err(PgError::unsupported(format!("cannot call set_config with {what}"))
            .detail("The setting could not follow the client to other connections.")
            .hint("Give its name and its scope as constants or parameters."))
    };
    let mut c = Cursor::new(text, tokens);
    let Some(inside) = c.parenthesized()? else { return refuse("no arguments") };
    let arguments = inside.split_commas()?;
    let [name, value, is_local] = &arguments[..] else {
        return refuse("other than three arguments");
    };
    let behind = &tokens[(tokens.len() - c.rest().len())..];
    let Some(setting) = constant(text, name.rest()).or_else(|| listed_name(text, name.rest(), behind)) else {
        return refuse("a name that is computed");
    };
    let Some(is_local) = constant(text, is_local.rest()) else { return refuse("a scope that is computed") };
    if let Operand::Literal(setting) = &setting {
        let setting = setting.to_ascii_lowercase();
        match constant(text, value.rest()) {
            Some(Operand::Literal(value)) => super::session_command::check_setting(&setting, Some(&value))?,
            Some(Operand::Null) => {}
            _ => super::session_command::check_setting(&setting, None)?,
        }
    }
    Ok(SetConfig { name: setting, is_local })
}

/// `set_config(name, ..) FROM pg_settings WHERE name = 'x'`, by which pg_dump sets what not every server has. `behind`: what follows the
/// call.
fn listed_name(text: &str, name: &[Token], behind: &[Token]) -> Option<Operand> {
    let is = |token: &Token, wanted: &str| token.is_identifier() && fold(text, token) == wanted;
    match (name, behind) {
        ([name], [from, view, filter, column, equals, value])
            if is(name, "name")
                && is_keyword(text, from, "from")
                && is(view, "pg_settings")
                && is_keyword(text, filter, "where")
                && is(column, "name")
                && equals.text(text) == "=" =>
        {
            constant(text, std::slice::from_ref(value))
        }
        _ => None,
    }
}

/// A literal, `true`, `false`, NULL or a parameter, perhaps with a cast.
fn constant(text: &str, tokens: &[Token]) -> Option<Operand> {
    let (first, rest) = tokens.split_first()?;
    let has_cast = matches!(rest, [colons, name] if colons.kind == TokenKind::ColonColon && name.is_identifier());
    if !rest.is_empty() && !has_cast {
        return None;
    }
    match first.kind {
        TokenKind::Param(n) => Some(Operand::Param(n)),
        _ if is_keyword(text, first, "true") => Some(Operand::Literal("true".into())),
        _ if is_keyword(text, first, "false") => Some(Operand::Literal("false".into())),
        _ if is_keyword(text, first, "null") => Some(Operand::Null),
        _ if first.is_string() => string_value(text, first).map(|value| Operand::Literal(value.into())),
        _ => None,
    }
}

/// The same setting with both scopes: what remains after the transaction could not be told.
fn refuse_contradiction(before: &[SetConfig], call: &SetConfig) -> Result<(), PgError> {
    if before.iter().any(|other| other.is_local != call.is_local) {
        return Err(PgError::unsupported("cannot call set_config with different scopes in one statement")
            .hint("Use one statement for each."));
    }
    Ok(())
}

/// Views that show or change the connection's state, which is not the client's. `is_lent`: the view of prepared statements was
/// understood, and stands for the client's own.
fn refuse_foreign_statements(text: &str, tokens: &[Token], is_lent: bool) -> Result<(), PgError> {
    for token in tokens.iter().filter(|t| t.is_identifier()) {
        let name = fold(text, token);
        let is_view = name == "pg_prepared_statements";
        if name == "pg_prepared_statement" || is_view && !is_lent {
            return Err(unsupported::servers_statements(&name));
        }
    }
    let updates = tokens.first().is_some_and(|t| is_keyword(text, t, "update") || is_keyword(text, t, "with"));
    let sets = tokens.iter().any(|t| is_keyword(text, t, "update"));
    if updates && sets && tokens.iter().any(|t| t.is_identifier() && fold(text, t) == "pg_settings") {
        return Err(PgError::unsupported("pg_settings cannot be changed").hint("Use SET."));
    }
    Ok(())
}

/// May the text run code that nobody here can read, and that may change the session's state?
pub fn may_run_opaque_code(text: &str, map: &ShardMap) -> bool {
    let opaque = map.opaque_code();
    if opaque.is_everywhere || opaque.functions.is_empty() {
        return opaque.is_everywhere;
    }
    match lex(text, true) {
        Ok(tokens) => tokens.iter().any(|t| t.is_identifier() && opaque.functions.contains(&*fold(text, t))),
        Err(_) => true,
    }
}
