//! Session pooling: the servers that a session keeps from their first use until it ends (`pool.mode = "session"`).

use std::cell::RefCell;

use crate::backend::PooledServer;
use crate::shard_map::NodeId;

/// One session's, shared by its transactions.
#[derive(Default)]
pub struct Kept {
    servers: RefCell<Vec<(NodeId, PooledServer)>>,
}

impl Kept {
    /// The session's own connection to `node`, if it has one that still works.
    pub fn take(&self, node: NodeId) -> Option<PooledServer> {
        let mut servers = self.servers.borrow_mut();
        let at = servers.iter().position(|(of, _)| *of == node)?;
        let (_, mut server) = servers.swap_remove(at);
        (server.is_reusable() && server.looks_alive()).then_some(server)
    }

    /// Those connections, to be put back.
    pub fn take_those(&self, wanted: impl Fn(&PooledServer) -> bool) -> Vec<(NodeId, PooledServer)> {
        self.servers.borrow_mut().extract_if(.., |(_, server)| wanted(server)).collect()
    }

    /// Whatever the session has left on them is gone when they are used again.
    pub fn wipe(&self) {
        self.servers.borrow_mut().iter_mut().for_each(|(_, server)| server.leftovers.is_unsure = true);
    }

    /// Keeps a connection that is at rest; any other one is closed.
    pub fn put(&self, node: NodeId, server: PooledServer) {
        if server.is_reusable() {
            self.servers.borrow_mut().push((node, server));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.wipe();
    }
}
