//! What a statement is planned with, besides its text.

use std::collections::{HashMap, HashSet};

use super::Figures;
use crate::shard_map::ShardMap;
use crate::sql::Complexity;

/// What planning needs to know besides the text.
pub struct Context<'a> {
    pub map: &'a ShardMap,
    /// The client's search_path as schemas, `"$user"` already replaced, `pg_catalog` left out.
    pub search_path: &'a [String],
    pub standard_conforming_strings: bool,
    pub provided: &'a Provided,
    /// More is not analysed.
    pub complexity: Complexity,
}

/// Names that Tenantry answers for: folded, without schema. They may be written bare or with `pg_catalog.`.
#[derive(Debug, Clone, Default)]
pub struct Provided {
    pub functions: HashSet<&'static str>,
    /// Ordinary SQL functions in schema `tenantry` of the coordinator, and the figures each needs: only `tenantry.` is spliced
    /// in front of the name, and their arguments may be columns. Statements on distributed tables must not call them.
    pub inline: HashMap<&'static str, Option<Figures>>,
    /// System views, living in schema `tenantry` of the coordinator, and the figures each needs.
    pub views: HashMap<&'static str, Option<Figures>>,
}

/// May the plan be a router plan, or has it been tried and its operands lie in several groups?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Any,
    ManyShards,
}
