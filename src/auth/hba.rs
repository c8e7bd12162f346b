//! Who may log in from where, and how he proves who he is: rules as in `pg_hba.conf`, the first that fits decides.
//!
//! ```text
//!   hostssl  all  app,report  10.0.0.0/8  scram-sha-256
//!   type     database  user   address     method  options
//! ```
//!
//! Limits: no groups (`+role`), regular expressions, files (`@`), `replication`, `samehost`, `samenet`.
//! Source: PostgreSQL manual, "The pg_hba.conf File".

use std::net::IpAddr;

/// Rules in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `hostssl`, `hostnossl`, or either.
    encrypted: Option<bool>,
    databases: Names,
    users: Names,
    addresses: Addresses,
    pub method: Method,
    /// `clientcert`: what the client's TLS certificate must be, besides the method.
    pub certificate: Certificate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Trust,
    Reject,
    /// SCRAM-SHA-256, bound to the TLS channel where the client can.
    ScramSha256,
    /// MD5 for roles with an MD5 password, SCRAM for others.
    Md5,
    /// The client's certificate names the role.
    Cert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    NotNeeded,
    /// It leads to a root that we know.
    Trusted,
    /// ... and its common name is the role's.
    NamesUser,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    Listed(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Addresses {
    All,
    Network { base: IpAddr, bits: u8 },
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    pub encrypted: bool,
    pub database: &'a str,
    pub user: &'a str,
    pub address: IpAddr,
}

impl Rules {
    /// Loopback by `loopback`, everybody else by SCRAM.
    pub fn by_password(loopback: Method) -> Self {
        let rule = |base: &str, bits, method| Rule {
            encrypted: None,
            databases: Names::All,
            users: Names::All,
            addresses: Addresses::Network { base: base.parse().expect("an address"), bits },
            method,
            certificate: Certificate::NotNeeded,
        };
        Self(vec![
            rule("127.0.0.0", 8, loopback),
            rule("::1", 128, loopback),
            rule("0.0.0.0", 0, Method::ScramSha256),
            rule("::", 0, Method::ScramSha256),
        ])
    }

    /// Errors: the line that is no rule, and why.
    pub fn parse<'l>(lines: impl IntoIterator<Item = &'l str>) -> Result<Self, String> {
        let parse = |line: &str| Rule::parse(line).map_err(|why| format!("has a line \"{line}\" {why}"));
        lines.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// The rule that decides; none: nobody may.
    pub fn first(&self, applicant: &Applicant<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.fits(applicant))
    }
}

impl Rule {
    fn fits(&self, applicant: &Applicant<'_>) -> bool {
        self.encrypted.is_none_or(|encrypted| encrypted == applicant.encrypted)
            && self.databases.have(applicant.database, applicant.user)
            && self.users.have(applicant.user, "")
            && self.addresses.have(applicant.address.to_canonical())
    }

    fn parse(line: &str) -> Result<Self, String> {
        let words = words(line)?;
        let mut words = words.iter().map(String::as_str);
        let mut next = |what: &str| words.next().ok_or_else(|| format!("without {what}"));
        let encrypted = match next("a type")? {
            "host" => None,
            "hostssl" => Some(true),
            "hostnossl" => Some(false),
            other => return Err(format!("with the unknown type \"{other}\": host, hostssl and hostnossl are known")),
        };
        let databases = Names::parse(next("a database")?)?;
        let users = Names::parse(next("a user")?)?;
        let mut address = next("an address")?.to_owned();
        let mut method = next("a method")?;
        // An address and its mask may be two words.
        if let Ok(mask) = method.parse::<IpAddr>() {
            address = format!("{address}/{}", mask_bits(mask).ok_or_else(|| format!("with the bad mask {mask}"))?);
            method = next("a method")?;
        }
        let method = match method {
            "trust" => Method::Trust,
            "reject" => Method::Reject,
            "scram-sha-256" => Method::ScramSha256,
            "md5" => Method::Md5,
            "cert" => Method::Cert,
            other => {
                return Err(format!(
                    "with the unknown method \"{other}\": trust, reject, scram-sha-256, md5 and cert are known"
                ));
            }
        };
        let mut certificate = if method == Method::Cert { Certificate::NamesUser } else { Certificate::NotNeeded };
        for option in words {
            certificate = match option {
                "clientcert=verify-ca" if method != Method::Cert => Certificate::Trusted,
                "clientcert=verify-full" => Certificate::NamesUser,
                other => return Err(format!("with the unknown option \"{other}\"")),
            };
        }
        if certificate != Certificate::NotNeeded && encrypted != Some(true) {
            return Err("that asks for a certificate and is not of type hostssl".to_owned());
        }
        Ok(Self { encrypted, databases, users, addresses: Addresses::parse(&address)?, method, certificate })
    }
}

impl Names {
    fn parse(word: &str) -> Result<Self, String> {
        let names: Vec<String> = word.split(',').map(str::to_owned).collect();
        if let Some(strange) = names.iter().find(|name| name.starts_with(['+', '@', '/']) || *name == "replication") {
            return Err(format!("with \"{strange}\", which is not supported"));
        }
        Ok(if names.iter().any(|name| name == "all") { Names::All } else { Names::Listed(names) })
    }

