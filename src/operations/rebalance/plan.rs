//! The rebalancer's decision, pure.
//!
//! Each colocation group is planned by itself, in order of its id, in two steps:
//!
//! 1. Placements on nodes that must not hold them go to the node with the least utilization that may.
//! 2. Until it is even (or no move helps): from the node with the most utilization to the one with the least.
//!
//! Utilization is the cost of the shard groups on a node, divided by the node's capacity.
//! By shard count this takes as few moves as possible: with q = groups / nodes, a step lowers the number of
//! groups above q + 1 and the number missing below q, each by one as long as there are any.
//! Ties go to the node that carries less over all colocation groups, so that many small colocation groups spread too.
//! Every step lowers the higher of two utilizations and raises the other to less than that, so it ends; planning again on
//! the result gives no move.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::shard_map::{ColocationGroup, ColocationId, NodeId, ShardGroupId, ShardMap};

/// Bytes of each shard group.
pub type Bytes = HashMap<ShardGroupId, u64>;

/// One shard group's journey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMove {
    pub colocation: ColocationId,
    pub group: ShardGroupId,
    pub source: NodeId,
    pub target: NodeId,
}

/// What a strategy says of shard groups and nodes.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    /// Whole numbers, so that sums are exact; `None`: every shard group costs one.
    pub costs: Option<HashMap<ShardGroupId, u64>>,
    /// They are thousandths of what the strategy's function says.
    pub are_thousandths: bool,
    /// How much of the load a node takes in relation to others; 1 for those that are not named.
    pub capacities: HashMap<NodeId, f64>,
    /// Placements that must not be.
    pub forbidden: HashSet<(ShardGroupId, NodeId)>,
    /// What carrying a shard group costs: of two that even the load alike, the smaller one moves.
    pub bytes: Bytes,
}

impl Weights {
    fn cost(&self, group: ShardGroupId) -> f64 {
        match &self.costs {
            None => 1.0,
            Some(costs) => costs.get(&group).copied().unwrap_or(0) as f64,
        }
    }

    /// The cost as the strategy's function says.
    pub fn told_cost(&self, group: ShardGroupId) -> f64 {
        if self.are_thousandths { self.cost(group) / 1000.0 } else { self.cost(group) }
    }

    fn capacity(&self, node: NodeId) -> f64 {
        self.capacities.get(&node).copied().unwrap_or(1.0)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Nodes within this part of the average utilization count as even. 0.1 = 10 %.
    pub threshold: f64,
    /// A move that makes the target the fuller one must still lower the higher utilization
    /// by this part of what the shard group adds to the target.
    pub improvement_threshold: f64,
    /// `None`: as many as it takes.
    pub max_shard_moves: Option<usize>,
    /// Shard groups that stay where they are, even on nodes to be drained.
    pub excluded: HashSet<ShardGroupId>,
    /// Step 1 only.
    pub drain_only: bool,
    /// Plan this colocation group alone.
    pub only: Option<ColocationId>,
}

/// Moves that make the nodes even; nodes are active workers, of which those with `should_have_shards` and some capacity
/// may get shards.
///
/// Deterministic. Empty when there is nothing to gain, and when no node may hold shards. A shard group that no node may
/// hold stays where it is.
pub fn plan(map: &ShardMap, weights: &Weights, options: &Options) -> Vec<ShardMove> {
    let mut allowed: Vec<NodeId> =
        map.active_workers().filter(|n| n.should_have_shards && weights.capacity(n.id) > 0.0).map(|n| n.id).collect();
    allowed.sort();
    if allowed.is_empty() {
        return Vec::new();
    }
    let mut colocations: Vec<&ColocationGroup> = map.colocations().map(|c| &**c).collect();
    colocations.sort_by_key(|c| c.id);

    let mut total: BTreeMap<NodeId, f64> = BTreeMap::new();
    for group in colocations.iter().flat_map(|c| &c.shard_groups) {
        *total.entry(group.node).or_default() += weights.cost(group.id);
    }

    let mut moves = Vec::new();
    for colocation in colocations {
        if options.only.is_some_and(|only| only != colocation.id) || colocation.shard_groups.is_empty() {
            continue;
        }
        let mut board = Board::new(colocation, &allowed, &mut total, weights, options);
        board.drain();
        if !options.drain_only {
            board.even_out();
        }
        moves.extend(board.moves());
        if let Some(limit) = options.max_shard_moves {
            moves.truncate(limit);
        }
    }
    moves
}

/// One colocation group on its nodes, while it is being planned.
struct Board<'a> {
    colocation: &'a ColocationGroup,
    options: &'a Options,
    weights: &'a Weights,
    /// Where each group is after the moves so far, and the other way round.
    node: BTreeMap<ShardGroupId, NodeId>,
    groups: BTreeMap<NodeId, BTreeSet<ShardGroupId>>,
    /// This colocation group's cost per node that may hold shards.
    load: BTreeMap<NodeId, f64>,
    /// Cost over all colocation groups.
    total: &'a mut BTreeMap<NodeId, f64>,
    /// Groups in the order of their first move.
    order: Vec<ShardGroupId>,
    moved: HashSet<ShardGroupId>,
}

