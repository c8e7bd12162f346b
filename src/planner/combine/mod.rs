//! SELECT over many shard groups whose rows need a last step: grouping, order, limit, DISTINCT.
//!
//!   SELECT note, avg(total) FROM orders GROUP BY note ORDER BY 2
//!   rowset: SELECT note AS g0, sum(total) AS a0, count(total) AS a1 FROM <shard>.orders GROUP BY 1
//!   query:  SELECT g0 AS "note", sum(a0) / nullif(sum(a1), 0) AS "avg" FROM <rowset> GROUP BY g0 ORDER BY 2
//!
//! Only forms whose names, types and values are exactly Postgres's; anything else is `None`, and the rows are pulled.
//! `FROM ... WHERE ...` has been proved to be the sum of the shard groups' (`Statement::pushdown_anchor`).

mod aggregates;
mod whole;

use std::ops::Range;

use crate::sql::clauses::{self, Clauses};
use crate::sql::facts::Var;
use crate::sql::scope::ScopeNode;
use crate::sql::tree::{Distinct, Expr, Item, Select};
use crate::sql::{Splice, Spliced};

use super::statement::{Pieces, Statement, has_call, is_row_expression};
use super::{Combine, Plan, Rowset, Shards};

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

    /// Where item `n` of ORDER BY stands, and what follows it (DESC, ...); it is compared with so many names.
    fn order_item(&self, n: usize, names: usize) -> Option<(Range<u32>, Range<u32>)> {
        let found = clauses::without_order(self.statement.text, self.statement.tokens, &self.clauses.order_by[n]);
        found.filter(|_| !self.is_too_much(names))
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

    fn tail(&self) -> String {
        self.clauses.tail.as_ref().map_or(String::new(), |t| format!(" {}", self.statement.slice(t)))
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
