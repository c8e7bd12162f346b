//! What the configuration means: each room's own settings, checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{Auth, ConfigFile, Io, Listen, LogFormat, ServerTls, Tls, TlsMode};
use super::invalid;
use super::ports::addresses;
use crate::auth::hba::{Certificate, Method, Rules};
use crate::auth::password_file::PasswordFile;
use crate::backend::{PoolSettings, ServerAccess};
use crate::catalog;
use crate::error::Result;
use crate::executor;
use crate::executor::loads::LoadSettings;
use crate::jobs;
use crate::operations::mover::{MOVES_AT_ONCE, MOVES_PER_NODE, MoveLimits};
use crate::session::{ADMIN_DATABASE, LoginSettings, SessionLog};
use crate::transport::{AcceptorSettings, Dialer, DialerSettings, SslMode};

/// Everything that a proxy is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Where metrics and health are served; nowhere when none.
    pub admin: Option<SocketAddr>,
    /// Who shows it may change the cluster over HTTP; nobody when none.
    pub admin_token: Option<String>,
    /// The coordinator, and how the control channel logs in to every node.
    pub catalog: catalog::Settings,
    pub pool: PoolSettings,
    pub executor: executor::Settings,
    pub login: LoginSettings,
    /// Certificates for clients; none: no encryption.
    pub tls: Option<AcceptorSettings>,
    pub jobs: jobs::Settings,
    pub loads: LoadSettings,
    pub moves: MoveLimits,
    /// Threads that serve clients; at least 1.
    pub data_threads: usize,
    pub io: Io,
    /// How long sessions may go on when the proxy is stopped.
    pub stop_timeout: Duration,
    /// Where a successor asks for the listening sockets; none: nobody can.
    pub takeover_socket: Option<PathBuf>,
    /// Take the sockets of the proxy that runs, if one does.
    pub take_over: bool,
    pub log: LogSettings,
    pub session_log: SessionLog,
    /// The file that all this was read from; none when there is no file.
    pub path: Option<PathBuf>,
    /// Its settings as they were written.
    pub written: ConfigFile,
}

/// What is written to the standard error stream.
#[derive(Debug, Clone)]
pub struct LogSettings {
    pub format: LogFormat,
    /// As `RUST_LOG` has it: a level, or levels by module.
    pub filter: String,
}

impl Settings {
    /// Errors: F0000 for a file that cannot be read, is not valid, or asks for what cannot be.
    pub fn read(path: &Path) -> Result<Self> {
        let settings = Self::from_file(ConfigFile::read(path)?)?;
        Ok(Self { path: Some(path.to_owned()), ..settings })
    }

    pub fn from_file(file: ConfigFile) -> Result<Self> {
        let written = file.clone();
        let ConfigFile { listen, tls, coordinator, server_tls, pool, execution, limits, load, moves, admin, log } =
            file;
        at_least_one("pool.size", pool.size)?;
        at_least_one("pool.prepared_statements", pool.prepared_statements)?;
        at_least_one("coordinator.connections_max", coordinator.connections_max)?;
        at_least_one("load.tenants", load.tenants)?;
        for (name, value, range) in
            [("moves.per_node", moves.per_node, MOVES_PER_NODE), ("moves.at_once", moves.at_once, MOVES_AT_ONCE)]
        {
            if !range.contains(&value) {
                return Err(invalid(name, &format!("must be from {} to {}", range.start(), range.end())));
            }
        }
        if load.period.0 < Duration::from_secs(1) {
            return Err(invalid("load.period", "must be at least 1s"));
        }
        if admin.port == Some(listen.port) && admin.address == listen.address {
            return Err(invalid("admin.port", "is the port that clients connect to"));
        }
        if coordinator.database == ADMIN_DATABASE {
            return Err(invalid("coordinator.database", "must be another: that is the name of the admin database"));
        }
        tracing_subscriber::EnvFilter::try_new(&log.filter)
            .map_err(|error| invalid("log.filter", &format!("is not valid: {error}")))?;
        let (first, standbys) = addresses(&coordinator.host, &coordinator.port)?;
        let access = server_access(server_tls, coordinator.password_file.as_deref())?;
        Ok(Self {
            listen: (listen.address, listen.port).into(),
            admin_token: admin.token,
            admin: admin.port.map(|port| (admin.address, port).into()),
            catalog: catalog::Settings {
                host: first.host,
                port: first.port,
                standbys,
                dbname: coordinator.database,
                user: coordinator.user,
                password: coordinator.password,
                connect_timeout: coordinator.connect_timeout.0,
                connections_max: coordinator.connections_max,
                access: access.clone(),
                nodes: None,
            },
            pool: PoolSettings {
                mode: pool.mode,
                size: pool.size,
                adaptive: pool.adaptive,
                node_connections: pool.node_connections,
                checkout_timeout: pool.checkout_timeout.0,
                connect_timeout: pool.connect_timeout.0,
                idle_timeout: pool.idle_timeout.0,
                age_max: pool.age_max.0,
                check_after: pool.check_after.0,
                check_timeout: pool.check_timeout.0,
                reconnect_max: pool.reconnect_max.0,
                outage_timeout: pool.outage_timeout.0,
                replica_lag: pool.replica_lag.0,
                silence_max: pool.silence_max.0,
                dead_peer_after: pool.dead_peer_after.0,
                prepared_statements: pool.prepared_statements,
                access,
            },
            executor: executor::Settings {
                hold_timeout: execution.hold_timeout.0,
                copy_buffer_bytes: execution.copy_buffer.0,
                copy_row_bytes: execution.copy_row.0,
                client: limits.client()?.into(),
                share_unnamed: pool.share_unnamed,
                client_statements: limits.statements,
                client_statement_bytes: limits.statement_texts.0,
                ..executor::Settings::default()
            },
            login: LoginSettings {
                rules: rules(&listen, tls.mode)?,
                encryption_required: !matches!(tls.mode, TlsMode::Off | TlsMode::Allow),
                timeout: listen.login_timeout.0,
                admin_users: admin.users,
                stats_users: admin.stats_users,
                sessions: limits.sessions()?,
                strangers: limits.logins_per_address,
            },
            tls: acceptor_settings(tls)?,
            jobs: jobs::Settings { recovery_patience: execution.recovery_patience.0 },
            loads: LoadSettings { enabled: load.enabled, tenants: load.tenants, period: load.period.0 },
            moves: moves.limits(),
            io: listen.io,
            data_threads: match listen.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                threads => threads,
            },
            stop_timeout: listen.stop_timeout.0,
            takeover_socket: listen.takeover_socket,
            take_over: false,
            log: LogSettings { format: log.format, filter: log.filter },
            session_log: SessionLog {
                connections: log.connections,
                disconnections: log.disconnections,
                slow_statement: Some(log.slow_statement.0).filter(|limit| !limit.is_zero()),
                statement_texts: log.statement_texts,
            },
            path: None,
            written,
        })
    }
}

