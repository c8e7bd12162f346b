//! SELECT over many shard groups whose rows need a last step: grouping, order, limit, DISTINCT.
//!
//!   SELECT note, avg(total) FROM orders GROUP BY note ORDER BY 2
//!   rowset: SELECT note AS g0, sum(total) AS a0, count(total) AS a1 FROM <shard>.orders GROUP BY 1
//!   query:  SELECT g0 AS "note", sum(a0) / nullif(sum(a1), 0) AS "avg" FROM <rowset> GROUP BY g0 ORDER BY 2
//!
//! Only forms whose names, types and values are exactly Postgres's; anything else is `None`, and the rows are pulled.
//! `FROM ... WHERE ...` has been proved to be the sum of the shard groups' (`Statement::pushdown_anchor`).

use std::ops::Range;

use crate::sql::clauses::{self, Clauses};
use crate::sql::facts::Var;
use crate::sql::scope::ScopeNode;
use crate::sql::tree::{Call, Distinct, Expr, Item, Select, TypeName};
use crate::sql::{Splice, Spliced};

use super::statement::{Pieces, Statement, has_call, is_row_expression};
use super::{Combine, Plan, Rowset, Shards, functions};

const ROWS: &str = "tenantry_rows_0";

pub(super) fn plan(
    statement: &Statement<'_>,
    select: &Select,
    scope: &ScopeNode,
    anchor: Var,
    shards: &Shards,
) -> Option<Plan> {
    if select.has_grouping_sets
        || !select.windows.is_empty()
        || select.into
        || matches!(select.distinct, Distinct::On(_))
    {
        return None;
    }
    let clauses = clauses::find(statement.text, statement.tokens, select.at)?;
    if clauses.items.len() != select.items.len()
        || clauses.group_by.len() != select.group_by.len()
        || clauses.order_by.len() != statement.tree.order_by.len()
        || clauses.having.is_some() != select.having.is_some()
    {
        return None;
    }
    let combiner = Combiner { statement, select, scope, clauses };
    let is_plain = |i: &Item| match i {
        Item::Expr { expr, .. } => is_row_expression(expr),
        _ => true,
    };
    let order_is_plain = statement.tree.order_by.iter().all(is_row_expression);
    let ungrouped = select.group_by.is_empty() && select.having.is_none();
    let rows_only = ungrouped && order_is_plain && select.items.iter().all(is_plain);
    let (partial, last) = if rows_only || (combiner.groups_by(anchor) && combiner.has_no_window()) {
        combiner.whole()?
    } else {
        combiner.partial_aggregates()?
    };
    let rowset = Rowset {
        name: ROWS.to_owned(),
        colocation: statement.colocation()?,
        shards: shards.clone(),
        query: partial(statement.shard_splices()),
        shell_query: partial(statement.coordinator_splices()),
    };
    Some(Plan::Combine(Combine {
        rowsets: vec![rowset],
        query: Spliced::verbatim(last),
        pins: false,
        needs_block: false,
    }))
}

/// The query of the shards, for one or the other set of names.
type Partial<'c> = Box<dyn Fn(Vec<Splice>) -> Spliced + 'c>;

struct Combiner<'s, 'a> {
    statement: &'s Statement<'a>,
    select: &'s Select,
    scope: &'s ScopeNode,
    clauses: Clauses,
}

/// A piece of generated text: words of our own, or a stretch of the statement.
enum Piece {
    Text(String),
    Source(Range<u32>),
}

