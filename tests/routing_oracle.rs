//! Goal: no plan ever gives another answer than a single Postgres would.
//! Method: random statements over small tables; the plan's texts run over four shard schemas of one server, the
//! statement itself over the whole tables; rows and column names are compared.
//!
//! Needs a server: `TENANTRY_ORACLE='host=127.0.0.1 port=5432 user=postgres' cargo test --test routing_oracle`
//! (`TENANTRY_ORACLE_ROUNDS`, `TENANTRY_ORACLE_SEED`). Without the variable it says so and passes.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tenantry::planner::{Context, Mode, Plan, Provided, Shards, plan};
use tenantry::shard_map::{
    ColocationId, Column, HashType, ShardGroupId, ShardMap, ShardMapParts, Table, TableKind, TableOid,
};
use tenantry::sql::{Operand, Spliced};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const GROUPS: u64 = 4;

fn table(oid: u32, name: &str, key: Option<usize>, columns: &[(&str, u32)]) -> Table {
    let column = |(name, type_oid): &(&str, u32)| Column {
        name: name.to_string(),
        type_oid: *type_oid,
        type_modifier: -1,
        is_generated: false,
        has_volatile_default: false,
        is_always_identity: false,
    };
    Table {
        oid: TableOid(oid),
        schema: "public".into(),
        name: name.into(),
        kind: key.map_or(TableKind::Reference, |column| TableKind::Distributed { column, hash: HashType::Int4 }),
        colocation: ColocationId(if key.is_some() { 1 } else { 2 }),
        columns: columns.iter().map(column).collect(),
        unique_keys: Vec::new(),
        shards: Vec::new(),
    }
}

fn map() -> ShardMap {
    let tables = vec![
        table(1, "orders", Some(0), &[("tenant_id", 20), ("id", 20), ("total", 1700), ("note", 25), ("quantity", 23)]),
        table(2, "items", Some(1), &[("id", 20), ("tenant_id", 20), ("order_id", 20), ("price", 23)]),
        table(3, "users", Some(0), &[("uid", 23), ("name", 25)]),
        table(4, "countries", None, &[("code", 25), ("tenant_id", 20)]),
    ];
    ShardMap::new(1, ShardMapParts { tables, ..ShardMapParts::default() })
}

const TABLES: &str = "
    DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public;
    CREATE TABLE orders (tenant_id bigint, id bigint, total numeric, note text, quantity int);
    CREATE TABLE items (id bigint, tenant_id bigint, order_id bigint, price int);
    CREATE TABLE users (uid int, name text);
    CREATE TABLE countries (code text, tenant_id bigint);
    CREATE TABLE plain (id bigint, tenant_id bigint, note text);
    INSERT INTO orders SELECT t, i, nullif(i * t, 6) / 4.0, nullif(chr(96 + i + t % 2), 'c'), i FROM generate_series(1, 5) t, generate_series(1, 4) i
        WHERE (t + i) % 5 <> 0;
    INSERT INTO items SELECT i, t, nullif(1 + (i * t) % 4, 3), nullif(i, 2) FROM generate_series(1, 6) t, generate_series(1, 3) i WHERE (t * i) % 7 <> 4 AND t <> 3;
    INSERT INTO users SELECT t, chr(96 + t) FROM generate_series(2, 6) t;
    INSERT INTO countries VALUES ('a', 1), ('b', 2), ('c', NULL), ('d', 4), (NULL, 5);
    INSERT INTO plain VALUES (1, 1, 'a'), (2, 3, 'b'), (3, NULL, NULL);";

fn group_of(value: i64) -> u64 {
    (value.rem_euclid(GROUPS as i64)) as u64 + 1
}

/// Shard groups of operands; NULL is in none.
fn groups(operands: &[Operand]) -> Vec<u64> {
    let mut groups: Vec<u64> = operands
        .iter()
        .filter_map(|o| match o {
            Operand::Literal(text) => Some(group_of(text.parse().expect("an integer operand"))),
            _ => None,
        })
        .collect();
    groups.sort();
    groups.dedup();
    groups
}

