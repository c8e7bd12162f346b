//! What deciding costs, per statement, before anything is sent: making a plan, and using one that is cached.
//!
//! ```text
//!   uncached/<shape>   text -> lexer -> parser -> analysis -> Plan      the first time a thread sees the text
//!   cached/<shape>     Plan -> value -> hash -> shard group (-> text)   every later time
//! ```

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tenantry::executor::{Target, Values};
use tenantry::functions;
use tenantry::planner::{Context, Mode, Plan, Provided, plan};
use tenantry::shard_map::hash::intervals;
use tenantry::shard_map::{
    ColocationGroup, ColocationId, Column, HashType, NodeId, ShardGroup, ShardGroupId, ShardId, ShardMap,
    ShardMapParts, Table, TableKind, TableOid,
};

criterion_group!(benches, uncached, cached);
criterion_main!(benches);

fn uncached(criterion: &mut Criterion) {
    let catalog = Catalog::new();
    let many_rows: Vec<_> = (0..100).map(|id| format!("(7, {id}, 'new', 100)")).collect();
    let many_rows = format!("INSERT INTO orders (tenant_id, id, state, total) VALUES {}", many_rows.join(", "));
    let mut group = criterion.benchmark_group("uncached");
    for (shape, text) in SHAPES.iter().copied().chain([("insert_100_rows", many_rows.as_str())]) {
        // A shape that is refused would measure the refusal.
        plan(text, &catalog.context(), Mode::Any).unwrap_or_else(|error| panic!("{shape}: {error}"));
        group.bench_function(shape, |bencher| bencher.iter(|| plan(black_box(text), &catalog.context(), Mode::Any)));
    }
    group.finish();
}

fn cached(criterion: &mut Criterion) {
    let catalog = Catalog::new();
    let text = "SELECT state, total FROM orders WHERE tenant_id = 4711 AND id = 42";
    let Ok(Plan::Router(router)) = plan(text, &catalog.context(), Mode::Any) else {
        panic!("one tenant: a router plan")
    };
    let colocation = catalog.map.colocation(router.colocation).expect("it is in the map");
    let mut group = criterion.benchmark_group("cached");
    group.bench_function("target", |bencher| {
        bencher.iter(|| Values::None.target(black_box(colocation), black_box(&router.operands)));
    });
    group.bench_function("target_and_text", |bencher| {
        bencher.iter(|| match Values::None.target(black_box(colocation), black_box(&router.operands)) {
            Target::One(shard_group) => router.query.render(Some(shard_group)),
            target => panic!("one tenant lives in one shard group, not {target:?}"),
        });
    });
    group.finish();
}

const SHAPES: &[(&str, &str)] = &[
    ("select_one_tenant", "SELECT state, total FROM orders WHERE tenant_id = $1 AND id = $2"),
    ("update_one_tenant", "UPDATE orders SET state = $3 WHERE tenant_id = $1 AND id = $2"),
    ("insert_one_row", "INSERT INTO orders (tenant_id, id, state, total) VALUES ($1, $2, $3, $4)"),
    (
        "join_one_tenant",
        "SELECT o.id, sum(i.price) FROM orders o JOIN items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id \
         WHERE o.tenant_id = $1 AND o.state IN ('new', 'paid') GROUP BY o.id ORDER BY 2 DESC LIMIT 10",
    ),
    ("group_by_all_tenants", "SELECT state, count(*), sum(total) FROM orders GROUP BY state ORDER BY count(*) DESC"),
    ("local_tables_only", "SELECT setting, value FROM application_settings WHERE name = $1"),
];

/// Two colocated tables in 32 shard groups on two workers.
struct Catalog {
    map: ShardMap,
    provided: Provided,
    search_path: Vec<String>,
}

impl Catalog {
    fn new() -> Self {
        let ids = 102_008..;
        let shard_groups = ids.clone().zip(intervals(32)).map(|(id, (min, max))| ShardGroup {
            id: ShardGroupId(id),
            min,
            max,
            node: NodeId(1 + (id % 2) as u32),
        });
        let column = |(name, type_oid): (&str, u32)| Column {
            name: name.into(),
            type_oid,
            type_modifier: -1,
            is_generated: false,
            has_volatile_default: false,
        };
        let table = |oid, name: &str, columns: &[(&str, u32)]| Table {
            oid: TableOid(oid),
            schema: "public".into(),
            name: name.into(),
            kind: TableKind::Distributed { column: 0, hash: HashType::Int4 },
            colocation: ColocationId(1),
            columns: columns.iter().copied().map(column).collect(),
            shards: ids.clone().take(32).map(|id| ShardId(id + u64::from(oid))).collect(),
        };
        let parts = ShardMapParts {
            tables: vec![
                table(32, "orders", &[("tenant_id", INT4), ("id", INT4), ("state", TEXT), ("total", INT4)]),
                table(64, "items", &[("tenant_id", INT4), ("order_id", INT4), ("price", INT4)]),
            ],
            colocations: vec![ColocationGroup {
                id: ColocationId(1),
                shard_groups: shard_groups.collect(),
                hash: Some(HashType::Int4),
            }],
            ..ShardMapParts::default()
        };
        Self { map: ShardMap::new(1, parts), provided: functions::provided(), search_path: vec!["public".into()] }
    }

    fn context(&self) -> Context<'_> {
        Context {
            map: &self.map,
            search_path: &self.search_path,
            standard_conforming_strings: true,
            provided: &self.provided,
        }
    }
}

const INT4: u32 = 23;
const TEXT: u32 = 25;
