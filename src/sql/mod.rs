//! Understands a statement: Postgres-exact lexer, analysis on top of the parser crate, splices.
//!
//! Only this room names the parser crate, and nothing of its types leaves it.

mod convert;
mod cursor;
mod encoding;
mod literal;
mod splice;

pub mod clauses;
pub mod clock;
pub mod constraint;
pub mod copy_statement;
pub mod facts;
pub mod lexer;
pub mod normalized;
pub mod parse;
pub mod restriction;
pub mod scope;
pub mod set_statement;
pub mod skeleton;
pub mod statements;
pub mod table_statement;
pub mod transaction_statement;
pub mod tree;
pub mod trigger_body;

pub use cursor::{Cursor, QualifiedName};
pub use encoding::{Encoding, read_encoding};
pub use parse::Complexity;
pub use splice::{Splice, Spliced, With, push_shard_schema};

/// Where a tenant value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A constant, in the text form that the column type's input function reads, quotes and escapes already undone.
    Literal(Box<str>),
    /// A constant that was lifted out of the text (plan cache): index into the statement's literals.
    Lifted { literal: u16, negative: bool },
    /// Parameter `$n`, counted from 0.
    Param(u16),
    /// NULL: matches no row.
    Null,
}

/// Does it change data? Decides two-phase commit, reference reads and what a read-only replica may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}
