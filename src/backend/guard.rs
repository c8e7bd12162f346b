//! Gives up connections to a node that is silent.
//!
//! A process that was stopped, or a machine that hangs, keeps its TCP connections alive, so the kernel reports nothing.
//! A statement that waits says nothing either: it may be slow. So when a node's statements have had no answer for a
//! while, the node itself is asked for a sign of life, on a connection of its own. Only when that stays out too, twice,
//! do the waiting statements fail, with 08006, and new ones wait for the node to come back. The same holds for what is asked
//! on control connections.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::node::Node;
use super::nodes::Nodes;
use crate::transport::{SSL_REQUEST, timer};

/// Watches over all connections until `stop`.
pub async fn guard(nodes: Arc<Nodes>, stop: CancellationToken) {
    let mut watched: HashMap<_, Watched> = HashMap::new();
    while stop.run_until_cancelled(timer::sleep(TICK)).await.is_some() {
        nodes.ring();
        for node in nodes.all() {
            watched.entry((node.address.clone(), node.purpose)).or_default().look(&nodes, &node);
        }
    }
}

/// What was seen of one node.
#[derive(Default)]
struct Watched {
    /// Connections that wait: how far they were, since when.
    waiting: HashMap<u64, (u32, Instant)>,
    /// The question under way.
    question: Option<tokio::task::JoinHandle<bool>>,
    unanswered: u32,
}

impl Watched {
    fn look(&mut self, nodes: &Nodes, node: &Arc<Node>) {
        let settings = nodes.settings().load();
        let links = links_of(node, settings.silence_max);
        self.waiting.retain(|number, _| links.contains_key(number));
        for (number, (link, _)) in &links {
            match link.waits_at() {
                None => drop(self.waiting.remove(number)),
                Some(at) => match self.waiting.get(number) {
                    Some((before, _)) if *before == at => {}
                    _ => drop(self.waiting.insert(*number, (at, Instant::now()))),
                },
            }
        }
        let silent: HashSet<u64> = links
            .iter()
            .filter(|(number, (_, patience))| {
                self.waiting.get(number).is_some_and(|(_, since)| since.elapsed() >= *patience)
            })
            .map(|(number, _)| *number)
            .collect();
        if let Some(question) = self.question.take_if(|question| question.is_finished()) {
            // A task that has ended is read without waiting.
            let answered = futures_util::FutureExt::now_or_never(question).is_some_and(|answer| answer.unwrap_or(true));
            self.unanswered = if answered { 0 } else { self.unanswered + 1 };
        }
        if self.unanswered >= QUESTIONS {
            self.unanswered = 0;
            tracing::warn!(node = %node.address, "a node does not answer, its connections are given up");
            node.begin_outage("the node does not answer", false);
            for (number, (link, _)) in &links {
                if !link.is_used() || silent.contains(number) {
                    link.give_up();
                }
            }
        }
        if self.question.is_none() && !silent.is_empty() {
            self.question = Some(tokio::spawn(is_alive(node.clone(), settings.check_timeout)));
        }
    }
}

/// All connections to a node, and how long each may be left without an answer.
fn links_of(node: &Node, silence_max: Duration) -> HashMap<u64, (Arc<Link>, Duration)> {
    let mut state = node.lock();
    state.control.retain(|_, control| control.link().is_some());
    let control = state.control.iter().filter_map(|(n, c)| Some((*n, (c.link()?, c.patience.max(silence_max)))));
    let pooled = state.links.iter().map(|(n, (_, link))| (*n, (link.clone(), silence_max)));
    pooled.chain(control).collect()
}

/// Asks whether encryption is spoken: any server answers that, before any login, with one byte.
async fn is_alive(node: Arc<Node>, timeout: Duration) -> bool {
    let ask = async {
        let host = node.current_host();
        let mut stream = TcpStream::connect((host.host.as_str(), host.port)).await?;
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await
    };
    matches!(timer::timeout(timeout, ask).await, Ok(Ok(_)))
}

const QUESTIONS: u32 = 2;
const TICK: Duration = Duration::from_secs(1);
