//! Conversations that the proxy and a plain Postgres must answer alike.

use crate::support::served::Served;
use crate::wire::{self, Wire, frame};

pub fn proxy(cluster: &Served) -> Wire {
    Wire::login(cluster.proxy_port(0), "postgres")
}

/// The coordinator's Postgres itself, with its plain tables.
fn postgres(cluster: &Served) -> Wire {
    Wire::login_with(cluster.proxy_port(0) + 1, "postgres", &[("search_path", "plain")])
}

/// Conversations that are compared.
pub struct Both<'c> {
    cluster: &'c Served,
    different: String,
}

impl<'c> Both<'c> {
    pub fn new(cluster: &'c Served) -> Self {
        Self { cluster, different: String::new() }
    }

    /// The same bytes to both, then an epilogue that brings any state to an end.
    pub fn say(&mut self, title: &str, bytes: &[u8]) {
        self.compare(title, bytes, |answers| answers);
    }

    /// As `say`, where a message has several mistakes and either may be the one that is named.
    pub fn say_with_any_error(&mut self, title: &str, bytes: &[u8]) {
        let any = |answer: String| if answer.starts_with("E ") { "E".to_owned() } else { answer };
        self.compare(title, bytes, |answers| answers.into_iter().map(any).collect());
    }

    fn compare(&mut self, title: &str, bytes: &[u8], seen: impl Fn(Vec<String>) -> Vec<String>) {
        let answers = |mut wire: Wire| {
            wire.send(bytes);
            wire.send(&lines(&["S", "Q ROLLBACK", "Q SELECT 'the end'"]));
            let mut answers = wire.answers_until("D the end");
            if answers.ends_with(&["E 08P01", "E 08P01", "closed"].map(String::from)) {
                // Postgres tells what is wrong, and then that it gives up; the proxy does it in one.
                answers.pop();
                answers.pop();
                answers.push("closed".to_owned());
            }
            seen(answers)
        };
        let (proxy, server) = (answers(proxy(self.cluster)), answers(postgres(self.cluster)));
        if proxy == server {
            return;
        }
        self.different.push_str(&format!("== {title}\n"));
        for i in 0..proxy.len().max(server.len()) {
            let (p, s) = (proxy.get(i).map_or("-", String::as_str), server.get(i).map_or("-", String::as_str));
            let mark = if p == s { ' ' } else { '!' };
            self.different.push_str(&format!("  {mark} proxy {p:<40.60} server {s:.60}\n"));
        }
    }

    pub fn say_lines(&mut self, title: &str, conversation: &[&str]) {
        self.say(title, &lines(conversation));
    }

    /// A file of conversations; those with a name in braces once for each of its values.
    pub fn say_file(&mut self, file: &str, values: &[(&str, &[&str])]) {
        for (title, lines) in wire::conversations(file) {
            let mut texts = vec![[&[title][..], &lines].concat().join("\n")];
            for (name, each) in values {
                if !texts[0].contains(name) {
                    continue;
                }
                texts = texts.iter().flat_map(|text| each.iter().map(|value| text.replace(name, value))).collect();
            }
            for text in &texts {
                let mut lines = text.lines();
                let title = lines.next().expect("the title");
                self.say_lines(title, &lines.collect::<Vec<_>>());
            }
        }
    }

    pub fn agree(self) {
        assert!(self.different.is_empty(), "answered differently:\n{}", self.different);
    }
}

pub fn lines(conversation: &[&str]) -> Vec<u8> {
    conversation.iter().flat_map(|line| frame(line)).collect()
}
