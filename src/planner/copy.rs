//! Plans COPY.

use std::sync::Arc;

use crate::error::{PgError, SqlState};
use crate::shard_map::Table;
use crate::sql::Access;
use crate::sql::copy_statement::{
    CopyEnd, CopyForm, CopySource, CopyStatement, Format, Header, read_form, write_options,
};

use super::names::{coordinator, resolve};
use super::query_wrapper::{PlanQuery, rebase};
use super::session_effects::refuse_hidden_settings;
use super::{Context, Coordinator, CopyFormat, CopyIn, CopyOptions, CopyOut, Plan};

pub(super) fn plan_copy(
    text: &str,
    statement: CopyStatement,
    ctx: &Context<'_>,
    plan_query: PlanQuery<'_>,
) -> Result<Plan, PgError> {
    if statement.has_where && !statement.is_from {
        return Err(PgError::new(SqlState::SYNTAX_ERROR, "WHERE clause not allowed with COPY TO"));
    }
    let access = if statement.is_from { Access::Write } else { Access::Read };
    match &statement.source {
        CopySource::Query(range) => {
            let inner = &text[range.start as usize..range.end as usize];
            let plan = plan_query(inner)?;
            refuse_hidden_settings(&plan)?;
            match plan {
                Plan::Coordinator(plan) => Ok(Coordinator {
                    query: rebase(text, range.start as usize, &plan.query),
                    returns_rows: false,
                    ..plan
                }
                .into()),
                source @ (Plan::Router(_) | Plan::Scatter(_) | Plan::Combine(_)) => {
                    refuse_server_side(&statement)?;
                    let (text, options) = (inner.into(), options(&statement)?);
                    Ok(Plan::CopyOut(CopyOut::Query { source: Box::new(source), text, options }))
                }
                _ => Err(PgError::unsupported("COPY of this query is not supported")
                    .detail("Only SELECT may be copied out of distributed tables.")),
            }
        }
        CopySource::Table { name, columns } => match resolve(ctx, name) {
            None => Ok(Coordinator { access, ..coordinator(text) }.into()),
            // The coordinator has every row of a reference table.
            Some(table) if !statement.is_from && table.is_reference() => {
                Ok(Coordinator { access, ..coordinator(text) }.into())
            }
            Some(table) => plan_table(&statement, table, columns.as_deref()),
        },
    }
}

fn plan_table(statement: &CopyStatement, table: &Arc<Table>, columns: Option<&[String]>) -> Result<Plan, PgError> {
    refuse_server_side(statement)?;
    let columns = columns_of(table, columns)?;
    let options = options(statement)?;
    if !statement.is_from {
        return Ok(Plan::CopyOut(CopyOut::Table { table: table.clone(), columns, options }));
    }
    if statement.has_where {
        return Err(PgError::unsupported("COPY FROM with WHERE is not supported with distributed or reference tables")
            .hint("Copy into a local table and move the rows with INSERT ... SELECT ... WHERE."));
    }
    if let Some(key) = table.distribution_column()
        && !columns.contains(&key.name)
        && !key.has_volatile_default
    {
        return Err(PgError::new(
            SqlState::NULL_VALUE_NOT_ALLOWED,
            format!("the partition column of table {}.{} cannot be NULL", table.schema, table.name),
        )
        .detail(format!("Column \"{}\" is not among the columns of the COPY.", key.name)));
    }
    Ok(Plan::CopyIn(CopyIn { table: table.clone(), columns, options }))
}

/// Errors: 42703, 42701, 42P10 as Postgres words them.
fn columns_of(table: &Table, named: Option<&[String]>) -> Result<Vec<String>, PgError> {
    let Some(named) = named else {
        return Ok(table.columns.iter().filter(|c| !c.is_generated).map(|c| c.name.clone()).collect());
    };
    let state = |code: &[u8; 5]| SqlState::from_bytes(code).unwrap_or(SqlState::SYNTAX_ERROR);
    for (i, name) in named.iter().enumerate() {
        let Some(column) = table.columns.iter().find(|c| c.name == *name) else {
            return Err(PgError::new(
                SqlState::UNDEFINED_COLUMN,
                format!("column \"{name}\" of relation \"{}\" does not exist", table.name),
            ));
        };
        if column.is_generated {
            return Err(PgError::new(state(b"42P10"), format!("column \"{name}\" is a generated column"))
                .detail("Generated columns cannot be used in COPY."));
        }
        if named[..i].contains(name) {
            return Err(PgError::new(state(b"42701"), format!("column \"{name}\" specified more than once")));
        }
    }
    Ok(named.to_vec())
}

fn refuse_server_side(statement: &CopyStatement) -> Result<(), PgError> {
    let (what, stream) = match (statement.end, statement.is_from) {
        (CopyEnd::Client, _) => return Ok(()),
        (CopyEnd::File, true) => ("COPY FROM a file", "STDIN"),
        (CopyEnd::Program, true) => ("COPY FROM PROGRAM", "STDIN"),
        (CopyEnd::File, false) => ("COPY TO a file", "STDOUT"),
        (CopyEnd::Program, false) => ("COPY TO PROGRAM", "STDOUT"),
    };
    Err(PgError::unsupported(format!("{what} of the server is not supported with distributed or reference tables"))
        .hint(format!("Use COPY with {stream}, for example psql's \\copy.")))
}

fn options(statement: &CopyStatement) -> Result<CopyOptions, PgError> {
    let CopyForm { format, delimiter, null, header, quote, escape, freeze, encoding } = read_form(&statement.options)?;
    if freeze {
        return Err(PgError::unsupported("COPY FREEZE is not supported with distributed or reference tables"));
    }
    if header == Header::Match && statement.is_from {
        return Err(PgError::unsupported("COPY HEADER MATCH is not supported with distributed or reference tables")
            .hint("Use HEADER: the first line is skipped."));
    }
    if let Some(encoding) = encoding.filter(|e| !matches!(e.to_ascii_lowercase().as_str(), "utf8" | "utf-8")) {
        return Err(PgError::unsupported(format!("COPY with encoding \"{encoding}\" is not supported"))
            .hint("Convert the data to UTF8."));
    }
    if let Some(option) = statement.options.iter().find(|o| !KNOWN_OPTIONS.contains(&o.name.as_str())) {
        return Err(PgError::unsupported(format!("COPY option \"{}\" is not supported", option.name))
            .detail("The table is distributed or a reference table."));
    }
    let format = match format {
        Format::Text => CopyFormat::Text,
        Format::Csv => CopyFormat::Csv,
        Format::Binary => CopyFormat::Binary,
    };
    let text = write_options(&statement.options);
    Ok(CopyOptions { format, delimiter, null, header: header != Header::No, quote, escape, text })
}

const KNOWN_OPTIONS: &[&str] = &[
    "format",
    "freeze",
    "delimiter",
    "null",
    "header",
    "quote",
    "escape",
    "force_quote",
    "force_not_null",
    "force_null",
    "encoding",
];
