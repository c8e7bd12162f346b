//! A plan as one line: for EXPLAIN, logs and the routing tests.
//!
//!   `router colocation=1 operand='7' write`   `scatter all`   `ddl alter_table tables=orders`

use std::fmt::{Display, Formatter, Result};

use crate::sql::{Access, Operand};

use super::{
    Coordinator, CopyFormat, CopyOptions, CopyOut, DdlAction, FilledInsert, Plan, SessionCommand, Shards,
    TransactionCommand, WriteCommand,
};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Plan::Empty => write!(f, "empty"),
            Plan::Router(router) => {
                write!(f, "router colocation={}", router.colocation)?;
                for operand in &router.operands {
                    write!(f, " operand={operand}")?;
                }
                if router.locks_rows {
                    write!(f, " locks")?;
                }
                write_access(f, router.access)
            }
            Plan::Scatter(scatter) => {
                write!(f, "scatter {}", scatter.shards)?;
                write_access(f, scatter.access)
            }
            Plan::Combine(combine) => write!(f, "combine rowsets={}", combine.rowsets.len()),
            Plan::Insert(insert) => {
                write!(f, "insert table={} rows={}", insert.table.name, insert.rows.len())?;
                for row in insert.rows.iter().take(3) {
                    write!(f, " tenant={}", row.tenant)?;
                }
                if insert.rows.len() > 3 { write!(f, " ...") } else { Ok(()) }
            }
            Plan::FilledInsert(FilledInsert { insert, filling, computed, .. }) => {
                let drawn = filling.concerned().into_iter().filter(|is_drawn| *is_drawn).count();
                let (table, rows) = (&insert.table.name, insert.rows.len());
                write!(f, "filled_insert table={table} rows={rows} drawn={drawn} computed={}", computed.len())
            }
            Plan::InsertSelect(insert) => {
                let words = if insert.words.is_some() { " words" } else { "" };
                write!(f, "insert_select table={} source=({}){words}", insert.table.name, insert.source)
            }
            Plan::Coordinator(coordinator) => coordinator.fmt(f),
            Plan::ReferenceWrite(write) => {
                let command = match write.command {
                    WriteCommand::Insert => "insert",
                    WriteCommand::Update => "update",
                    WriteCommand::Delete => "delete",
                };
                write!(f, "reference_write {command} table={}", write.table.name)
            }
            Plan::CopyIn(copy) => {
                write!(f, "copy_in table={} columns={}{}", copy.table.name, copy.columns.join(","), copy.options)
            }
            Plan::CopyOut(CopyOut::Table { table, columns, options }) => {
                write!(f, "copy_out table={} columns={}{options}", table.name, columns.join(","))
            }
            Plan::CopyOut(CopyOut::Query { source, options, .. }) => write!(f, "copy_out query=({source}){options}"),
            Plan::Ddl(ddl) => {
                write!(f, "ddl {}", ddl.action)?;
                if !ddl.tables.is_empty() {
                    let names: Vec<&str> = ddl.tables.iter().map(|t| t.name.as_str()).collect();
                    write!(f, " tables={}", names.join(","))?;
                }
                Ok(())
            }
            Plan::FunctionCall(call) => {
                let names: Vec<&str> = call.calls.iter().map(|c| c.name.as_str()).collect();
                write!(f, "function_call {}", names.join(","))
            }
            Plan::Transaction(command) => command.fmt(f),
            Plan::Session(command) => command.fmt(f),
            Plan::Explain(explain) => write!(f, "explain ({})", explain.inner),
        }
    }
}

fn write_access(f: &mut Formatter<'_>, access: Access) -> Result {
    match access {
        Access::Read => Ok(()),
        Access::Write => write!(f, " write"),
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Operand::Literal(value) => write!(f, "'{}'", value.replace('\'', "''")),
            Operand::Lifted { literal, negative } => {
                write!(f, "{}literal#{literal}", if *negative { "-" } else { "" })
            }
            Operand::Param(index) => write!(f, "${}", index + 1),
            Operand::Null => write!(f, "NULL"),
        }
    }
}

