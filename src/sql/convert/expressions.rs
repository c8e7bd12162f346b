//! Expressions, calls, windows.

use super::*;

impl Converter<'_> {
    pub(super) fn exprs(&self, list: Vec<p::Expr>) -> Converted<Vec<Expr>> {
        list.into_iter().map(|e| self.expr(e)).collect()
    }

    pub(super) fn boxed(&self, e: Box<p::Expr>) -> Converted<Box<Expr>> {
        Ok(Box::new(self.expr(*e)?))
    }

    pub(super) fn other<const N: usize>(&self, parts: [Option<Box<p::Expr>>; N]) -> Converted<Expr> {
        Ok(Expr::Other(parts.into_iter().flatten().map(|e| self.expr(*e)).collect::<Converted<_>>()?))
    }

    /// A chain `a AND b AND c` leans to the left: taken apart in a loop, it may be long.
    pub(super) fn chain(&self, op: p::BinaryOperator, left: Box<p::Expr>, right: Box<p::Expr>) -> Converted<Vec<Expr>> {
        let mut parts = vec![self.expr(*right)?];
        let mut rest = *left;
        loop {
            match rest {
                p::Expr::BinaryOp { left, op: o, right } if o == op => {
                    parts.push(self.expr(*right)?);
                    rest = *left;
                }
                last => {
                    parts.push(self.expr(last)?);
                    parts.reverse();
                    return Ok(parts);
                }
            }
        }
    }

    pub(super) fn expr(&self, e: p::Expr) -> Converted<Expr> {
        use p::BinaryOperator as B;
        use p::Expr as E;
        Ok(match e {
            E::Identifier(i) if i.quote_style.is_none() && i.value == "default" => Expr::Default,
            E::Identifier(i) => Expr::Column(vec![self.name(i)?]),
            E::CompoundIdentifier(parts) => {
                Expr::Column(parts.into_iter().map(|i| self.name(i)).collect::<Converted<_>>()?)
            }
            E::Nested(e) => self.expr(*e)?,
            E::Value(v) => self.value(v.value)?,
            E::TypedString(t) => {
                let data_type = self.type_name(&t.data_type);
                Expr::Cast(Box::new(self.value(t.value.value)?), data_type)
            }
            E::BinaryOp { left, op: op @ B::And, right } => Expr::And(self.chain(op, left, right)?),
            E::BinaryOp { left, op: op @ B::Or, right } => Expr::Or(self.chain(op, left, right)?),
            E::BinaryOp { left, op: B::Eq, right } => Expr::Eq(self.boxed(left)?, self.boxed(right)?),
            E::BinaryOp { left, op, right } => {
                let sign = match op {
                    B::Plus => '+',
                    B::Minus => '-',
                    B::Multiply => '*',
                    B::Divide => '/',
                    B::Modulo => '%',
                    _ => return self.other([Some(left), Some(right)]),
                };
                Expr::Arithmetic(self.boxed(left)?, sign, self.boxed(right)?)
            }
            E::UnaryOp { op: p::UnaryOperator::Minus, expr } => Expr::Minus(self.boxed(expr)?),
            E::UnaryOp { expr, .. } => self.other([Some(expr)])?,
            E::IsNotDistinctFrom(a, b) => Expr::NotDistinct(self.boxed(a)?, self.boxed(b)?),
            E::IsDistinctFrom(a, b) => self.other([Some(a), Some(b)])?,
            E::InList { expr, list, negated } => {
                let (expr, list) = (self.boxed(expr)?, self.exprs(list)?);
                if negated {
                    Expr::Other(std::iter::once(*expr).chain(list).collect())
                } else {
                    Expr::InList(expr, list)
                }
            }
            E::InSubquery { expr, subquery, negated } => {
                let inside = Expr::InSubquery(self.boxed(expr)?, Box::new(self.query(*subquery)?));
                if negated { negate(inside) } else { inside }
            }
            E::Exists { subquery, negated: _ } => Expr::Exists(Box::new(self.query(*subquery)?)),
            E::Subquery(q) => Expr::Subquery(Box::new(self.query(*q)?)),
            E::Between { expr, negated, low, high } => {
                if negated {
                    self.other([Some(expr), Some(low), Some(high)])?
                } else {
                    Expr::Between(self.boxed(expr)?, self.boxed(low)?, self.boxed(high)?)
                }
            }
            E::AnyOp { left, compare_op, right, .. } => {
                if compare_op == B::Eq {
                    match self.expr(*right)? {
                        Expr::Subquery(q) => Expr::InSubquery(self.boxed(left)?, q),
                        right => Expr::EqAny(self.boxed(left)?, Box::new(right)),
                    }
                } else {
                    self.other([Some(left), Some(right)])?
                }
            }
            E::AllOp { left, right, .. } => self.other([Some(left), Some(right)])?,
            E::Tuple(list) => Expr::Row(self.exprs(list)?),
            E::Array(a) => Expr::Array(self.exprs(a.elem)?),
            E::Cast { expr, data_type, kind: p::CastKind::Cast | p::CastKind::DoubleColon, format: None } => {
                let inner = self.expr(*expr)?;
                Expr::Cast(Box::new(inner), self.type_name(&data_type))
            }
            E::Function(f) => self.call(f)?,
            E::Case { operand, conditions, else_result, .. } => {
                let mut parts = Vec::new();
                parts.extend(operand.map(|e| self.expr(*e)).transpose()?);
                for when in conditions {
                    parts.push(self.expr(when.condition)?);
                    parts.push(self.expr(when.result)?);
                }
                parts.extend(else_result.map(|e| self.expr(*e)).transpose()?);
                Expr::Other(parts)
            }
            E::IsFalse(e)
            | E::IsNotFalse(e)
            | E::IsTrue(e)
            | E::IsNotTrue(e)
            | E::IsNull(e)
            | E::IsNotNull(e)
            | E::IsUnknown(e)
            | E::IsNotUnknown(e)
            | E::IsJson { expr: e, .. }
            | E::IsNormalized { expr: e, .. }
            | E::Extract { expr: e, .. }
            | E::Ceil { expr: e, .. }
            | E::Floor { expr: e, .. }
            | E::Collate { expr: e, .. }
            | E::Named { expr: e, .. }
            | E::Prefixed { value: e, .. } => self.other([Some(e)])?,
            E::Like { expr, pattern, escape_char, .. }
            | E::ILike { expr, pattern, escape_char, .. }
            | E::SimilarTo { expr, pattern, escape_char, .. } => {
                self.other([Some(expr), Some(pattern), escape_char])?
            }
            E::AtTimeZone { timestamp, time_zone } => self.other([Some(timestamp), Some(time_zone)])?,
            E::Position { expr, r#in } => self.other([Some(expr), Some(r#in)])?,
            E::Substring { expr, substring_from, substring_for, .. } => {
                self.other([Some(expr), substring_from, substring_for])?
            }
            E::Trim { trim_what, expr, trim_characters, .. } => {
                let mut parts = vec![self.expr(*expr)?];
                parts.extend(trim_what.map(|e| self.expr(*e)).transpose()?);
                parts.extend(self.exprs(trim_characters.unwrap_or_default())?);
                Expr::Other(parts)
            }
            E::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                self.other([Some(expr), Some(overlay_what), Some(overlay_from), overlay_for])?
            }
            E::Interval(i) => self.other([Some(i.value)])?,
            E::CompoundFieldAccess { root, access_chain } => {
                let mut parts = vec![self.expr(*root)?];
                for access in access_chain {
                    match access {
                        p::AccessExpr::Dot(_) => {}
                        p::AccessExpr::Subscript(p::Subscript::Index { index }) => parts.push(self.expr(index)?),
                        p::AccessExpr::Subscript(p::Subscript::Slice { lower_bound, upper_bound, stride }) => {
                            for bound in [lower_bound, upper_bound, stride].into_iter().flatten() {
                                parts.push(self.expr(bound)?);
                            }
                        }
                    }
                }
                Expr::Other(parts)
            }
            E::GroupingSets(sets) | E::Cube(sets) | E::Rollup(sets) => {
                Expr::Other(self.exprs(sets.into_iter().flatten().collect())?)
            }
            _ => return unknown("an expression of an unknown kind"),
        })
    }

    pub(super) fn value(&self, value: p::Value) -> Converted<Expr> {
        Ok(match value {
            p::Value::Number(n, _) => Expr::Number(n.to_string()),
            p::Value::SingleQuotedString(s) => Expr::String(s),
            p::Value::Boolean(b) => Expr::Bool(b),
            p::Value::Null => Expr::Null,
            p::Value::Placeholder(text) => match text.strip_prefix('$').and_then(|n| n.parse::<u32>().ok()) {
                Some(n) if (1..=65536).contains(&n) => Expr::Param((n - 1) as u16),
                _ => return unknown("a parameter of an unknown form"),
            },
            _ => Expr::Other(Vec::new()),
        })
    }

    pub(super) fn call(&self, f: p::Function) -> Converted<Expr> {
        let mut call = Call {
            name: self.object_name(f.name)?,
            args: Vec::new(),
            star: false,
            special: !f.within_group.is_empty() || f.null_treatment.is_some() || f.uses_odbc_syntax,
            filter: f.filter.map(|e| self.expr(*e)).transpose()?,
            over: None,
            rest: self.order_by(f.within_group)?,
        };
        match f.args {
            p::FunctionArguments::None => call.special = true,
            p::FunctionArguments::Subquery(q) => call.args.push(Expr::Subquery(Box::new(self.query(*q)?))),
            p::FunctionArguments::List(list) => {
                call.special |= list.duplicate_treatment.is_some() || !list.clauses.is_empty();
                for clause in list.clauses {
                    match clause {
                        p::FunctionArgumentClause::OrderBy(o) => call.rest.extend(self.order_by(o)?),
                        p::FunctionArgumentClause::Where(e) | p::FunctionArgumentClause::Limit(e) => {
                            call.rest.push(self.expr(e)?)
                        }
                        p::FunctionArgumentClause::Having(_) | p::FunctionArgumentClause::OnOverflow(_) => {
                            return unknown("a function clause that Postgres does not have");
                        }
                        _ => {}
                    }
                }
                let (args, star, named) = self.arguments(list.args)?;
                call.args = args;
                call.star = star;
                call.special |= named;
            }
        }
        if !matches!(f.parameters, p::FunctionArguments::None) {
            return unknown("function parameters");
        }
        call.over = match f.over {
            None => None,
            Some(p::WindowType::WindowSpec(spec)) => Some(self.window(spec)?),
            Some(p::WindowType::NamedWindow(_)) => {
                Some(Window { partition_by: Vec::new(), is_named: true, rest: Vec::new() })
            }
        };
        Ok(Expr::Call(Box::new(call)))
    }

    /// The expressions, whether it is `(*)`, whether any is named.
    pub(super) fn arguments(&self, args: Vec<p::FunctionArg>) -> Converted<(Vec<Expr>, bool, bool)> {
        let (mut list, mut star, mut named) = (Vec::new(), false, false);
        for arg in args {
            let value = match arg {
                p::FunctionArg::Unnamed(value) => value,
                p::FunctionArg::Named { arg, .. } | p::FunctionArg::ExprNamed { arg, .. } => {
                    named = true;
                    arg
                }
            };
            match value {
                p::FunctionArgExpr::Expr(e) => list.push(self.expr(e)?),
                p::FunctionArgExpr::Wildcard => star = true,
                p::FunctionArgExpr::QualifiedWildcard(_) => list.push(Expr::Other(Vec::new())),
                p::FunctionArgExpr::WildcardWithOptions(_) => return unknown("a function argument of an unknown kind"),
            }
        }
        Ok((list, star, named))
    }

    pub(super) fn window(&self, spec: p::WindowSpec) -> Converted<Window> {
        let mut rest = self.order_by(spec.order_by)?;
        if let Some(frame) = spec.window_frame {
            for bound in std::iter::once(frame.start_bound).chain(frame.end_bound) {
                if let p::WindowFrameBound::Preceding(Some(e)) | p::WindowFrameBound::Following(Some(e)) = bound {
                    rest.push(self.expr(*e)?);
                }
            }
        }
        Ok(Window { partition_by: self.exprs(spec.partition_by)?, is_named: spec.window_name.is_some(), rest })
    }
}
