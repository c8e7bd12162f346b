//! A server that a session has waited for, until its statement takes it.

use std::cell::RefCell;
use std::rc::Rc;

use crate::backend::PooledServer;
use crate::shard_map::NodeId;

/// One session's, shared by its transactions. Holds one server at most, and only while a request is under way.
#[derive(Clone, Default)]
pub struct Handed {
    server: Rc<RefCell<Option<(NodeId, PooledServer)>>>,
}

impl Handed {
    pub fn put(&self, node: NodeId, server: PooledServer) {
        self.server.replace(Some((node, server)));
    }

    /// The one that was waited for, when it is `node`'s. Otherwise it goes back: who waits for one server has none
    /// that others wait for.
    pub fn take(&self, node: NodeId) -> Option<PooledServer> {
        let (of, server) = self.server.take()?;
        (of == node).then_some(server)
    }

    /// It is not needed after all.
    pub fn give_back(&self) {
        drop(self.server.take());
    }
}
