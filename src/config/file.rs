//! The configuration file as it is written. Unknown names are refused, so that a typing error is not a silent default.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::moves::Moves;
use super::ports::Ports;
use super::units::{Size, Time};
use crate::backend::{PoolMode, PoolSettings, ShareUnnamed};
use crate::catalog;
use crate::error::{PgError, Result, SqlState};
use crate::executor;
use crate::jobs;
use crate::transport::SslMode;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    pub listen: Listen,
    pub tls: Tls,
    pub coordinator: Coordinator,
    pub server_tls: ServerTls,
    pub pool: Pool,
    pub execution: Execution,
    pub limits: Limits,
    pub load: Load,
    pub moves: Moves,
    pub admin: Admin,
    pub log: Log,
}

/// Who may connect, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address that clients connect to. Default: 127.0.0.1. Reload: no.
    pub address: IpAddr,
    /// Its TCP port. Default: 7432. Reload: no.
    pub port: u16,
    /// How clients prove who they are. Default: scram. Reload: yes.
    pub auth: Auth,
    /// Rules as in pg_hba.conf, one a line; the first that fits decides. None: as `auth` says. Default: []. Reload: yes.
    pub hba: Vec<String>,
    /// Longest time from connecting to being logged in. Unit: time. Default: 1min. Reload: yes.
    pub login_timeout: Time,
    /// How long open sessions may go on when the proxy is stopped. Unit: time. Default: 10s. Reload: yes.
    pub stop_timeout: Time,
    /// Unix socket over which a new process takes over the port. Default: none, nobody can. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takeover_socket: Option<PathBuf>,
    /// Threads that serve clients; 0 for as many as the machine has cores. Default: 0. Reload: no.
    pub threads: usize,
    /// How they wait for sockets: io-uring (Linux 6.1) takes less of the CPU than epoll; auto takes it where it may, which not
    /// every container does, and epoll elsewhere. Default: auto. Reload: no.
    pub io: Io,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Io {
    #[default]
    Auto,
    Epoll,
    /// As auto, and the log warns where it is refused.
    IoUring,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// SCRAM-SHA-256 with the roles and passwords of the coordinator.
    Scram,
    /// Clients on this machine's loopback addresses need no password; others as with `scram`.
    TrustLoopback,
}

/// Encryption between clients and the proxy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// off, allow, require, verify-ca or verify-full. Default: off. Reload: yes.
    pub mode: TlsMode,
    /// The proxy's certificate and those that lead to its root, PEM. Default: none. Reload: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM; nobody else may read the file. Default: none. Reload: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Roots that clients' certificates must lead to, PEM. Default: none, no certificates are asked for. Reload: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Encryption is refused.
    #[default]
    Off,
    /// Encryption as the client likes.
    Allow,
    /// Clients must encrypt.
    Require,
    /// ... and show a certificate that leads to `client_ca`.
    VerifyCa,
    /// ... whose common name is the role's.
    VerifyFull,
}

/// The Postgres that holds the catalog, and the login of the control channel, there and on the workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coordinator {
    /// Host name or address; of its standbys too, separated by commas. Default: 127.0.0.1. Reload: no.
    pub host: String,
    /// TCP port, or one for each host: "5432,5433". Default: 5432. Reload: no.
    pub port: Ports,
    /// The one database that clients see; of the same name on every node. Default: postgres. Reload: no.
    pub database: String,
    /// A superuser of coordinator and workers. Default: postgres. Reload: no.
    pub user: String,
    /// Its password. Default: none, for servers that trust the proxy. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Passwords of roles that show none to the proxy, and of its own; of libpq's form. Default: none. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Longest wait for a login of the control channel. Unit: time. Default: 5s. Reload: no.
    pub connect_timeout: Time,
    /// Most control connections to one node. Default: 8. Reload: no.
    pub connections_max: usize,
}

