//! `cluster edit` and `cluster list`: the control channel of a running cluster is a table, reached through its proxy.

use std::time::{Duration, Instant};

use clap::Subcommand;

use super::connection::{Connection, ProxyAddress};
use super::show;
use super::table::Table;
use crate::error::{PgError, Result, SqlState};
use crate::operations::cluster_size::{DETAIL, request_workers};
use crate::operations::rebalance::job::may_pass;

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Add or remove workers; waits until it is done and prints each state on the way.
    Edit {
        /// How many workers the cluster shall have.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        workers: u16,
        #[command(flatten)]
        proxy: ProxyAddress,
    },
    /// Stop changing the size after the step at hand, until it is resumed or cancelled.
    Pause {
        #[command(flatten)]
        request: ByNumber,
        #[command(flatten)]
        proxy: ProxyAddress,
    },
    /// Go on with what was paused.
    Resume {
        #[command(flatten)]
        request: ByNumber,
        #[command(flatten)]
        proxy: ProxyAddress,
    },
    /// Give up changing the size after the step at hand. What is done stays.
    Cancel {
        #[command(flatten)]
        request: ByNumber,
        #[command(flatten)]
        proxy: ProxyAddress,
    },
    /// Show the size and state of the cluster.
    List {
        #[command(flatten)]
        proxy: ProxyAddress,
        /// Print JSON, with the history of requests, instead of a table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct ByNumber {
    /// The request's number; without it, the one that is carried out or comes next.
    #[arg(long = "request")]
    number: Option<i64>,
}

impl Cluster {
    pub async fn run(self) -> Result<()> {
        match self {
            Cluster::Edit { workers, proxy } => edit(&proxy, workers).await,
            Cluster::Pause { request, proxy } => {
                wish(&proxy, "pause", &request, "is paused after the step at hand").await
            }
            Cluster::Resume { request, proxy } => wish(&proxy, "resume", &request, "goes on").await,
            Cluster::Cancel { request, proxy } => {
                wish(&proxy, "cancel", &request, "is cancelled after the step at hand").await
            }
            Cluster::List { proxy, json } => list(&proxy, json).await,
        }
    }
}

