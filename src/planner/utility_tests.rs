//! `routing/utility.txt`, line by line: the text left of `=>` becomes the plan on the right.

use std::collections::HashMap;

use crate::error::PgError;
use crate::shard_map::{
    ColocationGroup, ColocationId, Column, HashType, NodeId, ShardGroup, ShardGroupId, ShardMap, ShardMapParts, Table,
    TableKind, TableOid,
};
use crate::sql::lexer::lex;
use crate::sql::{Access, Spliced};

use super::names::{coordinator, names_managed_table};
use super::{Context, Coordinator, Figures, Plan, Provided, Scatter, Shards, plan_utility};

fn column(name: &str, is_generated: bool) -> Column {
    Column {
        name: name.into(),
        type_oid: 23,
        type_modifier: -1,
        is_generated,
        has_volatile_default: false,
        is_always_identity: false,
    }
}

fn table(oid: u32, name: &str, colocation: u32, columns: Vec<Column>) -> Table {
    let kind = match colocation {
        9 => TableKind::Reference,
        _ => TableKind::Distributed { column: 0, hash: HashType::Int4 },
    };
    Table {
        oid: TableOid(oid),
        schema: "public".into(),
        name: name.into(),
        kind,
        colocation: ColocationId(colocation),
        columns,
        unique_keys: Vec::new(),
        shards: vec![],
    }
}

fn map() -> ShardMap {
    let group = |id: u32| {
        let all = ShardGroup { id: ShardGroupId(7), min: i32::MIN, max: i32::MAX, node: NodeId(1), tenant: None };
        ColocationGroup::new(ColocationId(id), (id != 9).then_some(HashType::Int4), vec![all])
    };
    let key = || column("tenant_id", false);
    ShardMap::new(
        1,
        ShardMapParts {
            nodes: vec![],
            tables: vec![
                table(1, "orders", 1, vec![key(), column("id", false), column("total", true)]),
                table(2, "items", 1, vec![key(), column("order_id", false)]),
                table(3, "events", 2, vec![key()]),
                table(4, "countries", 9, vec![column("code", false)]),
            ],
            colocations: vec![group(1), group(2), group(9)],
            shadows: vec![("mine".into(), "orders".into())],
            ..ShardMapParts::default()
        },
    )
}

/// A stand-in for the planning of queries: all shards when a managed table is named.
fn plan_query(text: &str, ctx: &Context<'_>) -> Result<Plan, PgError> {
    let tokens = lex(text, true)?;
    Ok(match names_managed_table(text, &tokens, ctx) {
        Some(_) => Plan::Scatter(Scatter {
            colocation: ColocationId(1),
            shards: Shards::All,
            query: Spliced::verbatim(text),
            access: Access::Read,
            returns_rows: true,
        }),
        None => Coordinator { access: Access::Read, returns_rows: true, ..coordinator(text) }.into(),
    })
}

fn plan(text: &str) -> Option<Result<Plan, PgError>> {
    let provided = Provided {
        inline: HashMap::from([("shard_name", None)]),
        views: HashMap::from([("pg_dist_node", None), ("citus_shards", Some(Figures::ShardSizes))]),
        ..Provided::default()
    };
    let map = map();
    let ctx = Context {
        map: &map,
        search_path: &["public".into()],
        standard_conforming_strings: true,
        provided: &provided,
        complexity: Default::default(),
    };
    let tokens = lex(text, true).unwrap();
    plan_utility(text, &tokens, &ctx, &|text| plan_query(text, &ctx))
}

fn line(text: &str) -> String {
    match plan(text) {
        None => "not a utility statement".into(),
        Some(Ok(plan)) => plan.to_string(),
        Some(Err(error)) => format!("error {} {}", error.code(), error.message()),
    }
}

