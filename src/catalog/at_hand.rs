//! The newest map as one thread has it at hand: to read it costs a look at one number, where every thread would count
//! references to the same map, and most statements read it several times.

use std::cell::Cell;
use std::sync::Arc;

use super::Catalog;
use crate::shard_map::ShardMap;

/// One thread's. Keeps a map until the next is asked for, also when there is a newer one.
pub struct MapAtHand {
    catalog: Arc<Catalog>,
    map: Cell<Option<Arc<ShardMap>>>,
}

impl MapAtHand {
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, map: Cell::default() }
    }

    /// The newest map, for a moment.
    pub fn with<T>(&self, read: impl FnOnce(&ShardMap) -> T) -> T {
        // Taken out meanwhile: a reader inside a reader has one of its own.
        let map = self.map.take().filter(|map| self.catalog.is_newest(map)).unwrap_or_else(|| self.catalog.map());
        let read = read(&map);
        self.map.set(Some(map));
        read
    }
}
