//! The columns that a query gives, and what is known of each.

use super::*;

impl Builder<'_> {
    pub(super) fn output(&self, name: String, var: Option<Var>, known: &[Fact]) -> Output {
        Output {
            name,
            family: var.map_or(Family::Unsafe, |v| self.family(v)),
            guaranteed: var.and_then(|v| self.values_of(known, v)),
            inner: var.map(|v| vec![v]),
            is_anchor: false,
        }
    }

    pub(super) fn expand(&self, exposed: &Exposed, known: &[Fact], outputs: &mut Outputs) {
        for (name, var) in &exposed.merged {
            outputs.columns.push(self.output(name.clone(), *var, known));
        }
        for &rte in &exposed.rtes {
            for (name, var) in &self.rtes[rte].columns {
                if !exposed.merged.iter().any(|(m, _)| m == name) {
                    outputs.columns.push(self.output(name.clone(), Some(*var), known));
                }
            }
            outputs.complete &= self.rtes[rte].complete;
        }
        // Columns merged by USING come first, and where unknown ones stand nobody can say.
        outputs.complete &= !exposed.opaque;
    }
}

/// A column alias list renames the first columns. Positions must be known.
pub(super) fn rename(outputs: &mut Outputs, names: &[Name]) {
    if names.is_empty() {
        return;
    }
    if !outputs.complete {
        *outputs = Outputs::default();
        return;
    }
    for (output, name) in outputs.columns.iter_mut().zip(names) {
        output.name = name.value.clone();
    }
}

pub(super) fn combine_outputs(op: SetOp, a: Outputs, b: Outputs) -> Outputs {
    if !a.complete || !b.complete || a.columns.len() != b.columns.len() {
        return Outputs::default();
    }
    let columns = a.columns.into_iter().zip(b.columns).map(|(a, b)| {
        let alike = a.family == b.family && a.family != Family::Unsafe;
        let inner = match (a.inner, b.inner) {
            (Some(mut x), Some(y)) if alike => {
                x.extend(y);
                Some(x)
            }
            _ => None,
        };
        let guaranteed = match (op, a.guaranteed, b.guaranteed) {
            (SetOp::Union, Some(mut x), Some(y)) if alike => {
                // As with a statement's operands: long lists may say a thing twice.
                x.extend(y.into_iter().filter(|o| x.len() > 100 || !x.contains(o)).collect::<Vec<_>>());
                Some(x)
            }
            (SetOp::Except | SetOp::Intersect, Some(x), _) => Some(x),
            (SetOp::Intersect, None, Some(y)) if alike => Some(y),
            _ => None,
        };
        let is_anchor = inner.is_some() && a.is_anchor && b.is_anchor;
        let family = if alike { a.family } else { Family::Unsafe };
        Output { name: a.name, family, inner, guaranteed, is_anchor }
    });
    Outputs { columns: columns.collect(), complete: true, items: Vec::new() }
}
