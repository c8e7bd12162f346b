//! What deciding costs, per statement, before anything is sent: making a plan, and using one that is cached.
//!
//! ```text
//!   uncached/<shape>   text -> lexer -> parser -> analysis -> Plan      the first time a thread sees the text
//!   scan/<shape>       text -> skeleton                                 each simple query; part of the next
//!   by_shape/<shape>   text -> skeleton -> values -> shard group, text  a simple query whose shape is known
//!   bind/<format>      Bind -> value -> shard group                     each Bind of a statement
//!   cached/target...   Plan -> value -> hash -> shard group (-> text)   a text that is known as it is
//!   load/<tenants>     value -> counters of tenant and shard group  each statement of one tenant, besides the others
//! ```

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use tenantry::executor::loads::{LoadSettings, Meter, Sighting};
use tenantry::executor::{Target, Use, Values};
use tenantry::functions;
use tenantry::planner::{Context, Mode, Plan, Provided, plan};
use tenantry::session::Shapes;
use tenantry::shard_map::hash::{Value, intervals};
use tenantry::shard_map::{
    ColocationGroup, ColocationId, Column, HashType, NodeId, ShardGroup, ShardGroupId, ShardId, ShardMap,
    ShardMapParts, Table, TableKind, TableOid,
};
use tenantry::sql::skeleton::Skeleton;
use tenantry::wire::frontend::Bind;

criterion_group!(benches, uncached, scan, by_shape, bind, cached, load);
criterion_main!(benches);

fn uncached(criterion: &mut Criterion) {
    let catalog = Catalog::new();
    let many_rows = insert_rows(100);
    let mut group = criterion.benchmark_group("uncached");
    let shapes = SHAPES.iter().chain(TEXTS).copied().chain([("insert_100_rows", many_rows.as_str())]);
    for (shape, text) in shapes {
        // A shape that is refused would measure the refusal.
        plan(text, &catalog.context(), Mode::Any).unwrap_or_else(|error| panic!("{shape}: {error}"));
        group.bench_function(shape, |bencher| bencher.iter(|| plan(black_box(text), &catalog.context(), Mode::Any)));
    }
    group.finish();
}

/// One INSERT of `count` rows, all of one tenant.
fn insert_rows(count: usize) -> String {
    let rows: Vec<_> = (0..count).map(|id| format!("(7, {id}, 'new', 100)")).collect();
    format!("INSERT INTO orders (tenant_id, id, state, total) VALUES {}", rows.join(", "))
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for (shape, text) in TEXTS {
        let mut skeleton = Skeleton::default();
        assert!(skeleton.scan(text), "{shape} has a skeleton");
        group.bench_function(*shape, |bencher| bencher.iter(|| skeleton.scan(black_box(text))));
    }
    group.finish();
}

fn by_shape(criterion: &mut Criterion) {
    let catalog = Catalog::new();
    let shapes = Shapes::default();
    let ten_rows = insert_rows(10);
    let mut group = criterion.benchmark_group("by_shape");
    for (shape, text) in TEXTS.iter().copied().chain([("insert_10_rows", ten_rows.as_str())]) {
        assert!(shapes.route(text, &catalog.context()).is_some(), "{shape} is routed by its shape");
        group.bench_function(shape, |bencher| bencher.iter(|| shapes.route(black_box(text), &catalog.context())));
    }
    group.finish();
}

/// What it costs to count a statement: its value seen, placed, and charged with time and bytes.
fn load(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    for (tenants, number) in [("one", 1), ("hundred", 100), ("more_than_counters", 1_000_000)] {
        let meter = Meter::new(&LoadSettings::default());
        let (mut sighting, mut next) = (Sighting::default(), 0);
        group.bench_function(tenants, |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % number;
                sighting.clear();
                meter.see(&mut sighting, ColocationId(1), HashType::Int8, black_box(&Value::Integer(next)));
                let charge = meter.place(&sighting, ColocationId(1), ShardGroupId(next as u64 % 32), true);
                charge.into_iter().for_each(|charge| meter.charge(charge, 300, 500));
            });
        });
    }
    group.finish();
}

