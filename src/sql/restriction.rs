//! What the statement demands of each relation's distribution column.
//!
//! Bottom up, `scope` collects facts; here they go down: a relation is restricted to the values that every row that
//! matters must have. A relation is restricted only if its other rows cannot change the result: outer joins hand
//! facts to their nullable side through ON, and to their preserved side from above alone.
//!
//! The same walk proves pushdown: mark one relation's column as "the shard group at hand"; if all others follow,
//! the statement's rows are the sum of the shard groups' rows.

use std::collections::HashMap;
use std::rc::Rc;

use super::Operand;
use super::facts::{ANCHOR, Fact, Var, mentions};
use super::scope::{Builder, Meaning, Node, QueryNode, ScopeNode, Subquery};
use super::tree::JoinKind;

/// The downward walk.
pub struct Solver<'s, 'b> {
    builder: &'s Builder<'b>,
    /// By relation: `None` unrestricted.
    found: Vec<Option<Vec<Operand>>>,
    /// By CTE: the facts at each reference and what its columns are inside.
    at_references: HashMap<usize, Vec<Reference>>,
    /// Added at the scope (by address) that is the statement's own.
    anchor: Option<(*const ScopeNode, Var)>,
}

type Reference = (Vec<Fact>, Vec<(Var, Var)>);

/// Values of each distributed relation's distribution column; `None`: any.
pub fn restrictions(builder: &Builder, root: &QueryNode) -> Vec<Option<Vec<Operand>>> {
    let mut solver =
        Solver { builder, found: vec![None; builder.relations.len()], at_references: HashMap::new(), anchor: None };
    solver.query(root, &[]);
    solver.found
}

/// Do all distributed relations follow `var`, a column of `scope`? `except` (a target handled elsewhere) is left out.
pub fn all_follow(builder: &Builder, root: &QueryNode, scope: &ScopeNode, var: Var, except: Option<usize>) -> bool {
    let mut solver = Solver {
        builder,
        found: vec![None; builder.relations.len()],
        at_references: HashMap::new(),
        anchor: Some((scope, var)),
    };
    solver.query(root, &[]);
    builder.relations.iter().enumerate().all(|(i, r)| {
        Some(i) == except
            || !matches!(r.meaning, Meaning::Distributed(_))
            || solver.found[i].as_deref() == Some(&[ANCHOR])
    })
}

/// Values that `var` has in every row of `scope`.
pub fn values_in_scope(builder: &Builder, scope: &ScopeNode, var: Var) -> Option<Vec<Operand>> {
    let mut facts = scope.facts.clone();
    builder.guaranteed(&scope.from, &mut facts);
    builder.values_of(&facts, var)
}

impl Solver<'_, '_> {
    fn query(&mut self, node: &QueryNode, context: &[Fact]) {
        for scope in &node.scopes {
            let mut facts = context.to_vec();
            facts.extend(scope.facts.iter().cloned());
            self.builder.guaranteed(&scope.from, &mut facts);
            if let Some((at, var)) = self.anchor
                && std::ptr::eq(at, scope)
            {
                facts.push(Fact::In(var, Rc::from(vec![ANCHOR])));
            }
            self.node(&scope.from, &facts, true);
            self.subqueries(&scope.subqueries, &facts);
        }
        for inner in &node.nested {
            self.query(inner, context);
        }
        self.subqueries(&node.subqueries, context);
        for (relation, tenants) in &node.inserts {
            self.found[*relation] = if node.scopes.is_empty() {
                tenants.clone()
            } else {
                // MERGE: the rows it joins and the rows it inserts.
                let joined = self.found[*relation].take();
                joined.zip(tenants.clone()).map(|(mut all, more)| {
                    all.extend(more);
                    all
                })
            };
        }
        for &cte in node.ctes.iter().rev() {
            let info = &self.builder.ctes[cte];
            let Some(inner) = &info.node else { continue };
            let references = self.at_references.remove(&cte).unwrap_or_default();
            let facts = match &references[..] {
                _ if !info.pushable || references.len() != info.references => context.to_vec(),
                [] => context.to_vec(),
                [(facts, renames)] => with_renames(facts, renames),
                several => {
                    let mut facts = context.to_vec();
                    facts.extend(common_values(self.builder, several));
                    facts
                }
            };
            self.query(inner, &facts);
        }
    }

