//! What must hold of a row for it to matter: equalities between columns, and columns with constants.
//!
//! A fact is strict: a row whose column is NULL does not satisfy it. Only columns whose types compare and hash alike
//! are put into one class, so that a constant found for one column is a constant for all.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::Operand;
use super::tree::{Body, Expr, Item, TypeName};
use crate::shard_map::Column;

/// A column of one relation occurrence.
pub type Var = u32;

/// See the head of this file.
#[derive(Debug, Clone)]
pub enum Fact {
    Eq(Var, Var),
    /// The column has one of these values.
    In(Var, Rc<[Operand]>),
}

/// Types that compare with each other by value and hash alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// int2, int4, int8
    Int,
    /// text, varchar
    Text,
    /// Only with itself.
    Exact(u32),
    /// Unknown, or equality is not identity (floats).
    Unsafe,
}

/// The operand that stands for "the shard group at hand" while pushdown is proved.
pub const ANCHOR: Operand = Operand::Lifted { literal: u16::MAX, negative: true };

impl Family {
    pub fn of_column(column: &Column) -> Family {
        match column.type_oid {
            20 | 21 | 23 => Family::Int,
            25 | 1043 => Family::Text,
            0 | 700 | 701 => Family::Unsafe,
            oid => Family::Exact(oid),
        }
    }

    pub fn of_type(name: &TypeName) -> Family {
        match name {
            TypeName::Int2 | TypeName::Int4 | TypeName::Int8 => Family::Int,
            TypeName::Text => Family::Text,
            TypeName::Uuid => Family::Exact(2950),
            TypeName::Date => Family::Exact(1082),
            _ => Family::Unsafe,
        }
    }

