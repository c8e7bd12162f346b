//! Reads what changes or shows a session: SET, RESET, SHOW, DISCARD, PREPARE, EXECUTE, DEALLOCATE.

use std::ops::Range;

use crate::error::PgError;

use super::Cursor;
use super::lexer::{TokenKind, string_value};
use super::transaction_statement::Modes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionStatement {
    /// `values`: each item of the list, quotes undone, words in lower case; empty for DEFAULT.
    Set {
        name: String,
        local: bool,
        values: Vec<String>,
    },
    /// SET ... FROM CURRENT: to what it is, which is to last.
    SetFromCurrent {
        name: String,
        local: bool,
    },
    /// SET TRANSACTION modes, SET CONSTRAINTS ALL.
    SetForTransaction {
        takes_snapshot: bool,
    },
    /// Their names, schemas left out.
    SetConstraints {
        names: Vec<String>,
    },
    Reset {
        name: String,
    },
    ResetAll,
    /// None: of something that has no plain name (ALL, TIME ZONE, ...).
    Show {
        name: Option<String>,
    },
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES or TEMP.
    DiscardSome,
    /// `body`: byte range of the statement behind AS.
    Prepare {
        name: String,
        types: Vec<String>,
        body: Range<u32>,
    },
    Execute {
        name: String,
        arguments: Vec<String>,
    },
    /// None: ALL.
    Deallocate {
        name: Option<String>,
    },
}

/// None when the leading word is another. Errors: 42601.
pub fn read_session_statement(cursor: Cursor<'_>) -> Option<Result<SessionStatement, PgError>> {
    let mut c = cursor;
    let verb = c.take_any(&["set", "reset", "show", "discard", "prepare", "execute", "deallocate"])?;
    Some(match verb {
        "set" => read_set(c),
        "reset" => read_reset(c),
        "show" => Ok(SessionStatement::Show { name: read_parameter_name(&mut c).ok().filter(|_| c.at_end()) }),
        "discard" if c.take("all") => c.expect_end().map(|()| SessionStatement::DiscardAll),
        "discard" => Ok(SessionStatement::DiscardSome),
        "prepare" => read_prepare(c),
        "execute" => read_execute(c),
        _ => read_deallocate(c),
    })
}

fn read_set(mut c: Cursor<'_>) -> Result<SessionStatement, PgError> {
    if c.take("constraints") {
        return read_set_constraints(c);
    }
    if c.take_all(&["session", "characteristics", "as", "transaction"]) {
        return Ok(set("session_characteristics", false, vec![c.rest_text().to_ascii_lowercase()]));
    }
    if c.take_all(&["session", "authorization"]) {
        return Ok(set("session_authorization", false, read_values(&c)?));
    }
    // `SET local = 1` sets a parameter called local.
    let has_scope =
        !matches!(c.peek_at(1).map(|t| t.kind), Some(TokenKind::Operator | TokenKind::Punct(_))) && !c.is_at(1, "to");
    let scope = if has_scope { c.take_any(&["local", "session"]) } else { None };
    let local = scope == Some("local");
    if c.take_all(&["session", "authorization"]) {
        return Ok(set("session_authorization", local, read_values(&c)?));
    }
    if c.is("transaction") && !c.is_at(1, "to") && c.peek_at(1).is_some_and(|t| t.kind == TokenKind::Word) {
        c.advance();
        let takes_snapshot = c.is("snapshot");
        if !takes_snapshot {
            Modes::expect(&mut c)?;
        }
        return Ok(SessionStatement::SetForTransaction { takes_snapshot });
    }
    for (words, name) in [
        (&["time", "zone"][..], "timezone"),
        (&["names"], "client_encoding"),
        (&["role"], "role"),
        (&["schema"], "search_path"),
        (&["xml", "option"], "xmloption"),
    ] {
        let mut special = c;
        let is_parameter = |c: Cursor<'_>| c.is("to") || c.is("from") || c.is_operator("=") || c.is_punct(b'.');
        if special.take_all(words) && !is_parameter(special) {
            let is_default = match name {
                "timezone" => special.is("local") && special.peek_at(1).is_none(),
                // Its value is one constant, or left out.
                "client_encoding" if !special.is("default") => {
                    let is_left_out = special.at_end();
                    if !is_left_out {
                        let mut value = special;
                        value.string()?;
                        value.expect_end()?;
                    }
                    is_left_out
                }
                _ => false,
            };
            return Ok(set(name, local, if is_default { Vec::new() } else { read_values(&special)? }));
        }
    }
    if c.is("catalog") && c.peek_at(1).is_some_and(|t| string_value(c.text(), t).is_some()) {
        // Source: PostgreSQL src/backend/parser/gram.y, set_rest_more.
        c.advance();
        return Err(c.error_here(PgError::unsupported("current database cannot be changed")));
    }
    let name = read_parameter_name(&mut c)?;
    if c.take_all(&["from", "current"]) {
        c.expect_end()?;
        return Ok(SessionStatement::SetFromCurrent { name, local });
    }
    if !c.take("to") && !c.take_operator("=") {
        return Err(c.syntax_error());
    }
    if c.at_end() {
        return Err(c.syntax_error());
    }
    Ok(set(&name, local, read_values(&c)?))
}

