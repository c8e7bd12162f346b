//! What holds whenever a condition is true.

use std::rc::Rc;

use crate::sql::Operand;
use crate::sql::facts::{Fact, Family, Var};
use crate::sql::tree::Expr;

use super::{Builder, Subquery};

impl Builder<'_> {
    /// Builds the subqueries inside an expression; notes schema prefixes of columns.
    pub(super) fn subqueries(&mut self, e: &Expr, facts: &[Fact]) -> Vec<Subquery> {
        let mut queries = Vec::new();
        let mut columns = Vec::new();
        e.walk(&mut |e| {
            if let Some(q) = e.subquery() {
                queries.push(q);
            }
            if let Expr::Column(parts) = e
                && parts.len() > 2
            {
                columns.push(parts);
            }
            true
        });
        for parts in columns {
            self.note_prefix(&parts[..parts.len() - 1]);
        }
        queries.into_iter().map(|q| Subquery { query: self.query(q), facts: facts.to_vec() }).collect()
    }

    /// Takes a condition apart at AND: facts, and the subqueries inside.
    pub(super) fn conjuncts(&mut self, e: &Expr, facts: &mut Vec<Fact>, subqueries: &mut Vec<Subquery>) {
        match e {
            Expr::And(list) => list.iter().for_each(|e| self.conjuncts(e, facts, subqueries)),
            Expr::InSubquery(left, q) => {
                let found = self.subqueries(left, &[]);
                subqueries.extend(found);
                let query = self.query(q);
                let lefts: Vec<&Expr> = match &**left {
                    Expr::Row(list) => list.iter().collect(),
                    one => vec![one],
                };
                let mut inside = Vec::new();
                if query.outputs.complete && query.outputs.columns.len() == lefts.len() {
                    for (left, output) in lefts.iter().zip(&query.outputs.columns) {
                        let Some(var) = self.column(left) else { continue };
                        if output.family != self.family(var) || output.family == Family::Unsafe {
                            continue;
                        }
                        inside.extend(output.inner.iter().flatten().map(|&inner| Fact::Eq(var, inner)));
                        if let Some(values) = &output.guaranteed {
                            facts.push(Fact::In(var, Rc::from(values.as_slice())));
                        }
                    }
                }
                subqueries.push(Subquery { query, facts: inside });
            }
            e => {
                self.facts_of(e, facts);
                let found = self.subqueries(e, &[]);
                subqueries.extend(found);
            }
        }
    }

    /// What holds whenever the condition is true.
    fn facts_of(&self, e: &Expr, facts: &mut Vec<Fact>) {
        let values = |var, values: Vec<Operand>| Fact::In(var, Rc::from(values));
        match e {
            Expr::And(list) => list.iter().for_each(|e| self.facts_of(e, facts)),
            Expr::Eq(a, b) => self.equal(a, b, facts),
            Expr::NotDistinct(a, b) => {
                for (column, constant) in [(a, b), (b, a)] {
                    if let Some(var) = self.column(column)
                        && let Some(value @ Operand::Literal(_)) = self.family(var).constant(constant)
                    {
                        facts.push(values(var, vec![value]));
                    }
                }
            }
            Expr::InList(left, list) => match &**left {
                Expr::Row(columns) => {
                    for (i, column) in columns.iter().enumerate() {
                        let Some(var) = self.column(column) else { continue };
                        let family = self.family(var);
                        let constants = list.iter().map(|row| match row {
                            Expr::Row(row) if row.len() == columns.len() => family.constant(&row[i]),
                            _ => None,
                        });
                        facts.extend(constants.collect::<Option<Vec<_>>>().map(|v| values(var, v)));
                    }
                }
                column => {
                    if let Some(var) = self.column(column) {
                        let family = self.family(var);
                        let constants = list.iter().map(|e| family.constant(e)).collect::<Option<Vec<_>>>();
                        facts.extend(constants.map(|v| values(var, v)));
                    }
                }
            },
            Expr::Between(column, low, high) => {
                if let Some(var) = self.column(column)
                    && let (Some(low), Some(high)) = (self.family(var).constant(low), self.family(var).constant(high))
                    && low == high
                {
                    facts.push(values(var, vec![low]));
                }
            }
            Expr::EqAny(column, array) => {
                if let Some(var) = self.column(column) {
                    facts.extend(self.family(var).constants(array).map(|v| values(var, v)));
                }
            }
            Expr::Or(branches) => {
                let branches: Vec<Vec<Fact>> = branches
                    .iter()
                    .filter(|b| !matches!(b, Expr::Bool(false) | Expr::Null))
                    .map(|b| {
                        let mut facts = Vec::new();
                        self.facts_of(b, &mut facts);
                        facts
                    })
                    .collect();
                let Some((first, rest)) = branches.split_first() else { return };
                let mut seen: Vec<Var> = Vec::new();
                for fact in first {
                    let vars = match fact {
                        Fact::In(v, _) => vec![*v],
                        Fact::Eq(a, b) => vec![*a, *b],
                    };
                    for var in vars {
                        if seen.contains(&var) {
                            continue;
                        }
                        seen.push(var);
                        let Some(mut all) = self.values_of(first, var) else { continue };
                        let complete = rest.iter().all(|branch| match self.values_of(branch, var) {
                            Some(more) => {
                                all.extend(more);
                                true
                            }
                            None => false,
                        });
                        if complete {
                            all.dedup();
                            facts.push(values(var, all));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn equal(&self, a: &Expr, b: &Expr, facts: &mut Vec<Fact>) {
        match (a, b) {
            (Expr::Row(x), Expr::Row(y)) if x.len() == y.len() => {
                x.iter().zip(y).for_each(|(a, b)| self.equal(a, b, facts));
            }
            _ => match (self.column(a), self.column(b)) {
                (Some(x), Some(y)) => {
                    if x != y && self.family(x) == self.family(y) && self.family(x) != Family::Unsafe {
                        facts.push(Fact::Eq(x, y));
                    }
                }
                (Some(var), None) => {
                    facts.extend(self.family(var).constant(b).map(|o| Fact::In(var, Rc::from(vec![o]))));
                }
                (None, Some(var)) => {
                    facts.extend(self.family(var).constant(a).map(|o| Fact::In(var, Rc::from(vec![o]))));
                }
                (None, None) => {}
            },
        }
    }
}
