//! The decision on a transaction over several nodes: made once, whoever asks first.
//!
//! Presumed abort: no row means that nobody may commit. A recoverer therefore writes `abort` before it rolls back, and
//! an owner that is late finds that row and rolls back too.

use tokio_postgres::GenericClient;
use tokio_postgres::error::Severity;

use super::pg_error;
use super::quote::literal;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Commit,
    Abort,
}

impl Decision {
    fn as_str(self) -> &'static str {
        match self {
            Decision::Commit => "commit",
            Decision::Abort => "abort",
        }
    }

    fn read(text: &str) -> Result<Self> {
        match text {
            "commit" => Ok(Decision::Commit),
            "abort" => Ok(Decision::Abort),
            other => {
                Err(PgError::new(SqlState::DATA_CORRUPTED, format!("unknown decision \"{other}\" in the catalog")))
            }
        }
    }
}

/// Why no decision is known.
#[derive(Debug)]
pub enum Undecided {
    /// Nobody has decided by this: it was not asked for, or the coordinator refused to write it.
    Refused(PgError),
    /// The answer was lost: it may have been decided.
    Lost(PgError),
}

impl From<Undecided> for PgError {
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Refused(error) | Undecided::Lost(error) => error,
        }
    }
}

impl Undecided {
    /// Of the statement that decides, and is a transaction by itself.
    fn by(error: tokio_postgres::Error) -> Self {
        // A FATAL may come behind the commit.
        let is_refused = error.as_db_error().is_some_and(|error| error.parsed_severity() == Some(Severity::Error));
        if is_refused { Self::Refused(pg_error(error)) } else { Self::Lost(pg_error(error)) }
    }
}

/// A decided transaction whose parts may not all be finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub txn: String,
    pub decision: Decision,
    pub nodes: Vec<NodeId>,
}

/// Decides unless somebody did; answers the decision that stands. Durable when it returns (outside a transaction).
pub async fn decide(
    client: &impl GenericClient,
    txn: &str,
    decision: Decision,
    nodes: &[NodeId],
) -> std::result::Result<Decision, Undecided> {
    let nodes: Vec<i32> = nodes.iter().map(|n| n.0 as i32).collect();
    client
        .execute(
            "INSERT INTO tenantry.two_phase (txn, decision, nodes) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[&txn, &decision.as_str(), &nodes],
        )
        .await
        .map_err(Undecided::by)?;
    let stands = find(client, txn).await.map_err(Undecided::Lost)?;
    stands.ok_or_else(|| {
        let removed = "the decision on a transaction was removed while it was made";
        Undecided::Lost(PgError::new(SqlState::SERIALIZATION_FAILURE, removed))
    })
}

/// Statement for the coordinator's own part of the transaction, as the client's role, last before its COMMIT, which then
/// is the decision to commit. Fails with 23505 when a recoverer has decided to abort.
pub fn decide_commit(txn: &str, nodes: &[NodeId]) -> String {
    let nodes = nodes.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    // The decision must outlive a crash even if the client does not mind losing its last commits.
    format!(
        "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) \
         WHERE pg_catalog.current_setting('synchronous_commit') = 'off'; \
         SELECT tenantry.decide_commit({}, '{{{nodes}}}')",
        literal(txn)
    )
}

/// The decision, if one was made.
pub async fn find(client: &impl GenericClient, txn: &str) -> Result<Option<Decision>> {
    let row =
        client.query_opt("SELECT decision FROM tenantry.two_phase WHERE txn = $1", &[&txn]).await.map_err(pg_error)?;
    row.map(|row| Decision::read(row.try_get(0).map_err(pg_error)?)).transpose()
}

/// Every decision on record, oldest first.
pub async fn all(client: &impl GenericClient) -> Result<Vec<Decided>> {
    let rows = client
        .query("SELECT txn, decision, nodes FROM tenantry.two_phase ORDER BY decided_at, txn", &[])
        .await
        .map_err(pg_error)?;
    rows.iter()
        .map(|row| {
            let nodes: Vec<i32> = row.try_get(2).map_err(pg_error)?;
            Ok(Decided {
                txn: row.try_get(0).map_err(pg_error)?,
                decision: Decision::read(row.try_get(1).map_err(pg_error)?)?,
                nodes: nodes.into_iter().map(|n| NodeId(n as u32)).collect(),
            })
        })
        .collect()
}

/// When every node has finished its part.
pub async fn forget(client: &impl GenericClient, txn: &str) -> Result<()> {
    client.execute("DELETE FROM tenantry.two_phase WHERE txn = $1", &[&txn]).await.map_err(pg_error)?;
    Ok(())
}
