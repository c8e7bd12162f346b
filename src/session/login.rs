//! Proving who the client is, with the roles and passwords of the coordinator, by the first rule that fits him.

use std::net::IpAddr;
use std::time::Duration;

use super::Shared;
use super::credentials::{Role, RoleSession, SessionBounds};
use crate::auth::hba::{Applicant, Certificate, Method, Rule, Rules};
use crate::auth::scram::ScramServer;
use crate::auth::{RolePassword, Verifier, md5};
use crate::backend::{Identity, Secret};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Client;
use crate::transport::Handshake;
use crate::wire::answer;
use crate::wire::reader::Reader;
use crate::wire::startup::SessionStartup;

/// How clients log in.
#[derive(Debug, Clone)]
pub struct LoginSettings {
    pub rules: Rules,
    /// Sessions in the clear are turned away.
    pub encryption_required: bool,
    /// Longest time from the first byte to the end of the login.
    pub timeout: Duration,
    /// Who may use the admin database: to look and to change, or only to look.
    pub admin_users: Vec<String>,
    pub stats_users: Vec<String>,
    pub sessions: SessionBounds,
    /// Most connections from one address that have not logged in yet.
    pub strangers: usize,
}

/// Authenticates the client. `None` when it has gone away. `handshake` is there when the connection is encrypted.
///
/// Errors: 28P01 for a wrong password or an unknown role alike; 28000 when no rule lets him in, or his certificate is not
/// his; 53300 when the role has all the sessions that it may have.
pub async fn authenticate(
    shared: &Shared,
    client: &mut Client,
    startup: &SessionStartup,
    peer: IpAddr,
    handshake: Option<&Handshake>,
) -> Result<Option<(Identity, RoleSession)>> {
    let login = shared.login.load_full();
    let rule = rule(&login, startup, peer, handshake.is_some())?;
    check_certificate(rule, &startup.user, handshake)?;
    let patience = shared.nodes.settings().load().outage_timeout;
    let role = shared.credentials.find(&shared.catalog, &startup.user, patience).await?;
    let proved = match rule.method {
        Method::Trust | Method::Cert => Ok(Some(Secret::None)),
        Method::Reject => unreachable!("refused with the rule"),
        Method::Md5 if has_md5(role.as_deref()) => by_md5(client, startup, role.as_deref()).await,
        Method::Md5 | Method::ScramSha256 => by_scram(shared, client, startup, role.as_deref(), handshake).await,
    }?;
    let Some(secret) = proved else { return Ok(None) };
    // What follows is about the role, which has proved itself; Postgres tells of it in the same order.
    answer::authentication_ok(client.out());
    let (user, refused) = (&startup.user, SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    let role = role.ok_or_else(|| PgError::fatal(refused, format!("role \"{user}\" does not exist")))?;
    if !role.may_log_in {
        return Err(PgError::fatal(refused, format!("role \"{user}\" is not permitted to log in")));
    }
    let is_admin = login.admin_users.contains(user);
    let session = shared.credentials.open_session(user, &role, &login.sessions, is_admin)?;
    let identity = Identity { user: user.clone(), database: startup.database.clone(), secret };
    Ok(Some((identity, session)))
}

/// The rule that lets this client try.
fn rule<'s>(login: &'s LoginSettings, startup: &SessionStartup, peer: IpAddr, encrypted: bool) -> Result<&'s Rule> {
    let SessionStartup { user, database, .. } = startup;
    let how = if encrypted { "SSL encryption" } else { "no encryption" };
    let refused = |why: String| Err(PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, why));
    if login.encryption_required && !encrypted {
        return refused(format!(
            "no pg_hba.conf entry for host \"{peer}\", user \"{user}\", database \"{database}\", {how}"
        ))
        .map_err(|error| error.hint("Connect with sslmode=require or stronger."));
    }
    let applicant = Applicant { encrypted, database, user, address: peer };
    match login.rules.first(&applicant) {
        Some(rule) if rule.method == Method::Reject => refused(format!(
            "pg_hba.conf rejects connection for host \"{peer}\", user \"{user}\", database \"{database}\", {how}"
        )),
        Some(rule) => Ok(rule),
        None => refused(format!(
            "no pg_hba.conf entry for host \"{peer}\", user \"{user}\", database \"{database}\", {how}"
        )),
    }
}

