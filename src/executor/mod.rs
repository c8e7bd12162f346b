//! Runs plans.
//!
//! ```text
//!   session ──plan, values──> executor ──> Transaction ──> Participant (one server per node) ──> Postgres
//!                                 └─ relay: frames of one server to the client, unopened
//! ```
//!
//! One `Executor` per data thread. Everything a client runs goes through a `Transaction`, which knows the servers that
//! take part and how to end on all of them at once.

mod ask;
pub mod cancel;
mod client;
pub mod combine;
pub mod copy_back;
pub mod copy_in;
pub mod copy_out;
mod defaults;
pub mod figures;
mod handed;
mod hold;
mod journal;
mod kept;
pub mod loads;
mod object_ids;
mod participant;
mod pulse;
mod reader;
pub mod reference;
mod relay;
mod route;
pub mod scatter;
pub mod staged;
mod transaction;
mod two_phase;

pub use client::{Client, ClientLimits, MESSAGE_BYTES_MAX, Mark};
pub use handed::Handed;
pub use hold::{EnteredTables, Guards, Holds};
pub use journal::changed_parameters;
pub use kept::Kept;
pub use object_ids::ObjectIds;
pub use participant::Participant;
pub use pulse::{PULSE, pulse};
pub use relay::{Relayed, Retry, Routed, distributed_meanwhile, names_moved_shard, relay};
pub use route::{Found, Target, Use, Values};
pub use transaction::{
    Answered, ConstraintsOf, FirstTimeouts, Kind, Limit, Origin, Pin, PoolsAtHand, Timeouts, Transaction,
};
pub use two_phase::{TransactionIds, transaction_of_gid};

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::backend::{Pools, ServerAddress, ShareUnnamed};
use crate::catalog::{Catalog, MapAtHand};
use crate::error::{PgError, SqlState};
use loads::Loads;

/// What running a plan needs, shared by the sessions of one data thread.
pub struct Executor {
    pub pools: Pools,
    pub catalog: Arc<Catalog>,
    pub map: MapAtHand,
    pub holds: Arc<Holds>,
    pub loads: Arc<Loads>,
    pub coordinator: ServerAddress,
    pub object_ids: ObjectIds,
    pub transaction_ids: Arc<TransactionIds>,
    /// They may change at any time.
    pub settings: Arc<ArcSwap<Settings>>,
}

/// Bounds of execution.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Longest wait for a shard group that is being cut over, before 40001.
    pub hold_timeout: Duration,
    /// Most bytes one COPY keeps in memory before rows are sent.
    pub copy_buffer_bytes: usize,
    /// Most bytes that one query gathers from the shards to combine them.
    pub rowset_bytes: usize,
    /// The longest row that COPY accepts.
    pub copy_row_bytes: usize,
    /// In force from a client's login on.
    pub client: Arc<ClientLimits>,
    /// Most prepared statements of one client.
    pub client_statements: usize,
    /// Most bytes that their texts may take together.
    pub client_statement_bytes: usize,
    /// What servers keep of statements without a name.
    pub share_unnamed: ShareUnnamed,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold_timeout: Duration::from_secs(30),
            copy_buffer_bytes: 16 << 20,
            rowset_bytes: 1 << 30,
            copy_row_bytes: 256 << 20,
            client: Arc::default(),
            share_unnamed: ShareUnnamed::Auto,
            client_statements: 10_000,
            client_statement_bytes: 16 << 20,
        }
    }
}

/// A plan names what the map does not have any more.
fn stale_plan() -> PgError {
    PgError::new(SqlState::SERIALIZATION_FAILURE, "the placement of a table changed while the statement was planned")
        .hint("Retry the query.")
}

/// The statement could not be brought to where the shard is now.
pub fn moved() -> PgError {
    PgError::new(SqlState::SERIALIZATION_FAILURE, "a shard was moved while the transaction used its node")
        .hint("Retry the transaction.")
}
