//! A table's definition, read from the coordinator's catalogs and written for a shard schema or for a reference copy.
//!
//! The texts come from Postgres's own printing functions (`tenantry.table_definition`), every name qualified. Only the
//! table's own schema and the targets of foreign keys differ from place to place; they are marks in the texts.

use serde::Deserialize;

use super::triggers::TriggerDefinition;
use crate::catalog::quote::{identifier, qualified, shard_schema};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap, TableOid};

/// All there is to know to make the table elsewhere, and to decide whether it can be.
#[derive(Debug, Clone, Deserialize)]
pub struct TableDefinition {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `schema.name`, quoted where needed, as messages print it.
    pub printed: String,
    /// `pg_class.relkind`: `r` is an ordinary table.
    pub kind: char,
    /// `pg_class.relpersistence`: `t` is temporary.
    pub persistence: char,
    pub is_partition: bool,
    /// Is or has a parent.
    pub inherits: bool,
    pub has_rules: bool,
    pub triggers: Vec<TriggerDefinition>,
    pub of_type: bool,
    /// Views and materialized views over it.
    pub views: Vec<String>,
    /// Functions whose body names it.
    pub functions: Vec<String>,
    pub columns: Vec<ColumnDefinition>,
    pub keys: Vec<KeyDefinition>,
    pub indexes: Vec<IndexDefinition>,
    pub foreign_keys: Vec<ForeignKey>,
    /// Tables with a foreign key to this one, itself excluded.
    pub referenced_by: Vec<u32>,
    create_prefix: String,
    create_suffix: String,
    checks: Vec<String>,
    after_indexes: Vec<String>,
    rest: Vec<String>,
    schema_grants: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ColumnDefinition {
    pub name: String,
    pub attnum: i16,
    /// As `format_type` prints it, without modifiers.
    #[serde(rename = "type")]
    pub type_name: String,
    pub type_oid: u32,
    /// The type under all domains.
    pub base_oid: u32,
    pub collation_oid: u32,
    pub is_deterministic: bool,
    /// Postgres has a hash function for it.
    pub is_hashable: bool,
    pub is_generated: bool,
    /// Identity, serial, or any default that calls nextval.
    pub draws_numbers: bool,
    /// Where it draws them from, if shards can do that too; `definition` is theirs then.
    pub sequence: Option<Sequence>,
    /// The default of shards by itself, where there is a sequence.
    drawing_default: Option<String>,
    definition: String,
    /// In copies of a reference table, where it draws numbers; NULL: as `definition`.
    copy_definition: Option<String>,
}

impl ColumnDefinition {
    fn of_copy(&self) -> &str {
        self.copy_definition.as_ref().unwrap_or(&self.definition)
    }
}

/// A sequence of the coordinator that a column draws from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Sequence {
    pub oid: u32,
    /// As messages print it.
    pub name: String,
    /// INCREMENT BY.
    pub step: i64,
}

/// PRIMARY KEY, UNIQUE or EXCLUDE.
#[derive(Debug, Clone, Deserialize)]
pub struct KeyDefinition {
    pub name: String,
    /// Columns that two conflicting rows have in common.
    pub equal_columns: Vec<String>,
    definition: String,
}

/// An index that no constraint owns.
#[derive(Debug, Clone, Deserialize)]
pub struct IndexDefinition {
    pub name: String,
    pub is_unique: bool,
    /// Plain key columns, expressions left out.
    pub columns: Vec<String>,
    definition: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ForeignKey {
    pub name: String,
    pub target: u32,
    pub target_printed: String,
    pub target_name: String,
    /// `pg_constraint.confdeltype`.
    pub on_delete: char,
    pub on_update: char,
    pub columns: Vec<String>,
    pub target_columns: Vec<String>,
    definition: String,
}

/// Texts of several statements each, run in this order. Rows go in after `table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stages {
    /// CREATE TABLE with columns and checks.
    pub table: String,
    /// Keys, indexes, replica identity, statistics objects.
    pub keys_and_indexes: String,
    pub foreign_keys: String,
    /// Triggers, comments, row level security, owner, grants.
    pub rest: String,
}