fn check_certificate(rule: &Rule, user: &str, handshake: Option<&Handshake>) -> Result<()> {
    let refused = |why: String| Err(PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, why));
    let certificate = handshake.and_then(|handshake| handshake.client_certificate.as_ref());
    match (rule.certificate, certificate) {
        (Certificate::NotNeeded, _) | (Certificate::Trusted, Some(_)) => Ok(()),
        (_, None) => refused("connection requires a valid client certificate".to_owned()),
        (Certificate::NamesUser, Some(name)) if name.as_deref() == Some(user) => Ok(()),
        (Certificate::NamesUser, Some(_)) => refused(format!("certificate authentication failed for user \"{user}\"")),
    }
}

fn has_md5(role: Option<&Role>) -> bool {
    role.is_some_and(|role| matches!(role.password, Some(RolePassword::Md5(_))))
}

async fn by_md5(client: &mut Client, startup: &SessionStartup, role: Option<&Role>) -> Result<Option<Secret>> {
    let Some(RolePassword::Md5(stored)) = role.and_then(|role| role.password.as_ref()) else {
        unreachable!("asked for a role with such a password only")
    };
    let salt: [u8; 4] = rand::random();
    answer::authentication_md5(salt, client.out());
    client.flush().await?;
    let Some(payload) = client.login_frame(MAX_SASL_LEN).await? else { return Ok(None) };
    let mut reader = Reader::new(&payload);
    let given = reader.cstr()?;
    reader.end()?;
    if !md5::is_right(stored, salt, given) || role.is_some_and(Role::is_expired) {
        return Err(wrong_password(&startup.user));
    }
    // Servers that store the same hash take it in place of the password.
    Ok(Some(Secret::Md5(stored.clone())))
}

async fn by_scram(
    shared: &Shared,
    client: &mut Client,
    startup: &SessionStartup,
    role: Option<&Role>,
    handshake: Option<&Handshake>,
) -> Result<Option<Secret>> {
    let verifier = match role {
        Some(Role { password: Some(RolePassword::Scram(verifier)), .. }) if role.is_some_and(|r| !r.is_expired()) => {
            verifier.clone()
        }
        // Whoever can't log in so is told no more than who gives a wrong password.
        _ => Verifier::mock(shared.credentials.mock_secret(), &startup.user),
    };
    let mut scram = ScramServer::new(&startup.user, verifier, handshake.and_then(|h| h.binding.clone()));
    answer::authentication_sasl(scram.mechanisms(), client.out());
    client.flush().await?;
    let Some(payload) = client.login_frame(MAX_SASL_LEN).await? else { return Ok(None) };
    let (mechanism, first) = read_sasl_initial(&payload)?;
    answer::authentication_sasl_continue(scram.first(mechanism, first)?, client.out());
    client.flush().await?;
    let Some(payload) = client.login_frame(MAX_SASL_LEN).await? else { return Ok(None) };
    let (last, keys) = scram.last(&payload)?;
    answer::authentication_sasl_final(last, client.out());
    Ok(Some(Secret::Keys(keys)))
}

fn wrong_password(user: &str) -> PgError {
    PgError::fatal(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

/// Mechanism name, length, client-first-message.
fn read_sasl_initial(payload: &[u8]) -> Result<(&[u8], &[u8])> {
    let mut r = Reader::new(payload);
    let mechanism = r.cstr()?;
    let first = r.value()?.ok_or_else(|| PgError::fatal(SqlState::PROTOCOL_VIOLATION, "empty SASL response"))?;
    r.end()?;
    Ok((mechanism, first))
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
