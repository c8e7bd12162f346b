//! The plan on made-up clusters, and what holds for all of them.

use super::super::preview::outcomes;
use super::super::strategy::BASE_COST_BYTES;
use super::*;
use crate::shard_map::{HashType, Node, ShardGroup, ShardMapParts};
use proptest::prelude::*;

fn node(id: u32, should_have_shards: bool) -> Node {
    let standbys = Vec::new();
    Node {
        id: NodeId(id),
        group_id: id,
        host: "h".into(),
        port: id as u16,
        is_active: true,
        should_have_shards,
        timeline: None,
        standbys,
    }
}

/// `placements[c][i]` is the node of group `c * 1000 + i`.
fn map(nodes: &[Node], placements: &[Vec<u32>]) -> ShardMap {
    let colocations = placements
        .iter()
        .enumerate()
        .map(|(c, nodes)| {
            let groups = nodes.iter().enumerate().map(|(i, node)| ShardGroup {
                id: ShardGroupId((c * 1000 + i) as u64),
                min: i as i32,
                max: i as i32,
                node: NodeId(*node),
                tenant: None,
            });
            ColocationGroup::new(ColocationId(c as u32), Some(HashType::Int4), groups.collect())
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
    let moves = plan(&map(&nodes, std::slice::from_ref(&placement)), &Weights::default(), &Options::default());
    assert_eq!(moves.len(), 16);
    assert_eq!(counts(&apply(&[placement], &moves)[0], 4), [8, 8, 8, 8]);
}

#[test]
fn a_drained_node_ends_empty_and_drain_only_moves_nothing_else() {
    let nodes = [node(1, true), node(2, true), node(3, false)];
    let placement = vec![1, 1, 1, 1, 2, 3, 3];
    let options = Options { drain_only: true, ..Options::default() };
    let moves = plan(&map(&nodes, std::slice::from_ref(&placement)), &Weights::default(), &options);
    assert_eq!(moves.len(), 2);
    assert_eq!(counts(&apply(&[placement], &moves)[0], 3), [4, 3, 0]);
}

#[test]
fn single_group_colocations_spread_over_the_nodes() {
    let nodes = [node(1, true), node(2, true), node(3, false)];
    let placements = vec![vec![3], vec![3], vec![3], vec![3]];
    let moves = plan(&map(&nodes, &placements), &Weights::default(), &Options::default());
    assert_eq!(counts(&apply(&placements, &moves).concat(), 3), [2, 2, 0]);
}

#[test]
fn by_disk_size_moves_the_group_that_evens_the_bytes() {
    let nodes = [node(1, true), node(2, true)];
    let gb = 1 << 30;
    let costs = HashMap::from([(0, 10 * gb), (1, 6 * gb), (2, 4 * gb)].map(|(g, c)| (ShardGroupId(g), c)));
    let weights = Weights { costs: Some(costs), ..Weights::default() };
    let moves = plan(&map(&nodes, &[vec![1, 1, 1]]), &weights, &by_disk_size());
    assert_eq!(moves.len(), 1);
    assert_eq!(moves[0].group, ShardGroupId(0));
}

#[test]
fn by_load_the_hot_group_moves_first_and_idle_ones_even_the_rest() {
    let nodes = [node(1, true), node(2, true)];
    // Two hot groups among idle ones, all on one node.
    let costs = (0..12).map(|g| (ShardGroupId(g), if g == 4 || g == 7 { 50_000 } else { 1_000 })).collect();
    let weights = Weights { costs: Some(costs), are_thousandths: true, ..Weights::default() };
    let options = Options { threshold: 0.1, improvement_threshold: 0.2, ..Options::default() };
    let map = map(&nodes, &[vec![1; 12]]);
    let moves = plan(&map, &weights, &options);
    assert_eq!(moves[0].group, ShardGroupId(4));
    assert!(moves.iter().all(|step| step.group != ShardGroupId(7)), "one each");
    let first = plan(&map, &weights, &Options { max_shard_moves: Some(1), ..options });
    assert_eq!(first, moves[..1]);
    let after = outcomes(&map, &weights, &Bytes::new(), &moves);
    let costs = [1, 2].map(|n| after[&NodeId(n)].cost_after);
    assert!((costs[0] - costs[1]).abs() <= 0.2 * 55.0, "{costs:?}");
    assert_eq!((after[&NodeId(1)].cost_before, after[&NodeId(1)].moves_out), (110.0, moves.len()));
}

#[test]
fn without_a_node_that_may_hold_shards_nothing_moves() {
    let moves = plan(&map(&[node(1, false)], &[vec![1, 1]]), &Weights::default(), &Options::default());
    assert!(moves.is_empty());
}

/// Thresholds of the strategy by_disk_size.
fn by_disk_size() -> Options {
    Options { threshold: 0.1, improvement_threshold: 0.5, ..Options::default() }
}

#[test]
fn a_node_of_twice_the_capacity_takes_twice_the_load() {
    let nodes = [node(1, true), node(2, true)];
    let weights = Weights { capacities: HashMap::from([(NodeId(2), 2.0)]), ..Weights::default() };
    let placement = vec![1; 12];
    let moves = plan(&map(&nodes, std::slice::from_ref(&placement)), &weights, &Options::default());
    assert_eq!(counts(&apply(&[placement], &moves)[0], 2), [4, 8]);
}

#[test]
fn a_group_leaves_a_node_that_is_forbidden_to_it_and_goes_to_none_such() {
    let nodes = [node(1, true), node(2, true), node(3, true)];
    let forbidden = HashSet::from([(0, 1), (0, 2), (1, 1)].map(|(g, n)| (ShardGroupId(g), NodeId(n))));
    let weights = Weights { forbidden, ..Weights::default() };
    let placement = vec![1, 1, 1];
    let after = apply(
        std::slice::from_ref(&placement),
        &plan(&map(&nodes, std::slice::from_ref(&placement)), &weights, &Options::default()),
    );
    assert_eq!(after[0], [3, 2, 1]);
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
        let options = Options::default();
        let moves = plan(&map(&nodes, &placements), &Weights::default(), &options);
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
        prop_assert!(plan(&map(&nodes, &after), &Weights::default(), &options).is_empty(), "planning again finds nothing");
    }

    #[test]
    fn by_disk_size_never_makes_the_heaviest_node_heavier(
        (nodes, placements) in cluster(), sizes in proptest::collection::vec(0u64..(1 << 34), 160)
    ) {
        let nodes: Vec<Node> = nodes.into_iter().map(|n| Node { should_have_shards: true, ..n }).collect();
        let costs: HashMap<_, _> = (0..4u64).flat_map(|c| (0..40u64).map(move |i| c * 1000 + i))
            .zip(&sizes).map(|(g, s)| (ShardGroupId(g), *s + BASE_COST_BYTES)).collect();
        let options = by_disk_size();
        let weights = Weights { costs: Some(costs.clone()), ..Weights::default() };
        let moves = plan(&map(&nodes, &placements), &weights, &options);
        let after = apply(&placements, &moves);
        for (c, (before, after)) in placements.iter().zip(&after).enumerate() {
            let heaviest = |p: &[u32]| nodes.iter().map(|n| p.iter().enumerate().filter(|(_, x)| **x == n.id.0)
                .map(|(i, _)| costs[&ShardGroupId((c * 1000 + i) as u64)]).sum::<u64>()).max();
            prop_assert!(heaviest(after) <= heaviest(before));
        }
        prop_assert!(plan(&map(&nodes, &after), &weights, &options).is_empty(), "planning again finds nothing");
    }

    #[test]
    fn with_capacities_and_closed_nodes_it_ends_keeps_out_and_finds_nothing_again(
        (nodes, placements) in cluster(), sizes in proptest::collection::vec(0u64..5000, 160),
        capacities in proptest::collection::vec(1u8..5, 7), closed in proptest::collection::vec((0u64..160, 1u32..7), 0..30)
    ) {
        let group = |i: u64| ShardGroupId(i / 40 * 1000 + i % 40);
        let weights = Weights {
            costs: Some(sizes.iter().zip(0..).map(|(s, i)| (group(i), *s)).collect()),
            capacities: capacities.iter().zip(1..).map(|(c, id)| (NodeId(id), f64::from(*c))).collect(),
            forbidden: closed.iter().map(|(i, n)| (group(*i), NodeId(*n))).collect(),
            ..Weights::default()
        };
        let moves = plan(&map(&nodes, &placements), &weights, &Options::default());
        prop_assert!(moves.iter().all(|m| !weights.forbidden.contains(&(m.group, m.target))));
        let after = apply(&placements, &moves);
        prop_assert!(plan(&map(&nodes, &after), &weights, &Options::default()).is_empty());
    }

    #[test]
    fn excluded_groups_stay_and_the_limit_holds(
        (nodes, placements) in cluster(), excluded in 0u64..40, limit in 0usize..5
    ) {
        let excluded = HashSet::from([ShardGroupId(excluded)]);
        let options = Options { excluded: excluded.clone(), max_shard_moves: Some(limit),
                                ..Options::default() };
        let moves = plan(&map(&nodes, &placements), &Weights::default(), &options);
        prop_assert!(moves.len() <= limit && moves.iter().all(|m| !excluded.contains(&m.group)));
    }
}