fn bind(criterion: &mut Criterion) {
    let catalog = Catalog::new();
    let Ok(Plan::Router(router)) = plan(SHAPES[0].1, &catalog.context(), Mode::Any) else {
        panic!("one tenant: a router plan")
    };
    let colocation = catalog.map.colocation(router.colocation).expect("it is in the map");
    let mut group = criterion.benchmark_group("bind");
    for (format, code, value) in [("text", 0, &b"4711"[..]), ("binary", 1, &4711i32.to_be_bytes()[..])] {
        // No portal name, no statement name, one format for all, two parameters, all results in text.
        let mut payload = vec![0, 0, 0, 1, 0, code, 0, 2];
        for value in [value, value] {
            payload.extend((value.len() as u32).to_be_bytes());
            payload.extend(value);
        }
        payload.extend([0, 0]);
        let payload = Bytes::from(payload);
        group.bench_function(format, |bencher| {
            bencher.iter(|| {
                let bind = Bind::read(black_box(&payload)).expect("it is well formed");
                let values = Values::Bind { bind: &bind, types: &[INT4, INT4] };
                values.target(black_box(colocation), &router.operands, Use::Compared)
            });
        });
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
        bencher.iter(|| Values::None.target(black_box(colocation), black_box(&router.operands), Use::Compared));
    });
    group.bench_function("target_and_text", |bencher| {
        bencher.iter(|| match Values::None.target(black_box(colocation), black_box(&router.operands), Use::Compared) {
            Target::One(shard_group) => router.query.render(Some(shard_group)),
            target => panic!("one tenant lives in one shard group, not {target:?}"),
        });
    });
    group.finish();
}

/// As the simple protocol sends them.
const TEXTS: &[(&str, &str)] = &[
    ("pgbench_select", "SELECT total, state FROM orders WHERE tenant_id = 4711 AND id = 42;"),
    ("pgbench_update", "UPDATE orders SET total = total + -23 WHERE tenant_id = 4711 AND id = 42;"),
    (
        "rails_get",
        "SELECT \"orders\".* FROM \"orders\" WHERE \"orders\".\"tenant_id\" = 4711 AND \"orders\".\"id\" = 42 LIMIT 1 \
         /*application:Shop,controller:orders,action:show,traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-01*/",
    ),
    ("insert", "INSERT INTO orders (tenant_id, id, state, total) VALUES (4711, 42, 'it''s new', 100)"),
    (
        "upsert",
        "INSERT INTO orders (tenant_id, id, state, total) VALUES (4711, 42, 'new', 100) \
         ON CONFLICT (tenant_id, id) DO UPDATE SET state = excluded.state, total = orders.total + 1 RETURNING id",
    ),
    (
        "join",
        "SELECT o.id, sum(i.price) FROM orders o JOIN items i ON i.tenant_id = o.tenant_id AND i.order_id = o.id \
         WHERE o.tenant_id = 4711 AND o.state IN ('new', 'paid') GROUP BY o.id ORDER BY 2 DESC LIMIT 10",
    ),
];

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
            tenant: None,
        });
        let column = |(name, type_oid): (&str, u32)| Column {
            name: name.into(),
            type_oid,
            type_modifier: -1,
            is_generated: false,
            has_volatile_default: false,
            is_always_identity: false,
        };
        let table = |oid, name: &str, columns: &[(&str, u32)]| Table {
            oid: TableOid(oid),
            schema: "public".into(),
            name: name.into(),
            kind: TableKind::Distributed { column: 0, hash: HashType::Int4 },
            colocation: ColocationId(1),
            columns: columns.iter().copied().map(column).collect(),
            unique_keys: Vec::new(),
            shards: ids.clone().take(32).map(|id| ShardId(id + u64::from(oid))).collect(),
        };
        let parts = ShardMapParts {
            tables: vec![
                table(32, "orders", &[("tenant_id", INT4), ("id", INT4), ("state", TEXT), ("total", INT4)]),
                table(64, "items", &[("tenant_id", INT4), ("order_id", INT4), ("price", INT4)]),
            ],
            colocations: vec![ColocationGroup::new(ColocationId(1), Some(HashType::Int4), shard_groups.collect())],
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
            complexity: Default::default(),
        }
    }
}

const INT4: u32 = 23;
const TEXT: u32 = 25;