fn read_set_constraints(mut c: Cursor<'_>) -> Result<SessionStatement, PgError> {
    let mut names = Vec::new();
    if !c.take("all") {
        names.push(c.qualified_name()?.name);
        while c.take_punct(b',') {
            names.push(c.qualified_name()?.name);
        }
    }
    if c.take_any(&["deferred", "immediate"]).is_none() {
        return Err(c.syntax_error());
    }
    c.expect_end()?;
    Ok(match names.is_empty() {
        true => SessionStatement::SetForTransaction { takes_snapshot: false },
        false => SessionStatement::SetConstraints { names },
    })
}

fn set(name: &str, local: bool, values: Vec<String>) -> SessionStatement {
    SessionStatement::Set { name: name.to_owned(), local, values }
}

/// `a.b.c`, each part folded; Postgres compares parameter names without case.
fn read_parameter_name(c: &mut Cursor<'_>) -> Result<String, PgError> {
    let parts = c.dotted_name()?;
    Ok(parts.iter().map(|p| p.0.to_ascii_lowercase()).collect::<Vec<_>>().join("."))
}

fn read_values(c: &Cursor<'_>) -> Result<Vec<String>, PgError> {
    if c.is("default") && c.peek_at(1).is_none() {
        return Ok(Vec::new());
    }
    let pieces = c.split_commas()?;
    Ok(pieces
        .iter()
        .map(|piece| match piece.rest() {
            [one] => string_value(c.text(), one).unwrap_or_else(|| super::lexer::fold(c.text(), one).into_owned()),
            _ => piece.rest_text().to_owned(),
        })
        .collect())
}

fn read_reset(mut c: Cursor<'_>) -> Result<SessionStatement, PgError> {
    if c.take("all") {
        c.expect_end()?;
        return Ok(SessionStatement::ResetAll);
    }
    let name = if c.take_all(&["time", "zone"]) {
        "timezone".to_owned()
    } else if c.take_all(&["session", "authorization"]) {
        "session_authorization".to_owned()
    } else if c.take_all(&["transaction", "isolation", "level"]) {
        "transaction_isolation".to_owned()
    } else {
        read_parameter_name(&mut c)?
    };
    c.expect_end()?;
    Ok(SessionStatement::Reset { name })
}

fn read_prepare(mut c: Cursor<'_>) -> Result<SessionStatement, PgError> {
    let name = c.identifier()?;
    let types = read_list(&mut c)?;
    c.expect("as")?;
    let mut verb = c;
    if verb.take_any(PREPARABLE).is_none() && !verb.is_punct(b'(') {
        return Err(c.syntax_error());
    }
    let body = c.rest_range();
    Ok(SessionStatement::Prepare { name, types, body: body.start as u32..body.end as u32 })
}

/// Source: PostgreSQL src/backend/parser/gram.y, PreparableStmt.
const PREPARABLE: &[&str] = &["select", "values", "table", "with", "insert", "update", "delete", "merge"];

fn read_execute(mut c: Cursor<'_>) -> Result<SessionStatement, PgError> {
    let name = c.identifier()?;
    let arguments = read_list(&mut c)?;
    c.expect_end()?;
    Ok(SessionStatement::Execute { name, arguments })
}

/// `(a, b)` as texts; nothing when there are no parentheses.
fn read_list(c: &mut Cursor<'_>) -> Result<Vec<String>, PgError> {
    match c.parenthesized()? {
        Some(inner) if !inner.at_end() => {
            Ok(inner.split_commas()?.iter().map(|piece| piece.rest_text().to_owned()).collect())
        }
        _ => Ok(Vec::new()),
    }
}

fn read_deallocate(mut c: Cursor<'_>) -> Result<SessionStatement, PgError> {
    if c.peek_at(1).is_some() {
        c.take("prepare");
    }
    let name = if c.take("all") { None } else { Some(c.identifier()?) };
    c.expect_end()?;
    Ok(SessionStatement::Deallocate { name })
}
