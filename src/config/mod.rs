//! What the proxy is told: a TOML file, read strictly, turned into each room's own settings.
//!
//! ```text
//!   tenantry.toml ──file.rs──> ConfigFile (as written) ──settings.rs──> Settings (what it means)
//!                                                                          └─reload.rs──> Live (what may change)
//! ```
//!
//! `config/tenantry.toml` shows every setting with its default; a test keeps it true.

mod file;
mod limits;
mod moves;
mod ports;
mod reload;
mod settings;
mod units;

pub use file::{Auth, ConfigFile, Io, LogFormat};
pub use ports::Ports;
pub use reload::{Live, Reloaded, Reloader, Shown};
pub use settings::{LogSettings, Settings};
pub use units::Time;

use crate::error::{PgError, SqlState};

/// What is wrong with a setting.
fn invalid(name: &str, why: &str) -> PgError {
    PgError::new(SqlState::CONFIG_FILE_ERROR, format!("setting \"{name}\" {why}"))
}
