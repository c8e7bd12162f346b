//! Opening a connection and logging in.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server::Server;
use crate::auth::md5;
use crate::auth::password_file::PasswordFile;
use crate::auth::scram::{ClientKeys, MECHANISM_PLUS, ScramClient};
use crate::error::{PgError, Result, SqlState};
use crate::transport::{Dialed, Dialer, Stream, timer};
use crate::wire::frame::{begin_frame, end_frame};
use crate::wire::reader::Reader;
use crate::wire::reply_queue::{Reply, To};
use crate::wire::startup;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Who logs in, and with what.
#[derive(Clone)]
pub struct Identity {
    pub user: String,
    pub database: String,
    pub secret: Secret,
}

/// What a role proves itself with.
#[derive(Clone)]
pub enum Secret {
    /// The server trusts us, or the password file knows the role.
    None,
    Password(String),
    /// What pg_authid stores for an MD5 password: it answers for the password wherever the same is stored.
    Md5(String),
    /// The client's own SCRAM keys: they log in wherever the role has the same verifier.
    Keys(ClientKeys),
}

/// How servers are reached, and passwords of roles that showed none to us. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerAccess {
    pub dialer: Dialer,
    pub passwords: PasswordFile,
}

impl ServerAccess {
    /// `identity`, with its password from the file where it has none.
    fn identity<'a>(&self, address: &ServerAddress, identity: &'a Identity) -> Cow<'a, Identity> {
        let password = match identity.secret {
            Secret::None => {
                self.passwords.find(&address.host, address.port, &identity.database, &identity.user).map(str::to_owned)
            }
            Secret::Password(_) | Secret::Md5(_) | Secret::Keys(_) => None,
        };
        match password {
            Some(password) => Cow::Owned(Identity { secret: Secret::Password(password), ..identity.clone() }),
            None => Cow::Borrowed(identity),
        }
    }
}

impl Default for ServerAccess {
    /// Unencrypted, knowing no passwords.
    fn default() -> Self {
        Self { dialer: Dialer::plain(), passwords: PasswordFile::default() }
    }
}

impl Server {
    /// Connects, logs in as `identity` and waits for ReadyForQuery.
    ///
    /// Errors: 08006 with Citus's text when the node cannot be reached, 08001 when it does not encrypt as it must; the
    /// server's own when it refuses.
    pub async fn connect(
        access: &ServerAccess,
        address: &ServerAddress,
        identity: &Identity,
        deadline: Duration,
    ) -> Result<Server> {
        Self::connect_with(access, address, identity, &[], deadline).await
    }

