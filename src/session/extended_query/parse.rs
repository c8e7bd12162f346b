//! Parse: a statement gets its name. Its answer waits for a Bind that tells whether it is right, or the coordinator is asked.

use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::backend::Frame;
use crate::error::{PgError, Result, SqlState};
use crate::session::run::Session;
use crate::session::statement::{Naming, Statement};
use crate::wire::answer;
use crate::wire::frontend::Parse;

impl Session {
    pub(in crate::session) async fn parse(&mut self, frame: &Frame) -> Result<()> {
        let parse = Parse::read(frame.payload())?;
        // A copy: a slice would keep the whole read buffer for as long as the statement is known.
        let name = Bytes::copy_from_slice(parse.name);
        self.confirm_unanswered_parse().await?;
        if name.is_empty() {
            // Whatever becomes of the new one.
            self.statements.remove(b"");
        }
        let is_taken = !name.is_empty() && self.statements.contains(&name);
        if !name.is_empty() && !is_taken {
            self.check_room(parse.text.len())?;
        }
        let mut statement = match self.new_statement(parse.text, parse.types) {
            Ok(statement) => statement,
            Err(refused) => return Err(Box::pin(self.refusal(parse.text, refused)).await),
        };
        if !statement.plan.may_follow_failure() {
            self.refuse_if_failed()?;
        }
        if is_taken {
            // What is wrong with the text is told first. Source: PostgreSQL src/backend/commands/prepare.c, StorePreparedStatement().
            Box::pin(self.describe(&statement)).await?;
            return Err(PgError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name)),
            ));
        }
        if !name.is_empty() {
            statement.naming = Some(Naming { at: SystemTime::now(), command: None });
        }
        self.statements.insert(name.clone(), Rc::new(statement));
        self.batch.parsed.push(name.clone());
        self.batch.unanswered_parse = Some(name);
        Ok(())
    }

    /// A Parse whose statement was not bound at once: the coordinator must say whether it is right.
    pub(in crate::session) async fn confirm_unanswered_parse(&mut self) -> Result<()> {
        let Some(name) = self.batch.unanswered_parse.take() else { return Ok(()) };
        let Some(statement) = self.statements.get(&name).cloned() else { return Ok(()) };
        match Box::pin(self.describe(&statement)).await {
            Ok(_) => {
                self.answer_parse(name);
                Ok(())
            }
            Err(error) => {
                self.statements.remove(&name);
                Err(error)
            }
        }
    }

    /// The statement is wrong: if it is that of the Parse that waits for its answer, it gets none.
    pub(in crate::session) fn forget_unanswered_parse(&mut self, wrong: &Statement) {
        let is_wrong = |name: &Bytes| self.statements.get(name).is_some_and(|s| std::ptr::eq(&**s, wrong));
        if let Some(name) = self.batch.unanswered_parse.take_if(|name| is_wrong(name)) {
            self.statements.remove(&name);
        }
    }

    pub(in crate::session) fn answer_unanswered_parse(&mut self) {
        if let Some(name) = self.batch.unanswered_parse.take() {
            self.answer_parse(name);
        }
    }

    fn answer_parse(&mut self, name: Bytes) {
        if !self.answer(answer::parse_complete) {
            self.batch.unconfirmed.push_back(name);
        }
    }
}
