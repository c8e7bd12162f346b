//! The coordinator's servers as people write them, after libpq: hosts separated by commas, and one port or as many.

use std::fmt;

use serde::de::{Deserializer, Error};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::invalid;
use crate::catalog::Address;
use crate::error::Result;

/// One port for all hosts, or one for each. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(pub Vec<u16>);

/// The servers at `hosts`: the first, and the others. Errors: F0000.
pub(super) fn addresses(hosts: &str, Ports(ports): &Ports) -> Result<(Address, Vec<Address>)> {
    let hosts: Vec<_> = hosts.split(',').map(str::trim).collect();
    if hosts.contains(&"") {
        return Err(invalid("coordinator.host", "has an empty name"));
    }
    if ports.len() != 1 && ports.len() != hosts.len() {
        let (ports, hosts) = (ports.len(), hosts.len());
        let why = format!("has {ports} ports for {hosts} hosts: give one, or one for each");
        return Err(invalid("coordinator.port", &why));
    }
    let at = |(host, port): (&str, &u16)| Address { host: host.to_owned(), port: *port };
    let mut all = hosts.into_iter().zip(ports.iter().cycle()).map(at);
    let first = all.next().ok_or_else(|| invalid("coordinator.port", "has no port"))?;
    Ok((first, all.collect()))
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(u16::to_string).collect::<Vec<_>>().join(","))
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a port such as 5432, or several such as \"5432,5433\"")]
        enum Written {
            One(u16),
            Several(String),
        }
        match Written::deserialize(deserializer)? {
            Written::One(port) => Ok(Self(vec![port])),
            Written::Several(text) => {
                let ports: std::result::Result<_, _> = text.split(',').map(|port| port.trim().parse()).collect();
                let wrong = |_| D::Error::custom(format!("\"{text}\" is no list of ports such as \"5432,5433\""));
                ports.map(Self).map_err(wrong)
            }
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0[..] {
            [port] => serializer.serialize_u16(port),
            _ => serializer.collect_str(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    #[test]
    fn hosts_share_one_port_or_have_their_own() {
        let all = |hosts: &str, ports: &[u16]| addresses(hosts, &Ports(ports.to_vec())).unwrap();
        assert_eq!(all("a", &[1]), (at("a", 1), vec![]));
        assert_eq!(all("a, b", &[1]), (at("a", 1), vec![at("b", 1)]));
        assert_eq!(all("a,b,b", &[1, 2, 3]), (at("a", 1), vec![at("b", 2), at("b", 3)]));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let why = |hosts: &str, ports: &[u16]| addresses(hosts, &Ports(ports.to_vec())).unwrap_err();
        assert_eq!(why("a,,b", &[1]).message(), "setting \"coordinator.host\" has an empty name");
        let wrong = "setting \"coordinator.port\" has 3 ports for 2 hosts: give one, or one for each";
        assert_eq!(why("a,b", &[1, 2, 3]).message(), wrong);
    }
}
