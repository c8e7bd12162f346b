//! COPY of managed tables, in and out, and its options.

use std::sync::Arc;

use super::Plan;
use crate::shard_map::Table;

/// COPY managed_table FROM STDIN.
#[derive(Debug, Clone)]
pub struct CopyIn {
    pub table: Arc<Table>,
    /// Columns in the order of the data.
    pub columns: Vec<String>,
    pub options: CopyOptions,
}

/// COPY managed_table TO STDOUT, or COPY (query) TO STDOUT with a managed table in the query.
#[derive(Debug, Clone)]
pub enum CopyOut {
    Table {
        table: Arc<Table>,
        columns: Vec<String>,
        options: CopyOptions,
    },
    /// `source` is the plan of the query alone; its text is wrapped again in COPY (...) TO STDOUT.
    Query {
        source: Box<Plan>,
        text: Box<str>,
        options: CopyOptions,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOptions {
    pub format: CopyFormat,
    pub delimiter: u8,
    pub null: String,
    pub header: bool,
    pub quote: u8,
    pub escape: u8,
    /// The option list as the user wrote it, without HEADER, in the form `(FORMAT csv, NULL 'x')`, or empty:
    /// what the shards' COPY statements carry.
    pub text: String,
}

impl CopyOptions {
    /// The options with HEADER, where the user asked for it.
    pub fn whole_text(&self) -> String {
        match (self.header, self.text.strip_prefix('(')) {
            (false, _) => self.text.clone(),
            (true, Some(rest)) => format!("(HEADER, {rest}"),
            (true, None) => "(HEADER)".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    Binary,
}
