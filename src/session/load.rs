//! What a session's request is charged with, and whom: see `executor::loads`.

use std::rc::Rc;
use std::time::Duration;

use crate::executor::loads::{Charge, Meter, Sighting};
use crate::shard_map::hash::Value;
use crate::shard_map::{ColocationId, HashType, ShardGroupId};

/// The request under way.
pub struct RequestLoad {
    meter: Rc<Meter>,
    /// Of the statement that is being placed. Taken out while the session is borrowed.
    sighting: Sighting,
    /// Whose statements are under way.
    charges: Vec<Charge>,
    /// Of the client's messages.
    pub asked_bytes: u64,
    /// What had been sent to the client when the request began.
    pub sent_before: u64,
}

impl RequestLoad {
    pub fn new(meter: Rc<Meter>) -> Self {
        Self { meter, sighting: Sighting::default(), charges: Vec::new(), asked_bytes: 0, sent_before: 0 }
    }

    /// For the values of one more statement; comes back with `put_back`.
    pub fn take_sighting(&mut self) -> Sighting {
        let mut sighting = std::mem::take(&mut self.sighting);
        sighting.clear();
        sighting
    }

    pub fn put_back(&mut self, sighting: Sighting) {
        self.sighting = sighting;
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    pub fn see(&mut self, colocation: ColocationId, hash: HashType, value: &Value<'_>) {
        self.meter.see(&mut self.sighting, colocation, hash, value);
    }

    /// The statement whose values were seen goes to a server.
    pub fn place(&mut self, colocation: ColocationId, group: ShardGroupId, is_read: bool) {
        let charge = self.meter.place(&self.sighting, colocation, group, is_read);
        if self.charges.len() < CHARGES_MAX {
            self.charges.extend(charge);
        }
    }

    /// The request has been answered; until now `sent_bytes` have been sent to the client since its session began.
    pub fn charge(&mut self, took: Duration, sent_bytes: u64) {
        let asked = std::mem::take(&mut self.asked_bytes);
        let Some(parts) = std::num::NonZero::new(self.charges.len() as u64) else { return };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / parts;
        let bytes = (asked + sent_bytes.saturating_sub(self.sent_before)) / parts;
        for charge in self.charges.drain(..) {
            self.meter.charge(charge, micros, bytes);
        }
    }
}

/// Of a longer pipeline the first statements get all of its time.
const CHARGES_MAX: usize = 256;
