//! What the coordinator remembers: nodes, tables, shard groups, decisions, jobs, in schema `tenantry` of its database.
//!
//! ```text
//!   schema/NNN_*.sql ──migrate──> tables + views ──load──> JSON ──> ShardMap ──watch──> every session
//!                                      ▲                                                   │
//!             operations write rows ───┘  (a trigger rings channel tenantry_catalog) ──────┘
//! ```
//!
//! The control channel lives here too: pools of tokio-postgres connections to the coordinator and the workers, never
//! used for a client's statements, always with `search_path = pg_catalog, pg_temp`.

mod at_hand;
mod connection;
mod gate;
mod load;
mod migrate;
mod settings;
mod watch;
mod way;

pub mod cancel_requests;
pub mod cleanup;
pub mod holds;
pub mod job_tasks;
pub mod jobs;
pub mod loads;
pub mod nodes;
pub mod proxies;
pub mod quote;
pub mod shards;
pub mod tables;
pub mod two_phase;

pub use at_hand::MapAtHand;
pub use connection::{
    checkout, connect, connect_patiently, connect_to_coordinator, connect_to_primary, is_away, pg_error,
};
pub use gate::Gate;
pub use load::{LOAD, parse};
pub use migrate::migrate;
pub use settings::{Address, Settings};
pub use watch::{Catalog, SCHEMA_CHANGED};
