//! Brings the cluster to the number of workers that was asked for, one request of `tenantry.cluster_request` at a time.
//!
//! ```text
//!   Pending      servers are started and added            3/5: three of five take part, the coordinator counted in
//!   Progressing  shards are moved onto them, or off those that go
//!   Successful | Failed | Cancelled
//! ```
//!
//! Between two steps it looks whether the request is to be paused or cancelled. Cancelled, it leaves what is done: servers
//! that were added stay, and those that were to go take shards again.
//!
//! What a request asks for is compared with the nodes there are, so one that was cut off goes on where it stopped; and so does
//! one that met what may pass, a server that was being restarted for example. Failed, it leaves what is done as well.
//! The cluster is changed by the same SQL that a user would type, through the proxy.

use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::rebalance::job::{KIND, may_pass};
use crate::catalog;
use crate::catalog::Address;
use crate::catalog::quote::literal;
use crate::error::{PgError, Result, SqlState};
use crate::tally::Recurring;

/// Starts and ends servers: processes of this machine, or another's virtual machines.
pub trait Provisioner {
    /// Starts one more server and answers where it listens, once it does.
    fn add_worker(&mut self) -> impl Future<Output = Result<Address>>;

    /// Ends a server that is no longer part of the cluster; its data is lost.
    fn remove_worker(&mut self, address: &Address) -> impl Future<Output = Result<()>>;
}

/// Carries out requests, oldest first, until `stop`.
///
/// A request's own failure is written in its row. Not cancel safe: stop it by `stop`.
pub async fn run(provisioner: &mut impl Provisioner, proxy: &tokio_postgres::Config, stop: &CancellationToken) {
    let (mut trouble, mut attempts) = (Recurring::default(), Attempts::default());
    while !stop.is_cancelled() {
        let worked = stop.run_until_cancelled(serve(provisioner, proxy, &mut trouble, &mut attempts)).await;
        if let Some(Err(error)) = worked {
            trouble.failed(&error, UNSEEN);
        }
        stop.run_until_cancelled(tokio::time::sleep(RECONNECT_PAUSE)).await;
    }
}

/// SQL that asks for so many workers, and answers the request's id.
pub fn request_workers(workers: impl Into<i64>) -> String {
    let workers = workers.into();
    format!(
        "INSERT INTO tenantry.cluster_request (workers, ready, wanted) \
         SELECT {workers}, count(*) + 1, {workers} + 1 FROM tenantry.node WHERE groupid <> 0 AND noderole = 'primary' RETURNING id"
    )
}

/// SQL for what is told of a request `r` beside its state: which one it waits for, and, after a while, that nobody starts servers.
pub const DETAIL: &str = "CASE WHEN r.finished_at IS NULL AND r.started_at IS NULL THEN coalesce( \
    (SELECT 'waits for request ' || o.id || CASE o.wish WHEN 'pause' THEN ', which is paused' ELSE '' END \
     FROM tenantry.cluster_request o WHERE o.finished_at IS NULL AND o.id < r.id ORDER BY o.id LIMIT 1), \
    CASE WHEN r.created_at < now() - interval '10 s' THEN 'nobody has taken it: only tenantry dev starts and ends servers' END, \
    r.detail) ELSE r.detail END";

/// Works until the connection is lost.
async fn serve(
    provisioner: &mut impl Provisioner,
    proxy: &tokio_postgres::Config,
    trouble: &mut Recurring,
    attempts: &mut Attempts,
) -> Result<()> {
    let (client, connection) = proxy.connect(NoTls).await.map_err(catalog::pg_error)?;
    let connection = tokio::spawn(connection);
    let sql = Sql { client };
    loop {
        while let Some(request) = sql.oldest_request().await? {
            tracing::info!(request = request.id, workers = request.workers, "changing the number of workers");
            if let Err(error) = carry_out(&request, provisioner, &sql).await {
                // Nobody failed but the connection, or a server that may be back soon: the request stays open and goes on with
                // the next connection.
                if connection.is_finished() || may_pass(&error) && attempts.has_more(request.id) {
                    return Err(error);
                }
                tracing::warn!(request = request.id, %error, "could not change the number of workers");
                sql.finish(&request, State::Failed, &explain(&error)).await?;
            }
        }
        trouble.works(UNSEEN);
        tokio::time::sleep(POLL).await;
    }
}