fn shards(shards: &Shards) -> Vec<u64> {
    match shards {
        Shards::All => (1..=GROUPS).collect(),
        Shards::Holding(operands) | Shards::One(operands) => groups(operands),
    }
}

struct Maker {
    rng: StdRng,
    next: usize,
    /// A join with USING stands in the statement: unqualified names may mean its column.
    merged: bool,
}

#[derive(Clone)]
struct Source {
    alias: String,
    columns: Vec<&'static str>,
}

impl Maker {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.rng.random_range(0..list.len())].clone()
    }

    fn alias(&mut self) -> String {
        self.next += 1;
        format!("r{}", self.next)
    }

    fn relation(&mut self, depth: u32, ctes: &[Source], lateral: &[Source]) -> (String, Source) {
        let alias = self.alias();
        if depth > 0 && self.chance(25) {
            let (text, columns) = self.derived(depth - 1, ctes, lateral);
            let keyword = if lateral.is_empty() { "" } else { "LATERAL " };
            return (format!("{keyword}({text}) AS {alias}"), Source { alias, columns });
        }
        if !ctes.is_empty() && self.chance(30) {
            let cte = self.pick(ctes);
            return (format!("{} AS {alias}", cte.alias), Source { alias, columns: cte.columns });
        }
        let (name, columns): (&str, Vec<&str>) = match self.rng.random_range(0..20) {
            0..9 => ("orders", vec!["tenant_id", "id", "quantity"]),
            9..15 => ("items", vec!["id", "tenant_id", "order_id", "price"]),
            15..18 => ("countries", vec!["tenant_id"]),
            18 => ("plain", vec!["id", "tenant_id"]),
            _ => ("users", vec!["uid"]),
        };
        (format!("{name} AS {alias}"), Source { alias, columns })
    }

    /// A subquery that gives tenant_id and id.
    fn derived(&mut self, depth: u32, ctes: &[Source], outer: &[Source]) -> (String, Vec<&'static str>) {
        let (from, sources) = self.from(depth, ctes);
        let mut all = sources.clone();
        all.extend(outer.iter().cloned());
        let filter = self.filter(depth, &all, &sources, ctes);
        let first = self.column(&sources);
        let second = self.column(&sources);
        let text = match self.rng.random_range(0..8) {
            0 => format!("SELECT {first} AS tenant_id, count(*) AS id FROM {from}{filter} GROUP BY {first}"),
            1 => format!("SELECT DISTINCT {first} AS tenant_id, {second} AS id FROM {from}{filter}"),
            2 => format!("SELECT {first} AS tenant_id, {second} AS id FROM {from}{filter} ORDER BY 1, 2 LIMIT 3"),
            3 => {
                let (other, others) = self.from(depth, ctes);
                let (a, b) = (self.column(&others), self.column(&others));
                let filter2 = self.filter(depth, &others, &others, ctes);
                let op = self.pick(&["UNION ALL", "UNION", "EXCEPT", "INTERSECT"]);
                format!(
                    "SELECT {first} AS tenant_id, {second} AS id FROM {from}{filter} {op} SELECT {a}, {b} FROM {other}{filter2}"
                )
            }
            4 => format!("SELECT max({first}) AS tenant_id, {second} AS id FROM {from}{filter} GROUP BY {second}"),
            5 => format!(
                "SELECT {first} AS tenant_id, row_number() OVER (PARTITION BY {second} ORDER BY {first}) AS id FROM {from}{filter}"
            ),
            _ => format!("SELECT {first} AS tenant_id, {second} AS id FROM {from}{filter}"),
        };
        (text, vec!["tenant_id", "id"])
    }

    fn from(&mut self, depth: u32, ctes: &[Source]) -> (String, Vec<Source>) {
        let (mut text, first) = self.relation(depth, ctes, &[]);
        let mut sources = vec![first];
        for _ in 0..self.pick(&[0, 0, 1, 1, 2]) {
            let lateral = if self.chance(15) { sources.clone() } else { Vec::new() };
            let (right, source) = self.relation(depth, ctes, &lateral);
            let is_lateral = right.starts_with("LATERAL");
            let mut both = sources.clone();
            both.push(source.clone());
            let kinds: &[&str] = if is_lateral {
                &["JOIN", "LEFT JOIN"]
            } else {
                &["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]
            };
            match self.pick(kinds) {
                "JOIN" if self.chance(15) => text = format!("{text} CROSS JOIN {right}"),
                kind => {
                    let on = if kind == "FULL JOIN" || self.chance(75) {
                        let left = self.pick(&sources);
                        let mut on = format!("{} = {}", self.tenant(&left), self.tenant(&source));
                        if kind != "FULL JOIN" && self.chance(40) {
                            on = format!("{on} AND {}", self.condition(0, &both, &both, &[]));
                        }
                        on
                    } else {
                        self.condition(0, &both, &both, &[])
                    };
                    let (l, r) = (&sources[sources.len() - 1], &source);
                    let using =
                        l.columns.contains(&"tenant_id") && r.columns.contains(&"tenant_id") && sources.len() == 1;
                    text = if using && self.chance(25) {
                        self.merged = true;
                        format!("{text} {kind} {right} USING (tenant_id)")
                    } else {
                        format!("{text} {kind} {right} ON {on}")
                    };
                }
            }
            sources = both;
        }
        (text, sources)
    }

    fn tenant(&mut self, source: &Source) -> String {
        let column = if source.columns.contains(&"tenant_id") { "tenant_id" } else { source.columns[0] };
        if self.merged && column == "tenant_id" && self.chance(60) {
            return column.to_owned();
        }
        format!("{}.{column}", source.alias)
    }

    fn column(&mut self, sources: &[Source]) -> String {
        let source = self.pick(sources);
        if self.chance(60) {
            return self.tenant(&source);
        }
        let column = self.pick(&source.columns);
        format!("{}.{column}", source.alias)
    }

    fn constant(&mut self) -> String {
        self.pick(&["1", "1", "1", "2", "5", "'1'", "1::bigint", "NULL", "5", "1.0"]).to_owned()
    }

    fn filter(&mut self, depth: u32, all: &[Source], own: &[Source], ctes: &[Source]) -> String {
        if self.chance(20) {
            return String::new();
        }
        let mut parts = Vec::new();
        for _ in 0..self.pick(&[1, 1, 2, 3]) {
            parts.push(self.condition(depth, all, own, ctes));
        }
        format!(" WHERE {}", parts.join(" AND "))
    }

    fn condition(&mut self, depth: u32, all: &[Source], own: &[Source], ctes: &[Source]) -> String {
        let sources = if self.chance(75) { own } else { all };
        let column = self.column(sources);
        match self.rng.random_range(0..20) {
            0..7 => format!("{column} = {}", self.constant()),
            7..10 => format!("{column} = {}", self.column(all)),
            10 => format!("{column} IN ({}, {})", self.constant(), self.constant()),
            11 => format!("({} OR {})", self.condition(0, all, own, ctes), self.condition(0, all, own, ctes)),
            12 => format!("NOT ({})", self.condition(0, all, own, ctes)),
            13 => format!("{column} IS NULL"),
            14 => format!("{column} IS NOT DISTINCT FROM {}", self.constant()),
            15 => format!("({column}, {}) = (1, {})", self.column(sources), self.constant()),
            16 => format!("({column} = 1 AND {} OR {column} = 5)", self.condition(0, all, own, ctes)),
            17 | 18 if depth > 0 => {
                let (from, inner) = self.from(depth - 1, ctes);
                let mut both = inner.clone();
                both.extend(all.iter().cloned());
                let filter = self.filter(depth - 1, &both, &inner, ctes);
                let (out, not) = (self.column(&inner), self.pick(&["", "", "NOT "]));
                match self.rng.random_range(0..4) {
                    0 => format!("{not}EXISTS (SELECT 1 FROM {from}{filter})"),
                    1 => format!("{column} = (SELECT max({out}) FROM {from}{filter})"),
                    2 => format!("{column} {not}IN (SELECT {out} FROM {from}{filter} ORDER BY 1 LIMIT 2)"),
                    _ => format!("{column} {not}IN (SELECT {out} FROM {from}{filter})"),
                }
            }
            _ => format!("{column} = 1"),
        }
    }

    fn query(&mut self) -> String {
        self.next = 0;
        self.merged = false;
        let mut with = String::new();
        let mut ctes = Vec::new();
        if self.chance(8) {
            let (from, sources) = self.from(0, &[]);
            let filter = self.filter(0, &sources, &sources, &[]);
            let (a, b) = (self.column(&sources), self.column(&sources));
            let (step, key) =
                self.pick(&[("items s", "s.tenant_id"), ("orders s", "s.tenant_id"), ("users s", "s.uid")]);
            let (link, out) = (self.pick(&["tenant_id", "id"]), self.pick(&[key, key, "r.id", "r.tenant_id"]));
            with = format!(
                "WITH RECURSIVE c1 AS (SELECT {a} AS tenant_id, {b} AS id FROM {from}{filter} UNION SELECT {out}, r.id FROM {step} JOIN c1 r ON r.{link} = {key}) "
            );
            ctes.push(Source { alias: "c1".into(), columns: vec!["tenant_id", "id"] });
        } else if self.chance(30) {
            for name in ["c1", "c2"].iter().take(self.pick(&[1, 1, 2])) {
                let (text, columns) = self.derived(1, &ctes, &[]);
                with.push_str(if with.is_empty() { "WITH " } else { ", " });
                with.push_str(&format!("{name} AS ({text})"));
                ctes.push(Source { alias: name.to_string(), columns });
            }
            with.push(' ');
        }
        let (from, sources) = self.from(2, &ctes);
        let filter = self.filter(2, &sources, &sources, &ctes);
        let (a, b, c) = (self.column(&sources), self.column(&sources), self.column(&sources));
        let tail = match self.rng.random_range(0..10) {
            0 => format!("SELECT {a} AS a, count(*), sum({b}), avg({b}), max({c}) FROM {from}{filter} GROUP BY {a}"),
            1 => format!("SELECT count(*), sum({b}), avg({b}), min({c}) AS m FROM {from}{filter}"),
            2 => format!("SELECT DISTINCT {a} AS a, {b} AS b FROM {from}{filter}"),
            3 => format!("SELECT {a} AS a, {b} AS b FROM {from}{filter} ORDER BY 1, 2 LIMIT 3 OFFSET 1"),
            4 => format!("SELECT {a} AS a, {b} AS b FROM {from}{filter} ORDER BY {a}, {b} DESC, {c} LIMIT 4"),
            5 => format!(
                "SELECT {a} AS a, {b} AS b, count(*) AS n FROM {from}{filter} GROUP BY 1, {b} HAVING count(*) > 1 ORDER BY n DESC, 1, 2 LIMIT 3"
            ),
            6 => {
                let (other, others) = self.from(1, &ctes);
                let filter2 = self.filter(1, &others, &others, &ctes);
                let op = self.pick(&["UNION ALL", "UNION", "EXCEPT", "INTERSECT"]);
                let out = self.column(&others);
                format!("SELECT {a} FROM {from}{filter} {op} SELECT {out} FROM {other}{filter2}")
            }
            _ => format!("SELECT {a}, {b}, {c} AS third FROM {from}{filter}"),
        };
        with + &tail
    }
}

