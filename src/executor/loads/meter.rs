//! Counts of one data thread: nothing of it is locked, and once its tenants are known nothing is allocated.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::{Figures, LoadSettings, MICROS_PER_WEIGHT};
use crate::shard_map::hash::Value;
use crate::shard_map::{ColocationId, HashType, ShardGroupId};
use crate::tally::SpaceSaving;

/// Of one data thread. The default one counts nothing.
#[derive(Default)]
pub struct Meter {
    counts: RefCell<Option<Counts>>,
}

struct Counts {
    random: RandomState,
    tenants: SpaceSaving,
    /// One for each of its counters.
    of_tenants: Vec<Counted>,
    groups: Vec<Counted>,
    position: HashMap<ShardGroupId, usize>,
}

/// What is known of a tenant or, without a text, of a shard group.
#[derive(Debug, Clone)]
struct Counted {
    colocation: ColocationId,
    group: ShardGroupId,
    /// Where the shard group is counted.
    group_at: usize,
    text: String,
    figures: Figures,
}

/// The tenants that one statement names, as its values are read.
#[derive(Debug, Default)]
pub struct Sighting {
    /// 0: none yet.
    key: u64,
    /// Several.
    is_mixed: bool,
    /// Its value, when the meter has yet to learn of it.
    text: String,
}

/// Whom the time and the bytes of a statement are to be added to.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    group: ShardGroupId,
    group_at: usize,
    tenant: Option<(usize, u64)>,
}

/// What a thread has counted since it was last asked.
#[derive(Debug, Default)]
pub struct Taken {
    pub groups: Vec<(ColocationId, ShardGroupId, Figures)>,
    pub tenants: Vec<(ColocationId, ShardGroupId, String, Figures)>,
}

impl Sighting {
    /// For the next statement.
    pub fn clear(&mut self) {
        (self.key, self.is_mixed) = (0, false);
        self.text.clear();
    }
}

impl Meter {
    pub fn new(settings: &LoadSettings) -> Self {
        let meter = Self::default();
        meter.switch(settings);
        meter
    }

    fn switch(&self, settings: &LoadSettings) {
        let mut counts = self.counts.borrow_mut();
        let counters = settings.tenants.saturating_mul(COUNTERS_PER_TENANT).clamp(COUNTERS_MIN, COUNTERS_MAX);
        match (&*counts, settings.enabled) {
            (Some(_), false) => *counts = None,
            (None, true) => *counts = Some(Counts::new(counters)),
            (Some(known), true) if known.tenants.capacity() < counters => *counts = Some(Counts::new(counters)),
            _ => {}
        }
    }

    /// A value of the distribution column that a statement names.
    pub fn see(&self, sighting: &mut Sighting, colocation: ColocationId, hash: HashType, value: &Value<'_>) {
        let counts = self.counts.borrow();
        let Some(counts) = &*counts else { return };
        let key = counts.random.hash_one((colocation, value)).max(1);
        if sighting.key == 0 {
            sighting.key = key;
            if counts.tenants.find(key).is_none() {
                hash.print(value, &mut sighting.text);
                cut(&mut sighting.text);
            }
        } else {
            sighting.is_mixed |= sighting.key != key;
        }
    }

    /// The statement goes to the server of this shard group.
    pub fn place(
        &self,
        sighting: &Sighting,
        colocation: ColocationId,
        group: ShardGroupId,
        is_read: bool,
    ) -> Option<Charge> {
        let mut counts = self.counts.borrow_mut();
        let counts = counts.as_mut()?;
        let one = Figures { reads: is_read.into(), statements: 1, ..Figures::default() };
        let is_tenant = sighting.key != 0 && !sighting.is_mixed;
        let tenant = if is_tenant { counts.count_tenant(sighting, colocation, group) } else { None };
        let group_at = match tenant {
            Some((at, _)) => {
                counts.of_tenants[at].figures += one;
                counts.of_tenants[at].group_at
            }
            None => counts.position_of(colocation, group),
        };
        counts.groups[group_at].figures += one;
        Some(Charge { group, group_at, tenant })
    }

    /// It has been answered.
    pub fn charge(&self, charge: Charge, micros: u64, bytes: u64) {
        let mut counts = self.counts.borrow_mut();
        let Some(counts) = counts.as_mut() else { return };
        let spent = Figures { micros, bytes, ..Figures::default() };
        if let Some(group) = counts.groups.get_mut(charge.group_at).filter(|counted| counted.group == charge.group) {
            group.figures += spent;
        }
        // Another tenant may have taken its counter meanwhile, or all were thrown away.
        if let Some((at, key)) = charge.tenant
            && at < counts.of_tenants.len()
            && counts.tenants.add(at, key, micros / MICROS_PER_WEIGHT)
        {
            counts.of_tenants[at].figures += spent;
        }
    }

    /// What was counted since the last time. What is known stays known, and weighs half of what it did.
    pub(super) fn take(&self, settings: &LoadSettings) -> Taken {
        let taken = self.counts.borrow_mut().as_mut().map(Counts::take).unwrap_or_default();
        self.switch(settings);
        taken
    }
}

impl Counts {
    fn new(counters: usize) -> Self {
        let nobody = Counted {
            colocation: ColocationId(0),
            group: ShardGroupId(0),
            group_at: 0,
            text: String::new(),
            figures: Figures::default(),
        };
        let tenants = SpaceSaving::new(counters);
        Self {
            random: RandomState::default(),
            of_tenants: vec![nobody; tenants.capacity()],
            tenants,
            groups: Vec::new(),
            position: HashMap::new(),
        }
    }