/// How often the request under way has met what may pass.
#[derive(Default)]
struct Attempts {
    request: i64,
    failed: u32,
}

impl Attempts {
    /// Called for each failure: may it be tried again?
    fn has_more(&mut self, request: i64) -> bool {
        if self.request != request {
            *self = Self { request, failed: 0 };
        }
        self.failed += 1;
        self.failed <= RETRIES_MAX
    }
}

async fn carry_out(request: &Request, provisioner: &mut impl Provisioner, sql: &Sql) -> Result<()> {
    let workers = sql.workers().await?;
    let done = match workers.len() <= request.workers {
        true => grow(request, workers, provisioner, sql).await?,
        false => shrink(request, workers, provisioner, sql).await?,
    };
    match done {
        Go::On => sql.finish(request, State::Successful, "").await,
        Go::Back => sql.finish(request, State::Cancelled, "cancelled by an operator").await,
    }
}

/// Starts servers, then gives them their part of the shards.
async fn grow(
    request: &Request,
    mut workers: Vec<Address>,
    provisioner: &mut impl Provisioner,
    sql: &Sql,
) -> Result<Go> {
    let wanted = request.workers + 1;
    let servers = |workers: &[Address]| Servers { ready: workers.len() + 1, wanted };
    sql.note(request, State::Pending, "", &servers(&workers)).await?;
    while workers.len() < request.workers {
        if sql.wait_while_paused(request).await? == Go::Back {
            return Ok(Go::Back);
        }
        sql.note(request, State::Pending, "starting a server", &servers(&workers)).await?;
        let address = provisioner.add_worker().await?;
        if let Err(error) = sql.run(&format!("SELECT citus_add_node({})", arguments(&address))).await {
            if let Err(error) = provisioner.remove_worker(&address).await {
                tracing::warn!(port = address.port, %error, "could not end a server that could not be added");
            }
            return Err(error);
        }
        workers.push(address);
    }
    // Also when nothing was added just now: an earlier run may have been cut off before this.
    sql.rebalance(request, "rebalancing shards", &servers(&workers), "").await
}

/// Moves the shards off the servers that were added last, then ends these.
async fn shrink(
    request: &Request,
    mut workers: Vec<Address>,
    provisioner: &mut impl Provisioner,
    sql: &Sql,
) -> Result<Go> {
    let mut leaving = workers.split_off(request.workers);
    // All at once, or the first to be drained would fill the next.
    sql.let_hold_shards(&leaving, false).await?;
    let done = empty_and_end(request, &mut leaving, provisioner, sql).await;
    // Who tries again has them empty anew.
    if !matches!(done, Ok(Go::On))
        && let Err(error) = sql.let_hold_shards(&leaving, true).await
    {
        tracing::warn!(request = request.id, %error, "servers that were to go take no shards, and stay");
    }
    done
}

/// Empties the servers that take no more shards, and ends them. Those that are ended are no longer among `leaving`.
async fn empty_and_end(
    request: &Request,
    leaving: &mut Vec<Address>,
    provisioner: &mut impl Provisioner,
    sql: &Sql,
) -> Result<Go> {
    let (wanted, mut left) = (request.workers + 1, leaving.len());
    let servers = Servers { ready: wanted + left, wanted };
    let detail = match &leaving[..] {
        [one] => format!("moving shards off {}:{}", one.host, one.port),
        several => format!("moving shards off {} servers", several.len()),
    };
    if sql.rebalance(request, &detail, &servers, "drain_only := true").await? == Go::Back {
        return Ok(Go::Back);
    }
    while let Some(address) = leaving.last() {
        sql.run(&format!("SELECT citus_remove_node({})", arguments(address))).await?;
        let address = leaving.pop().expect("it is the last");
        provisioner.remove_worker(&address).await?;
        left -= 1;
        sql.note(request, State::Progressing, "stopping servers", &Servers { ready: wanted + left, wanted }).await?;
    }
    Ok(Go::On)
}

