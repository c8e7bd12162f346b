//! Plans changes of managed tables: the shell, every shard and every reference copy get the same text with the
//! table's names spliced. What only concerns local tables is the coordinator's.

use std::sync::Arc;

use crate::error::PgError;
use crate::shard_map::Table;
use crate::sql::constraint::{ColumnDefinition, Constraint, DefaultExpression};
use crate::sql::lexer::{Token, is_keyword};
use crate::sql::table_statement::{AlterAction, AlterTable, CreateIndex, TableStatement};
use crate::sql::{Cursor, QualifiedName, Splice, Spliced, With};

use super::foreign_key::plan_foreign_key;
use super::names::{coordinator, names_managed_table, resolve, splice_schema, splice_table, table_in_schema};
use super::shadowing::refuse_new_name;
use super::{Context, Coordinator, Ddl, DdlAction, Plan, Sequences};

pub(super) fn plan_table_statement(
    cursor: Cursor<'_>,
    statement: TableStatement,
    ctx: &Context<'_>,
) -> Result<Plan, PgError> {
    let text = cursor.text();
    let changes_schema = || Coordinator { changes_schema: true, ..coordinator(text) };
    let has_managed_tables = ctx.map.tables().next().is_some();
    match statement {
        TableStatement::DropIndex { concurrently, .. } | TableStatement::AlterIndex { concurrently, .. }
            if !has_managed_tables =>
        {
            Ok(Coordinator { outside_transaction: concurrently, ..changes_schema() }.into())
        }
        TableStatement::Statistics { .. } if !has_managed_tables => Ok(changes_schema().into()),
        TableStatement::Statistics { names, drops, sets_schema } => {
            Ok(ddl(text, DdlAction::Statistics { names, drops, sets_schema }, Vec::new(), Vec::new()))
        }
        TableStatement::AlterTable(statement) => plan_alter_table(text, statement, ctx),
        TableStatement::CreateIndex(statement) => plan_create_index(text, statement, ctx),
        TableStatement::DropIndex { names, concurrently, if_exists, cascade } => {
            let action = DdlAction::DropIndex { names, concurrently, if_exists, cascade };
            Ok(ddl(text, action, Vec::new(), Vec::new()))
        }
        TableStatement::AlterIndex { name, part, concurrently: false } => {
            Ok(ddl(text, DdlAction::AlterIndex { name, part }, Vec::new(), Vec::new()))
        }
        TableStatement::AlterIndex { name, concurrently: true, .. } => {
            Err(PgError::unsupported("REINDEX INDEX CONCURRENTLY is not supported")
                .detail(format!("Index \"{}\" may belong to a distributed table.", name.name))
                .hint("Use REINDEX TABLE CONCURRENTLY."))
        }
        TableStatement::DropTable { names, if_exists, cascade } => {
            let named = Named::resolve(&names, ctx);
            if named.tables.is_empty() {
                return Ok(changes_schema().into());
            }
            let others = named.has_unmanaged;
            Ok(ddl(text, DdlAction::DropTable { others, if_exists, cascade }, named.tables, named.splices))
        }
        TableStatement::Truncate { names, cascade, restart_identity } => {
            let named = Named::resolve(&names, ctx);
            if named.tables.is_empty() {
                return Ok(
                    Coordinator { renumbers: restart_identity.then_some(Sequences::Any), ..coordinator(text) }.into()
                );
            }
            named.refuse_unmanaged("TRUNCATE")?;
            Ok(ddl(text, DdlAction::Truncate { cascade, restart_identity }, named.tables, named.splices))
        }
        TableStatement::Maintenance { command, names, outside_transaction } => {
            let named = Named::resolve(&names, ctx);
            if named.tables.is_empty() {
                return Ok(Coordinator { outside_transaction, ..coordinator(text) }.into());
            }
            named.refuse_unmanaged(command)?;
            named.refuse_mixture(command)?;
            let action = match command {
                "VACUUM" | "ANALYZE" => DdlAction::Maintenance,
                _ if outside_transaction => DdlAction::Maintenance,
                _ => DdlAction::Other,
            };
            Ok(ddl(text, action, named.tables, named.splices))
        }
        TableStatement::Lock { names } => {
            let named = Named::resolve(&names, ctx);
            if named.tables.is_empty() {
                return Ok(coordinator(text).into());
            }
            named.refuse_unmanaged("LOCK TABLE")?;
            named.refuse_mixture("LOCK TABLE")?;
            Ok(ddl(text, DdlAction::Lock, named.tables, named.splices))
        }
        TableStatement::OnTables { command, names, object } => {
            let mut named = Named::resolve(&names, ctx);
            let Some(first) = named.tables.first().cloned() else {
                if command == "POLICY" {
                    refuse_other_tables(cursor, &names, ctx)?;
                }
                return Ok(coordinator(text).into());
            };
            named.refuse_unmanaged(command)?;
            named.refuse_mixture(command)?;
            if command == "POLICY" {
                refuse_other_tables(cursor, &names, ctx)?;
            }
            if let Some(object) = object.filter(|_| !first.is_reference()) {
                named.splices.push(splice_schema(&object, With::ShardSchema(first.schema.as_str().into())));
            }
            Ok(ddl(text, DdlAction::Other, named.tables, named.splices))
        }
        TableStatement::Trigger { name, table } => plan_trigger(text, &name, &table, ctx),
        TableStatement::Rule { table } => match resolve(ctx, &table) {
            Some(table) if table.is_reference() => {
                Err(PgError::unsupported("rules are not supported on reference tables"))
            }
            Some(_) => Err(PgError::unsupported("rules are not supported on distributed tables")
                .hint("Put the work into the application, or into a trigger.")),
            None => match names_managed_table(text, cursor.all(), ctx) {
                Some(other) => Err(refuse_construct("a rule", &other)),
                None => Ok(changes_schema().into()),
            },
        },
        TableStatement::AllTablesInSchema { schemas } => {
            match schemas.iter().find_map(|schema| table_in_schema(ctx, schema)) {
                Some(table) => Err(PgError::unsupported("cannot grant or revoke on all tables of this schema")
                    .detail(format!("Schema \"{}\" holds the managed table \"{}\".", table.schema, table.name))
                    .hint("Name the tables: GRANT ... ON TABLE a, b TO ...")),
                None => Ok(coordinator(text).into()),
            }
        }
        TableStatement::OnSchemas { schemas, names_at } => {
            let holds_shards = |schema: &String| ctx.map.tables().any(|t| t.schema == *schema && !t.is_reference());
            let schemas: Vec<String> = schemas.into_iter().filter(holds_shards).collect();
            if schemas.is_empty() {
                return Ok(Coordinator { on_all_nodes: true, ..coordinator(text) }.into());
            }
            Ok(ddl(text, DdlAction::SchemaPrivileges { schemas, names_at }, Vec::new(), Vec::new()))
        }
    }
}