    /// The value of a constant expression as the column's input function reads it; `None`: not provably constant.
    pub fn constant(self, expr: &Expr) -> Option<Operand> {
        if self == Family::Unsafe {
            return None;
        }
        match expr {
            Expr::Null => Some(Operand::Null),
            Expr::Param(n) => Some(Operand::Param(*n)),
            Expr::String(s) if self == Family::Int => {
                let digits = s.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
                digits.parse::<i64>().ok().map(|n| Operand::Literal(n.to_string().into()))
            }
            Expr::String(s) => Some(Operand::Literal(s.as_str().into())),
            Expr::Number(_) | Expr::Minus(_) | Expr::Arithmetic(..) => match self {
                Family::Int => match integer(expr)? {
                    Value::Integer(n) if i64::try_from(n).is_ok() => Some(Operand::Literal(n.to_string().into())),
                    // No integer column has such a value.
                    Value::Integer(_) | Value::Fraction => Some(Operand::Null),
                },
                Family::Exact(1700) => match expr {
                    Expr::Number(n) => Some(Operand::Literal(n.as_str().into())),
                    _ => None,
                },
                _ => None,
            },
            Expr::Cast(inner, name) if Family::of_type(name) == self => match &**inner {
                // A cast rounds fractions, fails on what is too large, and prints numbers in its own way.
                Expr::Number(_) | Expr::Minus(_) | Expr::Arithmetic(..) => match (self, integer(inner)?) {
                    (Family::Int, Value::Integer(n)) if i64::try_from(n).is_ok() => {
                        Some(Operand::Literal(n.to_string().into()))
                    }
                    _ => None,
                },
                inner => self.constant(inner),
            },
            Expr::Subquery(q) => {
                let Body::Select(s) = &q.body else { return None };
                let simple = q.with.is_empty() && !q.is_limited && s.from.is_empty() && s.filter.is_none();
                match &s.items[..] {
                    // The subquery gives an untyped string or parameter the type text: only numbers are sure.
                    [Item::Expr { expr: expr @ (Expr::Number(_) | Expr::Cast(..)), .. }]
                        if simple && s.group_by.is_empty() && s.having.is_none() && !s.has_grouping_sets =>
                    {
                        self.constant(expr)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The values of an array constant: `ARRAY[...]`, `'{...}'`, casts of them.
    pub fn constants(self, array: &Expr) -> Option<Vec<Operand>> {
        match array {
            Expr::Array(list) => list.iter().map(|e| self.constant(e)).collect(),
            Expr::Cast(inner, TypeName::Array(element)) if Family::of_type(element) == self => self.constants(inner),
            Expr::String(s) => {
                let inner = s.trim().strip_prefix('{')?.strip_suffix('}')?;
                if inner.contains(['"', '\\', '{', '}']) {
                    return None;
                }
                if inner.trim().is_empty() {
                    return Some(vec![Operand::Null]);
                }
                inner
                    .split(',')
                    .map(|e| match e.trim() {
                        "" => None,
                        e if e.eq_ignore_ascii_case("null") => Some(Operand::Null),
                        e => self.constant(&Expr::String(e.to_owned())),
                    })
                    .collect()
            }
            _ => None,
        }
    }
}

enum Value {
    Integer(i128),
    Fraction,
}

/// Value of an integer expression of constants. Division and overflow are left to Postgres.
fn integer(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Number(text) => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            if whole.is_empty() || whole.len() > 30 || !whole.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            if !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            if fraction.bytes().any(|b| b != b'0') {
                return Some(Value::Fraction);
            }
            whole.parse().ok().map(Value::Integer)
        }
        Expr::Minus(e) => match integer(e)? {
            Value::Integer(n) => Some(Value::Integer(-n)),
            Value::Fraction => Some(Value::Fraction),
        },
        Expr::Arithmetic(a, sign, b) => {
            let (Value::Integer(a), Value::Integer(b)) = (integer(a)?, integer(b)?) else { return None };
            let value = match sign {
                '+' => a.checked_add(b)?,
                '-' => a.checked_sub(b)?,
                '*' => a.checked_mul(b)?,
                _ => return None,
            };
            i32::try_from(value).ok().map(|n| Value::Integer(n.into()))
        }
        _ => None,
    }
}

/// The values that `var` can have under `facts`; `None`: any.
pub fn values_of(facts: &[Fact], var: Var) -> Option<Vec<Operand>> {
    let mut class = vec![var];
    let mut seen: HashSet<Var> = HashSet::from([var]);
    let mut next = 0;
    let mut edges: HashMap<Var, Vec<Var>> = HashMap::new();
    for fact in facts {
        if let Fact::Eq(a, b) = fact {
            edges.entry(*a).or_default().push(*b);
            edges.entry(*b).or_default().push(*a);
        }
    }
    while let Some(&v) = class.get(next) {
        next += 1;
        for &w in edges.get(&v).into_iter().flatten() {
            if seen.insert(w) {
                class.push(w);
            }
        }
    }
    let mut best: Option<Vec<Operand>> = None;
    for fact in facts {
        let Fact::In(v, values) = fact else { continue };
        if !seen.contains(v) {
            continue;
        }
        best = Some(match best {
            None => values.to_vec(),
            Some(best) if best == [ANCHOR] => best,
            Some(_) if **values == [ANCHOR] => values.to_vec(),
            Some(best) => intersection(best, values),
        });
    }
    best
}

/// Both sets hold. Only literals can be compared; of what cannot, the smaller set is right as well.
fn intersection(a: Vec<Operand>, b: &[Operand]) -> Vec<Operand> {
    let all_literal = |s: &[Operand]| s.iter().all(|o| matches!(o, Operand::Literal(_) | Operand::Null));
    if all_literal(&a) && all_literal(b) {
        // Texts of one value may differ ('5', '05'): only integers have been made canonical, others are kept.
        let canonical = |s: &[Operand]| {
            s.iter().all(|o| match o {
                Operand::Literal(t) => t.parse::<i64>().is_ok_and(|n| n.to_string() == **t),
                _ => true,
            })
        };
        if canonical(&a) && canonical(b) {
            let others: HashSet<&Operand> = b.iter().collect();
            let both: Vec<Operand> = a.iter().filter(|o| others.contains(o)).cloned().collect();
            return if both.is_empty() { vec![Operand::Null] } else { both };
        }
    }
    if a.len() <= b.len() { a } else { b.to_vec() }
}

/// Is a column of the relations `from..to` demanded by a fact?
pub fn mentions(facts: &[Fact], mut belongs: impl FnMut(Var) -> bool) -> bool {
    facts.iter().any(|f| match f {
        Fact::Eq(a, b) => belongs(*a) || belongs(*b),
        Fact::In(a, _) => belongs(*a),
    })
}
