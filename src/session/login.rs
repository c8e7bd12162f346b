//! Proving who the client is, with the roles and passwords of the coordinator.

use std::net::IpAddr;
use std::time::Duration;

use super::Shared;
use crate::auth::scram::{MECHANISM, ScramServer};
use crate::auth::{RolePassword, Verifier};
use crate::backend::{Identity, Secret};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Client;
use crate::shard_map::NodeId;
use crate::wire::answer;
use crate::wire::reader::Reader;
use crate::wire::startup::SessionStartup;

/// How clients log in.
#[derive(Debug, Clone)]
pub struct LoginSettings {
    /// Clients from the loopback addresses need no password, and servers are expected to trust us.
    pub trust_loopback: bool,
    /// Longest time from the first byte to the end of the login.
    pub timeout: Duration,
    /// Makes the salts of unknown roles: stable while the process runs, unknown outside.
    pub mock_secret: [u8; 32],
}

/// Authenticates the client. `None` when it has gone away.
///
/// Errors: 28P01 for a wrong password or an unknown role alike.
pub async fn authenticate(
    shared: &Shared,
    client: &mut Client,
    startup: &SessionStartup,
    peer: IpAddr,
) -> Result<Option<Identity>> {
    let identity = |secret| Identity { user: startup.user.clone(), database: startup.database.clone(), secret };
    if shared.login.load().trust_loopback && peer.is_loopback() {
        return Ok(Some(identity(Secret::None)));
    }
    let verifier = verifier_of(shared, &startup.user).await?;
    let mut scram = ScramServer::new(&startup.user, verifier);
    answer::authentication_sasl(&[MECHANISM], client.out());
    client.flush().await?;
    let Some(payload) = client.login_frame(MAX_SASL_LEN).await? else { return Ok(None) };
    let first = read_sasl_initial(&payload)?;
    answer::authentication_sasl_continue(scram.first(first)?, client.out());
    client.flush().await?;
    let Some(payload) = client.login_frame(MAX_SASL_LEN).await? else { return Ok(None) };
    let (last, keys) = scram.last(&payload)?;
    answer::authentication_sasl_final(last, client.out());
    Ok(Some(identity(Secret::Keys(keys))))
}

/// The role's verifier, or one that no password fits.
async fn verifier_of(shared: &Shared, role: &str) -> Result<Verifier> {
    let control = shared.catalog.client(NodeId::COORDINATOR).await?;
    let row = control
        .query_opt(
            "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin \
             AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())",
            &[&role],
        )
        .await
        .map_err(|e| {
            PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "cannot read the coordinator's roles").detail(e.to_string())
        })?;
    let stored = row.and_then(|row| row.get::<_, Option<String>>(0));
    match stored.as_deref().and_then(RolePassword::parse) {
        Some(RolePassword::Scram(verifier)) => Ok(verifier),
        // A role with an MD5 password cannot log in by SCRAM; it is told no more than any other.
        _ => Ok(Verifier::mock(&shared.login.load().mock_secret, role)),
    }
}

/// Mechanism name, length, client-first-message.
fn read_sasl_initial(payload: &[u8]) -> Result<&[u8]> {
    let mut r = Reader::new(payload);
    let mechanism = r.cstr()?;
    if mechanism != MECHANISM.as_bytes() {
        return Err(PgError::fatal(
            SqlState::PROTOCOL_VIOLATION,
            "client selected an invalid SASL authentication mechanism",
        ));
    }
    let first = r.value()?.ok_or_else(|| PgError::fatal(SqlState::PROTOCOL_VIOLATION, "empty SASL response"))?;
    r.end()?;
    Ok(first)
}

/// Splits startup parameter `options` as Postgres does: `-c name=value`, `--name=value`, backslash quotes a space.
///
/// Errors: 42601 for what is neither.
pub fn read_options(options: &str) -> Result<Vec<(String, String)>> {
    let mut words: Vec<String> = vec![String::new()];
    let mut letters = options.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => words.last_mut().expect("never empty").extend(letters.next()),
            l if l.is_ascii_whitespace() => words.push(String::new()),
            l => words.last_mut().expect("never empty").push(l),
        }
    }
    words.retain(|w| !w.is_empty());
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.as_str() {
            "-c" => words.next(),
            _ => word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).map(str::to_owned),
        };
        let pair = setting.as_deref().and_then(|s| s.split_once('='));
        let (name, value) = pair.filter(|(n, _)| !n.is_empty()).ok_or_else(|| {
            PgError::fatal(SqlState::SYNTAX_ERROR, format!("invalid command-line argument for server process: {word}"))
        })?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

const MAX_SASL_LEN: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_like_a_command_line() {
        let got = read_options(r"-c search_path=a,b --geqo=off -cstatement_timeout=5min -c app.x=a\ b").unwrap();
        let want = [("search_path", "a,b"), ("geqo", "off"), ("statement_timeout", "5min"), ("app.x", "a b")];
        assert_eq!(got, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert!(read_options("").unwrap().is_empty());
        for bad in ["-c", "-c =", "-c=", "x", "-c x"] {
            assert_eq!(read_options(bad).unwrap_err().code(), SqlState::SYNTAX_ERROR, "{bad}");
        }
    }
}
