//! Postgres's own 32-bit hash functions, per type.
//!
//! Source: PostgreSQL src/common/hashfn.c (Jenkins lookup3), default hash operator classes, support function 1.

/// A type whose values Tenantry can hash exactly as Postgres does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashType {
    Int4,
}
