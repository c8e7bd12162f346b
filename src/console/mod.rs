//! The admin database: what pooler users know as `psql -p 7432 tenantry -c 'SHOW POOLS'`.
//!
//! ```text
//!   session ──Visitor──> conversation   both query protocols, one command after the other
//!                          └─ command   text -> Command
//!                               ├─ Show  tables: rows made from figures of sessions, pools, settings
//!                               └─ Reload  as SIGHUP
//! ```
//!
//! Columns have PgBouncer's names where they mean the same. No row shows anything of a tenant or of a statement.

mod command;
mod conversation;
mod tables;
mod time;
mod value;

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;

use crate::backend::{Nodes, ServerAddress};
use crate::catalog::Catalog;
use crate::config::{Reloaded, Reloader};
use crate::error::Result;
use crate::session::{AdminDatabase, Presences, Tallies, Visitor};

/// Where the answers come from.
pub struct Console {
    pub nodes: Arc<Nodes>,
    pub catalog: Arc<Catalog>,
    pub coordinator: ServerAddress,
    pub presences: Arc<Presences>,
    pub tallies: Arc<Tallies>,
    pub settings: Arc<Reloader>,
    /// Puts the configuration file in force.
    pub reload: Box<dyn Fn() -> Result<Reloaded> + Send + Sync>,
}

impl AdminDatabase for Console {
    fn serve(&self, visitor: Visitor) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(conversation::serve(self, visitor))
    }
}
