//! How control connections reach the coordinator and log in.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use crate::backend::{Nodes, OWN_DEFAULTS, SERVER_KEEPALIVES, ServerAccess};

/// How the control channel reaches the coordinator; workers are reached with the same database, user and password.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host of the coordinator Postgres. Default: 127.0.0.1. Reload: no.
    pub host: String,
    /// Its port. Default: 5432. Reload: no.
    pub port: u16,
    /// Its standbys: one of them may take its place. Default: none. Reload: no.
    pub standbys: Vec<Address>,
    /// The one database that clients see, of the same name on every node. Reload: no.
    pub dbname: String,
    /// A superuser of coordinator and workers. Reload: no.
    pub user: String,
    /// Its password; none where the servers trust us. Reload: no.
    pub password: Option<String>,
    /// Longest wait for a login. Unit: time. Default: 5s. Reload: no.
    pub connect_timeout: Duration,
    /// Control connections per node at most. Default: 8. Reload: no.
    pub connections_max: usize,
    /// Encryption, and the password where none is given above. Reload: no.
    pub access: ServerAccess,
    /// What sessions' connections know of the nodes: where they are, whether they answer. None: nobody looks after ours.
    pub nodes: Option<Arc<Nodes>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 5432,
            standbys: Vec::new(),
            dbname: "postgres".into(),
            user: "postgres".into(),
            password: None,
            connect_timeout: Duration::from_secs(5),
            connections_max: 8,
            access: ServerAccess::default(),
            nodes: None,
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Settings {
    /// By what address the coordinator is known, whichever of its servers takes writes.
    pub fn coordinator(&self) -> Address {
        Address { host: self.host.clone(), port: self.port }
    }

    /// Where its server may be.
    pub fn coordinator_hosts(&self) -> Vec<Address> {
        std::iter::once(self.coordinator()).chain(self.standbys.iter().cloned()).collect()
    }

    /// How the control channel logs in, wherever.
    pub(super) fn login(&self) -> tokio_postgres::Config {
        let option = |(name, value): &(&str, &str)| format!(" -c {name}={}", value.replace(' ', "\\ "));
        let defaults: String = SERVER_KEEPALIVES.iter().chain(&OWN_DEFAULTS).map(option).collect();
        let mut config = tokio_postgres::Config::new();
        config
            .dbname(&self.dbname)
            .user(&self.user)
            .application_name("tenantry control")
            .options(format!("-c search_path=pg_catalog,pg_temp{defaults}"))
            .connect_timeout(self.connect_timeout)
            .keepalives_idle(DEAD_PEER_AFTER)
            .tcp_user_timeout(DEAD_PEER_AFTER);
        Gate::prepare(&mut config);
        config
    }

    /// How it logs in there.
    pub(super) fn login_at(&self, Address { host, port }: &Address) -> tokio_postgres::Config {
        let mut config = self.login();
        config.host(host).port(*port);
        let from_file = || self.access.passwords.find(host, *port, &self.dbname, &self.user);
        if let Some(password) = self.password.as_deref().or_else(from_file) {
            config.password(password);
        }
        config
    }

    /// What a connection is made through.
    pub(super) fn gate(&self) -> Gate {
        Gate::new(self.access.dialer.clone())
    }
}

/// A peer that is silent this long below us (no acknowledgement) is gone.
const DEAD_PEER_AFTER: Duration = Duration::from_secs(15);