    /// As `connect`, with more startup parameters.
    pub async fn connect_with(
        access: &ServerAccess,
        address: &ServerAddress,
        identity: &Identity,
        parameters: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<Server> {
        let unreachable = |code: SqlState, why: String| {
            PgError::new(
                code,
                format!(
                    "connection to the remote node {}@{address} failed with the following error: {why}",
                    identity.user
                ),
            )
        };
        match timer::timeout(deadline, Self::connect_now(access, address, identity, parameters)).await {
            Ok(Ok(server)) => Ok(server),
            Ok(Err(error)) if matches!(error.code(), SqlState::CONNECTION_FAILURE | SqlState::UNABLE_TO_CONNECT) => {
                Err(unreachable(error.code(), error.detail_text().unwrap_or(error.message()).to_owned()))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(unreachable(SqlState::CONNECTION_FAILURE, "timeout expired".to_owned())),
        }
    }

    async fn connect_now(
        access: &ServerAccess,
        address: &ServerAddress,
        identity: &Identity,
        parameters: &[(&str, &str)],
    ) -> Result<Server> {
        let Dialed { mut stream, binding } = access.dialer.dial(&address.host, address.port).await?;
        let mut out = BytesMut::new();
        let mut session: Vec<(&str, &str)> = vec![
            ("user", &identity.user),
            ("database", &identity.database),
            ("client_encoding", "UTF8"),
            // Whatever its role, database or server have for a default: texts are read so here.
            ("standard_conforming_strings", "on"),
            ("application_name", "tenantry"),
        ];
        session.extend(SERVER_KEEPALIVES);
        session.extend(parameters);
        startup::write_session(&session, &mut out);
        stream.write_all(&out).await?;
        stream.flush().await?;
        authenticate(&mut stream, &access.identity(address, identity), binding).await?;
        let mut server = Server::new(stream);
        server.owe(Reply::Sync, To::Nobody);
        loop {
            let frame = server.next_frame().await?;
            match frame.tag {
                b'K' => {
                    let mut payload = frame.payload();
                    if payload.len() < 8 {
                        return Err(broken("short BackendKeyData"));
                    }
                    let pid = payload.get_u32();
                    server.link().set_pid(pid);
                    server.key = (pid, frame.bytes.slice(frame.bytes.len() - payload.len()..));
                }
                b'S' => server.note_parameter(frame.payload()),
                b'E' => return Err(PgError::from_body(frame.payload())),
                b'Z' => {
                    server.judge(frame.tag, frame.payload())?;
                    return Ok(server);
                }
                _ => {}
            }
        }
    }
}

/// The authentication conversation, read frame by frame straight off the socket: nothing behind it is consumed.
/// A server may ask for SCRAM or MD5; a password in clear text is not sent to anybody.
async fn authenticate(stream: &mut Stream, identity: &Identity, binding: Option<Vec<u8>>) -> Result<()> {
    let mut scram: Option<ScramClient> = None;
    loop {
        let (tag, payload) = read_frame(stream).await?;
        match tag {
            b'E' => return Err(PgError::from_body(&payload)),
            b'R' => {}
            _ => return Err(broken("not a Postgres server")),
        }
        let mut r = Reader::new(&payload);
        match (r.u32()?, &mut scram) {
            (0, None) => return Ok(()),
            (0, Some(_)) => return Err(broken("server skipped the end of SCRAM authentication")),
            (5, _) => {
                let salt = r.bytes(4)?.try_into().expect("four bytes were read");
                let stored = match &identity.secret {
                    Secret::Password(password) => md5::stored(&identity.user, password),
                    Secret::Md5(stored) => stored.clone(),
                    Secret::None | Secret::Keys(_) => return Err(no_secret(identity)),
                };
                let answer = md5::response(&stored, salt);
                send(stream, |out| {
                    out.put_slice(answer.as_bytes());
                    out.put_u8(0);
                })
                .await?;
            }
            (10, _) => {
                let client = match &identity.secret {
                    Secret::None | Secret::Md5(_) => return Err(no_secret(identity)),
                    Secret::Password(password) => ScramClient::with_password(password),
                    Secret::Keys(keys) => ScramClient::with_keys(keys.clone()),
                };
                let offers_binding = r.rest().split(|byte| *byte == 0).any(|name| name == MECHANISM_PLUS.as_bytes());
                let mut client = match binding.clone().filter(|_| offers_binding) {
                    Some(binding) => client.bound_to(binding),
                    None => client,
                };
                let first = client.first()?;
                send(stream, |out| {
                    out.put_slice(client.mechanism().as_bytes());
                    out.put_u8(0);
                    out.put_u32(first.len() as u32);
                    out.put_slice(&first);
                })
                .await?;
                scram = Some(client);
            }
            (11, Some(client)) => {
                let last = client.last(r.rest())?;
                send(stream, |out| out.put_slice(&last)).await?;
            }
            (12, Some(client)) => {
                client.verify(r.rest())?;
                scram = None;
            }
            (code, _) => return Err(unacceptable(code)),
        }
    }
}

/// What is said of a server that wants us to prove ourselves by a method that we don't take part in.
pub fn unacceptable(method: u32) -> PgError {
    let message = match method {
        CLEARTEXT => "a node asks for the password in clear text, which nobody gets".to_owned(),
        _ => format!("a node asks for authentication method {method}, which is not supported"),
    };
    PgError::new(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
        .hint("Use scram-sha-256 in the node's pg_hba.conf.")
}

async fn send(stream: &mut Stream, fill: impl FnOnce(&mut BytesMut)) -> Result<()> {
    let mut out = BytesMut::new();
    let at = begin_frame(&mut out, b'p');
    fill(&mut out);
    end_frame(&mut out, at);
    stream.write_all(&out).await?;
    Ok(stream.flush().await?)
}

fn no_secret(identity: &Identity) -> PgError {
    PgError::new(
        SqlState::INVALID_PASSWORD,
        format!("a node asks for a password of role \"{}\", and none is known", identity.user),
    )
}

async fn read_frame(stream: &mut Stream) -> Result<(u8, Vec<u8>)> {
    let mut head = [0u8; 5];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if !(4..=MAX_LOGIN_FRAME).contains(&length) {
        return Err(broken("not a Postgres server"));
    }
    let mut payload = vec![0; length - 4];
    stream.read_exact(&mut payload).await?;
    Ok((head[0], payload))
}

/// What a server is asked for with every connection: where our machine is gone, it soon lets go of what our transactions hold there.
pub const SERVER_KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

/// What the proxy's own connections ask for besides: they work, and wait for work, for as long as they have to, whatever their
/// role, database or server has for a default. Not `default_transaction_read_only`: a server that is to take no writes, for want of room
/// for one, gets none.
pub const OWN_DEFAULTS: [(&str, &str); 6] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
];

/// AuthenticationCleartextPassword. Source: PostgreSQL manual, "Message Formats".
const CLEARTEXT: u32 = 3;
const MAX_LOGIN_FRAME: usize = 64 * 1024;

fn broken(what: &str) -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, what)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// What `connect` says of a server that answers a startup packet, and each message after it, with the next of these.
    async fn says(access: &ServerAccess, identity: &Identity, answers: Vec<Vec<u8>>) -> PgError {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it listens");
        let hostile = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut ignored = [0; 4096];
            for answer in answers {
                let _ = client.read(&mut ignored).await;
                let _ = client.write_all(&answer).await;
            }
            hold(client).await;
        };
        let address = ServerAddress { host: "127.0.0.1".into(), port: address.port() };
        let connecting = Server::connect(access, &address, identity, Duration::from_secs(5));
        tokio::select! {
            connected = connecting => connected.err().expect("nobody is let in"),
            () = hostile => unreachable!("it holds on"),
        }
    }

    async fn hold(_client: TcpStream) {
        std::future::pending::<()>().await;
    }

    fn request(code: u32, rest: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        let at = begin_frame(&mut out, b'R');
        out.put_u32(code);
        out.put_slice(rest);
        end_frame(&mut out, at);
        out.to_vec()
    }

    /// T08: a server that is not what it seems learns no password, and costs neither memory nor time.
    #[tokio::test]
    async fn a_hostile_server_learns_and_costs_nothing() {
        let secret = Secret::Password("correct horse".into());
        let identity = Identity { user: "app".into(), database: "shop".into(), secret };
        let offer = || request(10, b"SCRAM-SHA-256\0\0");
        let long_nonce = [b"r=".as_slice(), &vec![b'x'; 60_000], b",s=QQ==,i=4096"].concat();
        for (answers, expected) in [
            (vec![request(3, b"")], "the password in clear text, which nobody gets"),
            (vec![request(7, b"")], "authentication method 7, which is not supported"),
            (vec![offer(), request(0, b"")], "server skipped the end of SCRAM authentication"),
            (vec![offer(), request(11, b"r=others,s=QQ==,i=4096")], "Nonce does not match."),
            (vec![offer(), request(11, &long_nonce)], "Not a SCRAM message."),
            (vec![offer(), request(11, b"nonsense")], "Attribute missing."),
            (vec![offer(), request(12, b"v=AAAA")], "Message out of order."),
            (vec![b"R\x7f\xff\xff\xff\0\0\0\x0a".to_vec()], "not a Postgres server"),
            (vec![b"R\0\0\0\x01".to_vec()], "not a Postgres server"),
            (vec![b"HTTP/1.1 400 Bad Request\r\n".to_vec()], "not a Postgres server"),
        ] {
            let error = says(&ServerAccess::default(), &identity, answers).await;
            let text = format!("{error} {}", error.detail_text().unwrap_or_default());
            assert!(text.contains(expected), "{text} instead of {expected}");
        }
    }

    /// T04, the other way round: what somebody in between puts behind a server's consent to encrypt is taken for no answer of hers.
    #[tokio::test]
    async fn nothing_in_the_clear_is_believed_behind_the_consent_to_tls() {
        let identity = Identity { user: "app".into(), database: "shop".into(), secret: Secret::None };
        let access = ServerAccess { dialer: Dialer::preferring(), passwords: PasswordFile::default() };
        let let_in = [request(0, b""), b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x01Z\0\0\0\x05I".to_vec()].concat();
        let error = says(&access, &identity, vec![[b"S".as_slice(), &let_in].concat()]).await;
        let text = format!("{error} {}", error.detail_text().unwrap_or_default());
        assert!(text.contains("SSL error"), "{text}");
        // Without a consent it is let in: the answer above is a whole one.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = ServerAddress { host: "127.0.0.1".into(), port: listener.local_addr().expect("bound").port() };
        let server = async {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut ignored = [0; 4096];
            for answer in [b"N".as_slice(), &let_in] {
                let _ = client.read(&mut ignored).await;
                let _ = client.write_all(answer).await;
            }
            hold(client).await;
        };
        tokio::select! {
            connected = Server::connect(&access, &address, &identity, Duration::from_secs(5)) => assert!(connected.is_ok()),
            () = server => unreachable!("it holds on"),
        }
    }
}