    fn have(&self, name: &str, same_as: &str) -> bool {
        match self {
            Names::All => true,
            Names::Listed(names) => names
                .iter()
                .any(|listed| listed == name || listed == "sameuser" && !same_as.is_empty() && name == same_as),
        }
    }
}

impl Addresses {
    fn parse(word: &str) -> Result<Self, String> {
        if word == "all" {
            return Ok(Addresses::All);
        }
        let (base, bits) = word.split_once('/').map_or((word, None), |(base, bits)| (base, Some(bits)));
        let bad = || format!("with the bad address \"{word}\"");
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // Postgres wants the length of the mask, so that nobody means a network and names a host.
            None => return Err(format!("with the address \"{word}\" without the length of its mask")),
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(bad)?,
        };
        Ok(Addresses::Network { base, bits })
    }

    fn have(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Addresses::All, _) => true,
            (Addresses::Network { base: IpAddr::V4(base), bits }, IpAddr::V4(address)) => {
                (u32::from(*base) ^ u32::from(address)).checked_shr(32 - u32::from(*bits)).unwrap_or(0) == 0
            }
            (Addresses::Network { base: IpAddr::V6(base), bits }, IpAddr::V6(address)) => {
                (u128::from(*base) ^ u128::from(address)).checked_shr(128 - u32::from(*bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The length of a mask that is ones, then zeros.
fn mask_bits(mask: IpAddr) -> Option<u32> {
    match mask {
        IpAddr::V4(mask) => {
            let mask = u32::from(mask);
            (mask.leading_ones() + mask.trailing_zeros() == 32).then(|| mask.leading_ones())
        }
        IpAddr::V6(mask) => {
            let mask = u128::from(mask);
            (mask.leading_ones() + mask.trailing_zeros() == 128).then(|| mask.leading_ones())
        }
    }
}

/// Splits at blanks; "double quotes" keep a word together.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for letter in line.chars() {
        match letter {
            '"' => (quoted, begun) = (!quoted, true),
            blank if blank.is_whitespace() && !quoted => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            letter => {
                word.push(letter);
                begun = true;
            }
        }
    }
    if quoted {
        return Err("with an open quote".to_owned());
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applicant<'a>(encrypted: bool, user: &'a str, address: &str) -> Applicant<'a> {
        Applicant { encrypted, database: "app", user, address: address.parse().expect("an address") }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = Rules::parse([
            "host all bad all reject",
            "hostssl all all 10.0.0.0/8 cert",
            "host app,other \"my user\",app 10.1.0.0 255.255.0.0 scram-sha-256",
            "host all all ::1/128 trust",
            "hostnossl sameuser all 192.168.0.0/16 md5",
        ])
        .expect("rules");
        let method =
            |encrypted, user, address| rules.first(&applicant(encrypted, user, address)).map(|rule| rule.method);
        assert_eq!(method(true, "bad", "10.0.0.1"), Some(Method::Reject));
        assert_eq!(method(true, "app", "10.255.0.1"), Some(Method::Cert));
        assert_eq!(method(false, "my user", "10.1.2.3"), Some(Method::ScramSha256));
        assert_eq!(method(false, "my user", "10.2.2.3"), None);
        assert_eq!(method(false, "x", "::1"), Some(Method::Trust));
        assert_eq!(method(false, "app", "192.168.3.4"), Some(Method::Md5));
        assert_eq!(method(false, "x", "192.168.3.4"), None);
        assert_eq!(method(true, "x", "11.0.0.1"), None);
        assert_eq!(method(true, "app", "::ffff:10.0.0.1"), Some(Method::Cert), "IPv4 in IPv6 is IPv4");
    }

    #[test]
    fn loopback_and_others_are_told_apart_when_there_are_no_rules() {
        let rules = Rules::by_password(Method::Trust);
        let method = |address| rules.first(&applicant(false, "x", address)).map(|rule| rule.method);
        assert_eq!(method("127.0.0.1"), Some(Method::Trust));
        assert_eq!(method("::1"), Some(Method::Trust));
        assert_eq!(method("10.0.0.1"), Some(Method::ScramSha256));
        assert_eq!(method("2001:db8::1"), Some(Method::ScramSha256));
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for (line, why) in [
            ("local all all trust", "unknown type"),
            ("host all all 10.0.0.1 trust", "without the length of its mask"),
            ("host all all 10.0.0.0/33 trust", "bad address"),
            ("host all all 10.0.0.0 255.0.255.0 trust", "bad mask"),
            ("host all +staff all trust", "not supported"),
            ("host all all all ldap", "unknown method"),
            ("host all all all cert", "not of type hostssl"),
            ("hostssl all all all scram-sha-256 map=x", "unknown option"),
            ("host all \"all all trust", "open quote"),
            ("host all all", "without an address"),
        ] {
            let error = Rules::parse([line]).expect_err(line);
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}
