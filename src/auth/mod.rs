//! Proves who somebody is: SCRAM-SHA-256 on both sides, MD5 towards old servers. No I/O and no clock.
//!
//! ```text
//!   client ──password──> ScramServer ──ClientKeys──> ScramClient ──> worker
//!                        (verifier as in pg_authid)  (same verifier there: no password needed)
//! ```

pub mod hba;
pub mod md5;
pub mod password_file;
pub mod scram;
pub mod verifier;

pub use scram::{ClientKeys, ScramClient, ScramServer};
pub use verifier::{RolePassword, Verifier};
