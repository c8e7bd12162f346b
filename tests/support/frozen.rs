//! Servers that stand still with all their connections open.

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use super::{dsn, psql, signal};

/// Every process of a server, which stands still until this is dropped.
pub struct Frozen(Vec<u32>);

impl Frozen {
    pub fn server(port: u16) -> Self {
        let all = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                   UNION ALL SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
        let pids: Vec<u32> = psql(&dsn(port), all).lines().map(|pid| pid.parse().expect("a process id")).collect();
        // The one that starts others comes last: until then they may end.
        pids.iter().for_each(|pid| signal(*pid, "STOP"));
        Self(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, "CONT"));
    }
}