impl TableDefinition {
    /// Answers one row with one text for `parse`. Works on any connection to the coordinator.
    pub fn statement(oid: TableOid) -> String {
        format!("SELECT tenantry.table_definition({oid})::pg_catalog.text")
    }

    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|e| PgError::new(SqlState::INTERNAL_ERROR, format!("could not read a table's definition: {e}")))
    }

    /// As the transaction sees it. Errors: 42P01 when there is no such table.
    pub async fn read(txn: &mut Transaction, oid: TableOid) -> Result<Self> {
        let rows = txn.query(NodeId::COORDINATOR, &Self::statement(oid)).await?;
        match rows.first().and_then(|row| row.first()) {
            Some(Some(json)) => Self::parse(json),
            _ => Err(PgError::new(SqlState::UNDEFINED_TABLE, format!("relation with OID {oid} does not exist"))),
        }
    }

    pub fn oid(&self) -> TableOid {
        TableOid(self.oid)
    }

    /// Makes the copies partitioned, as `pg_get_partkeydef` prints it. A partitioned table has no options of storage.
    pub(super) fn partition_by(&mut self, key: &str) {
        self.create_suffix = format!(" PARTITION BY {key}");
        // An index there is printed as one without those of the partitions, and so not told apart by its table.
        let (printed, own) = (format!(" ON ONLY {} USING ", self.printed), format!(" ON {}.", OWN_SCHEMA));
        let name = self.create_prefix.rsplit_once(OWN_SCHEMA).map_or("", |(_, name)| name.trim_start_matches('.'));
        for index in &mut self.indexes {
            index.definition = index.definition.replace(&printed, &format!("{own}{name} USING "));
        }
    }

    /// `PARTITION OF parent`, as `pg_get_expr` prints the bound; of the copy in a shard group.
    pub(super) fn attach(&self, parent: &TableDefinition, bound: &str, group: ShardGroupId) -> String {
        let place = |table: &TableDefinition| qualified(&shard_schema(&table.schema, group), &table.name);
        format!("ALTER TABLE {} ATTACH PARTITION {} {bound};\n", place(parent), place(self))
    }

    /// As if its whole rows were not logged.
    pub fn forget_full_identity(&mut self) {
        self.after_indexes.retain(|statement| !statement.ends_with(" REPLICA IDENTITY FULL"));
    }

    /// Its name, quoted, with its schema.
    pub fn quoted(&self) -> String {
        qualified(&self.schema, &self.name)
    }

    pub fn column(&self, name: &str) -> Option<&ColumnDefinition> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Columns that can be written, in order, and so are copied.
    pub fn stored_columns(&self) -> Vec<String> {
        self.columns.iter().filter(|c| !c.is_generated).map(|c| c.name.clone()).collect()
    }

    /// For a shard group: foreign keys go to the same group's tables, or to reference tables.
    pub fn for_shard(&self, map: &ShardMap, group: ShardGroupId) -> Result<Stages> {
        let columns = self.columns.iter().map(|column| column.definition.as_str());
        self.stages(&shard_schema(&self.schema, group), columns, |target| {
            if target == self.oid {
                return Some(qualified(&shard_schema(&self.schema, group), &self.name));
            }
            let table = map.table_by_oid(TableOid(target))?;
            Some(if table.is_reference() {
                qualified(&table.schema, &table.name)
            } else {
                qualified(&shard_schema(&table.schema, group), &table.name)
            })
        })
    }

    /// Statements that have a shard's columns draw as they do here and did not in `before`; and whether one adds a column.
    pub fn new_draws(&self, before: &Self, group: ShardGroupId) -> (String, bool) {
        let place = qualified(&shard_schema(&self.schema, group), &self.name);
        let mut adds = false;
        let changed = self.columns_that_draw_anew(before).map(|column| {
            let is_new = !before.columns.iter().any(|old| old.attnum == column.attnum);
            adds |= is_new;
            match (&column.drawing_default, is_new) {
                (Some(default), false) => {
                    let name = identifier(&column.name);
                    format!("ALTER TABLE {place} ALTER COLUMN {name} SET DEFAULT {default}")
                }
                _ => format!("ALTER TABLE {place} ADD COLUMN {}", column.definition),
            }
        });
        let statements = script(changed.collect::<Vec<_>>());
        (statements, adds)
    }

    pub fn columns_that_draw_anew(&self, before: &Self) -> impl Iterator<Item = &ColumnDefinition> {
        let as_before = |column: &ColumnDefinition| {
            before.columns.iter().any(|old| {
                (old.attnum, &old.sequence, &old.drawing_default)
                    == (column.attnum, &column.sequence, &column.drawing_default)
            })
        };
        self.columns.iter().filter(move |column| column.sequence.is_some() && !as_before(column))
    }

    /// A foreign key of its waits ([`super::waiting_keys`]).
    pub fn has_waiting_key(&self) -> bool {
        self.checks.iter().any(|check| check.contains("tenantry.foreign_key_waits("))
    }

    /// Constraints and indexes of all kinds.
    pub fn constraint_count(&self) -> usize {
        self.checks.len() + self.keys.len() + self.indexes.len() + self.foreign_keys.len()
    }

    /// For a reference table's copy: its own schema and name.
    pub fn for_copy(&self, map: &ShardMap) -> Result<Stages> {
        let columns = self.columns.iter().map(ColumnDefinition::of_copy);
        self.stages(&self.schema, columns, |target| {
            if target == self.oid {
                return Some(qualified(&self.schema, &self.name));
            }
            map.table_by_oid(TableOid(target)).map(|table| qualified(&table.schema, &table.name))
        })
    }

    /// Makes the schema of a shard, open to whom the table's own schema is open.
    pub fn shard_schema(&self, group: ShardGroupId) -> String {
        let schema = identifier(&shard_schema(&self.schema, group));
        let mut statements = vec![format!("CREATE SCHEMA {schema}")];
        statements.extend(self.schema_grants.iter().map(|grant| grant.replace(OWN_SCHEMA, &schema)));
        script(statements)
    }

    fn stages<'s>(
        &'s self,
        schema: &str,
        columns: impl Iterator<Item = &'s str>,
        target: impl Fn(u32) -> Option<String>,
    ) -> Result<Stages> {
        let schema = identifier(schema);
        let own = |text: &String| text.replace(OWN_SCHEMA, &schema);
        let elements: Vec<&str> = columns.chain(self.checks.iter().map(String::as_str)).collect();
        let mut foreign_keys = Vec::new();
        for key in &self.foreign_keys {
            let name = target(key.target).ok_or_else(|| {
                PgError::new(
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!(
                        "foreign key \"{}\" of {} refers to a table that is not on the workers",
                        key.name, self.printed
                    ),
                )
                .detail(format!("It refers to {}.", key.target_printed))
            })?;
            foreign_keys.push(own(&key.definition).replace(&format!("\u{2}{}\u{2}", key.target), &name));
        }
        let keys = self.keys.iter().map(|k| &k.definition).chain(self.indexes.iter().map(|i| &i.definition));
        Ok(Stages {
            table: format!("{} ({}){};\n", own(&self.create_prefix), elements.join(", "), self.create_suffix),
            keys_and_indexes: script(keys.chain(&self.after_indexes).map(own)),
            foreign_keys: script(foreign_keys),
            rest: script(self.triggers.iter().flat_map(|trigger| &trigger.statements).chain(&self.rest).map(own)),
        })
    }
}

/// Stands for the table's own schema, already quoted.
const OWN_SCHEMA: char = '\u{1}';

fn script(statements: impl IntoIterator<Item = String>) -> String {
    statements.into_iter().map(|statement| statement + ";\n").collect()
}