impl<'s> Combiner<'s, '_> {
    /// Is the time for the analysis over? Asked where each item is compared with so many others.
    fn is_too_much(&self, others: usize) -> bool {
        self.statement.builder.borrow().clock.spend(others)
    }

    fn column(&self, e: &Expr) -> Option<Var> {
        // A cast is not the column itself: its type, and so what it prints, may differ.
        let Expr::Column(_) = e else { return None };
        if self.is_too_much(0) {
            return None;
        }
        self.statement.builder.borrow_mut().within(&self.scope.exposed, |b| b.column(e))
    }

    fn has_no_window(&self) -> bool {
        let items = self.select.items.iter().filter_map(|i| match i {
            Item::Expr { expr, .. } => Some(expr),
            _ => None,
        });
        !items.chain(&self.statement.tree.order_by).any(|e| has_call(e, &|c| c.over.is_some()))
    }

    /// What GROUP BY item `i` means: an input column or expression, or an item of the select list.
    fn group_expr(&self, i: usize) -> Option<(&'s Expr, Range<u32>)> {
        let select: &'s Select = self.select;
        if self.is_too_much(select.items.len()) {
            return None;
        }
        let expr = &select.group_by[i];
        let by_item = |n: usize| match select.items.get(n) {
            Some(Item::Expr { expr, .. }) => Some((expr, self.item_range(n)?)),
            _ => None,
        };
        if select.items.iter().any(|i| !matches!(i, Item::Expr { .. })) {
            return None;
        }
        match expr {
            Expr::Number(n) => by_item(n.parse::<usize>().ok()?.checked_sub(1)?),
            Expr::Column(parts) if parts.len() == 1 && self.column(expr).is_none() => {
                let name = &parts[0].value;
                if !self.statement.builder.borrow().is_no_column(&self.scope.exposed, name) {
                    return None;
                }
                by_item(
                    select
                        .items
                        .iter()
                        .position(|i| matches!(i, Item::Expr { alias: Some(a), .. } if a.value == *name))?,
                )
            }
            Expr::Row(_) | Expr::Param(_) | Expr::String(_) => None,
            expr => Some((expr, self.clauses.group_by[i].clone())),
        }
    }

    fn groups_by(&self, anchor: Var) -> bool {
        (0..self.select.group_by.len())
            .any(|i| self.group_expr(i).and_then(|(e, _)| self.column(e)).is_some_and(|v| self.same_class(v, anchor)))
    }

    /// Equal in every row of the scope.
    fn same_class(&self, a: Var, b: Var) -> bool {
        if a == b {
            return true;
        }
        if self.is_too_much(self.scope.facts.len()) {
            return false;
        }
        let mut facts = self.scope.facts.clone();
        self.statement.builder.borrow().guaranteed(&self.scope.from, &mut facts);
        facts.push(crate::sql::facts::Fact::In(b, std::rc::Rc::from(vec![crate::sql::facts::ANCHOR])));
        crate::sql::facts::values_of(&facts, a).as_deref() == Some(&[crate::sql::facts::ANCHOR])
    }

    fn item_range(&self, n: usize) -> Option<Range<u32>> {
        let range = &self.clauses.items[n];
        match &self.select.items[n] {
            Item::Expr { alias: Some(alias), .. } => {
                clauses::without_alias(self.statement.text, self.statement.tokens, range, alias.at)
            }
            _ => Some(range.clone()),
        }
    }

    /// Output names, wildcards expanded; all known and different.
    fn output_names(&self) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for item in &self.select.items {
            match item {
                Item::Expr { expr, alias } => names.push(match alias {
                    Some(alias) => alias.value.clone(),
                    None => name_of(expr)?,
                }),
                Item::Wildcard => names.extend(self.statement.builder.borrow().star_names(&self.scope.exposed)?),
                Item::QualifiedWildcard(q) => names.extend(
                    self.statement.builder.borrow_mut().within(&self.scope.exposed, |b| b.qualified_star_names(q))?,
                ),
            }
        }
        Some(names)
    }

    /// The shards run the statement but for ORDER BY, LIMIT and DISTINCT, which are repeated over their rows.
    fn whole(&self) -> Option<(Partial<'_>, String)> {
        let names = self.output_names()?;
        let unique: std::collections::HashSet<&String> = names.iter().collect();
        if unique.len() != names.len() || names.iter().any(|n| n.starts_with("tenantry_o")) {
            return None;
        }
        let distinct = matches!(self.select.distinct, Distinct::Rows);
        let mut head = vec![Piece::Source(0..self.select.at), Piece::Text("SELECT ".into())];
        if distinct {
            head.push(Piece::Text("DISTINCT ".into()));
        }
        for (n, item) in self.select.items.iter().enumerate() {
            if n > 0 {
                head.push(Piece::Text(", ".into()));
            }
            match item {
                Item::Expr { expr, alias } => {
                    let name = alias.as_ref().map_or_else(|| name_of(expr), |a| Some(a.value.clone()))?;
                    head.push(Piece::Source(self.item_range(n)?));
                    head.push(Piece::Text(format!(" AS {}", quoted(&name))));
                }
                _ => head.push(Piece::Source(self.clauses.items[n].clone())),
            }
        }
        let mut order = Vec::new();
        for (n, expr) in self.statement.tree.order_by.iter().enumerate() {
            let (range, rest) =
                clauses::without_order(self.statement.text, self.statement.tokens, &self.clauses.order_by[n])?;
            if self.is_too_much(names.len()) {
                return None;
            }
            let by_name = match expr {
                Expr::Number(n) => Some(names.get(n.parse::<usize>().ok()?.checked_sub(1)?)?.clone()),
                Expr::Column(parts) if parts.len() == 1 => names.iter().find(|n| **n == parts[0].value).cloned(),
                _ => None,
            };
            let column = match by_name {
                Some(name) => quoted(&name),
                // SELECT DISTINCT sorts by what it selects; unknown forms are left to the pull.
                None if distinct || matches!(expr, Expr::String(_) | Expr::Param(_)) => return None,
                None => {
                    let name = format!("tenantry_o{n}");
                    head.push(Piece::Text(", ".into()));
                    head.push(Piece::Source(range));
                    head.push(Piece::Text(format!(" AS {name}")));
                    name
                }
            };
            order.push(format!("{column}{}", self.statement.slice(&rest)));
        }
        head.push(Piece::Text(" ".into()));
        head.push(Piece::Source(self.clauses.body.clone()));
        if let (Some(first), Some(last)) = (self.clauses.group_by.first(), self.clauses.group_by.last()) {
            head.push(Piece::Text(" GROUP BY ".into()));
            head.push(Piece::Source(first.start..last.end));
        }
        if let Some(having) = &self.clauses.having {
            head.push(Piece::Text(" HAVING ".into()));
            head.push(Piece::Source(having.clone()));
        }
        let order_by = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
        if let Some(limit) = self.limit_for_shards() {
            // Names of output columns, as in the last step: ORDER BY knows them on the shards as well.
            head.push(Piece::Text(format!("{order_by} LIMIT {limit}")));
        }
        let columns: Vec<String> = names.iter().map(|n| quoted(n)).collect();
        let last = format!(
            "SELECT {}{} FROM pg_temp.{ROWS}{order_by}{}",
            if distinct { "DISTINCT " } else { "" },
            columns.join(", "),
            self.tail()
        );
        Some((self.render(head), last))
    }

    fn tail(&self) -> String {
        self.clauses.tail.as_ref().map_or(String::new(), |t| format!(" {}", self.statement.slice(t)))
    }

    /// How many rows of a shard can matter.
    fn limit_for_shards(&self) -> Option<String> {
        let tree = self.statement.tree;
        let value = |e: &Expr| match e {
            Expr::Number(n) if n.bytes().all(|b| b.is_ascii_digit()) && n.len() < 16 => Some(n.clone()),
            Expr::Param(n) => Some(format!("${}::bigint", n + 1)),
            _ => None,
        };
        let limit = value(tree.limit.as_ref()?)?;
        match &tree.offset {
            None => Some(limit),
            Some(offset) => Some(format!("({limit} + {})", value(offset)?)),
        }
    }

    /// Groups span shards: each gives partial results per group.
    fn partial_aggregates(&self) -> Option<(Partial<'_>, String)> {
        if matches!(self.select.distinct, Distinct::Rows) && !self.statement.tree.order_by.is_empty() {
            return None;
        }
        let mut step = Aggregation { groups: Vec::new(), columns: Vec::new(), partial: Vec::new() };
        for i in 0..self.select.group_by.len() {
            let (expr, range) = self.group_expr(i)?;
            if !is_row_expression(expr) || has_subquery(expr) {
                return None;
            }
            step.columns.push(self.column(expr));
            step.groups.push(range);
        }
        let mut items = Vec::new();
        let mut names = Vec::new();
        for (n, item) in self.select.items.iter().enumerate() {
            let Item::Expr { expr, alias } = item else { return None };
            let name = alias.as_ref().map_or_else(|| name_of(expr), |a| Some(a.value.clone()))?;
            let text = self.rewrite(expr, &self.item_range(n)?, &mut step)?;
            items.push(format!("{text} AS {}", quoted(&name)));
            names.push(name);
        }
        let having = match (&self.select.having, &self.clauses.having) {
            (Some(e), Some(range)) => format!(" HAVING {}", self.rewrite(e, range, &mut step)?),
            _ => String::new(),
        };
        let mut order = Vec::new();
        for (n, expr) in self.statement.tree.order_by.iter().enumerate() {
            let (range, rest) =
                clauses::without_order(self.statement.text, self.statement.tokens, &self.clauses.order_by[n])?;
            if self.is_too_much(names.len()) {
                return None;
            }
            let text = match expr {
                Expr::Number(n) if n.parse::<usize>().is_ok_and(|n| (1..=names.len()).contains(&n)) => n.clone(),
                Expr::Number(_) | Expr::String(_) | Expr::Param(_) => return None,
                Expr::Column(parts) if parts.len() == 1 && names.contains(&parts[0].value) => {
                    if names.iter().filter(|n| **n == parts[0].value).count() > 1 {
                        return None;
                    }
                    quoted(&parts[0].value)
                }
                expr => self.rewrite(expr, &range, &mut step)?,
            };
            order.push(format!("{text}{}", self.statement.slice(&rest)));
        }
        let mut head = vec![Piece::Source(0..self.select.at), Piece::Text("SELECT ".into())];
        for (i, group) in step.groups.iter().enumerate() {
            head.push(Piece::Source(group.clone()));
            head.push(Piece::Text(format!(" AS tenantry_g{i}, ")));
        }
        for (i, pieces) in step.partial.into_iter().enumerate() {
            if i > 0 {
                head.push(Piece::Text(", ".into()));
            }
            head.extend(pieces);
            head.push(Piece::Text(format!(" AS tenantry_a{i}")));
        }
        if head.len() == 2 {
            return None;
        }
        if let Some(Piece::Text(text)) = head.last_mut()
            && text.ends_with(", ")
        {
            text.truncate(text.len() - 2);
        }
        head.push(Piece::Text(" ".into()));
        head.push(Piece::Source(self.clauses.body.clone()));
        let positions: Vec<String> = (1..=step.groups.len()).map(|n| n.to_string()).collect();
        let groups: Vec<String> = (0..step.groups.len()).map(|n| format!("tenantry_g{n}")).collect();
        let mut group_by = String::new();
        if !groups.is_empty() {
            head.push(Piece::Text(format!(" GROUP BY {}", positions.join(", "))));
            group_by = format!(" GROUP BY {}", groups.join(", "));
        }
        let last = format!(
            "SELECT {}{} FROM pg_temp.{ROWS}{group_by}{having}{}{}",
            if matches!(self.select.distinct, Distinct::Rows) { "DISTINCT " } else { "" },
            items.join(", "),
            if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) },
            self.tail()
        );
        Some((self.render(head), last))
    }

    /// The expression over the rowset: aggregates become their combination, grouped columns `g<i>`.
    fn rewrite(&self, expr: &Expr, range: &Range<u32>, step: &mut Aggregation) -> Option<String> {
        let (text, tokens) = (self.statement.text, self.statement.tokens);
        if self.is_too_much(step.groups.len()) {
            return None;
        }
        if let Some(i) = step.groups.iter().position(|g| clauses::same_tokens(text, tokens, g, range)) {
            return Some(format!("tenantry_g{i}"));
        }
        let mut replaced: Vec<(Range<u32>, String)> = Vec::new();
        self.replacements(expr, step, &mut replaced)?;
        replaced.sort_by_key(|r| r.0.start);
        let mut out = String::new();
        let mut done = range.start;
        for (at, with) in replaced {
            if at.start < done || at.end > range.end {
                return None;
            }
            out.push_str(self.statement.slice(&(done..at.start)));
            out.push_str(&with);
            done = at.end;
        }
        out.push_str(self.statement.slice(&(done..range.end)));
        Some(out)
    }

    fn replacements(&self, expr: &Expr, step: &mut Aggregation, out: &mut Vec<(Range<u32>, String)>) -> Option<()> {
        match expr {
            Expr::Column(parts) => {
                let var = self.column(expr)?;
                self.is_too_much(step.columns.len());
                let i = step.columns.iter().position(|c| *c == Some(var))?;
                out.push((parts.first()?.at..parts.last()?.end(), format!("tenantry_g{i}")));
            }
            Expr::Call(call) if is_aggregate(call) => {
                let range = clauses::call_range(self.statement.text, self.statement.tokens, call.name.first()?.at)?;
                out.push((range.clone(), self.aggregate(call, &range, step)?));
            }
            Expr::Call(call) => {
                let known = functions::is_scalar(&call.name.last()?.value);
                if !known || call.over.is_some() || call.special || functions::is_volatile(&call.name.last()?.value) {
                    return None;
                }
                call.args.iter().try_for_each(|e| self.replacements(e, step, out))?;
            }
            e if e.subquery().is_some() => return None,
            e => e.children().into_iter().try_for_each(|e| self.replacements(e, step, out))?,
        }
        Some(())
    }

    /// Notes the partial aggregates and gives their combination.
    fn aggregate(&self, call: &Call, range: &Range<u32>, step: &mut Aggregation) -> Option<String> {
        if call.special || call.over.is_some() || !call.rest.is_empty() || call.args.iter().any(has_subquery) {
            return None;
        }
        let name = call.name.last()?.value.as_str();
        if call.args.iter().chain(&call.filter).any(|e| !is_row_expression(e) || has_subquery(e)) {
            return None;
        }
        if call.star {
            return (name == "count").then(|| step.add(range, Vec::new()).count());
        }
        let [argument] = &call.args[..] else { return None };
        let kind = self.kind(argument);
        Some(match name {
            "count" => step.add(range, Vec::new()).count(),
            "min" | "max" => format!("{name}({})", step.add(range, Vec::new()).0),
            "sum" => {
                let sum = step.add(range, Vec::new()).0;
                match kind? {
                    // sum(int4) is bigint, and the sum of such sums would be numeric.
                    Kind::Int2Or4 => format!("sum({sum})::bigint"),
                    Kind::Int8 | Kind::Numeric | Kind::Float8 | Kind::Float4 => format!("sum({sum})"),
                }
            }
            "avg" => {
                let open = self.open_parenthesis(call)?;
                let rest = open..range.end;
                let kind = kind?;
                let sum = match kind {
                    Kind::Float4 => return None,
                    _ => step.add(range, vec![Piece::Text("sum".into()), Piece::Source(rest.clone())]).0,
                };
                let count = step.add(range, vec![Piece::Text("count".into()), Piece::Source(rest)]).0;
                match kind {
                    Kind::Float8 => format!("(sum({sum}) / nullif(sum({count}), 0)::float8)"),
                    _ => format!("(sum({sum}) / nullif(sum({count}), 0))"),
                }
            }
            _ => return None,
        })
    }

    fn open_parenthesis(&self, call: &Call) -> Option<u32> {
        let after = call.name.last()?.end();
        let tokens = self.statement.tokens;
        let next = tokens.partition_point(|t| t.start < after);
        tokens[next..].iter().find(|t| t.is_punct(b'(')).map(|t| t.start)
    }

    /// The type of a number, as far as it can be told.
    fn kind(&self, e: &Expr) -> Option<Kind> {
        Some(match e {
            Expr::Column(_) => {
                let var = self.column(e)?;
                match self.statement.builder.borrow().type_oid(var)? {
                    21 | 23 => Kind::Int2Or4,
                    20 => Kind::Int8,
                    1700 => Kind::Numeric,
                    700 => Kind::Float4,
                    701 => Kind::Float8,
                    _ => return None,
                }
            }
            Expr::Number(n) if n.len() < 10 && n.bytes().all(|b| b.is_ascii_digit()) => Kind::Int2Or4,
            Expr::Number(n) if n.contains('.') && !n.contains(['e', 'E']) => Kind::Numeric,
            Expr::Minus(e) => self.kind(e)?,
            Expr::Cast(_, name) => match name {
                TypeName::Int2 | TypeName::Int4 => Kind::Int2Or4,
                TypeName::Int8 => Kind::Int8,
                TypeName::Numeric => Kind::Numeric,
                TypeName::Float8 => Kind::Float8,
                _ => return None,
            },
            Expr::Arithmetic(a, _, b) => match (self.kind(a)?, self.kind(b)?) {
                (Kind::Float4, _) | (_, Kind::Float4) => return None,
                (a, b) => a.max(b),
            },
            _ => return None,
        })
    }

    fn render(&self, pieces: Vec<Piece>) -> Partial<'_> {
        let text = self.statement.text;
        Box::new(move |splices| {
            let mut out = Pieces::new(text, splices);
            for piece in &pieces {
                match piece {
                    Piece::Text(text) => out.push(text),
                    Piece::Source(range) => out.copy(range),
                };
            }
            out.finish()
        })
    }
}

