//! Reads statements that change existing tables and what hangs on them: ALTER TABLE, CREATE INDEX, DROP, TRUNCATE,
//! VACUUM, GRANT ON, COMMENT ON, ... Only as far as routing needs; the text itself is what servers run.
//!
//! Source: PostgreSQL 15, gram.y.

use std::ops::Range;

use crate::error::PgError;

use super::constraint::{
    ColumnDefinition, Constraint, DefaultExpression, read_calls, read_column_definition, read_plain_columns,
    read_table_constraint,
};
use super::lexer::TokenKind;
use super::{Cursor, QualifiedName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableStatement {
    AlterTable(AlterTable),
    CreateIndex(CreateIndex),
    DropIndex {
        names: Vec<QualifiedName>,
        concurrently: bool,
        if_exists: bool,
        cascade: bool,
    },
    /// ALTER INDEX, REINDEX INDEX, COMMENT ON INDEX.
    AlterIndex {
        name: QualifiedName,
        /// The index that ATTACH PARTITION is about.
        part: Option<QualifiedName>,
        concurrently: bool,
    },
    /// ALTER STATISTICS of one object, COMMENT ON STATISTICS, DROP STATISTICS.
    Statistics {
        names: Vec<QualifiedName>,
        drops: bool,
        sets_schema: bool,
    },
    DropTable {
        names: Vec<QualifiedName>,
        if_exists: bool,
        cascade: bool,
    },
    Truncate {
        names: Vec<QualifiedName>,
        cascade: bool,
        restart_identity: bool,
    },
    /// VACUUM, ANALYZE, CLUSTER, REINDEX TABLE; no names: every table.
    Maintenance {
        command: &'static str,
        names: Vec<QualifiedName>,
        outside_transaction: bool,
    },
    /// LOCK TABLE.
    Lock {
        names: Vec<QualifiedName>,
    },
    /// A statement that is the same for each table it names: GRANT, REVOKE, COMMENT, policies, statistics.
    OnTables {
        command: &'static str,
        names: Vec<QualifiedName>,
        /// The name of an object of its own that must stand in the table's schema (CREATE STATISTICS).
        object: Option<QualifiedName>,
    },
    /// CREATE/ALTER/DROP TRIGGER, COMMENT ON TRIGGER.
    Trigger {
        name: String,
        table: QualifiedName,
    },
    /// CREATE/ALTER/DROP RULE.
    Rule {
        table: QualifiedName,
    },
    /// GRANT/REVOKE ON ALL TABLES IN SCHEMA.
    AllTablesInSchema {
        schemas: Vec<String>,
    },
    /// GRANT/REVOKE ON SCHEMA.
    OnSchemas {
        schemas: Vec<String>,
        /// The bytes from the first name to the end of the last.
        names_at: Range<u32>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterTable {
    pub table: QualifiedName,
    pub actions: Vec<AlterAction>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterAction {
    AddColumn(ColumnDefinition),
    AddConstraint(Constraint),
    AlterColumnType {
        column: String,
    },
    DropColumn {
        column: String,
    },
    SetDefault(DefaultExpression),
    /// ALTER COLUMN ... ADD GENERATED ... AS IDENTITY
    AddIdentity,
    AttachPartition {
        partition: QualifiedName,
    },
    /// Not CONCURRENTLY, not FINALIZE.
    DetachPartition {
        partition: QualifiedName,
    },
    Inherit {
        parent: QualifiedName,
    },
    RenameTable {
        to: String,
    },
    /// Cannot be passed to shards; the words of the subcommand.
    Unroutable(&'static str),
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateIndex {
    pub table: QualifiedName,
    pub is_unique: bool,
    pub concurrently: bool,
    /// Plain columns among its keys.
    pub columns: Vec<String>,
}

/// None when the statement is of another kind. Errors: 42601.
pub fn read_table_statement(cursor: Cursor<'_>) -> Option<Result<TableStatement, PgError>> {
    let mut c = cursor;
    let verb = c.take_any(&[
        "alter", "create", "drop", "truncate", "vacuum", "analyze", "analyse", "cluster", "reindex", "lock", "grant",
        "revoke", "comment",
    ])?;
    read(verb, c).transpose()
}

fn read(verb: &str, mut c: Cursor<'_>) -> Result<Option<TableStatement>, PgError> {
    Ok(Some(match verb {
        "alter" if c.is("table") && !c.is_at(1, "all") => {
            c.take("table");
            TableStatement::AlterTable(read_alter_table(c)?)
        }
        "alter" if c.is("index") && !c.is_at(1, "all") => {
            c.take("index");
            c.take_all(&["if", "exists"]);
            let name = c.qualified_name()?;
            let part = if c.take_all(&["attach", "partition"]) { Some(c.qualified_name()?) } else { None };
            TableStatement::AlterIndex { name, part, concurrently: false }
        }
        "alter" if c.take("statistics") => {
            c.take_all(&["if", "exists"]);
            let names = vec![c.qualified_name()?];
            TableStatement::Statistics { names, drops: false, sets_schema: c.take_all(&["set", "schema"]) }
        }
        "drop" if c.take("statistics") => {
            c.take_all(&["if", "exists"]);
            let names = read_names(&mut c)?;
            read_behavior(&mut c)?;
            TableStatement::Statistics { names, drops: true, sets_schema: false }
        }
        "create" => return read_create(c),
        "drop" if c.take("table") => {
            let if_exists = c.take_all(&["if", "exists"]);
            let names = read_names(&mut c)?;
            TableStatement::DropTable { names, if_exists, cascade: read_behavior(&mut c)? }
        }
        "drop" if c.take("index") => {
            let concurrently = c.take("concurrently");
            let if_exists = c.take_all(&["if", "exists"]);
            let names = read_names(&mut c)?;
            TableStatement::DropIndex { names, concurrently, if_exists, cascade: read_behavior(&mut c)? }
        }
        "alter" | "drop" => return read_attached(verb, c),
        "truncate" => {
            c.take("table");
            let names = read_names(&mut c)?;
            let restart_identity = c.take_all(&["restart", "identity"]);
            c.take_all(&["continue", "identity"]);
            TableStatement::Truncate { names, restart_identity, cascade: read_behavior(&mut c)? }
        }
        "vacuum" | "analyze" | "analyse" => read_vacuum(verb, c)?,
        "cluster" => {
            c.parenthesized()?;
            c.take("verbose");
            let mut names = if c.at_end() { Vec::new() } else { vec![c.qualified_name()?] };
            if c.take("on") {
                names = vec![c.qualified_name()?];
            }
            TableStatement::Maintenance { command: "CLUSTER", outside_transaction: names.is_empty(), names }
        }
        "reindex" => return read_reindex(c),
        "lock" => {
            c.take("table");
            TableStatement::Lock { names: read_names(&mut c)? }
        }
        "grant" | "revoke" => return read_grant(verb, c),
        _ => return read_comment(c),
    }))
}

/// `[ONLY] a [*], b, ...`
fn read_names(c: &mut Cursor<'_>) -> Result<Vec<QualifiedName>, PgError> {
    let mut names = Vec::new();
    loop {
        names.push(read_relation(c)?);
        if !c.take_punct(b',') {
            return Ok(names);
        }
    }
}

/// `name`, `ONLY name`, `ONLY (name)`, `name *`
fn read_relation(c: &mut Cursor<'_>) -> Result<QualifiedName, PgError> {
    let only = c.take("only");
    let in_parentheses = only && c.take_punct(b'(');
    let name = c.qualified_name()?;
    if in_parentheses {
        c.expect_punct(b')')?;
    }
    c.take_operator("*");
    Ok(name)
}

/// `[CASCADE | RESTRICT]` at the statement's end.
fn read_behavior(c: &mut Cursor<'_>) -> Result<bool, PgError> {
    let cascade = c.take("cascade");
    c.take("restrict");
    c.expect_end()?;
    Ok(cascade)
}

fn read_alter_table(mut c: Cursor<'_>) -> Result<AlterTable, PgError> {
    c.take_all(&["if", "exists"]);
    let table = read_relation(&mut c)?;
    if c.at_end() {
        return Err(c.syntax_error());
    }
    let actions = c.split_commas()?.into_iter().map(read_alter_action).collect::<Result<_, _>>()?;
    Ok(AlterTable { table, actions })
}

fn read_alter_action(mut c: Cursor<'_>) -> Result<AlterAction, PgError> {
    for (words, what) in [
        (&["set", "schema"][..], "SET SCHEMA"),
        (&["set", "tablespace"], "SET TABLESPACE"),
        (&["no", "inherit"], "NO INHERIT"),
        (&["of"], "OF"),
        (&["not", "of"], "NOT OF"),
    ] {
        if c.take_all(words) {
            return Ok(AlterAction::Unroutable(what));
        }
    }
    if c.take_all(&["rename", "to"]) {
        return Ok(AlterAction::RenameTable { to: c.identifier()? });
    }
    if c.take_all(&["attach", "partition"]) {
        return Ok(AlterAction::AttachPartition { partition: c.qualified_name()? });
    }
    if c.take_all(&["detach", "partition"]) {
        let partition = c.qualified_name()?;
        return Ok(match c.take_any(&["concurrently", "finalize"]) {
            Some("concurrently") => AlterAction::Unroutable("DETACH PARTITION CONCURRENTLY"),
            Some(_) => AlterAction::Unroutable("DETACH PARTITION FINALIZE"),
            None => AlterAction::DetachPartition { partition },
        });
    }
    if c.take("inherit") {
        return Ok(AlterAction::Inherit { parent: c.qualified_name()? });
    }
    match c.take_any(&["add", "drop", "alter"]) {
        Some("add") => {
            if let Some(constraint) = read_table_constraint(&mut c)? {
                return Ok(AlterAction::AddConstraint(constraint));
            }
            c.take("column");
            c.take_all(&["if", "not", "exists"]);
            Ok(AlterAction::AddColumn(read_column_definition(c)?))
        }
        Some("drop") if !c.is("constraint") => {
            c.take("column");
            c.take_all(&["if", "exists"]);
            Ok(AlterAction::DropColumn { column: c.identifier()? })
        }
        Some("alter") if !c.is("constraint") => {
            c.take("column");
            if c.peek().is_some_and(|t| t.kind == TokenKind::Integer) {
                return Ok(AlterAction::Other);
            }
            let column = c.identifier()?;
            if c.is("type") || c.take_all(&["set", "data"]) {
                return Ok(AlterAction::AlterColumnType { column });
            }
            if c.take_all(&["set", "default"]) {
                return Ok(AlterAction::SetDefault(read_calls(&c)));
            }
            if c.take_all(&["add", "generated"]) {
                return Ok(AlterAction::AddIdentity);
            }
            let of_identity = c.take_all(&["drop", "identity"])
                || c.take_all(&["set", "generated"])
                || c.is("restart")
                || SEQUENCE_OPTIONS.iter().any(|option| c.take_all(&["set", option]));
            Ok(if of_identity { AlterAction::Unroutable("ALTER COLUMN of an identity") } else { AlterAction::Other })
        }
        _ => Ok(AlterAction::Other),
    }
}

/// Of `ALTER COLUMN ... SET`, where the column is an identity.
const SEQUENCE_OPTIONS: &[&str] = &["increment", "minvalue", "maxvalue", "no", "start", "restart", "cache", "cycle"];

fn read_create(mut c: Cursor<'_>) -> Result<Option<TableStatement>, PgError> {
    c.take_all(&["or", "replace"]);
    let is_unique = c.take("unique");
    if c.take("index") {
        let concurrently = c.take("concurrently");
        c.take_all(&["if", "not", "exists"]);
        if !c.is("on") {
            c.qualified_name()?;
        }
        c.expect("on")?;
        let table = read_relation(&mut c)?;
        if c.take("using") {
            c.identifier()?;
        }
        let Some(columns) = c.parenthesized()? else { return Err(c.syntax_error()) };
        let columns = read_plain_columns(&columns)?;
        return Ok(Some(TableStatement::CreateIndex(CreateIndex { table, is_unique, concurrently, columns })));
    }
    if c.take("statistics") {
        c.take_all(&["if", "not", "exists"]);
        let object = if c.is("on") || c.is_punct(b'(') { None } else { Some(c.qualified_name()?) };
        if !c.seek("from") {
            return Err(c.syntax_error());
        }
        c.take("from");
        let names = read_names(&mut c)?;
        return Ok(Some(TableStatement::OnTables { command: "CREATE STATISTICS", names, object }));
    }
    read_attached("create", c)
}

/// CREATE/ALTER/DROP POLICY, TRIGGER, RULE name ON table.
fn read_attached(verb: &str, mut c: Cursor<'_>) -> Result<Option<TableStatement>, PgError> {
    c.take("constraint");
    let Some(what) = c.take_any(&["policy", "trigger", "rule"]) else { return Ok(None) };
    c.take_all(&["if", "exists"]);
    let name = c.identifier()?;
    // CREATE RULE ... ON event TO table.
    let before_table = if what == "rule" && verb == "create" { "to" } else { "on" };
    if !c.seek(before_table) {
        return Err(c.syntax_error());
    }
    c.take(before_table);
    let table = c.qualified_name()?;
    Ok(Some(match what {
        "policy" => TableStatement::OnTables { command: "POLICY", names: vec![table], object: None },
        "trigger" => TableStatement::Trigger { name, table },
        _ => TableStatement::Rule { table },
    }))
}

fn read_vacuum(verb: &str, mut c: Cursor<'_>) -> Result<TableStatement, PgError> {
    let command = if verb == "vacuum" { "VACUUM" } else { "ANALYZE" };
    if c.parenthesized()?.is_none() {
        while c.take_any(&["full", "freeze", "verbose", "analyze", "analyse"]).is_some() {}
    }
    let mut names = Vec::new();
    while !c.at_end() {
        names.push(read_relation(&mut c)?);
        c.parenthesized()?;
        if !c.take_punct(b',') {
            c.expect_end()?;
        }
    }
    Ok(TableStatement::Maintenance { command, names, outside_transaction: command == "VACUUM" })
}

fn read_reindex(mut c: Cursor<'_>) -> Result<Option<TableStatement>, PgError> {
    let options = c.parenthesized()?;
    let what = c.take_any(&["table", "index"]);
    let concurrently = c.take("concurrently") || options.is_some_and(|mut o| o.seek("concurrently"));
    Ok(match what {
        Some("table") => Some(TableStatement::Maintenance {
            command: "REINDEX TABLE",
            names: vec![c.qualified_name()?],
            outside_transaction: concurrently,
        }),
        Some(_) => Some(TableStatement::AlterIndex { name: c.qualified_name()?, part: None, concurrently }),
        None => None,
    })
}

fn read_grant(verb: &str, mut c: Cursor<'_>) -> Result<Option<TableStatement>, PgError> {
    let command = if verb == "grant" { "GRANT" } else { "REVOKE" };
    // Without ON a role is granted.
    if !c.seek("on") {
        return Ok(None);
    }
    c.take("on");
    if c.take_all(&["all", "tables", "in", "schema"]) {
        let schemas = read_names(&mut c)?.into_iter().map(|n| n.name).collect();
        return Ok(Some(TableStatement::AllTablesInSchema { schemas }));
    }
    if c.is("schema") && !c.is_at(1, "to") && !c.is_at(1, "from") {
        c.take("schema");
        return read_schemas(c).map(Some);
    }
    let is_other = ["sequence", "function", "procedure", "routine", "database", "type", "domain", "language"]
        .iter()
        .chain(&["tablespace", "large", "foreign", "all", "parameter"])
        .any(|kind| c.is(kind) && !c.is_at(1, "to") && !c.is_at(1, "from"));
    if is_other {
        return Ok(None);
    }
    c.take("table");
    Ok(Some(TableStatement::OnTables { command, names: read_names(&mut c)?, object: None }))
}

fn read_schemas(mut c: Cursor<'_>) -> Result<TableStatement, PgError> {
    let start = c.peek().map_or(0, |token| token.start);
    let mut schemas = Vec::new();
    loop {
        let end = c.peek().map_or(0, |token| token.end);
        schemas.push(c.identifier()?);
        if !c.take_punct(b',') {
            return Ok(TableStatement::OnSchemas { schemas, names_at: start..end });
        }
    }
}

fn read_comment(mut c: Cursor<'_>) -> Result<Option<TableStatement>, PgError> {
    c.expect("on")?;
    let name = match c.take_any(&["table", "column", "trigger", "constraint", "policy", "index", "statistics"]) {
        Some("table") => c.qualified_name()?,
        Some("index") => {
            let name = c.qualified_name()?;
            return Ok(Some(TableStatement::AlterIndex { name, part: None, concurrently: false }));
        }
        Some("statistics") => {
            let names = vec![c.qualified_name()?];
            return Ok(Some(TableStatement::Statistics { names, drops: false, sets_schema: false }));
        }
        Some("constraint" | "policy") => {
            c.identifier()?;
            c.expect("on")?;
            if c.is("domain") && !c.is_at(1, "is") {
                return Ok(None);
            }
            c.qualified_name()?
        }
        Some("trigger") => {
            let name = c.identifier()?;
            c.expect("on")?;
            return Ok(Some(TableStatement::Trigger { name, table: c.qualified_name()? }));
        }
        Some(_) => {
            let parts = c.dotted_name()?;
            let [.., (name, token), _] = &parts[..] else { return Err(c.syntax_error()) };
            let schema = parts.len().checked_sub(3).map(|i| parts[i].0.clone());
            let at = parts[0].1.start;
            QualifiedName { schema, name: name.clone(), at, len: token.end - at, name_at: token.start }
        }
        None => return Ok(None),
    };
    Ok(Some(TableStatement::OnTables { command: "COMMENT", names: vec![name], object: None }))
}
