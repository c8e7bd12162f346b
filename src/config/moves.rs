//! The file's section on what moves may take of the servers.

use serde::{Deserialize, Serialize};

use super::units::{Size, Time};
use crate::operations::mover::MoveLimits;

/// What a move of shards may take of its servers. Moves that run follow a reload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Moves {
    /// Most bytes a second that one move copies; 0B: as fast as it goes. Unit: size. Default: 0B. Reload: yes.
    pub copy_rate: Size,
    /// Most bytes a second of changes that one move applies; 0B: as above. Unit: size. Default: 0B. Reload: yes.
    pub change_rate: Size,
    /// Copying pauses while a standby has more WAL to replay; 0B: never. Unit: size. Default: 256MB. Reload: yes.
    pub standby_lag: Size,
    /// A move ends when its slot keeps more WAL; 0B: it may keep any. Unit: size. Default: 16GB. Reload: yes.
    pub slot_wal: Size,
    /// For so long after a move it can be undone; 0ms: it cannot. Unit: time. Default: 0ms. Reload: yes.
    pub undo_window: Time,
    /// Most moves of shards that a node takes part in at the same time. Default: 1. Reload: yes.
    pub per_node: usize,
    /// Most moves at the same time of one rebalance, and of one colocation group. Default: 4. Reload: yes.
    pub at_once: usize,
}

impl Default for Moves {
    fn default() -> Self {
        let of = MoveLimits::default();
        let size = |bytes: u64| Size(usize::try_from(bytes).unwrap_or(usize::MAX));
        Self {
            copy_rate: size(of.copy_rate_bytes),
            change_rate: size(of.change_rate_bytes),
            standby_lag: size(of.standby_lag_bytes),
            slot_wal: size(of.slot_wal_bytes),
            undo_window: Time(of.undo_window),
            per_node: of.per_node,
            at_once: of.at_once,
        }
    }
}

impl Moves {
    pub fn limits(&self) -> MoveLimits {
        MoveLimits {
            copy_rate_bytes: self.copy_rate.0 as u64,
            change_rate_bytes: self.change_rate.0 as u64,
            standby_lag_bytes: self.standby_lag.0 as u64,
            slot_wal_bytes: self.slot_wal.0 as u64,
            undo_window: self.undo_window.0,
            per_node: self.per_node,
            at_once: self.at_once,
        }
    }
}
