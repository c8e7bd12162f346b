//! Cancel requests between proxies: a client's may come to another one than its session is at, behind a balancer or when
//! a new process has taken over.
//!
//! ```text
//!   cancel request ─> proxy A: not its key ─> catalog ─rings─> proxy B: its key ─> the servers
//!   closed        <─────────── A sees that it was carried out <─ row deleted <──────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::cancel_keys::CancelKeys;
use crate::catalog::{Catalog, cancel_requests};
use crate::error::Result;
use crate::shard_map::NodeId;
use crate::transport::timer;

/// Has the other proxies look for the session; returns when one has carried it out, or when it is plain that none will: false.
pub async fn ask_others(shared: &Shared, pid: u32, key: &[u8]) -> bool {
    let (catalog, key) = (shared.catalog.clone(), key.to_vec());
    let instance = shared.transaction_ids.instance().to_owned();
    // Where control connections live.
    let asked = shared.control.spawn(async move { ask(&catalog, &instance, pid, &key).await }).await;
    match asked {
        Ok(Ok(was_theirs)) => was_theirs,
        Ok(Err(error)) => {
            tracing::warn!(%error, "could not pass on a cancel request");
            false
        }
        // The process ends.
        Err(_) => false,
    }
}

/// Control connections are few: each question takes one for itself, and none is kept between them.
async fn ask(catalog: &Catalog, instance: &str, pid: u32, key: &[u8]) -> Result<bool> {
    let coordinator = || catalog.client(NodeId::COORDINATOR);
    let Some(id) = cancel_requests::ask(&**coordinator().await?, instance, pid, key).await? else { return Ok(false) };
    let mut pause = PAUSE_MIN;
    while pause <= PAUSE_MAX {
        timer::sleep(pause).await;
        if !cancel_requests::is_pending(&**coordinator().await?, id).await? {
            return Ok(true);
        }
        pause *= 2;
    }
    cancel_requests::end(&**coordinator().await?, id).await?;
    Ok(false)
}

/// Carries out what comes to other proxies and is meant for sessions of this process, until `stop`.
pub async fn serve_others(keys: Arc<CancelKeys>, catalog: Arc<Catalog>, stop: CancellationToken) {
    while let Some(rung) = stop.run_until_cancelled(catalog.cancels_asked()).await {
        if let Err(error) = carry_out(&keys, &catalog, &rung).await {
            tracing::warn!(%error, "could not read the cancel requests of other proxies");
        }
    }
}

/// Each rings once, so none is carried out twice.
async fn carry_out(keys: &CancelKeys, catalog: &Arc<Catalog>, rung: &[i64]) -> Result<()> {
    let client = catalog.client(NodeId::COORDINATOR).await?;
    for request in cancel_requests::pending(&**client, rung).await? {
        let Some(handle) = keys.find(request.pid, &request.key) else { continue };
        let catalog = catalog.clone();
        // Not waited for: one node that takes no cancels must not keep the others' from being sent.
        tokio::spawn(async move {
            if let Some(number) = handle.running() {
                handle.cancel(number).await;
            }
            let ended = async { cancel_requests::end(&**catalog.client(NodeId::COORDINATOR).await?, request.id).await };
            if let Err(error) = ended.await {
                tracing::debug!(%error, "whoever asked for a cancel is not told that it was carried out");
            }
        });
    }
    Ok(())
}

/// Between looks at whether it was carried out; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(640);
