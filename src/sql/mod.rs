//! Understands a statement.