#[test]
fn every_utility_statement_becomes_the_plan_that_is_written_down() {
    let mut wrong = Vec::new();
    for case in include_str!("routing/utility.txt").lines() {
        if case.is_empty() || case.starts_with('#') {
            continue;
        }
        let (text, want) = case.split_once(" => ").unwrap_or_else(|| panic!("no => in {case}"));
        let got = line(text);
        if got != want {
            wrong.push(format!("{text}\n  want {want}\n  got  {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn rendered(text: &str) -> String {
    match plan(text).unwrap().unwrap() {
        Plan::Ddl(ddl) => ddl.query.render(Some(ShardGroupId(7))),
        Plan::Coordinator(coordinator) => coordinator.query.render(None),
        plan => panic!("{plan}"),
    }
}

#[test]
fn only_the_schema_in_front_of_a_table_is_changed() {
    for (text, want) in [
        ("ALTER TABLE ONLY Orders ADD é text", "ALTER TABLE ONLY public_7.Orders ADD é text"),
        ("VACUUM public . orders, items", "VACUUM public_7.orders, public_7.items"),
        (
            "ALTER TABLE items ADD c int REFERENCES countries",
            "ALTER TABLE public_7.items ADD c int REFERENCES public.countries",
        ),
        (
            "ALTER TABLE items ADD FOREIGN KEY (tenant_id) REFERENCES public.orders(tenant_id)",
            "ALTER TABLE public_7.items ADD FOREIGN KEY (tenant_id) REFERENCES public_7.orders(tenant_id)",
        ),
        ("CREATE INDEX ON orders(id)", "CREATE INDEX ON public_7.orders(id)"),
        ("COMMENT ON COLUMN orders.id IS ''", "COMMENT ON COLUMN public_7.orders.id IS ''"),
        ("CREATE STATISTICS s ON a, b FROM orders", "CREATE STATISTICS public_7.s ON a, b FROM public_7.orders"),
        ("GRANT SELECT ON countries TO x", "GRANT SELECT ON public.countries TO x"),
    ] {
        assert_eq!(rendered(text), want);
    }
}

#[test]
fn no_text_makes_the_planner_panic() {
    const WORDS: &[&str] = &[
        "create",
        "alter",
        "drop",
        "table",
        "orders",
        "(",
        ")",
        ",",
        ".",
        "add",
        "column",
        "references",
        "on",
        "as",
        "copy",
        "from",
        "stdin",
        "with",
        "set",
        "=",
        "'x'",
        "local",
        "index",
        "explain",
        "analyze",
        "select",
        "primary",
        "key",
        "declare",
        "cursor",
        "for",
        "grant",
        "to",
        "view",
        "comment",
        "if",
        "exists",
        "only",
        "*",
        "default",
        "prepare",
        "execute",
        "truncate",
        "vacuum",
        "policy",
        "1",
        "foreign",
        "generated",
        "exclude",
        "using",
    ];
    let word = proptest::sample::select(WORDS);
    proptest::proptest!(|(text in proptest::collection::vec(word, 0..14))| {
        let _ = plan(&text.join(" "));
    });
}

#[test]
fn bodies_of_functions_find_the_catalog_as_statements_do() {
    for (text, want) in [
        (
            "CREATE FUNCTION f(id int) RETURNS int LANGUAGE sql AS $é$ SELECT nodeport FROM pg_dist_node WHERE pg_dist_node.nodeid = $1 $é$",
            "CREATE FUNCTION f(id int) RETURNS int LANGUAGE sql AS $é$ SELECT nodeport FROM tenantry.pg_dist_node WHERE pg_dist_node.nodeid = $1 $é$",
        ),
        (
            "CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT shard_name(''t'', 1) FROM g() JOIN pg_catalog.pg_dist_node n ON true'",
            "CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT tenantry.shard_name(''t'', 1) FROM g() JOIN tenantry.pg_dist_node n ON true'",
        ),
        (
            "DO $$ BEGIN PERFORM 1 FROM t, pg_dist_node; END $$",
            "DO $$ BEGIN PERFORM 1 FROM t, tenantry.pg_dist_node; END $$",
        ),
        // Figures that nobody has gathered would be those of another moment.
        ("DO 'SELECT FROM citus_shards, a.pg_dist_node'", "DO 'SELECT FROM citus_shards, a.pg_dist_node'"),
        (
            "CREATE FUNCTION pg_dist_node() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION pg_dist_node() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ),
    ] {
        assert_eq!(rendered(text), want);
    }
}
