//! The parser crate's tree to ours. What is not known here is an error: nothing is guessed.

mod expressions;
mod writes;

use sqlparser::ast as p;

use super::tree::*;

type Converted<T> = Result<T, String>;

/// Converts a whole statement; the error names the construct.
pub fn statement(text: &str, statement: p::Statement) -> Converted<Query> {
    Converter { text }.statement(statement)
}

struct Converter<'t> {
    text: &'t str,
}

fn plain(body: Body) -> Query {
    Query {
        with: Vec::new(),
        recursive: false,
        body,
        order_by: Vec::new(),
        limit: None,
        offset: None,
        fetch: None,
        is_limited: false,
        locks_rows: false,
    }
}

fn unknown<T>(what: &str) -> Converted<T> {
    Err(what.to_owned())
}

fn at(token: &p::helpers::attached_token::AttachedToken) -> u32 {
    (token.0.span.start.column as u32).saturating_sub(1)
}

impl Converter<'_> {
    fn statement(&self, statement: p::Statement) -> Converted<Query> {
        Ok(match statement {
            p::Statement::Query(q) => self.query(*q)?,
            p::Statement::Insert(i) => plain(Body::Insert(Box::new(self.insert(i)?))),
            p::Statement::Update(u) => plain(Body::Update(Box::new(self.update(u)?))),
            p::Statement::Delete(d) => plain(Body::Delete(Box::new(self.delete(d)?))),
            p::Statement::Merge(m) => plain(Body::Merge(Box::new(self.merge(m)?))),
            _ => return unknown("a statement of another kind"),
        })
    }

    fn query(&self, q: p::Query) -> Converted<Query> {
        if q.for_clause.is_some() || q.settings.is_some() || q.format_clause.is_some() || !q.pipe_operators.is_empty() {
            return unknown("a clause that Postgres does not have");
        }
        let (recursive, ctes) = q.with.map_or((false, Vec::new()), |w| (w.recursive, w.cte_tables));
        let mut with = Vec::with_capacity(ctes.len());
        for cte in ctes {
            let columns = cte.alias.columns.into_iter().map(|c| self.name(c.name)).collect::<Converted<_>>()?;
            with.push(Cte { name: self.name(cte.alias.name)?, columns, query: self.query(*cte.query)? });
        }
        let order_by = match q.order_by {
            None => Vec::new(),
            Some(p::OrderBy { kind: p::OrderByKind::Expressions(e), interpolate: None }) => self.order_by(e)?,
            Some(_) => return unknown("ORDER BY ALL"),
        };
        let (limit, offset) = match q.limit_clause {
            None => (None, None),
            Some(p::LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
                (limit, offset.map(|o| o.value))
            }
            Some(_) => return unknown("LIMIT with a comma"),
        };
        let is_limited = limit.is_some() || offset.is_some() || q.fetch.is_some();
        let fetch = q.fetch.and_then(|f| f.quantity).map(|e| self.expr(e)).transpose()?;
        Ok(Query {
            with,
            recursive,
            body: self.body(*q.body)?,
            order_by,
            limit: limit.map(|e| self.expr(e)).transpose()?,
            offset: offset.map(|e| self.expr(e)).transpose()?,
            fetch,
            is_limited,
            locks_rows: !q.locks.is_empty(),
        })
    }

    fn body(&self, body: p::SetExpr) -> Converted<Body> {
        Ok(match body {
            p::SetExpr::Select(s) => Body::Select(Box::new(self.select(*s)?)),
            p::SetExpr::Query(q) => Body::Query(Box::new(self.query(*q)?)),
            p::SetExpr::SetOperation { left, op, set_quantifier, right } => {
                let op = match op {
                    p::SetOperator::Union => SetOp::Union,
                    p::SetOperator::Except => SetOp::Except,
                    p::SetOperator::Intersect => SetOp::Intersect,
                    p::SetOperator::Minus => return unknown("MINUS"),
                };
                match set_quantifier {
                    p::SetQuantifier::All | p::SetQuantifier::Distinct | p::SetQuantifier::None => {}
                    _ => return unknown("UNION BY NAME"),
                }
                Body::Set { op, left: Box::new(self.body(*left)?), right: Box::new(self.body(*right)?) }
            }
            p::SetExpr::Values(v) => Body::Values(self.values(v)?),
            p::SetExpr::Insert(s) | p::SetExpr::Update(s) | p::SetExpr::Delete(s) | p::SetExpr::Merge(s) => {
                self.statement(s)?.body
            }
            p::SetExpr::Table(_) => return unknown("TABLE"),
        })
    }

    fn values(&self, values: p::Values) -> Converted<Vec<ValuesRow>> {
        values
            .rows
            .into_iter()
            .map(|row| {
                let range = at(&row.opening_token)..at(&row.closing_token) + 1;
                Ok(ValuesRow { at: range, values: self.exprs(row.content)? })
            })
            .collect()
    }

    fn select(&self, s: p::Select) -> Converted<Select> {
        let foreign = s.top.is_some()
            || s.exclude.is_some()
            || !s.lateral_views.is_empty()
            || s.prewhere.is_some()
            || !s.connect_by.is_empty()
            || !s.cluster_by.is_empty()
            || !s.distribute_by.is_empty()
            || !s.sort_by.is_empty()
            || s.qualify.is_some()
            || s.value_table_mode.is_some()
            || s.select_modifiers.is_some()
            || s.flavor != p::SelectFlavor::Standard;
        if foreign {
            return unknown("a clause that Postgres does not have");
        }
        let distinct = match s.distinct {
            None | Some(p::Distinct::All) => Distinct::No,
            Some(p::Distinct::Distinct) => Distinct::Rows,
            Some(p::Distinct::On(e)) => Distinct::On(self.exprs(e)?),
        };
        let (group_by, has_grouping_sets) = match s.group_by {
            p::GroupByExpr::All(_) => (Vec::new(), true),
            p::GroupByExpr::Expressions(e, modifiers) => {
                let sets = !modifiers.is_empty()
                    || e.iter().any(|e| {
                        matches!(e, p::Expr::GroupingSets(_) | p::Expr::Cube(_) | p::Expr::Rollup(_))
                            || matches!(e, p::Expr::Tuple(_))
                    });
                (self.exprs(e)?, sets)
            }
        };
        let mut windows = Vec::new();
        for p::NamedWindowDefinition(_, definition) in s.named_window {
            if let p::NamedWindowExpr::WindowSpec(spec) = definition {
                let window = self.window(spec)?;
                windows.extend(window.partition_by);
                windows.extend(window.rest);
            }
        }
        Ok(Select {
            at: at(&s.select_token),
            distinct,
            items: self.items(s.projection)?,
            into: s.into.is_some(),
            from: s.from.into_iter().map(|t| self.from(t)).collect::<Converted<_>>()?,
            filter: s.selection.map(|e| self.expr(e)).transpose()?,
            group_by,
            has_grouping_sets,
            having: s.having.map(|e| self.expr(e)).transpose()?,
            windows,
        })
    }

    fn items(&self, items: Vec<p::SelectItem>) -> Converted<Vec<Item>> {
        let plain_star = |o: &p::WildcardAdditionalOptions| {
            o.opt_ilike.is_none()
                && o.opt_exclude.is_none()
                && o.opt_except.is_none()
                && o.opt_replace.is_none()
                && o.opt_rename.is_none()
                && o.opt_alias.is_none()
        };
        items
            .into_iter()
            .map(|item| {
                Ok(match item {
                    p::SelectItem::UnnamedExpr(e) => Item::Expr { expr: self.expr(e)?, alias: None },
                    p::SelectItem::ExprWithAlias { expr, alias } => {
                        Item::Expr { expr: self.expr(expr)?, alias: Some(self.name(alias)?) }
                    }
                    p::SelectItem::Wildcard(o) if plain_star(&o) => Item::Wildcard,
                    p::SelectItem::QualifiedWildcard(p::SelectItemQualifiedWildcardKind::ObjectName(n), o)
                        if plain_star(&o) =>
                    {
                        Item::QualifiedWildcard(self.object_name(n)?)
                    }
                    p::SelectItem::QualifiedWildcard(p::SelectItemQualifiedWildcardKind::Expr(e), _) => {
                        Item::Expr { expr: Expr::Other(vec![self.expr(e)?]), alias: None }
                    }
                    _ => return unknown("a select item that Postgres does not have"),
                })
            })
            .collect()
    }

    fn order_by(&self, list: Vec<p::OrderByExpr>) -> Converted<Vec<Expr>> {
        list.into_iter()
            .map(|o| match o.with_fill {
                None => self.expr(o.expr),
                Some(_) => unknown("WITH FILL"),
            })
            .collect()
    }

    fn from(&self, t: p::TableWithJoins) -> Converted<From> {
        let mut left = self.factor(t.relation)?;
        for join in t.joins {
            let right = self.factor(join.relation)?;
            use p::JoinOperator as J;
            let (kind, constraint) = match join.join_operator {
                J::Join(c) | J::Inner(c) | J::CrossJoin(c) => (JoinKind::Inner, c),
                J::Left(c) | J::LeftOuter(c) => (JoinKind::Left, c),
                J::Right(c) | J::RightOuter(c) => (JoinKind::Right, c),
                J::FullOuter(c) => (JoinKind::Full, c),
                _ => return unknown("a join that Postgres does not have"),
            };
            let on = match constraint {
                p::JoinConstraint::On(e) => On::Expr(self.expr(e)?),
                p::JoinConstraint::Using(names) => {
                    On::Using(names.into_iter().map(|n| self.one_name(n)).collect::<Converted<_>>()?)
                }
                p::JoinConstraint::Natural => On::Natural,
                p::JoinConstraint::None => On::None,
            };
            left = From::Join { left: Box::new(left), right: Box::new(right), kind, on };
        }
        Ok(left)
    }

    fn factor(&self, factor: p::TableFactor) -> Converted<From> {
        use p::TableFactor as F;
        Ok(match factor {
            F::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality: _,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                if !with_hints.is_empty()
                    || version.is_some()
                    || !partitions.is_empty()
                    || json_path.is_some()
                    || !index_hints.is_empty()
                {
                    return unknown("a table clause that Postgres does not have");
                }
                let alias = alias.map(|a| self.alias(a)).transpose()?;
                if let Some(args) = args {
                    return Ok(From::Function { parts: self.arguments(args.args)?.0, alias });
                }
                let mut parts = Vec::new();
                if let Some(p::TableSampleKind::BeforeTableAlias(s) | p::TableSampleKind::AfterTableAlias(s)) = sample {
                    parts.push(Expr::Other(Vec::new()));
                    if let Some(q) = s.quantity {
                        parts.push(self.expr(q.value)?);
                    }
                }
                From::Table { name: self.object_name(name)?, alias, parts }
            }
            F::Derived { lateral, subquery, alias, sample: None } => {
                let alias = alias.map(|a| self.alias(a)).transpose()?;
                From::Derived { query: Box::new(self.query(*subquery)?), alias, lateral }
            }
            F::TableFunction { expr, alias } => {
                From::Function { parts: vec![self.expr(expr)?], alias: alias.map(|a| self.alias(a)).transpose()? }
            }
            F::Function { args, alias, .. } => {
                From::Function { parts: self.arguments(args)?.0, alias: alias.map(|a| self.alias(a)).transpose()? }
            }
            F::UNNEST { alias, array_exprs, .. } => {
                From::Function { parts: self.exprs(array_exprs)?, alias: alias.map(|a| self.alias(a)).transpose()? }
            }
            F::JsonTable { json_expr, alias, .. } => {
                From::Function { parts: vec![self.expr(json_expr)?], alias: alias.map(|a| self.alias(a)).transpose()? }
            }
            F::NestedJoin { table_with_joins, alias } => {
                let inner = self.from(*table_with_joins)?;
                match alias {
                    None => inner,
                    Some(alias) => From::Aliased { inner: Box::new(inner), alias: self.alias(alias)? },
                }
            }
            _ => return unknown("a FROM item of an unknown kind"),
        })
    }

    fn alias(&self, alias: p::TableAlias) -> Converted<Alias> {
        if alias.at.is_some() {
            return unknown("AT in an alias");
        }
        let columns = alias.columns.into_iter().map(|c| self.name(c.name)).collect::<Converted<_>>()?;
        Ok(Alias { name: self.name(alias.name)?, columns })
    }

    fn name(&self, ident: p::Ident) -> Converted<Name> {
        if ident.quote_style.is_some_and(|q| q != '"') {
            return unknown("a string where a name is expected");
        }
        let at = (ident.span.start.column as u32).saturating_sub(1);
        let end = (ident.span.end.column as u32).saturating_sub(1);
        if ident.span.start.column == 0 || end as usize > self.text.len() || end <= at {
            return unknown("a name without a place in the text");
        }
        Ok(Name { value: ident.value, at, len: end - at })
    }

    fn object_name(&self, name: p::ObjectName) -> Converted<Vec<Name>> {
        if name.0.is_empty() {
            return unknown("an empty name");
        }
        name.0
            .into_iter()
            .map(|part| match part {
                p::ObjectNamePart::Identifier(ident) => self.name(ident),
                p::ObjectNamePart::Function(_) => unknown("a function as a name"),
            })
            .collect()
    }

    fn one_name(&self, name: p::ObjectName) -> Converted<Name> {
        let mut parts = self.object_name(name)?;
        if parts.len() == 1 { Ok(parts.swap_remove(0)) } else { unknown("a qualified column name") }
    }

    fn type_name(&self, data_type: &p::DataType) -> TypeName {
        use p::DataType as D;
        match data_type {
            D::Int2(None) | D::SmallInt(None) => TypeName::Int2,
            D::Int(None) | D::Int4(None) | D::Integer(None) => TypeName::Int4,
            D::BigInt(None) | D::Int8(None) => TypeName::Int8,
            D::Numeric(p::ExactNumberInfo::None) | D::Decimal(p::ExactNumberInfo::None) => TypeName::Numeric,
            D::Real | D::Float4 => TypeName::Float4,
            D::DoublePrecision | D::Float8 => TypeName::Float8,
            D::Text | D::Varchar(None) | D::CharacterVarying(None) | D::CharVarying(None) => TypeName::Text,
            D::Uuid => TypeName::Uuid,
            D::Date => TypeName::Date,
            D::Bool | D::Boolean => TypeName::Bool,
            D::Array(p::ArrayElemTypeDef::SquareBracket(inner, _)) => TypeName::Array(Box::new(self.type_name(inner))),
            _ => TypeName::Other,
        }
    }
}

/// NOT around something: its value is not followed further.
fn negate(e: Expr) -> Expr {
    Expr::Other(vec![e])
}
