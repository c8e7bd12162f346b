//! Triggers of distributed tables: every shard has those of its shell. May a trigger stand there?
//!
//! A trigger runs on the worker that has the row. Its function must be content with the row: other tables are not there,
//! and a row whose distribution column it changed would stand where nobody looks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use tokio_postgres::Client;

use super::table_checks::Intent;
use super::table_definition::TableDefinition;
use crate::backend::Row;
use crate::catalog::quote::literal;
use crate::catalog::{pg_error, tables};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, Table, TableOid};
use crate::sql::trigger_body::TriggerBody;

/// As `tenantry.table_triggers` prints it.
#[derive(Debug, Clone, Deserialize)]
pub struct TriggerDefinition {
    name: String,
    is_row: bool,
    is_before: bool,
    /// `pg_trigger.tgenabled`.
    state: char,
    has_transition_tables: bool,
    /// CREATE CONSTRAINT TRIGGER ... FROM
    names_other_table: bool,
    /// With its argument types, as messages print it.
    function: String,
    language: String,
    /// Whose member the function is.
    extension: Option<String>,
    body: String,
    /// Those of the trigger.
    arguments: Vec<String>,
    /// Schemas and names of tables whose names the body may hold.
    tables: Vec<(String, String)>,
    pub(super) statements: Vec<String>,
}

/// Errors: 0A000 for a trigger that cannot stand on shards, and for any of a reference table.
pub fn check(definition: &TableDefinition, intent: Intent<'_>) -> Result<()> {
    definition.triggers.iter().try_for_each(|trigger| match intent {
        Intent::Reference => Err(PgError::unsupported("triggers are not supported on reference tables")
            .detail(format!("{} has trigger \"{}\".", definition.printed, trigger.name))
            .hint("Drop the trigger, and put its work into the application.")),
        Intent::Distributed { column, .. } => trigger.check(&definition.printed, column),
    })
}

/// Are the functions on the nodes where the shards are to be?
///
/// Errors: 42883 for one that is not, because it was made behind the proxy's back.
pub async fn check_functions(
    txn: &mut Transaction,
    definition: &TableDefinition,
    nodes: &BTreeSet<NodeId>,
) -> Result<()> {
    let Some(sql) = missing_function(definition) else { return Ok(()) };
    for node in nodes {
        let missing = txn.query(*node, &sql).await?;
        if let Some([Some(function)]) = missing.first().map(Vec::as_slice) {
            return Err(is_missing(function, *node));
        }
    }
    Ok(())
}

/// As `check_functions`, on a connection to one node.
pub async fn check_functions_on(session: &Client, definition: &TableDefinition, node: NodeId) -> Result<()> {
    let Some(sql) = missing_function(definition) else { return Ok(()) };
    match session.query_opt(&sql, &[]).await.map_err(pg_error)? {
        Some(row) => Err(is_missing(row.try_get(0).map_err(pg_error)?, node)),
        None => Ok(()),
    }
}

/// The statement that asks a node for a function that it doesn't have; none where no trigger needs one.
fn missing_function(definition: &TableDefinition) -> Option<String> {
    let functions: Vec<String> = definition.triggers.iter().map(|trigger| literal(&trigger.function)).collect();
    (!functions.is_empty()).then(|| {
        format!(
            "SELECT f FROM pg_catalog.unnest(ARRAY[{}]) f WHERE pg_catalog.to_regprocedure(f) IS NULL LIMIT 1",
            functions.join(", ")
        )
    })
}

fn is_missing(function: &str, node: NodeId) -> PgError {
    let message = format!("trigger function {function} does not exist on node {node}");
    PgError::new(SqlState::UNDEFINED_FUNCTION, message)
        .hint("Run CREATE OR REPLACE FUNCTION through Tenantry, which runs it on every node.")
}

/// The triggers of some distributed tables at one time.
pub struct Standing(Vec<(Arc<Table>, Vec<TriggerDefinition>)>);

/// Of the distributed ones among these tables, as the transaction sees them.
pub async fn standing(txn: &mut Transaction, tables: &[Arc<Table>]) -> Result<Standing> {
    let tables: Vec<_> = tables.iter().filter(|table| !table.is_reference()).cloned().collect();
    let mut triggers = read(txn, &tables).await?;
    let and_triggers = |table: Arc<Table>| {
        let (_, triggers) = triggers.remove(&table.oid).unwrap_or_default();
        (table, triggers)
    };
    Ok(Standing(tables.into_iter().map(and_triggers).collect()))
}

