//! WITH: what the queries in front of a statement give, recursive ones included.

use super::*;

impl Builder<'_> {
    pub(super) fn with_list(&mut self, q: &Query, node: &mut QueryNode) {
        let first = self.ctes.len();
        if q.recursive {
            for cte in &q.with {
                let id = self.new_cte(cte);
                self.visible_ctes.push(id);
            }
        }
        for (i, cte) in q.with.iter().enumerate() {
            let id = if q.recursive { first + i } else { self.new_cte(cte) };
            node.ctes.push(id);
            let pushable = !q.recursive && is_select(&cte.query.body);
            let mut inner = match &cte.query.body {
                Body::Set { op: SetOp::Union, left, right } if q.recursive && self.recursion_applies(cte) => {
                    self.recursive_cte(id, cte, left, right)
                }
                _ => self.query(&cte.query),
            };
            rename(&mut inner.outputs, &cte.columns);
            if !is_select(&cte.query.body) {
                inner.outputs = Outputs::default();
            }
            self.ctes[id].outputs = inner.outputs.clone();
            self.ctes[id].pushable = pushable;
            self.ctes[id].node = Some(inner);
            if !q.recursive {
                self.visible_ctes.push(id);
            }
        }
    }

    fn new_cte(&mut self, cte: &Cte) -> usize {
        self.ctes.push(CteInfo {
            name: cte.name.value.clone(),
            outputs: Outputs::default(),
            node: None,
            references: 0,
            pushable: false,
        });
        self.ctes.len() - 1
    }

    fn recursion_applies(&self, cte: &Cte) -> bool {
        cte.query.with.is_empty() && !cte.query.is_limited && cte.query.order_by.is_empty()
    }

    /// `base UNION [ALL] step`: what base guarantees is assumed of the step's input; it holds by induction when the
    /// step guarantees it too. Otherwise nothing is assumed and the step is read again.
    fn recursive_cte(&mut self, id: usize, cte: &Cte, left: &Body, right: &Body) -> QueryNode {
        let mut base = QueryNode::default();
        self.body(left, None, &mut base);
        let mut assumed = base.outputs.clone();
        rename(&mut assumed, &cte.columns);
        for output in &mut assumed.columns {
            output.inner = None;
            output.is_anchor = false;
        }
        let relations = self.relations.len();
        loop {
            self.ctes[id].outputs = assumed.clone();
            let mut step = QueryNode::default();
            self.body(right, None, &mut step);
            let aligned = step.outputs.complete && step.outputs.columns.len() == assumed.columns.len();
            let mut dropped = false;
            for (i, output) in assumed.columns.iter_mut().enumerate() {
                let Some(wanted) = &output.guaranteed else { continue };
                let given = if aligned { step.outputs.columns[i].guaranteed.as_ref() } else { None };
                if !given.is_some_and(|g| g.iter().all(|o| wanted.contains(o))) {
                    output.guaranteed = None;
                    dropped = true;
                }
            }
            if !dropped {
                base.scopes.append(&mut step.scopes);
                base.nested.append(&mut step.nested);
                base.subqueries.append(&mut step.subqueries);
                base.ctes.append(&mut step.ctes);
                base.outputs = assumed;
                return base;
            }
            self.relations.truncate(relations);
        }
    }
}