type Answer = Result<(Vec<String>, Vec<Vec<Option<String>>>), String>;

async fn ask(client: &Client, sql: &str) -> Answer {
    let messages = client.simple_query(sql).await.map_err(|e| format!("{e:?}"))?;
    let mut names = Vec::new();
    let mut rows = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                names = columns.iter().map(|c| c.name().to_owned()).collect()
            }
            SimpleQueryMessage::Row(row) => rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => {}
        }
    }
    rows.sort();
    Ok((names, rows))
}

fn at(query: &Spliced, group: u64) -> String {
    query.render(Some(ShardGroupId(group)))
}

async fn over(client: &Client, query: &Spliced, groups: &[u64]) -> Answer {
    let mut all = (Vec::new(), Vec::new());
    for &group in groups {
        let (names, rows) = ask(client, &at(query, group)).await?;
        all.0 = names;
        all.1.extend(rows);
    }
    all.1.sort();
    Ok(all)
}

/// Runs a plan; `None`: not one that reads.
async fn run(client: &Client, sql: &str, context: &Context<'_>) -> Option<(String, Answer)> {
    let mut made = match plan(sql, context, Mode::Any) {
        Ok(plan) => plan,
        Err(error) => return Some((format!("error {error}"), Err(error.to_string()))),
    };
    if let Plan::Router(router) = &made
        && groups(&router.operands).len() > 1
    {
        made = plan(sql, context, Mode::ManyShards).expect("what can be routed can be planned for many shards");
    }
    let line = made.to_string();
    let answer = match &made {
        Plan::Router(router) => {
            let group = groups(&router.operands).first().copied().unwrap_or(3);
            ask(client, &at(&router.query, group)).await
        }
        Plan::Scatter(scatter) => over(client, &scatter.query, &shards(&scatter.shards)).await,
        Plan::Coordinator(coordinator) => ask(client, &coordinator.query.render(None)).await,
        Plan::Combine(combine) => {
            let mut setup = String::new();
            for rowset in &combine.rowsets {
                setup.push_str(&format!(
                    "DROP TABLE IF EXISTS pg_temp.{0}; CREATE TEMP TABLE {0} AS {1} WITH NO DATA;",
                    rowset.name,
                    rowset.shell_query.render(None)
                ));
                for group in shards(&rowset.shards) {
                    setup.push_str(&format!("INSERT INTO pg_temp.{} {};", rowset.name, at(&rowset.query, group)));
                }
            }
            match ask(client, &setup).await {
                Ok(_) => ask(client, &combine.query.render(None)).await,
                Err(error) => Err(format!("{setup}: {error}")),
            }
        }
        _ => return None,
    };
    Some((line, answer))
}

