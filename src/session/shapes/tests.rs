//! A cached shape gives what planning anew gives.

use proptest::prelude::*;

use super::*;
use crate::executor::{Target, Values};
use crate::functions;
use crate::planner::{Mode, Provided, plan};
use crate::shard_map::hash::intervals;
use crate::shard_map::{
    ColocationGroup, Column, NodeId, ShardGroup, ShardId, ShardMap, ShardMapParts, Table, TableKind, TableOid,
};

/// orders (int4 tenant), notes (text tenant), prices (numeric tenant), each with id int8, note text, day date.
struct Catalog {
    map: ShardMap,
    provided: Provided,
    search_path: Vec<String>,
}

impl Catalog {
    fn new() -> Self {
        let tables = [(1, "orders", HashType::Int4), (2, "notes", HashType::Text), (3, "prices", HashType::Numeric)];
        let colocations = tables.iter().map(|(n, _, hash)| {
            let groups = intervals(32).into_iter().enumerate().map(|(i, (min, max))| ShardGroup {
                id: ShardGroupId(u64::from(n * 100) + i as u64),
                min,
                max,
                node: NodeId(1),
                tenant: None,
            });
            ColocationGroup::new(ColocationId(*n), Some(*hash), groups.collect())
        });
        let column = |(name, type_oid): (&str, u32)| Column {
            name: name.into(),
            type_oid,
            // numeric(10,2), where it is the tenant.
            type_modifier: if type_oid == 1700 { (10 << 16 | 2) + 4 } else { -1 },
            is_generated: false,
            has_volatile_default: false,
            is_always_identity: false,
        };
        let table = |(n, name, hash): &(u32, &str, HashType)| Table {
            oid: TableOid(*n),
            schema: "public".into(),
            name: (*name).into(),
            kind: TableKind::Distributed { column: 0, hash: *hash },
            colocation: ColocationId(*n),
            columns: [("tenant", hash.oid()), ("id", 20), ("note", 25), ("day", 1082)].map(column).into(),
            unique_keys: Vec::new(),
            shards: (0..32).map(|i| ShardId(u64::from(n * 100) + i)).collect(),
        };
        let parts = ShardMapParts {
            tables: tables.iter().map(table).collect(),
            colocations: colocations.collect(),
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

    /// What planning this text alone says: the text for the one shard group it goes to, if it is one. A value that
    /// no row can have (NULL) goes anywhere.
    fn planned(&self, text: &str) -> Result<(Target, Option<Spliced>), String> {
        let (colocation, operands, query) = match plan(text, &self.context(), Mode::Any) {
            Ok(Plan::Router(r)) => (r.colocation, r.operands, r.query),
            Ok(Plan::Insert(i)) => {
                (i.table.colocation, i.rows.into_iter().map(|r| r.tenant).collect::<Vec<_>>(), i.query)
            }
            Ok(_) => return Ok((Target::Many, None)),
            Err(error) => return Err(error.to_string()),
        };
        Ok((
            Values::None.target(self.map.colocation(colocation).unwrap(), &operands, crate::executor::Use::Compared),
            Some(query),
        ))
    }

    /// Asserts that the route by shape, if there is one, is what planning says.
    fn check(&self, shapes: &Shapes, text: &str) -> bool {
        let Some(route) = shapes.route(text, &self.context()) else { return false };
        let group = Some(route.group);
        match self.planned(text) {
            Ok((Target::One(planned), Some(query))) => {
                assert_eq!(planned, route.group, "{text}");
                assert_eq!(query.render(group), route.query.render(group), "{text}");
            }
            Ok((Target::Nowhere, Some(query))) => {
                assert_eq!(query.render(group), route.query.render(group), "{text}");
            }
            other => panic!("{text} has a route by shape, but planning says {other:?}"),
        }
        true
    }
}

/// `L`: a literal.
const TEXTS: &[&str] = &[
    "SELECT * FROM orders WHERE tenant = L AND id = L",
    "SELECT note FROM orders WHERE tenant = L AND id IN (L, L) ORDER BY 1 LIMIT L /* c */",
    "SELECT * FROM notes n WHERE n.tenant = L AND note LIKE L",
    "SELECT * FROM prices WHERE tenant = L",
    "SELECT * FROM orders WHERE tenant IN (L, L)",
    "SELECT * FROM orders WHERE tenant BETWEEN L AND L",
    "SELECT * FROM orders WHERE tenant = ANY(L)",
    "SELECT * FROM orders WHERE tenant = ANY(ARRAY[L, L])",
    "SELECT * FROM orders WHERE tenant = L::int4 AND note = L::text",
    "SELECT * FROM orders WHERE tenant = CAST(L AS int8)",
    "SELECT * FROM notes WHERE tenant = L::text",
    "SELECT * FROM notes WHERE tenant = int L",
    "SELECT * FROM orders WHERE tenant = -L",
    "SELECT * FROM orders WHERE tenant = L - L",
    "SELECT * FROM orders WHERE tenant = L AND id = -L",
    "SELECT * FROM orders WHERE tenant = L OR tenant = L",
    "SELECT * FROM orders WHERE tenant = L AND tenant = L",
    "SELECT * FROM orders WHERE tenant = (SELECT L)",
    "SELECT * FROM orders WHERE (tenant, id) = (L, L)",
    "SELECT * FROM orders o JOIN public.orders p ON o.tenant = p.tenant WHERE p.tenant = L AND o.id > L",
    "WITH x AS (SELECT * FROM orders WHERE tenant = L) SELECT * FROM x WHERE id = L",
    "SELECT * FROM (SELECT tenant, count(*) FROM orders GROUP BY 1) x WHERE x.tenant = L",
    "SELECT * FROM (SELECT tenant, count(*) FROM orders GROUP BY tenant) x WHERE x.tenant = L AND count > L",
    "SELECT * FROM (SELECT * FROM orders LIMIT L) x WHERE x.tenant = L",
    "SELECT * FROM orders WHERE tenant = L AND day = date L",
    "SELECT * FROM orders WHERE tenant = L AND day > now() - interval L",
    "SELECT * FROM orders WHERE tenant = L AND note = 'it''s' FOR UPDATE",
    "SELECT * FROM orders WHERE L = L",
    "SELECT * FROM orders WHERE id = L",
    "SELECT count(*) FROM orders WHERE tenant = NULL AND id = L",
    "UPDATE orders SET note = L, id = -L WHERE tenant = L AND id = L RETURNING *",
    "UPDATE orders SET tenant = L WHERE tenant = L",
    "DELETE FROM notes WHERE tenant = L",
    "INSERT INTO orders (tenant, id, note) VALUES (L, L, L)",
    "INSERT INTO orders VALUES (L, L, L), (L, -L, L)",
    "INSERT INTO orders (id, tenant) VALUES (L, -L)",
    "INSERT INTO notes (tenant, id) VALUES (L, L) ON CONFLICT (tenant) DO UPDATE SET note = L",
    "INSERT INTO notes (tenant, id) VALUES (L::text, L), (L, nextval(L))",
    "INSERT INTO prices (tenant) VALUES (L)",
    "INSERT INTO orders (tenant, id) SELECT L, L",
    "INSERT INTO orders (tenant, id) SELECT tenant, id FROM orders WHERE tenant = L",
    "EXPLAIN SELECT * FROM orders WHERE tenant = L",
    "DECLARE c CURSOR FOR SELECT * FROM orders WHERE tenant = L",
    "SELECT * FROM local WHERE tenant = L",
    "SELECT citus_add_node(L, L)",
];

fn fill(text: &str, literals: &[String]) -> String {
    let mut literals = literals.iter().cycle();
    text.chars().map(|c| if c == 'L' { literals.next().unwrap().clone() } else { c.to_string() }).collect()
}

fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0u32..50).prop_map(|n| n.to_string()),
        1 => (0u64..u64::MAX).prop_map(|n| n.to_string()),
        1 => (0u32..50).prop_map(|n| format!("00{n}")),
        1 => (0u32..50).prop_map(|n| format!("{n}.0")),
        1 => (0u32..50).prop_map(|n| format!("{n}.5")),
        1 => (0u32..50).prop_map(|n| format!("{n}e1")),
        3 => (-50i32..50).prop_map(|n| format!("'{n}'")),
        1 => (0u32..50).prop_map(|n| format!("' {n} '")),
        1 => (0u32..50).prop_map(|n| format!("'{{{n}}}'")),
        2 => "[a-z ]{0,4}(''[a-z]{0,3})?".prop_map(|s| format!("'{s}'")),
        1 => "[a-z0-9]{0,3}(\\\\n|\\\\'|\\\\x41|\\\\v)?".prop_map(|s| format!("E'{s}'")),
        1 => "[a-z0-9']{0,3}".prop_map(|s| format!("$q${s}$q$")),
        1 => "[a-z0-9]{0,3}".prop_map(|s| format!("N'{s}'")),
        1 => Just("x'1f'".to_owned()),
        1 => Just("'2024-02-29'".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_route_by_shape_is_that_of_planning_the_text_anew(
        text in prop::sample::select(TEXTS),
        fills in prop::collection::vec(prop::collection::vec(literal(), 1..5), 6),
    ) {
        let (catalog, shapes) = (Catalog::new(), Shapes::default());
        for literals in fills {
            catalog.check(&shapes, &fill(text, &literals));
        }
    }

    #[test]
    fn texts_of_one_shape_are_routed_by_their_own_values(
        text in prop::sample::select(TEXTS),
        fills in prop::collection::vec(prop::collection::vec(0u32..200, 5), 8),
        quoted in any::<bool>(),
    ) {
        let (catalog, shapes) = (Catalog::new(), Shapes::default());
        for numbers in fills {
            let write = |n: &u32| if quoted { format!("'{n}'") } else { n.to_string() };
            catalog.check(&shapes, &fill(text, &numbers.iter().map(write).collect::<Vec<_>>()));
        }
    }
}

#[test]
fn common_statements_have_a_route_by_shape() {
    let (catalog, shapes) = (Catalog::new(), Shapes::default());
    for text in [
        "SELECT * FROM orders WHERE tenant = 7 AND id = -3 LIMIT 1",
        "SELECT * FROM orders WHERE tenant = 8 AND id = -44 LIMIT 10",
        "SELECT * FROM notes WHERE tenant = 'it''s' AND day > '2024-01-01'",
        "UPDATE orders SET note = 'x', id = id + -1 WHERE tenant = 9",
        "DELETE FROM prices WHERE tenant = 10",
        "INSERT INTO orders (tenant, id, note) VALUES (11, -1, 'x')",
        "INSERT INTO orders (tenant, id) VALUES (12, 1), (12, 2)",
        "INSERT INTO notes (tenant) VALUES (E'a\\nb') ON CONFLICT DO NOTHING",
        "SELECT o.id FROM orders o JOIN orders p USING (tenant) WHERE o.tenant = 13 AND p.note = $$x$$",
        "SELECT * FROM orders WHERE tenant = '14'::int4 /* traced */",
    ] {
        assert!(catalog.check(&shapes, text), "{text}");
    }
    assert_eq!(shapes.known.borrow().len(), 9);
}

#[test]
fn what_depends_on_a_literals_value_is_left_to_the_planner() {
    let (catalog, shapes) = (Catalog::new(), Shapes::default());
    for text in [
        // Its value is computed.
        "SELECT * FROM orders WHERE tenant = -7",
        "SELECT * FROM orders WHERE tenant = 3 + 4",
        "SELECT * FROM orders WHERE tenant = ANY('{7}')",
        // Read in another way than the type's input function does.
        "SELECT * FROM orders WHERE tenant = 7.0",
        "INSERT INTO notes (tenant) VALUES (007)",
        // In no row, or an error: the planner knows which.
        "SELECT * FROM orders WHERE tenant = 99999999999",
        "INSERT INTO orders (tenant) VALUES ('x')",
        "INSERT INTO orders (tenant) VALUES (NULL)",
        // Two groups.
        "SELECT * FROM orders WHERE tenant IN (1, 2)",
        "INSERT INTO orders (tenant) VALUES (1), (2)",
        "SELECT 1; SELECT * FROM orders WHERE tenant = 7",
        "EXPLAIN SELECT * FROM orders WHERE tenant = 99999999999",
    ] {
        assert!(shapes.route(text, &catalog.context()).is_none(), "{text}");
    }
}

#[test]
fn a_shape_ends_with_the_map_and_the_search_path_it_was_made_for() {
    let (mut catalog, shapes) = (Catalog::new(), Shapes::default());
    let text = "SELECT * FROM orders WHERE tenant = 7";
    assert!(catalog.check(&shapes, text));
    catalog.search_path = vec!["elsewhere".into()];
    assert!(shapes.route(text, &catalog.context()).is_none());
    catalog.search_path = vec!["public".into()];
    assert!(catalog.check(&shapes, text));
    catalog.map = ShardMap::new(2, ShardMapParts::default());
    assert!(shapes.route(text, &catalog.context()).is_none());
}

#[test]
fn a_tenant_that_storing_would_change_is_left_to_the_planner() {
    let (catalog, shapes) = (Catalog::new(), Shapes::default());
    let routes = |text: &str| shapes.route(text, &catalog.context()).is_some();
    assert!(routes("INSERT INTO prices (tenant) VALUES ('1.23')"));
    assert!(!routes("INSERT INTO prices (tenant) VALUES ('1.234')"));
    assert!(routes("SELECT * FROM prices WHERE tenant = '1.234'"));
}

#[test]
fn a_row_without_a_tenant_is_left_to_the_planner() {
    let (catalog, shapes) = (Catalog::new(), Shapes::default());
    assert!(shapes.route("INSERT INTO orders (id, tenant) VALUES (1)", &catalog.context()).is_none());
}