impl<'a> Board<'a> {
    fn new(
        colocation: &'a ColocationGroup,
        allowed: &[NodeId],
        total: &'a mut BTreeMap<NodeId, f64>,
        weights: &'a Weights,
        options: &'a Options,
    ) -> Self {
        let mut load: BTreeMap<NodeId, f64> = allowed.iter().map(|n| (*n, 0.0)).collect();
        let (mut node, mut groups) = (BTreeMap::new(), BTreeMap::<NodeId, BTreeSet<ShardGroupId>>::new());
        for group in &colocation.shard_groups {
            node.insert(group.id, group.node);
            groups.entry(group.node).or_default().insert(group.id);
            if let Some(load) = load.get_mut(&group.node) {
                *load += weights.cost(group.id);
            }
        }
        let (order, moved) = (Vec::new(), HashSet::new());
        Self { colocation, options, weights, node, groups, load, total, order, moved }
    }

    fn drain(&mut self) {
        let is_stranded = |group: &ShardGroupId, node: &NodeId| {
            !self.load.contains_key(node) || self.weights.forbidden.contains(&(*group, *node))
        };
        let mut stranded: Vec<ShardGroupId> = self
            .node
            .iter()
            .filter(|(group, node)| is_stranded(group, node) && !self.options.excluded.contains(group))
            .map(|(group, _)| *group)
            .collect();
        // The heaviest first: the lighter ones then fill the gaps.
        stranded.sort_by(|a, b| self.weights.cost(*b).total_cmp(&self.weights.cost(*a)).then(a.cmp(b)));
        for group in stranded {
            let target = self.emptiest_first().into_iter().find(|node| self.may_go(group, *node));
            if let Some(target) = target {
                self.move_group(group, target);
            }
        }
    }

    fn even_out(&mut self) {
        while let Some((group, target)) = self.best_move() {
            self.move_group(group, target);
        }
    }

    /// The next step towards even loads: from the fullest node that can give to the emptiest that may take.
    fn best_move(&self) -> Option<(ShardGroupId, NodeId)> {
        let targets = self.emptiest_first();
        let (emptiest, fullest) = (*targets.first()?, *targets.last()?);
        let capacity: f64 = self.load.keys().map(|node| self.weights.capacity(*node)).sum();
        let average = self.load.values().sum::<f64>() / capacity;
        let threshold = self.options.threshold;
        if threshold > 0.0
            && self.utilization(fullest) <= average * (1.0 + threshold)
            && self.utilization(emptiest) >= average * (1.0 - threshold)
        {
            return None;
        }
        let step = |target: NodeId| {
            targets.iter().rev().filter(|source| **source != target).find_map(|source| self.step(*source, target))
        };
        if let Some(group) = step(emptiest) {
            return Some((group, emptiest));
        }
        // Only where the emptiest is closed to some groups can another target help.
        let is_open = self.weights.forbidden.is_empty() && self.weights.capacities.is_empty();
        let others = targets.iter().skip(1).filter(|_| !is_open);
        others.copied().find_map(|target| Some((step(target)?, target)))
    }

    /// The group of `source` that evens it best with `target`; of those alike, what is cheapest to carry.
    fn step(&self, source: NodeId, target: NodeId) -> Option<ShardGroupId> {
        let (high, low) = (self.utilization(source), self.utilization(target));
        let distance = |group: ShardGroupId| {
            let cost = self.weights.cost(group);
            let (given, taken) = (cost / self.weights.capacity(source), cost / self.weights.capacity(target));
            ((high - given) - (low + taken)).abs()
        };
        let bytes = |group: &ShardGroupId| self.weights.bytes.get(group).copied().unwrap_or(0);
        self.groups
            .get(&source)?
            .iter()
            .copied()
            .filter(|group| !self.options.excluded.contains(group) && self.may_go(*group, target))
            .filter(|group| self.improves(source, target, self.weights.cost(*group)))
            .min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then(bytes(a).cmp(&bytes(b))).then(a.cmp(b)))
    }

    fn improves(&self, source: NodeId, target: NodeId, cost: f64) -> bool {
        let (high, low) = (self.utilization(source), self.utilization(target));
        let (given, taken) = (cost / self.weights.capacity(source), cost / self.weights.capacity(target));
        let after = (high - given).max(low + taken);
        let flips = low + taken > high - given;
        // What is less by rounding only is not less.
        high - after > high * ROUNDING && (!flips || high - after > self.options.improvement_threshold * taken)
    }

    fn may_go(&self, group: ShardGroupId, node: NodeId) -> bool {
        !self.weights.forbidden.contains(&(group, node))
    }

    fn utilization(&self, node: NodeId) -> f64 {
        self.load[&node] / self.weights.capacity(node)
    }

    fn emptiest_first(&self) -> Vec<NodeId> {
        let over_all = |node: &NodeId| self.total.get(node).copied().unwrap_or(0.0) / self.weights.capacity(*node);
        let mut nodes: Vec<(f64, f64, NodeId)> =
            self.load.keys().map(|node| (self.utilization(*node), over_all(node), *node)).collect();
        nodes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        nodes.into_iter().map(|(_, _, node)| node).collect()
    }

    fn move_group(&mut self, group: ShardGroupId, target: NodeId) {
        let cost = self.weights.cost(group);
        let source = self.node.insert(group, target).expect("only groups of this colocation group are moved");
        self.groups.entry(source).or_default().remove(&group);
        self.groups.entry(target).or_default().insert(group);
        if let Some(load) = self.load.get_mut(&source) {
            *load -= cost;
        }
        *self.load.entry(target).or_default() += cost;
        *self.total.entry(source).or_default() -= cost;
        *self.total.entry(target).or_default() += cost;
        if self.moved.insert(group) {
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

/// Part of a utilization that rounding may make up.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests;
