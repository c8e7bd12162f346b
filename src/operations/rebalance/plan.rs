//! The rebalancer's decision, pure.
//!
//! Each colocation group is planned by itself, in order of its id, in two steps:
//!
//! 1. Placements on nodes that must not hold shards go to the node with the least load.
//! 2. Until it is even (or no move helps): from the node with the most load to the one with the least.
//!
//! By shard count this takes as few moves as possible: with q = groups / nodes, a step lowers the number of
//! groups above q + 1 and the number missing below q, each by one as long as there are any.
//! Ties go to the node that carries less over all colocation groups, so that many small colocation groups spread too.
//! Every step lowers the sum of the squares of the loads, so it ends; planning again on the result gives no move.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::shard_map::{ColocationGroup, ColocationId, NodeId, ShardGroupId, ShardMap};

/// What each shard group costs its node, in bytes; a missing one costs nothing.
pub type Costs = HashMap<ShardGroupId, u64>;

/// One shard group's journey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMove {
    pub colocation: ColocationId,
    pub group: ShardGroupId,
    pub source: NodeId,
    pub target: NodeId,
}

/// How load is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebalanceStrategy {
    /// Every shard group counts one; counts end up at most one apart.
    ByShardCount,
    /// Bytes, and 100 MB for each shard group so that empty ones spread too.
    ByDiskSize,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub strategy: RebalanceStrategy,
    /// By disk size: nodes within this part of the average count as even. 0.1 = 10 %.
    pub threshold: f64,
    /// By disk size: a move that makes the target the heavier one must still lower the higher load
    /// by this part of the moved cost.
    pub improvement_threshold: f64,
    pub max_shard_moves: usize,
    /// Shard groups that stay where they are, even on nodes to be drained.
    pub excluded: HashSet<ShardGroupId>,
    /// Step 1 only.
    pub drain_only: bool,
    /// Plan this colocation group alone.
    pub only: Option<ColocationId>,
}

impl Options {
    pub fn new(strategy: RebalanceStrategy) -> Self {
        Self {
            strategy,
            threshold: if strategy == RebalanceStrategy::ByDiskSize { 0.1 } else { 0.0 },
            improvement_threshold: if strategy == RebalanceStrategy::ByDiskSize { 0.5 } else { 0.0 },
            max_shard_moves: 1_000_000,
            excluded: HashSet::new(),
            drain_only: false,
            only: None,
        }
    }
}

/// Moves that make the nodes even; nodes are active workers, of which those with `should_have_shards` may get shards.
///
/// Deterministic. Empty when there is nothing to gain, and when no node may hold shards.
pub fn plan(map: &ShardMap, costs: &Costs, options: &Options) -> Vec<ShardMove> {
    let mut allowed: Vec<NodeId> = map.active_workers().filter(|n| n.should_have_shards).map(|n| n.id).collect();
    allowed.sort();
    if allowed.is_empty() {
        return Vec::new();
    }
    let mut colocations: Vec<&ColocationGroup> = map.colocations().map(|c| &**c).collect();
    colocations.sort_by_key(|c| c.id);

    let cost = |group: ShardGroupId| match options.strategy {
        RebalanceStrategy::ByShardCount => 1,
        RebalanceStrategy::ByDiskSize => costs.get(&group).copied().unwrap_or(0).saturating_add(BASE_COST_BYTES),
    };
    let mut total: BTreeMap<NodeId, u64> = BTreeMap::new();
    for group in colocations.iter().flat_map(|c| &c.shard_groups) {
        *total.entry(group.node).or_default() += cost(group.id);
    }

    let mut moves = Vec::new();
    for colocation in colocations {
        if options.only.is_some_and(|only| only != colocation.id) || colocation.shard_groups.is_empty() {
            continue;
        }
        let mut board = Board::new(colocation, &allowed, &mut total, &cost, costs, options);
        board.drain();
        if !options.drain_only {
            board.even_out();
        }
        moves.extend(board.moves());
        moves.truncate(options.max_shard_moves);
    }
    moves
}

/// What an empty shard group weighs by disk size. Source: the default of `citus.rebalancer_by_disk_size_base_cost`.
const BASE_COST_BYTES: u64 = 100 * 1024 * 1024;