/// Encryption between the proxy and the servers, coordinator and workers alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// disable, prefer, require, verify-ca or verify-full, as libpq's sslmode. Default: disable. Reload: no.
    pub mode: SslMode,
    /// Roots that servers' certificates must lead to, PEM. Default: none, they are not looked at. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The proxy's own certificate, for servers that ask for one, PEM. Default: none. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM; nobody else may read the file. Default: none. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Connections to the servers that run clients' statements: one pool for each node, role and thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// For how long a session has a server connection: for a transaction, or to its end. Default: transaction. Reload: yes.
    pub mode: PoolMode,
    /// Most connections of one pool. Default: 32. Reload: yes.
    pub size: usize,
    /// Connections beside busy ones are opened only where more of them answer more. Default: true. Reload: yes.
    pub adaptive: bool,
    /// Most connections to one node; 0 for an equal share of what it takes among all proxies. Default: 0. Reload: yes.
    pub node_connections: usize,
    /// Longest wait for a free connection, then SQLSTATE 53300. Unit: time. Default: 15s. Reload: yes.
    pub checkout_timeout: Time,
    /// Longest wait for a new connection to be logged in. Unit: time. Default: 5s. Reload: yes.
    pub connect_timeout: Time,
    /// Connections without work are closed after this time. Unit: time. Default: 5min. Reload: yes.
    pub idle_timeout: Time,
    /// Connections are replaced at this age, give or take a tenth. Unit: time. Default: 1h. Reload: yes.
    pub age_max: Time,
    /// A connection idle for longer is asked whether it is well before it is used. Unit: time. Default: 30s. Reload: yes.
    pub check_after: Time,
    /// Longest wait for that answer, and for a node's sign of life. Unit: time. Default: 4s. Reload: yes.
    pub check_timeout: Time,
    /// Longest pause between two attempts to reach a node that is down. Unit: time. Default: 1s. Reload: yes.
    pub reconnect_max: Time,
    /// Statements wait for a node that is down until it has been so for this time, then SQLSTATE 08006. Unit: time.
    /// Default: 30s. Reload: yes.
    pub outage_timeout: Time,
    /// A standby that is further behind its primary is not read from; 0ms: any is. Unit: time. Default: 0ms. Reload: yes.
    pub replica_lag: Time,
    /// A node whose statements say nothing for so long is asked for a sign of life. Unit: time. Default: 4s. Reload: yes.
    pub silence_max: Time,
    /// A connection is lost when its peer acknowledges nothing for so long. Unit: time. Default: 12s. Reload: yes.
    pub dead_peer_after: Time,
    /// Most statements that one connection keeps prepared. Default: 500. Reload: yes.
    pub prepared_statements: usize,
    /// What workers' connections keep of statements without a name (simple queries too) that come again: auto, off, parsed, planned.
    /// Default: auto. Reload: yes.
    pub share_unnamed: ShareUnnamed,
}

/// Bounds of running statements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Execution {
    /// Longest wait for a shard that is being cut over, then SQLSTATE 40001. Unit: time. Default: 30s. Reload: yes.
    pub hold_timeout: Time,
    /// A commit over several nodes that takes longer is ended by any proxy. Unit: time. Default: 15s. Reload: yes.
    pub recovery_patience: Time,
    /// Most memory of one COPY before its rows are sent on. Unit: size. Default: 16MB. Reload: yes.
    /// At most a quarter of what limits.memory leaves.
    pub copy_buffer: Size,
    /// The longest row that COPY accepts. Unit: size. Default: 256MB. Reload: yes.
    /// At most a quarter of what limits.memory leaves.
    pub copy_row: Size,
}

/// What is noted of tenants' loads, for `citus_stat_tenants` and rebalances by load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// Are tenants' statements counted? Default: true. Reload: yes.
    pub enabled: bool,
    /// Tenants that are told apart: those that ask for most. Default: 100. Reload: yes.
    pub tenants: usize,
    /// For how long figures are summed up; that and the time before it are shown. Unit: time. Default: 1min. Reload: yes.
    pub period: Time,
}

/// What operators ask: metrics and health over HTTP, and the database `tenantry` over the Postgres protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address of the HTTP server. Default: 127.0.0.1. Reload: no.
    pub address: IpAddr,
    /// Its TCP port. Default: none, no HTTP server. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Who shows it as a bearer token may change the cluster's size over HTTP. Default: none, nobody can. Reload: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Roles that may look at and change things in the database tenantry. Default: none. Reload: yes.
    pub users: Vec<String>,
    /// Roles that may only look there. Default: none. Reload: yes.
    pub stats_users: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// What is written to the standard error stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// text, or json with one object a line. Default: text. Reload: no.
    pub format: LogFormat,
    /// Levels, for all or by module: `info`, `info,tenantry::catalog=debug`. Default: info. Reload: yes.
    pub filter: String,
    /// Logins of clients, and those that are refused. Default: false. Reload: yes.
    pub connections: bool,
    /// Ends of their sessions. Default: false. Reload: yes.
    pub disconnections: bool,
    /// Requests that take at least so long; 0ms: none are logged. Unit: time. Default: 0ms. Reload: yes.
    pub slow_statement: Time,
    /// Slow statements with their data, as clients wrote them, not only what is left without it. Default: false. Reload: yes.
    pub statement_texts: bool,
}

impl ConfigFile {
    /// Errors: F0000, with the line and what is wrong there as DETAIL.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            PgError::new(
                SqlState::CONFIG_FILE_ERROR,
                format!("could not read configuration file \"{}\": {error}", path.display()),
            )
        })?;
        Self::parse(&text).map_err(|error| {
            PgError::new(SqlState::CONFIG_FILE_ERROR, format!("configuration file \"{}\" is not valid", path.display()))
                .detail(error.to_string().trim_end().to_owned())
        })
    }

    pub(super) fn parse(text: &str) -> std::result::Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: LOOPBACK,
            port: 7432,
            auth: Auth::Scram,
            hba: Vec::new(),
            login_timeout: Time(std::time::Duration::from_secs(60)),
            stop_timeout: Time(std::time::Duration::from_secs(10)),
            takeover_socket: None,
            threads: 0,
            io: Io::Auto,
        }
    }
}

