//! A client's prepared statements by name, and how many it may have.

use std::rc::Rc;

use bytes::Bytes;
use foldhash::HashMap;

use super::statement::Statement;
use crate::error::{PgError, Result, SqlState};

#[derive(Default)]
pub struct Statements {
    by_name: HashMap<Bytes, Rc<Statement>>,
    /// Length of all names and texts.
    text_bytes: usize,
}

impl Statements {
    pub fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.by_name.get(name)
    }

    /// Those that have a name.
    pub fn named(&self) -> impl Iterator<Item = (&Bytes, &Rc<Statement>)> {
        self.by_name.iter().filter(|(name, _)| !name.is_empty())
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn insert(&mut self, name: Bytes, statement: Rc<Statement>) {
        self.remove(&name);
        self.text_bytes += cost(&name, &statement);
        self.by_name.insert(name, statement);
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<(Bytes, Rc<Statement>)> {
        let (name, statement) = self.by_name.remove_entry(name)?;
        self.text_bytes -= cost(&name, &statement);
        Some((name, statement))
    }

    /// What they keep, with their plans. An estimate: plans are shared among the clients of a thread.
    pub fn bytes(&self) -> usize {
        self.by_name.len() * STATEMENT_BYTES + self.text_bytes * PLAN_FACTOR
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// May one more, with a text of this length, be prepared under a name? `count_max` and `bytes_max` bound all of them.
    ///
    /// Errors: 53400.
    pub fn check_room(&self, text_len: usize, count_max: usize, bytes_max: usize) -> Result<()> {
        let too_many = |what: String| {
            Err(PgError::new(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "too many prepared statements")
                .detail(what)
                .hint("Close statements that are not needed any more, e.g. with DEALLOCATE."))
        };
        if self.by_name.len() >= count_max {
            return too_many(format!("A client may have {count_max}."));
        }
        if self.text_bytes + text_len > bytes_max {
            return too_many(format!("Their texts may take {bytes_max} bytes."));
        }
        Ok(())
    }
}

/// About what a statement takes beside its text and plan.
const STATEMENT_BYTES: usize = 512;
/// A text and the plan made of it take about so many times the text.
const PLAN_FACTOR: usize = 8;

fn cost(name: &Bytes, statement: &Statement) -> usize {
    let command = statement.naming.as_ref().and_then(|naming| naming.command.as_ref());
    name.len() + command.map_or(statement.text.len(), |command| command.len())
}