/// One colocation group on its nodes, while it is being planned.
struct Board<'a> {
    colocation: &'a ColocationGroup,
    options: &'a Options,
    cost: &'a dyn Fn(ShardGroupId) -> u64,
    bytes: &'a Costs,
    /// Where each group is after the moves so far.
    node: BTreeMap<ShardGroupId, NodeId>,
    /// This colocation group's load per node that may hold shards.
    load: BTreeMap<NodeId, u64>,
    /// Load over all colocation groups.
    total: &'a mut BTreeMap<NodeId, u64>,
    /// Groups in the order of their first move.
    order: Vec<ShardGroupId>,
}

impl<'a> Board<'a> {
    fn new(
        colocation: &'a ColocationGroup,
        allowed: &[NodeId],
        total: &'a mut BTreeMap<NodeId, u64>,
        cost: &'a dyn Fn(ShardGroupId) -> u64,
        bytes: &'a Costs,
        options: &'a Options,
    ) -> Self {
        let mut load: BTreeMap<NodeId, u64> = allowed.iter().map(|n| (*n, 0)).collect();
        let mut node = BTreeMap::new();
        for group in &colocation.shard_groups {
            node.insert(group.id, group.node);
            if let Some(load) = load.get_mut(&group.node) {
                *load += cost(group.id);
            }
        }
        Self { colocation, options, cost, bytes, node, load, total, order: Vec::new() }
    }

    fn drain(&mut self) {
        let mut stranded: Vec<ShardGroupId> = self
            .node
            .iter()
            .filter(|(group, node)| !self.load.contains_key(node) && !self.options.excluded.contains(group))
            .map(|(group, _)| *group)
            .collect();
        // The heaviest first: the lighter ones then fill the gaps.
        stranded.sort_by_key(|group| (std::cmp::Reverse((self.cost)(*group)), *group));
        for group in stranded {
            let target = self.lightest();
            self.move_group(group, target);
        }
    }

    fn even_out(&mut self) {
        while let Some((group, target)) = self.best_move() {
            self.move_group(group, target);
        }
    }

    /// The next step towards even loads: from the heaviest node that can give to the lightest.
    fn best_move(&self) -> Option<(ShardGroupId, NodeId)> {
        let target = self.lightest();
        let low = self.load[&target];
        let average = self.load.values().sum::<u64>() as f64 / self.load.len() as f64;
        let threshold = self.options.threshold;
        let mut sources: Vec<NodeId> = self.load.keys().copied().collect();
        sources.sort_by_key(|n| (std::cmp::Reverse((self.load[n], self.total.get(n).copied())), *n));
        if self.options.strategy == RebalanceStrategy::ByDiskSize
            && self.load[&sources[0]] as f64 <= average * (1.0 + threshold)
            && low as f64 >= average * (1.0 - threshold)
        {
            return None;
        }
        sources.iter().find_map(|source| {
            let high = self.load[source];
            self.node
                .iter()
                .filter(|(group, node)| *node == source && !self.options.excluded.contains(group))
                .map(|(group, _)| (*group, (self.cost)(*group)))
                .filter(|(_, cost)| self.improves(high, low, *cost))
                // The two ends nearest each other; then what is cheapest to carry.
                .min_by_key(|(group, cost)| {
                    ((high - cost).abs_diff(low + cost), self.bytes.get(group).copied().unwrap_or(0), *group)
                })
                .map(|(group, _)| (group, target))
        })
    }

    fn improves(&self, high: u64, low: u64, cost: u64) -> bool {
        let after = (high - cost).max(low + cost);
        let flips = low + cost > high - cost;
        after < high && (!flips || (high - after) as f64 > self.options.improvement_threshold * cost as f64)
    }

    fn lightest(&self) -> NodeId {
        let weight = |n: &NodeId| (self.load[n], self.total.get(n).copied().unwrap_or(0), *n);
        self.load.keys().copied().min_by_key(weight).expect("a plan starts with at least one node that may hold shards")
    }

    fn move_group(&mut self, group: ShardGroupId, target: NodeId) {
        let cost = (self.cost)(group);
        let source = self.node.insert(group, target).expect("only groups of this colocation group are moved");
        if let Some(load) = self.load.get_mut(&source) {
            *load -= cost;
        }
        *self.load.entry(target).or_default() += cost;
        *self.total.entry(source).or_default() -= cost;
        *self.total.entry(target).or_default() += cost;
        if !self.order.contains(&group) {
            self.order.push(group);
        }
    }

