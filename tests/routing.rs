//! Routing as data: each line of `routing/*.txt` is `SQL => plan line`, or `SQL => error SQLSTATE message`.
//!
//! Tables: orders, line_items (tenant_id int8), users (id int4) and shop."Carts" are colocated; accounts is keyed by
//! text in another colocation group; countries is a reference table; anything else is local.

use std::collections::{HashMap, HashSet};

use tenantry::error::PgError;
use tenantry::planner::{Context, Figures, Mode, Plan, Provided, plan};
use tenantry::shard_map::{ColocationId, Column, HashType, ShardMap, ShardMapParts, Table, TableKind, TableOid};

fn table(oid: u32, schema: &str, name: &str, key: Option<usize>, colocation: u32, columns: &[(&str, u32)]) -> Table {
    Table {
        oid: TableOid(oid),
        schema: schema.into(),
        name: name.into(),
        kind: match key {
            Some(column) => TableKind::Distributed { column, hash: HashType::Int4 },
            None => TableKind::Reference,
        },
        colocation: ColocationId(colocation),
        columns: columns
            .iter()
            .map(|(name, type_oid)| Column {
                name: name.to_string(),
                type_oid: *type_oid,
                type_modifier: -1,
                is_generated: false,
                has_volatile_default: false,
                is_always_identity: false,
            })
            .collect(),
        unique_keys: if name == "orders" { vec![vec![0, 1]] } else { Vec::new() },
        shards: Vec::new(),
    }
}

fn map() -> ShardMap {
    const INT4: u32 = 23;
    const INT8: u32 = 20;
    const TEXT: u32 = 25;
    ShardMap::new(
        1,
        ShardMapParts {
            tables: vec![
                table(
                    1,
                    "public",
                    "orders",
                    Some(0),
                    1,
                    &[
                        ("tenant_id", INT8),
                        ("id", INT8),
                        ("total", 1700),
                        ("note", TEXT),
                        ("weight", 701),
                        ("quantity", INT4),
                    ],
                ),
                table(
                    2,
                    "public",
                    "line_items",
                    Some(1),
                    1,
                    &[("id", INT8), ("tenant_id", INT8), ("order_id", INT8), ("price", 1700)],
                ),
                table(3, "public", "users", Some(0), 1, &[("id", INT4), ("name", TEXT), ("country", TEXT)]),
                table(4, "public", "accounts", Some(0), 2, &[("code", TEXT), ("owner", TEXT), ("n", INT4)]),
                table(5, "public", "countries", None, 3, &[("code", TEXT), ("name", TEXT), ("tenant", INT8)]),
                table(6, "shop", "Carts", Some(0), 1, &[("Tenant", INT8), ("item", TEXT)]),
            ],
            ..ShardMapParts::default()
        },
    )
}

fn provided() -> Provided {
    Provided {
        inline: HashMap::from([
            ("citus_version", None),
            ("citus_get_active_worker_nodes", None),
            ("shard_name", None),
            ("get_shard_id_for_distribution_column", None),
            ("citus_table_size", Some(Figures::ShardSizes)),
        ]),
        functions: HashSet::from(["citus_add_node", "create_distributed_table"]),
        views: HashMap::from([("citus_tables", Some(Figures::ShardSizes)), ("pg_dist_node", None)]),
    }
}

fn planned(sql: &str, mode: Mode) -> Result<Plan, PgError> {
    let (map, provided) = (map(), provided());
    let path = ["public".to_owned()];
    let context = Context {
        map: &map,
        search_path: &path,
        standard_conforming_strings: true,
        provided: &provided,
        complexity: Default::default(),
    };
    plan(sql, &context, mode)
}

fn line_of(sql: &str, mode: Mode) -> String {
    match planned(sql, mode) {
        Ok(plan) => line(&plan),
        Err(error) => format!("error {} {}", error.code(), error.message()),
    }
}

fn line(plan: &Plan) -> String {
    plan.to_string()
}

