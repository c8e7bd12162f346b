//! Temporary relations of a session whose name a managed table has got since: Postgres finds them first, routing does not.
//!
//! ```text
//!   CREATE TEMP TABLE orders   another session: create_distributed_table('orders')   SELECT ... FROM orders ──> 0A000
//! ```
//!
//! The connection that the session keeps is asked, once for each newer map, for statements that name a managed table. What is made later
//! under such a name the planner refuses.

use super::run::Session;
use crate::error::{PgError, Result};
use crate::shard_map::{NodeId, ShardMap};
use crate::sql::lexer::{fold, lex};

/// What was found.
#[derive(Default)]
pub struct Shadows {
    /// Of the map for which it was asked; 0: not yet.
    version: u64,
    names: Box<[String]>,
}

impl Session {
    /// Errors: 0A000 for a statement that may mean a relation of either kind.
    pub async fn refuse_shadowed(&mut self, text: &str) -> Result<()> {
        if !self.is_pinned() {
            self.shadows.version = 0;
            return Ok(());
        }
        if self.shadows.version == self.map_version() && self.shadows.names.is_empty() || self.has_failed() {
            return Ok(());
        }
        let named = self.with_map(|map| managed_names(text, map));
        if named.is_empty() {
            return Ok(());
        }
        Box::pin(self.find_shadows()).await?;
        match named.iter().find(|name| self.shadows.names.contains(name)) {
            Some(name) => Err(hidden(name)),
            None => Ok(()),
        }
    }

    async fn find_shadows(&mut self) -> Result<()> {
        self.pause().await?;
        let rows = self.txn().query(NodeId::COORDINATOR, TEMPORARY).await?;
        let names = rows.into_iter().flatten().flatten();
        let (version, names) =
            self.with_map(|map| (map.version(), names.filter(|name| map.has_table_named(name)).collect()));
        self.shadows = Shadows { version, names };
        Ok(())
    }
}

/// Managed tables that it names without their schema, or may name: a column looks the same.
fn managed_names(text: &str, map: &ShardMap) -> Vec<String> {
    let Ok(tokens) = lex(text, true) else { return Vec::new() };
    let follows_dot = |at: usize| at > 0 && tokens[at - 1].is_punct(b'.');
    let names = tokens.iter().enumerate().filter(|(at, token)| token.is_identifier() && !follows_dot(*at));
    names.map(|(_, token)| fold(text, token)).filter(|name| map.has_table_named(name)).map(|n| n.into_owned()).collect()
}

fn hidden(name: &str) -> PgError {
    PgError::unsupported(format!("\"{name}\" is a temporary relation of this session and a distributed or reference table"))
        .detail("The table got its name after the temporary relation was made.")
        .hint(format!("Write the schema of the one that is meant: pg_temp.{name} is the temporary one, which can be dropped or renamed."))
}

const TEMPORARY: &str = "SELECT relname FROM pg_catalog.pg_class \
     WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind NOT IN ('i', 'I')";
