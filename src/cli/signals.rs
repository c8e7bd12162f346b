//! What signals ask of a running proxy.
//!
//! | signal | first | second | third |
//! |---|---|---|---|
//! | SIGINT, SIGTERM | stop: transactions may end | hurry: cut off what is left | end at once |
//! | SIGHUP | read the configuration again (`Hangup::Reloads`) or as SIGTERM (`Hangup::Stops`) | | |

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::internal;
use crate::error::Result;

/// What the process is asked from outside. Clones are told the same.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Take no more clients, and end.
    pub stop: CancellationToken,
    /// Wait no longer for what is still open.
    pub hurry: CancellationToken,
    /// Read the configuration again.
    pub reload: Arc<Notify>,
}

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    Reloads,
    /// The terminal is gone.
    Stops,
}

impl Signals {
    /// Before this call a signal ends the process without any goodbye, so it comes before anything is started.
    pub fn listen(hangup: Hangup) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| internal("start a runtime", error))?;
        let (mut interrupt, mut terminate, mut hung_up) = {
            let _inside = runtime.enter();
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
        };
        let signals = Self::default();
        let told = signals.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => told.end(),
                            _ = terminate.recv() => told.end(),
                            _ = hung_up.recv() => match hangup {
                                Hangup::Reloads => told.reload.notify_one(),
                                Hangup::Stops => told.end(),
                            },
                        }
                    }
                });
            })
            .map_err(|error| internal("start a thread", error))?;
        Ok(signals)
    }

    /// Open transactions are not waited for.
    pub fn end_at_once(&self) {
        self.stop.cancel();
        self.hurry.cancel();
    }

    fn end(&self) {
        if self.hurry.is_cancelled() {
            std::process::exit(IMPATIENT);
        }
        if self.stop.is_cancelled() {
            self.hurry.cancel();
        }
        self.stop.cancel();
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| internal("listen for signals", error))
}

/// What a shell shows for a program that SIGINT ended.
const IMPATIENT: i32 = 130;