/// Ordered by what arithmetic over both gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Int2Or4,
    Int8,
    Numeric,
    Float4,
    Float8,
}

struct Aggregation {
    /// Text of each GROUP BY expression, and its column if it is one.
    groups: Vec<Range<u32>>,
    columns: Vec<Option<Var>>,
    partial: Vec<Vec<Piece>>,
}

/// Name of a partial aggregate's column.
struct PartialColumn(String);

impl Aggregation {
    /// `pieces` empty: the aggregate as the user wrote it.
    fn add(&mut self, range: &Range<u32>, pieces: Vec<Piece>) -> PartialColumn {
        self.partial.push(if pieces.is_empty() { vec![Piece::Source(range.clone())] } else { pieces });
        PartialColumn(format!("tenantry_a{}", self.partial.len() - 1))
    }
}

impl PartialColumn {
    fn count(&self) -> String {
        format!("coalesce(sum({}), 0)::bigint", self.0)
    }
}

fn is_aggregate(call: &Call) -> bool {
    match &call.name[..] {
        [name] => functions::is_combinable(&name.value),
        [schema, name] => schema.value == "pg_catalog" && functions::is_combinable(&name.value),
        _ => false,
    }
}

fn has_subquery(e: &Expr) -> bool {
    let mut found = false;
    e.walk(&mut |e| {
        found |= e.subquery().is_some();
        !found
    });
    found
}

/// The column name that Postgres gives an expression without alias; `None`: not sure.
fn name_of(e: &Expr) -> Option<String> {
    match e {
        Expr::Column(parts) => parts.last().map(|n| n.value.clone()),
        Expr::Call(call) => call.name.last().map(|n| n.value.clone()),
        Expr::Cast(inner, _) => match &**inner {
            inner @ (Expr::Column(_) | Expr::Call(_)) => name_of(inner),
            _ => None,
        },
        Expr::Number(_) | Expr::String(_) | Expr::Param(_) | Expr::Null | Expr::Arithmetic(..) | Expr::Minus(_) => {
            Some("?column?".to_owned())
        }
        _ => None,
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
