//! The door of the control channel: its connections are encrypted as clients' are, and no server gets the password itself.
//!
//! ```text
//!   tokio-postgres ── Gated ── plain or TLS, as `Dialer` negotiates ── Socket ──> server
//!                        └─ looks at: R (authentication), until the server lets us in
//! ```
//!
//! While a question is open, and while nothing is asked, the connection can be given up from outside: its `Link` tells the
//! node's guard (`backend`) which of both it is.
//!
//! The library would answer a request for the password in clear text, whoever asks. It lets its connections be made by
//! somebody else only where it believes them to be encrypted at once; whether they are is for the dialer to say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use crate::backend::{Link, unacceptable};
use crate::error::{PgError, Result, SqlState};
use crate::transport::{Dialer, Negotiated};

/// Makes one connection of tokio-postgres out of its socket.
pub struct Gate {
    dialer: Dialer,
    host: String,
    link: Arc<Link>,
}

impl Gate {
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, host: String::new(), link: Arc::default() }
    }

    /// Others know the connection by `link`, and give it up.
    pub fn linked(self, link: Arc<Link>) -> Self {
        Self { link, ..self }
    }

    /// Leaves it to a gate how connections of `config` are encrypted: they can't be made without one any more.
    pub fn prepare(config: &mut Config) {
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Gate {
    type Stream = Gated<S>;
    type TlsConnect = Gate;
    type Error = PgError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Gate> {
        Ok(Gate { dialer: self.dialer.clone(), host: host.to_owned(), link: self.link.clone() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Gate {
    type Stream = Gated<S>;
    type Error = PgError;
    type Future = Pin<Box<dyn Future<Output = Result<Gated<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let Self { dialer, host, link } = self;
            let lost = std::future::poll_fn(|context| link.poll_given_up(context));
            let connection = tokio::select! {
                connection = dialer.negotiate(&host, stream) => connection?,
                () = lost => return Err(silent()),
            };
            Ok(Gated { connection, login: Some(Login::default()), link, last: Tail::default() })
        })
    }
}

/// A connection whose login is looked at, and whether an answer is due.
pub struct Gated<S> {
    connection: Negotiated<S>,
    /// None once the server has let us in.
    login: Option<Login>,
    link: Arc<Link>,
    /// Of what the server has said.
    last: Tail,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Gated<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.connection.binding.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gated<S> {
    /// Errors: ours, within an `io::Error`, instead of a request that nobody is to answer, and when it was given up.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.link.poll_given_up(context).is_ready() {
            return Poll::Ready(Err(io::Error::other(silent())));
        }
        let had = buffer.filled().len();
        ready!(Pin::new(&mut self.connection.stream).poll_read(context, buffer))?;
        let came = &buffer.filled()[had..];
        if let Some(login) = &mut self.login
            && login.look(came).map_err(io::Error::other)?
        {
            self.login = None;
        }
        self.link.note_progress();
        self.last.note(came);
        if self.last.is_ready() {
            self.link.set_used(false);
        } else {
            self.link.note_asked();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gated<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.link.set_used(true);
        self.link.note_asked();
        Pin::new(&mut self.connection.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection.stream).poll_shutdown(context)
    }
}

/// What a server has said before it let us in, as far as it matters: where its messages begin.
#[derive(Default)]
struct Login {
    /// The start of the message that it is in: tag, length and, of an authentication message, the method.
    head: Vec<u8>,
    /// Bytes of that message that say nothing to us.
    rest: usize,
}

impl Login {
    /// Looks at what comes next, in pieces of any size. True when the server lets us in: the end of it.
    ///
    /// Errors: 28000 when it asks for something that it does not get.
    fn look(&mut self, mut bytes: &[u8]) -> Result<bool> {
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            let Some((byte, behind)) = bytes.split_first() else { return Ok(false) };
            self.head.push(*byte);
            bytes = behind;
            let Some((&tag, after)) = self.head.split_first() else { continue };
            let Some((length, after)) = after.split_first_chunk() else { continue };
            let body = (u32::from_be_bytes(*length) as usize).checked_sub(length.len()).ok_or_else(not_postgres)?;
            self.rest = match (tag, after.first_chunk()) {
                (b'R', None) if body < METHOD_LEN => return Err(not_postgres()),
                (b'R', None) => continue,
                (b'R', Some(method)) => match u32::from_be_bytes(*method) {
                    OK => return Ok(true),
                    MD5 | SASL | SASL_CONTINUE | SASL_FINAL => body - METHOD_LEN,
                    other => return Err(unacceptable(other)),
                },
                _ => body,
            };
            self.head.clear();
        }
    }
}

/// The last bytes of what has come: an answer is over when they are ReadyForQuery. Notices and notifications may come behind
/// it; then it seems to go on, which only has the server asked for a sign of life.
#[derive(Default)]
struct Tail([u8; READY_LEN]);

impl Tail {
    fn note(&mut self, came: &[u8]) {
        let new = &came[came.len().saturating_sub(READY_LEN)..];
        self.0.copy_within(new.len().., 0);
        self.0[READY_LEN - new.len()..].copy_from_slice(new);
    }

    fn is_ready(&self) -> bool {
        matches!(self.0, [b'Z', 0, 0, 0, 5, _])
    }
}

/// In the words of the other connections.
fn silent() -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, "the node does not answer")
}