/// What the shell becomes is checked when it has run there.
fn plan_trigger(text: &str, name: &str, table: &QualifiedName, ctx: &Context<'_>) -> Result<Plan, PgError> {
    let Some(found) = resolve(ctx, table) else {
        return Ok(Coordinator { changes_schema: true, ..coordinator(text) }.into());
    };
    if found.is_reference() {
        return Err(PgError::unsupported("triggers are not supported on reference tables")
            .hint("Put the work into the application, or into a generated column."));
    }
    if name == SHELL_TRIGGER {
        return Err(PgError::unsupported(format!("the trigger name \"{SHELL_TRIGGER}\" is reserved"))
            .detail("It keeps rows out of a distributed table's shell on the coordinator.")
            .hint("Use another name."));
    }
    Ok(ddl(text, DdlAction::Other, vec![found.clone()], vec![splice_table(table, found)]))
}

/// Stands on every shell.
const SHELL_TRIGGER: &str = "tenantry_shell";

/// What names in a statement mean.
struct Named {
    tables: Vec<Arc<Table>>,
    splices: Vec<Splice>,
    has_unmanaged: bool,
}

impl Named {
    fn resolve(names: &[QualifiedName], ctx: &Context<'_>) -> Self {
        let mut named = Named { tables: Vec::new(), splices: Vec::new(), has_unmanaged: false };
        for name in names {
            match resolve(ctx, name) {
                Some(table) => {
                    named.splices.push(splice_table(name, table));
                    named.tables.push(table.clone());
                }
                None => named.has_unmanaged = true,
            }
        }
        named
    }

