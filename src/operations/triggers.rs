//! Triggers of distributed tables: every shard has those of its shell. May a trigger stand there?
//!
//! A trigger runs on the worker that has the row. Its function must be content with the row: other tables are not there,
//! and a row whose distribution column it changed would stand where nobody looks for it.

use serde::Deserialize;

use super::table_checks::Intent;
use super::table_definition::TableDefinition;
use crate::catalog::tables;
use crate::error::{PgError, Result};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, TableOid};
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

/// Looks again at the triggers of all distributed tables, after a statement that may have changed a function.
pub async fn check_all(txn: &mut Transaction) -> Result<()> {
    let rows = txn.query(NodeId::COORDINATOR, tables::with_triggers()).await?;
    let map = txn.map();
    for oid in rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()) {
        let Some(table) = map.table_by_oid(TableOid(oid)) else { continue };
        let Some(column) = table.distribution_column() else { continue };
        let definition = TableDefinition::read(txn, table.oid).await?;
        check(&definition, Intent::Distributed { column: &column.name, colocation: table.colocation })?;
    }
    Ok(())
}

impl TriggerDefinition {
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
