//! Which worker holds which shard group, before and after, and the rows that went from one to another.

use std::collections::BTreeMap;

use crate::cli::connection::{Connection, ProxyAddress};
use crate::error::{PgError, Result, SqlState};

/// The worker's port of each shard group of the demo's tables.
#[derive(Debug, PartialEq, Eq)]
pub struct Placements {
    port_of: BTreeMap<u64, u16>,
}

impl Placements {
    /// Reads them as any client can. The first table of its colocation group has the shard groups' own ids.
    pub async fn read(connection: &Connection) -> Result<Self> {
        let table = connection.ask(PLACEMENTS).await?;
        let number = |row: usize, column: usize| table.at(row, column).unwrap_or_default();
        let placement = |row: usize| Some((number(row, 0).parse().ok()?, number(row, 1).parse().ok()?));
        let port_of = (0..table.rows.len()).map(placement).collect::<Option<_>>();
        let port_of =
            port_of.ok_or_else(|| PgError::new(SqlState::DATA_CORRUPTED, "shard placements are not readable"))?;
        Ok(Self { port_of })
    }

    /// The shard groups that live elsewhere in `later`.
    pub fn moved_to(&self, later: &Placements) -> Vec<u64> {
        let moved = self.port_of.iter().filter(|(group, port)| later.port_of.get(group) != Some(port));
        moved.map(|(group, _)| *group).collect()
    }

    /// Rows of both tables in these shard groups, asked of the workers themselves, past the proxy.
    pub async fn rows_of(&self, groups: &[u64]) -> Result<u64> {
        let mut by_port: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
        for group in groups {
            if let Some(port) = self.port_of.get(group) {
                by_port.entry(*port).or_default().push(*group);
            }
        }
        let mut rows = 0;
        for (port, groups) in by_port {
            let worker = ProxyAddress::dev(port).connect().await?;
            for group in groups {
                let count = "SELECT (SELECT count(*) FROM $.github_events) + (SELECT count(*) FROM $.github_users)";
                let counted = worker.ask(&count.replace('$', &format!("public_{group}"))).await?;
                rows += counted.number().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
            }
        }
        Ok(rows)
    }
}

const PLACEMENTS: &str = "
    SELECT s.shardid, n.nodeport
    FROM pg_dist_shard s
    JOIN pg_dist_placement p ON p.shardid = s.shardid
    JOIN pg_dist_node n ON n.groupid = p.groupid
    WHERE s.logicalrelid = 'github_events'::regclass";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_changed_its_worker_was_moved() {
        let placements = |ports: [u16; 3]| Placements { port_of: (1..).zip(ports).collect() };
        assert_eq!(placements([10, 11, 10]).moved_to(&placements([10, 12, 13])), [2, 3]);
        assert_eq!(placements([10, 11, 10]).moved_to(&placements([10, 11, 10])), [0_u64; 0]);
    }
}
