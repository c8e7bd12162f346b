//! Connections to servers: plain or TLS, as libpq's `sslmode` means it.
//!
//! | mode | encrypted | the server's certificate |
//! |---|---|---|
//! | disable | never | |
//! | prefer | if the server can | not looked at |
//! | require | always | not looked at, without roots |
//! | verify-ca | always | leads to a root |
//! | verify-full | always | leads to a root, and is that of the host |
//!
//! Source: PostgreSQL manual, "SSL Support" (libpq).

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsStream, client};
use tokio_util::either::Either;

use super::acceptor::{PROTOCOL, invalid, read_certificates, read_key, read_roots};
use super::certificate::end_point_binding;
use super::{Socket, Stream};
use crate::error::{PgError, Result, SqlState};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    #[default]
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, Default)]
pub struct DialerSettings {
    pub mode: SslMode,
    /// Roots that servers' certificates must lead to, PEM.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, PEM, for servers that ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Opens connections to servers. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    mode: SslMode,
    config: Arc<ClientConfig>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("mode", &self.mode).finish()
    }
}

/// A connection before its first packet.
pub struct Dialed {
    pub stream: Stream,
    /// `tls-server-end-point`, for SCRAM-SHA-256-PLUS.
    pub binding: Option<Vec<u8>>,
}

/// The same over any connection that somebody else has opened.
pub struct Negotiated<S> {
    pub stream: Either<S, Box<client::TlsStream<S>>>,
    pub binding: Option<Vec<u8>>,
}

impl Dialer {
    /// Reads the certificates. Errors: F0000 with the file's name.
    pub fn new(settings: &DialerSettings) -> Result<Self> {
        let roots = settings.ca.as_deref().map(read_roots).transpose()?;
        let verifier = ServerVerifier::new(settings.mode, roots)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| PgError::new(SqlState::INTERNAL_ERROR, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(read_certificates(certificate)?, read_key(key)?)
                .map_err(|error| invalid(certificate, error))?,
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { mode: settings.mode, config: Arc::new(config) })
    }

    /// Never encrypts.
    pub fn plain() -> Self {
        Self::new(&DialerSettings::default()).expect("no file is read")
    }

    /// Encrypts where the server can, and trusts everybody: for servers on this machine.
    pub fn preferring() -> Self {
        Self::new(&DialerSettings { mode: SslMode::Prefer, ..DialerSettings::default() }).expect("no file is read")
    }

    pub fn mode(&self) -> SslMode {
        self.mode
    }

    /// Connects, and encrypts as the mode says.
    ///
    /// Errors: 08006 when nobody answers; 08001 when the server can't or won't encrypt though it must, or isn't trusted.
    pub async fn dial(&self, host: &str, port: u16) -> Result<Dialed> {
        let stream = Socket::connect(host, port).await?;
        let Negotiated { stream, binding } = self.negotiate(host, stream).await?;
        let stream = match stream {
            Either::Left(stream) => stream.into(),
            Either::Right(stream) => Stream::Tls(Box::new(TlsStream::Client(*stream))),
        };
        Ok(Dialed { stream, binding })
    }

    /// Encrypts a connection to `host` as the mode says, whoever opened it. Errors: those of `dial`.
    pub async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        mut stream: S,
    ) -> Result<Negotiated<S>> {
        let plain = |stream| Negotiated { stream: Either::Left(stream), binding: None };
        if self.mode == SslMode::Disable {
            return Ok(plain(stream));
        }
        stream.write_all(&SSL_REQUEST).await?;
        // One byte and no more: what lies behind it would be unencrypted.
        match stream.read_u8().await? {
            b'S' => self.encrypt(host, stream).await,
            b'N' if self.mode == SslMode::Prefer => Ok(plain(stream)),
            b'N' => Err(PgError::new(SqlState::UNABLE_TO_CONNECT, "server does not support SSL, but SSL was required")),
            _ => Err(failed("received invalid response to SSL negotiation")),
        }
    }

    async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(&self, host: &str, stream: S) -> Result<Negotiated<S>> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| failed("the host name is not valid"))?;
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let stream = connector.connect(name, stream).await.map_err(|error| match error.kind() {
            // What TLS itself does not like is the same the next time; a connection that broke is not.
            ErrorKind::InvalidData => PgError::new(SqlState::UNABLE_TO_CONNECT, format!("SSL error: {error}")),
            _ => failed(format!("SSL error: {error}")),
        })?;
        let binding =
            stream.get_ref().1.peer_certificates().and_then(|certificates| end_point_binding(certificates.first()?));
        Ok(Negotiated { stream: Either::Right(Box::new(stream)), binding })
    }
}

/// What is asked of a server's certificate; that the server owns its key is always checked.
#[derive(Debug)]
struct ServerVerifier {
    /// None: any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    host_matters: bool,
    schemes: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    fn new(mode: SslMode, roots: Option<RootCertStore>) -> Result<Self> {
        let provider = Arc::new(default_provider());
        let chain = match (mode, roots) {
            (SslMode::Disable | SslMode::Prefer, _) | (SslMode::Require, None) => None,
            (_, None) => return Err(PgError::new(SqlState::CONFIG_FILE_ERROR, "no roots to verify servers by")),
            (_, Some(roots)) => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(|error| PgError::new(SqlState::CONFIG_FILE_ERROR, error.to_string()))?,
            ),
        };
        let schemes = provider.signature_verification_algorithms;
        Ok(Self { chain, host_matters: mode == SslMode::VerifyFull, schemes })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is what is looked at last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.host_matters => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.supported_schemes()
    }
}

fn failed(why: impl Into<String>) -> PgError {
    PgError::new(SqlState::CONNECTION_FAILURE, why)
}

/// Length 8, code 1234 5679. Source: PostgreSQL manual, "Message Formats", SSLRequest.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