/// The names of those tables that are there, as messages print them, and their triggers: a small part of their definitions.
async fn read(
    txn: &mut Transaction,
    tables: &[Arc<Table>],
) -> Result<BTreeMap<TableOid, (String, Vec<TriggerDefinition>)>> {
    if tables.is_empty() {
        return Ok(BTreeMap::new());
    }
    let oids: Vec<String> = tables.iter().map(|table| table.oid.to_string()).collect();
    let sql = format!(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname), tenantry.table_triggers(c.oid)::pg_catalog.text \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN ({})",
        oids.join(", ")
    );
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    let read = |row: &Row| match row.as_slice() {
        [Some(oid), Some(printed), Some(json)] => {
            let oid = oid.parse().map_err(|_| unreadable(&"it has no OID"))?;
            Ok((TableOid(oid), (printed.clone(), serde_json::from_str(json).map_err(|e| unreadable(&e))?)))
        }
        _ => Err(unreadable(&"something is NULL")),
    };
    rows.iter().map(read).collect()
}

fn unreadable(why: &dyn std::fmt::Display) -> PgError {
    PgError::new(SqlState::INTERNAL_ERROR, format!("could not read a table's triggers: {why}"))
}

/// Of all distributed tables that have any.
pub async fn all_standing(txn: &mut Transaction) -> Result<Standing> {
    let rows = txn.query(NodeId::COORDINATOR, tables::with_triggers()).await?;
    let oids = rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok());
    let map = txn.map();
    let tables: Vec<_> = oids.filter_map(|oid| map.table_by_oid(TableOid(oid)).cloned()).collect();
    standing(txn, &tables).await
}

/// Checks what a statement has made of triggers: those that are as they were are left in peace, even if a local table
/// has got the name of a word in them meanwhile.
pub async fn check_changed(txn: &mut Transaction, before: &Standing) -> Result<()> {
    let map = txn.map();
    let tables: Vec<_> = before.0.iter().map(|(table, _)| table.clone()).collect();
    let mut now = read(txn, &tables).await?;
    for (table, old) in &before.0 {
        let Some(column) = map.table_by_oid(table.oid).and_then(|now| now.distribution_column()) else { continue };
        let (printed, mut triggers) = now.remove(&table.oid).unwrap_or_default();
        triggers.retain(|trigger| !old.iter().any(|old| old.is_the_same(trigger)));
        triggers.iter().try_for_each(|trigger| trigger.check(&printed, &column.name))?;
    }
    Ok(())
}

impl TriggerDefinition {
    fn is_the_same(&self, other: &Self) -> bool {
        (self.state, &self.statements, &self.body) == (other.state, &other.statements, &other.body)
    }

    fn check(&self, table: &str, column: &str) -> Result<()> {
        let refuse = |detail: &str, hint: &str| {
            Err(PgError::unsupported(format!(
                "trigger \"{}\" is not supported on the distributed table {table}",
                self.name
            ))
            .detail(detail.to_owned())
            .hint(hint.to_owned()))
        };
        if !self.is_row {
            return refuse("A trigger FOR EACH STATEMENT would fire once for each shard.", "Use FOR EACH ROW.");
        }
        if self.has_transition_tables {
            return refuse(
                "Its transition tables would hold the rows of one shard only.",
                "Use a trigger without REFERENCING.",
            );
        }
        if !matches!(self.state, 'O' | 'D') {
            return refuse(
                "It would fire once more for each row while a shard is moved.",
                "Use ENABLE TRIGGER, not ENABLE REPLICA TRIGGER or ENABLE ALWAYS TRIGGER.",
            );
        }
        if self.names_other_table {
            return refuse("It refers to another table, which is elsewhere on a shard.", "Leave out FROM.");
        }
        match (self.language.as_str(), self.extension.as_deref()) {
            ("plpgsql", _) => self.check_body(column, &refuse),
            ("internal", _) => Ok(()),
            (_, Some("moddatetime")) if self.arguments.first().is_none_or(|argument| argument != column) => Ok(()),
            _ => refuse(
                &format!("Nobody can tell here what its function {} does.", self.function),
                "Write the function in PL/pgSQL.",
            ),
        }
    }

    fn check_body(&self, column: &str, refuse: &dyn Fn(&str, &str) -> Result<()>) -> Result<()> {
        let function = &self.function;
        let body = TriggerBody::read(&self.body)?;
        if let Some((schema, name)) = self.tables.iter().find(|(schema, name)| body.names(schema, name)) {
            return refuse(
                &format!("Its function {function} names the table {schema}.{name}, which is not where the shards are."),
                "Put statements on other tables into the application.",
            );
        }
        if body.notifies() {
            return refuse(
                &format!(
                    "Its function {function} uses NOTIFY, which nobody would hear: sessions listen on the coordinator."
                ),
                "Send the notification from the application.",
            );
        }
        if body.uses_sequences() {
            return refuse(
                &format!("Its function {function} uses a sequence, which is on the coordinator only."),
                "Assign ids in the application, or use gen_random_uuid().",
            );
        }
        if self.is_before && body.may_change(column) {
            return refuse(
                &format!("Its function {function} may change \"{column}\", by which the row was sent to its shard."),
                "Assign single columns other than the distribution column, and return NEW, OLD or NULL.",
            );
        }
        Ok(())
    }
}
