//! Which column a name means, and which columns a scope has.

use crate::sql::facts::{Family, Var};
use crate::sql::tree::{Expr, JoinKind, Name};

use super::{Builder, Exposed, Node, ScopeNode};

impl Builder<'_> {
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

    /// Looks names up in a scope that has been left already.
    pub fn within<T>(&mut self, exposed: &Exposed, look: impl FnOnce(&Self) -> T) -> T {
        self.scopes.push(exposed.clone());
        let found = look(self);
        self.scopes.pop();
        found
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

    /// Anchors of a scope: see `all_follow`.
    pub fn anchors_of(&self, scope: &ScopeNode) -> Vec<Var> {
        let mut vars = Vec::new();
        self.anchor_vars(&scope.from, &mut vars);
        vars
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
