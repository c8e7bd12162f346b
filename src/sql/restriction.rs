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
use super::facts::{ANCHOR, Fact, Family, Var, mentions};
use super::scope::{Builder, Exposed, Meaning, Node, QueryNode, ScopeNode, Subquery};
use super::tree::{Expr, JoinKind, Name};

impl Builder<'_> {
    // ---- names

    /// The column that an expression is, value-preserving casts aside.
    pub fn column(&self, e: &Expr) -> Option<Var> {
        match e {
            Expr::Column(parts) => self.resolve(parts),
            Expr::Cast(inner, name) => {
                let var = self.column(inner)?;
                // An integer cast keeps the value or fails; text to text keeps it.
                let kept = matches!(self.family(var), Family::Int | Family::Text);
                (kept && Family::of_type(name) == self.family(var)).then_some(var)
            }
            _ => None,
        }
    }

    fn resolve(&self, parts: &[Name]) -> Option<Var> {
        match parts {
            [name] => {
                for scope in self.scopes.iter().rev() {
                    if let Some(found) = self.resolve_in(scope, &name.value) {
                        return found;
                    }
                }
                None
            }
            [qualifier @ .., name] => {
                let rte = self.find_rte(qualifier)?;
                let mut found = self.rtes[rte].columns.iter().filter(|(n, _)| *n == name.value);
                let var = found.next()?.1;
                found.next().is_none().then_some(var)
            }
            [] => None,
        }
    }

    /// `Some(None)`: the name may be there, nobody knows.
    pub(super) fn resolve_in(&self, exposed: &Exposed, name: &str) -> Option<Option<Var>> {
        if exposed.opaque || self.clock.spend(exposed.rtes.len() + exposed.merged.len()) {
            return Some(None);
        }
        if let Some((_, var)) = exposed.merged.iter().find(|(n, _)| n == name) {
            return Some(*var);
        }
        let mut complete = true;
        let mut found = None;
        for &rte in &exposed.rtes {
            let rte = &self.rtes[rte];
            complete &= rte.complete;
            for (_, var) in rte.columns.iter().filter(|(n, _)| n == name) {
                if found.is_some() {
                    return Some(None);
                }
                found = Some(*var);
            }
        }
        match found {
            Some(var) => Some(Some(var)),
            None if complete => None,
            None => Some(None),
        }
    }

    /// A column of a relation, by its place in the table.
    pub fn column_of(&self, relation: usize, column: usize) -> Option<Var> {
        let rte = self.rtes.iter().find(|rte| rte.relation == Some(relation))?;
        rte.columns.get(column).map(|(_, var)| *var)
    }

    /// The FROM item that `x.` or `schema.x.` means.
    pub(super) fn find_rte(&self, qualifier: &[Name]) -> Option<usize> {
        for scope in self.scopes.iter().rev() {
            if self.clock.spend(scope.rtes.len()) {
                return None;
            }
            let mut found = None;
            for &i in &scope.rtes {
                let rte = &self.rtes[i];
                let fits = match qualifier {
                    [name] => rte.name.as_ref() == Some(&name.value),
                    [.., schema, name] => {
                        rte.name.as_ref() == Some(&name.value) && rte.schema.as_ref() == Some(&schema.value)
                    }
                    [] => false,
                };
                if fits {
                    if found.is_some() {
                        return None;
                    }
                    found = Some(i);
                }
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Remembers the schema part of `schema.table.` where it must be spliced.
    pub(super) fn note_prefix(&mut self, qualifier: &[Name]) {
        if let [first, .., table] = qualifier
            && let Some(relation) = self.find_rte(qualifier).and_then(|rte| self.rtes[rte].relation)
        {
            self.relations[relation].schema_prefixes.push((first.at, table.at - first.at));
        }
    }

    // ---- expressions

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

    /// Looks names up in a scope that has been left already.
    pub fn within<T>(&mut self, exposed: &Exposed, look: impl FnOnce(&Self) -> T) -> T {
        self.scopes.push(exposed.clone());
        let found = look(self);
        self.scopes.pop();
        found
    }

    /// Anchors of a scope: see `all_follow`.
    pub fn anchors_of(&self, scope: &ScopeNode) -> Vec<Var> {
        let mut vars = Vec::new();
        self.anchor_vars(&scope.from, &mut vars);
        vars
    }

    /// Is the name certainly no column of the scope?
    pub fn is_no_column(&self, exposed: &Exposed, name: &str) -> bool {
        self.resolve_in(exposed, name).is_none()
    }

    /// Names of all columns that `*` stands for; `None`: not known, or merged by USING.
    pub fn star_names(&self, exposed: &Exposed) -> Option<Vec<String>> {
        if exposed.opaque || !exposed.merged.is_empty() {
            return None;
        }
        let mut names = Vec::new();
        for &rte in &exposed.rtes {
            names.extend(self.star_of(rte)?);
        }
        Some(names)
    }

    /// The same for `x.*`; the scope must be entered (`within`).
    pub fn qualified_star_names(&self, qualifier: &[Name]) -> Option<Vec<String>> {
        self.star_of(self.find_rte(qualifier)?)
    }

    fn star_of(&self, rte: usize) -> Option<Vec<String>> {
        let rte = &self.rtes[rte];
        rte.complete.then(|| rte.columns.iter().map(|(n, _)| n.clone()).collect())
    }

    /// Columns that are a distribution column of a relation whose every row is kept (not on a nullable side).
    pub(super) fn anchor_vars(&self, node: &Node, out: &mut Vec<Var>) {
        match node {
            Node::Relation(i) => out.extend(self.relations[*i].key),
            Node::Opaque(_) => {}
            Node::Derived { rte, .. } | Node::Cte { rte, .. } => {
                out.extend(self.rtes[*rte].columns.iter().map(|(_, v)| *v).filter(|v| self.anchors.contains(v)));
            }
            Node::Product(nodes) => nodes.iter().for_each(|n| self.anchor_vars(n, out)),
            Node::Join { left, right, kind, merged, .. } => {
                if matches!(kind, JoinKind::Inner | JoinKind::Left) {
                    self.anchor_vars(left, out);
                }
                if matches!(kind, JoinKind::Inner | JoinKind::Right) {
                    self.anchor_vars(right, out);
                }
                if *kind == JoinKind::Full {
                    let (mut l, mut r) = (Vec::new(), Vec::new());
                    self.anchor_vars(left, &mut l);
                    self.anchor_vars(right, &mut r);
                    out.extend(merged.iter().filter(|(_, a, b)| l.contains(a) && r.contains(b)).map(|m| m.0));
                }
            }
        }
    }
}

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
