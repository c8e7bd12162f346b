//! SCRAM-SHA-256 on both sides, one message in and one out.
//!
//! ```text
//!   client                                     server
//!     n,,n=,r=<nonce>                   ──>
//!                                       <──    r=<nonce><more>,s=<salt>,i=<iterations>
//!     c=biws,r=<nonce><more>,p=<proof>  ──>
//!                                       <──    v=<signature>
//! ```
//!
//! The client's proof is ClientKey XOR HMAC(StoredKey, messages). So who holds the verifier learns ClientKey from a right
//! proof, and can log in with it wherever the same verifier is stored: that is how a role's login is passed through.
//!
//! Over TLS the exchange can be bound to the server's certificate (SCRAM-SHA-256-PLUS): then nobody in between can pass it
//! on. `binding` is the certificate's hash, `tls-server-end-point` of RFC 5929.
//!
//! Limits: no authorization identity. Source: RFC 5802, RFC 7677; PostgreSQL src/backend/libpq/auth-scram.c for the
//! messages.

#[cfg(test)]
mod tests;

use base64::prelude::{BASE64_STANDARD, Engine};
use rand::RngCore;
use subtle::ConstantTimeEq;

use crate::error::{PgError, Result, SqlState};

use super::verifier::{Verifier, hmac, salted_password, sha256};

/// The SASL mechanism's name on the wire.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// ... of the one that is bound to the TLS channel.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What a login proved, good for logging in to any server with the same verifier. As secret as a password.
#[derive(Clone)]
pub struct ClientKeys {
    pub client_key: [u8; 32],
    /// Checks that the server knows the verifier too.
    pub server_key: [u8; 32],
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKeys")
    }
}

/// The server's side of one login.
#[derive(Debug)]
pub struct ScramServer {
    role: String,
    verifier: Verifier,
    binding: Option<Vec<u8>>,
    state: ServerState,
}

#[derive(Debug)]
enum ServerState {
    Start,
    Challenged { client_first_bare: String, server_first: String, binding: String, nonce: String },
    Ended,
}

impl ScramServer {
    /// `role` is who the startup packet named: the name inside SCRAM plays no part.
    ///
    /// `binding`: of a TLS connection whose certificate can be bound to.
    pub fn new(role: &str, verifier: Verifier, binding: Option<Vec<u8>>) -> Self {
        Self { role: role.to_owned(), verifier, binding, state: ServerState::Start }
    }

    /// What the client may choose from, best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        if self.binding.is_some() { &[MECHANISM_PLUS, MECHANISM] } else { &[MECHANISM] }
    }

    /// Takes the chosen mechanism and client-first-message, gives server-first-message.
    ///
    /// Errors: 08P01 malformed, 0A000 for an authorization identity or an unknown extension.
    pub fn first(&mut self, mechanism: &[u8], client_first: &[u8]) -> Result<Vec<u8>> {
        self.first_with_nonce(mechanism, client_first, &new_nonce())
    }

    fn first_with_nonce(&mut self, mechanism: &[u8], client_first: &[u8], server_nonce: &str) -> Result<Vec<u8>> {
        let is_bound = mechanism == MECHANISM_PLUS.as_bytes();
        if !self.mechanisms().iter().any(|known| known.as_bytes() == mechanism) {
            return Err(PgError::fatal(
                SqlState::PROTOCOL_VIOLATION,
                "client selected an invalid SASL authentication mechanism",
            ));
        }
        if !matches!(std::mem::replace(&mut self.state, ServerState::Ended), ServerState::Start) {
            return Err(malformed("Message out of order."));
        }
        let text = message(client_first)?;
        let (binding, rest) = match text.split_at_checked(2) {
            Some(("p=", rest)) if is_bound => match (rest.split_once(','), &self.binding) {
                (Some((BINDING_TYPE, rest)), Some(binding)) => (bound(binding), rest),
                _ => return Err(malformed("Unsupported SCRAM channel-binding type.")),
            },
            _ if is_bound => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
                ));
            }
            Some(("n,", rest)) => (NO_BINDING.to_owned(), rest),
            // Somebody in between has taken it off our list.
            Some(("y,", _)) if self.binding.is_some() => {
                return Err(malformed(
                    "The client supports SCRAM channel binding but thinks the server does not. However, this server does \
                     support channel binding.",
                ));
            }
            Some(("y,", rest)) => (NO_BINDING_SEEN.to_owned(), rest),
            Some(("p=", _)) => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                ));
            }
            _ => return Err(malformed("Unexpected channel-binding flag.")),
        };
        let bare = match rest.strip_prefix(',') {
            Some(bare) => bare,
            None if rest.starts_with("a=") => {
                return Err(unsupported("client uses authorization identity, but it is not supported"));
            }
            None => return Err(malformed("Unexpected attribute in client-first-message.")),
        };
        if bare.starts_with("m=") {
            return Err(unsupported("client requires an unsupported SCRAM extension"));
        }
        // Extensions that may follow the nonce are ignored.
        let mut attributes = bare.split(',');
        attribute(attributes.next(), "n=")?;
        let client_nonce = attribute(attributes.next(), "r=")?;
        if client_nonce.is_empty() || client_nonce.len() > NONCE_BYTES_MAX || !is_printable(client_nonce) {
            return Err(malformed("Non-printable characters in SCRAM nonce, or a nonce of bad length."));
        }
        let nonce = format!("{client_nonce}{server_nonce}");
        let salt = BASE64_STANDARD.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let answer = server_first.clone().into_bytes();
        self.state = ServerState::Challenged { client_first_bare: bare.to_owned(), server_first, binding, nonce };
        Ok(answer)
    }

    /// Takes client-final-message, gives server-final-message and the keys that the client proved to have.
    ///
    /// Errors: 28P01 for a wrong password or a mock verifier, 08P01 malformed.
    pub fn last(&mut self, client_final: &[u8]) -> Result<(Vec<u8>, ClientKeys)> {
        let state = std::mem::replace(&mut self.state, ServerState::Ended);
        let ServerState::Challenged { client_first_bare, server_first, binding, nonce } = state else {
            return Err(malformed("Message out of order."));
        };
        let text = message(client_final)?;
        let (without_proof, proof) =
            text.rsplit_once(",p=").ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        let mut attributes = without_proof.split(',');
        if attribute(attributes.next(), "c=")? != binding {
            return Err(malformed("Unexpected SCRAM channel-binding attribute in client-final-message."));
        }
        if attribute(attributes.next(), "r=")? != nonce {
            return Err(
                PgError::fatal(SqlState::PROTOCOL_VIOLATION, "invalid SCRAM response").detail("Nonce does not match.")
            );
        }
        let proof = key(proof).ok_or_else(|| malformed("Malformed proof in client-final-message."))?;

        let auth_message = format!("{client_first_bare},{server_first},{without_proof}");
        let client_key = xor(proof, hmac(&self.verifier.stored_key, &[auth_message.as_bytes()]));
        let is_right: bool = sha256(&client_key).ct_eq(&self.verifier.stored_key).into();
        if !is_right || self.verifier.is_mock {
            let message = format!("password authentication failed for user \"{}\"", self.role);
            return Err(PgError::fatal(SqlState::INVALID_PASSWORD, message));
        }
        let signature = hmac(&self.verifier.server_key, &[auth_message.as_bytes()]);
        let answer = format!("v={}", BASE64_STANDARD.encode(signature)).into_bytes();
        Ok((answer, ClientKeys { client_key, server_key: self.verifier.server_key }))
    }
}