/// Whether the request is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    /// It was cancelled.
    Back,
}

struct Request {
    id: i64,
    workers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Pause,
    Cancel,
}

/// How far a rebalance is.
struct Progress {
    state: String,
    error: String,
    done: u64,
    all: u64,
}

/// Servers that take part, of those that shall, the coordinator counted in.
struct Servers {
    ready: usize,
    wanted: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Pending,
    Progressing,
    Successful,
    Failed,
    Cancelled,
}

/// The statements of this job.
struct Sql {
    client: Client,
}

impl Sql {
    async fn oldest_request(&self) -> Result<Option<Request>> {
        let rows = self
            .rows("SELECT id, workers FROM tenantry.cluster_request WHERE finished_at IS NULL ORDER BY id LIMIT 1")
            .await?;
        let Some([id, workers]) = rows.first().map(Vec::as_slice) else { return Ok(None) };
        Ok(Some(Request { id: number(id)?, workers: number(workers)? }))
    }

    /// In the order in which they were added.
    async fn workers(&self) -> Result<Vec<Address>> {
        let rows = self.rows("SELECT nodename, nodeport FROM pg_dist_node WHERE groupid <> 0 AND noderole = 'primary' ORDER BY nodeid").await?;
        rows.into_iter()
            .map(|mut row| {
                let port = number(&row.pop().unwrap_or_default())?;
                Ok(Address { host: row.pop().unwrap_or_default(), port })
            })
            .collect()
    }

