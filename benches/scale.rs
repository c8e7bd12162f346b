//! The shard map past what fits on one machine: 500 workers, 16,000 shard groups, 100,000 tenants with one of their own.
//!
//! ```text
//!   catalog rows (JSON) ──parse──> ShardMap ──swap──> every session's next statement
//!                                     ├── value -> shard group -> node      look-up
//!                                     └── plan                              rebalance after ten new workers
//! ```
//!
//! Run by `cargo bench --bench scale`. Each line is one size; the columns show how each cost grows. Simulated: there are
//! no servers, and what the coordinator takes to read the rows is not in it.

use std::fmt::Write;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tenantry::catalog;
use tenantry::operations::rebalance::{Options, Weights, plan};
use tenantry::shard_map::hash::{Value, intervals};
use tenantry::shard_map::{ColocationId, HashType, ShardMap};

fn main() {
    match std::env::var(SIZE).ok().and_then(|number| SIZES.get(number.parse::<usize>().ok()?)) {
        Some(size) => measure(*size),
        None => {
            print_header();
            (0..SIZES.len()).for_each(measure_alone);
        }
    }
}

fn print_header() {
    println!(
        "{:>7} {:>7} {:>8} | {:>9} {:>9} {:>11} {:>12} | {:>9} {:>9} {:>6} {:>10}",
        "workers",
        "groups",
        "tenants",
        "rows (MB)",
        "map (MB)",
        "parse (ms)",
        "publish (us)",
        "look-up",
        "own group",
        "moves",
        "plan (ms)"
    );
}

/// In a process of its own: what earlier sizes have given back would hide what this one takes.
fn measure_alone(number: usize) {
    let this = std::env::current_exe().expect("it runs");
    let ended = Command::new(this).env(SIZE, number.to_string()).status().expect("it can run again");
    assert!(ended.success(), "size {number}: {ended}");
}

const SIZE: &str = "SCALE_SIZE";

#[derive(Clone, Copy)]
struct Size {
    workers: u32,
    groups: u32,
    /// That have a shard group of their own.
    tenants: u32,
}

const SIZES: &[Size] = &[
    Size { workers: 2, groups: 32, tenants: 0 },
    Size { workers: 20, groups: 640, tenants: 4_000 },
    Size { workers: 100, groups: 3_200, tenants: 20_000 },
    Size { workers: 500, groups: 16_000, tenants: 0 },
    Size { workers: 500, groups: 16_000, tenants: 100_000 },
];

fn measure(size: Size) {
    let rows = rows(size);
    let before = resident_bytes();
    let map = catalog::parse(1, &rows).expect("the rows make a map");
    let memory = resident_bytes().saturating_sub(before);
    let parse = median(5, || catalog::parse(2, black_box(&rows)).expect("the rows make a map"));

    let published = ArcSwap::from_pointee(ShardMap::default());
    let next: Vec<_> = (0..5).map(|_| std::sync::Arc::new(map.clone())).collect();
    let mut next = next.into_iter();
    let publish = median(5, || next.next().map(|map| published.swap(map)));

    let any = mean(|n| look_up(&map, i64::from(size.tenants) + n));
    let own = if size.tenants == 0 { None } else { Some(mean(|n| look_up(&map, n % i64::from(size.tenants)))) };

    let moves = plan(&map, &Weights::default(), &Options { threshold: 0.1, ..Options::default() });
    let planning =
        median(3, || plan(black_box(&map), &Weights::default(), &Options { threshold: 0.1, ..Options::default() }));
    println!(
        "{:>7} {:>7} {:>8} | {:>9.1} {:>9.1} {:>11.1} {:>12.1} | {:>6} ns {:>9} {:>6} {:>10.1}",
        size.workers,
        size.groups,
        size.tenants,
        rows.len() as f64 / 1e6,
        memory as f64 / 1e6,
        parse.as_secs_f64() * 1e3,
        publish.as_secs_f64() * 1e6,
        any.as_nanos(),
        own.map_or("-".to_owned(), |own| format!("{} ns", own.as_nanos())),
        moves.len(),
        planning.as_secs_f64() * 1e3,
    );
}

/// From a tenant to its node, as each statement does it.
fn look_up(map: &ShardMap, tenant: i64) {
    let colocation = map.colocation(ColocationId(1)).expect("it is in the map");
    let group = colocation.group_of(&Value::Integer(tenant)).expect("every hash is in some interval");
    black_box(map.node(group.node).expect("it is in the map"));
}

/// What `catalog::LOAD` answers: ten of the workers have just been added and hold nothing yet.
fn rows(size: Size) -> String {
    let new = size.workers.min(20) / 2;
    let old = size.workers - new;
    let nodes: Vec<_> = (1..=size.workers)
        .map(|id| {
            format!(
                r#"{{"id":{id},"group_id":{id},"host":"worker-{id}.example.com","port":5432,"is_active":true,"should_have_shards":true}}"#
            )
        })
        .collect();
    let (mut groups, mut shards) = (Vec::new(), Vec::new());
    let mut add = |groups: &mut Vec<String>, min: i32, max: i32, tenant: Option<i64>| {
        let id = groups.len() as u32 + 1;
        let own = tenant.map_or(r#""tenant":null,"key":null"#.to_owned(), |tenant| {
            let mut key = String::new();
            Value::Integer(tenant).key().iter().for_each(|byte| {
                let _ = write!(key, "{byte:02x}");
            });
            format!(r#""tenant":"{tenant}","key":"{key}""#)
        });
        groups.push(format!(r#"{{"id":{id},"min":{min},"max":{max},"node":{},{own}}}"#, 1 + id % old));
        shards.push((id + 1_000_000).to_string());
    };
    intervals(size.groups).into_iter().for_each(|(min, max)| add(&mut groups, min, max, None));
    for tenant in 0..i64::from(size.tenants) {
        let hash = Value::Integer(tenant).hash();
        add(&mut groups, hash, hash, Some(tenant));
    }
    let column = |number: u32, name: &str, oid: u32| {
        format!(
            r#"{{"attnum":{number},"name":"{name}","type_oid":{oid},"type_modifier":-1,"is_generated":false,"has_volatile_default":false}}"#
        )
    };
    let columns = [column(1, "tenant_id", HashType::Int8.oid()), column(2, "value", 25)].join(",");
    format!(
        r#"{{"nodes":[{}],"colocations":[{{"id":1,"hash_oid":{},"shard_groups":[{}]}}],"tables":[{{"oid":99,"schema":"public","name":"orders","is_reference":false,"key":1,"colocation":1,"columns":[{columns}],"shards":[{}]}}],"shadows":[]}}"#,
        nodes.join(","),
        HashType::Int8.oid(),
        groups.join(","),
        shards.join(",")
    )
}

fn median<T>(rounds: usize, mut work: impl FnMut() -> T) -> Duration {
    let mut took: Vec<_> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .collect();
    took.sort();
    took[rounds / 2]
}

/// Over many numbers, far apart, so that caches help no more than they would.
fn mean(mut work: impl FnMut(i64)) -> Duration {
    let start = Instant::now();
    (0..REPEATS).for_each(|n| work(black_box(i64::from(n).wrapping_mul(7_919))));
    start.elapsed() / REPEATS
}

/// Of this process. Source: proc(5), /proc/pid/statm; pages of 4 KiB.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

const REPEATS: u32 = 1_000_000;
