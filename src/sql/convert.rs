//! The parser crate's tree to ours. What is not known here is an error: nothing is guessed.

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

    fn insert(&self, i: p::Insert) -> Converted<Insert> {
        let foreign = i.or.is_some()
            || i.ignore
            || i.overwrite
            || !i.assignments.is_empty()
            || i.partitioned.is_some()
            || !i.after_columns.is_empty()
            || i.replace_into
            || i.priority.is_some()
            || i.insert_alias.is_some()
            || i.settings.is_some()
            || i.format_clause.is_some()
            || i.multi_table_insert_type.is_some()
            || i.output.is_some();
        if foreign {
            return unknown("an INSERT clause that Postgres does not have");
        }
        let p::TableObject::TableName(table) = i.table else { return unknown("INSERT into a function") };
        let on_conflict = match i.on {
            None => None,
            Some(p::OnInsert::OnConflict(c)) => Some(match c.action {
                p::OnConflictAction::DoNothing => OnConflict { set: Vec::new(), filter: None },
                p::OnConflictAction::DoUpdate(u) => OnConflict {
                    set: self.assignments(u.assignments)?,
                    filter: u.selection.map(|e| self.expr(e)).transpose()?,
                },
            }),
            Some(_) => return unknown("ON DUPLICATE KEY"),
        };
        let mut columns = Vec::new();
        let mut columns_known = true;
        for name in i.columns {
            let mut name = self.object_name(name)?;
            columns_known &= name.len() == 1;
            columns.push(name.swap_remove(0));
        }
        Ok(Insert {
            at: at(&i.insert_token),
            table: self.object_name(table)?,
            alias: i.table_alias.map(|a| self.name(a.alias)).transpose()?,
            columns: columns_known.then_some(columns),
            source: i.source.map(|q| self.query(*q)).transpose()?,
            on_conflict,
            returning: i.returning.map(|r| self.items(r)).transpose()?,
        })
    }

    fn assignments(&self, list: Vec<p::Assignment>) -> Converted<Vec<Assignment>> {
        list.into_iter()
            .map(|a| {
                let targets = match a.target {
                    p::AssignmentTarget::ColumnName(n) => vec![n],
                    p::AssignmentTarget::Tuple(names) => names,
                };
                let columns =
                    targets.into_iter().map(|n| Ok(self.object_name(n)?.swap_remove(0))).collect::<Converted<_>>()?;
                Ok(Assignment { columns, value: self.expr(a.value)? })
            })
            .collect()
    }

    fn update(&self, u: p::Update) -> Converted<Update> {
        if u.or.is_some()
            || !u.order_by.is_empty()
            || u.limit.is_some()
            || u.output.is_some()
            || !u.table.joins.is_empty()
        {
            return unknown("an UPDATE clause that Postgres does not have");
        }
        let from = match u.from {
            None => Vec::new(),
            Some(p::UpdateTableFromKind::AfterSet(t)) => {
                t.into_iter().map(|t| self.from(t)).collect::<Converted<_>>()?
            }
            Some(_) => return unknown("FROM before SET"),
        };
        Ok(Update {
            table: self.from(u.table)?,
            set: self.assignments(u.assignments)?,
            from,
            filter: u.selection.map(|e| self.expr(e)).transpose()?,
            returning: u.returning.map(|r| self.items(r)).transpose()?,
        })
    }

    fn delete(&self, d: p::Delete) -> Converted<Delete> {
        let (p::FromTable::WithFromKeyword(mut tables) | p::FromTable::WithoutKeyword(mut tables)) = d.from;
        if !d.tables.is_empty()
            || !d.order_by.is_empty()
            || d.limit.is_some()
            || d.output.is_some()
            || tables.len() != 1
        {
            return unknown("a DELETE clause that Postgres does not have");
        }
        let table = tables.swap_remove(0);
        if !table.joins.is_empty() {
            return unknown("DELETE from a join");
        }
        Ok(Delete {
            table: self.from(table)?,
            using: d.using.unwrap_or_default().into_iter().map(|t| self.from(t)).collect::<Converted<_>>()?,
            filter: d.selection.map(|e| self.expr(e)).transpose()?,
            returning: d.returning.map(|r| self.items(r)).transpose()?,
        })
    }

    fn merge(&self, m: p::Merge) -> Converted<Merge> {
        let mut merge = Merge {
            table: self.factor(m.table)?,
            source: self.factor(m.source)?,
            on: self.expr(*m.on)?,
            set: Vec::new(),
            inserts: Vec::new(),
            predicates: Vec::new(),
            by_source: false,
            returning: m.output.is_some(),
        };
        for clause in m.clauses {
            merge.by_source |= clause.clause_kind == p::MergeClauseKind::NotMatchedBySource;
            merge.predicates.extend(clause.predicate.map(|e| self.expr(e)).transpose()?);
            match clause.action {
                p::MergeAction::Insert(i) => {
                    let p::MergeInsertKind::Values(values) = i.kind else {
                        return unknown("MERGE INSERT of another form");
                    };
                    let columns = i.columns.into_iter().map(|n| self.one_name(n)).collect::<Converted<Vec<_>>>()?;
                    for row in self.values(values)? {
                        merge.inserts.push((columns.clone(), row.values));
                    }
                }
                p::MergeAction::Update(u) => {
                    let p::MergeUpdateKind::Set(set) = u.kind else { return unknown("MERGE UPDATE of another form") };
                    merge.set.extend(self.assignments(set)?);
                }
                p::MergeAction::Delete { .. } | p::MergeAction::DoNothing { .. } => {}
            }
        }
        Ok(merge)
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

    fn exprs(&self, list: Vec<p::Expr>) -> Converted<Vec<Expr>> {
        list.into_iter().map(|e| self.expr(e)).collect()
    }

    fn boxed(&self, e: Box<p::Expr>) -> Converted<Box<Expr>> {
        Ok(Box::new(self.expr(*e)?))
    }

    fn other<const N: usize>(&self, parts: [Option<Box<p::Expr>>; N]) -> Converted<Expr> {
        Ok(Expr::Other(parts.into_iter().flatten().map(|e| self.expr(*e)).collect::<Converted<_>>()?))
    }

    /// A chain `a AND b AND c` leans to the left: taken apart in a loop, it may be long.
    fn chain(&self, op: p::BinaryOperator, left: Box<p::Expr>, right: Box<p::Expr>) -> Converted<Vec<Expr>> {
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

    fn expr(&self, e: p::Expr) -> Converted<Expr> {
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

    fn value(&self, value: p::Value) -> Converted<Expr> {
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

    fn call(&self, f: p::Function) -> Converted<Expr> {
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
    fn arguments(&self, args: Vec<p::FunctionArg>) -> Converted<(Vec<Expr>, bool, bool)> {
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

    fn window(&self, spec: p::WindowSpec) -> Converted<Window> {
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