async fn edit(proxy: &ProxyAddress, workers: u16) -> Result<()> {
    let mut connection = proxy.connect().await?;
    let asked = connection.ask(&request_workers(workers)).await?;
    let id = asked.number().ok_or_else(|| unreadable("id"))?;
    let start = Instant::now();
    let (mut told, mut lost, mut attended) = (String::new(), None, start);
    loop {
        let request = match Request::read(&connection, id).await {
            Ok(request) => request,
            Err(error) if !may_pass(&error) => return Err(error),
            // The request goes on without us, and the proxy may be back soon.
            Err(error) if lost.get_or_insert_with(Instant::now).elapsed() > PROXY_PATIENCE => {
                return Err(error.hint(format!("Request {id} goes on by itself: see \"tenantry cluster list\".")));
            }
            Err(_) => {
                tokio::time::sleep(POLL).await;
                if let Ok(again) = proxy.connect().await {
                    connection = again;
                }
                continue;
            }
        };
        lost = None;
        let line = request.to_line();
        if line != told {
            println!("{line}  [{:.1} s]", start.elapsed().as_secs_f64());
            told = line;
        }
        match request.state.as_str() {
            "Successful" => return Ok(()),
            "Cancelled" => {
                return Err(PgError::new(SqlState::QUERY_CANCELED, "the request was cancelled"));
            }
            "Failed" => {
                return Err(PgError::new(
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("could not bring the cluster to {workers} workers"),
                )
                .detail(request.detail));
            }
            // It waits for those before it.
            _ if request.started || !nobody_works(&connection).await.unwrap_or(false) => attended = Instant::now(),
            _ if attended.elapsed() > NOBODY_AFTER => return Err(refuse_without_provisioner(&connection, id).await?),
            _ => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wish(proxy: &ProxyAddress, wish: &str, request: &ByNumber, what: &str) -> Result<()> {
    let number = request.number.map(|number| number.to_string()).unwrap_or_default();
    let asked = proxy.connect().await?.ask(&format!("SELECT tenantry_cluster_{wish}({number})")).await?;
    println!("request {} {what}", asked.number().ok_or_else(|| unreadable("id"))?);
    Ok(())
}

async fn list(proxy: &ProxyAddress, json: bool) -> Result<()> {
    let connection = proxy.connect().await?;
    let requests = connection.ask(&history()).await?;
    let nodes =
        connection.ask("SELECT count(*) FROM tenantry.node WHERE groupid <> 0 AND noderole = 'primary'").await?;
    let workers = nodes.number().ok_or_else(|| unreadable("count"))?;
    // Newest first; shown is the one that is carried out or comes next, if there is one.
    let unfinished: Vec<_> = (0..requests.rows.len()).filter(|row| requests.at(*row, 8).is_none()).collect();
    let shown = match unfinished.last().or((!requests.rows.is_empty()).then_some(&0)) {
        Some(row) => Some(Request::from_row(&requests, *row)?),
        None => None,
    };
    if json {
        let (state, status) = shown
            .as_ref()
            .map_or(("Successful", "Successful".to_owned()), |shown| (shown.state.as_str(), shown.status()));
        let cluster = serde_json::json!({
            "connection": proxy.connection_string(), "workers": workers, "state": state, "status": status,
            "ready": shown.as_ref().and_then(|s| s.servers).map_or(workers + 1, |(ready, _)| ready),
            "wanted": shown.as_ref().and_then(|s| s.servers).map_or(workers + 1, |(_, wanted)| wanted),
            "waiting": unfinished.len().saturating_sub(1),
            "requests": requests.to_json(),
        });
        println!("{:#}", serde_json::Value::from(vec![cluster]));
        return Ok(());
    }
    let (status, mut detail) = shown.map_or(("Successful".to_owned(), String::new()), |s| (s.status(), s.detail));
    if unfinished.len() > 1 {
        let separator = if detail.is_empty() { "" } else { ", " };
        detail = format!("{detail}{separator}{} more wait", unfinished.len() - 1);
    }
    let row = [proxy.connection_string(), workers.to_string(), status, detail];
    let columns = ["cluster", "workers", "status", "detail"].map(str::to_owned).to_vec();
    show::print(&Table { columns, rows: vec![row.map(Some).to_vec()] }, false);
    Ok(())
}

/// A row of `tenantry.cluster_request`.
struct Request {
    state: String,
    detail: String,
    /// Taking part, and wanted.
    servers: Option<(i64, i64)>,
    started: bool,
}

impl Request {
    async fn read(connection: &Connection, id: i64) -> Result<Self> {
        let sql = format!(
            "SELECT id, workers, state, {DETAIL} AS detail, ready, wanted, started_at \
             FROM tenantry.cluster_request r WHERE id = {id}"
        );
        Self::from_row(&connection.ask(&sql).await?, 0)
    }

    fn from_row(table: &Table, row: usize) -> Result<Self> {
        let number = |column| table.at(row, column).and_then(|text| text.parse().ok());
        Ok(Self {
            state: table.at(row, 2).ok_or_else(|| unreadable("state"))?.to_owned(),
            detail: table.at(row, 3).unwrap_or_default().to_owned(),
            servers: number(4).zip(number(5)),
            started: table.at(row, 6).is_some(),
        })
    }

    /// `Pending 3/5`: three of five servers take part. Later states have all of them, and so has a smaller size.
    fn status(&self) -> String {
        match self.servers {
            Some((ready, wanted)) if self.state == "Pending" && ready < wanted => {
                format!("{} {ready}/{wanted}", self.state)
            }
            _ => self.state.clone(),
        }
    }

    fn to_line(&self) -> String {
        let detail = if self.detail.is_empty() { String::new() } else { format!("  {}", self.detail) };
        format!("{:<11}{detail}", self.status())
    }
}

async fn nobody_works(connection: &Connection) -> Result<bool> {
    let started = "SELECT count(*) FROM tenantry.cluster_request WHERE started_at IS NOT NULL AND finished_at IS NULL";
    Ok(connection.ask(started).await?.number() == Some(0))
}

/// Takes the request back, so that it is not carried out some day by surprise.
async fn refuse_without_provisioner(connection: &Connection, id: i64) -> Result<PgError> {
    let why = "nobody took the request";
    connection
        .ask(&format!(
            "UPDATE tenantry.cluster_request SET state = 'Failed', detail = '{why}', finished_at = now() \
             WHERE id = {id} AND started_at IS NULL"
        ))
        .await?;
    Ok(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("{why} within {} s", NOBODY_AFTER.as_secs()))
        .detail(
            "Servers are started and ended by \"tenantry dev\" only; this cluster's servers are run by somebody else.",
        )
        .hint("Start a server, then run SELECT citus_add_node(host, port) and SELECT rebalance_table_shards()."))
}

fn unreadable(what: &str) -> PgError {
    PgError::new(SqlState::DATA_CORRUPTED, format!("the cluster's answer has no readable \"{what}\""))
}

const POLL: Duration = Duration::from_millis(100);
/// Longest wait for a proxy that was restarted while its command runs.
const PROXY_PATIENCE: Duration = Duration::from_secs(60);
const NOBODY_AFTER: Duration = Duration::from_secs(10);

fn history() -> String {
    format!(
        "SELECT id, workers, state, {DETAIL} AS detail, ready, wanted, started_at, created_at, finished_at \
         FROM tenantry.cluster_request r ORDER BY id DESC LIMIT 20"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_counts_servers_while_they_are_started() {
        let request = |state: &str, detail: &str| Request {
            state: state.to_owned(),
            detail: detail.to_owned(),
            servers: Some((3, 5)),
            started: true,
        };
        assert_eq!(request("Pending", "starting a server").to_line(), "Pending 3/5  starting a server");
        assert_eq!(request("Progressing", "rebalancing shards").to_line(), "Progressing  rebalancing shards");
        assert_eq!(request("Successful", "").status(), "Successful");
    }
}
