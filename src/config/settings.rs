//! What the configuration means: each room's own settings, checked.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::{Auth, ConfigFile};
use crate::backend::PoolSettings;
use crate::catalog;
use crate::error::{PgError, Result, SqlState};
use crate::executor;
use crate::jobs;
use crate::session::{Limits, LoginSettings};

/// Everything that a proxy is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Where metrics and health are served; nowhere when none.
    pub admin: Option<SocketAddr>,
    /// The coordinator, and how the control channel logs in to every node.
    pub catalog: catalog::Settings,
    pub pool: PoolSettings,
    pub executor: executor::Settings,
    pub login: LoginSettings,
    pub limits: Limits,
    pub jobs: jobs::Settings,
    /// Threads that serve clients; at least 1.
    pub data_threads: usize,
    /// How long sessions may go on when the proxy is stopped.
    pub stop_timeout: Duration,
    pub log: LogSettings,
}

/// What is written to the standard error stream.
#[derive(Debug, Clone)]
pub struct LogSettings {
    pub format: LogFormat,
    /// As `RUST_LOG` has it: a level, or levels by module.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Settings {
    /// Errors: F0000 for a file that cannot be read, is not valid, or asks for what cannot be.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_file(ConfigFile::read(path)?)
    }

    pub fn from_file(file: ConfigFile) -> Result<Self> {
        let ConfigFile { listen, coordinator, pool, execution, limits, admin, log } = file;
        at_least_one("pool.size", pool.size)?;
        at_least_one("coordinator.connections_max", coordinator.connections_max)?;
        if admin.port == Some(listen.port) && admin.address == listen.address {
            return Err(invalid("admin.port", "is the port that clients connect to"));
        }
        tracing_subscriber::EnvFilter::try_new(&log.filter)
            .map_err(|error| invalid("log.filter", &format!("is not valid: {error}")))?;
        Ok(Self {
            listen: (listen.address, listen.port).into(),
            admin: admin.port.map(|port| (admin.address, port).into()),
            catalog: catalog::Settings {
                host: coordinator.host,
                port: coordinator.port,
                dbname: coordinator.database,
                user: coordinator.user,
                password: coordinator.password,
                connect_timeout: coordinator.connect_timeout.0,
                connections_max: coordinator.connections_max,
            },
            pool: PoolSettings {
                size: pool.size,
                checkout_timeout: pool.checkout_timeout.0,
                connect_timeout: pool.connect_timeout.0,
                idle_timeout: pool.idle_timeout.0,
            },
            executor: executor::Settings {
                hold_timeout: execution.hold_timeout.0,
                copy_buffer_bytes: execution.copy_buffer.0,
                copy_row_bytes: execution.copy_row.0,
                ..executor::Settings::default()
            },
            login: LoginSettings {
                trust_loopback: listen.auth == Auth::TrustLoopback,
                timeout: listen.login_timeout.0,
                mock_secret: rand::random(),
            },
            limits: limits.check()?,
            jobs: jobs::Settings { recovery_patience: execution.recovery_patience.0 },
            data_threads: match listen.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                threads => threads,
            },
            stop_timeout: listen.stop_timeout.0,
            log: LogSettings { format: log.format, filter: log.filter },
        })
    }
}

pub(super) fn at_least_one(name: &str, value: usize) -> Result<()> {
    if value == 0 { Err(invalid(name, "must be at least 1")) } else { Ok(()) }
}

pub(super) fn invalid(name: &str, why: &str) -> PgError {
    PgError::new(SqlState::CONFIG_FILE_ERROR, format!("setting \"{name}\" {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings> {
        Settings::from_file(ConfigFile::parse(text).expect("it is well-formed"))
    }

    #[test]
    fn an_empty_file_means_the_defaults_of_each_room() {
        let settings = read("").expect("defaults are valid");
        assert_eq!(settings.listen, "127.0.0.1:7432".parse().expect("an address"));
        assert_eq!(settings.pool.checkout_timeout, PoolSettings::default().checkout_timeout);
        assert_eq!(settings.executor.copy_row_bytes, executor::Settings::default().copy_row_bytes);
        assert!(settings.data_threads >= 1 && settings.admin.is_none() && !settings.login.trust_loopback);
    }

    #[test]
    fn a_setting_that_cannot_be_is_named() {
        for (text, name) in [
            ("[pool]\nsize = 0", "pool.size"),
            ("[admin]\nport = 7432", "admin.port"),
            ("[log]\nfilter = \"tenantry=loud\"", "log.filter"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.message().contains(name), "{error}");
        }
    }
}