    /// The tenant's counter and key; `None` when nobody can say what it is called.
    fn count_tenant(
        &mut self,
        sighting: &Sighting,
        colocation: ColocationId,
        group: ShardGroupId,
    ) -> Option<(usize, u64)> {
        if sighting.text.is_empty() && self.tenants.find(sighting.key).is_none() {
            // It was known when it was seen, and is not any more.
            return None;
        }
        let counter = self.tenants.count(sighting.key);
        if counter.is_new || self.of_tenants[counter.at].group != group {
            let group_at = self.position_of(colocation, group);
            let tenant = &mut self.of_tenants[counter.at];
            (tenant.colocation, tenant.group, tenant.group_at) = (colocation, group, group_at);
            if counter.is_new {
                sighting.text.clone_into(&mut tenant.text);
                tenant.figures = Figures::default();
            }
        }
        Some((counter.at, sighting.key))
    }

    fn position_of(&mut self, colocation: ColocationId, group: ShardGroupId) -> usize {
        *self.position.entry(group).or_insert_with(|| {
            let (group_at, figures) = (self.groups.len(), Figures::default());
            self.groups.push(Counted { colocation, group, group_at, text: String::new(), figures });
            group_at
        })
    }

    fn take(&mut self) -> Taken {
        let mut taken = Taken::default();
        let is_used = |counted: &&mut Counted| counted.figures != Figures::default();
        for counted in self.groups.iter_mut().filter(is_used) {
            taken.groups.push((counted.colocation, counted.group, std::mem::take(&mut counted.figures)));
        }
        for counted in self.of_tenants.iter_mut().filter(is_used) {
            let figures = std::mem::take(&mut counted.figures);
            taken.tenants.push((counted.colocation, counted.group, counted.text.clone(), figures));
        }
        self.tenants.halve();
        if self.groups.len() > GROUPS_MAX {
            // Of groups that are split and split again only numbers are left.
            *self = Self::new(self.tenants.capacity());
        }
        taken
    }
}

/// At the boundary of a character.
fn cut(text: &mut String) {
    if text.len() > TEXT_LEN_MAX {
        let end = (0..=TEXT_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    if text.is_empty() {
        // The empty text is a tenant too.
        text.push_str("''");
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

/// As in Citus. Longer values that begin alike are told as one.
const TEXT_LEN_MAX: usize = 100;
/// Room for those that come and go.
const COUNTERS_PER_TENANT: usize = 8;
const COUNTERS_MIN: usize = 64;
const COUNTERS_MAX: usize = 64 * 1024;
const GROUPS_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const COLOCATION: ColocationId = ColocationId(1);

    fn run(meter: &Meter, tenants: &[i64], group: u64, is_read: bool) -> Option<Charge> {
        let mut sighting = Sighting::default();
        for tenant in tenants {
            meter.see(&mut sighting, COLOCATION, HashType::Int8, &Value::Integer(*tenant));
        }
        meter.place(&sighting, COLOCATION, ShardGroupId(group), is_read)
    }

    #[test]
    fn statements_count_for_their_tenant_and_its_shard_group() {
        let settings = LoadSettings::default();
        let meter = Meter::new(&settings);
        let charge = run(&meter, &[7], 100, true).expect("it counts");
        meter.charge(charge, 2500, 300);
        run(&meter, &[7, 7], 100, false);
        // Of two tenants, and of none.
        run(&meter, &[7, 8], 100, true);
        run(&meter, &[], 100, true);
        let taken = meter.take(&settings);
        let tenant = Figures { reads: 1, statements: 2, micros: 2500, bytes: 300 };
        assert_eq!(taken.tenants, [(COLOCATION, ShardGroupId(100), "7".to_owned(), tenant)]);
        let group = Figures { reads: 3, statements: 4, micros: 2500, bytes: 300 };
        assert_eq!(taken.groups, [(COLOCATION, ShardGroupId(100), group)]);
        assert_eq!(tenant.weight(), 4);

        // Known still, counted from nothing; in another group since it was isolated.
        let charge = run(&meter, &[7], 200, true).expect("it counts");
        assert!(meter.take(&settings).tenants.iter().any(|(_, group, text, _)| (group.0, text.as_str()) == (200, "7")));
        meter.charge(charge, 1, 1);
        assert_eq!(meter.take(&settings).tenants[0].3.bytes, 1, "an answer may come later");
        assert!(meter.take(&settings).tenants.is_empty());
    }

    #[test]
    fn a_meter_that_is_off_counts_nothing() {
        let (on, off) = (LoadSettings::default(), LoadSettings { enabled: false, ..LoadSettings::default() });
        let meter = Meter::new(&off);
        assert!(run(&meter, &[7], 100, true).is_none());
        assert!(meter.take(&on).tenants.is_empty());
        let charge = run(&meter, &[7], 100, true).expect("it is on now");
        assert_eq!(meter.take(&off).tenants.len(), 1);
        meter.charge(charge, 1, 1);
        assert!(meter.take(&on).groups.is_empty());
        // What was placed before may be answered when nothing is known of it any more.
        meter.charge(charge, 1, 1);
        assert!(meter.take(&on).groups.is_empty());
    }

    #[test]
    fn what_is_cut_off_is_cut_between_characters() {
        let mut text = "ä".repeat(80);
        cut(&mut text);
        assert_eq!(text, "ä".repeat(50));
        let mut long = format!("a{}", "ä".repeat(80));
        cut(&mut long);
        assert_eq!(long.len(), 99);
    }
}
