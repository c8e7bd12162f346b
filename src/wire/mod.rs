//! Bytes of the Postgres protocol, version 3.
//!
//! ```text
//!   tag (1) | length (4, counts itself) | payload          the startup packet alone has no tag
//! ```
//!
//! Framing is our own: a header walk over the read buffer, bounds-checked readers for the few messages that must be
//! opened, limits before anything is allocated. What the proxy answers itself is encoded by pgwire's message structs.
//! Source: PostgreSQL manual, "Frontend/Backend Protocol", "Message Formats".

pub mod answer;
pub mod copy_rows;
pub mod frame;
pub mod frontend;
pub mod nested_oids;
pub mod pgoutput;
pub mod reader;
pub mod reply_queue;
pub mod rows;
pub mod startup;
pub mod whole_answer;
