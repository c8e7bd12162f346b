//! Commands beside the client's transaction: on connections of their own, as the client's role, each committed by itself.

use futures_util::future::join_all;

use super::Transaction;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

/// What a command has answered: the rows of its last result as text, and its tag.
#[derive(Debug)]
pub struct Answered {
    pub rows: Vec<crate::backend::Row>,
    pub tag: String,
}

impl Transaction {
    /// Runs the commands of each node one after the other, nodes side by side unless `one_by_one`. Answers as the commands are
    /// ordered; what fails is an answer too, and others run all the same. The connections are closed afterwards, because nobody knows
    /// what commands leave on them.
    ///
    /// Errors: 57014 when the client cancels; what has run has.
    pub async fn run_apart(
        &self,
        work: &[(NodeId, Vec<String>)],
        one_by_one: bool,
    ) -> Result<Vec<Vec<Result<Answered>>>> {
        let mut answers = Vec::with_capacity(work.len());
        if one_by_one {
            for (node, commands) in work {
                answers.push(self.run_on(*node, commands).await);
            }
        } else {
            answers = join_all(work.iter().map(|(node, commands)| self.run_on(*node, commands))).await;
        }
        self.cancel.check().map(|()| answers)
    }

    async fn run_on(&self, node: NodeId, commands: &[String]) -> Vec<Result<Answered>> {
        let failed = |error: PgError| commands.iter().map(|_| Err(error.clone())).collect();
        let Some(address) = self.executor.current_address(node) else {
            return failed(PgError::new(SqlState::UNDEFINED_OBJECT, "the node was removed"));
        };
        let checkout = self.executor.pools.checkout(&address, &self.identity);
        let mut server = match self.cancel.unless_cancelled(checkout).await {
            Ok(server) => server,
            Err(error) => return failed(error),
        };
        let target = server.cancel_target();
        let mut answers = Vec::with_capacity(commands.len());
        let mut ready = self.cancel.add(target.clone());
        if ready.is_ok() {
            ready = server.carry(&self.settings).await.map(drop);
        }
        for command in commands {
            if let Err(error) = ready.clone().and_then(|()| self.cancel.check()) {
                answers.push(Err(error));
                continue;
            }
            let rows = server.query(command).await;
            let tag = server.last_tag().to_owned();
            answers.push(rows.map(|rows| Answered { rows, tag }));
        }
        self.cancel.remove(&target);
        server.poison();
        answers
    }
}
