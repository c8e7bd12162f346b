//! How a server reads texts: as the proxy does, whatever code that nobody could look into has set.
//!
//! ```text
//!   DO, a function ──set_config──> the server reports it ──> put back before the client's next text comes
//!   the same, and more behind it in one packet ──> SET of the proxy's own between the two, because nothing is reported before the Sync
//! ```

use super::Server;
use crate::wire::frontend::Bind;
use crate::wire::reply_queue::To;

/// What texts are read by, and how the proxy reads them.
const READ_BY: [(&str, &str); 2] = [("standard_conforming_strings", "on"), ("client_encoding", "UTF8")];

/// As the server reports it. SQL_ASCII takes bytes as they are, so UTF8 stays what it is.
pub(super) fn is_otherwise(name: &str, value: &str) -> bool {
    match name {
        "standard_conforming_strings" => value != "on",
        "client_encoding" => !["UTF8", "SQL_ASCII"].contains(&value),
        _ => false,
    }
}

impl Server {
    /// Code that nobody can look into is on its way: what it sets is reported with the next ReadyForQuery only.
    pub fn note_hidden_code(&mut self) {
        self.has_hidden_code = true;
    }

    /// May it read texts otherwise than the proxy?
    pub fn may_read_otherwise(&self) -> bool {
        self.reads_otherwise || self.has_hidden_code
    }

    /// Has what is queued from here on read as the proxy reads it, in a transaction that has not failed. The portal without a name is
    /// gone then.
    pub fn queue_reading(&mut self) {
        if !self.may_read_otherwise() {
            return;
        }
        for (name, ours) in READ_BY {
            self.queue_parse("", &put_back(name, ours), &[], To::Nobody);
            self.queue_bind(&Bind::text(&[]), b"", "", To::Nobody);
            self.queue_execute(b"", 0, To::Nobody);
        }
        self.has_hidden_code = false;
    }

    /// The same for a server that owes nothing; what the client is to be told then.
    pub async fn read_as_the_proxy(&mut self) -> Vec<(String, String)> {
        let (otherwise, may_be_any) = (self.told_otherwise(), self.has_hidden_code);
        for (name, ours) in READ_BY {
            let is_otherwise = otherwise.iter().any(|(other, _)| other == name);
            if (is_otherwise || may_be_any) && self.query(&put_back(name, ours)).await.is_err() {
                self.poison();
            }
            self.expect_parameters(|reported| reported == name);
        }
        (self.reads_otherwise, self.has_hidden_code) = (false, false);
        otherwise
    }

    /// The settings that it has told to be otherwise, as they should be.
    fn told_otherwise(&self) -> Vec<(String, String)> {
        let otherwise = READ_BY.iter().filter(|(name, _)| self.parameter(name).is_some_and(|v| is_otherwise(name, v)));
        otherwise.map(|(name, ours)| ((*name).to_owned(), (*ours).to_owned())).collect()
    }
}

fn put_back(name: &str, ours: &str) -> String {
    format!("SET {name} TO '{ours}'")
}
