//! Statements that call functions which Tenantry provides.

use std::ops::Range;
use std::sync::Arc;

use super::Figures;
use crate::sql::{Splice, Spliced};

/// Calls of provided functions inside a statement, from left to right. For each: evaluate the arguments by
/// `SELECT tenantry_arguments.<name>(<args>)`, do it, then the statement runs on the coordinator with the call
/// replaced by `tenantry_result.<name>('<jsonb>')`.
#[derive(Debug, Clone)]
pub struct FunctionCall {
    pub text: Arc<str>,
    pub calls: Vec<Call>,
    /// System views and inline functions, anywhere in the statement.
    pub splices: Vec<Splice>,
    /// Figures that these need.
    pub needs: Vec<Figures>,
    /// It answers no rows.
    pub is_procedure: bool,
}

impl FunctionCall {
    /// The text of a call's arguments, names in it spliced.
    pub fn arguments(&self, call: &Call) -> String {
        let Range { start, end } = call.arguments_at;
        let inside = self.splices.iter().filter(|s| call.arguments_at.contains(&s.at));
        let inside = inside.map(|s| Splice { at: s.at - start, ..s.clone() });
        Spliced::new(&self.text[start as usize..end as usize], inside.collect()).render(None)
    }

    /// Splices of what is left when the calls are replaced.
    pub fn outside(&self) -> impl Iterator<Item = &Splice> {
        let inside = |s: &Splice| self.calls.iter().any(|c| c.arguments_at.contains(&s.at));
        self.splices.iter().filter(move |s| !inside(s))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Folded, unqualified: `citus_add_node`.
    pub name: String,
    /// Byte range of the function's name as written, schema included.
    pub name_at: Range<u32>,
    /// Byte range of the arguments, parentheses excluded.
    pub arguments_at: Range<u32>,
}
