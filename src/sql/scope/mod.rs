//! Which relation a name means: scopes, FROM trees, CTEs. Builds what `restriction` reasons over.
//!
//!   Query ──build──> Node tree (relations, join facts, subqueries) + outputs
//!
//! Names that cannot be resolved for certain (columns of local tables and functions are unknown here) give no facts.

mod columns;
mod conditions;
mod from;
mod outputs;
mod with;
mod writes;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::Operand;
use super::clock::Clock;
use super::facts::{Fact, Family, Var, values_of};
use super::tree::*;
use crate::shard_map::Table;
use outputs::{combine_outputs, rename};

/// What a relation's name means to the planner.
#[derive(Debug, Clone)]
pub enum Meaning {
    Distributed(Arc<Table>),
    Reference(Arc<Table>),
    /// A system view that Tenantry provides.
    View(String),
    Local,
}

/// One occurrence of a relation in the statement.
#[derive(Debug, Clone)]
pub struct Relation {
    pub name: Vec<Name>,
    pub meaning: Meaning,
    pub has_alias: bool,
    /// INSERT, UPDATE, DELETE or MERGE writes it.
    pub is_target: bool,
    /// Schema parts in column references, dot included: `public.` of `public.orders.id`.
    pub schema_prefixes: Vec<(u32, u32)>,
    /// The distribution column.
    pub key: Option<Var>,
}

/// A FROM tree with its facts.
pub enum Node {
    Relation(usize),
    /// Nothing is known of its rows.
    Opaque(Vec<Subquery>),
    Derived {
        rte: usize,
        query: Box<QueryNode>,
        /// Our column and what it is inside; only where a filter may be moved inside.
        renames: Vec<(Var, Var)>,
    },
    Cte {
        rte: usize,
        cte: usize,
        renames: Vec<(Var, Var)>,
    },
    Join {
        left: Box<Node>,
        right: Box<Node>,
        kind: JoinKind,
        facts: Vec<Fact>,
        subqueries: Vec<Subquery>,
        /// FULL JOIN USING: (merged, left, right).
        merged: Vec<(Var, Var, Var)>,
        /// Relation occurrences `left.0..left.1` stand on the left; the same for the right.
        left_rtes: (usize, usize),
        right_rtes: (usize, usize),
    },
    /// Comma list or several items: all of them.
    Product(Vec<Node>),
}

/// A subquery inside an expression, and facts that hold where it is looked at.
pub struct Subquery {
    pub query: QueryNode,
    /// `x IN (SELECT y ...)`: x = y.
    pub facts: Vec<Fact>,
}

/// One SELECT, UPDATE, DELETE: rows of `from` that satisfy `facts`.
pub struct ScopeNode {
    pub from: Node,
    pub facts: Vec<Fact>,
    pub subqueries: Vec<Subquery>,
    pub exposed: Exposed,
}

#[derive(Default)]
pub struct QueryNode {
    pub ctes: Vec<usize>,
    /// Scopes whose rows make up the result (one, or the legs of set operations).
    pub scopes: Vec<ScopeNode>,
    /// Subqueries in LIMIT and the like.
    pub subqueries: Vec<Subquery>,
    pub nested: Vec<QueryNode>,
    pub outputs: Outputs,
    /// INSERT: the target and the values of its distribution column.
    pub inserts: Vec<(usize, Option<Vec<Operand>>)>,
}

/// Output columns in order.
#[derive(Clone, Default)]
pub struct Outputs {
    pub columns: Vec<Output>,
    /// False: there may be more, names and positions are not known.
    pub complete: bool,
    /// Which column each item of a SELECT's list gives first; empty for other queries.
    pub items: Vec<usize>,
}

#[derive(Clone)]
pub struct Output {
    pub name: String,
    pub family: Family,
    /// Inner columns (one for each leg) that a filter on this one may be moved to.
    pub inner: Option<Vec<Var>>,
    /// All rows have one of these.
    pub guaranteed: Option<Vec<Operand>>,
    /// Never NULL, and each leg's is the distribution column of a relation of that leg.
    pub is_anchor: bool,
}