impl Default for Coordinator {
    fn default() -> Self {
        let of = catalog::Settings::default();
        Self {
            host: of.host,
            port: Ports(vec![of.port]),
            database: of.dbname,
            user: of.user,
            password: of.password,
            password_file: None,
            connect_timeout: Time(of.connect_timeout),
            connections_max: of.connections_max,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        let of = PoolSettings::default();
        Self {
            mode: of.mode,
            size: of.size,
            adaptive: of.adaptive,
            node_connections: of.node_connections,
            checkout_timeout: Time(of.checkout_timeout),
            connect_timeout: Time(of.connect_timeout),
            idle_timeout: Time(of.idle_timeout),
            age_max: Time(of.age_max),
            check_after: Time(of.check_after),
            check_timeout: Time(of.check_timeout),
            reconnect_max: Time(of.reconnect_max),
            outage_timeout: Time(of.outage_timeout),
            replica_lag: Time(of.replica_lag),
            silence_max: Time(of.silence_max),
            dead_peer_after: Time(of.dead_peer_after),
            prepared_statements: of.prepared_statements,
            share_unnamed: executor::Settings::default().share_unnamed,
        }
    }
}

impl Default for Execution {
    fn default() -> Self {
        let of = executor::Settings::default();
        Self {
            hold_timeout: Time(of.hold_timeout),
            recovery_patience: Time(jobs::Settings::default().recovery_patience),
            copy_buffer: Size(of.copy_buffer_bytes),
            copy_row: Size(of.copy_row_bytes),
        }
    }
}

impl Default for Load {
    fn default() -> Self {
        let of = executor::loads::LoadSettings::default();
        Self { enabled: of.enabled, tenants: of.tenants, period: Time(of.period) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: LOOPBACK, port: None, token: None, users: Vec::new(), stats_users: Vec::new() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
            connections: false,
            disconnections: false,
            slow_statement: Time(std::time::Duration::ZERO),
            statement_texts: false,
        }
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../config/tenantry.toml");

    /// The example with its settings switched on: `#name = value` is a setting, `# text` is text.
    fn example() -> String {
        let is_setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(" = ");
        let on = |line: &str| line.strip_prefix('#').filter(|rest| is_setting(rest)).unwrap_or(line).to_owned();
        EXAMPLE.lines().map(on).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_shows_every_setting_with_its_default() {
        let mut shown: toml::Table = example().parse().expect("the example is TOML");
        // These have no default that could be written; the example shows some value.
        let coordinator = shown.get_mut("coordinator").and_then(|t| t.as_table_mut()).expect("a section");
        assert!(["password", "password_file"].into_iter().all(|name| coordinator.remove(name).is_some()));
        let server_tls = shown.get_mut("server_tls").and_then(|t| t.as_table_mut()).expect("a section");
        assert!(["ca", "certificate", "key"].into_iter().all(|name| server_tls.remove(name).is_some()));
        let listen = shown.get_mut("listen").and_then(|t| t.as_table_mut()).expect("a section");
        assert!(listen.remove("takeover_socket").is_some());
        let tls = shown.get_mut("tls").and_then(|t| t.as_table_mut()).expect("a section");
        assert!(["certificate", "key", "client_ca"].into_iter().all(|name| tls.remove(name).is_some()));
        let admin = shown.get_mut("admin").and_then(|t| t.as_table_mut()).expect("a section");
        assert!(["port", "token"].into_iter().all(|name| admin.remove(name).is_some()));
        let defaults = toml::Table::try_from(ConfigFile::default()).expect("plain values");
        assert_eq!(shown, defaults);
        ConfigFile::parse(&example()).expect("every name in it is known");
    }

    #[test]
    fn the_example_as_it_stands_changes_nothing() {
        assert_eq!(ConfigFile::parse(EXAMPLE), Ok(ConfigFile::default()));
    }

    #[test]
    fn the_example_tells_each_setting_in_the_words_of_this_file() {
        let source = concat!(include_str!("file.rs"), include_str!("limits.rs"), include_str!("moves.rs"));
        let documented =
            source.lines().filter_map(|line| line.trim().strip_prefix("/// ")).filter(|l| l.contains("Default: "));
        for line in documented {
            assert!(EXAMPLE.contains(&format!("# {line}")), "config/tenantry.toml lacks: # {line}");
        }
    }

    #[test]
    fn a_name_that_is_not_known_is_refused_with_its_line() {
        let error = ConfigFile::parse("[pool]\nsise = 3\n").expect_err("no such setting").to_string();
        assert!(error.contains("line 2") && error.contains("unknown field `sise`"), "{error}");
    }
}
