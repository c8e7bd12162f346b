//! INSERT, UPDATE, DELETE and MERGE: what they read, and what limits the rows they write.

use super::*;

impl Builder<'_> {
    pub(super) fn insert(&mut self, i: &Insert, node: &mut QueryNode) {
        let relation = self.relation(&i.table, i.alias.is_some());
        self.relations[relation].is_target = true;
        let mut tenant = None;
        if let Meaning::Distributed(table) = self.relations[relation].meaning.clone()
            && let Some(column) = table.distribution_column()
        {
            let position = match &i.columns {
                Some(names) if !names.is_empty() => names.iter().position(|n| n.value == column.name),
                Some(_) => table.columns.iter().position(|c| c.name == column.name),
                None => None,
            };
            let family = Family::of_column(column);
            if let (Some(position), Some(source)) = (position, &i.source) {
                tenant = match &source.body {
                    Body::Values(rows) => rows
                        .iter()
                        .map(|r| r.values.get(position).and_then(|e| family.constant(e)))
                        .collect::<Option<Vec<_>>>(),
                    _ => None,
                };
                let inner = self.query(source);
                if !matches!(source.body, Body::Values(_)) && inner.outputs.complete {
                    let output = inner.outputs.columns.get(position);
                    tenant = output.filter(|o| o.family == family).and_then(|o| o.guaranteed.clone());
                }
                node.nested.push(inner);
            } else if let Some(source) = &i.source {
                let inner = self.query(source);
                node.nested.push(inner);
            }
        } else if let Some(source) = &i.source {
            let inner = self.query(source);
            node.nested.push(inner);
        }
        node.inserts.push((relation, tenant));

        let rte = self.relation_rte(relation, &i.table, i.alias.as_ref().map(|a| a.value.clone()), &[]);
        // `excluded` has the target's columns; facts about it would say nothing about rows.
        self.rtes.push(Rte {
            name: Some("excluded".into()),
            schema: None,
            columns: Vec::new(),
            complete: false,
            relation: None,
        });
        let excluded = self.rtes.len() - 1;
        self.scopes.push(Exposed { rtes: vec![rte, excluded], ..Exposed::default() });
        let conflict = i.on_conflict.iter().flat_map(|c| c.set.iter().map(|a| &a.value).chain(&c.filter));
        for e in conflict.chain(returned(&i.returning)) {
            let found = self.subqueries(e, &[]);
            node.subqueries.extend(found);
        }
        self.scopes.pop();
    }

    pub(super) fn write(&mut self, from: &[&From], filter: Option<&Expr>, rest: &[&Expr], node: &mut QueryNode) {
        let target = self.relations.len();
        let (from, exposed) = self.product(from);
        if let Some(relation) = self.relations.get_mut(target) {
            relation.is_target = true;
        }
        self.scopes.push(exposed.clone());
        let (mut facts, mut subqueries) = (Vec::new(), Vec::new());
        if let Some(filter) = filter {
            self.conjuncts(filter, &mut facts, &mut subqueries);
        }
        for e in rest {
            let found = self.subqueries(e, &[]);
            subqueries.extend(found);
        }
        self.scopes.pop();
        node.scopes.push(ScopeNode { from, facts, subqueries, exposed });
    }

    pub(super) fn merge(&mut self, m: &Merge, node: &mut QueryNode) {
        let target = self.relations.len();
        let start = self.rtes.len();
        let (right, right_exposed) = self.tree_of(&m.table);
        if let Some(relation) = self.relations.get_mut(target) {
            relation.is_target = true;
        }
        let middle = self.rtes.len();
        let (left, left_exposed) = self.tree_of(&m.source);
        let end = self.rtes.len();
        let mut exposed = right_exposed;
        exposed.rtes.extend(left_exposed.rtes);
        self.scopes.push(exposed);
        let (mut facts, mut subqueries) = (Vec::new(), Vec::new());
        self.conjuncts(&m.on, &mut facts, &mut subqueries);
        let mut outer = Vec::new();
        for e in m.set.iter().map(|a| &a.value).chain(&m.predicates).chain(m.inserts.iter().flat_map(|i| &i.1)) {
            let found = self.subqueries(e, &[]);
            outer.extend(found);
        }
        // What is inserted must belong to the tenant as well.
        let relation = &self.relations[target];
        if let (Meaning::Distributed(table), Some(key)) = (&relation.meaning, relation.key) {
            let column = table.distribution_column().map(|c| c.name.clone()).unwrap_or_default();
            let family = self.family(key);
            let mut source_facts = Vec::new();
            self.guaranteed(&left, &mut source_facts);
            for (columns, values) in &m.inserts {
                let position = if columns.is_empty() {
                    table.columns.iter().position(|c| c.name == column)
                } else {
                    columns.iter().position(|c| c.value == column)
                };
                let value = position.and_then(|p| values.get(p));
                let tenant = value.and_then(|e| match self.column(e) {
                    Some(var) if self.family(var) == family => values_of(&source_facts, var),
                    _ => family.constant(e).map(|o| vec![o]),
                });
                node.inserts.push((target, tenant));
            }
        }
        self.scopes.pop();
        let from = Node::Join {
            left: Box::new(left),
            right: Box::new(right),
            kind: if m.by_source { JoinKind::Full } else { JoinKind::Left },
            facts,
            subqueries,
            merged: Vec::new(),
            left_rtes: (middle, end),
            right_rtes: (start, middle),
        };
        node.scopes.push(ScopeNode { from, facts: Vec::new(), subqueries: outer, exposed: Exposed::default() });
    }

    // ---- FROM
}
