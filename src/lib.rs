//! Tenantry: a Postgres wire-protocol routing proxy, a tenant-aware coordinator in front of plain Postgres.
//!
//! Folders are rooms; a room uses rooms on lower floors only (`tests/architecture.rs` keeps it so).
//!
//! ```text
//! roof  main.rs  app.rs                            start, wire, stop
//! 11    cli/                                       arguments, subcommands
//! 10    console/                                   the admin database: SHOW, RELOAD
//!  9    config/                                    file and flags -> each room's settings
//!  8    session/            admin/                 who talks to us: clients | operators (HTTP)
//!  7    functions/          jobs/                  what may be asked for in SQL | what runs by itself
//!  6    operations/                                what changes the cluster: distribute, ddl, move, rebalance
//!  5    executor/                                  runs plans: relay, scatter, combine, copy, two-phase
//!  4    catalog/                                   what the coordinator remembers; watch -> immutable snapshot
//!  3    planner/            backend/               decides (pure) | server connections and pools
//!  2    sql/                auth/                  understands a statement (pure) | proves who you are
//!  1    wire/   shard_map/  transport/  dev_cluster/  bytes | who lives where (pure) | TCP or TLS | throw-away Postgres nodes
//!       tally/                                     counts that any thread can read
//!  0    error/                                     the one error type, Postgres's fields
//! ```

pub mod admin;
pub mod app;
pub mod auth;
pub mod backend;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod console;
pub mod dev_cluster;
pub mod error;
pub mod executor;
pub mod functions;
pub mod jobs;
pub mod operations;
pub mod planner;
pub mod session;
pub mod shard_map;
pub mod sql;
pub mod tally;
pub mod transport;
pub mod wire;
