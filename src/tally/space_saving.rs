//! Which keys come most often, in a fixed space.
//!
//! ```text
//!   key ──hash──> one set of eight counters ──there?──> count + 1
//!                                            └─else──> the smallest counter is the key's now, and goes on from its count
//! ```
//!
//! Space-Saving (A. Metwally, D. Agrawal, A. El Abbadi: "Efficient Computation of Frequent and Top-k Elements in Data
//! Streams", ICDT 2005), in each set by itself, as a set-associative cache does it: so a look-up reads one cache line and
//! compares eight keys. A key that makes more than an eighth of what falls into its set is always there.

/// Counters of one set.
const WAYS: usize = 8;

/// Counts keys that are hashes: 64 bits, evenly spread.
#[derive(Debug, Clone)]
pub struct SpaceSaving {
    sets: Vec<Set>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Set {
    /// 0: free.
    keys: [u64; WAYS],
    counts: [u64; WAYS],
}

/// Where a key is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Less than `SpaceSaving::capacity`.
    pub at: usize,
    /// It was another key's, or nobody's, until now.
    pub is_new: bool,
}

impl SpaceSaving {
    /// With at least so many counters.
    pub fn new(counters: usize) -> Self {
        Self { sets: vec![Set::default(); counters.div_ceil(WAYS).max(1).next_power_of_two()] }
    }

    /// How many counters there are.
    pub fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// The counter that is this key's, if one is.
    pub fn find(&self, key: u64) -> Option<usize> {
        let set = self.set_of(key);
        let way = self.sets[set].keys.iter().position(|known| *known == as_key(key))?;
        Some(set * WAYS + way)
    }

    /// Counts the key once; one that is not known takes the place of the rarest in its set.
    pub fn count(&mut self, key: u64) -> Counter {
        let at = self.set_of(key);
        let (key, set) = (as_key(key), &mut self.sets[at]);
        if let Some(way) = set.keys.iter().position(|known| *known == key) {
            set.counts[way] += 1;
            return Counter { at: at * WAYS + way, is_new: false };
        }
        let way = (0..WAYS).min_by_key(|way| set.counts[*way]).expect("a set has counters");
        set.keys[way] = key;
        set.counts[way] += 1;
        Counter { at: at * WAYS + way, is_new: true }
    }

    /// Is the counter still this key's? Then it weighs so much more.
    pub fn add(&mut self, at: usize, key: u64, amount: u64) -> bool {
        let set = &mut self.sets[at / WAYS];
        let is_its = set.keys[at % WAYS] == as_key(key);
        if is_its {
            set.counts[at % WAYS] += amount;
        }
        is_its
    }

    /// What is past weighs half of what it did.
    pub fn halve(&mut self) {
        self.sets.iter_mut().flat_map(|set| &mut set.counts).for_each(|count| *count /= 2);
    }

    fn set_of(&self, key: u64) -> usize {
        // The upper bits; the number of sets is a power of two.
        (key >> 32) as usize & (self.sets.len() - 1)
    }
}

fn as_key(hash: u64) -> u64 {
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Spreads small numbers over 64 bits.
    fn key(number: u64) -> u64 {
        (u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_0c6d_1c2f_8d4b) >> 32) as u64
    }

    proptest! {
        #[test]
        fn what_makes_more_than_an_eighth_is_known_and_never_counted_short(stream in prop::collection::vec(0u64..60, 1..2000)) {
            let (mut sketch, mut exact) = (SpaceSaving::new(8), HashMap::<u64, u64>::new());
            for number in &stream {
                sketch.count(key(*number));
                *exact.entry(*number).or_default() += 1;
            }
            for (number, count) in exact {
                let found = sketch.find(key(number));
                prop_assert!(found.is_some() || count <= stream.len() as u64 / 8, "{number} came {count} times");
                if let Some(at) = found {
                    prop_assert!(sketch.sets[0].counts[at] >= count, "an estimate is never too low");
                }
            }
        }
    }

    #[test]
    fn a_few_hot_keys_stay_known_among_many_cold_ones() {
        let mut sketch = SpaceSaving::new(1024);
        for cold in 0..100_000 {
            sketch.count(key(1_000_000 + cold));
            sketch.count(key(cold % 20));
        }
        assert!((0..20).all(|hot| sketch.find(key(hot)).is_some()));
        assert_eq!(sketch.capacity(), 1024);
    }

    #[test]
    fn a_counter_that_has_changed_hands_takes_nothing_for_its_old_key() {
        let mut sketch = SpaceSaving::new(8);
        let first = sketch.count(key(0));
        assert_eq!(first, Counter { at: first.at, is_new: true });
        assert!(!sketch.count(key(0)).is_new && sketch.add(first.at, key(0), 1));
        for other in 1..=8 {
            (0..10).for_each(|_| {
                sketch.count(key(other));
            });
        }
        assert_eq!(sketch.find(key(0)), None);
        assert!(!sketch.add(first.at, key(0), 1));
        assert!(sketch.find(0).is_none() && sketch.count(0).is_new && !sketch.count(0).is_new);
    }
}