fn not_postgres() -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, "not a Postgres server")
}

/// What a gate, or the dialer below it, had to say, when it was one of them.
pub(super) fn refusal(error: &tokio_postgres::Error) -> Option<&PgError> {
    let source = std::error::Error::source(error)?;
    let read = source.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
    read.or_else(|| source.downcast_ref())
}

const METHOD_LEN: usize = 4;
/// Of ReadyForQuery, as a whole.
const READY_LEN: usize = 6;
/// Methods that are taken part in. Source: PostgreSQL manual, "Message Formats", Authentication*.
const OK: u32 = 0;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    fn asks(method: u32, rest: &[u8]) -> Vec<u8> {
        message(b'R', &[&method.to_be_bytes()[..], rest].concat())
    }

    /// What comes of it when it arrives in pieces of each size.
    fn seen(said: &[Vec<u8>]) -> std::result::Result<bool, String> {
        let said = said.concat();
        let in_pieces = |len| {
            let mut login = Login::default();
            for piece in said.chunks(len) {
                if login.look(piece)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let outcomes: Vec<Result<bool>> = (1..=said.len()).map(in_pieces).collect();
        assert!(outcomes.windows(2).all(|two| two[0] == two[1]), "{outcomes:?}");
        outcomes[0].clone().map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_login_is_followed_to_its_end() {
        let notice = message(b'N', b"SNOTICE\0\0");
        assert_eq!(seen(&[asks(0, b"")]), Ok(true));
        assert_eq!(seen(&[asks(10, b"SCRAM-SHA-256\0\0")]), Ok(false));
        assert_eq!(
            seen(&[notice.clone(), asks(10, b"x\0\0"), asks(11, b"r="), asks(12, b"v="), asks(0, b"")]),
            Ok(true)
        );
        assert_eq!(seen(&[asks(5, b"salt"), asks(0, b""), asks(3, b"")]), Ok(true), "what follows is no login");
    }

    #[test]
    fn no_server_gets_the_password() {
        let clear = Err("a node asks for the password in clear text, which nobody gets".to_owned());
        assert_eq!(seen(&[asks(3, b"")]), clear);
        assert_eq!(seen(&[message(b'N', b"R\0\0\0\x08\0\0\0\0"), asks(3, b"")]), clear);
        assert_eq!(seen(&[asks(10, b"SCRAM-SHA-256\0\0"), asks(3, b"")]), clear);
        let other = Err("a node asks for authentication method 7, which is not supported".to_owned());
        assert_eq!(seen(&[asks(7, b"")]), other);
        assert_eq!(seen(&[message(b'R', b"\0\0")]), Err("not a Postgres server".to_owned()));
        assert_eq!(seen(&[b"HTTP\0\0\0\x03".to_vec(), b"R\0\0\0\x01".to_vec()]), Ok(false));
        assert_eq!(seen(&[b"R\0\0\0\x01".to_vec()]), Err("not a Postgres server".to_owned()));
    }

    #[test]
    fn an_answer_is_over_with_its_last_byte() {
        let answer = [message(b'D', b"\0\x01\0\0\0\x01Z"), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
        for len in 1..=answer.len() {
            let mut tail = Tail::default();
            let mut pieces: Vec<&[u8]> = answer.chunks(len).collect();
            let last = pieces.pop().expect("one");
            for piece in pieces {
                tail.note(piece);
                assert!(!tail.is_ready(), "in pieces of {len}");
            }
            tail.note(last);
            assert!(tail.is_ready(), "in pieces of {len}");
        }
    }

    #[tokio::test]
    async fn who_waits_is_told_when_the_connection_is_given_up() {
        let (near, _far) = tokio::io::duplex(4096);
        let mut config = Config::new();
        config.user("steward");
        Gate::prepare(&mut config);
        let link = Arc::new(Link::default());
        let connecting = config.connect_raw(near, Gate::new(Dialer::plain()).linked(link.clone()));
        let given_up = async {
            while link.waits_at().is_none() {
                tokio::task::yield_now().await;
            }
            link.give_up();
        };
        let (connected, ()) = tokio::join!(connecting, given_up);
        assert_eq!(refusal(&connected.err().expect("nobody answers")), Some(&silent()));
    }

    #[tokio::test]
    async fn the_library_does_not_answer() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, mut far) = tokio::io::duplex(4096);
        let mut config = Config::new();
        config.user("steward").password("keys");
        Gate::prepare(&mut config);
        far.write_all(&asks(3, b"")).await.expect("there is room");
        let error = config.connect_raw(near, Gate::new(Dialer::plain())).await.err().expect("it is left");
        assert_eq!(refusal(&error), Some(&unacceptable(3)));
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.expect("it was closed");
        assert!(said.starts_with(&(said.len() as u32).to_be_bytes()), "the startup packet and nothing else");
    }
}