pub(super) struct Rte {
    pub(super) name: Option<String>,
    pub(super) schema: Option<String>,
    pub(super) columns: Vec<(String, Var)>,
    pub(super) complete: bool,
    pub(super) relation: Option<usize>,
}

/// What names a FROM tree makes visible.
#[derive(Clone, Default)]
pub struct Exposed {
    pub(super) rtes: Vec<usize>,
    pub(super) merged: Vec<(String, Option<Var>)>,
    /// A natural join over unknown columns: unqualified names are not resolved.
    pub(super) opaque: bool,
}

pub struct CteInfo {
    name: String,
    pub outputs: Outputs,
    pub node: Option<QueryNode>,
    pub references: usize,
    pub pushable: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct VarInfo {
    pub rte: usize,
    pub family: Family,
    /// Of a table's column; 0 elsewhere.
    pub type_oid: u32,
}

pub struct Builder<'a> {
    meaning: &'a dyn Fn(&[Name]) -> Meaning,
    /// Past its end everything is unknown.
    pub clock: Clock,
    pub relations: Vec<Relation>,
    pub(super) rtes: Vec<Rte>,
    pub vars: Vec<VarInfo>,
    pub ctes: Vec<CteInfo>,
    visible_ctes: Vec<usize>,
    pub(super) scopes: Vec<Exposed>,
    /// Scopes from here on are FROM items beside the one being read: only LATERAL sees them.
    siblings_from: usize,
    /// Guaranteed facts of FROM items already built in this statement, by occurrence.
    guarantees: HashMap<usize, Vec<Fact>>,
    pub(super) anchors: HashSet<Var>,
}

impl<'a> Builder<'a> {
    pub fn new(meaning: &'a dyn Fn(&[Name]) -> Meaning, clock: Clock) -> Self {
        Self {
            meaning,
            clock,
            relations: Vec::new(),
            rtes: Vec::new(),
            vars: Vec::new(),
            ctes: Vec::new(),
            visible_ctes: Vec::new(),
            scopes: Vec::new(),
            siblings_from: 0,
            guarantees: HashMap::new(),
            anchors: HashSet::new(),
        }
    }

    fn new_var(&mut self, rte: usize, family: Family) -> Var {
        self.vars.push(VarInfo { rte, family, type_oid: 0 });
        (self.vars.len() - 1) as Var
    }

    pub fn family(&self, var: Var) -> Family {
        self.vars[var as usize].family
    }

    /// The type of a table's column; `None` for columns of queries.
    pub fn type_oid(&self, var: Var) -> Option<u32> {
        Some(self.vars[var as usize].type_oid).filter(|&oid| oid != 0)
    }

    // ---- queries

    pub fn query(&mut self, q: &Query) -> QueryNode {
        let visible = self.visible_ctes.len();
        let mut node = QueryNode::default();
        if self.clock.is_over() {
            return node;
        }
        self.with_list(q, &mut node);
        self.body(&q.body, Some(q), &mut node);
        for e in [&q.limit, &q.offset, &q.fetch].into_iter().flatten() {
            let found = self.subqueries(e, &[]);
            node.subqueries.extend(found);
        }
        if q.is_limited {
            for output in &mut node.outputs.columns {
                output.inner = None;
                output.is_anchor = false;
            }
        }
        self.visible_ctes.truncate(visible);
        node
    }

