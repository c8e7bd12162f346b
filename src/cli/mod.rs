//! Arguments and subcommands.

pub mod demo;
