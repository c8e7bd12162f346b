//! Decides what a statement becomes. Pure: a statement, the shard map and the session's names in, a `Plan` out.

mod copy;
mod ddl;
mod display;
mod foreign_key;
mod names;
mod plan;
mod query_wrapper;
mod session_command;
mod transaction;
mod utility;
#[cfg(test)]
mod utility_tests;

pub use plan::*;
pub use utility::plan_utility;