/// The client's side of one login, towards a server.
#[derive(Debug)]
pub struct ScramClient {
    secret: Secret,
    /// The TLS channel that it is bound to.
    binding: Option<Vec<u8>>,
    state: ClientState,
}

enum Secret {
    Password(String),
    Keys(ClientKeys),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Debug)]
enum ClientState {
    Start { nonce: String },
    Asked { nonce: String },
    Proved { auth_message: String, keys: ClientKeys },
    Ended,
}

impl ScramClient {
    pub fn with_password(password: &str) -> Self {
        Self::new(Secret::Password(password.to_owned()), new_nonce())
    }

    /// Passes a login through: right where the server stores the verifier that the keys were proved against, byte for
    /// byte (a salt of its own there means other keys).
    pub fn with_keys(keys: ClientKeys) -> Self {
        Self::new(Secret::Keys(keys), new_nonce())
    }

    fn new(secret: Secret, nonce: String) -> Self {
        Self { secret, binding: None, state: ClientState::Start { nonce } }
    }

    /// Binds it to a TLS channel whose server offers that.
    pub fn bound_to(self, binding: Vec<u8>) -> Self {
        Self { binding: Some(binding), ..self }
    }

    pub fn mechanism(&self) -> &'static str {
        if self.binding.is_some() { MECHANISM_PLUS } else { MECHANISM }
    }

    fn header(&self) -> String {
        self.binding.as_ref().map_or("n,,".to_owned(), |_| format!("p={BINDING_TYPE},,"))
    }

    /// client-first-message, for SASLInitialResponse. The server knows the role from the startup packet.
    pub fn first(&mut self) -> Result<Vec<u8>> {
        let ClientState::Start { nonce } = std::mem::replace(&mut self.state, ClientState::Ended) else {
            return Err(bad_server("Message out of order."));
        };
        let first = format!("{}{CLIENT_FIRST_START}{nonce}", self.header()).into_bytes();
        self.state = ClientState::Asked { nonce };
        Ok(first)
    }

    /// Takes server-first-message, gives client-final-message. With a password it costs the server's iterations in CPU.
    pub fn last(&mut self, server_first: &[u8]) -> Result<Vec<u8>> {
        let ClientState::Asked { nonce } = std::mem::replace(&mut self.state, ClientState::Ended) else {
            return Err(bad_server("Message out of order."));
        };
        let text = message(server_first).map_err(|_| bad_server("Not a SCRAM message."))?;
        let mut attributes = text.split(',');
        let mut next = |name| attribute(attributes.next(), name).map_err(|_| bad_server("Attribute missing."));
        let (full_nonce, salt, iterations) = (next("r=")?, next("s=")?, next("i=")?);
        let is_ours = full_nonce.strip_prefix(&nonce).is_some_and(|more| !more.is_empty() && is_printable(more));
        if !is_ours || full_nonce.len() > NONCE_BYTES_MAX {
            return Err(bad_server("Nonce does not match."));
        }
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| bad_server("Malformed salt."))?;
        let iterations: u32 = iterations
            .parse()
            .ok()
            .filter(|i| (1..=ITERATIONS_MAX).contains(i))
            .ok_or_else(|| bad_server("Iteration count out of range."))?;
        let keys = match &self.secret {
            Secret::Keys(keys) => keys.clone(),
            Secret::Password(password) => {
                let salted = salted_password(password, &salt, iterations);
                ClientKeys { client_key: hmac(&salted, &[b"Client Key"]), server_key: hmac(&salted, &[b"Server Key"]) }
            }
        };
        let binding = self.binding.as_deref().map_or(NO_BINDING.to_owned(), bound);
        let without_proof = format!("c={binding},r={full_nonce}");
        let auth_message = format!("{CLIENT_FIRST_START}{nonce},{text},{without_proof}");
        let signature = hmac(&sha256(&keys.client_key), &[auth_message.as_bytes()]);
        let proof = BASE64_STANDARD.encode(xor(keys.client_key, signature));
        self.state = ClientState::Proved { auth_message, keys };
        Ok(format!("{without_proof},p={proof}").into_bytes())
    }

    /// Takes server-final-message: does the server know the verifier? Gives the keys, which save the next login its work.
    pub fn verify(&mut self, server_final: &[u8]) -> Result<ClientKeys> {
        let ClientState::Proved { auth_message, keys } = std::mem::replace(&mut self.state, ClientState::Ended) else {
            return Err(bad_server("Message out of order."));
        };
        let text = message(server_final).map_err(|_| bad_server("Not a SCRAM message."))?;
        let signature = text.split(',').next().and_then(|v| key(v.strip_prefix("v=")?));
        let expected = hmac(&keys.server_key, &[auth_message.as_bytes()]);
        match signature {
            Some(signature) if bool::from(signature.ct_eq(&expected)) => Ok(keys),
            _ => Err(bad_server("Incorrect server signature.")),
        }
    }
}

