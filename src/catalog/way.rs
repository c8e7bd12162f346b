//! The way of a control connection to its node: each of the node's servers in turn, the one that took writes last first.
//!
//! ```text
//!   hosts ──in turn, each for connect_timeout──> logged in, takes writes ──> the node's guard looks after it
//! ```
//!
//! Who took writes last is known together with the connections of sessions (`backend::Node`): what one of both finds out
//! holds for the other, and a server that was replaced and comes back is asked by neither.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Error, SimpleQueryMessage, Socket};

use super::gate::Gated;
use super::settings::{Address, Settings};
use crate::backend::{Link, Node, ServerAddress, WRITTEN_TIMELINE};
use crate::transport::timer;

/// To one node.
pub(super) struct Way {
    settings: Settings,
    /// Where its server may be; the first is what the node is known by.
    hosts: Vec<Address>,
    patience: Duration,
}

/// To be polled for as long as the client is in use.
pub(super) type Connection = tokio_postgres::Connection<Socket, Gated<Socket>>;

impl Way {
    /// An answer may take `patience` before the node is asked whether it is alive at all.
    pub fn new(settings: &Settings, hosts: &[Address], patience: Duration) -> Self {
        Self { settings: settings.clone(), hosts: hosts.to_vec(), patience }
    }

    /// A connection to the one of the hosts that takes writes, when they are several. Errors: what the first of them said.
    pub async fn connect(&self) -> Result<(Client, Connection), Error> {
        let node = self.node();
        let mut first = None;
        for host in self.in_turn(node.as_deref()) {
            let link = Arc::new(Link::default());
            match self.log_in(host, &link).await {
                Ok(mut connected) => match &node {
                    Some(node) if !self.is_primary(node, host, &link, &mut connected).await => {
                        link.give_up();
                        if let Some(Err(error)) = poll_fn(|context| connected.1.poll_message(context)).await {
                            first.get_or_insert(error);
                        }
                    }
                    _ => return Ok(connected),
                },
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        match first {
            Some(error) => Err(error),
            // Says that there is no host.
            None => self.settings.login().connect(self.settings.gate()).await,
        }
    }

    /// What runs by itself. Of its end the client hears.
    pub fn run(connection: Connection) -> JoinHandle<()> {
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a control connection has ended");
            }
        })
    }

    fn node(&self) -> Option<Arc<Node>> {
        let Address { host, port } = self.hosts.first()?;
        self.settings.nodes.as_ref()?.known(&ServerAddress { host: host.clone(), port: *port })
    }

    fn in_turn(&self, node: Option<&Node>) -> Vec<&Address> {
        let current = node.map(Node::current_host);
        let is_current = |at: &&Address| current.as_ref().is_some_and(|c| (&c.host, c.port) == (&at.host, at.port));
        let mut hosts: Vec<&Address> = self.hosts.iter().collect();
        hosts.sort_by_key(|host| !is_current(host));
        hosts
    }

    async fn log_in(&self, host: &Address, link: &Arc<Link>) -> Result<(Client, Connection), Error> {
        let mut login = self.settings.login_at(host);
        if self.hosts.len() > 1 {
            login.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let mut connecting = std::pin::pin!(login.connect(self.settings.gate().linked(link.clone())));
        tokio::select! {
            connected = &mut connecting => connected,
            () = timer::sleep(self.settings.connect_timeout) => {
                link.give_up();
                connecting.await
            }
        }
    }

    /// Is this the node's primary, as far as it is one of several? Then the node looks after the connection from here on.
    async fn is_primary(
        &self,
        node: &Arc<Node>,
        host: &Address,
        link: &Arc<Link>,
        (client, connection): &mut (Client, Connection),
    ) -> bool {
        if self.hosts.len() > 1 {
            let host = ServerAddress { host: host.host.clone(), port: host.port };
            let timeline = match node.is_doubtful(&host) {
                true => {
                    timer::timeout(self.settings.connect_timeout, timeline(client, connection)).await.unwrap_or(None)
                }
                false => None,
            };
            if !node.found_primary(&host, timeline) {
                return false;
            }
            node.note_up();
        }
        node.look_after(link, self.patience);
        true
    }
}

/// That of a server that has just let us in.
async fn timeline(client: &Client, connection: &mut Connection) -> Option<i32> {
    let sql = format!("SELECT {WRITTEN_TIMELINE}");
    let mut asked = std::pin::pin!(client.simple_query(&sql));
    let rows = loop {
        tokio::select! {
            rows = &mut asked => break rows.ok()?,
            // What it says besides is for nobody.
            said = poll_fn(|context| connection.poll_message(context)) => drop(said?.ok()?),
        }
    };
    rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    })
}

impl Connect for Way {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async {
            let (client, connection) = Way::connect(self).await?;
            Ok((client, Way::run(connection)))
        })
    }
}
