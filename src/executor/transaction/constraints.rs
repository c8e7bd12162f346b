//! `SET CONSTRAINTS` with names: which servers have these constraints?
//!
//! Those of a distributed table stand on its shards, in schemas that the client does not know, and servers that join later
//! would have to be told of theirs: refused. Limit: a local constraint of the same name as one of a distributed table is too.

use super::Transaction;
use crate::catalog::quote::literal;
use crate::error::{PgError, Result};
use crate::shard_map::NodeId;

/// Whose constraints some names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintsOf {
    /// The coordinator's, or nobody's.
    Local,
    /// Reference tables', which every server has under the same name.
    Reference,
}

impl Transaction {
    /// Errors: 0A000 for those of distributed tables, and of reference and local tables together.
    pub async fn tables_of_constraints(&mut self, names: &[String]) -> Result<ConstraintsOf> {
        let quoted: Vec<_> = names.iter().map(|name| literal(name)).collect();
        let sql = format!(
            "SELECT DISTINCT d.partmethod, k.conname FROM pg_catalog.pg_constraint k \
             JOIN tenantry.distributed_table d ON d.logicalrelid = k.conrelid \
             WHERE k.condeferrable AND k.conname = ANY (ARRAY[{}]::pg_catalog.name[])",
            quoted.join(", ")
        );
        let found = self.query(NodeId::COORDINATOR, &sql).await?;
        let cell = |row: &[Option<String>], at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        if let Some(row) = found.iter().find(|row| cell(row, 0) != "n") {
            return Err(PgError::unsupported(format!("cannot set constraint \"{}\" by its name", cell(row, 1)))
                .detail("It is a distributed table's, and stands on each of its shards.")
                .hint("Use SET CONSTRAINTS ALL."));
        }
        match found.len() {
            0 => Ok(ConstraintsOf::Local),
            all if all == names.len() => Ok(ConstraintsOf::Reference),
            _ => Err(PgError::unsupported("cannot set constraints of reference and of local tables in one statement")
                .hint("Use a statement for each, or SET CONSTRAINTS ALL.")),
        }
    }
}
