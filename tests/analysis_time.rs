//! The analysis of a statement has an end, whatever its text: see `limits.parse_time`.
//!
//! Texts within the other limits' defaults whose cost grows faster than their length. Each is planned, or not
//! understood (0A000), or refused with 54001 once its time is over. `--nocapture` prints the CPU time of each.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tenantry::error::SqlState;
use tenantry::planner::{Context, Mode, Provided, plan};
use tenantry::shard_map::{ColocationId, Column, HashType, ShardMap, ShardMapParts, Table, TableKind, TableOid};
use tenantry::sql::Complexity;

/// Of one statement here; the default is more.
const LIMIT: Duration = Duration::from_millis(300);

/// With all that is in proportion to the text, and is not watched; CPU time, so the machine may be as busy as it likes.
const MOST: Duration = Duration::from_secs(5);

#[test]
fn no_statement_is_analysed_for_long() {
    let map = map();
    for (name, size, text) in shapes() {
        let (time, error) = analyse(&map, &text(size), LIMIT);
        println!("{name:40} {size:>8} {time:>10.1?} {error:?}");
        let told = [SqlState::STATEMENT_TOO_COMPLEX, SqlState::FEATURE_NOT_SUPPORTED];
        assert!(error.as_ref().is_none_or(|error| told.contains(error)), "{name}: {error:?}");
        assert!(time < MOST, "{name}: {time:?}");
    }
}

/// What one would write by hand, or a program would: all planned, by the default.
#[test]
fn long_statements_are_planned_in_time() {
    let map = map();
    let time = Complexity::default().time;
    for text in [
        from_many("SELECT 1 FROM orders o", 200, |i| format!(" JOIN orders o{i} ON o{i}.tenant_id = o.tenant_id")),
        from_many("SELECT 1 FROM orders o", 200, |i| format!(" JOIN orders o{i} USING (tenant_id)")),
        format!("INSERT INTO orders VALUES {}", list(20_000, |i| format!("({i}, {i}, {i})"))),
        format!("SELECT {0} FROM orders GROUP BY {0}", list(500, |i| format!("id + {i}"))),
        format!("SELECT 1 FROM orders WHERE tenant_id IN ({})", list(50_000, |i| i.to_string())),
    ] {
        let (_, error) = analyse(&map, &text, time);
        assert_eq!(error, None, "{text:.100}");
    }
}

type Shape = Box<dyn Fn(usize) -> String>;