    fn refuse_unmanaged(&self, command: &str) -> Result<(), PgError> {
        if !self.has_unmanaged {
            return Ok(());
        }
        Err(PgError::unsupported(format!("{command} of local and managed tables in one statement is not supported"))
            .detail(format!("Table \"{}\" is distributed or a reference table.", self.tables[0].name))
            .hint("Run one statement for the local tables and one for the others."))
    }

    /// One text is spliced for one shard group, so all tables must have a place in it.
    fn refuse_mixture(&self, command: &str) -> Result<(), PgError> {
        match self.tables.iter().find(|t| t.colocation != self.tables[0].colocation) {
            None => Ok(()),
            Some(other) => Err(PgError::unsupported(format!(
                "{command} of tables of several colocation groups in one statement is not supported"
            ))
            .detail(format!("Tables \"{}\" and \"{}\" are not colocated.", self.tables[0].name, other.name))
            .hint("Run one statement for each table.")),
        }
    }
}

fn ddl(text: &str, action: DdlAction, tables: Vec<Arc<Table>>, splices: Vec<Splice>) -> Plan {
    Plan::Ddl(Ddl { action, query: Spliced::new(text, splices), tables })
}

fn plan_create_index(text: &str, statement: CreateIndex, ctx: &Context<'_>) -> Result<Plan, PgError> {
    let concurrently = statement.concurrently;
    let Some(table) = resolve(ctx, &statement.table) else {
        let local = coordinator(text);
        return Ok(Coordinator { changes_schema: true, outside_transaction: concurrently, ..local }.into());
    };
    if let Some(key) = table.distribution_column()
        && statement.is_unique
        && !statement.columns.contains(&key.name)
    {
        return Err(PgError::unsupported("creating unique indexes on non-partition columns is currently unsupported")
            .hint(format!("Add column \"{}\" to the index.", key.name)));
    }
    let splices = vec![splice_table(&statement.table, table)];
    Ok(ddl(text, DdlAction::CreateIndex { concurrently }, vec![table.clone()], splices))
}

fn plan_alter_table(text: &str, statement: AlterTable, ctx: &Context<'_>) -> Result<Plan, PgError> {
    let Some(table) = resolve(ctx, &statement.table) else {
        for action in &statement.actions {
            check_local_action(&statement.table, action, ctx)?;
        }
        if statement.actions.iter().any(|action| refers_to_distributed(action, ctx)) {
            let action = DdlAction::AddWaitingKey { table: statement.table };
            return Ok(ddl(text, action, Vec::new(), Vec::new()));
        }
        return Ok(Coordinator { changes_schema: true, ..coordinator(text) }.into());
    };
    let mut splices = vec![splice_table(&statement.table, table)];
    if let [action] = &statement.actions[..]
        && draws_alone(table, action)
    {
        return Ok(ddl(text, DdlAction::DrawFromSequence, vec![table.clone()], splices));
    }
    for action in &statement.actions {
        splices.extend(plan_action(table, action, ctx)?);
    }
    let action = match &statement.actions[..] {
        [AlterAction::AttachPartition { partition }] => DdlAction::AttachPartition { partition: partition.clone() },
        _ => DdlAction::AlterTable,
    };
    Ok(ddl(text, action, vec![table.clone()], splices))
}

/// CREATE TABLE `name` PARTITION OF `parent`, which is managed.
pub(super) fn plan_create_partition(
    text: &str,
    name: &QualifiedName,
    (parent_name, parent): (&QualifiedName, &Arc<Table>),
    has_foreign_keys: bool,
) -> Result<Plan, PgError> {
    if parent.is_reference() {
        return Err(refuse_construct("a partition", &parent.name));
    }
    if has_foreign_keys {
        return Err(PgError::unsupported("foreign keys are not supported in CREATE TABLE ... PARTITION OF")
            .hint("Create the partition, then use ALTER TABLE ... ADD FOREIGN KEY."));
    }
    let splices = vec![splice_partition(name, parent), splice_table(parent_name, parent)];
    Ok(ddl(text, DdlAction::CreatePartition, vec![parent.clone()], splices))
}