    fn subqueries(&mut self, list: &[Subquery], context: &[Fact]) {
        for sub in list {
            let mut facts = context.to_vec();
            facts.extend(sub.facts.iter().cloned());
            self.query(&sub.query, &facts);
        }
    }

    /// `holds`: what every row of the node satisfies is among the facts already.
    fn node(&mut self, node: &Node, facts: &[Fact], holds: bool) {
        if self.builder.clock.spend(1) {
            return;
        }
        match node {
            Node::Relation(i) => {
                self.found[*i] = self.builder.relations[*i].key.and_then(|key| self.builder.values_of(facts, key));
            }
            Node::Opaque(list) => self.subqueries(list, facts),
            Node::Derived { query, renames, .. } => self.query(query, &with_renames(facts, renames)),
            Node::Cte { cte, renames, .. } => {
                self.at_references.entry(*cte).or_default().push((facts.to_vec(), renames.clone()));
            }
            Node::Product(nodes) => nodes.iter().for_each(|n| self.node(n, facts, holds)),
            // Nothing to add, and long chains of joins would add it again and again.
            Node::Join { left, right, kind: JoinKind::Inner, subqueries, .. } if holds => {
                self.node(left, facts, true);
                self.node(right, facts, true);
                self.subqueries(subqueries, facts);
            }
            Node::Join { left, right, kind, facts: on, subqueries, merged, left_rtes, right_rtes } => {
                let builder = self.builder;
                let demands = |(from, to): (usize, usize)| {
                    mentions(facts, |v| (from..to).contains(&builder.vars[v as usize].rte))
                };
                // A demand on the nullable side's columns discards the rows that the outer join adds.
                let kind = match (kind, demands(*left_rtes), demands(*right_rtes)) {
                    (JoinKind::Left, _, true) | (JoinKind::Right, true, _) | (JoinKind::Full, true, true) => {
                        JoinKind::Inner
                    }
                    (JoinKind::Full, true, false) => JoinKind::Left,
                    (JoinKind::Full, false, true) => JoinKind::Right,
                    (kind, ..) => *kind,
                };
                let mut of_left = facts.to_vec();
                builder.guaranteed(left, &mut of_left);
                let mut of_right = facts.to_vec();
                builder.guaranteed(right, &mut of_right);
                let mut both = of_left.clone();
                builder.guaranteed(right, &mut both);
                both.extend(on.iter().cloned());
                if matches!(kind, JoinKind::Inner | JoinKind::Right) {
                    of_left = both.clone();
                }
                if matches!(kind, JoinKind::Inner | JoinKind::Left) {
                    of_right = both.clone();
                }
                for (var, l, r) in merged {
                    if let Some(values) = builder.values_of(facts, *var) {
                        of_left.push(Fact::In(*l, Rc::from(values.as_slice())));
                        of_right.push(Fact::In(*r, Rc::from(values)));
                    }
                }
                self.node(left, &of_left, true);
                self.node(right, &of_right, true);
                self.subqueries(subqueries, &both);
            }
        }
    }
}

/// A filter on an outer column is one on the inner column; said only where the outer one is demanded, since then it
/// is not NULL.
fn with_renames(facts: &[Fact], renames: &[(Var, Var)]) -> Vec<Fact> {
    let mut all = facts.to_vec();
    for (outer, inner) in renames {
        if mentions(facts, |v| v == *outer) {
            all.push(Fact::Eq(*outer, *inner));
        }
    }
    all
}

/// Of several references to a CTE: a column is restricted when each restricts it.
fn common_values(builder: &Builder, references: &[Reference]) -> Vec<Fact> {
    let Some(((first_facts, first_renames), rest)) = references.split_first() else { return Vec::new() };
    let mut facts = Vec::new();
    for (outer, inner) in first_renames {
        let Some(mut all) = builder.values_of(first_facts, *outer) else { continue };
        let complete = rest.iter().all(|(facts, renames)| {
            let outer = renames.iter().find(|(_, i)| i == inner).map(|(o, _)| *o);
            match outer.and_then(|o| builder.values_of(facts, o)) {
                Some(more) => {
                    all.extend(more.into_iter().filter(|o| all.len() > 100 || !all.contains(o)).collect::<Vec<_>>());
                    true
                }
                None => false,
            }
        });
        if complete {
            facts.push(Fact::In(*inner, Rc::from(all)));
        }
    }
    facts
}
