//! INSERT, UPDATE, DELETE, MERGE.

use super::*;

impl Converter<'_> {
    pub(super) fn insert(&self, i: p::Insert) -> Converted<Insert> {
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

    pub(super) fn assignments(&self, list: Vec<p::Assignment>) -> Converted<Vec<Assignment>> {
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

    pub(super) fn update(&self, u: p::Update) -> Converted<Update> {
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

    pub(super) fn delete(&self, d: p::Delete) -> Converted<Delete> {
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

    pub(super) fn merge(&self, m: p::Merge) -> Converted<Merge> {
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
}