/// A partition stands beside its parent.
fn splice_partition(name: &QualifiedName, parent: &Table) -> Splice {
    splice_schema(name, With::ShardSchema(parent.schema.as_str().into()))
}

fn plan_attach(table: &Arc<Table>, partition: &QualifiedName, ctx: &Context<'_>) -> Result<Splice, PgError> {
    if table.is_reference() {
        return Err(refuse_action(table, "ATTACH PARTITION"));
    }
    match resolve(ctx, partition) {
        None => Ok(splice_partition(partition, table)),
        Some(other) if other.is_reference() || other.colocation != table.colocation => {
            Err(PgError::unsupported(format!("cannot attach \"{}\" to \"{}\"", other.name, table.name))
                .detail("The tables are not colocated.")
                .hint("Attach a local table, or one that is colocated with the partitioned table."))
        }
        Some(other) => Ok(splice_table(partition, other)),
    }
}

/// A local table must not inherit from a managed one, nor take its name.
fn check_local_action(table: &QualifiedName, action: &AlterAction, ctx: &Context<'_>) -> Result<(), PgError> {
    match action {
        AlterAction::AttachPartition { partition: other } | AlterAction::Inherit { parent: other } => {
            match resolve(ctx, other) {
                Some(table) => Err(refuse_construct("inheritance between local and managed tables", &table.name)),
                None => Ok(()),
            }
        }
        AlterAction::RenameTable { to } => refuse_new_name(table, to, ctx),
        _ => Ok(()),
    }
}

fn refers_to_distributed(action: &AlterAction, ctx: &Context<'_>) -> bool {
    let constraints = match action {
        AlterAction::AddColumn(column) => &column.constraints[..],
        AlterAction::AddConstraint(constraint) => std::slice::from_ref(constraint),
        _ => &[],
    };
    constraints.iter().any(|constraint| match constraint {
        Constraint::ForeignKey(key) => resolve(ctx, &key.table).is_some_and(|target| !target.is_reference()),
        _ => false,
    })
}

/// Splices of one subcommand. Errors: what would break routing or make shards differ.
fn plan_action(table: &Arc<Table>, action: &AlterAction, ctx: &Context<'_>) -> Result<Vec<Splice>, PgError> {
    let is_distribution_column = |name: &str| table.distribution_column().is_some_and(|c| c.name == name);
    match action {
        AlterAction::AddColumn(column) => plan_add_column(table, column, ctx),
        AlterAction::AddConstraint(constraint) => Ok(plan_constraint(table, constraint, ctx)?.into_iter().collect()),
        AlterAction::AlterColumnType { column } | AlterAction::DropColumn { column }
            if is_distribution_column(column) =>
        {
            Err(PgError::unsupported("cannot execute ALTER TABLE command involving partition column")
                .detail(format!("Column \"{column}\" is the distribution column of table \"{}\".", table.name)))
        }
        AlterAction::SetDefault(default) if default.draws_from_sequence() => Err(refuse_sequence(table)),
        AlterAction::AddIdentity => Err(refuse_sequence(table)),
        AlterAction::AttachPartition { partition } => Ok(vec![plan_attach(table, partition, ctx)?]),
        AlterAction::DetachPartition { partition } => match resolve(ctx, partition) {
            Some(other) => Ok(vec![splice_table(partition, other)]),
            // The server says that it is no partition.
            None => Ok(vec![splice_partition(partition, table)]),
        },
        AlterAction::Inherit { .. } => Err(refuse_action(table, "INHERIT")),
        AlterAction::Unroutable(what) => Err(refuse_action(table, what)),
        _ => Ok(Vec::new()),
    }
}