    fn body(&mut self, body: &Body, query: Option<&Query>, node: &mut QueryNode) {
        match body {
            Body::Select(s) => self.select(s, query, node),
            Body::Query(q) => {
                let inner = self.query(q);
                node.outputs = inner.outputs.clone();
                node.nested.push(inner);
            }
            Body::Set { op, left, right } => {
                self.body(left, None, node);
                let a = std::mem::take(&mut node.outputs);
                self.body(right, None, node);
                let b = std::mem::take(&mut node.outputs);
                node.outputs = combine_outputs(*op, a, b);
                // ORDER BY of a set operation names output columns only.
            }
            Body::Values(rows) => {
                for row in rows {
                    for e in &row.values {
                        let found = self.subqueries(e, &[]);
                        node.subqueries.extend(found);
                    }
                }
            }
            Body::Insert(i) => self.insert(i, node),
            Body::Update(u) => {
                let from: Vec<&From> = std::iter::once(&u.table).chain(&u.from).collect();
                let rest: Vec<&Expr> = u.set.iter().map(|a| &a.value).chain(returned(&u.returning)).collect();
                self.write(&from, u.filter.as_ref(), &rest, node);
            }
            Body::Delete(d) => {
                let from: Vec<&From> = std::iter::once(&d.table).chain(&d.using).collect();
                let rest: Vec<&Expr> = returned(&d.returning).collect();
                self.write(&from, d.filter.as_ref(), &rest, node);
            }
            Body::Merge(m) => self.merge(m, node),
        }
    }

    fn select(&mut self, s: &Select, query: Option<&Query>, node: &mut QueryNode) {
        let (from, exposed) = self.product(&s.from.iter().collect::<Vec<_>>());
        self.scopes.push(exposed.clone());
        let mut facts = Vec::new();
        let mut subqueries = Vec::new();
        if let Some(filter) = &s.filter {
            self.conjuncts(filter, &mut facts, &mut subqueries);
        }
        let mut known = facts.clone();
        self.guaranteed(&from, &mut known);

        let grouping = self.grouping(s);
        let mut partitions: Vec<Option<Vec<Var>>> = Vec::new();
        let mut rest: Vec<&Expr> = Vec::new();
        for item in &s.items {
            if let Item::Expr { expr, .. } = item {
                rest.push(expr);
            }
            if let Item::QualifiedWildcard(name) = item {
                self.note_prefix(name);
            }
        }
        for e in &rest {
            self.window_partitions(e, &mut partitions);
        }
        rest.extend(&s.group_by);
        rest.extend(&s.having);
        rest.extend(&s.windows);
        if let Distinct::On(list) = &s.distinct {
            rest.extend(list);
        }
        if let Some(q) = query {
            rest.extend(&q.order_by);
        }
        for e in rest {
            let found = self.subqueries(e, &[]);
            subqueries.extend(found);
        }

        let distinct_on = match &s.distinct {
            Distinct::On(list) => Some(list.iter().filter_map(|e| self.column(e)).collect::<Vec<_>>()),
            _ => None,
        };
        let mut anchors = Vec::new();
        self.anchor_vars(&from, &mut anchors);
        let mut outputs = Outputs { complete: true, ..Outputs::default() };
        for item in &s.items {
            outputs.items.push(outputs.columns.len());
            match item {
                Item::Expr { expr, alias } => {
                    let var = self.column(expr);
                    let name = match (alias, expr) {
                        (Some(a), _) => a.value.clone(),
                        (None, Expr::Column(parts)) => parts.last().map_or(String::new(), |n| n.value.clone()),
                        (None, Expr::Call(c)) => c.name.last().map_or(String::new(), |n| n.value.clone()),
                        _ => String::new(),
                    };
                    outputs.columns.push(self.output(name, var, &known));
                }
                Item::Wildcard => self.expand(&exposed, &known, &mut outputs),
                Item::QualifiedWildcard(name) => match self.find_rte(name) {
                    Some(rte) => {
                        for (name, var) in self.rtes[rte].columns.clone() {
                            let output = self.output(name, Some(var), &known);
                            outputs.columns.push(output);
                        }
                        outputs.complete &= self.rtes[rte].complete;
                    }
                    None => outputs.complete = false,
                },
            }
        }
        let compared = anchors.len() + partitions.len() + grouping.as_ref().map_or(0, Vec::len);
        for output in &mut outputs.columns {
            if self.clock.spend(compared) {
                break;
            }
            let var = output.inner.as_ref().and_then(|v| v.first().copied());
            let pushable = var.is_some_and(|v| {
                grouping.as_ref().is_none_or(|g| g.contains(&v))
                    && distinct_on.as_ref().is_none_or(|d| d.contains(&v))
                    && partitions.iter().all(|p| p.as_ref().is_some_and(|p| p.contains(&v)))
            });
            output.is_anchor = pushable && var.is_some_and(|v| anchors.contains(&v));
            if !pushable {
                output.inner = None;
            }
            if s.has_grouping_sets {
                output.guaranteed = None;
            }
        }
        self.scopes.pop();
        node.outputs = outputs;
        node.scopes.push(ScopeNode { from, facts, subqueries, exposed });
    }

