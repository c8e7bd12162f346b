//! What a process has counted, by period: this one, and the one before it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::meter::Taken;
use super::{Figures, LoadSettings};
use crate::catalog::loads::Period;
use crate::shard_map::{ColocationId, ShardGroupId};

pub use crate::catalog::loads::Row;

/// Of all threads together.
#[derive(Debug)]
pub struct Collected {
    /// When this period began.
    began: Instant,
    /// A whole period was counted before it.
    has_before: bool,
    length: Duration,
    groups: HashMap<(ColocationId, ShardGroupId), Both>,
    tenants: HashMap<(ColocationId, String), (ShardGroupId, Both)>,
    /// The catalog has other figures.
    pub has_changed: bool,
    /// The newest of all resets that these figures know of.
    pub reset: Option<String>,
}

/// Of one tenant or shard group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Both {
    now: Figures,
    before: Figures,
}

impl Both {
    fn weight(&self) -> u64 {
        self.now.weight() + self.before.weight()
    }

    fn roll(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Collected {
    /// Nothing yet, in periods of this length from `now` on.
    pub fn new(length: Duration, now: Instant) -> Self {
        Self {
            began: now,
            has_before: false,
            length,
            groups: HashMap::new(),
            tenants: HashMap::new(),
            has_changed: false,
            reset: None,
        }
    }

    /// Adds what threads have counted until `now`.
    pub fn add(&mut self, taken: Vec<Taken>, settings: &LoadSettings, now: Instant) {
        if self.length != settings.period {
            self.length = settings.period;
            self.forget(now);
        }
        self.turn(now);
        for taken in taken {
            self.has_changed |= !taken.groups.is_empty();
            for (colocation, group, figures) in taken.groups {
                self.groups.entry((colocation, group)).or_default().now += figures;
            }
            for (colocation, group, text, figures) in taken.tenants {
                let (home, both) = self.tenants.entry((colocation, text)).or_insert((group, Both::default()));
                *home = group;
                both.now += figures;
            }
        }
        // Those that have just come have a chance to grow.
        if self.tenants.len() > settings.tenants.saturating_mul(ROOM) {
            let kept = heaviest(&self.tenants, |(_, both)| both.weight(), settings.tenants.saturating_mul(ROOM));
            self.tenants.retain(|key, _| kept.contains(key));
        }
    }

    /// Ends periods that are over.
    fn turn(&mut self, now: Instant) {
        let over = now.saturating_duration_since(self.began).as_nanos() / self.length.as_nanos().max(1);
        for _ in 0..over.min(2) {
            self.groups.values_mut().for_each(Both::roll);
            self.tenants.values_mut().for_each(|(_, both)| both.roll());
        }
        if over > 0 {
            let over = u32::try_from(over).unwrap_or(u32::MAX);
            self.began += self.length.saturating_mul(over);
            (self.has_before, self.has_changed) = (true, true);
            self.groups.retain(|_, both| !both.is_empty());
            self.tenants.retain(|_, (_, both)| !both.is_empty());
        }
    }

    /// For the catalog.
    pub fn rows(&self, settings: &LoadSettings, now: Instant) -> (Period, Vec<Row>) {
        let age = now.saturating_duration_since(self.began);
        let covers = if self.has_before { age + self.length } else { age };
        let row = |colocation: ColocationId, group: ShardGroupId, tenant: Option<&String>, both: &Both| Row {
            colocation,
            group,
            tenant: tenant.cloned(),
            now: both.now.into(),
            before: both.before.into(),
        };
        let shown = heaviest(&self.tenants, |(_, both)| both.weight(), settings.tenants);
        let groups = self.groups.iter().map(|((colocation, group), both)| row(*colocation, *group, None, both));
        let tenants = self.tenants.iter().filter(|(key, _)| shown.contains(key));
        let tenants = tenants.map(|((colocation, text), (group, both))| row(*colocation, *group, Some(text), both));
        (Period { age, length: self.length, covers }, groups.chain(tenants).collect())
    }

    /// Begins anew.
    pub fn forget(&mut self, now: Instant) {
        let reset = self.reset.take();
        *self = Self { reset, has_changed: true, ..Self::new(self.length, now) };
    }
}

impl From<Figures> for crate::catalog::loads::Figures {
    fn from(figures: Figures) -> Self {
        let Figures { reads, statements, micros, bytes } = figures;
        [reads, statements, micros, bytes].map(|number| i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// The keys of the so many that weigh most.
fn heaviest<K: Clone + Eq + Hash + Ord, V>(
    all: &HashMap<K, V>,
    weight: impl Fn(&V) -> u64,
    limit: usize,
) -> std::collections::HashSet<K> {
    let mut keys: Vec<(u64, &K)> = all.iter().map(|(key, value)| (weight(value), key)).collect();
    keys.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    keys.into_iter().take(limit).map(|(_, key)| key.clone()).collect()
}

/// So many times as many tenants are kept as are shown.
const ROOM: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(tenants: &[(&str, u64)]) -> Vec<Taken> {
        let (colocation, group) = (ColocationId(1), ShardGroupId(100));
        let figures = |statements| Figures { statements, ..Figures::default() };
        vec![Taken {
            groups: vec![(colocation, group, figures(tenants.iter().map(|(_, count)| count).sum()))],
            tenants: tenants.iter().map(|(text, n)| (colocation, group, (*text).to_owned(), figures(*n))).collect(),
        }]
    }

    #[test]
    fn what_was_this_period_becomes_the_last_and_then_is_gone() {
        let settings = LoadSettings { period: Duration::from_secs(10), ..LoadSettings::default() };
        let start = Instant::now();
        let mut collected = Collected::new(settings.period, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let both = |collected: &Collected, now| {
            let (period, rows) = collected.rows(&settings, now);
            let tenant = rows.iter().find(|row| row.tenant.is_some()).map(|row| (row.now[1], row.before[1]));
            (period.covers.as_secs(), rows.len(), tenant)
        };
        collected.add(taken(&[("a", 2)]), &settings, at(0));
        collected.add(taken(&[("a", 3)]), &settings, at(9));
        assert_eq!(both(&collected, at(9)), (9, 2, Some((5, 0))));
        collected.add(taken(&[("a", 1)]), &settings, at(12));
        assert_eq!(both(&collected, at(12)), (12, 2, Some((1, 5))));
        collected.add(Vec::new(), &settings, at(29));
        assert_eq!(both(&collected, at(29)), (19, 2, Some((0, 1))));
        collected.has_changed = false;
        collected.add(Vec::new(), &settings, at(29));
        assert!(!collected.has_changed, "nothing to write");
        collected.add(Vec::new(), &settings, at(60));
        assert!(collected.has_changed && both(&collected, at(60)) == (10, 0, None));
    }

    #[test]
    fn only_the_hottest_tenants_are_kept() {
        let settings = LoadSettings { tenants: 2, ..LoadSettings::default() };
        let start = Instant::now();
        let mut collected = Collected::new(settings.period, start);
        let names: Vec<String> = (0..100).map(|number| format!("t{number:02}")).collect();
        let load: Vec<(&str, u64)> = names.iter().zip(1..).map(|(name, n)| (name.as_str(), n)).collect();
        collected.add(taken(&load), &settings, Instant::now());
        assert_eq!(collected.tenants.len(), 2 * ROOM);
        let (_, rows) = collected.rows(&settings, Instant::now());
        let mut shown: Vec<String> = rows.into_iter().filter_map(|row| row.tenant).collect();
        shown.sort();
        assert_eq!(shown, ["t98", "t99"]);
        collected.reset = Some("then".to_owned());
        // Time in which nothing is counted is time too.
        collected.forget(start);
        assert!(collected.tenants.is_empty() && collected.has_changed && collected.reset.as_deref() == Some("then"));
        let later = start + Duration::from_secs(3);
        collected.add(taken(&[("a", 1)]), &settings, later);
        assert_eq!(collected.rows(&settings, later).0.covers, Duration::from_secs(3));
    }
}