/// Is all that the action does to have a column draw from a sequence? Then shards can be told by other words.
fn draws_alone(table: &Table, action: &AlterAction) -> bool {
    match action {
        AlterAction::AddColumn(column) => {
            column.draws_from_sequence && column.constraints.is_empty() && !table.is_reference()
        }
        AlterAction::SetDefault(default) => default.draws_from_sequence(),
        AlterAction::AddIdentity => true,
        _ => false,
    }
}

fn plan_add_column(table: &Arc<Table>, column: &ColumnDefinition, ctx: &Context<'_>) -> Result<Vec<Splice>, PgError> {
    if column.draws_from_sequence {
        return Err(refuse_sequence(table));
    }
    if table.is_reference() && may_differ_between_nodes(&column.default) {
        return Err(PgError::unsupported("cannot add a column whose default is computed to a reference table")
            .detail("Each node would compute its own values for the rows that exist.")
            .hint("Add the column without a default, then use ALTER COLUMN ... SET DEFAULT, and UPDATE the rows."));
    }
    let mut splices = Vec::new();
    for constraint in &column.constraints {
        splices.extend(plan_constraint(table, constraint, ctx)?);
    }
    Ok(splices)
}

/// Any call may be volatile or depend on the transaction's start; casts and literals have none.
fn may_differ_between_nodes(default: &DefaultExpression) -> bool {
    !default.calls.is_empty()
}

fn plan_constraint(table: &Arc<Table>, constraint: &Constraint, ctx: &Context<'_>) -> Result<Option<Splice>, PgError> {
    match constraint {
        Constraint::Key { columns } => match table.distribution_column() {
            Some(key) if !columns.contains(&key.name) => {
                Err(PgError::unsupported(format!("cannot create constraint on \"{}\"", table.name)).detail(
                    "Distributed relations cannot have UNIQUE, EXCLUDE, or PRIMARY KEY constraints that do not \
                     include the partition column (with an equality operator if EXCLUDE).",
                ))
            }
            _ => Ok(None),
        },
        Constraint::ForeignKey(key) => plan_foreign_key(table, key, ctx).map(Some),
        Constraint::Other => Ok(None),
    }
}

fn refuse_sequence(table: &Table) -> PgError {
    if table.is_reference() {
        return PgError::unsupported("cannot add a column that draws from a sequence to a reference table")
            .detail("Each node would draw values of its own for the rows that exist.")
            .hint("Add the column without a default and UPDATE the rows, then use ALTER COLUMN ... SET DEFAULT nextval(...).");
    }
    PgError::unsupported(
        "cannot add a serial, identity or nextval default together with a constraint or another change",
    )
    .detail(format!("Table \"{}\" is distributed.", table.name))
    .hint("Use one statement for each change.")
}

fn refuse_action(table: &Table, action: &str) -> PgError {
    PgError::unsupported(format!("ALTER TABLE {action} is not supported with distributed or reference tables"))
        .detail(format!("Table \"{}\" is managed.", table.name))
        .hint("Create a table that is as it should be, and INSERT ... SELECT into it.")
}

pub(super) fn refuse_construct(construct: &str, table: &str) -> PgError {
    PgError::unsupported(super::unsupported::OTHER_STATEMENT)
        .detail(format!("It is {construct} and names \"{table}\"."))
}

/// A policy's expressions may read other tables, which are elsewhere on a shard.
fn refuse_other_tables(cursor: Cursor<'_>, names: &[QualifiedName], ctx: &Context<'_>) -> Result<(), PgError> {
    // Without a subquery every name is a column, a function or a role.
    if !cursor.all().iter().any(|t| is_keyword(cursor.text(), t, "from") || is_keyword(cursor.text(), t, "table")) {
        return Ok(());
    }
    let others: Vec<Token> = cursor
        .all()
        .iter()
        .filter(|t| !names.iter().any(|n| (n.at..n.at + n.len).contains(&t.start)))
        .copied()
        .collect();
    match names_managed_table(cursor.text(), &others, ctx) {
        Some(other) if !names.iter().any(|n| n.name == other) => Err(refuse_construct("a policy", &other)),
        _ => Ok(()),
    }
}