impl Display for Shards {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Shards::All => write!(f, "all"),
            Shards::Holding(operands) | Shards::One(operands) => {
                write!(f, "holding=")?;
                for (i, operand) in operands.iter().enumerate() {
                    write!(f, "{}{operand}", if i > 0 { "," } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

impl Display for Coordinator {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "coordinator")?;
        write_access(f, self.access)?;
        for (flag, name) in [
            (self.pins, "pins"),
            (self.changes_schema, "changes_schema"),
            (self.on_all_nodes, "on_all_nodes"),
            (self.outside_transaction, "outside_transaction"),
        ] {
            if flag {
                write!(f, " {name}")?;
            }
        }
        for needs in &self.needs {
            write!(f, " needs={needs:?}")?;
        }
        Ok(())
    }
}

impl Display for CopyOptions {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let format = match self.format {
            CopyFormat::Text => "text",
            CopyFormat::Csv => "csv",
            CopyFormat::Binary => "binary",
        };
        write!(f, " format={format}{}", if self.header { " header" } else { "" })
    }
}

impl Display for DdlAction {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (name, flags): (&str, &[(bool, &str)]) = match self {
            DdlAction::AlterTable => ("alter_table", &[]),
            DdlAction::DrawFromSequence => ("draw_from_sequence", &[]),
            DdlAction::CreatePartition => ("create_partition", &[]),
            DdlAction::AttachPartition { .. } => ("attach_partition", &[]),
            DdlAction::AddWaitingKey { .. } => ("add_waiting_key", &[]),
            DdlAction::CreateIndex { concurrently } => ("create_index", &[(*concurrently, "concurrently")]),
            DdlAction::DropIndex { concurrently, cascade, .. } => {
                ("drop_index", &[(*concurrently, "concurrently"), (*cascade, "cascade")])
            }
            DdlAction::Statistics { drops, .. } => ("statistics", &[(*drops, "drops")]),
            DdlAction::AlterIndex { .. } => ("alter_index", &[]),
            DdlAction::DropTable { others, cascade, .. } => {
                ("drop_table", &[(*others, "others"), (*cascade, "cascade")])
            }
            DdlAction::Truncate { cascade, restart_identity } => {
                ("truncate", &[(*cascade, "cascade"), (*restart_identity, "restart_identity")])
            }
            DdlAction::SchemaPrivileges { .. } => ("schema_privileges", &[]),
            DdlAction::Maintenance => ("maintenance", &[]),
            DdlAction::Lock => ("lock", &[]),
            DdlAction::Other => ("other", &[]),
        };
        f.write_str(name)?;
        for (_, flag) in flags.iter().filter(|(on, _)| *on) {
            write!(f, " {flag}")?;
        }
        Ok(())
    }
}

impl Display for TransactionCommand {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let chained = |chain: &bool| if *chain { " and chain" } else { "" };
        match self {
            TransactionCommand::Begin { options, .. } if options.is_empty() => write!(f, "transaction begin"),
            TransactionCommand::Begin { options, .. } => write!(f, "transaction begin {options}"),
            TransactionCommand::Commit { chain } => write!(f, "transaction commit{}", chained(chain)),
            TransactionCommand::Rollback { chain } => write!(f, "transaction rollback{}", chained(chain)),
            TransactionCommand::Savepoint { name } => write!(f, "transaction savepoint {name}"),
            TransactionCommand::Release { name } => write!(f, "transaction release {name}"),
            TransactionCommand::RollbackTo { name } => write!(f, "transaction rollback_to {name}"),
            TransactionCommand::SetForTransaction { .. } => write!(f, "transaction set"),
            TransactionCommand::SetConstraints { names, .. } => {
                write!(f, "transaction set constraints {}", names.join(", "))
            }
        }
    }
}

impl Display for SessionCommand {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            SessionCommand::Set { name, local, .. } => {
                write!(f, "session set {name}{}", if *local { " local" } else { "" })
            }
            SessionCommand::Reset { name, local, .. } => {
                write!(f, "session reset {name}{}", if *local { " local" } else { "" })
            }
            SessionCommand::Show { name } => write!(f, "session show {name}"),
            SessionCommand::ResetAll => write!(f, "session reset all"),
            SessionCommand::DiscardAll => write!(f, "session discard all"),
            SessionCommand::Prepare { name, types, .. } => {
                write!(f, "session prepare {name}")?;
                if types.is_empty() { Ok(()) } else { write!(f, "({})", types.join(",")) }
            }
            SessionCommand::Execute { name, arguments } => {
                write!(f, "session execute {name}")?;
                if arguments.is_empty() { Ok(()) } else { write!(f, "({})", arguments.join(",")) }
            }
            SessionCommand::Deallocate { name } => {
                write!(f, "session deallocate {}", name.as_deref().unwrap_or("all"))
            }
        }
    }
}
