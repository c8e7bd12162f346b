//! The admin database: what pooler users know as `psql -p 7432 tenantry -c 'SHOW POOLS'`.
//!
//! ```text
//!   session ──Visitor──> conversation   both query protocols, one command after the other
//!                          └─ command   text -> Command
//!                               ├─ Show  tables: rows made from figures of sessions, pools, settings
//!                               └─ Reload  as SIGHUP
//! ```
//!
//! `/metrics` tells the same figures (`metrics`). Columns have PgBouncer's names where they mean the same. No row shows anything of a tenant or of a statement.

mod averages;
mod command;
mod conversation;
mod metrics;
mod tables;
mod time;
mod value;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;

pub use averages::Averages;
use averages::{PERIOD, Sums};
pub use command::Shutdown;

use crate::backend::{Nodes, ServerAddress};
use crate::catalog::Catalog;
use crate::config::{Reloaded, Reloader};
use crate::error::Result;
use crate::executor::{Holds, TransactionIds};
use crate::session::{AdminDatabase, CancelKeys, Door, Presence, Presences, Tallies, Visitor};

/// Where the answers come from.
pub struct Console {
    pub nodes: Arc<Nodes>,
    pub catalog: Arc<Catalog>,
    pub coordinator: ServerAddress,
    pub presences: Arc<Presences>,
    pub tallies: Arc<Tallies>,
    pub holds: Arc<Holds>,
    pub transaction_ids: Arc<TransactionIds>,
    pub settings: Arc<Reloader>,
    pub averages: Averages,
    pub door: Arc<Door>,
    pub cancel_keys: Arc<CancelKeys>,
    /// Puts the configuration file in force.
    pub reload: Box<dyn Fn() -> Result<Reloaded> + Send + Sync>,
    /// Lets the process come to its end.
    pub shutdown: Box<dyn Fn(Shutdown) + Send + Sync>,
}

impl Console {
    /// Notes what averages are made of, period by period. Never ends. Cancel safe.
    pub async fn note_averages(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.averages.note(Instant::now(), self.sums());
        }
    }

    /// Ends sessions, with what they run: how many there are. They may take a moment longer.
    async fn end_sessions(&self, is_meant: impl Fn(&Presence) -> bool) -> usize {
        let mut meant = self.presences.all();
        meant.retain(|presence| is_meant(presence));
        let ids: HashSet<u32> = meant.iter().map(|presence| presence.id).collect();
        // Before their statements are cancelled: none runs another.
        meant.iter().for_each(|presence| presence.end());
        self.cancel_keys.cancel_those(|id| ids.contains(&id)).await;
        meant.len()
    }

    /// Everything that has happened since the start.
    fn sums(&self) -> Sums {
        let totals = self.tallies.totals();
        let mut sums = Sums {
            transactions: totals.transactions,
            statements: totals.statements.iter().sum(),
            requests: totals.requests.count(),
            received_bytes: totals.received_bytes,
            sent_bytes: totals.sent_bytes,
            transaction_micros: totals.transaction_micros,
            request_micros: totals.requests.micros,
            ..Sums::default()
        };
        for pool in self.nodes.figures().iter().flat_map(|node| &node.pools) {
            sums.waits += pool.waits.count();
            sums.wait_micros += pool.waits.micros;
        }
        sums
    }
}

impl AdminDatabase for Console {
    fn serve(&self, visitor: Visitor) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(conversation::serve(self, visitor))
    }
}