fn shapes() -> Vec<(&'static str, usize, Shape)> {
    let condition = |before: &'static str, middle: &'static str, after: &'static str| -> Shape {
        Box::new(move |n| {
            let nested = format!("{}{middle}{}", before.repeat(n), after.repeat(n));
            format!("SELECT 1 FROM orders WHERE tenant_id = 1 AND id = {nested}")
        })
    };
    let from = |before: &'static str, middle: &'static str, after: &'static str| -> Shape {
        Box::new(move |n| format!("SELECT 1 FROM {}{middle}{}", before.repeat(n), after.repeat(n)))
    };
    let joined = |one: fn(usize) -> String| -> Shape { Box::new(move |n| from_many("SELECT 1 FROM orders o", n, one)) };
    let cte = |i: usize| format!("c{i} AS (SELECT * FROM orders WHERE tenant_id = 1)");
    vec![
        // The parser tries two readings of each level.
        ("position(position(...", 60, condition("position(", "id", ", id)")),
        ("FROM ((SELECT ... FROM ((SELECT ...", 40, from("((SELECT 1 FROM ", "orders", ") a JOIN orders b ON true)")),
        ("FROM ((...", 60, from("(", "orders a JOIN orders b ON true", ")")),
        ("IN ((SELECT ... UNION", 40, condition("id IN ((SELECT 1 FROM orders WHERE ", "true", ") UNION 5)")),
        ("CASE without END", 90, condition("CASE WHEN true THEN ", "1", "")),
        ("subqueries in subqueries", 60, condition("(SELECT id FROM orders WHERE tenant_id = ", "1", ")")),
        // Each name is looked for among many, each fact compared with many.
        ("JOIN ... ON", 2000, joined(|i| format!(" JOIN orders o{i} ON o{i}.tenant_id = o.tenant_id"))),
        ("LEFT JOIN ... ON", 2000, joined(|i| format!(" LEFT JOIN orders o{i} ON o{i}.tenant_id = o.tenant_id"))),
        ("JOIN ... USING", 2000, joined(|i| format!(" JOIN orders o{i} USING (tenant_id)"))),
        ("FULL JOIN ... USING", 500, joined(|i| format!(" FULL JOIN orders o{i} USING (tenant_id)"))),
        ("NATURAL JOIN", 2000, joined(|i| format!(" NATURAL JOIN orders o{i}"))),
        ("a, b, c, ...", 10_000, joined(|i| format!(", orders o{i}"))),
        ("LATERAL", 3000, joined(|i| format!(", LATERAL (SELECT * FROM orders q WHERE q.tenant_id = o.id) l{i}"))),
        (
            "many tenants, many tables",
            400,
            Box::new(|n| {
                let tables = from_many("SELECT 1 FROM orders o", n, |i| format!(" JOIN orders o{i} USING (tenant_id)"));
                format!("{tables} WHERE tenant_id IN ({})", list(100 * n, |i| i.to_string()))
            }),
        ),
        (
            "the same tenants twice",
            30_000,
            Box::new(|n| {
                let tenants = list(n, |i| i.to_string());
                format!("SELECT 1 FROM orders WHERE tenant_id IN ({tenants}) AND tenant_id IN ({tenants})")
            }),
        ),
        (
            "WITH, all joined",
            3000,
            Box::new(move |n| format!("WITH {} SELECT * FROM {}", list(n, cte), list(n, |i| format!("c{i}")))),
        ),
        (
            "WITH, one after another",
            3000,
            Box::new(|n| {
                let next = |i: usize| format!("c{} AS (SELECT x.* FROM c{i} x JOIN c{i} y USING (tenant_id))", i + 1);
                format!("WITH c0 AS (SELECT * FROM orders), {} SELECT * FROM c{n}", list(n, next))
            }),
        ),
        (
            "UNION of tenants",
            3000,
            Box::new(|n| {
                let legs = from_many("SELECT * FROM orders WHERE tenant_id = 0", n, |i| {
                    format!(" UNION SELECT * FROM orders WHERE tenant_id = {i}")
                });
                format!("SELECT * FROM ({legs}) x WHERE tenant_id IN (SELECT tenant_id FROM orders)")
            }),
        ),
        (
            "GROUP BY what is selected",
            5000,
            Box::new(|n| format!("SELECT {0} FROM orders GROUP BY {0}", list(n, |i| format!("id + {i}")))),
        ),
        (
            "ORDER BY what is selected",
            20_000,
            Box::new(|n| {
                let items = list(n, |i| format!("id AS a{i}"));
                format!("SELECT {items} FROM orders ORDER BY {}", list(n, |i| format!("a{i}")))
            }),
        ),
        ("aggregates", 20_000, Box::new(|n| format!("SELECT {} FROM orders", list(n, |i| format!("avg(id + {i})"))))),
        (
            "OR of AND",
            3000,
            Box::new(|n| {
                let both = |i: usize| format!("(tenant_id = {i} AND id = {i})");
                format!("SELECT 1 FROM orders WHERE {}", (0..n).map(both).collect::<Vec<_>>().join(" OR "))
            }),
        ),
    ]
}

fn from_many(first: &str, n: usize, one: impl Fn(usize) -> String) -> String {
    first.to_owned() + &(1..=n).map(one).collect::<String>()
}

fn list(n: usize, item: impl Fn(usize) -> String) -> String {
    (0..n).map(item).collect::<Vec<_>>().join(", ")
}

/// The CPU time that it took, and the code of the refusal.
fn analyse(map: &ShardMap, text: &str, time: Duration) -> (Duration, Option<SqlState>) {
    let path = ["public".to_owned()];
    let provided = Provided { inline: HashMap::new(), functions: HashSet::new(), views: HashMap::new() };
    let context = Context {
        map,
        search_path: &path,
        standard_conforming_strings: true,
        provided: &provided,
        complexity: Complexity { time, ..Complexity::default() },
    };
    std::thread::scope(|scope| {
        // As much stack as a session's thread has.
        let thread = std::thread::Builder::new().stack_size(16 << 20);
        let analysed = thread.spawn_scoped(scope, || {
            let start = cpu_time();
            let planned = plan(text, &context, Mode::Any);
            (cpu_time() - start, planned.err().map(|error| error.code()))
        });
        analysed.expect("a thread").join().expect("no panic")
    })
}

/// Of all threads: large statements are analysed on one of their own.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

fn map() -> ShardMap {
    let column = |name: &str| Column {
        name: name.into(),
        type_oid: 20,
        type_modifier: -1,
        is_generated: false,
        has_volatile_default: false,
        is_always_identity: false,
    };
    let table = Table {
        oid: TableOid(1),
        schema: "public".into(),
        name: "orders".into(),
        kind: TableKind::Distributed { column: 0, hash: HashType::Int8 },
        colocation: ColocationId(1),
        columns: ["tenant_id", "id", "total"].map(column).into(),
        unique_keys: Vec::new(),
        shards: Vec::new(),
    };
    ShardMap::new(1, ShardMapParts { tables: vec![table], ..ShardMapParts::default() })
}