/// Runs one file; `TENANTRY_BLESS=1` writes what came out.
fn check(file: &str, text: &str) {
    let mut blessed = String::new();
    let mut wrong = Vec::new();
    for (number, source) in text.lines().enumerate() {
        let Some((sql, wanted)) = source.rsplit_once(" => ") else {
            blessed.push_str(source);
            blessed.push('\n');
            continue;
        };
        let (mode, statement) = match sql.strip_prefix("[many] ") {
            Some(rest) => (Mode::ManyShards, rest),
            None => (Mode::Any, sql),
        };
        let got = line_of(&statement.replace("\\n", "\n"), mode);
        if got != wanted.trim() {
            wrong.push(format!("{file}:{}: {sql}\n   wanted {wanted}\n   got    {got}", number + 1));
        }
        blessed.push_str(&format!("{sql} => {got}\n"));
    }
    if std::env::var_os("TENANTRY_BLESS").is_some() {
        std::fs::write(format!("{}/tests/routing/{file}", env!("CARGO_MANIFEST_DIR")), blessed).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_tenant_goes_to_one_shard_group() {
    check("one_tenant.txt", include_str!("routing/one_tenant.txt"));
}

#[test]
fn what_is_not_provably_one_tenant_is_not_routed() {
    check("not_one_tenant.txt", include_str!("routing/not_one_tenant.txt"));
}

#[test]
fn writes_go_where_their_rows_live() {
    check("writes.txt", include_str!("routing/writes.txt"));
}

#[test]
fn names_are_resolved_as_postgres_does() {
    check("names.txt", include_str!("routing/names.txt"));
}

/// One row by a unique key, or nothing read: servers need not plan with the values.
#[test]
fn one_plan_is_as_good_as_any_where_only_a_unique_key_is_used() {
    let has_one = |sql: &str| planned(sql, Mode::Any).unwrap().has_one_good_plan();
    for sql in [
        "SELECT * FROM orders WHERE tenant_id = $1 AND id = $2",
        "SELECT note FROM orders AS o (a, b) WHERE b = $2::int8 AND $1 = a AND total > $3 ORDER BY b LIMIT $4",
        "UPDATE orders SET note = $1 WHERE (tenant_id, id) = ($2, $3) RETURNING total",
        "DELETE FROM public.orders WHERE id = 5 AND tenant_id = 7",
        "SELECT 1 FROM orders WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
        "INSERT INTO orders (tenant_id, id) VALUES ($1, $2) ON CONFLICT (tenant_id, id) DO UPDATE SET note = $3",
    ] {
        assert!(has_one(sql), "{sql}");
    }
    for sql in [
        "SELECT * FROM orders WHERE tenant_id = $1",
        "SELECT * FROM orders WHERE tenant_id = $1 AND id > $2",
        "SELECT * FROM orders WHERE tenant_id = $1 AND id IN ($2, $3)",
        "SELECT * FROM orders WHERE tenant_id = $1 AND (id = $2 OR note = $3)",
        "SELECT * FROM orders WHERE tenant_id = $1 AND id = $2::numeric",
        "SELECT * FROM orders AS o (id, b) WHERE o.id = $1 AND o.id = $2",
        "SELECT * FROM line_items WHERE tenant_id = $1 AND id = $2",
        "SELECT * FROM orders JOIN line_items USING (tenant_id) WHERE tenant_id = $1 AND orders.id = $2",
        "SELECT (SELECT count(*) FROM users WHERE users.id = $1) FROM orders WHERE tenant_id = $1 AND id = $2",
        "SELECT * FROM orders WHERE tenant_id = $1 AND id = $2 UNION ALL SELECT * FROM orders WHERE tenant_id = $1",
        "INSERT INTO orders (tenant_id, id) VALUES ($1, (SELECT max(id) FROM countries))",
    ] {
        assert!(!has_one(sql), "{sql}");
    }
}

/// What runs where, for the plans whose text is generated.
fn texts_of(sql: &str) -> String {
    let group = Some(tenantry::shard_map::ShardGroupId(7));
    match planned(sql, Mode::Any) {
        Ok(Plan::Combine(c)) => {
            let rows: Vec<String> =
                c.rowsets.iter().map(|r| format!("[{}] {}", r.shards, r.query.render(group))).collect();
            format!("{} || {}", rows.join(" ; "), c.query.render(None))
        }
        Ok(Plan::Router(r)) => r.query.render(group),
        Ok(Plan::Scatter(r)) => r.query.render(group),
        Ok(Plan::Coordinator(r)) => r.query.render(None),
        Ok(Plan::Insert(i)) => {
            let rows: Vec<&str> = i.rows.iter().map(|r| &*r.text).collect();
            format!("{}{}{}", i.head.render(group), rows.join(","), i.tail.render(group))
        }
        Ok(plan) => plan.to_string(),
        Err(error) => format!("error {} {}", error.code(), error.message()),
    }
}

#[test]
fn generated_texts_are_the_expected_ones() {
    let file = "texts.txt";
    let text = include_str!("routing/texts.txt");
    let (mut blessed, mut wrong) = (String::new(), Vec::new());
    for source in text.lines() {
        let Some((sql, wanted)) = source.split_once(" => ") else { continue };
        let got = texts_of(sql);
        if got != wanted.trim() {
            wrong.push(format!("{sql}\n   wanted {wanted}\n   got    {got}"));
        }
        blessed.push_str(&format!("{sql} => {got}\n"));
    }
    if std::env::var_os("TENANTRY_BLESS").is_some() {
        std::fs::write(format!("{}/tests/routing/{file}", env!("CARGO_MANIFEST_DIR")), blessed).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn large_statements_are_planned_or_refused_on_a_small_stack() {
    let chain = |part: &str, n: usize, with: &str| vec![part; n].join(with);
    let cases = [
        (format!("SELECT * FROM orders WHERE {}", chain("tenant_id = 1", 3_000, " OR ")), "router"),
        (format!("SELECT * FROM orders WHERE {}", chain("tenant_id = 1", 3_000, " AND ")), "router"),
        (format!("SELECT * FROM orders WHERE {}", chain("tenant_id = 1", 30_000, " OR ")), "error 54001"),
        (format!("SELECT * FROM orders WHERE tenant_id = {}", chain("1", 9_000, "+")), "router"),
        (format!("SELECT * FROM orders WHERE id = {}1", "- ".repeat(4_000)), "error 54001"),
        (format!("SELECT {}1{} FROM orders WHERE tenant_id = 1", "(".repeat(150), ")".repeat(150)), "router"),
        (format!("SELECT {}1{} FROM orders", "(".repeat(3_000), ")".repeat(3_000)), "error 54001"),
        (format!("SELECT * FROM orders WHERE tenant_id IN ({})", chain("7", 30_000, ",")), "router"),
        (chain("SELECT id FROM orders WHERE tenant_id = 1", 2_000, " UNION ALL "), "router"),
        (
            format!("INSERT INTO orders VALUES {}", chain("(1, 2, 3, 'x')", 20_000, ", ")),
            "insert table=orders rows=20000",
        ),
        (format!("SELECT {}1{}", "(SELECT ".repeat(120), ")".repeat(120)), "coordinator"),
    ];
    let check = move || {
        for (sql, wanted) in cases {
            let got = line_of(&sql, Mode::Any);
            assert!(got.starts_with(wanted), "{} ... {}: {got}", &sql[..60], sql.len());
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}
