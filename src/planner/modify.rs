//! UPDATE, DELETE and MERGE beyond one tenant, and all writing of reference tables.

use crate::error::PgError;
use crate::shard_map::Table;
use crate::sql::Access;
use crate::sql::scope::Meaning;
use crate::sql::tree::{Assignment, Body, Expr, Insert, Query};

use super::defaults::{self, Left};
use super::statement::Statement;
use super::{Plan, ReferenceWrite, Scatter, WriteCommand, functions, pull, unsupported};

pub(super) fn plan(statement: &Statement<'_>) -> Result<Plan, PgError> {
    refuse_tenant_change(statement)?;
    let targets: Vec<&Meaning> = statement.relations.iter().filter(|r| r.is_target).map(|r| &r.meaning).collect();
    let [target] = targets[..] else { return Err(unsupported::write_in_cte()) };
    match target {
        Meaning::Reference(_) => Err(unsupported::reference_from_distributed()),
        Meaning::Local | Meaning::View(_) if statement.locks_rows() => Err(unsupported::locks_many()),
        Meaning::Local | Meaning::View(_) => pull::plan(statement),
        Meaning::Distributed(_) if matches!(statement.tree.body, Body::Merge(_)) => Err(unsupported::merge()),
        Meaning::Distributed(table) => {
            if let Some(name) = statement.calls().iter().find(|n| functions::is_volatile(n)) {
                return Err(unsupported::volatile_write(name));
            }
            if statement.has_local() {
                return Err(unsupported::write_many_tables("A local table is read to change a distributed one."));
            }
            let scope = statement.scope();
            let anchor = scope.and_then(|s| statement.pushdown_anchor(s));
            let (Some(scope), Some(anchor)) = (scope, anchor) else {
                return Err(unsupported::write_many_tables(
                    "The distributed tables of this statement are not all joined on their distribution columns.",
                ));
            };
            Ok(Plan::Scatter(Scatter {
                colocation: table.colocation,
                shards: statement.shards(scope, anchor),
                query: statement.sharded(),
                access: Access::Write,
                returns_rows: statement.returns_rows(),
            }))
        }
    }
}

/// SET of the distribution column moves a row to another shard; `SET k = k` does not. Nor does `SET k = excluded.k`: the row
/// that was to be inserted was brought to this shard by that value.
pub(super) fn refuse_tenant_change(statement: &Statement<'_>) -> Result<(), PgError> {
    let mut queries = vec![statement.tree];
    let mut targets = statement.relations.iter().filter(|r| r.is_target);
    let all_targets: Vec<&Meaning> = targets.by_ref().map(|r| &r.meaning).collect();
    while let Some(query) = queries.pop() {
        queries.extend(query.with.iter().map(|c| &c.query));
        for assignment in assignments(query) {
            for (i, column) in assignment.columns.iter().enumerate() {
                let is_tenant = all_targets.iter().any(|m| match m {
                    Meaning::Distributed(t) => t.distribution_column().is_some_and(|c| c.name == column.value),
                    _ => false,
                });
                // Whose column it is does not matter when there is one target; with several, any match is refused.
                let value = match &assignment.value {
                    Expr::Row(values) if assignment.columns.len() > 1 => values.get(i),
                    value => Some(value),
                };
                let itself = matches!(value, Some(Expr::Column(parts)) if is_own(query, parts, &column.value));
                if is_tenant && !itself {
                    return Err(unsupported::tenant_changed());
                }
            }
        }
    }
    Ok(())
}

/// `k`, or the target's `x.k`.
fn is_own(query: &Query, parts: &[crate::sql::tree::Name], column: &str) -> bool {
    let target = match &query.body {
        Body::Update(u) => match &u.table {
            crate::sql::tree::From::Table { name, alias, .. } => {
                alias.as_ref().map(|a| &a.name).or(name.last()).map(|n| n.value.as_str())
            }
            _ => None,
        },
        Body::Insert(i) => i.alias.as_ref().or(i.table.last()).map(|n| n.value.as_str()),
        _ => None,
    };
    let is_upsert = matches!(&query.body, Body::Insert(_));
    match parts {
        [qualifier, name] if is_upsert && qualifier.value == "excluded" => name.value == column,
        // An unqualified name may be another table's when there is a FROM; Postgres calls it ambiguous then.
        [name] => name.value == column,
        [qualifier, name] => name.value == column && target == Some(qualifier.value.as_str()),
        _ => false,
    }
}

pub(super) fn assignments(query: &Query) -> Vec<&Assignment> {
    match &query.body {
        Body::Update(u) => u.set.iter().collect(),
        Body::Merge(m) => m.set.iter().collect(),
        Body::Insert(i) => i.on_conflict.iter().flat_map(|c| &c.set).collect(),
        _ => Vec::new(),
    }
}

/// A write of a reference table, no distributed table near: every node runs it.
pub(super) fn plan_reference(statement: &Statement<'_>) -> Result<Plan, PgError> {
    let targets: Vec<&Meaning> = statement.relations.iter().filter(|r| r.is_target).map(|r| &r.meaning).collect();
    let (command, has_on_conflict) = match &statement.tree.body {
        Body::Insert(i) => (WriteCommand::Insert, i.on_conflict.is_some()),
        Body::Update(_) => (WriteCommand::Update, false),
        Body::Delete(_) => (WriteCommand::Delete, false),
        Body::Merge(_) => return Err(unsupported::merge()),
        _ => return Err(unsupported::reference_write_in_cte()),
    };
    let [Meaning::Reference(table)] = targets[..] else { return Err(unsupported::reference_write_in_cte()) };
    if statement.calls_inline() {
        return Err(unsupported::lent_function());
    }
    if statement.has_local() {
        return match &statement.tree.body {
            Body::Insert(insert) => super::insert::routed(statement, insert, table),
            _ => Err(unsupported::reference_from_local()),
        };
    }
    defaults::refuse_set_default(statement, table)?;
    let filling = match &statement.tree.body {
        Body::Insert(insert) => {
            match defaults::left_to_defaults(statement, insert, table, &given_columns(insert, table))? {
                Left::Nothing => None,
                Left::Filling(filling) => Some(filling),
                Left::ToRows => return super::insert::routed(statement, insert, table),
            }
        }
        _ => None,
    };
    Ok(Plan::ReferenceWrite(ReferenceWrite {
        filling,
        table: table.clone(),
        query: statement.sharded(),
        command,
        functions: statement.calls(),
        has_on_conflict,
        returns_rows: statement.returns_rows(),
    }))
}

/// The columns that an INSERT gives values for in every row; DEFAULT is no value.
fn given_columns(insert: &Insert, table: &Table) -> Vec<String> {
    let listed = defaults::listed(insert, table);
    match insert.source.as_ref().map(|q| &q.body) {
        None => Vec::new(),
        Some(Body::Values(rows)) => {
            let given = |n: &usize| rows.iter().all(|r| r.values.get(*n).is_some_and(|v| !matches!(v, Expr::Default)));
            (0..listed.len()).filter(given).map(|n| listed[n].clone()).collect()
        }
        Some(_) => listed,
    }
}
