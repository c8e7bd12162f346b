//! A connection to a running proxy, and what came back as text.

use std::time::Duration;

use clap::Args;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::table::Table;
use crate::catalog::{self, Gate};
use crate::error::{PgError, Result};
use crate::transport::Dialer;

/// Which proxy, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ProxyAddress {
    /// Host of the running proxy.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the running proxy.
    #[arg(long, default_value_t = 7432)]
    pub port: u16,
    /// Who logs in; a superuser. Its password is taken from PGPASSWORD.
    #[arg(long, default_value = "postgres")]
    pub user: String,
    /// The database of the cluster.
    #[arg(long, default_value = "postgres")]
    pub database: String,
}

impl ProxyAddress {
    /// The proxy of a `tenantry dev` cluster.
    pub fn dev(port: u16) -> Self {
        let postgres = || "postgres".to_owned();
        Self { host: "127.0.0.1".to_owned(), port, user: postgres(), database: postgres() }
    }

    /// How every client of a cluster connects, as a URI.
    pub fn connection_string(&self) -> String {
        let Self { host, port, user, database } = self;
        format!("postgresql://{user}@{host}:{port}/{database}")
    }

    pub fn login(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(&self.user).dbname(&self.database);
        config.application_name("tenantry").connect_timeout(CONNECT_TIMEOUT);
        if let Ok(password) = std::env::var("PGPASSWORD") {
            config.password(password);
        }
        config
    }

    /// Errors: 08006 when nobody listens there, what the proxy says otherwise.
    pub async fn connect(&self) -> Result<Connection> {
        let mut login = self.login();
        Gate::prepare(&mut login);
        let (client, connection) = login.connect(Gate::new(Dialer::preferring())).await.map_err(|error| {
            let error = catalog::pg_error(error);
            if error.code() == crate::error::SqlState::CONNECTION_FAILURE {
                let text = format!("could not connect to a proxy at {}:{}", self.host, self.port);
                return PgError::new(error.code(), text)
                    .detail(error.message().to_owned())
                    .hint("Is \"tenantry dev\" or \"tenantry serve\" running there? --port names its port.");
            }
            error
        })?;
        tokio::spawn(connection);
        Ok(Connection { client })
    }
}

/// A session that asks by the simple protocol and gets text.
pub struct Connection {
    client: Client,
}

impl Connection {
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs one statement; its rows, none for a statement without.
    pub async fn ask(&self, sql: &str) -> Result<Table> {
        let mut table = Table::default();
        for message in self.client.simple_query(sql).await.map_err(catalog::pg_error)? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    table.columns = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    table.rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok(table)
    }
}

/// `ERROR:  ...`, with DETAIL and HINT on lines of their own.
pub fn as_psql_prints(error: &PgError) -> String {
    let detail = error.detail_text().map(|text| format!("\nDETAIL:  {text}"));
    let hint = error.hint_text().map(|text| format!("\nHINT:  {text}"));
    format!("ERROR:  {}{}{}", error.message(), detail.unwrap_or_default(), hint.unwrap_or_default())
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
