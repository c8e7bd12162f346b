//! Reads the body of a trigger's function in PL/pgSQL, as far as it tells whether the function may run beside a shard.
//!
//! Words only: what a body puts together at run time is not seen. In doubt the answer is that it does.
//!
//! Source: PostgreSQL 15, src/pl/plpgsql/src/pl_gram.y.

use super::lexer::{Token, TokenKind, fold, lex, string_value};
use crate::error::PgError;

/// A body in pieces.
pub struct TriggerBody {
    words: Vec<Piece>,
    /// What stands in string constants, in lower case; looked at when the body runs texts.
    in_strings: Vec<String>,
}

/// A name, or a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Name(String),
    Sign(String),
}

impl TriggerBody {
    /// Errors: 42601 where Postgres could not read it either.
    pub fn read(body: &str) -> Result<Self, PgError> {
        let tokens = lex(body, true)?;
        let words: Vec<Piece> = tokens.iter().map(|token| piece(body, token)).collect();
        let runs_texts = words.contains(&Piece::Name("execute".to_owned()));
        let strings = tokens.iter().filter(|_| runs_texts).filter_map(|token| string_value(body, token));
        let in_strings = strings.flat_map(|text| split_words(&text)).collect();
        Ok(Self { words, in_strings })
    }

    /// May it mean this table, function or the like? `schema`: where that one is.
    pub fn names(&self, schema: &str, name: &str) -> bool {
        let meant = |at: usize| self.is_name(at, name) && self.owner(at).is_none_or(|owner| owner == schema);
        (0..self.words.len()).any(meant) || self.in_strings.iter().any(|word| word.eq_ignore_ascii_case(name))
    }

    /// NOTIFY, or its function.
    pub fn notifies(&self) -> bool {
        self.names("", "notify") || self.names("pg_catalog", "pg_notify")
    }

    /// Reads or moves a sequence.
    pub fn uses_sequences(&self) -> bool {
        ["nextval", "setval", "currval", "lastval"].iter().any(|name| self.names("pg_catalog", name))
    }

    /// May NEW have another value in this column, or be another row altogether, when the function returns?
    pub fn may_change(&self, column: &str) -> bool {
        (0..self.words.len()).any(|at| {
            let starts = self.starts_statement(at);
            if starts && self.is_name(at, "return") {
                return !self.returns_the_row(at + 1);
            }
            if self.is_name(at, "into")
                && !(at > 0 && (self.is_name(at - 1, "insert") || self.is_name(at - 1, "merge")))
            {
                return self.list_has(at + 1, column);
            }
            if self.is_name(at, "for") || self.is_name(at, "foreach") {
                return self.is_target(at + 1, column);
            }
            if starts && self.is_name(at, "call") {
                let end = (at..self.words.len()).find(|at| self.is_sign(*at, ";")).unwrap_or(self.words.len());
                return (at..end).any(|at| self.is_target(at, column));
            }
            starts && self.is_target(at, column)
        })
    }

    /// NEW, or this column of it.
    fn is_target(&self, at: usize, column: &str) -> bool {
        self.is_name(at, "new") && (!self.is_sign(at + 1, ".") || self.is_name(at + 2, column))
    }

    /// `[STRICT] target, target, ...`
    fn list_has(&self, mut at: usize, column: &str) -> bool {
        at += usize::from(self.is_name(at, "strict"));
        loop {
            if self.is_target(at, column) {
                return true;
            }
            at += 1;
            while self.is_sign(at, ".") {
                at += 2;
            }
            if !self.is_sign(at, ",") {
                return false;
            }
            at += 1;
        }
    }

    /// `NEW`, `OLD`, `NULL`, `COALESCE(NEW, OLD)`: the row as it came, or as assignments have left it.
    fn returns_the_row(&self, at: usize) -> bool {
        let ends = |at: usize| at >= self.words.len() || self.is_sign(at, ";");
        let is_row = |at: usize| ["new", "old", "null"].iter().any(|name| self.is_name(at, name));
        let is_first = self.is_name(at, "coalesce") && self.is_sign(at + 1, "(") && is_row(at + 2);
        is_row(at) && ends(at + 1)
            || is_first && self.is_sign(at + 3, ",") && is_row(at + 4) && self.is_sign(at + 5, ")") && ends(at + 6)
    }

