//! The short way of BEGIN, COMMIT and their like, whose messages have all come: no batch and portal is made for them.
//!
//! The client's turn is next, so nothing is under way at its servers. A portal that is run and gone is not kept: what
//! Postgres says to a second Execute is an error too.

use std::rc::Rc;

use bytes::Bytes;

use super::run::Session;
use super::statement::Statement;
use super::unit::Messages;
use crate::error::Result;
use crate::executor::Kind;
use crate::planner::{Plan, TransactionCommand};
use crate::wire::answer;

/// A command that has begun.
pub(super) struct Command {
    plan: Rc<Plan>,
    /// Of the extended protocol: what is answered before it runs.
    parses: bool,
    binds: bool,
    describes: bool,
}

impl Session {
    /// The command of a statement whose messages these are.
    pub(super) fn short_command(
        &mut self,
        statement: Rc<Statement>,
        messages: &Messages,
        unit: &Bytes,
    ) -> Option<Command> {
        let command = Command {
            plan: statement.plan.clone(),
            parses: messages.parse.is_some(),
            binds: true,
            describes: messages.describes,
        };
        if !self.may_command(&command.plan)
            || statement.may_run_opaque_code(|text| self.may_run_opaque_code(text))
            || !self.cancel.handle.begin_at_once()
        {
            return None;
        }
        self.note_request(b'B', unit);
        self.note_bound(&statement);
        self.portals.remove(b"");
        if command.parses {
            self.statements.insert(Bytes::new(), statement);
        }
        self.note_placed(command.plan.kind());
        Some(command)
    }

    /// The command of a Query that says just this.
    pub(super) fn short_command_of(&mut self, text: &str, unit: &Bytes) -> Option<Command> {
        // Most statements are no such, and need not be looked up to know.
        let may_be = text.len() <= COMMAND_LEN_MAX
            && matches!(text.as_bytes().first()?, b'B' | b'b' | b'C' | b'c' | b'E' | b'e' | b'R' | b'r');
        let plan = may_be.then(|| self.context_of(|context| self.thread.plans.known(text, context))).flatten()?;
        if !matches!(&*plan, Plan::Transaction(_))
            || !self.may_command(&plan)
            || self.may_run_opaque_code(text)
            || !self.cancel.handle.begin_at_once()
        {
            return None;
        }
        self.note_request(b'Q', unit);
        self.forget_unnamed();
        self.note_placed(plan.kind());
        Some(Command { plan, parses: false, binds: false, describes: false })
    }

    /// A failed block takes few of them.
    fn may_command(&self, plan: &Plan) -> bool {
        self.transaction.as_ref().is_none_or(|txn| !txn.failed) || plan.may_follow_failure()
    }

    /// Runs it; the client's turn is next.
    pub(super) async fn go_with_command(&mut self, command: Command) -> Result<()> {
        let Plan::Transaction(transaction) = &*command.plan else { unreachable!("only these are made commands") };
        let out = self.client.out();
        if command.parses {
            answer::parse_complete(out);
        }
        if command.binds {
            answer::bind_complete(out);
        }
        if command.describes {
            answer::no_data(out);
        }
        let ran = match (transaction, &self.transaction) {
            (TransactionCommand::Begin { tag, options }, None) => {
                self.begin(Kind::Explicit, options);
                answer::command_complete(tag, self.client.out());
                Ok(())
            }
            _ => Box::pin(self.transaction_command(transaction)).await,
        };
        match ran {
            Err(error) => Box::pin(self.fail_unit(error)).await?,
            Ok(()) if self.transaction.as_ref().is_some_and(|txn| txn.kind != Kind::Explicit) => {
                if let Err(error) = Box::pin(self.end_unit(true)).await {
                    self.fail(error)?;
                }
            }
            Ok(()) => {}
        }
        self.ready().await
    }
}

/// Longer ones are rare, and not looked up twice.
const COMMAND_LEN_MAX: usize = 64;
