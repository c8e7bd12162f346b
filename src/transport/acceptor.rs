//! TLS towards clients: the proxy's certificate, and what it asks of theirs.
//!
//! Certificates can be read again while connections go on; who is connected keeps what he has agreed on.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsStream;

use super::certificate::{common_name, end_point_binding};
use super::{Socket, Stream};
use crate::error::{PgError, Result, SqlState};

/// Where the certificates are.
#[derive(Debug, Clone)]
pub struct AcceptorSettings {
    /// The proxy's certificate and those that lead to its root, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM; nobody else may read the file.
    pub key: PathBuf,
    /// Roots that clients' certificates must lead to; without it none are asked for.
    pub client_ca: Option<PathBuf>,
    /// Clients without a certificate are turned away.
    pub client_certificate_required: bool,
}

/// Takes clients' TLS handshakes, or none when there are no certificates.
#[derive(Default)]
pub struct Acceptor {
    current: ArcSwapOption<Loaded>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("is_on", &self.is_on()).finish()
    }
}

struct Loaded {
    config: Arc<ServerConfig>,
    binding: Option<Vec<u8>>,
    /// The files that it was read from, and a hash of what each held.
    files: Vec<(PathBuf, u64)>,
}

/// What is known of a connection after its handshake.
#[derive(Debug, Clone, Default)]
pub struct Handshake {
    /// `tls-server-end-point` of RFC 5929: what SCRAM binds to. None where the certificate's signature names no hash.
    pub binding: Option<Vec<u8>>,
    /// The client's certificate led to a known root; its common name, if it has one.
    pub client_certificate: Option<Option<String>>,
    /// The client asked for this protocol by ALPN.
    pub is_postgresql: bool,
}

impl Acceptor {
    /// Reads the certificates, for handshakes from here on; none: TLS is off. After an error those from before stay in use. Gives the
    /// files that were read before too, and hold something else now.
    ///
    /// Errors: F0000 with the file's name.
    pub fn reload(&self, settings: Option<&AcceptorSettings>) -> Result<Vec<PathBuf>> {
        let loaded = settings.map(read).transpose()?.map(Arc::new);
        let before = self.current.swap(loaded.clone());
        let files = |loaded: Option<Arc<Loaded>>| loaded.map(|l| l.files.clone()).unwrap_or_default();
        let before = files(before);
        let is_renewed = |(file, now): &(PathBuf, u64)| before.iter().any(|(known, held)| known == file && held != now);
        Ok(files(loaded).into_iter().filter(is_renewed).map(|(file, _)| file).collect())
    }

    pub fn is_on(&self) -> bool {
        self.current.load().is_some()
    }

    /// The server's side of a handshake, before which nothing must have been read behind the request for it.
    ///
    /// Errors: 08P01 when the client breaks it off or is not trusted.
    pub async fn accept(&self, socket: Socket) -> Result<(Stream, Handshake)> {
        let loaded = self.current.load_full().ok_or_else(|| failed("TLS is switched off"))?;
        let stream = tokio_rustls::TlsAcceptor::from(loaded.config.clone()).accept(socket).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let connection = stream.get_ref().1;
        let handshake = Handshake {
            binding: loaded.binding.clone(),
            client_certificate: connection
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(|certificate| common_name(certificate)),
            is_postgresql: connection.alpn_protocol() == Some(PROTOCOL),
        };
        Ok((Stream::Tls(Box::new(TlsStream::Server(stream))), handshake))
    }
}

fn read(settings: &AcceptorSettings) -> Result<Loaded> {
    let files = [&settings.certificate, &settings.key].into_iter().chain(&settings.client_ca);
    let files = files.map(|file| Ok((file.clone(), hash_of(file)?))).collect::<Result<_>>()?;
    let chain = read_certificates(&settings.certificate)?;
    let binding = chain.first().and_then(|certificate| end_point_binding(certificate));
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&settings.certificate, error))?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(read_roots(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(default_provider()));
            let verifier = match settings.client_certificate_required {
                true => verifier,
                false => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| invalid(file, error))?)
        }
    };
    let key = read_key(&settings.key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| invalid(&settings.certificate, error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Asynchronous users of older libpq hang on records larger than its buffer.
    config.max_fragment_size = Some(RECORD_LEN_MAX);
    Ok(Loaded { config: Arc::new(config), binding, files })
}

fn hash_of(file: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(file).map_err(|error| invalid(file, error))?.hash(&mut hasher);
    Ok(hasher.finish())
}

/// The certificates of a PEM file. Errors: F0000, with its name.
pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<std::result::Result<Vec<_>, _>>());
    match read {
        Ok(certificates) if certificates.is_empty() => Err(invalid(file, "it holds no certificate")),
        read => read.map_err(|error| invalid(file, error)),
    }
}

pub(super) fn read_roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(file)? {
        roots.add(certificate).map_err(|error| invalid(file, error))?;
    }
    Ok(roots)
}

/// A private key that nobody else may read. Errors: F0000, with the file's name.
pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(file).map_err(|error| invalid(file, error))?.permissions().mode();
    // As Postgres: the group may read what root owns, in the way that Debian's certificates are kept.
    if mode & 0o037 != 0 {
        return Err(PgError::new(
            SqlState::CONFIG_FILE_ERROR,
            format!("private key file \"{}\" has group or world access", file.display()),
        )
        .detail("File must have permissions u=rw (0600) or less, or u=rw,g=r (0640)."));
    }
    PrivateKeyDer::from_pem_file(file).map_err(|error| invalid(file, error))
}

pub(super) fn invalid(file: &Path, why: impl std::fmt::Display) -> PgError {
    PgError::new(SqlState::CONFIG_FILE_ERROR, format!("could not use TLS file \"{}\"", file.display()))
        .detail(why.to_string())
}

fn failed(why: impl Into<String>) -> PgError {
    PgError::fatal(SqlState::PROTOCOL_VIOLATION, "could not accept SSL connection").detail(why.into())
}

/// ALPN's name of the protocol. Source: PostgreSQL manual, "SSL Session Encryption".
pub(super) const PROTOCOL: &[u8] = b"postgresql";
const RECORD_LEN_MAX: usize = 8 * 1024;