    /// Columns of GROUP BY; `None`: the rows are not grouped.
    fn grouping(&self, s: &Select) -> Option<Vec<Var>> {
        if s.has_grouping_sets {
            return Some(Vec::new());
        }
        if s.group_by.is_empty() && s.having.is_none() {
            return None;
        }
        let mut vars = Vec::new();
        for e in &s.group_by {
            if self.clock.spend(s.items.len()) {
                break;
            }
            let by_position = match e {
                Expr::Number(n) => n.parse::<usize>().ok().and_then(|n| s.items.get(n.wrapping_sub(1))),
                // An input column comes before an output name.
                Expr::Column(parts) if parts.len() == 1 && self.column(e).is_none() => {
                    s.items.iter().find(|i| matches!(i, Item::Expr { alias: Some(a), .. } if a.value == parts[0].value))
                }
                _ => None,
            };
            let has_star = s.items.iter().any(|i| !matches!(i, Item::Expr { .. }));
            let meant = match by_position {
                Some(Item::Expr { expr, .. }) if !has_star => Some(expr),
                Some(_) => None,
                None => Some(e),
            };
            vars.extend(meant.and_then(|e| self.column(e)));
        }
        Some(vars)
    }

    fn window_partitions(&self, e: &Expr, out: &mut Vec<Option<Vec<Var>>>) {
        e.walk(&mut |e| {
            if let Expr::Call(c) = e
                && let Some(w) = &c.over
            {
                let vars = w.partition_by.iter().filter_map(|e| self.column(e)).collect();
                out.push((!w.is_named).then_some(vars));
            }
            true
        });
    }

    /// `facts::values_of`, as long as there is time.
    pub(super) fn values_of(&self, facts: &[Fact], var: Var) -> Option<Vec<Operand>> {
        if self.clock.spend(facts.len()) {
            return None;
        }
        let values = values_of(facts, var);
        self.clock.spend(values.as_ref().map_or(0, Vec::len));
        values
    }

    /// Facts that every row of the tree satisfies.
    pub fn guaranteed(&self, node: &Node, out: &mut Vec<Fact>) {
        if self.clock.spend(1) {
            return;
        }
        match node {
            Node::Relation(_) | Node::Opaque(_) => {}
            Node::Derived { rte, .. } | Node::Cte { rte, .. } => {
                if let Some(facts) = self.guarantees.get(rte) {
                    out.extend(facts.iter().cloned());
                }
            }
            Node::Product(nodes) => nodes.iter().for_each(|n| self.guaranteed(n, out)),
            Node::Join { left, right, kind, facts, .. } => {
                if matches!(kind, JoinKind::Inner | JoinKind::Left) {
                    self.guaranteed(left, out);
                }
                if matches!(kind, JoinKind::Inner | JoinKind::Right) {
                    self.guaranteed(right, out);
                }
                if *kind == JoinKind::Inner {
                    out.extend(facts.iter().cloned());
                }
            }
        }
    }
}

fn is_select(body: &Body) -> bool {
    matches!(body, Body::Select(_) | Body::Query(_) | Body::Set { .. } | Body::Values(_))
}

fn returned(items: &Option<Vec<Item>>) -> impl Iterator<Item = &Expr> {
    items.iter().flatten().filter_map(|i| match i {
        Item::Expr { expr, .. } => Some(expr),
        _ => None,
    })
}
