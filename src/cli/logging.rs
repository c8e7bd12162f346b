//! Where the log goes: the standard error stream, as text or as one JSON object a line.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::internal;
use crate::config::{LogFormat, LogSettings};
use crate::error::Result;

/// Changes which events are written. Errors: XX000 for a filter that cannot be read.
pub type LogFilter = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// From now on events that pass the filter are written. Once in a process.
pub fn start(settings: &LogSettings) -> Result<LogFilter> {
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(read(&settings.filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| internal("start the log", error))?;
    Ok(Box::new(move |filter| handle.reload(read(filter)?).map_err(|error| internal("change the log filter", error))))
}

fn read(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(filter).map_err(|error| internal("read the log filter", error))
}