fn rules(listen: &Listen, mode: TlsMode) -> Result<Rules> {
    let loopback = match listen.auth {
        Auth::TrustLoopback => Method::Trust,
        Auth::Scram => Method::ScramSha256,
    };
    let mut rules = match listen.hba.as_slice() {
        [] => Rules::by_password(loopback),
        lines => Rules::parse(lines.iter().map(String::as_str)).map_err(|why| invalid("listen.hba", &why))?,
    };
    for rule in &mut rules.0 {
        rule.certificate = match mode {
            TlsMode::VerifyFull => Certificate::NamesUser,
            TlsMode::VerifyCa if rule.certificate == Certificate::NotNeeded => Certificate::Trusted,
            _ => rule.certificate,
        };
    }
    Ok(rules)
}

fn acceptor_settings(tls: Tls) -> Result<Option<AcceptorSettings>> {
    if tls.mode == TlsMode::Off {
        return Ok(None);
    }
    let needed = |file: Option<PathBuf>, name: &str| {
        file.ok_or_else(|| invalid(name, "must be given, because tls.mode is not off"))
    };
    let client_certificate_required = matches!(tls.mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
    if client_certificate_required && tls.client_ca.is_none() {
        return Err(invalid("tls.client_ca", "must be given, because tls.mode asks for clients' certificates"));
    }
    Ok(Some(AcceptorSettings {
        certificate: needed(tls.certificate, "tls.certificate")?,
        key: needed(tls.key, "tls.key")?,
        client_ca: tls.client_ca,
        client_certificate_required,
    }))
}

fn server_access(tls: ServerTls, password_file: Option<&Path>) -> Result<ServerAccess> {
    if matches!(tls.mode, SslMode::VerifyCa | SslMode::VerifyFull) && tls.ca.is_none() {
        return Err(invalid("server_tls.ca", "must be given, because server_tls.mode asks for trusted servers"));
    }
    let certificate = match (tls.certificate, tls.key) {
        _ if tls.mode == SslMode::Disable => None,
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(invalid("server_tls.key", "must be given with server_tls.certificate")),
        (None, Some(_)) => return Err(invalid("server_tls.certificate", "must be given with server_tls.key")),
    };
    // A file that is not used need not be there.
    let ca = tls.ca.filter(|_| tls.mode != SslMode::Disable);
    let dialer = Dialer::new(&DialerSettings { mode: tls.mode, ca, certificate })?;
    let passwords = password_file.map(PasswordFile::read).transpose()?.unwrap_or_default();
    Ok(ServerAccess { dialer, passwords })
}

fn at_least_one(name: &str, value: usize) -> Result<()> {
    if value == 0 { Err(invalid(name, "must be at least 1")) } else { Ok(()) }
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
        assert!(settings.data_threads >= 1 && settings.admin.is_none() && settings.tls.is_none());
    }

    #[test]
    fn a_setting_that_cannot_be_is_named() {
        for (text, name) in [
            ("[pool]\nsize = 0", "pool.size"),
            ("[load]\nperiod = \"1ms\"", "load.period"),
            ("[moves]\nper_node = 129", "moves.per_node"),
            ("[moves]\nat_once = 33", "moves.at_once"),
            ("[admin]\nport = 7432", "admin.port"),
            ("[coordinator]\ndatabase = \"tenantry\"", "coordinator.database"),
            ("[log]\nfilter = \"tenantry=loud\"", "log.filter"),
            ("[listen]\nhba = [\"host all all all ldap\"]", "listen.hba"),
            ("[tls]\nmode = \"require\"", "tls.certificate"),
            ("[server_tls]\nmode = \"verify-full\"", "server_tls.ca"),
            ("[server_tls]\nmode = \"prefer\"\ncertificate = \"a\"", "server_tls.key"),
            ("[tls]\nmode = \"verify-ca\"\ncertificate = \"a\"\nkey = \"b\"", "tls.client_ca"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.message().contains(name), "{error}");
        }
    }
}