    fn starts_statement(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return true };
        [";", ">>"].iter().any(|sign| self.is_sign(before, sign))
            || ["begin", "then", "else", "loop"].iter().any(|word| self.is_name(before, word))
    }

    /// What stands before the dot in front of this name.
    fn owner(&self, at: usize) -> Option<&str> {
        match (self.words.get(at.checked_sub(2)?)?, self.words.get(at - 1)?) {
            (Piece::Name(owner), Piece::Sign(sign)) if sign == "." => Some(owner),
            _ => None,
        }
    }

    fn is_name(&self, at: usize, name: &str) -> bool {
        matches!(self.words.get(at), Some(Piece::Name(word)) if word == name)
    }

    fn is_sign(&self, at: usize, sign: &str) -> bool {
        matches!(self.words.get(at), Some(Piece::Sign(word)) if word == sign)
    }
}

fn piece(body: &str, token: &Token) -> Piece {
    if token.is_identifier() {
        return Piece::Name(fold(body, token).into_owned());
    }
    // Constants would only be in the way.
    match token.kind {
        TokenKind::Operator | TokenKind::Punct(_) | TokenKind::ColonEquals => Piece::Sign(token.text(body).to_owned()),
        _ => Piece::Sign(String::new()),
    }
}

fn split_words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '$');
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> TriggerBody {
        TriggerBody::read(text).unwrap()
    }

    #[test]
    fn a_table_is_told_from_a_column() {
        for (text, names) in [
            ("BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END", true),
            ("BEGIN INSERT INTO Public.Audit(id) VALUES (NEW.id); RETURN NEW; END", true),
            ("DECLARE a audit%ROWTYPE; BEGIN RETURN NEW; END", true),
            ("DECLARE a public.audit.id%TYPE; BEGIN RETURN NEW; END", true),
            ("BEGIN EXECUTE format('INSERT INTO %I DEFAULT VALUES', 'audit'); RETURN NEW; END", true),
            ("BEGIN PERFORM 1 FROM \"audit\"; RETURN NEW; END", true),
            ("BEGIN NEW.audit := OLD.audit; RETURN NEW; END -- audit", false),
            ("BEGIN RAISE EXCEPTION 'no audit here'; END", false),
            ("BEGIN PERFORM 1 FROM other.audit; RETURN NEW; END", false),
            ("BEGIN NEW.audit_at := now(); /* audit */ RETURN NEW; END", false),
        ] {
            assert_eq!(body(text).names("public", "audit"), names, "{text}");
        }
    }

    #[test]
    fn notifications_and_sequences_are_seen() {
        assert!(body("BEGIN NOTIFY rows; RETURN NEW; END").notifies());
        assert!(body("BEGIN PERFORM pg_catalog.pg_notify('a', NEW.id::text); RETURN NEW; END").notifies());
        assert!(!body("BEGIN NEW.notify := true; RETURN NEW; END").notifies());
        assert!(body("BEGIN NEW.id := nextval('s'); RETURN NEW; END").uses_sequences());
        assert!(!body("BEGIN NEW.nextval := 1; RETURN NEW; END").uses_sequences());
    }

    #[test]
    fn a_change_of_the_column_is_told_from_a_look_at_it() {
        for (text, changes) in [
            ("BEGIN NEW.tenant := 1; RETURN NEW; END", true),
            ("BEGIN NEW.tenant = 1; RETURN NEW; END", true),
            ("BEGIN IF true THEN new.\"tenant\" := 1; END IF; RETURN NEW; END", true),
            ("BEGIN SELECT 1, 2 INTO STRICT NEW.other, NEW.tenant; RETURN NEW; END", true),
            ("BEGIN SELECT * INTO NEW FROM f(); RETURN NEW; END", true),
            ("BEGIN NEW := jsonb_populate_record(NEW, '{}'); RETURN NEW; END", true),
            ("DECLARE n ALIAS FOR NEW; BEGIN n.tenant := 1; RETURN n; END", true),
            ("DECLARE r record; BEGIN RETURN r; END", true),
            ("BEGIN CALL p(NEW.tenant); RETURN NEW; END", true),
            ("BEGIN <<l>> FOR NEW.tenant IN 1..2 LOOP NULL; END LOOP; RETURN NEW; END", true),
            ("BEGIN IF NEW.tenant = 1 OR NEW.tenant <> OLD.tenant THEN RETURN NULL; END IF; RETURN NEW; END", false),
            ("BEGIN NEW.other := NEW.tenant; INSERT INTO new VALUES (1); RETURN OLD; END", false),
            ("BEGIN SELECT NEW.tenant INTO NEW.other; RETURN COALESCE(NEW, OLD); END;", false),
            ("BEGIN CALL p(NEW.other); RETURN NEW; END", false),
        ] {
            assert_eq!(body(text).may_change("tenant"), changes, "{text}");
        }
    }
}
