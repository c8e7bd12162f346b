//! How a server reads texts: as the proxy does, whatever code that nobody could look into has set.
//!
//! ```text
//!   DO, a function ──set_config──> the server reports it ──> put back before the client's next text comes
//! ```

use super::Server;

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
    /// May it read texts otherwise than the proxy?
    pub fn reads_otherwise(&self) -> bool {
        self.reads_otherwise
    }

    /// Puts that back; the settings that were otherwise, as the client is to be told. The server is not in a failed transaction.
    pub async fn read_as_the_proxy(&mut self) -> Vec<(String, String)> {
        let mut put_back = Vec::new();
        for (name, ours) in READ_BY {
            if self.parameter(name).is_some_and(|value| is_otherwise(name, value)) {
                if self.query(&format!("SET {name} TO '{ours}'")).await.is_err() {
                    self.poison();
                }
                put_back.push((name.to_owned(), ours.to_owned()));
            }
        }
        self.reads_otherwise = false;
        put_back
    }
}