fn message(bytes: &[u8]) -> Result<&str> {
    let is_sane = bytes.len() <= MESSAGE_BYTES_MAX && !bytes.contains(&0);
    std::str::from_utf8(bytes).ok().filter(|_| is_sane).ok_or_else(|| malformed("The message is too long or no text."))
}

fn attribute<'a>(found: Option<&'a str>, name: &str) -> Result<&'a str> {
    found
        .and_then(|a| a.strip_prefix(name))
        .ok_or_else(|| malformed(&format!("Expected attribute \"{}\".", name.trim_end_matches('='))))
}

/// Printable ASCII; commas never get here.
fn is_printable(nonce: &str) -> bool {
    nonce.bytes().all(|b| b.is_ascii_graphic())
}

fn key(base64: &str) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(base64).ok()?.try_into().ok()
}

fn xor(mut left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    for (l, r) in left.iter_mut().zip(right) {
        *l ^= r;
    }
    left
}

fn new_nonce() -> String {
    let mut bytes = [0; 18];
    rand::rng().fill_bytes(&mut bytes);
    BASE64_STANDARD.encode(bytes)
}

fn malformed(detail: &str) -> PgError {
    PgError::fatal(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message").detail(detail)
}

fn unsupported(message: &str) -> PgError {
    PgError::fatal(SqlState::FEATURE_NOT_SUPPORTED, message)
}

/// A server that breaks the exchange, or is not the one that it should be.
fn bad_server(detail: &str) -> PgError {
    PgError::new(SqlState::UNABLE_TO_CONNECT, "SCRAM authentication with the server failed").detail(detail)
}

/// What the client's second message says of the channel: its header and the certificate's hash.
fn bound(binding: &[u8]) -> String {
    BASE64_STANDARD.encode([format!("p={BINDING_TYPE},,").as_bytes(), binding].concat())
}

const BINDING_TYPE: &str = "tls-server-end-point";

const CLIENT_FIRST_START: &str = "n=,r=";

/// base64 of `n,,`: the client knows no channel binding.
const NO_BINDING: &str = "biws";

/// base64 of `y,,`: the client knows it and believes that the server doesn't, which is so.
const NO_BINDING_SEEN: &str = "eSws";

/// More than any client sends; the limit before login is 10 kB in all.
const MESSAGE_BYTES_MAX: usize = 4096;

const NONCE_BYTES_MAX: usize = 1024;

/// A hostile server must not keep a core busy: a hundred thousand take a twentieth of a second.
const ITERATIONS_MAX: u32 = 100_000;
