//! Stored passwords, as pg_authid.rolpassword holds them.
//!
//! ```text
//!   SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>        base64; nothing in it is the password
//! ```
//!
//! Source: PostgreSQL manual, pg_authid; RFC 5802, section 3, for the keys.

use base64::prelude::{BASE64_STANDARD, Engine};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// A role's stored password.
#[derive(Debug, Clone)]
pub enum RolePassword {
    Scram(Verifier),
    /// `md5` and 32 hex digits.
    Md5(String),
}

impl RolePassword {
    /// None for what is neither kind (Postgres then refuses the role too).
    pub fn parse(rolpassword: &str) -> Option<Self> {
        if let Some(hex) = rolpassword.strip_prefix("md5") {
            let is_hash = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            return is_hash.then(|| RolePassword::Md5(rolpassword.to_owned()));
        }
        Verifier::parse(rolpassword).map(RolePassword::Scram)
    }
}

/// What is needed to check a SCRAM-SHA-256 login, and to prove to the client that we know it.
#[derive(Clone)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; 32],
    pub(super) server_key: [u8; 32],
    /// Made up for a role that cannot log in: whatever the proof, the login fails.
    pub(super) is_mock: bool,
}

impl Verifier {
    /// Reads the form with which this file starts.
    pub fn parse(rolpassword: &str) -> Option<Self> {
        let rest = rolpassword.strip_prefix("SCRAM-SHA-256$")?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| <[u8; 32]>::try_from(BASE64_STANDARD.decode(text).ok()?).ok();
        Some(Self {
            iterations: iterations.parse().ok().filter(|i| *i > 0)?,
            salt: BASE64_STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
            is_mock: false,
        })
    }

    /// For an unknown role, or one without a SCRAM password: an exchange that looks real and fails at its end.
    ///
    /// One role has one salt as long as `secret` is the same, so asking twice tells nothing.
    pub fn mock(secret: &[u8; 32], role: &str) -> Self {
        let salt = hmac(secret, &[b"salt", role.as_bytes()]);
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt: salt[..SALT_BYTES].to_vec(),
            stored_key: hmac(secret, &[b"stored key", role.as_bytes()]),
            server_key: hmac(secret, &[b"server key", role.as_bytes()]),
            is_mock: true,
        }
    }
}

/// The form with which this file starts.
impl std::fmt::Display for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        let (salt, stored, server) = (base64(&self.salt), base64(&self.stored_key), base64(&self.server_key));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

/// Keys stay out of logs.
impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier {{ iterations: {} }}", self.iterations)
    }
}

/// What Postgres stores for `password`. Costs `iterations` HMACs of CPU: about 2 ms for 4096.
pub fn hash_password(password: &str, salt: &[u8], iterations: u32) -> Verifier {
    let salted = salted_password(password, salt, iterations);
    Verifier {
        iterations,
        salt: salt.to_vec(),
        stored_key: sha256(&hmac(&salted, &[b"Client Key"])),
        server_key: hmac(&salted, &[b"Server Key"]),
        is_mock: false,
    }
}

/// SaltedPassword: PBKDF2 with HMAC-SHA-256, one block. A password that SASLprep refuses is taken as it is, as Postgres does.
pub(super) fn salted_password(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let key = keyed(prepared.as_bytes());
    let block = |parts: &[&[u8]]| mac(key.clone(), parts);
    let mut last = block(&[salt, &1u32.to_be_bytes()]);
    let mut result = last;
    for _ in 1..iterations {
        last = block(&[&last]);
        for (r, l) in result.iter_mut().zip(last) {
            *r ^= l;
        }
    }
    result
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    mac(keyed(key), parts)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn mac(mut mac: Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Postgres's default.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// Postgres's length of a salt.
pub const SALT_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    // ALTER ROLE ... PASSWORD 'pencil', with the salt of RFC 7677.
    const STORED: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_stored_password_survives_reading_and_writing() {
        assert_eq!(Verifier::parse(STORED).unwrap().to_string(), STORED);
    }

    #[test]
    fn hashing_makes_what_postgres_stores() {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        assert_eq!(hash_password("pencil", &salt, 4096).to_string(), STORED);
    }

    #[test]
    fn what_is_no_stored_password_is_none() {
        for text in [
            "",
            "secret",
            "md5",
            "md5zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$AAAA:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
            "SCRAM-SHA-256$99999999999:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        ] {
            assert!(RolePassword::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_mock_has_one_salt_per_role_and_no_key_in_its_debug_text() {
        let mock = |role| Verifier::mock(&[7; 32], role);
        assert_eq!(mock("a").to_string(), mock("a").to_string());
        assert_ne!(mock("a").salt, mock("b").salt);
        assert_eq!(format!("{:?}", mock("a")), "Verifier { iterations: 4096 }");
    }
}
