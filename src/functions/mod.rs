//! What may be asked for in SQL: the functions that Tenantry carries out, and the views and plain functions it lends.
//!
//! ```text
//!   SELECT tenantry_arguments.citus_add_node('a', 5432)  ──> {"nodename": "a", "nodeport": 5432, ...}
//!   call("citus_add_node", that)                         ──> 3
//!   the statement with tenantry_result.citus_add_node('3') in place of the call
//! ```
//!
//! A new function: its signature in a catalog migration (`tenantry.provide`), its name in `provided`, its line in `call`.

mod arguments;
mod by_itself;
mod cluster_size;
mod registry;

#[cfg(test)]
mod new_worker_tests;
#[cfg(test)]
mod reference_copy_tests;
#[cfg(test)]
mod tests;

pub use by_itself::{call_by_itself, only_tells, runs_by_itself};
pub use registry::{Environment, call, is_procedure, provided};
