//! FROM trees: relations, subqueries, joins, and the names they expose.

use super::*;

impl Builder<'_> {
    pub(super) fn product(&mut self, items: &[&From]) -> (Node, Exposed) {
        let mut nodes = Vec::new();
        let mut exposed = Exposed::default();
        // LATERAL items see the ones before them.
        let outer_siblings = std::mem::replace(&mut self.siblings_from, self.scopes.len());
        self.scopes.push(Exposed::default());
        let depth = self.scopes.len() - 1;
        for item in items {
            if self.clock.spend(exposed.rtes.len()) {
                break;
            }
            let (node, e) = self.tree_of(item);
            nodes.push(node);
            exposed.rtes.extend(e.rtes);
            exposed.merged.extend(e.merged);
            exposed.opaque |= e.opaque;
            self.scopes[depth] = exposed.clone();
        }
        self.scopes.pop();
        self.siblings_from = outer_siblings;
        (Node::Product(nodes), exposed)
    }

    pub(super) fn tree_of(&mut self, from: &From) -> (Node, Exposed) {
        match from {
            From::Table { name, alias, parts } => self.table(name, alias.as_ref(), parts),
            From::Derived { query, alias, lateral } => {
                let siblings = if *lateral { Vec::new() } else { self.scopes.split_off(self.siblings_from) };
                let node = self.query(query);
                self.scopes.extend(siblings);
                let outputs = node.outputs.clone();
                let (rte, renames) = self.outputs_rte(&outputs, alias.as_ref());
                let exposed = Exposed { rtes: vec![rte], ..Exposed::default() };
                (Node::Derived { rte, query: Box::new(node), renames }, exposed)
            }
            From::Function { parts, alias } => {
                let mut subqueries = Vec::new();
                for e in parts {
                    let found = self.subqueries(e, &[]);
                    subqueries.extend(found);
                }
                self.rtes.push(Rte {
                    name: alias.as_ref().map(|a| a.name.value.clone()),
                    schema: None,
                    columns: Vec::new(),
                    complete: false,
                    relation: None,
                });
                let exposed = Exposed { rtes: vec![self.rtes.len() - 1], ..Exposed::default() };
                (Node::Opaque(subqueries), exposed)
            }
            From::Join { left, right, kind, on } => self.join(left, right, *kind, on),
            From::Aliased { inner, alias } => {
                let (node, inner) = self.tree_of(inner);
                let mut outputs = Outputs { complete: true, ..Outputs::default() };
                self.expand(&inner, &[], &mut outputs);
                rename(&mut outputs, &alias.columns);
                outputs.complete &= outputs.columns.iter().all(|o| o.inner.is_some());
                let columns =
                    outputs.columns.into_iter().filter_map(|o| Some((o.name, o.inner?.first().copied()?))).collect();
                self.rtes.push(Rte {
                    name: Some(alias.name.value.clone()),
                    schema: None,
                    columns,
                    complete: outputs.complete,
                    relation: None,
                });
                (node, Exposed { rtes: vec![self.rtes.len() - 1], ..Exposed::default() })
            }
        }
    }

    pub(super) fn table(&mut self, name: &[Name], alias: Option<&Alias>, parts: &[Expr]) -> (Node, Exposed) {
        let mut subqueries = Vec::new();
        for e in parts {
            let found = self.subqueries(e, &[]);
            subqueries.extend(found);
        }
        self.clock.spend(self.visible_ctes.len());
        if let [only] = name
            && let Some(&cte) = self.visible_ctes.iter().rev().find(|&&c| self.ctes[c].name == only.value)
        {
            self.ctes[cte].references += 1;
            let mut outputs = self.ctes[cte].outputs.clone();
            if !self.ctes[cte].pushable {
                for output in &mut outputs.columns {
                    output.inner = None;
                    output.is_anchor = false;
                }
            }
            let named = Alias { name: alias.map_or(only, |a| &a.name).clone(), columns: Vec::new() };
            if let Some(alias) = alias {
                rename(&mut outputs, &alias.columns);
            }
            let (rte, renames) = self.outputs_rte(&outputs, Some(&named));
            return (Node::Cte { rte, cte, renames }, Exposed { rtes: vec![rte], ..Exposed::default() });
        }
        let relation = self.relation(name, alias.is_some());
        let columns = alias.map_or(&[][..], |a| &a.columns);
        let rte = self.relation_rte(relation, name, alias.map(|a| a.name.value.clone()), columns);
        let node = if subqueries.is_empty() {
            Node::Relation(relation)
        } else {
            Node::Product(vec![Node::Relation(relation), Node::Opaque(subqueries)])
        };
        (node, Exposed { rtes: vec![rte], ..Exposed::default() })
    }

    pub(super) fn relation(&mut self, name: &[Name], has_alias: bool) -> usize {
        self.relations.push(Relation {
            name: name.to_vec(),
            meaning: (self.meaning)(name),
            has_alias,
            is_target: false,
            schema_prefixes: Vec::new(),
            key: None,
        });
        self.relations.len() - 1
    }

    pub(super) fn relation_rte(
        &mut self,
        relation: usize,
        name: &[Name],
        alias: Option<String>,
        renamed: &[Name],
    ) -> usize {
        let rte = self.rtes.len();
        let last = name.last().map(|n| n.value.clone());
        let mut entry = Rte {
            schema: None,
            columns: Vec::new(),
            complete: false,
            relation: Some(relation),
            name: alias.clone().or(last),
        };
        let meaning = self.relations[relation].meaning.clone();
        if let Meaning::Distributed(table) | Meaning::Reference(table) = &meaning {
            let key = table.distribution_column().map(|c| c.name.clone());
            entry.complete = true;
            if alias.is_none() {
                entry.schema = Some(table.schema.clone());
            }
            for (i, column) in table.columns.iter().enumerate() {
                let var = self.new_var(rte, Family::of_column(column));
                self.vars[var as usize].type_oid = column.type_oid;
                if key.as_ref() == Some(&column.name) {
                    self.relations[relation].key = Some(var);
                    self.anchors.insert(var);
                }
                let name = renamed.get(i).map_or(&column.name, |n| &n.value);
                entry.columns.push((name.clone(), var));
            }
        }
        self.rtes.push(entry);
        rte
    }

    /// A FROM item made of a query's outputs.
    pub(super) fn outputs_rte(&mut self, outputs: &Outputs, alias: Option<&Alias>) -> (usize, Vec<(Var, Var)>) {
        let rte = self.rtes.len();
        let mut outputs = outputs.clone();
        if let Some(alias) = alias {
            rename(&mut outputs, &alias.columns);
        }
        let (mut columns, mut renames, mut guarantees) = (Vec::new(), Vec::new(), Vec::new());
        for output in outputs.columns {
            let var = self.new_var(rte, output.family);
            for inner in output.inner.into_iter().flatten() {
                renames.push((var, inner));
            }
            if let Some(values) = output.guaranteed {
                guarantees.push(Fact::In(var, Rc::from(values)));
            }
            if output.is_anchor {
                self.anchors.insert(var);
            }
            columns.push((output.name, var));
        }
        let complete = outputs.complete && columns.iter().all(|(n, _)| !n.is_empty());
        let columns = columns.into_iter().filter(|(n, _)| !n.is_empty()).collect();
        self.rtes.push(Rte {
            name: alias.map(|a| a.name.value.clone()),
            schema: None,
            columns,
            complete,
            relation: None,
        });
        self.guarantees.insert(rte, guarantees);
        (rte, renames)
    }

    pub(super) fn join(&mut self, left: &From, right: &From, kind: JoinKind, on: &On) -> (Node, Exposed) {
        let start = self.rtes.len();
        let (left, left_exposed) = self.tree_of(left);
        let middle = self.rtes.len();
        self.scopes.push(left_exposed.clone());
        let (right, right_exposed) = self.tree_of(right);
        self.scopes.pop();
        let end = self.rtes.len();
        self.clock.spend(end - start);
        let (mut facts, mut subqueries, mut full) = (Vec::new(), Vec::new(), Vec::new());
        let mut exposed = Exposed {
            rtes: left_exposed.rtes.iter().chain(&right_exposed.rtes).copied().collect(),
            merged: Vec::new(),
            opaque: left_exposed.opaque || right_exposed.opaque,
        };
        let shared: Vec<String> = match on {
            On::Using(names) => names.iter().map(|n| n.value.clone()).collect(),
            On::Natural => {
                let (l, l_complete) = self.exposed_names(&left_exposed);
                let (r, r_complete) = self.exposed_names(&right_exposed);
                if l_complete && r_complete {
                    l.into_iter().filter(|n| r.contains(n)).collect()
                } else {
                    exposed.opaque = true;
                    Vec::new()
                }
            }
            _ => Vec::new(),
        };
        for name in shared {
            let l = self.resolve_in(&left_exposed, &name).flatten();
            let r = self.resolve_in(&right_exposed, &name).flatten();
            let mut merged = match kind {
                JoinKind::Inner | JoinKind::Left => l,
                JoinKind::Right => r,
                JoinKind::Full => None,
            };
            if let (Some(l), Some(r)) = (l, r)
                && self.family(l) == self.family(r)
                && self.family(l) != Family::Unsafe
            {
                facts.push(Fact::Eq(l, r));
                if kind == JoinKind::Full {
                    // Its occurrence lies outside both sides: facts about it demand neither.
                    let var = self.new_var(usize::MAX, self.family(l));
                    full.push((var, l, r));
                    merged = Some(var);
                }
            }
            exposed.merged.push((name, merged));
        }
        for (name, var) in left_exposed.merged.into_iter().chain(right_exposed.merged) {
            if !exposed.merged.iter().any(|(n, _)| *n == name) {
                exposed.merged.push((name, var));
            }
        }
        if let On::Expr(e) = on {
            self.scopes.push(exposed.clone());
            self.conjuncts(e, &mut facts, &mut subqueries);
            self.scopes.pop();
        }
        let node = Node::Join {
            left: Box::new(left),
            right: Box::new(right),
            kind,
            facts,
            subqueries,
            merged: full,
            left_rtes: (start, middle),
            right_rtes: (middle, end),
        };
        (node, exposed)
    }

    pub(super) fn exposed_names(&self, exposed: &Exposed) -> (Vec<String>, bool) {
        let mut names: Vec<String> = exposed.merged.iter().map(|(n, _)| n.clone()).collect();
        let mut complete = !exposed.opaque;
        for &rte in &exposed.rtes {
            complete &= self.rtes[rte].complete;
            for (name, _) in &self.rtes[rte].columns {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        (names, complete)
    }
}
