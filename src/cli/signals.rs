//! SIGINT and SIGTERM as a stop token.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::internal;
use crate::error::Result;

/// A token that the first SIGINT or SIGTERM cancels; a second one ends the process at once.
///
/// Before this call a signal ends the process without any goodbye, so it comes before anything is started.
pub fn stop_token() -> Result<CancellationToken> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal("start a runtime", error))?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).map_err(|error| internal("listen for signals", error));
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let mut next = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
                next().await;
                stopped.cancel();
                next().await;
                std::process::exit(IMPATIENT);
            });
        })
        .map_err(|error| internal("start a thread", error))?;
    Ok(stop)
}

/// What a shell shows for a program that SIGINT ended.
const IMPATIENT: i32 = 130;
