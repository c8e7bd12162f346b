//! A table that Tenantry manages. Tables it doesn't know are local to the coordinator.

use super::{ColocationId, HashType, ShardId, TableOid};

/// A distributed or reference table: the shell's identity and where its rows are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub oid: TableOid,
    pub schema: String,
    pub name: String,
    pub kind: TableKind,
    pub colocation: ColocationId,
    /// Live columns in attribute order, generated ones included.
    pub columns: Vec<Column>,
    /// Of each unique index that serves any statement (not partial, on columns alone), the indices into `columns`. None of partitioned
    /// tables.
    pub unique_keys: Vec<Vec<usize>>,
    /// One per shard group of the colocation group, in its order; one in all for a reference table.
    pub shards: Vec<ShardId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableKind {
    /// Rows are spread by the hash of one column.
    Distributed {
        /// Index into `columns`.
        column: usize,
        hash: HashType,
    },
    /// Every node, the coordinator too, has all rows, in the table's own schema and name.
    Reference,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`: what is assigned is cut or rounded to it. -1: none.
    pub type_modifier: i32,
    /// Generated stored columns cannot be written.
    pub is_generated: bool,
    /// The default (or identity) is not an immutable expression: each evaluation may differ.
    pub has_volatile_default: bool,
    /// GENERATED ALWAYS AS IDENTITY.
    pub is_always_identity: bool,
}

impl Table {
    pub fn is_reference(&self) -> bool {
        matches!(self.kind, TableKind::Reference)
    }

    /// Name of the distribution column; none for reference tables.
    pub fn distribution_column(&self) -> Option<&Column> {
        match self.kind {
            TableKind::Distributed { column, .. } => self.columns.get(column),
            TableKind::Reference => None,
        }
    }

    pub fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|c| c.name == name)
    }
}
