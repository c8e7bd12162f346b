//! What reads clients' bytes, compiled by itself: `crate::wire` here is `tenantry::wire`. The parser crate, which takes
//! minutes to build with counters, is not here.

#![allow(dead_code, reason = "the rooms above, which use the rest, are not here")]

#[path = "../../src/error/mod.rs"]
pub mod error;
#[path = "../../src/shard_map/mod.rs"]
pub mod shard_map;

/// All of `tenantry::wire` that reads.
#[path = "../../src/wire"]
pub mod wire {
    pub mod copy_rows;
    pub mod frame;
    pub mod frontend;
    pub mod nested_oids;
    pub mod pgoutput;
    pub mod reader;
    pub mod rows;
    pub mod startup;
}

/// Of `tenantry::sql` what comes before the parser.
#[path = "../../src/sql"]
pub mod sql {
    pub mod lexer;
    mod literal;
    pub mod skeleton;
    mod splice;
    pub mod statements;
    pub use splice::{Splice, Spliced};
}
