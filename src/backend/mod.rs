//! Server side: one connection to a Postgres server, and pools of them.
//!
//! ```text
//!   executor ──checkout──> Pools ──(node, role, database)──> Pool ──> Server ──> Postgres
//!                                                             └─ places, queue, outages: Node, shared by all threads
//! ```
//!
//! `Nodes::figures()` tells how full everything is, from any thread (`figures.rs`).
//!
//! Invariant: a connection whose protocol position is not exactly known is closed without another byte, never reused.

pub mod cancel;
mod control;
mod demands;
mod describe;
mod figures;
mod guard;
mod homes;
mod hosts;
mod leftovers;
mod link;
mod login;
mod node;
mod nodes;
mod overseer;
mod pace;
mod pause;
mod place;
mod pool;
mod pool_settings;
mod pool_tally;
mod prepared;
mod queue;
mod reading;
pub mod replication;
mod reported;
mod server;
mod settings;
mod width;

pub use demands::{Demand, Demands};
pub use describe::Description;
pub use figures::{NodeFigures, PoolFigures, ServerFigures};
pub use guard::guard;
pub use homes::Subject;
pub use hosts::{NodeHosts, WRITTEN_TIMELINE};
pub use link::Link;
pub use login::{Identity, OWN_DEFAULTS, SERVER_KEEPALIVES, Secret, ServerAccess, ServerAddress, unacceptable};
pub use node::Node;
pub use nodes::Nodes;
pub use pool::{FoundPool, PooledServer, Pools};
pub use pool_settings::{PoolMode, PoolSettings, ShareUnnamed};
pub use prepared::{Plans, Prepared, StatementKey};
pub use reported::Change;
pub use server::{BROKEN_ROW, Frame, Row, Server};
pub use settings::{
    SessionSettings, SharedSettings, config_statement, quote_ident, quote_literal, set_statement, sets_for_constants,
};