/// Threat T34 of docs/threats.md.
#[tokio::test]
async fn every_plan_gives_the_answer_of_a_single_postgres() {
    let Ok(server) = std::env::var("TENANTRY_ORACLE") else {
        println!("TENANTRY_ORACLE is not set: nothing compared");
        return;
    };
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (client, connection) = tokio_postgres::connect(&server, NoTls).await.expect("a server");
    tokio::spawn(connection);
    client.batch_execute(TABLES).await.unwrap();
    for group in 1..=GROUPS {
        let mut setup = format!("DROP SCHEMA IF EXISTS public_{group} CASCADE; CREATE SCHEMA public_{group};");
        for (table, key) in [("orders", "tenant_id"), ("items", "tenant_id"), ("users", "uid")] {
            setup.push_str(&format!(
                "CREATE TABLE public_{group}.{table} AS SELECT * FROM public.{table} WHERE {key} % {GROUPS} + 1 = {group};"
            ));
        }
        client.batch_execute(&setup).await.unwrap();
    }
    let (map, path) = (map(), ["public".to_owned()]);
    let provided = Provided { functions: HashSet::new(), inline: HashMap::new(), views: HashMap::new() };
    let context = Context {
        map: &map,
        search_path: &path,
        standard_conforming_strings: true,
        provided: &provided,
        complexity: Default::default(),
    };
    let seed = number("TENANTRY_ORACLE_SEED", 1);
    let mut maker = Maker { rng: StdRng::seed_from_u64(seed), next: 0, merged: false };
    let mut kinds: HashMap<String, usize> = HashMap::new();
    let mut failures = Vec::new();
    for _ in 0..number("TENANTRY_ORACLE_ROUNDS", 2000) {
        let sql = maker.query();
        let Ok(wanted) = ask(&client, &sql).await else {
            *kinds.entry("not valid".into()).or_default() += 1;
            continue;
        };
        let Some((line, got)) = run(&client, &sql, &context).await else { continue };
        *kinds.entry(line.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        let wrong = match &got {
            Ok((names, rows)) => *rows != wanted.1 || (!names.is_empty() && *names != wanted.0),
            Err(_) => true,
        };
        if wrong {
            failures.push(format!("{sql}\n  {line}\n  wanted {wanted:?}\n  got {got:?}"));
        }
    }
    println!("{kinds:?}");
    failures.sort_by_key(String::len);
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), failures[..failures.len().min(6)].join("\n"));
}
