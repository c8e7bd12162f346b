//! Arguments and subcommands.
//!
//! ```text
//!   serve, dev          run a proxy in this process (what runs it is given by the roof)
//!   cluster, node, endpoint   talk to a running proxy, in SQL, as any client
//!   demo                runs this program as children and tells the story of scaling out
//! ```
//!
//! Exit status: 0 done, 1 failed, 64 wrong arguments.

mod cluster;
mod connection;
mod demo;
mod dev;
mod logging;
mod show;
mod signals;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Settings;
use crate::error::{PgError, Result, SqlState};
use clap::{Parser, Subcommand};
use connection::ProxyAddress;
use signals::Hangup;

pub use logging::LogFilter;
pub use signals::Signals;

/// Runs a proxy until it is told to stop; blocks its thread meanwhile. The filter of the log follows the settings.
pub type Serve = fn(Settings, Signals, LogFilter) -> Result<()>;

/// Runs the program with this process's arguments.
pub fn run(serve: Serve) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Help and version are answers, not errors, and have their own stream.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command.run(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", connection::as_psql_prints(&error));
            ExitCode::FAILURE
        }
    }
}

/// A Postgres wire-protocol routing proxy: one connection string in front of many plain Postgres servers.
#[derive(Debug, Parser)]
#[command(name = "tenantry", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a throw-away cluster on this machine: a proxy, a coordinator and workers. Ctrl-C ends it.
    Dev(dev::Dev),
    /// Run the proxy in front of servers that exist already.
    Serve {
        /// The configuration file; config/tenantry.toml shows every setting.
        #[arg(long)]
        config: PathBuf,
        /// Take over the port from the proxy that runs with the same listen.takeover_socket, if one does.
        #[arg(long)]
        take_over: bool,
    },
    /// Say whether a configuration file is valid.
    CheckConfig {
        #[arg(long)]
        config: PathBuf,
    },
    /// Change or show the size of a running cluster.
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Show the servers of a running cluster.
    #[command(subcommand)]
    Node(Node),
    /// Show where applications connect to a running cluster.
    #[command(subcommand)]
    Endpoint(Endpoint),
    /// Tell the scale-out story on a cluster of its own: distribute, load, query, add workers under load.
    Demo(demo::Demo),
}

#[derive(Debug, Subcommand)]
enum Node {
    /// One line for each server.
    List {
        #[command(flatten)]
        proxy: ProxyAddress,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Endpoint {
    /// One line for each proxy: connection string, metrics, and the pages for operators.
    List {
        #[command(flatten)]
        proxy: ProxyAddress,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    fn run(self, serve: Serve) -> Result<()> {
        match self {
            Command::Dev(dev) => dev.run(serve),
            Command::Serve { config, take_over } => {
                let settings = Settings { take_over, ..Settings::read(&config)? };
                let filter = logging::start(&settings.log)?;
                serve(settings, Signals::listen(Hangup::Reloads)?, filter)
            }
            Command::CheckConfig { config } => {
                Settings::read(&config)?;
                println!("{}: valid", config.display());
                Ok(())
            }
            Command::Cluster(cluster) => wait_for(cluster.run()),
            Command::Node(Node::List { proxy, json }) => wait_for(show::nodes(&proxy, json)),
            Command::Endpoint(Endpoint::List { proxy, json }) => wait_for(show::endpoints(&proxy, json)),
            Command::Demo(demo) => demo.run(),
        }
    }
}

/// Runs a command that only waits for servers on this thread.
fn wait_for<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| internal("start a runtime", error))?.block_on(command)
}

fn internal(tried: &str, error: impl std::fmt::Display) -> PgError {
    PgError::new(SqlState::INTERNAL_ERROR, format!("could not {tried}: {error}"))
}

/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_documented_calls_are_understood() {
        for call in [
            "dev --workers 2",
            "dev --workers 3 --port 8000 --data folder --admin-port 9090",
            "serve --config config/tenantry.toml",
            "check-config --config config/tenantry.toml",
            "cluster edit --workers 4 --port 7432",
            "cluster list --port 7432 --json",
            "node list --port 7432",
            "endpoint list --port 7432",
            "demo",
        ] {
            let words = std::iter::once("tenantry").chain(call.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{call}");
        }
    }

    #[test]
    fn a_cluster_without_workers_cannot_be_asked_for() {
        assert!(Arguments::try_parse_from(["tenantry", "cluster", "edit", "--workers", "0"]).is_err());
    }
}
