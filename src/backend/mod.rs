//! Server side: one connection to a Postgres server, and pools of them.
//!
//! ```text
//!   executor ──checkout──> Pools ──(node, role, database)──> Pool ──> Server ──> Postgres
//! ```
//!
//! Invariant: a connection whose protocol position is not exactly known is closed without another byte, never reused.

pub mod cancel;
mod describe;
mod login;
mod pool;
mod prepared;
pub mod replication;
mod server;
mod settings;

pub use describe::Description;
pub use login::{Identity, Secret, ServerAddress};
pub use pool::{PoolSettings, PooledServer, Pools};
pub use prepared::{Prepared, StatementKey};
pub use server::{Frame, Row, Server};
pub use settings::{SessionSettings, quote_ident, quote_literal, set_statement};