    /// Has a rebalance done in the background and waits for it; while the request is paused it is stopped.
    ///
    /// One that runs already comes to its end first: ours, started before we were cut off, or a user's.
    /// Errors: 55000 with the job's error when it failed.
    async fn rebalance(&self, request: &Request, detail: &str, servers: &Servers, options: &str) -> Result<Go> {
        loop {
            if self.wait_while_paused(request).await? == Go::Back {
                return Ok(Go::Back);
            }
            self.note(request, State::Progressing, detail, servers).await?;
            if let Some((job, is_ours)) = self.running_rebalance(request).await? {
                let what = if is_ours { detail.to_owned() } else { format!("waiting for rebalance {job}") };
                self.watch(request, (job, is_ours), &what, servers).await?;
                continue;
            }
            let started = self.rows(&format!("SELECT citus_rebalance_start({options})")).await?;
            let job: i64 = number(started.first().and_then(|row| row.first()).map_or("", String::as_str))?;
            if job == 0 {
                return Ok(Go::On);
            }
            self.run(&format!("UPDATE tenantry.cluster_request SET job_id = {job} WHERE id = {}", request.id)).await?;
            let Progress { state, error, .. } = self.watch(request, (job, true), detail, servers).await?;
            match state.as_str() {
                "finished" => return Ok(Go::On),
                "failed" => return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, error)),
                // Stopped by us to pause or cancel the request, or by somebody else: look again what is wanted.
                _ => {}
            }
        }
    }

    /// Waits until the job has ended. When the request is to be paused or cancelled, a job of ours is stopped, and another's
    /// left.
    async fn watch(
        &self,
        request: &Request,
        (job, is_ours): (i64, bool),
        detail: &str,
        servers: &Servers,
    ) -> Result<Progress> {
        loop {
            tokio::time::sleep(POLL).await;
            let progress = self.progress(job).await?;
            if ["finished", "cancelled", "failed"].contains(&progress.state.as_str()) {
                return Ok(progress);
            }
            let Progress { done, all, .. } = progress;
            self.note(request, State::Progressing, &format!("{detail} {done}/{all}"), servers).await?;
            let wish = self.wish(request).await?;
            if wish != Wish::Run && !is_ours {
                return Ok(progress);
            }
            match wish {
                Wish::Cancel => self.run(&format!("SELECT citus_job_cancel({job})")).await?,
                // The moves under way come to their end.
                Wish::Pause => {
                    self.run(&format!(
                        "UPDATE tenantry.job SET state = 'cancelling' WHERE id = {job} AND state IN ('scheduled', 'running')"
                    ))
                    .await?;
                }
                Wish::Run => {}
            }
        }
    }

    /// The rebalance that is under way, and whether it was started for this request.
    async fn running_rebalance(&self, request: &Request) -> Result<Option<(i64, bool)>> {
        let sql = format!(
            "SELECT j.id, (j.id IS NOT DISTINCT FROM r.job_id)::int FROM tenantry.job j, tenantry.cluster_request r \
             WHERE r.id = {} AND j.kind = '{KIND}' AND j.finished_at IS NULL ORDER BY j.id LIMIT 1",
            request.id
        );
        let rows = self.rows(&sql).await?;
        let Some([job, is_ours]) = rows.first().map(Vec::as_slice) else { return Ok(None) };
        Ok(Some((number(job)?, is_ours == "1")))
    }

    async fn progress(&self, job: i64) -> Result<Progress> {
        let sql = format!(
            "SELECT j.state, coalesce(j.error, ''), count(t.id) FILTER (WHERE t.state = 'done'), count(t.id) \
             FROM tenantry.job j LEFT JOIN tenantry.job_task t ON t.job_id = j.id WHERE j.id = {job} GROUP BY j.id"
        );
        let rows = self.rows(&sql).await?;
        let Some([state, error, done, all]) = rows.first().map(Vec::as_slice) else {
            return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("job {job} is gone")));
        };
        Ok(Progress { state: state.clone(), error: error.clone(), done: number(done)?, all: number(all)? })
    }

    async fn wish(&self, request: &Request) -> Result<Wish> {
        let sql = format!("SELECT wish FROM tenantry.cluster_request WHERE id = {}", request.id);
        let rows = self.rows(&sql).await?;
        Ok(match rows.first().and_then(|row| row.first()).map(String::as_str) {
            Some("pause") => Wish::Pause,
            Some("cancel") => Wish::Cancel,
            _ => Wish::Run,
        })
    }

    async fn wait_while_paused(&self, request: &Request) -> Result<Go> {
        let mut told = false;
        loop {
            match self.wish(request).await? {
                Wish::Run => return Ok(Go::On),
                Wish::Cancel => return Ok(Go::Back),
                Wish::Pause if told => {}
                Wish::Pause => {
                    let sql = "UPDATE tenantry.cluster_request SET detail = 'paused', \
                               started_at = coalesce(started_at, now()) WHERE id = ";
                    self.run(&format!("{sql}{}", request.id)).await?;
                    told = true;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn let_hold_shards(&self, workers: &[Address], value: bool) -> Result<()> {
        for address in workers {
            let arguments = arguments(address);
            self.run(&format!("SELECT citus_set_node_property({arguments}, 'shouldhaveshards', {value})")).await?;
        }
        Ok(())
    }

    async fn note(&self, request: &Request, state: State, detail: &str, servers: &Servers) -> Result<()> {
        let (id, detail, Servers { ready, wanted }) = (request.id, literal(detail), servers);
        self.run(&format!(
            "UPDATE tenantry.cluster_request SET state = '{state:?}', detail = {detail}, ready = {ready}, \
             wanted = {wanted}, started_at = coalesce(started_at, now()) WHERE id = {id} AND finished_at IS NULL"
        ))
        .await
    }

    async fn finish(&self, request: &Request, state: State, detail: &str) -> Result<()> {
        let (id, detail) = (request.id, literal(detail));
        self.run(&format!(
            "UPDATE tenantry.cluster_request SET state = '{state:?}', detail = {detail}, finished_at = now() \
             WHERE id = {id}"
        ))
        .await
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.client.simple_query(sql).await.map(|_| ()).map_err(catalog::pg_error)
    }

    async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let messages = self.client.simple_query(sql).await.map_err(catalog::pg_error)?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }
}

fn arguments(address: &Address) -> String {
    format!("{}, {}", literal(&address.host), address.port)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| PgError::new(SqlState::DATA_CORRUPTED, format!("\"{text}\" is not the number expected")))
}

/// An error as one text for the request's row.
fn explain(error: &PgError) -> String {
    [Some(error.message()), error.detail_text(), error.hint_text()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" / ")
}

const UNSEEN: &str = "could not look for requests for another size of the cluster";
const POLL: Duration = Duration::from_millis(200);
const RETRIES_MAX: u32 = 5;
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