    /// One move per group, from where it was to where it ended.
    fn moves(&self) -> Vec<ShardMove> {
        self.order
            .iter()
            .filter_map(|id| {
                let source = self.colocation.group(*id)?.node;
                let target = self.node[id];
                let colocation = self.colocation.id;
                (source != target).then_some(ShardMove { colocation, group: *id, source, target })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_map::{HashType, Node, ShardGroup, ShardMapParts};
    use proptest::prelude::*;

    fn node(id: u32, should_have_shards: bool) -> Node {
        Node { id: NodeId(id), group_id: id, host: "h".into(), port: id as u16, is_active: true, should_have_shards }
    }

    /// `placements[c][i]` is the node of group `c * 1000 + i`.
    fn map(nodes: &[Node], placements: &[Vec<u32>]) -> ShardMap {
        let colocations = placements
            .iter()
            .enumerate()
            .map(|(c, nodes)| ColocationGroup {
                id: ColocationId(c as u32),
                hash: Some(HashType::Int4),
                shard_groups: nodes
                    .iter()
                    .enumerate()
                    .map(|(i, node)| ShardGroup {
                        id: ShardGroupId((c * 1000 + i) as u64),
                        min: i as i32,
                        max: i as i32,
                        node: NodeId(*node),
                    })
                    .collect(),
            })
            .collect();
        ShardMap::new(1, ShardMapParts { nodes: nodes.to_vec(), colocations, ..ShardMapParts::default() })
    }

    fn apply(placements: &[Vec<u32>], moves: &[ShardMove]) -> Vec<Vec<u32>> {
        let mut after = placements.to_vec();
        for m in moves {
            let place = &mut after[m.colocation.0 as usize][(m.group.0 % 1000) as usize];
            assert_eq!(NodeId(*place), m.source, "a move starts where the group is");
            *place = m.target.0;
        }
        after
    }

    fn counts(placement: &[u32], nodes: u32) -> Vec<usize> {
        (1..=nodes).map(|n| placement.iter().filter(|p| **p == n).count()).collect()
    }

    #[test]
    fn two_new_workers_get_their_part_of_32_groups_in_16_moves() {
        let nodes: Vec<_> = (1..=4).map(|n| node(n, true)).collect();
        let placement = (0..32).map(|i| 1 + i % 2).collect::<Vec<_>>();
        let moves = plan(
            &map(&nodes, std::slice::from_ref(&placement)),
            &Costs::new(),
            &Options::new(RebalanceStrategy::ByShardCount),
        );
        assert_eq!(moves.len(), 16);
        assert_eq!(counts(&apply(&[placement], &moves)[0], 4), [8, 8, 8, 8]);
    }

    #[test]
    fn a_drained_node_ends_empty_and_drain_only_moves_nothing_else() {
        let nodes = [node(1, true), node(2, true), node(3, false)];
        let placement = vec![1, 1, 1, 1, 2, 3, 3];
        let options = Options { drain_only: true, ..Options::new(RebalanceStrategy::ByShardCount) };
        let moves = plan(&map(&nodes, std::slice::from_ref(&placement)), &Costs::new(), &options);
        assert_eq!(moves.len(), 2);
        assert_eq!(counts(&apply(&[placement], &moves)[0], 3), [4, 3, 0]);
    }

    #[test]
    fn single_group_colocations_spread_over_the_nodes() {
        let nodes = [node(1, true), node(2, true), node(3, false)];
        let placements = vec![vec![3], vec![3], vec![3], vec![3]];
        let moves = plan(&map(&nodes, &placements), &Costs::new(), &Options::new(RebalanceStrategy::ByShardCount));
        assert_eq!(counts(&apply(&placements, &moves).concat(), 3), [2, 2, 0]);
    }

    #[test]
    fn by_disk_size_moves_the_group_that_evens_the_bytes() {
        let nodes = [node(1, true), node(2, true)];
        let gb = 1 << 30;
        let costs = Costs::from([(0, 10 * gb), (1, 6 * gb), (2, 4 * gb)].map(|(g, c)| (ShardGroupId(g), c)));
        let moves = plan(&map(&nodes, &[vec![1, 1, 1]]), &costs, &Options::new(RebalanceStrategy::ByDiskSize));
        assert_eq!(moves.len(), 1);
        assert_eq!(moves[0].group, ShardGroupId(0));
    }

    #[test]
    fn without_a_node_that_may_hold_shards_nothing_moves() {
        let moves =
            plan(&map(&[node(1, false)], &[vec![1, 1]]), &Costs::new(), &Options::new(RebalanceStrategy::ByShardCount));
        assert!(moves.is_empty());
    }

    fn cluster() -> impl proptest::strategy::Strategy<Value = (Vec<Node>, Vec<Vec<u32>>)> {
        (1u32..7).prop_flat_map(|n| {
            let nodes = proptest::collection::vec(any::<bool>(), n as usize)
                .prop_map(|flags| flags.iter().zip(1..).map(|(f, id)| node(id, *f)).collect::<Vec<_>>());
            let placement = proptest::collection::vec(1..=n, 0..40);
            (nodes, proptest::collection::vec(placement, 0..4))
        })
    }

    proptest! {
        #[test]
        fn counts_end_at_most_one_apart_with_the_fewest_moves((nodes, placements) in cluster()) {
            let allowed: Vec<u32> = nodes.iter().filter(|n| n.should_have_shards).map(|n| n.id.0).collect();
            prop_assume!(!allowed.is_empty());
            let options = Options::new(RebalanceStrategy::ByShardCount);
            let moves = plan(&map(&nodes, &placements), &Costs::new(), &options);
            let after = apply(&placements, &moves);
            for (c, (before, after)) in placements.iter().zip(&after).enumerate() {
                let count = |p: &[u32]| allowed.iter().map(|n| p.iter().filter(|x| *x == n).count()).collect::<Vec<_>>();
                let (had, has) = (count(before), count(after));
                prop_assert_eq!(has.iter().sum::<usize>(), before.len(), "every group is on a node that may hold it");
                prop_assert!(has.iter().max().unwrap() - has.iter().min().unwrap() <= 1);
                let low = before.len() / allowed.len();
                let missing: usize = had.iter().map(|l| low.saturating_sub(*l)).sum();
                let stranded = before.len() - had.iter().sum::<usize>();
                let rest = before.len() % allowed.len();
                // Groups that cannot stay: the `rest` fullest nodes may keep one more than the others.
                let mut sorted = had.clone();
                sorted.sort_by(|a, b| b.cmp(a));
                let surplus: usize =
                    sorted.iter().enumerate().map(|(i, l)| l.saturating_sub(low + usize::from(i < rest))).sum();
                let made = moves.iter().filter(|m| m.colocation.0 as usize == c).count();
                prop_assert_eq!(made, (surplus + stranded).max(missing));
            }
            prop_assert!(plan(&map(&nodes, &after), &Costs::new(), &options).is_empty(), "planning again finds nothing");
        }

        #[test]
        fn by_disk_size_never_makes_the_heaviest_node_heavier(
            (nodes, placements) in cluster(), sizes in proptest::collection::vec(0u64..(1 << 34), 160)
        ) {
            let nodes: Vec<Node> = nodes.into_iter().map(|n| Node { should_have_shards: true, ..n }).collect();
            let costs: Costs = (0..4u64).flat_map(|c| (0..40u64).map(move |i| c * 1000 + i))
                .zip(&sizes).map(|(g, s)| (ShardGroupId(g), *s)).collect();
            let options = Options::new(RebalanceStrategy::ByDiskSize);
            let moves = plan(&map(&nodes, &placements), &costs, &options);
            let after = apply(&placements, &moves);
            for (c, (before, after)) in placements.iter().zip(&after).enumerate() {
                let heaviest = |p: &[u32]| nodes.iter().map(|n| p.iter().enumerate().filter(|(_, x)| **x == n.id.0)
                    .map(|(i, _)| costs[&ShardGroupId((c * 1000 + i) as u64)] + BASE_COST_BYTES).sum::<u64>()).max();
                prop_assert!(heaviest(after) <= heaviest(before));
            }
            prop_assert!(plan(&map(&nodes, &after), &costs, &options).is_empty(), "planning again finds nothing");
        }

        #[test]
        fn excluded_groups_stay_and_the_limit_holds(
            (nodes, placements) in cluster(), excluded in 0u64..40, limit in 0usize..5
        ) {
            let excluded = HashSet::from([ShardGroupId(excluded)]);
            let options = Options { excluded: excluded.clone(), max_shard_moves: limit,
                                    ..Options::new(RebalanceStrategy::ByShardCount) };
            let moves = plan(&map(&nodes, &placements), &Costs::new(), &options);
            prop_assert!(moves.len() <= limit && moves.iter().all(|m| !excluded.contains(&m.group)));
        }
    }
}
