//! What a client's transaction does on a node and his role may not do there: it runs as the control role, in that transaction.
//!
//! ```text
//!   control connection:    CREATE FUNCTION of the statements, for his role ──────────────────── DROP FUNCTION
//!   client's transaction:                                                 SELECT the function
//! ```
//!
//! So it sees the transaction's own locks, and ends as that does. The function is dropped once it was called, however that went; what a
//! proxy leaves that dies in between, `citus_cleanup_orphaned_resources` drops: its name tells the session that it was for.

use deadpool_postgres::Object;

use crate::catalog::quote::literal;
use crate::catalog::{Catalog, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::NodeId;

/// Statements that a role may run on one node, for as long as this lives.
pub(super) struct Lent {
    function: String,
    /// Until it is dropped.
    control: Option<Object>,
}

impl Lent {
    /// To the role that the transaction has on the node. `statements` have no parameters, and no result.
    ///
    /// Errors: those of the node.
    pub async fn to(txn: &mut Transaction, catalog: &Catalog, node: NodeId, statements: &str) -> Result<Self> {
        let who = "SELECT pg_catalog.quote_ident(current_user), pg_catalog.pg_backend_pid()";
        let [Some(role), Some(process)] = &txn.query(node, who).await?.concat()[..] else {
            let text = "a node did not tell who the transaction is there";
            return Err(PgError::new(SqlState::INTERNAL_ERROR, text));
        };
        let function = format!("tenantry.as_control_{process}_{:016x}()", rand::random::<u64>());
        let create = format!(
            "CREATE FUNCTION {function} RETURNS void LANGUAGE sql SECURITY DEFINER \
                 SET search_path = pg_catalog, pg_temp AS {}; \
             REVOKE ALL ON FUNCTION {function} FROM PUBLIC; GRANT EXECUTE ON FUNCTION {function} TO {role}",
            literal(statements)
        );
        let control = catalog.client(node).await?;
        let lent = Self { function, control: Some(control) };
        if let Some(control) = &lent.control {
            change(control, &create).await?;
        }
        Ok(lent)
    }

    /// What runs them.
    pub fn call(&self) -> String {
        format!("SELECT {}", self.function)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(control) = self.control.take() else { return };
        let drop = format!("DROP FUNCTION IF EXISTS {}", self.function);
        tokio::spawn(async move {
            if let Err(error) = change(&control, &drop).await {
                tracing::warn!(%error, drop, "could not drop a function that a role was lent on a node");
            }
        });
    }
}

async fn change(control: &Object, sql: &str) -> Result<()> {
    // A server whose standby was promoted is confirmed nothing any more.
    let sql = format!("BEGIN READ WRITE; SET LOCAL synchronous_commit TO local; {sql}; COMMIT");
    let done = control.batch_execute(&sql).await.map_err(pg_error);
    if done.is_err() {
        control.batch_execute("ROLLBACK").await.map_err(pg_error)?;
    }
    done
}
