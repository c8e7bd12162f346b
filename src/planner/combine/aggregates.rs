//! Groups that several shards have a part of: aggregates of each shard's, and how they become one.

use std::ops::Range;

use crate::planner::functions;
use crate::planner::statement::is_row_expression;
use crate::sql::clauses;
use crate::sql::facts::Var;
use crate::sql::tree::{Call, Distinct, Expr, Item, TypeName};

use super::{Combiner, Partial, Piece, ROWS, name_of, quoted};

impl Combiner<'_, '_> {
    /// Groups span shards: each gives partial results per group.
    pub(super) fn partial_aggregates(&self) -> Option<(Partial<'_>, String)> {
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
            let (range, rest) = self.order_item(n, names.len())?;
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
