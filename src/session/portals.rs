//! A client's portals by name, and what they keep.

use bytes::{Bytes, BytesMut};
use foldhash::HashMap;

use super::extended_query::Portal;

#[derive(Default)]
pub struct Portals {
    by_name: HashMap<Bytes, Portal>,
    /// Length of their names and of the values bound here.
    bytes: usize,
}

impl Portals {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, name: &[u8]) -> Option<&Portal> {
        self.by_name.get(name)
    }

    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut Portal> {
        self.by_name.get_mut(name)
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn insert(&mut self, name: Bytes, portal: Portal) {
        let (name_len, portal_len) = (name.len(), portal.bytes());
        self.bytes += portal_len;
        match self.by_name.insert(name, portal) {
            Some(old) => self.bytes -= old.bytes(),
            None => self.bytes += name_len + ENTRY_BYTES,
        }
    }

    pub fn remove(&mut self, name: &[u8]) {
        if let Some(old) = self.by_name.remove(name) {
            self.bytes -= name.len() + ENTRY_BYTES + old.bytes();
        }
    }

    /// The next rows of a portal that has been executed, or that there are none; false where it gives no rows.
    pub fn give_rest(&mut self, name: &[u8], limit: u32, out: &mut BytesMut) -> bool {
        let Some(Portal::Virtual { rest: Some(rest), .. }) = self.by_name.get_mut(name) else { return false };
        let before = rest.bytes();
        rest.give(limit, out);
        self.bytes -= before - rest.bytes();
        true
    }

    pub fn clear(&mut self) {
        self.by_name.clear();
        self.bytes = 0;
    }
}

/// About what an entry takes beside its contents.
const ENTRY_BYTES: usize = 128;
